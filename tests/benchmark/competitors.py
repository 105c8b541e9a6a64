"""What a user could pick instead, for the same sessions: `python -m tests.benchmark.competitors`.

dlt and Airbyte, each at its best and in an environment of its own, with four windows at a time; and
dlt as its documentation has it. What each delivers is counted before it is measured, but for that
which dlt only extracts: the same code also loads it. It prints a table; nothing is judged.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb

from tests.benchmark.measure import ENVIRONMENT, SESSIONS, YEAR, Command, in_turns, tap, written
from tests.benchmark.server import serving

HERE = Path(__file__).parent

#: The steps of dlt that leave no database; it counts what it normalizes itself.
NOT_LOADED = ("extract", "rest", "rest-one-table")

REQUIREMENTS = {
    "airbyte": ["airbyte-cdk>=7.39,<8"],
    "dlt": ["dlt[duckdb,parquet]>=1.31,<2"],
    "target": ["target-duckdb==0.8.0", "duckdb~=1.2.2"],
}


def commands(url: str, folder: Path) -> dict[str, str]:
    """Return the command of each program, for a shell in an empty folder."""
    for name, packages in REQUIREMENTS.items():
        subprocess.run(["uv", "venv", "--quiet", folder / name], check=True)
        install = ["uv", "pip", "install", "--quiet", "--compile-bytecode", "--only-binary=duckdb"]
        subprocess.run([*install, "--python", folder / name, *packages], check=True)
    files = folder / "files"
    files.mkdir()
    config = {"api_url": url, **YEAR}
    own = shlex.join(map(str, tap(files, "usage_sessions", **config)))
    stream = {"name": "usage_sessions", "json_schema": {}, "supported_sync_modes": ["incremental"]}
    entry = {"stream": stream, "sync_mode": "incremental", "destination_sync_mode": "append_dedup"}
    airbyte = (
        f"{folder}/airbyte/bin/source-declarative-manifest read"
        f" --config {written(files, config | {'end_date': '2026-08-31T23:59:59Z'})}"
        f" --catalog {written(files, {'streams': [entry]})}"
        f" --manifest-path {shlex.quote(str(HERE / 'airbyte.yaml'))}"
    )
    settings = {"filepath": "usage.duckdb", "default_target_schema": "crankwheel"}
    target = f"{folder}/target/bin/target-duckdb --config {written(files, settings)}"
    # What was faster than the defaults; and it is to call nobody.
    faster = "DATA_WRITER__DISABLE_COMPRESSION=1 EXTRACT__MAX_PARALLEL_ITEMS=4 EXTRACT__WORKERS=4"
    silent = "RUNTIME__DLTHUB_TELEMETRY=0 RUNTIME__LOG_LEVEL=ERROR"
    script = shlex.quote(str(HERE / "dlt_usage.py"))
    dlt = f"{faster} {silent} {folder}/dlt/bin/python {script} {url}"
    return {
        "this tap": own,
        "Airbyte's `source-declarative-manifest`": airbyte,
        "dlt's REST source, extract and normalize": f"{dlt} rest",
        "dlt's REST source, `max_table_nesting=0`": f"{dlt} rest-one-table",
        "dlt with Arrow tables, extract": f"{dlt} extract",
        "this tap and `target-duckdb`": f"{own} | {target}",
        "dlt with Arrow tables, into DuckDB": f"{dlt} load",
    }


def delivered(output: bytes, database: Path) -> int:
    """Return how many sessions are in a database, or if there is none, in messages."""
    if not database.exists():
        return output.count(b'"type":"RECORD"')
    with duckdb.connect(database, read_only=True) as connection:
        return len(connection.execute("select * from crankwheel.usage_sessions").fetchall())


def main() -> None:
    """Count what each delivers, measure in turns, and print medians."""
    programs: dict[str, Command] = {}
    with tempfile.TemporaryDirectory() as name, serving(SESSIONS) as (url, _):
        work = Path(name) / "work"
        for program, command in commands(url, Path(name)).items():
            script = f"rm -rf {work} && mkdir {work} && cd {work} && {command}"
            programs[program] = ["bash", "-o", "pipefail", "-c", script]
            output = subprocess.check_output(programs[program], env=ENVIRONMENT)
            count = delivered(output, work / "usage.duckdb")
            if count != (0 if command.endswith(NOT_LOADED) else SESSIONS):
                sys.exit(f"{program} delivered {count} sessions, not {SESSIONS}")
        figures = in_turns(programs, 3)
    print("| Program | CPU, s | Wall, s | Peak memory, MB |\n|---|---|---|---|")  # noqa: T201
    for program, used in figures.items():
        print(f"| {program} | {used.cpu:.1f} | {used.wall:.1f} | {used.memory:.0f} |")  # noqa: T201


if __name__ == "__main__":
    main()
