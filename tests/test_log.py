from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tap_crankwheel.sandbox.server import Behaviour
from tests.support import FakeClock, Row, ScriptedSandbox, command_line, config_for, sync

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tap_crankwheel.sandbox.server import Sandbox


def messages(stderr: str) -> list[str]:
    """Return what a person reads: all but the metrics, without time, level and logger."""
    lines = [line.split(" | ", 3) for line in stderr.splitlines()]
    return [text for _, _, logger, text in lines if logger.strip() != "singer_sdk.metrics"]


def test_a_run_says_what_it_does_in_a_dozen_lines(sandbox: Sandbox, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_for(sandbox, start_date="2026-08-12", stats_period="week")))
    result = command_line("--config", str(config))
    version, _, *lines = [
        line for line in messages(result.stderr) if not line.startswith("Starting incremental sync")
    ]
    assert version.startswith("tap-crankwheel v")
    counts = {
        stream: result.stdout.count(f'"RECORD","stream":"{stream}"')
        for stream in ("account_stats", "agent_stats", "demo_requests", "usage_sessions")
    }
    host = f"127.0.0.1:{sandbox.server_port}"
    asked = "2026-08-12 00:00 to 2026-09-01 15:20 UTC"
    weeks = "2026-08-31 00:00 to 2026-09-07 00:00 UTC"
    week = "2026-08-31 00:00 to 2026-09-01 15:20 UTC"  # as far as it has come
    days = "2026-08-26 00:00 to 2026-09-01 15:20 UTC"
    assert lines == [
        (
            "start_date lies within a period: the statistics count all of it, from "
            "2026-08-10T00:00:00.000000Z on; the other streams begin at start_date."
        ),
        f"usage_sessions: reading {asked} from {host}, windows: 4",
        f"usage_sessions: window 4 of 4 done, {week}, {counts['usage_sessions']} records",
        f"account_stats: reading {asked} from {host}, windows: 4",
        f"account_stats: window 4 of 4 done, {weeks}, 4 records",
        f"agent_stats: reading {asked} from {host}, windows: 4",
        f"agent_stats: window 4 of 4 done, {weeks}, {counts['agent_stats']} records",
        f"demo_requests: reading {asked} from {host}, windows: 3",
        f"demo_requests: window 3 of 3 done, {days}, {counts['demo_requests']} records",
        (
            "demo_requests: the API sends more than the tap knows, which is in `extra`: "
            f"prospect_info.prospect-has-crm ({counts['demo_requests']}), "
            f"prospect_info.prospect-team-size ({counts['demo_requests']})"
        ),
        f"users: reading from {host}",
        "users: 6 records",
        f"{len(sandbox.requests)} requests, 0 retries; waited 0 s for rate limits",
    ]
    assert "METRIC" in result.stderr


