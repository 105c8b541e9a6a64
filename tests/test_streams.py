"""What arrives, and what is asked for: whole runs of the tap against the sandbox."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tap_crankwheel import client
from tap_crankwheel.sandbox.server import Behaviour, Sandbox
from tap_crankwheel.streams import UsageSessions
from tap_crankwheel.tap import TapCrankWheel
from tap_crankwheel.windows import Window, format_timestamp, parse_timestamp, periods
from tests.support import (
    NOW,
    Output,
    Row,
    all_requests,
    all_sessions,
    canonical,
    captured,
    config_for,
    expected_requests,
    expected_sessions,
    expected_users,
    small_account,
    sync,
)


def ranges(sandbox: Sandbox, path: str) -> list[tuple[datetime, datetime]]:
    """Return the ranges that a path was asked for."""
    found = []
    for request in sandbox.requests:
        url = urlsplit(request.removeprefix("GET "))
        if url.path.endswith(f"/{path}"):
            params = parse_qs(url.query)
            assert set(params) == {"from", "to"}
            for value in (params["from"][0], params["to"][0]):
                assert len(value) == len("2026-08-30T20:00:00Z")
            found.append((parse_timestamp(params["from"][0]), parse_timestamp(params["to"][0])))
    return found


def state_at(**bookmarks: str) -> Row:
    keys = {
        "usage_sessions": "start_date",
        "demo_requests": "start_ts",
        "account_stats": "period_start",
        "agent_stats": "period_start",
    }
    return {
        "bookmarks": {
            stream: {"replication_key": keys[stream], "replication_key_value": value}
            for stream, value in bookmarks.items()
        }
    }


def check_everything(output: Output, sandbox: Sandbox) -> None:
    """Check that a run emitted the account: nothing lost, doubled or invented."""
    account, records = sandbox.account, output.records
    assert canonical(records["usage_sessions"]) == canonical(expected_sessions(account))
    assert canonical(records["demo_requests"], "id") == canonical(expected_requests(account), "id")
    ids = Counter(row["id"] for row in records["demo_requests"])
    assert set(ids.values()) == {1}
    assert canonical(records["users"]) == canonical(expected_users(account))
    check_stats(output, sandbox)


def check_stats(
    output: Output, sandbox: Sandbox, unit: str = "day", zone: str = "UTC"
) -> list[Window]:
    """Check the statistics against counts of the account's own; return the periods."""
    account = sandbox.account
    window = Window(account.start - timedelta(days=1), account.now)
    found = list(periods(window, unit, zone))
    accounts: list[Row] = []
    agents: list[Row] = []
    canceled = [
        moment
        for n in range(account.days + 1)
        for moment in account.canceled((account.start + timedelta(days=n)).date())
    ]
    for start, end in found:
        inside = [
            session
            for session in all_sessions(account)
            if start <= parse_timestamp(session["start_date"]) < end
        ]
        head = {
            "period": unit,
            "period_start": format_timestamp(start),
            "period_end": format_timestamp(end),
        }
        accounts.append(
            {
                **head,
                "meetings": len(inside),
                "total_seconds": sum(session["duration"] for session in inside),
                "canceled_demo_requests": sum(start <= moment < end for moment in canceled),
                "extra": None,
            }
        )
        for email in {session["email"] for session in inside}:
            own = [session for session in inside if session["email"] == email]
            seconds = sum(session["duration"] for session in own)
            agents.append(
                {
                    **head,
                    "email": email,
                    "meetings": len(own),
                    "total_seconds": seconds,
                    "extra": None,
                }
            )
    assert canonical(output.records["account_stats"], "stats") == canonical(accounts)
    assert canonical(output.records["agent_stats"], "stats") == canonical(agents)
    for row in output.records["agent_stats"]:
        assert set(row["stats"]) == {"meetings", "seconds"}  # the sandbox's own names
    for row in output.records["account_stats"]:
        assert set(row["stats"]) == {"total", "agents"}
    return found


