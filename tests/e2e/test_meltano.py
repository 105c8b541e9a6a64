"""The tap as its users run it: with Meltano, into real targets."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg
import pytest
import yaml
from psycopg.rows import dict_row

from tap_crankwheel.sandbox.account import Account
from tap_crankwheel.sandbox.server import Behaviour, Sandbox
from tap_crankwheel.sandbox.tap import NOW as SANDBOX_NOW
from tap_crankwheel.windows import format_timestamp
from tests import support as s
from tests.e2e.conftest import ROOT, into_duckdb
from tests.targets.readers import json_lines
from tests.test_docs import blocks, extractor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.e2e.conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("meltano")]


def environment(sandbox: Sandbox) -> dict[str, str]:
    config = s.config_for(sandbox)
    return {f"TAP_CRANKWHEEL_{name.upper()}": value for name, value in config.items()}


def plain(value: object) -> object:
    """Return what a database gave as the JSON value it was."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, date):
        raise TypeError
    if hasattr(value, "as_integer_ratio") and not isinstance(value, (bool, int, float)):
        return float(value)  # type: ignore[arg-type]
    return value


def rows(found: Iterable[s.Row], *, parse: tuple[str, ...] = ()) -> list[s.Row]:
    """Return rows without what the target added, and with columns of JSON text parsed."""
    return [
        {
            name: json.loads(value) if name in parse and isinstance(value, str) else plain(value)
            for name, value in row.items()
            if not name.startswith("_sdc")
        }
        for row in found
    ]


def floats(found: list[s.Row], *names: str) -> list[s.Row]:
    """Return rows with numbers of a type that does not tell 600 from 600.0."""
    return [
        {
            name: float(value) if name in names and value is not None else value
            for name, value in row.items()
        }
        for row in found
    ]


OBJECTS = ("viewer_info", "log", "extra", "prospect_info", "stats")
NUMBERS = ("duration", "webcam_s", "seconds_to_respond", "total_seconds")


def check_account(tables: dict[str, list[s.Row]], account: Account) -> None:
    """Check that tables hold the account, field by field."""
    with Sandbox(account).running() as sandbox:
        stats = s.sync(s.config_for(sandbox)).records
    # A day before the account begins, for which the tap was asked as well or not.
    first = format_timestamp(account.start)
    for stream, expected, without in (
        ("usage_sessions", s.expected_sessions(account), ()),
        ("demo_requests", s.expected_requests(account), ("id",)),
        ("users", s.expected_users(account), ()),
        ("account_stats", [r for r in stats["account_stats"] if r["period_start"] >= first], ()),
        ("agent_stats", stats["agent_stats"], ()),
        ("demo_stats", [r for r in stats["demo_stats"] if r["period_start"] >= first], ()),
    ):
        found = floats(rows(tables[stream], parse=OBJECTS), *NUMBERS)
        if stream in {"account_stats", "demo_stats"}:
            found = [row for row in found if row["period_start"] >= first]
        assert s.canonical(found, *without) == s.canonical(floats(expected, *NUMBERS), *without)


TYPES = {
    "timestamp": {
        "start_date",
        "end_date",
        "start_ts",
        "last_event_ts",
        "period_start",
        "period_end",
    },
    "boolean": {"session_ended", "call_confirmed", "screenshared", "in_demo_pool"},
    "integer": {"session_id", "meetings", "total_canceled_requests"},
    "number": set(NUMBERS),
    "list": {"log"},
    "json": set(OBJECTS),
}


def check_types(columns: list[tuple[str, str]], **names: str) -> None:
    """Check the types of columns, where a database has other names for them than TYPES."""
    for column, found in columns:
        if not column.startswith("_sdc"):
            kind = next((kind for kind, fields in TYPES.items() if column in fields), "text")
            assert names.get(kind, kind) == found.lower(), column


@into_duckdb
def test_the_sandbox_into_duckdb(warehouse: Path) -> None:
    with duckdb.connect(warehouse, read_only=True) as connection:
        tables = {
            name: connection.sql(f"select * from crankwheel_sandbox.{name}")  # noqa: S608
            for (name,) in connection.sql("select table_name from duckdb_tables()").fetchall()
        }
        found = {
            name: [dict(zip(table.columns, row, strict=True)) for row in table.fetchall()]
            for name, table in tables.items()
        }
        columns = connection.sql(
            "select column_name, data_type from duckdb_columns() where not internal"
        ).fetchall()
    check_account(found, Account(fixed_now=SANDBOX_NOW))
    check_types(columns, integer="bigint", number="double", list="json", text="varchar")


def load(
    project: Project, sandbox: Sandbox, url: str, *arguments: str, **settings: str
) -> dict[str, list[s.Row]]:
    """Run the tap into PostgreSQL, and return what is there then."""
    project.meltano(
        "run", *arguments, "tap-crankwheel", "target-postgres",
        TARGET_POSTGRES_SQLALCHEMY_URL=url, **environment(sandbox) | settings,
    )  # fmt: skip
    return held(url)


