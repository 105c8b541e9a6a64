"""The report of what an account shows of its API: it tells the truth, and nothing personal."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from typing_extensions import override

from tap_crankwheel.sandbox.server import API_KEY, EXACT_TO, VARIANTS, Behaviour, Sandbox
from tap_crankwheel.tap import TapCrankWheel
from tests.support import NOW, FakeClock, Row, ScriptedSandbox, all_sessions, small_account
from tools import api_report
from tools.api_report import ROWS, UNKNOWN, report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date
    from pathlib import Path

    from tap_crankwheel.sandbox.account import Account

pytestmark = pytest.mark.slow

COLUMNS = ("/usage", "/usage_new", "/demo_usage")
ACCOUNT = small_account(days=60)
SELECTION = ("exact to the", "selects by", "from is inclusive", "to is inclusive")
#: In `selects by`.
NO_WAY = "no way that this report knows"

Table = dict[str, dict[str, str]]  # what is told, by column and row


def written(sandbox: Sandbox, **settings: Any) -> str:
    config = {"api_url": sandbox.url, "api_key": API_KEY, **settings}
    return report(TapCrankWheel(config=config, clock=FakeClock(sandbox.account.now)))


def told(text: str) -> Table:
    """Return the table of a report."""
    lines = [line.strip("| ").split(" | ") for line in text.partition("\n\n")[0].splitlines()[2:]]
    assert [line[0] for line in lines] == [*ROWS]
    return {column: {line[0]: line[n] for line in lines} for n, column in enumerate(COLUMNS, 1)}


def table(account: Account = ACCOUNT, **behaviour: Any) -> Table:
    with Sandbox(account, Behaviour(**behaviour)).running() as sandbox:
        found = told(written(sandbox))
        assert len(sandbox.requests) <= 67
        assert all(request.startswith("GET ") for request in sandbox.requests)
    return found


def truth(behaviour: Behaviour) -> Row:
    """Return what a report may tell of a server, but for `cannot be told`."""
    if behaviour.ignores_range:
        return {"looks at the range": "no", **dict.fromkeys(SELECTION)}
    inclusive = ["yes" if inclusive else "no" for inclusive in behaviour.inclusive]
    return {
        "looks at the range": "yes",
        **dict(zip(SELECTION, (behaviour.exact_to, behaviour.select, *inclusive), strict=True)),
    }


def check(found: Table, behaviour: Behaviour) -> None:
    """Check that nothing is told that is wrong."""
    for rows in found.values():
        for row, right in truth(behaviour).items():
            assert rows[row] in {right, UNKNOWN}, (row, behaviour)


# --- it tells the truth --------------------------------------------------------------------------


@pytest.mark.parametrize("exact_to", ["second", "hour", "day"])
@pytest.mark.parametrize("inclusive", [(True, True), (False, False)], ids=str)
@pytest.mark.parametrize("select", ["start", "end", "overlap"])
def test_how_a_server_selects(select: str, inclusive: tuple[bool, bool], exact_to: str) -> None:
    behaviour: Row = {"select": select, "inclusive": inclusive, "exact_to": exact_to}
    found = table(**behaviour, no_access={"usage": 404})
    check(found, Behaviour(**behaviour))
    for column in COLUMNS[1:]:
        must = {"looks at the range", "exact to the"}
        crosses = column != "/demo_usage" or exact_to == "second"  # few requests cross an hour
        if crosses and (exact_to == "second" or all(inclusive)):
            must.add("selects by")
        # No end meets a session's fractions of a second, but where these are cut.
        if column == "/demo_usage" and exact_to == "second":
            must |= {"from is inclusive", "to is inclusive"}
        assert [row for row in must if found[column][row] == UNKNOWN] == [], column


def listed(items: int, days: float) -> str:
    return f"{items} items, oldest {days} days"


#: What is told of the sandbox. No end meets the fractions of a second that its sessions have.
USUAL = {
    "status": "200", "a year ago": "200, 0 items", "looks at the range": "yes",
    "selects by": "start", "exact to the": "second", "days begin at": "-",
    "from is inclusive": UNKNOWN, "to is inclusive": UNKNOWN, "asked to wait": "no",
    "emails in /user_access": "4 of 4", "same ids as /usage": "yes", "without session_id": "0",
    "sharing a session_id": "0", "a running session's end_date is": "about now",
    "never ended, longest": "0", "last event before start": "0", "longest after it": "0.0 days",
    "sharing a start and a page": "2",
}  # fmt: skip
SESSIONS = USUAL | {
    "28 days": listed(247, 27.9), "28 days, by weeks": listed(247, 27.9),
    "a year in one request": f"200, {listed(544, 60.3)}",
    **dict.fromkeys(api_report.REQUEST_ROWS, "-"),
}  # fmt: skip
REQUESTS = USUAL | {
    "28 days": listed(40, 27.2), "28 days, by weeks": listed(40, 27.2),
    "a year in one request": f"200, {listed(91, 60.2)}",
    "from is inclusive": "yes", "to is inclusive": "yes",
    **dict.fromkeys(api_report.SESSION_ROWS, "-"),
}  # fmt: skip
USUALS = SESSIONS | {"same ids as /usage": "-"}, SESSIONS, REQUESTS
NOTHING = dict.fromkeys([row for row in ROWS if row != "asked to wait"], UNKNOWN)
SELECTS_NOTHING = dict.fromkeys((*SELECTION, "days begin at"), UNKNOWN)
COUNTS_NOTHING = dict.fromkeys((*api_report.SESSION_ROWS, *api_report.REQUEST_ROWS), UNKNOWN)
MONTH = {"a year in one request": f"200, {listed(247, 27.9)}"}
IGNORED = SELECTS_NOTHING | MONTH | {
    "looks at the range": "no", "a year ago": f"200, {listed(247, 27.9)}",
}  # fmt: skip
IGNORED_REQUESTS = IGNORED | {
    "a year ago": f"200, {listed(40, 27.2)}", "a year in one request": f"200, {listed(40, 27.2)}",
}  # fmt: skip
OTHER_NAMES = SELECTS_NOTHING | COUNTS_NOTHING | {
    "looks at the range": UNKNOWN, "without session_id": "247", "sharing a session_id": "0",
    "28 days": "247 items", "28 days, by weeks": "247 items",
    "a year in one request": "200, 544 items", "never ended, longest": "0",
}  # fmt: skip
NO_YEAR = {"a year in one request": "400"}
#: Seconds whose fractions are not sent would look the same.
HALF_OPEN = {"from is inclusive": UNKNOWN, "to is inclusive": UNKNOWN}
NO_PAIR = {"same ids as /usage": UNKNOWN}

#: How a server behaves, and by endpoint what is told otherwise.
SERVERS: dict[str, tuple[Row, Row, Row, Row]] = {
    "the sandbox": ({}, {}, {}, {}),
    "ignores the range": ({"ignores_range": True}, IGNORED, IGNORED, IGNORED_REQUESTS),
    "in any order": ({"order": "shuffled"}, {}, {}, {}),
    "epochs": (VARIANTS["epochs"], {}, {}, {}),
    # Cut where they are sent, and not where they are compared.
    "seconds": ({"decimals": 0}, {}, {}, {}),
    "seconds, exclusive": (
        {"decimals": 0, "inclusive": (False, False)}, {}, {},
        {"from is inclusive": "no", "to is inclusive": "no"},
    ),
    "half open": ({"inclusive": (True, False)}, {}, {}, HALF_OPEN),
    "other names": (VARIANTS["other-names"], OTHER_NAMES, NO_PAIR, {}),
    "only /usage_new": (VARIANTS["no-usage"], NOTHING | {"status": "404"}, NO_PAIR, {}),
    "no demo requests": ({"no_access": {"demo_usage": 403}}, {}, {}, NOTHING | {"status": "403"}),
    "refuses a year": ({"range_limit": timedelta(days=31)}, NO_YEAR, NO_YEAR, NO_YEAR),
}  # fmt: skip


@pytest.mark.parametrize("server", SERVERS)
def test_what_is_told_of_a_server(server: str) -> None:
    behaviour, *others = SERVERS[server]
    for rows, usual, other in zip(table(**behaviour).values(), USUALS, others, strict=True):
        right = {
            row: value if value == "-" and row != "days begin at" else other.get(row, value)
            for row, value in usual.items()
        }
        assert rows == right


class ShiftedSandbox(Sandbox):
    """An account that selects by times that it does not send.

    Args:
        lags: How much later these are, in seconds; each item has one of them.
        zone: When its days begin, in seconds after midnight UTC.
    """

    def __init__(self, lags: tuple[float, ...] = (0,), zone: int = 0, **behaviour: Any) -> None:
        super().__init__(ACCOUNT, Behaviour(**behaviour))
        self.lags, self.zone = lags, timedelta(seconds=zone)

    @override
    def _days(self, start: datetime, end: datetime) -> Iterator[date]:
        return super()._days(start - timedelta(days=1), end + timedelta(days=1))

    @override
    def _selects(self, start: datetime, end: datetime, first: str, last: str) -> bool:
        lag = timedelta(seconds=self.lags[sum(map(ord, first)) % len(self.lags)])
        seen = (datetime.fromisoformat(text[:-1]) + lag - self.zone for text in (first, last))
        texts = (f"{moment.isoformat(timespec='microseconds')}Z" for moment in seen)
        return super()._selects(start - self.zone, end - self.zone, *texts)


LAGS = {
    "a tenth of a second": (0.1,),
    "seconds": (2.3, 3.1, 4.7, 6.9, 8.2),
    "minutes": (200.0, 320.0, 410.7),
}


@pytest.mark.parametrize("select", ["start", "end"])
@pytest.mark.parametrize("lags", LAGS)
def test_a_time_that_is_not_sent_is_told_as_nothing_else(lags: str, select: str) -> None:
    with ShiftedSandbox(LAGS[lags], select=select, no_access={"usage": 404}).running() as sandbox:
        found = told(written(sandbox))
    for column in COLUMNS[1:]:
        rows = found[column]
        assert rows["looks at the range"] == "yes"
        # In whole seconds, a tenth of one is no difference.
        exact = {UNKNOWN, "second"} if lags == "a tenth of a second" else {UNKNOWN}
        assert rows["exact to the"] in exact
        by = {UNKNOWN, NO_WAY} | ({select} if rows["exact to the"] == "second" else set())
        assert rows["selects by"] in by
        assert {rows["from is inclusive"], rows["to is inclusive"]} == {UNKNOWN}


def test_without_a_check_for_such_times_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_report, "CHECKS", 0)  # the ranges that rule them out
    with ShiftedSandbox(LAGS["seconds"], select="end").running() as sandbox:
        rows = told(written(sandbox))["/demo_usage"]
    assert {rows[row] for row in SELECTION} == {UNKNOWN}


@pytest.mark.parametrize("zone", [0, 5])
def test_when_the_days_of_a_server_begin(zone: int) -> None:
    with ShiftedSandbox(zone=zone * 3600, exact_to="day", select="end").running() as sandbox:
        text = written(sandbox)
    for column in COLUMNS:
        assert told(text)[column]["exact to the"] == "day"
        assert told(text)[column]["days begin at"] == f"0{zone}:00 UTC"
        assert f"`{column}`: exact to the: day." in text
        assert (f"`{column}`: days begin at: 05:00 UTC." in text) == (zone == 5)


@pytest.mark.parametrize("select", ["start", "end"])
def test_an_account_with_few_sessions(select: str) -> None:
    account = small_account(sessions_per_day=1, days=40)
    found = table(account, select=select)
    check(found, Behaviour(select=select))
    for column in COLUMNS:
        assert found[column]["28 days"].startswith(("21 items", "20 items"))
        assert found[column]["exact to the"] == "second"
        assert found[column]["selects by"] == select


MISSING = ", and some are missing"


@pytest.mark.parametrize("order", ["start", "reverse"])
def test_a_list_that_is_cut(order: str) -> None:
    with Sandbox(ACCOUNT, Behaviour(longest_list=100, order=order)).running() as sandbox:
        text = written(sandbox)
    rows = told(text)["/usage_new"]
    assert rows["28 days"].startswith("100 items")
    for row in ("28 days", "a year in one request"):
        assert rows[row].endswith(MISSING)
        assert f"- `/usage_new`: {row}: {rows[row]}." in text
    assert rows["28 days, by weeks"] == listed(247, 27.9)
    assert rows["selects by"] == "start"
    assert [rows[row] for row in api_report.SESSION_ROWS[1:]] == [UNKNOWN] * 4


class ClampedSandbox(Sandbox):
    """An account of which no response reaches further back than 31 days."""

    @override
    def usage(self, start: datetime, end: datetime) -> Any:
        return super().usage(max(start, end - timedelta(days=31)), end)


def test_a_year_that_is_clamped() -> None:
    with ClampedSandbox(ACCOUNT).running() as sandbox:
        text = written(sandbox)
    row = "a year in one request"
    told_row = told(text)["/usage"][row]
    assert re.fullmatch(r"200, \d+ items, oldest 3[01].\d days, and some are missing", told_row)
    assert f"- `/usage`: {row}: {told_row}." in text
    assert told(text)["/demo_usage"][row] == REQUESTS[row]


@pytest.mark.parametrize("server", ["no items", "no envelope"])
def test_of_an_empty_account_nothing_is_told(server: str) -> None:
    document: Row = {"sessions": []} if server == "no items" else {}
    with ScriptedSandbox(usage=document, demo_usage=document).running() as sandbox:
        text = written(sandbox)
    known = {"status": "200"}
    if server == "no items":
        known |= dict.fromkeys(("28 days", "28 days, by weeks"), "0 items")
        known |= dict.fromkeys(("a year ago", "a year in one request"), "200, 0 items")
        known |= {"without session_id": "0", "sharing a session_id": "0"}
    else:
        assert "- `/usage`: the tap cannot read it: the response has no `sessions`." in text
    for rows, usual in zip(told(text).values(), USUALS, strict=True):
        assert rows == {
            row: value
            if value in {"-", "no"} and row != "days begin at"
            else "0"
            if row == "sharing a start and a page" and server == "no items"
            else known.get(row, UNKNOWN)
            for row, value in usual.items()
        }


def test_nothing_wrong_is_told_of_any_server() -> None:
    """Small accounts, in which most cannot be told, and servers of all kinds."""
    told_rows: Counter[str] = Counter()
    for seed in range(6):
        rng = random.Random(seed)  # noqa: S311
        account = small_account(
            seed=seed, days=rng.choice([20, 60]), sessions_per_day=rng.choice([3, 12, 12])
        )
        behaviour: Row = {
            "select": rng.choice(["start", "end", "overlap"]),
            "inclusive": (rng.random() < 0.5, rng.random() < 0.5),
            "exact_to": rng.choice([*EXACT_TO]),
            "order": rng.choice(["start", "reverse", "shuffled"]),
            "decimals": rng.choice([None, 0, 3, -1]),
            "longest_list": rng.choice([None, None, 50, 20]),
            "ignores_range": rng.random() < 0.1,
        }
        found = table(account, **behaviour)
        check(found, Behaviour(**behaviour))
        told_rows.update(row for rows in found.values() for row in rows if rows[row] != UNKNOWN)
    assert min(told_rows[row] for row in SELECTION) > 0


class ChangingSandbox(Sandbox):
    """An account in which time passes between two requests."""

    @override
    def usage(self, start: datetime, end: datetime) -> Any:
        self.account.fixed_now = self.account.now + timedelta(minutes=7)
        return super().usage(start, end)

    @override
    def demo_usage(self, start: datetime, end: datetime) -> Any:
        self.account.fixed_now = self.account.now + timedelta(minutes=7)
        document = super().demo_usage(start, end)
        if sum("/demo_usage" in request for request in self.requests) > 1:
            for request in document["sessions"]:
                if request["start_ts"].startswith("2026-08-20"):  # somebody edits old ones
                    request["last_event_ts"] = f"{self.account.now:%Y-%m-%dT%H:%M:%SZ}"
        return document


@pytest.mark.parametrize("select", ["start", "end", "overlap"])
def test_an_account_that_changes_during_the_report(select: str) -> None:
    # Sessions end and are listed late, and requests are taken, in the middle of the afternoon.
    behaviour = Behaviour(select=select, written_after=timedelta(minutes=30))
    with ChangingSandbox(small_account(days=40), behaviour).running() as sandbox:
        found = told(written(sandbox))
    check(found, behaviour)
    for column, rows in found.items():
        assert rows["selects by"] == select, column
        assert MISSING not in rows["28 days"] + rows["28 days, by weeks"], column


def test_what_single_items_show() -> None:
    def session(number: int, start: timedelta, end: Any, **fields: Any) -> Row:
        begun = (NOW - start).isoformat()
        return {
            "session_id": number,
            "email": "ann",
            "start_date": begun,
            "end_date": end,
            **fields,
        }

    running, day = {"session_ended": False}, timedelta(days=1)
    late = (NOW - day).isoformat()
    sessions = [
        session(1, day * 9.5, None, **running),
        session(2, day * 2.25, late, session_ended=True),
        {**session(3, day * 3, late, session_ended=True), "session_id": None},
        session(4, timedelta(minutes=2), NOW.isoformat(), **running),  # its start, or about now
    ]
    sessions += [{**sessions[1], "email": "Owner@example.com"}]  # with the number of another
    page = {"prospect_info": {"prospect-request-origin": "https://www.example.com/"}}
    requests = [
        {"start_ts": (NOW - day * 8).isoformat(), "last_event_ts": late},
        {"start_ts": late, "last_event_ts": (NOW - day * 2).isoformat(), **page},
        {"start_ts": late, "handled_by": "owner@example.com", **page},
    ]

    def usage(start: datetime, end: datetime) -> Row:
        return {
            "sessions": [
                s for s in sessions if f"{start:%FT%T}" <= s["start_date"] <= f"{end:%FT%T}"
            ]
        }

    with ScriptedSandbox(usage=usage, demo_usage={"sessions": requests}).running() as sandbox:
        found = told(written(sandbox))
        sessions[0]["end_date"] = sessions[0]["start_date"]
        again = told(written(sandbox))
        sessions[0]["end_date"] = late
        other = told(written(sandbox))
    row = "a running session's end_date is"
    assert [t["/usage"][row] for t in (found, again, other)] == ["null", "its start", "other"]
    assert found["/usage"]["never ended, longest"] == "1, 9.5 days"
    assert found["/usage"]["without session_id"] == "1"
    assert found["/usage"]["sharing a session_id"] == "1"
    assert found["/usage"]["emails in /user_access"] == "0 of 2, 1 more but for case"
    assert found["/demo_usage"]["emails in /user_access"] == "1 of 1"
    assert found["/demo_usage"]["sharing a start and a page"] == "1"
    assert found["/demo_usage"]["last event before start"] == "1"
    assert found["/demo_usage"]["longest after it"] == "7.0 days"


def test_a_rate_limit_is_told() -> None:
    faults = iter([None] * 25 + ["429:7"])
    found = table(faults=faults)
    assert [rows["asked to wait"] for rows in found.values()] == ["no", "yes", "no"]


@pytest.mark.usefixtures("retry_waits")
def test_an_endpoint_that_fails_is_asked_no_more() -> None:
    # After the users, and what is first asked of /usage, one question fails as often as is tried.
    with Sandbox(ACCOUNT, Behaviour(faults=iter([None] * 9 + ["500"] * 8))).running() as sandbox:
        found = told(written(sandbox))
        assert len([r for r in sandbox.requests if "/usage?" in r]) < 20
    assert found["/usage"]["a year in one request"].startswith(("500", "200"))
    check(found, Behaviour())
    assert found["/usage_new"]["selects by"] == "start"


# --- it holds nothing personal -------------------------------------------------------------------


@pytest.fixture
def _no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the ranges that only tell how the API selects: they take long."""
    monkeypatch.setattr(api_report, "PROBES", 0)
    monkeypatch.setattr(api_report, "CHECKS", 0)


