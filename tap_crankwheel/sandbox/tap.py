"""The tap with the sandbox account behind it: no key, no configuration."""

from __future__ import annotations

import os
import threading
import time
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

from tap_crankwheel.sandbox.account import Account
from tap_crankwheel.sandbox.server import API_KEY, Sandbox
from tap_crankwheel.tap import TapCrankWheel

#: When the account is looked at: a fixed moment, so that everybody sees the same data.
NOW = datetime(2026, 9, 1, 15, 20, tzinfo=timezone.utc)


class TapCrankWheelSandbox(TapCrankWheel):
    """Singer tap for a CrankWheel account of made-up data, which it ships with."""

    name = "tap-crankwheel-sandbox"

    def __init__(
        self,
        *,
        config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the tap's settings, but for those that say what account is read, and when."""
        account = Account(fixed_now=NOW)
        sandbox = Sandbox(account)
        threading.Thread(target=sandbox.serve_forever, daemon=True).start()
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
        own = {
            "api_url": sandbox.url,
            "api_key": API_KEY,
            "start_date": account.start.isoformat(),
            "end_date": (NOW + timedelta(days=1)).isoformat(),  # not reached, so no run warns of it
        }
        for name, value in own.items():  # the environment's settings override the configuration's
            os.environ[f"TAP_CRANKWHEEL_SANDBOX_{name.upper()}"] = value
        clock = SimpleNamespace(time=NOW.timestamp, monotonic=time.monotonic, sleep=time.sleep)
        super().__init__(config={**(config or {}), **own}, clock=clock, **kwargs)
