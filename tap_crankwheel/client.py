"""One HTTP conversation with the API, and the walk through a history on it."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from abc import abstractmethod
from collections import deque
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from http.client import responses
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import backoff
import click
import requests
import urllib3
from singer_sdk import RESTStream, SchemaDirectory
from singer_sdk.exceptions import RetriableAPIError
from singer_sdk.helpers.conform import TypeConformanceLevel
from typing_extensions import override

from tap_crankwheel import payloads, schemas
from tap_crankwheel.windows import (
    MARGIN,
    SLACK,
    Window,
    format_timestamp,
    halve,
    parse_timestamp,
    query,
    split,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from singer_sdk.helpers.types import Context, Record

    from tap_crankwheel.auth import CrankWheelAuthenticator
    from tap_crankwheel.payloads import Answer, Event, Row
    from tap_crankwheel.tap import TapCrankWheel

T = TypeVar("T")

_LATEST = "9999"  # later than any timestamp, as text
_ITS_OWN_ID = (None,)

SCHEMAS = SchemaDirectory(schemas)

_PASSING_FAULTS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)

#: A request is tried this often, and all its waiting together is at most this many seconds.
MAX_TRIES = 8
MAX_WAIT = 3600.0


class CrankWheelError(click.ClickException):
    """What ends a run: one line that says what is wrong and what to do, and no traceback."""

    @override
    def show(self, file: IO[Any] | None = None) -> None:
        """Log it, so that Meltano and log files know it for an error."""
        logging.getLogger("tap-crankwheel").error(self.message)


class RangeRefusedError(CrankWheelError):
    """The API does not answer for a range, though it may for a shorter one."""


class TryAgainError(RetriableAPIError):
    """A request failed in a way that may pass.

    Args:
        reason: What happened, without anything of the answer's text.
        wait: How long the API asks to wait, in seconds.
        rate_limited: Whether other requests have to wait too.
        slow: Whether a shorter range may help.
    """

    def __init__(
        self,
        reason: str,
        *,
        wait: float | None = None,
        rate_limited: bool = False,
        slow: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait
        self.rate_limited = rate_limited
        self.slow = slow


class RateLimit:
    """When requests may go on, for all the streams and threads of a run."""

    def __init__(self) -> None:
        self._until = 0.0

    def hold(self, seconds: float) -> None:
        """Let no request begin for some seconds."""
        self._until = max(self._until, time.monotonic() + seconds)

    def wait(self) -> None:
        """Wait until requests may begin."""
        while (left := self._until - time.monotonic()) > 0:
            time.sleep(left)


def retry_after(response: requests.Response) -> float | None:
    """Return the seconds that a Retry-After header asks for, a number or an HTTP date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment - datetime.now(moment.tzinfo and timezone.utc)).total_seconds())


