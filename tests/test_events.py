"""Events that come more than once, or look alike: each is emitted once, under an id of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import Row, ScriptedSandbox, config_for, slow, sync

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tap_crankwheel.sandbox.server import Sandbox

Selects = Callable[[Row, str, str], bool]

START, END = "2026-08-01", "2026-08-15"  # two windows


def serving(items: list[Row], by: Selects) -> AbstractContextManager[Sandbox]:
    """Serve both histories with these items, selected in some way by `from` and `to`."""

    def respond(start: datetime, end: datetime) -> Any:
        low, high = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (start, end))
        return {"sessions": [item for item in items if by(item, low, high)]}

    return ScriptedSandbox(usage=respond, demo_usage=respond).running()


def event(start: str, end: str, **more: object) -> Row:
    """Return what is both a session and a demo request."""
    return {
        "email": "ann@example.com",
        "start_date": start,
        "start_ts": start,
        "end_date": end,
        "last_event_ts": end,
        **more,
    }


SELECTS: dict[str, Selects] = {
    "start": lambda e, low, high: low <= e["start_ts"] <= high,
    "end": lambda e, low, high: low <= e["end_date"] <= high,
    "overlap": lambda e, low, high: e["start_ts"] <= high and e["end_date"] >= low,
    "day": lambda e, low, high: low[:10] <= e["start_ts"][:10] <= high[:10],
    "minute": lambda e, low, high: low[:16] <= e["start_ts"][:16] <= high[:16],
}


@pytest.mark.parametrize("stream", ["usage_sessions", "demo_requests"])
@pytest.mark.parametrize("by", SELECTS)
@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "without id"])
@pytest.mark.parametrize("window_days", [1, *slow(7)])
def test_every_event_once(stream: str, by: str, window_days: int, *, numbered: bool) -> None:
    first = datetime.fromisoformat(START)
    items = []
    for n in range(24 * (7 + window_days)):  # one an hour, some over midnight, some of no length
        start = first + timedelta(hours=n, seconds=-1 if n % 24 == 0 and n else n % 3)
        end = start + timedelta(minutes=(0, 59, 90, 3000)[n % 4])
        number = {"session_id": n} if numbered else {}
        items.append(event(f"{start.isoformat()}Z", f"{end.isoformat()}Z", **number))
    with serving(items, SELECTS[by]) as sandbox:
        dates = {"start_date": START, "end_date": "2026-08-20"}
        config = config_for(sandbox, window_days=window_days, **dates)
        rows = sync(config, select=(stream,)).records[stream]
    key = {"usage_sessions": "start_date", "demo_requests": "start_ts"}[stream]
    assert sorted(row[key] for row in rows) == sorted(
        item["start_ts"].replace("Z", ".000000Z") for item in items
    )
    assert len({row["id"] for row in rows}) == len(items)


@pytest.mark.parametrize("stream", ["usage_sessions", *slow("demo_requests")])
@pytest.mark.parametrize("by", SELECTS)
@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "without id"])
def test_an_event_that_lasts_for_a_month_comes_once(
    stream: str, by: str, *, numbered: bool
) -> None:
    number = {"session_id": 1} if numbered else {}
    items = [event("2026-07-30T10:00:00Z", "2026-09-02T10:00:00Z", **number)]
    for day in range(1, 29):  # and others meanwhile
        start = f"2026-08-{day:02}T10:00:00Z"
        items.append(event(start, start.replace("10:00", "11:00")))
    with serving(items, SELECTS[by]) as sandbox:
        config = config_for(sandbox, start_date="2026-07-29", end_date="2026-09-03", window_days=1)
        rows = sync(config, select=(stream,)).records[stream]
    assert len(rows) == len({row["id"] for row in rows}) == len(items)


@pytest.mark.parametrize("by", ["start", "overlap"])
@pytest.mark.parametrize("ends", ["2026-08-07T23:55:00Z", "2026-08-07T23:59:59Z"])
def test_requests_alike_that_end_on_two_sides_of_an_edge_keep_an_id_each(
    by: str, ends: str
) -> None:
    start = "2026-08-07T23:50:00Z"
    items = [event(start, ends), event(start, "2026-08-08T00:15:00Z")]
    with serving(items, SELECTS[by]) as sandbox:
        config = config_for(sandbox, start_date=START, end_date=END)
        rows = sync(config, select=("demo_requests",)).records["demo_requests"]
    assert len(rows) == 2
    assert len({row["id"] for row in rows}) == 2


def test_a_session_that_is_listed_twice_is_one() -> None:
    bare = event("2026-08-02T10:00:00Z", "2026-08-02T11:00:00Z")
    numbered = {**bare, "session_id": 11}
    changed = {**numbered, "duration": 9}
    with serving([numbered, numbered, changed, bare, bare], SELECTS["start"]) as sandbox:
        output = sync(config_for(sandbox, start_date=START), select=("usage_sessions",))
    ids = [row["id"] for row in output.records["usage_sessions"]]
    assert len(ids) == len(set(ids)) == 2
    assert "11" in ids


@pytest.mark.parametrize("second", ["2026-08-02T12:00:00Z", "2026-08-14T12:00:00Z"])
def test_sessions_that_share_a_number_are_both_kept(second: str) -> None:
    first = event("2026-08-02T10:00:00Z", "2026-08-02T11:00:00Z", session_id=11)
    sessions = [first, event(second, second, session_id=11), {**first, "duration": 9}]
    with serving(sessions, SELECTS["start"]) as sandbox:
        config = config_for(sandbox, start_date=START)
        output = sync(config, select=("usage_sessions",))
        later = sync(
            {**config, "start_date": "2026-08-02T11:30:00Z"}, select=("usage_sessions",)
        ).records["usage_sessions"]
    rows = output.records["usage_sessions"]
    keys = [(row["id"], row["start_date"][:19] + "Z") for row in rows]
    assert keys == [("11", "2026-08-02T10:00:00Z"), ("11", second)]
    # The key of one does not depend on whether the other is there.
    assert [(row["id"], row["start_date"][:19] + "Z") for row in later] == [("11", second)]


@pytest.mark.parametrize("stream", ["usage_sessions", "demo_requests"])
@pytest.mark.parametrize("by", ["start", "overlap"])
def test_an_event_that_changes_between_two_requests_is_one_row_in_its_last_version(
    stream: str, by: str
) -> None:
    count = itertools.count()
    start = {"start": "2026-08-08T00:00:00Z", "overlap": "2026-08-07T23:50:00Z"}[by]
    item = event(start, "2026-08-08T00:20:00Z")

    def respond(low: datetime, high: datetime) -> Any:
        asked = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (low, high))
        change = {"duration": 60 + (n := next(count)), "seconds_to_respond": 60 + n}
        return {"sessions": [item | change] if SELECTS[by](item, *asked) else []}

    with ScriptedSandbox(usage=respond, demo_usage=respond).running() as sandbox:
        config = config_for(sandbox, start_date=START, end_date=END, max_parallel_requests=1)
        output = sync(config, select=(stream,))
    sent = [m["record"] for m in output.messages if m["type"] == "RECORD"]
    assert len(sent) == 2
    assert output.records[stream] == sent[1:]
    assert 61 in {sent[1].get("duration"), sent[1].get("seconds_to_respond")}
