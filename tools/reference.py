"""Writes what the tap can say of itself where people look it up: `python tools/reference.py`.

The diagram and the tables of `docs/reference.md`, the plugin definition for Meltano Hub, and the
settings in `meltano.yml` come from `tap-crankwheel --about` and from the schemas.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from importlib.metadata import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from tap_crankwheel.tap import TapCrankWheel

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference.md"
PROJECT = ROOT / "meltano.yml"
PLUGIN = ROOT / "hub" / "tap-crankwheel.yml"

_ABOUT = [sys.executable, "-m", "tap_crankwheel", "--about", "--format=json"]
_BUILT_IN = ("stream_map", "faker", "flattening")


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


def streams_tables() -> str:
    """Return a table of fields for each stream."""
    parts = []
    for name, stream in TapCrankWheel(config={"api_key": "none"}).streams.items():
        keys = ", ".join(f"`{key}`" for key in stream.primary_keys)
        method = (
            f"incremental by `{stream.replication_key}`"
            if stream.replication_key
            else "the whole table at every run"
        )
        parts += [
            f"### {name}\n",
            f"{(type(stream).__doc__ or '').splitlines()[0]} Key: {keys}; {method}.\n",
            "<details><summary>Fields</summary>\n",
            "| Field | Type | What it is |",
            "|---|---|---|",
            *fields(stream.schema),
            "\n</details>\n",
        ]
    return "\n".join(parts).rstrip()


def diagram() -> str:
    """Return a mermaid diagram of the streams: keys, timestamps, and what joins what.

    A description that says "joins users.email" is a join (those of `users` say it backwards), and
    so are the keys of a period.
    """
    entities, joins = [], []
    streams = TapCrankWheel(config={"api_key": "none"}).streams
    for name, stream in streams.items():
        own, periods = set(stream.primary_keys), streams["account_stats"].primary_keys
        if name != "account_stats" and own >= set(periods):
            ends = "||--||" if own == set(periods) else "||--o{"
            joins.append(f'    account_stats {ends} {name} : "{", ".join(periods)}"')
        lines = []
        for field, schema in stream.schema["properties"].items():
            join = re.search(r"joins (\w+)\.(\w+)", schema["description"])
            marks = ["PK"] * (field in stream.primary_keys)
            if join and join[1] != name and name != "users":
                marks.append("FK")
                joins.append(f'    {join[1]} |o--o{{ {name} : "{join[2]} = {field}"')
            if marks or field == stream.replication_key:
                lines.append(f"        {words(schema)} {field} {', '.join(marks)}".rstrip())
        entities += [f"    {name} {{", *lines, "    }"]
    return "\n".join(["```mermaid", "erDiagram", *entities, *joins, "```"])


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
    """Return `meltano.yml` with the tap's settings renewed, written as Meltano writes it."""
    ruamel = YAML()
    ruamel.width = 10**6
    document = ruamel.load(PROJECT)
    document["plugins"]["extractors"][0].update(common(info))
    written = StringIO()
    ruamel.dump(document, written)
    return written.getvalue()


# --- both ----------------------------------------------------------------------------------------


def render() -> dict[Path, str]:
    """Return what each file should hold."""
    info = about()
    page = PAGE.read_text()
    for name, new in (
        ("settings", settings_table(info["settings"])),
        ("streams", streams_tables()),
        ("diagram", diagram()),
    ):
        page = between(page, f"<!-- {name} -->", f"<!-- /{name} -->", f"\n{new}\n\n")
    return {PAGE: page, PLUGIN: as_yaml(plugin(info)), PROJECT: project(info)}


if __name__ == "__main__":
    for path, text in render().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
