"""Runs the queries of `docs/queries.md`: `python tools/queries.py`.

It asks the sandbox account that the README's first command loads, all but the queries that are only
for PostgreSQL. Below each query it writes the result, and where a chart follows that, draws it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pygal  # type: ignore[import-untyped]
from pygal.style import Style  # type: ignore[import-untyped]

DOCS = Path(__file__).parents[1] / "docs"
QUERIES = DOCS / "queries.md"

# A query; what is there of its result; and perhaps a chart: its title and its file.
_QUERY = re.compile(
    r"```sql\n(?!-- PostgreSQL)(?P<sql>(?s:.*?))```\n"
    r"(?:\n(?:\|.*\n)+)?"
    r"(?P<chart>\n!\[(?P<title>.*)\]\((?P<file>.*)\)\n)?"
)
# One gray that can be read on a bright page and on a dark one; the page shows through.
_GRAY = "#7b7b7b"
_COLORS = ("foreground", "foreground_strong", "foreground_subtle")
_STYLE = Style(
    background="transparent",
    plot_background="transparent",
    colors=("#3b6ea5", "#a9c4e0"),
    value_colors=(_GRAY, _GRAY),
    font_family="sans-serif",
    opacity="1",
    **dict.fromkeys(_COLORS, _GRAY),
    **dict.fromkeys(
        ("label_font_size", "major_label_font_size", "value_font_size", "title_font_size"), 14
    ),
)


def table(columns: list[str], rows: list[tuple[Any, ...]]) -> str:
    """Return a result as a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(
        f"| {' | '.join('' if cell is None else str(cell) for cell in line)} |\n" for line in lines
    )


def chart(title: str, rows: list[tuple[Any, ...]]) -> str:
    """Return a bar chart of a result, as SVG.

    The first column has the labels, and the last the heights. Where a label would repeat, the
    second column has the labels, and the first tells apart the bars of one label.
    """
    grouped = len({row[0] for row in rows}) < len(rows)
    labels = list(dict.fromkeys(str(row[grouped]) for row in rows))
    series: dict[str, dict[str, Any]] = {}
    for row in rows:
        series.setdefault(str(row[0]) if grouped else title, {})[str(row[grouped])] = row[-1]
    bars = pygal.Bar(
        title=title,
        style=_STYLE,
        width=720,
        height=300,
        explicit_size=True,
        show_legend=grouped,
        legend_at_bottom=True,
        show_y_guides=False,
        max_scale=8,
        print_values=True,
        print_values_position="top",
        js=[],  # no scripts, and no names made at random: the same data is the same file
        no_prefix=True,
        disable_xml_declaration=True,
    )
    bars.x_labels = labels
    for name, heights in sorted(series.items()):
        bars.add(name, [heights.get(label) for label in labels])
    # Without its comments, which hold the date.
    return re.sub(r"<!--.*?-->", "", bars.render()) + "\n"


def render(warehouse: Path) -> dict[Path, str]:
    """Return what each file should hold.

    Args:
        warehouse: The DuckDB file with the sandbox account.
    """
    files = {}
    with duckdb.connect(warehouse, read_only=True) as connection:
        connection.sql("use crankwheel_sandbox")

        def answer(match: re.Match[str]) -> str:
            result = connection.sql(match["sql"])
            rows = result.fetchall()
            if match["chart"]:
                files[DOCS / match["file"]] = chart(match["title"], rows)
            shown = table(result.columns, rows)
            return f"```sql\n{match['sql']}```\n\n{shown}{match['chart'] or ''}"

        files[QUERIES] = _QUERY.sub(answer, QUERIES.read_text(encoding="utf-8"))
    return files


if __name__ == "__main__":
    for path, text in render(Path("warehouse.duckdb")).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
