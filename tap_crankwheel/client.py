"""The base classes of streams: how the API is called, and how a history is read."""

from __future__ import annotations

import logging
import re
import ssl
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from http.client import responses
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, cast
from urllib.parse import urljoin, urlsplit

import backoff
import requests
import urllib3
from singer_sdk import RESTStream, metrics
from singer_sdk.exceptions import RetriableAPIError
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.singerlib import Metadata, Schema
from typing_extensions import override

from tap_crankwheel import payloads, windows
from tap_crankwheel.auth import CrankWheelAuthenticator
from tap_crankwheel.errors import (
    CrankWheelError,
    InvalidPayloadError,
    NoAccessError,
    NotFoundError,
    RangeRefusedError,
)
from tap_crankwheel.rows import ObjectParser
from tap_crankwheel.schemas import SCHEMAS
from tap_crankwheel.settings import LOCAL_HOSTS
from tap_crankwheel.windows import Window, format_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from backoff.types import Details
    from singer_sdk import Tap
    from singer_sdk.helpers.types import Context, Record
    from singer_sdk.singerlib import Catalog

    from tap_crankwheel.messages import MessageWriter
    from tap_crankwheel.payloads import Payload
    from tap_crankwheel.schemas import Row
    from tap_crankwheel.settings import Settings

T = TypeVar("T")

#: How far back the API goes when a request has no range (docs).
DEFAULT_HISTORY = timedelta(days=28)
#: Where windows are cut, so that none hides that a server ignores ranges by reaching into what it
#: answers with then.
RECENT = timedelta(days=30)

MAX_ATTEMPTS, MAX_TEST_ATTEMPTS = 8, 2
MAX_TEST_TIMEOUT = 10  # seconds
MAX_WAIT = 3600.0  # seconds that a request waits for rate limits, in all
UNSTATED_WAIT = 10.0  # seconds, where a rate limit does not say how long to wait
PROGRESS_INTERVAL = 60.0  # seconds
CHUNK = 2**20  # bytes; `Response.content` reads 10 KB at a time, and threads would take turns

#: How the API names its fields; a name of another form may be a person's.
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")

#: How OpenSSL reports a response that is not TLS.
_NOT_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
_ADVICE = {
    400: "it refuses the request: if its range lies too far back, set a later start_date",
    401: "it rejects the key: check api_key against the API tab of your CrankWheel account",
    403: "the key may not read this: use a key that an administrator made",
    404: "there is no such address: check api_url",
}
_REFUSES_RANGE = {400, 413, 422}  # a shorter one may succeed
_NO_ACCESS = {403: NoAccessError, 404: NotFoundError}


@dataclass
class Shared:
    """What the streams of a run share.

    Attributes:
        settings: The settings.
        clock: What tells the time and waits, as the module `time` does.
        usage_endpoint: The endpoint of sessions.
        decided: Whether that is final; otherwise a response decides.
        counted: What `account_stats` counted of each period, as compressed JSON, which takes a
            hundredth of the memory.
    """

    settings: Settings
    clock: Any
    usage_endpoint: str
    decided: bool
    counted: dict[Window, bytes] = field(default_factory=dict)
    _paused_until: float = 0.0

    def pause(self, seconds: float) -> bool:
        """Hold all requests for some seconds; return whether this starts a new pause."""
        now: float = self.clock.monotonic()
        begins = now >= self._paused_until
        self._paused_until = max(self._paused_until, now + seconds)
        return begins

    def wait(self) -> None:
        """Wait until a request may begin."""
        while (left := self._paused_until - self.clock.monotonic()) > 0:
            self.clock.sleep(left)


class Page(NamedTuple):
    """A response.

    Attributes:
        window: The range that was requested; None for a stream without a history.
        payload: What its body holds.
        seconds: How long it took to begin.
    """

    window: Window | None
    payload: Payload
    seconds: float


