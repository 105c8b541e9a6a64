"""The base class of streams: how the API is called."""

from __future__ import annotations

import logging
import re
import ssl
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http import HTTPStatus
from http.client import responses
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
from tap_crankwheel.errors import CrankWheelError, InvalidPayloadError, RangeRefusedError
from tap_crankwheel.rows import ObjectParser
from tap_crankwheel.schemas import SCHEMAS
from tap_crankwheel.settings import LOCAL_HOSTS
from tap_crankwheel.windows import Window

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

MAX_ATTEMPTS, MAX_TEST_ATTEMPTS = 8, 2
MAX_TEST_TIMEOUT = 10  # seconds
MAX_WAIT = 3600.0  # seconds that a request waits for rate limits, in all
DEFAULT_RETRY_AFTER = 10.0  # seconds, where a rate limit does not say how long to wait
CHUNK = 2**20  # bytes; `Response.content` reads 10 KB at a time, which slows threads down

#: How the API names its fields; a name of another form may be a person's.
_FIELD_NAME = re.compile(r"[a-z][A-Za-z0-9_-]{0,63}")
_SECONDS = re.compile(r"\d+(\.\d+)?")

_NOT_A_URL = requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL
#: How OpenSSL reports a response that is not TLS.
_NOT_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
_ADVICE = {
    400: "it refuses the request. If its range lies too far back, set a later start_date. If it "
    "ends now, check this machine's clock",
    401: "it rejects the key: check api_key against the API tab of your CrankWheel account",
    403: "the key may not read this: use a key that an administrator created. If it could before, "
    "the API may limit requests: run again later",
    404: "there is no such address: check api_url",
}
_REFUSES_RANGE = {400, 413, 422}  # a shorter one may succeed


@dataclass
class RunContext:
    """What the streams of a run share.

    Attributes:
        settings: The settings.
        clock: The `time` module, or a fake of it.
        warned_of_no_session: Whether the log says that no response held a session.
        period_totals: The totals of agents that `account_stats` counted, by period, as JSON: as
            objects, those of a busy year by hour would take 200 MB more.
    """

    settings: Settings
    clock: Any
    warned_of_no_session: bool = False
    period_totals: dict[Window, bytes] = field(default_factory=dict)
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


class Response(NamedTuple):
    """A response.

    Attributes:
        payload: What its body holds.
        seconds: How long it took to begin.
    """

    payload: Payload
    seconds: float


