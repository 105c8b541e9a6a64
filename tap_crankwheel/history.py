"""Streams over the API, and how those with a history read it: window by window, in order."""

from __future__ import annotations

import itertools
import logging
import re
import threading
from abc import abstractmethod
from collections import Counter, deque
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from singer_sdk import Stream
from singer_sdk.helpers.conform import TypeConformanceLevel
from typing_extensions import override

from tap_crankwheel.errors import CrankWheelError, RangeRefusedError, ShapeError
from tap_crankwheel.rows import ObjectParser
from tap_crankwheel.schemas import SCHEMAS
from tap_crankwheel.windows import Window, format_timestamp, halve, parse_timestamp, periods, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from singer_sdk import Tap
    from singer_sdk.helpers.types import Context, Record
    from singer_sdk.singerlib import Catalog

    from tap_crankwheel.client import Client
    from tap_crankwheel.payloads import Answer, Event
    from tap_crankwheel.rows import Row
    from tap_crankwheel.settings import Settings
    from tap_crankwheel.throttle import Clock

T = TypeVar("T")

#: The path of sessions, which is a setting.
USAGE = "/{usage_endpoint}"

#: How far back the API itself goes when it is asked without a range (docs).
DEFAULT_HISTORY = timedelta(days=28)

#: How the API names its fields; a name of another form may be a person's.
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")

PROGRESS_INTERVAL = 60.0  # seconds


@dataclass
class Run:
    """What the streams of one run share.

    Attributes:
        settings: The settings.
        client: What makes the requests of all streams.
        clock: What tells the time.
        logger: The tap's logger.
        started_at: When the run began, UTC.
    """

    settings: Settings
    client: Client
    clock: Clock
    logger: logging.Logger
    started_at: datetime = field(init=False)
    _logged: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.started_at = datetime.fromtimestamp(self.clock.time(), timezone.utc)

    def log_once(self, level: int, message: str, key: str = "") -> None:
        """Log what concerns the whole run, though each stream may come upon it.

        Args:
            level: The level.
            message: The message.
            key: What makes it the same message, if that is not its text.
        """
        if (key or message) not in self._logged:
            self._logged.add(key or message)
            self.logger.log(level, "%s", message)


