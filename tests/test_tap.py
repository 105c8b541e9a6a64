"""Settings and the command line: what a user can get wrong, and the line that says so."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tap_crankwheel.__main__ import main
from tap_crankwheel.sandbox.server import API_KEY, Behaviour, Sandbox
from tap_crankwheel.sandbox.tap import TapCrankWheelSandbox
from tap_crankwheel.tap import TapCrankWheel
from tests.support import STREAMS, CliResult, Row, command_line, config_for

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "k3y-that-must-not-appear"  # noqa: S105


def run(tmp_path: Path, config: object, *arguments: str, **files: object) -> CliResult:
    """Run the tap's command line in this process, with a file for --config, --state, --catalog."""
    for option, content in {"config": config, **files}.items():
        path = tmp_path / f"{option}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        arguments += (f"--{option}", str(path))
    return command_line(*arguments)


def error_line(result: CliResult) -> str:
    """Return the one line that a failed run ends with."""
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    (error,) = [line for line in result.stderr.splitlines() if "| ERROR    |" in line]
    assert result.stderr.splitlines()[-1] == error
    return error


def warnings(result: CliResult) -> list[str]:
    lines = [line.split(" | ", 3) for line in result.stderr.splitlines()]
    return [text for _, level, _, text in lines if level.strip() == "WARNING"]


