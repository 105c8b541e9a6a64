"""The first day with a real account: what is silent and wrong is noticed, what is likely works."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tap_crankwheel.sandbox.server import VARIANTS, Behaviour, Sandbox
from tests import support as s

if TYPE_CHECKING:
    from pathlib import Path

USAGE = ("account_stats", "agent_stats", "usage_sessions")
NOW = s.NOW


# --- the endpoint of sessions --------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["no-usage", "other-names"])
@pytest.mark.parametrize("stream", USAGE)
def test_an_endpoint_without_usable_sessions_ends_the_run_with_what_to_set(
    variant: str, stream: str
) -> None:
    with Sandbox(s.small_account(), Behaviour(**VARIANTS[variant])).running() as sandbox:
        # Before the account begins there are responses without sessions.
        config = s.config_for(sandbox, window_days=1, start_date="2026-08-08")
        message, _ = s.failing(config, stream)
        assert "et usage_endpoint to usage_new, or back to usage." in message
        assert s.ranges(sandbox, "usage_new") == []
        records = s.sync({**config, "usage_endpoint": "usage_new"}, select=USAGE).records
    expected = s.expected_sessions(sandbox.account)
    assert s.canonical(records["usage_sessions"]) == s.canonical(expected)
    assert sum(row["meetings"] for row in records["account_stats"]) == len(expected)


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("arguments", [(), ("--test",)], ids=str)
def test_a_missing_endpoint_is_told_with_the_other_one(
    tmp_path: Path, sandbox: Sandbox, status: int, arguments: tuple[str, ...]
) -> None:
    sandbox.behaviour = Behaviour(no_access={"usage_new": status})
    config = s.config_for(sandbox, usage_endpoint="usage_new")
    line = s.error_line(s.run(tmp_path, config, *arguments))
    assert "GET /usage_new for" in line
    advice = "check api_url. If it is right, set usage_endpoint to usage_new, or back to usage."
    assert line.endswith(advice) == (status == 404)
    assert ("usage_endpoint" in line) == (status == 404)


@pytest.mark.parametrize("odd", [{"start": 0, "session_id": 1}, {"start_date": 0}], ids=str)
def test_an_odd_session_beside_usable_ones_ends_the_run(odd: s.Row) -> None:
    def usage(start: datetime, _: datetime) -> s.Row:
        return {"sessions": [{"session_id": 1, "start_date": start.isoformat()}, odd]}

    with s.ScriptedSandbox(usage=usage).running() as sandbox:
        message, _ = s.failing(s.config_for(sandbox, window_days=1), "usage_sessions")
    field = "email" if "start_date" in odd else "start_date"
    assert message == (
        f"usage_sessions: a session has no usable `{field}`: set usage_endpoint to usage_new, or "
        "back to usage. If the error remains, please report it."
    )


def test_a_first_load_without_a_session_warns_once(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    warning = "no response held a session. If there are some, set usage_endpoint to usage_new"
    quiet = s.config_for(sandbox, start_date="2026-07-27", end_date="2026-08-01")
    first = s.sync(quiet, select=USAGE)
    assert caplog.text.count(warning) == 1
    s.sync(quiet, select=USAGE[2:], state=first.state)
    s.sync({**quiet, "end_date": "2026-08-20"}, select=USAGE)  # the first windows hold none
    with s.captured():
        s.selecting(USAGE, quiet).run_connection_test()
    assert caplog.text.count(warning) == 1


def test_the_endpoint_in_a_state_of_earlier_snapshots(sandbox: Sandbox) -> None:
    """It was named there: to read on from another endpoint in silence would double sessions."""
    config = s.config_for(sandbox)
    first = s.sync(config, select=USAGE)
    assert "usage_endpoint" not in str(first.state)
    bookmark = first.state["bookmarks"]["usage_sessions"]
    bookmark["usage_endpoint"] = "usage_new"
    message, _ = s.failing(config, state=first.state)
    assert "A run read /usage_new: set usage_endpoint to usage_new, or remove the state." in message
    for endpoint in ("usage_new", "usage"):
        bookmark["usage_endpoint"] = endpoint
        later = s.sync({**config, "usage_endpoint": endpoint}, state=first.state)
        assert "usage_endpoint" not in str(later.state)


# --- what the sandbox can be like ----------------------------------------------------------------


@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - {"ignores-range"}))
def test_each_likely_account_is_read(variant: str) -> None:
    behaviour = Behaviour(**VARIANTS[variant], faults=iter(["502"]))  # with its body of errors
    with Sandbox(s.small_account(), behaviour).running() as sandbox:
        config = s.config_for(sandbox)
        if variant in {"no-usage", "other-names"}:
            config["usage_endpoint"] = "usage_new"
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
        config = s.config_for(sandbox, end_date=None)
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
