"""Payloads: raw JSON in, typed rows out.

Everything here is pure. Nothing that the API sends is lost: a field that a schema does not name,
and a value that does not fit its type, goes into the row's `extra` under its own name. No message
of an error holds a value, since values can be personal data.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from tap_crankwheel.windows import Window, format_timestamp, parse_timestamp, to_utc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

Row = dict[str, Any]

#: What identifies an event; where that is a digest, what it holds, which tells it from others with
#: the same digest; and its row.
Event = tuple[str, str | None, Row]
Answer = dict[str, msgspec.Raw] | list[msgspec.Raw] | str | int | float | bool | None

#: What the API says instead of nothing, by field of a demo request.
_NOTHING = {
    "seconds_to_respond": "never",
    "call_confirmed": "n/a",
    "screenshared": "n/a",
    "accepted_from": "n/a",
}
_INT64 = range(-(2**63), 2**63)
_MISFIT = object()
_CANONICAL = re.compile(r"....-..-..T..:..:..\.......Z")

# What targets refuse, and would refuse again at every run: U+0000 and halves of surrogate pairs. An
# escape is matched as a whole, so that in "\\u0000" the second backslash starts nothing.
_UNSTORABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_ESCAPE = re.compile(
    rb"\\(?:(u[dD][89abAB]..\\u[dD][c-fC-F]..)|(u0000|u[dD][89a-fA-F]..)|.)", re.DOTALL
)


class NotJSONError(ValueError):
    """An answer is not JSON."""


class ShapeError(ValueError):
    """An answer or an item in it has another shape than the one the tap knows."""


def _finite(text: str) -> float | str:
    """Read a JSON number; one beyond a double stays text, which no target misreads."""
    number = float(text)
    return number if math.isfinite(number) else text


_answer_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
_list_decoder = msgspec.json.Decoder(list[msgspec.Raw] | None)
_decode = msgspec.json.Decoder(float_hook=_finite).decode


def parse(body: bytes) -> Answer:
    """Read the outer layer of an answer.

    Args:
        body: A JSON document. What no target can store (U+0000, lone surrogates) becomes U+FFFD;
            so do bytes that are not UTF-8, when an item with such bytes is read.

    Returns:
        The document, with the values of an object or the items of a list still raw.

    Raises:
        NotJSONError: It is not JSON, or nested beyond reading.
    """
    if _UNSTORABLE.search(body):
        body = _ESCAPE.sub(lambda escape: b"\\ufffd" if escape[2] else escape[0], body)
    try:
        return _answer_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise NotJSONError from error


# --- types ---------------------------------------------------------------------------------------
# A reader takes a value other than null and returns it typed, or _MISFIT. msgspec's lax mode reads
# a number that is sent as text.


def _lax(value: object, kind: Any) -> Any:  # noqa: ANN401 - any type msgspec converts to
    try:
        return msgspec.convert(value, kind, strict=False)
    except (msgspec.ValidationError, ValueError):
        return _MISFIT


def _text(value: object) -> object:
    return value if type(value) is str else _MISFIT


def _boolean(value: object) -> object:
    return value if type(value) is bool else _lax(value, bool)


def _integer(value: object) -> object:
    number = value if type(value) is int else _lax(value, int)
    return number if type(number) is int and number in _INT64 else _MISFIT


def _number(value: object) -> object:
    number = value if type(value) in {int, float} else _lax(value, int | float)
    if type(number) is int:
        return number if number in _INT64 else _MISFIT
    return number if type(number) is float and math.isfinite(number) else _MISFIT


def _timestamp(value: object) -> object:
    """Read ISO 8601, with an offset or without (UTC), or epoch seconds: which is not documented."""
    moment = _lax(value, datetime)
    try:
        if moment is _MISFIT and type(value) is str:
            moment = parse_timestamp(value)
        if moment is _MISFIT:
            return _MISFIT
        if type(value) is str and _CANONICAL.fullmatch(value):
            return value
        return format_timestamp(to_utc(moment))
    except ValueError:
        return _MISFIT


def _list_of(item: Callable[[object], object]) -> Callable[[object], object]:
    def read(value: object) -> object:
        if type(value) is not list:
            return _MISFIT
        for i in value:
            if i is not None and item(i) is _MISFIT:
                return _MISFIT
        return value

    return read


def _any_object(value: object) -> object:
    return value if type(value) is dict else _MISFIT


def _object(name: str, schema: Mapping[str, Any]) -> Callable[[object], object]:
    """Return a reader of an object that a schema describes.

    Nothing moves out of it, so that deselecting it removes all of it: what the schema does not name
    stays, what does not fit goes into its own `extra`, and what is no object is put into one.
    """
    fields = _readers(schema)
    has_extra = "extra" in schema["properties"]

    def read(value: object) -> object:
        if type(value) is not dict:
            return {name: value}
        misfits = {"extra": value.pop("extra")} if has_extra and "extra" in value else {}
        for field, reader in fields:
            if (raw := value.get(field)) is not None and (typed := reader(raw)) is not raw:
                if typed is _MISFIT:
                    misfits[field] = raw
                    typed = None
                value[field] = typed
        if misfits:
            value["extra"] = misfits
        return value

    return read


_SCALARS: dict[str, Callable[[object], object]] = {
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "object": _any_object,
    "string": _text,
}


def _reader(name: str, schema: Mapping[str, Any]) -> Callable[[object], object]:
    kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
    if "properties" in schema:
        return _object(name, schema)
    if kind == "array":
        return _list_of(_reader(name, schema["items"]))
    return _timestamp if schema.get("format") == "date-time" else _SCALARS[kind]


def _readers(
    schema: Mapping[str, Any], made: Iterable[str] = ()
) -> list[tuple[str, Callable[[object], object]]]:
    return [
        (name, _reader(name, field))
        for name, field in schema["properties"].items()
        if name not in {"extra", *made}
    ]


class RowReader:
    """Reads raw objects into rows that are typed by a stream's JSON schema.

    Args:
        schema: The stream's JSON schema.
        made: Names of fields that the tap makes. The API's own fields of such a name are `extra`.
    """

    def __init__(self, schema: Mapping[str, Any], made: Iterable[str] = ()) -> None:
        self._blank: Row = dict.fromkeys(schema["properties"])
        self._fields = _readers(schema, made)

    def __call__(self, raw: Row) -> Row:
        """Return the row of a raw object, which is used up: its fields, typed or in `extra`."""
        row = self._blank.copy()
        misfits: Row = {}
        for name, read in self._fields:
            if (value := raw.pop(name, None)) is not None:
                typed = read(value)
                if typed is _MISFIT:
                    misfits[name] = value
                else:
                    row[name] = typed
        if raw or misfits:
            row["extra"] = raw | misfits
        return row


# --- answers -------------------------------------------------------------------------------------


def _object_of(answer: Answer) -> dict[str, msgspec.Raw]:
    if not isinstance(answer, dict):
        msg = "the answer is not an object"
        raise ShapeError(msg)
    return answer


def _items(answer: Answer) -> list[msgspec.Raw]:
    """Return the raw items of the answer's `sessions`."""
    document = _object_of(answer)
    if "sessions" not in document:
        msg = "the answer has no `sessions`"
        raise ShapeError(msg)
    try:
        return _list_decoder.decode(document["sessions"]) or []
    except msgspec.ValidationError as error:
        msg = "`sessions` is not a list"
        raise ShapeError(msg) from error


