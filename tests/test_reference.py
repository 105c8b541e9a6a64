from __future__ import annotations

from tools.reference import README, render


def test_the_readmes_tables_are_current() -> None:
    text = README.read_text()
    assert render(text) == text, "run: uv run python tools/reference.py"
    assert "| `api_key` | text | required |" in text
    assert "| `viewer_info.locations` | list of texts |" in text
