"""The streams: what is special to each."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections import Counter, defaultdict, deque
from contextlib import suppress
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from typing_extensions import override

from tap_crankwheel import payloads
from tap_crankwheel.client import CrankWheelStream
from tap_crankwheel.errors import CrankWheelError, InvalidPayloadError, NotFoundError
from tap_crankwheel.history import WindowedStream
from tap_crankwheel.statistics import add_up, grand_total, seconds, totals
from tap_crankwheel.windows import Window, format_timestamp, periods

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from tap_crankwheel.client import Response
    from tap_crankwheel.payloads import Payload
    from tap_crankwheel.rows import ObjectParser
    from tap_crankwheel.schemas import Row
    from tap_crankwheel.settings import Settings
    from tap_crankwheel.statistics import Totals

#: How long after the end of a period the responses may still bring a session that began in it. A
#: session that is left running over a weekend is not rare.
LONGEST_SESSION = timedelta(days=7)


class UsageStream(WindowedStream):
    """A stream over `/usage` or `/usage_new`, which list sessions."""

    path = "/{usage_endpoint}"
    envelope = frozenset({"sessions", "stats"})
    item_stream = "usage_sessions"
    item_start, item_end = "start_date", "end_date"

    @classmethod
    @override
    def parse(cls, payload: Payload, row_parser: ObjectParser) -> Iterator[Row]:
        """Return the sessions of a response."""
        return (cls._parse_session(raw, row_parser) for raw in payloads.session_items(payload))

    @staticmethod
    def _parse_session(raw: msgspec.Raw, row_parser: ObjectParser) -> Row:
        """Return a session.

        Whether the API's number of a session is unique is not documented, so the start is a part
        of the key. Where there is no number, a digest of email and start takes its place.

        Raises:
            InvalidPayloadError: It has no start, or neither number nor email.
        """
        session = payloads.parse_item(raw, "session")
        number = session.get("session_id")
        row = row_parser(session)
        payloads.require(row, "start_date", "session")
        if row["session_id"] is not None:
            number = row["session_id"]
        if type(number) is int or (type(number) is str and number):
            row["id"] = str(number)
        else:
            payloads.require(row, "email", "session")
            row["id"] = payloads.digest(row["email"], row["start_date"])
        return row

    @override
    def responses(self, wanted: list[Window]) -> Iterator[tuple[Window, list[Response]]]:
        """Yield each window with its responses, once the endpoint of the run is final.

        It is `/usage_new` if there is no `/usage`, or if in the first response with sessions none
        of them has what a row needs: which names `/usage` sends is a guess. The state names it, so
        that later runs stay with it: if only one of them sends `session_id`, ids would change.
        """
        reading, held = super().responses(wanted), []
        if not (final := self.run.endpoint_is_final):
            usable: bool | None = None
            try:
                while usable is None and (item := next(reading, None)):
                    held.append(item)
                    usable = self._has_usable_session(item[1])
            except NotFoundError:
                usable = False
            # Without any session, another stream, or a later run, decides.
            self.run.endpoint_is_final = usable is not None
            if usable is False:
                self.run.usage_endpoint = "usage_new"
                self.logger.warning("/usage has no usable sessions: reading /usage_new.")
                reading, held = super().responses(wanted), []
        if self.run.endpoint_is_final:
            self.stream_state["usage_endpoint"] = self.run.usage_endpoint
        try:
            yield from chain(held, reading)
        except NotFoundError as error:
            if not final:
                raise
            other = "usage_new" if self.run.usage_endpoint == "usage" else "usage"
            raise CrankWheelError(
                f"{error.message} If the error remains, set usage_endpoint to {other}. Sessions of "
                "the last lookback_days may then be there twice."
            ) from None

    def _has_usable_session(self, responses: list[Response]) -> bool | None:
        """Return whether a session has what a row needs; None if there are no sessions."""
        items = [raw for one in responses for raw in payloads.session_items(one.payload)]
        for raw in items:
            with suppress(InvalidPayloadError):
                self._parse_session(raw, self.item_parser)
                return True
        return False if items else None


class UsageSessions(UsageStream):
    """Screen-sharing sessions."""

    name = "usage_sessions"
    primary_keys = ("id", "start_date")
    replication_key = "start_date"
    computed = ("id",)


class DemoStream(WindowedStream):
    """A stream over `/demo_usage`, which lists demo requests."""

    path = "/demo_usage"
    envelope = frozenset({"sessions", "total_canceled_requests"})
    item_stream = "demo_requests"
    item_start, item_end = "start_ts", "last_event_ts"
    without_access = "If your plan has no demo requests, deselect demo_requests and demo_stats"

    #: What the API sends for null, by field.
    PLACEHOLDERS: ClassVar = {
        "seconds_to_respond": "never",
        **dict.fromkeys(("call_confirmed", "screenshared", "accepted_from"), "n/a"),
    }

    @classmethod
    @override
    def parse(cls, payload: Payload, row_parser: ObjectParser) -> Iterator[Row]:
        """Yield the demo requests of a response, by start.

        The API has no identifier for them. That nobody changes their start and page is a guess.
        Those alike in both are numbered, ordered by phone, whatever the order of the response.
        """
        found = []
        for raw in payloads.session_items(payload):
            request = payloads.parse_item(raw, "demo request")
            for field, word in cls.PLACEHOLDERS.items():
                if request.get(field) == word:
                    request[field] = None
            if isinstance(info := request.get("prospect_info"), dict):
                request["prospect_info"] = {k: payloads.as_text(v) for k, v in info.items()}
            content = msgspec.json.encode(request, order="sorted")
            row = row_parser(request)
            payloads.require(row, "start_ts", "demo request")
            info = row["prospect_info"]
            row["id"] = payloads.digest(row["start_ts"], info["prospect-request-origin"])
            found.append((row["start_ts"], row["id"], info["prospect-phone"] or "", content, row))
        alike: Counter[str] = Counter()
        for _, key, *_, row in sorted(found, key=lambda item: item[:4]):
            alike[key] += 1
            if alike[key] > 1:
                row["id"] = f"{key}-{alike[key]}"
            yield row


class DemoRequests(DemoStream):
    """Demo requests, and what became of them."""

    name = "demo_requests"
    primary_keys = ("id",)
    replication_key = "start_ts"
    computed = ("id",)

    @classmethod
    @override
    def customize_schema(cls, schema: dict[str, Any], settings: Settings) -> dict[str, Any]:
        schema = copy.deepcopy(schema)
        prospect = schema["properties"]["prospect_info"]["properties"]
        extra = prospect.pop("extra")  # it stays the last field
        for question in settings.custom_questions:
            answer = {"type": ["null", "string"], "description": "Answer to a custom question."}
            prospect.setdefault(f"prospect-{question}", answer)
        prospect["extra"] = extra
        return schema


class PeriodStream(WindowedStream):
    """A stream with rows for each calendar period, of which the last one may be unfinished."""

    primary_keys: ClassVar[tuple[str, ...]] = ("period", "timezone", "period_start")
    replication_key = "period_start"
    computed: ClassVar[tuple[str, ...]] = (*primary_keys, "period_end")

    @override
    def windows(self, history: Window) -> list[Window]:
        if history.start >= history.end:
            return []
        return list(periods(history, self.settings.stats_period, self.settings.timezone))

    @override
    def fetch_window(self, window: Window) -> list[Response]:
        """Request a period up to now."""
        return super().fetch_window(Window(window.start, min(window.end, self.now)))

    @override
    def bookmark(self, window: Window) -> datetime:
        """Return the period's start: it may be unfinished, and is read again."""
        return window.start

    def period(self, window: Window) -> Row:
        """Return the fields that name a period."""
        kind, zone = self.settings.stats_period, self.settings.timezone.name
        values = kind, zone, *map(format_timestamp, window)
        return dict(zip(PeriodStream.computed, values, strict=True))


