"""Statistics: counted from the sessions of a period, whatever the API selects by."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_crankwheel.statistics import grand_total, totals
from tap_crankwheel.tap import TapCrankWheel
from tap_crankwheel.windows import parse_timestamp
from tests.payloads import (
    Row,
    assert_kept,
    assert_valid,
    emails,
    json_values,
    objects,
    starts,
    texts,
)
from tests.support import (
    LATER,
    NOW,
    STREAMS,
    FakeClock,
    Output,
    ScriptedSandbox,
    Warehouse,
    all_sessions,
    captured,
    config_for,
    ranges,
    small_account,
    state_at,
    sync,
)
from tests.test_events import SELECTS, event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tap_crankwheel.sandbox.server import Sandbox

STATISTICS = ("account_stats", "agent_stats")


def test_sessions_add_up_by_agent_and_in_all() -> None:
    agents = totals([("b", 1), ("a", 2.5), ("b", 0), (None, 30)])
    assert agents == {
        "a": {"meetings": 1, "total_seconds": 2.5},
        "b": {"meetings": 2, "total_seconds": 1},
        None: {"meetings": 1, "total_seconds": 30},
    }
    assert grand_total(agents) == {"meetings": 4, "total_seconds": 33.5}
    assert grand_total({}) == {"meetings": 0, "total_seconds": 0}


def test_a_sum_with_an_unknown_part_is_null() -> None:
    agents = totals([("a", None), ("a", 30), ("b", 60)])
    assert agents["a"] == {"meetings": 2, "total_seconds": None}
    assert agents["b"]["total_seconds"] == 60
    assert grand_total(agents) == {"meetings": 3, "total_seconds": None}


def day_of(usage: object) -> dict[str, list[Row]]:
    """Return the statistics of 30 August, of which `usage` is the response."""
    with ScriptedSandbox(usage=usage).running() as sandbox:
        config = config_for(sandbox, start_date="2026-08-30", end_date="2026-08-31")
        return sync(config, select=STATISTICS).records


def test_what_starts_in_the_period_is_counted() -> None:
    def session(email: str | None, start: str, **more: object) -> Row:
        return {"session_id": next(numbers), "email": email, "start_date": start, **more}

    numbers = itertools.count()
    sessions = [
        session("b", "2026-08-30T00:00:00Z", duration=1),
        session("a", "2026-08-30T23:59:59.999999Z", duration=2.5),
        session("b", "2026-08-30T10:00:00Z", session_ended=False),
        session("c", "2026-08-30T10:00:00Z", duration="00:05:00"),
        session(None, "2026-08-30T10:00:00Z", duration=9),
        session("b", "2026-08-29T23:59:59.999999Z", duration=100),
        session("d", "2026-08-31T00:00:00Z", duration=100),
    ]
    usage = {"stats": {"any": 1}, "currency": "EUR", "meetings": 7, "sessions": 2 * sessions}
    records = day_of(usage)
    agents = [(a["email"], a["meetings"], a["total_seconds"]) for a in records["agent_stats"]]
    assert agents == [("a", 1, 2.5), ("b", 2, 1), ("c", 1, None)]
    assert records["account_stats"] == [
        {
            "period": "day",
            "timezone": "UTC",
            "period_start": "2026-08-30T00:00:00.000000Z",
            "period_end": "2026-08-31T00:00:00.000000Z",
            "meetings": 5,
            "total_seconds": None,
            "stats": {"any": 1},
            "extra": {"currency": "EUR", "meetings": 7},
        }
    ]


@given(
    st.dictionaries(
        # The last two say that there is more, which is an error.
        (texts | st.just("stats")).filter(lambda n: n not in {"sessions", "has_more", "next"}),
        json_values,
        max_size=3,
    ),
    st.lists(objects("usage_sessions", start_date=starts, email=emails), max_size=3),
)
def test_any_statistics_are_emitted_whole(envelope: Row, items: list[Row]) -> None:
    records = day_of({**envelope, "sessions": items})
    (account,) = records["account_stats"]
    assert_valid("account_stats", account)
    assert_kept(envelope, account, made=tuple(name for name in account if name != "stats"))
    for agent in records["agent_stats"]:
        assert_valid("agent_stats", agent)
    assert account["meetings"] == sum(agent["meetings"] for agent in records["agent_stats"])


@given(st.dictionaries(texts | st.just("total_canceled_requests"), json_values, max_size=3))
def test_any_count_of_cancelled_requests_is_emitted_whole(envelope: Row) -> None:
    document = {k: v for k, v in envelope.items() if k not in {"has_more", "next"}}
    with ScriptedSandbox(demo_usage={**document, "sessions": []}).running() as sandbox:
        config = config_for(sandbox, start_date="2026-08-30", end_date="2026-08-31")
        (row,) = sync(config, select=("demo_stats",)).records["demo_stats"]
    document.pop("sessions", None)
    assert_valid("demo_stats", row)
    assert_kept(document, row, made=tuple(n for n in row if n != "total_canceled_requests"))


def test_the_second_stream_requests_nothing_that_the_first_one_did(sandbox: Sandbox) -> None:
    sync(config_for(sandbox), select=STATISTICS)
    asked = ranges(sandbox, "usage")
    assert len(asked) == len(set(asked)) == 22
    assert ranges(sandbox, "demo_usage") == []


def test_bookmarks_that_differ_are_each_followed(sandbox: Sandbox) -> None:
    state = state_at(
        agent_stats="2026-08-20T00:00:00.000000Z", account_stats="2026-08-29T00:00:00.000000Z"
    )
    config = config_for(sandbox, lookback_days=1, start_date="2026-08-12")
    records = sync(config, state=state, select=STATISTICS, clock=FakeClock(NOW)).records
    assert min(row["period_start"][:10] for row in records["account_stats"]) == "2026-08-28"
    assert min(row["period_start"][:10] for row in records["agent_stats"]) == "2026-08-19"
    alone = sync(config, state=state, select=("agent_stats",), clock=FakeClock(NOW)).records
    assert records["agent_stats"] == alone["agent_stats"]


@pytest.mark.parametrize("select", [STREAMS, STATISTICS, STATISTICS[1:]])
def test_a_second_run_of_a_tap_counts_anew(sandbox: Sandbox, select: tuple[str, ...]) -> None:
    tap = TapCrankWheel(config=config_for(sandbox), clock=FakeClock(NOW))
    for name, stream in tap.streams.items():
        stream.selected = name in select
    for seed in (6, 7):
        sandbox.account = small_account(seed=seed)
        tap.state.pop("bookmarks", None)
        with captured() as lines:
            tap.sync_all()
        rows = Output(lines).records["agent_stats"]
        assert sum(row["meetings"] for row in rows) == len(all_sessions(sandbox.account))


@pytest.mark.parametrize("number", [{"session_id": 7}, {}], ids=["numbered", "without id"])
@pytest.mark.parametrize("unit", ["hour", "day"])
def test_a_running_session_that_grows_from_response_to_response_is_one(
    number: Row, unit: str
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
        warehouse = Warehouse(sync(config, clock=FakeClock(NOW)))
    assert len(warehouse["usage_sessions"]) == 1
    for stream in STATISTICS:
        assert sum(row["meetings"] for row in warehouse[stream]) == 1
        assert 50_000 <= sum(row["total_seconds"] for row in warehouse[stream]) < 50_100


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


@contextmanager
def serving(items: list[Row], by: str) -> Iterator[Sandbox]:
    def answer(start: datetime, end: datetime) -> Any:
        low, high = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (start, end))
        return {"sessions": [item for item in items if SELECTS[by](item, low, high)]}

    with ScriptedSandbox(usage=answer, demo_usage={"sessions": []}).running() as sandbox:
        yield sandbox


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
        ("hour", "Asia/Kolkata", 25),
        ("day", "UTC", 25),
        ("day", "Pacific/Auckland", 25),
        ("week", "Europe/Berlin", 10),
        ("month", "America/New_York", 1),
    ],
)
def test_the_statistics_add_up(by: str, unit: str, zone: str, counted: int) -> None:
    start = "2026-08-28T06:30:00.000000Z"
    warehouse, state = Warehouse(), None
    with serving(lasting(hours=40), by) as sandbox:
        config = config_for(
            sandbox, start_date=start, stats_period=unit, timezone=zone, lookback_days=2
        )
        del config["end_date"]
        for hours in (20, 0):
            output = sync(config, state=state, clock=FakeClock(NOW - timedelta(hours=hours)))
            warehouse.load(output)
            state = output.state
    assert check_sums(warehouse, since=start) >= counted


@pytest.mark.parametrize("by", SELECTS)
def test_sessions_that_run_for_days_count_in_a_backfill(by: str) -> None:
    with serving(lasting(hours=24 * 6), by) as sandbox:
        config = config_for(sandbox, end_date=LATER.isoformat())
        warehouse = Warehouse(sync(config))
    assert check_sums(warehouse, since=config["start_date"]) == 100
