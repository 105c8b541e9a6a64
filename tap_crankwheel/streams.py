"""The streams: name, path, keys, schema and parser of each."""

from __future__ import annotations

import copy
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from typing_extensions import override

from tap_crankwheel import payloads
from tap_crankwheel.errors import CrankWheelError, NoAccessError, RangeRefusedError
from tap_crankwheel.history import USAGE, CrankWheelStream, EventStream, WindowedStream, count
from tap_crankwheel.rows import ObjectParser
from tap_crankwheel.schemas import SCHEMAS
from tap_crankwheel.statistics import PeriodParser
from tap_crankwheel.windows import MARGIN, Window, format_timestamp, periods

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from singer_sdk import Tap
    from singer_sdk.helpers.types import Record

    from tap_crankwheel.history import Run
    from tap_crankwheel.messages import MessageWriter
    from tap_crankwheel.payloads import Answer
    from tap_crankwheel.rows import Row
    from tap_crankwheel.settings import Settings
    from tap_crankwheel.statistics import Durations

DEMO_USAGE = "/demo_usage"


class UsageSessions(EventStream):
    """Screen-sharing sessions."""

    name = "usage_sessions"
    path = USAGE
    primary_keys = ("id", "start_date")
    replication_key = "start_date"
    parse_events = staticmethod(payloads.usage_sessions)

    @override
    def rows(self, window: Window, answer: list[Answer]) -> Iterator[Row]:
        """Yield the sessions of a window, and count those that the next run will not read."""
        settings, now = self.run.settings, self.run.started_at
        behind = format_timestamp(min(settings.end_date or now, now) - settings.lookback)
        for row in super().rows(window, answer):
            self._left_behind += row["session_ended"] is False and row["start_date"] < behind
            yield row

    @override
    def records(self) -> Iterator[Record]:
        self._left_behind = 0
        yield from super().records()
        if self._left_behind:
            self.logger.warning(
                "%s: %d sessions that still run began more than lookback_days before the end of "
                "this run, so that the next one does not read how they end: raise lookback_days.",
                self.name,
                self._left_behind,
            )


class DemoRequests(EventStream):
    """Demo requests, and what became of them."""

    name = "demo_requests"
    path = DEMO_USAGE
    primary_keys = ("id",)
    replication_key = "start_ts"
    parse_events = staticmethod(payloads.demo_requests)

    @override
    def fetch(self, window: Window) -> list[Answer]:
        try:
            return super().fetch(window)
        except NoAccessError as error:
            raise CrankWheelError(
                f"{error.message} If your plan has no demo requests, deselect {self.name}."
            ) from None

    @classmethod
    @override
    def declare(cls, schema: dict[str, Any], settings: Settings) -> dict[str, Any]:
        schema = copy.deepcopy(schema)
        prospect = schema["properties"]["prospect_info"]["properties"]
        extra = prospect.pop("extra")  # it stays the last field
        for question in settings.custom_questions:
            prospect.setdefault(
                f"prospect-{question}",
                {"type": ["null", "string"], "description": "Answer to a custom question."},
            )
        prospect["extra"] = extra
        return schema


class StatsStream(WindowedStream["tuple[Answer, Answer]"]):
    """Statistics by calendar period, counted from the sessions in the period's own answer."""

    path = USAGE
    replication_key = "period_start"

    def __init__(self, tap: Tap, run: Run) -> None:
        super().__init__(tap, run)
        self._parser = PeriodParser(
            run.settings.stats_period,
            run.settings.timezone.name,
            session_schema=SCHEMAS.get_schema(UsageSessions.name),
            account_schema=SCHEMAS.get_schema(AccountStats.name),
        )

    @override
    def windows(self, history: Window) -> list[Window]:
        if history.start >= history.end:
            return []
        settings = self.run.settings
        found = list(periods(history, settings.stats_period, settings.timezone))
        if found[0].start < history.start == settings.start_date:
            self.run.log_once(
                logging.INFO,
                "start_date lies within a period: the statistics count all of it, from "
                f"{format_timestamp(found[0].start)} on; the other streams begin at start_date.",
            )
        return found

    @override
    def bookmark(self, window: Window) -> datetime:
        """Return the period's start: it may be unfinished, and is read again."""
        return window.start

    @override
    def records(self) -> Iterator[Record]:
        self._without_email = 0
        yield from super().records()
        if self._without_email:
            self.run.log_once(
                logging.WARNING,
                f"{self._without_email} sessions have no email: they count for the account, and "
                "agent_stats has no row for them.",
            )

    def get(self, path: str, period: Window, margin: timedelta = MARGIN) -> Answer:
        """Request a period, up to its end or now."""
        asked = Window(period.start, min(period.end, self.run.started_at))
        try:
            return self.run.client.get(path, asked, margin=margin)
        except RangeRefusedError as error:
            raise RangeRefusedError(
                f"{error.message} Set stats_period to a shorter period, or a later start_date."
            ) from None

    def count(self, period: Window, usage: Answer) -> Durations:
        """Return the seconds of the sessions in a period, by email."""
        durations = self._parser.durations(period, usage)
        self._without_email += len(durations.get(None, ()))
        return durations


