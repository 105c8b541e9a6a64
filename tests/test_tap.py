"""The command line: state, catalogs, the test of a connection, and how a run ends."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tap_crankwheel.sandbox.server import Behaviour, Sandbox
from tap_crankwheel.sandbox.tap import TapCrankWheelSandbox
from tap_crankwheel.tap import TapCrankWheel
from tests import support as s

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "k3y-that-must-not-appear"  # noqa: S105


# --- state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (s.state_at(usage_sessions="soon"), "The state is broken (usage_sessions: 'soon'): its f"),
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
    sandbox: Sandbox, run: s.Run, state: object, message: str
) -> None:
    assert message in s.error_line(run(files={"state": state}))
    assert sandbox.requests == []


def test_a_state_can_come_through_a_pipe_and_with_a_byte_order_mark(
    sandbox: Sandbox, run: s.Run
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
    sandbox: Sandbox, run: s.Run
) -> None:
    plain, catalog = s.sync(s.config_for(sandbox)), catalog_of(sandbox)
    changes = {"replication_key": "nothing"}, {"replication_key": "period_end"}, {"stream": "other"}
    for entry, change in zip(catalog["streams"], changes, strict=False):
        entry.update(change)
    output = s.Output(run(files={"catalog": catalog}).stdout.splitlines())
    assert output.records == plain.records
    assert output.bookmarks == plain.bookmarks


def test_nothing_selected_is_an_error(sandbox: Sandbox, run: s.Run) -> None:
    deselect(catalog := catalog_of(sandbox), "*")
    result = run(files={"catalog": catalog})
    assert 'Nothing is selected: select "*.*" first' in s.error_line(result)


def test_keys_that_are_deselected_are_sent_with_one_warning(sandbox: Sandbox, run: s.Run) -> None:
    catalog = catalog_of(sandbox)
    deselect(catalog, "agent_stats.email", "demo_requests.id", "users", "users.email")
    result = run(files={"catalog": catalog})
    (line,) = [line for line in result.stderr.splitlines() if "sent even if deselected" in line]
    assert "deselected: agent_stats.email, demo_requests.id. A stream map can hash" in line
    assert '"email":"agent1@example.com"' in result.stdout


def test_a_catalog_keeps_the_streams_keys_and_what_it_has_not_is_not_sent(
    sandbox: Sandbox, run: s.Run
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
def test_a_catalog_without_fields_leaves_the_keys(run: s.Run, schema: s.Row) -> None:
    entry = {"tap_stream_id": "users", "stream": "users", "schema": schema, "metadata": []}
    output = s.Output(run(files={"catalog": {"streams": [entry]}}).stdout.splitlines())
    assert {tuple(row) for row in output.records["users"]} == {("email",)}


def test_a_field_that_a_saved_catalog_does_not_have_is_named(sandbox: Sandbox, run: s.Run) -> None:
    catalog = catalog_of(sandbox)
    deselect(catalog, "users")
    for entry in catalog["streams"]:
        entry["schema"]["properties"].pop("extra", None)
    named = run(files={"catalog": catalog}, custom_questions=["team-size"]).warnings
    lacks = "fields not in --catalog are not sent"
    assert [line for line in named if lacks in line] == [
        f"account_stats: {lacks}: extra",
        f"demo_requests: {lacks}: prospect_info.prospect-team-size, extra",
        f"demo_stats: {lacks}: extra",
        f"usage_sessions: {lacks}: extra",
    ]
    assert not run(files={"catalog": catalog_of(sandbox)}).warnings


def test_a_catalog_without_replication_keys_leaves_the_streams_incremental(
    sandbox: Sandbox, run: s.Run
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


def test_the_test_requests_little_and_says_that_it_passed(sandbox: Sandbox, run: s.Run) -> None:
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
def test_a_test_makes_two_attempts_at_most(sandbox: Sandbox, run: s.Run, fault: str) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat(fault))
    assert "GET /usage for " in s.error_line(run("--test"))
    assert len(sandbox.requests) == (2 if fault in {"500", "504"} else 1)


def test_a_test_waits_no_longer_than_ten_seconds(sandbox: Sandbox) -> None:
    stream: Any = TapCrankWheel(config=s.config_for(sandbox)).streams["users"]
    assert stream.timeout == 90
    stream.ABORT_AT_RECORD_COUNT = 1
    assert stream.timeout == 10


# --- the commands --------------------------------------------------------------------------------


def test_batch_is_neither_offered_nor_done(sandbox: Sandbox) -> None:
    about = TapCrankWheel._get_about_info()
    assert "batch" not in {capability.value for capability in about.capabilities}
    assert "batch_config" not in about.settings["properties"]
    tap = TapCrankWheel(config=s.config_for(sandbox))
    batches = {"encoding": {"format": "jsonl"}, "storage": {"root": "file://"}}
    assert {x.get_batch_config({"batch_config": batches}) for x in tap.streams.values()} == {None}


TARGET_HAS_ENDED = "The target has ended: look for its error in the log."


@pytest.mark.parametrize(
    ("number", "action", "message"),
    [
        (errno.ENOSPC, (), "Standard output cannot be written: No space left on device."),
        (errno.ENOSPC, ("--discover",), "Standard output cannot be written: No space left on de"),
        (errno.EPIPE, ("--discover",), TARGET_HAS_ENDED),
        (errno.EINVAL, (), TARGET_HAS_ENDED),  # on Windows
        (0, (), "Standard output cannot be written: it is closed."),
    ],
)
def test_what_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, number: int, action: tuple[str, ...], message: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    broken = SimpleNamespace(write=fail, flush=fail, buffer=SimpleNamespace(write=fail))
    stderr = io.StringIO()
    monkeypatch.setenv("TAP_CRANKWHEEL_API_KEY", "k")
    monkeypatch.setattr(sys, "stdout", broken if number else None)
    monkeypatch.setattr(sys, "stderr", stderr)
    with pytest.raises(SystemExit) as ended:
        s.QuickTap.cli(["--config", "ENV", *action])
    assert ended.value.code == 1
    assert "Traceback" not in stderr.getvalue()
    assert f"| {message}" in stderr.getvalue().splitlines()[-1]


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
