"""What users do with the catalog and the schema: questions, selection, flattening, maps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tap_crankwheel.tap import TapCrankWheel
from tap_crankwheel.windows import format_timestamp
from tests import support as s

if TYPE_CHECKING:
    from tap_crankwheel.sandbox.server import Sandbox


def test_a_named_question_is_a_field_and_another_one_is_in_extra(sandbox: Sandbox) -> None:
    output = s.sync(
        s.config_for(sandbox, custom_questions=["team-size", "name"]), select=("demo_requests",)
    )
    (declared,) = (m["schema"] for m in output.messages if m["type"] == "SCHEMA")
    fields = declared["properties"]["prospect_info"]["properties"]
    assert list(fields)[-2:] == ["prospect-team-size", "extra"]
    assert fields["prospect-team-size"]["type"] == ["null", "string"]
    assert "entered" in fields["prospect-name"]["description"]
    assert s.canonical(output.records["demo_requests"], "id") == s.canonical(
        s.expected_requests(sandbox.account, ("team-size",)), "id"
    )


def test_deselecting_prospect_info_removes_all_of_it(sandbox: Sandbox) -> None:
    with s.captured() as lines:
        tap = TapCrankWheel(config=s.config_for(sandbox))
        catalog: Any = tap.catalog_dict
    for entry in catalog["streams"]:
        for metadata in entry["metadata"]:
            if metadata["breadcrumb"] == ["properties", "prospect_info"]:
                metadata["metadata"]["selected"] = False
    with s.captured() as lines:
        TapCrankWheel(config=s.config_for(sandbox), catalog=catalog).sync_all()
    output = s.Output(lines)
    assert output.records["demo_requests"]
    assert "prospect" not in "".join(lines)


@pytest.mark.parametrize("depth", [1, *s.slow(0, 2)])
@pytest.mark.parametrize("questions", [[], ["team-size", "has-crm"]], ids=["none", "named"])
def test_flattened_rows_have_the_columns_of_their_schema(
    sandbox: Sandbox, depth: int, questions: list[str]
) -> None:
    plain = s.sync(s.config_for(sandbox, custom_questions=questions))
    config = s.config_for(sandbox, custom_questions=questions, **flat(depth))
    output = s.sync(config)
    columns = {m["stream"]: m["schema"]["properties"] for m in output.messages if "schema" in m}
    assert set(output.records) == set(columns)
    for stream, rows in output.records.items():
        assert {tuple(row) for row in rows} == {tuple(columns[stream])}
        for was, row in zip(plain.records[stream], rows, strict=True):
            assert unflattened(row) == was
    if depth:
        names = set(columns["demo_requests"])
        asked = {"prospect_info__prospect-team-size", "prospect_info__prospect-has-crm"}
        assert names & asked == (asked if questions else set())


def flat(depth: int) -> s.Row:
    return {"flattening_enabled": True, "flattening_max_depth": depth}


def unflattened(row: s.Row) -> s.Row:
    """Return what a flattened row was, written without the SDK's code."""
    result: s.Row = {}
    for column, value in row.items():
        *parents, name = column.split("__")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        nested = name in {"extra", "stats", "log", "locations", "viewer_info", "prospect_info"}
        place[name] = json.loads(value) if nested and isinstance(value, str) else value
    return result


def test_stream_maps_work_on_every_stream(sandbox: Sandbox) -> None:
    maps = {
        "usage_sessions": {"email": "md5(email)", "agent_name": None},
        "agent_stats": {"email": "md5(email)"},
        "account_stats": {"hours": "total_seconds / 3600"},
        "demo_requests": {"id": "md5(config['salt'] + id)", "prospect_info": None},
        "users": {
            "__key_properties__": ["email"],
            "domain": "email.split('@')[-1]",
            "__filter__": "privilege != 'reporting'",
        },
    }
    output = s.sync(s.config_for(sandbox, stream_maps=maps, stream_map_config={"salt": "pepper"}))
    assert {len(row["email"]) for row in output.records["usage_sessions"]} == {32}
    assert "agent_name" not in output.records["usage_sessions"][0]
    assert {len(row["email"]) for row in output.records["agent_stats"]} == {32}
    assert all("hours" in row for row in output.records["account_stats"])
    assert {len(row["id"]) for row in output.records["demo_requests"]} == {32}
    assert "prospect" not in str(output.records["demo_requests"])
    assert {row["domain"] for row in output.records["users"]} == {"example.com"}
    assert len(output.records["users"]) == len(sandbox.account.users) - 1
    assert output.bookmarks["usage_sessions"] == format_timestamp(s.NOW)


def test_stream_maps_can_rename_what_is_in_an_object(sandbox: Sandbox) -> None:
    maps = {
        "demo_requests": {
            "prospect_phone": "prospect_info['prospect-phone']",
            "prospect_info": "__NULL__",
        }
    }
    output = s.sync(s.config_for(sandbox, stream_maps=maps), select=("demo_requests",))
    (declared,) = (m["schema"] for m in output.messages if m["type"] == "SCHEMA")
    assert declared["properties"]["prospect_phone"]["type"] == ["string", "null"]
    phones = [r["prospect_info"]["prospect-phone"] for r in s.all_requests(sandbox.account)]
    assert sorted(row["prospect_phone"] for row in output.records["demo_requests"]) == sorted(
        phones
    )
    assert not any("-" in name for row in output.records["demo_requests"] for name in row)