def test_everything_arrives_once(sandbox: Sandbox) -> None:
    check_everything(sync(config_for(sandbox)), sandbox)


@pytest.mark.parametrize("select", ["start", "end", "overlap"])
@pytest.mark.parametrize("inclusive", list(itertools.product([True, False], repeat=2)), ids=str)
@pytest.mark.parametrize("order", ["start", "reverse", "shuffled"])
def test_everything_arrives_once_however_the_api_selects(
    select: str, inclusive: tuple[bool, bool], order: str
) -> None:
    behaviour = Behaviour(select=select, inclusive=inclusive, order=order, wrap_users=True)
    with Sandbox(small_account(days=8), behaviour).running() as sandbox:
        output = sync(config_for(sandbox, window_days=1))
    records, account = output.records, sandbox.account
    assert canonical(records["usage_sessions"]) == canonical(expected_sessions(account))
    assert canonical(records["demo_requests"], "id") == canonical(expected_requests(account), "id")
    assert len({row["id"] for row in records["demo_requests"]}) == len(records["demo_requests"])
    assert canonical(records["users"]) == canonical(expected_users(account))


def test_the_sandbox_holds_what_makes_it_hard() -> None:
    account = small_account()
    sessions, requests = all_sessions(account), all_requests(account)
    assert any(s["start_date"][:10] != s["end_date"][:10] for s in sessions)
    assert any(not s["session_ended"] for s in sessions)
    assert any("viewer_info" not in s for s in sessions)
    assert {"agent_name"} <= set().union(*sessions)
    assert set(account.users) - {s["email"] for s in sessions}
    starts = Counter((r["start_ts"], r["prospect_info"]["prospect-phone"]) for r in requests)
    assert max(starts.values()) == 2
    for field, nothing in (("seconds_to_respond", "never"), ("call_confirmed", "n/a")):
        assert any(r[field] == nothing for r in requests)
    assert any("prospect-team-size" in r["prospect_info"] for r in requests)
    assert not all(str(s).isascii() for s in sessions)


@pytest.mark.parametrize(
    ("unit", "zone"),
    [
        ("hour", "Asia/Kolkata"),
        ("day", "America/New_York"),
        ("week", "Europe/Berlin"),
        ("month", "Pacific/Auckland"),
    ],
)
def test_statistics_by_period_and_zone(unit: str, zone: str) -> None:
    with Sandbox(small_account(days=6)).running() as sandbox:
        config = config_for(sandbox, stats_period=unit, timezone=zone)
        output = sync(config, select=("account_stats", "agent_stats"))
        check_stats(output, sandbox, unit, zone)


def test_the_two_streams_of_statistics_ask_once_between_them(sandbox: Sandbox) -> None:
    sync(config_for(sandbox), select=("account_stats", "agent_stats"))
    asked = Counter(ranges(sandbox, "usage"))
    assert len(asked) == 22
    assert set(asked.values()) == {1}
    assert len(ranges(sandbox, "demo_usage")) == 22


def test_statistics_of_agents_alone_cost_one_request_a_period(sandbox: Sandbox) -> None:
    output = sync(config_for(sandbox), select=("agent_stats",))
    assert len(ranges(sandbox, "usage")) == 22
    assert ranges(sandbox, "demo_usage") == []
    assert output.records["agent_stats"]


def test_a_period_is_asked_for_whole(sandbox: Sandbox) -> None:
    config = config_for(sandbox, start_date="2026-08-20T10:00:00Z", end_date="2026-08-22T10:00:00Z")
    output = sync(config, select=("account_stats",))
    starts = [row["period_start"][:10] for row in output.records["account_stats"]]
    assert starts == ["2026-08-20", "2026-08-21", "2026-08-22"]
    assert max(ranges(sandbox, "usage")) == (
        datetime(2026, 8, 21, 23, 59, 59, tzinfo=timezone.utc),
        datetime(2026, 8, 23, 0, 0, 1, tzinfo=timezone.utc),
    )
    # A count has nothing by which to tell what lies in a margin: none is asked for.
    assert max(ranges(sandbox, "demo_usage")) == (
        datetime(2026, 8, 22, tzinfo=timezone.utc),
        datetime(2026, 8, 23, tzinfo=timezone.utc),
    )


