"""The log: what a person reads of a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tap_crankwheel.tap import TapCrankWheel
from tap_crankwheel.windows import format_timestamp
from tests import support as s

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from tap_crankwheel.sandbox.server import Sandbox


def logged(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    return [text for text in caplog.messages if part in text]


def test_a_run_says_what_it_reads(sandbox: Sandbox, tmp_path: Path) -> None:
    config = s.config_for(sandbox, start_date="2026-08-12", stats_period="week")
    lines = [line.split(" | ", 3) for line in s.run(tmp_path, config).stderr.splitlines()]
    own = [text for _, _, name, text in lines if name.startswith("tap-crankwheel.")]
    asked = "2026-08-12 00:00 to 2026-09-01 15:20 UTC"
    unknown = "prospect_info.prospect-has-crm, prospect_info.prospect-team-size"
    assert [text for text in own if not text.startswith("Starting incremental sync")] == [
        f"account_stats: reading {asked}, windows: 4",
        f"agent_stats: reading {asked}, windows: 4",
        f"demo_requests: reading {asked}, windows: 3",
        f"demo_requests: the API sends unknown fields: {unknown}",
        f"demo_stats: reading {asked}, windows: 4",
        f"usage_sessions: reading {asked}, windows: 3",
    ]
    assert {level.strip() for _, level, *_ in lines} == {"INFO"}
    texts = [text.removeprefix("METRIC: ") for *_, text in lines if "METRIC" in text]
    metrics = [json.loads(text) for text in texts]
    counts = [m["value"] for m in metrics if m["metric"] == "http_request_count"]
    durations = [m for m in metrics if m["metric"] == "http_request_duration"]
    assert sum(counts) == len(durations) == len(sandbox.requests)


def test_progress_is_logged_once_a_minute(
    clock: s.FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def usage(_: datetime, end: datetime) -> s.Row:
        return {"sessions": [{"session_id": 1, "start_date": format_timestamp(end)}]}

    caplog.set_level("INFO")
    with s.ScriptedSandbox(usage=usage).running() as sandbox:
        dates = {"start_date": "2026-08-12", "end_date": "2026-08-20"}
        config = s.config_for(sandbox, window_days=1, **dates)
        stream = TapCrankWheel(config=config, clock=clock).streams["usage_sessions"]
        for _ in stream.get_records({}):
            clock.advance(25)  # each third window ends in another minute
    assert logged(caplog, " is complete: ") == [
        "usage_sessions: window 3 of 8 is complete: 2026-08-14 00:00 to 2026-08-15 00:00 UTC",
        "usage_sessions: window 6 of 8 is complete: 2026-08-17 00:00 to 2026-08-18 00:00 UTC",
    ]


def test_an_empty_range_is_logged(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    s.sync(s.config_for(sandbox, start_date="2026-08-01", end_date="2026-08-01"))
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 5
    assert warnings[0].startswith(
        "account_stats: nothing to read from 2026-08-01 00:00 to 2026-08-01 00:00"
    )


@pytest.mark.parametrize("lookback_days", [0, 7])
def test_an_end_date_that_stays_is_logged(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, lookback_days: int
) -> None:
    dates = {"start_date": "2026-08-14", "end_date": "2026-08-30", "lookback_days": lookback_days}
    config = s.config_for(sandbox, **dates)
    state = s.sync(config).state
    assert not logged(caplog, "end_date is reached")
    s.sync(config, state=state)
    says = "end_date is reached: remove it to read on."
    assert logged(caplog, says) == [
        f"{name}: {says}" for name in ("demo_requests", "usage_sessions")
    ]
    assert not logged(caplog, "nothing to read")
    caplog.clear()
    for end in ("2026-08-30T12:00:00Z", "2026-08-30T13:00:00Z", "2030-01-01", "2030-01-01"):
        clock = s.FakeClock(s.NOW)
        state = s.sync({**config, "end_date": end}, state=state, clock=clock).state
    assert not logged(caplog, "end_date is reached")


def test_after_twenty_unknown_fields_the_log_says_how_many_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    user = {"email": "ann@example.com", **{f"fieldNumber{n:02}": n for n in range(23)}}
    with s.ScriptedSandbox(users=[user]).running() as sandbox:
        s.sync(s.config_for(sandbox), select=("users",))
    (line,) = logged(caplog, "unknown fields")
    assert line.endswith(" fieldNumber18, fieldNumber19, and 3 more")


def test_unknown_fields_are_named_without_values_and_without_names_of_people(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    session = {"session_id": 1, "email": "ann@example.com", "start_date": "2026-08-30T10:00:00Z"}
    sessions = [
        {**session, "recordingUrl": 5, "viewer_info": {"devices": ["phone"]}},
        {
            **session,
            "session_id": 2,
            "recordingUrl": 4,
            "bob@example.com": "secret",
            "duration": "long",
        },
        {**session, "session_id": 3, "viewer_info": {"JaneDoe": 1, "203.0.113.5": 1, "555": 1}},
    ]
    with s.ScriptedSandbox(usage={"sessions": sessions, "currency": "EUR"}).running() as sandbox:
        config = s.config_for(sandbox, start_date="2026-08-30", end_date="2026-08-31")
        s.sync(config, select=("usage_sessions", "account_stats"))
    says = "the API sends unknown fields:"
    masked = "currency, duration, recordingUrl, viewer_info.devices, viewer_info.…, …"
    assert logged(caplog, says) == [
        f"account_stats: {says} currency",
        f"usage_sessions: {says} {masked}",
    ]
