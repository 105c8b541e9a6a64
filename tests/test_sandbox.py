"""The sandbox: all operations of the API's description, as a client sees them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import requests
from click.testing import CliRunner

from tap_crankwheel.sandbox.account import Account
from tap_crankwheel.sandbox.server import API_KEY, serve
from tests.support import NOW, Row, all_requests, all_sessions, small_account

if TYPE_CHECKING:
    from tap_crankwheel.sandbox.server import Sandbox

HEADERS = {"Authorization": f"Basic {API_KEY}"}


def call(sandbox: Sandbox, method: str, path: str, **kwargs: Any) -> requests.Response:
    url = f"{sandbox.url}/{path}"
    return requests.request(method, url, headers=HEADERS, timeout=60, **kwargs)


def test_the_histories_list_what_the_account_has(sandbox: Sandbox) -> None:
    asked = {"from": "2026-08-01T00:00:00Z", "to": "2026-09-01T15:20:00Z"}
    usage, new, demo_usage = (
        call(sandbox, "GET", path, params=asked).json()
        for path in ("usage", "usage_new", "demo_usage")
    )
    sessions = sorted(all_sessions(sandbox.account), key=lambda session: session["start_date"])
    assert usage == new
    assert usage["sessions"] == sessions
    assert usage["stats"]["total"]["meetings"] == len(sessions)
    assert len(demo_usage["sessions"]) == len(all_requests(sandbox.account))
    assert demo_usage["total_canceled_requests"] > 0


def test_without_a_range_the_last_28_days_are_listed(sandbox: Sandbox) -> None:
    sandbox.account = small_account(days=40)
    usage = call(sandbox, "GET", "usage").json()
    starts = [session["start_date"] for session in usage["sessions"]]
    assert (NOW - timedelta(days=28)).isoformat()[:16] <= min(starts) < "2026-08-06"
    everything = [session["start_date"] for session in all_sessions(sandbox.account)]
    assert min(everything) < min(starts)


def test_the_account_is_the_same_whatever_is_asked_for() -> None:
    account = small_account()
    whole = {s["session_id"]: s for s in all_sessions(account)}
    longer = {s["session_id"]: s for s in all_sessions(small_account(days=30))}
    assert len(longer) > len(whole)
    assert all(longer[number] == session for number, session in whole.items())
    assert all_sessions(small_account(seed=7)) != all_sessions(account)


@pytest.mark.parametrize("kind", ["data", "files"])  # urlencoded, multipart
def test_users_are_listed_shown_made_and_deleted(sandbox: Sandbox, kind: str) -> None:
    values = {"email": "new@example.com", "privilege": "admin", "in_demo_pool": "true"}
    sent = ((f"user_access[{key}]", value) for key, value in values.items())
    form = {key: value if kind == "data" else (None, value) for key, value in sent}
    before = call(sandbox, "GET", "user_access").json()
    assert {user["privilege"] for user in before} == {"user", "owner", "reporting"}
    assert {user["in_demo_pool"] for user in before} == {True, False, None}

    made = call(sandbox, "POST", "user_access", **{kind: form})
    user = {"email": "new@example.com", "privilege": "admin", "in_demo_pool": True}
    assert (made.status_code, made.json()) == (201, user)
    assert call(sandbox, "GET", "user_access/new%40example.com").json() == user
    assert call(sandbox, "GET", "user_access").json() == [*before, user]

    assert call(sandbox, "DELETE", "user_access/new@example.com").status_code == 204
    assert call(sandbox, "GET", "user_access/new@example.com").status_code == 404
    assert call(sandbox, "GET", "user_access").json() == before


def test_unknown_paths_and_wrong_ranges_are_refused(sandbox: Sandbox) -> None:
    for method, path in (("GET", "nothing"), ("POST", "usage"), ("DELETE", "user_access")):
        assert call(sandbox, method, path).status_code == 404
    assert call(sandbox, "GET", "usage?from=soon").status_code == 400


@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Basic wrong"}, {"Authorization": "Bearer sandbox-key"}]
)
def test_another_key_is_rejected(sandbox: Sandbox, header: dict[str, str]) -> None:
    response = requests.get(f"{sandbox.url}/user_access", headers=header, timeout=60)
    assert response.status_code == 401
    basic = requests.get(f"{sandbox.url}/user_access", auth=(API_KEY, ""), timeout=60)
    assert basic.status_code == 401


def test_the_command_says_where_it_is_and_serves() -> None:
    command = [
        sys.executable, "-c", "from tap_crankwheel.sandbox.server import serve; serve()",
        "--port", "0", "--days", "3", "--agents", "2", "--now", "2026-09-01",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout
        lines = [server.stdout.readline().strip() for _ in range(4)]
        exported = dict(line.removeprefix("export TAP_CRANKWHEEL_").split("=") for line in lines)
        header = {"Authorization": f"Basic {exported['API_KEY']}"}
        response = requests.get(f"{exported['API_URL']}/user_access", headers=header, timeout=60)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    assert len(response.json()) == 4
    assert exported["START_DATE"] == "2026-08-29T00:00:00Z"
    assert exported["END_DATE"] == "2026-09-01T00:00:00Z"


def test_an_account_without_a_fixed_moment_is_looked_at_now() -> None:
    account = Account(days=1)
    before = datetime.now(timezone.utc)
    assert before <= account.now <= datetime.now(timezone.utc)


def test_the_sandbox_holds_the_hard_cases() -> None:
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


def test_time_changes_nothing_but_what_still_runs_or_is_open() -> None:
    account = small_account(days=3)
    before: dict[str, Row] = {}
    changed = set()
    for hour in range(60):
        account.fixed_now = NOW + timedelta(hours=hour)
        items = {str(s["session_id"]): s for s in all_sessions(account)}
        for request in all_requests(account):  # two that are alike change alike
            items[request["start_ts"] + request["prospect_info"]["prospect-phone"]] = request
        for key, item in before.items():  # nothing disappears, or moves
            if item.get("session_ended") or item.get("handled_by"):
                assert items[key] | {"last_event_ts": ""} == item | {"last_event_ts": ""}
        changed |= {key for key, item in before.items() if items[key] != item}
        before = items
    assert len(changed) > 5


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--now", "yesterday"), "write it as 2026-09-01T15:20:00Z"),
        (("--port", "99999"), "99999 is not in the range"),
        (("--fault", "foo"), "there is no fault foo"),
        (("--days", "-5"), "-5 is not in the range"),
        (("--like", "nothing"), "'nothing' is not one of"),
    ],
)
def test_an_option_that_is_wrong_is_one_line(option: tuple[str, str], message: str) -> None:
    result = CliRunner().invoke(serve, option)
    assert result.exit_code == 2
    assert message in result.output.splitlines()[-1]
