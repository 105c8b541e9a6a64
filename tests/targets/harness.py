"""Loads two runs of the tap into a target, and compares what it holds with the tap's rows.

The second is loaded in another time zone. Both hold the night in which the first one's clocks go
back, by the hour.
"""

from __future__ import annotations

import ast
import json
import re
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import yaml
from typing_extensions import override

from tap_crankwheel.sandbox.account import Account
from tap_crankwheel.sandbox.server import Sandbox
from tests.support import STREAMS, FakeClock, Output, Row, config_for, sync
from tests.targets import readers, servers
from tests.targets.servers import PYTHONS, call, install

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The Python types that values are read back as.
JSON = {"timestamp": str, "boolean": bool, "integer": int, "number": (int, float), "string": str}
TYPES: Row = {"": {}, "json": JSON}
TYPES["sql"] = {**JSON, "timestamp": datetime, "number": (float, Decimal)}

#: What targets make of the names of columns.
COLUMNS: Row = {"": str, "upper": str.upper, "underscored": partial(re.sub, "-", "_")}

#: Prints the types that a target gives columns, and what it makes of records, by its own functions.
CONVERTER = """
import json, re, sys
def cells(line):
    found = re.findall(r'(?:^|,)("(?:[^"\\\\]|\\\\.)*"|[^,]*)', line)
    return [json.loads(cell) if cell else None for cell in found]
streams = {}
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "SCHEMA":
        found = streams[message["stream"]] = columns(message["schema"])
        print(json.dumps({**message, "types": types(found)}))
    elif message["type"] == "RECORD":
        row = convert(streams[message["stream"]], message["record"])
        print(json.dumps({**message, "record": row}))
"""


@dataclass(frozen=True)
class Target:
    """A target, and what it is known to do.

    Attributes:
        name: Its name on the package index.
        read: Which of the readers returns what it loaded.
        label: What the table calls it; its name by default.
        command: How it is started, in the folder of its environment's commands.
        converts: In place of a command: code that has `columns` of a schema, their `types`, and
            `convert`, which makes of columns and a record what is to be loaded.
        config: Its configuration.
        needs: What to install beside it, or which version of it.
        pythons: The minor versions of Python that it runs on, the best first.
        server: Which of the servers it loads into.
        settings: Those of the tap that it needs.
        modes: In which of `plain` and `flat` the values have to be equal.
        second: What a second load does: `upserts`, `appends`, `replaces`, or `not tried`, where
            what is to be loaded is read, and not what was.
        removed: What becomes of a removed user: `marked`, `deleted` or `kept`.
        column: What it makes of the name of a column.
        loses: What is known to be lost of a value on the way: `empty` text becomes null, `null`
            becomes zero, false or empty text, `control` characters are escaped, `fractions` of a
            second are cut, or their `microseconds` to four decimals.
        added: What the names of the columns begin with that it adds.
        types: As what values are read back.
        mend: What to tell the server, so that timestamps are right in any time zone.
        quick: Whether the tests try it too.
    """

    name: str
    read: str
    label: str = ""
    command: tuple[str, ...] = ()
    converts: str = ""
    config: Row = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    pythons: tuple[str, ...] = PYTHONS
    server: str = ""
    settings: Row = field(default_factory=dict)
    modes: tuple[str, ...] = ("plain", "flat")
    second: str = "upserts"
    removed: str = "kept"
    column: str = ""
    loses: tuple[str, ...] = ()
    added: tuple[str, ...] = ("_sdc",)
    types: str = ""
    mend: str = ""
    quick: bool = False


DECLARED = yaml.safe_load(Path(__file__).with_name("targets.yml").read_text(encoding="utf-8"))
TARGETS = [Target(**target) for target in DECLARED]


# --- the tap's side ------------------------------------------------------------------------------

#: A moment at which a session runs and a demo request waits. New York's clocks went back a day ago.
FIRST = datetime(2026, 11, 2, 11, tzinfo=timezone.utc)

#: What agents may be called where a target has to get the text right.
NAMES = ("", "Tab\there", "Two\nlines", 'Quote " and, comma', "Back\\slash", "null", "Zoë ☃")


