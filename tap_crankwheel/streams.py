"""The streams: what each is called, where it is asked for, and what reads it."""

from __future__ import annotations

import copy
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from typing_extensions import override

from tap_crankwheel import payloads
from tap_crankwheel.client import SCHEMAS, CrankWheelStream, RangeRefusedError
from tap_crankwheel.history import EventStream, HistoryStream
from tap_crankwheel.payloads import RowReader
from tap_crankwheel.windows import Window, periods

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from singer_sdk.helpers.types import Context, Record

    from tap_crankwheel.payloads import Row

USAGE = "/{usage_endpoint}"
DEMO_USAGE = "/demo_usage"


class UsageSessions(EventStream):
    """Screen-sharing sessions."""

    name = "usage_sessions"
    path = USAGE
    primary_keys = ("id",)
    replication_key = "start_date"
    last_key = "end_date"
    payload = staticmethod(payloads.usage_sessions)


class DemoRequests(EventStream):
    """Demo requests, and what became of them."""

    name = "demo_requests"
    path = DEMO_USAGE
    primary_keys = ("id",)
    replication_key = "start_ts"
    last_key = "last_event_ts"
    payload = staticmethod(payloads.demo_requests)

    @cached_property
    @override
    def schema(self) -> dict[str, Any]:
        schema = copy.deepcopy(super().schema)
        prospect = schema["properties"]["prospect_info"]["properties"]
        for question in self.config.get("custom_questions") or ():
            prospect.setdefault(
                f"prospect-{question}",
                {"type": ["string", "null"], "description": "Answer to a custom question."},
            )
        return schema

    @override
    def get_records(self, context: Context | None) -> Iterator[Record]:
        if not self.config.get("flattening_enabled"):
            yield from super().get_records(context)
            return
        declared = self.schema["properties"]["prospect_info"]["properties"]
        undeclared: set[str] = set()
        for row in super().get_records(context):
            undeclared |= (row["prospect_info"] or {}).keys() - declared
            yield row
        prefix = "prospect-"
        if ids := sorted(k.removeprefix(prefix) for k in undeclared if k.startswith(prefix)):
            self.logger.warning(
                "%s: flattening makes columns only of declared questions. To keep the answers to "
                "these, add them to custom_questions: %s",
                self.name,
                ", ".join(ids),
            )


class StatsStream(HistoryStream):
    """Statistics by calendar period, counted from the sessions of the period's own answer."""

    path = USAGE
    replication_key = "period_start"

    @override
    def windows(self, history: Window) -> list[Window]:
        if history.start >= history.end:
            return []
        return list(periods(history, self.config["stats_period"], self.config["timezone"]))

    @override
    def bookmark(self, window: Window) -> datetime:
        """Return the period's start: it may be unfinished, and is read again."""
        return window.start

    @cached_property
    def _readers(self) -> dict[str, RowReader]:
        account = SCHEMAS.get_schema(AccountStats.name)
        made = [name for name in account["properties"] if name != "stats"]
        sessions = SCHEMAS.get_schema(UsageSessions.name)
        return {
            "read_session": RowReader(sessions, made=["id"]),
            "read_account": RowReader(account, made),
        }

    def compute(self, period: Window, *, with_canceled: bool = False) -> tuple[Row, list[Row]]:
        """Ask for a period, to its end or to now, and count."""
        asked = Window(period.start, min(period.end, self._tap.now))
        try:
            usage = self.get(self.path, asked)
            # No margin: nothing tells what of a mere count lies within it.
            demo_usage = self.get(DEMO_USAGE, asked, margin=timedelta(0)) if with_canceled else None
        except RangeRefusedError as error:
            msg = f"{error.message} Set stats_period to a shorter period, or a later start_date."
            raise RangeRefusedError(msg) from None
        unit = self.config["stats_period"]
        return payloads.period_stats(usage, demo_usage, period=period, unit=unit, **self._readers)


class AccountStats(StatsStream):
    """Statistics of the account. It syncs before agent_stats, whose rows it computes as well."""

    name = "account_stats"
    primary_keys = ("period", "period_start")

    @override
    def load(self, window: Window) -> Iterable[Row]:
        account, agents = self.compute(window, with_canceled=True)
        if self._tap.streams[AgentStats.name].selected:
            self._tap.agent_rows[window] = msgspec.json.encode(agents)
        return [account]


class AgentStats(StatsStream):
    """Statistics of each agent."""

    name = "agent_stats"
    primary_keys = ("period", "period_start", "email")

    @override
    def load(self, window: Window) -> Iterable[Row]:
        if (computed := self._tap.agent_rows.pop(window, None)) is not None:
            rows: list[Row] = msgspec.json.decode(computed)
            return rows
        return self.compute(window)[1]


class Users(CrankWheelStream):
    """The emails allowed on the account."""

    name = "users"
    path = "/user_access"
    primary_keys = ("email",)

    @property
    @override
    def emit_activate_version_messages(self) -> bool:
        """Not to the SDK: it would write the message before the list has arrived."""
        return False

    @override
    def get_records(self, context: Context | None) -> Iterator[Record]:
        self.logger.info("%s: reading from %s", self.name, self.host)
        try:
            rows = payloads.users(self.get(self.path), RowReader(self.schema))
        except payloads.ShapeError as error:
            raise self.shape_error(error) from None
        if self.config["emit_activate_version_messages"]:
            # All private: the SDK does the same, too early, in a method that is final.
            self._stream_version = self._initialized_at // 1000
            self._write_activate_version_message(self._stream_version)
        yield from rows
        self.logger.info("%s: %d records", self.name, len(rows))
