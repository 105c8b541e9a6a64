"""Reading ahead: several windows at a time, and yet in order."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.history import read_ahead
from tap_crankwheel.windows import Window
from tests.support import Row, ScriptedSandbox, config_for, sync

if TYPE_CHECKING:
    from tap_crankwheel.sandbox.server import Sandbox

EPOCH = datetime(2026, 1, 1, tzinfo=timezone.utc)
WINDOWS = [Window(EPOCH + timedelta(days=n), EPOCH + timedelta(days=n + 1)) for n in range(12)]


@given(st.permutations(range(4)))
def test_windows_come_in_order_whichever_is_ready_first(order: list[int]) -> None:
    ready = [threading.Event() for _ in order]

    def fetch(window: Window) -> Window:
        n = WINDOWS.index(window)
        ready[n].wait(60)
        turn = order.index(n)  # each lets the next one in the drawn order go on
        if turn + 1 < len(order):
            ready[order[turn + 1]].set()
        return window

    ready[order[0]].set()
    assert list(read_ahead(fetch, WINDOWS[:4], 4)) == [(w, w) for w in WINDOWS[:4]]


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_no_more_than_the_limit_is_loading_or_loaded(limit: int) -> None:
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
    assert most <= limit


def test_what_fails_fails_in_its_turn() -> None:
    def fetch(window: Window) -> Window:
        if window == WINDOWS[2]:
            msg = "the third"
            raise CrankWheelError(msg)
        return window

    ahead = read_ahead(fetch, WINDOWS, 4)
    assert [next(ahead)[0] for _ in range(2)] == WINDOWS[:2]
    with pytest.raises(CrankWheelError, match="the third"):
        next(ahead)


def test_the_output_is_the_same_with_any_number_of_requests_at_a_time(sandbox: Sandbox) -> None:
    def lines(limit: int) -> list[str]:
        output = sync(config_for(sandbox, window_days=1, max_parallel_requests=limit))
        for message in output.messages:
            message.pop("time_extracted", None)
            message.pop("version", None)
        return [repr(message) for message in output.messages]

    alone = lines(1)
    assert lines(4) == alone
    assert lines(10) == alone


def test_requests_are_made_at_the_same_time() -> None:
    meeting = threading.Barrier(4, timeout=60)

    def answer_four(*_: datetime) -> Row:
        meeting.wait()
        return {"sessions": []}

    with ScriptedSandbox(usage=answer_four).running() as sandbox:
        config = config_for(sandbox, start_date="2026-08-20", end_date="2026-08-28", window_days=1)
        output = sync(config, select=("usage_sessions",))
    assert output.bookmarks == {"usage_sessions": "2026-08-28T00:00:00.000000Z"}
