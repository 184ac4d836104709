"""Schedules: a cron text, and the moments that it names.

    0 9 * * 1-5                       minute, hour, day of the month, month, day of the week; in UTC
    TZ=Europe/Berlin 0 9 * * 1-5      the same by the clocks of a time zone; `CRON_TZ=` says it too
    @hourly @daily @weekly @monthly @yearly
    @every 90s                        every so many whole seconds, counted from 1970, on every node alike

On the days when clocks change, an occurrence in the hour that is skipped comes with the first moment after it, and one
in the hour that is repeated comes once, in the first of the two. Schedules that go by minutes, or have `*` for the
hour, just go on: by elapsed time they have no gap and no hour twice. What a schedule names depends on nothing but
its text, so every node, whenever it asks, is told the same moments.

Elsewhere: who starts a function at those moments, and once only (`stepwell.node.schedules`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from stepwell.model.duration import parse_duration
from stepwell.model.ids import Instant

LONGEST = 255
"""Characters of a schedule."""
SHORTEST_MS = 1000
"""The shortest `@every`."""
LONGEST_MS = 366 * 86_400_000
"""The longest one."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_MS = 1000
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MOST_PASSED = 10_000
"""Occurrences that may lie at or before the moment asked for; there are some when clocks were set back."""


class ScheduleError(ValueError):
    """The text is no schedule. The message says what is wrong with it and what to write."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Made by `parse`. Exactly one of `fields` and `every_ms` counts."""

    fields: str = ""
    zone: tzinfo = UTC
    every_ms: int = 0

    def after(self, at: Instant) -> Instant | None:
        """The first occurrence after `at`; None if there is none in the next 50 years."""
        if self.every_ms:
            return at - at % self.every_ms + self.every_ms
        moment = (_EPOCH + timedelta(milliseconds=at - at % _SECOND_MS)).astimezone(self.zone)
        occurrences = CronSim(self.fields, moment)
        for _ in range(_MOST_PASSED):
            found = next(occurrences, None)
            if found is None:
                return None
            occurrence = (found.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)
            if occurrence > at:
                return occurrence
        return None

    def latest(self, since: Instant, until: Instant) -> Instant:
        """The last occurrence at or before `until`. `since` is one that is known, and given when there is no other."""
        if self.every_ms:
            return max(since, until - until % self.every_ms)
        for window in (_HOUR_MS, _DAY_MS, 32 * _DAY_MS, 366 * _DAY_MS):
            found = self.after(max(since, until - window))
            if found is None or found > until:
                if until - window <= since:
                    return since
                continue
            while (following := self.after(found)) is not None and following <= until:
                found = following
            return found
        found = since  # rarer than once a year: there are few to go through
        while (following := self.after(found)) is not None and following <= until:
            found = following
        return found


@lru_cache(maxsize=10_000)
def parse(text: str) -> Schedule:
    """Read a schedule.

    Raises:
        ScheduleError: It is none, or never comes.
    """
    if len(text) > LONGEST:
        raise ScheduleError(f"the schedule has {len(text)} characters and may have {LONGEST}; shorten it")
    zone, fields = _zone_and_rest(text.strip())
    if fields.split(maxsplit=1)[:1] == ["@every"]:
        return Schedule(every_ms=_every(fields.split(maxsplit=1)[1:], text))
    if fields.startswith("@"):
        if fields not in _WORDS:
            words = ", ".join(sorted(_WORDS))
            raise ScheduleError(f"{fields!r} is no word for a schedule; the words are {words} and '@every 10m'")
        fields = _WORDS[fields]
    _check_count(fields, text)
    schedule = Schedule(" ".join("*" if field == "?" else field for field in fields.split()), zone)
    try:
        first = schedule.after(0)
    except CronSimError as err:
        what = f"{err}".removeprefix("Bad ")
        raise ScheduleError(
            f"{text!r} has a {what} that cannot be read or never comes; the fields are "
            "minute (0-59), hour (0-23), day of the month (1-31), month (1-12 or JAN-DEC) and "
            "day of the week (0-6 or SUN-SAT), as in '0 9 * * 1-5'"
        ) from err
    if first is None:
        raise ScheduleError(f"{text!r} names a day that never comes; correct its day and month")
    return schedule


def _zone_and_rest(text: str) -> tuple[tzinfo, str]:
    for prefix in ("TZ=", "CRON_TZ="):
        if not text.startswith(prefix):
            continue
        name, _, rest = text.removeprefix(prefix).partition(" ")
        try:
            return (UTC if name == "UTC" else ZoneInfo(name)), rest.strip()
        except (OSError, ValueError, KeyError) as err:  # what `ZoneInfo` raises depends on what the name looks like
            raise ScheduleError(f"{name!r} is no time zone; write a name such as {prefix}Europe/Berlin") from err
    return UTC, text


def _every(length: list[str], text: str) -> int:
    try:
        every_ms = parse_duration(length[0] if length else "") // timedelta(milliseconds=1)
    except ValueError as err:
        raise ScheduleError(f"{text!r} does not say how often: {err}") from err
    if every_ms > LONGEST_MS:
        most = LONGEST_MS // _DAY_MS
        raise ScheduleError(f"{text!r} is longer than the {most} days that '@every' may have; write '@yearly' or less")
    if every_ms < SHORTEST_MS or every_ms % _SECOND_MS:
        raise ScheduleError(f"{text!r} must be whole seconds, and at least one; write '@every 10s' or '@every 1h30m'")
    return every_ms


def _check_count(fields: str, text: str) -> None:
    count = len(fields.split())
    if count == 6:
        raise ScheduleError(
            f"{text!r} has six fields and must have five, the first of which is the minute; "
            "for seconds write '@every 10s'"
        )
    if count != 5:
        raise ScheduleError(
            f"{text!r} has {count} field{'s' * (count != 1)} and must have five: minute, hour, day of the month, month "
            "and day of the week, as in '0 9 * * 1-5'"
        )
