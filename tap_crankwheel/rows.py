"""Rows: one raw JSON object into one row, typed by its stream's JSON schema.

Everything here is pure. Nothing that the API sends is lost: what a schema does not name, and what
does not fit its type, is in an `extra` under its own name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from tap_crankwheel.windows import format_timestamp, parse_timestamp, to_utc

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tap_crankwheel.schemas import Row

#: Returns a value other than null as its type, or INVALID.
Parse = Callable[[object], object]

INVALID = object()

_INT64 = range(-(2**63), 2**63)
_Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Number = _Integer | Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
#: Epochs from here on (2001) are milliseconds: as seconds, they would lie beyond the year 9999.
_EPOCH_MILLISECONDS = 1e12
_EPOCH_DIGITS = 9
_CANONICAL = re.compile(r"....-..-..T..:..:..\.......Z")


class ObjectParser:
    """Parses raw objects into objects with exactly the keys of a JSON schema, in its order.

    What the schema does not name, and what does not fit its type, goes into the `extra` of the same
    object, so that deselecting an object removes all of it; `extra` is null if there is none.

    Args:
        schema: The JSON schema of the objects, such as a stream's; it names an `extra`.
        computed: The fields that the tap computes. What the API sends under such a name goes into
            `extra`.
    """

    def __init__(self, schema: Mapping[str, Any], computed: Iterable[str] = ()) -> None:
        self._blank: Row = dict.fromkeys(schema["properties"])
        self._fields: list[tuple[str, Parse]] = []
        self._objects: list[tuple[str, ObjectParser]] = []
        for name, field in schema["properties"].items():
            if "properties" in field:
                self._objects.append((name, ObjectParser(field)))
            elif name not in {"extra", *computed}:
                self._fields.append((name, _parser(field)))

    def __call__(self, raw: Row) -> Row:
        """Return the object of a raw one, which is consumed: its fields, typed or in `extra`."""
        row = self._blank.copy()
        invalid: Row = {}
        for name, parse in self._fields:
            if (value := raw.pop(name, None)) is not None:
                typed = parse(value)
                if typed is INVALID:
                    invalid[name] = value
                else:
                    row[name] = typed
        for name, parse_object in self._objects:
            value = raw.pop(name, None)
            if type(value) is not dict:  # see the class's docstring
                value = {} if value is None else {name: value}
            row[name] = parse_object(value)
        if raw or invalid:
            row["extra"] = raw | invalid
        return row


# Fast path: skip msgspec (a microsecond) for values of the right type.


def parse_integer(value: object) -> object:
    """Return a 64-bit integer, also one that is sent as text, or INVALID."""
    return value if type(value) is int and value in _INT64 else _convert(value, _Integer)


def parse_number(value: object) -> object:
    """Return a 64-bit integer or a finite number, also one that is sent as text, or INVALID."""
    return value if type(value) is int and value in _INT64 else _convert(value, _Number)


def _parse_boolean(value: object) -> object:
    return value if type(value) is bool else _convert(value, bool)


def _parse_timestamp(value: object) -> object:
    """Read ISO 8601, in UTC without an offset, or an epoch; the form is undocumented."""
    if type(value) is str:
        if _CANONICAL.fullmatch(value) and _convert(value, datetime) is not INVALID:
            return value
        if value.isdigit() and len(value) < _EPOCH_DIGITS:  # more likely a year, or a date
            return INVALID
    number = _convert(value, float)
    if isinstance(number, float) and abs(number) >= _EPOCH_MILLISECONDS:
        value = number / 1000
    moment = _convert(value, datetime)
    try:
        if moment is INVALID and isinstance(value, str):
            text = value.removesuffix("UTC").rstrip().replace(" +", "+").replace(" -", "-")
            moment = parse_timestamp(text)
        return format_timestamp(to_utc(moment)) if isinstance(moment, datetime) else INVALID
    except (OverflowError, ValueError):
        return INVALID


def _of_type(kind: type) -> Parse:
    return lambda value: value if type(value) is kind else INVALID


def _convert(value: object, kind: Any) -> object:
    try:
        return msgspec.convert(value, kind, strict=False)
    except (msgspec.ValidationError, ValueError):
        return INVALID


_SCALARS: dict[str, Parse] = {
    "boolean": _parse_boolean,
    "integer": parse_integer,
    "number": parse_number,
    "object": _of_type(dict),
    "string": _of_type(str),
}


def _parser(schema: Mapping[str, Any]) -> Parse:
    kind = next(kind for kind in ("array", *_SCALARS) if kind in schema["type"])
    if kind == "array":
        return _list_parser(_parser(schema["items"])) if "items" in schema else _of_type(list)
    return _parse_timestamp if schema.get("format") == "date-time" else _SCALARS[kind]


def _list_parser(parse_item: Parse) -> Parse:
    """Return a parser of lists whose items are all null or fit a type."""

    def parse(value: object) -> object:
        if type(value) is not list:
            return INVALID
        fits = all(item is None or parse_item(item) is not INVALID for item in value)
        return value if fits else INVALID

    return parse