class StatsStream(UsageStream, PeriodStream):
    """Statistics by calendar period, counted from the sessions that start in it."""

    def count_periods(self, wanted: list[Window]) -> Iterator[tuple[Window, Row, Totals]]:
        """Yield each period with the envelope of its response, and its totals, once it is final.

        The API may select sessions by their end. So a period is final once the responses of
        `LONGEST_SESSION` after it were read: without that, a session that runs on over the end of
        its period would not be counted.
        """
        edges = [format_timestamp(period.start) for period in wanted]
        edges.append(format_timestamp(wanted[-1].end))
        sessions: dict[int, dict[tuple[str, str], tuple[str | None, Any]]] = defaultdict(dict)
        waiting: deque[tuple[Window, Row]] = deque()
        done = 0
        for period, responses in self.responses(wanted):
            # Of a period that was read in halves, the API's own statistics are not known.
            halved = len(responses) > 1
            waiting.append((period, {} if halved else payloads.envelope(responses[0].payload)))
            for row in self.items(period, responses):
                number = bisect_right(edges, row["start_date"]) - 1
                if done <= number < len(wanted):
                    key = row["id"], row["start_date"]
                    sessions[number][key] = row["email"], seconds(row)
            while waiting and (
                period is wanted[-1] or waiting[0][0].end + LONGEST_SESSION <= period.end
            ):
                yield *waiting.popleft(), totals(sessions.pop(done, {}).values())
                done += 1


