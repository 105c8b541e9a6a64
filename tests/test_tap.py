"""Settings and the command line: what a user can get wrong, and the line that says so."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from typing_extensions import override

from tap_crankwheel.sandbox.server import API_KEY, Behaviour, Sandbox
from tap_crankwheel.sandbox.tap import TapCrankWheelSandbox
from tap_crankwheel.tap import _CAUSES, TapCrankWheel
from tests import support as s

if TYPE_CHECKING:
    from pathlib import Path

Run = Callable[..., s.CliResult]

SECRET = "k3y-that-must-not-appear"  # noqa: S105


@pytest.fixture
def run(sandbox: Sandbox, tmp_path: Path) -> Run:
    """Return what runs the command line against the sandbox, with some settings and files."""

    def run_it(*arguments: str, files: s.Row | None = None, **settings: object) -> s.CliResult:
        return s.run(tmp_path, s.config_for(sandbox, **settings), *arguments, **(files or {}))

    return run_it


def warnings(result: s.CliResult) -> list[str]:
    lines = [line.split(" | ", 3) for line in result.stderr.splitlines()]
    return [text for _, level, _, text in lines if level.strip() == "WARNING"]


# --- settings ------------------------------------------------------------------------------------

SHORT = {"flattening_enabled": True, "flattening_max_depth": 1, "flattening_max_key_length": 10}
KEY = "api_key cannot be used: copy it again, without quotes, spaces or the word Basic"
DATE = "is not a date: write it as 2026-08-30 or"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key": "  "}, "api_key is missing: an administrator creates a key"),
        ({"api_key": 12345}, "api_key has to be of type string."),
        ({"api_key": f'"{SECRET}"'}, KEY),
        ({"api_key": f"{SECRET}\nx"}, KEY),
        ({"api_key": f"Basic {SECRET}"}, KEY),
        ({"start_date": "2026-02-30"}, f"start_date {DATE}"),
        ({"start_date": SECRET}, f"start_date {DATE}"),
        ({"start_date": "0001-01-01"}, "start_date lies before 1970: set a later date"),
        ({"start_date": "2999-01-01"}, "start_date (2999-01-01) lies in the future: set"),
        ({"end_date": "2027-02-29T00:00:00Z"}, f"end_date {DATE}"),
        ({"start_date": "2026-08-02", "end_date": "2026-08-01"}, "end_date lies before start_date"),
        ({"timezone": "Mars/Olympus"}, "timezone is not an IANA time zone"),
        ({"timezone": "new_york"}, "such as Europe/Berlin or America/New_York."),
        ({"timezone": "europe/Berlin"}, "write, without quotes, a name such as Europe/Berlin."),
        ({"end_date": "9999-12-31T23:59:59-12:00"}, f"end_date {DATE}"),
        ({"start_date": "0001-01-01T00:00:00+12:00"}, f"start_date {DATE}"),
        ({"timezone": "../etc/passwd"}, "timezone is not an IANA time zone"),
        ({"stats_period": '"day"'}, "has to be without quotes, one of hour, day, week, month."),
        ({"start_date": '"2026-08-01"'}, "or 2026-08-30T20:00:00Z, without quotes."),
        ({"lookback_days": ""}, "lookback_days has to be of type integer."),
        ({"window_days": 0}, "window_days has to be at least 1"),
        ({"request_timeout": 9999}, "request_timeout has to be at most 3600"),
        ({"stream_maps": {"usage_sessions": {"webcam_s": 0}}}, "stream_maps.usage_sessions"),
        ({"stream_maps": {"session": {"email": "md5(email)"}}}, "there is no stream session."),
        ({"stream_maps": {"x": {"__source__": "user"}}}, "there is no stream user."),
        ({"stream_maps": {"users": {"mail": "__NULL__"}}}, "users has no field mail to remove"),
        ({"stream_maps": {"user*": {"mail": None}}}, "user* has no field mail to remove"),
        ({"flattening_enabled": True}, "flattening_max_depth is required"),
        ({"api_url": "meeting.is/ss/api"}, "api_url is not a URL: write it as https"),
        ({"api_url": "https://"}, "api_url is not a URL"),
        ({"api_url": "ftp://meeting.is"}, "api_url is not a URL"),
        ({"api_url": "https://[::1/x"}, "api_url is not a URL"),
        ({"api_url": "http://meeting.is/ss/api"}, "which sends the key unencrypted: use https://"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_line(
    sandbox: Sandbox, run: Run, settings: s.Row, message: str
) -> None:
    result = run(**settings)
    assert message in s.error_line(result)
    assert "12345" not in result.output
    assert SECRET not in result.output
    assert '"type"' not in result.stdout
    assert sandbox.requests == []


CAUSES: dict[str, tuple[object, dict[str, object]]] = {
    "codecs.decode": ({}, {"state": "{}".encode("utf-16")}),  # as PowerShell writes it
    "singer_sdk.configuration._dict_config": ("ENV", {}),
    "jsonschema.validators": ({"stream_maps": {"__else__": 5}}, {}),
    "singer_sdk.helpers._util": ("{", {}),
    "singer_sdk.singerlib.catalog": ({}, {"catalog": {"streams": [{}]}}),
    "singer_sdk.helpers._flattening._flatten_schema": (SHORT, {}),
    "singer_sdk.mapper": ({"stream_maps": {"demo_requests": {"x": "md5(handled_by)"}}}, {}),
    "singer_sdk.plugin_base.from_cli_args": ([3], {}),
}


@pytest.mark.parametrize("module", CAUSES)
def test_what_the_sdk_lets_through_is_one_line(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    untold = "singer_sdk.contrib.msgspec.write_message"  # the next test has it
    assert {*CAUSES, untold} == _CAUSES.keys()
    config, files = CAUSES[module]
    monkeypatch.setenv("TAP_CRANKWHEEL_WINDOW_DAYS", "seven")
    if config == "ENV":
        result = s.command_line("--config", "ENV")
        named = [line for line in result.stderr.splitlines() if "from env variable" in line]
        assert "TAP_CRANKWHEEL_WINDOW_DAYS" in named[-1]
    else:
        config = {**s.config_for(sandbox), **config} if isinstance(config, dict) else config
        result = s.run(tmp_path, config, **files)
    clash = "Duplicate column name produced in schema: pi__p-"
    message = _CAUSES[module].format(kind="AttributeError", error=clash)
    assert s.error_line(result).endswith(f"| {message}")
    assert "seven" not in result.stderr


class Broken(io.RawIOBase):
    """What cannot be written to."""

    number = 0

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: object, /) -> int:
        if self.number:
            raise OSError(self.number, os.strerror(self.number))
        return memoryview(data).nbytes  # type: ignore[arg-type]


TARGET_HAS_ENDED = "The target has ended: look for its error in the log."


@pytest.mark.parametrize("action", [(), ("--discover",)], ids=str)
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "Standard output cannot be written: No space left on device."),
        (errno.EPIPE, TARGET_HAS_ENDED),
        (errno.EINVAL, TARGET_HAS_ENDED),  # on Windows
        (0, "Standard output cannot be written: it is closed."),
    ],
)
def test_what_cannot_be_written_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    action: tuple[str, ...],
    number: int,
    message: str,
) -> None:
    (tmp_path / "config.json").write_text('{"api_key": "k"}', encoding="utf-8")
    raw, stderr = Broken(), io.StringIO()
    stdout = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")
    raw.number = number
    monkeypatch.setattr(sys, "stdout", stdout if number else None)
    monkeypatch.setattr(sys, "stderr", stderr)
    with pytest.raises(SystemExit) as ended:
        s.QuickTap.cli(["--config", str(tmp_path / "config.json"), *action])
    raw.number = 0
    stdout.close()
    if action and not number:  # then Python's own print is silent
        return
    assert ended.value.code == 1
    assert "Traceback" not in stderr.getvalue()
    assert stderr.getvalue().splitlines()[-1].endswith(f"| {message}")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("not python", "stream_maps: Failed to evaluate"),
        ("md5(config['salt'])", "(KeyError): perhaps a field in it is null, or a value of stream"),
        ("prospect_info['prospect-x']", "or a question is not in custom_questions."),
    ],
)
def test_a_stream_map_that_fails_is_one_line(run: Run, expression: str, message: str) -> None:
    assert message in s.error_line(run(stream_maps={"demo_requests": {"x": expression}}))


def test_stream_maps_can_fake(run: Run) -> None:
    maps, seed = {"users": {"email": "fake.email()"}}, {"seed": 1}
    outputs = [run(stream_maps=maps, faker_config=seed).stdout for _ in range(2)]
    emails = [[row["email"] for row in s.Output(o.splitlines()).records["users"]] for o in outputs]
    assert emails[0] == emails[1]
    assert not {*emails[0]} & {user["email"] for user in s.expected_users(s.small_account())}


def test_several_wrong_settings_are_reported_together(tmp_path: Path) -> None:
    result = s.run(tmp_path, {"start_date": "x", "timezone": "y", "window_days": SECRET})
    assert result.exit_code == 1
    for line in ("api_key is ", "start_date is ", "timezone is ", "window_days has to be of type"):
        assert line in result.stderr
    assert SECRET not in result.output


def test_white_space_around_the_key_and_the_url_is_dropped(sandbox: Sandbox, run: Run) -> None:
    settings = {"api_key": f"\t {API_KEY}\r\n", "api_url": f" {sandbox.url}\n"}
    assert run("--test", **settings).exit_code == 0


@pytest.mark.parametrize(
    "config", ["{", "[3]", "3", pytest.param("[" * 100_000, id="deep")], ids=repr
)
def test_a_broken_configuration_is_one_line(tmp_path: Path, config: str) -> None:
    assert "--config" in s.error_line(s.run(tmp_path, config))


def test_a_file_that_is_not_there_or_is_broken_is_one_line(tmp_path: Path) -> None:
    missing = s.command_line("--config", "/none.json")
    assert "--config, --catalog or --state does not name" in s.error_line(missing)
    assert "--catalog" in s.error_line(s.run(tmp_path, {"api_key": "k"}, catalog="{"))


@pytest.mark.parametrize("action", ["--discover", "--test"])
def test_a_variable_that_cannot_be_read_is_one_line(
    monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setenv("TAP_CRANKWHEEL_WINDOW_DAYS", "seven")
    line = s.error_line(s.command_line("--config", "ENV", action))
    assert "An environment variable cannot be read" in line


TEXTS = ("START_DATE", "END_DATE", "TIMEZONE", "STATS_PERIOD", "USAGE_ENDPOINT", "API_URL")


@pytest.mark.parametrize("name", [*TEXTS, "CUSTOM_QUESTIONS"])
@pytest.mark.parametrize("empty", ["", " \r\n"])
def test_a_text_that_is_empty_is_not_set(
    monkeypatch: pytest.MonkeyPatch, name: str, empty: str
) -> None:
    unset = TapCrankWheel(config={"api_key": "k"}).settings
    monkeypatch.setenv(f"TAP_CRANKWHEEL_{name}", empty)
    assert TapCrankWheel(config={"api_key": "k"}, parse_env_config=True).settings == unset


def test_white_space_around_a_text_is_not_part_of_it() -> None:
    given = {"timezone": "Europe/Berlin", "stats_period": "week", "start_date": "2026-08-30"}
    spaced = {name: f" {text}\r\n" for name, text in given.items()}
    (one, other) = (TapCrankWheel(config={"api_key": "k", **x}).settings for x in (given, spaced))
    assert one == other


@pytest.mark.parametrize("text", ["", "true\n", "TRUE ", '"true"'])
def test_a_variable_that_is_neither_true_nor_false_is_one_line(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """The SDK takes it for false: removed users would never be marked."""
    monkeypatch.setenv("TAP_CRANKWHEEL_API_KEY", "k")
    monkeypatch.setenv("TAP_CRANKWHEEL_EMIT_ACTIVATE_VERSION_MESSAGES", text)
    line = s.error_line(s.command_line("--config", "ENV", "--test"))
    assert line.endswith("emit_activate_version_messages has to be true or false.")


LONG_ID = "how-many-people-on-your-team-would-use-screen-sharing-every-single-week"


@pytest.mark.parametrize(
    "settings",
    [
        {"stream_maps": {"demo_requests": {"prospect_info__prospect-email": "md5('x')"}}},
        {"custom_questions": [f"{LONG_ID}-a", f"{LONG_ID}-b"], "flattening_max_key_length": 63},
    ],
    ids=str,
)
def test_columns_of_one_name_are_named(run: Run, settings: s.Row) -> None:
    flat = {"flattening_enabled": True, "flattening_max_depth": 1}
    line = s.error_line(run(**flat, **settings))
    assert re.search(r"Duplicate column name produced in schema: p\S+\. Raise flattening_max", line)


@pytest.mark.parametrize("name", ["CUSTOM_QUESTIONS", "STREAM_MAPS", "STREAM_MAP_CONFIG"])
def test_a_variable_that_is_null_is_not_set(
    sandbox: Sandbox, run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"TAP_CRANKWHEEL_{name}", "null")
    assert run("--config", "ENV", "--test").exit_code == 0
    assert sandbox.requests


def test_settings_come_from_the_environment(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s.config_for(sandbox, custom_questions='["team-size"]').items():
        monkeypatch.setenv(f"TAP_CRANKWHEEL_{name.upper()}", value)
    for name in ("STATS_PERIODE", "_LOAD_SCHEMA", "LOGLEVEL", "SANDBOX_API_KEY"):
        monkeypatch.setenv(f"TAP_CRANKWHEEL_{name}", "info")
    result = s.command_line("--config", "ENV")
    assert result.exit_code == 0
    assert "prospect-team-size" in result.stdout.split('"stream":"demo_requests"')[1]
    assert warnings(result) == [
        "stats_periode is not a setting of the tap, and is ignored: did you mean stats_period?"
    ]


def test_a_misspelt_setting_is_named_with_the_one_that_is_meant(run: Run) -> None:
    written = warnings(run("--test", star_date="2026-01-01", colour="blue"))
    ignored = "is not a setting of the tap, and is ignored"
    assert written == [f"colour {ignored}.", f"star_date {ignored}: did you mean start_date?"]


def test_a_question_may_be_written_with_its_prefix(sandbox: Sandbox) -> None:
    tap = TapCrankWheel(config=s.config_for(sandbox, custom_questions=["prospect-shoesize", "vip"]))
    info = tap.streams["demo_requests"].schema["properties"]["prospect_info"]["properties"]
    assert [*info][-3:] == ["prospect-shoesize", "prospect-vip", "extra"]


@pytest.mark.parametrize(
    "setting", ["window_days", "stream_maps", "emit_activate_version_messages", "stats_period"]
)
def test_a_setting_that_is_null_has_its_default(run: Run, setting: str) -> None:
    result = run(**{setting: None})
    assert result.exit_code == 0
    assert '"ACTIVATE_VERSION"' in result.stdout


def test_a_new_field_of_a_stream_map_is_logged_once(run: Run) -> None:
    maps = {"users": {"emial": "md5(email)", "email": "md5(email)"}}
    stderr = run(stream_maps=maps).stderr
    assert stderr.count("stream_maps: users gets a new field emial") == 1
    assert stderr.count("gets a new field") == 1


def test_batch_is_neither_offered_nor_done(sandbox: Sandbox) -> None:
    about = TapCrankWheel._get_about_info()
    assert "batch" not in {capability.value for capability in about.capabilities}
    assert "batch_config" not in about.settings["properties"]
    tap = TapCrankWheel(config=s.config_for(sandbox))
    batches = {"encoding": {"format": "jsonl"}, "storage": {"root": "file://"}}
    assert {x.get_batch_config({"batch_config": batches}) for x in tap.streams.values()} == {None}


# --- state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (s.state_at(usage_sessions="soon"), "The state is broken (usage_sessions: {"),
        (s.state_at(usage_sessions="soon"), "'replication_key_value': 'soon'})"),
        ({"bookmarks": {"usage_sessions": {"replication_key_value": 5}}}, "The state is broken"),
        ({"bookmarks": {"usage_sessions": "2026-08-30"}}, "The state is broken"),
        ({"bookmarks": ["usage_sessions"]}, "The state is broken"),
        (s.state_at(usage_sessions="9999-12-31T23:59:59-12:00"), "The state is broken"),
        (s.state_at(account_stats="0001-01-01T00:00:00Z"), "The state is broken"),
        (["usage_sessions"], "--state does not name a file that holds a JSON object."),
        ({"type": "STATE", "value": {"bookmarks": {}}}, "The state is broken"),
        (
            {"bookmarks": {"contacts": {"lastmodified": "2026"}}},
            "another tap's: it has a stream contacts.",
        ),
        ("{", "--config, --catalog or --state does not name a file that holds a JSON object."),
    ],
)
def test_a_broken_state_is_one_line(
    sandbox: Sandbox, run: Run, state: object, message: str
) -> None:
    assert message in s.error_line(run(files={"state": state}))
    assert sandbox.requests == []


def test_a_state_can_come_through_a_pipe_and_with_a_byte_order_mark(
    sandbox: Sandbox, run: Run
) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        pipe.write(f"\ufeff{json.dumps(s.state_at(usage_sessions='2026-08-31'))}")
    result = run("--state", f"/dev/fd/{reading}")
    os.close(reading)
    assert result.exit_code == 0
    starts = {start for start, _ in s.ranges(sandbox, "usage")}
    assert datetime(2026, 8, 23, 23, 59, 59, tzinfo=timezone.utc) in starts


# --- catalogs ------------------------------------------------------------------------------------


def catalog_of(sandbox: Sandbox) -> Any:
    return TapCrankWheel(config=s.config_for(sandbox)).catalog_dict


def deselect(catalog: Any, *fields: str) -> None:
    """Deselect streams and fields, as `select: ["!users.*"]` does alone or after `*.*`."""
    for entry, metadata in ((e, m) for e in catalog["streams"] for m in e["metadata"]):
        name = ".".join([entry["stream"], *metadata["breadcrumb"][1::2]])
        if name in fields or "*" in fields:
            metadata["metadata"]["selected"] = False


def test_discovery_needs_no_settings(tmp_path: Path) -> None:
    result = s.run(tmp_path, {}, "--discover")
    assert result.exit_code == 0
    period = ["period", "timezone", "period_start"]
    parts = ("key_properties", "replication_method", "replication_key")
    streams = json.loads(result.stdout)["streams"]
    assert {e["stream"]: tuple(e.get(part) for part in parts) for e in streams} == {
        "account_stats": (period, "INCREMENTAL", "period_start"),
        "agent_stats": ([*period, "email"], "INCREMENTAL", "period_start"),
        "demo_requests": (["id"], "INCREMENTAL", "start_ts"),
        "demo_stats": (period, "INCREMENTAL", "period_start"),
        "usage_sessions": (["id", "start_date"], "INCREMENTAL", "start_date"),
        "users": (["email"], "FULL_TABLE", None),
    }


def test_names_and_replication_keys_are_the_streams_own_whatever_a_catalog_says(
    sandbox: Sandbox, run: Run
) -> None:
    plain, catalog = s.sync(s.config_for(sandbox)), catalog_of(sandbox)
    changes = {"replication_key": "nothing"}, {"replication_key": "period_end"}, {"stream": "other"}
    for entry, change in zip(catalog["streams"], changes, strict=False):
        entry.update(change)
    output = s.Output(run(files={"catalog": catalog}).stdout.splitlines())
    assert output.records == plain.records
    assert output.bookmarks == plain.bookmarks


def test_nothing_selected_is_an_error(sandbox: Sandbox, run: Run) -> None:
    deselect(catalog := catalog_of(sandbox), "*")
    result = run(files={"catalog": catalog})
    assert 'Nothing is selected: select "*.*" first' in s.error_line(result)


def test_keys_that_are_deselected_are_sent_with_one_warning(sandbox: Sandbox, run: Run) -> None:
    catalog = catalog_of(sandbox)
    deselect(catalog, "agent_stats.email", "demo_requests.id", "users", "users.email")
    result = run(files={"catalog": catalog})
    (line,) = [line for line in result.stderr.splitlines() if "sent even if deselected" in line]
    assert "deselected: agent_stats.email, demo_requests.id. A stream map can hash" in line
    assert '"email":"agent1@example.com"' in result.stdout


def test_a_catalog_keeps_the_streams_keys_and_what_it_has_not_is_not_sent(
    sandbox: Sandbox, run: Run
) -> None:
    plain = s.sync(s.config_for(sandbox)).records
    catalog = catalog_of(sandbox)
    for entry in catalog["streams"]:
        del entry["key_properties"]
        entry["replication_method"] = "INCREMENTAL"
        properties = entry["schema"]["properties"]
        keys = {"id", "start_date", "period_start", "email"}
        for name in {"agent_name", "privilege", "stats", *keys} & properties.keys():
            del properties[name]
        for item in entry["metadata"]:
            if item["breadcrumb"][-1:] in [[key] for key in keys]:
                item["metadata"] = {"selected": False}
        for name in {"viewer_info"} & properties.keys():
            del properties[name]["properties"]["locations"]
    result = run(files={"catalog": catalog})
    output = s.Output(result.stdout.splitlines())
    schemas = {m["stream"]: m for m in output.messages if m["type"] == "SCHEMA"}
    assert schemas["usage_sessions"]["key_properties"] == ["id", "start_date"]
    assert all(schema["key_properties"] for schema in schemas.values())
    for stream, rows in output.records.items():
        assert {*schemas[stream]["key_properties"]} <= rows[0].keys()
        assert len(rows) == len(plain[stream])
        declared = schemas[stream]["schema"]["properties"]
        assert all(row.keys() == declared.keys() for row in rows)
        assert not {"agent_name", "privilege", "stats"} & declared.keys()
    assert not any("locations" in row["viewer_info"] for row in output.records["usage_sessions"])


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"properties": {}}])
def test_a_catalog_without_fields_leaves_the_keys(run: Run, schema: s.Row) -> None:
    entry = {"tap_stream_id": "users", "stream": "users", "schema": schema, "metadata": []}
    output = s.Output(run(files={"catalog": {"streams": [entry]}}).stdout.splitlines())
    assert {tuple(row) for row in output.records["users"]} == {("email",)}


def test_a_field_that_a_saved_catalog_does_not_have_is_named(sandbox: Sandbox, run: Run) -> None:
    catalog = catalog_of(sandbox)
    deselect(catalog, "users")
    for entry in catalog["streams"]:
        entry["schema"]["properties"].pop("extra", None)
    named = warnings(run(files={"catalog": catalog}, custom_questions=["team-size"]))
    lacks = "fields not in --catalog are not sent"
    assert [line for line in named if lacks in line] == [
        f"account_stats: {lacks}: extra",
        f"demo_requests: {lacks}: prospect_info.prospect-team-size, extra",
        f"demo_stats: {lacks}: extra",
        f"usage_sessions: {lacks}: extra",
    ]
    assert not warnings(run(files={"catalog": catalog_of(sandbox)}))


def test_a_catalog_without_replication_keys_leaves_the_streams_incremental(
    sandbox: Sandbox, run: Run
) -> None:
    catalog = catalog_of(sandbox)
    for entry in catalog["streams"]:
        entry["metadata"] = []
        for name in {"replication_key", "replication_method"} & entry.keys():
            del entry[name]
    result = run(files={"catalog": catalog})
    bookmarks = s.Output(result.stdout.splitlines()).bookmarks
    assert bookmarks.keys() == {*s.STREAMS} - {"users"}


# --- the test of a connection --------------------------------------------------------------------


def test_the_test_requests_little_and_says_that_it_passed(sandbox: Sandbox, run: Run) -> None:
    result = run("--test", start_date="2026-01-01")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1].endswith("Test passed.")
    assert "ERROR" not in result.stderr
    assert len(sandbox.requests) == len(s.STREAMS) - 1  # agent_stats has what account_stats read
    requested = [*s.ranges(sandbox, "usage"), *s.ranges(sandbox, "demo_usage")]
    assert all(end >= s.NOW for _, end in requested)  # the latest window
    assert "ACTIVATE_VERSION" not in result.stdout
    assert s.Output(result.stdout.splitlines()).bookmarks == {}
    result = run("--test=schema")
    assert result.stderr.splitlines()[-1].endswith("Test passed.")
    assert result.stdout.count('"type":"SCHEMA"') == len(s.STREAMS) == len(sandbox.requests) + 1


@pytest.mark.parametrize("fault", ["500", "504", "401", "429:60", "400"])
def test_a_test_makes_two_attempts_at_most(sandbox: Sandbox, run: Run, fault: str) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat(fault))
    assert "GET /usage for " in s.error_line(run("--test"))
    assert len(sandbox.requests) == (2 if fault in {"500", "504"} else 1)


def test_a_test_waits_no_longer_than_ten_seconds(sandbox: Sandbox) -> None:
    stream: Any = TapCrankWheel(config=s.config_for(sandbox)).streams["users"]
    assert stream.timeout == 90
    stream.ABORT_AT_RECORD_COUNT = 1
    assert stream.timeout == 10


# --- the commands --------------------------------------------------------------------------------


def test_the_sandbox_tap_overrides_what_says_where_and_when(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    elsewhere = {"api_url": "https://meeting.is/ss/api", "api_key": SECRET, "stats_period": "month"}
    for name, value in {**elsewhere, "start_date": "2030-01-01", "end_date": "1990-01-01"}.items():
        monkeypatch.setenv(f"TAP_CRANKWHEEL_SANDBOX_{name.upper()}", value)
    for arguments in ([], ["--config", "ENV"]):
        result = s.command_line(*arguments, tap=TapCrankWheelSandbox)
        assert result.exit_code == 0
        assert '"stream":"usage_sessions","record"' in result.stdout
        assert SECRET not in result.output
    assert '"period":"month"' in result.stdout


def test_the_installed_command_ends_without_a_traceback(tmp_path: Path) -> None:
    config = json.dumps({"api_key": SECRET, "start_date": "soon"})
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "tap_crankwheel", "--config", f"{tmp_path}/config.json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "ERROR    | tap-crankwheel                 | start_date is not a date" in result.stderr
    assert SECRET not in result.stderr
