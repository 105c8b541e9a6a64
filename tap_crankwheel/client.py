"""The client: requests to the API, their retries, and what a status means."""

from __future__ import annotations

import logging
import random
import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import responses
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

import requests
import urllib3

from tap_crankwheel import payloads
from tap_crankwheel.errors import (
    CrankWheelError,
    FailedAttemptError,
    NoAccessError,
    NotJSONError,
    RangeRefusedError,
)
from tap_crankwheel.throttle import Throttle
from tap_crankwheel.windows import MARGIN, query

if TYPE_CHECKING:
    from datetime import timedelta

    from tap_crankwheel.auth import CrankWheelAuthenticator
    from tap_crankwheel.payloads import Answer
    from tap_crankwheel.throttle import Clock
    from tap_crankwheel.windows import Window

#: Attempts per request, those aside that waited for a rate limit as long as the API asked; total
#: seconds of waiting between them.
MAX_ATTEMPTS = 8
MAX_WAIT = 3600.0
IMPATIENT_WAIT = 10.0
#: How many times its time-out an answer may take in all, though it never falls silent for so long.
SLOWEST = 10
CHUNK = 2**16  # bytes

_TRANSIENT = (
    requests.ConnectionError,
    requests.Timeout,
)
_UNREACHABLE = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.NameResolutionError)
_REFUSES_RANGE = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}

logger = logging.getLogger("tap-crankwheel.client")


