"""What several tests need: an account, a run of the tap, and what it ought to say."""

from __future__ import annotations

import io
import itertools
import json
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typing_extensions import override

from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.sandbox.account import Account
from tap_crankwheel.sandbox.server import API_KEY, Sandbox
from tap_crankwheel.tap import TapCrankWheel
from tap_crankwheel.windows import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Row = dict[str, Any]

NOW = datetime(2026, 9, 1, 15, 20, tzinfo=timezone.utc)
LATER = datetime(2026, 12, 1, tzinfo=timezone.utc)
STREAMS = (
    "account_stats", "agent_stats", "demo_requests", "demo_stats", "usage_sessions", "users",
)  # fmt: skip


def slow(*values: Any) -> list[Any]:
    """Return parameters whose tests are slow, beside some of their kind that are not."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


class FakeClock:
    """A clock on which waiting takes no time.

    Args:
        now: The moment at which it starts.

    Attributes:
        pauses: How long each wait was asked to be, in seconds.
    """

    def __init__(self, now: datetime = LATER) -> None:
        self.now = now
        self.pauses: list[float] = []
        self._passed = 0.0
        self._ticks = itertools.count()
        self._lock = threading.Lock()

    def time(self) -> float:
        return self.now.timestamp() + self._passed

    def monotonic(self) -> float:
        return self._passed + next(self._ticks) / 1e9

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._passed += seconds

    def sleep(self, seconds: float, /) -> None:
        self.pauses.append(seconds)
        end = self._passed + seconds
        with self._lock:  # those that sleep at the same time sleep side by side
            self._passed = max(self._passed, end)


class QuickTap(TapCrankWheel):
    """The tap, but waiting takes no time."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"clock": FakeClock(), **kwargs})


class ScriptedSandbox(Sandbox):
    """A sandbox whose responses a test gives.

    Args:
        responses: The response of a path (`usage`, `demo_usage` or `users`): a document, or a
            function of `from` and `to` that returns one.
    """

    def __init__(self, **responses: Any) -> None:
        super().__init__(small_account())
        self._responses = responses

    def _scripted(self, path: str, *args: datetime) -> Any:
        if path not in self._responses:
            return getattr(super(), path)(*args)
        response = self._responses[path]
        return response(*args) if callable(response) else response

    @override
    def usage(self, start: datetime, end: datetime) -> Any:
        return self._scripted("usage", start, end)

    @override
    def demo_usage(self, start: datetime, end: datetime) -> Any:
        return self._scripted("demo_usage", start, end)

    @override
    def users(self) -> Any:
        return self._scripted("users")


class Warehouse:
    """What a target that upserts by key holds after some runs, and the last state."""

    def __init__(self, *outputs: Output) -> None:
        self.state: Row | None = None
        self.tables: dict[str, dict[tuple[Any, ...], Row]] = {name: {} for name in STREAMS}
        for output in outputs:
            self.load(output)

    def load(self, output: Output) -> None:
        self.state = [self.state, *output.states][-1]
        keys = {m["stream"]: m["key_properties"] for m in output.messages if m["type"] == "SCHEMA"}
        for stream, records in output.records.items():
            for record in records:
                self.tables[stream][tuple(record[key] for key in keys[stream])] = record

    def __getitem__(self, stream: str) -> list[Row]:
        return list(self.tables[stream].values())


def small_account(**kwargs: Any) -> Account:
    return Account(**{"agents": 4, "sessions_per_day": 12, "days": 20, "fixed_now": NOW, **kwargs})


def config_for(sandbox: Sandbox, **settings: Any) -> Row:
    return {
        "api_url": sandbox.url,
        "api_key": API_KEY,
        "start_date": (sandbox.account.start - timedelta(days=1)).isoformat(),
        "end_date": sandbox.account.now.isoformat(),
        **settings,
    }


