"""Payloads: answers into events and users, whatever their shape."""

from __future__ import annotations

import contextlib
import copy
import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tap_crankwheel import payloads
from tap_crankwheel.errors import InvalidPayloadError
from tap_crankwheel.streams import UsageSessions, Users
from tests.payloads import (
    REQUEST,
    SESSION,
    Row,
    assert_kept,
    assert_valid,
    emails,
    json_values,
    objects,
    parser,
    payload,
    requests,
    sessions,
    starts,
    users,
)


def test_a_session_keeps_the_id_that_the_api_gives() -> None:
    rows = sessions(
        SESSION,
        {**SESSION, "session_id": "12"},
        {**SESSION, "session_id": "b-7"},
        {**SESSION, "session_id": 0},
        {**SESSION, "session_id": 2**70},
    )
    assert [row["id"] for row in rows] == ["11", "12", "b-7", "0", str(2**70)]
    assert rows[2]["extra"] == {"session_id": "b-7"}
    assert rows[1]["session_id"] == 12


@pytest.mark.parametrize("missing", [{}, {"session_id": None}, {"session_id": ""}])
def test_a_session_without_id_gets_a_stable_one(missing: Row) -> None:
    session = {"email": "ann@example.com", "start_date": 1788120030, **missing}
    again = {"start_date": "2026-08-30T22:00:30+02:00", "email": "ann@example.com", "duration": 9}
    ((first,), (second,)) = (sessions(session), sessions(again))
    assert first["id"] == second["id"]
    assert first["id"] != sessions({**session, "email": "bob@example.com"})[0]["id"]
    assert first["id"] != sessions({**session, "start_date": 1788120031})[0]["id"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "not an object"),
        (None, "not an object"),
        ("no", "not an object"),
        ({"error": "no"}, "no `sessions`"),
        ({"sessions": {}}, "`sessions` is not a list"),
        ({"status": "error", "sessions": None}, "`sessions` is not a list"),
        ({"sessions": 3}, "`sessions` is not a list"),
        ({"sessions": ["secret"]}, "a session is not an object"),
        (
            {"sessions": [{**SESSION, "start_date": "secret"}]},
            "a session has no usable `start_date",
        ),
        ({"sessions": [{"start_date": 0, "email": 5}]}, "a session has no usable `email`"),
    ],
)
def test_another_shape_is_an_error_without_values(document: object, message: str) -> None:
    with pytest.raises(InvalidPayloadError, match=message) as caught:
        list(UsageSessions.parse(payload(document), parser("usage_sessions")))
    assert "secret" not in str(caught.value)


def test_a_response_without_sessions_has_no_rows() -> None:
    assert sessions() == []


def test_never_and_not_applicable_are_null() -> None:
    (row,) = requests(
        {
            **REQUEST,
            "seconds_to_respond": "never",
            "call_confirmed": "n/a",
            "screenshared": "n/a",
            "accepted_from": "n/a",
        },
    )
    for field in ("seconds_to_respond", "call_confirmed", "screenshared", "accepted_from"):
        assert row[field] is None
    assert row["extra"] is None


def test_answers_of_prospects_are_text_under_their_own_names() -> None:
    sent = {
        "prospect-phone": 15550001,
        "prospect-shoesize": 42.5,
        "prospect-vip": True,
        "prospect-name": "Åsa",
        "prospect-website": None,
        "prospect-notes": ["a", {"b": None}],
        "extra": "mine",
    }
    (row,) = requests({**REQUEST, "prospect_info": sent})
    assert {name: value for name, value in row["prospect_info"].items() if value is not None} == {
        "prospect-phone": "15550001",
        "prospect-name": "Åsa",
        "extra": {
            "extra": "mine",
            "prospect-shoesize": "42.5",
            "prospect-vip": "true",
            "prospect-notes": '["a",{"b":null}]',
        },
    }
    assert row["extra"] is None


@pytest.mark.parametrize("sent", ["+15550001", ["+15550001"], 15550001, False])
def test_prospect_info_of_any_shape_stays_where_deselecting_removes_it(sent: object) -> None:
    (row,) = requests({**REQUEST, "prospect_info": sent})
    assert row["prospect_info"]["extra"] == {"prospect_info": sent}
    assert row["extra"] is None


def test_an_id_stays_the_same_while_the_rest_changes() -> None:
    (before,) = requests(REQUEST)
    (after,) = requests(
        {
            "start_ts": 1788120030,
            "handled_by": "ann@example.com",
            "prospect_info": {**REQUEST["prospect_info"], "prospect-enrich-title": "CEO"},  # type: ignore[dict-item]
        },
    )
    assert before["id"] == after["id"]
    for phone in ("+15550002", "", None):  # a prospect corrects it, or adds it later
        again = {**REQUEST, "prospect_info": {"prospect-phone": phone}}
        assert requests(again)[0]["id"] == before["id"]
    for other in (
        {**REQUEST, "start_ts": "2026-08-30T20:00:31Z"},
        {**REQUEST, "prospect_info": {**REQUEST["prospect_info"], "prospect-request-origin": "x"}},  # type: ignore[dict-item]
    ):
        assert requests(other)[0]["id"] != before["id"]


