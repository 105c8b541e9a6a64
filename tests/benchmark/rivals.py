"""What a user could pick instead, for the same sessions: `python -m tests.benchmark.rivals`.

dlt and Airbyte, each at its best and in an environment of its own, with four windows at a time.
What each delivered is counted before it is measured. It prints a table; nothing is judged.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb

from tests.benchmark.measure import ENVIRONMENT, SESSIONS, YEAR, Used, Workshop, run
from tests.benchmark.server import serving

HERE = Path(__file__).parent
ROUNDS = 3

REQUIREMENTS = {
    "airbyte": ["airbyte-cdk>=7.39,<8"],
    "dlt": ["dlt[duckdb,parquet]>=1.31,<2"],
    "target": ["target-duckdb==0.8.0", "duckdb~=1.2.2"],
}


def environment(folder: Path, name: str) -> Path:
    """Make a virtual environment; return where its commands are."""
    place = folder / name
    subprocess.run(["uv", "venv", "--quiet", place], check=True)
    install: list[str | Path] = [
        "uv",
        "pip",
        "install",
        "--quiet",
        "--compile-bytecode",
        "--python",
        place,
    ]
    subprocess.run([*install, "--only-binary=duckdb", *REQUIREMENTS[name]], check=True)
    return place / "bin"


def written(path: Path, content: object) -> str:
    """Write a file of JSON; return its path, quoted for a shell."""
    path.write_text(json.dumps(content))
    return shlex.quote(str(path))


def commands(url: str, folder: Path) -> dict[str, str]:
    """Return the command of each program, for a shell in an empty folder."""
    bins = {name: environment(folder, name) for name in REQUIREMENTS}
    config = {"api_url": url, "start_date": YEAR[0], "end_date": YEAR[1]}
    (folder / "tap").mkdir()
    tap = shlex.join(map(str, Workshop(folder / "tap").tap(("usage_sessions",), **config)))
    last = {**config, "end_date": "2026-08-31T23:59:59Z"}  # inclusive
    stream = {
        "name": "usage_sessions",
        "json_schema": {},
        "supported_sync_modes": ["full_refresh", "incremental"],
    }
    entry = {"stream": stream, "sync_mode": "incremental", "destination_sync_mode": "append_dedup"}
    airbyte = (
        f"{bins['airbyte']}/source-declarative-manifest read"
        f" --config {written(folder / 'airbyte.json', last)}"
        f" --catalog {written(folder / 'catalog.json', {'streams': [entry]})}"
        f" --manifest-path {HERE / 'airbyte.yaml'}"
    )
    settings = {"filepath": "usage.duckdb", "default_target_schema": "crankwheel"}
    target = f"{bins['target']}/target-duckdb --config {written(folder / 'target.json', settings)}"
    dlt = f"{bins['dlt']}/python {HERE / 'dlt_usage.py'} {url} ."
    return {
        "this tap": tap,
        "Airbyte, declarative": airbyte,
        "dlt, extract, objects": f"{dlt} extract objects",
        "dlt, extract, Arrow": f"{dlt} extract arrow",
        "this tap and target-duckdb": f"{tap} | {target}",
        "dlt into DuckDB, objects": f"{dlt} load objects",
        "dlt into DuckDB, Arrow": f"{dlt} load arrow",
    }


def delivered(output: str, folder: Path) -> int:
    """Return how many sessions a program delivered: in its database, or in its messages."""
    if (database := folder / "usage.duckdb").exists():
        with duckdb.connect(database, read_only=True) as connection:
            rows = connection.execute("select session_id from crankwheel.usage_sessions").fetchall()
        ids = [row[0] for row in rows]
    else:
        messages = [json.loads(line) for line in output.splitlines()]
        if isinstance(messages[-1], int):  # what dlt extracted
            return messages[-1]
        records = [m["record"] for m in messages if m["type"] == "RECORD"]
        ids = [record.get("data", record)["session_id"] for record in records]
    assert len(ids) == len(set(ids))
    return len(ids)


def shell(command: str, folder: Path) -> list[str]:
    """Return a command that runs another in a folder, in which nothing is left of a run before."""
    place = shlex.quote(str(folder))
    script = f"rm -rf {place} && mkdir {place} && cd {place} && {command}"
    return ["bash", "-o", "pipefail", "-c", script]


def main() -> None:
    """Count, measure in turns, and print of each program the run that used the least CPU."""
    runs: dict[str, list[Used]] = {}
    with tempfile.TemporaryDirectory() as name, serving(SESSIONS) as account:
        folder, work = Path(name), Path(name) / "work"
        programs = commands(account.url, folder)
        for program, command in programs.items():
            output = subprocess.run(
                shell(command, work), check=True, text=True, stdout=subprocess.PIPE, env=ENVIRONMENT
            ).stdout
            count = delivered(output, work)
            if count != SESSIONS:
                sys.exit(f"{program} delivered {count} sessions, not {SESSIONS}")
        for _ in range(ROUNDS):
            for program, command in programs.items():
                runs.setdefault(program, []).append(run(*shell(command, work)))
    print("| Program | CPU, s | Wall, s | Peak memory, MB |\n|---|---|---|---|")  # noqa: T201
    for program, found in runs.items():
        used = min(found, key=lambda used: used.cpu)
        print(f"| {program} | {used.cpu:.1f} | {used.wall:.1f} | {used.memory:.0f} |")  # noqa: T201


if __name__ == "__main__":
    main()
