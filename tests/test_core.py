"""The SDK's own standard tests of a tap, against the sandbox."""

from __future__ import annotations

import pytest
from singer_sdk.testing import SuiteConfig, get_tap_test_class

from tap_crankwheel.sandbox.tap import TapCrankWheelSandbox

# One test of the suite counts on what the one before it has read.
pytestmark = pytest.mark.xdist_group("sdk")

TestTapCrankWheel = get_tap_test_class(
    TapCrankWheelSandbox, config={}, suite_config=SuiteConfig(max_records_limit=500)
)