class HardAccount(Account):
    """An account with values that targets get wrong."""

    @override
    def sessions(self, day: date) -> list[Row]:
        rows = []
        for session in super().sessions(day):
            n = session["session_id"] % 100_000  # its number in the day
            row = {**session, "webcam_s": 0.5 + n, "agent_name": NAMES[n % len(NAMES)]}
            if n % 3 == 0:
                row |= {"rating": 4.5, "webcam_s": "unknown"}  # both are in `extra`
            if n % 4 == 0:
                row["session_id"] = session["session_id"] + 2**53 + 1  # no double holds it
            rows.append(row)
        return rows


@cache
def looks(mode: str, settings: str = "{}") -> tuple[Output, Output]:
    """Return a first run of the tap, and one a day later with its state.

    Between them a user was removed and one promoted, a running session ended, and an open demo
    request was taken.
    """
    account = HardAccount(agents=4, sessions_per_day=40, days=6, fixed_now=FIRST)
    flat = {"flattening_enabled": True, "flattening_max_depth": 1} if mode == "flat" else {}
    with Sandbox(account).running() as sandbox:
        own = {"custom_questions": ["team-size"], "stats_period": "hour", "end_date": None}
        config = config_for(sandbox, **own, **flat, **json.loads(settings))
        first = sync(config, clock=FakeClock(FIRST))
        account.fixed_now = FIRST + timedelta(days=1)
        del account.users["agent1@example.com"]
        account.users["agent2@example.com"]["privilege"] = "admin"
        second = sync(config, state=first.state, clock=FakeClock(account.fixed_now))
    for message in second.messages:
        if "version" in message:  # the SDK's are the seconds of the clock on the wall
            message["version"] += 86_400
    second = Output([json.dumps(message) for message in second.messages])
    for stream, name in (("usage_sessions", "session_ended"), ("demo_requests", "handled_by")):
        was = {row["id"]: row[name] for row in first.records[stream]}
        changed = [row for row in second.records[stream] if was.get(row["id"], row) != row[name]]
        assert any(row["id"] in was for row in changed), f"nothing changed in {stream}"
    return first, second


def schemas(look: Output) -> dict[str, Row]:
    """Return the SCHEMA messages of a run, by stream."""
    return {m["stream"]: m for m in look.messages if m["type"] == "SCHEMA"}


# --- the target's side ---------------------------------------------------------------------------


def try_target(
    target: Target, mode: str, venvs: Path, folder: Path, *, mended: bool = True
) -> None:
    """Load both runs into a target, and compare after each; fail with the first difference."""
    commands, *_ = install(target.name, venvs, target.needs, target.pythons)
    both = looks(mode, json.dumps(target.settings))
    converter = ("python", "-W", "ignore", "-c", target.converts + CONVERTER)
    name, *arguments = target.command or converter
    serve = getattr(servers, target.server) if target.server else lambda *_: nullcontext("")
    with serve(folder, commands) as url:
        names: Row = {"folder": folder, "url": url, "rest": url.partition(":")[2]}
        names["host"] = "".join(parse_qs(urlsplit(url).query).get("host", []))
        for load, (look, zone) in enumerate(zip(both, servers.ZONES, strict=True), start=1):
            servers.move(target.server, url, zone)
            if target.mend and mended:
                servers.tell(target.server, url, target.mend)
            config = folder / "config.json"
            settings = json.dumps(target.config)
            for key, value in {**names, "load": load}.items():
                settings = settings.replace(f"{{{key}}}", str(value))
            config.write_text(settings, encoding="utf-8")
            text = "\n".join([*look.lines, ""])
            started = ("env", f"TZ={zone}", str(commands / name), *arguments)
            printed = call(*started, "--config", config, cwd=folder, stdin=text)
            with (folder / "output").open("a", encoding="utf-8") as output:
                output.write(printed)
            read = getattr(readers, f"from_{target.read}")
            compare(target, {name: read(url or folder, name) for name in STREAMS}, *both[:load])


# --- comparing -----------------------------------------------------------------------------------