class AccountStats(StatsStream):
    """Statistics of the account."""

    name = "account_stats"
    computed = (*PeriodStream.computed, "meetings", "total_seconds")

    @override
    def read(self, wanted: list[Window]) -> Iterator[tuple[Window, Iterable[Row]]]:
        """Yield each period with its row, and leave the totals of agents to `agent_stats`."""
        self.run.period_totals.clear()
        for period, envelope, agents in self.count_periods(wanted):
            named = {email: row for email, row in agents.items() if email is not None}
            self.run.period_totals[period] = msgspec.json.encode(named)
            yield period, [self.row_parser(envelope) | self.period(period) | grand_total(agents)]


class AgentStats(StatsStream):
    """Statistics of each agent."""

    name = "agent_stats"
    primary_keys = (*PeriodStream.primary_keys, "email")

    @override
    def read(self, wanted: list[Window]) -> Iterator[tuple[Window, Iterable[Row]]]:
        """Yield what `account_stats` counted; request only if it did not count all of it."""
        counted = self.run.period_totals
        found = (
            ((period, msgspec.json.decode(counted.pop(period))) for period in wanted)
            if counted.keys() >= set(wanted)
            else ((period, agents) for period, _, agents in self.count_periods(wanted))
        )
        for period, agents in found:
            emails = sorted(email for email in agents if email is not None)
            yield period, [{**self.period(period), "email": e, **agents[e]} for e in emails]


class DemoStats(DemoStream, PeriodStream):
    """How many demo requests were canceled."""

    name = "demo_stats"
    margin = timedelta(0)  # a bare count cannot be trimmed to the period

    @override
    def read(self, wanted: list[Window]) -> Iterator[tuple[Window, Iterable[Row]]]:
        """Yield each period with its row."""
        for period, responses in self.responses(wanted):
            deque(self.items(period, responses), maxlen=0)  # are they of the period?
            rows = [self.row_parser(payloads.envelope(one.payload)) for one in responses]
            count = add_up([row["total_canceled_requests"] for row in rows])
            extra = rows[0]["extra"] if len(rows) == 1 else None  # unknown if read in halves
            row = rows[0] | {"total_canceled_requests": count, "extra": extra}
            yield period, [row | self.period(period)]


class Users(CrankWheelStream):
    """The emails allowed on the account."""

    name = "users"
    path = "/user_access"
    envelope = frozenset({"user_access", "users"})
    primary_keys = ("email",)

    @classmethod
    @override
    def parse(cls, payload: Payload, row_parser: ObjectParser) -> Iterator[Row]:
        """Yield the users of a response.

        Raises:
            InvalidPayloadError: A user has no email, or there is none: an account has at least its
                owner.
        """
        items = payloads.only_list(payload)
        if not items:
            raise InvalidPayloadError(
                "the list of users is empty, but an account has at least its owner"
            )
        for raw in items:
            row = row_parser(payloads.parse_item(raw, "user"))
            payloads.require(row, "email", "user")
            if row["in_demo_pool"] is None and "in_demo_pool" not in (row["extra"] or {}):
                row["in_demo_pool"] = False  # null means false
            yield row


STREAM_TYPES = (AccountStats, AgentStats, DemoRequests, DemoStats, UsageSessions, Users)