class CrankWheelStream(Stream):
    """A stream of what the CrankWheel API answers.

    Args:
        tap: The tap.
        run: What the streams of a run share.
    """

    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE  # rows are typed where they are parsed

    #: The path below the API's URL.
    path: ClassVar[str]

    def __init__(self, tap: Tap, run: Run) -> None:
        schema = self.declare(SCHEMAS.get_schema(self.name), run.settings)
        super().__init__(tap, schema=schema)
        self.run = run
        self.state_writer = tap.state_writer
        self._objects = [k for k, field in schema["properties"].items() if "properties" in field]

    @property
    def testing(self) -> bool:
        """Whether this is a `--test`, which reads no more than a few records."""
        return self.ABORT_AT_RECORD_COUNT is not None

    @property
    def request_path(self) -> str:
        """The path, with the endpoint that the settings name."""
        return self.path.format(usage_endpoint=self.run.settings.usage_endpoint)

    @classmethod
    def declare(cls, schema: dict[str, Any], settings: Settings) -> dict[str, Any]:  # noqa: ARG003
        """Return the stream's schema with what depends on the settings."""
        return schema

    @override
    def apply_catalog(self, catalog: Catalog) -> None:
        own = self.replication_key
        super().apply_catalog(catalog)
        if self.replication_key not in {None, own}:
            raise CrankWheelError(
                f"--catalog: {self.name} cannot be replicated by {self.replication_key}; its "
                f"replication key is {own}."
            )
        self.replication_key = own  # also where the catalog names none

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Yield the stream's records.

        Raises:
            ShapeError: An answer does not have the shape that the tap knows.
        """

    @override
    def get_records(self, context: Context | None) -> Iterator[Record]:
        unknown: Counter[str] = Counter()
        self.run.client.impatient = self.testing
        try:
            # Up to the limit of `--test`: the SDK logs an error for a stream that reaches it.
            for record in itertools.islice(self.records(), self.ABORT_AT_RECORD_COUNT):
                if record["extra"]:
                    unknown.update(_named(record["extra"]))
                for name in self._objects:
                    if extra := record[name]["extra"]:
                        unknown.update(f"{name}.{field}" for field in _named(extra))
                yield record
        except ShapeError as error:
            raise self._unexpected(error) from None
        if unknown:
            names = [f"{name} ({n})" for name, n in sorted(unknown.items())]
            more = f", and {len(names) - 20} more" if len(names) > 20 else ""  # noqa: PLR2004
            self.logger.info(
                "%s: the API sends more than the tap knows, which is in `extra`: %s%s",
                *(self.name, ", ".join(names[:20]), more),
            )

    def _unexpected(self, error: ShapeError) -> CrankWheelError:
        advice = "Check api_url; if it is right, the API is not as the tap knows it"
        if error.missing and (error.path or self.path) == USAGE:
            other = {"usage": "usage_new", "usage_new": "usage"}[self.run.settings.usage_endpoint]
            advice += f", and setting usage_endpoint to {other} may help"
        return CrankWheelError(f"{self.name}: {error}. {advice}.")

    @override
    def generate_child_contexts(self, record: Record, context: Context | None) -> Iterable[Context]:
        """Return none: no stream has children, and the SDK would copy each record for them."""
        return ()

    @override
    def log_sync_costs(self) -> None:
        """Log the run's totals, once. The SDK asks each stream at the end."""
        throttle = self.run.client.throttle
        self.run.log_once(logging.INFO, str(throttle), key=f"the costs of {throttle.requests}")

    @override
    def log(self, message: str, *args: Any, level: int = logging.INFO, **kwargs: Any) -> None:
        """Log the SDK's own messages at level debug.

        The streams log their ranges themselves, and an error is logged where it ends the run.
        """
        super().log(message, *args, level=logging.DEBUG, **kwargs)


