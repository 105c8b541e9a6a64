"""One HTTP conversation with the API: URL, headers, tries, and what an error means."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from http.client import responses
from typing import IO, TYPE_CHECKING, Any
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
    Window,
    query,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from singer_sdk.helpers.types import Context, Record

    from tap_crankwheel.auth import CrankWheelAuthenticator
    from tap_crankwheel.payloads import Answer
    from tap_crankwheel.tap import TapCrankWheel

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


class Traffic:
    """The requests of a run, of all its streams and threads: what they cost, and when they begin.

    Attributes:
        requests: How many were sent.
        retries: How many of these were sent again.
        held: How many seconds none could begin, since the API limits their rate.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.retries = 0
        self.held = 0.0
        self._until = 0.0
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return (
            f"Requests: {self.requests}, of which tries again: {self.retries}; "
            f"held by rate limits: {self.held:.0f} seconds"
        )

    def hold(self, seconds: float) -> None:
        """Let no request begin for some seconds."""
        with self._lock:
            now = time.monotonic()
            longer = now + seconds - max(self._until, now)
            if longer > 0:
                self.held += longer
                self._until = now + seconds

    def begin(self, *, again: bool) -> None:
        """Wait until a request may begin, and count it."""
        while (left := self._until - time.monotonic()) > 0:
            time.sleep(left)
        with self._lock:
            self.requests += 1
            self.retries += again


def retry_after(response: requests.Response) -> float | None:
    """Return the seconds that a Retry-After header asks for, a number or an HTTP date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (OverflowError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


class CrankWheelStream(RESTStream[None]):
    """A stream that asks the CrankWheel API. It only ever sends GET."""

    allow_redirects = False
    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE  # payloads types the rows
    _LOG_REQUEST_METRICS = False  # private; a line a request, thousands in a backfill
    _tap: TapCrankWheel

    def __init__(self, tap: TapCrankWheel) -> None:
        """Take the tap, and leave its settings there."""
        super().__init__(tap)
        self.logger.addFilter(_told_otherwise)

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

    @cached_property
    @override
    def requests_session(self) -> requests.Session:
        session = requests.Session()
        # What the SDK sends a request with does not look at REQUESTS_CA_BUNDLE.
        settings = session.merge_environment_settings(self.url_base, {}, None, None, None)
        session.verify = settings["verify"]
        return session

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

    @property
    def host(self) -> str:
        """The host that requests go to."""
        return str(urlsplit(self.url_base).hostname)

    @override
    def log_sync_costs(self) -> None:
        """Tell what the run cost. The SDK asks each stream at the end; they share the traffic."""
        if self is list(self._tap.streams.values())[-1]:
            self._tap.logger.info("%s", self._tap.traffic)

    def get(
        self,
        path: str,
        window: Window | None = None,
        *,
        margin: timedelta = MARGIN,
        divisible: bool = False,
    ) -> Answer:
        """Ask for a path, again and again where that may help.

        Args:
            path: The path of the endpoint below the API's URL; it may name settings in braces.
            window: The range to ask for, sent as `from` and `to`.
            margin: How much is added to the range on both sides.
            divisible: Whether the caller can ask for less, so that slow answers are not waited for
                more than twice.

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
            on_backoff=functools.partial(self._before_retry, what),
            logger=None,
        )
        def converse() -> Answer:
            nonlocal tries
            tries += 1
            self._tap.traffic.begin(again=tries > 1)
            try:
                # The SDK's single request is private; its decorator of retries logs each one twice.
                return payloads.parse(self._request(request, None).content)
            except TryAgainError as error:
                error.slow &= divisible
                raise
            except _PASSING_FAULTS as error:  # their text holds the URL
                cause = _root(error)
                if isinstance(cause, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
                    reason = f"no answer within {self.timeout} seconds"
                    raise TryAgainError(reason, slow=divisible) from None
                reason = f"the connection to {self.host} failed ({type(cause).__name__})"
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
        wait = retry_after(response)
        if wait:
            name += f" and asks to wait {wait:.0f} seconds"
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise TryAgainError(name, wait=wait, rate_limited=True)
        if status in {HTTPStatus.REQUEST_TIMEOUT, *range(500, 600)}:
            raise TryAgainError(name, wait=wait, slow=status == HTTPStatus.GATEWAY_TIMEOUT)
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
        host = parts.netloc.rpartition("@")[2]
        place = f"{parts.scheme}://{host}{quote(parts.path, safe='/%')}"
        key = str(self.config["api_key"]).strip().lower()
        return "an address with the key in it" if key in unquote(place).lower() else place

    def _before_retry(self, what: str, details: Any) -> None:  # noqa: ANN401 - backoff's lack a key
        error: TryAgainError = details["exception"]
        if error.rate_limited:
            self._tap.traffic.hold(details["wait"])
        self.logger.warning(
            "%s: %s, try %d of %d: %s; next in %.0f seconds",
            self.name,
            what,
            details["tries"],
            MAX_TRIES,
            error.reason,
            details["wait"],
        )

    def shape_error(self, error: payloads.ShapeError) -> CrankWheelError:
        """Return the error that tells the user of an answer of another shape."""
        advice = "Check api_url; if it is right, the API is not as the tap knows it"
        if "{usage_endpoint}" in self.path and "/demo_usage" not in str(error):
            other = {"usage": "usage_new", "usage_new": "usage"}[self.config["usage_endpoint"]]
            advice += f", and setting usage_endpoint to {other} may help"
        return CrankWheelError(f"{self.name}: {error}. {advice}.")


def _told_otherwise(record: logging.LogRecord) -> bool:
    """Leave out what the SDK says of a stream and this tap says better.

    The streams log their ranges themselves, an error is told where it ends the run, and that
    `--test` stops after a record is none.
    """
    return not str(record.msg).startswith(
        ("Beginning sync of", "Starting incremental sync of", "An unhandled error occurred")
    )


def _waits() -> Generator[float, Any, None]:
    """Yield how long to wait in seconds after each failure; end when another try is no use."""
    error: TryAgainError = yield 0.0
    waited, slow = 0.0, 0
    for delay in (2.0**n for n in itertools.count(1)):
        slow += error.slow
        wait = error.wait or delay  # a date that has passed by this clock is none to go by
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
