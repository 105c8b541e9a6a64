"""What arrives, and what is requested: whole runs of the tap against the sandbox."""

from __future__ import annotations

import itertools
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.history import read_ahead
from tap_crankwheel.sandbox.server import Behaviour, Sandbox
from tap_crankwheel.windows import Window, parse_timestamp
from tests import support as s

if TYPE_CHECKING:
    from datetime import datetime

STATISTICS = ("account_stats", "agent_stats")


# --- what arrives --------------------------------------------------------------------------------


@pytest.mark.parametrize("select", [s.STREAMS, STATISTICS, STATISTICS[1:]])
def test_everything_arrives_once_in_each_run_of_a_tap(
    sandbox: Sandbox, select: tuple[str, ...]
) -> None:
    tap = s.selecting(select, s.config_for(sandbox, window_days=2), clock=s.FakeClock(s.NOW))
    for seed in (6, 7):
        account = sandbox.account = s.small_account(seed=seed)
        tap.state.pop("bookmarks", None)
        with s.captured() as lines:
            tap.sync_all()
        records, sessions = s.Output(lines).records, s.all_sessions(account)
        if "users" in select:
            s.check_events(records, account)
        for rows in (records[name] for name in STATISTICS if name in select):
            assert sum(row["meetings"] for row in rows) == len(sessions)
            seconds = sum(session["duration"] for session in sessions)
            assert sum(row["total_seconds"] for row in rows) == seconds


@pytest.mark.parametrize("select", ["start", "end", "overlap"])
@pytest.mark.parametrize(
    "inclusive", [(True, True), (False, False), *s.slow((True, False), (False, True))], ids=str
)
def test_everything_arrives_once_however_the_api_selects(
    select: str, inclusive: tuple[bool, bool]
) -> None:
    order = {"start": "start", "end": "reverse", "overlap": "shuffled"}[select]
    behaviour = Behaviour(select=select, inclusive=inclusive, order=order, wrap_users=True)
    with Sandbox(s.small_account(days=8), behaviour).running() as sandbox:
        records = s.sync(s.config_for(sandbox, window_days=1)).records
    s.check_events(records, sandbox.account)


# --- periods -------------------------------------------------------------------------------------

SESSIONS: list[s.Row] = [
    {"email": email, "start_date": start, "duration": seconds}
    for email, start, seconds in (
        ("ann@example.com", "2026-08-30T18:20:00Z", 600),
        ("bob@example.com", "2026-08-30T18:40:00Z", 60),
        ("ann@example.com", "2026-08-31T03:30:00Z", 120),
        ("ann@example.com", "2026-09-01T12:30:00Z", 30),
    )
]


@pytest.mark.parametrize(
    ("unit", "zone", "end", "account", "agents"),
    [
        (
            "hour", "Asia/Kolkata", "2026-08-30T19:00:00Z",
            [("08-30T17:30", "08-30T18:30", 1, 600), ("08-30T18:30", "08-30T19:30", 1, 60)],
            [("08-30T17:30", "ann", 1, 600), ("08-30T18:30", "bob", 1, 60)],
        ),
        (
            "month", "Pacific/Auckland", "2026-09-01T13:00:00Z",
            [("07-31T12:00", "08-31T12:00", 3, 780), ("08-31T12:00", "09-30T11:00", 1, 30)],
            [("07-31T12:00", "ann", 2, 720), ("07-31T12:00", "bob", 1, 60),
             ("08-31T12:00", "ann", 1, 30)],
        ),
    ],
    ids=["hour", "month"],
)  # fmt: skip
def test_statistics_by_period_and_zone(
    unit: str, zone: str, end: str, account: list[Any], agents: list[Any]
) -> None:
    def usage(low: datetime, high: datetime) -> s.Row:
        found = [x for x in SESSIONS if low <= parse_timestamp(x["start_date"]) <= high]
        return {"stats": {"of": f"{low:%H:%M:%S}"}, "sessions": found}

    demo_usage = {"total_canceled_requests": 4, "sessions": []}
    with s.ScriptedSandbox(usage=usage, demo_usage=demo_usage).running() as sandbox:
        dates = {"start_date": "2026-08-30T18:00:00Z", "end_date": end}
        config = s.config_for(sandbox, stats_period=unit, timezone=zone, **dates)
        records = s.sync(config, select=(*STATISTICS, "demo_stats")).records
    rows = [row for name in records for row in records[name]]
    assert {(row["period"], row["timezone"]) for row in rows} == {(unit, zone)}

    def counts(row: s.Row, *more: str) -> tuple[Any, ...]:
        return (row["period_start"][5:16], *more, row["meetings"], row["total_seconds"])

    rows = records["account_stats"]
    assert [counts(row, row["period_end"][5:16]) for row in rows] == account
    assert {row["extra"] for row in rows} == {None}
    assert all(row["stats"]["of"].endswith("9:59") for row in rows)  # a second before the period
    assert [counts(r, r["email"].split("@")[0]) for r in records["agent_stats"]] == agents
    assert {row["total_canceled_requests"] for row in records["demo_stats"]} == {4}