class WindowedStream(CrankWheelStream, Generic[T]):
    """A stream that reads its history window by window, and bookmarks each one.

    A bookmark means that everything before it has been emitted. So it moves when a window is
    complete, not with each record: that the API's order and the way it selects are unknown does not
    matter then.
    """

    @property
    @override
    def emit_activate_version_messages(self) -> bool:
        """Never: an incremental run must not delete older rows."""
        return False

    @override
    def get_replication_key_signpost(self, context: Context | None = None) -> None:
        """Write no signpost: `history` already caps bookmarks at the start of the run."""

    @abstractmethod
    def windows(self, history: Window) -> list[Window]:
        """Return the windows of a part of the history, oldest first."""

    @abstractmethod
    def fetch(self, window: Window) -> T:
        """Request a window; runs in a thread of its own."""

    def settled(self, answers: Iterator[tuple[Window, T]]) -> Iterator[tuple[Window, T]]:
        """Yield each window once no later answer changes its rows: here, at once."""
        return answers

    @abstractmethod
    def rows(self, window: Window, answer: T) -> Iterable[Row]:
        """Return the rows of what `fetch` returned; called for one window after the other."""

    def bookmark(self, window: Window) -> datetime:
        """Return the bookmark that completing a window earns."""
        return window.end

    @override
    def get_records(self, context: Context | None) -> Iterator[Record]:
        # The SDK notes the records of an unsorted stream in these markers, and makes a bookmark of
        # them at the end of the stream. If they are there, it logs no warning; empty, no bookmark.
        self.stream_state["progress_markers"] = {}
        yield from super().get_records(context)
        self.stream_state["progress_markers"] = {}

    @override
    def records(self) -> Iterator[Record]:
        bookmark = self._bookmark()
        history = self.history()
        windows = self.windows(history)
        if not windows:
            self.logger.warning(
                "%s: nothing to read, since start_date, or the bookmark, is not before the end.",
                self.name,
            )
            return
        if self.testing:  # the latest window will do
            history, windows = windows[-1], windows[-1:]
        client, parallel = self.run.client, self.run.settings.max_parallel_requests
        self.logger.info(
            "%s: reading %s from %s, windows: %d",
            self.name,
            history,
            client.host,
            len(windows),
        )
        progress = _Progress(self.name, len(windows), self.run.clock, self.logger)
        for window, answer in self.settled(read_ahead(self.fetch, windows, parallel)):
            for row in self.rows(window, answer):
                yield row
                progress.records += 1
            if self.replication_method == "INCREMENTAL" and not self.testing:
                self._complete(window, bookmark)
            progress.log(window)
        if not progress.records and bookmark is None and not self.testing:
            self.logger.warning(
                "%s: this first run found nothing in %s. If there should be something, check "
                "start_date and end_date, and that the key is of the account you mean; then read "
                "all again (--full-refresh in Meltano).",
                self.name,
                history,
            )

    def _bookmark(self) -> datetime | None:
        """Return the state's bookmark."""
        value = self.stream_state.get("replication_key_value")
        if value is None or self.replication_method != "INCREMENTAL":
            return None
        return parse_timestamp(value)

    def history(self) -> Window:
        """Return the range that this run reads, starting `lookback_days` before the bookmark."""
        bookmark = self._bookmark()
        settings, now = self.run.settings, self.run.started_at
        start = settings.start_date or self._default_start()
        if bookmark is None and settings.start_date is None:
            self.run.log_once(
                logging.INFO,
                "start_date is not set: a first run reads the last 28 days. Set it to read more.",
            )
        if bookmark is not None:
            if bookmark > now:
                self.run.log_once(
                    logging.WARNING,
                    f"{self.name}: the bookmark {bookmark} lies in the future: now is used "
                    "instead.",
                )
            since = min(bookmark, now) - settings.lookback
            start = max(since, start) if settings.start_date else since
        return Window(start, min(settings.end_date or now, now))

    def _default_start(self) -> datetime:
        """Return the start of the period that holds the moment 28 days ago.

        On the boundary of a period, the statistics of the first one count what the other streams
        read.
        """
        settings, now = self.run.settings, self.run.started_at
        recent = Window(now - DEFAULT_HISTORY, now)
        return next(periods(recent, settings.stats_period, settings.timezone)).start

    def _complete(self, window: Window, last: datetime | None) -> None:
        """Move the bookmark and write the state.

        The bookmark does not move back behind the one that the run began with, unless that lay in
        the future.
        """
        bookmark = self.bookmark(window)
        if last is not None and last <= self.run.started_at:
            bookmark = max(bookmark, last)
        self.stream_state.update(
            replication_key=self.replication_key,
            replication_key_value=format_timestamp(bookmark),
            progress_markers={},
        )
        self.state_writer.write_state(self.tap_state)


