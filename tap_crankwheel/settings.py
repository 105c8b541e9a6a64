"""Settings: what they may be, and what one run makes of them."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import pendulum
import requests
from singer_sdk import typing as th
from singer_sdk.typing import DEFAULT_JSONSCHEMA_VALIDATOR

from tap_crankwheel.schemas import SCHEMAS
from tap_crankwheel.windows import PERIODS, parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jsonschema import ValidationError

T = TypeVar("T")

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: What is left for a question's id of the 63 bytes of a column's name in PostgreSQL.
LONGEST_QUESTION = 63 - len("prospect_info__prospect-")

_LIKE_A_DATE = re.compile(r"[\d:./TZ+ -]{1,32}", re.ASCII)

LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}

CONFIG_SCHEMA: dict[str, Any] = th.PropertiesList(
    th.Property(
        "api_key",
        th.StringType,
        required=True,
        secret=True,
        title="API key",
        description="A read-only API key, which an administrator makes on the API tab of the "
        "CrankWheel account. For a client account of a reseller: "
        "resellerimpersonate-<client id>-<reseller key>.",
    ),
    th.Property(
        "start_date",
        th.DateTimeType,
        title="Start date",
        description="The earliest moment to read, in ISO 8601. A date means midnight UTC. If it "
        "is not set, the first run reads the last 28 days, from the start of a period "
        "on.",
    ),
    th.Property(
        "end_date",
        th.DateTimeType,
        title="End date",
        description="The moment to read up to, in ISO 8601. A date means midnight UTC. Set it to "
        "load a closed range of the past. If it is not set, a run reads up to the "
        "time it started.",
    ),
    th.Property(
        "lookback_days",
        th.IntegerType(minimum=0, maximum=3650),
        default=7,
        title="Lookback days",
        description="How many days before the bookmark each run reads again, because running "
        "sessions and open demo requests still change. Raise it if agents take "
        "requests more than a week after they are made. Each day adds a few requests "
        "to a run.",
    ),
    th.Property(
        "window_days",
        th.IntegerType(minimum=1, maximum=366),
        default=7,
        title="Window days",
        description="How many days of sessions or demo requests to ask for in one request. Lower "
        "it for a very busy account. Raise it for a long history of a quiet account. "
        "If statistics are selected, sessions are usually requested one period at a "
        "time instead.",
    ),
    th.Property(
        "stats_period",
        th.StringType(allowed_values=list(PERIODS)),
        default="day",
        title="Statistics period",
        description="The length of the periods of account_stats and agent_stats. Each period "
        "costs up to two requests.",
    ),
    th.Property(
        "timezone",
        th.StringType,
        default="UTC",
        title="Time zone",
        description="The IANA time zone in which the periods of the statistics begin and end, for "
        "example America/New_York.",
    ),
    th.Property(
        "custom_questions",
        th.ArrayType(th.StringType),
        default=[],
        title="Custom questions",
        description="IDs of your own lead capture questions, without 'prospect-'. Each ID listed "
        "here is a field of prospect_info, and a column where objects are flattened. "
        "Answers to other questions are in prospect_info.extra. An ID has at most 39 "
        "bytes, and two IDs differ in more than case and punctuation.",
    ),
    th.Property(
        "usage_endpoint",
        th.StringType(allowed_values=["usage", "usage_new"]),
        default="usage",
        title="Usage endpoint",
        description="The endpoint to read sessions from. Change it only if an error tells you to.",
    ),
    th.Property(
        "emit_activate_version_messages",
        th.BooleanType,
        default=True,
        title="Emit ACTIVATE_VERSION messages",
        description="Whether to send the messages that let a target mark removed users as "
        "deleted. It affects only the stream users. Turn it off if the target does "
        "not support ACTIVATE_VERSION messages.",
    ),
    th.Property(
        "max_parallel_requests",
        th.IntegerType(minimum=1, maximum=10),
        default=4,
        title="Parallel requests",
        description="The maximum number of requests at a time. If the API limits their rate, the "
        "tap makes fewer by itself, and the last line of the log says so.",
    ),
    th.Property(
        "request_timeout",
        th.IntegerType(minimum=1, maximum=3600),
        default=90,
        title="Request timeout",
        description="How many seconds the server may stay silent before a request is retried. A "
        "complete response may take ten times as long.",
    ),
    th.Property(
        "api_url",
        th.StringType,
        default="https://meeting.is/ss/api",
        title="API URL",
        description="The URL of the API. Change it to read from a sandbox or through a gateway.",
    ),
).to_dict()


@dataclass(frozen=True)
class Settings:
    """The settings of a run, valid and in real types.

    Attributes:
        api_url: The URL of the API.
        api_key: The key, without white space around it.
        start_date: The earliest moment to read, UTC; None if the user sets none.
        end_date: The moment to read to, UTC; None for the start of the run.
        lookback: How far before the bookmark a run begins.
        window: The length of the windows that events are requested in, where no period serves.
        stats_period: The kind of the periods of the statistics, one of `PERIODS`.
        timezone: The zone whose calendar these periods follow.
        custom_questions: Ids of lead capture questions, without `prospect-`.
        usage_endpoint: The endpoint of sessions: `usage` or `usage_new`.
        max_parallel_requests: How many windows may be requested at a time.
        request_timeout: Seconds of silence after which an attempt has failed; an answer may take
            ten times as long in all.
    """

    api_url: str
    api_key: str
    start_date: datetime | None
    end_date: datetime | None
    lookback: timedelta
    window: timedelta
    stats_period: str
    timezone: pendulum.Timezone
    custom_questions: tuple[str, ...]
    usage_endpoint: str
    max_parallel_requests: int
    request_timeout: int


def read_settings(
    config: Mapping[str, Any],
    schema: Mapping[str, Any],
) -> tuple[Settings, list[str]]:
    """Read the settings, once.

    Args:
        config: The settings as the user gave them.
        schema: Their JSON schema, which has the defaults.

    Returns:
        The settings, and a line for each that is invalid; its default, or nothing, stands in its
        place. No line holds a value that may be the key.
    """
    reader = _Reader(config, schema)
    start, end = reader.read("start_date", _start_date), reader.read("end_date", _date)
    if start and end and end < start:
        reader.errors.append("end_date lies before start_date: exchange them, or remove end_date.")
    if config.get("batch_config"):
        reader.errors.append(
            "batch_config is not supported: batch files would hold fields that you deselected. "
            "Remove it.",
        )
    if config.get("api_key") is None:
        reader.errors.append(
            "api_key is missing: an administrator makes one on the API tab of the CrankWheel "
            "account; set it in the configuration, or as TAP_CRANKWHEEL_API_KEY in Meltano and "
            "with --config=ENV.",
        )
    settings = Settings(
        api_url=reader.read("api_url", _api_url) or "",
        api_key=reader.read("api_key", _api_key) or "",
        start_date=start,
        end_date=end,
        lookback=timedelta(days=reader.values["lookback_days"]),
        window=timedelta(days=reader.values["window_days"]),
        stats_period=reader.values["stats_period"],
        timezone=reader.read("timezone", _timezone) or pendulum.UTC,
        custom_questions=reader.read("custom_questions", _custom_questions) or (),
        usage_endpoint=reader.values["usage_endpoint"],
        max_parallel_requests=reader.values["max_parallel_requests"],
        request_timeout=reader.values["request_timeout"],
    )
    return settings, reader.errors


def unknown_settings(written: Mapping[str, str], schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each name that is not a setting, with the setting that it is closest to.

    Args:
        written: How the user wrote each name: as it is, or as a variable of the environment.
        schema: The JSON schema of the settings.
    """
    for name in sorted(written.keys() - schema["properties"].keys()):
        near = difflib.get_close_matches(name, schema["properties"], n=1)
        meant = f": did you mean {near[0]}?" if near else "."
        yield f"{written[name]} is not a setting of the tap, and is ignored{meant}"


