"""The HTTP conversation: what is tried again, what ends a run, and what is said."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import requests
import urllib3

from tap_crankwheel.auth import CrankWheelAuthenticator
from tap_crankwheel.client import Client, retry_after
from tap_crankwheel.errors import CrankWheelError, NoAccessError, RangeRefusedError
from tap_crankwheel.sandbox.server import API_KEY, Behaviour, Sandbox
from tests.support import (
    NOW,
    STREAMS,
    FakeClock,
    Output,
    Row,
    ScriptedSandbox,
    canonical,
    captured,
    config_for,
    expected_requests,
    expected_sessions,
    expected_users,
    small_account,
    sync,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime


def failing(*faults: str | None, **behaviour: object) -> Behaviour:
    return Behaviour(faults=iter(faults), **behaviour)  # type: ignore[arg-type]


def ends_with(
    sandbox: Sandbox,
    *select: str,
    clock: FakeClock | None = None,
    **settings: object,
) -> CrankWheelError:
    """Run the tap until it fails; return the error."""
    with captured(), pytest.raises(CrankWheelError) as caught:
        sync(config_for(sandbox, **settings), select=select or STREAMS, clock=clock)
    assert "\n" not in caught.value.message
    assert API_KEY not in caught.value.message
    return caught.value


# --- retries -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    ["429", "429:7", "408", "500", "502", "503", "503:3", "504", "reset", "truncate", "html"],
)
def test_a_fault_that_passes_costs_nothing(sandbox: Sandbox, clock: FakeClock, fault: str) -> None:
    sandbox.behaviour = failing(fault)
    output = sync(config_for(sandbox), select=("usage_sessions",), clock=clock)
    assert canonical(output.records["usage_sessions"]) == canonical(
        expected_sessions(sandbox.account),
    )
    assert clock.pauses
    _, _, seconds = fault.partition(":")
    low = float(seconds or 2)
    assert low <= clock.pauses[0] <= low + 1  # with up to a second of jitter


FAULTS = ("429:1", "500", "reset", "truncate", "html", "503", "504")


@pytest.mark.parametrize(
    ("limit", "faults"),
    [
        (1, itertools.cycle([turn for fault in FAULTS for turn in (None, fault)])),
        (4, iter(FAULTS)),  # one less than tries, for they may all meet the same request
        (4, iter([*[None] * 40, *FAULTS])),
    ],
)
def test_many_faults_cost_nothing(
    sandbox: Sandbox,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    limit: int,
    faults: Iterator[str | None],
) -> None:
    sandbox.behaviour = Behaviour(faults=faults)
    output = sync(config_for(sandbox, window_days=1, max_parallel_requests=limit), clock=clock)
    account = sandbox.account
    assert canonical(output.records["usage_sessions"]) == canonical(expected_sessions(account))
    assert canonical(output.records["demo_requests"], "id") == canonical(
        expected_requests(account),
        "id",
    )
    assert canonical(output.records["users"]) == canonical(expected_users(account))
    retries = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(retries) >= len(FAULTS)
    pattern = r"GET /\w+( for .* UTC)?(, attempt \d of 8: |: the API answered 429 )"
    assert all(re.match(pattern, line) for line in retries)


class Hurried(FakeClock):
    """A clock on which each look takes a minute, so that each part of an answer does."""

    def monotonic(self) -> float:
        self.advance(60)
        return super().monotonic()


def test_an_answer_that_drips_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    large = [{"email": "ann@example.com", "more": "x" * 4_000_000}]  # more than sixteen parts
    with ScriptedSandbox(users=large).running() as sandbox:
        error = ends_with(sandbox, "users", clock=Hurried(), request_timeout=90)
    assert "the answer is not complete after 900 seconds" in error.message
    assert "the answer is not complete after 900 seconds; the next in" in caplog.text


def test_a_range_whose_answer_drips_is_requested_in_halves() -> None:
    def usage(start: datetime, end: datetime) -> Row:
        long = end - start > timedelta(days=4)
        return {"sessions": [], "more": "x" * (4_000_000 if long else 1)}

    with ScriptedSandbox(usage=usage).running() as sandbox:
        config = config_for(sandbox, start_date="2026-08-20", end_date="2026-08-27")
        output = sync(config, select=("usage_sessions",), clock=Hurried())
        assert len(sandbox.requests) == 4  # the whole twice, then its halves
    assert output.bookmarks["usage_sessions"] == "2026-08-27T00:00:00.000000Z"


def test_answers_may_be_compressed_and_in_chunks_on_one_connection() -> None:
    connections = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            connections.append(self.client_address)
            super().setup()

        def do_GET(self) -> None:
            self.send_response(403 if self.path == "/demo_usage" else 200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            body = gzip.compress(json.dumps([{"email": "a" * 1000}] * 1000).encode())
            for start in range(0, len(body), 100):
                part = body[start : start + 100]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        client = Client(f"http://127.0.0.1:{server.server_port}", CrankWheelAuthenticator("key"))
        for _ in range(3):
            answer = client.get("/user_access")
            assert isinstance(answer, list)
            assert len(answer) == 1000
            with pytest.raises(NoAccessError):
                client.get("/demo_usage")
        server.shutdown()
    assert len(connections) == 1


@pytest.mark.parametrize(
    "error",
    [
        urllib3.exceptions.DecodeError("broken gzip"),
        urllib3.exceptions.ProtocolError("broken connection"),
        urllib3.exceptions.ReadTimeoutError(
            urllib3.HTTPConnectionPool("127.0.0.1"), "/", "Read timed out."
        ),
        urllib3.exceptions.SSLError("bad record"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_body_that_breaks_is_requested_again(error: Exception, clock: FakeClock) -> None:
    bodies: Iterator[list[bytes | Exception]] = iter([[b"[", error], [b"[]", b""]])

    class Adapter(requests.adapters.HTTPAdapter):
        def send(self, *_: object, **__: object) -> requests.Response:
            parts = iter(next(bodies))

            def read1(*_: object, **__: object) -> bytes:
                part = next(parts)
                if isinstance(part, Exception):
                    raise part
                return part

            response = requests.Response()
            response.status_code = 200
            response.raw = SimpleNamespace(read1=read1, close=lambda: None)
            return response

    client = Client("http://127.0.0.1", CrankWheelAuthenticator("key"), clock=clock)
    client._session.mount("http://", Adapter())
    assert client.get("/user_access") == []
    assert client.throttle.retries == 1


@pytest.mark.parametrize("fault", ["500", "504", "429", "reset", "truncate", "html"])
def test_what_does_not_pass_ends_the_run(sandbox: Sandbox, clock: FakeClock, fault: str) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat(fault))
    error = ends_with(sandbox, "users", clock=clock)
    assert "GET /user_access failed 8 times in " in error.message
    assert len(sandbox.requests) == 8
    assert 254 <= sum(clock.pauses) <= 254 + 7 * 2


def test_waiting_has_a_bound(sandbox: Sandbox, clock: FakeClock) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat("429:1500"))
    error = ends_with(sandbox, "users", clock=clock)
    assert "failed 3 times" in error.message
    assert len(sandbox.requests) == 3
    assert 3000 <= sum(clock.pauses) < 3600


class AnswersFrom:
    """Faults that let the first requests wait until there is one more."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._count = itertools.count()
        self._answered = threading.Event()

    def __iter__(self) -> AnswersFrom:
        return self

    def __next__(self) -> None:
        if next(self._count) < self._first:
            self._answered.wait(60)
        else:
            self._answered.set()


