"""Payloads: the API's answers into events and users.

Everything here is pure. No message of an error holds a value, since values can be personal data.
"""

from __future__ import annotations

import codecs
import hashlib
import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tap_crankwheel.errors import NotJSONError, ShapeError
from tap_crankwheel.rows import parse_integer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tap_crankwheel.rows import ObjectParser, Row

#: A parsed JSON document whose inner values are still raw.
Answer = dict[str, msgspec.Raw] | list[msgspec.Raw] | str | int | float | bool | None

#: Placeholders that the API sends for null, by field of a demo request.
NULL_WORDS = {
    "seconds_to_respond": "never",
    "call_confirmed": "n/a",
    "screenshared": "n/a",
    "accepted_from": "n/a",
}

# What targets refuse, and would refuse again at every run: U+0000 and halves of surrogate pairs. An
# escape is matched as a whole, so that in "\\u0000" the second backslash starts nothing.
_UNSTORABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_ESCAPE = re.compile(
    rb"\\(?:(u[dD][89abAB]..\\u[dD][c-fC-F]..)|(u0000|u[dD][89a-fA-F]..)|.)",
    re.DOTALL,
)


class Event(NamedTuple):
    """A session or a demo request in an answer.

    Attributes:
        identity: What the event is known by.
        content: Tells events that share an identity apart. If it is empty, all that share the
            identity are the same event.
        row: The event's row.
    """

    identity: str
    content: str
    row: Row


def _finite(text: str) -> float | str:
    """Read a JSON number; one beyond a double stays text, which every target reads alike."""
    number = float(text)
    return number if math.isfinite(number) else text


_answer_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
_list_decoder = msgspec.json.Decoder(list[msgspec.Raw] | None)
_decode = msgspec.json.Decoder(float_hook=_finite).decode


