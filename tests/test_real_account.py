"""The first day with a real account: what is silent and wrong is noticed, what is likely works."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.sandbox.server import VARIANTS, Behaviour, Sandbox
from tests import support as s

USAGE = ("account_stats", "agent_stats", "usage_sessions")
NOW = s.NOW


# --- the endpoint of sessions --------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["no-usage", "other-names"])
@pytest.mark.parametrize("select", [USAGE, USAGE[1:2], USAGE[2:]])
@pytest.mark.parametrize("parallel", [1, 4])
def test_without_a_choice_the_usable_endpoint_is_read(
    caplog: pytest.LogCaptureFixture, variant: str, select: tuple[str, ...], parallel: int
) -> None:
    caplog.set_level("INFO")
    with Sandbox(s.small_account(), Behaviour(**VARIANTS[variant])).running() as sandbox:
        # Before the account begins there are responses without sessions.
        settings = {"start_date": "2026-07-01", "max_parallel_requests": parallel}
        config = s.config_for(sandbox, window_days=1, **settings)
        records = s.sync(config, select=select).records
    if "usage_sessions" in select:
        expected = s.expected_sessions(sandbox.account)
        assert s.canonical(records["usage_sessions"]) == s.canonical(expected)
    for stream in {*USAGE[:2]} & {*select}:
        meetings = sum(row["meetings"] for row in records[stream])
        assert meetings == len(s.all_sessions(sandbox.account))
    assert caplog.text.count("reading /usage_new") == 1


def test_responses_without_sessions_decide_nothing() -> None:
    quiet = {"replication_key": "period_start", "replication_key_value": "2026-09-16T00:00:00Z"}
    behaviour = Behaviour(**VARIANTS["other-names"])
    with Sandbox(s.small_account(), behaviour).running() as sandbox:
        config = s.config_for(sandbox, start_date="2026-07-01", end_date=None, lookback_days=0)
        state = {"bookmarks": {"account_stats": quiet}}
        later = s.FakeClock(NOW + timedelta(days=20))
        records = s.sync(config, state=state, select=USAGE, clock=later).records
    expected = s.expected_sessions(sandbox.account)
    assert s.canonical(records["usage_sessions"]) == s.canonical(expected)


def test_a_usable_or_chosen_endpoint_is_kept(sandbox: Sandbox) -> None:
    s.sync(s.config_for(sandbox), select=USAGE)
    assert s.ranges(sandbox, "usage_new") == []
    sandbox.requests.clear()
    records = s.sync(s.config_for(sandbox, usage_endpoint="usage_new"), select=USAGE).records
    assert s.ranges(sandbox, "usage") == []
    assert records["usage_sessions"]
    sandbox.requests.clear()
    sandbox.behaviour = Behaviour(no_access={"usage": 404})
    message, _ = s.failing(s.config_for(sandbox, usage_endpoint="usage"), *USAGE)
    assert "404" in message
    assert s.ranges(sandbox, "usage_new") == []


def test_a_later_run_stays_with_the_endpoint_of_the_first(sandbox: Sandbox) -> None:
    config = s.config_for(sandbox)
    del config["end_date"]
    first = s.sync(config, select=USAGE, clock=s.FakeClock(NOW))
    named = {name: "usage_endpoint" in state for name, state in first.state["bookmarks"].items()}
    # The statistics of agents were counted by those of the account, without a request.
    assert named == {"account_stats": True, "agent_stats": False, "usage_sessions": True}
    sandbox.requests.clear()
    sandbox.behaviour = Behaviour(no_access={"usage": 404})
    later: Any = {"select": USAGE, "clock": s.FakeClock(NOW + timedelta(days=1))}
    lines: list[str] = []
    with pytest.raises(CrankWheelError, match=r"404 Not Found.*set usage_endpoint to usage_new"):
        s.sync(config, state=first.state, lines=lines, **later)
    assert s.Output(lines).records == {}
    assert s.ranges(sandbox, "usage_new") == []
    # The setting overrides the state, and is named in it.
    second = s.sync({**config, "usage_endpoint": "usage_new"}, state=first.state, **later)
    assert second.state["bookmarks"]["usage_sessions"]["usage_endpoint"] == "usage_new"
    # One stream's state is enough; without the endpoint, the run decides once more.
    sandbox.requests.clear()
    bookmarks = second.state["bookmarks"]
    del bookmarks["account_stats"]["usage_endpoint"]
    s.sync(config, state=second.state, **later)
    assert s.ranges(sandbox, "usage") == []
    # Where two streams name different ones, that of the sessions counts, in any order.
    bookmarks["account_stats"]["usage_endpoint"] = "usage"
    for order in (bookmarks, dict(reversed(bookmarks.items()))):
        s.sync(config, state={"bookmarks": order}, **later)
        assert s.ranges(sandbox, "usage") == []
    for name in USAGE[::2]:
        del bookmarks[name]["usage_endpoint"]
    third = s.sync(config, state=second.state, **later)
    assert s.ranges(sandbox, "usage") != []
    assert third.state["bookmarks"]["account_stats"]["usage_endpoint"] == "usage_new"


def test_a_stray_404_doubles_no_session() -> None:
    def usage(start: datetime, end: datetime) -> s.Row:
        low, high = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (start, end))
        found = s.all_sessions(s.small_account())
        found = [item for item in found if low <= item["start_date"] <= high]
        new = "/usage_new" in sandbox.requests[-1]
        return {"sessions": [{**x, "session_id": None} if new else x for x in found]}

    with s.ScriptedSandbox(usage=usage).running() as sandbox:
        config = s.config_for(sandbox, max_parallel_requests=1)
        first = s.sync(config, select=USAGE[2:])
        sandbox.behaviour = Behaviour(faults=iter(["404"]))
        lines: list[str] = []
        with pytest.raises(CrankWheelError):
            s.sync(config, state=first.state, select=USAGE[2:], lines=lines)
        second = s.sync(config, state=first.state, select=USAGE[2:])
    warehouse = s.Warehouse(first, s.Output(lines), second)
    assert len(warehouse["usage_sessions"]) == len(s.all_sessions(s.small_account()))


@pytest.mark.parametrize("start_date", ["2026-08-11", "2026-08-25"])
def test_an_odd_session_beside_or_after_usable_ones_ends_the_run(start_date: str) -> None:
    def usage(start: datetime, _: datetime) -> s.Row:
        good = {"session_id": 1, "start_date": start.isoformat(), "email": "ann"}
        odd = {"start": start.isoformat()}
        return {"sessions": [odd, good] if start.day > 20 else [good]}

    with s.ScriptedSandbox(usage=usage).running() as sandbox:
        config = s.config_for(sandbox, start_date=start_date, window_days=1)
        message, _ = s.failing(config, "usage_sessions")
    assert "has no usable `start_date`" in message
    assert s.ranges(sandbox, "usage_new") == []


# --- what the sandbox can be like ----------------------------------------------------------------


@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - {"ignores-range"}))
def test_each_likely_account_is_read(variant: str) -> None:
    behaviour = Behaviour(**VARIANTS[variant], faults=iter(["502"]))  # with its body of errors
    with Sandbox(s.small_account(), behaviour).running() as sandbox:
        config = s.config_for(sandbox, start_date="2026-06-01")
        records = s.sync(config, clock=s.FakeClock(NOW)).records
    found = {row["session_id"]: row for row in records["usage_sessions"]}
    listed = {session["session_id"]: session for session in s.all_sessions(sandbox.account)}
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
    with Sandbox(s.small_account(), behaviour).running() as sandbox:
        config = s.config_for(sandbox)
        del config["end_date"]
        first = s.sync(config, select=USAGE, clock=s.FakeClock(NOW))
        later = sandbox.account.fixed_now = NOW + timedelta(days=2)
        second = s.sync(config, state=first.state, select=USAGE, clock=s.FakeClock(later))
        limit = f"{NOW + timedelta(hours=18):%Y-%m-%dT%H:%M}"
        expected = {
            session["session_id"]
            for session in s.all_sessions(sandbox.account)
            if session["end_date"] < limit or not session["session_ended"]
        }
    warehouse = s.Warehouse(first, second)
    assert {row["session_id"] for row in warehouse["usage_sessions"]} == expected
    assert sum(row["meetings"] for row in warehouse["account_stats"]) == len(expected)
