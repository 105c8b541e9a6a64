"""Measures commands, and makes those of the tap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tap_crankwheel.sandbox.server import API_KEY

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = sys.executable
STREAMS = ("account_stats", "agent_stats", "demo_requests", "usage_sessions", "users")
SESSIONS = 100_000
YEAR = ("2025-09-01T00:00:00Z", "2026-09-01T00:00:00Z")

#: As most users have it: without these, each start compiles what it imports, and each line is a
#: system call.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
} | {"LOGLEVEL": "WARNING"}


@dataclass
class Used:
    """What a process used, with those that it started."""

    cpu: float  # seconds
    wall: float  # seconds
    memory: float  # peak resident of the largest, MB


def run(*command: str | Path) -> Used:
    """Run a command to its end; its output goes nowhere."""
    # Started by a small process of its own: a child's peak begins with that of its parent.
    script = (
        "import json, os, subprocess, sys\n"
        "with open(os.devnull, 'wb') as null:\n"
        "    process = subprocess.Popen(sys.argv[1:], stdout=null, stderr=null)\n"
        "_, status, used = os.wait4(process.pid, 0)\n"
        "print(json.dumps([status, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))\n"
    )
    started = time.monotonic()
    result = subprocess.run(
        [PYTHON, "-S", "-c", script, *map(str, command)],
        capture_output=True,
        check=True,
        env=ENVIRONMENT,
    )
    wall = time.monotonic() - started
    status, cpu, memory = json.loads(result.stdout)
    if status:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return Used(cpu, wall, memory)


def best(count: int, *command: str | Path) -> Used:
    """Return the run of several that used the least CPU."""
    return min((run(*command) for _ in range(count)), key=lambda used: used.cpu)


class Workshop:
    """A folder with configurations and catalogs for the tap."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        text = subprocess.run(
            [PYTHON, "-m", "tap_crankwheel", "--discover"], capture_output=True, check=True
        ).stdout
        self.catalog: dict[str, Any] = json.loads(text)

    def tap(self, streams: tuple[str, ...], **config: Any) -> list[str | Path]:
        """Return the command of the tap."""
        for entry in self.catalog["streams"]:
            for metadata in entry["metadata"]:
                if metadata["breadcrumb"] == []:
                    metadata["metadata"]["selected"] = entry["stream"] in streams
        files = {"config": {"api_key": API_KEY, **config}, "catalog": self.catalog}
        command: list[str | Path] = [PYTHON, "-m", "tap_crankwheel"]
        for name, content in files.items():
            path = self.folder / f"{name}-{len(list(self.folder.iterdir()))}.json"
            path.write_text(json.dumps(content))
            command += [f"--{name}", path]
        return command

    def stock(self, **config: str) -> list[str | Path]:
        """Return the command of the stock SDK tap."""
        path = self.folder / f"stock-{len(list(self.folder.iterdir()))}.json"
        path.write_text(json.dumps(config))
        return [PYTHON, "-m", "tests.benchmark.stock", "--config", path]
