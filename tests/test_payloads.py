from __future__ import annotations

import contextlib
import copy
import json
from datetime import datetime, timezone
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tap_crankwheel import payloads
from tap_crankwheel.client import SCHEMAS
from tap_crankwheel.payloads import NotJSONError, RowReader, ShapeError
from tap_crankwheel.windows import Window

Row = dict[str, Any]

SESSION = {"session_id": 11, "email": "ann@example.com", "start_date": "2026-08-30T20:00:30Z"}
REQUEST = {"start_ts": "2026-08-30T20:00:30Z", "prospect_info": {"prospect-phone": "+15550001"}}
DAY = Window(
    datetime(2026, 8, 30, tzinfo=timezone.utc),
    datetime(2026, 8, 31, tzinfo=timezone.utc),
)


def schema(stream: str) -> Row:
    return copy.deepcopy(SCHEMAS.get_schema(stream))


def reader(stream: str) -> RowReader:
    made = {"account_stats": [n for n in schema(stream)["properties"] if n != "stats"]}
    return RowReader(schema(stream), made.get(stream, ["id"]))


def answer(document: object) -> payloads.Answer:
    return payloads.parse(json.dumps(document).encode())


def sessions(*items: object) -> list[Row]:
    found = payloads.usage_sessions(answer({"sessions": items}), reader("usage_sessions"))
    return [row for _, _, row in found]


def requests(*items: object) -> list[Row]:
    found = payloads.demo_requests(answer({"sessions": items}), reader("demo_requests"))
    return [row for _, _, row in found]


def users(document: object) -> list[Row]:
    return payloads.users(answer(document), reader("users"))


def stats(usage: Row, demo_usage: Row | None = None) -> tuple[Row, list[Row]]:
    return payloads.period_stats(
        answer(usage),
        answer(demo_usage),
        period=DAY,
        unit="day",
        read_session=reader("usage_sessions"),
        read_account=reader("account_stats"),
    )


# --- single values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("2026-08-30T20:00:30.000000Z", "2026-08-30T20:00:30.000000Z"),
        ("2026-08-30T20:00:30Z", "2026-08-30T20:00:30.000000Z"),
        ("2026-08-30T22:00:30.5+02:00", "2026-08-30T20:00:30.500000Z"),
        ("2026-08-30T20:00:30", "2026-08-30T20:00:30.000000Z"),
        ("2026-08-30 20:00", "2026-08-30T20:00:00.000000Z"),
        (1788120030, "2026-08-30T20:00:30.000000Z"),
        (1788120030.25, "2026-08-30T20:00:30.250000Z"),
        ("1788120030", "2026-08-30T20:00:30.000000Z"),
    ],
)
def test_timestamps_come_in_any_documented_form(sent: object, read: str) -> None:
    (row,) = sessions({**SESSION, "start_date": sent})
    assert row["start_date"] == read
    assert row["extra"] is None


@pytest.mark.parametrize(
    ("field", "sent", "read"),
    [
        ("duration", "600", 600),
        ("duration", "600.5", 600.5),
        ("duration", 600.5, 600.5),
        ("webcam_s", 0, 0),
        ("session_ended", "false", False),
        ("agent_name", "", ""),
        ("log", [{"at": 1}, None], [{"at": 1}, None]),
    ],
)
def test_values_are_typed(field: str, sent: object, read: object) -> None:
    (row,) = sessions({**SESSION, field: sent})
    assert row[field] == read
    assert type(row[field]) is type(read)
    assert row["extra"] is None


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("end_date", "soon"),
        ("end_date", True),
        ("end_date", 10**15),
        ("end_date", 253402300799.9999999),
        ("end_date", "2026-08-30/20:00"),
        ("end_date", "0001-01-01T00:00:00+14:00"),
        ("duration", "ten minutes"),
        ("duration", "nan"),
        ("duration", 2**63),
        ("duration", False),
        ("agent_name", 5),
        ("session_ended", "perhaps"),
        ("log", "tab"),
        ("log", ["tab"]),
        ("log", {"at": 1}),
        ("unheard_of", {"of": ["any", "shape"]}),
        ("id", 5),
        ("extra", "its own"),
    ],
)
def test_what_does_not_fit_goes_to_extra_under_its_own_name(field: str, sent: object) -> None:
    (row,) = sessions({**SESSION, field: sent})
    assert row["extra"] == {field: sent}
    assert row["id"] == "11"