SHORT = {"flattening_enabled": True, "flattening_max_depth": 1, "flattening_max_key_length": 10}
DATE = "is not a date: write it as 2026-08-30 or"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key": None}, "api_key is missing: an administrator makes one"),
        ({"api_key": "  "}, "api_key is missing: an administrator makes one"),
        ({"api_key": 12345}, "api_key has to be of type string."),
        ({"api_key": f'"{SECRET}"'}, "api_key cannot be used: it is wrapped in quotes"),
        ({"api_key": f"{SECRET} x"}, "api_key cannot be used: it holds a space"),
        ({"api_key": f"{SECRET}\nx"}, "api_key cannot be used: it holds a space"),
        ({"api_key": f"Basic {SECRET}"}, "api_key cannot be used: leave out the word Basic"),
        ({"api_key": f"{SECRET}é"}, "api_key cannot be used: it holds a space or a character"),
        ({"start_date": "yesterday"}, f"start_date {DATE}"),
        ({"start_date": "2026-02-30"}, f"start_date {DATE}"),
        ({"start_date": SECRET}, f"start_date {DATE}"),
        ({"start_date": "2026"}, f"start_date {DATE}"),
        ({"start_date": "0001-01-01"}, "start_date lies before 1970"),
        ({"start_date": "2999-01-01"}, "start_date (2999-01-01) lies in the future"),
        ({"end_date": "2027-02-29T00:00:00Z"}, f"end_date {DATE}"),
        ({"start_date": "2026-08-02", "end_date": "2026-08-01"}, "end_date lies before start_date"),
        ({"timezone": "Mars/Olympus"}, "timezone is not in the IANA list"),
        ({"timezone": "Europe/Berln"}, "use a name from it, such as Europe/Berlin"),
        ({"timezone": "../etc/passwd"}, "timezone is not in the IANA list"),
        ({"timezone": ""}, "timezone is not in the IANA list"),
        ({"stats_period": "year"}, "stats_period has to be one of hour, day, week, month."),
        ({"usage_endpoint": "users"}, "usage_endpoint has to be one of usage, usage_new."),
        ({"window_days": 0}, "window_days has to be at least 1"),
        ({"lookback_days": -1}, "lookback_days has to be at least 0"),
        ({"request_timeout": 9999}, "request_timeout has to be at most 3600"),
        ({"custom_questions": "shoesize"}, "custom_questions has to be of type array."),
        ({"stream_maps": {"usage_sessions": {"webcam_s": 0}}}, "stream_maps.usage_sessions"),
        ({"stream_maps": {"usage_sessions": True}}, "stream_maps.usage_sessions"),
        ({"stream_maps": {"session": {"email": "md5(email)"}}}, "there is no stream session."),
        ({"stream_maps": {"x": {"__source__": "user"}}}, "there is no stream user."),
        ({"stream_maps": {"users": {"mail": "__NULL__"}}}, "users has no field mail to leave out"),
        ({"stream_maps": {"user*": {"mail": None}}}, "user* has no field mail to leave out"),
        ({"stream_maps": {"__else__": 5}}, "stream_maps: a map does not have the form"),
        ({"stream_maps": {"users": 5}}, "stream_maps"),
        (SHORT, "flattening_max_key_length is too short: two columns would have one name. 63"),
        ({"flattening_enabled": True}, "flattening_max_depth is required"),
        ({"api_url": "meeting.is/ss/api"}, "api_url is not a URL: write it with its scheme"),
        ({"api_url": "https://"}, "api_url is not a URL"),
        ({"api_url": "ftp://meeting.is"}, "api_url is not a URL"),
        ({"api_url": "https://meeting.is:port/ss/api"}, "api_url is not a URL"),
        ({"api_url": "https://ex ample.com/"}, "api_url is not a URL"),
        ({"api_url": "https://*.com/x"}, "api_url is not a URL"),
        ({"api_url": "https://[::1/x"}, "api_url is not a URL"),
        ({"api_url": "http://meeting.is/ss/api"}, "the key would travel in clear: use https://"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_line(
    sandbox: Sandbox, tmp_path: Path, settings: Row, message: str
) -> None:
    config = {k: v for k, v in config_for(sandbox, **settings).items() if v is not None}
    result = run(tmp_path, config)
    assert message in error_line(result)
    assert "12345" not in result.output
    assert SECRET not in result.output
    assert '"type"' not in result.stdout
    assert sandbox.requests == []


def test_several_wrong_settings_are_reported_together(tmp_path: Path) -> None:
    result = run(tmp_path, {"start_date": "x", "timezone": "y", "window_days": SECRET})
    assert result.exit_code == 1
    for line in ("api_key is ", "start_date is ", "timezone is ", "window_days has to be of type"):
        assert line in result.stderr
    assert SECRET not in result.output


@pytest.mark.parametrize("key", [f" {API_KEY} ", f"\t{API_KEY}\r\n"], ids=repr)
def test_white_space_around_the_key_and_the_url_is_dropped(
    sandbox: Sandbox, tmp_path: Path, key: str
) -> None:
    config = config_for(sandbox, api_key=key, api_url=f" {sandbox.url}\n")
    assert run(tmp_path, config, "--test").exit_code == 0


@pytest.mark.parametrize(
    "state",
    [
        {"bookmarks": {"usage_sessions": {"replication_key_value": "soon"}}},
        {"bookmarks": {"usage_sessions": {"replication_key_value": 5}}},
        {"bookmarks": {"usage_sessions": "2026-08-30"}},
        {"bookmarks": {"users": None}},
        {"bookmarks": ["usage_sessions"]},
        ["usage_sessions"],
        "{",
        "",
    ],
    ids=repr,
)
def test_a_broken_state_is_one_line(sandbox: Sandbox, tmp_path: Path, state: object) -> None:
    assert "state" in error_line(run(tmp_path, config_for(sandbox), state=state))
    assert sandbox.requests == []


def test_a_state_can_come_through_a_pipe(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_for(sandbox)))
    command = (
        f"{sys.executable} -m tap_crankwheel --config {tmp_path}/config.json"
        """ --state <(echo '{"bookmarks": {"usage_sessions": {"replication_key_value":"""
        """ "2026-08-30", "replication_key": "start_date"}}}')"""
    )
    result = subprocess.run(
        ["/bin/bash", "-c", command], capture_output=True, text=True, check=True
    )
    starts = [
        record["record"]["start_date"]
        for record in map(json.loads, result.stdout.splitlines())
        if record["type"] == "RECORD" and record["stream"] == "usage_sessions"
    ]
    assert "2026-08-22T23:59:59" <= min(starts) < "2026-08-24"


@pytest.mark.parametrize(
    "config", ["{", "[3]", "3", pytest.param("[" * 100_000, id="deep")], ids=repr
)
def test_a_broken_configuration_is_one_line(tmp_path: Path, config: str) -> None:
    assert "--config" in error_line(run(tmp_path, config))


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.json")
    assert "--config, --catalog or --state is not" in error_line(command_line("--config", missing))
    assert "--catalog" in error_line(run(tmp_path, {"api_key": "k"}, catalog="{"))