@given(st.permutations(range(4)))
def test_requests_alike_are_numbered_in_any_order_of_the_response(order: list[int]) -> None:
    items = [{**REQUEST, "availability_bucket": text} for text in ("a", "b", "c", "c")]
    found = requests(*items)
    assert requests(*(items[n] for n in order)) == found
    key = found[0]["id"]
    assert [row["id"] for row in found] == [key, f"{key}-2", f"{key}-3", f"{key}-4"]


def test_users_come_as_a_list_or_wrapped() -> None:
    listed = [{"email": "ann@example.com", "privilege": "owner", "in_demo_pool": None}]
    expected = [
        {"email": "ann@example.com", "privilege": "owner", "in_demo_pool": False, "extra": None},
    ]
    assert users(listed) == expected
    assert users({"users": listed}) == expected
    assert users({"count": 1, "user_access": listed}) == expected


def test_a_pool_that_cannot_be_read_is_not_invented() -> None:
    (user,) = users([{"email": "a", "in_demo_pool": "sometimes"}])
    assert user["in_demo_pool"] is None
    assert user["extra"] == {"in_demo_pool": "sometimes"}


@pytest.mark.parametrize(
    "document",
    [
        [], {}, {"users": []}, None, 3, "no", {"error": "no"}, {"errors": ["no"]},
        {"a": [], "b": []},
        ["ann@example.com"], [{"privilege": "user"}], [{"email": 3}], [{"email": "a"}, {}],
    ],
)  # fmt: skip
def test_a_list_of_users_that_is_none_is_an_error(document: object) -> None:
    with pytest.raises(InvalidPayloadError):
        users(document)


@given(objects("usage_sessions", start_date=starts, email=emails))
def test_any_session_is_emitted_whole(sent: Row) -> None:
    (row,) = sessions(copy.deepcopy(sent))
    assert_valid("usage_sessions", row)
    assert_kept(sent, row, made=("id",))


@given(objects("demo_requests", start_ts=starts))
def test_any_request_is_emitted_whole(sent: Row) -> None:
    (row,) = requests(copy.deepcopy(sent))
    assert_valid("demo_requests", row)
    assert_kept(sent, row, made=("id",))
    if isinstance(sent.get("prospect_info"), dict):
        info = row["prospect_info"]
        found = info.keys() | (info["extra"] or {}).keys()
        assert {name for name, value in sent["prospect_info"].items() if value is not None} <= found


@given(objects("users", email=emails))
def test_any_user_is_emitted_whole(sent: Row) -> None:
    (row,) = users([copy.deepcopy(sent)])
    assert_valid("users", row)
    assert_kept(sent, row)


@given(json_values)
def test_any_document_is_read_or_refused(document: object) -> None:
    for read in (sessions, requests, users):
        with contextlib.suppress(InvalidPayloadError):
            read(document)


@given(st.binary(max_size=40))
@example(b"")
@example(b"<html>")
@example(b'{"sessions": [')
@example(b"[" * 100_000)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        payloads.parse(body)
    except InvalidPayloadError:
        with pytest.raises((ValueError, RecursionError)):
            json.loads(body, parse_constant=int)


def test_a_byte_order_mark_is_left_out() -> None:
    found = Users.parse(payloads.parse(b'\xef\xbb\xbf[{"email": "a"}]'), parser("users"))
    assert next(iter(found))["email"] == "a"


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (rb'"\u0000"', "\ufffd"),
        (rb'"a\u0000b\u0000"', "a\ufffdb\ufffd"),
        (rb'"\ud83d"', "\ufffd"),
        (rb'"\ude00\ud83d"', "\ufffd\ufffd"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'"\uD83D\uDE00"', "\U0001f600"),
        (rb'"\\u0000"', r"\u0000"),
        (rb'"\\\u0000"', "\\\ufffd"),
        (rb'"\\ud83d"', r"\ud83d"),
        (rb'"\"\u0000\""', '"\ufffd"'),
        (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
        ('"é☃"'.encode(), "é☃"),
    ],
)
def test_what_no_target_can_store_is_replaced(body: bytes, name: str | None) -> None:
    document = b'{"sessions": [{"email": "a", "start_date": 0, "agent_name": %s}]}' % body
    (row,) = UsageSessions.parse(payloads.parse(document), parser("usage_sessions"))
    assert row["agent_name"] == name
    msgspec.json.encode(row).decode()


@given(st.text(st.characters(), max_size=12))
@example("\x00\ud800\udc00\udc00\ud800")
@example("\\u0000\\\x00")
def test_any_text_arrives_but_for_what_cannot_be_stored(text: str) -> None:
    # With surrogates escaped one by one, as some servers write them.
    body = json.dumps({"sessions": [{"email": text, "start_date": 0}]}).encode()
    (row,) = UsageSessions.parse(payloads.parse(body), parser("usage_sessions"))
    joined = json.loads(json.dumps(text))  # pairs of surrogates become the character they mean
    unstorable = [c for c in joined if c == "\x00" or "\ud800" <= c <= "\udfff"]
    expected = joined
    for character in unstorable:
        expected = expected.replace(character, "\ufffd")
    assert row["email"] == expected
