"""The HTTP conversation: what is tried again, what ends a run, and what is said."""

from __future__ import annotations

import gzip
import itertools
import json
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_crankwheel.client import read_ahead
from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.sandbox.server import API_KEY, Behaviour, Sandbox
from tap_crankwheel.windows import Window
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
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path


def ends_with(sandbox: Sandbox, *select: str, **settings: object) -> CrankWheelError:
    """Run the tap until it fails; return the error."""
    with captured(), pytest.raises(CrankWheelError) as caught:
        sync(config_for(sandbox, **settings), select=select or STREAMS)
    assert "\n" not in caught.value.message
    assert API_KEY not in caught.value.message
    return caught.value


def check(output: Output, sandbox: Sandbox) -> None:
    """Check that a run emitted the account."""
    account, records = sandbox.account, output.records
    assert canonical(records["usage_sessions"]) == canonical(expected_sessions(account))
    assert canonical(records["demo_requests"], "id") == canonical(expected_requests(account), "id")
    assert canonical(records["users"]) == canonical(expected_users(account))


# --- retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["408", "500", "502", "503", "504", "reset", "truncate", "html"])
def test_transient_faults_are_retried(
    sandbox: Sandbox, retry_waits: list[float], fault: str
) -> None:
    sandbox.behaviour = Behaviour(faults=iter([fault]))
    output = sync(config_for(sandbox), select=("users",))
    assert canonical(output.records["users"]) == canonical(expected_users(sandbox.account))
    (wait,) = retry_waits
    assert 2 <= wait <= 3  # with up to a second of jitter


FAULTS = ("429:1", "500", "reset", "truncate", "html", "503", "502")


@pytest.mark.parametrize(
    ("limit", "faults"),
    [
        (1, itertools.cycle([turn for fault in FAULTS for turn in (None, fault)])),
        (4, iter(FAULTS)),  # one less than tries, for they may all meet the same request
        (4, iter([*[None] * 40, *FAULTS])),
    ],
)
def test_many_faults_cost_nothing(
    sandbox: Sandbox, limit: int, faults: Iterator[str | None]
) -> None:
    sandbox.behaviour = Behaviour(faults=faults)
    check(sync(config_for(sandbox, window_days=1, max_parallel_requests=limit)), sandbox)


@pytest.mark.parametrize("fault", ["500", "504", "reset", "truncate", "html"])
def test_permanent_faults_end_the_run(
    sandbox: Sandbox, retry_waits: list[float], fault: str
) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat(fault))
    error = ends_with(sandbox, "users")
    assert error.message.startswith("GET /user_access failed 8 times, last error: ")
    assert len(sandbox.requests) == 8
    assert 254 <= sum(retry_waits) <= 254 + 7


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("400", "400 Bad Request: it refuses the request"),
        ("401", "GET /user_access: the API answered 401 Unauthorized: it rejects the key"),
        ("403", "403 Forbidden: the key may not read this"),
        ("404", "404 Not Found: there is no such address: check api_url"),
        ("418", "418 I'm a Teapot: the tap does not know what this status"),
        ("redirect:http://[::1", "is not valid HTTP (ValueError)"),
        ("redirect:https://user:sandbox-key@elsewhere.example/sandbox-key?key=x", "elsewhere.ex"),
        ("redirect:/ss/api/v2?key=x", "it redirects to 127.0.0.1: if the API is there"),
        ("204", "204 No Content"),
    ],
)
def test_fatal_statuses_are_not_retried(
    sandbox: Sandbox, retry_waits: list[float], fault: str, message: str
) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat(fault))
    assert message in ends_with(sandbox, "users").message
    assert len(sandbox.requests) == 1
    assert retry_waits == []


def test_a_rejected_key(sandbox: Sandbox) -> None:
    for key in ("wrong", "c2FuZGJveC1rZXk="):  # in base64 it is rejected too
        error = ends_with(sandbox, api_key=key)
        assert "it rejects the key: check api_key" in error.message
        assert key not in error.message


def test_an_address_with_nothing_behind_it(sandbox: Sandbox) -> None:
    error = ends_with(sandbox, "users", api_url="http://127.0.0.1:9/ss/api")
    assert "the connection to 127.0.0.1:9 failed (NewConnectionError)" in error.message
    error = ends_with(sandbox, "users", api_url="https://crankwheel.invalid/ss/api")
    assert "the connection to crankwheel.invalid failed (NameResolutionError)" in error.message