def test_a_variable_that_is_not_a_number_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAP_CRANKWHEEL_WINDOW_DAYS", "seven")
    line = error_line(command_line("--config", "ENV"))
    assert "TAP_CRANKWHEEL_WINDOW_DAYS cannot be read: a number is written as 7" in line
    assert "seven" not in line


def test_settings_come_from_the_environment(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in config_for(sandbox, custom_questions='["team-size"]').items():
        monkeypatch.setenv(f"TAP_CRANKWHEEL_{name.upper()}", value)
    for name in ("STATS_PERIODE", "_LOAD_SCHEMA", "LOGLEVEL", "SANDBOX_API_KEY"):
        monkeypatch.setenv(f"TAP_CRANKWHEEL_{name}", "info")
    result = command_line("--config", "ENV")
    assert result.exit_code == 0
    assert "prospect-team-size" in result.stdout.split('"stream":"demo_requests"')[1]
    assert warnings(result) == [
        "stats_periode is not a setting of the tap, and is ignored: did you mean stats_period?"
    ]


def test_a_misspelt_setting_is_named_with_the_one_that_is_meant(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    config = config_for(sandbox, star_date="2026-01-01", colour="blue", batch_config={"x": 1})
    written = warnings(run(tmp_path, config, "--test"))
    assert [line.split(" is not a setting of the tap, and is ignored") for line in written] == [
        ["batch_config", ": did you mean faker_config?"],
        ["colour", "."],
        ["star_date", ": did you mean start_date?"],
    ]


def test_a_question_may_be_written_with_its_prefix(sandbox: Sandbox) -> None:
    tap = TapCrankWheel(config=config_for(sandbox, custom_questions=["prospect-shoesize", "vip"]))
    info = tap.streams["demo_requests"].schema["properties"]["prospect_info"]["properties"]
    assert [*info][-3:] == ["prospect-shoesize", "prospect-vip", "extra"]


def test_discovery_needs_no_settings(tmp_path: Path) -> None:
    result = run(tmp_path, {}, "--discover")
    assert result.exit_code == 0
    period = ["period", "timezone", "period_start"]
    assert {
        s["stream"]: (s["key_properties"], s["replication_method"], s.get("replication_key"))
        for s in json.loads(result.stdout)["streams"]
    } == {
        "account_stats": (period, "INCREMENTAL", "period_start"),
        "agent_stats": ([*period, "email"], "INCREMENTAL", "period_start"),
        "demo_requests": (["id"], "INCREMENTAL", "start_ts"),
        "demo_stats": (period, "INCREMENTAL", "period_start"),
        "usage_sessions": (["id", "start_date"], "INCREMENTAL", "start_date"),
        "users": (["email"], "FULL_TABLE", None),
    }


def test_batch_is_neither_offered_nor_done(sandbox: Sandbox) -> None:
    about = TapCrankWheel._get_about_info()
    assert "batch" not in {capability.value for capability in about.capabilities}
    assert "batch_config" not in about.settings["properties"]
    tap = TapCrankWheel(config=config_for(sandbox))
    batches = {"encoding": {"format": "jsonl"}, "storage": {"root": "file://"}}
    assert {s.get_batch_config({"batch_config": batches}) for s in tap.streams.values()} == {None}


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("md5(handled_by)", "stream_maps: an expression fails for a record (AttributeError)"),
        ("int(id)", "stream_maps: an expression fails for a record (ValueError)"),
        ("not python", "stream_maps: Failed to evaluate"),
    ],
)
def test_a_stream_map_that_fails_for_a_record_is_one_line_without_its_values(
    sandbox: Sandbox, tmp_path: Path, expression: str, message: str
) -> None:
    config = config_for(sandbox, stream_maps={"demo_requests": {"x": expression}})
    assert message in error_line(run(tmp_path, config))


@pytest.mark.parametrize(
    "setting",
    ["window_days", "timezone", "stream_maps", "emit_activate_version_messages", "end_date"],
)
def test_a_setting_that_is_null_has_its_default(
    sandbox: Sandbox, tmp_path: Path, setting: str
) -> None:
    result = run(tmp_path, {**config_for(sandbox), setting: None})
    assert result.exit_code == 0
    assert '"ACTIVATE_VERSION"' in result.stdout


