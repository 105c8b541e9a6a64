"""Writes what the tap can say of itself where people look it up: `python tools/reference.py`.

The tables and the diagram of `docs/reference.md`, the plugin definition for Meltano Hub, and the
settings in `meltano.yml` come from `tap-crankwheel --about` and from the schemas. The example rows
of `docs/reference.md`, and the report in `docs/sandbox.md`, come from the sandbox account.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from importlib.metadata import metadata
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from ruamel.yaml import YAML

from tap_crankwheel.sandbox.tap import TapCrankWheelSandbox
from tap_crankwheel.tap import TapCrankWheel

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # where `tools` is, when this is run as a script

from tools.api_report import report  # noqa: E402

SANDBOX = ROOT / "docs" / "sandbox.md"
PAGE = ROOT / "docs" / "reference.md"
DIAGRAM = ROOT / "docs" / "diagram.svg"
PROJECT = ROOT / "meltano.yml"
PLUGIN = ROOT / "hub" / "tap-crankwheel.yml"

_ABOUT = [sys.executable, "-m", "tap_crankwheel", "--about", "--format=json"]
_BUILT_IN = ("stream_map", "faker", "flattening")
LONG = 30  # rows, from which on a table is folded
STREAMS = TapCrankWheel(config={"api_key": "none"}).streams
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 {height}">
<style>text {{ font: 13px sans-serif; fill: #7b7b7b }} path {{ stroke: #7b7b7b }}
[class] {{ fill: #1f2328 }} .key {{ font-weight: bold }} .name {{ font-size: 16px }}</style>
{parts}</svg>
"""


def about() -> dict[str, Any]:
    """Return what the tap says of itself."""
    answer = subprocess.run(_ABOUT, capture_output=True, check=True)  # noqa: S603
    info: dict[str, Any] = json.loads(answer.stdout)
    return info


def type_of(schema: dict[str, Any]) -> str:
    """Return the JSON type of a field or setting, null aside."""
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    word: str = next(name for name in types if name != "null")
    return word


# --- the page ----------------------------------------------------------------------------------


def between(text: str, start: str, end: str, new: str) -> str:
    """Return a text with what stands between two lines renewed."""
    before, start, rest = text.partition(f"{start}\n")
    _, end, after = rest.partition(end)
    if not end:
        msg = "a marker is missing"
        raise ValueError(msg)
    return f"{before}{start}{new}{end}{after}"


def words(schema: dict[str, Any]) -> str:
    """Return the type of a field or setting in a word or two."""
    word = type_of(schema)
    if schema.get("format") == "date-time":
        return "timestamp"
    if word == "array":
        return f"list of {words(schema['items'])}s" if "items" in schema else "list"
    return {"string": "text"}.get(word, word)


def settings_table(schema: dict[str, Any]) -> str:
    """Return the table of the tap's own settings."""
    rows = ["| Setting | Type | What it does |", "|---|---|---|"]
    for name, setting in schema["properties"].items():
        if name.startswith(_BUILT_IN):
            continue
        what = html.escape(setting["description"], quote=False)
        if "enum" in setting:
            what += f" One of {', '.join(setting['enum'])}."
        if "minimum" in setting:
            what += f" From {setting['minimum']} to {setting['maximum']}."
        if "default" in setting:
            what += f" Default: `{json.dumps(setting['default'])}`."
        if name in schema["required"]:
            what = f"**Required.** {what}"
        rows.append(f"| `{name}` | {words(setting)} | {what} |")
    return "\n".join(rows)


def fields(schema: dict[str, Any], prefix: str = "") -> list[str]:
    """Return a row for each field of a schema, those of objects included."""
    rows = []
    for name, field in schema["properties"].items():
        rows.append(f"| `{prefix}{name}` | {words(field)} | {field['description']} |")
        if "properties" in field:
            rows += fields(field, f"{prefix}{name}.")
    return rows


def folded(summary: str, content: str) -> str:
    """Return what a page shows only when its summary is clicked."""
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def filled(row: dict[str, Any], schema: dict[str, Any]) -> int:
    """Return how many fields of a row are not null, false, zero or empty; objects' included."""
    return sum(
        filled(row[name], field) if "properties" in field else bool(row.get(name))
        for name, field in schema["properties"].items()
    )


