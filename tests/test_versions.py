"""ACTIVATE_VERSION: after the last record of a full-table stream, and never from a windowed one."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from typing_extensions import override

from tap_crankwheel.sandbox.server import Behaviour, Sandbox
from tap_crankwheel.streams import Users
from tap_crankwheel.tap import TapCrankWheel
from tests.support import FakeClock, Output, captured, config_for, failing, sync

if TYPE_CHECKING:
    from collections.abc import Sequence

    from singer_sdk import Stream


class Teams(Users):
    """A second full-table stream; its name puts it before `users`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.name = "teams"


class TwoTables(TapCrankWheel):
    @override
    def discover_streams(self) -> Sequence[Stream]:
        found: Any = super().discover_streams()
        return [*found, Teams(self, found[0].run)]


def test_each_full_table_stream_activates_its_version_after_its_last_record(
    sandbox: Sandbox,
) -> None:
    catalog: Any = TwoTables(config=config_for(sandbox)).catalog_dict
    for entry in catalog["streams"]:
        entry["replication_method"] = "FULL_TABLE"  # which a part of a history is not
    with captured() as lines:
        TwoTables(config=config_for(sandbox), catalog=catalog, clock=FakeClock()).sync_all()
    output = Output(lines)
    records = ["RECORD"] * len(sandbox.account.users)
    for stream in ("teams", "users"):
        kinds = [kind for kind, name in output.types if name == stream]
        assert kinds == ["SCHEMA", *records, "ACTIVATE_VERSION"]
        messages = [m for m in output.messages if m.get("stream") == stream]
        assert len({m["version"] for m in messages if "version" in m}) == 1
    versioned = {m["stream"] for m in output.messages if "version" in m}
    assert versioned == {"teams", "users"}
    assert len(output.records["usage_sessions"]) > len(records)


def test_activating_versions_can_be_turned_off(sandbox: Sandbox) -> None:
    output = sync(config_for(sandbox, emit_activate_version_messages=False), select=("users",))
    assert "ACTIVATE_VERSION" not in {kind for kind, _ in output.types}
    assert output.records["users"]


@pytest.mark.parametrize("fault", ["401", "404", "400", "429:4000", "500", "reset", "html"])
def test_no_version_is_activated_when_the_list_fails(sandbox: Sandbox, fault: str) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat(fault))
    _, output = failing(config_for(sandbox), "users")
    assert [kind for kind, name in output.types if name == "users"] == ["SCHEMA"]