PERSONAL = ("ann", "Ann Lee", "ann@example.com", "jane-doe", "prospect-jane-doe", "jane", "o'brien")


def texts(value: Any) -> set[str]:
    """Return all texts of at least four characters that are sent as values."""
    if isinstance(value, dict):
        return set().union(*map(texts, value.values()))
    if isinstance(value, list):
        return set().union(*map(texts, value))
    return {value} if isinstance(value, str) and len(value) > 3 else set()


@pytest.mark.usefixtures("_no_probes")
@pytest.mark.parametrize("variant", [None, *VARIANTS])
def test_no_value_is_in_the_report(variant: str | None) -> None:
    behaviour = Behaviour(**VARIANTS[variant] if variant else {})
    account = small_account(days=9, sessions_per_day=6, agents=5)
    with Sandbox(account, behaviour).running() as sandbox:
        report_text = written(sandbox)
        sent = texts([sandbox.usage(account.start, NOW), sandbox.demo_usage(account.start, NOW)])
        sent |= texts([sandbox.users(), [*account.users]])
    assert len(sent) > 100
    assert [
        text
        for text in sent - api_report.LISTED
        if text in report_text and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", report_text)
    ] == []
    assert str(account.agents) in report_text  # keys of `stats.agents`
    assert "<key> x" in report_text


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[\w'@.-]+", text.lower())) | set(re.findall(r"[a-z']+", text.lower()))


