"""What is loaded: two looks at an account, a day apart, as messages of the tap."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from functools import cache
from typing import Any

from typing_extensions import override

from tap_crankwheel.sandbox.account import Account
from tap_crankwheel.sandbox.server import Sandbox
from tests.support import FakeClock, Output, Row, config_for, sync

#: A moment at which a session runs and a demo request waits.
FIRST = datetime(2026, 9, 1, 11, 40, tzinfo=timezone.utc)

#: What agents may be called where a target has to get the text right.
NAMES = ("", "Tab\there", "Two\nlines", 'Quote " and, comma', "Back\\slash", "null", "Zoë ☃")


class HardAccount(Account):
    """An account with values that targets get wrong."""

    @override
    def sessions(self, day: date) -> list[Row]:
        rows = []
        for session in super().sessions(day):
            n = session["session_id"] % 100_000  # its number in the day
            row = {**session, "webcam_s": 0.5 + n, "agent_name": NAMES[n % len(NAMES)]}
            if n % 3 == 0:
                row |= {"rating": 4.5, "webcam_s": "unknown"}  # both are in `extra`
            if n % 4 == 0:
                row["session_id"] = session["session_id"] + 2**53 + 1  # no double holds it
            rows.append(row)
        return rows


@dataclass
class Look:
    """A run of the tap.

    Attributes:
        lines: Its messages.
        output: The same, parsed.
        current: The rows of `users` that are on the account.
    """

    lines: list[str]
    output: Output

    @property
    def rows(self) -> dict[str, list[Row]]:
        return self.output.records

    @property
    def keys(self) -> dict[str, list[str]]:
        return {
            m["stream"]: m["key_properties"] for m in self.output.messages if m["type"] == "SCHEMA"
        }

    @property
    def schemas(self) -> dict[str, dict[str, Any]]:
        return {
            m["stream"]: m["schema"]["properties"]
            for m in self.output.messages
            if m["type"] == "SCHEMA"
        }


@cache
def looks(*, flat: bool) -> tuple[Look, Look]:
    """Return a first run, and one a day later with its state.

    Between them a user was removed and one promoted, a running session ended, and an open demo
    request was taken.
    """
    account = HardAccount(agents=4, sessions_per_day=40, days=6, fixed_now=FIRST)
    with Sandbox(account).running() as sandbox:
        settings: Row = {"custom_questions": ["team-size"]}
        if flat:
            settings |= {"flattening_enabled": True, "flattening_max_depth": 1}
        config = config_for(sandbox, **settings)
        del config["end_date"]
        first = sync(config, clock=FakeClock(FIRST))
        account.fixed_now = FIRST + timedelta(days=1)
        del account.users["agent1@example.com"]
        account.users["agent2@example.com"]["privilege"] = "admin"
        second = sync(config, state=first.state, clock=FakeClock(account.fixed_now))
    for message in second.messages:
        if "version" in message:  # the SDK's are the seconds of the clock on the wall
            message["version"] += 86_400
    second = Output([json.dumps(message) for message in second.messages])
    check_that_much_changed(first, second)
    return Look(first.lines, first), Look(second.lines, second)


def check_that_much_changed(first: Output, second: Output) -> None:
    for stream, field, before in (
        ("usage_sessions", "session_ended", False),
        ("demo_requests", "handled_by", None),
    ):
        open_rows = {row["id"] for row in first.records[stream] if row[field] is before}
        later = {row["id"] for row in second.records[stream] if row[field] is not before}
        assert open_rows & later, f"nothing changed in {stream}"
    versions = [{m["version"] for m in run.messages if "version" in m} for run in (first, second)]
    assert max(versions[0]) < min(versions[1])
