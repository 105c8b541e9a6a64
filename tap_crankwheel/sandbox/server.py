"""The sandbox account over HTTP: all operations of the API's description, and `/usage_new`."""

from __future__ import annotations

import email
import threading
import time
from collections import Counter
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import click
import msgspec
from typing_extensions import override

from tap_crankwheel.sandbox.account import Account
from tap_crankwheel.windows import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tap_crankwheel.sandbox.account import Row

BASE_PATH = "/ss/api"
API_KEY = "sandbox-key"


class Sandbox(ThreadingHTTPServer):
    """Serves an account on this machine.

    Args:
        account: The account.
        port: The port; 0 for a free one.
        latency: Seconds that each answer takes.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, account: Account, *, port: int = 0, latency: float = 0.0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.account = account
        self.latency = latency
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        """The API's URL, for the tap's setting `api_url`."""
        return f"http://127.0.0.1:{self.server_port}{BASE_PATH}"

    @contextmanager
    def running(self) -> Iterator[Sandbox]:
        """Serve in a thread for as long as the context lasts."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Sandbox

    def do_GET(self) -> None:
        self._handle({"usage": self._usage, "usage_new": self._usage, "demo_usage": self._demos})

    def do_POST(self) -> None:
        self._handle({})

    def do_DELETE(self) -> None:
        self._handle({})

    def _handle(self, histories: dict[str, Callable[[datetime, datetime], Row]]) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(f"{self.command} {self.path}")
        if self.server.latency:
            time.sleep(self.server.latency)
        url = urlsplit(self.path)
        base, _, rest = url.path.partition(f"{BASE_PATH}/")
        name, _, item = rest.partition("/")
        if self.headers.get("Authorization") != f"Basic {API_KEY}":
            self._answer(HTTPStatus.UNAUTHORIZED, {"error": "unauthorized"})
        elif base or (item and name != "user_access"):
            self._answer(HTTPStatus.NOT_FOUND, {"error": "not found"})
        elif name in histories:
            try:
                start, end = self._range(parse_qs(url.query))
            except ValueError:
                self._answer(HTTPStatus.BAD_REQUEST, {"error": "from and to are timestamps"})
            else:
                self._answer(HTTPStatus.OK, histories[name](start, end))
        elif name == "user_access":
            self._user_access(unquote(item), body)
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "not found"})

    def _range(self, params: dict[str, list[str]]) -> tuple[datetime, datetime]:
        now = self.server.account.now
        start, end = (parse_timestamp(params[p][0]) if p in params else None for p in ("from", "to"))
        end = end or now
        return start or end - timedelta(days=28), end

    def _usage(self, start: datetime, end: datetime) -> Row:
        sessions = [
            session
            for day in self._days(start - timedelta(days=1), end)
            for session in self.server.account.sessions(day)
            if start <= parse_timestamp(session["start_date"]) <= end
        ]
        meetings = Counter(session["email"] for session in sessions)
        seconds: Counter[str] = Counter()
        for session in sessions:
            seconds[session["email"]] += session["duration"]
        return {
            "stats": {
                "total": {"meetings": len(sessions), "seconds": seconds.total()},
                "agents": {
                    agent: {"meetings": meetings[agent], "seconds": seconds[agent]}
                    for agent in sorted(meetings)
                },
            },
            "sessions": sessions,
        }

    def _demos(self, start: datetime, end: datetime) -> Row:
        account, days = self.server.account, list(self._days(start, end))
        return {
            "total_canceled_requests": sum(
                start <= moment <= end for day in days for moment in account.canceled(day)
            ),
            "sessions": [
                request
                for day in days
                for request in account.demo_requests(day)
                if start <= parse_timestamp(request["start_ts"]) <= end
            ],
        }

    def _days(self, start: datetime, end: datetime) -> Iterator[date]:
        account = self.server.account
        first, last = max(start, account.start).date(), min(end, account.now).date()
        return (first + timedelta(days=n) for n in range((last - first).days + 1))

    def _user_access(self, address: str, body: bytes) -> None:
        users = self.server.account.users
        if self.command == "POST" and not address:
            user = self._posted(body)
            users[user["email"]] = user
            self._answer(HTTPStatus.CREATED, user)
        elif not address and self.command == "GET":
            self._answer(HTTPStatus.OK, list(users.values()))
        elif address not in users:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "no such user"})
        elif self.command == "DELETE":
            del users[address]
            self._answer(HTTPStatus.NO_CONTENT, None)
        else:
            self._answer(HTTPStatus.OK, users[address])

    def _posted(self, body: bytes) -> Row:
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
            form = {
                str(part.get_param("name", header="Content-Disposition")): str(part.get_payload())
                for part in message.walk()
                if not part.is_multipart()
            }
        else:
            form = {key: values[-1] for key, values in parse_qs(body.decode()).items()}
        return {
            "email": form["user_access[email]"],
            "privilege": form.get("user_access[privilege]", "user"),
            "in_demo_pool": form.get("user_access[in_demo_pool]") == "true",
        }

    def _answer(self, status: HTTPStatus, document: Any) -> None:  # noqa: ANN401 - any JSON
        body = b"" if document is None else msgspec.json.encode(document)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing; `Sandbox.requests` tells what came."""


@click.command()
@click.option("--port", default=8765, show_default=True, help="Port on this machine; 0: a free one.")
@click.option("--seed", default=1, show_default=True, help="Another seed is another account.")
@click.option("--agents", default=8, show_default=True, help="How many agents present.")
@click.option("--sessions-per-day", default=30, show_default=True, help="On a working day.")
@click.option("--days", default=60, show_default=True, help="Days of history.")
@click.option("--now", help="Look at the account at this moment. [default: the clock's]")
@click.option("--latency", default=0.0, help="Seconds that each answer takes.")
def serve(port: int, latency: float, now: str | None, **account: int) -> None:
    """Serve a CrankWheel account of made-up data, to try the tap or to develop against."""
    moment = parse_timestamp(now).astimezone(timezone.utc) if now else None
    sandbox = Sandbox(Account(**account, fixed_now=moment), port=port, latency=latency)
    click.echo(f"api_url: {sandbox.url}\napi_key: {API_KEY}\n")
    click.echo(f"curl -H 'Authorization: Basic {API_KEY}' {sandbox.url}/user_access")
    with sandbox:
        try:
            sandbox.serve_forever()
        except KeyboardInterrupt:
            click.echo("stopped")