def test_the_running_period_is_asked_for_to_now(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TapCrankWheel, "now", NOW)
    sync(config_for(sandbox, start_date="2026-09-01"), select=("account_stats",))
    assert [end for _, end in ranges(sandbox, "usage")] == [NOW + timedelta(seconds=1)]
    assert [end for _, end in ranges(sandbox, "demo_usage")] == [NOW]


def test_windows_are_asked_for_with_a_second_on_each_side(sandbox: Sandbox) -> None:
    config = config_for(sandbox, start_date="2026-08-20", end_date="2026-08-30T12:00:00.5Z")
    sync(config, select=("usage_sessions",))
    second = timedelta(seconds=1)
    day = datetime(2026, 8, 20, tzinfo=timezone.utc)
    assert sorted(ranges(sandbox, "usage")) == [
        (day - second, day + timedelta(days=7) + second),
        (
            day + timedelta(days=7) - second,
            datetime(2026, 8, 30, 12, 0, 2, tzinfo=timezone.utc),
        ),
    ]


def test_the_endpoint_is_a_setting(sandbox: Sandbox) -> None:
    output = sync(config_for(sandbox, usage_endpoint="usage_new"), select=("usage_sessions",))
    assert ranges(sandbox, "usage") == []
    assert ranges(sandbox, "usage_new")
    assert canonical(output.records["usage_sessions"]) == canonical(
        expected_sessions(sandbox.account)
    )


def test_without_start_date_the_last_28_days_are_read(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TapCrankWheel, "now", NOW)
    config = config_for(sandbox)
    del config["start_date"], config["end_date"]
    sync(config, select=("usage_sessions",))
    asked = ranges(sandbox, "usage")
    second = timedelta(seconds=1)
    assert min(asked)[0] == NOW - timedelta(days=28) - second
    assert max(asked)[1] == NOW + second


# --- bookmarks -----------------------------------------------------------------------------------


def test_the_bookmark_moves_with_each_complete_window(sandbox: Sandbox) -> None:
    config = config_for(sandbox, window_days=5, start_date="2026-08-01", end_date="2026-08-21")
    output = sync(config, select=("usage_sessions",))
    seen: list[tuple[str, int]] = []
    records = 0
    for message in output.messages:
        if message["type"] == "RECORD":
            records += 1
            assert message["record"]["start_date"] < "2026-08-21"
        if message["type"] == "STATE":
            bookmark = message["value"]["bookmarks"]["usage_sessions"]
            if value := bookmark.get("replication_key_value"):
                seen.append((value[:10], records))
    # The history begins on 12 August: the first two windows are empty, and count.
    assert [value for value, _ in dict(seen).items()] == [
        "2026-08-06",
        "2026-08-11",
        "2026-08-16",
        "2026-08-21",
    ]
    expected = [
        sum(s["start_date"] < value for s in all_sessions(sandbox.account)) for value, _ in seen
    ]
    assert [count for _, count in seen] == expected
    assert expected[0] == expected[1] == 0


def test_the_bookmark_does_not_move_within_a_window(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UsageSessions, "STATE_MSG_FREQUENCY", 1)
    config = config_for(sandbox, window_days=5, start_date="2026-08-11", end_date="2026-08-31")
    output = sync(config, select=("usage_sessions",))
    values = [
        state["bookmarks"]["usage_sessions"].get("replication_key_value")
        for state in output.states
        if "usage_sessions" in state["bookmarks"]
    ]
    edges = ["2026-08-16", "2026-08-21", "2026-08-26", "2026-08-31"]
    assert {value[:10] for value in values if value} == set(edges)


