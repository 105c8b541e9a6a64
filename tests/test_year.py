"""A year of daily runs: what the target holds at its end is what the account says."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tests.support import FakeClock, Row, ScriptedSandbox, Warehouse, config_for, sync

START = datetime(2025, 9, 1, tzinfo=timezone.utc)
DAYS = 365
CHECKED = ("account_stats", "agent_stats", "demo_requests", "usage_sessions")


def text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def between(items: list[Any], start: datetime, end: datetime) -> list[Any]:
    """Return those that start in a range, each with its number."""
    return [(n, item) for n, item in enumerate(items) if start <= item[0] <= end]


class ChangingAccount:
    """Demo requests that are taken hours to six days later, and sessions left running for days."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        rng = random.Random(11)  # noqa: S311
        self.requests: list[tuple[datetime, timedelta | None]] = []
        self.sessions: list[tuple[datetime, timedelta]] = []
        for day in range(DAYS):
            for _ in range(2):
                made = START + timedelta(days=day, seconds=rng.randrange(86_400))
                delay = timedelta(hours=rng.choice((1, 5, 20, 60, 143)))
                self.requests.append((made, delay if rng.random() < 0.7 else None))
                hours = rng.choice((1, 1, 1, 64, 140))  # some run over a weekend, or longer
                self.sessions.append((made, timedelta(hours=hours)))

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.time(), timezone.utc)

    def demo_usage(self, start: datetime, end: datetime) -> Row:
        listed = [self.request(n, *x) for n, x in between(self.requests, start, min(end, self.now))]
        return {"total_canceled_requests": 0, "sessions": listed}

    def request(self, number: int, made: datetime, delay: timedelta | None) -> Row:
        taken = delay is not None and made + delay <= self.now
        return {
            "start_ts": text(made),
            "prospect_info": {"prospect-phone": f"+1555{number:07}"},
            "seconds_to_respond": delay.total_seconds() if delay and taken else "never",
            **({"handled_by": "ann@example.com"} if taken else {}),
        }

    def usage(self, start: datetime, end: datetime) -> Row:
        listed = between(self.sessions, start, min(end, self.now))
        return {"sessions": [self.session(n, *x) for n, x in listed]}

    def session(self, number: int, started: datetime, length: timedelta) -> Row:
        end = min(started + length, self.now)
        return {
            "session_id": number,
            "email": "ann@example.com",
            "start_date": text(started),
            "end_date": text(end),
            "duration": int((end - started).total_seconds()),
            "session_ended": started + length <= self.now,
        }


@pytest.mark.slow
def test_after_a_year_of_daily_runs_the_target_holds_what_the_account_says() -> None:
    clock = FakeClock(START)
    account = ChangingAccount(clock)
    rng = random.Random(12)  # noqa: S311
    warehouse = Warehouse()
    server = ScriptedSandbox(usage=account.usage, demo_usage=account.demo_usage)
    with server.running() as sandbox:
        config = config_for(sandbox, start_date=text(START), end_date=None)
        for day in range(1, DAYS + 9):
            clock.now = START + timedelta(days=day, hours=6)
            if rng.random() < 0.15 and day < DAYS + 8:
                continue  # a day on which no run was made
            run: Any = {"select": CHECKED, "clock": FakeClock(clock.now)}
            warehouse.load(sync(config, state=warehouse.state, **run))

    wrong = [
        row
        for row, (made, delay) in zip(
            sorted(warehouse["demo_requests"], key=lambda row: row["start_ts"]),
            sorted(account.requests, key=lambda request: request[0]),
            strict=True,
        )
        if (row["seconds_to_respond"], row["start_ts"][:19] + "Z")
        != (delay and delay.total_seconds(), text(made))
    ]
    assert wrong == []
    sessions = {int(row["id"]): row for row in warehouse["usage_sessions"]}
    assert {n: row["duration"] for n, row in sessions.items()} == {
        n: length.total_seconds() for n, (_, length) in enumerate(account.sessions)
    }
    assert all(row["session_ended"] for row in sessions.values())
    seconds: Counter[str] = Counter()
    for started, length in account.sessions:
        seconds[text(started)[:10]] += int(length.total_seconds())
    for stream in ("account_stats", "agent_stats"):
        counted = {row["period_start"][:10]: row["total_seconds"] for row in warehouse[stream]}
        assert {day: count for day, count in counted.items() if count} == seconds
