"""The sandbox account over HTTP: all operations of the API's description, and `/usage_new`."""

from __future__ import annotations

import email
import itertools
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import click
import msgspec
from typing_extensions import override

from tap_crankwheel.sandbox.account import Account, seconds_text
from tap_crankwheel.windows import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from tap_crankwheel.sandbox.account import Row

BASE_PATH = "/ss/api"
API_KEY = "sandbox-key"


@dataclass
class Behaviour:
    """How the sandbox responds where the API's description is silent, and how it fails.

    Args:
        latency: Seconds that each response takes.
        select: Whether a range selects by `start`, by `end` or by any `overlap`.
        inclusive: Whether what lies on `from` and on `to` is in the range.
        exact_to: What ends of ranges and times are cut to before they are compared: `second` (ends
            alone), `minute`, `hour` or `day`.
        order: The order of lists: `start`, `reverse` or `shuffled`.
        longest_list: How many items a list has at most; the rest is left out.
        range_limit: The longest range that is accepted; a longer one gets `limit_status`.
        limit_status: That status.
        wrap_users: Whether the list of users comes in an object.
        faults: For each request in turn a fault, or None for none. A status such as `503`, or
            `429:7` with a Retry-After; `reset`, `truncate`, `html`, `slow:2` seconds, or
            `redirect:` and a URL.
        error_body: The body of a response that a fault makes.
        no_access: The status of each path that the key may not read, such as `demo_usage`.
        ignores_range: Whether each response has the last 28 days, whatever is asked for.
        usage_names: Other names of a session's fields in `/usage`, not in `/usage_new`.
        without: Fields that are missing in responses and in their items, such as `stats` or `log`.
        log: The log of each session, if not the account's: a list or a text.
        decimals: Of the seconds in timestamps, 0 to 6; -1 for epochs.
        written_after: How long after its end an ended session is first listed.
        prospect_info: More of what each prospect sends.
    """

    latency: float = 0.0
    select: str = "start"
    inclusive: tuple[bool, bool] = (True, True)
    exact_to: str = "second"
    order: str = "start"
    longest_list: int | None = None
    range_limit: timedelta = timedelta.max
    limit_status: int = 400
    wrap_users: bool = False
    faults: Iterator[str | None] = field(default_factory=lambda: iter(()))
    error_body: bytes = b'{"error": "made up"}'
    no_access: dict[str, int] = field(default_factory=dict)
    ignores_range: bool = False
    usage_names: Mapping[str, str] = field(default_factory=dict)
    without: Collection[str] = ()
    log: Any = None
    decimals: int | None = None
    written_after: timedelta = timedelta(0)
    prospect_info: Mapping[str, str] = field(default_factory=dict)

    def shape(self, item: Row) -> Row:
        """Return an item with the fields and forms that these settings say."""
        row: Row = {
            name: self._timestamp(value) if name in TIMESTAMPS else value
            for name, value in item.items()
            if name not in self.without
        }
        if self.log is not None and "log" in row:
            row["log"] = self.log
        if "prospect_info" in row:
            row["prospect_info"] = {**row["prospect_info"], **self.prospect_info}
        return row

    def _timestamp(self, text: str) -> str | float:
        moment = parse_timestamp(text)
        if self.decimals is None:
            return text
        if self.decimals < 0:
            return moment.timestamp()
        return f"{moment:%Y-%m-%dT%H:%M:%S.%f}"[: 19 + (self.decimals and self.decimals + 1)] + "Z"


#: Characters of a timestamp, by what it is exact to.
EXACT_TO = {"second": None, "minute": 16, "hour": 13, "day": 10}
TIMESTAMPS = {"start_date", "end_date", "start_ts", "last_event_ts"}

