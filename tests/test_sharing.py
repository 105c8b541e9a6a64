"""Streams that share what they request: fewer requests, the same rows, and sums that add up."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.sandbox.server import Behaviour, Sandbox
from tap_crankwheel.tap import TapCrankWheel
from tap_crankwheel.windows import format_timestamp, parse_timestamp
from tests.support import (
    LATER,
    NOW,
    STREAMS,
    FakeClock,
    Output,
    Row,
    ScriptedSandbox,
    Warehouse,
    all_sessions,
    canonical,
    captured,
    command_line,
    config_for,
    expected_sessions,
    ranges,
    small_account,
    state_at,
    sync,
)
from tests.test_events import SELECTS, event

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from singer_sdk import Stream

STATISTICS = ("account_stats", "agent_stats")


def days(*starts: str) -> list[datetime]:
    """Return moments less the second of margin."""
    return [parse_timestamp(start) - timedelta(seconds=1) for start in starts]


def test_all_streams_together_download_each_session_once(sandbox: Sandbox) -> None:
    output = sync(config_for(sandbox), clock=FakeClock(NOW))
    asked = ranges(sandbox, "usage")
    assert len(asked) == len(set(asked)) == 22  # a day each
    assert {end - start for start, end in sorted(asked)[:-1]} == {timedelta(days=1, seconds=2)}
    assert len(sandbox.requests) == 22 + 22 + 4 + 1  # and the counts, demo requests, users
    assert canonical(output.records["usage_sessions"]) == canonical(
        expected_sessions(sandbox.account)
    )


def test_sessions_alone_are_requested_in_windows_of_their_own(sandbox: Sandbox) -> None:
    config = config_for(sandbox, start_date="2026-08-12", end_date="2026-08-26")
    sync(config, select=("usage_sessions", "demo_requests", "users"))
    assert sorted(start for start, _ in ranges(sandbox, "usage")) == days(
        "2026-08-12", "2026-08-19"
    )


def test_a_test_reads_the_latest_window(sandbox: Sandbox, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_for(sandbox, start_date="2026-08-10")))
    command_line("--config", str(config), "--test")
    asked = [start for start, _ in ranges(sandbox, "usage")]
    # Of sessions a week, in which there are some more likely than on a day.
    assert sorted(asked) == days("2026-08-31", "2026-09-01")


@pytest.mark.parametrize("select", [STREAMS, STATISTICS])
def test_a_second_run_of_a_tap_counts_anew(sandbox: Sandbox, select: tuple[str, ...]) -> None:
    tap = TapCrankWheel(config=config_for(sandbox), clock=FakeClock(NOW))
    for name, stream in tap.streams.items():
        stream.selected = name in select
    counted = []
    for seed in (6, 7):
        sandbox.account = small_account(seed=seed)
        tap.state.pop("bookmarks", None)
        with captured() as lines:
            tap.sync_all()
        rows = Output(lines).records["account_stats"]
        assert sum(row["meetings"] for row in rows) == len(all_sessions(sandbox.account))
        counted.append(sum(row["total_seconds"] for row in rows))
    assert counted[0] != counted[1]


@pytest.mark.parametrize("select", [STREAMS, STATISTICS, ("usage_sessions",)])
@pytest.mark.parametrize("number", [{"session_id": 7}, {}], ids=["numbered", "without id"])
@pytest.mark.parametrize("unit", ["hour", "day"])
def test_a_running_session_that_grows_from_answer_to_answer_is_one(
    select: tuple[str, ...], number: Row, unit: str
) -> None:
    seconds = itertools.count(50_000)
    start = "2026-08-31T23:00:00Z"

    def usage(low: datetime, high: datetime) -> Row:
        lasts = low <= NOW and high >= parse_timestamp(start)  # selected by overlap
        session = {"email": "ann", "start_date": start, "session_ended": False, **number}
        return {"sessions": [{**session, "duration": next(seconds)}] if lasts else []}

    with ScriptedSandbox(usage=usage, demo_usage={"sessions": []}).running() as sandbox:
        config = config_for(sandbox, start_date="2026-08-30", stats_period=unit, window_days=1)
        del config["end_date"]
        records = sync(config, select=select, clock=FakeClock(NOW)).records
    assert len(records["usage_sessions"]) == ("usage_sessions" in select)
    for stream in {*STATISTICS} & {*select}:
        assert sum(row["meetings"] for row in records[stream]) == 1
        assert 50_000 <= sum(row["total_seconds"] for row in records[stream]) < 50_100


@pytest.mark.parametrize(("sessions", "waits"), [(True, False), (False, True)])
def test_a_period_waits_for_later_answers_only_where_there_are_some(
    sandbox: Sandbox,
    sessions: bool,  # noqa: FBT001
    waits: bool,  # noqa: FBT001
) -> None:
    with captured():
        tap = TapCrankWheel(config=config_for(sandbox), clock=FakeClock(NOW))
        if sessions:
            tap.streams["usage_sessions"].sync()
        next(iter(tap.streams["account_stats"].get_records(None)))
    requested = len(ranges(sandbox, "demo_usage"))
    assert requested >= 8 if waits else requested <= 4


def test_what_no_whole_period_covers_is_requested_besides(sandbox: Sandbox) -> None:
    config = config_for(sandbox, start_date="2026-08-20T06:00:00Z", end_date="2026-08-31T18:00:00Z")
    sync(config, select=("usage_sessions", "agent_stats"))
    asked = [start for start, _ in ranges(sandbox, "usage")]
    own = days("2026-08-20T06:00:00Z", "2026-08-31")
    cut = days("2026-08-20", "2026-08-31")  # the statistics count these periods whole
    whole = days(*(f"2026-08-{day}" for day in range(21, 31)))
    assert sorted(asked) == sorted([*own, *cut, *whole])


def test_periods_that_save_no_request_are_not_shared(sandbox: Sandbox) -> None:
    config = config_for(sandbox, start_date="2026-08-30T06:00:00Z", end_date="2026-09-01T12:00:00Z")
    sync(config, select=("usage_sessions", "agent_stats"))
    asked = [start for start, _ in ranges(sandbox, "usage")]
    expected = ("2026-08-30T06:00:00Z", "2026-08-30", "2026-08-31", "2026-09-01")
    assert sorted(asked) == sorted(days(*expected))


def test_bookmarks_that_differ_by_years_are_each_followed(sandbox: Sandbox) -> None:
    state = state_at(
        usage_sessions="2026-08-31T12:00:00.000000Z",
        agent_stats="2026-08-29T00:00:00.000000Z",
        account_stats="2024-08-29T00:00:00.000000Z",
    )
    config = config_for(sandbox, lookback_days=1, start_date="2026-08-12")
    output = sync(config, state=state, clock=FakeClock(NOW))
    asked = [start for start, _ in ranges(sandbox, "usage")]
    expected = ("2026-08-30T12:00:00Z", "2026-08-31", "2026-09-01")
    assert sorted(asked[:3]) == days(*expected)
    assert sorted(asked[3:]) == days(*(f"2026-08-{day}" for day in range(12, 31)))
    assert min(row["period_start"][:10] for row in output.records["agent_stats"]) == "2026-08-28"
    assert output.bookmarks["usage_sessions"] == format_timestamp(NOW)


def test_where_a_period_is_refused_sessions_come_in_halves(sandbox: Sandbox) -> None:
    sandbox.behaviour = Behaviour(range_limit=timedelta(hours=13))
    lines: list[str] = []
    with pytest.raises(CrankWheelError, match="Set stats_period to a shorter period"):
        sync(
            config_for(sandbox),
            select=("usage_sessions", "agent_stats"),
            lines=lines,
            clock=FakeClock(NOW),
        )
    assert canonical(Output(lines).records["usage_sessions"]) == canonical(
        expected_sessions(sandbox.account)
    )


class OtherOrder(TapCrankWheel):
    @property
    def streams(self) -> dict[str, Stream]:
        return dict(reversed(super().streams.items()))


def test_the_order_of_streams_changes_no_row(sandbox: Sandbox) -> None:
    config = config_for(sandbox, start_date="2026-08-20T06:00:00Z", end_date="2026-08-31T18:00:00Z")
    whole = sync(config).records
    with captured() as lines:
        OtherOrder(config=config, clock=FakeClock()).sync_all()
    other = Output(lines).records
    assert {name: canonical(rows) for name, rows in other.items()} == {
        name: canonical(rows) for name, rows in whole.items()
    }


@pytest.fixture(scope="module")
def served() -> Iterator[Sandbox]:
    with Sandbox(small_account(days=40)).running() as sandbox:
        yield sandbox


moments = st.integers(0, 41 * 24).map(lambda hours: format_timestamp(NOW - timedelta(hours=hours)))


@settings(max_examples=40)
@given(
    bookmarks=st.dictionaries(
        st.sampled_from(["usage_sessions", "account_stats", "agent_stats"]), moments, max_size=3
    ),
    start=moments,
    end=moments | st.none(),
    unit=st.sampled_from(["day", "week", "month"]),
    window_days=st.integers(1, 9),
    statistics=st.sampled_from([STATISTICS, STATISTICS[:1], STATISTICS[1:]]),
)
def test_together_streams_emit_the_same_with_no_more_requests(  # noqa: PLR0913, PLR0917
    served: Sandbox,
    bookmarks: dict[str, str],
    start: str,
    end: str | None,
    unit: str,
    window_days: int,
    statistics: tuple[str, ...],
) -> None:
    config = config_for(
        served, start_date=start, stats_period=unit, window_days=window_days, lookback_days=1
    )
    del config["end_date"]
    if end and end > start:
        config["end_date"] = end
    runs = []
    for select in (("usage_sessions", *statistics), ("usage_sessions",), statistics):
        served.requests.clear()
        output = sync(config, state=state_at(**bookmarks), select=select, clock=FakeClock(NOW))
        runs.append((output, len(served.requests)))
    (together, requests), (sessions, own), (stats, theirs) = runs
    assert requests <= own + theirs
    for apart, streams in ((sessions, ("usage_sessions",)), (stats, statistics)):
        for stream in streams:
            assert canonical(together.records[stream]) == canonical(apart.records[stream])
            if apart.states:
                assert together.bookmarks.get(stream) == apart.bookmarks.get(stream)


# Whatever the API selects by, and whatever the periods, the statistics count the sessions.


def lasting(hours: int) -> list[Row]:
    """Return sessions of minutes, and some of hours or days, over ten days before now."""
    rng = random.Random(13)  # noqa: S311
    items = []
    for n in range(100):
        start = NOW - timedelta(days=10) + timedelta(seconds=rng.randrange(10 * 86_400))
        end = start + timedelta(minutes=rng.choice((0, 5, 30, 59, 61, 400, hours * 60)))
        times = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (start, end))
        seconds = (end - start).total_seconds()
        items.append(event(*times, session_id=n, email=f"agent{n % 3}", duration=seconds))
    return items


def serving(items: list[Row], by: str) -> AbstractContextManager[Sandbox]:
    def answer(start: datetime, end: datetime) -> Any:
        low, high = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (start, end))
        return {"sessions": [item for item in items if SELECTS[by](item, low, high)]}

    return ScriptedSandbox(usage=answer, demo_usage={"sessions": []}).running()


def check_sums(warehouse: Warehouse, since: str) -> int:
    """Check that each period counts the sessions that start in it; return how many do in all."""
    counted = 0
    for period in warehouse["account_stats"]:
        start, end = period["period_start"], period["period_end"]
        if start < since:  # the period also counts what lies before start_date
            continue
        sessions = [r for r in warehouse["usage_sessions"] if start <= r["start_date"] < end]
        agents = [r for r in warehouse["agent_stats"] if r["period_start"] == start]
        assert {r["email"]: r["meetings"] for r in agents} == Counter(r["email"] for r in sessions)
        assert period["meetings"] == len(sessions)
        seconds = sum(row["duration"] for row in sessions)
        assert period["total_seconds"] == sum(row["total_seconds"] for row in agents) == seconds
        counted += len(sessions)
    return counted


@pytest.mark.parametrize("by", SELECTS)
@pytest.mark.parametrize(
    ("unit", "zone", "counted"),
    [
        ("hour", "UTC", 25),
        ("hour", "Asia/Kolkata", 25),
        ("day", "UTC", 25),
        ("day", "Pacific/Auckland", 25),
        ("week", "Europe/Berlin", 10),
        ("month", "America/New_York", 1),
    ],
)
@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
def test_the_statistics_add_up(
    by: str,
    unit: str,
    zone: str,
    counted: int,
    together: bool,  # noqa: FBT001
) -> None:
    start = "2026-08-28T06:30:00.000000Z"
    warehouse = Warehouse()
    selections = [STREAMS] if together else [STATISTICS, ("usage_sessions",)]
    with serving(lasting(hours=40), by) as sandbox:
        config = config_for(
            sandbox, start_date=start, stats_period=unit, timezone=zone, lookback_days=2
        )
        del config["end_date"]
        for select in selections:
            state: Row = {}
            for hours in (20, 0):
                clock = FakeClock(NOW - timedelta(hours=hours))
                output = sync(config, state=state, select=select, clock=clock)
                warehouse.load(output)
                state = output.state
    assert check_sums(warehouse, since=start) >= counted


@pytest.mark.parametrize("by", SELECTS)
@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
def test_sessions_that_run_for_days_count_in_a_backfill(
    by: str,
    together: bool,  # noqa: FBT001
) -> None:
    warehouse = Warehouse()
    with serving(lasting(hours=24 * (20 if together else 6)), by) as sandbox:
        config = config_for(sandbox, end_date=LATER.isoformat())
        for select in [STREAMS] if together else [STATISTICS, ("usage_sessions",)]:
            warehouse.load(sync(config, select=select))
    assert check_sums(warehouse, since=config["start_date"]) == 100
