"""When schedules come: what they may say, and what happens on the days when clocks change."""

from __future__ import annotations

import random
from bisect import bisect_right
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from stepwell.engine.cron import ScheduleError, parse
from stepwell.model.ids import Instant


def at(text: str) -> Instant:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def written(moment: Instant) -> str:
    return datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="minutes").removesuffix("+00:00")


def occurrences(schedule: str, since: str, until: str) -> list[str]:
    """Those after `since` and up to `until`, in UTC."""
    found = []
    moment = parse(schedule).after(at(f"{since}Z"))
    while moment is not None and moment <= at(f"{until}Z"):
        found.append(written(moment))
        moment = parse(schedule).after(moment)
    return found


@pytest.mark.parametrize(
    ("schedule", "first"),
    [
        ("*/5 * * * *", "2026-09-01T12:05"),
        ("0 9 * * 1-5", "2026-09-02T09:00"),
        ("0 9 * * mon,WED", "2026-09-02T09:00"),
        ("0 0 ? * ?", "2026-09-02T00:00"),
        ("0 0 13 * 5", "2026-09-04T00:00"),  # the 13th, and every Friday
        ("0 0 29 2 *", "2028-02-29T00:00"),
        ("TZ=Europe/Berlin 0 9 * * *", "2026-09-02T07:00"),
        ("CRON_TZ=America/New_York 0 9 * * *", "2026-09-01T13:00"),
        ("TZ=UTC 0 9 * * *", "2026-09-02T09:00"),
        ("TZ=Asia/Kolkata @daily", "2026-09-01T18:30"),
        ("@hourly", "2026-09-01T13:00"),
        ("@daily", "2026-09-02T00:00"),
        ("@midnight", "2026-09-02T00:00"),
        ("@weekly", "2026-09-06T00:00"),
        ("@monthly", "2026-10-01T00:00"),
        ("@yearly", "2027-01-01T00:00"),
        ("@annually", "2027-01-01T00:00"),
        ("@every 90m", "2026-09-01T13:30"),
        ("@every 8784h", "2027-02-13T00:00"),
        ("  @every   1h30m ", "2026-09-01T13:30"),
    ],
)
def test_the_first_occurrence_after_a_moment(schedule: str, first: str) -> None:
    found = parse(schedule).after(at("2026-09-01T12:00Z"))
    assert found is not None
    assert written(found) == first


def test_an_occurrence_is_not_after_itself_and_a_millisecond_counts() -> None:
    noon = at("2026-09-01T12:00Z")
    schedule = parse("0 12 * * *")
    assert schedule.after(noon - 1) == noon
    assert schedule.after(noon) == at("2026-09-02T12:00Z")
    assert parse("@every 2s").after(noon + 1) == noon + 2000


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ("", "has 0 fields and must have five"),
        ("every day", "has 2 fields and must have five"),
        ("* * * *", "has 4 fields and must have five"),
        ("* * * * * *", "has six fields and must have five.*'@every 10s'"),
        ("60 * * * *", "minute that cannot be read"),
        ("* 24 * * *", "hour that cannot be read"),
        ("* * 0 * *", "day-of-month that cannot be read"),
        ("* * * 13 *", "month that cannot be read"),
        ("* * * * 8", "day-of-week that cannot be read"),
        ("a * * * *", "minute that cannot be read"),
        ("*/0 * * * *", "minute that cannot be read"),
        ("0 0 30 2 *", "day-of-month that cannot be read or never comes"),
        ("@often", "'@often' is no word for a schedule; the words are @annually, @daily"),
        ("@every", "does not say how often"),
        ("@every soon", "does not say how often"),
        ("@every 500ms", "whole seconds, and at least one"),
        ("@every 1500ms", "whole seconds, and at least one"),
        ("@every 0s", "whole seconds, and at least one"),
        ("@every 8785h", "'@every 8785h' is longer than the 366 days that '@every' may have"),
        ("@every 9999999999h", "longer than the 366 days|too long for a duration"),
        ("TZ=Europe/Nowhere 0 9 * * *", "'Europe/Nowhere' is no time zone; write a name such as TZ=Europe/Berlin"),
        ("TZ=../../etc/passwd 0 9 * * *", "is no time zone"),
        ("TZ=/etc/localtime 0 9 * * *", "is no time zone"),
        ("TZ=Europe 0 9 * * *", "is no time zone"),
        ("TZ= 0 9 * * *", "is no time zone"),
        ("0 9 * * " + "1," * 130 + "1", "has 269 characters and may have 255"),
    ],
)
def test_what_is_no_schedule_is_told_with_what_to_write(schedule: str, reason: str) -> None:
    with pytest.raises(ScheduleError, match=reason):
        parse(schedule)


