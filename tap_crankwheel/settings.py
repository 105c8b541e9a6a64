"""Settings: their JSON schema, and how a run parses them."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pendulum
import requests
from singer_sdk import typing as th
from singer_sdk.typing import DEFAULT_JSONSCHEMA_VALIDATOR

from tap_crankwheel.windows import PERIODS, parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jsonschema import ValidationError

LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}

CONFIG_SCHEMA: dict[str, Any] = th.PropertiesList(
    th.Property(
        "api_key",
        th.StringType,
        required=True,
        secret=True,
        description="A read-only API key from the API tab of the CrankWheel account. For a client "
        "account of a reseller: resellerimpersonate-<client id>-<reseller key>.",
    ),
    th.Property(
        "start_date",
        th.DateTimeType,
        description="The moment to read from, in ISO 8601. A date means midnight UTC. If it is "
        "not set, the first run reads the last 28 days.",
    ),
    th.Property(
        "end_date",
        th.DateTimeType,
        description="The moment to read up to, in ISO 8601, for a closed range of the past. If it "
        "is not set, each run reads up to the moment that it starts.",
    ),
    th.Property(
        "lookback_days",
        th.IntegerType(minimum=0, maximum=3650),
        default=7,
        description="How many days before the bookmark each run reads again, because sessions and "
        "demo requests may still change. Raise it if they change later than that.",
    ),
    th.Property(
        "window_days",
        th.IntegerType(minimum=1, maximum=366),
        default=7,
        description="How many days of sessions or demo requests one request covers. Lower it for a "
        "very busy account. Raise it for a long history of a quiet account.",
    ),
    th.Property(
        "stats_period",
        th.StringType(allowed_values=list(PERIODS)),
        default="day",
        description="The length of the periods of account_stats, agent_stats and demo_stats.",
    ),
    th.Property(
        "timezone",
        th.StringType,
        default="UTC",
        description="The IANA time zone of the statistics' periods, such as America/New_York.",
    ),
    th.Property(
        "custom_questions",
        th.ArrayType(th.StringType),
        default=[],
        description="IDs of your own lead capture questions. The answer to each is a field of "
        "prospect_info. Answers to other questions are in prospect_info.extra.",
    ),
    th.Property(
        "usage_endpoint",
        th.StringType(allowed_values=["usage", "usage_new"]),
        default="usage",
        description="The endpoint to read sessions from. If a run ends because usage does not "
        "exist, or its sessions have another form, set usage_new.",
    ),
    th.Property(
        "emit_activate_version_messages",
        th.BooleanType,
        default=True,
        description="Whether to send the messages that let a target mark removed users as deleted.",
    ),
    th.Property(
        "max_parallel_requests",
        th.IntegerType(minimum=1, maximum=10),
        default=4,
        description="How many requests to make at a time. Lower it if the API limits their rate.",
    ),
    th.Property(
        "request_timeout",
        th.IntegerType(minimum=1, maximum=3600),
        default=90,
        description="How many seconds the server may stay silent. After that, a range of more than "
        "an hour is requested in halves, and any other request is retried.",
    ),
    th.Property(
        "api_url",
        th.StringType,
        default="https://meeting.is/ss/api",
        description="The URL of the API. Change it to read from a sandbox or through a gateway. It "
        "begins with https://; http:// is accepted for localhost only.",
    ),
).to_dict()


@dataclass(frozen=True)
class Settings:
    """The settings of a run, valid and in real types.

    Attributes:
        api_url: The URL of the API, without a slash at its end.
        api_key: The key.
        start_date: The earliest moment to read, UTC; None if the user sets none.
        end_date: The moment to read to, UTC; None for the start of the run.
        lookback_days: How many days before the bookmark a run begins.
        window_days: How many days of events are requested at a time.
        stats_period: The kind of the periods of the statistics, one of `PERIODS`.
        timezone: The zone whose calendar these periods follow.
        custom_questions: Ids of lead capture questions, without `prospect-`.
        usage_endpoint: The endpoint of sessions, `usage` or `usage_new`.
        max_parallel_requests: How many windows may be requested at a time.
        request_timeout: Seconds of silence after which an attempt has failed.
    """

    api_url: str
    api_key: str
    start_date: datetime | None
    end_date: datetime | None
    lookback_days: int
    window_days: int
    stats_period: str
    timezone: pendulum.Timezone
    custom_questions: list[str]
    usage_endpoint: str
    max_parallel_requests: int
    request_timeout: int


def read_settings(config: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """Read the settings.

    Args:
        config: The settings as the user gave them.

    Returns:
        The settings, and a line for each that is invalid; its default, or nothing, stands in its
        place. No line holds a value that may be the key.
    """
    validator = DEFAULT_JSONSCHEMA_VALIDATOR(CONFIG_SCHEMA)
    misfits = [error for error in validator.iter_errors(dict(config)) if error.path]
    errors = [_describe(error) for error in misfits]
    invalid = {error.path[0] for error in misfits}
    values: dict[str, Any] = {}
    for name in (field.name for field in fields(Settings)):
        parse = _PARSERS.get(name, lambda value: value)
        values[name] = default = CONFIG_SCHEMA["properties"][name].get("default")
        if name not in invalid:
            try:
                values[name] = parse(config.get(name, default))
            except ValueError as error:  # the end of a sentence that begins with the name
                errors.append(f"{name} {error}.")
    if (start := values["start_date"]) and (end := values["end_date"]) and end < start:
        errors.append("end_date lies before start_date: swap them, or remove end_date.")
    return Settings(**values), errors


def _describe(error: ValidationError) -> str:
    """Name the rule that a setting breaks, never its value: that may be the key."""
    name = ".".join(map(str, error.path))
    value: Any = error.validator_value
    is_list = isinstance(value, list)
    rule = {
        "enum": f"one of {', '.join(map(str, value))}, with no quotes in it" if is_list else "",
        "type": f"of type {value[0] if is_list else value}",
        "minimum": f"at least {value}",
        "maximum": f"at most {value}",
    }.get(str(error.validator), "of the form that --about describes")
    return f"{name} has to be {rule}."


def _api_key(key: str | None) -> str:
    if not key:
        raise ValueError(
            "is missing: an administrator creates a key on the API tab of the account. Write it "
            "into the configuration, or set TAP_CRANKWHEEL_API_KEY (Meltano, or --config=ENV)"
        )
    if key[0] in "'\"`" or not re.fullmatch(r"[!-~]+", key):
        raise ValueError(
            "cannot be used: copy it again, without quotes, spaces or the word Basic around it"
        )
    return key


def parse_date(text: str | None) -> datetime | None:
    """Read a date of a setting or a state: `parse_timestamp`, from 1970 on.

    Raises:
        ValueError: It is none, or lies before 1970. Its text ends a sentence: "start_date …".
    """
    try:
        date = parse_timestamp(text) if text is not None else None
    except ValueError:  # not quoted: a key may have been pasted here
        form = "2026-08-30 or 2026-08-30T20:00:00Z, with no quotes in it"
        raise ValueError(f"is not a date: write it as {form}") from None
    if date and date.year < 1970:  # noqa: PLR2004
        raise ValueError("lies before 1970: set a later date")
    return date


def _start_date(text: str | None) -> datetime | None:
    date = parse_date(text)
    if date and date > datetime.now(timezone.utc):
        raise ValueError(f"({text}) lies in the future: set an earlier date")
    return date


def _timezone(name: str) -> pendulum.Timezone:
    try:
        return pendulum.timezone(name)
    except (ValueError, OSError):
        alike = [zone for zone in pendulum.timezones() if zone.casefold() == name.casefold()]
        example = alike[0] if alike else "Europe/Berlin or America/New_York"
        said = f"is not an IANA time zone: write, with no quotes in it, a name such as {example}"
        raise ValueError(said) from None


def _api_url(text: str) -> str:
    try:
        url = urlsplit(str(requests.Request("GET", text).prepare().url))
    except (requests.RequestException, ValueError):
        url = urlsplit("")
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("is not a URL: write it as https://meeting.is/ss/api, no quotes in it")
    if url.scheme == "http" and url.hostname not in LOCAL_HOSTS:
        raise ValueError("begins with http://, which sends the key unencrypted: use https://")
    return text.rstrip("/")


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "api_key": _api_key,
    "api_url": _api_url,
    "custom_questions": lambda ids: [q for i in ids if (q := i.strip().removeprefix("prospect-"))],
    "end_date": parse_date,
    "start_date": _start_date,
    "timezone": _timezone,
}
