"""Rows: one raw JSON object into one row, typed by its stream's JSON schema.

Everything here is pure. Nothing that the API sends is lost: a field that the schema does not name,
and a value that does not fit its type, goes into the row's `extra` under its own name.
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

Row = dict[str, Any]

#: Returns a value other than null as its type, or INVALID.
Parse = Callable[[object], object]

INVALID = object()

_INT64 = range(-(2**63), 2**63)
_Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Number = _Integer | Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
_CANONICAL = re.compile(r"....-..-..T..:..:..\.......Z")


class RowParser:
    """Parses raw objects into rows that are typed by a stream's JSON schema.

    Args:
        schema: The stream's JSON schema.
        computed: The fields that the tap computes. What the API sends under such a name goes into
            `extra`.
    """

    def __init__(self, schema: Mapping[str, Any], computed: Iterable[str] = ()) -> None:
        self._blank: Row = dict.fromkeys(schema["properties"])
        self._fields = _fields(schema, computed)

    def __call__(self, raw: Row) -> Row:
        """Return the row of a raw object, which is consumed: its fields, typed or in `extra`."""
        row = self._blank.copy()
        invalid: Row = {}
        for name, parse in self._fields:
            if (value := raw.pop(name, None)) is not None:
                typed = parse(value)
                if typed is INVALID:
                    invalid[name] = value
                else:
                    row[name] = typed
        if raw or invalid:
            row["extra"] = raw | invalid
        return row


# The next two check what is typed already themselves: msgspec would take a microsecond to do so.


def parse_integer(value: object) -> object:
    """Return a 64-bit integer, also one that is sent as text, or INVALID."""
    return value if type(value) is int and value in _INT64 else _convert(value, _Integer)


def parse_number(value: object) -> object:
    """Return a 64-bit integer or a finite number, also one that is sent as text, or INVALID."""
    return value if type(value) is int and value in _INT64 else _convert(value, _Number)


def _parse_boolean(value: object) -> object:
    return value if type(value) is bool else _convert(value, bool)


def _parse_text(value: object) -> object:
    return value if type(value) is str else INVALID


def _parse_timestamp(value: object) -> object:
    """Read ISO 8601, in UTC without an offset, or epoch seconds: the form is undocumented."""
    if type(value) is str and _CANONICAL.fullmatch(value):
        return value if _convert(value, datetime) is not INVALID else INVALID
    moment = _convert(value, datetime)
    try:
        if moment is INVALID and isinstance(value, str):
            moment = parse_timestamp(value)
        return format_timestamp(to_utc(moment)) if isinstance(moment, datetime) else INVALID
    except ValueError:
        return INVALID


def _parse_object(value: object) -> object:
    return value if type(value) is dict else INVALID


def _convert(value: object, kind: Any) -> object:  # noqa: ANN401 - any type that msgspec converts to
    try:
        return msgspec.convert(value, kind, strict=False)
    except (msgspec.ValidationError, ValueError):
        return INVALID


_SCALARS: dict[str, Parse] = {
    "boolean": _parse_boolean,
    "integer": parse_integer,
    "number": parse_number,
    "object": _parse_object,
    "string": _parse_text,
}


def _fields(schema: Mapping[str, Any], computed: Iterable[str] = ()) -> list[tuple[str, Parse]]:
    return [
        (name, _parser(name, field))
        for name, field in schema["properties"].items()
        if name not in {"extra", *computed}
    ]


def _parser(name: str, schema: Mapping[str, Any]) -> Parse:
    kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
    if "properties" in schema:
        return _ObjectParser(name, schema)
    if kind == "array":
        return _ListParser(_parser(name, schema["items"]))
    return _parse_timestamp if schema.get("format") == "date-time" else _SCALARS[kind]


class _ListParser:
    """Accepts a list whose items are null or fit a type; it is all or nothing."""

    def __init__(self, parse_item: Parse) -> None:
        self._parse_item = parse_item

    def __call__(self, value: object) -> object:
        if type(value) is not list:
            return INVALID
        for item in value:
            if item is not None and self._parse_item(item) is INVALID:
                return INVALID
        return value


class _ObjectParser:
    """Parses a nested object that a schema describes.

    Nothing moves out of it, so that deselecting it removes all of it: what the schema does not name
    stays, what does not fit goes into its own `extra`, and what is not an object is put into one.
    """

    def __init__(self, name: str, schema: Mapping[str, Any]) -> None:
        self._name = name
        self._fields = _fields(schema)
        self._has_extra = "extra" in schema["properties"]

    def __call__(self, value: object) -> object:
        if type(value) is not dict:
            return {self._name: value}
        invalid = {"extra": value.pop("extra")} if self._has_extra and "extra" in value else {}
        for field, parse in self._fields:
            if (raw := value.get(field)) is not None and (typed := parse(raw)) is not raw:
                if typed is INVALID:
                    invalid[field] = raw
                    typed = None
                value[field] = typed
        if invalid:
            value["extra"] = invalid
        return value