def test_the_bookmark_of_statistics_is_the_last_periods_start(sandbox: Sandbox) -> None:
    output = sync(config_for(sandbox), select=("account_stats", "agent_stats"))
    assert output.bookmarks == {
        "account_stats": "2026-09-01T00:00:00.000000Z",
        "agent_stats": "2026-09-01T00:00:00.000000Z",
    }


def test_a_run_begins_at_the_bookmark_less_the_lookback(sandbox: Sandbox) -> None:
    state = state_at(
        usage_sessions="2026-08-30T12:00:00.000000Z",
        demo_requests="2026-08-29T00:00:00.000000Z",
        account_stats="2026-08-31T00:00:00.000000Z",
    )
    config = config_for(sandbox, lookback_days=2)
    output = sync(config, state=state, select=("usage_sessions", "demo_requests"))
    second = timedelta(seconds=1)
    assert ranges(sandbox, "usage") == [
        (datetime(2026, 8, 28, 12, tzinfo=timezone.utc) - second, NOW + second)
    ]
    assert ranges(sandbox, "demo_usage") == [
        (datetime(2026, 8, 27, tzinfo=timezone.utc) - second, NOW + second)
    ]
    assert output.bookmarks["usage_sessions"] == format_timestamp(NOW)

    sandbox.requests.clear()
    output = sync(config, state=state, select=("account_stats",))
    assert [row["period_start"][:10] for row in output.records["account_stats"]] == [
        "2026-08-29",
        "2026-08-30",
        "2026-08-31",
        "2026-09-01",
    ]


def test_a_run_never_begins_before_the_start_date(sandbox: Sandbox) -> None:
    state = state_at(usage_sessions="2026-08-30T12:00:00.000000Z")
    sync(
        config_for(sandbox, start_date="2026-08-30T06:00:00Z"),
        state=state,
        select=("usage_sessions",),
    )
    assert ranges(sandbox, "usage")[0][0] == datetime(2026, 8, 30, 5, 59, 59, tzinfo=timezone.utc)


def test_without_start_date_an_old_bookmark_is_not_cut_short(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TapCrankWheel, "now", NOW)
    config = config_for(sandbox)
    del config["start_date"]
    state = state_at(usage_sessions="2026-06-02T00:00:00.000000Z")
    sync(config, state=state, select=("usage_sessions",))
    assert min(ranges(sandbox, "usage"))[0].date().isoformat() == "2026-05-31"


def test_the_bookmark_does_not_move_back(sandbox: Sandbox) -> None:
    state = state_at(usage_sessions="2026-08-31T00:00:00.000000Z")
    config = config_for(sandbox, lookback_days=10, window_days=1, end_date="2026-08-25")
    output = sync(config, state=state, select=("usage_sessions",))
    assert output.records["usage_sessions"]
    assert output.bookmarks == {"usage_sessions": "2026-08-31T00:00:00.000000Z"}


@pytest.mark.parametrize("settings", [{"start_date": "2026-09-02"}, {"end_date": "2026-08-11"}])
def test_an_empty_range_asks_for_nothing_and_leaves_the_state(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, settings: Row
) -> None:
    monkeypatch.setattr(TapCrankWheel, "now", NOW)
    config = config_for(sandbox)
    del config["end_date"]
    bookmarks = {
        "usage_sessions": "2026-08-31T12:00:00.000000Z",
        "demo_requests": "2026-08-31T12:00:00.000000Z",
        "account_stats": "2026-08-31T00:00:00.000000Z",
        "agent_stats": "2026-08-31T00:00:00.000000Z",
    }
    output = sync({**config, **settings}, state=state_at(**bookmarks), select=tuple(bookmarks))
    assert sandbox.requests == []
    assert not output.records
    assert output.bookmarks == bookmarks


