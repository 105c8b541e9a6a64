"""The HTTP conversation: what is tried again, what ends a run, and what is said."""

from __future__ import annotations

import gzip
import itertools
import ssl
import subprocess
import threading
import time
from collections import Counter
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import msgspec
import pytest

from tap_crankwheel.sandbox.server import Behaviour, Sandbox
from tests import support as s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

Waits = list[float]

NEVER = "no such fault"
SECRET = "pr0xy-passw0rd"  # noqa: S105


def error_of(sandbox: Sandbox, *select: str, **settings: object) -> str:
    """Run the tap until it fails, before it has emitted anything; return the error."""
    message, output = s.failing(s.config_for(sandbox, **settings), *select)
    assert {kind for kind, _ in output.types} <= {"SCHEMA", "STATE"}  # no ACTIVATE_VERSION
    return message


def users_of(sandbox: Sandbox, **settings: object) -> list[s.Row]:
    return s.sync(s.config_for(sandbox, **settings), select=("users",)).records["users"]


# --- retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["408", "500", "504", "reset", "truncate", "html"])
def test_transient_faults_are_retried(sandbox: Sandbox, retry_waits: Waits, fault: str) -> None:
    sandbox.behaviour = Behaviour(faults=iter([fault]))
    assert s.canonical(users_of(sandbox)) == s.canonical(s.expected_users(sandbox.account))
    (wait,) = retry_waits
    assert 2 <= wait <= 3  # with up to a second of jitter


FAULTS = ("429:1", "500", "reset", "truncate", "html", "503", "502")
EVERY_SECOND = [turn for fault in FAULTS for turn in (None, fault)]


# One less than tries, for they may all meet the same request.
@pytest.mark.parametrize(
    ("limit", "faults"), [(1, itertools.cycle(EVERY_SECOND)), (4, iter(FAULTS))]
)
def test_faults_lose_no_rows(sandbox: Sandbox, limit: int, faults: Iterator[str | None]) -> None:
    sandbox.behaviour = Behaviour(faults=faults)
    config = s.config_for(sandbox, window_days=1, max_parallel_requests=limit)
    s.check_events(s.sync(config).records, sandbox.account)


@pytest.mark.parametrize("fault", ["500", "504", "reset", "truncate", "html"])
def test_permanent_faults_end_the_run(sandbox: Sandbox, retry_waits: Waits, fault: str) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat(fault))
    message = error_of(sandbox, "users")
    assert message.startswith("GET /user_access failed 8 times, last error: ")
    assert len(sandbox.requests) == 8
    assert 254 <= sum(retry_waits) <= 254 + 7


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("400", "400 Bad Request: it refuses the request"),
        ("401", "GET /user_access: the API responded 401 Unauthorized: it rejects the key"),
        ("403", "administrator created. If it could before, the API may limit requests: run again"),
        ("404", "404 Not Found: there is no such address: check api_url"),
        ("418", "418 I'm a Teapot: the tap does not expect this: check api_url"),
        ("redirect:http://[::1", "is not valid HTTP (ValueError)"),
        ("redirect:https://user:sandbox-key@elsewhere.example/sandbox-key?key=x", "elsewhere.ex"),
        ("redirect:/ss/api/v2?key=x", "it redirects to 127.0.0.1. If the API is there"),
        ("204", "204 No Content"),
    ],
)
def test_fatal_statuses_are_not_retried(
    sandbox: Sandbox, retry_waits: Waits, fault: str, message: str
) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat(fault))
    assert message in error_of(sandbox, "users")
    assert len(sandbox.requests) == 1
    assert retry_waits == []


@pytest.mark.parametrize(("stream", "status"), [("demo_requests", 403), ("demo_stats", 404)])
def test_a_plan_without_demo_requests_is_told_what_to_deselect(
    sandbox: Sandbox, stream: str, status: int
) -> None:
    sandbox.behaviour = Behaviour(no_access={"demo_usage": status})
    advice = "If your plan has no demo requests, deselect demo_requests and demo_st"
    assert advice in error_of(sandbox, stream)


def responding_from(first: int) -> Behaviour:
    """Let the first requests wait until there is one more."""
    count, another = itertools.count(), threading.Event()

    def fault() -> None:
        if next(count) < first:
            another.wait(60)
        else:
            another.set()

    return Behaviour(faults=iter(fault, NEVER))


def test_a_timeout_is_tried_again(sandbox: Sandbox) -> None:
    sandbox.behaviour = responding_from(1)
    assert users_of(sandbox, request_timeout=1)
    assert len(sandbox.requests) == 2


def test_responses_may_be_compressed_and_in_chunks_on_one_connection(sandbox: Sandbox) -> None:
    connections, statuses = set(), iter([500, 200])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            connections.add(self.client_address)
            self.send_response(next(statuses))
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            users = [{"email": f"{n}" + "a" * 1000} for n in range(1000)]
            body = gzip.compress(msgspec.json.encode(users))
            for start in range(0, len(body), 100):
                part = body[start : start + 100]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")

    sandbox.RequestHandlerClass = Handler
    assert len(users_of(sandbox)) == 1000
    assert len(connections) == 1


