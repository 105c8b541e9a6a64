"""Serves bodies that were rendered before, so that what is measured is the client."""

from __future__ import annotations

import multiprocessing
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

START = datetime(2026, 8, 1, tzinfo=timezone.utc)


def body(sessions: int) -> bytes:
    """Return an answer of `/usage` with so many sessions, some 500 bytes each, within a week."""
    step = timedelta(days=6) / max(sessions, 1)
    rows = []
    for n in range(sessions):
        start = START + n * step
        end = start + timedelta(seconds=n % 3600)
        rows.append(
            {
                "session_id": n,
                "email": f"agent{n % 50}@example.com",
                "agent_name": f"Agent Nummer {n % 50}",
                "start_date": start.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "end_date": end.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "duration": n % 3600,
                "webcam_s": n % 60,
                "session_ended": True,
                "viewer_info": {
                    "viewer_count": 0,
                    "max_viewer_count": n % 4,
                    "locations": ["Stafford, United States*", "Reykjavík, Iceland"],
                },
                "log": [
                    {"at": start.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "type": "tab"},
                    {"at": end.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "type": "window"},
                ],
            }
        )
    return msgspec.json.encode({"stats": {}, "sessions": rows})


def _serve(bodies: dict[str, bytes], port: multiprocessing.Queue[int]) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            answer = bodies[urlsplit(self.path).path.split("/")[1]]
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


@contextmanager
def serving(bodies: dict[str, bytes]) -> Iterator[str]:
    """Serve each body below a path of its name, in a process of its own."""
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    process = multiprocessing.Process(target=_serve, args=(bodies, port), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port.get()}"
    finally:
        process.terminate()
