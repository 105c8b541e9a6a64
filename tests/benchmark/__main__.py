"""How fast the tap is: `python -m tests.benchmark`.

It prints a table, and ends with status 1 if a figure is above its bound.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmark.measure import PYTHON, SESSIONS, YEAR, Command, in_turns, run, tap, written
from tests.benchmark.server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

Figure = tuple[str, float, str, float | None]  # what, how much, the unit, and its bound


def cpu(folder: Path, against: Path | None) -> Iterator[Figure]:
    """Measure the sessions of a year: this tap, a stock SDK tap and another checkout, in turns."""
    with serving(SESSIONS) as (url, _):
        config = {"api_url": url, **YEAR}
        programs: dict[str, Command] = {
            "tap": tap(folder, "usage_sessions", **config),
            "stock": [PYTHON, "-m", "tests.benchmark.stock", "--config", written(folder, config)],
        }
        if against:
            place = against.resolve() / ".venv" / "bin"
            programs["other"] = tap(folder, "usage_sessions", programs=place, **config)
        used = in_turns(programs, 7)
    yield "CPU, 100,000 sessions", used["tap"].cpu, " s", None
    yield "CPU, stock SDK tap / this tap", used["stock"].cpu / used["tap"].cpu, "", None
    if against:
        yield "CPU, this tap / the other one", used["tap"].cpu / used["other"].cpu, "", 1.05


def waiting(folder: Path, __: Path | None) -> Iterator[Figure]:
    """Measure a year of all streams from an API that takes 200 ms a request."""
    with serving(SESSIONS, latency=0.2) as (url, requests):
        used = run(tap(folder, api_url=url, **YEAR))
        least = requests.value * 0.2 / 4
    yield "Year at 200 ms a request / (requests * 200 ms / 4)", used.wall / least, "", 1.15


def memory(folder: Path, __: Path | None) -> Iterator[Figure]:
    """Measure a million sessions in a year, all streams, with statistics for each hour."""
    with serving(1_000_000) as (url, _):
        used = run(tap(folder, api_url=url, stats_period="hour", **YEAR))
    yield "Peak memory, a million sessions, periods of an hour", used.memory, " MB", 200


def main() -> int:
    """Measure all parts, or the named one, print a table, and return the exit status."""
    parts = {part.__name__: part for part in (cpu, waiting, memory)}
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark")
    parser.add_argument("part", nargs="?", choices=parts)
    other = "another checkout of the tap, whose .venv has it, to compare the CPU with"
    parser.add_argument("--against", metavar="FOLDER", type=Path, help=other)
    arguments = parser.parse_args()
    missed = False
    print("| What | Figure | Bound |\n|---|---|---|")  # noqa: T201
    for name in [arguments.part] if arguments.part else parts:
        with tempfile.TemporaryDirectory() as folder:
            for what, figure, unit, bound in parts[name](Path(folder), arguments.against):
                missed |= bound is not None and figure > bound
                limit = "" if bound is None else f"{bound}{unit}"
                print(f"| {what} | {figure:.3g}{unit} | {limit} |", flush=True)  # noqa: T201
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