def test_progress_is_logged_once_a_minute(
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answer(*_: datetime) -> Row:
        clock.advance(25)  # each third window ends in another minute
        return {"sessions": []}

    caplog.set_level("INFO")
    with ScriptedSandbox(usage=answer).running() as sandbox:
        config = config_for(
            sandbox,
            start_date="2026-08-12",
            end_date="2026-08-20",
            window_days=1,
            max_parallel_requests=1,
        )
        sync(config, select=("usage_sessions",), clock=clock)
    lines = [r.getMessage() for r in caplog.records if " done, " in r.getMessage()]
    assert lines == [
        f"usage_sessions: window {n} of 8 done, 2026-08-{11 + n} 00:00 to 2026-08-{12 + n} 00:00 "
        "UTC, 0 records"
        for n in (3, 6, 8)
    ]


def test_a_deselected_stream_is_named_and_never_requested(
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    sync(config_for(sandbox), select=("users",))
    lines = [record.getMessage() for record in caplog.records if "METRIC" not in record.message]
    assert [line for line in lines if "deselected" in line] == [
        f"Skipping deselected stream '{stream}'."
        for stream in ("usage_sessions", "account_stats", "agent_stats", "demo_requests")
    ]
    assert lines[-1].startswith("1 requests, 0 retries;")
    assert sandbox.requests == ["GET /ss/api/user_access"]


def test_retries_and_waits_are_logged_at_the_end(
    sandbox: Sandbox,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    sandbox.behaviour = Behaviour(faults=iter(["429:30", "503"]))
    sync(config_for(sandbox), select=("users",), clock=clock)
    waited = clock.pauses[0]
    assert waited >= 30
    assert caplog.records[-1].getMessage() == (
        f"3 requests, 2 retries; waited {waited:.0f} s for rate limits: max_parallel_requests is "
        f"too high for this API, which answered {60 / sum(clock.pauses):.0f} requests a minute"
    )


def test_a_first_run_that_finds_nothing_says_what_to_check(
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = sandbox.account.start - timedelta(days=40)
    config = config_for(sandbox, start_date=before.isoformat(), end_date="2026-08-01")
    output = sync(config)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warnings == [
        f"{stream}: this first run found nothing in {before:%Y-%m-%d} 00:00 to 2026-08-01 00:00 "
        "UTC. If there should be something, check start_date and end_date, and that the key is of "
        "the account you mean; then read all again (--full-refresh in Meltano)."
        for stream in ("usage_sessions", "agent_stats", "demo_requests")
    ]
    caplog.clear()
    sync(config, state=output.state)
    assert "found nothing" not in caplog.text  # with a bookmark, that is how quiet days are


def test_a_test_of_a_quiet_day_is_no_alarm(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.account.sessions_per_day = 0
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_for(sandbox)))
    lines = messages(command_line("--config", str(config), "--test").stderr)
    assert "usage_sessions: window 1 of 1 done" in "\n".join(lines)
    assert not any("found nothing" in line for line in lines)
    assert lines[-1] == "Test passed (all streams)."


def test_an_empty_range_is_logged(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    config = config_for(sandbox, start_date="2026-08-01", end_date="2026-08-01")
    sync(config, select=("usage_sessions",))
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith("usage_sessions: nothing to read, since start_date")
    assert sandbox.requests == []


def test_unknown_fields_are_named_without_values_and_without_names_of_people(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    session = {"session_id": 1, "email": "ann@example.com", "start_date": "2026-08-30T10:00:00Z"}
    sessions = [
        {**session, "rating": 5, "viewer_info": {"devices": ["phone"]}},
        {**session, "session_id": 2, "rating": 4, "bob@example.com": "secret", "duration": "long"},
        {**session, "session_id": 3, "viewer_info": {"JaneDoe": 1, "203.0.113.5": 1, "555": 1}},
    ]
    document = {"sessions": sessions, "currency": "EUR"}
    with ScriptedSandbox(usage=document, demo_usage={"sessions": []}).running() as sandbox:
        config = config_for(sandbox, start_date="2026-08-30", end_date="2026-08-31")
        sync(config, select=("usage_sessions", "account_stats"))
    lines = [r.getMessage() for r in caplog.records if "more than the tap knows" in r.getMessage()]
    says = "the API sends more than the tap knows, which is in `extra`:"
    assert lines == [
        (
            f"usage_sessions: {says} duration (1), rating (2), viewer_info.devices (1), "
            "viewer_info.… (3), … (1)"
        ),
        f"account_stats: {says} currency (1)",
    ]


def test_sessions_without_email_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    session = {"session_id": 1, "start_date": "2026-08-30T10:00:00Z"}
    with ScriptedSandbox(usage={"sessions": [session]}).running() as sandbox:
        output = sync(config_for(sandbox, start_date="2026-08-30"))
    assert [row["id"] for row in output.records["usage_sessions"]] == ["1"]
    assert sum(row["meetings"] for row in output.records["account_stats"]) == 1
    assert not output.records["agent_stats"]
    (warning,) = [r.getMessage() for r in caplog.records if "no email" in r.getMessage()]
    assert warning.startswith("1 sessions have no email: they count for the account")