class _Reader:
    """Reads one setting after another, and collects what is wrong with them."""

    def __init__(self, config: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
        misfits = [e for e in DEFAULT_JSONSCHEMA_VALIDATOR(schema).iter_errors(config) if e.path]
        invalid = {error.path[0] for error in misfits}
        defaults = {
            name: s["default"] for name, s in schema["properties"].items() if "default" in s
        }
        self.errors = [describe_rule(error) for error in misfits]
        self.values = defaults | {k: v for k, v in config.items() if k not in invalid}

    def read(self, name: str, parse: Callable[[Any], T]) -> T | None:
        """Return a setting as `parse` reads it; None if it is not set, or invalid."""
        if (value := self.values.get(name)) is None:
            return None
        try:
            return parse(value)
        except ValueError as error:
            self.errors.append(f"{name} {error}.")
            return None


def describe_rule(error: ValidationError) -> str:
    """Name the rule that a setting breaks, never its value: that may be the key."""
    name = ".".join(map(str, error.path))
    value: Any = error.validator_value
    if error.validator in {"enum", "type"}:
        values = [value] if isinstance(value, str) else value
        kind = "one of" if error.validator == "enum" else "of type"
        return f"{name} has to be {kind} {', '.join(v for v in values if v != 'null')}."
    if error.validator in {"minimum", "maximum"}:
        bound = "at least" if error.validator == "minimum" else "at most"
        return f"{name} has to be {bound} {value}."
    return f"{name} does not have the form that --about describes."


# Each raises ValueError with the end of a sentence that begins with the setting's name.


def _api_key(key: str) -> str:
    key = key.strip()
    if not key:
        raise ValueError(
            "is empty: write the key into the configuration, or into TAP_CRANKWHEEL_API_KEY for "
            "Meltano and --config=ENV"
        )
    if key[0] in "'\"`":
        raise ValueError("cannot be used: it is wrapped in quotes, leave them out")
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError(
            "cannot be used: it holds a space or a character that no key has, copy it again",
        )
    return key


def _date(text: str) -> datetime:
    try:
        return parse_timestamp(text)
    except ValueError:
        # Named only if it looks like a date: a key may have been pasted here.
        named = f" ({text})" if _LIKE_A_DATE.fullmatch(text) else ""
        raise ValueError(
            f"is not a date{named}: write it as 2026-08-30 or 2026-08-30T20:00:00Z"
        ) from None


def _start_date(text: str) -> datetime:
    date = _date(text)
    if date < EPOCH:
        raise ValueError("lies before 1970")
    return date


def _custom_questions(ids: list[str]) -> tuple[str, ...]:
    schema = SCHEMAS.get_schema("demo_requests")["properties"]["prospect_info"]
    fixed = [name.removeprefix("prospect-") for name in schema["properties"]]
    columns: dict[str, str] = {}
    for question in dict.fromkeys((*fixed, *ids)):
        if not 0 < len(question.encode()) <= LONGEST_QUESTION:
            raise ValueError(
                f"holds an id of more than {LONGEST_QUESTION} bytes, or an empty one, of which no "
                "target makes a column: remove it, its answers are in prospect_info.extra"
            )
        # As the targets that change names see it: in lower case, and letters and digits only.
        column = re.sub(r"\W", "_", question.casefold())
        if (other := columns.setdefault(column, question)) != question:
            raise ValueError(
                f"holds {question!r}, which a target may take for the same column as {other!r}: "
                "remove it, its answers are in prospect_info.extra"
            )
    return tuple(ids)


def _timezone(name: str) -> pendulum.Timezone:
    try:
        return pendulum.timezone(name)
    except (ValueError, OSError):
        raise ValueError(
            "is not in the IANA list: use a name from it, for example Europe/Berlin"
        ) from None


def _api_url(text: str) -> str:
    text = text.strip()
    try:
        url = urlsplit(str(requests.Request("GET", text).prepare().url))
    except (requests.RequestException, ValueError):
        url = urlsplit("")
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("is not a URL: write it with its scheme, as https://meeting.is/ss/api")
    if url.scheme == "http" and url.hostname not in LOCAL_HOSTS:
        raise ValueError("begins with http://, and the key would travel in clear: use https://")
    return text
