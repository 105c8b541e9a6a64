"""Measures commands, and makes those of the tap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

PYTHON = Path(sys.executable)
SESSIONS = 100_000
YEAR: dict[str, Any] = {"start_date": "2025-09-01T00:00:00Z", "end_date": "2026-09-01T00:00:00Z"}
Command = list[str | Path]

#: As most users have it: with these, each start compiles what it imports, and each line is a system
#: call.
UNUSUAL = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONUNBUFFERED": ""}
ENVIRONMENT = {**os.environ, **UNUSUAL, "LOGLEVEL": "ERROR"}

#: Started as a small process of its own, since a peak begins with that of its parent.
_SCRIPT = """
import json, resource, subprocess, sys, time
started = time.monotonic()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
wall = time.monotonic() - started
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024]))
"""


class Used(NamedTuple):
    """What a process used, with those that it started."""

    cpu: float  # seconds
    wall: float  # seconds
    memory: float  # peak resident of the largest, MB


def run(command: Command) -> Used:
    """Run a command to its end; its output goes nowhere."""
    measured: Command = [PYTHON, "-S", "-c", _SCRIPT, *command]
    return Used(*json.loads(subprocess.check_output(measured, env=ENVIRONMENT)))


def in_turns(programs: Mapping[str, Command], rounds: int) -> dict[str, Used]:
    """Run programs in turns, so that a busy moment hits all alike; return their medians."""
    runs = [[run(command) for command in programs.values()] for _ in range(rounds)]
    medians = [Used(*map(median, zip(*used, strict=True))) for used in zip(*runs, strict=True)]
    return dict(zip(programs, medians, strict=True))


def tap(folder: Path, *streams: str, programs: Path = PYTHON.parent, **config: Any) -> Command:
    """Return the command of the tap.

    Args:
        folder: Where to write its configuration and catalog.
        streams: The streams to select; none for all.
        programs: Where the tap is installed.
        config: The settings.
    """
    command: Command = [programs / "tap-crankwheel"]
    catalog = json.loads(subprocess.check_output([*command, "--discover"], env=ENVIRONMENT))
    for entry in catalog["streams"]:
        (root,) = (item for item in entry["metadata"] if not item["breadcrumb"])
        root["metadata"]["selected"] = not streams or entry["stream"] in streams
    settings = {"api_key": "made-up", **config}
    for option, content in (("--config", settings), ("--catalog", catalog)):
        command += [option, written(folder, content)]
    return command


def written(folder: Path, content: object) -> Path:
    """Write a new file of JSON; return its path."""
    path = folder / f"{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
