"""The streams: name, path, keys, schema and parser of each."""

from __future__ import annotations

import copy
import logging
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from typing_extensions import override

from tap_crankwheel import payloads
from tap_crankwheel.errors import CrankWheelError, NoAccessError, RangeRefusedError
from tap_crankwheel.history import USAGE, CrankWheelStream, EventStream, WindowedStream, count
from tap_crankwheel.rows import ObjectParser
from tap_crankwheel.schemas import SCHEMAS
from tap_crankwheel.statistics import Canceled, PeriodParser, canceled_requests
from tap_crankwheel.windows import MARGIN, Window, format_timestamp, periods, split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from singer_sdk import Tap
    from singer_sdk.helpers.types import Record

    from tap_crankwheel.history import Run
    from tap_crankwheel.messages import MessageWriter
    from tap_crankwheel.payloads import Answer, Event
    from tap_crankwheel.rows import Row
    from tap_crankwheel.settings import Settings
    from tap_crankwheel.tally import Durations, Tally

DEMO_USAGE = "/demo_usage"

#: How long after the end of a period the answers may still bring a session that began in it. A
#: session that is left running over a weekend is not rare.
LONGEST_SESSION = timedelta(days=7)


class UsageSessions(EventStream):
    """Screen-sharing sessions.

    Args:
        tap: The tap.
        run: What the streams of a run share.
        tally: Counts sessions for the statistics.
        statistics: The streams of statistics, which sync later.
    """

    name = "usage_sessions"
    path = USAGE
    primary_keys = ("id", "start_date")
    replication_key = "start_date"

    def __init__(self, tap: Tap, run: Run, tally: Tally, statistics: Sequence[StatsStream]) -> None:
        super().__init__(tap, run)
        self._tally = tally
        self._statistics = statistics
        self._shared: set[Window] = set()  # the windows that are periods of the statistics

    @override
    def windows(self, history: Window) -> list[Window]:
        """Return the periods that the statistics will need, as far as they lie in the history.

        So each answer serves both. What no period covers is requested in windows of its own, and
        so is everything if that takes fewer requests.
        """
        self._shared = set()
        own = super().windows(history)
        planned = {period for s in self._statistics if s.selected for period in s.planned()}
        shared = sorted(p for p in planned if history.start <= p.start < p.end <= history.end)
        if not shared or self.testing:
            return own
        before = split(Window(history.start, shared[0].start), self.run.settings.window)
        after = split(Window(shared[-1].end, history.end), self.run.settings.window)
        if len(before) + len(after) > len(own):
            return own
        self._shared = set(shared)
        return [*before, *shared, *after]

    @override
    def parse_events(self, answer: Answer, parse_row: ObjectParser) -> Iterator[Event]:
        for event in payloads.usage_sessions(answer, parse_row):
            if self._shared:
                self._tally.add(event)
            yield event

    @override
    def rows(self, window: Window, answer: list[Answer]) -> Iterator[Row]:
        """Yield the sessions of a window, and count those that the next run will not read."""
        settings, now = self.run.settings, self.run.started_at
        behind = format_timestamp(min(settings.end_date or now, now) - settings.lookback)
        for row in super().rows(window, answer):
            self._left_behind += row["session_ended"] is False and row["start_date"] < behind
            yield row
        if window in self._shared and len(answer) == 1:  # of halves, the statistics are not known
            self._tally.complete(window, answer[0])

    @override
    def records(self) -> Iterator[Record]:
        self._tally.begin(self.name)
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


class Fetched(NamedTuple):
    """What a period's requests brought.

    Attributes:
        usage: The answer of `/usage`; none if the tally has it.
        canceled: What `canceled_requests` returns.
    """

    usage: list[Answer]
    canceled: Canceled = (None, {})


class StatsStream(WindowedStream[Fetched]):
    """Statistics by calendar period.

    Args:
        tap: The tap.
        run: What the streams of a run share.
        tally: Counts sessions, also those that other streams requested.
    """

    path = USAGE
    replication_key = "period_start"

    def __init__(self, tap: Tap, run: Run, tally: Tally) -> None:
        super().__init__(tap, run)
        self._tally = tally
        self._parse_session = ObjectParser(SCHEMAS.get_schema("usage_sessions"), computed=["id"])
        self._parser = PeriodParser(
            run.settings.stats_period,
            run.settings.timezone.name,
            SCHEMAS.get_schema(AccountStats.name),
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

    def planned(self) -> list[Window]:
        """Return what this run will request: its periods, the last one up to now."""
        return [self._until_now(period) for period in self.windows(self.history())]

    def _until_now(self, period: Window) -> Window:
        return Window(period.start, min(period.end, self.run.started_at))

    @override
    def bookmark(self, window: Window) -> datetime:
        """Return the period's start: it may be unfinished, and is read again."""
        return window.start

    @override
    def records(self) -> Iterator[Record]:
        self._tally.begin(self.name)
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
        try:
            return self.run.client.get(path, self._until_now(period), margin=margin)
        except RangeRefusedError as error:
            raise RangeRefusedError(
                f"{error.message} Set stats_period to a shorter period, or a later start_date."
            ) from None

    @override
    def fetch(self, window: Window) -> Fetched:
        """Request a period's sessions, unless another stream did."""
        known = self._tally.has(window)
        return Fetched([] if known else [self.get(self.request_path, window)])

    @override
    def settled(
        self, answers: Iterator[tuple[Window, Fetched]]
    ) -> Iterator[tuple[Window, Fetched]]:
        """Yield a period once the answers of `LONGEST_SESSION` after it were read.

        The API may select sessions by their end. Without that, one that runs on over the end of
        its period would not be counted.
        """
        waiting: deque[tuple[Window, Fetched]] = deque()
        for period, fetched in answers:
            for answer in fetched.usage:
                for event in payloads.usage_sessions(answer, self._parse_session):
                    self._tally.add(event)
                self._tally.complete(period, answer)
            waiting.append((period, fetched._replace(usage=[])))
            # What another stream requested, it requested to the end.
            while waiting and (
                not fetched.usage or waiting[0][0].end + LONGEST_SESSION <= period.end
            ):
                yield waiting.popleft()
        yield from waiting

    def durations(self, period: Window) -> Durations:
        """Return the seconds of each session that starts in a period, by the agent's email."""
        durations = self._tally.durations(period)
        self._without_email += len(durations.get(None, ()))
        return durations


class AccountStats(StatsStream):
    """Statistics of the account."""

    name = "account_stats"
    primary_keys = ("period", "timezone", "period_start")

    @override
    def fetch(self, window: Window) -> Fetched:
        fetched = super().fetch(window)
        try:
            # No margin: a bare count cannot be trimmed to the period.
            demo_usage = self.get(DEMO_USAGE, window, timedelta(0))
        except NoAccessError:
            self.run.log_once(
                logging.WARNING,
                f"{self.name}: canceled_demo_requests is null, since the API gives no access to "
                f"{DEMO_USAGE}. That is right if your plan has no demo requests.",
            )
            return fetched
        return fetched._replace(canceled=canceled_requests(demo_usage))

    @override
    def rows(self, window: Window, answer: Fetched) -> list[Row]:
        usage = self._tally.beside(window)
        return [self._parser.account(window, usage, answer.canceled, self.durations(window))]


class AgentStats(StatsStream):
    """Statistics of each agent."""

    name = "agent_stats"
    primary_keys = ("period", "timezone", "period_start", "email")

    @override
    def rows(self, window: Window, answer: Fetched) -> list[Row]:
        return self._parser.agents(window, self._tally.beside(window), self.durations(window))


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