#: What is likely of the real API, by a name for the command line.
VARIANTS: dict[str, dict[str, Any]] = {
    "ignores-range": {"ignores_range": True},
    "other-names": {"usage_names": {"session_id": "id", "start_date": "start_ts"}},
    "no-usage": {"no_access": {"usage": 404}},
    "no-stats": {"without": ("stats",)},
    "no-log": {"without": ("log",)},
    "log-list": {"log": ["https://www.example.com/pricing"]},
    "log-text": {"log": "https://www.example.com/pricing"},
    "seconds": {"decimals": 0},
    "milliseconds": {"decimals": 3},
    "epochs": {"decimals": -1},
    "written-late": {"written_after": timedelta(hours=6)},
    "free-keys": {"prospect_info": {"prospect-accountid": "7", "prospect-utm_source": "mail"}},
    "odd-keys": {"prospect_info": {"prospect-PLAN": "Pro", "prospect-website": ""}},
    "error-text": {"error_body": b"Something went wrong"},
    "error-html": {"error_body": b"<html><body>502 Bad Gateway</body></html>"},
}


class Sandbox(ThreadingHTTPServer):
    """Serves an account on this machine.

    Args:
        account: The account.
        behaviour: How it responds.
        port: The port; 0 for a free one.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        account: Account,
        behaviour: Behaviour | None = None,
        *,
        port: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.account = account
        self.behaviour = behaviour or Behaviour()
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        """The API's URL, for the tap's setting `api_url`."""
        return f"http://127.0.0.1:{self.server_port}{BASE_PATH}"

    @contextmanager
    def running(self) -> Iterator[Sandbox]:
        """Serve in a thread for as long as the context lasts."""
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: clients may hang up."""

    def usage(self, start: datetime, end: datetime) -> Row:
        """Return the response of `/usage` and `/usage_new`."""
        written = f"{self.account.now - self.behaviour.written_after:%Y-%m-%dT%H:%M:%S.%fZ}"
        sessions = [
            session
            for day in self._days(start - timedelta(days=1), end)
            for session in self.account.sessions(day)
            if self._selects(start, end, session["start_date"], session["end_date"])
            and (not session["session_ended"] or session["end_date"] <= written)
        ]
        meetings = Counter(session["email"] for session in sessions)
        seconds: Counter[str] = Counter()
        for session in sessions:
            seconds[session["email"]] += session["duration"]
        document = {
            "stats": {
                "total": {"meetings": len(sessions), "seconds": seconds.total()},
                "agents": {
                    agent: {"meetings": meetings[agent], "seconds": seconds[agent]}
                    for agent in sorted(meetings)
                },
            },
            "sessions": self._ordered(sessions, "start_date"),
        }
        return {k: v for k, v in document.items() if k not in self.behaviour.without}

    def demo_usage(self, start: datetime, end: datetime) -> Row:
        """Return the response of `/demo_usage`."""
        days = list(self._days(start - timedelta(days=1), end))
        requests = [
            request
            for day in days
            for request in self.account.demo_requests(day)
            if self._selects(start, end, request["start_ts"], request["last_event_ts"])
        ]
        canceled = [moment for day in days for moment in self.account.canceled(day)]
        return {
            "total_canceled_requests": sum(start <= moment < end for moment in canceled),
            "sessions": self._ordered(requests, "start_ts"),
        }

    def users(self) -> Row | list[Row]:
        """Return the response of `/user_access`."""
        users = list(self.account.users.values())
        return {"users": users} if self.behaviour.wrap_users else users

    def _selects(self, start: datetime, end: datetime, first: str, last: str) -> bool:
        """Say whether a range selects what lasted from one moment to another."""
        # Compared as text, which is quick. Some timestamps have fractions of a second, others not.
        low, high = seconds_text(start)[:-1], seconds_text(end)[:-1]
        since, until = {"start": (first, first), "end": (last, last), "overlap": (last, first)}[
            self.behaviour.select
        ]
        since, until = (text[:-1].removesuffix(".000000") for text in (since, until))
        length = EXACT_TO[self.behaviour.exact_to]
        low, high, since, until = (text[:length] for text in (low, high, since, until))
        after = since >= low if self.behaviour.inclusive[0] else since > low
        before = until <= high if self.behaviour.inclusive[1] else until < high
        return after and before

    def _ordered(self, rows: list[Row], key: str) -> list[Row]:
        rows.sort(key=lambda row: str(row[key]), reverse=self.behaviour.order == "reverse")
        if self.behaviour.order == "shuffled":
            random.Random(len(rows)).shuffle(rows)
        return [self.behaviour.shape(row) for row in rows[: self.behaviour.longest_list]]

    def _days(self, start: datetime, end: datetime) -> Iterator[date]:
        first, last = max(start, self.account.start).date(), min(end, self.account.now).date()
        return (first + timedelta(days=n) for n in range((last - first).days + 1))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Sandbox

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_DELETE = do_GET  # noqa: N815 - the names that http.server calls

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(f"{self.command} {self.path}")
        behaviour = self.server.behaviour
        if behaviour.latency:
            time.sleep(behaviour.latency)
        url = urlsplit(self.path)
        base, _, rest = url.path.partition(f"{BASE_PATH}/")
        name, _, item = rest.partition("/")
        histories = {
            "usage": self.server.usage,
            "usage_new": self.server.usage,
            "demo_usage": self.server.demo_usage,
        }
        if (fault := next(behaviour.faults, None)) is not None and self._fail(fault):
            return
        if self.headers.get("Authorization") != f"Basic {API_KEY}":
            self._respond(HTTPStatus.UNAUTHORIZED, {"error": "unauthorized"})
        elif name in behaviour.no_access:
            self._respond(behaviour.no_access[name], {"error": "no access"})
        elif name == "user_access" and not base:
            self._user_access(unquote(item), body)
        elif name not in histories or base or item or self.command != "GET":
            self._respond(HTTPStatus.NOT_FOUND, {"error": "not found"})
        else:
            try:
                start, end = self._range(parse_qs(url.query))
            except ValueError:
                self._respond(HTTPStatus.BAD_REQUEST, {"error": "from and to are timestamps"})
                return
            if end - start > behaviour.range_limit:
                self._respond(behaviour.limit_status, {"error": "the range is too long"})
                return
            document = histories[name](start, end)
            if name == "usage" and (names := behaviour.usage_names):
                sessions = document["sessions"]
                document["sessions"] = [
                    {names.get(k, k): v for k, v in s.items()} for s in sessions
                ]
            self._respond(HTTPStatus.OK, document)

    def _range(self, params: dict[str, list[str]]) -> tuple[datetime, datetime]:
        if self.server.behaviour.ignores_range:
            params = {}
        given = {name: parse_timestamp(values[0]) for name, values in params.items()}
        end = given.get("to", self.server.account.now)
        return given.get("from", end - timedelta(days=28)), end

    def _fail(self, fault: str) -> bool:
        """Fail as a fault says; return whether that was the response."""
        kind, _, argument = fault.partition(":")
        if kind == "slow":
            time.sleep(float(argument))
            return False
        if kind == "reset":
            # Closed with data pending and no lingering, the connection is reset.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
        elif kind == "truncate":
            self._send(HTTPStatus.OK, b'{"sessions": [', length=1000)
            self.close_connection = True
        elif kind == "html":
            self._send(HTTPStatus.OK, b"<html><body>Back soon</body></html>", kind="text/html")
        elif kind == "redirect":
            self._send(HTTPStatus.FOUND, b"", {"Location": argument})
        else:
            headers = {"Retry-After": argument} if argument else {}
            self._send(int(kind), self.server.behaviour.error_body, headers)
        return True

    def _user_access(self, address: str, body: bytes) -> None:
        users = self.server.account.users
        if self.command == "POST" and not address:
            user = self._posted(body)
            users[user["email"]] = user
            self._respond(HTTPStatus.CREATED, user)
        elif not address and self.command == "GET":
            self._respond(HTTPStatus.OK, self.server.users())
        elif address not in users or self.command == "POST":
            self._respond(HTTPStatus.NOT_FOUND, {"error": "no such user"})
        elif self.command == "DELETE":
            del users[address]
            self._respond(HTTPStatus.NO_CONTENT, None)
        else:
            self._respond(HTTPStatus.OK, users[address])

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

    def _respond(self, status: int, document: Any) -> None:
        self._send(status, b"" if document is None else msgspec.json.encode(document))

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        kind: str = "application/json",
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: `Sandbox.requests` has the requests."""


def _moment(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    try:
        return parse_timestamp(text) if text else None
    except ValueError:
        raise click.BadParameter("write it as 2026-09-01T15:20:00Z.") from None


def _faults(_: click.Context, __: click.Parameter, faults: tuple[str, ...]) -> tuple[str, ...]:
    for fault in faults:
        if not re.fullmatch(r"\d{3}(:\d+)?|reset|truncate|html|slow:[\d.]+|redirect:.+", fault):
            raise click.BadParameter(f"there is no fault {fault}.")
    return faults


_COUNT = click.IntRange(1, 10_000)


@click.command()
@click.option("--port", default=8765, type=click.IntRange(0, 65_535), help="0 chooses a free one.")
@click.option("--seed", default=6, show_default=True, help="Another seed makes another account.")
@click.option("--agents", default=8, type=_COUNT, help="How many agents present. [default: 8]")
@click.option("--sessions-per-day", default=30, type=_COUNT, help="On a working day. [default: 30]")
@click.option("--days", default=60, type=_COUNT, help="Days of history. [default: 60]")
@click.option(
    "--now", callback=_moment, help="The account as of this moment. [default: the present]"
)
@click.option("--latency", default=0.0, help="Seconds that each response takes.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    callback=_faults,
    help="How to fail: a status such as 503, or 429:7 with a Retry-After; reset, truncate, html, "
    "slow:2 (seconds), redirect:URL. Several take turns.",
)
@click.option("--fault-every", default=5, show_default=True, help="Fail each n-th request.")
@click.option(
    "--select", type=click.Choice(["start", "end", "overlap"]), default="start", show_default=True,
    help="What of a session or demo request has to lie in the range.",
)  # fmt: skip
@click.option(
    "--order", type=click.Choice(["start", "reverse", "shuffled"]), default="start",
    show_default=True, help="The order of lists.",
)  # fmt: skip
@click.option("--exclusive", is_flag=True, help="What lies on from or to is not in the range.")
@click.option("--range-limit", type=float, help="Refuse a range of more days with a 400.")
@click.option(
    "--like", "variants", multiple=True, type=click.Choice(list(VARIANTS)),
    help="Respond in a way that is likely for the real API. Several add up.",
)  # fmt: skip
def serve(  # noqa: PLR0913 - one an option
    *,
    port: int,
    now: datetime | None,
    faults: tuple[str, ...],
    fault_every: int,
    latency: float,
    select: str,
    order: str,
    exclusive: bool,
    range_limit: float | None,
    variants: tuple[str, ...],
    **account: int,
) -> None:
    """Serve a CrankWheel account of made-up data, to try the tap or to develop against."""
    # A list, since threads share it, and a generator does not take two calls at a time.
    turns = [turn for fault in faults for turn in (*[None] * (fault_every - 1), fault)]
    likely = {k: v for name in variants for k, v in VARIANTS[name].items()}
    behaviour = Behaviour(
        **likely,
        latency=latency,
        select=select,
        inclusive=(not exclusive, not exclusive),
        order=order,
        range_limit=timedelta(days=range_limit) if range_limit else timedelta.max,
        faults=itertools.cycle(turns),
    )
    try:
        sandbox = Sandbox(Account(**account, fixed_now=now), behaviour, port=port)
    except OSError as error:
        msg = f"port {port} cannot be used ({error.strerror}): choose another with --port."
        raise click.ClickException(msg) from None
    click.echo(f"export TAP_CRANKWHEEL_API_URL={sandbox.url}")
    click.echo(f"export TAP_CRANKWHEEL_API_KEY={API_KEY}")
    if now:  # or the tap would read up to the clock's now
        click.echo(f"export TAP_CRANKWHEEL_START_DATE={sandbox.account.start:%Y-%m-%dT%H:%M:%SZ}")
        click.echo(f"export TAP_CRANKWHEEL_END_DATE={now:%Y-%m-%dT%H:%M:%SZ}")
    click.echo("\nServing until you press Ctrl+C. Paste these lines into another terminal.")
    click.echo("There, try (in a clone, with uv run before each):")
    click.echo("  meltano invoke tap-crankwheel --test")
    click.echo("  tap-crankwheel --config=ENV")
    click.echo(f"  curl -H 'Authorization: Basic {API_KEY}' {sandbox.url}/user_access")
    with sandbox:
        try:
            sandbox.serve_forever()
        except KeyboardInterrupt:
            click.echo("stopped")