class CrankWheelStream(RESTStream[Window]):
    """A stream over the CrankWheel API.

    Args:
        tap: The tap, whose writer holds ACTIVATE_VERSION messages back.
        shared: What the streams of a run share.
    """

    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE  # rows are typed where they are parsed
    allow_redirects = False  # the key would go along
    extra_retry_statuses = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)

    #: The fields that the tap computes; what the API sends under such a name goes into `extra`.
    computed: ClassVar[tuple[str, ...]] = ()
    #: What a payload is known to hold.
    envelope: ClassVar[frozenset[str]] = frozenset()
    #: What to do where the key has no access to the path.
    without_access: ClassVar[str] = ""

    def __init__(self, tap: Tap, shared: Shared) -> None:
        self.shared = shared
        self.settings = shared.settings
        self.now = datetime.fromtimestamp(shared.clock.time(), timezone.utc)
        schema = self.customize_schema(SCHEMAS.get_schema(self.name), self.settings)
        super().__init__(tap, schema=schema)
        self.state_writer = tap.state_writer
        self.writer = cast("MessageWriter", tap.message_writer)
        self.user_agent = f"{tap.name}/{tap.plugin_version}"
        self.parse_row = ObjectParser(schema, self.computed)
        self._objects = [k for k, field in schema["properties"].items() if "properties" in field]
        session = self.requests_session
        session.stream = True
        # Prepared requests ignore REQUESTS_CA_BUNDLE, unless the session is told of it.
        environment = session.merge_environment_settings(self.url_base, {}, None, None, None)
        session.verify = environment["verify"]
        if urlsplit(self.url_base).hostname in LOCAL_HOSTS:
            session.trust_env = False  # no proxy of the environment leads there

    @classmethod
    def customize_schema(cls, schema: dict[str, Any], settings: Settings) -> dict[str, Any]:  # noqa: ARG003
        """Return the stream's schema with what depends on the settings."""
        return schema

    # --- requests ---------------------------------------------------------------------------------

    @property
    @override
    def url_base(self) -> str:
        return self.settings.api_url.rstrip("/")

    @property
    @override
    def authenticator(self) -> CrankWheelAuthenticator:
        return CrankWheelAuthenticator(self.settings.api_key)

    @property
    def testing(self) -> bool:
        """Whether this is a `--test`, which reads one record of each stream."""
        return self.ABORT_AT_RECORD_COUNT is not None

    @property
    @override
    def timeout(self) -> int:
        """Return the seconds of silence after which an attempt has failed."""
        timeout = self.settings.request_timeout
        return min(timeout, MAX_TEST_TIMEOUT) if self.testing else timeout

    def halves(self, window: Window | None) -> list[Window]:
        """Return the halves of a window that the API refused; none if an hour or less."""
        return [] if window is None or self.testing else windows.halve(window)

    def get(self, window: Window | None = None) -> Page:
        """Request the stream's path, retrying transient failures; threads may call it.

        Args:
            window: The range to request.

        Raises:
            RangeRefusedError: The API refuses this range, but may accept a shorter one.
            CrankWheelError: The API does not respond, or refuses.
        """
        name = self._request_name(window)
        try:
            context = {"usage_endpoint": self.shared.usage_endpoint}
            request = self.prepare_request(context, window)
            return self.request_decorator(self._send)(request, window)
        except RetriableAPIError as error:
            tries = self.backoff_max_tries()
            raise CrankWheelError(f"{name} failed {tries} times, last error: {error}.") from None
        except CrankWheelError as error:
            raise type(error)(f"{name}: {error.message}") from None

    def _send(self, request: requests.PreparedRequest, window: Window | None) -> Page:
        """Send a request, again where the API asks to wait, and parse the response's body."""
        waited = 0.0
        while True:
            self.shared.wait()
            try:
                response = self.requests_session.send(
                    request, timeout=self.timeout, allow_redirects=self.allow_redirects
                )
                self.validate_response(response)
                body = b"".join(response.iter_content(CHUNK))
                return Page(window, payloads.parse(body), response.elapsed.total_seconds())
            except InvalidPayloadError as error:
                raise RetriableAPIError(f"{error}: does api_url point to the API?") from None
            except (OSError, ValueError) as error:  # as the errors of requests are
                raise self._connection_error(error, window) from None
            except RetriableAPIError as error:
                refused = error.response
                if refused is None or refused.status_code not in {429, 504}:
                    raise
                if refused.status_code == HTTPStatus.GATEWAY_TIMEOUT:
                    raise self._too_slow(str(error), window) from None
                asked = refused.headers.get("Retry-After", "")
                wait = max(float(asked), 1.0) if asked.isdecimal() else UNSTATED_WAIT
                waited += wait
                if self.testing or waited > MAX_WAIT:
                    raise CrankWheelError(f"{error}.") from None
                if self.shared.pause(self.backoff_jitter(wait)):
                    self.logger.warning("%s: %s; waiting %.0f seconds", self.name, error, wait)

    def _connection_error(self, error: Exception, window: Window | None) -> Exception:
        """Return what a failed connection means; not in the error's words, which hold the URL."""
        cause = _root(error)
        kind = type(cause).__name__
        host = urlsplit(self.url_base).netloc.rpartition("@")[2]
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice = "set REQUESTS_CA_BUNDLE to a file with the certificates to trust."
            return CrankWheelError(f"the certificate of {host} is not trusted: {advice}")
        if isinstance(cause, ssl.SSLError) and cause.reason in _NOT_TLS:
            return CrankWheelError(f"{host} does not speak TLS: check the port in api_url.")
        if isinstance(error, ValueError):
            return CrankWheelError(f"the request or its response is not valid HTTP ({kind}).")
        if not isinstance(error, requests.RequestException):
            return CrankWheelError("REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names no file.")
        if isinstance(cause, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
            return self._too_slow(f"no response within {self.timeout} seconds", window)
        return RetriableAPIError(
            f"the connection to {host} failed ({kind}): check api_url, your network and your proxy"
        )

    def _too_slow(self, reason: str, window: Window | None) -> Exception:
        return RangeRefusedError(f"{reason}.") if self.halves(window) else RetriableAPIError(reason)

    def _request_name(self, window: Window | None) -> str:
        path = self.path.format(usage_endpoint=self.shared.usage_endpoint)
        return f"GET {path} for {window}" if window else f"GET {path}"

    @override
    def validate_response(self, response: requests.Response) -> None:
        """Raise for any status but 200.

        Raises:
            RetriableAPIError: Another attempt may succeed.
            RangeRefusedError: The API may accept a shorter range.
            NoAccessError: The key may not read the path, or the account does not have it.
            CrankWheelError: Any other error.
        """
        status = response.status_code
        if status == HTTPStatus.OK:
            return
        _ = response.content  # read, so that the connection can be used again
        message = self.response_error_message(response)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in self.extra_retry_statuses:
            raise RetriableAPIError(message, response)
        if status in _REFUSES_RANGE:
            raise RangeRefusedError(f"{message}.")
        raise _NO_ACCESS.get(status, CrankWheelError)(f"{message}.")

    @override
    def response_error_message(self, response: requests.Response) -> str:
        """Say what to do; not in the server's words, which might repeat the key."""
        status = response.status_code
        answered = f"the API answered {status} {responses.get(status, '')}".rstrip()
        if location := response.headers.get("Location"):
            host = urlsplit(urljoin(self.url_base, location)).hostname
            return f"{answered}: it redirects to {host}: if the API is there, set api_url to it"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in self.extra_retry_statuses:
            return answered
        advice = _ADVICE.get(status, "the tap does not know what this status means here")
        if self.without_access and status in _NO_ACCESS:
            advice += f". {self.without_access}"
        return f"{answered}: {advice}"

    @override
    def request_decorator(self, func: Callable[..., T]) -> Callable[..., T]:
        """Return a function that retries, without the SDK's logger, which names the URL."""
        return backoff.on_exception(
            self.backoff_wait_generator,
            RetriableAPIError,
            max_tries=self.backoff_max_tries,
            on_backoff=self.backoff_handler,
            jitter=self.backoff_jitter,
            logger=None,
        )(func)

    @override
    def backoff_max_tries(self) -> int:
        return MAX_TEST_ATTEMPTS if self.testing else MAX_ATTEMPTS

    @override
    def backoff_handler(self, details: Details) -> None:
        name, tries = self._request_name(details["args"][1]), details["tries"]
        error, wait = details["exception"], details["wait"]
        most = self.backoff_max_tries()
        self.logger.warning(
            "%s, attempt %d of %d: %s; the next in %.0f seconds", name, tries, most, error, wait
        )

    # --- records ----------------------------------------------------------------------------------

    @classmethod
    def parse(cls, payload: Payload, parse_row: ObjectParser) -> Iterable[Row]:
        """Return the rows of a payload that lists them.

        Args:
            payload: The payload.
            parse_row: Parses an item by the stream's schema, `computed` aside.

        Raises:
            InvalidPayloadError: The payload, or an item in it, has another form.
        """
        raise NotImplementedError

    @override
    def request_records(self, context: Context | None) -> Iterator[Row]:
        with self.get_http_request_counter() as counter:
            payload = self.count(self.get(), counter)
        yield from self.parse(payload, self.parse_row)

    def count(self, page: Page, counter: metrics.Counter) -> Payload:
        """Log the SDK's metrics of a request, in order and not from its thread."""
        counter.increment()
        if isinstance(page.payload, dict):
            self._unknown.update(loggable_names(page.payload.keys() - self.envelope))
        metric, tags = metrics.Metric.HTTP_REQUEST_DURATION, {"stream": self.name}
        metrics.log(self.metrics_logger, metrics.Point("timer", metric, page.seconds, tags))
        return page.payload

    @override
    def get_records(self, context: Context | None) -> Iterator[Record]:
        self._unknown = unknown = set[str]()  # for the log alone
        try:
            for record in self.request_records(context):
                if extra := record.get("extra"):
                    unknown.update(loggable_names(extra))
                for name in self._objects:
                    if extra := record[name]["extra"]:
                        unknown.update(f"{name}.{field}" for field in loggable_names(extra))
                yield record
        except InvalidPayloadError as error:
            advice = "Check api_url; if it is right, the API is not as the tap knows it."
            raise CrankWheelError(f"{self.name}: {error}. {advice}") from None
        if unknown:
            names = ", ".join(sorted(unknown)[:20])
            self.logger.info("%s: the API sends unknown fields: %s", self.name, names)
        if not self.testing:
            # The SDK writes it before the first request. A list that then fails to arrive would
            # mark all its rows as deleted.
            self.writer.activate_versions()

    @override
    def apply_catalog(self, catalog: Catalog) -> None:
        """Take the selection from a catalog. Keys, names and fields are the stream's own."""
        keys, own = self.primary_keys, self.replication_key
        if entry := catalog.get_stream(self.name):
            if entry.stream not in {None, self.name}:
                raise CrankWheelError(f"--catalog renames {self.name}: use a stream map.")
            if not entry.metadata:  # then everything is selected
                entry.metadata.root.selected = True
            entry.key_properties = [*keys]
            given = entry.schema.properties or {}
            for key in filter(None, (*keys, own)):
                given[key] = Schema.from_dict(self.schema["properties"][key])
                entry.metadata["properties", key].inclusion = Metadata.InclusionType.AUTOMATIC
            for breadcrumb in _taken_out(self.schema, entry.schema.to_dict()):
                entry.metadata[breadcrumb] = Metadata(selected=False)
        super().apply_catalog(catalog)
        if (by := self.replication_key) not in {None, own}:
            raise CrankWheelError(f"--catalog: {self.name} cannot be replicated by {by}.")
        self.primary_keys, self.replication_key = keys, own  # also where the catalog names none
        if own is None:
            self.forced_replication_method = None

    @override
    def get_batch_config(self, config: Mapping[str, Any]) -> None:
        """Return none: batch files would hold fields that are deselected."""

    @override
    def generate_child_contexts(self, record: Record, context: Context | None) -> Iterable[Context]:
        """Return none: no stream has children, and the SDK would copy each record for them."""
        return ()

    @override
    def log(self, message: str, *args: Any, level: int = logging.INFO, **kwargs: Any) -> None:
        """Log the SDK's own lines at level debug: an error is logged where it ends the run."""
        super().log(message, *args, level=logging.DEBUG, **kwargs)


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


def loggable_names(names: Iterable[str]) -> Iterable[str]:
    """Return names, masking those that may be a person's, not a field's."""
    return (name if _FIELD_NAME.fullmatch(name) else "…" for name in names)


def _taken_out(schema: Row, given: Row, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the breadcrumbs of the properties that a catalog's schema does not have."""
    for name, own in schema["properties"].items():
        breadcrumb = (*place, "properties", name)
        if name not in given["properties"]:
            yield breadcrumb
        elif "properties" in own and "properties" in given["properties"][name]:
            yield from _taken_out(own, given["properties"][name], breadcrumb)


def _root(error: BaseException) -> BaseException:
    """Return what an exception of `requests` wraps."""
    while True:
        inner = getattr(error, "reason", None) or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            return error
        error = inner