@pytest.mark.parametrize("status", ["403", "404"])
@pytest.mark.parametrize("stream", ["demo_requests", "demo_stats"])
def test_a_plan_without_demo_requests_is_told_what_to_deselect(
    sandbox: Sandbox, stream: str, status: str
) -> None:
    sandbox.behaviour = Behaviour(no_access={"demo_usage": int(status)})
    error = ends_with(sandbox, stream)
    assert "If your plan has no demo requests, deselect demo_requests and demo_st" in error.message


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


def test_a_timeout_is_tried_again(sandbox: Sandbox) -> None:
    sandbox.behaviour = Behaviour(faults=AnswersFrom(1))
    output = sync(config_for(sandbox, request_timeout=1), select=("users",))
    assert output.records["users"]
    assert len(sandbox.requests) == 2


def test_responses_may_be_compressed_and_in_chunks_on_one_connection() -> None:
    connections = []
    statuses = iter([500, 200])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            connections.append(self.client_address)
            super().setup()

        def do_GET(self) -> None:
            self.send_response(next(statuses))
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            users = [{"email": f"{n}" + "a" * 1000} for n in range(1000)]
            body = gzip.compress(json.dumps(users).encode())
            for start in range(0, len(body), 100):
                part = body[start : start + 100]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        output = sync({"api_key": "k", "api_url": url}, select=("users",))
        server.shutdown()
    assert len(output.records["users"]) == 1000
    assert len(connections) == 1


# --- rate limits ---------------------------------------------------------------------------------


class Limit:
    """Faults that refuse requests as a rate limit does.

    Args:
        clock: The clock of the tap.
        refuse: Returns how long the API asks to wait; 0 for an answer.
    """

    def __init__(self, clock: FakeClock, refuse: Callable[[float], float]) -> None:
        self.clock, self.refuse = clock, refuse
        self.refused = 0
        self.lock = threading.Lock()

    def __iter__(self) -> Limit:
        return self

    def __next__(self) -> str | None:
        with self.lock:
            seconds = self.refuse(self.clock.time())
            self.refused += seconds > 0
        return f"429:{int(seconds) + 1}" if seconds else None


def token_bucket(rate: float, burst: int) -> Callable[[float], float]:
    """Refuse what comes faster than a rate a second, with a burst."""
    tokens, last = float(burst), 0.0

    def refuse(now: float) -> float:
        nonlocal tokens, last
        tokens = min(burst, tokens + (now - last) * rate)
        last = now
        if tokens >= 1:
            tokens -= 1
            return 0
        return (1 - tokens) / rate

    return refuse


def fixed_window(count: int) -> Callable[[float], float]:
    """Refuse more than a count in each minute of the clock."""
    minute, used = 0.0, 0

    def refuse(now: float) -> float:
        nonlocal minute, used
        if now // 60 != minute:
            minute, used = now // 60, 0
        used += 1
        return 60 - now % 60 if used > count else 0

    return refuse


LIMITS: dict[str, Any] = {
    "30 a minute, burst 30": lambda: token_bucket(0.5, 30),
    "1 a second, no burst": lambda: token_bucket(1, 1),
    "20 in each minute": lambda: fixed_window(20),
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("parallel", [1, 4, 10])
def test_a_backfill_passes_a_rate_limit(
    sandbox: Sandbox, clock: FakeClock, limit: str, parallel: int
) -> None:
    faults = Limit(clock, LIMITS[limit]())
    sandbox.behaviour = Behaviour(faults=faults)
    config = config_for(sandbox, window_days=1, max_parallel_requests=parallel)
    check(sync(config, clock=clock), sandbox)
    assert faults.refused


def test_a_backfill_passes_an_api_that_answers_one_request_at_a_time(sandbox: Sandbox) -> None:
    class OneAtATime:
        busy = refused = 0
        lock = threading.Lock()

        def __iter__(self) -> OneAtATime:
            return self

        def __next__(self) -> str | None:
            with self.lock:
                self.busy += 1
                refused = self.busy > 1
                self.refused += refused
            time.sleep(0.002)  # under way; however long it is, the outcome is the same
            with self.lock:
                self.busy -= 1
            return "429" if refused else None  # and does not say how long to wait

    faults = OneAtATime()
    sandbox.behaviour = Behaviour(faults=faults)
    check(sync(config_for(sandbox, window_days=1)), sandbox)
    assert faults.refused


def test_waiting_for_rate_limits_has_a_bound(sandbox: Sandbox, clock: FakeClock) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat("429:1500"))
    with captured(), pytest.raises(CrankWheelError, match="429 Too Many Requests"):
        sync(config_for(sandbox), select=("users",), clock=clock)
    assert len(sandbox.requests) == 3
    assert 3000 <= sum(clock.pauses) < 3600


