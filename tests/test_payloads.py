"""Payloads: responses into events and users, whatever their shape."""

from __future__ import annotations

import contextlib
import copy
import json

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tap_crankwheel import payloads
from tap_crankwheel.errors import InvalidPayloadError
from tests import payloads as p


def test_a_session_keeps_the_id_that_the_api_gives() -> None:
    rows = p.sessions(
        p.SESSION,
        {**p.SESSION, "session_id": "12"},
        {**p.SESSION, "session_id": "b-7"},
        {**p.SESSION, "session_id": 0},
        {**p.SESSION, "session_id": 2**70},
    )
    assert [row["id"] for row in rows] == ["11", "12", "b-7", "0", str(2**70)]
    assert rows[2]["extra"] == {"session_id": "b-7"}
    assert rows[1]["session_id"] == 12


@pytest.mark.parametrize("missing", [{}, {"session_id": None}, {"session_id": ""}])
def test_a_session_without_id_gets_a_stable_one(missing: p.Row) -> None:
    session = {"email": "ann@example.com", "start_date": 1788120030, **missing}
    again = {"start_date": "2026-08-30T22:00:30+02:00", "email": "ann@example.com", "duration": 9}
    ((first,), (second,)) = (p.sessions(session), p.sessions(again))
    assert first["id"] == second["id"]
    assert first["id"] != p.sessions({**session, "email": "bob@example.com"})[0]["id"]
    assert first["id"] != p.sessions({**session, "start_date": 1788120031})[0]["id"]


def test_ids_are_those_of_earlier_versions() -> None:
    """Another id of the same thing would be a second row in every warehouse."""
    (session,) = p.sessions({"email": "ann@example.com", "start_date": 1788120030})
    (request,) = p.requests(p.REQUEST)
    assert session["id"] == "44f823206bada816362e92f289a28129"
    assert request["id"] == "1f2a08830324fb888b9de42f7d7e4b8e"


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
    (row,) = p.requests({**p.REQUEST, "prospect_info": sent})
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


@pytest.mark.parametrize("sent", ["+15550001", ["+15550001"], False])
def test_prospect_info_of_any_shape_stays_where_deselecting_removes_it(sent: object) -> None:
    (row,) = p.requests({**p.REQUEST, "prospect_info": sent})
    assert row["prospect_info"]["extra"] == {"prospect_info": sent}
    assert row["extra"] is None


def test_an_id_stays_the_same_while_the_rest_changes() -> None:
    info: p.Row = p.REQUEST["prospect_info"]
    (before,) = p.requests(p.REQUEST)
    for same in (
        {"start_ts": 1788120030, "handled_by": "ann@example.com", "prospect_info": info},
        {**p.REQUEST, "prospect_info": {**info, "prospect-enrich-title": "CEO"}},
        # A prospect corrects the phone, or adds it later.
        *({**p.REQUEST, "prospect_info": {"prospect-phone": x}} for x in ("+15550002", "", None)),
    ):
        assert p.requests(same)[0]["id"] == before["id"]
    for other in (
        {**p.REQUEST, "start_ts": "2026-08-30T20:00:31Z"},
        {**p.REQUEST, "prospect_info": {**info, "prospect-request-origin": "x"}},
    ):
        assert p.requests(other)[0]["id"] != before["id"]


@given(st.permutations(range(4)))
def test_requests_alike_are_numbered_in_any_order_of_the_response(order: list[int]) -> None:
    items = [{**p.REQUEST, "availability_bucket": text} for text in ("a", "b", "c", "c")]
    found = p.requests(*items)
    assert p.requests(*(items[n] for n in order)) == found
    key = found[0]["id"]
    assert [row["id"] for row in found] == [key, f"{key}-2", f"{key}-3", f"{key}-4"]


