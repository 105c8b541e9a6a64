"""Counts lines of code, without docstrings and comments: `python tools/lines.py [folder ...]`.

The size of the package is a budget: `tap_crankwheel/` without its sandbox.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def lines_of_code(text: str) -> int:
    """Return how many lines of a module hold code."""
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            code -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return len(code)


if __name__ == "__main__":
    for folder in sys.argv[1:] or ("tap_crankwheel", "tap_crankwheel/sandbox", "tests"):
        texts = {path: path.read_text(encoding="utf-8") for path in Path(folder).rglob("*.py")}
        counts = {path: lines_of_code(text) for path, text in texts.items()}
        for path, count in sorted(counts.items()):
            print(f"{count:6,} {path}")  # noqa: T201
        print(f"{sum(counts.values()):6,} in all of {folder}\n")  # noqa: T201
