"""How fast the tap is, against a stock SDK tap and the bare limit: `python -m tests.benchmark`.

Figures are ratios of what was measured in the same run, since absolute ones differ from machine to
machine. Arguments name the parts to measure: `per_record all_streams waiting memory`. It ends with
status 1 if a figure misses its bound.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from tests.benchmark.measure import PYTHON, SESSIONS, STREAMS, YEAR, Workshop, best, run
from tests.benchmark.server import START, serving

RATE = 2_000_000  # bytes a second


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
    used = {}
    with serving(SESSIONS) as account:
        for name, year in (("full", YEAR), ("none", ("2024-09-01T00:00:00Z", YEAR[0]))):
            settings = {"start_date": year[0], "end_date": year[1]}
            url = account.url
            commands: dict[str, list[str | Path]] = {
                "tap": shop.tap(("usage_sessions",), api_url=url, window_days=366, **settings),
                "stock": shop.stock(api_url=url, **settings),
                "bare": [PYTHON, "-m", "tests.benchmark.bare", url, *year],
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


def all_streams(table: Table, shop: Workshop) -> None:
    """A year of all streams: what is downloaded."""
    with serving(SESSIONS) as account:
        settings = {"api_url": account.url, "start_date": YEAR[0], "end_date": YEAR[1]}
        run(*shop.tap(STREAMS, **settings))
        table.row(
            "Bytes of all streams / of the account",
            account.sent.value / sum(account.size),
            "≤ 1.15",
        )


def waiting(table: Table, shop: Workshop) -> None:
    """A year of all streams from an API that takes 200 ms an answer, or sends 2 MB a second."""
    settings = {"start_date": YEAR[0], "end_date": YEAR[1]}
    wall = {}
    with serving(SESSIONS, latency=0.2) as account:
        for limit in (4, 1):
            account.requests.value = 0
            command = shop.tap(
                STREAMS, api_url=account.url, max_parallel_requests=limit, **settings
            )
            wall[limit] = run(*command).wall
        least = account.requests.value * 0.2 / 4
    table.row("Backfill of a year, 1 request at a time / 4", wall[1] / wall[4], "≥ 3.5")
    table.row("Backfill of a year / (requests * latency / 4)", wall[4] / least, "≤ 1.2")
    with serving(SESSIONS, rate=RATE) as account:
        used = run(*shop.tap(STREAMS, api_url=account.url, **settings))
        least = sum(account.size) / RATE
    table.row("Backfill of a year at 2 MB/s / the account's bytes", used.wall / least, "≤ 1.3")


def memory(table: Table, shop: Workshop) -> None:
    """A million sessions in a year, and as many in each of two."""
    peaks = []
    for days, period in ((365, "day"), (730, "day"), (365, "hour")):
        with serving(1_000_000 * days // 365, days) as account:
            end = START + timedelta(days=days)
            settings = {"start_date": START.isoformat(), "end_date": end.isoformat()}
            command = shop.tap(STREAMS, api_url=account.url, stats_period=period, **settings)
            peaks.append(run(*command).memory)
    table.row("Peak memory, a million sessions in a year", peaks[0], "≤ 150", " MB")
    table.row("Peak memory, a million sessions, periods of an hour", peaks[2], "≤ 150", " MB")
    table.row("Peak memory, two years of them / one", peaks[1] / peaks[0], "≤ 1.1")


def main() -> int:
    """Measure all, or what is named, print a table, and return the exit status."""
    parts = {part.__name__: part for part in (per_record, all_streams, waiting, memory)}
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder))
        if not sys.argv[1:]:
            start_up(table)
        for name in sys.argv[1:] or parts:
            parts[name](table, shop)
    return int(table.missed)


if __name__ == "__main__":
    sys.exit(main())