def test_a_rate_limit_holds_the_other_requests_back(clock: FakeClock) -> None:
    asked: list[float] = []

    def usage(*_: datetime) -> Row:
        asked.append(clock.monotonic())
        return {"sessions": []}

    with ScriptedSandbox(usage=usage).running() as sandbox:
        sandbox.behaviour = Behaviour(faults=iter(["429:30"]))
        config = config_for(sandbox, window_days=1, max_parallel_requests=1)
        sync(config, select=("usage_sessions",), clock=clock)
    assert min(asked) >= 30
    assert sum(clock.pauses) < 32


# --- ranges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 422, 504])
@pytest.mark.parametrize("select", ["start", "end", "overlap"])
def test_a_range_that_is_refused_is_asked_for_in_halves(
    retry_waits: list[float], status: int, select: str
) -> None:
    behaviour = Behaviour(range_limit=timedelta(days=1), limit_status=status, select=select)
    with Sandbox(small_account(days=6), behaviour).running() as sandbox:
        output = sync(config_for(sandbox), select=("usage_sessions", "demo_requests", "users"))
    check(output, sandbox)
    assert retry_waits == []


def test_a_range_that_times_out_is_asked_for_in_halves(
    sandbox: Sandbox, retry_waits: list[float]
) -> None:
    sandbox.behaviour = Behaviour(faults=AnswersFrom(1))
    config = config_for(sandbox, window_days=60, request_timeout=1)
    output = sync(config, select=("usage_sessions",))
    assert canonical(output.records["usage_sessions"]) == canonical(
        expected_sessions(sandbox.account),
    )
    assert len(sandbox.requests) == 3
    assert retry_waits == []


def test_below_an_hour_a_refused_range_is_an_error(sandbox: Sandbox) -> None:
    sandbox.behaviour = Behaviour(range_limit=timedelta(minutes=1))
    error = ends_with(sandbox, "usage_sessions", start_date="2026-08-31", window_days=1)
    assert "GET /usage for 2026-08-31 00:00 to 2026-08-31 00:45 UTC: " in error.message
    assert "400 Bad Request: it refuses the request: if its range lies too far" in error.message


# --- payloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "document", "message"),
    [
        ("usage_sessions", {"error": "no"}, "the response has no `sessions`"),
        ("usage_sessions", [], "the response is not an object"),
        ("demo_requests", {"sessions": [{"start": 1}]}, "a demo request has no usable `start_ts`"),
        ("account_stats", {"error": "no"}, "the response has no `sessions`"),
        ("agent_stats", {"sessions": 3}, "`sessions` is not a list"),
        ("demo_stats", {"error": "no"}, "the response has no `sessions`"),
        ("users", {"error": "no"}, "neither a list nor an object with one list"),
        ("users", [], "an account has at least its owner"),
        ("users", {"users": [{"email": "a"}], "has_more": True}, "`has_more` says that there is"),
        ("usage_sessions", {"sessions": [], "has_more": 1}, "`has_more` says that there is more"),
        ("demo_requests", {"sessions": [], "next": {"href": "x"}}, "`next` says that there is"),
        ("account_stats", {"sessions": [], "next": "/usage?page=2"}, "`next` says that there is"),
    ],
)
def test_a_payload_of_another_form_ends_the_run(
    stream: str, document: object, message: str
) -> None:
    server = ScriptedSandbox(usage=document, demo_usage=document, users=document)
    lines: list[str] = []
    with server.running() as sandbox, pytest.raises(CrankWheelError) as caught:
        sync(config_for(sandbox), select=(stream,), lines=lines)
    assert caught.value.message.startswith(f"{stream}: ")
    assert message in caught.value.message
    assert {kind for kind, _ in Output(lines).types} <= {"SCHEMA", "STATE"}


def test_what_says_that_nothing_is_cut_is_no_error() -> None:
    envelope = {"has_more": False, "next": "", "next_page": 2, "total_count": 7}
    with ScriptedSandbox(usage={"sessions": [], **envelope}).running() as sandbox:
        rows = sync(config_for(sandbox), select=("account_stats",)).records["account_stats"]
    assert rows[0]["extra"] == envelope


# --- reading ahead -------------------------------------------------------------------------------

WINDOWS = [Window(NOW + timedelta(days=n), NOW + timedelta(days=n + 1)) for n in range(12)]