def test_what_does_not_fit_in_an_object_stays_in_it() -> None:
    (row,) = sessions(
        {
            **SESSION,
            "viewer_info": {
                "viewer_count": "3",
                "max_viewer_count": "many",
                "locations": ["Leeds", 7],
                "devices": 2,
                "extra": 1,
            },
        }
    )
    assert row["viewer_info"] == {
        "viewer_count": 3,
        "max_viewer_count": None,
        "locations": None,
        "devices": 2,
        "extra": {"max_viewer_count": "many", "locations": ["Leeds", 7], "extra": 1},
    }
    assert row["extra"] is None


def test_what_is_no_object_is_put_into_one() -> None:
    (row,) = sessions({**SESSION, "viewer_info": [1, 2]})
    assert row["viewer_info"] == {"viewer_info": [1, 2]}


def test_a_number_beyond_a_double_becomes_text() -> None:
    body = b'{"sessions": [{"session_id": 1, "email": "a", "start_date": 0, "duration": 1e400}]}'
    ((_, _, row),) = payloads.usage_sessions(payloads.parse(body), reader("usage_sessions"))
    assert row["extra"] == {"duration": "1e400"}


# --- sessions ------------------------------------------------------------------------------------


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
    with pytest.raises(ShapeError, match=message) as caught:
        list(payloads.usage_sessions(answer(document), reader("usage_sessions")))
    assert "secret" not in str(caught.value)


def test_no_sessions_are_none() -> None:
    assert sessions() == []
    found = payloads.usage_sessions(answer({"sessions": None}), reader("usage_sessions"))
    assert list(found) == []


# --- demo requests -------------------------------------------------------------------------------


