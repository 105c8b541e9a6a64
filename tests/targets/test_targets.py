"""Real targets: what they load is what the tap sent, value by value and type by type."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
from uv import find_uv_bin

from tests.targets.harness import (
    Place,
    Target,
    Unavailable,
    after_second,
    call,
    compare,
    install,
    load,
)
from tests.targets.looks import looks
from tests.targets.targets import QUICK, TARGETS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Row

CASES = [
    pytest.param(target, mode, id=f"{target.name}-{mode}")
    for target in TARGETS
    if target.name in QUICK
    for mode in target.modes
]


@pytest.fixture(scope="session")
def venvs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("venvs")


@pytest.mark.parametrize(("target", "mode"), CASES)
def test_a_target_holds_what_the_tap_sent(
    target: Target, mode: str, venvs: Path, tmp_path: Path, postgres: str
) -> None:
    try:
        commands, _, _ = install(target, venvs)
    except Unavailable as error:
        pytest.skip(str(error))
    place = Place(tmp_path, postgres)
    first, second = looks(flat=mode == "flat")
    load(target, commands, first, place)
    compare(target, target.read(place), first.rows, first)
    load(target, commands, second, place)
    compare(target, target.read(place), after_second(target, first, second), second)


@pytest.mark.parametrize("flat", [False, True])
def test_the_output_passes_singer_check_tap(flat: bool, venvs: Path, tmp_path: Path) -> None:  # noqa: FBT001
    venv = venvs / "singer-tools"
    if not venv.exists():
        call(find_uv_bin(), "venv", venv, cwd=venvs)
        call(find_uv_bin(), "pip", "install", "--python", venv, "singer-tools", cwd=venvs)
    for look in looks(flat=flat):
        text = "\n".join(look.lines) + "\n"
        printed = call(venv / "bin" / "singer-check-tap", cwd=tmp_path, stdin=text)
        assert "The output is valid" in printed


@pytest.mark.parametrize(
    ("stream", "field", "value"),
    [
        ("usage_sessions", "duration", 1),
        ("usage_sessions", "start_date", "2026-08-30T20:00:30.000001Z"),
        ("usage_sessions", "session_ended", None),
        ("usage_sessions", "agent_name", "Somebody"),
        ("demo_requests", "prospect_info", {}),
        ("users", "email", "nobody@example.com"),
    ],
)
def test_the_harness_sees_a_value_that_was_changed(stream: str, field: str, value: object) -> None:
    target = next(target for target in TARGETS if target.name == "target-jsonl")
    look, _ = looks(flat=False)
    tables: dict[str, list[Row]] = copy.deepcopy(dict(look.rows))
    compare(target, tables, look.rows, look)
    tables[stream][3][field] = value
    with pytest.raises(AssertionError, match=stream):
        compare(target, tables, look.rows, look)


def test_the_harness_sees_rows_and_columns_that_are_lost() -> None:
    target = next(target for target in TARGETS if target.name == "target-jsonl")
    look, _ = looks(flat=False)
    tables: dict[str, list[Row]] = copy.deepcopy(dict(look.rows))
    first = tables["usage_sessions"].pop(0)
    with pytest.raises(AssertionError, match=r"usage_sessions: .* rows where"):
        compare(target, tables, look.rows, look)
    tables["usage_sessions"].insert(0, first)
    for row in tables["usage_sessions"]:
        del row["log"]
    with pytest.raises(AssertionError, match="lost or added"):
        compare(target, tables, look.rows, look)
