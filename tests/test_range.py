"""Whether the server looks at the range: noticed if it does not, and no alarm if it does."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from tap_crankwheel.sandbox.server import VARIANTS, Behaviour, Sandbox
from tests import support as s

LISTS = ("usage_sessions", "demo_requests")
WINDOWED = (*LISTS, "account_stats", "agent_stats", "demo_stats")
NOW = s.NOW
DAY, SIX_DAYS = timedelta(days=1), timedelta(days=6)
CASES: list[Any] = [
    *((stream, {"window_days": days}) for stream in LISTS for days in (1, 7)),
    *((x, {"stats_period": unit}) for x in WINDOWED[2:] for unit in ("day", "week")),
    # Which are hundreds of requests.
    *(pytest.param(x, {"stats_period": "hour"}, marks=pytest.mark.slow) for x in WINDOWED[2:]),
]

Item = tuple[datetime, datetime | None]  # when it starts and ends; None: it never does


@dataclass
class History:
    """An API with a history of sessions, or demo requests, which it selects in some way.

    Attributes:
        items: The history.
        select: What of an item has to lie in the range: its start, its end, any overlap, or what
            happened to it six days after its start.
        exact: Whether the API looks at the days of a range alone.
        shift: How far its times are from UTC, which it does not say.
        open_end: What it sends as the end of what still runs: start, last or nothing.
        event: How long after the start the last event of a request is, instead of its end.
        always: Whether what runs is listed whatever the range.
        now: The moment at which it is asked.
    """

    items: list[Item]
    select: str = "start"
    exact: str = "second"
    shift: timedelta = timedelta(0)
    open_end: str = "last"
    event: timedelta | None = None
    always: bool = False
    now: datetime = NOW

    def respond(self, start: datetime, end: datetime) -> s.Row:
        if self.exact == "day":
            start, end = (x.replace(hour=0, minute=0, second=0) for x in (start, end + DAY))
        found = []
        for number, (begins, ends) in enumerate(self.items):
            stops, later = min(ends or self.now, self.now), begins + SIX_DAYS
            at = {"start": (begins, begins), "end": (stops, stops), "later": (later, later)}
            first, last = at.get(self.select, (begins, stops))
            listed = (start <= last and first <= end) or (self.always and ends is None)
            if listed and (begins <= self.now or begins > NOW + 15 * DAY):
                found.append(self.item(number, begins + self.shift, stops + self.shift, ends))
        return {"sessions": found, "total_canceled_requests": 0, "stats": {}}

    def item(self, number: int, begins: datetime, stops: datetime, ends: datetime | None) -> s.Row:
        running = ends is None or ends > self.now
        zone = "" if self.shift else "Z"
        start, last = (f"{moment:%Y-%m-%dT%H:%M:%S}{zone}" for moment in (begins, stops))
        event = begins + self.event if self.event else stops
        return {
            "session_id": number,
            "email": "ann@example.com",
            "start_date": start,
            "start_ts": start,
            "end_date": {"start": start, "last": last}.get(self.open_end) if running else last,
            "last_event_ts": f"{event:%Y-%m-%dT%H:%M:%S}{zone}",
            "session_ended": not running,
            "seconds_to_respond": "never" if running else 60,
            "duration": 60,
        }


def daily(count: float, length: timedelta = timedelta(minutes=20)) -> list[Item]:
    """Return a history of 40 days before the first run and 15 after it, with items of a length."""
    spaces = (n / count for n in range(int(55 * count)))
    starts = (NOW - 40 * DAY + timedelta(days=space, hours=3) for space in spaces)
    return [(start, start + length) for start in starts]


# --- what is noticed -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("stream", "settings"), CASES, ids=str)
def test_an_ignored_range_ends_the_run_in_a_short_history_too(stream: str, settings: s.Row) -> None:
    for turn, phase in enumerate((0.05, 0.5, 0.95)):
        starts = [NOW - timedelta(days=28 / 5 * (n + phase)) for n in range(5)]
        everything = History([(start, start + DAY / 72) for start in starts], select="overlap")
        respond = everything.respond(NOW - 28 * DAY, NOW)
        with s.ScriptedSandbox(usage=respond, demo_usage=respond).running() as sandbox:
            for days in range(2 + turn, 28, 3):
                start = (NOW - timedelta(days=days)).isoformat()
                config = s.config_for(sandbox, start_date=start, end_date=None, **settings)
                message, _ = s.failing(config, stream, clock=s.FakeClock(NOW))
                assert "The server ignores the range: perhaps something" in message


@pytest.mark.parametrize("days", [30, *s.slow(29, 33, 35, 60, 200)])
@pytest.mark.parametrize("stream", WINDOWED)
@pytest.mark.parametrize("settings", [{}, {"window_days": 366, "stats_period": "month"}], ids=str)
def test_an_ignored_range_ends_the_run_in_a_long_history(
    stream: str, days: int, settings: s.Row
) -> None:
    for now in (NOW, NOW - timedelta(days=17)):  # in another part of the month
        start = (now - timedelta(days=days)).isoformat()
        account = s.small_account(days=days + 20, fixed_now=now)
        with Sandbox(account, Behaviour(**VARIANTS["ignores-range"])).running() as sandbox:
            config = s.config_for(sandbox, start_date=start, end_date=None, **settings)
            message, output = s.failing(config, stream, clock=s.FakeClock(now))
        assert "ignores the range: perhaps something" in message
        for value in output.bookmarks.values() if output.states else ():
            assert value < start


@pytest.mark.parametrize(("stream", "settings"), CASES, ids=str)
def test_a_server_that_begins_to_ignore_the_range_is_noticed_at_once(
    stream: str, settings: s.Row
) -> None:
    with Sandbox(s.small_account()).running() as sandbox:
        config = s.config_for(sandbox, end_date=None, **settings)
        state = s.sync(config, select=(stream,), clock=s.FakeClock(NOW)).state
        sandbox.behaviour = Behaviour(**VARIANTS["ignores-range"])
        later = sandbox.account.fixed_now = NOW + DAY
        message, _ = s.failing(config, stream, state=state, clock=s.FakeClock(later))
    assert re.search(r"items lie outside the range, by up to \d", message)


@pytest.mark.parametrize(("stream", "settings"), CASES, ids=str)
def test_a_cache_that_does_not_look_at_the_query_is_noticed(stream: str, settings: s.Row) -> None:
    history, cache = History(daily(60)), list[s.Row]()

    def cached(start: datetime, end: datetime) -> s.Row:
        if not cache:
            cache.append(history.respond(start, end))
        return cache[0]

    with s.ScriptedSandbox(usage=cached, demo_usage=cached).running() as sandbox:
        settings = {"start_date": (NOW - 28 * DAY).isoformat(), "end_date": None, **settings}
        config = s.config_for(sandbox, max_parallel_requests=1, **settings)
        message, _ = s.failing(config, stream, clock=s.FakeClock(NOW))
    assert "or caches responses" in message


# --- what is no alarm ----------------------------------------------------------------------------

ODD: dict[str, dict[str, Any]] = {
    **{
        f"never ended, with {end} as its end": {"select": "overlap", "open_end": end}
        for end in ("start", "last", "nothing")
    },
    **{f"ten days long, by {by}": {"select": by} for by in ("start", "end", "overlap")},
    "not answered, which stays open": {"select": "overlap", "event": timedelta(seconds=1)},
    "handled six days later": {"select": "later", "event": SIX_DAYS},
    "handled six days later, which does not show": {"select": "later"},
    "last event before the start": {"event": -9 * DAY},
    "exact to the day": {"exact": "day"},
    **{f"naive times, {x:+} h": {"shift": timedelta(hours=x)} for x in (-12, -5, 9, 14)},
    "items of the future": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize(("count", "first_day"), [(1 / 30, 0), (0.2, 1), (1, 0), (5, 1)])
def test_no_false_alarm_of_an_ignored_range(case: str, count: float, first_day: int) -> None:
    """Two weeks of runs on every second day: the even ones, or the odd ones."""
    items = daily(count, 10 * DAY if "ten days long" in case else timedelta(minutes=20))
    if "never" in case:
        items += [(NOW - 35 * DAY, None), (NOW - 20 * DAY, None)]
    if "not answered" in case:
        items = [(start, end if n % 3 else None) for n, (start, end) in enumerate(items)]
    if "future" in case:
        items += [(NOW + timedelta(days=400 + n), NOW + timedelta(days=401)) for n in range(9)]
    history = History(items, **ODD[case])

    def respond(start: datetime, end: datetime) -> s.Row:
        found = history.respond(start, end)
        if "future" in case:  # listed whatever the range
            late = history.respond(NOW + 300 * DAY, NOW + 500 * DAY)["sessions"]
            found["sessions"] += [item for item in late if item not in found["sessions"]]
        return found

    state, rows = None, 0
    with s.ScriptedSandbox(usage=respond, demo_usage=respond).running() as sandbox:
        start_date = (NOW - 30 * DAY).isoformat()
        config = s.config_for(sandbox, start_date=start_date, end_date=None)
        for day in range(first_day, 14, 2):
            history.now = NOW + day * DAY
            output = s.sync(config, state=state, select=WINDOWED, clock=s.FakeClock(history.now))
            state = output.state
            rows += len([*itertools.chain.from_iterable(output.records.values())])
    assert rows


@pytest.mark.parametrize("settings", [{}, {"window_days": 1}], ids=str)
def test_running_sessions_that_are_listed_whatever_the_range_are_no_sign(settings: s.Row) -> None:
    running = [(NOW - timedelta(minutes=minutes), None) for minutes in (5, 20, 50)]
    history = History([*daily(2)[:70], *running], always=True)
    with s.ScriptedSandbox(usage=history.respond).running() as sandbox:
        settings = {"start_date": (NOW - 28 * DAY).isoformat(), "end_date": None, **settings}
        config, select = s.config_for(sandbox, **settings), (WINDOWED[0], *WINDOWED[2:4])
        rows = s.sync(config, select=select, clock=s.FakeClock(NOW)).records[WINDOWED[0]]
    assert len([row for row in rows if not row["session_ended"]]) == 3


@pytest.mark.parametrize(
    ("stream", "answered"),
    [("demo_requests", 10), ("demo_requests", 3), ("demo_requests", 0), ("demo_stats", 0)],
)
def test_how_many_requests_have_to_be_answered_to_notice_it(stream: str, answered: int) -> None:
    """Of ten in turn: a server that begins to ignore the range, in daily runs."""
    items = [(start, end if n % 10 < answered else None) for n, (start, end) in enumerate(daily(1))]
    history = History(items, event=timedelta(seconds=1))

    def respond(start: datetime, end: datetime) -> s.Row:
        if history.now > NOW:
            start, end = history.now - 28 * DAY, history.now
        return history.respond(start, end)

    with s.ScriptedSandbox(demo_usage=respond).running() as sandbox:
        start_date = (NOW - 28 * DAY).isoformat()
        config = s.config_for(sandbox, start_date=start_date, end_date=None)
        state = s.sync(config, select=(stream,), clock=s.FakeClock(NOW)).state
        history.now = NOW + DAY
        later: Any = {"state": state, "clock": s.FakeClock(history.now)}
        if (stream, answered) == ("demo_requests", 0):  # this alone is not noticed
            s.sync(config, select=(stream,), **later)
            return
        message, _ = s.failing(config, stream, **later)
    assert "ignores the range" in message
    outside, of = re.findall(r"(\d+) of (\d+) items", message)[0]
    assert 1 < int(outside) <= int(of)


@pytest.mark.parametrize(
    ("outside", "of", "alarm"),
    [(1, 1, False), (1, 2, False), (2, 2, True), (5, 15, False), (6, 17, True), (7, 30, False)],
)
def test_some_items_outside_are_no_sign_of_an_ignored_range(
    outside: int, of: int, *, alarm: bool
) -> None:
    """One never is, nor is more than one if two thirds belong to the window."""

    def respond(start: datetime, _: datetime) -> s.Row:
        days = [-30 * DAY] * outside + [DAY] * (of - outside)
        starts = [start + day + timedelta(seconds=n) for n, day in enumerate(days)]
        return {"sessions": [History([]).item(n, x, x, NOW - DAY) for n, x in enumerate(starts)]}

    with s.ScriptedSandbox(usage=respond).running() as sandbox:
        config = s.config_for(sandbox, start_date="2026-08-20", end_date="2026-08-27")
        if alarm:
            assert f"{outside} of {of} items lie outside" in s.failing(config, LISTS[0])[0]
        else:
            assert len(s.sync(config, select=LISTS[:1]).records["usage_sessions"]) == of


@pytest.mark.parametrize(
    ("start", "starts"),
    [
        (datetime(2026, 1, 1, tzinfo=NOW.tzinfo), [0, None]),
        (NOW - 28 * DAY - timedelta(seconds=60), [0, None]),
        (NOW - 28 * DAY - timedelta(seconds=59), [0]),  # a moment is not worth a request
        (NOW - 28 * DAY, [0]),
    ],
)
def test_windows_are_cut_28_days_before_the_run(
    sandbox: Sandbox, start: datetime, starts: list[int | None]
) -> None:
    config = s.config_for(sandbox, start_date=start.isoformat(), window_days=366)
    s.sync(config, select=("usage_sessions",), clock=s.FakeClock(NOW))
    second, cut = timedelta(seconds=1), NOW - 28 * DAY
    expected = [(cut if begin is None else start) - second for begin in starts]
    assert sorted(begin for begin, _ in s.ranges(sandbox, "usage")) == expected
