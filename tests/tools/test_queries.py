from __future__ import annotations

from xml.etree import ElementTree as ET

from tools.queries import chart


def drawn(rows: list[tuple[object, ...]], place: str) -> list[str | None]:
    picture = ET.fromstring(chart("Hours", rows))  # noqa: S314
    return [text.text for text in picture.findall(f".//{{*}}g[@class='{place}")]


LEGEND = "legends']//{*}text"
LABELS = "axis x']//{*}text"
HEIGHTS = "bar']/{*}desc[@class='value']"


def test_labels_that_repeat_have_a_bar_for_each_row() -> None:
    rows: list[tuple[object, ...]] = [
        ("2026-08-31", "ann@example.com", 11, 5.2),
        ("2026-08-24", "bob@example.com", 21, 12.1),
        ("2026-08-24", "ann@example.com", 8, 2.9),
    ]
    assert drawn(rows, LEGEND) == ["2026-08-24", "2026-08-31"]
    assert drawn(rows, LABELS) == ["ann@example.com", "bob@example.com"]
    assert drawn(rows, HEIGHTS) == ["2.9", "12.1", "5.2"]  # a week after the other


def test_labels_that_do_not_repeat_have_one_bar_each() -> None:
    rows: list[tuple[object, ...]] = [(4, 5, 77), (5, 9, 163)]
    assert drawn(rows, LEGEND) == []
    assert drawn(rows, LABELS) == ["4", "5"]
    assert drawn(rows, HEIGHTS) == ["77", "163"]