@pytest.mark.parametrize(
    ("zone", "since", "until", "expected"),
    [
        # 02:00 becomes 03:00 on 29 March 2026, and 03:00 becomes 02:00 on 25 October
        ("Europe/Berlin", "2026-03-28T00:00", "2026-03-30T12:00", ["28T01:30", "29T01:00", "30T00:30"]),
        ("Europe/Berlin", "2026-10-24T00:00", "2026-10-26T12:00", ["24T00:30", "25T00:30", "26T01:30"]),
        # 02:00 becomes 03:00 on 8 March, and 02:00 becomes 01:00 on 1 November: 02:30 is not repeated
        ("America/New_York", "2026-03-07T00:00", "2026-03-09T12:00", ["07T07:30", "08T07:00", "09T06:30"]),
        ("America/New_York", "2026-10-31T00:00", "2026-11-02T12:00", ["31T06:30", "01T07:30", "02T07:30"]),
        # only half an hour: 02:00 becomes 02:30 on 4 October, and 02:00 becomes 01:30 on 5 April
        ("Australia/Lord_Howe", "2026-10-03T00:00", "2026-10-05T12:00", ["03T15:30", "04T15:30"]),
        ("Australia/Lord_Howe", "2026-04-03T00:00", "2026-04-05T18:00", ["03T15:30", "04T16:00", "05T16:00"]),
        ("Asia/Tokyo", "2026-03-28T00:00", "2026-03-29T23:00", ["28T17:30", "29T17:30"]),
    ],
)
def test_a_daily_schedule_comes_once_on_the_days_when_clocks_change(
    zone: str, since: str, until: str, expected: list[str]
) -> None:
    assert [one[8:] for one in occurrences(f"TZ={zone} 30 2 * * *", since, until)] == expected


def test_a_time_in_the_repeated_hour_comes_in_the_first_of_the_two() -> None:
    found = occurrences("TZ=America/New_York 30 1 * * *", "2026-11-01T00:00", "2026-11-02T12:00")
    assert found == ["2026-11-01T05:30", "2026-11-02T06:30"]


@pytest.mark.parametrize("schedule", ["*/30 * * * *", "@every 30m"])
@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_a_schedule_by_minutes_goes_on_by_elapsed_time(schedule: str, day: str) -> None:
    found = occurrences(f"TZ=Europe/Berlin {schedule}", f"{day}T00:00", f"{day}T04:00")
    assert [one[11:] for one in found] == ["00:30", "01:00", "01:30", "02:00", "02:30", "03:00", "03:30", "04:00"]


def test_several_times_in_the_skipped_hour_are_one_occurrence() -> None:
    found = occurrences("TZ=Europe/Berlin 15,45 2 * * *", "2026-03-28T12:00", "2026-03-29T12:00")
    assert found == ["2026-03-29T01:00"]


ZONES = (
    "Europe/Berlin America/New_York Australia/Lord_Howe America/Santiago Africa/Cairo Asia/Kolkata America/Havana "
    "Africa/Casablanca Europe/Dublin UTC"
).split()
TEXTS = (
    "30 2 * * *",
    "0 0 * * *",
    "*/30 * * * *",
    "15 * * * *",
    "0 */2 * * *",
    "0,30 2,3 * * *",
    "* 2 * * *",
    "45 1 * * 0",
    "59 23 L * *",
    "*/7 1-3 * * *",
    "0 0 13 * 5",
)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("text", TEXTS)
def test_whenever_it_is_asked_a_schedule_names_the_same_moments(zone: str, text: str) -> None:
    schedule = parse(f"TZ={zone} {text}")
    draw = random.Random(f"{zone} {text}")
    for change in ("2026-03-08", "2026-03-29", "2026-10-04", "2026-10-25", "2026-11-01"):
        begin = at(f"{change}T00:00Z") - 86_400_000
        found = [begin]
        while len(found) < 200 and found[-1] < begin + 3 * 86_400_000:
            following = schedule.after(found[-1])
            assert following is not None
            found.append(following)
        for _ in range(20):
            moment = draw.randrange(begin, found[-1])
            assert schedule.after(moment) == found[bisect_right(found, moment)]


def test_the_latest_occurrence_of_a_long_time() -> None:
    since, until = at("2020-02-29T00:00Z"), at("2026-09-01T12:34Z")
    for schedule, latest in (
        ("* * * * *", "2026-09-01T12:34"),
        ("*/5 * * * *", "2026-09-01T12:30"),
        ("0 9 * * *", "2026-09-01T09:00"),
        ("0 0 29 2 *", "2024-02-29T00:00"),
        ("0 0 1 1 *", "2026-01-01T00:00"),
        ("@every 10m", "2026-09-01T12:30"),
    ):
        assert written(parse(schedule).latest(since, until)) == latest


def test_without_another_the_latest_occurrence_is_the_known_one() -> None:
    since = at("2026-09-01T09:00Z")
    for until in ("2026-09-01T09:00Z", "2026-09-01T09:01Z", "2026-09-02T08:59Z"):
        assert parse("0 9 * * *").latest(since, at(until)) == since
    assert parse("@every 1h").latest(since, since + 1) == since


def test_there_is_always_a_next_minute() -> None:
    moments = occurrences("* * * * *", "2026-09-01T00:00", "2026-09-01T06:00")
    assert len(moments) == 360
    assert all(at(f"{b}Z") - at(f"{a}Z") == 60_000 for a, b in pairwise(moments))
