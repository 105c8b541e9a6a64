"""Prints how the API of an account behaves, in Markdown: only counts, names of fields and forms.

To run it: `uv run --no-dev --env-file .env python tools/api_report.py`. It reads the environment,
or `--config FILE`, as the tap does. It only sends GET, one request at a time, up to 64 of them.

How a range selects is found by elimination. `WAYS` are all the ways of selecting that a server may
plausibly have. Each response rules out the ways that would have listed other items. A row tells
what all ways that are left have in common. The ranges are those that rule out the most.

A server may also select by a time that it does not send, such as when it wrote an item. That looks
much like times that are cut to the minute or the hour. So what the ways have in common is only told
once such a time is ruled out too.
"""

from __future__ import annotations

import itertools
import re
import signal
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec
from typing_extensions import override

from tap_crankwheel import windows
from tap_crankwheel.client import CrankWheelStream
from tap_crankwheel.errors import CrankWheelError, InvalidPayloadError, RangeRefusedError
from tap_crankwheel.rows import ObjectParser
from tap_crankwheel.schemas import SCHEMAS
from tap_crankwheel.streams import DemoRequests, UsageSessions, Users
from tap_crankwheel.tap import TapCrankWheel, _one_line_errors
from tap_crankwheel.windows import Window

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import requests

    from tap_crankwheel.payloads import Payload

Row = dict[str, Any]
Times = tuple[float, float]  # when an item starts and ends, in seconds since 1970

UNKNOWN, NOT_HERE, NO_RESPONSE = "cannot be told", "-", "no response"
HOUR, DAY, MONTH, YEAR = 3600, 86_400, 28 * 86_400, 365 * 86_400  # seconds
PROBES = 6  # ranges of each endpoint that are chosen by what is known so far
CHECKS = 6  # more of them, to rule out times that are not sent
STRIDE = 11  # of the ranges, one in so many is weighed at a time
CHOSEN = 6  # items that these ranges are laid around
MANY = 8  # fewer items may fit a way of selecting by chance
SURE = 3  # so many items have to rule out that the API selects by times that it does not send
FEW = 5  # of fewer objects, a name that the tap does not know is not printed

SESSION_ROWS = [
    "same ids as /usage", "without session_id", "sharing a session_id",
    "a running session's end_date is", "never ended, longest",
]  # fmt: skip
REQUEST_ROWS = ["last event before start", "longest after it", "sharing a start and a page"]
ROWS = [
    "status", "28 days", "28 days, by weeks", "a year in one request", "a year ago",
    "looks at the range", "selects by", "exact to the", "days begin at", "from is inclusive",
    "to is inclusive", "asked to wait", "emails in /user_access", *SESSION_ROWS, *REQUEST_ROWS,
]  # fmt: skip
#: What the tap assumes.
USUAL = {
    "looks at the range": "yes", "exact to the": "second", "days begin at": "00:00 UTC",
    "same ids as /usage": "yes", "without session_id": "0", "sharing a session_id": "0",
    "last event before start": "0",
}  # fmt: skip

# --- how a range selects -------------------------------------------------------------------------

UNITS = {"second": 1, "minute": 60, "hour": HOUR, "day": DAY}


class Way(NamedTuple):
    """A way in which a server may select items.

    Attributes:
        by: What of an item has to be in the range: its start, its end, or any part (overlap).
        unit: What the server is exact to: it cuts a range's ends, items' times, or both to it.
        ends: How it cuts a range's ends: not at all, `down`, or `out` so that the range grows.
        times: How it sees an item's times: as they are sent, `cut` down to the unit, or `exact`,
            with fractions of a second that it does not send.
        zone: When its days begin, in seconds after midnight UTC.
        from_inclusive: Whether what lies on `from` is selected.
        to_inclusive: Whether what lies on `to` is selected.
    """

    by: str
    unit: str
    ends: str
    times: str
    zone: int
    from_inclusive: bool
    to_inclusive: bool

    def selects(self, item: Times, low: float, high: float) -> bool:
        """Return whether the range from `low` to `high` selects an item."""
        (start, end), (by, name, ends, times, zone, from_inclusive, to_inclusive) = item, self
        unit = UNITS[name]
        if ends:
            low -= (low - zone) % unit
            high += (zone - high) % unit if ends == "out" else -((high - zone) % unit)
        if times == "cut":
            start, end = start - (start - zone) % unit, end - (end - zone) % unit
        elif times == "exact":
            start, end = start + 5e-7, end + 5e-7  # less than the microseconds that may be sent
        last = start if by == "start" else end
        first = end if by == "end" else start
        after = last >= low if from_inclusive else last > low
        return after and (first <= high if to_inclusive else first < high)