@dataclass
class Output:
    """The messages of a run."""

    lines: list[str]
    messages: list[Row] = field(init=False)

    def __post_init__(self) -> None:
        self.messages = [json.loads(line) for line in self.lines]

    @property
    def types(self) -> list[tuple[str, str | None]]:
        return [(message["type"], message.get("stream")) for message in self.messages]

    @property
    def states(self) -> list[Row]:
        return [message["value"] for message in self.messages if message["type"] == "STATE"]

    @property
    def state(self) -> Row:
        return self.states[-1]

    @property
    def bookmarks(self) -> dict[str, str]:
        key = "replication_key_value"
        return {name: b[key] for name, b in self.state["bookmarks"].items() if key in b}

    @property
    def records(self) -> dict[str, list[Row]]:
        """The records by stream; of those with one key the last, as a target that upserts has."""
        keys = {m["stream"]: m["key_properties"] for m in self.messages if m["type"] == "SCHEMA"}
        tables: dict[str, dict[tuple[Any, ...], Row]] = defaultdict(dict)
        for message in self.messages:
            if message["type"] == "RECORD":
                stream, record = message["stream"], message["record"]
                tables[stream][tuple(record[key] for key in keys[stream])] = record
        return defaultdict(list, {name: list(table.values()) for name, table in tables.items()})


@contextmanager
def captured(lines: list[str] | None = None) -> Iterator[list[str]]:
    """Collect what is written to standard output, as lines."""
    lines = [] if lines is None else lines
    stdout, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    try:
        yield lines
    finally:
        sys.stdout.flush()
        lines += sys.stdout.buffer.getvalue().decode().split("\n")[:-1]
        sys.stdout = stdout


def selecting(
    select: tuple[str, ...], config: Row, state: Row | None = None, clock: FakeClock | None = None
) -> TapCrankWheel:
    """Return the tap with some of its streams selected."""
    state = json.loads(json.dumps(state or {}))
    tap = TapCrankWheel(config=config, state=state, clock=clock or FakeClock())
    for name, stream in tap.streams.items():
        stream.selected = name in select
    return tap


def sync(
    config: Row,
    *,
    state: Row | None = None,
    select: tuple[str, ...] = STREAMS,
    lines: list[str] | None = None,
    clock: FakeClock | None = None,
) -> Output:
    """Run the tap in this process; a run that fails leaves what it wrote in `lines`."""
    with captured(lines) as written:
        selecting(select, config, state, clock).sync_all()
    return Output(written)


def failing(config: Row, *select: str, **run: Any) -> tuple[str, Output]:
    """Run the tap until it fails; return the one line that says why, and what was written."""
    lines: list[str] = []
    with pytest.raises(CrankWheelError) as caught:
        sync(config, select=select or STREAMS, lines=lines, **run)
    assert "\n" not in caught.value.message
    assert API_KEY not in caught.value.message
    return caught.value.message, Output(lines)


def check_events(records: Any, account: Account) -> None:
    """Check that all sessions, requests and users arrived: none lost, doubled or invented."""
    assert canonical(records["usage_sessions"]) == canonical(expected_sessions(account))
    assert canonical(records["demo_requests"], "id") == canonical(expected_requests(account), "id")
    assert canonical(records["users"]) == canonical(expected_users(account))


def days(account: Account) -> list[datetime]:
    count = (account.now - account.start).days + 1
    return [account.start + timedelta(days=n) for n in range(count)]


def all_sessions(account: Account) -> list[Row]:
    return [session for day in days(account) for session in account.sessions(day.date())]


def all_requests(account: Account) -> list[Row]:
    return [request for day in days(account) for request in account.demo_requests(day.date())]


VIEWER_INFO = ("viewer_count", "max_viewer_count", "locations", "extra")
PROSPECT_INFO = (
    "phone", "request-origin", "utm-source", "utm-medium", "utm-campaign", "utm-term",
    "utm-content", "location", "enrich-full-name", "enrich-country", "enrich-state",
    "enrich-company", "enrich-title", "enrich-seniority", "enrich-linkedin", "enrich-twitter",
    "enrich-company-sector", "enrich-company-industry", "enrich-company-employees",
    "enrich-company-description", "enrich-company-linkedin", "enrich-company-twitter",
    "enrich-company-marketcap", "name", "email", "company", "job-title", "website",
)  # fmt: skip


def expected_sessions(account: Account) -> list[Row]:
    """Return the account's sessions as they ought to arrive, written without the tap's code."""

    def expect(session: Row) -> Row:
        viewer_info = dict.fromkeys(VIEWER_INFO) | session.get("viewer_info", {})
        blank = dict.fromkeys(("agent_name", "webcam_s", "log", "extra"))
        return {**blank, **session, "id": str(session["session_id"]), "viewer_info": viewer_info}

    return [expect(session) for session in all_sessions(account)]


