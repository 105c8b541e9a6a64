"""Prints how an account's API behaves: `uv run --env-file .env python tools/api_report.py`.

It reads the environment, or `--config FILE`, as the tap does. It sends the tap's own requests: only
GET, one at a time, about 50. It prints Markdown that holds no value of the account.

How a range selects is found by elimination. `WAYS` are all the ways that a server may plausibly
have. Each response rules out those that would have listed other items. What the ways that are left
have in common is told, and nothing else. Ranges are chosen to rule out as many ways as they can.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass, field
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
    from collections.abc import Collection, Iterator, Mapping

    import requests

    from tap_crankwheel.payloads import Payload

Row = dict[str, Any]
Times = tuple[float, float]  # when an item starts and ends, in seconds since 1970

UNKNOWN, NOT_HERE = "cannot be told", "–"
HOUR, DAY = 3600, 86_400  # seconds
MONTH, YEAR = 28 * DAY, 365 * DAY
PROBES = 7  # of each endpoint, so that all requests are about 50
CHOSEN = 6  # items that ranges are laid around
ENOUGH = 100  # items that are compared with each response
FEW = 5  # of fewer items, no name that the tap does not know is printed

ROWS = (
    "status", "items in 28 days", "looks at the range", "exact to the", "selects by",
    "from is inclusive", "to is inclusive", "weeks hold what the month holds", "without a range",
    "a year ago", "a year in one request", "asked to wait", "same ids as /usage",
    "without session_id", "a running session's end_date is", "never ended, longest",
    "last event before start", "longest after it",
)  # fmt: skip

# --- how a range selects -------------------------------------------------------------------------

UNITS = {"second": 1, "minute": 60, "hour": HOUR, "day": DAY}


class Way(NamedTuple):
    """A way in which a server may select items.

    Attributes:
        by: What of an item has to be in the range: its start, its end, or any part (overlap).
        unit: What the server is exact to; it cuts to this the ends of a range, or times, or both.
        ends: How it cuts a range's ends: not at all, `down`, or `out` so that the range grows.
        times: How it sees an item's times: as they are sent, `cut` down to the unit, or `exact`,
            with fractions of a second that it does not send.
        from_inclusive: Whether what lies on `from` is selected.
        to_inclusive: Whether what lies on `to` is selected.
    """

    by: str
    unit: str
    ends: str
    times: str
    from_inclusive: bool
    to_inclusive: bool

    def selects(self, item: Times, low: float, high: float) -> bool:
        """Return whether the range from `low` to `high` selects an item."""
        (start, end), unit = item, UNITS[self.unit]
        if self.ends:
            low -= low % unit
            high += -high % unit if self.ends == "out" else -(high % unit)
        if self.times == "cut":
            start, end = start - start % unit, end - end % unit
        elif self.times == "exact":
            start, end = start + 5e-7, end + 5e-7  # less than a microsecond, which may be sent
        last = start if self.by == "start" else end
        first = end if self.by == "end" else start
        after = last >= low if self.from_inclusive else last > low
        return after and (first <= high if self.to_inclusive else first < high)


#: Without those that are alike: no end that is sent has a fraction of a second.
WAYS = [
    Way(*way)
    for way in itertools.product(
        ("start", "end", "overlap"), UNITS, ("", "down", "out"), ("", "cut", "exact"),
        (True, False), (True, False),
    )
    if (way[1] == "second" and not way[2]) or (way[1] != "second" and (way[2] or way[3] == "cut"))
]  # fmt: skip


def ranges(items: Collection[Times], now: int) -> list[tuple[int, int]]:
    """Return ranges around some items: wholly before and after each, and across its ends."""
    found = []
    for width, away in itertools.product((60, HOUR, DAY), (0, 1, 60, HOUR, 2 * DAY)):
        for start, end in items:
            for edge in (int(start), int(end)):
                found += [(edge + away, edge + away + width), (edge - away - width, edge - away)]
    found += [(middle, middle + 60) for middle in (int(sum(item) / 2) for item in items)]
    return [window for window in found if window[1] <= now]


def left_over(window: tuple[int, int], ways: list[Way], items: list[Times]) -> int:
    """Return how many ways a response to a range is expected to leave, times their number."""
    classes = Counter(tuple(way.selects(item, *window) for item in items) for way in ways)
    return sum(count * count for count in classes.values())


# --- an endpoint ---------------------------------------------------------------------------------


class Noted(CrankWheelStream):
    """A stream that notes how the API responds, and asks for the very range, or for none."""

    status: int | None = None
    waits = False

    @override
    def get_url_params(self, context: Any, next_page_token: Window | None) -> dict[str, str]:
        return windows.query(next_page_token, timedelta(0)) if next_page_token else {}

    @override
    def validate_response(self, response: requests.Response) -> None:
        self.status = response.status_code
        limits = re.compile(r"retry-after|(x-)?rate-?limit", re.IGNORECASE)
        self.waits |= response.status_code == 429 or any(map(limits.match, response.headers))  # noqa: PLR2004
        super().validate_response(response)


class _Usage(Noted, UsageSessions):
    path = "/usage"


class _UsageNew(Noted, UsageSessions):
    path = "/usage_new"


class _DemoUsage(Noted, DemoRequests):
    pass


class _UserAccess(Noted, Users):
    pass


@dataclass
class Listing:
    """A response.

    Attributes:
        payload: Its body, as the tap parses it.
        document: The same in full.
        low: The range that was asked for, in seconds since 1970.
        high: Its end.
        arrived: When it arrived, in seconds since 1970.
        items: The objects in its list.
        times: Of each of them when it starts and ends, as far as that is known.
    """

    payload: Payload
    document: Any
    low: int
    high: int
    arrived: float
    items: list[Row] = field(init=False)
    times: list[tuple[float | None, float | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        whole = self.document if isinstance(self.document, dict) else {"sessions": self.document}
        lists = {name: value for name, value in whole.items() if isinstance(value, list)}
        found = lists.get("sessions", next(iter(lists.values())) if len(lists) == 1 else [])
        self.items = [item for item in found if isinstance(item, dict)]

    def settled(self, now: int) -> set[Times]:
        """Return the times of the items that ended an hour ago or earlier: they stay as they are.

        What ends as it starts may run: an API may send that for an end it does not know.
        """
        return {
            (start, end)
            for (start, end), item in zip(self.times, self.items, strict=True)
            if start and end and start < end <= now - HOUR
            if item.get("session_ended") is not False
        }

    def ids(self) -> dict[Any, Any]:
        """Return the `session_id` of the sessions that no other shares its times with."""
        alone = Counter(self.times)
        return {
            times: item["session_id"]
            for times, item in zip(self.times, self.items, strict=False)
            if alone[times] == 1 and item.get("session_id") is not None
        }


def time_fields(items: list[Row], now: int) -> list[str]:
    """Return the names of an item's start and end; none if they are not known.

    They are those that the tap knows, or else the only two timestamps.
    """
    names = sorted({name for item in items for name in item})
    found = {name: parse_times(items, [name]) for name in names}
    common = [name for name in names if 2 * sum(m is not None for (m,) in found[name]) > len(items)]
    for known in (["start_date", "end_date"], ["start_ts", "last_event_ts"]):
        if {*known} <= {*common}:
            return known
    recent = [
        name for name in common
        if all(m is None or now - 2 * MONTH < m < now + DAY for (m,) in found[name])
    ]  # fmt: skip
    for order in (recent, recent[::-1]) if len(recent) == 2 else ():  # noqa: PLR2004
        if all(a <= b for a, b in parse_times(items, order) if a is not None and b is not None):
            return order
    return []


def parse_times(items: list[Row], names: list[str]) -> list[Any]:
    """Return of each item some timestamps, in seconds since 1970; None for what is none."""
    kinds = {name: {"type": "string", "format": "date-time"} for name in names}
    parse = ObjectParser({"properties": {**kinds, "extra": {"type": "object"}}})

    def seconds(text: str | None) -> float | None:
        return datetime.fromisoformat(text[:-1] + "+00:00").timestamp() if text else None

    return [tuple(seconds(row[name]) for name in names) for row in map(parse, map(dict, items))]


class Endpoint:
    """What one of the endpoints shows.

    Args:
        stream: A stream over it.
        now: Up to when it is asked, in seconds since 1970.
        clock: The time of the run.

    Attributes:
        rows: What is told, by the rows of the table.
        month: The response for the last 28 days; None if there is none.
    """

    def __init__(self, stream: Noted, now: int, clock: Any) -> None:
        self.stream, self.now, self.clock = stream, now, clock
        self.name = f"/{stream.path.lstrip('/')}"
        self.rows = dict.fromkeys(ROWS, UNKNOWN)
        self.month: Listing | None = None
        self.listings: list[Listing] = []
        self.answered = ""
        self.error: CrankWheelError | None = None
        self.unexplained = False
        self._chosen: list[Times] = []
        self._fields: list[str] = []
        self._ended = False

    def ask(self, low: int = 0, high: int = 0) -> Listing | None:
        """Request a range, or none; return None if that fails. `answered` is the status.

        A range may be refused. Another failure ends the questions to this endpoint.
        """
        if self._ended:
            self.answered = UNKNOWN
            return None
        window = Window(*(datetime.fromtimestamp(end, timezone.utc) for end in (low, high)))
        self.stream.status = None
        try:
            payload = self.stream.get(window if high else None).payload
            document = msgspec.json.decode(msgspec.json.encode(payload))
        except CrankWheelError as error:
            self.error, self._ended = error, not isinstance(error, RangeRefusedError)
            return None
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self._ended = True
            return None
        finally:
            self.answered = str(self.stream.status or "no response")
        listing = Listing(payload, document, low, high, self.clock.time())
        self._fields = self._fields or time_fields(listing.items, self.now)
        if self._fields:
            listing.times = parse_times(listing.items, self._fields)
        if high:
            self.listings.append(listing)
        return listing

    def study(self) -> None:
        """Ask all questions."""
        now, rows = self.now, self.rows
        first = now - MONTH
        self.month = month = self.ask(first, now)
        rows["status"] = self.answered
        if month is not None:
            rows["items in 28 days"] = str(len(month.items))
            # Longer than a week, since an end may be cut to the day, and not be inclusive.
            edges = range(first, now, 7 * DAY)
            weeks = [self.ask(max(first, e - 2 * DAY), min(now, e + 9 * DAY)) for e in edges]
            default = self.ask()
            ago = self.ask(now - YEAR - MONTH, now - YEAR)
            rows["a year ago"] = self.answered + (f", {len(ago.items)} items" if ago else "")
            year = self.ask(now - YEAR, now)
            rows["a year in one request"] = self.answered
            self._probe(month.settled(now))
            again = self.ask(first, now)
            stable = month.settled(now) & (again or month).settled(now)
            self._tell_selection(stable)
            if self.rows["looks at the range"] != "no":
                self._tell_weeks(stable, weeks, month.settled(now) | (again or month).settled(now))
                if default and year:
                    self._tell_default(default, year)
            self._tell_items(month)
        rows["asked to wait"] = "yes" if self.stream.waits else "no"

    def _ways(self, known: Collection[Times]) -> list[Way]:
        """Return the ways of selecting that fit all responses."""
        return [way for way in WAYS if all(self._fits(way, known, each) for each in self.listings)]

    def _fits(self, way: Way, known: Collection[Times], listing: Listing) -> bool:
        """Return whether a response lists of known items what a way selects.

        Of the longest list, what is not in it shows nothing: it may be cut.
        """
        listed, cut = set(listing.times), self._is_longest(listing)
        return all(
            way.selects(item, listing.low, listing.high) == (item in listed)
            for item in known
            if item in listed or not cut
        )

    def _is_longest(self, listing: Listing) -> bool:
        return len(listing.items) >= max(len(each.items) for each in self.listings)

    def _probe(self, known: set[Times]) -> None:
        """Request the ranges that tell the most ways apart."""
        by_length = sorted(known, key=lambda i: (i[0] // DAY != i[1] // DAY, i[1] - i[0], i))
        self._chosen = chosen = by_length[-CHOSEN:]
        wanted = ranges(chosen, self.now)
        ways = self._ways(chosen)
        for _ in range(PROBES if wanted else 0):
            best = min(wanted, key=lambda w: left_over(w, ways, chosen))
            wanted.remove(best)
            if listing := self.ask(*best):
                ways = [way for way in ways if self._fits(way, chosen, listing)]

    def _tell_selection(self, known: set[Times]) -> None:
        """Tell how the API selects, by the items that are the same at the end as at the beginning.

        No way of selecting lists an item that ended, or begins, more than two days away.
        """
        listed = [(set(listing.times), listing) for listing in self.listings]
        stray, missing = set(), set()
        for item in known:
            for times, listing in listed:
                before, after = item[1] < listing.low - 2 * DAY, item[0] > listing.high + 2 * DAY
                if (before or after) and item in times:
                    stray.add(item)
                elif (before or after) and not self._is_longest(listing):
                    missing.add(before)
        if stray and all(known <= times for times, _ in listed):
            self.rows["looks at the range"] = "no"
        if stray or not known:
            return
        if len(missing) == 2:
            self.rows["looks at the range"] = "yes"
        some = {*sorted(known)[:: len(known) // ENOUGH + 1], *self._chosen} & known
        ways = self._ways(some)
        self.unexplained = not ways
        for row, name in (
            ("exact to the", "unit"), ("selects by", "by"),
            ("from is inclusive", "from_inclusive"), ("to is inclusive", "to_inclusive"),
        ):  # fmt: skip
            values = {getattr(way, name) for way in ways}
            if len(values) == 1:
                value = values.pop()
                self.rows[row] = {True: "yes", False: "no"}.get(value, value)

    def _tell_weeks(
        self, stable: set[Times], weeks: list[Listing | None], month: set[Times]
    ) -> None:
        """Compare the items of the weeks with those of the month."""
        if stable and all(weeks):
            held = set[Times]().union(*(week.settled(self.now) for week in weeks if week))
            same = stable <= held <= month
            self.rows["weeks hold what the month holds"] = "yes" if same else "no: a list may be cut"

    def _tell_default(self, default: Listing, year: Listing) -> None:
        """Tell how many days are listed without a range, if only one number fits."""
        listed, now = default.settled(self.now), default.arrived
        older = year.settled(self.now) - listed
        if not listed or not older or self._is_longest(default) or now - self.now > DAY:
            return
        # The clocks may differ, and both ends may be cut.
        leeway = max(UNITS.get(self.rows["exact to the"], DAY), HOUR)
        least = (now - min(end for _, end in listed) - leeway) / DAY
        most = (now - max(start for start, _ in older) + leeway) / DAY
        days = range(max(math.ceil(least), 1), math.ceil(most))
        if len(days) == 1:
            self.rows["without a range"] = f"{days[0]} days"

    def _tell_items(self, month: Listing) -> None:
        """Tell what can be seen of single items."""
        rows, items = self.rows, list(zip(month.items, month.times, strict=False))
        if isinstance(self.stream, DemoRequests):
            lasted = [end - start for _, (start, end) in items if start and end]
            if lasted:
                rows["last event before start"] = str(sum(length < 0 for length in lasted))
                rows["longest after it"] = days_text(max(lasted))
            return
        rows["without session_id"] = str(sum(i.get("session_id") is None for i in month.items))
        running = [
            (item, start, end) for item, (start, end) in items
            if start and item.get("session_ended") is False
        ]  # fmt: skip
        ends = set()
        for item, start, end in running:
            if start < month.arrived - HOUR / 3:  # or its start may be about now
                near = end is not None and any(
                    abs(end - now) < HOUR / 6 for now in (self.now, month.arrived)
                )
                null = item.get(self._fields[1]) is None
                ends.add(
                    "null" if null else "its start" if end == start
                    else "about now" if near else "other"
                )  # fmt: skip
        if ends:
            rows["a running session's end_date is"] = ", ".join(sorted(ends))
        if items and all("session_ended" in item for item in month.items):
            never = [self.now - start for _, start, _ in running if start < self.now - DAY]
            longest = f", {days_text(max(never))}" if never else ""
            rows["never ended, longest"] = f"{len(never)}{longest}"

    def compare_ids(self, other: Endpoint) -> None:
        """Tell whether sessions have the same ids as in another endpoint."""
        if self.month and other.month:
            mine, others = self.month.ids(), other.month.ids()
            pairs = [(mine[t], others[t]) for t in mine.keys() & others.keys()]
            if pairs:
                same = all(a == b for a, b in pairs)
                self.rows["same ids as /usage"] = "yes" if same else "no"


def days_text(seconds: float) -> str:
    """Return a length of time in days."""
    return f"{seconds / DAY:.1f} days"


# --- the shape of a response ---------------------------------------------------------------------

#: What the API's description lists as values of a field.
LISTED = {
    "availability_bucket": {"full_capacity", "half_capacity", "no_capacity"},
    "seconds_to_respond": {"never"},
    "call_confirmed": {"true", "false", "n/a"},
    "screenshared": {"true", "false", "n/a"},
    "accepted_from": {"extension", "email", "n/a"},
    "privilege": {"user", "admin", "owner", "reporting"},
}
TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.]\d{1,9})?)?( ?(Z|UTC|[+-]\d\d:?\d\d))?)?", re.ASCII
)
FIELD_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
#: Names made of these words are no person's, also where an object has a key for each person.
WORDS = set(
    "account agent agents aggregate all at average avg by call calls canceled count counts country "
    "cursor data date demo demos duration durations email emails end ended error for from has host "
    "id in info key kind last length limit list log meeting meetings message meta "
    "minutes more name next number of offset overall page pages per privilege request requests s "
    "screen second seconds session sessions share shared shares start started stats status sum "
    "summary tab time title to total totals ts type url user users value viewer viewers webcam "
    "window with".split()
)
TYPES = {
    type(None): "null", bool: "boolean", int: "integer", float: "number", dict: "object",
    list: "list",
}  # fmt: skip


class Place(NamedTuple):
    """A place in a response.

    Attributes:
        name: Where it is.
        kinds: The JSON types that were seen in it; of texts their forms.
        count: In how many objects or lists it was seen.
        total: Of how many.
        known: Whether the tap knows it.
        new: Whether that is worth to be told: the tap knows what else is there.
    """

    name: str
    kinds: list[str]
    count: int
    total: int
    known: bool
    new: bool


def shape(
    name: str, values: list[Any], total: int, schema: Mapping[str, Any] | None, *, new: bool = False
) -> Iterator[Place]:
    """Yield a place and the places inside it.

    Args:
        name: Where it is.
        values: All that was seen there.
        total: In how many objects or lists it could have been.
        schema: The JSON schema, as far as the tap knows it; None if it does not know the place.
        new: As in `Place`.
    """
    field_name = name.rpartition(".")[2]
    kinds = sorted({kind(value, field_name) for value in values})
    yield Place(name, kinds, len(values), total, schema is not None, new)
    name, described = name.partition(" ")[0], schema or {}
    if elements := [element for value in values if isinstance(value, list) for element in value]:
        yield from shape(f"{name}[]", elements, len(elements), described.get("items"))
    objects = [value for value in values if isinstance(value, dict)]
    known = described.get("properties", {})
    open_ended = field_name == "prospect_info"  # whoever writes a web page chooses the names
    hidden = []
    for key, count in sorted(Counter(key for value in objects for key in value).items()):
        usual = 2 * count >= len(objects) >= FEW and (name.endswith("[]") or bool(known))
        words = {*re.split("[_-]", key)} <= WORDS
        own = FIELD_NAME.fullmatch(key) and (usual or words) and not open_ended
        if key in known or own:
            inside = [value[key] for value in objects if key in value]
            place = f"{name}.{key}".removeprefix(".")
            yield from shape(
                place, inside, len(objects), known.get(key), new=bool(known) and key not in known
            )
        else:
            hidden.append(key)
    if hidden:
        inside = [value[key] for value in objects for key in hidden if key in value]
        place = f"{name}.<key>".removeprefix(".") + f" × {len(hidden)}"
        yield from shape(place, inside, len(inside), None, new=bool(known) and not open_ended)


def kind(value: Any, field_name: str) -> str:
    """Return the JSON type of a value; of a text its form."""
    if not isinstance(value, str):
        return TYPES[type(value)]
    if value in LISTED.get(field_name, ()):
        return f"`{value}`"
    return f"`{re.sub('[0-9]', '9', value)}`" if TIMESTAMP.fullmatch(value) else "text"


def known_shape(stream: CrankWheelStream) -> Row:
    """Return the JSON schema of a response, as the tap knows it."""

    def sent(schema: Mapping[str, Any], *computed: str) -> Row:
        return {
            name: {**inner, "properties": sent(inner)} if "properties" in inner else inner
            for name, inner in schema["properties"].items()
            if name not in {"extra", *computed}
        }

    items = {"items": {"properties": sent(SCHEMAS.get_schema(stream.name), "id")}}
    single = {"stats", "total_canceled_requests"}
    return items | {"properties": {n: {} if n in single else items for n in stream.envelope}}


def equal_numbers(month: Listing) -> Iterator[str]:
    """Yield which numbers of `stats` equal what can be counted in the list beside them."""
    items, durations = month.items, [item.get("duration") for item in month.items]
    viewers = [info for item in items if isinstance(info := item.get("viewer_info"), dict)]
    counted = {
        "the number of sessions": len(items),
        "the number of sessions with a viewer": sum(
            any(isinstance(n := info.get(f"{most}viewer_count"), int) and n for most in ("", "max_"))
            for info in viewers
        ),
        "the sum of durations": sum(n for n in durations if isinstance(n, (int, float))),
    }

    def numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if {*re.split("[_-]", key)} <= WORDS:
                    yield from numbers(inner, f"{name}.{key}")
        elif isinstance(value, (int, float)) and value:
            yield name, value

    stats = month.document.get("stats") if isinstance(month.document, dict) else None
    for name, number in numbers(stats, "stats"):
        if equal := [what for what, count in counted.items() if count == number]:
            yield f"`{name}` equals {' and '.join(equal)}."


# --- the report ----------------------------------------------------------------------------------


def differences(endpoint: Endpoint, places: list[Place]) -> Iterator[str]:
    """Yield what differs from what the tap assumes."""
    rows, month, stream = endpoint.rows, endpoint.month, endpoint.stream
    if rows["status"] != "200":
        yield f"its status is {rows['status']}."
    elif month is None:
        yield "its response is not JSON."
    if month is None:
        return
    parse = ObjectParser(SCHEMAS.get_schema(stream.name), stream.computed)
    extra: set[str] = set()
    try:
        for row in stream.parse(month.payload, parse):
            for part, inside in (("", row), *((f"{k}.", v) for k, v in row.items())):
                if isinstance(inside, dict) and not part.startswith("extra"):
                    extra |= {f"{part}{name}" for name in inside["extra"] or {}}
    except InvalidPayloadError as error:
        yield f"the tap cannot read it: {error}."
    item = known_shape(stream)["items"]["properties"]
    inner = {f"{k}.{name}" for k, v in item.items() for name in v.get("properties", {})}
    for name in sorted(extra & (item.keys() | inner)):
        yield f"`{name}` has a type that the tap does not take; it goes into `extra`."
    seen = {place.name.rpartition("[].")[2] for place in places}
    if len(month.items) >= FEW:
        for name in sorted(item.keys() - seen):
            yield f"`{name}` is never sent."
    for place in places:
        if place.new:
            yield f"the tap does not know `{place.name}`."
    for row, expected, text in (
        ("looks at the range", {"yes"}, "it does not look at the range."),
        ("weeks hold what the month holds", {"yes"}, "a list may be cut."),
        ("without a range", {"28 days"}, f"without a range it lists {rows['without a range']}."),
        ("same ids as /usage", {"yes"}, "its ids are not those of `/usage`."),
        ("without session_id", {"0"}, "a session has no `session_id`; the tap computes an `id`."),
        ("last event before start", {"0"}, "a request's last event is before its start."),
    ):
        if rows[row] not in {*expected, UNKNOWN, NOT_HERE}:
            yield text
    if endpoint.unexplained:
        yield "the tap's authors know no way of selecting that fits its lists."
    if isinstance(stream, DemoRequests) and (
        rows["exact to the"] in {"minute", "hour", "day"} or rows["to is inclusive"] == "yes"
    ):
        yield "`total_canceled_requests` of a period may hold those of its neighbors."


def text_of(endpoint: Endpoint, places: list[Place]) -> Iterator[str]:
    """Yield the lines about the shape of a response."""
    yield f"**`{endpoint.name}`**, status {endpoint.rows['status']}:\n"
    if places:
        yield "| Place | Types and forms | In | Known |\n|---|---|---|---|"
    for place in places:
        name = f"`{place.name}`" if place.name else "the response"
        known = "yes" if place.known else "no"
        yield f"| {name} | {', '.join(place.kinds)} | {place.count} of {place.total} | {known} |"
    yield ""
    if endpoint.month is not None and isinstance(endpoint.stream, UsageSessions):
        yield from (f"{line}\n" for line in equal_numbers(endpoint.month))


def report(tap: TapCrankWheel) -> str:
    """Ask all questions.

    Args:
        tap: The tap, with its settings and its clock.

    Returns:
        The report, in Markdown.

    Raises:
        CrankWheelError: The API cannot be reached, or rejects the key.
    """
    shared = next(iter(tap.streams.values())).shared
    now, end = shared.clock.time(), shared.settings.end_date
    now = int(min(now, end.timestamp()) if end else now)
    usage, usage_new, demo_usage, users = endpoints = [
        Endpoint(kind(tap, shared), now, shared.clock)
        for kind in (_Usage, _UsageNew, _DemoUsage, _UserAccess)
    ]
    users.month = users.ask()
    users.rows["status"] = users.answered
    if users.error and users.answered in {"401", "no response"}:
        raise users.error
    histories = endpoints[:3]
    for endpoint in histories:
        tap.logger.info("Asking %s", endpoint.name)
        endpoint.study()
    usage_new.compare_ids(usage)
    for endpoint in histories:
        for row in NOT_OF[endpoint.name]:
            endpoint.rows[row] = NOT_HERE
    places = [
        list(shape("", [e.month.document], 1, known_shape(e.stream))) if e.month else []
        for e in endpoints
    ]
    lines = [
        f"| | {' | '.join(f'`{endpoint.name}`' for endpoint in histories)} |",
        "|---|---|---|---|",
        *(f"| {row} | {' | '.join(e.rows[row] for e in histories)} |" for row in ROWS),
        "",
    ]
    for endpoint, found in zip(endpoints, places, strict=True):
        lines += text_of(endpoint, found)
    differing = [
        f"- `{endpoint.name}`: {text}"
        for endpoint, found in zip(endpoints, places, strict=True)
        for text in differences(endpoint, found)
    ]
    lines += differing or ["Nothing differs from what the tap assumes."]
    return "\n".join(lines)


_SESSIONS = ("without session_id", "a running session's end_date is", "never ended, longest")
_REQUESTS = ("last event before start", "longest after it")
NOT_OF = {
    "/usage": ("same ids as /usage", *_REQUESTS),
    "/usage_new": _REQUESTS,
    "/demo_usage": ("same ids as /usage", *_SESSIONS),
}


class ApiReport(TapCrankWheel):
    """Prints how the API of an account behaves, without any value of the account."""

    @classmethod
    @override
    def get_singer_command(cls) -> click.Command:
        command = super().get_singer_command()
        command.help = cls.__doc__
        command.params = [option for option in command.params if option.name == "config"]
        command.params[0].default = ("ENV",)
        return command

    @classmethod
    @override
    def invoke(cls, *, config: Any, **_: Any) -> None:
        with _one_line_errors():
            tap = cls(config=config.config, parse_env_config=config.parse_env)
        click.echo(report(tap))


if __name__ == "__main__":
    ApiReport.cli()