def test_a_timeout_is_tried_again(sandbox: Sandbox, clock: FakeClock) -> None:
    sandbox.behaviour = Behaviour(faults=AnswersFrom(1))
    output = sync(config_for(sandbox, request_timeout=1), select=("users",), clock=clock)
    assert output.records["users"]
    assert len(sandbox.requests) == 2
    assert len(clock.pauses) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("401", "GET /user_access: the API answered 401 Unauthorized: it rejects the key"),
        ("403", "403 Forbidden: the key may not read this"),
        ("404", "404 Not Found: there is no such address: check api_url (http://127.0.0.1"),
        ("418", "418 I'm a Teapot: the tap does not know what this status"),
        ("redirect:http://[::1", "is not valid HTTP (ValueError)"),
        ("redirect:https://elsewhere.example/sandbox-key/x", "an address with the key in it:"),
        ("redirect:https://elsewhere.example/B%20sandbox-key", "an address with the key in it"),
        ("redirect:/ss/api/v2?key=x", "it redirects to http://127.0.0.1:"),
        ("204", "204 No Content"),
        ("599", "599"),
        ("redirect:https://user:pw@elsewhere.example/login?token=x", "it redirects to https://elsewhere.example/login:"),
    ],
)  # fmt: skip
def test_what_no_other_try_would_change(
    sandbox: Sandbox,
    clock: FakeClock,
    fault: str,
    message: str,
) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat(fault))
    error = ends_with(sandbox, "users", clock=clock)
    assert message in error.message
    assert "token" not in error.message
    assert "pw" not in error.message
    tries = 8 if fault == "599" else 1
    assert len(sandbox.requests) == tries
    assert len(clock.pauses) == tries - 1


