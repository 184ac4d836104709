"""Durations and instants: what people and SDKs write, read exactly or refused clearly."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.model.duration import format_duration, parse_duration, parse_time

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1d", timedelta(days=1)),
        ("2w", timedelta(weeks=2)),
        ("1h30m", 1.5 * HOUR),
        ("1.5h", 1.5 * HOUR),
        (".5h", 0.5 * HOUR),
        ("1.h", HOUR),
        ("500ms", timedelta(milliseconds=500)),
        ("10us", timedelta(microseconds=10)),
        ("10µs", timedelta(microseconds=10)),
        ("10μs", timedelta(microseconds=10)),
        ("1500000ns", timedelta(microseconds=1500)),
        ("1w2d3h4m5s6ms", timedelta(weeks=1, days=2, hours=3, minutes=4, seconds=5, milliseconds=6)),
        ("0", timedelta(0)),
        ("0s", timedelta(0)),
        ("-1h", -HOUR),
        ("+1h", HOUR),
        ("-1h30m", -1.5 * HOUR),
        (" 30s ", timedelta(seconds=30)),
        ("2 weeks", timedelta(weeks=2)),
        ("1 hour", HOUR),
        ("1 Hour", HOUR),
        ("1 hour 30 minutes", 1.5 * HOUR),
        ("1 hour, 30 minutes", 1.5 * HOUR),
        ("90 mins", 1.5 * HOUR),
        ("2 days", timedelta(days=2)),
        ("10 secs", timedelta(seconds=10)),
        ("3 hrs", 3 * HOUR),
        ("250 milliseconds", timedelta(milliseconds=250)),
        ("PT1H30M", 1.5 * HOUR),
        ("P1DT12H", timedelta(days=1.5)),
        ("P2W", timedelta(weeks=2)),
        ("PT0.5S", timedelta(milliseconds=500)),
        ("pt1h", HOUR),
        ("-PT1H", -HOUR),
        ("0.1s", timedelta(milliseconds=100)),
    ],
)
def test_a_duration_is_read_exactly(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "-", "10", "1x", "h", "1h30", "1M", "1H", "P", "PT", "P1DT", "P1M", "P1Y", "1h -30m", "1h,", "1e3s",
     "NaNs", "--1h", "1..5h", "one hour", "٣s", "1h" * 100, "never"],
)  # fmt: skip
def test_anything_else_is_refused_by_name_and_with_the_valid_forms(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration") as caught:
        parse_duration(text)
    assert repr(text)[:30].strip("'") in str(caught.value)
    assert '"1h30m"' in str(caught.value)
    assert '"PT1H30M"' in str(caught.value)


def test_a_duration_beyond_any_calendar_is_refused() -> None:
    with pytest.raises(ValueError, match="too long for a duration"):
        parse_duration("9999999999999w")


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (timedelta(0), "0s"),
        (timedelta(microseconds=7), "7us"),
        (timedelta(microseconds=1500), "1.5ms"),
        (timedelta(milliseconds=500), "500ms"),
        (timedelta(seconds=1.5), "1.5s"),
        (timedelta(seconds=30), "30s"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(hours=1), "1h"),
        (timedelta(hours=1, minutes=30), "1h30m"),
        (timedelta(days=1), "1d"),
        (timedelta(days=1, seconds=1), "1d1s"),
        (timedelta(days=10), "10d"),
        (timedelta(weeks=2), "2w"),
        (-timedelta(hours=1), "-1h"),
    ],
)
def test_a_duration_is_written_in_its_short_exact_form(duration: timedelta, expected: str) -> None:
    assert format_duration(duration) == expected


@given(st.timedeltas())
def test_what_is_written_is_read_back_the_same(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


NOON = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-04T12:00:00Z", NOON),
        ("2026-03-04t12:00:00z", NOON),
        ("2026-03-04 12:00:00", NOON),
        ("2026-03-04 12:00:00 UTC", NOON),
        ("2026-03-04T12:00", NOON),
        ("2026-03-04T14:30:00+02:30", NOON),
        ("2026-03-04T07:00:00-0500", NOON),
        ("2026-03-04T12:00:00.123Z", NOON + timedelta(milliseconds=123)),
        ("2026-03-04T12:00:00.123456789Z", NOON + timedelta(microseconds=123456)),
        ("2026-03-04", NOON.replace(hour=0)),
        ("2026-03-04T11:59:60Z", NOON),
        ("Wed, 04 Mar 2026 12:00:00 GMT", NOON),
        ("Wed, 4 Mar 2026 13:00:00 +0100", NOON),
        ("04 Mar 2026 12:00:00", NOON),
        ("Wednesday, 04-Mar-26 12:00:00 GMT", NOON),
        ("Wed Mar  4 12:00:00 2026", NOON),
        (" 2026-03-04T12:00:00Z ", NOON),
    ],
)
def test_an_instant_is_read_in_utc(text: str, expected: datetime) -> None:
    found = parse_time(text)
    assert found == expected
    assert found is not None
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    ["", "1h", "120", "2026-02-30", "2026-13-01", "2026-03-04T25:00:00Z", "2026-03-04T12:00:61Z", "2026-3-4",
     "0000-01-01", "0001-01-01T00:00:00+14:00", "2026-03-04T12:00:00+01:99", "Wed, 04 Foo 2026 12:00:00 GMT",
     "Wed, 04 Mar 2026 12:00:00 PST", "tomorrow", "2026-03-04T12:00:00Z" * 20],
)  # fmt: skip
def test_what_is_not_an_instant_is_none(text: str) -> None:
    assert parse_time(text) is None


@given(st.text(max_size=60))
def test_no_text_makes_either_reader_fail_in_another_way(text: str) -> None:
    parse_time(text)
    with contextlib.suppress(ValueError):
        parse_duration(text)
