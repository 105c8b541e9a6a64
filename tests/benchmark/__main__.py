"""How fast the tap is, against a stock SDK tap and the bare limit: `python -m tests.benchmark`.

Figures are ratios of what was measured in the same run, since absolute ones differ from machine to
machine. It ends with status 1 if one misses its bound.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tap_crankwheel.sandbox.server import API_KEY
from tests.benchmark.server import START, body, serving

PYTHON = sys.executable
STREAMS = ("account_stats", "agent_stats", "demo_requests", "usage_sessions", "users")
NOW = "2026-09-01T00:00:00Z"


@dataclass
class Used:
    """What a process used."""

    cpu: float  # seconds
    wall: float  # seconds
    memory: float  # peak resident, MB


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
        [PYTHON, "-S", "-c", script, *map(str, command)], capture_output=True, check=True
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

    def stock(self, url: str) -> list[str | Path]:
        """Return the command of the stock SDK tap."""
        path = self.folder / f"stock-{len(list(self.folder.iterdir()))}.json"
        path.write_text(json.dumps({"api_url": url}))
        return [PYTHON, "-m", "tests.benchmark.stock", "--config", path]


def sandbox(*options: str) -> tuple[subprocess.Popen[str], str]:
    """Start the sandbox in a process of its own; return it and its URL."""
    code = "from tap_crankwheel.sandbox.server import serve; serve()"
    process = subprocess.Popen(
        [PYTHON, "-u", "-c", code, "--port", "0", "--now", NOW, *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, process.stdout.readline().partition("=")[2].strip()


class Table:
    """The figures, and whether each is within its bound."""

    def __init__(self) -> None:
        self.missed = False
        print("| What | Figure | Bound |\n|---|---|---|")  # noqa: T201

    def row(self, what: str, figure: float, bound: str, unit: str = "") -> None:
        """Print a figure and check it: `bound` is `≥ 3.5` or `≤ 150`."""
        sign, limit = bound.split()[:2]
        fits = figure >= float(limit) if sign == "≥" else figure <= float(limit)
        self.missed |= not fits
        note = "" if fits else " **missed**"
        shown = f"{figure:.0f} MB" if unit else f"{figure:.2f}"
        print(f"| {what} | {shown}{note} | {bound}{unit} |", flush=True)  # noqa: T201


def per_record(table: Table, shop: Workshop) -> None:
    """CPU a record, for 100,000 sessions in one answer, less that of an answer without any."""
    days = {"start_date": START.isoformat(), "end_date": "2026-08-07"}
    with serving({"full": body(100_000), "none": body(0)}) as url:
        used = {}
        for name in ("full", "none"):
            commands: dict[str, list[str | Path]] = {
                "tap": shop.tap(("usage_sessions",), api_url=f"{url}/{name}", **days),
                "stock": shop.stock(f"{url}/{name}"),
                "bare": [PYTHON, "-m", "tests.benchmark.bare", f"{url}/{name}"],
            }
            for program, command in commands.items():
                used[program, name] = best(3, *command)
    cpu = {p: used[p, "full"].cpu - used[p, "none"].cpu for p in ("tap", "stock", "bare")}
    table.row("CPU a record, stock SDK tap / tap", cpu["stock"] / cpu["tap"], "≥ 2.3")
    table.row("CPU a record, tap / bare limit", cpu["tap"] / cpu["bare"], "≤ 2.6")
    memory = used["tap", "full"].memory
    table.row("Peak memory, 100,000 sessions in one answer", memory, "≤ 250", " MB")


def start_up(table: Table) -> None:
    """CPU of `--version`."""
    tap = best(7, PYTHON, "-m", "tap_crankwheel", "--version")
    stock = best(7, PYTHON, "-m", "tests.benchmark.stock", "--version")
    table.row("CPU of `--version`, tap / stock SDK tap", tap.cpu / stock.cpu, "≤ 1.5")


def waiting(table: Table, shop: Workshop) -> None:
    """A backfill of 365 days of all streams, with 200 ms a request."""
    server, url = sandbox("--latency", "0.2", "--days", "365", "--sessions-per-day", "10")
    with server:
        days = {"start_date": "2025-09-01", "end_date": NOW}
        wall = {
            limit: run(*shop.tap(STREAMS, api_url=url, max_parallel_requests=limit, **days)).wall
            for limit in (4, 1)
        }
        server.terminate()
    table.row("Backfill of a year, 1 request at a time / 4", wall[1] / wall[4], "≥ 3.5")


def memory(table: Table, shop: Workshop) -> None:
    """A million sessions in a year, and as many in each of two."""
    peaks = []
    for days, start in ((365, "2025-09-01"), (730, "2024-09-01")):
        server, url = sandbox("--days", str(days), "--sessions-per-day", "3700")
        with server:
            command = shop.tap(STREAMS, api_url=url, start_date=start, end_date=NOW)
            peaks.append(run(*command).memory)
            server.terminate()
    table.row("Peak memory, a million sessions in a year", peaks[0], "≤ 150", " MB")
    table.row("Peak memory, two years of them / one", peaks[1] / peaks[0], "≤ 1.1")


def main() -> int:
    """Measure all, print a table, and return the exit status."""
    os.environ["LOGLEVEL"] = "WARNING"
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder))
        per_record(table, shop)
        start_up(table)
        waiting(table, shop)
        memory(table, shop)
    return int(table.missed)


if __name__ == "__main__":
    sys.exit(main())
