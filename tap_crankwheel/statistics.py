"""Statistics: a period's sessions and answers into the rows of account_stats and agent_stats.

Everything here is pure. What the API's own `stats` hold is passed on as it came, since the names in
it are undocumented.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from tap_crankwheel.errors import ShapeError
from tap_crankwheel.payloads import beside_sessions, session_items
from tap_crankwheel.rows import INVALID, ObjectParser, Row, parse_integer, parse_number
from tap_crankwheel.windows import format_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tap_crankwheel.payloads import Answer
    from tap_crankwheel.tally import Durations
    from tap_crankwheel.windows import Window


#: A number of cancelled demo requests, None if it is unknown, and what is for `extra`.
Canceled = tuple[object, Row]


class PeriodParser:
    """Computes the statistics of periods.

    Args:
        unit: The kind of the periods, one of `PERIODS`.
        zone: The name of the time zone whose calendar they follow.
        account_schema: The schema of account_stats.
    """

    def __init__(self, unit: str, zone: str, account_schema: Mapping[str, Any]) -> None:
        self._kind = {"period": unit, "timezone": zone}
        computed = account_schema["properties"].keys() - {"stats"}
        self._parse_account = ObjectParser(account_schema, computed)

    def account(
        self, period: Window, usage: Answer, canceled: Canceled, durations: Durations
    ) -> Row:
        """Return the account's row for a period.

        Args:
            period: The period.
            usage: The answer of `/usage` for it; sessions in it do not count.
            canceled: What `canceled_requests` returns for it.
            durations: The seconds of each session that starts in the period, by email.

        Raises:
            ShapeError: The answer is not an object.
        """
        number, rest = canceled
        row = self._parse_account(beside_sessions(usage) | rest)
        row |= self._head(period)
        row["meetings"] = sum(map(len, durations.values()))
        row["total_seconds"] = _total(itertools.chain.from_iterable(durations.values()))
        row["canceled_demo_requests"] = number
        return row

    def agents(self, period: Window, usage: Answer, durations: Durations) -> list[Row]:
        """Return a row for each agent with sessions that start in a period, by email.

        The arguments are those of `account`.
        """
        entries: dict[str, list[tuple[str, object]]] = {
            email: [] for email in durations if email is not None
        }
        _collect_entries(beside_sessions(usage).get("stats"), "", entries)
        rows = []
        for email, found in sorted(entries.items()):
            entry = found[0][1] if len(found) == 1 else dict(found) or None
            fits = entry is None or isinstance(entry, dict)
            rows.append(
                {
                    **self._head(period),
                    "email": email,
                    "meetings": len(durations[email]),
                    "total_seconds": _total(durations[email]),
                    "stats": entry if fits else None,
                    "extra": None if fits else {"stats": entry},
                }
            )
        return rows

    def _head(self, period: Window) -> Row:
        start, end = map(format_timestamp, period)
        return {**self._kind, "period_start": start, "period_end": end}


def canceled_requests(demo_usage: Answer) -> Canceled:
    """Return how many requests were cancelled, and what an answer of `/demo_usage` holds besides.

    Raises:
        ShapeError: It is not such an answer.
    """
    try:
        session_items(demo_usage)  # an error object is not an answer
    except ShapeError as error:
        raise ShapeError(str(error), path="/demo_usage") from None
    rest = beside_sessions(demo_usage)
    value = rest.pop("total_canceled_requests", None)
    count = None if value is None else parse_integer(value)
    if count is INVALID:
        rest["total_canceled_requests"] = value
        count = None
    return count, {"demo_usage": rest} if rest else {}


def _total(seconds: Iterable[Any]) -> object:
    """Return a sum; None if a part of it is unknown, or it does not fit 64 bits."""
    parts = list(seconds)
    total = None if None in parts else parse_number(sum(parts))
    return None if total is INVALID else total


def _collect_entries(
    stats: object,
    path: str,
    entries: dict[str, list[tuple[str, object]]],
) -> None:
    """Add each agent's entries in the API's stats, with their paths, to the agent's list.

    An entry is what stands under the email in a mapping, or a list's item that holds the email as
    a value.
    """
    if isinstance(stats, dict):
        for key, value in stats.items():
            if key in entries:
                entries[key].append((path, value))
            else:
                _collect_entries(value, f"{path}.{key}" if path else key, entries)
    elif isinstance(stats, list):
        for n, item in enumerate(stats):
            place = f"{path}.{n}" if path else str(n)
            values = item.values() if isinstance(item, dict) else ()
            emails = {v for v in values if isinstance(v, str) and v in entries}
            for email in emails:
                entries[email].append((place, item))
            if not emails:
                _collect_entries(item, place, entries)