@given(st.permutations(range(4)))
def test_windows_come_in_order_whichever_is_ready_first(order: list[int]) -> None:
    ready = [threading.Event() for _ in order]

    def fetch(window: Window) -> Window:
        n = WINDOWS.index(window)
        ready[n].wait(60)
        turn = order.index(n)  # each lets the next one in the drawn order go on
        if turn + 1 < len(order):
            ready[order[turn + 1]].set()
        return window

    ready[order[0]].set()
    assert list(read_ahead(fetch, WINDOWS[:4], 4)) == [(w, w) for w in WINDOWS[:4]]


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_no_more_than_the_limit_is_under_way_or_waiting(limit: int) -> None:
    lock = threading.Lock()
    held = most = 0

    def fetch(window: Window) -> Window:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return window

    for _ in read_ahead(fetch, WINDOWS, limit):
        with lock:
            held -= 1
    assert most <= limit + 1  # the yielded one aside


def test_what_fails_fails_in_its_turn() -> None:
    def fetch(window: Window) -> Window:
        if window == WINDOWS[2]:
            raise CrankWheelError("the third")
        return window

    ahead = read_ahead(fetch, WINDOWS, 4)
    assert [next(ahead)[0] for _ in range(2)] == WINDOWS[:2]
    with pytest.raises(CrankWheelError, match="the third"):
        next(ahead)


def test_the_output_is_the_same_with_any_number_of_requests_at_a_time(sandbox: Sandbox) -> None:
    def lines(limit: int) -> list[str]:
        output = sync(config_for(sandbox, window_days=1, max_parallel_requests=limit))
        for message in output.messages:
            message.pop("time_extracted", None)
            message.pop("version", None)
        return [repr(message) for message in output.messages]

    alone = lines(1)
    assert lines(4) == alone
    assert lines(10) == alone


def test_requests_are_made_at_the_same_time() -> None:
    meeting = threading.Barrier(4, timeout=60)

    def answer_four(*_: datetime) -> Row:
        meeting.wait()
        return {"sessions": []}

    with ScriptedSandbox(usage=answer_four).running() as sandbox:
        config = config_for(sandbox, start_date="2026-08-20", end_date="2026-08-28", window_days=1)
        output = sync(config, select=("usage_sessions",))
    assert output.bookmarks == {"usage_sessions": "2026-08-28T00:00:00.000000Z"}


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that nobody has signed, with its key."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject)
    subprocess.run([*command, "-keyout", path, "-out", path], check=True, capture_output=True)
    return path


@contextmanager
def tls(sandbox: Sandbox, certificate: Path) -> Iterator[str]:
    """Serve a sandbox over TLS; return its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    sandbox.socket = context.wrap_socket(sandbox.socket, server_side=True)
    with sandbox.running():
        yield sandbox.url.replace("http://127.0.0.1", "https://localhost")


def test_an_untrusted_certificate_ends_the_run_at_once(
    certificate: Path, retry_waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls(Sandbox(small_account()), certificate) as url:
        sandbox = Sandbox(small_account())
        error = ends_with(sandbox, "users", api_url=url)
        assert "of localhost:" in error.message
        assert "is not trusted: set REQUESTS_CA_BUNDLE to a file with" in error.message
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert sync(config_for(sandbox, api_url=url), select=("users",)).records["users"]
    sandbox.server_close()
    assert retry_waits == []


def test_https_against_http_ends_the_run_at_once(
    sandbox: Sandbox, retry_waits: list[float]
) -> None:
    error = ends_with(sandbox, "users", api_url=sandbox.url.replace("http:", "https:"))
    assert "does not speak TLS: check the port in api_url." in error.message
    assert retry_waits == []


def test_a_bundle_of_certificates_that_is_not_there_is_one_line(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/none.pem")
    assert sync(config_for(sandbox), select=("users",)).records["users"]  # of no use here
    error = ends_with(sandbox, "users", api_url="https://crankwheel.invalid/ss/api")
    assert "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names no file" in error.message


def test_a_tls_connection_that_breaks_is_retried(
    certificate: Path, sandbox: Sandbox, retry_waits: list[float]
) -> None:
    server = Sandbox(small_account(), Behaviour(faults=iter(["reset"])))
    with tls(server, certificate) as url, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert sync(config_for(sandbox, api_url=url), select=("users",)).records["users"]
    assert len(retry_waits) == 1


def test_localhost_is_never_asked_through_a_proxy(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for host in ("127.0.0.1", "localhost"):
        url = sandbox.url.replace("127.0.0.1", host)
        assert sync(config_for(sandbox, api_url=url), select=("users",)).records["users"]
