"""The command `tap-crankwheel`, also as `python -m tap_crankwheel`."""

from __future__ import annotations

import logging
import os
import sys


def main() -> None:
    """Run the tap; end with one line on Ctrl-C or an invalid log level."""
    for variable in ("TAP_CRANKWHEEL_LOGLEVEL", "LOGLEVEL"):
        level = os.environ.get(variable, "").upper()
        if level and not isinstance(logging.getLevelName(level), int):
            sys.exit(f"{variable} is not a level of logs: set it to DEBUG, INFO, WARNING or ERROR.")
    try:
        # Here, since importing takes most of a second.
        from tap_crankwheel.tap import TapCrankWheel  # noqa: PLC0415

        TapCrankWheel.cli()
    except KeyboardInterrupt:
        sys.exit("Interrupted.")


if __name__ == "__main__":
    main()
