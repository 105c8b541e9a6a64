"""Serves an account that was rendered before, so that what is measured is the client."""

from __future__ import annotations

import multiprocessing
import threading
import time
from bisect import bisect_left, bisect_right
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.sharedctypes import Synchronized

START = datetime(2025, 9, 1, tzinfo=timezone.utc)

Row = dict[str, Any]


class History:
    """Items of a list, by their start.

    Args:
        count: How many, at the same distance from each other.
        days: Over how many days from `START` on.
        render: Makes an item of its number and start.
    """

    def __init__(self, count: int, days: int, render: Callable[[int, datetime], Row]) -> None:
        step = timedelta(days=days) / max(count, 1)
        starts = [START + n * step for n in range(count)]
        self._starts = [f"{start:%Y-%m-%dT%H:%M:%SZ}" for start in starts]
        self._items = [msgspec.json.encode(render(n, start)) for n, start in enumerate(starts)]
        self.size = sum(map(len, self._items))

    def between(self, low: str, high: str) -> bytes:
        """Return the items that start from one second to another, as `sessions`."""
        first, last = bisect_left(self._starts, low), bisect_right(self._starts, high)
        return b'{"stats":{},"total_canceled_requests":0,"sessions":[%b]}' % b",".join(
            self._items[first:last]
        )


def session(number: int, start: datetime) -> Row:
    """Return a session, some 400 bytes."""
    seconds = number % 3600
    end = start + timedelta(seconds=seconds)
    return {
        "session_id": number,
        "email": f"agent{number % 50}@example.com",
        "agent_name": f"Agent Nummer {number % 50}",
        "start_date": f"{start:%Y-%m-%dT%H:%M:%S.%fZ}",
        "end_date": f"{end:%Y-%m-%dT%H:%M:%S.%fZ}",
        "duration": seconds,
        "webcam_s": number % 60,
        "session_ended": True,
        "viewer_info": {
            "viewer_count": 0,
            "max_viewer_count": number % 4,
            "locations": ["Stafford, United States*", "Reykjavík, Iceland"],
        },
        "log": [
            {"at": f"{start:%Y-%m-%dT%H:%M:%S.%fZ}", "type": "tab"},
            {"at": f"{end:%Y-%m-%dT%H:%M:%S.%fZ}", "type": "window"},
        ],
    }


def demo_request(number: int, start: datetime) -> Row:
    """Return a demo request, some 700 bytes."""
    names = ("name", "email", "company", "job-title", "website", "utm-source", "utm-campaign")
    return {
        "start_ts": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "last_event_ts": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "availability_bucket": "full_capacity",
        "seconds_to_respond": number % 600,
        "handled_by": f"agent{number % 50}@example.com",
        "call_confirmed": True,
        "screenshared": number % 2 == 0,
        "accepted_from": "extension",
        "prospect_info": {
            "prospect-phone": f"+1555{number:07}",
            "prospect-request-origin": "https://www.example.com/demo",
            **{f"prospect-{name}": f"made-up answer {number}" for name in names},
        },
    }


@dataclass
class Served:
    """An account that is served.

    Attributes:
        url: Where.
        size: The bytes of its sessions, and of its demo requests.
        requests: How many were answered.
        sent: How many bytes of answers were sent.
    """

    url: str
    size: tuple[int, int]
    requests: Synchronized[int]
    sent: Synchronized[int]


@contextmanager
def serving(
    sessions: int, days: int = 365, *, latency: float = 0, rate: float = 0
) -> Iterator[Served]:
    """Serve an account, in a process of its own.

    Args:
        sessions: How many sessions it has; demo requests, a fourteenth of that.
        days: Over how many days.
        latency: Seconds that each answer takes.
        rate: Bytes a second that it sends in all; 0 for no limit.

    Yields:
        What is served.
    """
    parent, child = multiprocessing.Pipe()
    requests: Synchronized[int] = multiprocessing.Value("q")
    sent: Synchronized[int] = multiprocessing.Value("q")
    process = multiprocessing.Process(
        target=_serve, args=(child, sessions, days, latency, rate, requests, sent), daemon=True
    )
    process.start()
    try:
        port, size = parent.recv()
        yield Served(f"http://127.0.0.1:{port}", size, requests, sent)
    finally:
        process.terminate()
        process.join()


def _serve(  # noqa: PLR0913, PLR0917
    pipe: Any,
    sessions: int,
    days: int,
    latency: float,
    rate: float,
    requests: Synchronized[int],
    sent: Synchronized[int],
) -> None:
    histories = {
        "/usage": History(sessions, days, session),
        "/demo_usage": History(sessions // 14, days, demo_request),
    }
    line = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            time.sleep(latency)
            if url.path in histories:
                params = parse_qs(url.query)
                answer = histories[url.path].between(params["from"][0], params["to"][0])
            else:
                answer = b'[{"email":"agent1@example.com"}]'
            with requests.get_lock(), sent.get_lock():
                requests.value += 1
                sent.value += len(answer)
            if rate:
                with line:
                    time.sleep(len(answer) / rate)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    pipe.send((server.server_port, tuple(history.size for history in histories.values())))
    server.serve_forever()
