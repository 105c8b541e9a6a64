"""How a history is read: window by window, several requests ahead."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from typing_extensions import override

from tap_crankwheel import windows
from tap_crankwheel.client import CrankWheelStream
from tap_crankwheel.errors import CrankWheelError, RangeRefusedError
from tap_crankwheel.windows import Window, format_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from singer_sdk.helpers.types import Context

    from tap_crankwheel.client import Response
    from tap_crankwheel.payloads import Payload
    from tap_crankwheel.schemas import Row

T = TypeVar("T")

#: How far back the API goes when a request has no range (the vendor's pages, of `/demo_usage`; a
#: guess for the others). Windows are cut there: a longer one would hide that the range is ignored.
DEFAULT_HISTORY = timedelta(days=28)
#: An item does not belong to a window if it ended this long before it, or starts this long after
#: it, whichever way the API selects. A session, and the handling of a request, may take days.
TOO_EARLY, TOO_LATE = timedelta(days=7), timedelta(days=2)

PROGRESS_INTERVAL = 60.0  # seconds


class WindowedStream(CrankWheelStream):
    """A stream that reads its history window by window, several requests ahead.

    How the API selects is undocumented: by start, by end or by any overlap with the range, to the
    second or to the day. An item that two responses hold is emitted twice under one key, and the
    later version wins. A bookmark means that everything before it has been emitted. So it moves
    when a window is complete, not with each record.
    """

    emit_activate_version_messages = False  # a part of a history must not delete older rows

    #: How much wider than a window its request is, on both sides.
    margin: ClassVar[timedelta] = windows.MARGIN
    #: The bookmark when a window is complete: its `start` or its `end`.
    bookmark: ClassVar[str] = "end"
    #: The fields with the start and end of an item.
    item_start: ClassVar[str]
    item_end: ClassVar[str]

    def windows_of(self, history: Window) -> list[Window]:
        """Return the windows of a part of the history, oldest first."""
        length, (start, end) = timedelta(days=self.settings.window_days), history
        cut = max(start, min(end, self.now - DEFAULT_HISTORY))
        parts = Window(start, cut), Window(cut, end)
        found = [window for part in parts for window in windows.split(part, length)]
        if start < cut < min(end, start + timedelta(minutes=1)):  # not worth a request of its own
            found[:2] = [Window(start, found[1].end)]
        return found

    @override
    def get_url_params(self, context: Context | None, next_page_token: Any) -> dict[str, str]:
        return windows.query(next_page_token, self.margin, self.now)  # the "page" is a window

    def fetch_window(self, window: Window) -> list[Response]:
        """Request a window, and if the API refuses it, its halves; runs in a thread."""
        try:
            return [self.fetch(window)]
        except RangeRefusedError as error:
            if not (halves := self.shorter_windows(window)):
                raise
            self.logger.warning("%s Requesting the range in halves.", error.message)
        return [response for half in halves for response in self.fetch_window(half)]

    def responses(self, wanted: list[Window]) -> Iterator[tuple[Window, list[Payload]]]:
        """Yield each window with its payloads: several if it was requested in halves."""
        with self.get_http_request_counter() as counter:
            parallel = self.settings.max_parallel_requests
            for window, found in read_ahead(self.fetch_window, wanted, parallel):
                yield window, [self.log_response(response, counter) for response in found]

    def read(self, wanted: list[Window]) -> Iterator[tuple[Window, Iterable[Row]]]:
        """Yield each window with its rows, once they are final."""
        for window, found in self.responses(wanted):
            yield window, self.items(window, found)

    def items(self, window: Window, found: Iterable[Payload]) -> Iterator[Row]:
        """Yield the items of a window's payloads, unless the server ignored the range.

        A server that does not look at the range responds with the last 28 days, and status 200 (a
        guess). Items of the future are odd, but no sign of that, and neither is a single item. An
        API may list what is still open in later windows, and what runs in any (both are guesses):
        a request that nobody answered counts only if it starts too late, a running session never.

        Raises:
            CrankWheelError: More than a third of the items do not belong to the window.
        """
        earliest, latest = window.start - TOO_EARLY, window.end + TOO_LATE
        ended_before, starts_after, now = map(format_timestamp, (earliest, latest, self.now))
        outside: list[timedelta] = []
        count = 0
        for payload in found:
            for item in self.parse(payload):
                running = item.get("session_ended") is False
                start, end = item[self.item_start], item[self.item_end]
                late = starts_after < start <= now and not running
                if running or item.get("seconds_to_respond", 0) is None:
                    end = None  # what it holds may be a placeholder
                if late or (end is not None and max(start, end) < ended_before):
                    first, final = map(windows.parse_timestamp, (start, max(start, end or start)))
                    outside.append(max(first - window.end, window.start - final))
                count += late or end is not None
                yield item
        if len(outside) > 1 and len(outside) * 3 > count:
            raise CrankWheelError(
                f"{self._request_name(window)}: {len(outside)} of {count} items lie outside the "
                f"range, by up to {max(outside).days} days. The server ignores the range: perhaps "
                "something on the way drops the query parameters, or caches responses. Check "
                "api_url and your proxy."
            )

    def history(self) -> Window:
        """Return the range that this run reads, starting `lookback_days` before the bookmark."""
        start, now = self.settings.start_date, self.now
        value = self.stream_state.get("replication_key_value")
        if value and self.replication_method == "INCREMENTAL":
            lookback = timedelta(days=self.settings.lookback_days)
            since = min(windows.parse_timestamp(value), now) - lookback
            start = max(since, start) if start else since
        end = min(self.settings.end_date or now, now)
        return Window(start or now - DEFAULT_HISTORY, end)

    @override
    def request_records(self, context: Context | None) -> Iterator[Row]:
        # The SDK notes the records of an unsorted stream in these markers. Present, they silence
        # its warning; empty, they keep it from bookmarking the last record.
        self.stream_state["progress_markers"] = {}
        wanted = self.windows_of(history := self.history())
        clock, end, now = self.run.clock, self.settings.end_date, format_timestamp(self.now)
        bookmark = str(self.stream_state.get("replication_key_value", ""))
        reached = bookmark if bookmark <= now else ""  # one of the future would never move on
        if end and reached >= format_timestamp(end):
            self.logger.warning("%s: end_date is reached: remove it to read on.", self.name)
        elif not wanted:
            self.logger.warning("%s: nothing to read from %s: check the dates", self.name, history)
        if not wanted:
            return
        if self.testing:
            wanted = wanted[-1:]
        self.logger.info("%s: reading %s, windows: %d", self.name, history, len(wanted))
        logged = clock.monotonic()
        for number, (window, rows) in enumerate(self.read(wanted), 1):
            yield from rows
            self._complete(window, reached)
            if clock.monotonic() - logged >= PROGRESS_INTERVAL:
                logged = clock.monotonic()
                done = f"window {number} of {len(wanted)} is complete: {window}"
                self.logger.info("%s: %s", self.name, done)

    def _complete(self, window: Window, reached: str) -> None:
        """Move the bookmark, never back, and write the state."""
        bookmark = format_timestamp(getattr(window, self.bookmark))
        self.stream_state["progress_markers"] = {}
        if self.replication_method == "INCREMENTAL" and not self.testing:
            self.stream_state.update(
                replication_key=self.replication_key,
                replication_key_value=max(bookmark, reached),
            )
            self.state_writer.write_state(self.tap_state)


def read_ahead(
    fetch: Callable[[Window], T], wanted: list[Window], limit: int
) -> Iterator[tuple[Window, T]]:
    """Fetch windows in threads, and yield the results in order.

    Args:
        fetch: Fetches a window, in a thread of its own.
        wanted: The windows, in order.
        limit: How many windows may be under way or waiting at a time, the yielded one aside.

    Yields:
        A window, and what was fetched for it.
    """
    pending = deque(_start(fetch, window) for window in wanted[:limit])
    for number, window in enumerate(wanted):
        fetched = pending.popleft().result()
        pending.extend(_start(fetch, later) for later in wanted[number + limit :][:1])
        yield window, fetched


def _start(fetch: Callable[[Window], T], window: Window) -> Future[T]:
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(fetch(window))
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)

    # Daemon threads: those of a pool are joined at exit, and a failed run would linger.
    threading.Thread(target=run, name="read-ahead", daemon=True).start()
    return future
