"""The tap: its wiring, and its list of streams."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from singer_sdk import Tap
from singer_sdk.helpers.capabilities import PluginCapabilities
from typing_extensions import override

from tap_crankwheel import streams
from tap_crankwheel.auth import CrankWheelAuthenticator
from tap_crankwheel.cli import CommandLineTap
from tap_crankwheel.client import Client
from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.history import Run, WindowedStream
from tap_crankwheel.settings import CONFIG_SCHEMA, EPOCH
from tap_crankwheel.tally import Tally
from tap_crankwheel.windows import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from singer_sdk import Stream
    from singer_sdk.helpers.capabilities import CapabilitiesEnum

    from tap_crankwheel.throttle import Clock


#: What the SDK writes into the bookmark of a stream, and of which type.
BOOKMARK_KEYS: dict[str, type] = {
    "partitions": list,
    "progress_markers": dict,
    "replication_key": object,
    "replication_key_signpost": object,
    "replication_key_value": object,
    "starting_replication_value": object,
}


class TapCrankWheel(CommandLineTap):
    """Singer tap for CrankWheel: screen-sharing sessions, demo requests, statistics and users."""

    name = "tap-crankwheel"
    package_name = "tap-crankwheel"
    config_jsonschema = CONFIG_SCHEMA

    # The SDK writes batch files without selection, stream maps or flattening, so that deselected
    # personal data would be in them.
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        capability for capability in Tap.capabilities if capability != PluginCapabilities.BATCH
    ]

    def __init__(self, *, clock: Clock = time, **kwargs: Any) -> None:  # noqa: ANN401 - the SDK's
        """Take the SDK's arguments, and a clock for tests."""
        self._clock = clock
        super().__init__(**kwargs)

    @override
    def discover_streams(self) -> Sequence[Stream]:
        settings = self.settings
        client = Client(
            settings.api_url,
            CrankWheelAuthenticator(settings.api_key),
            timeout=settings.request_timeout,
            parallel=settings.max_parallel_requests,
            user_agent=f"{self.name}/{self.plugin_version}",
            clock=self._clock,
        )
        run = Run(settings, client, self._clock, self.logger)
        tally = Tally()
        statistics = [streams.AccountStats(self, run, tally), streams.AgentStats(self, run, tally)]
        return [
            *statistics,
            streams.DemoRequests(self, run),
            streams.UsageSessions(self, run, tally, statistics),
            streams.Users(self, run, self.message_writer),
        ]

    @property
    @override
    def streams(self) -> dict[str, Stream]:
        """The streams, sessions first: what they request need not be requested for statistics.

        In another order the rows would be the same.
        """
        found = super().streams
        return {name: found[name] for name in (streams.UsageSessions.name, *found)}

    @override
    def load_state(self, state: dict[str, Any]) -> None:
        bookmarks = state.get("bookmarks", {})
        if not isinstance(bookmarks, dict):
            raise CrankWheelError(
                "The state is broken: its bookmarks are not an object. Restore or remove it.",
            )
        for stream, bookmark in bookmarks.items():
            try:
                value = bookmark.get("replication_key_value")
                if bookmark.keys() - BOOKMARK_KEYS.keys():
                    raise ValueError  # noqa: TRY301 - a misspelt key
                for key, kind in BOOKMARK_KEYS.items():
                    if not isinstance(bookmark.get(key, kind()), kind):
                        raise TypeError  # noqa: TRY301
                windowed = isinstance(self.streams.get(stream), WindowedStream)
                if windowed and value is not None and parse_timestamp(value) < EPOCH:
                    raise ValueError  # noqa: TRY301
            except (AttributeError, TypeError, ValueError):
                raise CrankWheelError(
                    f"The state is broken: the bookmark of {stream} is not a timestamp. Restore "
                    "the state, or remove it to read everything anew (--full-refresh in Meltano)."
                ) from None
        super().load_state(state)