def test_a_rejected_key(sandbox: Sandbox) -> None:
    for key in ("wrong", "c2FuZGJveC1rZXk="):  # in base64 it is rejected too
        error = ends_with(sandbox, api_key=key)
        assert "it rejects the key: check api_key" in error.message
        assert key not in error.message


def test_an_address_with_nothing_behind_it(sandbox: Sandbox, clock: FakeClock) -> None:
    error = ends_with(sandbox, "users", api_url="http://127.0.0.1:9/ss/api", clock=clock)
    assert "the connection to 127.0.0.1:9 failed (NewConnectionError)" in error.message
    error = ends_with(sandbox, "users", api_url="https://crankwheel.invalid/ss/api", clock=clock)
    assert "the connection to crankwheel.invalid failed (NameResolutionError)" in error.message
    assert clock.pauses


@pytest.mark.parametrize(
    ("stream", "document", "message"),
    [
        ("usage_sessions", {"error": "no"}, "the answer has no `sessions`"),
        ("usage_sessions", [], "the answer is not an object"),
        ("usage_sessions", {"sessions": [{"session_id": 1}]}, "usage_endpoint to usage_new"),
        ("demo_requests", {"sessions": [{"start": 1}]}, "a demo request has no usable `start_ts`"),
        ("account_stats", {"error": "no"}, "the answer has no `sessions`"),
        ("agent_stats", {"sessions": 3}, "`sessions` is not a list"),
        ("users", {"error": "no"}, "neither a list nor an object with one list"),
        ("users", [], "an account has at least its owner"),
    ],
)
def test_an_answer_of_another_shape(stream: str, document: object, message: str) -> None:
    server = ScriptedSandbox(usage=document, demo_usage=document, users=document)
    with (
        server.running() as sandbox,
        captured() as lines,
        pytest.raises(CrankWheelError) as caught,
    ):
        sync(config_for(sandbox), select=(stream,))
    assert caught.value.message.startswith(f"{stream}: ")
    assert message in caught.value.message
    kinds = {kind for kind, _ in Output(lines).types}
    assert kinds <= {"SCHEMA", "STATE"}


@pytest.mark.parametrize(
    ("session", "advised"),
    [
        ({"session_id": 1}, True),  # it may be called something else by the other endpoint
        ({"start_date": "2026-08-30T10:00:00Z"}, True),
        ({"session_id": 1, "start_date": "soon"}, False),
    ],
)
def test_the_other_endpoint_is_advised_only_where_it_may_help(
    session: object,
    advised: bool,  # noqa: FBT001
) -> None:
    with ScriptedSandbox(usage={"sessions": [session]}).running() as sandbox:
        error = ends_with(sandbox, "usage_sessions")
    assert ("usage_endpoint" in error.message) == advised


@pytest.mark.parametrize("status", ["403", "404"])
def test_a_plan_without_demo_requests_costs_only_their_count(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, status: str
) -> None:
    sandbox.behaviour = Behaviour(no_access={"demo_usage": int(status)})
    select = ("account_stats", "agent_stats", "usage_sessions", "users")
    records = sync(config_for(sandbox), select=select).records
    assert {row["canceled_demo_requests"] for row in records["account_stats"]} == {None}
    assert records["usage_sessions"]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith("account_stats: canceled_demo_requests is null")
    error = ends_with(sandbox, "demo_requests")
    assert "If your plan has no demo requests, deselect demo_requests." in error.message