def test_never_and_not_applicable_are_null() -> None:
    (row,) = requests(
        {
            **REQUEST,
            "seconds_to_respond": "never",
            "call_confirmed": "n/a",
            "screenshared": "n/a",
            "accepted_from": "n/a",
        }
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
    info = row["prospect_info"]
    assert info == {
        "extra": "mine",
        "prospect-phone": "15550001",
        "prospect-shoesize": "42.5",
        "prospect-vip": "true",
        "prospect-name": "Åsa",
        "prospect-website": None,
        "prospect-notes": '["a",{"b":null}]',
    }
    assert row["extra"] is None


@pytest.mark.parametrize("sent", ["+15550001", ["+15550001"], 15550001, False])
def test_prospect_info_of_any_shape_stays_where_deselecting_removes_it(sent: object) -> None:
    (row,) = requests({**REQUEST, "prospect_info": sent})
    assert list(row["prospect_info"]) == ["prospect_info"]
    assert row["extra"] is None


def test_an_id_stays_the_same_while_the_rest_changes() -> None:
    (before,) = requests(REQUEST)
    (after,) = requests(
        {
            "start_ts": 1788120030,
            "handled_by": "ann@example.com",
            "prospect_info": {**REQUEST["prospect_info"], "prospect-enrich-title": "CEO"},  # type: ignore[dict-item]
        }
    )
    assert before["id"] == after["id"]
    for other in (
        {**REQUEST, "start_ts": "2026-08-30T20:00:31Z"},
        {**REQUEST, "prospect_info": {"prospect-phone": "+15550002"}},
        {**REQUEST, "prospect_info": {**REQUEST["prospect_info"], "prospect-request-origin": "x"}},  # type: ignore[dict-item]
        {"start_ts": REQUEST["start_ts"]},
    ):
        assert requests(other)[0]["id"] != before["id"]


@given(st.permutations(range(4)))
def test_requests_alike_come_in_the_same_order_and_are_told_apart(order: list[int]) -> None:
    items = [{**REQUEST, "availability_bucket": text} for text in ("a", "b", "c", "c")]

    def events(items: list[Row]) -> list[tuple[str, str | None, str]]:
        found = payloads.demo_requests(answer({"sessions": items}), reader("demo_requests"))
        return [(identity, what, row["availability_bucket"]) for identity, what, row in found]

    found = events([items[n] for n in order])
    assert found == events(items)
    assert len({identity for identity, _, _ in found}) == 1
    assert len({content for _, content, _ in found}) == 4


# --- users ---------------------------------------------------------------------------------------


def test_users_come_as_a_list_or_wrapped() -> None:
    listed = [{"email": "ann@example.com", "privilege": "owner", "in_demo_pool": None}]
    expected = [
        {"email": "ann@example.com", "privilege": "owner", "in_demo_pool": False, "extra": None}
    ]
    assert users(listed) == expected
    assert users({"users": listed}) == expected
    assert users({"count": 1, "user_access": listed}) == expected


def test_a_user_is_one_however_often_listed() -> None:
    assert len(users([{"email": "a"}, {"email": "a"}, {"email": "b"}])) == 2


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
    with pytest.raises(ShapeError):
        users(document)


# --- statistics ----------------------------------------------------------------------------------


def test_what_starts_in_the_period_is_counted() -> None:
    account, agents = stats(
        {
            "sessions": [
                {"email": "b", "start_date": "2026-08-30T00:00:00Z", "duration": 1},
                {"email": "a", "start_date": "2026-08-30T23:59:59.999999Z", "duration": 2.5},
                {"email": "b", "start_date": "2026-08-30T10:00:00Z", "session_ended": False},
                {"email": "b", "start_date": "2026-08-29T23:59:59.999999Z", "duration": 100},
                {"email": "c", "start_date": "2026-08-31T00:00:00Z", "duration": 100},
            ]
        },
        {"sessions": [], "total_canceled_requests": "4"},
    )
    assert [(a["email"], a["meetings"], a["total_seconds"]) for a in agents] == [
        ("a", 1, 2.5),
        ("b", 2, 1),
    ]
    assert account == {
        "period": "day",
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
    sent: object, entries: list[Row | None]
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
            ]
        }
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
        ({"sessions": [{"session_id": 1, "start_date": "2026-08-30T10:00:00Z"}]}, None),
        ({"sessions": []}, {"error": "no"}),
    ],
)
def test_statistics_of_another_shape_are_an_error(answers: tuple[Row, Row | None]) -> None:
    with pytest.raises(ShapeError):
        stats(*answers)


# --- anything JSON can say -----------------------------------------------------------------------

# Without U+0000, which does not arrive as it was sent; that has a test of its own.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [2**63, -(2**63) - 1, 1e300, "12", "1e400", "never", "n/a", "true", "", "nan"]
    )
    | st.sampled_from(["2026-08-30T20:00:30Z", "9999-12-31T23:59:59-12:00", "0001-01-01"])
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def objects(stream: str, **needed: st.SearchStrategy[Any]) -> st.SearchStrategy[Row]:
    """Return objects with the fields of a stream, or some of them, and others, of any type."""
    properties = schema(stream)["properties"]
    nested = {
        name: json_values
        | st.fixed_dictionaries(
            {}, optional=dict.fromkeys(field["properties"], json_values)
        ).flatmap(
            lambda inner: st.dictionaries(texts, json_values, max_size=2).map(
                lambda more: {**more, **inner}
            )
        )
        for name, field in properties.items()
        if "properties" in field
    }
    fields = {**dict.fromkeys(properties, json_values), **nested}
    return st.tuples(
        st.dictionaries(texts, json_values, max_size=2),
        st.fixed_dictionaries(
            needed, optional={k: v for k, v in fields.items() if k not in needed}
        ),
    ).map(lambda parts: {**parts[0], **parts[1]})


starts = st.sampled_from(["2026-08-30T20:00:30Z", 1788120030, "2026-08-30T20:00:30.5+05:30"])
emails = st.sampled_from(["ann@example.com", "bob@example.com", "", "☃@example.com"])


def valid(stream: str, row: Row) -> None:
    validator = jsonschema.Draft7Validator(
        schema(stream), format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER
    )
    validator.validate(json.loads(msgspec.json.encode(row)))
    msgspec.json.encode(row).decode()


