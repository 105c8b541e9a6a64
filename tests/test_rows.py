"""Rows: single values and objects, typed by the schema or kept in `extra`."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

import pytest
from singer_sdk.helpers._typing import conform_record_data_types
from singer_sdk.helpers.conform import TypeConformanceLevel

from tests.payloads import (
    SESSION,
    Row,
    schema,
    sessions,
)
from tests.support import STREAMS, ScriptedSandbox, config_for, sync

if TYPE_CHECKING:
    from tap_crankwheel.sandbox.server import Sandbox


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("2026-08-30T20:00:30.000000Z", "2026-08-30T20:00:30.000000Z"),
        ("2026-08-30T20:00:30Z", "2026-08-30T20:00:30.000000Z"),
        ("2026-08-30T22:00:30.5+02:00", "2026-08-30T20:00:30.500000Z"),
        ("2026-08-30T20:00:30", "2026-08-30T20:00:30.000000Z"),
        ("2026-08-30 20:00", "2026-08-30T20:00:00.000000Z"),
        (1788120030, "2026-08-30T20:00:30.000000Z"),
        (1788120030.25, "2026-08-30T20:00:30.250000Z"),
        ("1788120030", "2026-08-30T20:00:30.000000Z"),
        (1788120030250, "2026-08-30T20:00:30.250000Z"),
        ("1788120030250", "2026-08-30T20:00:30.250000Z"),
        ("2026-08-30 20:00:30 UTC", "2026-08-30T20:00:30.000000Z"),
        ("2026-08-30T22:00:30+0200", "2026-08-30T20:00:30.000000Z"),
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
        ("duration", 600.5, 600.5),
        ("webcam_s", 0, 0),
        ("session_ended", "false", False),
        ("agent_name", "", ""),
        ("log", [{"at": 1}, None], [{"at": 1}, None]),
        ("log", ["tab", 5, [{}]], ["tab", 5, [{}]]),
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
        ("end_date", "Aug 30, 2026 8:00 PM"),
        ("end_date", "Sun Aug 30 2026 20:00:00 GMT-0700 (PDT)"),
        ("end_date", "20260830"),
        ("end_date", "2026"),
        ("end_date", 253402300799.9999999),
        ("end_date", "2026-08-30/20:00"),
        ("end_date", "0001-01-01T00:00:00+14:00"),
        ("duration", "ten minutes"),
        ("duration", "nan"),
        ("duration", 2**63),
        ("duration", False),
        ("agent_name", 5),
        ("session_ended", "perhaps"),
        ("log", "tab"),
        ("log", {"at": 1}),
        ("unheard_of", {"of": ["any", "shape"]}),
        ("id", 5),
        ("extra", "its own"),
    ],
)
def test_what_does_not_fit_goes_to_extra_under_its_own_name(field: str, sent: object) -> None:
    (row,) = sessions({**SESSION, field: sent})
    assert row["extra"] == {field: sent}
    assert row["id"] == "11"


def test_what_does_not_fit_in_an_object_goes_to_the_extra_of_the_object() -> None:
    (row,) = sessions(
        {
            **SESSION,
            "viewer_info": {
                "devices": 2,
                "viewer_count": "3",
                "max_viewer_count": "many",
                "locations": ["Leeds", 7],
                "extra": 1,
            },
        }
    )
    assert row["viewer_info"] == {
        "viewer_count": 3,
        "max_viewer_count": None,
        "locations": None,
        "extra": {
            "devices": 2,
            "max_viewer_count": "many",
            "locations": ["Leeds", 7],
            "extra": 1,
        },
    }
    assert row["extra"] is None


@pytest.mark.parametrize("sent", [{}, {"viewer_info": None}, {"viewer_info": {}}])
def test_an_object_always_has_all_its_keys(sent: Row) -> None:
    (row,) = sessions({**SESSION, **sent})
    assert row["viewer_info"] == {
        "viewer_count": None,
        "max_viewer_count": None,
        "locations": None,
        "extra": None,
    }


@pytest.mark.parametrize("sent", [[1, 2], "Leeds", 0, False, ""])
def test_what_is_not_an_object_is_in_the_extra_of_the_object(sent: object) -> None:
    (row,) = sessions({**SESSION, "viewer_info": sent})
    assert row["viewer_info"]["extra"] == {"viewer_info": sent}
    assert row["extra"] is None


def test_keys_are_in_the_order_of_the_schema() -> None:
    (row,) = sessions({"viewer_info": {"locations": [], "viewer_count": 1}, "log": [], **SESSION})
    properties = schema("usage_sessions")["properties"]
    assert list(row) == list(properties)
    assert list(row["viewer_info"]) == list(properties["viewer_info"]["properties"])


LOGS = [
    [{"at": 1}, None],
    [],
    [{"at": {"x": [1, {"y": None}]}}],
    ["tab"],
    [[{"a": 1}]],
    {"a": 1},
    "x",
]


def test_a_target_that_conforms_records_gets_the_same_values(sandbox: Sandbox) -> None:
    """As SDK targets do it, before they write a record."""
    odd = [{**SESSION, "session_id": n, "log": log, "more": log} for n, log in enumerate(LOGS)]
    with ScriptedSandbox(usage={"sessions": odd}).running() as scripted:
        outputs = [sync(config_for(sandbox)), sync(config_for(scripted, start_date="2026-08-30"))]
    for output in outputs:
        schemas = {m["stream"]: m["schema"] for m in output.messages if m["type"] == "SCHEMA"}
        for stream, rows in output.records.items():
            for row in rows:
                conformed = conform_record_data_types(
                    stream,
                    copy.deepcopy(row),
                    schemas[stream],
                    TypeConformanceLevel.RECURSIVE,
                    logging.getLogger(),
                )
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