def test_requests_alike_keep_their_numbers_while_their_content_changes() -> None:
    def ids(**buckets: str) -> dict[str, str]:
        items = [
            {**p.REQUEST, "availability_bucket": bucket, "prospect_info": {"prospect-phone": phone}}
            for phone, bucket in buckets.items()
        ]
        return {row["prospect_info"]["prospect-phone"]: row["id"] for row in p.requests(*items)}

    assert ids(one="a", two="b") == ids(one="b", two="a")


def test_users_come_as_a_list_or_wrapped() -> None:
    user = {"email": "ann@example.com", "privilege": "owner"}
    listed = [{**user, "in_demo_pool": pool} for pool in (None, True, "sometimes")]
    expected = [
        {**user, "in_demo_pool": False, "extra": None},
        {**user, "in_demo_pool": True, "extra": None},
        {**user, "in_demo_pool": None, "extra": {"in_demo_pool": "sometimes"}},  # not invented
    ]
    assert p.users(listed) == expected
    assert p.users({"users": listed}) == expected
    assert p.users({"count": 1, "user_access": listed}) == expected


@settings(max_examples=50)
@given(
    p.objects("usage_sessions", start_date=p.starts, email=p.emails),
    p.objects("demo_requests", start_ts=p.starts),
    p.objects("users", email=p.emails),
)
def test_any_item_is_emitted_whole(session: p.Row, demo_request: p.Row, user: p.Row) -> None:
    for stream, read, sent, made in (
        ("usage_sessions", p.sessions, session, ("id",)),
        ("demo_requests", p.requests, demo_request, ("id",)),
        ("users", lambda user: p.users([user]), user, ()),
    ):
        (row,) = read(copy.deepcopy(sent))
        p.assert_valid(stream, row)
        p.assert_kept(sent, row, made=made)
        if isinstance(answers := sent.get("prospect_info"), dict) and stream == "demo_requests":
            info = row["prospect_info"]
            found = info.keys() | (info["extra"] or {}).keys()
            assert {name for name, value in answers.items() if value is not None} <= found


@given(p.json_values)
def test_any_document_is_read_or_refused(document: object) -> None:
    for read in (p.sessions, p.requests, p.users):
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
            json.loads(body.decode(), parse_constant=int)


@pytest.mark.parametrize("email", ["", " ", None])
def test_a_user_without_an_email_ends_the_run(email: str | None) -> None:
    with pytest.raises(InvalidPayloadError, match="a user has no usable `email`"):
        p.users([{"email": "ann@example.com"}, {"email": email}])


def test_a_byte_order_mark_is_left_out() -> None:
    assert p.rows("users", b'\xef\xbb\xbf[{"email": "a"}]')[0]["email"] == "a"


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (rb'"\ude00\ud83d"', "\ufffd\ufffd"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'"\uD83D\uDE00"', "\U0001f600"),
        (rb'"\\\u0000"', "\\\ufffd"),
        (rb'"\\ud83d"', r"\ud83d"),
        (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
    ],
)
def test_what_no_target_can_store_is_replaced(body: bytes, name: str) -> None:
    document = b'{"sessions": [{"email": "a", "start_date": 0, "agent_name": %s}]}' % body
    (row,) = p.rows("usage_sessions", document)
    assert row["agent_name"] == name
    msgspec.json.encode(row).decode()


@given(st.text(st.characters(), max_size=12))
@example("\x00\ud800\udc00\udc00\ud800")
@example("\\u0000\\\x00")
def test_any_text_arrives_but_for_what_cannot_be_stored(text: str) -> None:
    # With surrogates escaped one by one, as some servers write them.
    body = json.dumps({"sessions": [{"email": text, "start_date": 0}]}).encode()
    (row,) = p.rows("usage_sessions", body)
    joined = json.loads(json.dumps(text))  # pairs of surrogates become the character they mean
    stored = ("\ufffd" if c == "\x00" or "\ud800" <= c <= "\udfff" else c for c in joined)
    assert row["email"] == "".join(stored)
