"""Statistics: counted from the sessions of a period, whatever the API selects by."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tap_crankwheel.statistics import grand_total, totals
from tap_crankwheel.windows import parse_timestamp
from tests import payloads as p
from tests import support as s
from tests.test_events import SELECTS, event, serving

if TYPE_CHECKING:
    from tap_crankwheel.sandbox.server import Sandbox

STATISTICS = ("account_stats", "agent_stats")
COUNTED = (*STATISTICS, "usage_sessions")


def test_sessions_add_up_by_agent_and_in_all() -> None:
    agents = totals([("b", 1), ("a", 2.5), ("b", 0), (None, 30)])
    assert agents == {
        "a": {"meetings": 1, "total_seconds": 2.5},
        "b": {"meetings": 2, "total_seconds": 1},
        None: {"meetings": 1, "total_seconds": 30},
    }
    assert grand_total(agents) == {"meetings": 4, "total_seconds": 33.5}
    assert grand_total({}) == {"meetings": 0, "total_seconds": 0}
    unknown = totals([("a", None), ("a", 30), ("b", 60)])  # a sum with an unknown part is null
    assert unknown["a"] == {"meetings": 2, "total_seconds": None}
    assert grand_total(unknown) == {"meetings": 3, "total_seconds": None}


def day_of(usage: object, demo_usage: object = None) -> dict[str, list[s.Row]]:
    """Return the statistics of 30 August, of which these are the responses."""
    with s.ScriptedSandbox(usage=usage, demo_usage=demo_usage).running() as sandbox:
        config = s.config_for(sandbox, start_date="2026-08-30", end_date="2026-08-31")
        return s.sync(config, select=(*STATISTICS, *(["demo_stats"] if demo_usage else []))).records


def test_what_starts_in_the_period_is_counted() -> None:
    def session(email: str | None, start: str, **more: object) -> s.Row:
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
    (account,) = records["account_stats"]
    assert (account["meetings"], account["total_seconds"]) == (5, None)
    assert account["stats"] == {"any": 1}
    assert account["extra"] == {"currency": "EUR", "meetings": 7}


@pytest.mark.parametrize(
    ("email", "number"),
    [*itertools.product(("", " \t"), (1, None)), (None, 1)],  # without both, the run ends
)
def test_a_session_with_an_empty_email_counts_for_the_account(
    email: str | None, number: int | None
) -> None:
    session = {"email": email, "start_date": "2026-08-30T10:00:00Z", "session_id": number}
    records = day_of({"sessions": [session]})
    assert [row["meetings"] for row in records["account_stats"]] == [1]
    assert records["agent_stats"] == []
    assert [row["email"] for row in p.sessions(session)] == [email]


def test_sessions_that_share_a_number_are_both_counted() -> None:
    sessions = [
        {"session_id": 1, "email": "a", "start_date": f"2026-08-30T{hour}:00:00Z", "duration": 5}
        for hour in (10, 11)
    ]
    (row,) = day_of({"sessions": sessions})["account_stats"]
    assert (row["meetings"], row["total_seconds"]) == (2, 10)


def test_what_lies_beside_a_count_is_unknown_if_it_was_read_in_halves() -> None:
    with s.ScriptedSandbox(
        demo_usage={"sessions": [], "total_canceled_requests": 1, "currency": "EUR"}
    ).running() as sandbox:
        sandbox.behaviour.range_limit = timedelta(hours=12)
        config = s.config_for(sandbox, start_date="2026-08-30", end_date="2026-08-31")
        (row,) = s.sync(config, select=("demo_stats",)).records["demo_stats"]
    assert (row["total_canceled_requests"], row["extra"]) == (2, None)


def test_a_half_without_a_count_leaves_the_count_of_its_period_unknown() -> None:
    def demo_usage(start: datetime, _: datetime) -> s.Row:
        unknown = (start.day, start.hour) == (30, 12)
        return {"sessions": [], **({} if unknown else {"total_canceled_requests": 3})}

    with s.ScriptedSandbox(demo_usage=demo_usage).running() as sandbox:
        sandbox.behaviour.range_limit = timedelta(hours=12)
        config = s.config_for(sandbox, start_date="2026-08-30", end_date="2026-09-01")
        rows = s.sync(config, select=("demo_stats",)).records["demo_stats"]
    assert [row["total_canceled_requests"] for row in rows] == [None, 6]


# Those that say that there is more are an error.
names = (p.texts | st.sampled_from(["stats", "total_canceled_requests"])).filter(
    lambda name: name not in {"sessions", "has_more", "next"}
)


@settings(max_examples=25)  # each is a run
@given(
    st.dictionaries(names, p.json_values, max_size=3),
    st.lists(p.objects("usage_sessions", start_date=p.starts, email=p.emails), max_size=3),
)
def test_any_statistics_are_emitted_whole(envelope: s.Row, items: list[s.Row]) -> None:
    records = day_of({**envelope, "sessions": items}, {**envelope, "sessions": []})
    for stream, sent in (("account_stats", "stats"), ("demo_stats", "total_canceled_requests")):
        (row,) = records[stream]
        p.assert_valid(stream, row)
        p.assert_kept(envelope, row, made=tuple(name for name in row if name != sent))
    for agent in records["agent_stats"]:
        p.assert_valid("agent_stats", agent)
    meetings = sum(agent["meetings"] for agent in records["agent_stats"])
    assert records["account_stats"][0]["meetings"] == meetings


def test_the_second_stream_requests_nothing_that_the_first_one_did(sandbox: Sandbox) -> None:
    s.sync(s.config_for(sandbox), select=STATISTICS)
    asked = s.ranges(sandbox, "usage")
    assert len(asked) == len(set(asked)) == 22
    assert s.ranges(sandbox, "demo_usage") == []


def test_bookmarks_that_differ_are_each_followed(sandbox: Sandbox) -> None:
    state = s.state_at(
        agent_stats="2026-08-20T00:00:00.000000Z", account_stats="2026-08-29T00:00:00.000000Z"
    )
    config = s.config_for(sandbox, lookback_days=1, start_date="2026-08-12")
    records = s.sync(config, state=state, select=STATISTICS, clock=s.FakeClock(s.NOW)).records
    assert min(row["period_start"][:10] for row in records["account_stats"]) == "2026-08-28"
    assert min(row["period_start"][:10] for row in records["agent_stats"]) == "2026-08-19"
    alone = s.sync(config, state=state, select=("agent_stats",), clock=s.FakeClock(s.NOW)).records
    assert records["agent_stats"] == alone["agent_stats"]


@pytest.mark.parametrize("number", [{"session_id": 7}, {}], ids=["numbered", "without id"])
@pytest.mark.parametrize("unit", ["hour", "day"])
def test_a_running_session_that_grows_from_response_to_response_is_one(
    number: s.Row, unit: str
) -> None:
    seconds = itertools.count(50_000)
    start = "2026-08-31T23:00:00Z"

    def usage(low: datetime, high: datetime) -> s.Row:
        lasts = low <= s.NOW and high >= parse_timestamp(start)  # selected by overlap
        session = {"email": "ann", "start_date": start, "session_ended": False, **number}
        return {"sessions": [{**session, "duration": next(seconds)}] if lasts else []}

    with s.ScriptedSandbox(usage=usage, demo_usage={"sessions": []}).running() as sandbox:
        dates = {"start_date": "2026-08-30", "end_date": None}
        config = s.config_for(sandbox, stats_period=unit, window_days=1, **dates)
        warehouse = s.Warehouse(s.sync(config, clock=s.FakeClock(s.NOW)))
    assert len(warehouse["usage_sessions"]) == 1
    for stream in STATISTICS:
        assert sum(row["meetings"] for row in warehouse[stream]) == 1
        assert 50_000 <= sum(row["total_seconds"] for row in warehouse[stream]) < 50_100


# Whatever the API selects by, and whatever the periods, the statistics count the sessions.


def lasting(hours: int) -> list[s.Row]:
    """Return sessions of minutes, and some of hours or days, over ten days before now."""
    rng = random.Random(13)  # noqa: S311
    items = []
    for n in range(100):
        start = s.NOW - timedelta(days=10) + timedelta(seconds=rng.randrange(10 * 86_400))
        end = start + timedelta(minutes=rng.choice((0, 5, 30, 59, 61, 400, hours * 60)))
        times = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (start, end))
        seconds = (end - start).total_seconds()
        items.append(event(*times, session_id=n, email=f"agent{n % 3}", duration=seconds))
    return items


def check_sums(warehouse: s.Warehouse, since: str) -> int:
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
        pytest.param("hour", "Asia/Kolkata", 25, marks=pytest.mark.slow),
        ("day", "UTC", 25),
        ("day", "Pacific/Auckland", 25),
        ("week", "Europe/Berlin", 10),
        ("month", "America/New_York", 1),
    ],
)
def test_the_statistics_add_up(by: str, unit: str, zone: str, counted: int) -> None:
    start, warehouse = "2026-08-28T06:30:00.000000Z", s.Warehouse()
    settings = {"stats_period": unit, "timezone": zone, "lookback_days": 2}
    with serving(lasting(hours=40), SELECTS[by]) as sandbox:
        config = s.config_for(sandbox, start_date=start, end_date=None, **settings)
        for hours in (20, 0):
            clock = s.FakeClock(s.NOW - timedelta(hours=hours))
            warehouse.load(s.sync(config, state=warehouse.state, select=COUNTED, clock=clock))
    assert check_sums(warehouse, since=start) >= counted


@pytest.mark.parametrize("by", ["start", "overlap", *s.slow("end", "day", "minute")])
def test_sessions_that_run_for_days_count_in_a_backfill(by: str) -> None:
    with serving(lasting(hours=24 * 6), SELECTS[by]) as sandbox:
        config = s.config_for(sandbox, end_date=s.LATER.isoformat())
        warehouse = s.Warehouse(s.sync(config, select=COUNTED))
    assert check_sums(warehouse, since=config["start_date"]) == 100