# --- rate limits ---------------------------------------------------------------------------------


def limited(clock: s.FakeClock, count: int, seconds: int) -> Callable[[], str | None]:
    """Refuse more than a count of requests in each period of the clock."""
    used: Counter[float] = Counter()
    lock = threading.Lock()

    def fault() -> str | None:
        now = clock.time()
        with lock:
            used[now // seconds] += 1
            refused = used[now // seconds] > count
        return f"429:{seconds - int(now) % seconds}" if refused else None

    return fault


def one_at_a_time() -> Callable[[], str | None]:
    """Refuse what is requested while another request is under way."""
    busy = threading.Lock()

    def fault() -> str | None:
        if not busy.acquire(blocking=False):
            return "429"  # and does not say how long to wait
        time.sleep(0.002)  # however long it is, the outcome is the same
        busy.release()
        return None

    return fault


@pytest.mark.parametrize("limit", ["1 a second", "20 a minute", "1 at a time"])
@pytest.mark.parametrize("parallel", [4, *s.slow(10)])
def test_a_backfill_passes_a_rate_limit(
    sandbox: Sandbox, clock: s.FakeClock, limit: str, parallel: int
) -> None:
    faults = {
        "1 a second": limited(clock, 1, 1),
        "20 a minute": limited(clock, 20, 60),
        "1 at a time": one_at_a_time(),
    }[limit]
    sandbox.behaviour = Behaviour(faults=iter(faults, NEVER))
    config = s.config_for(sandbox, window_days=1, max_parallel_requests=parallel)
    s.check_events(s.sync(config, clock=clock).records, sandbox.account)
    assert clock.pauses


def test_waiting_for_rate_limits_has_a_bound(sandbox: Sandbox, clock: s.FakeClock) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat("429:1500"))
    message, _ = s.failing(s.config_for(sandbox), "users", clock=clock)
    assert "429 Too Many Requests" in message
    assert len(sandbox.requests) == 3
    assert 3000 <= sum(clock.pauses) < 3600
    sandbox.behaviour = Behaviour(faults=itertools.repeat("429:7200"))
    message, _ = s.failing(s.config_for(sandbox), "users", clock=clock)
    says = "429 Too Many Requests: a wait of 7200 seconds in all is too long. Run again later."
    assert message.endswith(says)


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [("0", 1, 2), ("0.493", 1, 2), ("2.9", 2.9, 4), ("nan", 10, 11), ("-5", 10, 11)],
)
def test_each_wait_is_a_second_or_more_and_may_be_asked_for_in_fractions(
    sandbox: Sandbox, clock: s.FakeClock, asked: str, low: float, high: float
) -> None:
    sandbox.behaviour = Behaviour(faults=iter([f"429:{asked}"] * 3))
    s.sync(s.config_for(sandbox), select=("users",), clock=clock)
    assert 3 * low <= sum(clock.pauses) <= 3 * high


def test_a_rate_limit_holds_the_other_requests_back(clock: s.FakeClock) -> None:
    asked: list[float] = []

    def usage(*_: datetime) -> s.Row:
        asked.append(clock.monotonic())
        return {"sessions": []}

    with s.ScriptedSandbox(usage=usage).running() as sandbox:
        sandbox.behaviour = Behaviour(faults=iter(["429:30"]))
        config = s.config_for(sandbox, window_days=1, max_parallel_requests=1)
        s.sync(config, select=("usage_sessions",), clock=clock)
    assert min(asked) >= 30
    assert sum(clock.pauses) < 32


# --- ranges --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "select"), [(400, "start"), (413, "end"), (422, "overlap"), (504, "start")]
)
def test_a_range_that_is_refused_is_read_in_halves(
    retry_waits: Waits, status: int, select: str
) -> None:
    now = s.NOW + timedelta(days=12)  # 30 days before it, a month is in its midst
    behaviour = Behaviour(range_limit=timedelta(days=9), limit_status=status, select=select)
    whole, halved = Sandbox(s.small_account()), Sandbox(s.small_account(), behaviour)
    settings = {"start_date": "2026-08-01", "stats_period": "month", "window_days": 60}
    with whole.running(), halved.running():
        expected, output = (
            s.sync(s.config_for(one, **settings), clock=s.FakeClock(now)).records
            for one in (whole, halved)
        )
    for row in expected["account_stats"]:
        row["stats"] = None  # which the API gives for the whole only
    for stream in s.STREAMS:
        assert s.canonical(output[stream]) == s.canonical(expected[stream])
    s.check_events(output, halved.account)
    assert retry_waits == []


def test_a_range_that_times_out_is_asked_for_in_halves(
    sandbox: Sandbox, retry_waits: Waits
) -> None:
    sandbox.behaviour = responding_from(1)
    config = s.config_for(sandbox, window_days=60, request_timeout=1)
    rows = s.sync(config, select=("usage_sessions",)).records["usage_sessions"]
    assert s.canonical(rows) == s.canonical(s.expected_sessions(sandbox.account))
    assert len(sandbox.requests) == 3
    assert retry_waits == []


