"""The bare limit: get, decode, and encode and write one record at a time."""

from __future__ import annotations

import sys

import msgspec
import requests

if __name__ == "__main__":
    url, start, end = sys.argv[1:]
    answer = requests.get(f"{url}/usage", params={"from": start, "to": end}, timeout=300)
    for session in msgspec.json.decode(answer.content)["sessions"]:
        record = {"type": "RECORD", "stream": "usage_sessions", "record": session}
        sys.stdout.buffer.write(msgspec.json.encode(record) + b"\n")