WAYS = [
    Way(by, unit, ends, times, zone, *inclusive)
    for by, unit in itertools.product(("start", "end", "overlap"), UNITS)
    for ends, times in itertools.product(("", "down", "out"), ("", "cut", "exact"))
    # Ends are sent in whole seconds. What is cut to nothing else is exact to the second.
    if (not ends if unit == "second" else ends or times == "cut")
    for zone in range(0, DAY if unit == "day" and times != "exact" else 1, HOUR)
    for inclusive in itertools.product((True, False), repeat=2)
]


def ranges_around(items: Collection[Times], now: int) -> list[tuple[int, int]]:
    """Return ranges in the middle of some items, and before, across and after their ends."""
    found = [(int(sum(item) / 2), int(sum(item) / 2) + 60) for item in items]
    edges = [int(edge) for item in items for edge in item]
    for length, edge in itertools.product((60, HOUR, DAY), edges):
        whole = edge - edge % length
        for moment in (edge - 1, edge, edge + 1, whole, whole + length - 1, whole + length):
            found += [(moment - length, moment), (moment, moment + length)]
    return [window for window in dict.fromkeys(found) if window[1] <= now]


def unsent_times(item: Times) -> list[Times]:
    """Return what a server that selects by other times than it sends may select an item by.

    That is any moment of the days around it, or the time from its start to a later end, as far as
    `ranges_around` tells them apart. Left out is the last second of a minute: few times lie in it,
    and it looks like a cut.
    """
    start, end = item
    edges = sorted({edge for window in ranges_around([item], 1 << 40) for edge in window})
    between = itertools.pairwise(edge for edge in edges if start - DAY <= edge <= end + DAY)
    moments = [(low + high) / 2 for low, high in between if high % 60 or high - low > 1]
    moments += [start - 0.1, start + 0.1, end - 0.1, end + 0.1]
    later = [(begun, m) for m in moments if m > end for begun in (start - 0.1, start + 0.1)]
    return [(moment, moment) for moment in moments] + later


def expected_left(window: tuple[int, int], ways: list[Way], items: Collection[Times]) -> int:
    """Return how many ways the response to a range leaves on average, times the number of ways.

    If two of three ways would list the same items, either of them leaves both, and the third only
    itself: (2 + 2 + 1) / 3 on average, so this returns 5. If each listed others, it would be 3.
    """
    alike = Counter(tuple(way.selects(item, *window) for item in items) for way in ways)
    return sum(count * count for count in alike.values())


def agreeing(window: tuple[int, int], way: Way, pairs: list[tuple[Times, Times]]) -> int:
    """Return for how many times that are not sent a range selects what a way selects."""
    (low, high), selected = window, {item: way.selects(item, *window) for item, _ in pairs}
    return sum((low < end and start < high) == selected[item] for item, (start, end) in pairs)


# --- an endpoint ---------------------------------------------------------------------------------


class Noting(CrankWheelStream):
    """A stream that notes how the API responds, and that asks for a range as it is, or for none.

    Attributes:
        status: The status of the last response.
        was_limited: Whether a response spoke of a rate limit.
    """

    status, was_limited = NO_RESPONSE, False

    @override
    def get_url_params(self, context: Any, next_page_token: Window | None) -> dict[str, str]:
        return windows.query(next_page_token, timedelta(0), self.now) if next_page_token else {}

    @override
    def validate_response(self, response: requests.Response) -> None:
        self.status = str(response.status_code)
        limits = filter(re.compile("(?i)retry-after|(x-)?rate-?limit").match, response.headers)
        self.was_limited |= self.status == "429" or any(limits)
        super().validate_response(response)


