"""The SDK: what the tap relies on beyond its public interface, which is little."""

from __future__ import annotations

import ast
from pathlib import Path

import tap_crankwheel
from tap_crankwheel.messages import MessageWriter
from tap_crankwheel.sandbox.tap import TapCrankWheelSandbox


def test_no_private_member_of_the_sdk_is_used() -> None:
    tap = TapCrankWheelSandbox()
    objects = [tap, tap.message_writer, *tap.streams.values()]
    assert isinstance(tap.message_writer, MessageWriter)
    sdk, instance = set(), set()
    for thing in objects:
        instance |= set(vars(thing))
        for cls in type(thing).__mro__:
            if cls.__module__.startswith("singer_sdk"):
                sdk |= set(vars(cls))
    used: set[str] = set()
    defined: set[str] = set()
    for path in Path(tap_crankwheel.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                defined.add(node.name)
            elif isinstance(node, ast.Attribute):
                used.add(node.attr)
                if isinstance(node.ctx, ast.Store):
                    defined.add(node.attr)
    private = {name for name in sdk if name.startswith("_") and not name.startswith("__")}
    assert (used | defined) & private == set()
    # Nor an attribute that the constructors of the SDK set.
    theirs = {name for name in instance if name.startswith("_")} - defined
    assert used & theirs == set()
