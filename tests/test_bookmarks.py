"""Bookmarks: where a run begins, and what it may claim to have read."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from tap_crankwheel.tap import TapCrankWheel
from tap_crankwheel.windows import format_timestamp
from tests.support import (
    NOW,
    FakeClock,
    Output,
    Row,
    all_sessions,
    canonical,
    captured,
    config_for,
    expected_requests,
    expected_sessions,
    ranges,
    state_at,
    sync,
)

if TYPE_CHECKING:
    from tap_crankwheel.sandbox.server import Sandbox


def test_the_bookmark_moves_with_each_complete_window(sandbox: Sandbox) -> None:
    config = config_for(sandbox, window_days=5, start_date="2026-08-01", end_date="2026-08-21")
    output = sync(config, select=("usage_sessions",))
    seen: list[tuple[str, int]] = []
    records = 0
    for message in output.messages:
        if message["type"] == "RECORD":
            records += 1
            assert message["record"]["start_date"] < "2026-08-21"
        if message["type"] == "STATE":
            bookmark = message["value"]["bookmarks"]["usage_sessions"]
            if value := bookmark.get("replication_key_value"):
                seen.append((value[:10], records))
    # The history begins on 12 August: the first two windows are empty, and count.
    assert [value for value, _ in dict(seen).items()] == [
        "2026-08-06",
        "2026-08-11",
        "2026-08-16",
        "2026-08-21",
    ]
    expected = [
        sum(s["start_date"] < value for s in all_sessions(sandbox.account)) for value, _ in seen
    ]
    assert [count for _, count in seen] == expected
    assert expected[0] == expected[1] == 0


def test_the_bookmark_does_not_move_within_a_window(sandbox: Sandbox) -> None:
    config = config_for(sandbox, window_days=5, start_date="2026-08-11", end_date="2026-08-31")
    with captured() as lines:
        tap = TapCrankWheel(config=config)
        for name, stream in tap.streams.items():
            stream.selected = name == "usage_sessions"
        tap.streams["usage_sessions"].STATE_MSG_FREQUENCY = 1
        tap.sync_all()
    states = [state["bookmarks"]["usage_sessions"] for state in Output(lines).states]
    assert len(states) > 100  # one for each record, and for each window
    edges = ["2026-08-16", "2026-08-21", "2026-08-26", "2026-08-31"]
    values = [state.get("replication_key_value") for state in states]
    assert {value[:10] for value in values if value} == set(edges)


def test_the_bookmark_of_statistics_is_the_last_periods_start(sandbox: Sandbox) -> None:
    output = sync(config_for(sandbox), select=("account_stats", "agent_stats"))
    assert output.bookmarks == {
        "account_stats": "2026-09-01T00:00:00.000000Z",
        "agent_stats": "2026-09-01T00:00:00.000000Z",
    }


def test_a_run_begins_at_the_bookmark_less_the_lookback(sandbox: Sandbox) -> None:
    state = state_at(
        usage_sessions="2026-08-30T12:00:00.000000Z",
        demo_requests="2026-08-29T00:00:00.000000Z",
        account_stats="2026-08-31T00:00:00.000000Z",
    )
    config = config_for(sandbox, lookback_days=2)
    output = sync(config, state=state, select=("usage_sessions", "demo_requests"))
    second = timedelta(seconds=1)
    assert ranges(sandbox, "usage") == [
        (datetime(2026, 8, 28, 12, tzinfo=timezone.utc) - second, NOW + second),
    ]
    assert ranges(sandbox, "demo_usage") == [
        (datetime(2026, 8, 27, tzinfo=timezone.utc) - second, NOW + second),
    ]
    assert output.bookmarks["usage_sessions"] == format_timestamp(NOW)

    sandbox.requests.clear()
    output = sync(config, state=state, select=("account_stats",))
    assert [row["period_start"][:10] for row in output.records["account_stats"]] == [
        "2026-08-29",
        "2026-08-30",
        "2026-08-31",
        "2026-09-01",
    ]


def test_a_run_never_begins_before_the_start_date(sandbox: Sandbox) -> None:
    state = state_at(usage_sessions="2026-08-30T12:00:00.000000Z")
    sync(
        config_for(sandbox, start_date="2026-08-30T06:00:00Z"),
        state=state,
        select=("usage_sessions",),
    )
    assert ranges(sandbox, "usage")[0][0] == datetime(2026, 8, 30, 5, 59, 59, tzinfo=timezone.utc)


def test_without_start_date_an_old_bookmark_is_not_cut_short(sandbox: Sandbox) -> None:
    config = config_for(sandbox)
    del config["start_date"]
    state = state_at(usage_sessions="2026-06-02T00:00:00.000000Z")
    sync(config, state=state, select=("usage_sessions",), clock=FakeClock(NOW))
    assert min(ranges(sandbox, "usage"))[0].date().isoformat() == "2026-05-25"  # and 23:59:59


def test_the_bookmark_does_not_move_back(sandbox: Sandbox) -> None:
    state = state_at(usage_sessions="2026-08-31T00:00:00.000000Z")
    config = config_for(sandbox, lookback_days=10, window_days=1, end_date="2026-08-25")
    output = sync(config, state=state, select=("usage_sessions",))
    assert output.records["usage_sessions"]
    assert output.bookmarks == {"usage_sessions": "2026-08-31T00:00:00.000000Z"}


@pytest.mark.parametrize("settings", [{"start_date": "2026-09-02"}, {"end_date": "2026-08-11"}])
def test_an_empty_range_requests_nothing_and_leaves_the_state(
    sandbox: Sandbox,
    settings: Row,
) -> None:
    config = config_for(sandbox)
    del config["end_date"]
    bookmarks = {
        "usage_sessions": "2026-08-31T12:00:00.000000Z",
        "demo_requests": "2026-08-31T12:00:00.000000Z",
        "account_stats": "2026-08-31T00:00:00.000000Z",
        "agent_stats": "2026-08-31T00:00:00.000000Z",
    }
    output = sync(
        {**config, **settings},
        state=state_at(**bookmarks),
        select=tuple(bookmarks),
        clock=FakeClock(NOW),
    )
    assert sandbox.requests == []
    assert not output.records
    assert output.bookmarks == bookmarks


def test_an_end_date_in_the_future_is_now(sandbox: Sandbox) -> None:
    output = sync(
        config_for(sandbox, end_date="2030-01-01"),
        select=("usage_sessions",),
        clock=FakeClock(NOW),
    )
    assert output.bookmarks == {"usage_sessions": format_timestamp(NOW)}
    assert max(ranges(sandbox, "usage"))[1] == NOW + timedelta(seconds=1)


def test_a_bookmark_in_the_future_counts_as_now(
    sandbox: Sandbox,
) -> None:
    state = state_at(
        usage_sessions="2026-10-01T00:00:00.000000Z",
        account_stats="2026-10-01T00:00:00.000000Z",
    )
    config = config_for(sandbox, lookback_days=3, window_days=1)
    output = sync(
        config,
        state=state,
        select=("usage_sessions", "account_stats"),
        clock=FakeClock(NOW),
    )
    assert output.bookmarks == {
        "usage_sessions": format_timestamp(NOW),
        "account_stats": "2026-09-01T00:00:00.000000Z",
    }
    assert min(ranges(sandbox, "usage"))[0].date().isoformat() == "2026-08-28"
    # Until its windows are complete, it does not claim more than they hold.
    written = [s["bookmarks"]["usage_sessions"]["replication_key_value"] for s in output.states]
    assert any(value < format_timestamp(NOW) for value in written)


def test_what_runs_in_one_run_is_finished_in_the_next(sandbox: Sandbox) -> None:
    first = sync(config_for(sandbox))
    running = {s["id"] for s in first.records["usage_sessions"] if not s["session_ended"]}
    assert running
    sandbox.account.fixed_now = NOW + timedelta(hours=20)
    second = sync(config_for(sandbox), state=first.state)
    union = {s["id"]: s for run in (first, second) for s in run.records["usage_sessions"]}
    assert canonical(list(union.values())) == canonical(expected_sessions(sandbox.account))
    assert all(union[number]["session_ended"] for number in running)
    requests = {r["id"]: r for run in (first, second) for r in run.records["demo_requests"]}
    assert canonical(list(requests.values()), "id") == canonical(
        expected_requests(sandbox.account),
        "id",
    )


@pytest.mark.parametrize(("period", "requests"), [("day", 23), ("hour", 391)])
def test_a_daily_run_requests_no_more_than_the_lookback_needs(
    sandbox: Sandbox, period: str, requests: int
) -> None:
    config = config_for(sandbox, stats_period=period)
    del config["end_date"]
    first = sync(config, clock=FakeClock(NOW))
    sandbox.requests.clear()
    sync(config, state=first.state, clock=FakeClock(NOW + timedelta(days=1)))
    # docs/running.md and docs/performance.md state these numbers.
    assert len(sandbox.requests) == requests


def test_full_table_replication_ignores_the_bookmark(sandbox: Sandbox) -> None:
    with captured() as lines:
        tap = TapCrankWheel(
            config=config_for(sandbox),
            state=state_at(usage_sessions="2026-08-31T00:00:00.000000Z"),
        )
        for name, stream in tap.streams.items():
            stream.selected = name == "usage_sessions"
            stream.forced_replication_method = "FULL_TABLE"
        tap.sync_all()
    output = Output(lines)
    assert canonical(output.records["usage_sessions"]) == canonical(
        expected_sessions(sandbox.account),
    )
    # A part of the history replaces nothing.
    assert "ACTIVATE_VERSION" not in {kind for kind, _ in output.types}


@pytest.mark.parametrize("minutes", [-30, 30])
def test_a_clock_that_differs_from_the_servers_costs_nothing(
    sandbox: Sandbox,
    minutes: int,
) -> None:
    union: dict[str, Row] = {}
    config = config_for(sandbox)
    del config["end_date"]
    state: Row | None = None
    for hours in (0, 6, 12, 18, 24):
        here = NOW + timedelta(hours=hours)
        sandbox.account.fixed_now = here + timedelta(minutes=minutes)
        output = sync(config, state=state, select=("usage_sessions",), clock=FakeClock(here))
        state = output.state
        assert output.bookmarks["usage_sessions"] == format_timestamp(here)
        union |= {row["id"]: row for row in output.records["usage_sessions"]}
    sandbox.account.fixed_now = NOW + timedelta(hours=24, minutes=min(minutes, 0))
    seen = [row for row in union.values() if row["start_date"] <= format_timestamp(here)]
    numbers = {s["session_id"] for s in all_sessions(sandbox.account)}
    assert {row["session_id"] for row in seen} >= numbers