KEYS: dict[str, Any] = {name: {"meetings": 2, "seconds": 60} for name in PERSONAL}
STATS = {
    "by person": KEYS,
    "beside a total": {"total": {"meetings": 3}, **KEYS},
    "of one person": {"agents": {"ann": {"meetings": 3}}},
    "numbers": dict.fromkeys(PERSONAL, 3),
    "of another form each": {"ann": {"meetings": 3}, "jane": 3, "jane-doe": [3], "total": 3},
    "in lists": {"agents": [{"ann": 1}, {"jane": 2}]},
    "no object": PERSONAL,
}


@pytest.mark.usefixtures("_no_probes")
@pytest.mark.parametrize("stats", STATS)
def test_names_that_are_keys_are_not_in_the_report(stats: str) -> None:
    def sessions(*_: datetime) -> Row:
        found = [dict(session) for session in all_sessions(small_account())]
        for session, name in zip(found, PERSONAL * (len(found) // 20), strict=False):
            session[name] = 1
            session["viewer_info"] = {name: 1}
        for session in found:
            session["seen"] = {"ann": True, "at": "2026-08-30"}
            session["log"] = [{name: "tab", "at": "Ann Lee"} for name in PERSONAL] * 2
            session["prospect_info"] = [{"prospect-ssn": 1, "ssn": [{"shoe": 1}]}]
        return {"sessions": found, "stats": STATS[stats], "ann": 1, "meta": KEYS}

    asked = {f"prospect-{name}": name for name in (*PERSONAL, "plan")}
    requests = [
        {"start_ts": "2026-08-30T20:00:30Z", "prospect_info": {"prospect-name": "Ann Lee", **asked}}
    ] * 9
    users = {"users": [{"email": f"{name}@example.com", name: name} for name in PERSONAL], "ann": 2}
    answers = {"demo_usage": {"sessions": requests}, "users": users}
    with ScriptedSandbox(usage=sessions, **answers).running() as sandbox:
        text = written(sandbox)
    names = {*words_of(" ".join(PERSONAL)), "prospect-plan", "prospect-ssn", "ssn", "shoe"}
    assert not words_of(text) & names - {"prospect"}
    assert "`sessions[].seen.at` | `9999-99-99` |" in text
    assert f"`sessions[].prospect_info.<key> x {len(asked)}`" in text
    assert "the tap does not know `sessions[].seen`." in text


#: Keys that every item has, and texts that the account sends elsewhere.
SENT = {
    "acme_deal_id": "Acme Ltd.",
    "ann": "Ann Lee",
    "annlee": "mail@annlee.example",
    "deals_of_jane2": "JANE",
    "o": "O'Brien",
    "rené.url": "René",
    "url_55512345": "5",
}
#: Keys that the API may have, which no text is about.
FIELDS = ("recording_url", "rating", "shared_url")


def test_keys_that_hold_a_text_of_the_account_are_not_in_the_report() -> None:
    def usage(*_: datetime) -> Row:
        found = [dict(session) for session in all_sessions(small_account())]
        for session in found:
            session.update(dict.fromkeys((*SENT, *FIELDS), 1))
            session["log"] = [dict.fromkeys((*SENT, *FIELDS), 1)] * 9
        found[0]["agent_name"] = list(SENT.values())[:3]
        found[1]["log"] = [{"at": {"deep": [text]}} for text in [*SENT.values()][3:]]
        return {"sessions": found}

    asked = {"prospect-shoesize": 42}  # which no text is about
    requests = [
        {"start_ts": 1, "prospect_info": info} for info in ([asked], asked) for _ in "12345"
    ]
    answers = {"demo_usage": {"sessions": requests}, "users": [{"email": "JANE"}]}
    with ScriptedSandbox(usage=usage, **answers).running() as sandbox:
        text = written(sandbox)
    assert "shoesize" not in text
    for place in ("sessions[]", "sessions[].log[]"):
        for field in FIELDS:
            assert f"`{place}.{field}`" in text
        assert f"`{place}.<key> x {len(SENT)}`" in text
    assert not {*SENT} & {*re.findall(r"[\w.]+", text)}


def test_a_name_that_few_items_have_is_not_in_the_report() -> None:
    def usage(*_: datetime) -> Row:
        return {
            "sessions": [{**session, "ann": 1} for session in all_sessions(small_account())[:4]]
        }

    with ScriptedSandbox(usage=usage).running() as sandbox:
        assert "ann" not in words_of(written(sandbox))


# --- the rest of it ------------------------------------------------------------------------------


def test_shapes_and_what_differs_are_told() -> None:
    behaviour = Behaviour(
        **{**VARIANTS["epochs"], **VARIANTS["log-text"], **VARIANTS["other-names"]},
        exact_to="day",
        no_access={"user_access": 403},
    )
    with Sandbox(ACCOUNT, behaviour).running() as sandbox:
        text = written(sandbox)
    for line in (
        "| `sessions[].start_ts` | number | all |",
        "| `sessions[].agent_name` | text | 235 of 256 |",
        "| `full_capacity`, `half_capacity`, `no_capacity` | all |",
        "| `stats.agents.<key> x 4` | object | all |",
        "**`/user_access`**, status 403",
        "`stats.total.meetings` equals the number of sessions.",
        "`stats.total.seconds` equals the sum of durations.",
    ):
        assert line in text
    differing = text.partition("**What differs from what the tap assumes**\n\n")[2].splitlines()
    assert differing == [
        "- `/usage`: the tap cannot read it: a session has no usable `start_date`.",
        "- `/usage`: `session_id` is never sent.",
        "- `/usage`: `start_date` is never sent.",
        "- `/usage`: the tap does not know `sessions[].id`.",
        "- `/usage`: the tap does not know `sessions[].start_ts`.",
        "- `/usage`: without session_id: 256.",
        "- `/usage_new`: `log` is of another type than the tap takes, and goes into `extra`.",
        "- `/usage_new`: exact to the: day.",
        "- `/demo_usage`: exact to the: day.",
        "- `/user_access`: the status is 403: there is no list.",
    ]


def test_of_the_sandbox_nothing_differs() -> None:
    with Sandbox(ACCOUNT).running() as sandbox:
        text = written(sandbox)
    assert text.endswith("\n\nNothing differs from what the tap assumes.")
    assert "**`/usage_new`**, status 200\n\nAs `/usage`.\n" in text
    assert text.count("`sessions[].agent_name`") == 1
    assert text.isascii()  # the console of any code page can print it


def test_progress_is_told_by_request(capsys: pytest.CaptureFixture[str]) -> None:
    with Sandbox(ACCOUNT).running() as sandbox:
        written(sandbox)
        requests = len(sandbox.requests)
    out, err = capsys.readouterr()
    assert (out, re.sub(r"[^.]", "", err)) == ("", "." * requests)
    assert [name in err for name in ("/usage,", "/usage_new,", "/demo_usage,")] == [True] * 3


def test_ctrl_c_ends_it_without_a_state(tmp_path: Path) -> None:
    def faults() -> Iterator[str | None]:
        yield from [None] * 9
        os.kill(os.getpid(), signal.SIGINT)
        yield from [None] * 99

    with Sandbox(ACCOUNT, Behaviour(faults=faults())).running() as sandbox:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"api_url": sandbox.url, "api_key": API_KEY}), encoding="utf-8")
        result = CliRunner().invoke(api_report.main, ["--config", str(path)])
        assert len(sandbox.requests) < 12
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("Aborted!\n")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key": "another"}, "401 Unauthorized: it rejects the key"),
        ({"api_key": ""}, "api_key is missing"),
        ({"api_url": "http://127.0.0.1:9/ss/api"}, "the connection to 127.0.0.1:9 failed"),
    ],
)
def test_without_access_the_tap_s_error_ends_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: Row, message: str
) -> None:
    with Sandbox(ACCOUNT).running() as sandbox:
        config = {"api_url": sandbox.url, "api_key": API_KEY, **settings}
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        result = CliRunner().invoke(api_report.main, ["--config", str(path)])
    assert (result.exit_code, result.stdout) == (1, "")
    (error,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert sum("attempt" in record.getMessage() for record in caplog.records) < 2
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize("source", ["environment", "file"])
def test_the_command_reads_settings_as_the_tap_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    with Sandbox(ACCOUNT).running() as sandbox:
        config = {"api_url": sandbox.url, "api_key": API_KEY, "end_date": NOW.isoformat()}
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        for name, value in config.items() if source == "environment" else ():
            monkeypatch.setenv(f"TAP_CRANKWHEEL_{name.upper()}", value)
        arguments = ["--config", str(path)] if source == "file" else []
        result = CliRunner().invoke(api_report.main, arguments)
    assert result.exit_code == 0, result.output
    assert told(result.stdout)["/usage_new"] == USUALS[1]
