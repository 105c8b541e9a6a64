from __future__ import annotations

import itertools
import json
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tap_crankwheel import history
from tap_crankwheel.client import Traffic
from tap_crankwheel.sandbox.server import Behaviour
from tap_crankwheel.sandbox.tap import TapCrankWheelSandbox
from tests.support import all_sessions, command_line, config_for, sync
from tools.reference import README

if TYPE_CHECKING:
    from pathlib import Path

    from tap_crankwheel.sandbox.server import Sandbox


def told(stderr: str) -> list[str]:
    """Return what a person reads: all but the metrics, without time, level and logger."""
    lines = [line.split(" | ", 3) for line in stderr.splitlines()]
    return [text for _, _, logger, text in lines if logger.strip() != "singer_sdk.metrics"]


def test_a_run_says_what_it_does_in_a_dozen_lines(sandbox: Sandbox, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_for(sandbox, start_date="2026-08-12", stats_period="week")))
    result = command_line("--config", str(config))
    version, _, *lines = told(result.stderr)
    assert version.startswith("tap-crankwheel v")
    counts = {
        stream: result.stdout.count(f'"RECORD","stream":"{stream}"')
        for stream in ("account_stats", "agent_stats", "demo_requests", "usage_sessions")
    }
    asked = "2026-08-12 00:00 to 2026-09-01 15:20 UTC"
    weeks = "2026-08-31 00:00 to 2026-09-07 00:00 UTC"
    days = "2026-08-26 00:00 to 2026-09-01 15:20 UTC"
    assert lines == [
        f"account_stats: reading {asked} from 127.0.0.1, windows: 4",
        f"account_stats: window 4 of 4 done, {weeks}, 4 records",
        f"agent_stats: reading {asked} from 127.0.0.1, windows: 4",
        f"agent_stats: window 4 of 4 done, {weeks}, {counts['agent_stats']} records",
        f"demo_requests: reading {asked} from 127.0.0.1, windows: 3",
        f"demo_requests: window 3 of 3 done, {days}, {counts['demo_requests']} records",
        f"usage_sessions: reading {asked} from 127.0.0.1, windows: 3",
        f"usage_sessions: window 3 of 3 done, {days}, {counts['usage_sessions']} records",
        "users: reading from 127.0.0.1",
        "users: 6 records",
        (
            f"Requests: {len(sandbox.requests)}, of which tries again: 0; "
            "held by rate limits: 0 seconds"
        ),
    ]
    assert "METRIC" in result.stderr


def test_the_readme_shows_what_a_run_says() -> None:
    (shown,) = README.read_text().split("### What a run says")[1].split("```")[1:2]
    told_of = told(command_line(tap=TapCrankWheelSandbox).stderr)
    assert told_of[2:] == shown.removeprefix("text\n").splitlines()


def test_progress_is_told_once_a_minute(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = itertools.count(step=25)  # seconds: each third window ends in another minute
    monkeypatch.setattr(history, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    caplog.set_level("INFO")
    config = config_for(sandbox, start_date="2026-08-12", end_date="2026-08-20", window_days=1)
    sync(config, select=("usage_sessions",))
    lines = [r.getMessage() for r in caplog.records if " done, " in r.getMessage()]
    starts = [session["start_date"] for session in all_sessions(sandbox.account)]
    assert lines == [
        f"usage_sessions: window {n} of 8 done, 2026-08-{11 + n} 00:00 to 2026-08-{12 + n} 00:00 "
        f"UTC, {sum('2026-08-12' <= s < f'2026-08-{12 + n}' for s in starts)} records"
        for n in (3, 6, 8)
    ]


def test_what_is_deselected_is_told_and_not_asked_for(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sync(config_for(sandbox), select=("users",))
    lines = [record.getMessage() for record in caplog.records if "METRIC" not in record.message]
    assert [line for line in lines if "deselected" in line] == [
        f"Skipping deselected stream '{stream}'."
        for stream in ("account_stats", "agent_stats", "demo_requests", "usage_sessions")
    ]
    assert lines[-1].startswith("Requests: 1, of which tries again: 0;")
    assert sandbox.requests == ["GET /ss/api/user_access"]


def test_tries_and_waits_are_told_at_the_end(
    sandbox: Sandbox, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sandbox.behaviour = Behaviour(faults=iter(["429:30", "503"]))
    sync(config_for(sandbox), select=("users",))
    held = pauses[0]
    assert held >= 30
    assert caplog.records[-1].getMessage() == (
        f"Requests: 3, of which tries again: 2; held by rate limits: {held:.0f} seconds"
    )


@pytest.mark.usefixtures("pauses")
def test_holds_that_overlap_count_once() -> None:
    traffic = Traffic()
    for seconds in (7, 7, 3, 10):
        traffic.hold(seconds)
    assert traffic.held == pytest.approx(10)


def test_a_first_run_that_finds_nothing_says_what_to_check(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    before = sandbox.account.start - timedelta(days=40)
    config = config_for(sandbox, start_date=before.isoformat(), end_date="2026-08-01")
    output = sync(config)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warnings == [
        f"{stream}: this first run found nothing in {before:%Y-%m-%d} 00:00 to 2026-08-01 00:00 "
        "UTC. If there should be something, check start_date and end_date, and that the key is of "
        "the account you mean."
        for stream in ("agent_stats", "demo_requests", "usage_sessions")
    ]
    caplog.clear()
    sync(config, state=output.state)
    assert "found nothing" not in caplog.text  # with a bookmark, that is how quiet days are


def test_a_test_of_a_quiet_day_is_no_alarm(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.account.sessions_per_day = 0
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_for(sandbox)))
    lines = told(command_line("--config", str(config), "--test").stderr)
    assert "usage_sessions: window 1 of 1 done" in "\n".join(lines)
    assert not any("found nothing" in line for line in lines)
    assert lines[-1] == "The test is passed: all."


def test_an_empty_range_is_told(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    config = config_for(sandbox, start_date="2026-08-01", end_date="2026-08-01")
    sync(config, select=("usage_sessions",))
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith("usage_sessions: nothing to read, since start_date")
    assert sandbox.requests == []
