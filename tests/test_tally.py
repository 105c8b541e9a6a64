"""The tally: sessions on disk, each once."""

from __future__ import annotations

import itertools
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.payloads import Event
from tap_crankwheel.tally import Tally
from tap_crankwheel.windows import Window, format_timestamp

if TYPE_CHECKING:
    import os

MIDNIGHT = datetime(2026, 8, 30, tzinfo=timezone.utc)
DAY = Window(MIDNIGHT, MIDNIGHT + timedelta(days=1))


def session(number: int, hour: int = 10, **more: object) -> Event:
    start = format_timestamp(MIDNIGHT + timedelta(hours=hour))
    row = {"start_date": start, "email": "a", "duration": 60, "session_ended": True, **more}
    return Event(str(number), "", row)


def add(tally: Tally, sessions: int) -> None:
    for n in range(sessions):
        tally.add(session(n))


def test_sessions_count_once_in_any_order() -> None:
    sessions = [session(1, -1), session(2, 0, email="b"), session(3, 23), session(4, 24)]
    for order in itertools.permutations([*sessions, sessions[1]]):
        tally = Tally()
        for each in order:
            tally.add(each)
        assert tally.durations(DAY) == {"b": [60], "a": [60]}


def test_a_session_that_changes_meanwhile_counts_as_it_was_emitted() -> None:
    tally = Tally()
    for seconds in (60, 90):
        tally.add(session(1, duration=seconds))
    assert tally.durations(DAY) == {"a": [60]}


def test_sessions_alike_in_identity_count_by_their_content() -> None:
    ended, other, running = (session(1)._replace(content=text) for text in ("a", "b", ""))
    for order, count in (
        ([ended, other, ended], 2),
        ([running, ended, running], 1),
        ([ended, running], 1),
    ):
        tally = Tally()
        for each in order:
            tally.add(each)
        assert len(tally.durations(DAY)["a"]) == count


def test_what_is_unknown_of_a_session_stays_unknown() -> None:
    tally = Tally()
    tally.add(session(1, email=None, duration=2.5))
    tally.add(session(2, duration=None))
    tally.add(session(3, email="b", duration=None, session_ended=False))
    assert tally.durations(DAY) == {None: [2.5], "a": [None], "b": [0]}


@pytest.mark.skipif(sys.platform != "linux", reason="it looks at /proc")
def test_its_file_has_no_name_and_no_other_reader() -> None:
    def files() -> dict[str, os.stat_result]:
        found = {}
        for path in Path("/proc/self/fd").iterdir():
            try:
                found[str(path.readlink())] = path.stat()
            except OSError:
                continue
        return found

    before = files()
    tally = Tally()
    add(tally, 60_000)  # some six megabytes
    new = {name: stat for name, stat in files().items() if name not in before}
    (name,) = (name for name in new if "etilqs" in name)
    assert name.endswith(" (deleted)")
    assert new[name].st_size > 1_000_000
    assert new[name].st_mode & 0o777 == 0o600
    del tally
    assert name not in files()


def test_a_full_disk_ends_the_run_with_one_line() -> None:
    tally = Tally()
    tally._db.execute("pragma max_page_count = 8")
    with pytest.raises(CrankWheelError, match=r"is full\): make room, or set TMPDIR"):
        add(tally, 1_000)


def test_a_stream_that_begins_again_begins_a_tally() -> None:
    tally = Tally()
    for stream in ("usage_sessions", "account_stats"):
        tally.begin(stream)
        tally.add(session(1))
        tally.complete(DAY, {})
    assert tally.has(DAY)
    tally.begin("usage_sessions")
    assert not tally.has(DAY)
    assert tally.durations(DAY) == {}
