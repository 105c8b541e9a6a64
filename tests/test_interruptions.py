"""Runs that end before their time, and go on from what they wrote."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tap_crankwheel.sandbox.server import Behaviour, Sandbox
from tests import support as s

if TYPE_CHECKING:
    from pathlib import Path


def check(warehouse: s.Warehouse, sandbox: Sandbox, whole: s.Output) -> None:
    s.check_events(warehouse, sandbox.account)
    for stream in ("account_stats", "agent_stats"):
        assert s.canonical(warehouse[stream]) == s.canonical(whole.records[stream])


@pytest.fixture(scope="module")
def served() -> Any:
    account, selects = s.small_account(days=9), ("start", "end", "overlap")
    sandboxes = {x: Sandbox(account, Behaviour(select=x)) for x in selects}
    with ExitStack() as stack:
        yield {x: stack.enter_context(sandbox.running()) for x, sandbox in sandboxes.items()}


@pytest.mark.slow
@settings(max_examples=20)
@given(
    cuts=st.lists(st.integers(0, 400), min_size=1, max_size=6),
    select=st.sampled_from(["start", "end", "overlap"]),
    window_days=st.integers(1, 4),
    lookback_days=st.integers(0, 3),
    limit=st.sampled_from([1, 4]),
)
def test_cut_off_anywhere_and_resumed_nothing_is_lost(  # noqa: PLR0913, PLR0917
    served: dict[str, Sandbox],
    cuts: list[int],
    select: str,
    window_days: int,
    lookback_days: int,
    limit: int,
) -> None:
    sandbox, days = served[select], {"window_days": window_days, "lookback_days": lookback_days}
    config = s.config_for(sandbox, max_parallel_requests=limit, **days)
    warehouse = s.Warehouse()
    for cut in cuts:
        warehouse.load(s.Output(s.sync(config, state=warehouse.state).lines[:cut]))
    warehouse.load(s.sync(config, state=warehouse.state))
    check(warehouse, sandbox, s.sync(config))


def start(folder: Path, config: s.Row, state: s.Row | None) -> subprocess.Popen[bytes]:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    arguments = ["--config", str(folder / "config.json")]
    if state:
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
        arguments += ["--state", str(folder / "state.json")]
    return subprocess.Popen(
        [sys.executable, "-m", "tap_crankwheel", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def complete_lines(data: bytes) -> list[str]:
    return data.decode().split("\n")[:-1]


@pytest.mark.slow
def test_killed_over_and_over_nothing_is_lost(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.account.sessions_per_day = 60  # more than fits into the pipe
    config = s.config_for(sandbox, window_days=1)
    rng = random.Random(6)  # noqa: S311
    warehouse, kills = s.Warehouse(), 0
    for _ in range(8):
        with start(tmp_path, config, warehouse.state) as tap:
            assert tap.stdout
            data = b"".join(tap.stdout.readline() for _ in range(rng.randrange(1, 120)))
            tap.kill()
            # What was on its way when the tap was killed still arrives, perhaps half a line.
            warehouse.load(s.Output(complete_lines(data + tap.stdout.read())))
        kills += tap.returncode == -signal.SIGKILL
    assert kills >= 4
    warehouse.load(s.sync(config, state=warehouse.state))
    check(warehouse, sandbox, s.sync(config))


class Gate:
    """Faults that hold back all requests after some number, until opened."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.reached, self.open = threading.Event(), threading.Event()

    def __iter__(self) -> Gate:
        return self

    def __next__(self) -> None:
        self.free -= 1
        if self.free < 0:
            self.reached.set()
            self.open.wait(60)


@pytest.mark.parametrize("number", [signal.SIGTERM, *s.slow(signal.SIGINT)])
def test_a_signal_ends_a_run_that_waits_at_once(
    sandbox: Sandbox, tmp_path: Path, number: signal.Signals
) -> None:
    gate = Gate(free=5)  # fewer than fill the pipe, which nobody reads yet
    sandbox.account.sessions_per_day = 60  # records enough that a buffer holds part of one
    sandbox.behaviour = Behaviour(faults=gate)
    with start(tmp_path, s.config_for(sandbox), None) as tap:
        assert gate.reached.wait(60)
        tap.send_signal(number)
        out, err = tap.communicate(timeout=60)  # no response ever comes
    gate.open.set()
    assert tap.returncode == 0  # as the SDK has it
    assert b"Traceback" not in err
    assert out.endswith(b"\n")
    warehouse = s.Warehouse(s.Output(complete_lines(out)))
    sandbox.behaviour = Behaviour()
    warehouse.load(s.sync(s.config_for(sandbox), state=warehouse.state))
    check(warehouse, sandbox, s.sync(s.config_for(sandbox)))


def test_a_closed_pipe_ends_the_run_in_one_line(sandbox: Sandbox, tmp_path: Path) -> None:
    with start(tmp_path, s.config_for(sandbox), None) as tap:
        assert tap.stdout
        assert tap.stderr
        tap.stdout.readline()
        tap.stdout.close()
        err = tap.stderr.read().decode()
        assert tap.wait(60) == 1
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert "| ERROR    |" in err.splitlines()[-1]
    assert "The target has ended: look for its error in the log." in err.splitlines()[-1]


def test_a_run_that_fails_keeps_what_it_has(sandbox: Sandbox) -> None:
    """A server that fails half way: what was complete stays, and the next run goes on."""
    warehouse = s.Warehouse()
    for free in (10, 12, 14, 5):
        sandbox.behaviour = Behaviour(faults=iter([*[None] * free, *["403"] * 100]))
        message, output = s.failing(s.config_for(sandbox), state=warehouse.state)
        assert "403" in message
        warehouse.load(output)
    sandbox.behaviour = Behaviour()
    warehouse.load(s.sync(s.config_for(sandbox), state=warehouse.state))
    check(warehouse, sandbox, s.sync(s.config_for(sandbox)))
