"""The tally: the sessions of a run, to be counted by the period that they start in."""

from __future__ import annotations

import sqlite3
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.payloads import parse, require_object
from tap_crankwheel.windows import format_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from tap_crankwheel.payloads import Answer, Event
    from tap_crankwheel.windows import Window

#: The seconds of each session, by the agent's email; None where a session has none.
Durations = dict[str | None, list[Any]]

#: How many sessions are written at a time, which is quicker than one by one.
BATCH = 1000

_TABLES = """
    create table session (
        start text, identity text, content text, email text, seconds,
        primary key (start, identity, content)
    ) without rowid;
    create table period (start text primary key, beside blob) without rowid;
"""

#: As with what is emitted, the first version of a session stands. See `Event.content`.
_INSERT = """
    insert or ignore into session select ?1, ?2, ?3, ?4, ?5 where not exists (
        select 1 from session
        where start = ?1 and identity = ?2 and (content = '' or ?3 = '')
    )
"""


class Tally:
    """Sessions, each once, whichever answers it comes in and in whatever order.

    What the API selects sessions by is undocumented, so a period's own answer need not hold all
    that start in it. The streams of a run share a tally: what one of them requested is counted for
    the others too.

    It is a temporary database, on disk from some two megabytes on. SQLite lets only the user read
    its file, and removes its name at once, so that nothing is left of it however the run ends.
    """

    def __init__(self) -> None:
        self._complete: set[datetime] = set()
        self._streams: set[str] = set()
        self._added: list[tuple[object, ...]] = []
        self._db = sqlite3.connect("", check_same_thread=False)  # a collector may close it
        weakref.finalize(self, self._db.close)
        self._db.executescript(_TABLES)

    def begin(self, stream: str) -> None:
        """Forget everything if this stream began before: that means a new run of the same tap."""
        if stream in self._streams:
            self._streams.clear()
            self._complete.clear()
            self._added.clear()
            with _one_line_errors():
                self._db.executescript(f"drop table session; drop table period; {_TABLES}")
        self._streams.add(stream)

    def add(self, event: Event) -> None:
        """Add a session.

        A session that is still running counts with its duration so far, if the API sends one. Of
        an ended session the seconds are None if the API does not send them.
        """
        identity, content, row = event
        seconds = row["duration"]
        if seconds is None and row["session_ended"] is False:
            seconds = 0
        self._added.append((row["start_date"], identity, content, row["email"], seconds))
        if len(self._added) == BATCH:
            self._write()

    def _write(self) -> None:
        added, self._added = self._added, []
        with _one_line_errors():
            self._db.executemany(_INSERT, added)

    def complete(self, period: Window, usage: Answer) -> None:
        """Note that all sessions of a period's own answer were added, and keep what else it holds.

        Raises:
            ShapeError: It is not an object.
        """
        beside = {k: v for k, v in require_object(usage).items() if k != "sessions"}
        values = (format_timestamp(period.start), msgspec.json.encode(beside))
        with _one_line_errors():
            self._db.execute("insert or replace into period values (?, ?)", values)
        self._complete.add(period.start)

    def has(self, period: Window) -> bool:
        """Return whether a period is complete; threads may ask."""
        return period.start in self._complete

    def beside(self, period: Window) -> Answer:
        """Return a complete period's own answer, without its sessions."""
        query = "select beside from period where start = ?"
        with _one_line_errors():
            (beside,) = self._db.execute(query, [format_timestamp(period.start)]).fetchone()
        return parse(beside)

    def durations(self, period: Window) -> Durations:
        """Return the seconds of each session that starts in a period, by the agent's email."""
        self._write()
        durations: Durations = {}
        query = "select email, seconds from session where start >= ? and start < ?"
        with _one_line_errors():
            for email, seconds in self._db.execute(query, [*map(format_timestamp, period)]):
                durations.setdefault(email, []).append(seconds)
        return durations


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise CrankWheelError(
            f"The temporary file of the statistics cannot be used ({error}): make room, or set "
            "TMPDIR to a folder that has some."
        ) from None
