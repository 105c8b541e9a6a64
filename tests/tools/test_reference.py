from __future__ import annotations

import json
import re
from xml.etree import ElementTree as ET

import pytest
import yaml

from tap_crankwheel.sandbox.account import Account
from tap_crankwheel.sandbox.tap import NOW
from tap_crankwheel.tap import TapCrankWheel
from tap_crankwheel.windows import PERIODS
from tests.support import Row, expected_requests, expected_sessions, expected_users
from tools.reference import DIAGRAM, PAGE, PLUGIN, PROJECT, about, render

KINDS = {
    "array": 1,
    "boolean": 2,
    "integer": 6,
    "object": 3,
    "string": 8,
}


@pytest.mark.slow  # a hook of pre-commit does the same
def test_what_is_written_from_the_tap_is_current() -> None:
    for path, text in render().items():
        assert path.read_text(encoding="utf-8") == text, "run: uv run python tools/reference.py"


def test_the_page_has_tables_and_a_diagram() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "| `api_key` | text | **Required.** A read-only API key" in text
    assert 'One of hour, day, week, month. Default: `"day"`. |' in text
    assert "From 1 to 10. Default: `4`. |" in text
    assert "| `viewer_info.locations` | list of texts |" in text
    folded = re.findall(r"^<details><summary>(\w+)</summary>$", text, re.MULTILINE)
    assert folded == [*["Example"] * 2, "Fields", *["Example"] * 4]  # the fields of demo_requests
    (said,) = re.findall(r"^!\[(.*)\.\]\(diagram\.svg\)$", text, re.MULTILINE)
    assert said.split("; ") == [
        "agent_stats joins account_stats by period, timezone, period_start",
        "agent_stats joins users by email = email",
        "demo_requests joins users by email = handled_by",
        "demo_stats joins account_stats by period, timezone, period_start",
        "usage_sessions joins users by email = email",
    ]
    drawn = ET.parse(DIAGRAM).findall("{*}text")  # noqa: S314
    shown = [str(text.text) for text in drawn if text.get("text-anchor")]
    assert sorted(shown) == sorted(join.split(" by ")[1] for join in said.split("; "))
    names = {text.text for text in drawn if text.get("class") == "name"}
    assert names == TapCrankWheel(config={"api_key": "none"}).streams.keys()


def without_nulls(row: Row) -> Row:
    return {
        name: without_nulls(value) if isinstance(value, dict) else value
        for name, value in row.items()
        if value is not None
    }


def test_the_examples_are_rows_of_the_sandbox_account() -> None:
    examples = {
        section.split("\n")[0]: json.loads(section.split("```json\n")[1].split("```")[0])
        for section in PAGE.read_text(encoding="utf-8").split("\n### ")[1:]
    }
    streams, account = TapCrankWheel(config={"api_key": "none"}).streams, Account(fixed_now=NOW)
    for name, stream in streams.items():
        assert stream.schema["properties"].keys() - examples[name].keys() <= {"extra"}
    assert examples["usage_sessions"] in map(without_nulls, expected_sessions(account))
    assert examples["users"] in map(without_nulls, expected_users(account))
    del examples["demo_requests"]["id"]
    assert examples["demo_requests"] in map(without_nulls, expected_requests(account))


def test_meltano_knows_every_setting() -> None:
    schema = about()["settings"]["properties"]
    definition = yaml.safe_load(PLUGIN.read_text(encoding="utf-8"))
    plugins = yaml.safe_load(PROJECT.read_text(encoding="utf-8"))["plugins"]
    tap, sandbox = plugins["extractors"]
    for plugin in (definition, tap, *plugins["loaders"]):  # nothing is looked up on the Hub
        assert plugin["namespace"]
        assert plugin["pip_url"]
    capabilities = {capability.value for capability in TapCrankWheel.capabilities}
    assert set(tap["capabilities"]) == set(definition["capabilities"]) == capabilities
    assert sandbox["inherit_from"] == tap["name"] == definition["name"]
    settings = {setting["name"]: setting for setting in definition["settings"]}
    assert set(settings) == set(schema)
    needed = [
        {k: s[k] for k in ("name", "kind", "sensitive") if k in s} for s in definition["settings"]
    ]
    assert tap["settings"] == needed
    assert {kind: sum(s["kind"] == kind for s in settings.values()) for kind in KINDS} == KINDS
    assert [name for name, setting in settings.items() if "sensitive" in setting] == ["api_key"]
    assert settings["stats_period"]["value"] == "day"
    assert [option["value"] for option in settings["stats_period"]["options"]] == list(PERIODS)
    assert all(setting["label"] and setting["description"] for setting in settings.values())
    assert definition["settings_group_validation"] == [["api_key"]]
    assert definition["supported_python_versions"] == [f"3.{n}" for n in range(10, 15)]