class Client:
    """The API over HTTP. It only ever sends GET, and threads may share it.

    Args:
        url: The URL of the API, such as `https://meeting.is/ss/api`.
        auth: Adds the API key to each request.
        timeout: Seconds of silence from the server after which an attempt has failed; so has one
            whose answer takes `SLOWEST` times as long in all.
        parallel: How many requests may be under way at a time.
        user_agent: The value of the header User-Agent.
        clock: What tells the time and waits.

    Attributes:
        throttle: How many requests were sent so far, and when the next may be.
        host: The host that requests go to, with its port if the URL has one.
        impatient: Whether to give up within ten seconds if nothing answers at all, as for a test.
    """

    def __init__(  # noqa: PLR0913 - four of them have defaults
        self,
        url: str,
        auth: CrankWheelAuthenticator,
        *,
        timeout: float = 90,
        parallel: int = 4,
        user_agent: str = "tap-crankwheel",
        clock: Clock = time,
    ) -> None:
        self.throttle = Throttle(clock, parallel)
        self.host = urlsplit(url).netloc.rpartition("@")[2]
        self.impatient = False
        self._url = url.rstrip("/")
        self._auth = auth
        self._timeout = timeout
        self._clock = clock
        self._session = requests.Session()
        self._session.auth = auth
        self._session.headers.update({"Accept": "application/json", "User-Agent": user_agent})

    def get(
        self,
        path: str,
        window: Window | None = None,
        *,
        margin: timedelta = MARGIN,
        divisible: bool = False,
    ) -> Answer:
        """GET a path, retrying transient failures.

        Args:
            path: The path of the endpoint below the API's URL.
            window: The range to request, sent as `from` and `to`.
            margin: How much is added to the range on both sides.
            divisible: Whether the caller can request less, so that a slow answer is retried only
                once.

        Returns:
            The answer, its outer layer parsed.

        Raises:
            RangeRefusedError: The API does not answer for this range, but may for a shorter one.
            CrankWheelError: The API does not answer, or refuses to.
        """
        name = f"GET {path} for {window}" if window else f"GET {path}"
        params = query(window, margin) if window else None
        started = self._clock.monotonic()
        attempts, failures, slow, waited = 0, 0, 0, 0.0
        while True:
            attempts += 1
            try:
                with self.throttle.request(retry=attempts > 1):
                    return self._attempt(path, params)
            except FailedAttemptError as error:
                can_be_shorter = error.slow and divisible
                slow += can_be_shorter
                failures += not (error.rate_limited and error.wait)
                wait = error.wait or 2.0**failures  # a past date gives no wait: use the delay
                waited += wait
                limit = IMPATIENT_WAIT if self.impatient and error.unreachable else MAX_WAIT
                seconds = self._clock.monotonic() - started  # also while others were refused
                if failures == MAX_ATTEMPTS or max(waited, seconds) > limit or slow > 1:
                    kind = RangeRefusedError if can_be_shorter else CrankWheelError
                    raise kind(
                        f"{name} failed {attempts} times in {seconds:.0f} seconds, at last: "
                        f"{error.reason}."
                    ) from None
                self._wait(name, error, failures, wait + random.random())  # noqa: S311 - jitter
            except CrankWheelError as error:
                raise type(error)(f"{name}: {error.message}") from None

    def _wait(self, name: str, error: FailedAttemptError, failures: int, seconds: float) -> None:
        """Wait before the next attempt; for a rate limit, let the other requests wait as well."""
        if not error.rate_limited:
            logger.warning(
                "%s, attempt %d of %d: %s; the next in %.0f seconds",
                *(name, failures, MAX_ATTEMPTS, error.reason, seconds),
            )
            self._clock.sleep(seconds)
            return
        level = logging.WARNING if self.throttle.pause(seconds) else logging.DEBUG
        logger.log(level, "%s: %s", name, error.reason)

    def _attempt(self, path: str, params: dict[str, str] | None) -> Answer:
        """Send one request and parse its answer. The text of its errors may hold the key."""
        try:
            with self._session.get(
                self._url + path,
                params=params,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                body = self._body(response)  # also of an error, or its connection is lost
                self._check_status(response)
                return payloads.parse(body)
        except _TRANSIENT as error:
            cause = _root(error)
            if isinstance(cause, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
                reason = f"no answer within {self._timeout} seconds"
                raise FailedAttemptError(reason, slow=True) from None
            reason = f"the connection to {self.host} failed ({type(cause).__name__})"
            unreachable = isinstance(cause, _UNREACHABLE)
            if unreachable:
                reason += ": check api_url, your network and your proxy"
            raise FailedAttemptError(reason, unreachable=unreachable) from None
        except NotJSONError:
            reason = "the answer is not JSON: does api_url point to the API?"
            raise FailedAttemptError(reason) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise CrankWheelError(
                f"the request or its answer is not valid HTTP ({type(error).__name__}).",
            ) from None

    def _body(self, response: requests.Response) -> bytes:
        """Read a body as it arrives, since one that drips for ever is never silent."""
        end = self._clock.monotonic() + SLOWEST * self._timeout
        parts = []
        try:
            while part := response.raw.read1(CHUNK, decode_content=True):
                parts.append(part)
                if self._clock.monotonic() > end:
                    reason = f"the answer is not complete after {SLOWEST * self._timeout} seconds"
                    raise FailedAttemptError(reason, slow=True)
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error) from error  # as requests itself does
        return b"".join(parts)

    def _check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status == HTTPStatus.OK:
            return
        # Not the server's own words for the status, which might repeat the key.
        answered = f"the API answered {status} {responses.get(status, '')}".rstrip()
        wait = retry_after(response.headers.get("Retry-After", ""), self._clock.time())
        if wait:
            answered += f" and asks to wait {wait:.0f} seconds"
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise FailedAttemptError(answered, wait=wait, rate_limited=True)
        if status in {HTTPStatus.REQUEST_TIMEOUT, *range(500, 600)}:
            slow = status == HTTPStatus.GATEWAY_TIMEOUT
            raise FailedAttemptError(answered, wait=wait, slow=slow)
        if status in _REFUSES_RANGE:
            raise RangeRefusedError(f"{answered}: it refuses the request, perhaps its range.")
        no_access = status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}
        kind = NoAccessError if no_access else CrankWheelError
        raise kind(f"{answered}: {self._advice(status, response.headers.get('Location'))}.")

    def _advice(self, status: int, location: str | None) -> str:
        """Return what to do about a status that no retry would change."""
        if location is not None:
            return f"it redirects to {self._safe(location)}: if the API is there, set api_url to it"
        if status == HTTPStatus.UNAUTHORIZED:
            return (
                "it rejects the key: check api_key against the API tab of your CrankWheel account"
            )
        if status == HTTPStatus.FORBIDDEN:
            return (
                "the key may not read this: use a key that an administrator made on the API tab of "
                "your CrankWheel account"
            )
        if status == HTTPStatus.NOT_FOUND:
            return f"there is no such address: check api_url ({self._safe(self._url)})"
        return "the tap does not know what this status means here"

    def _safe(self, url: str) -> str:
        """Return a URL without what may be a secret in it: user, query and the key."""
        parts = urlsplit(urljoin(self._url, url))
        host = parts.netloc.rpartition("@")[2]
        safe = f"{parts.scheme}://{host}{quote(parts.path, safe='/%')}"
        return "an address with the key in it" if self._auth.appears_in(safe) else safe


def retry_after(value: str, now: float) -> float | None:
    """Read the value of a header Retry-After.

    Args:
        value: A number of seconds, or an HTTP date.
        now: The seconds since 1970, UTC.

    Returns:
        How many seconds to wait; None if the value is neither.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (OverflowError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.fromtimestamp(now, timezone.utc)).total_seconds())


def _root(error: BaseException) -> BaseException:
    """Return what an exception of `requests` wraps."""
    while True:
        inner = getattr(error, "reason", None) or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            return error
        error = inner
