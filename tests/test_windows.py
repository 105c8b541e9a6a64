from __future__ import annotations

import itertools
import zoneinfo
from datetime import datetime, timedelta, timezone

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_crankwheel import windows as w
from tap_crankwheel.windows import PERIODS, Window, periods

UTC = timezone.utc
ZONES = sorted(zoneinfo.available_timezones() - {"Factory", "localtime"})

moments = st.datetimes(datetime(1970, 1, 3), datetime(2037, 12, 1), timezones=st.just(UTC))  # noqa: DTZ001


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@st.composite
def ranges(draw: st.DrawFn, longest: timedelta) -> Window:
    start = draw(moments)
    return Window(start, start + draw(st.timedeltas(timedelta(microseconds=1), longest)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-08-30", "2026-08-30T00:00:00.000000Z"),
        ("2026-08-30 20:00:30Z", "2026-08-30T20:00:30.000000Z"),
        ("2026-08-30T20:00:30+05:30", "2026-08-30T14:30:30.000000Z"),
        ("2026-08-30T20:00:30.1234567-0330", "2026-08-30T23:30:30.123456Z"),
        ("2028-02-29", "2028-02-29T00:00:00.000000Z"),
    ],
)
def test_timestamps_are_read(text: str, expected: str) -> None:
    assert w.format_timestamp(w.parse_timestamp(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "yesterday", "2026-08", "20:00", "P1D", "2026-02-30", "2026-08-30T25:00:00Z",
        "2026-08-30/20:00", "9999-12-31/P1D", "1788120030", "2026-08-301",
        "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00",
    ],
)  # fmt: skip
def test_invalid_timestamps_are_refused(text: str) -> None:
    with pytest.raises((OverflowError, ValueError)):
        w.parse_timestamp(text)


@given(moments)
def test_timestamps_survive(moment: datetime) -> None:
    text = w.format_timestamp(moment)
    assert w.parse_timestamp(text) == moment
    assert len(text) == 27


@given(ranges(timedelta(days=800)), st.integers(1, 60))
def test_split_covers_a_window(window: Window, length: int) -> None:
    parts = w.split(window, timedelta(days=length))
    assert parts[0].start == window.start
    assert parts[-1].end == window.end
    assert all(a.end == b.start for a, b in itertools.pairwise(parts))
    assert all(timedelta(0) < part.end - part.start <= timedelta(days=length) for part in parts)


@pytest.mark.parametrize("end", ["2026-08-30", "2026-08-29"])
def test_an_empty_window_has_no_parts(end: str) -> None:
    assert w.split(Window(at("2026-08-30"), at(end)), timedelta(days=7)) == []


@given(ranges(timedelta(days=60)))
def test_halves_cover_a_window_down_to_an_hour(window: Window) -> None:
    halves = w.halve(window)
    if window.end - window.start <= timedelta(hours=1):
        assert halves == []
    else:
        first, second = halves
        assert (first.start, second.end) == window
        assert first.end == second.start
        assert max(p.end - p.start for p in halves) < (window.end - window.start) * 0.6


@given(ranges(timedelta(days=30)), st.integers(0, 3))
def test_a_query_has_whole_seconds_and_loses_nothing(window: Window, seconds: int) -> None:
    now = window.end.replace(microsecond=0) + timedelta(seconds=seconds)
    if now < window.end:
        now += timedelta(seconds=1)
    asked = w.query(window, w.MARGIN, now)
    start, end = at(asked["from"][:-1]), at(asked["to"][:-1])
    assert start.microsecond == end.microsecond == 0
    assert window.start - 2 * w.MARGIN < start <= window.start - w.MARGIN
    assert min(window.end + w.MARGIN, now) <= end < window.end + 2 * w.MARGIN
    assert end <= now


LONGEST = {"hour": 4, "day": 40, "week": 200, "month": 800}


def page(unit: str, clock: datetime) -> object:
    """Return which page of the calendar a local clock is on."""
    return {
        "hour": (clock.date(), clock.hour, clock.fold),
        "day": clock.date(),
        "week": clock.isocalendar()[:2],
        "month": (clock.year, clock.month),
    }[unit]


