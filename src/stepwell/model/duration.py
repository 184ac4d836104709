"""How long, and until when: the texts that people and SDKs write for time.

A duration is read from three spellings that never mean two things: Go's (`1h30m`), extended by days and
weeks; words (`2 weeks`); and ISO 8601 (`PT1H30M`). It is written in one: Go's. An instant is read from
RFC 3339 and its relatives and from the dates of HTTP headers; without a zone it is UTC.

A day is 24 hours here and a week is seven of them. Months and years are refused, because they have no
fixed length. Everything is exact down to a microsecond; finer parts are rounded to it.

Elsewhere: cron texts (`stepwell.engine.cron`), what a sleep does with the result (`stepwell.engine.run`).
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

_LONGEST_TEXT = 100  # characters; every honest duration or date is far shorter

_UNIT_MICROSECONDS = {
    "ns": Fraction(1, 1000),
    "us": Fraction(1),
    "µs": Fraction(1),  # U+00B5, the micro sign, which Go writes
    "μs": Fraction(1),  # U+03BC, the Greek letter, which keyboards write
    "ms": Fraction(1000),
    "s": Fraction(1_000_000),
    "m": Fraction(60_000_000),
    "h": Fraction(3_600_000_000),
    "d": Fraction(86_400_000_000),
    "w": Fraction(604_800_000_000),
}
_WORDS = {
    "ns": ("nanosecond", "nanoseconds"),
    "us": ("microsecond", "microseconds"),
    "ms": ("msec", "msecs", "millisecond", "milliseconds"),
    "s": ("sec", "secs", "second", "seconds"),
    "m": ("min", "mins", "minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
    "d": ("day", "days"),
    "w": ("week", "weeks"),
}
_UNIT_OF_WORD = {word: unit for unit, words in _WORDS.items() for word in words}

_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_PART = re.compile(rf"({_NUMBER})\s*([a-zA-Zµμ]+)(?:\s*,)?\s*")
_ISO = re.compile(
    rf"P(?:({_NUMBER})W)?(?:({_NUMBER})D)?(?:T(?=[0-9.])(?:({_NUMBER})H)?(?:({_NUMBER})M)?(?:({_NUMBER})S)?)?",
    re.IGNORECASE,
)

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_RFC_3339 = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
    r"(?: ?(?P<zone>[Zz]|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}))?)?"
)
_RFC_1123 = re.compile(  # and RFC 850, which differs in the day's name and the dashes
    r"(?:[A-Za-z]{3,9}, )?(?P<day>[0-9]{1,2})[ -](?P<month>[A-Za-z]{3})[ -](?P<year>[0-9]{4}|[0-9]{2})"
    r" (?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?"
    r"(?: (?P<zone>[Zz]|UTC?|GMT|[+-][0-9]{4}))?"
)
_ASCTIME = re.compile(
    r"[A-Za-z]{3} (?P<month>[A-Za-z]{3}) +(?P<day>[0-9]{1,2})"
    r" (?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2}) (?P<year>[0-9]{4})"
)


def parse_duration(text: str) -> timedelta:
    """Read `1h30m`, `1.5h`, `500ms`, `1d`, `2w`, `2 weeks`, `1 hour 30 minutes`, `PT1H30M` or `0`.

    A leading `-` makes it negative; the caller decides whether that means anything.

    Raises:
        ValueError: The text is none of these, or longer than a `timedelta` can be (2.7 million years).
    """
    stripped = text.strip()
    sign = -1 if stripped.startswith("-") else 1
    body = stripped[1:] if stripped[:1] in {"-", "+"} else stripped
    if not body or len(body) > _LONGEST_TEXT:
        raise _not_a_duration(text)
    if body == "0":
        return timedelta(0)
    microseconds = _iso_microseconds(body) if body[0] in "pP" else _go_microseconds(body)
    if microseconds is None:
        raise _not_a_duration(text)
    try:
        return timedelta(microseconds=sign * round(microseconds))
    except OverflowError as err:
        raise ValueError(f"{_shown(text)} is too long for a duration; the longest is 999999999 days") from err


def format_duration(duration: timedelta) -> str:
    """Write `duration` in Go's style, exact and without empty parts: `1h30m`, `500ms`, `10d`, `2w`, `0s`.

    Whole weeks are written as weeks; anything else in days, hours, minutes and seconds. Reading the
    result back with `parse_duration` gives the same duration.
    """
    rest = duration // timedelta(microseconds=1)
    if rest == 0:
        return "0s"
    sign = "-" if rest < 0 else ""
    rest = abs(rest)
    if rest < 1_000_000:
        return f"{sign}{_decimal(rest, 1000)}ms" if rest >= 1000 else f"{sign}{rest}us"
    week = 604_800_000_000
    if rest % week == 0:
        return f"{sign}{rest // week}w"
    parts: list[str] = []
    for unit in ("d", "h", "m"):
        count, rest = divmod(rest, int(_UNIT_MICROSECONDS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    if rest:
        parts.append(f"{_decimal(rest, 1_000_000)}s")
    return sign + "".join(parts)


def parse_time(text: str) -> datetime | None:
    """Read an instant; `None` when the text is not one, since callers then try a duration or a number.

    Reads RFC 3339 and its relatives (date only, a space instead of `T`, no seconds, no zone: UTC), and the
    three dates of HTTP (RFC 1123, RFC 850, asctime). The result is in UTC.
    """
    stripped = text.strip()
    if len(stripped) > _LONGEST_TEXT:
        return None
    for form in (_RFC_3339, _RFC_1123, _ASCTIME):
        if found := form.fullmatch(stripped):
            return _instant(found.groupdict())
    return None


def _go_microseconds(body: str) -> Fraction | None:
    total, at = Fraction(0), 0
    while at < len(body):
        part = _PART.match(body, at)
        unit = part and _unit(part[2])
        if part is None or unit is None:
            return None
        total += Fraction(part[1]) * _UNIT_MICROSECONDS[unit]
        at = part.end()
    return None if body.endswith(",") else total


def _unit(written: str) -> str | None:
    # Short units keep their case, as in Go: `M` could be minutes or months.
    return written if written in _UNIT_MICROSECONDS else _UNIT_OF_WORD.get(written.lower())


def _iso_microseconds(body: str) -> Fraction | None:
    found = _ISO.fullmatch(body)
    if found is None or not any(found.groups()):
        return None
    return sum(
        (
            Fraction(count) * _UNIT_MICROSECONDS[unit]
            for count, unit in zip(found.groups(), "wdhms", strict=True)
            if count
        ),
        start=Fraction(0),
    )


def _not_a_duration(text: str) -> ValueError:
    return ValueError(
        f"{_shown(text)} is not a duration; write a number and a unit (ns, us, ms, s, m, h, d, w), "
        'such as "30s", "1h30m", "1.5h", "2w", or "2 weeks", or ISO 8601 without months and years, such as "PT1H30M"'
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _decimal(value: int, scale: int) -> str:
    whole, part = divmod(value, scale)
    digits = f"{part:0{len(str(scale)) - 1}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def _instant(parts: dict[str, str | None]) -> datetime | None:
    second = int(parts.get("second") or 0)
    if second > 60:
        return None
    try:
        written = datetime(
            _year(parts["year"] or ""),
            _month(parts["month"] or ""),
            int(parts["day"] or 0),
            int(parts.get("hour") or 0),
            int(parts.get("minute") or 0),
            # A leap second exists in RFC 3339 but not in datetime: it is the start of the next minute.
            second=0,
            microsecond=int((parts.get("fraction") or "0").ljust(9, "0")[:6]),
            tzinfo=_zone(parts.get("zone")),
        )
        return (written + timedelta(seconds=second)).astimezone(UTC)
    except (ValueError, OverflowError):  # a 31st of April, or an offset that leaves the years 1 to 9999
        return None


def _year(written: str) -> int:
    if len(written) == 4:
        return int(written)
    return int(written) + (1900 if int(written) >= 70 else 2000)  # RFC 850 writes two digits


def _month(written: str) -> int:
    return int(written) if written.isdigit() else _MONTHS.index(written.lower()) + 1


def _zone(written: str | None) -> timezone:
    if not written or written[0] not in "+-":
        return UTC
    digits = written[1:].replace(":", "")
    if int(digits[2:]) > 59:
        raise ValueError(written)
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if written[0] == "-" else offset)