def expected(target: Target, stream: str, *loads: Output) -> list[Row]:
    """Return the rows that a target has to hold after some loads."""
    if target.second == "replaces":
        return loads[-1].records[stream]
    rows = [row for load in loads for row in load.records[stream]]
    if target.second == "upserts":
        keys = schemas(loads[-1])[stream]["key_properties"]
        rows = list({tuple(row[key] for key in keys): row for row in rows}.values())
    if stream == "users" and target.removed == "deleted":
        current = [row["email"] for row in loads[-1].records["users"]]
        rows = [row for row in rows if row["email"] in current]
    return rows


def compare(target: Target, found: Mapping[str, list[Row]], *loads: Output) -> None:
    """Fail with the first difference between what was loaded and what was to be."""
    for stream, message in schemas(loads[-1]).items():
        rows, held = expected(target, stream, *loads), found.get(stream, [])
        assert len(held) == len(rows), f"{stream}: {len(held)} rows where {len(rows)} were sent"
        kinds = {name: kind_of(s) for name, s in message["schema"]["properties"].items()}
        columns = {COLUMNS[target.column](name): name for name in kinds}
        names = {n for row in held for n in row if not n.startswith(tuple(target.added))}
        wrong = sorted(names ^ set(columns))
        assert not wrong, f"{stream}: columns {wrong[:3]} lost or added"
        if stream == "users" and target.removed == "marked":
            unmarked = {row["email"] for row in held if row["_sdc_deleted_at"] is None}
            current = {row["email"] for row in loads[-1].records["users"]}
            assert unmarked == current, f"users: {sorted(unmarked ^ current)} marked, or not"
        for column, name in columns.items():
            allowed = TYPES[target.types].get(kinds[name], object)
            for value in (row[column] for row in held):
                wrong_type = f"{stream}.{name}: {kinds[name]} became a {type(value).__name__}"
                assert value is None or isinstance(value, allowed), wrong_type
        form = partial(canonical, target)
        sent = [{name: form(kinds[name], row[name]) for name in kinds} for row in rows]
        read = [{n: form(kinds[n], row[column]) for column, n in columns.items()} for row in held]
        for was, is_now in zip(in_order(sent), in_order(read), strict=True):
            for name, value in was.items():
                assert value == is_now[name], f"{stream}.{name}: {value!r} became {is_now[name]!r}"


def in_order(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True, default=str))


def kind_of(schema: Row) -> str:
    if schema.get("format") == "date-time":
        return "timestamp"
    return next(kind for kind in (*JSON, "object", "array") if kind in schema["type"])


#: What null becomes in a target that has none.
ZEROS = {"integer": 0, "number": 0.0, "boolean": False, "timestamp": None}


def canonical(target: Target, kind: str, value: Any) -> Any:  # noqa: PLR0911 - a case a line
    """Return a value in one form, from whatever form a target gives it."""
    if value is None and "null" in target.loses:
        return ZEROS.get(kind, "")
    if value is None or (value == "" and "empty" in target.loses):
        return None
    if kind in {"object", "array"} or (isinstance(value, str) and value[:1] in {"{", "["}):
        return document(value)
    if kind == "boolean":
        return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
    if kind in {"integer", "number"}:
        return int(value) if kind == "integer" and "." not in str(value) else float(value)
    if kind == "timestamp":
        decimals = {"fractions": 0, "microseconds": 4}
        return timestamp(value, min((decimals.get(lost, 6) for lost in target.loses), default=6))
    text = str(value)
    return text.replace("\\n", "\n").replace("\\t", "\t") if "control" in target.loses else text


def document(value: Any) -> Any:
    """Return an object or a list, also from JSON, or from what Python prints of it."""
    for parse in (json.loads, ast.literal_eval):
        if isinstance(value, str):
            with suppress(ValueError, SyntaxError):
                value = parse(value)
    if isinstance(value, list):
        return [document(v) if isinstance(v, str) and v[:1] == "{" else v for v in value]
    return value


def timestamp(value: Any, decimals: int) -> str:
    text = value.isoformat() if isinstance(value, datetime) else str(value).replace("Z", "+00:00")
    moment = datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=moment.tzinfo or timezone.utc).astimezone(timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[: len("2026-08-30T20:00:30.") + decimals]