class AgentStats(StatsStream):
    """Statistics of each agent."""

    name = "agent_stats"
    primary_keys = ("period", "timezone", "period_start", "email")

    def __init__(self, tap: Tap, run: Run) -> None:
        super().__init__(tap, run)
        self._received: dict[Window, bytes] = {}

    def receive(self, period: Window, rows: list[Row]) -> None:
        """Take a period's rows from account_stats, so that it is not requested again."""
        self._received[period] = msgspec.json.encode(rows)  # in a tenth of the memory

    @override
    def fetch(self, window: Window) -> tuple[Answer, Answer]:
        return (None if window in self._received else self.get(self.request_path, window)), None

    @override
    def rows(self, window: Window, answer: tuple[Answer, Answer]) -> list[Row]:
        if (received := self._received.pop(window, None)) is not None:
            rows: list[Row] = msgspec.json.decode(received)
            return rows
        usage, _ = answer
        return self._parser.agents(window, usage, self.count(window, usage))


class AccountStats(StatsStream):
    """Statistics of the account.

    Args:
        tap: The tap.
        run: What the streams of a run share.
        agents: The stream that takes the agents' rows, if it is selected and syncs later.
    """

    name = "account_stats"
    primary_keys = ("period", "timezone", "period_start")

    def __init__(self, tap: Tap, run: Run, agents: AgentStats) -> None:
        super().__init__(tap, run)
        self._agents = agents

    @override
    def fetch(self, window: Window) -> tuple[Answer, Answer]:
        usage = self.get(self.request_path, window)
        try:
            # No margin: a bare count cannot be trimmed to the period.
            return usage, self.get(DEMO_USAGE, window, timedelta(0))
        except NoAccessError:
            self.run.log_once(
                logging.WARNING,
                f"{self.name}: canceled_demo_requests is null, since the API gives no access to "
                f"{DEMO_USAGE}. That is right if your plan has no demo requests.",
            )
            return usage, None

    @override
    def rows(self, window: Window, answer: tuple[Answer, Answer]) -> list[Row]:
        usage, demo_usage = answer
        durations = self.count(window, usage)
        if self._agents.selected:
            self._agents.receive(window, self._parser.agents(window, usage, durations))
        return [self._parser.account(window, usage, demo_usage, durations)]


class Users(CrankWheelStream):
    """The emails allowed on the account.

    Args:
        tap: The tap.
        run: What the streams of a run share.
        writer: The tap's writer, which holds back the SDK's ACTIVATE_VERSION.
    """

    name = "users"
    path = "/user_access"
    primary_keys = ("email",)

    def __init__(self, tap: Tap, run: Run, writer: MessageWriter) -> None:
        super().__init__(tap, run)
        self._writer = writer

    @override
    def records(self) -> Iterator[Record]:
        client = self.run.client
        self.logger.info("%s: reading from %s", self.name, client.host)
        rows = payloads.users(client.get(self.path), ObjectParser(self.schema))
        yield from rows
        # Last: a target may take the table at this moment for its whole, and keep it so.
        self._writer.activate_versions()
        self.logger.info("%s: %s", self.name, count(len(rows), "record"))
