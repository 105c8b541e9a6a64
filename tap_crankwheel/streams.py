"""The streams: what is special to each."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections import Counter, defaultdict, deque
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from typing_extensions import override

from tap_crankwheel import payloads
from tap_crankwheel.client import USAGE, CrankWheelStream, WindowedStream
from tap_crankwheel.errors import InvalidPayloadError
from tap_crankwheel.rows import ObjectParser
from tap_crankwheel.schemas import SCHEMAS
from tap_crankwheel.statistics import grand_total, totals
from tap_crankwheel.windows import Window, format_timestamp, periods

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from singer_sdk import Tap

    from tap_crankwheel.client import Pause
    from tap_crankwheel.payloads import Payload
    from tap_crankwheel.schemas import Row
    from tap_crankwheel.settings import Settings
    from tap_crankwheel.statistics import Totals

DEMO_USAGE = "/demo_usage"
WITHOUT_DEMOS = "If your plan has no demo requests, deselect demo_requests and demo_stats"

#: How long after the end of a period the responses may still bring a session that began in it. A
#: session that is left running over a weekend is not rare.
LONGEST_SESSION = timedelta(days=7)


class UsageSessions(WindowedStream):
    """Screen-sharing sessions."""

    name = "usage_sessions"
    path = USAGE
    primary_keys = ("id", "start_date")
    replication_key = "start_date"
    computed = ("id",)

    @classmethod
    @override
    def parse(cls, payload: Payload, parse_row: ObjectParser) -> Iterator[Row]:
        """Yield the sessions of a response.

        Whether the API's number of a session is unique is not documented, so the start is a part
        of the key. Where there is no number, a digest of email and start takes its place.
        """
        for raw in payloads.session_items(payload):
            session = payloads.parse_item(raw, "session")
            number = session.get("session_id")
            row = parse_row(session)
            payloads.require(row, "start_date", "session")
            if row["session_id"] is not None:
                number = row["session_id"]
            if type(number) is int or (type(number) is str and number):
                row["id"] = str(number)
            else:
                payloads.require(row, "email", "session")
                row["id"] = payloads.digest(row["email"], row["start_date"])
            yield row


class DemoRequests(WindowedStream):
    """Demo requests, and what became of them."""

    name = "demo_requests"
    path = DEMO_USAGE
    without_access = WITHOUT_DEMOS
    primary_keys = ("id",)
    replication_key = "start_ts"
    computed = ("id",)

    #: What the API sends for null, by field.
    PLACEHOLDERS: ClassVar = {
        "seconds_to_respond": "never",
        "call_confirmed": "n/a",
        "screenshared": "n/a",
        "accepted_from": "n/a",
    }

    @classmethod
    @override
    def customize_schema(cls, schema: dict[str, Any], settings: Settings) -> dict[str, Any]:
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

    @classmethod
    @override
    def parse(cls, payload: Payload, parse_row: ObjectParser) -> Iterator[Row]:
        """Yield the demo requests of a response, by start.

        The API has no identifier for them. Those alike in start, phone and origin are numbered, in
        an order that does not depend on that of the response.
        """
        found = []
        for raw in payloads.session_items(payload):
            request = payloads.parse_item(raw, "demo request")
            for field, word in cls.PLACEHOLDERS.items():
                if request.get(field) == word:
                    request[field] = None
            info = request.get("prospect_info")
            if isinstance(info, dict):
                request["prospect_info"] = info = {k: payloads.as_text(v) for k, v in info.items()}
            else:
                info = {}
            fixed = [info.get(f"prospect-{key}") for key in ("phone", "request-origin")]
            content = msgspec.json.encode(request, order="sorted")
            row = parse_row(request)
            payloads.require(row, "start_ts", "demo request")
            row["id"] = payloads.digest(row["start_ts"], *fixed)
            found.append((row["start_ts"], row["id"], content, row))
        alike: Counter[str] = Counter()
        for _, key, _, row in sorted(found, key=lambda item: item[:3]):
            alike[key] += 1
            if alike[key] > 1:
                row["id"] = f"{key}-{alike[key]}"
            yield row


class PeriodStream(WindowedStream):
    """A stream with rows for each calendar period, of which the last one may be unfinished."""

    replication_key = "period_start"
    computed: ClassVar[tuple[str, ...]] = ("period", "timezone", "period_start", "period_end")

    @override
    def windows(self, history: Window) -> list[Window]:
        if history.start >= history.end:
            return []
        return list(periods(history, self.settings.stats_period, self.settings.timezone))

    @override
    def requested(self, window: Window) -> Window:
        return Window(window.start, min(window.end, self.now))

    @override
    def bookmark(self, window: Window) -> datetime:
        """Return the period's start: it may be unfinished, and is read again."""
        return window.start

    def period(self, window: Window) -> Row:
        """Return the fields that name a period."""
        start, end = map(format_timestamp, window)
        return {
            "period": self.settings.stats_period,
            "timezone": self.settings.timezone.name,
            "period_start": start,
            "period_end": end,
        }