class EventStream(WindowedStream["list[Answer]"]):
    """A history of events that the API lists: every one that comes is emitted, once a run."""

    #: What parses an answer.
    parse_events: Callable[[Answer, ObjectParser], Iterator[Event]]

    def __init__(self, tap: Tap, run: Run) -> None:
        super().__init__(tap, run)
        self._parse_row = ObjectParser(self.schema, computed=["id"])

    @override
    def records(self) -> Iterator[Record]:
        #: The identities in the last answer, with the contents that were emitted for each.
        self._last: dict[str, tuple[str, ...]] = {}
        return super().records()

    @override
    def windows(self, history: Window) -> list[Window]:
        return split(history, self.run.settings.window)

    @override
    def fetch(self, window: Window) -> list[Answer]:
        """Request a window, and if the API refuses it, its halves."""
        halves = halve(window)
        try:
            return [self.run.client.get(self.request_path, window, divisible=bool(halves))]
        except RangeRefusedError as error:
            if not halves:
                raise RangeRefusedError(
                    f"{error.message} An hour is the shortest range that is tried; "
                    "if it lies too far back, set a later start_date.",
                ) from None
            self.logger.warning("%s Requesting the halves of %s", error.message, window)
            return [answer for half in halves for answer in self.fetch(half)]

    @override
    def rows(self, window: Window, answer: list[Answer]) -> Iterator[Row]:
        """Yield the events that this run has not emitted.

        How the API selects is undocumented: by start, by end or by any overlap with the range, to
        the second or to the day. Whichever it is, the answers that hold an event follow each
        other, so it is enough to remember the last one. Without that, an event that two windows
        touch would be emitted twice. (One way is an exception: what starts or ends in the range. A
        long event would then come twice, with the same key.)
        """
        for part in answer:
            current: dict[str, tuple[str, ...]] = {}
            for identity, content, row in self.parse_events(part, self._parse_row):
                emitted = current.get(identity) or self._last.get(identity, ())
                current[identity] = emitted
                if emitted and (content in emitted or "" in {content, *emitted}):
                    continue
                if emitted:
                    row["id"] = f"{identity}-{len(emitted) + 1}"
                current[identity] = (*emitted, content)
                yield row
            self._last = current


class _Progress:
    """Logs where a stream is: at its end, and on the way once a `PROGRESS_INTERVAL`."""

    def __init__(self, name: str, windows: int, clock: Clock, logger: logging.Logger) -> None:
        self.records = 0
        self._name = name
        self._windows = windows
        self._done = 0
        self._clock = clock
        self._logger = logger
        self._last_logged = clock.monotonic()

    def log(self, window: Window) -> None:
        """Count a complete window, and log it; at level debug if nothing is due."""
        self._done += 1
        now = self._clock.monotonic()
        due = self._done == self._windows or now - self._last_logged >= PROGRESS_INTERVAL
        if due:
            self._last_logged = now
        self._logger.log(
            logging.INFO if due else logging.DEBUG,
            "%s: window %d of %d done, %s, %s",
            *(self._name, self._done, self._windows, window, count(self.records, "record")),
        )


def count(number: int, noun: str) -> str:
    """Return a number of things, in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _named(extra: dict[str, Any]) -> Iterable[str]:
    """Return the names in an `extra`, but for those that may be a person's and not a field's."""
    return (name if _FIELD_NAME.fullmatch(name) else "…" for name in extra)


def read_ahead(
    fetch: Callable[[Window], T],
    windows: Iterable[Window],
    limit: int,
) -> Iterator[tuple[Window, T]]:
    """Fetch windows in threads, and yield what came in order.

    Args:
        fetch: Fetches a window, in a thread of its own.
        windows: The windows, in order.
        limit: How many windows may be under way or waiting at a time, the yielded one included.

    Yields:
        A window, and what was fetched for it.
    """
    pending: deque[tuple[Window, Future[T]]] = deque()
    for window in windows:
        future: Future[T] = Future()
        # Daemon threads: a pool's threads are joined at exit, so a failed run would linger.
        threading.Thread(
            target=_fulfil,
            args=(future, fetch, window),
            name="read-ahead",
            daemon=True,
        ).start()
        pending.append((window, future))
        if len(pending) == limit:
            yield _next(pending)
    while pending:
        yield _next(pending)


def _fulfil(future: Future[T], fetch: Callable[[Window], T], window: Window) -> None:
    try:
        future.set_result(fetch(window))
    except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
        future.set_exception(error)


def _next(pending: deque[tuple[Window, Future[T]]]) -> tuple[Window, T]:
    window, future = pending.popleft()
    # Poll, so that a signal is handled within a second.
    while not wait([future], timeout=1).done:
        pass
    return window, future.result()