def examples() -> dict[str, str]:
    """Return for each stream a row of the sandbox account as JSON, without what is null.

    It is the row with the most fields. Of several, it is the shortest.
    """
    found = {}
    # The streams write states.
    with redirect_stdout(TextIOWrapper(BytesIO(), encoding="utf-8")):
        for name, stream in TapCrankWheelSandbox().streams.items():
            rows = json.loads(
                json.dumps(list(stream.get_records(None))),
                object_pairs_hook=lambda pairs: {k: v for k, v in pairs if v is not None},
            )
            row = min(rows, key=lambda row: (-filled(row, stream.schema), len(str(row))))
            found[name] = json.dumps(row, indent=2, ensure_ascii=False)
    return found


def streams_tables() -> str:
    """Return a table of fields and an example for each stream."""
    parts, example = [], examples()
    for name, stream in STREAMS.items():
        keys = ", ".join(f"`{key}`" for key in stream.primary_keys)
        method = (
            f"incremental by `{stream.replication_key}`"
            if stream.replication_key
            else "the whole table at every run"
        )
        rows = ["| Field | Type | What it is |", "|---|---|---|", *fields(stream.schema)]
        table = "\n".join(rows)
        parts += [
            f"### {name}",
            f"{(type(stream).__doc__ or '').splitlines()[0]} Key: {keys}; {method}.",
            folded("Fields", table) if len(rows) > LONG else table,
            folded("Example", f"```json\n{example[name]}\n```"),
        ]
    return "\n\n".join(parts)


def joins() -> list[tuple[str, str, str]]:
    """Return for each join the stream that others join, the one that joins it, and the fields.

    A description that says "joins users.email" is a join (those of `users` say it backwards), and
    so are the keys of a period.
    """
    found, periods = [], STREAMS["account_stats"].primary_keys
    for name, stream in STREAMS.items():
        if name != "account_stats" and set(stream.primary_keys) >= set(periods):
            found.append(("account_stats", name, ", ".join(periods)))
        for field, schema in stream.schema["properties"].items():
            join = re.search(r"joins (\w+)\.(\w+)", schema["description"])
            if join and name not in {join[1], "users"}:
                found.append((join[1], name, f"{join[2]} = {field}"))
    return found


def diagram() -> str:
    """Return an SVG: on the left what others join, on the right what joins it, and by what.

    The page shows through; its gray can be read on a bright one and on a dark one.
    """
    parts, middles, below = [], dict[str, float](), 20.0
    own = {name: [join for join in joins() if join[1] == name] for name in STREAMS}
    parents = [name for name in STREAMS if not own[name]]

    def box(name: str, x: int, y: float) -> float:
        keys, marked = STREAMS[name].primary_keys, {STREAMS[name].replication_key}
        marked |= {*keys, *(by.split()[-1] for _, _, by in own[name])}
        rows = [field for field in STREAMS[name].schema["properties"] if field in marked]
        height = 20 * len(rows) + 34
        middles[name] = y + height / 2
        parts.append(f'<path d="M{x} {y:g}h180v{height}h-180z" fill="#eef3f8"/>')
        for n, text in enumerate([name, *rows]):
            kind = "key" if text in keys else "field" if n else "name"
            parts.append(f'<text x="{x + 12}" y="{y + 20 * n + 21:g}" class="{kind}">{text}</text>')
        return height

    joining = (name for name in STREAMS if own[name])
    for name in sorted(joining, key=lambda name: fmean(parents.index(j[0]) for j in own[name])):
        below += box(name, 500, below) + 20
    for parent in parents:
        box(parent, 20, fmean(middles[j[1]] for j in joins() if j[0] == parent) - 40)
    for name, found in own.items():
        for n, (parent, _, by) in enumerate(found):
            y = middles[name] + 30 * (n - (len(found) - 1) / 2)
            parts.append(f'<path d="M200 {middles[parent]:g}L280 {y:g}H500" fill="none"/>')
            parts.append(f'<text x="490" y="{y - 6:g}" text-anchor="end">{by}</text>')
    return SVG.format(height=f"{below:g}", parts="\n".join(parts))


# --- Meltano -------------------------------------------------------------------------------------