def held(url: str) -> dict[str, list[s.Row]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return {
            name: connection.execute(f"select * from crankwheel.{name}").fetchall()  # noqa: S608
            for name in s.STREAMS
        }


def test_an_account_into_postgres_twice_and_a_run_that_fails(
    project: Project, sandbox: Sandbox, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(project, sandbox, postgres, "--state-id-suffix=twice")
    check_account(first, sandbox.account)
    running = [x["id"] for x in first["usage_sessions"] if x["session_ended"] is False]
    assert running
    assert all(user["_sdc_deleted_at"] is None for user in first["users"])
    with psycopg.connect(postgres) as connection:
        columns = connection.execute(
            "select column_name, data_type from information_schema.columns"
            " where table_schema = 'crankwheel'"
        ).fetchall()
    objects = {"list": "jsonb", "json": "jsonb"}
    timestamp = "timestamp without time zone"
    check_types(columns, timestamp=timestamp, integer="bigint", number="numeric", **objects)

    del sandbox.account.users["agent2@example.com"]
    sandbox.account.fixed_now = s.NOW + timedelta(hours=20)
    sandbox.account.days += 1
    sandbox.requests.clear()
    with psycopg.connect(postgres) as connection:  # whose server is in New York
        role = "alter role postgres in database warehouse set timezone to 'Asia/Kolkata'"
        connection.execute(role)
    for name in ("PGTZ", "TZ"):
        monkeypatch.setenv(name, "Europe/Berlin")
    second = load(project, sandbox, postgres, "--state-id-suffix=twice")
    gone = [user for user in second["users"] if user["_sdc_deleted_at"] is not None]
    assert [user["email"] for user in gone] == ["agent2@example.com"]
    marked = {user["email"]: user["_sdc_deleted_at"] for user in second["users"]}
    second["users"] = [user for user in second["users"] if user not in gone]
    check_account(second, sandbox.account)
    finished = {x["id"]: x["session_ended"] for x in second["usage_sessions"]}
    assert all(finished[number] for number in running)
    assert len(sandbox.requests) == 23  # with state: the lookback, not the history

    (query,) = blocks("docs/targets.md", "sql")
    with psycopg.connect(postgres, options="-c search_path=crankwheel") as connection:
        assert connection.execute(query.encode()).fetchone() == (0,)
        for column in ("period_start", "_sdc_received_at"):
            shifted = f"update account_stats set {column} = {column} + interval '1 hour'"  # noqa: S608
            connection.execute(shifted.encode())
            assert connection.execute(query.encode()).fetchone() == (len(second["account_stats"]),)
            connection.rollback()

    sandbox.account.users = {}  # an empty list ends the run, and marks nobody
    with pytest.raises(AssertionError, match="the list of users is empty") as failed:
        load(project, sandbox, postgres, "--state-id-suffix=twice")
    assert "Traceback (most recent call last)" not in str(failed.value)
    after = held(postgres)["users"]
    assert {row["email"]: row["_sdc_deleted_at"] for row in after} == marked


def test_the_readmes_command_sets_what_meltano_yml_does(project: Project, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall("`meltano (config set target-postgres .*?)`", readme)
    copied, path = project.copy(tmp_path), tmp_path / "meltano.yml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    loader = next(x for x in document["plugins"]["loaders"] if x["name"] == "target-postgres")
    document["plugins"] = {"loaders": [{**loader, "env": {}}]}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    copied.meltano(*command.split())
    (found,) = yaml.safe_load(path.read_text(encoding="utf-8"))["plugins"]["loaders"]
    assert found == loader


def test_questions_become_columns_in_postgres(
    project: Project, sandbox: Sandbox, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "FLATTENING_ENABLED": "true",
        "FLATTENING_MAX_DEPTH": "1",
        "CUSTOM_QUESTIONS": '["team-size", "has-crm"]',
    }.items():
        monkeypatch.setenv(f"TAP_CRANKWHEEL_{name}", value)
    found = load(project, sandbox, postgres, "--full-refresh")["demo_requests"]
    expected = s.expected_requests(sandbox.account, ("team-size", "has-crm"))
    for question in ("team-size", "has-crm", "phone"):
        answers = [row[f"prospect_info__prospect-{question}"] for row in found]
        told = [request["prospect_info"][f"prospect-{question}"] for request in expected]
        assert sorted(answers) == sorted(told)


RANGES = (
    ("2026-08-11T09:30:00Z", "2026-08-18T12:00:00Z"),
    ("2026-08-18T12:00:00Z", "2026-08-25T15:45:00Z"),
    ("2026-08-25T15:45:00Z", "2026-09-01T15:20:00Z"),
)


def test_a_range_and_then_two_at_once_are_the_same_as_one_run(
    project: Project, sandbox: Sandbox, postgres: str, tmp_path: Path
) -> None:
    def part(number: int) -> None:
        select = ["*.*"] if number == 0 else ["*.*", "!users.*"]
        settings = {
            "TAP_CRANKWHEEL__SELECT": json.dumps(select),
            "TAP_CRANKWHEEL_START_DATE": RANGES[number][0],
            "TAP_CRANKWHEEL_END_DATE": RANGES[number][1],
            "MELTANO_SYS_DIR_ROOT": str(tmp_path / str(number)),
        }
        for retries in (2, 1, 0):
            try:
                load(project, sandbox, postgres, f"--state-id-suffix={number}", **settings)
            except AssertionError as error:  # a row on a boundary, loaded by two at a time
                if not retries or "UniqueViolation" not in str(error):
                    raise
            else:
                break

    part(0)  # which makes the tables
    with ThreadPoolExecutor() as tasks:
        list(tasks.map(part, range(1, len(RANGES))))
    check_account(held(postgres), sandbox.account)


@into_duckdb
def test_the_readmes_query_says_what_it_shows(warehouse: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    query = readme.split('uv run python -c "\n')[1].split('"\n```')[0]
    shown = readme.split("```text\n")[1].split("```")[0]
    result = subprocess.run(
        [sys.executable, "-c", query],
        cwd=warehouse.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == shown.strip()


@into_duckdb
def test_the_way_to_ask_queries_leaves_no_lock(warehouse: Path) -> None:
    (code,) = blocks("docs/queries.md", "python")
    # In a process that stays open, as a notebook does.
    code += "\nprint(flush=True)\ninput()\n"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=warehouse.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as notebook:
        assert notebook.stdout
        assert "1359" in "".join(iter(notebook.stdout.readline, "\n"))
        duckdb.connect(warehouse).close()  # fails while another process has it open
        notebook.communicate("\n")
    assert notebook.returncode == 0


@into_duckdb
def test_the_query_for_personal_data_finds_what_was_loaded(warehouse: Path) -> None:
    (query,) = blocks("docs/personal-data.md", "sql")
    with duckdb.connect(warehouse, read_only=True) as connection:
        connection.execute("use crankwheel_sandbox")
        found = connection.execute(query).fetchall()
        assert found == connection.execute("select count(*) from usage_sessions").fetchall()


def with_emails(document: Any) -> Any:
    """Return what the API sends, with an email under an unknown name in each of its objects."""
    if isinstance(document, dict):
        return {"contact": "viewer@example.net"} | {k: with_emails(v) for k, v in document.items()}
    return [with_emails(item) for item in document] if isinstance(document, list) else document


def test_the_ways_to_keep_personal_data_out_leave_no_email_and_no_name(
    project: Project, sandbox: Sandbox, tmp_path: Path
) -> None:
    scripted = s.ScriptedSandbox(
        usage=lambda *ends: with_emails(sandbox.usage(*ends)),
        demo_usage=lambda *ends: with_emails(sandbox.demo_usage(*ends)),
        users=lambda: with_emails(sandbox.users()),
    )
    task = project.copy(tmp_path)
    document = yaml.safe_load((tmp_path / "meltano.yml").read_text(encoding="utf-8"))
    for block in blocks("docs/personal-data.md", "yaml"):
        document["plugins"]["extractors"][0].update(extractor(block))
    (tmp_path / "meltano.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    with scripted.running():
        settings = environment(scripted) | {"CRANKWHEEL_SALT": "pepper"}
        task.meltano("run", "tap-crankwheel", "target-jsonl", **settings)
    loaded = {path.stem.split("-")[0]: path.read_text("utf-8") for path in tmp_path.glob("*.jsonl")}
    assert loaded.keys() == set(s.STREAMS)
    personal = ("@", "Ann Lee", "Prospect")
    assert not {name for name, text in loaded.items() if any(word in text for word in personal)}


def test_the_way_without_meltano(
    project: Project, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, each_run = blocks("docs/running.md", "shell")
    target = project.folder / ".meltano/loaders/target-jsonl/venv/bin"
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{target}:{os.environ['PATH']}")

    def shell(script: str) -> int:
        command = ["/bin/bash", "-c", script]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode

    def bookmarks() -> dict[str, str]:
        state = json.loads((tmp_path / "states.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        return {
            stream: bookmark["replication_key_value"]
            for stream, bookmark in state["bookmarks"].items()
            if bookmark
        }

    assert shell(once) == 0
    (tmp_path / "config.json").write_text(json.dumps(s.config_for(sandbox)), encoding="utf-8")
    assert shell(each_run) == 0
    tables = {
        path.name.split("-")[0]: json_lines(path.read_text(encoding="utf-8"))
        for path in tmp_path.glob("*-*.jsonl")
    }
    check_account(tables, sandbox.account)
    after = bookmarks()
    assert after["usage_sessions"] == format_timestamp(s.NOW)
    assert len(after) == 5

    first = len(sandbox.requests)
    assert shell(each_run) == 0
    assert len(sandbox.requests) - first == 19  # the lookback, not the history
    sandbox.behaviour = Behaviour(faults=itertools.repeat("403"))
    assert shell(each_run) == 1
    assert bookmarks() == after
