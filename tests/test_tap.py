"""Settings and the command line: what a user can get wrong, and the line that says so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tap_crankwheel.sandbox.server import API_KEY, Sandbox
from tap_crankwheel.sandbox.tap import TapCrankWheelSandbox
from tap_crankwheel.tap import TapCrankWheel
from tests.support import Ended, QuickTap, Row, ScriptedSandbox, command_line, config_for

if TYPE_CHECKING:
    from pathlib import Path


SECRET = "k3y-that-must-not-appear"  # noqa: S105


def run(tmp_path: Path, config: object, *arguments: str, state: object = None) -> Ended:
    """Run the tap's command line in this process; an exception that is no message fails a test."""
    path = tmp_path / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    if state is not None:
        state_path = tmp_path / "state.json"
        state_path.write_text(state if isinstance(state, str) else json.dumps(state))
        arguments += ("--state", str(state_path))
    return command_line("--config", str(path), *arguments)


def error_line(result: Ended) -> str:
    """Return the one line that a failed run ends with."""
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    (error,) = [line for line in result.stderr.splitlines() if "| ERROR    |" in line]
    assert result.stderr.splitlines()[-1] == error
    return error


@pytest.mark.parametrize("arguments", [(), ("--test",)], ids=["run", "test"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key": None}, "api_key is missing: an administrator makes one"),
        ({"api_key": ""}, "api_key is empty: write the key into the configuration, or into TAP_"),
        ({"api_key": "  "}, "api_key is empty: write the key into"),
        ({"api_key": 12345}, "api_key has to be of type string."),
        ({"api_key": f'"{SECRET}"'}, "api_key cannot be used: it is wrapped in quotes"),
        ({"api_key": f"{SECRET} x"}, "api_key cannot be used: it holds a space"),
        ({"api_key": f"{SECRET}\nx"}, "api_key cannot be used: it holds a space"),
        ({"api_key": f"{SECRET}é"}, "api_key cannot be used: it holds a space or a character"),
        ({"start_date": "yesterday"}, "start_date is not a date: write it as"),
        ({"start_date": "2026-02-30"}, "start_date is not a date (2026-02-30): write it as"),
        ({"start_date": SECRET}, "start_date is not a date: write it as"),
        ({"start_date": "2026"}, "start_date is not a date"),
        ({"start_date": "0001-01-01"}, "start_date lies before 1970"),
        ({"end_date": "2027-02-29T00:00:00Z"}, "end_date is not a date"),
        ({"start_date": "2026-08-02", "end_date": "2026-08-01"}, "end_date lies before start_date"),
        ({"timezone": "Mars/Olympus"}, "timezone is not in the IANA list"),
        ({"timezone": "../etc/passwd"}, "timezone is not in the IANA list"),
        ({"timezone": ""}, "timezone is not in the IANA list"),
        (
            {"stats_period": "year"},
            "stats_period has to be one of hour, day, week, month.",
        ),
        (
            {"usage_endpoint": "user_access"},
            "usage_endpoint has to be one of usage, usage_new.",
        ),
        ({"window_days": 0}, "window_days has to be at least 1"),
        ({"lookback_days": -1}, "lookback_days has to be at least 0"),
        ({"custom_questions": "shoesize"}, "custom_questions has to be of type array."),
        ({"stream_maps": {"usage_sessions": {"webcam_s": 0}}}, "stream_maps.usage_sessions"),
        ({"stream_maps": {"usage_sessions": True}}, "stream_maps.usage_sessions"),
        ({"stream_maps": {"session": {"email": "md5(email)"}}}, "there is no stream session."),
        ({"stream_maps": {"x": {"__source__": "user"}}}, "there is no stream user."),
        (
            {"stream_maps": {"users": {"e_mail": "__NULL__"}}},
            "stream_maps: users has no field e_mail to leave out.",
        ),
        ({"stream_maps": {"__else__": 5}}, "__else__ can only be null"),
        ({"stream_maps": {"users": {"__else__": {"a": 1}}}}, "__else__ can only be null"),
        ({"faker_config": {"seed": {"a": 1}}}, "faker_config"),
        ({"stream_maps": {"users": 5}}, "stream_maps"),
        (
            {
                "flattening_enabled": True,
                "flattening_max_depth": 1,
                "flattening_max_key_length": 10,
            },
            "flattening: ",
        ),
        ({"custom_questions": ["x" * 40]}, "custom_questions holds an id of more than 39 bytes"),
        ({"custom_questions": ["é" * 20]}, "custom_questions holds an id of more than 39 bytes"),
        ({"custom_questions": [""]}, "or an empty one"),
        ({"custom_questions": ["shoe-size", "Shoe_Size"]}, "the same column as 'shoe-size'"),
        ({"custom_questions": ["utm_source"]}, "the same column as 'utm-source'"),
        ({"api_url": "meeting.is/ss/api"}, "api_url is not a URL: write it with its scheme"),
        ({"api_url": "https://"}, "api_url is not a URL"),
        ({"api_url": "ftp://meeting.is"}, "api_url is not a URL"),
        ({"api_url": "http://meeting.is/ss/api"}, "the key would travel in clear: use https://"),
        ({"batch_config": {"encoding": {"format": "jsonl"}}}, "batch_config is not supported"),
        ({"flattening_enabled": True}, "flattening_max_depth is required"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_line(
    sandbox: Sandbox,
    tmp_path: Path,
    arguments: tuple[str],
    settings: Row,
    message: str,
) -> None:
    config = config_for(sandbox, **settings)
    result = run(tmp_path, {k: v for k, v in config.items() if v is not None}, *arguments)
    assert message in error_line(result)
    assert "12345" not in result.output
    assert SECRET not in result.output
    assert '"type"' not in result.stdout
    assert sandbox.requests == []


def test_several_wrong_settings_are_reported_together(tmp_path: Path) -> None:
    result = run(tmp_path, {"start_date": "x", "timezone": "y"})
    assert result.exit_code == 1
    for setting in ("api_key", "start_date", "timezone"):
        assert f"{setting} is" in result.stderr


@pytest.mark.parametrize("key", [f" {API_KEY} ", f"{API_KEY}\n", f"\t{API_KEY}\r\n"], ids=repr)
def test_white_space_around_the_key_is_dropped(sandbox: Sandbox, tmp_path: Path, key: str) -> None:
    result = run(tmp_path, config_for(sandbox, api_key=key), "--test")
    assert result.exit_code == 0


@pytest.mark.parametrize(
    "state",
    [
        {"bookmarks": {"usage_sessions": {"replication_key_value": "soon"}}},
        {"bookmarks": {"usage_sessions": {"replication_key_value": 5}}},
        {"bookmarks": {"usage_sessions": "2026-08-30"}},
        {"bookmarks": {"usage_sessions": {"bookmark": "2026-08-30T00:00:00.000000Z"}}},
        {"bookmarks": {"users": None}},
        {"bookmarks": {"users": "x"}},
        {"bookmarks": {"usage_sessions": {"progress_markers": None}}},
        {"bookmarks": {"usage_sessions": {"partitions": 5}}},
        {"bookmarks": ["usage_sessions"]},
        ["usage_sessions"],
        "{",
        "",
    ],
    ids=repr,
)
def test_a_broken_state_is_one_line(sandbox: Sandbox, tmp_path: Path, state: object) -> None:
    result = run(tmp_path, config_for(sandbox), state=state)
    assert "state" in error_line(result)
    assert sandbox.requests == []


def test_a_state_can_come_through_a_pipe(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_for(sandbox)))
    command = (
        f"{sys.executable} -m tap_crankwheel --config {tmp_path}/config.json"
        """ --state <(echo '{"bookmarks": {"usage_sessions": {"replication_key_value":"""
        """ "2026-08-30", "replication_key": "start_date"}}}')"""
    )
    result = subprocess.run(
        ["/bin/bash", "-c", command],
        capture_output=True,
        text=True,
        check=True,
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
    assert "--config cannot be read" in error_line(run(tmp_path, config))


def test_a_missing_configuration_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path, {}, "--config", str(tmp_path / "none.json"))
    assert "--config cannot be read" in error_line(result)


def test_a_variable_that_is_not_a_number_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TAP_CRANKWHEEL_WINDOW_DAYS", "seven")
    assert "A setting in the environment cannot be read" in error_line(
        run(tmp_path, {"api_key": "k"}, "--config", "ENV"),
    )


def test_settings_come_from_the_environment(
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in config_for(sandbox, custom_questions='["team-size"]').items():
        monkeypatch.setenv(f"TAP_CRANKWHEEL_{name.upper()}", value)
    result = command_line("--config", "ENV")
    assert result.exit_code == 0
    assert "prospect-team-size" in result.stdout.split('"stream":"demo_requests"')[1]


def test_discovery_needs_no_settings(tmp_path: Path) -> None:
    result = run(tmp_path, {}, "--discover")
    assert result.exit_code == 0
    catalog = json.loads(result.stdout)
    keys = {stream["stream"]: stream["key_properties"] for stream in catalog["streams"]}
    assert keys == {
        "account_stats": ["period", "timezone", "period_start"],
        "agent_stats": ["period", "timezone", "period_start", "email"],
        "demo_requests": ["id"],
        "usage_sessions": ["id", "start_date"],
        "users": ["email"],
    }
    methods = {
        s["stream"]: (s["replication_method"], s.get("replication_key")) for s in catalog["streams"]
    }
    assert methods == {
        "account_stats": ("INCREMENTAL", "period_start"),
        "agent_stats": ("INCREMENTAL", "period_start"),
        "demo_requests": ("INCREMENTAL", "start_ts"),
        "usage_sessions": ("INCREMENTAL", "start_date"),
        "users": ("FULL_TABLE", None),
    }


def test_batch_is_not_offered() -> None:
    about = TapCrankWheel._get_about_info()
    assert "batch" not in {capability.value for capability in about.capabilities}
    assert "batch_config" not in about.settings["properties"]


# --- the sandbox's tap ---------------------------------------------------------------------------


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


def test_the_installed_commands_end_without_a_traceback(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"api_key": SECRET, "start_date": "soon"}))
    for module in ("tap_crankwheel",):
        result = subprocess.run(
            [sys.executable, "-m", module, "--config", str(config)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 1
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        assert (
            "ERROR    | tap-crankwheel                 | start_date is not a date" in result.stderr
        )
        assert SECRET not in result.stderr


@pytest.mark.parametrize("arguments", [(), ("--test",)], ids=["run", "test"])
def test_a_stream_map_that_cannot_be_evaluated_is_one_line(
    sandbox: Sandbox,
    tmp_path: Path,
    arguments: tuple[str],
) -> None:
    config = config_for(sandbox, stream_maps={"users": {"domain": "not python"}})
    assert "stream_maps: Failed to evaluate" in error_line(run(tmp_path, config, *arguments))


def test_a_stream_map_that_fails_for_a_record_is_one_line_without_its_values(
    sandbox: Sandbox,
    tmp_path: Path,
) -> None:
    for expression, reason in (("md5(handled_by)", "AttributeError"), ("int(id)", "ValueError")):
        config = config_for(sandbox, stream_maps={"demo_requests": {"x": expression}})
        result = run(tmp_path, config)
        assert f"stream_maps: an expression fails for a record ({reason})" in error_line(result)


def test_the_test_says_that_it_passed_and_requests_little(
    sandbox: Sandbox,
    tmp_path: Path,
) -> None:
    result = run(tmp_path, config_for(sandbox, start_date="2026-01-01"), "--test")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1].endswith("Test passed (all streams).")
    assert "ERROR" not in result.stderr
    assert len(sandbox.requests) == 5
    assert "replication_key_value" not in result.stdout  # it has read next to nothing
    result = run(tmp_path, config_for(sandbox), "--test=schema")
    assert result.stderr.splitlines()[-1].endswith("Test passed (schemas).")
    assert result.stdout.count('"type":"SCHEMA"') == 5
    assert len(sandbox.requests) == 5


@pytest.mark.parametrize(
    "setting",
    [
        "window_days", "lookback_days", "timezone", "stats_period", "stream_maps",
        "max_parallel_requests", "request_timeout", "emit_activate_version_messages", "end_date",
    ],
)  # fmt: skip
def test_a_setting_that_is_null_has_its_default(
    sandbox: Sandbox,
    tmp_path: Path,
    setting: str,
) -> None:
    result = run(tmp_path, {**config_for(sandbox), setting: None})
    assert result.exit_code == 0
    assert '"ACTIVATE_VERSION"' in result.stdout


@pytest.mark.parametrize(
    "api_url",
    [
        "https://meeting.is:port/ss/api", "https://host:99999999/x", "https://ex ample.com/",
        "https://*.com/x", "https://.com/", "https://%zz/", "https://[::1/x",
    ],
)  # fmt: skip
def test_a_url_that_is_none_is_one_line(tmp_path: Path, api_url: str) -> None:
    assert "api_url is not a URL" in error_line(run(tmp_path, {"api_key": "k", "api_url": api_url}))


@pytest.mark.parametrize("api_url", ["https://meeting..is/ss/api", f"https://{'x' * 64}.is/"])
def test_a_host_that_cannot_be_is_one_line(tmp_path: Path, api_url: str) -> None:
    line = error_line(
        run(tmp_path, {"api_key": "k", "api_url": api_url, "start_date": "2026-08-01"})
    )
    assert "api_url is not a URL" in line or "is not valid HTTP" in line


@pytest.mark.parametrize(
    "value",
    ["0001-01-01", "", 0, False, [], {}, "2026-08-30/20:00"],
    ids=repr,
)
def test_a_bookmark_that_is_none_is_one_line(
    sandbox: Sandbox,
    tmp_path: Path,
    value: object,
) -> None:
    state = {"bookmarks": {"usage_sessions": {"replication_key_value": value}}}
    assert "the bookmark of usage_sessions is not a timestamp" in error_line(
        run(tmp_path, config_for(sandbox), state=state),
    )


@pytest.mark.parametrize("catalog", [{"streams": 5}, {"streams": [{}]}, {"streams": [5]}, []])
def test_a_broken_catalog_is_one_line(sandbox: Sandbox, tmp_path: Path, catalog: object) -> None:
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps(catalog))
    result = run(tmp_path, config_for(sandbox), "--catalog", str(path))
    assert "--catalog cannot be read" in error_line(result)


def test_a_key_in_the_wrong_setting_is_not_logged(sandbox: Sandbox, tmp_path: Path) -> None:
    result = run(tmp_path, config_for(sandbox, window_days=SECRET, stats_period=SECRET))
    assert "window_days has to be of type" in result.stderr
    assert SECRET not in result.output


def test_an_answer_nested_too_deeply_is_one_line(tmp_path: Path) -> None:
    nested: dict[str, Any] = {}
    for _ in range(700):
        nested = {"n": nested}
    with ScriptedSandbox(users=[{"email": "a", "more": nested}]).running() as sandbox:
        assert "too deeply nested" in error_line(run(tmp_path, config_for(sandbox), "--test"))


def warnings(result: Ended) -> list[str]:
    lines = [line.split(" | ", 3) for line in result.stderr.splitlines()]
    return [text for _, level, _, text in lines if level.strip() == "WARNING"]


def test_a_misspelt_setting_is_named_with_the_one_that_is_meant(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    config = config_for(sandbox, star_date="2026-01-01", colour="blue")
    assert warnings(run(tmp_path, config, "--test")) == [
        "colour is not a setting of the tap, and is ignored.",
        "star_date is not a setting of the tap, and is ignored: did you mean start_date?",
    ]


def test_a_misspelt_variable_is_named_with_the_setting_that_is_meant(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in config_for(sandbox).items():
        monkeypatch.setenv(f"TAP_CRANKWHEEL_{name.upper()}", value)
    for name in ("STATS_PERIODE", "_LOAD_SCHEMA", "LOGLEVEL", "SANDBOX_API_KEY"):
        monkeypatch.setenv(f"TAP_CRANKWHEEL_{name}", "info")
    assert warnings(command_line("--config", "ENV", "--test")) == [
        (
            "TAP_CRANKWHEEL_STATS_PERIODE is not a setting of the tap, and is ignored: did you "
            "mean stats_period?"
        )
    ]


@pytest.mark.parametrize(
    "api_url", ["http://127.0.0.1:9/ss/api", "https://crankwheel.invalid/ss/api"]
)
def test_a_test_gives_up_soon_where_nobody_is(tmp_path: Path, api_url: str) -> None:
    config = {"api_key": "k", "api_url": api_url, "start_date": "2026-08-01"}
    result = run(tmp_path, config, "--test")
    line = error_line(result)
    assert "GET /usage for " in line
    seconds = re.search(r" failed 3 times in (\d+) seconds", line)
    assert seconds
    assert int(seconds[1]) <= 10
    assert sum(", attempt " in text for text in warnings(result)) == 2


def test_white_space_around_the_url_is_dropped(sandbox: Sandbox, tmp_path: Path) -> None:
    config = config_for(sandbox)
    config["api_url"] = f" {config['api_url']}\n"
    assert run(tmp_path, config, "--test").exit_code == 0


@pytest.mark.parametrize("key", ["nothing", "end_date"])
def test_another_replication_key_is_one_line(sandbox: Sandbox, tmp_path: Path, key: str) -> None:
    catalog = QuickTap(config=config_for(sandbox)).catalog_dict
    for entry in catalog["streams"]:
        if entry["stream"] == "usage_sessions":
            entry["replication_key"] = key
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps(catalog))
    result = run(tmp_path, config_for(sandbox), "--catalog", str(path))
    assert f"--catalog: usage_sessions cannot be replicated by {key}" in error_line(result)


def test_a_catalog_without_replication_keys_leaves_the_streams_incremental(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    catalog = QuickTap(config=config_for(sandbox)).catalog_dict
    for entry in catalog["streams"]:
        entry.pop("replication_key", None)
        entry.pop("replication_method", None)
        entry["metadata"] = []
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps(catalog))
    result = run(tmp_path, config_for(sandbox), "--catalog", str(path))
    assert result.exit_code == 0
    assert '"replication_key":"start_date","replication_key_value"' in result.stdout
