"""What users do with the catalog and the schema: questions, selection, flattening, maps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tap_crankwheel.tap import TapCrankWheel
from tap_crankwheel.windows import format_timestamp
from tests.support import (
    NOW,
    Output,
    captured,
    config_for,
    sync,
)

if TYPE_CHECKING:
    import pytest

    from tap_crankwheel.sandbox.server import Sandbox


def test_custom_questions_are_declared(sandbox: Sandbox) -> None:
    output = sync(
        config_for(sandbox, custom_questions=["team-size", "name"]),
        select=("demo_requests",),
    )
    (schema,) = (m["schema"] for m in output.messages if m["type"] == "SCHEMA")
    declared = schema["properties"]["prospect_info"]["properties"]
    assert declared["prospect-team-size"]["type"] == ["string", "null"]
    assert "entered" in declared["prospect-name"]["description"]
    assert "prospect-has-crm" not in declared
    assert any("prospect-has-crm" in r["prospect_info"] for r in output.records["demo_requests"])


def test_deselecting_prospect_info_removes_all_of_it(sandbox: Sandbox) -> None:
    with captured() as lines:
        tap = TapCrankWheel(config=config_for(sandbox))
        catalog: Any = tap.catalog_dict
    for entry in catalog["streams"]:
        for metadata in entry["metadata"]:
            if metadata["breadcrumb"] == ["properties", "prospect_info"]:
                metadata["metadata"]["selected"] = False
    with captured() as lines:
        TapCrankWheel(config=config_for(sandbox), catalog=catalog).sync_all()
    output = Output(lines)
    assert output.records["demo_requests"]
    assert "prospect" not in "".join(lines)


FLAT = {"flattening_enabled": True, "flattening_max_depth": 1}


def test_flattening_makes_columns_of_declared_fields_and_text_of_open_objects(
    sandbox: Sandbox,
) -> None:
    questions = ["team-size", "has-crm"]
    plain = sync(config_for(sandbox, custom_questions=questions))
    flat = sync(config_for(sandbox, custom_questions=questions, **FLAT))
    columns = {m["stream"]: m["schema"]["properties"] for m in flat.messages if "schema" in m}
    for stream, field in (
        ("usage_sessions", "log"),
        ("account_stats", "stats"),
        ("agent_stats", "stats"),
        *((stream, "extra") for stream in columns),
    ):
        assert columns[stream][field]["type"] == ["string", "null"]
        for was, row in zip(plain.records[stream], flat.records[stream], strict=True):
            assert (None if row[field] is None else json.loads(row[field])) == was[field]
            undeclared = set(row) - set(columns[stream])
            assert all(row[name] is None for name in undeclared)  # an object that is null
    for was, row in zip(plain.records["demo_requests"], flat.records["demo_requests"], strict=True):
        for question in questions:
            name = f"prospect-{question}"
            assert row[f"prospect_info__{name}"] == was["prospect_info"][name]
    for was, row in zip(
        plain.records["usage_sessions"],
        flat.records["usage_sessions"],
        strict=True,
    ):
        if was["viewer_info"]:
            assert row["viewer_info__max_viewer_count"] == was["viewer_info"]["max_viewer_count"]
            assert json.loads(row["viewer_info__locations"]) == was["viewer_info"]["locations"]


def test_flattening_names_the_questions_that_it_leaves_out_once(
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sync(config_for(sandbox, window_days=1, **FLAT), select=("demo_requests",))
    (warning,) = [r.getMessage() for r in caplog.records if "custom_questions" in r.getMessage()]
    assert warning.endswith("add them to custom_questions: has-crm, team-size")
    caplog.clear()
    questions = ["has-crm", "team-size"]
    sync(config_for(sandbox, custom_questions=questions, **FLAT), select=("demo_requests",))
    sync(config_for(sandbox), select=("demo_requests",))
    assert "custom_questions" not in caplog.text


def test_stream_maps_work_on_every_stream(sandbox: Sandbox) -> None:
    maps = {
        "usage_sessions": {"email": "md5(email)", "agent_name": None},
        "agent_stats": {"email": "md5(email)"},
        "account_stats": {"hours": "total_seconds / 3600"},
        "demo_requests": {"id": "md5(config['salt'] + id)", "prospect_info": None},
        "users": {"domain": "email.split('@')[-1]", "__filter__": "privilege != 'reporting'"},
    }
    output = sync(config_for(sandbox, stream_maps=maps, stream_map_config={"salt": "pepper"}))
    assert {len(row["email"]) for row in output.records["usage_sessions"]} == {32}
    assert "agent_name" not in output.records["usage_sessions"][0]
    assert {len(row["email"]) for row in output.records["agent_stats"]} == {32}
    assert all("hours" in row for row in output.records["account_stats"])
    assert {len(row["id"]) for row in output.records["demo_requests"]} == {32}
    assert "prospect" not in str(output.records["demo_requests"])
    assert {row["domain"] for row in output.records["users"]} == {"example.com"}
    assert len(output.records["users"]) == len(sandbox.account.users) - 1
    assert output.bookmarks["usage_sessions"] == format_timestamp(NOW)
