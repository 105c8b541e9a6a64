"""The questions in the documentation, and the answers that it shows."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import duckdb
import psycopg
import pytest
from psycopg.types.json import Jsonb

from tap_crankwheel.sandbox.account import Account
from tap_crankwheel.sandbox.server import Sandbox
from tap_crankwheel.sandbox.tap import NOW as SANDBOX_NOW
from tap_crankwheel.windows import parse_timestamp
from tests.e2e.conftest import into_duckdb
from tests.e2e.test_meltano import TYPES
from tests.support import all_requests, all_sessions, config_for, days, small_account, sync
from tools.queries import QUERIES, render

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("meltano")]

PAGE = QUERIES.read_text(encoding="utf-8")
QUESTIONS = dict(section.split("\n", 1) for section in PAGE.split("\n## ")[1:])
# The columns' types, which the tests of the targets check; other kinds have one name in both.
KINDS = {name: kind for kind, names in reversed(TYPES.items()) for name in names}
DUCKDB = {"integer": "bigint", "number": "double", "list": "json"}
POSTGRES = {"integer": "bigint", "number": "numeric", "list": "jsonb[]", "json": "jsonb"}


@into_duckdb
def test_the_answers_and_charts_are_current(warehouse: Path) -> None:
    files = render(warehouse)
    for path, text in files.items():
        assert path.read_text(encoding="utf-8") == text, "run: uv run python tools/queries.py"
    charts = [text for path, text in files.items() if path.suffix == ".svg"]
    assert len(charts) == 3
    assert not any("<!--" in chart for chart in charts)  # where the library writes the date


def answer(cursor: Any) -> list[list[Any]]:
    return [[float(x) if isinstance(x, Decimal) else x for x in row] for row in cursor.fetchall()]


def ask(account: Account, folder: Path, url: str, **settings: str) -> dict[str, list[list[Any]]]:
    """Load an account into both databases, ask both all questions, and return their one answer."""
    with Sandbox(account).running() as sandbox:
        tables = sync(config_for(sandbox, **settings)).records
    removed = {"email": "gone@example.com", "in_demo_pool": True, "_sdc_deleted_at": "now"}
    answers = {}
    with duckdb.connect() as duck, psycopg.connect(url) as postgres:
        for name, rows in tables.items():
            kinds = {column: KINDS.get(column, "text") for column in rows[0]}
            types = {column: DUCKDB.get(kind, kind) for column, kind in kinds.items()}
            path = folder / name
            path.write_text(json.dumps(rows), encoding="utf-8")
            duck.execute(f"create table {name} as from read_json('{path}', columns = {types})")
            fields = ", ".join(f"{key} {POSTGRES.get(kind, kind)}" for key, kind in kinds.items())
            postgres.execute(f"create table {name} ({fields}, _sdc_deleted_at timestamp)")
            filled = f"jsonb_populate_recordset(null::{name}, %s)"
            loaded = Jsonb([*rows, removed] if name == "users" else rows)
            postgres.execute(f"insert into {name} select * from {filled}", [loaded])  # noqa: S608
        for question, section in QUESTIONS.items():
            queries = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
            answers[question] = answer(duck.execute(queries[0]))
            assert answers[question] == answer(postgres.execute(queries[-1])), question
        # The same on columns with a time zone, in the way that the page says.
        postgres.execute("set timezone to 'UTC'")
        for name, rows in tables.items():
            for column in (column for column in rows[0] if KINDS.get(column) == "timestamp"):
                postgres.execute(f"alter table {name} alter {column} type timestamptz")
        for question, section in QUESTIONS.items():
            query = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)[-1]
            found = answer(postgres.execute(query.replace(" at time zone 'UTC'", "")))
            assert answers[question] == found, question
    return answers


def test_both_databases_answer_all_questions_alike(postgres: str, tmp_path: Path) -> None:
    answers = ask(Account(fixed_now=SANDBOX_NOW), tmp_path, postgres)
    assert len(answers) == 13
    assert all(answers.values())


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/New_York", "UTC"])
def test_statistics_follow_the_rows_time_zone(postgres: str, tmp_path: Path, name: str) -> None:
    # The first of a month; before it five whole weeks, in one of which Berlin changes its clocks.
    now = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
    account = Account(fixed_now=now, days=47, sessions_per_day=150)
    answers = ask(account, tmp_path, postgres, timezone=name)

    def day(moment: datetime) -> date:
        return moment.astimezone(ZoneInfo(name)).date()

    def weeks(moments: list[datetime]) -> dict[date, int]:
        return Counter(day(moment) - timedelta(days=day(moment).weekday()) for moment in moments)

    sessions = [(parse_timestamp(s["start_date"]), s["email"]) for s in all_sessions(account)]
    meetings = weeks([start for start, _ in sessions])
    requests = weeks([parse_timestamp(request["start_ts"]) for request in all_requests(account)])
    canceled = weeks([moment for day in days(account) for moment in account.canceled(day.date())])
    latest = sorted(meetings, reverse=True)
    found = answers["Is it more or less than the week before?"]
    assert [(row[0], row[2]) for row in found] == [(week, meetings[week]) for week in latest[1:-1]]
    found = answers["What becomes of demo requests, week by week?"]
    assert [(week, made, lost) for week, _, made, *_, lost in found] == [
        (week, requests[week], canceled[week]) for week in latest[:5]
    ]
    found = answers["How much did each agent present in the last calendar month?"]
    october = Counter(email for start, email in sessions if day(start).month == 10)
    assert {email: count for _, _, email, count, _ in found} == october


def test_emails_join_whatever_their_case(postgres: str, tmp_path: Path) -> None:
    account = small_account()
    taken = Counter(request.get("handled_by") for request in all_requests(account))
    users = [{**user, "email": user["email"].title()} for user in account.users.values()]
    account.users = {user["email"]: user for user in users}
    answers = ask(account, tmp_path, postgres)
    found = answers["Who takes the demo requests?"]
    pool = [user["email"] for user in users if user["in_demo_pool"]]
    assert {email: count for email, count, *_ in found} == {u: taken[u.lower()] for u in pool}
    found = answers["Who has an account but does not present?"]
    assert [email for email, *_ in found] == ["Owner@Example.Com", "Reports@Example.Com"]