def expected_requests(account: Account, questions: tuple[str, ...] = ()) -> list[Row]:
    """Return the account's requests as they ought to arrive, but for their ids."""

    def text(value: object) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    def expect(request: Row) -> Row:
        row: Row = {"handled_by": None, "extra": None, **request}
        for key in ("seconds_to_respond", "call_confirmed", "screenshared", "accepted_from"):
            row[key] = None if row[key] in {"never", "n/a"} else row[key]
        for key in ("start_ts", "last_event_ts"):
            row[key] = row[key].replace("Z", ".000000Z")
        sent = {name: text(value) for name, value in row["prospect_info"].items()}
        info = {f"prospect-{name}": None for name in (*PROSPECT_INFO, *questions)}
        row["prospect_info"] = {name: sent.pop(name, None) for name in info}
        row["prospect_info"]["extra"] = sent or None
        return row

    return [expect(request) for request in all_requests(account)]


def expected_users(account: Account) -> list[Row]:
    return [
        {**user, "in_demo_pool": bool(user["in_demo_pool"]), "extra": None}
        for user in account.users.values()
    ]


def canonical(rows: list[Row], *without: str) -> list[str]:
    """Return rows in a form that compares them whatever their order."""
    return sorted(
        json.dumps({k: v for k, v in row.items() if k not in without}, sort_keys=True)
        for row in rows
    )


@dataclass
class CliResult:
    """How a command line ended."""

    stdout: str
    stderr: str
    exit_code: int

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    @property
    def warnings(self) -> list[str]:
        lines = [line.split(" | ", 3) for line in self.stderr.splitlines()]
        return [text for _, level, _, text in lines if level.strip() == "WARNING"]


Run = Callable[..., CliResult]


def command_line(*arguments: str, tap: type[TapCrankWheel] = QuickTap) -> CliResult:
    """Run the tap's command line in this process; no exception may get out, or be logged."""
    stderr, sys.stderr = sys.stderr, io.StringIO()
    try:
        with captured() as lines, pytest.raises(SystemExit) as ended:
            tap.cli(list(arguments))  # asked for here, it logs to this standard error
        logged = sys.stderr.getvalue()
    finally:
        sys.stderr = stderr
    assert "Traceback" not in logged
    code = ended.value.code
    return CliResult("\n".join(lines), logged, code if isinstance(code, int) else 0)


def run(folder: Path, config: object, *arguments: str, **files: object) -> CliResult:
    """Run the command line in this process, with a file for --config, --state, --catalog."""
    for option, content in {"config": config, **files}.items():
        path = folder / f"{option}.json"
        text = content if isinstance(content, str) else json.dumps(content, default=str)
        path.write_bytes(content if isinstance(content, bytes) else text.encode())
        arguments += (f"--{option}", str(path))
    return command_line(*arguments)


def error_line(result: CliResult) -> str:
    """Return the one line that a failed run ends with."""
    assert result.exit_code == 1
    (error,) = [line for line in result.stderr.splitlines() if "| ERROR    |" in line]
    assert result.stderr.splitlines()[-1] == error
    return error


def ranges(sandbox: Sandbox, path: str) -> list[tuple[datetime, datetime]]:
    """Return the ranges that a path was asked for."""
    found = []
    for request in sandbox.requests:
        url = urlsplit(request.removeprefix("GET "))
        if url.path.endswith(f"/{path}"):
            params = parse_qs(url.query)
            assert set(params) == {"from", "to"}
            start, end = params["from"][0], params["to"][0]
            assert len(start) == len(end) == len("2026-08-30T20:00:00Z")
            found.append((parse_timestamp(start), parse_timestamp(end)))
    return found


def state_at(**bookmarks: str) -> Row:
    keys = {"usage_sessions": "start_date", "demo_requests": "start_ts"}
    found = {
        stream: {
            "replication_key": keys.get(stream, "period_start"),
            "replication_key_value": value,
        }
        for stream, value in bookmarks.items()
    }
    return {"bookmarks": found}
