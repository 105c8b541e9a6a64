"""The questions in the documentation, and the answers that it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.conftest import into_duckdb
from tools.queries import QUERIES, render

if TYPE_CHECKING:
    from pathlib import Path


@into_duckdb
def test_the_answers_and_charts_are_current(warehouse: Path) -> None:
    files = render(warehouse)
    for path, text in files.items():
        assert path.read_text() == text, "run: uv run python tools/queries.py"
    charts = [text for path, text in files.items() if path.suffix == ".svg"]
    assert len(charts) == 2
    assert not any("<!--" in chart for chart in charts)  # where the library writes the date


def test_each_question_has_an_answer() -> None:
    questions = QUERIES.read_text().split("\n## ")[1:]
    assert len(questions) == 10
    for question in questions:
        _, _, answer = question.split("```")
        columns, _, *rows = [line for line in answer.splitlines() if line.startswith("|")]
        assert rows
        assert all(row.count("|") == columns.count("|") for row in rows)
