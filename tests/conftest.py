from __future__ import annotations

import logging
import os
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psycopg
import pytest
from backoff import _sync
from hypothesis import settings
from singer_sdk.configuration import _dict_config
from singer_sdk.logging import ConsoleFormatter

from tap_crankwheel.sandbox.server import Sandbox
from tap_crankwheel.tap import TapCrankWheel
from tests import support as s
from tests.targets import servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# How long an example takes says something of the machine, not of the tap.
settings.register_profile("default", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=5000)
settings.load_profile("default")

# What is set on the machine is none of the tests' business.
for name in list(os.environ):
    if name.startswith(("TAP_CRANKWHEEL", "PG")) or name.upper().endswith("PROXY"):
        del os.environ[name]


@pytest.fixture(autouse=True)
def _no_dotenv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a user's `.env` alone: `--config=ENV` looks for one above the installed SDK."""
    monkeypatch.setattr(_dict_config, "find_dotenv", lambda: "")


@pytest.fixture(autouse=True)
def _signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a signal end pytest: with the tap's own handlers, it would fail the test that runs."""
    monkeypatch.setattr(TapCrankWheel, "_setup_signal_handlers", lambda _: None)


@pytest.fixture(autouse=True)
def _command_line() -> Iterator[None]:
    """Undo what a command line sets for its process."""
    root, hook = logging.getLogger(), sys.excepthook
    level = root.level
    yield
    root.handlers = [h for h in root.handlers if not isinstance(h.formatter, ConsoleFormatter)]
    root.setLevel(level)
    sys.excepthook = hook
    logging.captureWarnings(capture=False)


@pytest.fixture(autouse=True)
def retry_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let retries wait no time; return how many seconds each of them would have waited."""
    waits: list[float] = []
    monkeypatch.setattr(_sync, "time", SimpleNamespace(sleep=waits.append))
    return waits


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(s.small_account()).running() as server:
        yield server


@pytest.fixture
def run(sandbox: Sandbox, tmp_path: Path) -> s.Run:
    """Return what runs the command line against the sandbox, with some settings and files."""

    def run_it(*arguments: str, files: s.Row | None = None, **settings: object) -> s.CliResult:
        return s.run(tmp_path, s.config_for(sandbox, **settings), *arguments, **(files or {}))

    return run_it


@pytest.fixture
def clock() -> s.FakeClock:
    return s.FakeClock()


@pytest.fixture(autouse=True)
def _read_ahead() -> Iterator[None]:
    """Wait for the threads of a run that failed; they give up soon."""
    yield
    for thread in threading.enumerate():
        if thread.name == "read-ahead":
            thread.join(60)


@pytest.fixture(scope="session")
def _server() -> Iterator[str]:
    with servers.postgres() as url:
        yield url


@pytest.fixture
def postgres(_server: str) -> str:
    """The URL of an empty database."""
    with psycopg.connect(_server, autocommit=True) as connection:
        connection.execute("drop database if exists warehouse with (force)")
        connection.execute("create database warehouse")
    return _server.replace("/postgres?", "/warehouse?")
