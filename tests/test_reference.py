from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from tap_crankwheel.tap import TapCrankWheel
from tap_crankwheel.windows import PERIODS
from tests.support import all_sessions, config_for, sync
from tools.reference import PLUGIN, PROJECT, README, about, render

if TYPE_CHECKING:
    from tap_crankwheel.sandbox.server import Sandbox

KINDS = {
    "array": 1,
    "boolean": 2,
    "integer": 6,
    "object": 3,
    "string": 8,
}


def test_what_is_written_from_the_tap_is_current() -> None:
    for path, text in render().items():
        assert path.read_text() == text, "run: uv run python tools/reference.py"


def test_the_readme_has_tables_and_a_diagram() -> None:
    text = README.read_text()
    assert "| `api_key` | text | **Required.** A read-only API key" in text
    assert 'One of hour, day, week, month. Default: `"day"`. |' in text
    assert "| `viewer_info.locations` | list of texts |" in text
    joins = [line.strip() for line in text.splitlines() if "--o{" in line]
    assert joins == [
        'users |o--o{ usage_sessions : "email = email"',
        'account_stats ||--o{ agent_stats : "period, timezone, period_start"',
        'users |o--o{ agent_stats : "email = email"',
        'users |o--o{ demo_requests : "email = handled_by"',
    ]


def test_meltano_knows_every_setting() -> None:
    schema = about()["settings"]["properties"]
    definition = yaml.safe_load(PLUGIN.read_text())
    plugins = yaml.safe_load(PROJECT.read_text())["plugins"]
    tap, sandbox = plugins["extractors"]
    for plugin in (definition, tap, *plugins["loaders"]):  # nothing is looked up on the Hub
        assert plugin["namespace"]
        assert plugin["pip_url"]
    capabilities = {capability.value for capability in TapCrankWheel.capabilities}
    assert set(tap["capabilities"]) == set(definition["capabilities"]) == capabilities
    assert sandbox["inherit_from"] == tap["name"] == definition["name"]
    settings = {setting["name"]: setting for setting in definition["settings"]}
    assert set(settings) == set(schema)
    assert tap["settings"] == definition["settings"]
    assert {kind: sum(s["kind"] == kind for s in settings.values()) for kind in KINDS} == KINDS
    assert [name for name, setting in settings.items() if "sensitive" in setting] == ["api_key"]
    assert settings["stats_period"]["value"] == "day"
    assert [option["value"] for option in settings["stats_period"]["options"]] == list(PERIODS)
    assert all(setting["label"] and setting["description"] for setting in settings.values())
    assert definition["settings_group_validation"] == [["api_key"]]
    assert definition["supported_python_versions"] == [f"3.{n}" for n in range(10, 15)]


def test_the_readmes_ways_with_personal_data_work(sandbox: Sandbox) -> None:
    blocks = README.read_text().split("## Personal data")[1].split("```yaml\n")[1:]
    select, hashed = (yaml.safe_load(block.split("```")[0]) for block in blocks)
    assert select == {"select": ["*.*", "!demo_requests.prospect_info"]}

    output = sync(config_for(sandbox, **hashed["config"]))
    addresses = [session["email"] for session in all_sessions(sandbox.account)]
    assert not any(address in "".join(output.lines) for address in addresses)
    users = {row["email"] for row in output.records["users"]}
    for stream, field in (
        ("usage_sessions", "email"),
        ("agent_stats", "email"),
        ("demo_requests", "handled_by"),
    ):
        assert {row[field] for row in output.records[stream]} - {None} <= users

    plain = sync(config_for(sandbox), select=("demo_requests",)).records["demo_requests"]
    ids = [row["id"] for row in output.records["demo_requests"]]
    assert len(set(ids)) == len(plain)
    assert not set(ids) & {row["id"] for row in plain}