class CrankWheelStream(RESTStream[Window]):
    """A stream over the CrankWheel API.

    Args:
        tap: The tap, whose writer holds ACTIVATE_VERSION messages back.
        run: What the streams of a run share.
    """

    url_base = ""  # of the settings
    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE  # rows are typed where they are parsed
    allow_redirects = False  # the key would go along
    extra_retry_statuses = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)

    #: The fields that the tap computes; what the API sends under such a name goes into `extra`.
    computed: ClassVar[tuple[str, ...]] = ()
    #: What a payload is known to hold.
    envelope: ClassVar[frozenset[str]] = frozenset()
    #: What else to do where the API responds with a status.
    further_advice: ClassVar[Mapping[int, str]] = {}

    def __init__(self, tap: Tap, run: RunContext) -> None:
        self.run = run
        self.settings = run.settings
        self.url_base = run.settings.api_url
        self.now = datetime.fromtimestamp(int(run.clock.time()), timezone.utc)
        schema = self.customize_schema(SCHEMAS.get_schema(self.name))
        super().__init__(tap, schema=schema)
        self.state_writer = tap.state_writer
        self.writer = cast("MessageWriter", tap.message_writer)
        self.user_agent = f"{tap.name}/{tap.plugin_version}"
        self.path = self.path.format(usage_endpoint=self.settings.usage_endpoint)
        self.row_parser = self.item_parser = ObjectParser(schema, self.computed)
        self._object_fields = [k for k, v in schema["properties"].items() if "properties" in v]
        session = self.requests_session
        session.stream = True
        # Prepared requests ignore REQUESTS_CA_BUNDLE, unless the session is told of it.
        environment = session.merge_environment_settings(self.url_base, {}, None, None, None)
        session.verify = environment["verify"]
        if urlsplit(self.url_base).hostname in LOCAL_HOSTS:
            session.trust_env = False  # no proxy of the environment leads there

    def customize_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the stream's schema with what depends on the settings."""
        return schema

    # --- requests ---------------------------------------------------------------------------------

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

    def shorter_windows(self, window: Window | None) -> list[Window]:
        """Return the halves of a window that the API refused; none if an hour or less."""
        return [] if window is None or self.testing else windows.halve(window)

    def fetch(self, window: Window | None = None) -> Response:
        """Request the stream's path, retrying transient failures; threads may call it.

        Args:
            window: The range to request.

        Raises:
            RangeRefusedError: The API refuses this range, but may accept a shorter one.
            CrankWheelError: The API does not respond, or refuses.
        """
        name = self._request_name(window)
        try:
            request = self.prepare_request(None, window)
            return self.request_decorator(self._send)(request, window)
        except RetriableAPIError as error:
            failed = f"{name} failed {self.backoff_max_tries()} times"
            raise CrankWheelError(f"{failed}, last error: {error}. Run again later.") from None
        except CrankWheelError as error:
            raise type(error)(f"{name}: {error.message}") from None

    def _send(self, request: requests.PreparedRequest, window: Window | None) -> Response:
        """Send a request, again where the API asks to wait, and parse the response's body."""
        waited = 0.0
        while True:
            self.run.wait()
            try:
                response = self.requests_session.send(
                    request, timeout=self.timeout, allow_redirects=self.allow_redirects
                )
                self.validate_response(response)
                body = b"".join(response.iter_content(CHUNK))
                return Response(payloads.parse(body), response.elapsed.total_seconds())
            except InvalidPayloadError as error:
                raise RetriableAPIError(f"{error}: check api_url and your proxy") from None
            except (OSError, ValueError) as error:  # as the errors of requests are
                raise self._connection_error(error, window) from None
            except RetriableAPIError as error:
                refused = error.response
                if refused is None or refused.status_code not in {429, 504}:
                    raise
                if refused.status_code == HTTPStatus.GATEWAY_TIMEOUT:
                    raise self._timeout_error(str(error), window) from None
                asked = refused.headers.get("Retry-After", "")
                wait = max(float(asked), 1.0) if _SECONDS.fullmatch(asked) else DEFAULT_RETRY_AFTER
                waited += wait
                if self.testing or waited > MAX_WAIT:
                    advice = f"a wait of {waited:.0f} seconds in all is too long. Run again later."
                    raise CrankWheelError(f"{error}: {advice}") from None
                if self.run.pause(self.backoff_jitter(wait)):
                    self.logger.warning("%s: %s; waiting %.0f seconds", self.name, error, wait)

    def _connection_error(self, error: Exception, window: Window | None) -> Exception:
        """Return what a failed connection means; not in the error's words, which hold the URL."""
        cause = _root_cause(error)
        kind, host = type(cause).__name__, urlsplit(self.url_base).netloc.rpartition("@")[2]
        if isinstance(cause, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
            return self._timeout_error(f"no response within {self.timeout} seconds", window)
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice = "set REQUESTS_CA_BUNDLE to a file with the certificates to trust."
            said = f"the certificate of {host} is not trusted: {advice}"
        elif isinstance(cause, ssl.SSLError) and cause.reason in _NOT_TLS:
            said = f"{host} does not speak TLS: check the port in api_url."
        elif isinstance(error, _NOT_A_URL):  # of the proxy: api_url was checked
            advice = "write it as http://<host>:<port>, or install PySocks for a SOCKS proxy."
            said = f"the proxy in HTTPS_PROXY or ALL_PROXY cannot be used: {advice}"
        elif isinstance(error, ValueError):
            said = f"the request or its response is not valid HTTP ({kind}): check api_url."
        elif not isinstance(error, requests.RequestException):
            said = "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names a missing file: correct it."
        else:
            advice = "check api_url, your network and your proxy"
            return RetriableAPIError(f"the connection to {host} failed ({kind}): {advice}")
        return CrankWheelError(said)

    def _timeout_error(self, reason: str, window: Window | None) -> Exception:
        if self.shorter_windows(window):
            return RangeRefusedError(f"{reason}.")
        return RetriableAPIError(reason)

    def _request_name(self, window: Window | None) -> str:
        return f"GET {self.path} for {window}" if window else f"GET {self.path}"

    @override
    def validate_response(self, response: requests.Response) -> None:
        """Raise for any status but 200.

        Raises:
            RetriableAPIError: Another attempt may succeed.
            RangeRefusedError: The API may accept a shorter range.
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
        raise CrankWheelError(f"{message}.")

    @override
    def response_error_message(self, response: requests.Response) -> str:
        """Say what to do; not in the server's words, which might repeat the key."""
        status = response.status_code
        said = f"the API responded {status} {responses.get(status, '')}".rstrip()
        if location := response.headers.get("Location"):
            host = urlsplit(urljoin(self.url_base, location)).hostname
            return f"{said}: it redirects to {host}. If the API is there, set api_url to it"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in self.extra_retry_statuses:
            return said
        advice = _ADVICE.get(status, "the tap does not expect this: check api_url")
        return ". ".join(filter(None, (f"{said}: {advice}", self.further_advice.get(status))))

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
        name = self._request_name(details["args"][1])
        attempt = f"attempt {details['tries']} of {self.backoff_max_tries()}"
        said = f"{name}, {attempt}: {details['exception']}"
        self.logger.warning("%s; retrying in %.0f seconds", said, details["wait"])

    # --- records ----------------------------------------------------------------------------------

    def parse(self, payload: Payload) -> Iterable[Row]:
        """Return the items of a payload that lists them, each parsed by `item_parser`.

        Raises:
            InvalidPayloadError: The payload, or an item in it, has another form.
        """
        raise NotImplementedError

    @override
    def request_records(self, context: Context | None) -> Iterator[Row]:
        with self.get_http_request_counter() as counter:
            payload = self.log_response(self.fetch(), counter)
        yield from self.parse(payload)

    def log_response(self, response: Response, counter: metrics.Counter) -> Payload:
        """Log the SDK's metrics of a request, in order and not from its thread."""
        counter.increment()
        if isinstance(response.payload, dict):
            self._unknown.update(loggable_names(response.payload.keys() - self.envelope))
        metric, tags = metrics.Metric.HTTP_REQUEST_DURATION, {"stream": self.name}
        metrics.log(self.metrics_logger, metrics.Point("timer", metric, response.seconds, tags))
        return response.payload

    @override
    def get_records(self, context: Context | None) -> Iterator[Record]:
        self._unknown = unknown = set[str]()  # for the log alone
        try:
            for record in self.request_records(context):
                if extra := record.get("extra"):
                    unknown.update(loggable_names(extra))
                for name in self._object_fields:
                    if extra := record[name]["extra"]:
                        unknown.update(f"{name}.{field}" for field in loggable_names(extra))
                yield record
        except InvalidPayloadError as error:
            advice = f"{error.advice}. If the error remains, please report it."
            raise CrankWheelError(f"{self.name}: {error}: {advice}") from None
        if unknown:
            names = ", ".join(sorted(unknown)[:20])
            more = f", and {len(unknown) - 20} more" if len(unknown) > 20 else ""  # noqa: PLR2004
            self.logger.info("%s: the API sends unknown fields: %s%s", self.name, names, more)
        # Not before: a list that fails to arrive would mark all its rows as deleted.
        self.writer.activate_versions()

    @override
    def apply_catalog(self, catalog: Catalog) -> None:
        """Take the selection from a catalog. Keys, names and fields are the stream's own."""
        keys, replication_key = self.primary_keys, self.replication_key
        missing: list[tuple[str, ...]] = []
        if entry := catalog.get_stream(self.name):
            entry.stream = self.name
            if not entry.metadata:  # then everything is selected
                entry.metadata.root.selected = True
            entry.key_properties = [*keys]
            entry.schema.properties = given = entry.schema.properties or {}
            for key in filter(None, (*keys, replication_key)):
                given[key] = Schema.from_dict(self.schema["properties"][key])
                entry.metadata["properties", key].inclusion = Metadata.InclusionType.AUTOMATIC
            missing += _missing_properties(self.schema, entry.schema.to_dict())
            for breadcrumb in missing:
                entry.metadata[breadcrumb] = Metadata(selected=False)
        super().apply_catalog(catalog)
        # Whatever the catalog names.
        self.primary_keys, self.replication_key = keys, replication_key
        if replication_key is None:
            self.forced_replication_method = None
        if missing and self.selected:
            names = ", ".join(".".join(breadcrumb[1::2]) for breadcrumb in missing)
            self.logger.warning("%s: fields not in --catalog are not sent: %s", self.name, names)

    @override
    def get_batch_config(self, config: Mapping[str, Any]) -> None:
        """Return none: batch files would hold fields that are deselected."""

    @override
    def generate_child_contexts(self, record: Record, context: Context | None) -> Iterable[Context]:
        """Return nothing: no stream has children, and the SDK would copy each record for them."""
        return ()

    @override
    def log(self, message: str, *args: Any, level: int = logging.INFO, **kwargs: Any) -> None:
        """Log the SDK's own lines at level debug: an error is logged where it ends the run."""
        super().log(message, *args, level=logging.DEBUG, **kwargs)


def loggable_names(names: Iterable[str]) -> Iterable[str]:
    """Return names, masking those that may be a person's, not a field's."""
    return (name if _FIELD_NAME.fullmatch(name) else "…" for name in names)


def _missing_properties(
    schema: Row, given: Row, place: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Yield the breadcrumbs of the properties that a catalog's schema does not have."""
    for name, own in schema["properties"].items():
        breadcrumb = (*place, "properties", name)
        if name not in given["properties"]:
            yield breadcrumb
        elif "properties" in own and "properties" in given["properties"][name]:
            yield from _missing_properties(own, given["properties"][name], breadcrumb)


def _root_cause(error: BaseException) -> BaseException:
    """Return what an exception of `requests` wraps."""
    while True:
        inner = getattr(error, "reason", None) or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            return error
        error = inner
