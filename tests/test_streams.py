"""What arrives, and what is requested: whole runs of the tap against the sandbox."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tap_crankwheel.sandbox.server import Behaviour, Sandbox
from tap_crankwheel.tap import TapCrankWheel
from tap_crankwheel.windows import parse_timestamp
from tests.support import (
    NOW,
    FakeClock,
    Output,
    Row,
    ScriptedSandbox,
    all_sessions,
    canonical,
    captured,
    config_for,
    expected_requests,
    expected_sessions,
    expected_users,
    ranges,
    small_account,
    sync,
)


def check_everything(output: Output, sandbox: Sandbox) -> None:
    """Check that a run emitted the account: nothing lost, doubled or invented."""
    account, records = sandbox.account, output.records
    assert canonical(records["usage_sessions"]) == canonical(expected_sessions(account))
    assert canonical(records["demo_requests"], "id") == canonical(expected_requests(account), "id")
    ids = Counter(row["id"] for row in records["demo_requests"])
    assert set(ids.values()) == {1}
    assert canonical(records["users"]) == canonical(expected_users(account))
    sessions = all_sessions(account)
    for stream in ("account_stats", "agent_stats"):
        assert sum(row["meetings"] for row in records[stream]) == len(sessions)
        assert sum(row["total_seconds"] for row in records[stream]) == sum(
            session["duration"] for session in sessions
        )


def test_everything_arrives_once(sandbox: Sandbox) -> None:
    check_everything(sync(config_for(sandbox)), sandbox)


@pytest.mark.parametrize("select", ["start", "end", "overlap"])
@pytest.mark.parametrize("inclusive", list(itertools.product([True, False], repeat=2)), ids=str)
@pytest.mark.parametrize("order", ["start", "reverse", "shuffled"])
def test_everything_arrives_once_however_the_api_selects(
    select: str,
    inclusive: tuple[bool, bool],
    order: str,
) -> None:
    behaviour = Behaviour(select=select, inclusive=inclusive, order=order, wrap_users=True)
    with Sandbox(small_account(days=8), behaviour).running() as sandbox:
        output = sync(config_for(sandbox, window_days=1))
    records, account = output.records, sandbox.account
    assert canonical(records["usage_sessions"]) == canonical(expected_sessions(account))
    assert canonical(records["demo_requests"], "id") == canonical(expected_requests(account), "id")
    assert len({row["id"] for row in records["demo_requests"]}) == len(records["demo_requests"])
    assert canonical(records["users"]) == canonical(expected_users(account))


SESSIONS: list[Row] = [
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
            "day", "America/New_York", "2026-09-01T13:00:00Z",
            [
                ("08-30T04:00", "08-31T04:00", 3, 780),
                ("08-31T04:00", "09-01T04:00", 0, 0),
                ("09-01T04:00", "09-02T04:00", 1, 30),
            ],
            [("08-30T04:00", "ann", 2, 720), ("08-30T04:00", "bob", 1, 60),
             ("09-01T04:00", "ann", 1, 30)],
        ),
        (
            "week", "Europe/Berlin", "2026-09-01T13:00:00Z",
            [("08-23T22:00", "08-30T22:00", 2, 660), ("08-30T22:00", "09-06T22:00", 2, 150)],
            [("08-23T22:00", "ann", 1, 600), ("08-23T22:00", "bob", 1, 60),
             ("08-30T22:00", "ann", 2, 150)],
        ),
        (
            "month", "Pacific/Auckland", "2026-09-01T13:00:00Z",
            [("07-31T12:00", "08-31T12:00", 3, 780), ("08-31T12:00", "09-30T11:00", 1, 30)],
            [("07-31T12:00", "ann", 2, 720), ("07-31T12:00", "bob", 1, 60),
             ("08-31T12:00", "ann", 1, 30)],
        ),
    ],
    ids=["hour", "day", "week", "month"],
)  # fmt: skip
def test_statistics_by_period_and_zone(
    unit: str,
    zone: str,
    end: str,
    account: list[Any],
    agents: list[Any],
) -> None:
    def usage(low: datetime, high: datetime) -> Row:
        return {
            "stats": {"of": f"{low:%H:%M:%S}"},
            "sessions": [s for s in SESSIONS if low <= parse_timestamp(s["start_date"]) <= high],
        }

    demo_usage = {"total_canceled_requests": 4, "sessions": []}
    with ScriptedSandbox(usage=usage, demo_usage=demo_usage).running() as sandbox:
        config = config_for(
            sandbox,
            start_date="2026-08-30T18:00:00Z",
            end_date=end,
            stats_period=unit,
            timezone=zone,
        )
        records = sync(config, select=("account_stats", "agent_stats", "demo_stats")).records
    rows = records["account_stats"]
    assert {(r["period"], r["timezone"]) for rs in records.values() for r in rs} == {(unit, zone)}
    assert [
        (r["period_start"][5:16], r["period_end"][5:16], r["meetings"], r["total_seconds"])
        for r in rows
    ] == account
    assert {r["extra"] for r in rows} == {None}
    assert {
        (r["period"], r["timezone"], r["total_canceled_requests"]) for r in records["demo_stats"]
    } == {(unit, zone, 4)}
    assert all(r["stats"]["of"].endswith("9:59") for r in rows)  # a second before the period
    assert [
        (r["period_start"][5:16], r["email"].split("@")[0], r["meetings"], r["total_seconds"])
        for r in records["agent_stats"]
    ] == agents


def test_a_whole_period_is_requested(sandbox: Sandbox) -> None:
    config = config_for(sandbox, start_date="2026-08-20T10:00:00Z", end_date="2026-08-22T10:00:00Z")
    output = sync(config, select=("account_stats", "demo_stats"))
    starts = [row["period_start"][:10] for row in output.records["account_stats"]]
    assert starts == ["2026-08-20", "2026-08-21", "2026-08-22"]
    assert max(ranges(sandbox, "usage")) == (
        datetime(2026, 8, 21, 23, 59, 59, tzinfo=timezone.utc),
        datetime(2026, 8, 23, 0, 0, 1, tzinfo=timezone.utc),
    )
    # A count has nothing by which to tell what lies in a margin: none is asked for.
    assert max(ranges(sandbox, "demo_usage")) == (
        datetime(2026, 8, 22, tzinfo=timezone.utc),
        datetime(2026, 8, 23, tzinfo=timezone.utc),
    )


def test_the_running_period_is_requested_up_to_now(sandbox: Sandbox) -> None:
    sync(
        config_for(sandbox, start_date="2026-09-01"),
        select=("account_stats", "demo_stats"),
        clock=FakeClock(NOW),
    )
    assert [end for _, end in ranges(sandbox, "usage")] == [NOW + timedelta(seconds=1)]
    assert [end for _, end in ranges(sandbox, "demo_usage")] == [NOW]


def test_windows_are_requested_with_a_second_on_each_side(sandbox: Sandbox) -> None:
    config = config_for(sandbox, start_date="2026-08-20", end_date="2026-08-30T12:00:00.5Z")
    sync(config, select=("usage_sessions",))
    second = timedelta(seconds=1)
    day = datetime(2026, 8, 20, tzinfo=timezone.utc)
    assert sorted(ranges(sandbox, "usage")) == [
        (day - second, day + timedelta(days=7) + second),
        (
            day + timedelta(days=7) - second,
            datetime(2026, 8, 30, 12, 0, 2, tzinfo=timezone.utc),
        ),
    ]


def test_the_endpoint_is_a_setting(sandbox: Sandbox) -> None:
    output = sync(config_for(sandbox, usage_endpoint="usage_new"), select=("usage_sessions",))
    assert ranges(sandbox, "usage") == []
    assert ranges(sandbox, "usage_new")
    assert canonical(output.records["usage_sessions"]) == canonical(
        expected_sessions(sandbox.account),
    )


def test_without_start_date_a_run_begins_28_days_ago() -> None:
    with Sandbox(small_account(days=60)).running() as sandbox:
        config = config_for(sandbox)
        del config["start_date"], config["end_date"]
        sync(config, select=("usage_sessions",), clock=FakeClock(NOW))
        asked = ranges(sandbox, "usage")
    second = timedelta(seconds=1)
    assert min(asked)[0] == NOW - timedelta(days=28) - second
    assert max(asked)[1] == NOW + second


def test_a_tap_can_be_run_twice_in_a_process(sandbox: Sandbox) -> None:
    runs: list[Output] = []
    tap = TapCrankWheel(config=config_for(sandbox, window_days=2))
    for _ in range(2):
        tap.state.pop("bookmarks", None)
        with captured() as lines:
            tap.sync_all()
        runs.append(Output(lines))
    for run in runs:
        check_everything(run, sandbox)
