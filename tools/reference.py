"""Writes the README's tables of settings and streams: `python tools/reference.py`."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from tap_crankwheel.tap import TapCrankWheel

README = Path(__file__).parents[1] / "README.md"


def kind(schema: dict[str, Any]) -> str:
    """Return the type of a field or setting in a word or two."""
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    word: str = next(name for name in types if name != "null")
    if schema.get("format") == "date-time":
        return "timestamp"
    if word == "array":
        return f"list of {kind(schema['items'])}s"
    return {"string": "text"}.get(word, word)


def settings() -> str:
    """Return the table of the tap's own settings."""
    rows = ["| Setting | Type | Default | What it does |", "|---|---|---|---|"]
    schema: dict[str, Any] = TapCrankWheel.config_jsonschema
    for name, setting in schema["properties"].items():
        if name.startswith(("stream_map", "faker", "flattening")):
            continue
        default = f"`{json.dumps(setting['default'])}`" if "default" in setting else ""
        what = html.escape(setting["description"], quote=False)
        if "enum" in setting:
            what += f" One of {', '.join(setting['enum'])}."
        shown = "required" if name in schema["required"] else default
        rows.append(f"| `{name}` | {kind(setting)} | {shown} | {what} |")
    return "\n".join(rows)


def fields(schema: dict[str, Any], prefix: str = "") -> list[str]:
    """Return a row for each field of a schema, those of objects included."""
    rows = []
    for name, field in schema["properties"].items():
        rows.append(f"| `{prefix}{name}` | {kind(field)} | {field['description']} |")
        if "properties" in field:
            rows += fields(field, f"{prefix}{name}.")
    return rows


def streams() -> str:
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
            f"{type(stream).__doc__} Key: {keys}; {method}.\n",
            "<details><summary>Fields</summary>\n",
            "| Field | Type | What it is |",
            "|---|---|---|",
            *fields(stream.schema),
            "\n</details>\n",
        ]
    return "\n".join(parts).rstrip()


def render(readme: str) -> str:
    """Return the README with its tables renewed."""
    for name, table in (("settings", settings()), ("streams", streams())):
        before, start, rest = readme.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{name} -->")
        readme = f"{before}{start}\n{table}\n{end}{after}"
    return readme


if __name__ == "__main__":
    README.write_text(render(README.read_text()))