@pytest.mark.parametrize(
    "beside",
    [
        {"has_more": True}, {"has_more": 1}, {"next": "/usage?page=2"}, {"next": {"href": "x"}},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("stream", ["usage_sessions", "demo_requests", "account_stats"])
def test_an_answer_that_says_it_is_cut_ends_the_stream(stream: str, beside: Row) -> None:
    document = {"sessions": [], **beside}
    with ScriptedSandbox(usage=document, demo_usage=document).running() as sandbox:
        error = ends_with(sandbox, stream)
    assert f"{stream}: " in error.message
    assert f"`{next(iter(beside))}` says that there is more" in error.message


def test_what_says_that_nothing_is_cut_is_no_error() -> None:
    beside = {"has_more": False, "next": "", "next_page": 2, "total_count": 7}
    with ScriptedSandbox(usage={"sessions": [], **beside}).running() as sandbox:
        rows = sync(config_for(sandbox), select=("account_stats",)).records["account_stats"]
    assert rows[0]["extra"] == beside


def test_a_list_of_users_that_says_it_is_cut_deletes_nobody() -> None:
    document = {"users": [{"email": "ann@example.com"}], "has_more": True}
    lines: list[str] = []
    with ScriptedSandbox(users=document).running() as sandbox, pytest.raises(CrankWheelError):
        sync(config_for(sandbox), select=("users",), lines=lines)
    assert {kind for kind, _ in Output(lines).types} == {"SCHEMA"}


# --- ranges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("select", ["start", "end", "overlap"])
def test_a_range_that_is_refused_is_asked_for_in_halves(
    clock: FakeClock,
    status: int,
    select: str,
) -> None:
    behaviour = Behaviour(range_limit=timedelta(days=1), limit_status=status, select=select)
    with Sandbox(small_account(days=6), behaviour).running() as sandbox:
        output = sync(config_for(sandbox), select=("usage_sessions", "demo_requests"), clock=clock)
    assert canonical(output.records["usage_sessions"]) == canonical(
        expected_sessions(sandbox.account),
    )
    assert canonical(output.records["demo_requests"], "id") == canonical(
        expected_requests(sandbox.account),
        "id",
    )
    assert clock.pauses == []


def test_a_range_that_is_too_slow_is_asked_for_in_halves_after_one_retry(
    clock: FakeClock,
) -> None:
    behaviour = Behaviour(range_limit=timedelta(days=4), limit_status=504)
    with Sandbox(small_account(days=6), behaviour).running() as sandbox:
        config = config_for(sandbox, window_days=8)
        output = sync(config, select=("usage_sessions",), clock=clock)
    assert canonical(output.records["usage_sessions"]) == canonical(
        expected_sessions(sandbox.account),
    )
    assert len(clock.pauses) == 1
    assert len(sandbox.requests) == 4


def test_a_range_that_times_out_twice_is_asked_for_in_halves(
    sandbox: Sandbox,
    clock: FakeClock,
) -> None:
    sandbox.behaviour = Behaviour(faults=AnswersFrom(2))
    config = config_for(sandbox, window_days=60, request_timeout=1)
    output = sync(config, select=("usage_sessions",), clock=clock)
    assert canonical(output.records["usage_sessions"]) == canonical(
        expected_sessions(sandbox.account),
    )
    assert len(sandbox.requests) == 4
    assert len(clock.pauses) == 1


def test_a_period_that_is_slow_is_waited_for(sandbox: Sandbox, clock: FakeClock) -> None:
    sandbox.behaviour = failing("504", "504", "504")
    config = config_for(sandbox, start_date="2026-08-31", max_parallel_requests=1)
    assert sync(config, select=("account_stats",), clock=clock).records["account_stats"]
    assert len(clock.pauses) == 3


def test_below_an_hour_a_refused_range_is_an_error(sandbox: Sandbox) -> None:
    sandbox.behaviour = Behaviour(range_limit=timedelta(minutes=1))
    error = ends_with(sandbox, "usage_sessions", start_date="2026-08-31", window_days=1)
    assert isinstance(error, RangeRefusedError)
    assert "400 Bad Request" in error.message
    assert "An hour is the shortest range that is tried" in error.message


def test_a_period_is_not_halved(sandbox: Sandbox) -> None:
    sandbox.behaviour = Behaviour(range_limit=timedelta(hours=12))
    error = ends_with(sandbox, "account_stats", start_date="2026-08-31")
    assert "GET /usage for 2026-08-31 00:00 to 2026-09-01 00:00" in error.message
    assert "Set stats_period to a shorter period, or a later start_date." in error.message
    assert len(sandbox.requests) <= 4


# --- Retry-After ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("7", 7),
        ("0", 0),
        (" 12 ", 12),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("٣", None),
        ("Sun, 06 Nov 1994 08:49:37 +99999999999999999999", None),
    ],
)
def test_retry_after_in_seconds(header: str, expected: float | None) -> None:
    assert retry_after(header, now=0) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Tue, 01 Sep 2026 15:25:00 GMT", 300),
        ("Tue, 01 Sep 2026 17:25:00 +0200", 300),
        ("Tue Sep  1 15:25:00 2026", 300),  # without a zone it is UTC, whatever the machine's
        ("Mon, 31 Aug 2026 15:20:00 GMT", 0),
    ],
)
def test_retry_after_as_a_date(header: str, expected: float) -> None:
    assert retry_after(header, now=NOW.timestamp()) == expected
