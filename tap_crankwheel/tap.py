"""The tap: its settings, and its list of streams."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import pendulum
import requests
from singer_sdk import Tap
from singer_sdk import typing as th
from singer_sdk.helpers.capabilities import PluginCapabilities
from typing_extensions import override

from tap_crankwheel import streams
from tap_crankwheel.auth import CrankWheelAuthenticator
from tap_crankwheel.client import CrankWheelError
from tap_crankwheel.command_line import CommandLineTap
from tap_crankwheel.history import HistoryStream
from tap_crankwheel.windows import PERIODS, Window, parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from singer_sdk import Stream
    from singer_sdk.helpers.capabilities import CapabilitiesEnum

#: How far back the API itself goes when it is asked without a range (docs).
DEFAULT_HISTORY = timedelta(days=28)

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}


class TapCrankWheel(CommandLineTap):
    """Singer tap for CrankWheel: screen-sharing sessions, demo requests, statistics and users."""

    name = "tap-crankwheel"
    package_name = "tap-crankwheel"

    # The SDK writes batch files without selection, stream maps or flattening, so that deselected
    # personal data would be in them.
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        capability for capability in Tap.capabilities if capability != PluginCapabilities.BATCH
    ]

    config_jsonschema = th.PropertiesList(
        th.Property(
            "api_key",
            th.StringType,
            required=True,
            secret=True,
            title="API key",
            description="A read-only API key, which an administrator makes on the API tab of the "
            "CrankWheel account. For a client account of a reseller: "
            "resellerimpersonate-<client id>-<reseller key>.",
        ),
        th.Property(
            "start_date",
            th.DateTimeType,
            title="Start date",
            description="The earliest moment to read, ISO 8601; a date is its midnight UTC. "
            "Without it the first run reads the last 28 days.",
        ),
        th.Property(
            "end_date",
            th.DateTimeType,
            title="End date",
            description="The moment to read to, ISO 8601; a date is its midnight UTC. Set it to "
            "load a closed range of the past; without it a run reads to its own start.",
        ),
        th.Property(
            "lookback_days",
            th.IntegerType(minimum=0, maximum=3650),
            default=1,
            title="Lookback days",
            description="How many days before the bookmark are read again at every run, since "
            "running sessions and open demo requests still change. Raise it if requests are "
            "worked on for longer.",
        ),
        th.Property(
            "window_days",
            th.IntegerType(minimum=1, maximum=366),
            default=7,
            title="Window days",
            description="How many days of sessions or demo requests one request asks for. Lower it "
            "for a very busy account; raise it for a long history of a quiet one.",
        ),
        th.Property(
            "stats_period",
            th.StringType(allowed_values=list(PERIODS)),
            default="day",
            title="Statistics period",
            description="The calendar period of account_stats and agent_stats. Each period costs "
            "up to two requests.",
        ),
        th.Property(
            "timezone",
            th.StringType,
            default="UTC",
            title="Time zone",
            description="The IANA time zone, such as America/New_York, in whose days the periods "
            "of the statistics begin.",
        ),
        th.Property(
            "custom_questions",
            th.ArrayType(th.StringType),
            default=[],
            title="Custom questions",
            description="Ids of your own lead capture questions, without 'prospect-'. Their "
            "answers arrive without this too; named here, they become columns of their own where "
            "objects are flattened.",
        ),
        th.Property(
            "usage_endpoint",
            th.StringType(allowed_values=["usage", "usage_new"]),
            default="usage",
            title="Usage endpoint",
            description="The endpoint that sessions come from. Change it if an error about the "
            "shape of a session says so.",
        ),
        th.Property(
            "emit_activate_version_messages",
            th.BooleanType,
            default=True,
            title="Emit ACTIVATE_VERSION messages",
            description="Whether to let targets mark users as deleted who are no longer on the "
            "account. It concerns the stream users only. Turn it off for a target that does not "
            "know these messages.",
        ),
        th.Property(
            "max_parallel_requests",
            th.IntegerType(minimum=1, maximum=10),
            default=4,
            title="Parallel requests",
            description="How many windows are requested at a time. Lower it to 1 if the API limits "
            "the rate of requests.",
        ),
        th.Property(
            "request_timeout",
            th.IntegerType(minimum=1, maximum=3600),
            default=90,
            title="Request timeout",
            description="Seconds of silence from the server after which a request is tried again.",
        ),
        th.Property(
            "api_url",
            th.StringType,
            default="https://meeting.is/ss/api",
            title="API URL",
            description="Where the API is. Change it to read from a sandbox or through a gateway.",
        ),
    ).to_dict()

    @override
    def __init__(self, **kwargs: Any) -> None:
        self.agent_rows: dict[Window, bytes] = {}
        super().__init__(**kwargs)

    @override
    def discover_streams(self) -> Sequence[Stream]:
        return [
            stream(self)
            for stream in (
                streams.UsageSessions,
                streams.AgentStats,
                streams.AccountStats,
                streams.DemoRequests,
                streams.Users,
            )
        ]

    @cached_property
    def authenticator(self) -> CrankWheelAuthenticator:
        """The one authenticator of all streams."""
        return CrankWheelAuthenticator(self.config["api_key"])

    @property
    def now(self) -> datetime:
        """When the run began, UTC: now, for all streams."""
        return datetime.fromtimestamp(self.initialized_at / 1000, timezone.utc)

    @property
    def history(self) -> Window:
        """The range that the settings ask for, if no bookmark says otherwise."""
        start, end = self._date("start_date"), self._date("end_date")
        return Window(start or self.now - DEFAULT_HISTORY, min(end or self.now, self.now))

    def _date(self, setting: str) -> datetime | None:
        value = self.config.get(setting)
        return parse_timestamp(value) if value else None

    @override
    def setting_errors(self) -> Iterator[str]:
        yield from self._key_errors()
        yield from self._date_errors()
        try:
            pendulum.timezone(self.config["timezone"])
        except (ValueError, OSError):
            yield "timezone is not in the IANA list: write it as America/New_York."
        try:
            prepared = requests.Request("GET", self.config["api_url"]).prepare()
            url = urlsplit(str(prepared.url))
        except (requests.RequestException, ValueError):
            url = urlsplit("")
        if url.scheme not in {"http", "https"} or not url.hostname:
            yield "api_url is no URL: write it with its scheme, as https://meeting.is/ss/api."
        elif url.scheme == "http" and url.hostname not in LOCAL_HOSTS:
            yield "api_url begins with http://, and the key would travel in clear: use https://."
        if self.config.get("batch_config"):
            yield (
                "batch_config is not supported: batch files would hold fields that you "
                "deselected. Remove it."
            )

    def _key_errors(self) -> Iterator[str]:
        key = self.config.get("api_key")
        if key is None:
            yield (
                "api_key is missing: an administrator makes one on the API tab of the CrankWheel "
                "account; set it in the configuration, or as TAP_CRANKWHEEL_API_KEY in Meltano and "
                "with --config=ENV."
            )
        else:
            try:
                CrankWheelAuthenticator(key)
            except ValueError as error:
                yield f"api_key cannot be used: {error}."

    def _date_errors(self) -> Iterator[str]:
        dates = {}
        for setting in ("start_date", "end_date"):
            try:
                dates[setting] = self._date(setting)
            except ValueError:
                yield f"{setting} is no date: write it as 2026-08-30 or 2026-08-30T20:00:00Z."
        start, end = dates.get("start_date"), dates.get("end_date")
        if start and start < EPOCH:
            yield "start_date lies before 1970."
        if start and end and end < start:
            yield "end_date lies before start_date: exchange them, or remove end_date."

    @override
    def load_state(self, state: dict[str, Any]) -> None:
        bookmarks = state.get("bookmarks", {})
        if not isinstance(bookmarks, dict):
            msg = "The state is broken: its bookmarks are no object. Restore or remove it."
            raise CrankWheelError(msg)
        for stream, bookmark in bookmarks.items():
            if not isinstance(self.streams.get(stream), HistoryStream):
                continue
            try:
                value = bookmark.get("replication_key_value")
                if value is not None and parse_timestamp(value) < EPOCH:
                    raise ValueError  # noqa: TRY301 - like any other that is none
            except (AttributeError, TypeError, ValueError):
                msg = (
                    f"The state is broken: the bookmark of {stream} is no timestamp. Restore the "
                    "state, or remove it to read everything anew (--full-refresh in Meltano)."
                )
                raise CrankWheelError(msg) from None
        super().load_state(state)