def _read(raw: msgspec.Raw) -> Any:  # noqa: ANN401 - any JSON
    try:
        try:
            return _decode(raw)
        except UnicodeDecodeError:
            return _decode(bytes(raw).decode(errors="replace"))
    except (msgspec.MsgspecError, RecursionError) as error:
        msg = "a part of the answer cannot be read"
        raise ShapeError(msg) from error


def _item(raw: msgspec.Raw, what: str) -> Row:
    item = _read(raw)
    if not isinstance(item, dict):
        msg = f"a {what} is not an object"
        raise ShapeError(msg)
    return item


def _require(row: Row, field: str, what: str) -> None:
    if row[field] is None:
        msg = f"a {what} has no usable `{field}`"
        raise ShapeError(msg)


def _digest(*parts: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()


def usage_sessions(answer: Answer, read: RowReader) -> Iterator[Event]:
    """Yield the sessions in an answer of `/usage` or `/usage_new`, in its order.

    Args:
        answer: The answer, as `parse` returns it.
        read: A reader by the schema of usage_sessions, which makes `id`.

    Yields:
        Events whose identity is the API's session_id where it sends one, otherwise a digest of
        email and start.

    Raises:
        ShapeError: It is another answer, or a session lacks what its id or its place in time needs.
    """
    for raw in _items(answer):
        session = _item(raw, "session")
        number = session.get("session_id")
        row = read(session)
        _require(row, "start_date", "session")
        if row["session_id"] is not None:
            number = row["session_id"]
        content = None
        if type(number) is int or (type(number) is str and number):
            row["id"] = str(number)
        else:
            _require(row, "email", "session")
            row["id"] = _digest(row["email"], row["start_date"])
            content = _digest(bytes(raw))
        yield row["id"], content, row


def demo_requests(answer: Answer, read: RowReader) -> Iterator[Event]:
    """Yield the demo requests in an answer of `/demo_usage`, by start.

    Args:
        answer: The answer, as `parse` returns it.
        read: A reader by the schema of demo_requests, which makes `id`.

    Yields:
        Events whose identity is a digest of start, phone and origin; those alike in these come in
        the order of all they hold, and those alike in everything are told apart by their number.

    Raises:
        ShapeError: It is another answer, or a request has no usable start.
    """
    rows = []
    for raw in _items(answer):
        request = _item(raw, "demo request")
        for field, nothing in _NOTHING.items():
            if request.get(field) == nothing:
                request[field] = None
        prospect = request.get("prospect_info")
        if prospect is not None:
            if not isinstance(prospect, dict):
                prospect = {"prospect_info": prospect}
            request["prospect_info"] = prospect = {k: _as_text(v) for k, v in prospect.items()}
        rest = msgspec.json.encode(request, order="sorted")
        row = read(request)
        _require(row, "start_ts", "demo request")
        row["id"] = _digest(
            row["start_ts"],
            *((prospect or {}).get(f"prospect-{key}") for key in ("phone", "request-origin")),
        )
        rows.append((row["start_ts"], row["id"], rest, row))
    rows.sort(key=lambda item: item[:3])
    alike: Counter[bytes] = Counter()
    for _, identity, rest, row in rows:
        alike[rest] += 1
        yield identity, _digest(rest, alike[rest]), row


def _as_text(value: object) -> str | None:
    """Return text as it is, and anything else but null as JSON text."""
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


def users(answer: Answer, read: RowReader) -> list[Row]:
    """Return the users in an answer of `/user_access`, each once.

    Args:
        answer: The answer, as `parse` returns it: a list, or an object that holds one list of
            objects, whatever it is called; which of the two is not documented.
        read: A reader by the schema of users.

    Raises:
        ShapeError: It is another answer, a user has no email, or there are no users at all: an
            account has at least its owner.
    """
    rows: dict[str, Row] = {}
    for raw in _user_list(answer):
        row = read(_item(raw, "user"))
        _require(row, "email", "user")
        if row["in_demo_pool"] is None and "in_demo_pool" not in (row["extra"] or {}):
            row["in_demo_pool"] = False
        rows.setdefault(row["email"], row)
    if not rows:
        msg = "the list of users is empty, and an account has at least its owner"
        raise ShapeError(msg)
    return list(rows.values())


def _user_list(answer: Answer) -> list[msgspec.Raw]:
    if isinstance(answer, list):
        return answer
    lists = [
        _list_decoder.decode(value) or []
        for value in _object_of(answer).values()
        if bytes(value).lstrip().startswith(b"[")
    ]
    if len(lists) != 1:
        msg = "the answer is neither a list nor an object with one list"
        raise ShapeError(msg)
    return lists[0]


# --- statistics ----------------------------------------------------------------------------------


def period_stats(  # noqa: PLR0913 - two answers, and what says how to read them
    usage: Answer,
    demo_usage: Answer,
    *,
    period: Window,
    unit: str,
    read_session: RowReader,
    read_account: RowReader,
) -> tuple[Row, list[Row]]:
    """Compute the statistics of a period.

    Args:
        usage: The answer of `/usage` for the period; it may hold more, which does not count.
        demo_usage: The answer of `/demo_usage`; null where nobody asked for it.
        period: The period.
        unit: What kind of period it is, one of `PERIODS`.
        read_session: A reader by the schema of usage_sessions, which makes `id`.
        read_account: A reader by the schema of account_stats, which makes all but `stats`.

    Returns:
        The row of the account, and a row for each agent with sessions that start in the period, by
        email. Meetings and seconds are counted from the sessions; what the API's own `stats` hold
        is passed on, since their names are not documented.

    Raises:
        ShapeError: It is another answer, or a session lacks a start or an email.
    """
    start, end = map(format_timestamp, period)
    head = {"period": unit, "period_start": start, "period_end": end}
    agents: dict[str, Row] = {}
    seen = set()
    unknown: set[str] = set()  # agents of whom a session does not say how long it was
    for identity, content, session in usage_sessions(usage, read_session):
        if (identity, content) in seen:
            continue
        seen.add((identity, content))
        if start <= session["start_date"] < end:
            _require(session, "email", "session")
            agent = agents.setdefault(
                session["email"],
                {**head, "email": session["email"], "meetings": 0, "total_seconds": 0},
            )
            agent["meetings"] += 1
            seconds = session["duration"]
            if seconds is None and session["session_ended"] is not False:
                unknown.add(session["email"])
            agent["total_seconds"] += seconds or 0

    rest = _beside_sessions(usage)
    stats = rest.get("stats")
    canceled, beside = _canceled(demo_usage)
    account = read_account(rest | beside) | head | {"canceled_demo_requests": canceled}
    account["meetings"] = sum(agent["meetings"] for agent in agents.values())
    account["total_seconds"] = sum(agent["total_seconds"] for agent in agents.values())
    for row in (account, *agents.values()):
        if (unknown and row.get("email", "") in {"", *unknown}) or (
            _number(row["total_seconds"]) is _MISFIT
        ):
            row["total_seconds"] = None

    places: dict[str, list[tuple[str, object]]] = {email: [] for email in agents}
    _collect(stats, "", places)
    for email, found in places.items():
        entry = found[0][1] if len(found) == 1 else dict(found) or None
        fits = entry is None or isinstance(entry, dict)
        agents[email] |= {
            "stats": entry if fits else None,
            "extra": None if fits else {"stats": entry},
        }
    return account, [agents[email] for email in sorted(agents)]


def _beside_sessions(answer: Answer) -> Row:
    """Return what an answer holds beside its list of sessions."""
    return {k: _read(v) for k, v in _object_of(answer).items() if k != "sessions"}


def _canceled(demo_usage: Answer) -> tuple[object, Row]:
    """Return the count of cancelled requests, and what is not that, for `extra`."""
    if demo_usage is None:
        return None, {}
    try:
        _items(demo_usage)  # an error object is no answer
    except ShapeError as error:
        msg = f"/demo_usage: {error}"
        raise ShapeError(msg) from None
    rest = _beside_sessions(demo_usage)
    count = rest.get("total_canceled_requests")
    typed = None if count is None else _integer(count)
    if typed is not _MISFIT:
        rest.pop("total_canceled_requests", None)
        return typed, {"demo_usage": rest} if rest else {}
    return None, {"demo_usage": rest}


def _collect(stats: object, path: str, places: dict[str, list[tuple[str, object]]]) -> None:
    """Add each agent's entries in the API's stats, with their paths, to the agent's places.

    An entry is what stands under the email in a mapping, or a list's item that holds the email as
    a value.
    """
    if isinstance(stats, dict):
        for key, value in stats.items():
            if key in places:
                places[key].append((path, value))
            else:
                _collect(value, f"{path}.{key}" if path else key, places)
    elif isinstance(stats, list):
        for n, item in enumerate(stats):
            place = f"{path}.{n}" if path else str(n)
            values = item.values() if isinstance(item, dict) else ()
            emails = {v for v in values if isinstance(v, str) and v in places}
            for email in emails:
                places[email].append((place, item))
            if not emails:
                _collect(item, place, places)