@pytest.mark.parametrize("key", ["nothing", "end_date"])
def test_another_replication_key_is_one_line(sandbox: Sandbox, tmp_path: Path, key: str) -> None:
    catalog: Any = TapCrankWheel(config=config_for(sandbox)).catalog_dict
    for entry in catalog["streams"]:
        if entry["stream"] == "usage_sessions":
            entry["replication_key"] = key
    result = run(tmp_path, config_for(sandbox), catalog=catalog)
    assert f"--catalog: usage_sessions cannot be replicated by {key}" in error_line(result)


def test_a_catalog_without_replication_keys_leaves_the_streams_incremental(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    catalog: Any = TapCrankWheel(config=config_for(sandbox)).catalog_dict
    for entry in catalog["streams"]:
        entry.pop("replication_key", None)
        entry.pop("replication_method", None)
        entry["metadata"] = []
    result = run(tmp_path, config_for(sandbox), catalog=catalog)
    assert result.exit_code == 0
    assert '"replication_key":"start_date","replication_key_value"' in result.stdout


# --- the test of a connection --------------------------------------------------------------------


def test_the_test_requests_little_and_says_that_it_passed(sandbox: Sandbox, tmp_path: Path) -> None:
    result = run(tmp_path, config_for(sandbox, start_date="2026-01-01"), "--test")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1].endswith("Test passed.")
    assert "ERROR" not in result.stderr
    assert len(sandbox.requests) == len(STREAMS) - 1  # agent_stats has what account_stats read
    assert "ACTIVATE_VERSION" not in result.stdout
    result = run(tmp_path, config_for(sandbox), "--test=schema")
    assert result.stderr.splitlines()[-1].endswith("Test passed.")
    assert result.stdout.count('"type":"SCHEMA"') == len(STREAMS) == len(sandbox.requests) + 1


@pytest.mark.parametrize("fault", ["500", "504", "reset", "html", "401", "429:60", "400"])
def test_a_test_makes_two_attempts_at_most(sandbox: Sandbox, tmp_path: Path, fault: str) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat(fault))
    assert "GET /usage for " in error_line(run(tmp_path, config_for(sandbox), "--test"))
    assert len(sandbox.requests) == (1 if fault in {"401", "429:60", "400"} else 2)


def test_a_test_waits_no_longer_than_ten_seconds(sandbox: Sandbox) -> None:
    tap = TapCrankWheel(config=config_for(sandbox))
    stream: Any = tap.streams["users"]
    assert stream.timeout == 90
    stream.ABORT_AT_RECORD_COUNT = 1
    assert stream.timeout == 10


# --- the commands --------------------------------------------------------------------------------


def test_the_sandbox_tap_overrides_what_says_where_and_when(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    elsewhere = {
        "api_url": "https://meeting.is/ss/api",
        "api_key": SECRET,
        "start_date": "2030-01-01",
        "end_date": "1990-01-01",
        "stats_period": "month",
    }
    for name, value in elsewhere.items():
        monkeypatch.setenv(f"TAP_CRANKWHEEL_SANDBOX_{name.upper()}", value)
    for arguments in ([], ["--config", "ENV"]):
        result = command_line(*arguments, tap=TapCrankWheelSandbox)
        assert result.exit_code == 0
        assert '"stream":"usage_sessions","record"' in result.stdout
        assert SECRET not in result.output
    assert '"period":"month"' in result.stdout


def test_a_level_of_logs_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGLEVEL", "LOUD")
    with pytest.raises(SystemExit, match=r"^LOGLEVEL is not a level of logs: set it to DEBUG"):
        main()


def test_an_interruption_at_the_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TapCrankWheel, "cli", interrupted)
    with pytest.raises(SystemExit, match=r"^Interrupted\.$"):
        main()


def test_the_installed_command_ends_without_a_traceback(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"api_key": SECRET, "start_date": "soon"}))
    result = subprocess.run(
        [sys.executable, "-m", "tap_crankwheel", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "ERROR    | tap-crankwheel                 | start_date is not a date" in result.stderr
    assert SECRET not in result.stderr
