from __future__ import annotations

import yaml

from tap_crankwheel.tap import TapCrankWheel
from tap_crankwheel.windows import PERIODS
from tools.reference import PAGE, PLUGIN, PROJECT, about, render

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


def test_the_page_has_tables_and_a_diagram() -> None:
    text = PAGE.read_text()
    assert "| `api_key` | text | **Required.** A read-only API key" in text
    assert 'One of hour, day, week, month. Default: `"day"`. |' in text
    assert "| `viewer_info.locations` | list of texts |" in text
    joins = [line.strip() for line in text.splitlines() if "--o{" in line or "||--||" in line]
    assert joins == [
        'account_stats ||--o{ agent_stats : "period, timezone, period_start"',
        'users |o--o{ agent_stats : "email = email"',
        'users |o--o{ demo_requests : "email = handled_by"',
        'account_stats ||--|| demo_stats : "period, timezone, period_start"',
        'users |o--o{ usage_sessions : "email = email"',
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
