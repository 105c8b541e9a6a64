"""Windows of time: the arithmetic of ranges, periods and timestamps.

Everything here is pure. A moment is a timezone-aware datetime; what leaves this module is UTC.
"""

from __future__ import annotations

import itertools
import math
import re
from datetime import date, datetime, time, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

import pendulum

if TYPE_CHECKING:
    from collections.abc import Iterator

PERIODS = ("hour", "day", "week", "month")

#: How much wider than its window a request for a list is, on both sides: whether the API's `from`
#: and `to` are inclusive, and whether it looks at fractions of a second, is not documented.
MARGIN = timedelta(seconds=1)

_DATE_FIRST = re.compile(r"\d{4}-\d{2}-\d{2}(?!\d)")


class Window(NamedTuple):
    """The time from `start` up to, not including, `end`; both UTC."""

    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC"


def parse_timestamp(text: str) -> datetime:
    """Read an ISO 8601 timestamp.

    Args:
        text: A date (midnight UTC), or a date and a time, with an offset or without (UTC).

    Returns:
        The moment, in UTC.

    Raises:
        ValueError: It is not a timestamp, or the calendar does not have it, also not in UTC.
    """
    # The library also reads times of today, durations, years and intervals.
    if "/" in text or not _DATE_FIRST.match(text):
        raise ValueError("not an ISO 8601 timestamp")
    try:
        # A plain datetime: pendulum's own does not do arithmetic in a zone of the standard library.
        return to_utc(datetime.fromisoformat(str(pendulum.parse(text))))
    except OverflowError:
        raise ValueError("outside of the calendar") from None


def to_utc(moment: datetime) -> datetime:
    """Return a moment in UTC; without an offset it is taken for UTC."""
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def format_timestamp(moment: datetime) -> str:
    """Write a moment in the one form that leaves the tap: UTC, RFC 3339, six decimals, `Z`."""
    return moment.astimezone(timezone.utc).replace(tzinfo=None).isoformat("T", "microseconds") + "Z"


def query(window: Window, margin: timedelta, now: datetime) -> dict[str, str]:
    """Return the API's `from` and `to` for a window with a margin: UTC, whole seconds.

    Args:
        window: The window, which ends now or earlier.
        margin: How much wider the request is, on both sides.
        now: A whole second, which no request reaches past: an API may refuse a range of the future.
    """
    start, end = window.start - margin, min(window.end + margin, now)
    end += timedelta(microseconds=999_999)  # what is left of a second counts as one
    return {"from": f"{start:%Y-%m-%dT%H:%M:%SZ}", "to": f"{end:%Y-%m-%dT%H:%M:%SZ}"}


def split(window: Window, length: timedelta) -> list[Window]:
    """Cut a window into windows of at most a length, oldest first; an empty one into nothing."""
    count = math.ceil((window.end - window.start) / length)
    edges = [window.start + n * length for n in range(count)]
    return [Window(edge, min(edge + length, window.end)) for edge in edges]


def halve(window: Window) -> list[Window]:
    """Cut a window in two, at a whole second; one of an hour or less into nothing."""
    length = window.end - window.start
    if length <= timedelta(hours=1):
        return []
    middle = (window.start + length / 2).replace(microsecond=0)
    return [Window(window.start, middle), Window(middle, window.end)]


def periods(window: Window, unit: str, zone: pendulum.Timezone) -> Iterator[Window]:
    """Yield the calendar periods that a window touches, whole, oldest first.

    Args:
        window: The first period contains its start; the last one starts before its end.
        unit: One of `PERIODS`. A week starts on Monday.
        zone: The time zone whose midnights and full hours are the boundaries.

    Yields:
        Periods that follow each other without gap or overlap. Where the clock is turned back over
        a full hour, both hours are periods; days and hours that a change of the clock leaves out
        do not exist.
    """
    boundaries = _boundaries(window.start, unit, zone)
    start = next(boundaries)
    while start < window.end:
        # A DST gap yields duplicate boundaries; skip them.
        end = next(moment for moment in boundaries if moment > start)
        if end > window.start:
            yield Window(start, end)
        start = end


def _boundaries(start: datetime, unit: str, zone: pendulum.Timezone) -> Iterator[datetime]:
    """Yield the boundaries of periods, from the one at or before `start` on, without end."""
    first = pendulum.instance(start).in_timezone(zone).date()
    if unit != "hour":
        first = first.start_of(unit)
    for n in itertools.count():
        day = first.add(**{"days" if unit == "hour" else f"{unit}s": n})
        yield _instant(day, 0, zone)
        if unit == "hour":
            hours = {_instant(day, hour, zone, fold) for hour in range(24) for fold in (0, 1)}
            yield from sorted(hour for hour in hours if hour > _instant(day, 0, zone))


def _instant(day: date, hour: int, zone: pendulum.Timezone, fold: int = 0) -> datetime:
    """Return when a local clock shows a full hour, the first or (`fold`) the second time.

    For an hour skipped by DST, return the transition.
    """
    first, second = (
        datetime.combine(day, time(hour, fold=fold), tzinfo=zone).astimezone(timezone.utc)
        for fold in (0, 1)
    )
    return max(first, second) if fold else first