def test_an_end_date_in_the_future_is_now(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TapCrankWheel, "now", NOW)
    output = sync(config_for(sandbox, end_date="2030-01-01"), select=("usage_sessions",))
    assert output.bookmarks == {"usage_sessions": format_timestamp(NOW)}
    assert max(ranges(sandbox, "usage"))[1] == NOW + timedelta(seconds=1)


def test_a_bookmark_in_the_future_is_taken_for_now(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(TapCrankWheel, "now", NOW)
    state = state_at(
        usage_sessions="2026-10-01T00:00:00.000000Z", account_stats="2026-10-01T00:00:00.000000Z"
    )
    config = config_for(sandbox, lookback_days=3, window_days=1)
    output = sync(config, state=state, select=("usage_sessions", "account_stats"))
    assert output.bookmarks == {
        "usage_sessions": format_timestamp(NOW),
        "account_stats": "2026-09-01T00:00:00.000000Z",
    }
    assert min(ranges(sandbox, "usage"))[0].date().isoformat() == "2026-08-28"
    # Until its windows are complete, it does not claim more than they hold.
    written = [s["bookmarks"]["usage_sessions"]["replication_key_value"] for s in output.states]
    assert "2026-08-30T15:20:00.000000Z" in written
    assert "lies in the future" in caplog.text


def test_what_runs_in_one_run_is_finished_in_the_next(sandbox: Sandbox) -> None:
    first = sync(config_for(sandbox))
    running = {s["id"] for s in first.records["usage_sessions"] if not s["session_ended"]}
    assert running
    sandbox.account.fixed_now = NOW + timedelta(hours=20)
    sandbox.account.days += 1  # the history still begins on the same day
    second = sync(config_for(sandbox), state=first.state)
    union = {s["id"]: s for run in (first, second) for s in run.records["usage_sessions"]}
    assert canonical(list(union.values())) == canonical(expected_sessions(sandbox.account))
    assert all(union[number]["session_ended"] for number in running)
    requests = {r["id"]: r for run in (first, second) for r in run.records["demo_requests"]}
    assert canonical(list(requests.values()), "id") == canonical(
        expected_requests(sandbox.account), "id"
    )


def test_a_daily_run_asks_for_no_more_than_the_lookback_needs(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TapCrankWheel, "now", NOW)
    config = config_for(sandbox)
    del config["end_date"]
    first = sync(config)
    sandbox.requests.clear()
    monkeypatch.setattr(TapCrankWheel, "now", NOW + timedelta(days=1))
    sync(config, state=first.state)
    assert len(sandbox.requests) == 9  # the README states this number


def test_a_stream_that_is_not_selected_asks_for_nothing(sandbox: Sandbox) -> None:
    sync(config_for(sandbox), select=("users",))
    assert [request.rpartition("/")[2] for request in sandbox.requests] == ["user_access"]


def test_a_tap_can_be_run_twice_in_a_process(sandbox: Sandbox) -> None:
    runs: list[Output] = []
    tap = TapCrankWheel(config=config_for(sandbox, window_days=2))
    for _ in range(2):
        tap.state.pop("bookmarks", None)
        with captured() as lines:
            tap.sync_all()
        runs.append(Output(lines))
    for run in runs:
        check_everything(run, sandbox)


def test_full_table_replication_ignores_the_bookmark(sandbox: Sandbox) -> None:
    with captured() as lines:
        tap = TapCrankWheel(
            config=config_for(sandbox),
            state=state_at(usage_sessions="2026-08-31T00:00:00.000000Z"),
        )
        for name, stream in tap.streams.items():
            stream.selected = name == "usage_sessions"
            stream.forced_replication_method = "FULL_TABLE"
        tap.sync_all()
    output = Output(lines)
    assert canonical(output.records["usage_sessions"]) == canonical(
        expected_sessions(sandbox.account)
    )
    # A part of the history replaces nothing.
    assert "ACTIVATE_VERSION" not in {kind for kind, _ in output.types}


# --- users ---------------------------------------------------------------------------------------


def test_the_version_is_activated_once_the_list_has_arrived(sandbox: Sandbox) -> None:
    output = sync(config_for(sandbox))
    kinds = [kind for kind, stream in output.types if stream == "users"]
    assert kinds == ["SCHEMA", "ACTIVATE_VERSION", *["RECORD"] * len(sandbox.account.users)]
    versions = {m.get("version") for m in output.messages if m.get("stream") == "users"}
    assert len(versions - {None}) == 1
    others = [m for m in output.messages if m["type"] == "RECORD" and m["stream"] != "users"]
    assert not any("version" in message for message in others)


def test_activating_versions_can_be_turned_off(sandbox: Sandbox) -> None:
    output = sync(config_for(sandbox, emit_activate_version_messages=False), select=("users",))
    assert "ACTIVATE_VERSION" not in {kind for kind, _ in output.types}
    assert output.records["users"]


# --- questions -----------------------------------------------------------------------------------


def test_custom_questions_are_declared(sandbox: Sandbox) -> None:
    output = sync(
        config_for(sandbox, custom_questions=["team-size", "name"]), select=("demo_requests",)
    )
    (schema,) = (m["schema"] for m in output.messages if m["type"] == "SCHEMA")
    declared = schema["properties"]["prospect_info"]["properties"]
    assert declared["prospect-team-size"]["type"] == ["string", "null"]
    assert "entered" in declared["prospect-name"]["description"]
    assert "prospect-has-crm" not in declared
    assert any("prospect-has-crm" in r["prospect_info"] for r in output.records["demo_requests"])


# --- selection -----------------------------------------------------------------------------------


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


# --- flattening ----------------------------------------------------------------------------------

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
        plain.records["usage_sessions"], flat.records["usage_sessions"], strict=True
    ):
        if was["viewer_info"]:
            assert row["viewer_info__max_viewer_count"] == was["viewer_info"]["max_viewer_count"]
            assert json.loads(row["viewer_info__locations"]) == was["viewer_info"]["locations"]


