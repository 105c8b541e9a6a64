"""Runs of Meltano that are stopped, and the runs after them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from tests.e2e.conftest import into_duckdb
from tests.e2e.test_meltano import check_account, environment
from tests.support import STREAMS, Row, ScriptedSandbox

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("meltano")]
OFTEN = "  config:\n      batch_size_rows: 50\n      filepath:"  # confirm every 50 rows
RUN = ("run", "tap-crankwheel", "target-duckdb")


def contents(path: Path) -> dict[str, list[Row]]:
    """Return the tables, once no process has the file open any more."""
    while True:
        try:
            connection = duckdb.connect(path, read_only=True)
            break
        except duckdb.IOException as error:
            if "lock" not in str(error):
                raise
            time.sleep(0.1)
    with connection:
        tables = {
            name: connection.sql(f"select * from crankwheel.{name}")  # noqa: S608
            for (name,) in connection.sql(
                "select table_name from duckdb_tables() where schema_name = 'crankwheel'"
            ).fetchall()
        }
        return {
            name: [dict(zip(table.columns, row, strict=True)) for row in table.fetchall()]
            for name, table in tables.items()
        }


@into_duckdb
@pytest.mark.parametrize(
    ("stopped", "number", "code"),
    [("meltano", signal.SIGTERM, 143), ("meltano", signal.SIGKILL, -9), ("tap", signal.SIGTERM, 0)],
)
def test_what_the_target_has_confirmed_is_not_read_again_and_nothing_is_lost(
    project: Project, tmp_path: Path, stopped: str, number: signal.Signals, code: int
) -> None:
    reached, respond = threading.Event(), threading.Event()

    def users() -> Any:  # the last stream: all others have been emitted
        reached.set()
        assert respond.wait(60)
        return list(sandbox.account.users.values())

    sandbox = ScriptedSandbox(users=users)
    task = project.copy(tmp_path)
    file = tmp_path / "meltano.yml"
    text = file.read_text(encoding="utf-8").replace("  config:\n      filepath:", OFTEN)
    file.write_text(text, encoding="utf-8")
    with sandbox.running():
        settings = environment(sandbox) | {"TAP_CRANKWHEEL_LOOKBACK_DAYS": "0"}
        with subprocess.Popen(
            [Path(sys.executable).parent / "meltano", *RUN],
            cwd=tmp_path,
            env={**os.environ, "NO_COLOR": "1", **settings},
            stderr=subprocess.PIPE,
            text=True,
        ) as run:
            assert run.stderr
            confirmed = (line for line in run.stderr if "Incremental state has been upd" in line)
            assert [next(confirmed) for _ in range(4)]  # the last three in usage_sessions
            assert reached.wait(60)
            children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text(encoding="utf-8")
            os.kill(run.pid if stopped == "meltano" else int(children.split()[0]), number)
            log = "".join(run.stderr)
            assert run.wait(60) == code
        respond.set()
        first = len(sandbox.requests)
        assert ("Gracefully shutting down..." in log) == (number == signal.SIGTERM)
        before = contents(tmp_path / "warehouse.duckdb")
        assert len(before["usage_sessions"]) >= 150

        if number == signal.SIGKILL:
            with pytest.raises(AssertionError, match=r"Another .* is already running"):
                task.meltano(*RUN, **settings)
        force = ["--force"] * (number == signal.SIGKILL)
        task.meltano(RUN[0], *force, *RUN[1:], **settings)
    after = contents(tmp_path / "warehouse.duckdb")
    assert set(after) == set(STREAMS)
    check_account(after, sandbox.account)
    assert len(sandbox.requests) - first < first
