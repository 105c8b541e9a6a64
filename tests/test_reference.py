from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from tests.support import all_sessions, config_for, sync
from tools.reference import README, render

if TYPE_CHECKING:
    from tap_crankwheel.sandbox.server import Sandbox


def test_the_readmes_tables_are_current() -> None:
    text = README.read_text()
    assert render(text) == text, "run: uv run python tools/reference.py"
    assert "| `api_key` | text | required |" in text
    assert "| `viewer_info.locations` | list of texts |" in text


def test_the_readmes_ways_with_personal_data_work(sandbox: Sandbox) -> None:
    blocks = README.read_text().split("```yaml\n")[1:]
    select, emails, ids = (yaml.safe_load(block.split("```")[0]) for block in blocks)
    assert select == {"select": ["*.*", "!demo_requests.prospect_info"]}

    output = sync(config_for(sandbox, **emails["config"]))
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
    output = sync(config_for(sandbox, **ids["config"]), select=("demo_requests",))
    hashed = [row["id"] for row in output.records["demo_requests"]]
    assert len(set(hashed)) == len(plain)
    assert not set(hashed) & {row["id"] for row in plain}
