"""Loads looks into targets, reads back what was loaded, and compares it with the tap's rows."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from uv import find_uv_bin

from tests.support import Row
from tests.targets.looks import Look, looks

Tables = dict[str, list[Row]]
Types = Mapping[str, type | tuple[type, ...]]

REMOVED = "agent1@example.com"


@dataclass
class Place:
    """Where a target loads into.

    Attributes:
        folder: An empty folder.
        postgres: The URL of an empty PostgreSQL database, with the folder of its socket as host.
        s3: The URL of a server that speaks S3; None without one.
        bucket: The name of an empty bucket there.
    """

    folder: Path
    postgres: str
    s3: str | None = None
    bucket: str = ""


@dataclass(frozen=True)
class Target:
    """A target, and what it is known to do.

    Attributes:
        name: Its name on the package index.
        requirements: What to install.
        pythons: The minor versions of Python that it runs on, the best first.
        executable: Its command.
        config: Returns its configuration.
        read: Returns what it loaded.
        modes: In which of `plain` and `flat` all values have to be equal.
        second: What a second load does: `upserts`, `appends` or `replaces`.
        removed: What becomes of a removed user: `marked`, `deleted` or `kept`.
        column: What it makes of the name of a column.
        loses: What is known to be lost of a value on the way: `empty` text becomes null, `control`
            characters are escaped, `microseconds` are cut to four decimals.
        added: What the names of the columns begin with that it adds.
        types: The Python types that values are read back as, by kind.
        remarks: What a user should know.
    """

    name: str
    requirements: tuple[str, ...]
    executable: str
    config: Callable[[Place], Row]
    read: Callable[[Place], Tables]
    pythons: tuple[str, ...] = ("3.11", "3.12", "3.10", "3.13")
    modes: tuple[str, ...] = ("plain", "flat")
    second: str = "upserts"
    removed: str = "kept"
    column: Callable[[str], str] = str
    loses: Collection[str] = ()
    added: tuple[str, ...] = ("_sdc",)
    types: Types = field(default_factory=dict)
    remarks: str = ""


@dataclass
class Outcome:
    """What a target did with the looks; `wrong` is the first difference by mode, None if equal."""

    target: Target
    version: str
    python: str
    wrong: dict[str, str | None]


class Unavailable(Exception):  # noqa: N818 - it ends no run
    """A target cannot be had on this machine."""


# --- running -------------------------------------------------------------------------------------


def call(*command: str | Path, cwd: Path, stdin: str | None = None) -> str:
    """Run a command and return what it printed; fail if it did."""
    result = subprocess.run(
        command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:] or result.stdout[-2000:]
    return result.stdout


@cache
def interpreters() -> dict[str, str]:
    """Return the interpreters on this machine, by minor version."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    path = os.pathsep.join([os.environ["PATH"], *map(str, sorted(pyenv.glob("3*/bin")))])
    listed = subprocess.run(
        [find_uv_bin(), "python", "list", "--only-installed", "--output-format=json"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: dict[str, str] = {}
    for python in json.loads(listed):
        if python["implementation"] == "cpython":
            found.setdefault("{major}.{minor}".format(**python["version_parts"]), python["path"])
    return found


def install(target: Target, folder: Path) -> tuple[Path, str, str]:
    """Install a target into an environment of its own.

    Returns:
        The folder of its commands, its version, and the minor version of Python.

    Raises:
        Unavailable: No interpreter for it is on this machine.
    """
    python = next((p for p in target.pythons if p in interpreters()), None)
    if python is None:
        raise Unavailable(f"{target.name} needs Python {' or '.join(target.pythons)}")
    venv = folder / f"venv-{target.name}"
    if not venv.exists():
        folder.mkdir(exist_ok=True)
        call(find_uv_bin(), "venv", "--python", interpreters()[python], venv, cwd=folder)
        call(find_uv_bin(), "pip", "install", "--python", venv, *target.requirements, cwd=folder)
    listed = call(find_uv_bin(), "pip", "list", "--python", venv, "--format", "json", cwd=folder)
    versions = {package["name"]: package["version"] for package in json.loads(listed)}
    return venv / "bin", versions[target.name], python


def load(target: Target, commands: Path, look: Look, place: Place) -> None:
    """Pipe a look into a target."""
    config = place.folder / "config.json"
    config.write_text(json.dumps(target.config(place)))
    text = "".join(f"{line}\n" for line in look.lines)
    printed = call(commands / target.executable, "--config", config, cwd=place.folder, stdin=text)
    with (place.folder / "output").open("a") as output:
        output.write(printed)


def try_target(target: Target, venvs: Path, places: Mapping[str, Place]) -> Outcome:
    """Load both looks into a target, in each mode into a place of its own, and compare."""
    commands, version, python = install(target, venvs)
    wrong: dict[str, str | None] = {}
    for mode, place in places.items():
        first, second = looks(flat=mode == "flat")
        wrong[mode] = None
        try:
            load(target, commands, first, place)
            compare(target, target.read(place), first.rows, first)
            load(target, commands, second, place)
            compare(target, target.read(place), after_second(target, first, second), second)
        except AssertionError as error:
            wrong[mode] = str(error)
    return Outcome(target, version, python, wrong)


def after_second(target: Target, first: Look, second: Look) -> Tables:
    """Return what a target has to hold after both looks."""
    if target.second == "appends":
        return {stream: [*rows, *second.rows[stream]] for stream, rows in first.rows.items()}
    if target.second == "replaces":
        return second.rows
    tables = {}
    for stream, keys in first.keys.items():
        rows = {
            tuple(row[key] for key in keys): row
            for row in (*first.rows[stream], *second.rows[stream])
        }
        tables[stream] = list(rows.values())
    if target.removed == "deleted":
        tables["users"] = [row for row in tables["users"] if row["email"] != REMOVED]
    return tables


# --- comparing -----------------------------------------------------------------------------------


def compare(target: Target, found: Tables, expected: Tables, look: Look) -> None:
    """Fail with the first difference between what was loaded and what was to be."""
    for stream, rows in expected.items():
        schema = look.schemas[stream]
        kinds = {name: kind_of(field) for name, field in schema.items()}
        columns = {name: target.column(name) for name in schema}
        held = found.get(stream, [])
        if stream == "users":
            check_marks(target, held, {row["email"] for row in look.rows["users"]})
        assert len(held) == len(rows), f"{stream}: {len(held)} rows where {len(rows)} were sent"
        names = {name for row in held for name in row if not name.startswith(target.added)}
        assert names == set(columns.values()), (
            f"{stream}: columns {sorted(names ^ set(columns.values()))[:3]} lost or added"
        )
        check_types(target, stream, held, {columns[name]: kind for name, kind in kinds.items()})
        sent = [{n: canonical(target, kinds[n], row[n]) for n in schema} for row in rows]
        read = [{n: canonical(target, kinds[n], row[columns[n]]) for n in schema} for row in held]
        for was, row in zip(in_order(sent), in_order(read), strict=True):
            for name in schema:
                assert was[name] == row[name], (
                    f"{stream}.{name}: {was[name]!r} became {row[name]!r}"
                )


def check_marks(target: Target, held: list[Row], current: set[str]) -> None:
    """Check which users are marked as deleted."""
    if target.removed != "marked":
        return
    unmarked = {row["email"] for row in held if row["_sdc_deleted_at"] is None}
    assert unmarked == current, f"users: {sorted(unmarked ^ current)} marked, or not"


def check_types(target: Target, stream: str, held: list[Row], kinds: Mapping[str, str]) -> None:
    """Check that values are read back as what the target's columns are for."""
    for column, kind in kinds.items():
        if expected := target.types.get(kind):
            for row in held:
                value = row[column]
                assert value is None or isinstance(value, expected), (
                    f"{stream}.{column}: {kind} became a {type(value).__name__}"
                )


def kind_of(schema: Row) -> str:
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if schema.get("format") == "date-time":
        return "timestamp"
    return str(next(name for name in types if name != "null"))


def in_order(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True, default=str))


def canonical(target: Target, kind: str, value: Any) -> Any:  # noqa: PLR0911 - a case a line
    """Return a value in one form, from whatever form a target gives it."""
    if value is None or (value == "" and "empty" in target.loses):
        return None
    if kind in {"object", "array"} or (isinstance(value, str) and value[:1] in {"{", "["}):
        return document(value)
    if kind == "boolean":
        return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
    if kind == "integer":
        return int(float(value)) if isinstance(value, str) and "." in value else int(value)
    if kind == "number":
        return float(value)
    if kind == "timestamp":
        return timestamp(value, 4 if "microseconds" in target.loses else 6)
    text = str(value)
    if "control" in target.loses:
        for character, escape in (("\n", "\\n"), ("\t", "\\t")):
            text = text.replace(escape, character)
    return text


def document(value: Any) -> Any:
    """Return an object or a list, also from JSON, or from what Python prints of it."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, str):
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    if isinstance(value, list):
        value = [
            document(item) if isinstance(item, str) and item[:1] == "{" else item for item in value
        ]
    return value


def timestamp(value: Any, decimals: int) -> str:
    moment = (
        value
        if isinstance(value, datetime)
        else datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    )
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    text = moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text[: len("2026-08-30T20:00:30.") + decimals]
