"""The command `tap-crankwheel`, as `python -m tap_crankwheel`."""

from __future__ import annotations

from tap_crankwheel.tap import TapCrankWheel

if __name__ == "__main__":
    TapCrankWheel.cli()