# --- what is requested ---------------------------------------------------------------------------


def asked(sandbox: Sandbox, path: str) -> list[tuple[str, str]]:
    """Return the ranges that a path was asked for, as text without the year."""
    found = sorted(s.ranges(sandbox, path))
    return [(f"{a:%m-%dT%H:%M:%S}", f"{b:%m-%dT%H:%M:%S}") for a, b in found]


def test_a_whole_period_is_requested(sandbox: Sandbox) -> None:
    dates = {"start_date": "2026-08-20T10:00:00Z", "end_date": "2026-08-22T10:00:00Z"}
    output = s.sync(s.config_for(sandbox, **dates), select=("account_stats", "demo_stats"))
    starts = [row["period_start"][:10] for row in output.records["account_stats"]]
    assert starts == ["2026-08-20", "2026-08-21", "2026-08-22"]
    assert asked(sandbox, "usage")[-1] == ("08-21T23:59:59", "08-23T00:00:01")
    # A count has nothing by which to tell what lies in a margin: none is asked for.
    assert asked(sandbox, "demo_usage")[-1] == ("08-22T00:00:00", "08-23T00:00:00")


def test_the_running_period_is_requested_up_to_now(sandbox: Sandbox) -> None:
    config, select = s.config_for(sandbox, start_date="2026-09-01"), ("account_stats", "demo_stats")
    s.sync(config, select=select, clock=s.FakeClock(s.NOW))
    assert asked(sandbox, "usage") == [("08-31T23:59:59", "09-01T15:20:00")]
    assert asked(sandbox, "demo_usage") == [("09-01T00:00:00", "09-01T15:20:00")]


def test_windows_are_requested_with_a_second_on_each_side(sandbox: Sandbox) -> None:
    config = s.config_for(sandbox, start_date="2026-08-20", end_date="2026-08-30T12:00:00.5Z")
    s.sync(config, select=("usage_sessions",))
    assert asked(sandbox, "usage") == [
        ("08-19T23:59:59", "08-27T00:00:01"),
        ("08-26T23:59:59", "08-30T12:00:02"),
    ]


# --- reading ahead -------------------------------------------------------------------------------

DAYS = [s.NOW + timedelta(days=n) for n in range(13)]
WINDOWS = [Window(*days) for days in itertools.pairwise(DAYS)]


@given(st.permutations(range(4)), st.integers(1, 4))
def test_windows_come_and_fail_in_order_whichever_is_ready_first(
    order: list[int], good: int
) -> None:
    ready = [threading.Event() for _ in order]

    def fetch(window: Window) -> Window:
        n = WINDOWS.index(window)
        ready[n].wait(60)
        turn = order.index(n)  # each lets the next one in the drawn order go on
        if turn + 1 < len(order):
            ready[order[turn + 1]].set()
        if n >= good:
            raise CrankWheelError(f"number {n}")
        return window

    ready[order[0]].set()
    ahead = read_ahead(fetch, WINDOWS[:4], 4)
    assert list(itertools.islice(ahead, good)) == [(w, w) for w in WINDOWS[:good]]
    if good < len(order):
        with pytest.raises(CrankWheelError, match=f"number {good}"):
            next(ahead)


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_no_more_than_the_limit_is_under_way_or_waiting(limit: int) -> None:
    lock = threading.Lock()
    held = most = 0

    def fetch(window: Window) -> Window:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return window

    for _ in read_ahead(fetch, WINDOWS, limit):
        with lock:
            held -= 1
    assert most <= limit + 1  # the yielded one aside


def test_requests_are_made_at_the_same_time() -> None:
    meeting = threading.Barrier(4, timeout=60)

    def respond_to_four(*_: datetime) -> s.Row:
        meeting.wait()
        return {"sessions": []}

    with s.ScriptedSandbox(usage=respond_to_four).running() as sandbox:
        dates = {"start_date": "2026-08-20", "end_date": "2026-08-28"}
        config = s.config_for(sandbox, window_days=1, **dates)
        output = s.sync(config, select=("usage_sessions",))
    assert output.bookmarks == {"usage_sessions": "2026-08-28T00:00:00.000000Z"}