class _Usage(Noting, UsageSessions):
    path = "/usage"


class _UsageNew(Noting, UsageSessions):
    path = "/usage_new"


class _DemoUsage(Noting, DemoRequests):
    """`/demo_usage`, with the status and headers noted."""


class _UserAccess(Noting, Users):
    """`/user_access`, with the status and headers noted; it is asked first.

    As in a `--test`, two attempts of ten seconds are enough to tell that there is no network.
    """

    testing = True


class Listing:
    """A response that lists items.

    Args:
        payload: Its body, as the tap parses it.
        window: The range that was asked for, in seconds since 1970.
        fields: The names of an item's start and end.

    Attributes:
        document: The body in full.
        has_list: Whether there is a list in it.
        items: The objects in its list.
        times: When each of them starts and ends; None for what is not known.
        listed: All of these times.
    """

    def __init__(self, payload: Payload, window: tuple[int, int], fields: tuple[str, str]) -> None:
        self.payload, self.window = payload, window
        self.document = msgspec.json.decode(msgspec.json.encode(payload))
        whole = self.document if isinstance(self.document, dict) else {"sessions": self.document}
        lists = {name: value for name, value in whole.items() if isinstance(value, list)}
        self.has_list = "sessions" in lists or len(lists) == 1
        found = lists.get("sessions", next(iter(lists.values()))) if self.has_list else []
        self.items = [item for item in found if isinstance(item, dict)]
        kinds = {name: {"type": "string", "format": "date-time"} for name in fields}
        parse = ObjectParser({"properties": {**kinds, "extra": {"type": "object"}}})
        rows = (parse({name: item.get(name) for name in fields}) for item in self.items)
        self.times = [tuple(seconds(row[name]) for name in fields) for row in rows]
        self.listed = set(self.times)

    def settled(self, now: int) -> set[Times]:
        """Return the times of the items that ended an hour ago or earlier: they stay as they are.

        What ends when it starts may still run: an API may send that for an end it does not know.
        """
        return {
            (start, end)
            for (start, end), item in zip(self.times, self.items, strict=True)
            if start and end and item.get("session_ended") is not False
            if start < end <= now - HOUR
        }

    def ids(self) -> set[tuple[Any, str]]:
        """Return of each session its times and its `session_id`."""
        pairs = zip(self.times, self.items, strict=True)
        return {(t, str(i["session_id"])) for t, i in pairs if all(t) and i.get("session_id")}


def seconds(text: str | None) -> float | None:
    """Return a timestamp that the tap has parsed, in seconds since 1970."""
    return datetime.fromisoformat(text[:-1] + "+00:00").timestamp() if text else None


