"""What the tests of rows, payloads and statistics share: parsed payloads, and any JSON."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import msgspec
from hypothesis import strategies as st

from tap_crankwheel import payloads
from tap_crankwheel.schemas import SCHEMAS
from tap_crankwheel.tap import TapCrankWheel

Row = dict[str, Any]

STREAMS: dict[str, Any] = dict(TapCrankWheel(config={"api_key": "none"}).streams)

SESSION: Row = {"session_id": 11, "email": "ann@example.com", "start_date": "2026-08-30T20:00:30Z"}


REQUEST: Row = {
    "start_ts": "2026-08-30T20:00:30Z",
    "prospect_info": {"prospect-phone": "+15550001"},
}


def schema(stream: str) -> Row:
    return copy.deepcopy(SCHEMAS.get_schema(stream))


def rows(stream: str, body: bytes) -> list[Row]:
    """Return the rows that a stream makes of a response."""
    return list(STREAMS[stream].parse(payloads.parse(body)))


def sessions(*items: object) -> list[Row]:
    return rows("usage_sessions", json.dumps({"sessions": items}).encode())


def requests(*items: object) -> list[Row]:
    return rows("demo_requests", json.dumps({"sessions": items}).encode())


def users(document: object) -> list[Row]:
    return rows("users", json.dumps(document).encode())


# Without U+0000, which does not arrive as it was sent; that has a test of its own.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [2**63, -(2**63) - 1, 1e300, "12", "1e400", "never", "n/a", "true", "", "nan"]
    )
    | st.sampled_from(["2026-08-30T20:00:30Z", "9999-12-31T23:59:59-12:00", "0001-01-01"])
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def _object(fields: Row, needed: Row | None = None) -> st.SearchStrategy[Row]:
    others = st.dictionaries(texts, json_values, max_size=2)
    known = st.fixed_dictionaries(needed or {}, optional=fields)
    return st.tuples(others, known).map(lambda parts: {**parts[0], **parts[1]})


def objects(stream: str, **needed: st.SearchStrategy[Any]) -> st.SearchStrategy[Row]:
    """Return objects with the fields of a stream, or some of them, and others, of any type."""
    fields = {
        name: json_values | _object(dict.fromkeys(field["properties"], json_values))
        if "properties" in field
        else json_values
        for name, field in schema(stream)["properties"].items()
        if name not in needed
    }
    return _object(fields, needed)


starts = st.sampled_from(["2026-08-30T20:00:30Z", 1788120030, "2026-08-30T20:00:30.5+05:30"])


emails = st.sampled_from(["ann@example.com", "bob@example.com", "☃@example.com"])


def assert_valid(stream: str, row: Row) -> None:
    kind = jsonschema.Draft7Validator
    validator = kind(schema(stream), format_checker=kind.FORMAT_CHECKER)
    validator.validate(json.loads(msgspec.json.encode(row).decode()))


def assert_kept(sent: Row, row: Row, made: tuple[str, ...] = ()) -> None:
    """Check that each field that was sent is in the row or in its extra."""
    for name, value in sent.items():
        extra = row["extra"] or {}
        if name in extra:
            assert extra[name] == value
        else:
            assert name in row
            assert name not in {*made, "extra"}
            assert value is None or row[name] is not None or value in ("never", "n/a")
