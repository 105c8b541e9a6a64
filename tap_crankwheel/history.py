"""How a history is read: window by window, several requests ahead."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from datetime import datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from typing_extensions import override

from tap_crankwheel import windows
from tap_crankwheel.client import CrankWheelStream
from tap_crankwheel.errors import CrankWheelError, RangeRefusedError
from tap_crankwheel.rows import ObjectParser
from tap_crankwheel.schemas import SCHEMAS
from tap_crankwheel.windows import Window, format_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from singer_sdk import Tap
    from singer_sdk.helpers.types import Context

    from tap_crankwheel.client import Page, Shared
    from tap_crankwheel.schemas import Row

T = TypeVar("T")

#: How far back the API goes when a request has no range (docs).
DEFAULT_HISTORY = timedelta(days=28)
#: Where windows are cut, so that none hides that a server ignores ranges by reaching into what it
#: answers with then.
RECENT = timedelta(days=30)

PROGRESS_INTERVAL = 60.0  # seconds


class WindowedStream(CrankWheelStream):
    """A stream that reads its history window by window, several requests ahead.

    How the API selects is undocumented: by start, by end or by any overlap with the range, to the
    second or to the day. An item that two responses hold is emitted twice under one key, and the
    later version wins. A bookmark means that everything before it has been emitted. So it moves
    when a window is complete, not with each record.
    """

    #: How much wider than a window its request is, on both sides.
    margin: ClassVar[timedelta] = windows.MARGIN
    #: The stream whose items the responses list, and the field with the start of an item.
    listed: ClassVar[str]
    item_start: ClassVar[str]

    def __init__(self, tap: Tap, shared: Shared) -> None:
        super().__init__(tap, shared)
        others = ObjectParser(SCHEMAS.get_schema(self.listed), computed=["id"])
        self.parse_item = self.parse_row if self.name == self.listed else others

    @property
    @override
    def emit_activate_version_messages(self) -> bool:
        """Never: a part of a history must not delete older rows."""
        return False

    @override
    def get_replication_key_signpost(self, context: Context | None = None) -> None:
        """Write no signpost: `history` already caps bookmarks at the start of the run."""

    def windows(self, history: Window) -> list[Window]:
        """Return the windows of a part of the history, oldest first."""
        length, (start, end) = timedelta(days=self.settings.window_days), history
        cut = max(start, min(end, self.now - RECENT))
        parts = Window(start, cut), Window(cut, end)
        return [window for part in parts for window in windows.split(part, length)]

    def bookmark(self, window: Window) -> datetime:
        """Return the bookmark to write when a window is complete."""
        return window.end

    @override
    def get_url_params(self, context: Context | None, next_page_token: Any) -> dict[str, str]:
        return windows.query(next_page_token, self.margin)

    def fetch(self, window: Window) -> list[Page]:
        """Request a window, and if the API refuses it, its halves; runs in a thread."""
        try:
            return [self.get(window)]
        except RangeRefusedError as error:
            if not (halves := self.halves(window)):
                raise
            self.logger.warning("%s Requesting the halves of %s", error.message, window)
        return [page for half in halves for page in self.fetch(half)]

    def read(self, wanted: list[Window]) -> Iterator[tuple[Window, Any]]:
        """Yield each window with what its rows are made of, once no later response adds to it."""
        with self.get_http_request_counter() as counter:
            parallel = self.settings.max_parallel_requests
            for window, pages in read_ahead(self.fetch, wanted, parallel):
                for page in pages:
                    self.count(page, counter)
                yield window, pages

    def rows(self, window: Window, pages: Any) -> Iterable[Row]:  # noqa: ARG002
        """Return the rows of a window from what `read` yielded with it."""
        return chain.from_iterable(map(self.items, pages))

    def items(self, page: Page) -> Iterator[Row]:
        """Yield the items of a response, unless the server ignored the range.

        It answers with the last 28 days then, and status 200 (a guess from the docs). No way of
        selecting brings more than half of the items from later than two days after the range. An
        item of the future is odd, but no sign of it.

        Raises:
            CrankWheelError: The server ignored the range.
        """
        end = page.window.end if page.window else self.now
        recent, now = map(format_timestamp, (end + timedelta(days=2), self.now))
        late = count = 0
        for row in self.parse(page.payload, self.parse_item):
            late += recent < row[self.item_start] <= now
            count += 1
            yield row
        if late * 2 > count:
            raise CrankWheelError(
                f"{self._request_name(page.window)}: {late} of {count} items are after the range. "
                "The server ignores the range, perhaps since something on the way drops the query "
                "parameters: check api_url."
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
        # The SDK notes the records of an unsorted stream in these markers, and makes a bookmark of
        # them at the end of the stream. If they are there, it logs no warning; empty, no bookmark.
        self.stream_state["progress_markers"] = {}
        wanted = self.windows(history := self.history())
        if not wanted:
            self.logger.warning("%s: nothing to read: start_date is not before the end.", self.name)
            return
        if self.testing:
            wanted = wanted[-1:]
        self.logger.info("%s: reading %s, windows: %d", self.name, history, len(wanted))
        last, clock = self._last_bookmark(), self.shared.clock
        logged = clock.monotonic()
        for number, (window, pages) in enumerate(self.read(wanted), 1):
            yield from self.rows(window, pages)
            self._complete(window, last)
            if clock.monotonic() - logged >= PROGRESS_INTERVAL:
                logged = clock.monotonic()
                done = f"window {number} of {len(wanted)} is done, {window}"
                self.logger.info("%s: %s", self.name, done)
        self.stream_state["progress_markers"] = {}

    def _last_bookmark(self) -> str:
        """Return the bookmark that the run begins with, unless that lies in the future."""
        value = str(self.stream_state.get("replication_key_value", ""))
        return value if value <= format_timestamp(self.now) else ""

    def _complete(self, window: Window, last: str) -> None:
        """Move the bookmark, never back, and write the state."""
        if self.replication_method == "INCREMENTAL" and not self.testing:
            self.stream_state.update(
                replication_key=self.replication_key,
                replication_key_value=max(format_timestamp(self.bookmark(window)), last),
                progress_markers={},
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