def kept(sent: Row, row: Row, made: tuple[str, ...] = ()) -> None:
    """Check that each field that was sent is in the row or in its extra."""
    for name, value in sent.items():
        extra = row["extra"] or {}
        if name in extra:
            assert extra[name] == value
        else:
            assert name in row
            assert name not in {*made, "extra"}
            assert value is None or row[name] is not None or value in ("never", "n/a")


@given(objects("usage_sessions", start_date=starts, email=emails))
def test_any_session_is_emitted_whole(sent: Row) -> None:
    (row,) = sessions(copy.deepcopy(sent))
    valid("usage_sessions", row)
    kept(sent, row, made=("id",))


@given(objects("demo_requests", start_ts=starts))
def test_any_request_is_emitted_whole(sent: Row) -> None:
    (row,) = requests(copy.deepcopy(sent))
    valid("demo_requests", row)
    kept(sent, row, made=("id",))
    if isinstance(sent.get("prospect_info"), dict):
        assert set(sent["prospect_info"]) <= set(row["prospect_info"])


@given(objects("users", email=emails))
def test_any_user_is_emitted_whole(sent: Row) -> None:
    (row,) = users([copy.deepcopy(sent)])
    valid("users", row)
    kept(sent, row)


@given(
    st.dictionaries(texts | st.just("stats"), json_values, max_size=3),
    st.lists(objects("usage_sessions", start_date=starts, email=emails), max_size=3),
    st.none()
    | st.dictionaries(texts | st.just("total_canceled_requests"), json_values, max_size=2),
)
def test_any_statistics_are_emitted_whole(rest: Row, items: list[Row], demo: Row | None) -> None:
    usage = {**rest, "sessions": items}
    account, agents = stats(usage, None if demo is None else {**demo, "sessions": []})
    valid("account_stats", account)
    for agent in agents:
        valid("agent_stats", agent)
    kept(rest, account, made=tuple(name for name in account if name != "stats"))
    assert account["meetings"] == sum(agent["meetings"] for agent in agents)


@given(json_values)
def test_any_document_is_read_or_refused(document: object) -> None:
    for read in (sessions, requests, users, lambda d: stats({"sessions": d})):
        with contextlib.suppress(ShapeError):
            read(document)


@given(st.binary(max_size=40))
@example(b"")
@example(b"<html>")
@example(b'{"sessions": [')
@example(b"[" * 100_000)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        payloads.parse(body)
    except NotJSONError:
        with pytest.raises((ValueError, RecursionError)):
            json.loads(body, parse_constant=lambda _: float(""))


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
def test_what_no_target_can_store_is_replaced(body: bytes, name: str) -> None:
    document = b'{"sessions": [{"email": "a", "start_date": 0, "agent_name": %s}]}' % body
    ((_, _, row),) = payloads.usage_sessions(payloads.parse(document), reader("usage_sessions"))
    assert row["agent_name"] == name
    msgspec.json.encode(row).decode()


@given(st.text(st.characters(), max_size=12))
@example("\x00\ud800\udc00\udc00\ud800")
@example("\\u0000\\\x00")
def test_any_text_arrives_but_for_what_cannot_be_stored(text: str) -> None:
    # With surrogates escaped one by one, as some servers write them.
    body = json.dumps({"sessions": [{"email": text, "start_date": 0}]}).encode()
    ((_, _, row),) = payloads.usage_sessions(payloads.parse(body), reader("usage_sessions"))
    joined = json.loads(json.dumps(text))  # pairs of surrogates become the character they mean
    unstorable = [c for c in joined if c == "\x00" or "\ud800" <= c <= "\udfff"]
    expected = joined
    for character in unstorable:
        expected = expected.replace(character, "\ufffd")
    assert row["email"] == expected


def test_schemas_say_what_integers_fit() -> None:
    def walk(node: Row) -> None:
        kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
        assert node.get("description") or "items" not in node
        if "integer" in kinds:
            assert node["maximum"] == 2**63 - 1
            assert node["minimum"] in {0, -(2**63)}
        for child in node.get("properties", {}).values():
            assert child["description"]
            walk(child)
        if "items" in node:
            walk(node["items"])

    for stream in ("usage_sessions", "agent_stats", "account_stats", "demo_requests", "users"):
        walk(schema(stream))