def test_flattening_names_the_questions_that_it_leaves_out_once(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
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


# --- clocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [-30, 30])
def test_a_clock_that_differs_from_the_servers_costs_nothing(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    union: dict[str, Row] = {}
    config = config_for(sandbox)
    del config["end_date"]
    state: Row | None = None
    for hours in (0, 6, 12, 18, 24):
        here = NOW + timedelta(hours=hours)
        monkeypatch.setattr(TapCrankWheel, "now", here)
        sandbox.account.fixed_now = here + timedelta(minutes=minutes)
        sandbox.account.days = (sandbox.account.now - NOW).days + 20
        output = sync(config, state=state, select=("usage_sessions",))
        state = output.state
        assert output.bookmarks["usage_sessions"] == format_timestamp(here)
        union |= {row["id"]: row for row in output.records["usage_sessions"]}
    sandbox.account.fixed_now = NOW + timedelta(hours=24, minutes=min(minutes, 0))
    seen = [row for row in union.values() if row["start_date"] <= format_timestamp(here)]
    numbers = {s["session_id"] for s in all_sessions(sandbox.account)}
    assert {row["session_id"] for row in seen} >= numbers


@pytest.mark.parametrize(
    "fault", ["401", "403", "404", "400", "429", "500", "reset", "truncate", "html"]
)
def test_no_version_is_activated_when_the_list_of_users_fails(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(client, "MAX_TRIES", 1)
    sandbox.behaviour = Behaviour(faults=itertools.repeat(fault))
    lines: list[str] = []
    with pytest.raises(client.CrankWheelError):
        sync(config_for(sandbox), select=("users",), lines=lines)
    kinds = [kind for kind, stream in Output(lines).types if stream == "users"]
    assert kinds == ["SCHEMA"]