def setting_of(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the definition of a setting, in the terms and the order of Meltano."""
    # Dates are strings: of the kind date_iso8601, Meltano reads 01.02.2026 as 2 January. So are
    # choices: of the kind options, Meltano answers a wrong one with a traceback.
    setting: dict[str, Any] = {"name": name, "kind": type_of(schema)}
    if "default" in schema:
        setting["value"] = schema["default"]
    label = schema.get("title", re.sub("^Api", "API", name.replace("_", " ").capitalize()))
    setting |= {"label": label, "description": schema["description"]}
    if "enum" in schema:
        setting["options"] = [
            {"label": value.replace("_", " ").capitalize(), "value": value}
            for value in schema["enum"]
        ]
    if schema.get("secret"):
        setting["sensitive"] = True
    return setting


def common(info: dict[str, Any]) -> dict[str, Any]:
    """Return what the plugin definition and `meltano.yml` both say of the tap."""
    properties = info["settings"]["properties"]
    return {
        "capabilities": sorted(info["capabilities"]),
        "settings_group_validation": [info["settings"]["required"]],
        "settings": [setting_of(name, properties[name]) for name in sorted(properties)],
    }


def plugin(info: dict[str, Any]) -> dict[str, Any]:
    """Return the plugin definition, in the format of Meltano Hub's own.

    `quality` is for the Hub's maintainers to give.
    """
    urls = dict(url.split(", ") for url in metadata(info["name"]).get_all("Project-URL", []))
    definition = {
        **common(info),
        "name": info["name"],
        "namespace": info["name"].replace("-", "_"),
        "variant": info["name"],
        "label": "CrankWheel",
        "description": "Browser screen sharing for sales teams",
        "pip_url": info["name"],
        "executable": info["name"],
        "domain_url": urls["CrankWheel"],
        "docs": urls["CrankWheel API"],
        "keywords": ["api", "meltano_sdk"],
        "maintenance_status": "beta",
        "quality": "unknown",
        "select": ["*.*"],
        "supported_python_versions": info["supported_python_versions"],
    }
    if repository := urls.get("Repository"):  # a variant is called after its publisher
        definition |= {"repo": repository, "variant": repository.split("/")[-2].lower()}
    return definition


def as_yaml(document: dict[str, Any]) -> str:
    """Return YAML in the form that the Hub's checks ask for: keys in order, sequences flush."""
    return yaml.safe_dump(document, width=100, allow_unicode=True)


def project(info: dict[str, Any]) -> str:
    """Return `meltano.yml` with the tap's settings renewed, written as Meltano writes it.

    Of a setting it has what Meltano needs to hand it over; what people read is in the definition.
    """
    ruamel = YAML()
    ruamel.width = 10**6
    document = ruamel.load(PROJECT)
    shared = common(info)
    needed = {"name", "kind", "sensitive"}
    shared["settings"] = [
        {key: value for key, value in setting.items() if key in needed}
        for setting in shared["settings"]
    ]
    document["plugins"]["extractors"][0].update(shared)
    written = StringIO()
    ruamel.dump(document, written)
    return written.getvalue()


# --- all of them ---------------------------------------------------------------------------------


def render() -> dict[Path, str]:
    """Return what each file should hold."""
    info = about()
    page = PAGE.read_text(encoding="utf-8")
    said = "; ".join(f"{child} joins {parent} by {by}" for parent, child, by in joins())
    for name, new in (
        ("settings", settings_table(info["settings"])),
        ("streams", streams_tables()),
        ("diagram", f"![{said}.]({DIAGRAM.name})\n\nKeys are bold."),
    ):
        page = between(page, f"<!-- {name} -->", f"<!-- /{name} -->", f"\n{new}\n\n")
    told = report(TapCrankWheelSandbox())
    shown = f"\n<details><summary>The report</summary>\n\n{told}\n\n</details>\n\n"
    sandbox = between(
        SANDBOX.read_text(encoding="utf-8"), "<!-- report -->", "<!-- /report -->", shown
    )
    return {
        PAGE: page,
        SANDBOX: sandbox,
        DIAGRAM: diagram(),
        PLUGIN: as_yaml(plugin(info)),
        PROJECT: project(info),
    }


if __name__ == "__main__":
    for path, text in render().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