def parse(body: bytes) -> Answer:
    """Parse the outer layer of an answer.

    Args:
        body: A JSON document. What no target can store (U+0000, lone surrogates) becomes U+FFFD.
            Bytes that are not UTF-8 do too, once the item that holds them is parsed.

    Returns:
        The document, with the values of an object or the items of a list still raw.

    Raises:
        NotJSONError: It is not JSON, or too deeply nested to read.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    if _UNSTORABLE.search(body):
        body = _ESCAPE.sub(lambda escape: b"\\ufffd" if escape[2] else escape[0], body)
    try:
        return _answer_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise NotJSONError from error


def usage_sessions(answer: Answer, parse_row: ObjectParser) -> Iterator[Event]:
    """Yield the sessions in an answer of `/usage` or `/usage_new`, in its order.

    Args:
        answer: The answer, as `parse` returns it.
        parse_row: The parser for the schema of usage_sessions, where `id` is computed.

    Yields:
        Events whose identity is the API's session_id and the start, or where it sends no number a
        digest of email and start.

    Raises:
        ShapeError: It is not such an answer, or a session has no start, or neither number nor
            email.
    """
    for raw in session_items(answer):
        session = _parse_item(raw, "session")
        number = session.get("session_id")
        row = parse_row(session)
        _require(row, "start_date", "session")
        if row["session_id"] is not None:
            number = row["session_id"]
        if type(number) is int or (type(number) is str and number):
            row["id"] = str(number)
            # Whether a number is unique is undocumented, so the start is a part of the key.
            yield Event(f"{number} {row['start_date']}", "", row)
        else:
            _require(row, "email", "session")
            row["id"] = _digest(row["email"], row["start_date"])
            # One that runs changes from answer to answer, and is one all the same.
            content = "" if row["session_ended"] is False else _digest(bytes(raw))
            yield Event(row["id"], content, row)


def demo_requests(answer: Answer, parse_row: ObjectParser) -> Iterator[Event]:
    """Yield the demo requests in an answer of `/demo_usage`, by start.

    Args:
        answer: The answer, as `parse` returns it.
        parse_row: The parser for the schema of demo_requests, where `id` is computed.

    Yields:
        Events whose identity is a digest of start, phone and origin. Those that share it are sorted
        by all they hold, and those alike in everything are told apart by a number.

    Raises:
        ShapeError: It is not such an answer, or a request has no start.
    """
    rows = []
    for raw in session_items(answer):
        request = _parse_item(raw, "demo request")
        for field, word in NULL_WORDS.items():
            if request.get(field) == word:
                request[field] = None
        prospect = request.get("prospect_info")
        if isinstance(prospect, dict):
            request["prospect_info"] = prospect = {k: _as_text(v) for k, v in prospect.items()}
        else:
            prospect = {}
        fixed = [prospect.get(f"prospect-{key}") for key in ("phone", "request-origin")]
        content = msgspec.json.encode(request, order="sorted")
        row = parse_row(request)
        _require(row, "start_ts", "demo request")
        row["id"] = _digest(row["start_ts"], *fixed)
        rows.append((row["start_ts"], row["id"], content, row))
    rows.sort(key=lambda item: item[:3])
    alike: Counter[bytes] = Counter()
    for _, identity, content, row in rows:
        alike[content] += 1
        yield Event(identity, _digest(content, alike[content]), row)


def users(answer: Answer, parse_row: ObjectParser) -> list[Row]:
    """Return the users in an answer of `/user_access`, each once.

    Args:
        answer: The answer, as `parse` returns it: a list, or an object that holds one list of
            objects, whatever its name. Which of the two the API sends is undocumented.
        parse_row: The parser for the schema of users.

    Raises:
        ShapeError: It is not such an answer, a user has no email, or there are no users at all: an
            account has at least its owner.
    """
    rows: dict[str, Row] = {}
    for raw in _user_items(answer):
        row = parse_row(_parse_item(raw, "user"))
        _require(row, "email", "user")
        if row["in_demo_pool"] is None and "in_demo_pool" not in (row["extra"] or {}):
            row["in_demo_pool"] = False
        rows.setdefault(row["email"], row)
    if not rows:
        raise ShapeError("the list of users is empty, and an account has at least its owner")
    return list(rows.values())


def session_items(answer: Answer) -> list[msgspec.Raw]:
    """Return the raw items of an answer's `sessions`.

    Raises:
        ShapeError: The answer has none, or says that there are more.
    """
    document = require_object(answer)
    if "sessions" not in document:
        raise ShapeError("the answer has no `sessions`", missing=True)
    try:
        items = _list_decoder.decode(document["sessions"]) or []
    except msgspec.ValidationError as error:
        raise ShapeError("`sessions` is not a list") from error
    _require_all(document)
    return items


def beside_sessions(answer: Answer) -> Row:
    """Return what an answer holds beside `sessions`; raise ShapeError if it is not an object."""
    return {k: _parse_raw(v) for k, v in require_object(answer).items() if k != "sessions"}


def _user_items(answer: Answer) -> list[msgspec.Raw]:
    if isinstance(answer, list):
        return answer
    document = require_object(answer)
    lists = [
        _list_decoder.decode(value) or []
        for value in document.values()
        if bytes(value).lstrip().startswith(b"[")
    ]
    if len(lists) != 1:
        raise ShapeError("the answer is neither a list nor an object with one list")
    _require_all(document)
    return lists[0]


def _require_all(document: dict[str, msgspec.Raw]) -> None:
    """Raise ShapeError if an answer says that there is more than it holds."""
    for name in ("has_more", "next"):
        if name in document and _parse_raw(document[name]):
            raise ShapeError(f"`{name}` says that there is more, and no way to ask for it is known")


def require_object(answer: Answer) -> dict[str, msgspec.Raw]:
    """Return an answer that is an object; raise ShapeError for another one."""
    if not isinstance(answer, dict):
        raise ShapeError("the answer is not an object")
    return answer


def _parse_raw(raw: msgspec.Raw) -> Any:  # noqa: ANN401 - any JSON
    try:
        try:
            return _decode(raw)
        except UnicodeDecodeError:
            return _decode(bytes(raw).decode(errors="replace"))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ShapeError("a part of the answer cannot be read") from error


def _parse_item(raw: msgspec.Raw, kind: str) -> Row:
    item = _parse_raw(raw)
    if not isinstance(item, dict):
        raise ShapeError(f"a {kind} is not an object")
    return item


def _require(row: Row, field: str, kind: str) -> None:
    if row[field] is None:
        missing = field not in (row["extra"] or {})
        raise ShapeError(f"a {kind} has no usable `{field}`", missing=missing)


def _digest(*parts: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()


def _as_text(value: object) -> str | None:
    """Return text as it is, and anything else but null as JSON text."""
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