@given(st.data(), st.sampled_from(PERIODS), st.sampled_from(ZONES))
def test_periods_cover_time_in_any_zone_from_wherever_they_are_read(
    data: st.DataObject, unit: str, zone: str
) -> None:
    window = data.draw(ranges(timedelta(days=LONGEST[unit])))
    found = list(periods(window, unit, pendulum.timezone(zone)))
    assert found[0].start <= window.start < found[0].end
    assert found[-1].start < window.end <= found[-1].end
    assert all(a.end == b.start for a, b in itertools.pairwise(found))
    assert all(period.start < period.end for period in found)
    local = zoneinfo.ZoneInfo(zone)
    for period in found:
        clock = period.start.astimezone(local)
        before = (period.start - timedelta(microseconds=1)).astimezone(local)
        assert page(unit, clock) != page(unit, before)  # each begins where a page is turned
    later = data.draw(st.sampled_from(found))
    rest = Window(max(later.start, window.start), window.end)
    assert list(periods(rest, unit, pendulum.timezone(zone))) == found[found.index(later) :]


@pytest.mark.parametrize(
    ("unit", "zone", "start", "end", "expected"),
    [
        # Days of 23 and of 25 hours, a midnight that comes twice, a day that does not exist.
        ("day", "Europe/Berlin", "2026-03-28T12:00", "2026-03-30T12:00",
         ["2026-03-27T23:00", "2026-03-28T23:00", "2026-03-29T22:00", "2026-03-30T22:00"]),
        ("day", "America/New_York", "2026-11-01T12:00", "2026-11-02T12:00",
         ["2026-11-01T04:00", "2026-11-02T05:00", "2026-11-03T05:00"]),
        ("day", "America/Havana", "2026-11-01T04:30", "2026-11-01T05:30",
         ["2026-11-01T04:00", "2026-11-02T05:00"]),
        ("day", "Pacific/Apia", "2011-12-29T12:00", "2011-12-31T09:00",
         ["2011-12-29T10:00", "2011-12-30T10:00", "2011-12-31T10:00"]),
        # An hour that comes twice, half hours, changes of the clock by half an hour.
        ("hour", "America/New_York", "2026-11-01T05:30", "2026-11-01T07:30",
         ["2026-11-01T05:00", "2026-11-01T06:00", "2026-11-01T07:00", "2026-11-01T08:00"]),
        ("hour", "Asia/Kolkata", "2026-05-01T00:00", "2026-05-01T01:00",
         ["2026-04-30T23:30", "2026-05-01T00:30", "2026-05-01T01:30"]),
        ("hour", "Australia/Lord_Howe", "2026-04-04T14:30", "2026-04-04T16:00",
         ["2026-04-04T14:00", "2026-04-04T15:30", "2026-04-04T16:30"]),
        ("hour", "Australia/Lord_Howe", "2026-10-03T14:30", "2026-10-03T16:00",
         ["2026-10-03T14:30", "2026-10-03T15:30", "2026-10-03T16:00"]),
        # A week over the year's end, a leap year's February, no time.
        ("week", "UTC", "2026-01-01T00:00", "2026-01-05T00:01",
         ["2025-12-29T00:00", "2026-01-05T00:00", "2026-01-12T00:00"]),
        ("month", "UTC", "2028-02-10T00:00", "2028-03-01T00:00",
         ["2028-02-01T00:00", "2028-03-01T00:00"]),
        ("day", "UTC", "2026-01-01T00:00", "2026-01-01T00:00", []),
    ],
)  # fmt: skip
def test_periods_follow_the_calendar(
    unit: str, zone: str, start: str, end: str, expected: list[str]
) -> None:
    found = list(periods(Window(at(start), at(end)), unit, pendulum.timezone(zone)))
    assert found == [Window(a, b) for a, b in itertools.pairwise(map(at, expected))]


@pytest.mark.parametrize(
    ("zone", "day"), [("Pacific/Apia", "2011-12-30"), ("Pacific/Kiritimati", "1994-12-31")]
)
def test_around_a_day_that_does_not_exist_each_hour_comes_once(zone: str, day: str) -> None:
    start = at(f"{day}T00:00") - timedelta(days=1)
    window = Window(start, start + timedelta(days=3))
    found = list(periods(window, "hour", pendulum.timezone(zone)))
    assert [period.start for period in found] == [start + timedelta(hours=n) for n in range(72)]
