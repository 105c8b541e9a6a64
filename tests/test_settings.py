"""Settings: what a user can get wrong, and the line that says so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tap_crankwheel.sandbox.server import API_KEY, Sandbox
from tap_crankwheel.tap import _CAUSES, TapCrankWheel
from tests import support as s

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "k3y-that-must-not-appear"  # noqa: S105
SHORT = {"flattening_enabled": True, "flattening_max_depth": 1, "flattening_max_key_length": 10}
KEY = "api_key cannot be used: copy it again, without quotes, spaces or the word Basic"
DATE = "is not a date: write it as 2026-08-30 or"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key": "  "}, "api_key is missing: an administrator creates a key"),
        ({"api_key": 12345}, "api_key has to be of type string."),
        ({"api_key": f'"{SECRET}"'}, KEY),
        ({"api_key": f"{SECRET}\nx"}, KEY),
        ({"api_key": f"Basic {SECRET}"}, KEY),
        ({"start_date": "2026-02-30"}, f"start_date {DATE}"),
        ({"start_date": SECRET}, f"start_date {DATE}"),
        ({"start_date": "0001-01-01"}, "start_date lies before 1970: set a later date"),
        ({"start_date": "2999-01-01"}, "start_date (2999-01-01) lies in the future: set"),
        ({"end_date": "2027-02-29T00:00:00Z"}, f"end_date {DATE}"),
        ({"start_date": "2026-08-02", "end_date": "2026-08-01"}, "end_date lies before start_date"),
        ({"timezone": "Mars/Olympus"}, "timezone is not an IANA time zone"),
        ({"timezone": "new_york"}, "such as Europe/Berlin or America/New_York."),
        ({"timezone": "europe/Berlin"}, "with no quotes in it, a name such as Europe/Berlin."),
        ({"end_date": "9999-12-31T23:59:59-12:00"}, f"end_date {DATE}"),
        ({"start_date": "0001-01-01T00:00:00+12:00"}, f"start_date {DATE}"),
        ({"timezone": "../etc/passwd"}, "timezone is not an IANA time zone"),
        ({"stats_period": '"day"'}, "one of hour, day, week, month, with no quotes in it."),
        ({"start_date": '"2026-08-01"'}, "or 2026-08-30T20:00:00Z, with no quotes in it."),
        ({"lookback_days": ""}, "lookback_days has to be of type integer."),
        ({"window_days": 0}, "window_days has to be at least 1"),
        ({"request_timeout": 9999}, "request_timeout has to be at most 3600"),
        ({"stream_maps": {"usage_sessions": {"webcam_s": 0}}}, "stream_maps.usage_sessions"),
        ({"stream_maps": {"session": {"email": "md5(email)"}}}, "there is no stream session."),
        ({"stream_maps": {"x": {"__source__": "user"}}}, "there is no stream user."),
        ({"stream_maps": {"users": {"mail": "__NULL__"}}}, "users has no field mail to remove"),
        ({"stream_maps": {"user*": {"mail": None}}}, "user* has no field mail to remove"),
        ({"flattening_enabled": True}, "flattening_max_depth is required"),
        ({"api_url": "meeting.is/ss/api"}, "api_url is not a URL: write it as https"),
        ({"api_url": "https://"}, "api_url is not a URL"),
        ({"api_url": "ftp://meeting.is"}, "api_url is not a URL"),
        ({"api_url": "https://[::1/x"}, "api_url is not a URL"),
        ({"api_url": "http://meeting.is/ss/api"}, "which sends the key unencrypted: use https://"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_line(
    sandbox: Sandbox, run: s.Run, settings: s.Row, message: str
) -> None:
    result = run(**settings)
    assert message in s.error_line(result)
    assert "12345" not in result.output
    assert SECRET not in result.output
    assert '"type"' not in result.stdout
    assert sandbox.requests == []


CAUSES: dict[str, tuple[object, dict[str, object]]] = {
    "UnicodeDecodeError": ({}, {"state": "{}".encode("utf-16")}),  # as PowerShell writes it
    "singer_sdk.configuration._dict_config": ("ENV", {}),
    "jsonschema.validators": ({"stream_maps": {"__else__": 5}}, {}),
    "singer_sdk.helpers._util": ("{", {}),
    "singer_sdk.singerlib.catalog": ({}, {"catalog": {"streams": [{}]}}),
    "singer_sdk.helpers._flattening._flatten_schema": (SHORT, {}),
    "singer_sdk.mapper": ({"stream_maps": {"demo_requests": {"x": "md5(handled_by)"}}}, {}),
    "singer_sdk.plugin_base.from_cli_args": ([3], {}),
}


@pytest.mark.parametrize("module", CAUSES)
def test_what_the_sdk_lets_through_is_one_line(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    untold = "singer_sdk.contrib.msgspec.write_message"  # test_what_cannot_be_written_is_one_line
    assert {*CAUSES, untold} == _CAUSES.keys()
    config, files = CAUSES[module]
    monkeypatch.setenv("TAP_CRANKWHEEL_WINDOW_DAYS", "seven")
    if config == "ENV":
        result = s.command_line("--config", "ENV")
        named = [line for line in result.stderr.splitlines() if "from env variable" in line]
        assert "TAP_CRANKWHEEL_WINDOW_DAYS" in named[-1]
    else:
        config = {**s.config_for(sandbox), **config} if isinstance(config, dict) else config
        result = s.run(tmp_path, config, **files)
    clash = "Duplicate column name produced in schema: pi__p-"
    message = _CAUSES[module].format(kind="AttributeError", error=clash)
    assert s.error_line(result).endswith(f"| {message}")
    assert "seven" not in result.stderr


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("not python", "stream_maps: Failed to evaluate"),
        ("md5(config['salt'])", "(KeyError): perhaps a field in it is null, or a value of stream"),
        ("prospect_info['prospect-x']", "or a question is not in custom_questions."),
    ],
)
def test_a_stream_map_that_fails_is_one_line(run: s.Run, expression: str, message: str) -> None:
    assert message in s.error_line(run(stream_maps={"demo_requests": {"x": expression}}))


def test_stream_maps_can_fake(run: s.Run) -> None:
    maps, seed = {"users": {"email": "fake.email()"}}, {"seed": 1}
    outputs = [run(stream_maps=maps, faker_config=seed).stdout for _ in range(2)]
    emails = [[row["email"] for row in s.Output(o.splitlines()).records["users"]] for o in outputs]
    assert emails[0] == emails[1]
    assert not {*emails[0]} & {user["email"] for user in s.expected_users(s.small_account())}


def test_several_wrong_settings_are_reported_together(tmp_path: Path) -> None:
    result = s.run(tmp_path, {"start_date": "x", "timezone": "y", "window_days": SECRET})
    assert result.exit_code == 1
    for line in ("api_key is ", "start_date is ", "timezone is ", "window_days has to be of type"):
        assert line in result.stderr
    assert SECRET not in result.output


def test_white_space_around_the_key_and_the_url_is_dropped(sandbox: Sandbox, run: s.Run) -> None:
    settings = {"api_key": f"\t {API_KEY}\r\n", "api_url": f" {sandbox.url}\n"}
    assert run("--test", **settings).exit_code == 0


@pytest.mark.parametrize(
    "config", ["{", "[3]", "3", pytest.param("[" * 100_000, id="deep")], ids=repr
)
def test_a_broken_configuration_is_one_line(tmp_path: Path, config: str) -> None:
    assert "--config" in s.error_line(s.run(tmp_path, config))


def test_a_file_that_is_not_there_or_is_broken_is_one_line(tmp_path: Path) -> None:
    missing = s.command_line("--config", "/none.json")
    for line in (missing, s.command_line("--config", str(tmp_path))):  # a folder
        assert "--config, --catalog or --state does not name" in s.error_line(line)
    assert "--catalog" in s.error_line(s.run(tmp_path, {"api_key": "k"}, catalog="{"))


@pytest.mark.parametrize("action", ["--discover", "--test"])
def test_a_variable_that_cannot_be_read_is_one_line(
    monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setenv("TAP_CRANKWHEEL_WINDOW_DAYS", "seven")
    line = s.error_line(s.command_line("--config", "ENV", action))
    assert "An environment variable cannot be read" in line


TEXTS = {
    "start_date": "2026-08-30", "end_date": "2026-08-31", "timezone": "Europe/Berlin",
    "stats_period": "week", "usage_endpoint": "usage_new", "api_url": "https://example.com",
    "custom_questions": '["vip"]',
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_white_space_around_a_text_is_dropped_and_one_that_is_empty_is_not_set(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def settings(text: str) -> object:
        monkeypatch.setenv(f"TAP_CRANKWHEEL_{name.upper()}", text)
        return TapCrankWheel(config={"api_key": "k"}, parse_env_config=True).settings

    unset, text = TapCrankWheel(config={"api_key": "k"}).settings, TEXTS[name]
    assert settings("") == settings(" \r\n") == unset
    assert settings(f" {text}\r\n") == settings(text) != unset


@pytest.mark.parametrize("text", ["", "true\n", "TRUE ", '"true"'])
def test_a_variable_that_is_neither_true_nor_false_is_one_line(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """The SDK takes it for false: removed users would never be marked."""
    monkeypatch.setenv("TAP_CRANKWHEEL_API_KEY", "k")
    monkeypatch.setenv("TAP_CRANKWHEEL_EMIT_ACTIVATE_VERSION_MESSAGES", text)
    line = s.error_line(s.command_line("--config", "ENV", "--test"))
    assert line.endswith("emit_activate_version_messages has to be true or false.")


@pytest.mark.parametrize("text", ["true", "True", "1", "no"])
def test_what_says_true_or_false_is_read(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TAP_CRANKWHEEL_EMIT_ACTIVATE_VERSION_MESSAGES", text)
    users = TapCrankWheel(config={"api_key": "k"}, parse_env_config=True).streams["users"]
    assert users.emit_activate_version_messages == (text != "no")


LONG_ID = "how-many-people-on-your-team-would-use-screen-sharing-every-single-week"


@pytest.mark.parametrize(
    "settings",
    [
        {"stream_maps": {"demo_requests": {"prospect_info__prospect-email": "md5('x')"}}},
        {"custom_questions": [f"{LONG_ID}-a", f"{LONG_ID}-b"], "flattening_max_key_length": 63},
    ],
    ids=str,
)
def test_columns_of_one_name_are_named(run: s.Run, settings: s.Row) -> None:
    flat = {"flattening_enabled": True, "flattening_max_depth": 1}
    line = s.error_line(run(**flat, **settings))
    assert re.search(r"Duplicate column name produced in schema: p\S+\. Raise flattening_max", line)


@pytest.mark.parametrize("name", ["CUSTOM_QUESTIONS", "STREAM_MAPS", "STREAM_MAP_CONFIG"])
def test_a_variable_that_is_null_is_not_set(
    sandbox: Sandbox, run: s.Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"TAP_CRANKWHEEL_{name}", "null")
    assert run("--config", "ENV", "--test").exit_code == 0
    assert sandbox.requests


def test_settings_come_from_the_environment(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s.config_for(sandbox, custom_questions='["team-size"]').items():
        monkeypatch.setenv(f"TAP_CRANKWHEEL_{name.upper()}", value)
    for name in ("STATS_PERIODE", "_LOAD_SCHEMA", "LOGLEVEL", "SANDBOX_API_KEY"):
        monkeypatch.setenv(f"TAP_CRANKWHEEL_{name}", "info")
    result = s.command_line("--config", "ENV")
    assert result.exit_code == 0
    assert "prospect-team-size" in result.stdout.split('"stream":"demo_requests"')[1]
    assert result.warnings == [
        "stats_periode is not a setting of the tap, and is ignored: did you mean stats_period?"
    ]


def test_a_misspelt_setting_is_named_with_the_one_that_is_meant(run: s.Run) -> None:
    written = run("--test", star_date="2026-01-01", colour="blue").warnings
    ignored = "is not a setting of the tap, and is ignored"
    assert written == [f"colour {ignored}.", f"star_date {ignored}: did you mean start_date?"]


def test_a_question_may_be_written_with_its_prefix(sandbox: Sandbox) -> None:
    tap = TapCrankWheel(config=s.config_for(sandbox, custom_questions=["prospect-shoesize", "vip"]))
    info = tap.streams["demo_requests"].schema["properties"]["prospect_info"]["properties"]
    assert [*info][-3:] == ["prospect-shoesize", "prospect-vip", "extra"]


@pytest.mark.parametrize(
    "setting", ["window_days", "stream_maps", "emit_activate_version_messages", "stats_period"]
)
def test_a_setting_that_is_null_has_its_default(run: s.Run, setting: str) -> None:
    result = run(**{setting: None})
    assert result.exit_code == 0
    assert '"ACTIVATE_VERSION"' in result.stdout


def test_a_new_field_of_a_stream_map_is_logged_once(run: s.Run) -> None:
    maps = {"users": {"emial": "md5(email)", "email": "md5(email)"}}
    stderr = run(stream_maps=maps).stderr
    assert stderr.count("stream_maps: users gets a new field emial") == 1
    assert stderr.count("gets a new field") == 1