def test_below_an_hour_a_refused_range_is_an_error(sandbox: Sandbox) -> None:
    sandbox.behaviour = Behaviour(range_limit=timedelta(minutes=1))
    message = error_of(sandbox, "usage_sessions", start_date="2026-08-31", window_days=1)
    assert "GET /usage for 2026-08-31 00:00 to 2026-08-31 00:45 UTC: " in message
    assert "400 Bad Request: it refuses the request. If its range lies too far" in message
    assert "If it ends now, check this machine's clock." in message


# --- payloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "document", "message"),
    [
        ("usage_sessions", {"error": "no"}, "the response has no `sessions`"),
        ("usage_sessions", [], "the response is not an object"),
        ("usage_sessions", {"sessions": ["secret"]}, "a session is not an object"),
        ("usage_sessions", {"sessions": [{"start_date": "x"}]}, "no usable `start_date`"),
        ("usage_sessions", {"sessions": [{"start_date": 0}]}, "a session has no usable `email`"),
        ("demo_requests", {"sessions": [{"start": 1}]}, "a demo request has no usable `start_ts`"),
        ("account_stats", {"sessions": None}, "`sessions` is not a list"),
        ("demo_stats", {"error": "no"}, "the response has no `sessions`"),
        ("usage_sessions", {"sessions": [], "error": "x"}, "`sessions` is empty, and `error` says"),
        ("demo_stats", {"sessions": [], "errors": ["x"]}, "`sessions` is empty, and `errors` says"),
        ("users", 3, "the response is not an object"),
        ("users", {"errors": "no"}, "neither a list nor an object with one list"),
        ("users", {"a": [], "b": []}, "neither a list nor an object with one list"),
        ("users", [], "an account has an owner"),
        ("users", ["ann@example.com"], "a user is not an object"),
        ("users", [{"email": 3}], "a user has no usable `email`"),
        ("users", {"users": [{"email": "a"}], "has_more": True}, "`has_more` says that there is"),
        ("usage_sessions", {"sessions": [], "has_more": 1}, "`has_more` says that there is more"),
        ("demo_requests", {"sessions": [], "next": {"href": "x"}}, "`next` says that there is"),
    ],
)
def test_another_form_of_payload_ends_the_run(stream: str, document: object, message: str) -> None:
    server = s.ScriptedSandbox(usage=document, demo_usage=document, users=document)
    with server.running() as sandbox:
        found = error_of(sandbox, stream)
    assert found.startswith(f"{stream}: ")
    assert message in found


def test_what_says_that_nothing_is_cut_or_wrong_is_no_error() -> None:
    envelope = {"has_more": False, "next": "", "next_page": 2, "errors": [], "error": None}
    with s.ScriptedSandbox(usage={"sessions": [], **envelope}).running() as sandbox:
        rows = s.sync(s.config_for(sandbox), select=("account_stats",)).records["account_stats"]
    assert rows[0]["extra"] == envelope


# --- connections ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message", "retries"),
    [
        ("http://127.0.0.1:9", "the connection to 127.0.0.1:9 failed (NewConnectionError)", 7),
        ("https://crankwheel.invalid", "crankwheel.invalid failed (NameResolutionError)", 7),
        ("https://127.0.0.1:{port}", "does not speak TLS: check the port in api_url.", 0),
    ],
)
def test_a_connection_that_fails_ends_the_run(
    sandbox: Sandbox, retry_waits: Waits, url: str, message: str, retries: int
) -> None:
    assert message in error_of(sandbox, "users", api_url=url.format(port=sandbox.server_port))
    assert len(retry_waits) == retries


def test_over_tls_a_certificate_is_trusted_or_ends_the_run_at_once(
    sandbox: Sandbox, tmp_path: Path, retry_waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "certificate.pem"  # which nobody has signed, with its key
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject)
    subprocess.run([*command, "-keyout", path, "-out", path], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server = Sandbox(s.small_account(), Behaviour(faults=iter(["reset"])))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with server.running():
        url = server.url.replace("http://127.0.0.1", "https://localhost")
        message = error_of(sandbox, "users", api_url=url)
        assert "is not trusted: set REQUESTS_CA_BUNDLE to a file with" in message
        assert retry_waits == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
        assert users_of(sandbox, api_url=url)
    assert len(retry_waits) == 1  # a connection that breaks is tried again


def test_a_bundle_of_certificates_that_is_not_there_is_one_line(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/none.pem")
    assert users_of(sandbox)  # of no use here
    message = error_of(sandbox, "users", api_url="https://crankwheel.invalid/ss/api")
    assert "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names a missing file" in message


@pytest.mark.parametrize(
    "proxy", ["socks5h://127.0.0.1:1080", "http://", "ftp://127.0.0.1:9", f"http://u:{SECRET}@h:x"]
)
def test_a_proxy_that_cannot_be_used_is_one_line(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    message = error_of(sandbox, "users", api_url="https://crankwheel.invalid/ss/api")
    assert "the proxy in HTTPS_PROXY or ALL_PROXY cannot be used: write it as http://" in message
    assert SECRET not in message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_localhost_is_never_asked_through_a_proxy(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert users_of(sandbox, api_url=sandbox.url.replace("127.0.0.1", host))