class CrankWheelStream(RESTStream[None]):
    """A stream that asks the CrankWheel API. It only ever sends GET."""

    allow_redirects = False
    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE  # payloads types the rows
    _LOG_REQUEST_METRICS = False  # private; a line a request, thousands in a backfill
    _tap: TapCrankWheel

    @cached_property
    def _ended(self) -> threading.Event:
        """Set when nobody waits for answers any more, so that nothing is tried again."""
        return threading.Event()

    @cached_property
    @override
    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = SCHEMAS.get_schema(self.name)
        return schema

    @override
    def generate_child_contexts(self, record: Record, context: Context | None) -> Iterable[Context]:
        """Make none: no stream has children, and the SDK would copy each record for them."""
        return ()

    @property
    @override
    def url_base(self) -> str:
        url: str = self.config["api_url"]
        return url.rstrip("/")

    @property
    @override
    def authenticator(self) -> CrankWheelAuthenticator:
        return self._tap.authenticator

    @property
    @override
    def user_agent(self) -> str:
        return f"{self.tap_name}/{self._tap.plugin_version}"

    @property
    @override
    def timeout(self) -> int:
        seconds: int = self.config["request_timeout"]
        return seconds

    @override
    def log(self, message: str, *args: Any, level: int = logging.INFO, **kwargs: Any) -> None:
        # An error is told where it ends the run; that `--test` stops after a record is none.
        if not message.startswith("An unhandled error occurred"):
            super().log(message, *args, level=level, **kwargs)

    def get(self, path: str, window: Window | None = None, *, margin: timedelta = MARGIN) -> Answer:
        """Ask for a path, again and again where that may help.

        Args:
            path: The path of the endpoint below the API's URL; it may name settings in braces.
            window: The range to ask for, sent as `from` and `to`.
            margin: How much is added to the range on both sides.

        Returns:
            The answer, its outer layer read.

        Raises:
            RangeRefusedError: The API does not answer for this range, but may for a shorter one.
            CrankWheelError: The API does not answer, or refuses to.
        """
        path = path.format_map(self.config)
        tries = 0
        started = time.monotonic()
        what = f"GET {path}" + (f" for {window}" if window else "")

        @backoff.on_exception(
            _waits,
            TryAgainError,
            max_tries=MAX_TRIES,
            jitter=self.backoff_jitter,
            giveup=lambda _: self._ended.is_set(),
            on_backoff=self._before_retry,
            logger=None,
        )
        def converse() -> Answer:
            nonlocal tries
            tries += 1
            self._tap.rate_limit.wait()
            try:
                # The SDK's single request is private; its decorator of retries logs each one twice.
                return payloads.parse(self._request(request, None).content)
            except TryAgainError as error:
                error.slow &= window is not None
                raise
            except _PASSING_FAULTS as error:  # their text holds the URL
                cause = _root(error)
                if isinstance(cause, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
                    reason = f"no answer within {self.timeout} seconds"
                    raise TryAgainError(reason, slow=window is not None) from None
                host = urlsplit(self.url_base).hostname
                reason = f"the connection to {host} failed ({type(cause).__name__})"
                raise TryAgainError(reason) from None
            except payloads.NotJSONError:
                reason = "the answer is not JSON: does api_url point to the API?"
                raise TryAgainError(reason) from None
            except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
                msg = f"the request or its answer is no HTTP ({type(error).__name__})."
                raise CrankWheelError(msg) from None

        request = self.build_prepared_request(
            method="GET",
            url=self.url_base + path,
            params=query(window, margin) if window else None,
            headers={"Accept": "application/json"},
        )
        try:
            return converse()
        except TryAgainError as error:
            seconds = time.monotonic() - started
            msg = f"{what} failed {tries} times in {seconds:.0f} seconds, at last: {error.reason}."
            raise (RangeRefusedError if error.slow else CrankWheelError)(msg) from None
        except CrankWheelError as error:
            msg = f"{what}: {error.message}"
            raise type(error)(msg) from None

    @override
    def validate_response(self, response: requests.Response) -> None:
        status = response.status_code
        # Not the server's own words for the status, which might repeat the key.
        name = f"the API answered {status} {responses.get(status, '')}".rstrip()
        if status == HTTPStatus.OK:
            return
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise TryAgainError(name, wait=retry_after(response), rate_limited=True)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise TryAgainError(
                name, wait=retry_after(response), slow=status == HTTPStatus.GATEWAY_TIMEOUT
            )
        if status in {
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
        }:
            msg = f"{name}: it refuses the request, perhaps its range."
            raise RangeRefusedError(msg)
        advices: dict[int, str] = {
            HTTPStatus.UNAUTHORIZED: "it rejects the key: check api_key against the API tab of "
            "your CrankWheel account",
            HTTPStatus.FORBIDDEN: "the key may not read this: use a key that an administrator made "
            "on the API tab of your CrankWheel account",
            HTTPStatus.NOT_FOUND: "there is no such address: check api_url "
            f"({self._place(self.url_base)})",
        }
        advice = advices.get(status, "the tap does not know what to make of it")
        if "Location" in response.headers:
            place = self._place(response.headers["Location"])
            advice = f"it redirects to {place}: if the API is there, set api_url to it"
        msg = f"{name}: {advice}."
        raise CrankWheelError(msg)

    def _place(self, url: str) -> str:
        """Return a URL without what may be a secret in it."""
        parts = urlsplit(url)
        path = quote(parts.path, safe="/%")
        if str(self.config["api_key"]).strip() in unquote(path):
            path = "/"
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}"

    def _before_retry(self, details: Any) -> None:  # noqa: ANN401 - backoff's types lack a key
        error: TryAgainError = details["exception"]
        if error.rate_limited:
            self._tap.rate_limit.hold(details["wait"])
        self.logger.warning(
            "Try %d of %d: %s; next in %.0f seconds",
            details["tries"],
            MAX_TRIES,
            error.reason,
            details["wait"],
        )

    def shape_error(self, error: payloads.ShapeError) -> CrankWheelError:
        """Return the error that tells the user of an answer of another shape."""
        advice = "Check api_url; if it is right, the API is not as the tap knows it"
        if "{usage_endpoint}" in self.path:
            other = {"usage": "usage_new", "usage_new": "usage"}[self.config["usage_endpoint"]]
            advice += f", and setting usage_endpoint to {other} may help"
        return CrankWheelError(f"{self.name}: {error}. {advice}.")


