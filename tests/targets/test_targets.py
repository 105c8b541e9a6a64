"""Real targets: what they load is what the tap sent, value by value and type by type."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest

from tests.targets.harness import TARGETS, Target, compare, looks, try_target
from tests.targets.servers import Unavailable, call, install

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Row

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("targets")]

CASES = [
    pytest.param(target, mode, id=f"{target.name}-{mode}")
    for target in TARGETS
    if target.quick
    for mode in target.modes
]
JSONL = next(target for target in TARGETS if target.name == "target-jsonl")


@pytest.fixture(scope="session")
def venvs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("venvs")


@pytest.mark.parametrize(("target", "mode"), CASES)
def test_a_target_holds_what_the_tap_sent(
    target: Target, mode: str, venvs: Path, tmp_path: Path
) -> None:
    try:
        try_target(target, mode, venvs, tmp_path)
    except Unavailable as error:
        pytest.skip(str(error))


def test_a_target_is_tried_where_it_has_to_convert(venvs: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="gkpj"):  # SQLAlchemy's IntegrityError
        try_target(TARGETS[0], "plain", venvs, tmp_path, mended=False)


@pytest.mark.parametrize("mode", ["plain", "flat"])
def test_the_output_passes_singer_check_tap(mode: str, venvs: Path, tmp_path: Path) -> None:
    commands, *_ = install("singer-tools", venvs)
    for look in looks(mode):
        text = "\n".join([*look.lines, ""])
        printed = call(commands / "singer-check-tap", cwd=tmp_path, stdin=text)
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
    look, _ = looks("plain")
    tables: dict[str, list[Row]] = copy.deepcopy(dict(look.records))
    compare(JSONL, tables, look)
    tables[stream][3][field] = value
    with pytest.raises(AssertionError, match=stream):
        compare(JSONL, tables, look)


def test_the_harness_sees_rows_and_columns_that_are_lost() -> None:
    look, _ = looks("plain")
    tables: dict[str, list[Row]] = copy.deepcopy(dict(look.records))
    first = tables["usage_sessions"].pop(0)
    with pytest.raises(AssertionError, match=r"usage_sessions: .* rows where"):
        compare(JSONL, tables, look)
    tables["usage_sessions"].insert(0, first)
    for row in tables["usage_sessions"]:
        del row["log"]
    with pytest.raises(AssertionError, match="lost or added"):
        compare(JSONL, tables, look)