class Endpoint:
    """An endpoint, and what it shows.

    Args:
        stream: A stream over it.
        now: Up to when it is asked, in seconds since 1970.

    Attributes:
        rows: What is told, by the rows of the table.
        month: The response for the last 28 days; None if there is none.
        arrived: When it came, in seconds since 1970.
        parsed: Its items as the tap reads them, or why it cannot.
        error: Why there was no response, or none with a list.
    """

    def __init__(self, stream: Noting, now: int) -> None:
        self.stream, self.now, self.name = stream, now, stream.path
        self.is_demo = isinstance(stream, DemoRequests)
        others = SESSION_ROWS if self.is_demo else REQUEST_ROWS
        self.rows = {row: NOT_HERE if row in others else UNKNOWN for row in ROWS}
        self.month: Listing | None = None
        self.arrived = 0.0
        self.parsed: list[Row] | InvalidPayloadError = []
        self.error: Exception | None = None
        self._listings: list[Listing] = []
        self._longest = 0
        self._chosen: list[Times] = []

    def ask(self, window: tuple[int, int] | None = None) -> Listing | None:
        """Request a range, or none; return None if there is no response.

        A range may be refused. After any other error, no more is asked.
        """
        if self.error and not isinstance(self.error, RangeRefusedError):
            self.stream.status = UNKNOWN
            return None
        fields = ("start_ts", "last_event_ts") if self.is_demo else ("start_date", "end_date")
        start, end = (datetime.fromtimestamp(t, timezone.utc) for t in window or (0, 0))
        self.stream.status = NO_RESPONSE
        try:
            payload = self.stream.fetch(Window(start, end) if window else None).payload
            click.echo(".", nl=False, err=True)
            listing = Listing(payload, window or (0, 0), fields)
        except (CrankWheelError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            self.error = error
            return None
        self._listings.append(listing)
        self._longest = max(self._longest, len(listing.items))
        return listing

    def ask_first(self, window: tuple[int, int] | None = None) -> None:
        """Request the month, or the list that has no range."""
        self.month = self.ask(window)
        self.rows["status"], self.arrived = self.stream.status, self.stream.run.clock.time()
        try:
            self.parsed = [*self.stream.parse(self.month.payload)] if self.month else []
        except InvalidPayloadError as error:
            self.parsed = error

    def study(self) -> None:
        """Ask all questions."""
        now, rows, first = self.now, self.rows, self.now - MONTH
        self.ask_first((first, now))
        if (month := self.month) and month.has_list:
            # More than a week each: an end may be cut to the day, and may not be inclusive.
            edges = range(first, now, 7 * DAY)
            weeks = [self.ask((max(first, t - 2 * DAY), min(now, t + 9 * DAY))) for t in edges]
            ago = self.ask((first - YEAR, now - YEAR))
            rows["a year ago"] = self.stream.status + (f", {self._count(ago.times)}" if ago else "")
            year = self.ask((now - YEAR, now))
            rows["a year in one request"] = self.stream.status
            self._probe(month.settled(now))
            again = self.ask((first, now)) or month
            ever = month.settled(now) | again.settled(now)
            stable = month.settled(now) & again.settled(now)
            self._tell_selection(stable)
            held, ended = Counter[Any](), set[Times]()
            for week in filter(None, weeks):
                held |= Counter(week.times)
                ended |= week.settled(now)
            rows["28 days"] = self._count(month.times, ended - ever)
            if all(weeks):
                rows["28 days, by weeks"] = self._count([*held.elements()], stable - ended)
            if year:
                self._tell_year(year, stable)
            if ended <= ever:
                self._tell_items(month)
        rows["asked to wait"] = "yes" if self.stream.was_limited else "no"

    def _count(self, times: list[Any], missing: Collection[Times] = ()) -> str:
        """Return how many items are listed, how old the oldest is, and if some are missing."""
        starts = [start for start, _ in times if start]
        oldest = f", oldest {(self.now - min(starts)) / DAY:.1f} days" if starts else ""
        return f"{len(times)} items{oldest}{', and some are missing' if missing else ''}"

    def _fits(self, way: Way, known: Collection[Times], listing: Listing) -> bool:
        """Return whether a response lists of known items what a way selects.

        What the longest list lacks shows nothing: it may be cut.
        """
        listed, is_whole = listing.listed, len(listing.items) < self._longest
        checked = (item for item in known if is_whole or item in listed)
        return all(way.selects(item, *listing.window) == (item in listed) for item in checked)

    def _ways_left(self, ways: list[Way], known: Collection[Times]) -> list[Way]:
        """Return the ways that fit all responses."""
        latest = self._listings[::-1]  # those to ranges that were chosen rule out the most
        return [way for way in ways if all(self._fits(way, known, each) for each in latest)]

    def _unsent(self, item: Times, ways: list[Way]) -> list[tuple[Times, Times]]:
        """Return an item with each of the times by which it may have been selected, not sent.

        To a server that is exact to the second, a time within a second of the start or the end is
        no other.
        """
        least = 0 if any(way.unit != "second" for way in ways) else 1
        responses = [
            (*each.window, item in each.listed)
            for each in self._listings[::-1]
            if item in each.listed or len(each.items) < self._longest
        ]
        return [
            (item, (start, end))
            for start, end in unsent_times(item)
            if min(abs(end - edge) for edge in item) >= least
            if all((low < end and start < high) == listed for low, high, listed in responses)
        ]

    def _probe(self, known: set[Times]) -> None:
        """Request ranges around the items that cross a midnight or are long."""
        by_length = sorted(known, key=lambda i: (i[0] // DAY != i[1] // DAY, i[1] - i[0], i))
        self._chosen = chosen = by_length[-CHOSEN:]
        wanted, ways = ranges_around(chosen, self.now), WAYS
        for turn in range(PROBES + CHECKS if known else 0):
            if not ways:
                break
            pairs: list[tuple[Times, Times]] = []
            if turn >= PROBES:  # of the items of which the fewest are left
                unsent = sorted((self._unsent(item, ways) for item in chosen), key=len)
                pairs += itertools.chain(*unsent[sum(not left for left in unsent) : SURE])
            some = ways[:: len(ways) // 80 | 1]  # since to weigh all takes long
            offered = wanted if pairs else wanted[turn::STRIDE]
            scores = [agreeing(window, some[0], pairs) for window in offered]
            least = min(scores)
            lowest = [w for w, score in zip(offered, scores, strict=True) if score == least]
            best = min(lowest, key=lambda w: expected_left(w, some, chosen))
            wanted.remove(best)
            self.ask(best)
            ways = self._ways_left(ways, chosen)

    def _tell_selection(self, known: set[Times]) -> None:
        """Tell how the API selects, by the items that stayed the same during the report.

        Whatever the way, no item that ends or starts more than two days away is selected.
        """
        sides = {  # whether it is listed, and whether it ended before the range
            (item in each.listed, item[1] < each.window[0])
            for item, each in itertools.product(known, self._listings)
            if item[1] < each.window[0] - 2 * DAY or item[0] > each.window[1] + 2 * DAY
            if item in each.listed or len(each.items) < self._longest
        }
        if sides == {(False, True), (False, False)}:
            self.rows["looks at the range"] = "yes"
        elif sides and all(known <= each.listed for each in self._listings):
            self.rows["looks at the range"] = "no"
        if len(known) < MANY:
            return
        chosen = known & {*self._chosen}
        ways = self._ways_left(self._ways_left(WAYS, chosen), known)
        if not ways and self.rows["looks at the range"] != "no":
            self.rows["selects by"] = "no way that this report knows"
        elif sum(not self._unsent(item, ways) for item in chosen) < SURE:
            return
        told = {
            "exact to the": {way.unit for way in ways},
            "selects by": {way.by for way in ways},
            "days begin at": {
                f"{way.zone // HOUR:02}:00 UTC" if way.unit == "day" else NOT_HERE for way in ways
            },
            "from is inclusive": {"yes" if way.from_inclusive else "no" for way in ways},
            "to is inclusive": {"yes" if way.to_inclusive else "no" for way in ways},
        }
        self.rows |= {row: min(values) for row, values in told.items() if len(values) == 1}

    def _tell_year(self, year: Listing, stable: set[Times]) -> None:
        """Tell what a year in one request holds, and whether items are missing in it."""
        missing, now, starts = stable - year.listed, self.now, [t[0] for t in year.times if t[0]]
        if starts and (before := self.ask((int(min(starts)) - MONTH, int(min(starts))))):
            older = before.settled(now) - year.listed
            missing |= {item for item in older if item[0] > now - YEAR + 2 * DAY}
        self.rows["a year in one request"] += f", {self._count(year.times, missing)}"

    def _tell_items(self, month: Listing) -> None:
        """Tell what single items show."""
        rows, items, now = self.rows, list(zip(month.items, month.times, strict=True)), self.now
        if self.is_demo:
            if lasted := [end - start for _, (start, end) in items if start and end]:
                rows["last event before start"] = str(sum(length < 0 for length in lasted))
                rows["longest after it"] = f"{max(lasted) / DAY:.1f} days"
            if isinstance(self.parsed, list):  # those alike are numbered
                rows["sharing a start and a page"] = str(sum("-" in r["id"] for r in self.parsed))
            return
        numbers = [str(i["session_id"]) for i in month.items if i.get("session_id") is not None]
        rows["without session_id"] = str(len(items) - len(numbers))
        rows["sharing a session_id"] = str(len(numbers) - len({*numbers}))
        running = [(s, e, i) for i, (s, e) in items if s and i.get("session_ended") is False]
        # Of those that started just now, the start is about now too.
        ends = {self._end(s, e, item) for s, e, item in running if s < now - HOUR / 3}
        if ends and all(start for start, _ in month.times):
            rows["a running session's end_date is"] = ", ".join(sorted(ends))
        if items and all("session_ended" in item for item in month.items):
            never = [now - start for start, _, _ in running if start < now - DAY]
            longest = f", {max(never) / DAY:.1f} days" if never else ""
            rows["never ended, longest"] = f"{len(never)}{longest}"

    def _end(self, start: float, end: float | None, session: Row) -> str:
        """Return what the end of a running session is."""
        if session.get("end_date") is None:
            return "null"
        # The server's now is one of these two.
        if end and min(abs(end - self.now), abs(end - self.arrived)) < HOUR / 6:
            return "about now"
        return "its start" if end == start else "other"

    def compare_ids(self, other: Endpoint) -> None:
        """Tell whether the sessions have the same ids in another endpoint."""
        own, others = (each.month.ids() if each.month else set() for each in (self, other))
        if shared := {t for t, _ in own} & {t for t, _ in others}:
            differ = any(times in shared for times, _ in own ^ others)
            self.rows["same ids as /usage"] = "no" if differ else "yes"

    def compare_emails(self, users: Listing | None) -> None:
        """Tell how many emails of agents are those of users, exactly or but for case."""
        field = "handled_by" if self.is_demo else "email"
        items = self.month.items if self.month else []
        emails = {item[field] for item in items if isinstance(item.get(field), str)}
        if users and emails:
            known = {str(user.get("email")) for user in users.items}
            exactly, folded = len(emails & known), {email.lower() for email in known}
            more = sum(email.lower() in folded for email in emails) - exactly
            but_for_case = f", {more} more but for case" if more else ""
            self.rows["emails in /user_access"] = f"{exactly} of {len(emails)}{but_for_case}"


# --- the shape of a response ---------------------------------------------------------------------

#: What the API's description lists as values, and of which fields.
LISTED = {
    "full_capacity", "half_capacity", "no_capacity", "never", "n/a", "true", "false", "extension",
    "email", "user", "admin", "owner", "reporting",
}  # fmt: skip
LISTING = {*DemoRequests.PLACEHOLDERS, "availability_bucket", "privilege"}
TIMESTAMP = re.compile(
    r"(?a)\d{4}(-\d\d){2}([T ]\d\d(:\d\d){1,2}(\.\d{1,9})?( ?(Z|UTC|[+-]\d\d:?\d\d))?)?"
)
FIELD_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
#: A name made of these is no person's, even where an object has a key for each person.
_WORDS = (
    "account agent agents aggregate all average by call calls canceled count counts cursor date "
    "demo demos duration durations email emails end ended error for from has host id in info ip "
    "key kind last length limit list log meeting meetings message meta minutes more name next "
    "number of offset page pages per request requests s screen second seconds session sessions "
    "share shared shares start started stats status sum tab time title to total totals ts type "
    "url user users value viewer viewers webcam window with at"
)
WORDS = {*_WORDS.split()}
OWN = {"extra", "id"}  # fields that the tap adds
TYPES = {bool: "boolean", int: "integer", float: "number", dict: "object", list: "list"}


class Place(NamedTuple):
    """A place in a response.

    Attributes:
        name: Where it is.
        values: What was seen there.
        total: In how many objects or lists it could have been seen.
        is_new: Whether the tap knows what else is there, but not this.
    """

    name: str
    values: list[Any]
    total: int
    is_new: bool


def places(document: Any, schema: Row, sent: str) -> Iterator[Place]:
    """Yield all places in a response.

    Args:
        document: The response.
        schema: Its JSON schema, as far as the tap knows it.
        sent: All texts that the account sent, in lower case.
    """

    def inside(name: str, values: list[Any], total: int, schema: Row | None, **new: bool) -> Any:
        yield Place(name, values, total, **new)
        name, schema = name.partition(" ")[0], schema or {}
        if inner := [each for value in values if isinstance(value, list) for each in value]:
            yield from inside(f"{name}[]", inner, len(inner), schema.get("items"), is_new=False)
        objects = [value for value in values if isinstance(value, dict)]
        known = {k: v for k, v in schema.get("properties", {}).items() if k not in OWN}
        shown: dict[str, list[str]] = {}
        for key, count in sorted(Counter(itertools.chain.from_iterable(objects)).items()):
            is_usual = 2 * count >= len(objects) >= FEW and (known or re.fullmatch("[^<]*]", name))
            is_free = "prospect" in name + key  # what a prospect is asked is up to the customer
            is_shown = key in known or (not is_free and is_name(key, sent if is_usual else None))
            shown.setdefault(key if is_shown else "", []).append(key)
        if hidden := shown.pop("", None):
            shown[f"<key> x {len(hidden)}"] = hidden
        for field, keys in shown.items():
            inner = [value[key] for value in objects for key in keys if key in value]
            total = len(objects) if [field] == keys else len(inner)
            is_new = bool(known) and field not in known and "prospect" not in name
            place = f"{name}.{field}".lstrip(".")
            yield from inside(place, inner, total, known.get(field), is_new=is_new)

    yield from inside("", [document], 1, schema, is_new=False)


def is_name(key: str, sent: str | None) -> bool:
    """Return whether a key is the API's own, and no person's or customer's name.

    Args:
        key: The key.
        sent: All texts that the account sent; None if each word of the key has to be in `WORDS`.
    """
    others = {*re.split("[_-]", key)} - WORDS
    is_usual = sent is not None and not any(word.strip("0123456789") in sent for word in others)
    return bool(FIELD_NAME.fullmatch(key)) and (not others or is_usual)


def texts(document: Any) -> str:
    """Return all texts in a document, in lower case, and the keys that are no names of fields."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"(:?)', msgspec.json.encode(document).decode())
    return "\n".join(t for t, is_key in found if not (is_key and FIELD_NAME.fullmatch(t))).lower()


def form_of(value: Any, name: str) -> str:
    """Return the JSON type of a value in a place; of a text its form."""
    if not isinstance(value, str):
        return TYPES.get(type(value), "null")
    if value in LISTED and name.rpartition(".")[2] in LISTING:
        return f"`{value}`"
    return f"`{re.sub('[0-9]', '9', value)}`" if TIMESTAMP.fullmatch(value) else "text"


def known_schema(stream: CrankWheelStream) -> Row:
    """Return the JSON schema of a response, as far as the tap knows it."""
    items = {"items": SCHEMAS.get_schema(stream.name)}
    single = {"stats", "total_canceled_requests"}
    return items | {"properties": {n: {} if n in single else items for n in stream.envelope}}


def equal_numbers(items: list[Row], found: list[Place]) -> Iterator[str]:
    """Yield which numbers in `stats` equal what can be counted in the list beside them."""
    infos = [info for item in items if isinstance(info := item.get("viewer_info"), dict)]
    viewers = [info.get("max_viewer_count") or info.get("viewer_count") for info in infos]
    durations = [item.get("duration") for item in items]
    counted = {
        "the number of sessions": len(items),
        "the number of sessions with a viewer": sum(isinstance(n, int) and n > 0 for n in viewers),
        "the sum of durations": sum(n for n in durations if isinstance(n, (int, float))),
    }
    for place, (what, count) in itertools.product(found, counted.items()):
        if re.fullmatch(r"stats(\.[a-z_-]+)+", place.name) and place.values == [count] != [0]:
            yield f"`{place.name}` equals {what}."


# --- the report ----------------------------------------------------------------------------------


def differences(endpoint: Endpoint, found: list[Place]) -> Iterator[str]:
    """Yield what differs from what the tap assumes."""
    rows, month, parsed = endpoint.rows, endpoint.month, endpoint.parsed
    if month is None:
        yield f"the status is {rows['status']}: there is no list."
        return
    fields = SCHEMAS.get_schema(endpoint.stream.name)["properties"].keys() - OWN
    if isinstance(parsed, InvalidPayloadError):
        yield f"the tap cannot read it: {parsed}."
    else:
        for name in sorted({name for row in parsed for name in row["extra"] or ()} & fields):
            yield f"`{name}` is of another type than the tap takes, and goes into `extra`."
    if len(month.items) >= FEW:
        sent = {place.name.rpartition("[].")[2] for place in found}
        yield from (f"`{name}` is never sent." for name in sorted(fields - sent))
    yield from (f"the tap does not know `{place.name}`." for place in found if place.is_new)
    for row in ROWS:
        is_usual = rows[row] in {USUAL.get(row, rows[row]), UNKNOWN, NOT_HERE}
        if not is_usual or rows[row].endswith(("are missing", "knows")):
            yield f"{row}: {rows[row]}."


def report(tap: TapCrankWheel) -> str:
    """Ask all questions, with a dot for each request on standard error.

    Args:
        tap: The tap, for its settings and its clock.

    Returns:
        The report, in Markdown.

    Raises:
        CrankWheelError: The API cannot be reached, or rejects the key.
    """
    now, end = tap.run.clock.time(), tap.settings.end_date
    now = int(min(now, end.timestamp()) if end else now)
    kinds = _Usage, _UsageNew, _DemoUsage, _UserAccess
    *histories, users = endpoints = [Endpoint(kind(tap, tap.run), now) for kind in kinds]
    users.ask_first()
    if users.error and users.rows["status"] in {"401", NO_RESPONSE}:
        raise users.error
    for endpoint in histories:
        click.echo(f"\nAsking {endpoint.name}, about 20 times ", nl=False, err=True)
        endpoint.study()
        endpoint.compare_emails(users.month)
    click.echo(err=True)
    histories[0].rows["same ids as /usage"] = NOT_HERE
    histories[1].compare_ids(histories[0])
    lines = [f"| | {' | '.join(f'`{each.name}`' for each in histories)} |", "|---|---|---|---|"]
    lines += [f"| {row} | {' | '.join(each.rows[row] for each in histories)} |" for row in ROWS]
    lines.append(
        f"\n`{UNKNOWN}`: the account does not show it, or two answers would look the same."
    )
    sent = texts([endpoint.month.document for endpoint in endpoints if endpoint.month])
    differ, shapes = [], dict[str, str]()
    for endpoint in endpoints:
        found: list[Place] = []
        lines.append(f"\n**`{endpoint.name}`**, status {endpoint.rows['status']}\n")
        if month := endpoint.month:
            found += places(month.document, known_schema(endpoint.stream), sent)
            shape = "\n".join(shape_of(month, found))
            same = shapes.setdefault(shape, endpoint.name)
            lines.append(shape if same == endpoint.name else f"As `{same}`.")
        differ += [f"- `{endpoint.name}`: {text}" for text in differences(endpoint, found)]
    lines.append(
        "\n**What differs from what the tap assumes**\n"
        if differ
        else "\nNothing differs from what the tap assumes."
    )
    return "\n".join(lines + differ)


def shape_of(month: Listing, found: list[Place]) -> Iterator[str]:
    """Yield the lines that say what is where in a response."""
    yield "| Place | Types and forms | In |\n|---|---|---|"
    for name, values, total, _ in found:
        forms = ", ".join(sorted({form_of(value, name) for value in values}))
        share = "all" if len(values) == total else f"{len(values)} of {total}"
        yield f"| {f'`{name}`' if name else 'the response'} | {forms} | {share} |"
    yield from (f"\n{text}" for text in equal_numbers(month.items, found))


_config = _one_line_errors()(TapCrankWheel.cb_config)


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--config", multiple=True, default=["ENV"], callback=_config)
def main(config: Any) -> None:
    """Print the report; without `--config`, read the environment."""
    with _one_line_errors():
        tap = TapCrankWheel(config=config.config, parse_env_config=config.parse_env)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the SDK's writes a state
    click.echo(report(tap))


if __name__ == "__main__":
    main()
