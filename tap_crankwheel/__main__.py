"""`python -m tap_crankwheel` runs the tap."""

from __future__ import annotations

from tap_crankwheel.tap import TapCrankWheel

TapCrankWheel.cli()