def _waits() -> Generator[float, Any, None]:
    """Yield how long to wait in seconds after each failure; end when another try is no use."""
    error: TryAgainError = yield 0.0
    waited, slow = 0.0, 0
    for delay in (2.0**n for n in itertools.count(1)):
        slow += error.slow
        wait = delay if error.wait is None else error.wait
        waited += wait
        if waited > MAX_WAIT or slow > 1:
            return
        error = yield wait


def _root(error: BaseException) -> BaseException:
    """Return what an exception of requests wraps."""
    while True:
        inner = getattr(error, "reason", None) or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            return error
        error = inner


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
        windows = self.windows(self._history(bookmark))
        if not windows:
            self.logger.warning(
                "Nothing to read: start_date, or the bookmark, is not before the end."
            )
        if self.ABORT_AT_RECORD_COUNT == 1:  # `--test`: of a long history, the latest is enough
            windows = windows[-1:]
        records = 0
        ahead = read_ahead(self.load, windows, self.config["max_parallel_requests"])
        try:
            for number, (window, rows) in enumerate(ahead, 1):
                for row in rows:
                    yield row
                    records += 1
                self._complete(window, bookmark)
                self._log_progress(number, len(windows), window, records)
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
                self.logger.warning("The bookmark %s lies in the future: taken for now", bookmark)
            since = min(bookmark, self._tap.now) - timedelta(days=self.config["lookback_days"])
            start = max(since, start) if self.config.get("start_date") else since
        return Window(start, end)

    def _complete(self, window: Window, last: datetime | None) -> None:
        """Move the bookmark and write the state.

        It does not move back behind the one the run began with, unless that lay in the future.
        """
        now = self._tap.now
        bookmark = min(self.bookmark(window), now)
        if last is not None and last <= now:
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
        """Log where the stream is, at ten windows of many."""
        level = logging.INFO if number * 10 // count > (number - 1) * 10 // count else logging.DEBUG
        self.log(
            "window %d of %d, %s, %d records so far", number, count, window, records, level=level
        )


class EventStream(HistoryStream):
    """A history of events that the API lists: what comes is emitted, once a run."""

    #: The field that says when something last happened to an event.
    last_key: str

    def __init__(self, tap: TapCrankWheel) -> None:
        super().__init__(tap)
        self._keeps_to_ranges = True
        # By identity: when it was last heard of, and the contents that were emitted for it.
        self._emitted: dict[str, tuple[str, tuple[str | None, ...]]] = {}

    @abstractmethod
    def read(self, answer: Answer) -> Iterator[Event]:
        """Yield the events in an answer."""

    @override
    def windows(self, history: Window) -> list[Window]:
        return split(history, timedelta(days=self.config["window_days"]))

    @override
    def load(self, window: Window) -> Iterable[Row]:
        return self._unseen(self._answers(window))

    def _answers(self, window: Window) -> list[tuple[Window, Answer]]:
        """Ask for a window, and if the API refuses it, for its halves."""
        try:
            return [(window, self.get(self.path, window))]
        except RangeRefusedError as error:
            if not (halves := halve(window)):
                msg = f"{error.message} An hour is the shortest range that is tried."
                raise RangeRefusedError(msg) from None
            self.logger.warning("%s Asking for the halves of %s", error.message, window)
            return [answer for half in halves for answer in self._answers(half)]

    def _unseen(self, answers: list[tuple[Window, Answer]]) -> Iterator[Row]:
        """Yield the events that this run has not emitted.

        How the API selects is unknown: by start, by end or by any overlap with the range, to the
        second or to the day. So an event is remembered for as long as it may come again: for the
        rest of the run if the API does not keep to ranges, or if the event has no id of its own,
        since another one with the same digest may come later.
        """
        for window, answer in answers:
            low, high = format_timestamp(window.start - SLACK), format_timestamp(window.end + SLACK)
            for identity, content, row in self.read(answer):
                first, last = row[self.replication_key or ""], row[self.last_key]
                if last is None or row.get("session_ended") is False:
                    last = _LATEST
                self._keeps_to_ranges &= last >= low and first <= high
                contents = self._emitted.get(identity, ("", ()))[1]
                if content in contents:
                    continue
                if contents:
                    row["id"] = f"{identity}-{len(contents) + 1}"
                self._emitted[identity] = (max(first, last), (*contents, content))
                yield row
            if self._keeps_to_ranges:
                edge = format_timestamp(window.end - SLACK)
                self._emitted = {
                    identity: (last, contents)
                    for identity, (last, contents) in self._emitted.items()
                    if last >= edge or contents != _ITS_OWN_ID
                }
