"""The walk through a history: window by window, in order, a bookmark for each."""

from __future__ import annotations

import logging
import threading
import time
from abc import abstractmethod
from collections import deque
from concurrent.futures import Future, wait
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import override

from tap_crankwheel import payloads
from tap_crankwheel.client import CrankWheelStream, RangeRefusedError
from tap_crankwheel.payloads import RowReader
from tap_crankwheel.windows import (
    SLACK,
    Window,
    format_timestamp,
    halve,
    parse_timestamp,
    split,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from singer_sdk.helpers.types import Context, Record

    from tap_crankwheel.payloads import Answer, Event, Row

T = TypeVar("T")

_LATEST = "9999"  # later than any timestamp, as text
_ITS_OWN_ID = (None,)
_TELL_EVERY = 60.0  # seconds
_LONGEST = timedelta(days=30)  # that one of two events with the same digest is taken to last


def read_ahead(
    load: Callable[[Window], T], windows: Iterable[Window], limit: int
) -> Iterator[tuple[Window, T]]:
    """Load windows in threads, and yield them in order.

    Args:
        load: What loads a window, in a thread of its own.
        windows: The windows, in order.
        limit: How many windows may be loading or loaded at a time, the yielded one included.

    Yields:
        A window, and what was loaded for it.
    """
    pending: deque[tuple[Window, Future[T]]] = deque()
    for window in windows:
        future: Future[T] = Future()
        # Not a pool: at the end of a run its threads would be waited for, these are not.
        threading.Thread(
            target=_fulfil, args=(future, load, window), name="read-ahead", daemon=True
        ).start()
        pending.append((window, future))
        if len(pending) == limit:
            yield _next(pending)
    while pending:
        yield _next(pending)


def _fulfil(future: Future[T], load: Callable[[Window], T], window: Window) -> None:
    try:
        future.set_result(load(window))
    except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
        future.set_exception(error)


def _next(pending: deque[tuple[Window, Future[T]]]) -> tuple[Window, T]:
    window, future = pending.popleft()
    # In turns: a signal that comes just before a wait is not heard until the wait is over.
    while not wait([future], timeout=1).done:
        pass
    return window, future.result()


class HistoryStream(CrankWheelStream):
    """A stream that walks through the history window by window, and bookmarks each one.

    A bookmark means that everything before it has been emitted. So it moves when a window is
    complete, not with each record: that the API's order and the way it selects are unknown does not
    matter then.
    """

    is_sorted = True  # bookmarks are resumable as they are
    check_sorted = False

    @property
    @override
    def emit_activate_version_messages(self) -> bool:
        """Never: a run reads a part of the history, and the rest stays valid."""
        return False

    @override
    def get_replication_key_signpost(self, context: Context | None = None) -> None:
        """Have none in the state: bookmarks are kept from lying in the future here."""

    @abstractmethod
    def windows(self, history: Window) -> list[Window]:
        """Return the windows to read a part of the history in, oldest first."""

    @abstractmethod
    def load(self, window: Window) -> Iterable[Row]:
        """Ask for a window's rows, in a thread of its own. They are read later, in order."""

    def bookmark(self, window: Window) -> datetime:
        """Return the moment before which everything is emitted once a window is."""
        return window.end

    @override
    def get_records(self, context: Context | None) -> Iterator[Record]:
        self._ended.clear()
        bookmark = self._bookmark()
        history = self._history(bookmark)
        windows = self.windows(history)
        if not windows:
            self.logger.warning(
                "%s: nothing to read, since start_date, or the bookmark, is not before the end.",
                self.name,
            )
            return
        testing = self.ABORT_AT_RECORD_COUNT == 1  # `--test`: of a long history, the latest will do
        if testing:
            history, windows = windows[-1], windows[-1:]
        self.logger.info(
            "%s: reading %s from %s, windows: %d", self.name, history, self.host, len(windows)
        )
        records = 0
        self._told = time.monotonic()
        ahead = read_ahead(self.load, windows, self.config["max_parallel_requests"])
        try:
            for number, (window, rows) in enumerate(ahead, 1):
                for row in rows:
                    yield row
                    records += 1
                if not testing:
                    self._complete(window, bookmark)
                self._log_progress(number, len(windows), window, records)
            if not records and bookmark is None and not testing:
                self.logger.warning(
                    "%s: this first run found nothing in %s. If there should be something, check "
                    "start_date and end_date, and that the key is of the account you mean.",
                    self.name,
                    history,
                )
        except payloads.ShapeError as error:
            raise self.shape_error(error) from None
        finally:
            self._ended.set()

    def _bookmark(self) -> datetime | None:
        """Return the state's bookmark."""
        value = self.stream_state.get("replication_key_value")
        if value is None or self.replication_method != "INCREMENTAL":
            return None
        return parse_timestamp(value)

    def _history(self, bookmark: datetime | None) -> Window:
        """Return the part of the history to read: from the bookmark less the lookback on."""
        start, end = self._tap.history
        if bookmark is not None:
            if bookmark > self._tap.now:
                self.logger.warning(
                    "%s: the bookmark %s lies in the future: taken for now.", self.name, bookmark
                )
            since = min(bookmark, self._tap.now) - timedelta(days=self.config["lookback_days"])
            start = max(since, start) if self.config.get("start_date") else since
        return Window(start, end)

    def _complete(self, window: Window, last: datetime | None) -> None:
        """Move the bookmark and write the state.

        It does not move back behind the one the run began with, unless that lay in the future.
        """
        bookmark = self.bookmark(window)
        if last is not None and last <= self._tap.now:
            bookmark = max(bookmark, last)
        # Incrementing and writing state are private, and the SDK has no public way to do either at
        # a moment of the stream's choosing. Cleared, the flag lets a window without records count.
        super()._increment_stream_state({self.replication_key or "": format_timestamp(bookmark)})
        self.state_manager.is_flushed = False
        self._write_state_message()

    @override
    def _increment_stream_state(
        self, latest_record: Record, *, context: Context | None = None
    ) -> None:
        """Leave the bookmark where it is: `_complete` moves it. Private, for want of a hook."""

    def _log_progress(self, number: int, count: int, window: Window, records: int) -> None:
        """Log where the stream is: at its end, and on the way now and then."""
        now = time.monotonic()
        told = number == count or now - self._told >= _TELL_EVERY
        if told:
            self._told = now
        self.logger.log(
            logging.INFO if told else logging.DEBUG,
            "%s: window %d of %d done, %s, %d records",
            self.name,
            number,
            count,
            window,
            records,
        )


class EventStream(HistoryStream):
    """A history of events that the API lists: what comes is emitted, once a run."""

    #: The field that says when something last happened to an event.
    last_key: str

    #: What reads an answer.
    payload: Callable[[Answer, RowReader], Iterator[Event]]

    @cached_property
    def _reader(self) -> RowReader:
        return RowReader(self.schema, made=["id"])

    @override
    def get_records(self, context: Context | None) -> Iterator[Record]:
        self._keeps_to_ranges = True
        # By identity: when it was last heard of, and the contents that were emitted for it.
        self._emitted: dict[str, tuple[str, tuple[str | None, ...]]] = {}
        return super().get_records(context)

    @override
    def windows(self, history: Window) -> list[Window]:
        return split(history, timedelta(days=self.config["window_days"]))

    @override
    def load(self, window: Window) -> Iterable[Row]:
        return self._unseen(self._answers(window))

    def _answers(self, window: Window) -> list[tuple[Window, Answer]]:
        """Ask for a window, and if the API refuses it, for its halves."""
        halves = halve(window)
        try:
            return [(window, self.get(self.path, window, divisible=bool(halves)))]
        except RangeRefusedError as error:
            if not halves:
                msg = (
                    f"{error.message} An hour is the shortest range that is tried; "
                    "if it lies too far back, set a later start_date."
                )
                raise RangeRefusedError(msg) from None
            self.logger.warning("%s Asking for the halves of %s", error.message, window)
            return [answer for half in halves for answer in self._answers(half)]

    def _unseen(self, answers: list[tuple[Window, Answer]]) -> Iterator[Row]:
        """Yield the events that this run has not emitted.

        How the API selects is unknown: by start, by end or by any overlap with the range, to the
        second or to the day. So an event is remembered for as long as it may come again: for the
        run once the API has shown that it does not keep to ranges, and for a month if the event has
        no id of its own, since another one with the same digest may end later. Such events are told
        apart by what they hold, so one that changes between two answers of a run would count twice.
        """
        for window, answer in answers:
            low, high = format_timestamp(window.start - SLACK), format_timestamp(window.end + SLACK)
            for identity, content, row in self.payload(answer, self._reader):
                first, last = row[self.replication_key or ""], row[self.last_key]
                if last is None or row.get("session_ended") is False:
                    last = _LATEST
                last = max(last, first)
                self._keeps_to_ranges &= last >= low and first <= high
                contents = self._emitted.get(identity, ("", ()))[1]
                if content in contents:
                    continue
                if contents:
                    row["id"] = f"{identity}-{len(contents) + 1}"
                contents = _ITS_OWN_ID if content is None else (*contents, content)
                self._emitted[identity] = (last, contents)
                yield row
            if self._keeps_to_ranges:
                own, digest = (format_timestamp(window.end - d) for d in (SLACK, _LONGEST))
                self._emitted = {
                    identity: (last, contents)
                    for identity, (last, contents) in self._emitted.items()
                    if last >= (own if contents == _ITS_OWN_ID else digest)
                }
