from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import backoff
import pytest
from hypothesis import settings
from singer_sdk.configuration import _dict_config
from singer_sdk.logging import ConsoleFormatter

from tap_crankwheel import client
from tap_crankwheel.sandbox.server import Sandbox
from tests.support import small_account

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long an example takes says something of the machine, not of the tap.
settings.register_profile("default", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=5000)
settings.load_profile("default")

# What is set on the machine is none of the tests' business.
for name in list(os.environ):
    if name.startswith("TAP_CRANKWHEEL") or name.upper().endswith("PROXY"):
        del os.environ[name]


@pytest.fixture(autouse=True)
def _no_dotenv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a user's `.env` alone: `--config=ENV` looks for one above the installed SDK."""
    monkeypatch.setattr(_dict_config, "find_dotenv", lambda: "")


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


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(small_account()).running() as server:
        yield server


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Let time pass at once; return how long each pause was asked to be."""
    asked: list[float] = []
    clock = itertools.count()
    passed = 0.0

    def sleep(seconds: float) -> None:
        nonlocal passed
        asked.append(seconds)
        passed += seconds

    fake = SimpleNamespace(sleep=sleep, monotonic=lambda: passed + next(clock) / 1e9)
    monkeypatch.setattr(client, "time", fake)
    monkeypatch.setattr(backoff._sync, "time", fake)
    yield asked
    for thread in threading.enumerate():
        if thread.name == "read-ahead":  # left by a run that failed; it gives up soon
            thread.join(60)
