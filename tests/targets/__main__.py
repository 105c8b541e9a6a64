"""Tries targets and updates their rows in docs/targets.md: `python -m tests.targets [name ...]`."""

from __future__ import annotations

import re
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from tests.targets.harness import TARGETS, Target, try_target
from tests.targets.servers import Unavailable, install

PAGE = Path(__file__).parents[2] / "docs" / "targets.md"


def cells(target: Target, venvs: Path) -> tuple[list[str], bool]:
    """Return what the table says of a target, and whether it did what it is known to."""
    as_known, results = True, []

    def attempt(mode: str, *, mended: bool = True) -> bool:
        """Return whether a target holds what was sent."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                try_target(target, mode, venvs, Path(folder), mended=mended)
        except AssertionError as error:
            print(f"{target.name} {mode}: {str(error)[-400:]}")  # noqa: T201
            return False
        return True

    _, version, python = install(target.name, venvs, target.needs, target.pythons)
    for mode in ("plain", "flat"):
        right = attempt(mode)
        results.append(("nearly" if target.loses else "equal") if right else "**no**")
        as_known &= right or mode not in target.modes
    zones = "right" if target.modes else "-"
    if target.second == "not tried":
        zones = "process"
    if target.mend:
        zones = "mended"
        as_known &= not attempt(target.modes[-1], mended=False)
    second = target.second if target.modes else "-"
    removed = target.removed if second == "upserts" else "-"
    return [version, python, *results, zones, second, removed], as_known


def main(names: list[str]) -> int:
    """Try the named targets, or all; return the exit status."""
    failed = False
    with tempfile.TemporaryDirectory() as venvs:
        for target in TARGETS:
            if names and target.name not in names:
                continue
            try:
                found, as_known = cells(target, Path(venvs))
            except Unavailable as error:
                print(f"{target.name}: {error}")  # noqa: T201
                continue
            failed |= not as_known
            start = f"| {target.label or f'`{target.name}`'} | "
            print(start, *found, flush=True)  # noqa: T201
            # A new target needs a row first, and below the table its remarks, by hand.
            text = PAGE.read_text(encoding="utf-8")
            old = next(line for line in text.split("\n") if line.startswith(start))
            text = text.replace(old, f"{start}{' | '.join(found)} |")
            PAGE.write_text(text, encoding="utf-8")
    if not names:
        date = datetime.now(timezone.utc).date().isoformat()
        text = re.sub(r"(?<=Last tried on )[\d-]+", date, PAGE.read_text(encoding="utf-8"))
        PAGE.write_text(text, encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
