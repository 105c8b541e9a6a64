"""Payloads: the JSON of a response, and the items in it.

Everything here is pure. No message of an error holds a value, since values can be personal data.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from typing import TYPE_CHECKING, Any

import msgspec

from tap_crankwheel.errors import InvalidPayloadError

if TYPE_CHECKING:
    from tap_crankwheel.schemas import Row

#: A parsed JSON document whose inner values are still raw.
Payload = dict[str, msgspec.Raw] | list[msgspec.Raw] | str | int | float | bool | None

# Characters that PostgreSQL cannot store: NUL and lone surrogates. An escape is matched as a whole,
# so that in "\\u0000" the second backslash starts nothing.
_UNSTORABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_ESCAPE = re.compile(
    rb"\\(?:(u[dD][89abAB]..\\u[dD][c-fC-F]..)|(u0000|u[dD][89a-fA-F]..)|.)",
    re.DOTALL,
)


_payload_decoder: msgspec.json.Decoder[Payload] = msgspec.json.Decoder(Payload)
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


def parse(body: bytes) -> Payload:
    """Parse the outer layer of a response's body.

    Args:
        body: A JSON document. What no target can store (U+0000, lone surrogates) becomes U+FFFD.
            Bytes that are not UTF-8 do too, once the item that holds them is parsed.

    Returns:
        The document, with the values of an object or the items of a list still raw.

    Raises:
        InvalidPayloadError: It is not JSON, or too deeply nested to read.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    if _UNSTORABLE.search(body):
        body = _ESCAPE.sub(lambda escape: b"\\ufffd" if escape[2] else escape[0], body)
    try:
        return _payload_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidPayloadError("the response is not JSON") from error


def session_items(payload: Payload) -> list[msgspec.Raw]:
    """Return the raw items of `sessions`, as `/usage` and `/demo_usage` call their lists.

    Raises:
        InvalidPayloadError: There is no such list, the payload says that there is more, or an
            error stands beside an empty list.
    """
    document = require_object(payload)
    if "sessions" not in document:
        raise InvalidPayloadError("the response has no `sessions`")
    _require_whole(document)
    try:
        items = _decode_list(document["sessions"])
    except msgspec.ValidationError as error:
        raise InvalidPayloadError("`sessions` is not a list") from error
    for name in ("error", "errors"):
        if not items and name in document and _parse_raw(document[name]):
            raise InvalidPayloadError(f"`sessions` is empty, and `{name}` says why")
    return items


def only_list(payload: Payload) -> list[msgspec.Raw]:
    """Return the raw items of a payload that is a list, or an object that holds a single one.

    Raises:
        InvalidPayloadError: It is neither, or says that there is more.
    """
    if isinstance(payload, list):
        return payload
    document = require_object(payload)
    lists = [raw for raw in document.values() if bytes(raw).lstrip().startswith(b"[")]
    if len(lists) != 1:
        raise InvalidPayloadError("the response is neither a list nor an object with one list")
    _require_whole(document)
    return _decode_list(lists[0])


def envelope(payload: Payload) -> Row:
    """Return an object's fields except `sessions`.

    Raises:
        InvalidPayloadError: It is not an object.
    """
    return {k: _parse_raw(v) for k, v in require_object(payload).items() if k != "sessions"}


def require_object(payload: Payload) -> dict[str, msgspec.Raw]:
    """Return a payload that is an object; raise InvalidPayloadError for another one."""
    if not isinstance(payload, dict):
        raise InvalidPayloadError("the response is not an object")
    return payload


def parse_item(raw: msgspec.Raw, kind: str) -> Row:
    """Return an item that is an object.

    Args:
        raw: The item.
        kind: What to call it in an error, such as `session`.

    Raises:
        InvalidPayloadError: It is not an object, or cannot be read.
    """
    item = _parse_raw(raw)
    if not isinstance(item, dict):
        raise InvalidPayloadError(f"a {kind} is not an object")
    return item


def require(row: Row, field: str, kind: str, *advice: str) -> None:
    """Raise InvalidPayloadError if a row has no value for a field; `kind` is as in `parse_item`."""
    if row[field] is None:
        raise InvalidPayloadError(f"a {kind} has no usable `{field}`", *advice)


def not_blank(text: str | None) -> str | None:
    """Return text; None where it is empty or white space alone."""
    return text if text and text.strip() else None


def digest(*parts: object) -> str:
    """Return 32 hexadecimal digits that stand for some JSON values."""
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()


def as_text(value: object) -> str | None:
    """Return text as it is, and anything else but null as JSON text."""
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


def _require_whole(document: dict[str, msgspec.Raw]) -> None:
    """Raise InvalidPayloadError if a payload says that there is more than it holds."""
    for name in ("has_more", "next"):
        if name in document and _parse_raw(document[name]):
            raise InvalidPayloadError(
                f"`{name}` says that there is more, and no way to request it is known"
            )


def _parse_raw(raw: msgspec.Raw) -> Any:
    try:
        try:
            return msgspec.json.decode(raw)
        except UnicodeDecodeError:
            return msgspec.json.decode(bytes(raw).decode(errors="replace"))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidPayloadError("a part of the response cannot be read") from error
