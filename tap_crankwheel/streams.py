"""The streams: what is special to each."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections import Counter, defaultdict, deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from typing_extensions import override

from tap_crankwheel import payloads
from tap_crankwheel.client import CrankWheelStream
from tap_crankwheel.errors import InvalidPayloadError
from tap_crankwheel.history import WindowedStream
from tap_crankwheel.rows import ObjectParser
from tap_crankwheel.schemas import SCHEMAS
from tap_crankwheel.statistics import add_up, counted_seconds, grand_total, totals
from tap_crankwheel.windows import Window, format_timestamp, periods

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from singer_sdk import Tap

    from tap_crankwheel.client import Response, RunContext
    from tap_crankwheel.payloads import Payload
    from tap_crankwheel.schemas import Row
    from tap_crankwheel.statistics import Totals

#: How long after the end of a period the responses may still bring a session that began in it. A
#: session that is left running over a weekend is not rare.
LONGEST_SESSION = timedelta(days=7)

#: What to do where sessions cannot be read: which of the endpoints an account has is a guess.
SWITCH_ENDPOINT = "set usage_endpoint to usage_new, or back to usage"


class UsageStream(WindowedStream):
    """A stream over `/usage` or `/usage_new`, which list sessions."""

    path = "/{usage_endpoint}"
    envelope = frozenset({"sessions", "stats"})
    item_start, item_end = "start_date", "end_date"
    further_advice: ClassVar = {404: f"If it is right, {SWITCH_ENDPOINT}"}

    @override
    def parse(self, payload: Payload) -> Iterator[Row]:
        """Yield the sessions of a response.

        Whether the API's number of a session is unique is not documented, so the start is a part
        of the key. Where there is no number, a digest of email and start takes its place.

        Raises:
            InvalidPayloadError: One has no start, or neither number nor email.
        """
        for raw in payloads.session_items(payload):
            session = payloads.parse_item(raw, "session")
            number = session.get("session_id")
            row = self.item_parser(session)
            payloads.require(row, "start_date", "session", SWITCH_ENDPOINT)
            if row["session_id"] is not None:
                number = row["session_id"]
            if type(number) is int or (type(number) is str and number):
                row["id"] = str(number)
            else:
                payloads.require(row, "email", "session", SWITCH_ENDPOINT)
                row["id"] = payloads.digest(row["email"], row["start_date"])
            yield row

    @override
    def responses(self, wanted: list[Window]) -> Iterator[tuple[Window, list[Payload]]]:
        """Yield each window with its payloads; warn if those of a first load hold no session."""
        nothing_yet = "replication_key_value" not in self.stream_state
        for window, found in super().responses(wanted):
            nothing_yet = nothing_yet and not any(map(payloads.session_items, found))
            yield window, found
        if nothing_yet and not (self.testing or self.run.warned_of_no_session):
            self.run.warned_of_no_session = True
            said = "no response held a session. If there are some"
            self.logger.warning("%s: %s, %s.", self.name, said, SWITCH_ENDPOINT)


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
    item_start, item_end = "start_ts", "last_event_ts"
    further_advice: ClassVar = dict.fromkeys(
        (403, 404), "If your plan has no demo requests, deselect demo_requests and demo_stats"
    )

    #: What the API sends for null, by field.
    PLACEHOLDERS: ClassVar = {
        "seconds_to_respond": "never",
        **dict.fromkeys(("call_confirmed", "screenshared", "accepted_from"), "n/a"),
    }

    @override
    def parse(self, payload: Payload) -> Iterator[Row]:
        """Yield the demo requests of a response, by start.

        The API has no identifier for them. That nobody changes their start and page is a guess.
        Those alike in both are numbered, ordered by phone, whatever the order of the response.
        """
        found = []
        for raw in payloads.session_items(payload):
            request = payloads.parse_item(raw, "demo request")
            for field, word in self.PLACEHOLDERS.items():
                if request.get(field) == word:
                    request[field] = None
            if isinstance(info := request.get("prospect_info"), dict):
                request["prospect_info"] = {k: payloads.as_text(v) for k, v in info.items()}
            content = msgspec.json.encode(request, order="sorted")
            row = self.item_parser(request)
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

    @override
    def customize_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        schema = copy.deepcopy(schema)
        prospect = schema["properties"]["prospect_info"]["properties"]
        extra = prospect.pop("extra")  # it stays the last field
        for question in self.settings.custom_questions:
            answer = {"type": ["null", "string"], "description": "Answer to a custom question."}
            prospect.setdefault(f"prospect-{question}", answer)
        prospect["extra"] = extra
        return schema


class PeriodStream(WindowedStream):
    """A stream with rows for each calendar period, of which the last one may be unfinished."""

    primary_keys: ClassVar[tuple[str, ...]] = ("period", "timezone", "period_start")
    replication_key = "period_start"
    computed: ClassVar[tuple[str, ...]] = (*primary_keys, "period_end")
    bookmark = "start"  # a period may be unfinished, and is read again
    #: The stream whose items the responses list.
    item_stream: ClassVar[str]

    def __init__(self, tap: Tap, run: RunContext) -> None:
        super().__init__(tap, run)
        self.item_parser = ObjectParser(SCHEMAS.get_schema(self.item_stream), computed=["id"])

    @override
    def windows_of(self, history: Window) -> list[Window]:
        if history.start >= history.end:
            return []
        return list(periods(history, self.settings.stats_period, self.settings.timezone))

    @override
    def fetch_window(self, window: Window) -> list[Response]:
        """Request a period up to now."""
        return super().fetch_window(Window(window.start, min(window.end, self.now)))

    def period(self, window: Window) -> Row:
        """Return the fields that name a period."""
        kind, zone = self.settings.stats_period, self.settings.timezone.name
        values = kind, zone, *map(format_timestamp, window)
        return dict(zip(PeriodStream.computed, values, strict=True))


class StatsStream(UsageStream, PeriodStream):
    """Statistics by calendar period, counted from the sessions that start in it."""

    item_stream = "usage_sessions"

    def count_periods(self, wanted: list[Window]) -> Iterator[tuple[Window, Row, Totals]]:
        """Yield each period with the envelope of its response, and its totals, once it is final.

        The API may select sessions by their end. So a period is final once the responses of
        `LONGEST_SESSION` after it were read: without that, a session that runs on over the end of
        its period would not be counted.
        """
        edges = [*(format_timestamp(p.start) for p in wanted), format_timestamp(wanted[-1].end)]
        sessions: dict[int, dict[tuple[str, str], tuple[str | None, Any]]] = defaultdict(dict)
        waiting: deque[tuple[Window, Row]] = deque()
        done = 0
        for period, found in self.responses(wanted):
            # Of a period that was read in halves, the API's own statistics are not known.
            waiting.append((period, {} if len(found) > 1 else payloads.envelope(found[0])))
            for row in self.items(period, found):
                number = bisect_right(edges, row["start_date"]) - 1
                if done <= number < len(wanted):
                    key = row["id"], row["start_date"]
                    sessions[number][key] = payloads.not_blank(row["email"]), counted_seconds(row)
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
    item_stream = "demo_requests"
    margin = timedelta(0)  # a bare count cannot be trimmed to the period

    @override
    def read(self, wanted: list[Window]) -> Iterator[tuple[Window, Iterable[Row]]]:
        """Yield each period with its row."""
        for period, found in self.responses(wanted):
            for _ in self.items(period, found):
                pass  # this raises if the server ignored the range
            rows = [self.row_parser(payloads.envelope(payload)) for payload in found]
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

    @override
    def parse(self, payload: Payload) -> Iterator[Row]:
        """Yield the users of a response.

        Raises:
            InvalidPayloadError: A user has no email, or there is none: an account has at least its
                owner.
        """
        items = payloads.only_list(payload)
        if not items:
            raise InvalidPayloadError("the list of users is empty, but an account has an owner")
        for raw in items:
            row = self.item_parser(payloads.parse_item(raw, "user"))
            row["email"] = payloads.not_blank(row["email"])
            payloads.require(row, "email", "user")
            if row["in_demo_pool"] is None and "in_demo_pool" not in (row["extra"] or {}):
                row["in_demo_pool"] = False  # null means false
            yield row


STREAM_TYPES = (AccountStats, AgentStats, DemoRequests, DemoStats, UsageSessions, Users)
