"""Users: the whole list at every run, and when a version of it is activated."""

from __future__ import annotations

import itertools

import pytest

from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.sandbox.server import Behaviour, Sandbox
from tests.support import (
    Output,
    config_for,
    sync,
)


def test_the_version_is_activated_after_the_rows(sandbox: Sandbox) -> None:
    output = sync(config_for(sandbox))
    kinds = [kind for kind, stream in output.types if stream == "users"]
    assert kinds == ["SCHEMA", *["RECORD"] * len(sandbox.account.users), "ACTIVATE_VERSION"]
    versions = {m.get("version") for m in output.messages if m.get("stream") == "users"}
    assert len(versions - {None}) == 1
    others = [m for m in output.messages if m["type"] == "RECORD" and m["stream"] != "users"]
    assert not any("version" in message for message in others)


def test_activating_versions_can_be_turned_off(sandbox: Sandbox) -> None:
    output = sync(config_for(sandbox, emit_activate_version_messages=False), select=("users",))
    assert "ACTIVATE_VERSION" not in {kind for kind, _ in output.types}
    assert output.records["users"]


@pytest.mark.parametrize(
    "fault",
    ["401", "403", "404", "400", "429", "500", "reset", "truncate", "html"],
)
def test_no_version_is_activated_when_the_list_of_users_fails(sandbox: Sandbox, fault: str) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat(fault))
    lines: list[str] = []
    with pytest.raises(CrankWheelError):
        sync(config_for(sandbox), select=("users",), lines=lines)
    kinds = [kind for kind, stream in Output(lines).types if stream == "users"]
    assert kinds == ["SCHEMA"]
