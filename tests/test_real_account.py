"""The first day with a real account: what is silent and wrong is noticed, what is likely works."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.sandbox.server import VARIANTS, Behaviour, Sandbox
from tap_crankwheel.tap import TapCrankWheel
from tests.support import (
    NOW,
    STREAMS,
    FakeClock,
    Output,
    Row,
    ScriptedSandbox,
    Warehouse,
    all_sessions,
    canonical,
    captured,
    command_line,
    config_for,
    expected_sessions,
    ranges,
    small_account,
    sync,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

USAGE = ("account_stats", "agent_stats", "usage_sessions")


# --- a range that the server ignores -------------------------------------------------------------


def ignoring(usage: Callable[..., Row], now: datetime) -> Any:
    """Answer with the last 28 days, whatever is asked for."""
    return lambda *_: usage(now - timedelta(days=28), now)


@pytest.mark.parametrize("days", [33, 35, 60, 200])
@pytest.mark.parametrize("stream", ["usage_sessions", "demo_requests", *USAGE[:2], "demo_stats"])
@pytest.mark.parametrize("settings", [{}, {"window_days": 366, "stats_period": "month"}], ids=str)
def test_a_range_that_the_server_ignores_ends_the_run(
    stream: str, days: int, settings: Row
) -> None:
    for now in (NOW, NOW - timedelta(days=17)):  # in another part of the month
        whole = Sandbox(small_account(days=220, fixed_now=now))
        whole.server_close()
        server = ScriptedSandbox(
            usage=ignoring(whole.usage, now), demo_usage=ignoring(whole.demo_usage, now)
        )
        lines: list[str] = []
        with server.running() as sandbox:
            start = now - timedelta(days=days)
            config = config_for(sandbox, start_date=start.isoformat(), **settings)
            del config["end_date"]
            with pytest.raises(CrankWheelError, match="ignores the range, perhaps since"):
                sync(config, select=(stream,), clock=FakeClock(now), lines=lines)
        output = Output(lines)
        for value in output.bookmarks.values() if output.states else ():
            assert value < start.isoformat()


def test_a_response_that_is_no_sign_of_an_ignored_range_is_no_alarm() -> None:
    def session(number: int, start: datetime) -> Row:
        return {"session_id": number, "start_date": start.isoformat(), "email": "ann"}

    def odd(_: datetime, end: datetime) -> Row:
        one = end.date().isoformat() == "2026-08-20"  # one record in all, dated wrong
        return {"sessions": [session(1, NOW + timedelta(days=900))] if one else []}

    def a_day_off(start: datetime, end: datetime) -> Row:
        day = timedelta(days=1)
        found = all_sessions(account)
        low, high = (f"{moment + day:%Y-%m-%dT%H:%M:%SZ}" for moment in (start, end))
        return {"sessions": [s for s in found if low <= s["start_date"] <= high]}

    account = small_account()
    for usage in (odd, a_day_off):
        with ScriptedSandbox(usage=usage).running() as sandbox:
            sync(config_for(sandbox, window_days=1), select=USAGE, clock=FakeClock(NOW))


def test_windows_are_cut_30_days_before_the_run(sandbox: Sandbox) -> None:
    config = config_for(sandbox, start_date="2026-01-01", window_days=366)
    sync(config, select=("usage_sessions",), clock=FakeClock(NOW))
    second = timedelta(seconds=1)
    cut = NOW - timedelta(days=30)
    assert sorted(end for _, end in ranges(sandbox, "usage")) == [cut + second, NOW + second]


# --- the endpoint of sessions --------------------------------------------------------------------


def renamed(document: Row) -> Row:
    """Return sessions under names that the tap does not know."""
    names = {"start_date": "start_ts", "session_id": "id"}
    sessions = [{names.get(k, k): v for k, v in s.items()} for s in document["sessions"]]
    return {**document, "sessions": sessions}


class TwoEndpoints(ScriptedSandbox):
    """An account whose `/usage` has other names than `/usage_new`, or is not there."""

    def __init__(self, *, missing: bool) -> None:
        super().__init__()
        self.behaviour = Behaviour(no_access={"usage": 404} if missing else {})
        self.paths: list[str] = []

    def usage(self, start: datetime, end: datetime) -> Any:
        document = super().usage(start, end)
        new = any("/usage_new?" in request for request in self.requests[-12:])
        return document if new else renamed(document)


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("select", [USAGE, USAGE[1:2], USAGE[2:]])
@pytest.mark.parametrize("parallel", [1, 4])
def test_without_a_choice_the_endpoint_that_fits_is_read(
    caplog: pytest.LogCaptureFixture, select: tuple[str, ...], parallel: int, *, missing: bool
) -> None:
    caplog.set_level("INFO")
    with TwoEndpoints(missing=missing).running() as sandbox:
        # Before the account begins there are responses without sessions.
        config = config_for(
            sandbox, start_date="2026-07-01", window_days=1, max_parallel_requests=parallel
        )
        records = sync(config, select=select).records
    if "usage_sessions" in select:
        assert canonical(records["usage_sessions"]) == canonical(expected_sessions(sandbox.account))
    for stream in {*USAGE[:2]} & {*select}:
        meetings = sum(row["meetings"] for row in records[stream])
        assert meetings == len(all_sessions(sandbox.account))
    assert caplog.text.count("reading /usage_new") == 1


def test_an_endpoint_that_fits_or_is_chosen_is_kept_to(sandbox: Sandbox) -> None:
    sync(config_for(sandbox), select=USAGE)
    assert ranges(sandbox, "usage_new") == []
    with TwoEndpoints(missing=True).running() as other, pytest.raises(CrankWheelError, match="404"):
        sync(config_for(other, usage_endpoint="usage"), select=USAGE)
    assert ranges(other, "usage_new") == []
    sandbox.requests.clear()
    sync(config_for(sandbox, usage_endpoint="usage_new"), select=USAGE)
    assert ranges(sandbox, "usage") == []


def test_a_later_odd_session_ends_the_run() -> None:
    def usage(start: datetime, _: datetime) -> Row:
        good = {"session_id": 1, "start_date": start.isoformat(), "email": "ann"}
        odd = {"start": start.isoformat()}
        return {"sessions": [odd if start.day > 20 else good]}

    with ScriptedSandbox(usage=usage).running() as sandbox:
        config = config_for(sandbox, window_days=1)
        with captured(), pytest.raises(CrankWheelError, match="has no usable `start_date`"):
            sync(config, select=("usage_sessions",))
    assert ranges(sandbox, "usage_new") == []


# --- periods that are refused --------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 504])
def test_a_refused_period_is_read_in_halves(status: int) -> None:
    whole = Sandbox(small_account(days=20))
    halved = Sandbox(
        small_account(days=20), Behaviour(range_limit=timedelta(days=9), limit_status=status)
    )
    with whole.running(), halved.running():
        settings = {"start_date": "2026-08-01", "stats_period": "month"}
        expected, output = (sync(config_for(s, **settings)).records for s in (whole, halved))
    for stream in STREAMS:
        rows = expected[stream]
        if stream == "account_stats":  # which the API gives for the whole only
            rows = [{**row, "stats": None} for row in rows]
        assert canonical(output[stream]) == canonical(rows)


# --- selection, state and catalogs ---------------------------------------------------------------


def run(tmp_path: Path, sandbox: Sandbox, **files: object) -> Any:
    arguments = []
    for option, content in {"config": config_for(sandbox), **files}.items():
        path = tmp_path / f"{option}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        arguments += [f"--{option}", str(path)]
    return command_line(*arguments)


def catalog_of(sandbox: Sandbox) -> Any:
    return TapCrankWheel(config=config_for(sandbox)).catalog_dict


def deselect(catalog: Any, *fields: str) -> None:
    """Deselect streams and fields, as `select: ["!users.*"]` does alone or after `*.*`."""
    for entry, metadata in ((e, m) for e in catalog["streams"] for m in e["metadata"]):
        name = ".".join([entry["stream"], *metadata["breadcrumb"][1::2]])
        if name in fields or "*" in fields:
            metadata["metadata"]["selected"] = False


def test_nothing_selected_is_an_error(sandbox: Sandbox, tmp_path: Path) -> None:
    catalog = catalog_of(sandbox)
    deselect(catalog, "*")
    result = run(tmp_path, sandbox, catalog=catalog)
    assert result.exit_code == 1
    assert 'Nothing is selected: select "*.*" first' in result.stderr.splitlines()[-1]


def test_keys_that_are_deselected_are_sent_with_one_warning(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    catalog = catalog_of(sandbox)
    deselect(catalog, "agent_stats.email", "demo_requests.id", "users", "users.email")
    result = run(tmp_path, sandbox, catalog=catalog)
    (line,) = [line for line in result.stderr.splitlines() if "sent though deselected" in line]
    assert "deselected: agent_stats.email, demo_requests.id. A stream map can hash" in line
    assert '"email":"agent1@example.com"' in result.stdout


CASES = {
    "whole message": ({"type": "STATE", "value": {"bookmarks": {}}}, "The state is broken"),
    "as Meltano prints it": ({"singer_state": {"bookmarks": {}}}, "The state is broken"),
    "of another tap": ({"bookmarks": {"contacts": {"lastmodified": "2026"}}}, "a stream contacts"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_state_of_another_form_is_one_line(sandbox: Sandbox, tmp_path: Path, case: str) -> None:
    state, message = CASES[case]
    result = run(tmp_path, sandbox, state=state)
    assert result.exit_code == 1
    assert message in result.stderr.splitlines()[-1]
    assert sandbox.requests == []


def test_a_state_with_a_byte_order_mark_is_read(sandbox: Sandbox, tmp_path: Path) -> None:
    bookmark = {"replication_key": "start_date", "replication_key_value": "2026-08-31T00:00:00Z"}
    state = json.dumps({"bookmarks": {"usage_sessions": bookmark}})
    assert run(tmp_path, sandbox, state=f"\ufeff{state}").exit_code == 0
    assert min(ranges(sandbox, "usage"))[0].date().isoformat() == "2026-08-10"  # of the statistics
    assert "2026-08-23T23:59:59" in {f"{a:%Y-%m-%dT%H:%M:%S}" for a, _ in ranges(sandbox, "usage")}


def test_a_catalog_keeps_the_streams_keys_and_what_it_has_not_is_not_sent(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    plain = sync(config_for(sandbox)).records
    catalog = catalog_of(sandbox)
    for entry in catalog["streams"]:
        del entry["key_properties"]
        properties = entry["schema"]["properties"]
        for name in {"agent_name", "privilege", "stats"} & properties.keys():
            del properties[name]
        for name in {"viewer_info"} & properties.keys():
            del properties[name]["properties"]["locations"]
    result = run(tmp_path, sandbox, catalog=catalog)
    output = Output(result.stdout.splitlines())
    schemas = {m["stream"]: m for m in output.messages if m["type"] == "SCHEMA"}
    assert schemas["usage_sessions"]["key_properties"] == ["id", "start_date"]
    assert all(schema["key_properties"] for schema in schemas.values())
    for stream, rows in output.records.items():
        assert len(rows) == len(plain[stream])
        declared = schemas[stream]["schema"]["properties"]
        assert all(row.keys() == declared.keys() for row in rows)
        assert not {"agent_name", "privilege", "stats"} & declared.keys()
    assert not any("locations" in row["viewer_info"] for row in output.records["usage_sessions"])


def test_a_stream_that_a_catalog_renames_is_one_line(sandbox: Sandbox, tmp_path: Path) -> None:
    catalog = catalog_of(sandbox)
    catalog["streams"][0]["stream"] = "renamed"
    result = run(tmp_path, sandbox, catalog=catalog)
    assert result.exit_code == 1
    assert "--catalog: account_stats is called renamed in it" in result.stderr.splitlines()[-1]


def test_a_new_field_of_a_stream_map_is_logged_once(sandbox: Sandbox, tmp_path: Path) -> None:
    maps = {"users": {"emial": "md5(email)", "email": "md5(email)"}}
    config = config_for(sandbox, stream_maps=maps)
    stderr = run(tmp_path, sandbox, config=config).stderr
    assert stderr.count("stream_maps: users gets a new field emial") == 1
    assert stderr.count("gets a new field") == 1


# --- what the sandbox can be like ----------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_likely_account_is_read_or_ends_the_run(variant: str) -> None:
    with Sandbox(small_account(), Behaviour(**VARIANTS[variant])).running() as sandbox:
        config = config_for(sandbox, start_date="2026-06-01")
        if variant == "ignores-range":
            with captured(), pytest.raises(CrankWheelError, match="ignores the range"):
                sync(config, clock=FakeClock(NOW))
            return
        records = sync(config, clock=FakeClock(NOW)).records
    found = {row["session_id"]: row for row in records["usage_sessions"]}
    listed = {s["session_id"]: s for s in all_sessions(sandbox.account)}
    if variant == "written-late":
        assert 0 < len(found) < len(listed)
        assert sum(row["meetings"] for row in records["account_stats"]) == len(found)
        return
    assert found.keys() == listed.keys()
    for number, row in found.items():
        sent = listed[number]
        assert row["start_date"][:19] == sent["start_date"][:19]
        log = VARIANTS[variant].get("log", sent.get("log"))
        known = "log" in sent and variant not in {"no-log", "log-text"}
        assert row["log"] == (log if known else None)
        if variant == "log-text" and "log" in sent:
            assert row["extra"] == {"log": "https://www.example.com/pricing"}
    infos = [row["prospect_info"] for row in records["demo_requests"]]
    for name, value in VARIANTS[variant].get("prospect_info", {}).items():
        assert {info.get(name, info["extra"].get(name)) for info in infos} == {value}


def test_a_session_that_is_written_late_is_read_by_a_later_run() -> None:
    behaviour = Behaviour(written_after=timedelta(hours=30))
    with Sandbox(small_account(), behaviour).running() as sandbox:
        config = config_for(sandbox)
        del config["end_date"]
        first = sync(config, select=USAGE, clock=FakeClock(NOW))
        sandbox.account.fixed_now = NOW + timedelta(days=2)
        clock = FakeClock(NOW + timedelta(days=2))
        warehouse = Warehouse(first, sync(config, state=first.state, select=USAGE, clock=clock))
        limit = f"{NOW + timedelta(hours=18):%Y-%m-%dT%H:%M}"
        expected = {
            s["session_id"]
            for s in all_sessions(sandbox.account)
            if s["end_date"] < limit or not s["session_ended"]
        }
    assert {row["session_id"] for row in warehouse["usage_sessions"]} == expected
    assert sum(row["meetings"] for row in warehouse["account_stats"]) == len(expected)
