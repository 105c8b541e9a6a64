"""Serves an account that was rendered before, so that what is measured is the client."""

from __future__ import annotations

import multiprocessing
import time
from bisect import bisect_left, bisect_right
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from tap_crankwheel.sandbox.account import Account, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.sharedctypes import Synchronized

START, END = datetime(2025, 9, 1, tzinfo=timezone.utc), datetime(2026, 9, 1, tzinfo=timezone.utc)
AGENTS = 100


def moment(of: datetime) -> str:
    """Return a moment as the API writes it."""
    return f"{of:%Y-%m-%dT%H:%M:%S.%fZ}"


def sessions(count: int) -> Iterator[Row]:
    """Yield sessions, some 500 bytes each, evenly spread over the year and the agents."""
    places = ["Stafford, United States*", "Reykjavík, Iceland"]
    for number in range(count):
        seconds, agent = number % 3600, number % AGENTS
        start = START + number * (END - START) / count
        first, last = moment(start), moment(start + timedelta(seconds=seconds))
        yield {
            "session_id": number,
            "email": f"agent{agent}@example.com",
            "agent_name": f"Agent Nummer {agent}",
            "start_date": first,
            "end_date": last,
            "duration": seconds,
            "webcam_s": number % 60,
            "session_ended": True,
            "viewer_info": {"viewer_count": 0, "max_viewer_count": number % 4, "locations": places},
            "log": [{"at": first, "type": "tab"}, {"at": last, "type": "window"}],
        }


def demo_requests(per_day: int) -> Iterator[Row]:
    """Yield those of the sandbox account, so many on a working day."""
    account = Account(agents=AGENTS, sessions_per_day=5 * per_day, days=365, fixed_now=END)
    for number in range(365):
        yield from account.demo_requests(START.date() + timedelta(days=number))


def history(rows: Iterable[Row], start: str, beside: bytes) -> Callable[[str, str], bytes]:
    """Render the items of a list.

    Args:
        rows: The items.
        start: The field that says when an item started.
        beside: What a response holds before the list.

    Returns:
        What makes the response for a range, whose both ends it includes.
    """
    rendered = sorted((row[start][:19], msgspec.json.encode(row)) for row in rows)
    starts, items = zip(*rendered, strict=True)

    def between(low: str, high: str) -> bytes:
        found = items[bisect_left(starts, low[:19]) : bisect_right(starts, high[:19])]
        return b'{%b,"sessions":[%b]}' % (beside, b",".join(found))

    return between


@contextmanager
def serving(count: int, latency: float = 0) -> Iterator[tuple[str, Synchronized[int]]]:
    """Serve an account, in a process of its own.

    Args:
        count: How many sessions it has in a year; of demo requests, about a fourteenth of that.
        latency: Seconds that each response takes.

    Yields:
        Where it is served, and how many requests it got.
    """
    parent, child = multiprocessing.Pipe()
    requests: Synchronized[int] = multiprocessing.Value("q")
    arguments = child, count, latency, requests
    process = multiprocessing.Process(target=_serve, args=arguments, daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{parent.recv()}", requests
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Any, count: int, latency: float, requests: Synchronized[int]) -> None:
    stats, canceled = b'"stats":{"total":{"meetings":1}}', b'"total_canceled_requests":0'
    demos = demo_requests(count // 10 // 365)
    lists = {
        "/usage": history(sessions(count), "start_date", stats),
        "/demo_usage": history(demos, "start_ts", canceled),
        "/user_access": lambda *_: b'[{"email":"agent1@example.com"}]',
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            time.sleep(latency)
            params = dict(parse_qsl(url.query))
            body = lists[url.path](params.get("from", ""), params.get("to", ""))
            with requests.get_lock():
                requests.value += 1
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    pipe.send(server.server_port)
    server.serve_forever()
