"""Rows: single values and objects, typed by the schema or kept in `extra`."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

import pytest
from singer_sdk.helpers._typing import conform_record_data_types
from singer_sdk.helpers.conform import TypeConformanceLevel

from tap_crankwheel.rows import ObjectParser
from tests.payloads import SESSION, Row, schema, sessions
from tests.support import STREAMS, ScriptedSandbox, config_for, sync

if TYPE_CHECKING:
    from tap_crankwheel.sandbox.server import Sandbox


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("2026-08-30T20:00:30.000000Z", "2026-08-30T20:00:30.000000Z"),
        ("2026-08-30T20:00:30Z", "2026-08-30T20:00:30.000000Z"),
        ("2026-08-30T22:00:30.5+02:00", "2026-08-30T20:00:30.500000Z"),
        ("2026-08-30 20:00", "2026-08-30T20:00:00.000000Z"),
        (1788120030, "2026-08-30T20:00:30.000000Z"),
        ("1788120030", "2026-08-30T20:00:30.000000Z"),
        (1788120030250, "2026-08-30T20:00:30.250000Z"),
        ("2026-08-30 20:00:30 UTC", "2026-08-30T20:00:30.000000Z"),
        ("2026-08-30 22:00:30 +0200", "2026-08-30T20:00:30.000000Z"),
    ],
)
def test_timestamps_come_in_many_forms(sent: object, read: str) -> None:
    (row,) = sessions({**SESSION, "start_date": sent})
    assert row["start_date"] == read
    assert row["extra"] is None


@pytest.mark.parametrize(
    ("field", "sent", "read"),
    [
        ("duration", "600", 600),
        ("duration", "600.5", 600.5),
        ("webcam_s", 0, 0),
        ("session_ended", "false", False),
        ("agent_name", "", ""),
        ("log", [{"at": 1}, None], [{"at": 1}, None]),
    ],
)
def test_values_are_typed(field: str, sent: object, read: object) -> None:
    (row,) = sessions({**SESSION, field: sent})
    assert row[field] == read
    assert type(row[field]) is type(read)
    assert row["extra"] is None


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("end_date", "soon"),
        ("end_date", True),
        ("end_date", 10**15),
        ("end_date", "Sun, 30 Aug 2026 22:00:30 +0200"),
        ("end_date", "2026-02-30T23:59:60Z"),
        ("end_date", "2026-02-30T20:00:30.000000Z"),
        ("end_date", "20260830"),
        ("end_date", 253402300799.9999999),
        ("end_date", "0001-01-01T00:00:00+14:00"),
        ("duration", "ten minutes"),
        ("duration", "nan"),
        ("duration", 2**63),
        ("duration", False),
        ("agent_name", 5),
        ("session_ended", "perhaps"),
        ("log", "tab"),
        ("unheard_of", {"of": ["any", "shape"]}),
        ("id", 5),
        ("extra", "its own"),
    ],
)
def test_what_does_not_fit_goes_to_extra_under_its_own_name(field: str, sent: object) -> None:
    (row,) = sessions({**SESSION, field: sent})
    assert row["extra"] == {field: sent}
    assert row["id"] == "11"


BLANK = dict.fromkeys(("viewer_count", "max_viewer_count", "locations", "extra"))
ODD = {"devices": 2, "max_viewer_count": "many", "locations": ["Leeds", 7], "extra": 1}


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ({}, BLANK),
        ({"viewer_info": None}, BLANK),
        ({"viewer_info": {}}, BLANK),
        ({"viewer_info": [1, 2]}, {**BLANK, "extra": {"viewer_info": [1, 2]}}),
        ({"viewer_info": False}, {**BLANK, "extra": {"viewer_info": False}}),
        ({"viewer_info": ODD | {"viewer_count": "3"}}, {**BLANK, "viewer_count": 3, "extra": ODD}),
    ],
)
def test_an_object_has_all_its_keys_and_what_does_not_fit_in_its_own_extra(
    sent: Row, read: Row
) -> None:
    (row,) = sessions({**SESSION, **sent})
    assert row["viewer_info"] == read
    assert row["extra"] is None


LOGS = [[{"at": 1}, None], [], [{"at": {"x": [1, {"y": None}]}}], ["tab"], [[{"a": 1}]], "x"]


def test_a_target_that_conforms_records_gets_the_same_values(sandbox: Sandbox) -> None:
    """As SDK targets do it, before they write a record."""
    odd = [{**SESSION, "session_id": n, "log": log, "more": log} for n, log in enumerate(LOGS)]
    with ScriptedSandbox(usage={"sessions": odd}).running() as scripted:
        outputs = [sync(config_for(sandbox)), sync(config_for(scripted, start_date="2026-08-30"))]
    for output in outputs:
        schemas = {m["stream"]: m["schema"] for m in output.messages if m["type"] == "SCHEMA"}
        for stream, rows in output.records.items():
            for row in rows:
                level, logger = TypeConformanceLevel.RECURSIVE, logging.getLogger()
                sent = copy.deepcopy(row)
                conformed = conform_record_data_types(stream, sent, schemas[stream], level, logger)
                assert conformed == row


def test_schemas_say_what_integers_fit() -> None:
    def walk(node: Row) -> None:
        kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
        assert node.get("description") or "items" not in node
        if "integer" in kinds:
            assert node["maximum"] == 2**63 - 1
            assert node["minimum"] in {0, -(2**63)}
        for child in node.get("properties", {}).values():
            assert child["description"]
            walk(child)
        if "items" in node:
            walk(node["items"])

    for stream in STREAMS:
        walk(schema(stream))


def test_null_may_stand_on_either_side_of_a_type() -> None:
    types = {"a": {"type": ["string", "null"]}, "b": {"type": ["null", "integer"]}}
    parse = ObjectParser({"properties": {**types, "c": {"type": "boolean"}, "extra": {}}})
    assert parse({"a": "x", "b": "1", "c": 2}) == {"a": "x", "b": 1, "c": None, "extra": {"c": 2}}
