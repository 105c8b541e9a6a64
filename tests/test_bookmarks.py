"""Bookmarks: where a run begins, and what it may claim to have read."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tap_crankwheel.windows import format_timestamp, parse_timestamp
from tests import support as s

if TYPE_CHECKING:
    from datetime import datetime

    from tap_crankwheel.sandbox.server import Sandbox

SECOND = timedelta(seconds=1)
STATISTICS = ("account_stats", "agent_stats")


def test_the_bookmark_moves_with_each_complete_window(sandbox: Sandbox) -> None:
    config = s.config_for(sandbox, window_days=5, start_date="2026-08-01", end_date="2026-08-21")
    output = s.sync(config, select=("usage_sessions",))
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
    assert [*dict(seen)] == ["2026-08-06", "2026-08-11", "2026-08-16", "2026-08-21"]
    expected = [
        sum(x["start_date"] < value for x in s.all_sessions(sandbox.account)) for value, _ in seen
    ]
    assert [count for _, count in seen] == expected
    assert expected[0] == expected[1] == 0


def test_the_bookmark_does_not_move_within_a_window(sandbox: Sandbox) -> None:
    config = s.config_for(sandbox, window_days=5, start_date="2026-08-11", end_date="2026-08-31")
    with s.captured() as lines:
        tap = s.selecting(("usage_sessions",), config)
        tap.streams["usage_sessions"].STATE_MSG_FREQUENCY = 1
        tap.sync_all()
    states = [state["bookmarks"]["usage_sessions"] for state in s.Output(lines).states]
    assert len(states) > 100  # one for each record, and for each window
    edges = ["2026-08-16", "2026-08-21", "2026-08-26", "2026-08-31"]
    values = [state.get("replication_key_value") for state in states]
    assert {value[:10] for value in values if value} == set(edges)


END = "09-01T15:20"  # NOW
# start_date, end_date, bookmark, lookback_days -> from, to, bookmark; without the year.
CASES: dict[str, tuple[Any, ...]] = {
    "first run": ("08-11", None, None, None, "08-11", END, END),
    "without start_date": (None, None, None, None, "08-04T15:20", END, END),
    "bookmark": ("08-11", None, "08-30T12:00", 2, "08-28T12:00", END, END),
    "lookback over start_date": ("08-30T06:00", None, "08-30T12:00", None, "08-30T06:00", END, END),
    "old bookmark without start_date": (None, None, "08-02", None, "07-26", END, END),
    "bookmark after end_date": ("08-11", "08-25", "08-31", 10, "08-21", "08-25", "08-31"),
    "end_date in the future": ("08-11", "12-31", None, None, "08-11", END, END),
    "bookmark in the future": ("08-11", None, "10-01", 3, "08-29T15:20", END, END),
    "start_date after now": ("09-02", None, "08-31", None, None, None, "08-31"),
    "end_date not after start_date": ("08-11", "08-11", "08-31", None, None, None, "08-31"),
}


@pytest.mark.parametrize(
    "stream", ["usage_sessions", "account_stats", *s.slow("demo_requests", "agent_stats")]
)
@pytest.mark.parametrize("case", CASES)
def test_a_run_reads_its_range_and_bookmarks_its_end(
    sandbox: Sandbox, stream: str, case: str
) -> None:
    *settings, low, high, reached = CASES[case]
    start, end, bookmark = (text and f"2026-{text}" for text in settings[:3])
    config = s.config_for(
        sandbox, start_date=start, end_date=end, lookback_days=settings[3], window_days=1
    )
    state: Any = bookmark and s.state_at(**{stream: format_timestamp(parse_timestamp(bookmark))})
    output = s.sync(config, state=state, select=(stream,), clock=s.FakeClock(s.NOW))

    def at(text: str) -> datetime:  # statistics begin, and begin again, with a whole day
        return parse_timestamp(f"2026-{text[:5] if stream in STATISTICS else text}")

    assert output.bookmarks == {stream: format_timestamp(at(reached))}
    if low is None:
        assert sandbox.requests == []
        return
    assert output.records[stream]
    asked = s.ranges(sandbox, "demo_usage" if stream == "demo_requests" else "usage")
    assert min(asked)[0] == at(low) - SECOND
    assert max(asked)[1] == min(parse_timestamp(f"2026-{high}") + SECOND, s.NOW)


def test_a_bookmark_in_the_future_is_replaced_window_by_window(sandbox: Sandbox) -> None:
    state = s.state_at(usage_sessions="2026-10-01T00:00:00.000000Z")
    config = s.config_for(sandbox, lookback_days=3, window_days=1)
    output = s.sync(config, state=state, select=("usage_sessions",), clock=s.FakeClock(s.NOW))
    written = [x["bookmarks"]["usage_sessions"]["replication_key_value"] for x in output.states]
    assert {value[5:10] for value in written} == {"10-01", "08-30", "08-31", "09-01"}


def test_running_sessions_are_completed_by_the_next_run(sandbox: Sandbox) -> None:
    first = s.sync(s.config_for(sandbox))
    running = {x["id"] for x in first.records["usage_sessions"] if not x["session_ended"]}
    assert running
    sandbox.account.fixed_now = s.NOW + timedelta(hours=20)
    second = s.sync(s.config_for(sandbox), state=first.state)
    warehouse = s.Warehouse(first, second)
    s.check_events(warehouse, sandbox.account)
    ended = {x["id"] for x in warehouse["usage_sessions"] if x["session_ended"]}
    assert running <= ended


@pytest.mark.parametrize(
    "inclusive", [(True, True), (False, False), *s.slow((True, False), (False, True))], ids=str
)
@pytest.mark.parametrize("whole", [False, True])
def test_nothing_is_lost_at_the_newest_edge_and_nothing_asked_beyond_it(
    inclusive: tuple[bool, bool], *, whole: bool
) -> None:
    """Runs without lookback, seconds apart, while something starts each quarter of a second."""
    clock = s.FakeClock(s.NOW + SECOND * 0.3)
    starts = [s.NOW + n * SECOND / 4 for n in range(-8, 240)]

    def respond(low: datetime, high: datetime) -> s.Row:
        assert high <= clock.now
        found, edges = [], {*itertools.compress((low, high), inclusive)}
        for number, start in enumerate(x for x in starts if x <= clock.now):
            looked_at = start.replace(microsecond=0) if whole else start
            if low < looked_at < high or looked_at in edges:
                item = {"session_id": number, "email": "a", "duration": 1}
                found.append(item | dict.fromkeys(("start_date", "start_ts"), str(start)))
        return {"sessions": found, "total_canceled_requests": len(found)}

    warehouse = s.Warehouse()
    with s.ScriptedSandbox(usage=respond, demo_usage=respond).running() as sandbox:
        config = s.config_for(sandbox, start_date=str(s.NOW - 2 * SECOND))
        config |= {"end_date": None, "lookback_days": 0}
        for seconds in (0.3, 0.9, 1.2, 2.7, 30, 58.6):
            clock.now = s.NOW + seconds * SECOND
            warehouse.load(s.sync(config, state=warehouse.state, clock=clock))
    last = format_timestamp(s.NOW + 57 * SECOND)
    expected = {format_timestamp(start) for start in starts}
    for stream, field in (("usage_sessions", "start_date"), ("demo_requests", "start_ts")):
        found = [row[field] for row in warehouse[stream] if row[field] < last]
        assert sorted(found) == sorted(start for start in expected if start < last)
    (row,) = warehouse["account_stats"]
    assert row["meetings"] == len(warehouse["usage_sessions"])


@pytest.mark.parametrize(
    ("period", "requests"), [("day", 23), pytest.param("hour", 391, marks=pytest.mark.slow)]
)
def test_a_daily_run_requests_no_more_than_the_lookback_needs(
    sandbox: Sandbox, period: str, requests: int
) -> None:
    config = s.config_for(sandbox, stats_period=period, end_date=None)
    first = s.sync(config, clock=s.FakeClock(s.NOW))
    sandbox.requests.clear()
    s.sync(config, state=first.state, clock=s.FakeClock(s.NOW + timedelta(days=1)))
    # docs/running.md and docs/performance.md state these numbers.
    assert len(sandbox.requests) == requests


def test_full_table_replication_ignores_the_bookmark(sandbox: Sandbox) -> None:
    state = s.state_at(usage_sessions="2026-08-31T00:00:00.000000Z")
    with s.captured() as lines:
        tap = s.selecting(("usage_sessions",), s.config_for(sandbox), state)
        tap.streams["usage_sessions"].forced_replication_method = "FULL_TABLE"
        tap.sync_all()
    output = s.Output(lines)
    expected = s.expected_sessions(sandbox.account)
    assert s.canonical(output.records["usage_sessions"]) == s.canonical(expected)
    # A part of the history replaces nothing.
    assert "ACTIVATE_VERSION" not in {kind for kind, _ in output.types}


@pytest.mark.parametrize("minutes", [-30, 30])
def test_a_clock_that_differs_from_the_servers_loses_no_rows(
    sandbox: Sandbox, minutes: int
) -> None:
    config, warehouse = s.config_for(sandbox, end_date=None), s.Warehouse()
    for hours in (0, 6, 12, 18, 24):
        here = s.NOW + timedelta(hours=hours)
        sandbox.account.fixed_now = here + timedelta(minutes=minutes)
        run: Any = {"select": ("usage_sessions",), "clock": s.FakeClock(here)}
        warehouse.load(output := s.sync(config, state=warehouse.state, **run))
        assert output.bookmarks["usage_sessions"] == format_timestamp(here)
    sandbox.account.fixed_now = s.NOW + timedelta(hours=24, minutes=min(minutes, 0))
    seen = [x for x in warehouse["usage_sessions"] if x["start_date"] <= format_timestamp(here)]
    numbers = {x["session_id"] for x in s.all_sessions(sandbox.account)}
    assert {row["session_id"] for row in seen} >= numbers