class StatsStream(PeriodStream):
    """Statistics by calendar period, counted from the sessions that start in it.

    Args:
        tap: The tap.
        settings: The settings.
        pause: What the streams of a run share.
        counted: For each period what `account_stats` counted, as JSON, which takes a tenth of the
            memory. What is there, `agent_stats` does not request again.
    """

    path = USAGE

    def __init__(
        self, tap: Tap, settings: Settings, pause: Pause, counted: dict[Window, bytes]
    ) -> None:
        super().__init__(tap, settings, pause)
        self.counted = counted
        self._parse_session = ObjectParser(SCHEMAS.get_schema("usage_sessions"), computed=["id"])

    @override
    def read(self, windows: list[Window]) -> Iterator[tuple[Window, Any]]:
        """Yield each period with what its response holds beside sessions, and their totals.

        The API may select sessions by their end. So a period is final once the responses of
        `LONGEST_SESSION` after it were read: without that, a session that runs on over the end of
        its period would not be counted.
        """
        edges = [format_timestamp(period.start) for period in windows]
        edges.append(format_timestamp(windows[-1].end))
        sessions: dict[int, dict[tuple[str, str], tuple[str | None, Any]]] = defaultdict(dict)
        waiting: deque[tuple[Window, Row]] = deque()
        done = 0
        for period, pages in super().read(windows):
            waiting.append((period, payloads.envelope(pages[0])))
            sessions_of = (UsageSessions.parse(page, self._parse_session) for page in pages)
            for row in chain.from_iterable(sessions_of):
                number = bisect_right(edges, row["start_date"]) - 1
                if done <= number < len(windows):
                    key = row["id"], row["start_date"]
                    sessions[number][key] = row["email"], _seconds(row)
            while waiting and (
                period is windows[-1] or waiting[0][0].end + LONGEST_SESSION <= period.end
            ):
                final, beside = waiting.popleft()
                yield final, (beside, totals(sessions.pop(done, {}).values()))
                done += 1


class AccountStats(StatsStream):
    """Statistics of the account."""

    name = "account_stats"
    primary_keys = ("period", "timezone", "period_start")
    computed = (*PeriodStream.computed, "meetings", "total_seconds")

    @override
    def read(self, windows: list[Window]) -> Iterator[tuple[Window, Any]]:
        self.counted.clear()
        for period, (beside, agents) in super().read(windows):
            named = {email: row for email, row in agents.items() if email is not None}
            self.counted[period] = msgspec.json.encode(named)
            yield period, (beside, agents)

    @override
    def rows(self, window: Window, pages: tuple[Row, Totals]) -> Iterable[Row]:
        beside, agents = pages
        return [self.parse_row(beside) | self.period(window) | grand_total(agents)]


class AgentStats(StatsStream):
    """Statistics of each agent."""

    name = "agent_stats"
    primary_keys = ("period", "timezone", "period_start", "email")

    @override
    def read(self, windows: list[Window]) -> Iterator[tuple[Window, Any]]:
        if not all(period in self.counted for period in windows):
            yield from super().read(windows)
            return
        for period in windows:
            yield period, ({}, msgspec.json.decode(self.counted.pop(period)))

    @override
    def rows(self, window: Window, pages: tuple[Row, Totals]) -> Iterable[Row]:
        _, agents = pages
        emails = sorted(email for email in agents if email is not None)
        return [{**self.period(window), "email": email, **agents[email]} for email in emails]


class DemoStats(PeriodStream):
    """How many demo requests were cancelled."""

    name = "demo_stats"
    path = DEMO_USAGE
    without_access = WITHOUT_DEMOS
    primary_keys = ("period", "timezone", "period_start")
    margin = timedelta(0)  # a bare count cannot be trimmed to the period

    @override
    def rows(self, window: Window, pages: list[Payload]) -> Iterable[Row]:
        payloads.session_items(pages[0])  # an error object is not an answer
        return [self.parse_row(payloads.envelope(pages[0])) | self.period(window)]


class Users(CrankWheelStream):
    """The emails allowed on the account."""

    name = "users"
    path = "/user_access"
    primary_keys = ("email",)

    @classmethod
    @override
    def parse(cls, payload: Payload, parse_row: ObjectParser) -> Iterator[Row]:
        """Yield the users of a response.

        Raises:
            InvalidPayloadError: A user has no email, or there is none: an account has at least its
                owner.
        """
        items = payloads.only_list(payload)
        if not items:
            raise InvalidPayloadError(
                "the list of users is empty, and an account has at least its owner"
            )
        for raw in items:
            row = parse_row(payloads.parse_item(raw, "user"))
            payloads.require(row, "email", "user")
            if row["in_demo_pool"] is None and "in_demo_pool" not in (row["extra"] or {}):
                row["in_demo_pool"] = False  # null means false
            yield row


def _seconds(session: Row) -> object:
    """Return how long a session was; one that runs counts with its duration so far, if any."""
    running = session["duration"] is None and session["session_ended"] is False
    return 0 if running else session["duration"]
