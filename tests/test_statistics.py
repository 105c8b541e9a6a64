"""Statistics: counted from the sessions of a period."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_crankwheel.errors import ShapeError
from tap_crankwheel.payloads import usage_sessions
from tap_crankwheel.statistics import PeriodParser, canceled_requests
from tap_crankwheel.tally import Tally
from tap_crankwheel.windows import Window
from tests.answers import (
    Row,
    answer,
    emails,
    json_values,
    kept,
    objects,
    parser,
    schema,
    starts,
    texts,
    valid,
)

DAY = Window(
    datetime(2026, 8, 30, tzinfo=timezone.utc),
    datetime(2026, 8, 31, tzinfo=timezone.utc),
)


def stats(usage: Row, demo_usage: Row | None = None) -> tuple[Row, list[Row]]:
    counter = PeriodParser("day", "UTC", schema("account_stats"))
    usage_answer, tally = answer(usage), Tally()
    for event in usage_sessions(usage_answer, parser("usage_sessions")):
        tally.add(event)
    tally.complete(DAY, usage_answer)
    canceled = canceled_requests(answer(demo_usage or {"sessions": []}))
    beside, durations = tally.beside(DAY), tally.durations(DAY)
    return (
        counter.account(DAY, beside, canceled, durations),
        counter.agents(DAY, beside, durations),
    )


def test_what_starts_in_the_period_is_counted() -> None:
    account, agents = stats(
        {
            "sessions": [
                {"email": "b", "start_date": "2026-08-30T00:00:00Z", "duration": 1},
                {"email": "a", "start_date": "2026-08-30T23:59:59.999999Z", "duration": 2.5},
                {"email": "b", "start_date": "2026-08-30T10:00:00Z", "session_ended": False},
                {"email": "b", "start_date": "2026-08-29T23:59:59.999999Z", "duration": 100},
                {"email": "c", "start_date": "2026-08-31T00:00:00Z", "duration": 100},
            ],
        },
        {"sessions": [], "total_canceled_requests": "4"},
    )
    assert [(a["email"], a["meetings"], a["total_seconds"]) for a in agents] == [
        ("a", 1, 2.5),
        ("b", 2, 1),
    ]
    assert account == {
        "period": "day",
        "timezone": "UTC",
        "period_start": "2026-08-30T00:00:00.000000Z",
        "period_end": "2026-08-31T00:00:00.000000Z",
        "meetings": 3,
        "total_seconds": 3.5,
        "canceled_demo_requests": 4,
        "stats": None,
        "extra": None,
    }


IN_PERIOD = [{"email": email, "start_date": "2026-08-30T10:00:00Z"} for email in ("a", "b", "c")]


@pytest.mark.parametrize(
    ("sent", "entries"),
    [
        ({"agents": {"a": {"n": 1}, "b": {"n": 2}}}, [{"n": 1}, {"n": 2}, None]),
        ({"agents": [{"email": "b", "n": 2}]}, [None, {"email": "b", "n": 2}, None]),
        (
            {"deep": [{"x": {"who": [{"id": 1, "agent": "c"}]}}]},
            [None, None, {"id": 1, "agent": "c"}],
        ),
        ({"a": {"a": 1}}, [{"a": 1}, None, None]),
        (
            {"meetings": {"per": {"a": 1, "b": 2}}, "seconds": {"a": 60}},
            [{"meetings.per": 1, "seconds": 60}, {"stats": 2}, None],
        ),
        ({"total": 3}, [None, None, None]),
        (
            {"of": [{"who": "a", "n": 1}, {"who": "a", "n": 2}, {"who": "b"}]},
            [{"of.0": {"who": "a", "n": 1}, "of.1": {"who": "a", "n": 2}}, {"who": "b"}, None],
        ),
        (None, [None, None, None]),
    ],
)
def test_an_agents_own_entry_is_found_wherever_it_stands(
    sent: object,
    entries: list[Row | None],
) -> None:
    account, agents = stats({"stats": sent, "sessions": IN_PERIOD})
    assert account["stats"] == sent
    assert [agent["stats"] or agent["extra"] for agent in agents] == entries


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    account, agents = stats(
        {
            "sessions": [
                {**IN_PERIOD[0], "duration": 60},
                {**IN_PERIOD[1], "duration": "00:05:00"},
                {"session_id": 1, "start_date": "2026-09-30T00:00:00Z"},  # no agent, no matter
            ],
        },
    )
    assert account["meetings"] == 2
    assert account["total_seconds"] is None
    assert [agent["total_seconds"] for agent in agents] == [60, None]


def test_a_sum_that_no_number_holds_is_null() -> None:
    for duration in (1e308, 2**63 - 1):
        items = [
            {**item, "session_id": n, "duration": duration} for n in (1, 2) for item in IN_PERIOD
        ]
        for n, item in enumerate(items):
            item["session_id"] = n
        account, agents = stats({"sessions": items})
        valid("account_stats", account)
        assert account["total_seconds"] is None
        assert {agent["total_seconds"] for agent in agents} == {None}


def test_a_session_without_email_counts_for_the_account() -> None:
    account, agents = stats(
        {
            "sessions": [
                {"session_id": 1, "start_date": "2026-08-30T10:00:00Z", "duration": 60},
                {**IN_PERIOD[0], "duration": 30},
            ]
        }
    )
    assert (account["meetings"], account["total_seconds"]) == (2, 90)
    assert [(agent["email"], agent["meetings"]) for agent in agents] == [("a", 1)]


def test_a_session_that_is_listed_twice_counts_once() -> None:
    account, _ = stats({"sessions": [*IN_PERIOD, *IN_PERIOD]})
    assert account["meetings"] == 3


def test_what_else_an_answer_holds_is_kept() -> None:
    account, _ = stats(
        {"stats": [1], "sessions": [], "currency": "EUR", "meetings": 7},
        {"sessions": [], "total_canceled_requests": "lots", "page": 1},
    )
    assert account["canceled_demo_requests"] is None
    assert account["extra"] == {
        "stats": [1],
        "currency": "EUR",
        "meetings": 7,
        "demo_usage": {"total_canceled_requests": "lots", "page": 1},
    }


@pytest.mark.parametrize(
    "answers",
    [
        ({"error": "no"}, None),
        ({"sessions": [{"email": "a"}]}, None),
        ({"sessions": [{"start_date": "2026-08-30T10:00:00Z"}]}, None),
        ({"sessions": []}, {"error": "no"}),
    ],
)
def test_statistics_of_another_shape_are_an_error(answers: tuple[Row, Row | None]) -> None:
    with pytest.raises(ShapeError):
        stats(*answers)


MORE = {"has_more", "next"}  # an error, where they say so


@given(
    st.dictionaries(
        (texts | st.just("stats")).filter(lambda name: name not in {"sessions", *MORE}),
        json_values,
        max_size=3,
    ),
    st.lists(objects("usage_sessions", start_date=starts, email=emails), max_size=3),
    st.none()
    | st.dictionaries(
        (texts | st.just("total_canceled_requests")).filter(lambda name: name not in MORE),
        json_values,
        max_size=2,
    ),
)
def test_any_statistics_are_emitted_whole(rest: Row, items: list[Row], demo: Row | None) -> None:
    usage = {**rest, "sessions": items}
    account, agents = stats(usage, None if demo is None else {**demo, "sessions": []})
    valid("account_stats", account)
    for agent in agents:
        valid("agent_stats", agent)
    kept(rest, account, made=tuple(name for name in account if name != "stats"))
    assert account["meetings"] == sum(agent["meetings"] for agent in agents)
