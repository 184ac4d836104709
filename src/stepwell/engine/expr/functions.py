"""The functions that an expression may call: one table, read by the parser, the compiler and the documentation.

Each runs as (meter, now, *arguments) and is a pure function of them: `now` is what the caller of the program
said it is, and a method's first argument is its receiver. Of null, all but a few of them are false.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import math
import operator
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from stepwell.engine.expr.limits import MAX_PATTERN_LENGTH, PATTERN_MEMORY, EvaluationError
from stepwell.engine.expr.runtime import (
    EPOCH,
    TYPE_OF_CLASS,
    TYPES,
    Meter,
    TypeName,
    bounded,
    in_64_bits,
    in_time,
    kind_of,
    spend,
    string_argument,
    text_of,
)
from stepwell.model.duration import parse_duration, parse_time

_INTEGER_TEXT = re.compile(r"[+-]?[0-9]{1,19}")
_DOUBLE_TEXT = re.compile(
    r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|infinity|nan)", re.IGNORECASE
)
_BOOLEAN_TEXTS = {
    **dict.fromkeys(("1", "t", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "false", "FALSE", "False"), False),
}


def _size(meter: Meter, now: int, value: Any) -> int:
    if value is None:
        return 0
    if value.__class__ not in (str, list, dict):
        raise EvaluationError(f"size needs a text, a list or a map and got {kind_of(value)}")
    return len(value)


def _contains(meter: Meter, now: int, text: object, part: object) -> bool:
    whole = string_argument(meter, "contains", text)
    spend(meter, len(whole) // 32)
    return string_argument(meter, "contains", part) in whole


def _starts_with(meter: Meter, now: int, text: object, start: object) -> bool:
    return string_argument(meter, "startsWith", text).startswith(string_argument(meter, "startsWith", start))


def _ends_with(meter: Meter, now: int, text: object, end: object) -> bool:
    return string_argument(meter, "endsWith", text).endswith(string_argument(meter, "endsWith", end))


def _matches(meter: Meter, now: int, text: object, pattern: object) -> bool:
    compiled = compiled_pattern(string_argument(meter, "matches", pattern))
    # Its compilation, which the cache may have spared us: a cost must not depend on what ran before.
    spend(meter, 150 + compiled.programsize)
    return search(meter, now, text, compiled)


def search(meter: Meter, now: int, text: object, compiled: Any) -> bool:
    searched = string_argument(meter, "matches", text)
    # RE2 may step through its whole program at each byte, in about 2 ns a step.
    spend(meter, 60 + len(searched) * compiled.programsize // 32)
    try:
        return compiled.search(searched) is not None
    except UnicodeEncodeError as err:
        raise EvaluationError("matches got a text that is not valid Unicode") from err


@functools.lru_cache(maxsize=256)
def compiled_pattern(pattern: str) -> Any:
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise EvaluationError(f"the regular expression is longer than {MAX_PATTERN_LENGTH} characters; shorten it")
    try:
        import re2  # here, because it comes with the server and most programs never need it
    except ImportError as err:
        raise EvaluationError('matches() needs RE2; install "stepwell[server]"') from err
    options = re2.Options()
    options.max_mem = PATTERN_MEMORY
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as err:
        reason = err.args[0].decode(errors="replace") if isinstance(err.args[0], bytes) else err
        raise EvaluationError(f"RE2 does not take the regular expression {pattern[:60]!r}: {reason}") from err
    except UnicodeEncodeError as err:
        raise EvaluationError("the regular expression is not valid Unicode") from err


def _int(meter: Meter, now: int, value: object) -> int:
    match value:
        case bool():
            pass
        case int():
            return in_64_bits(value)
        case float() if math.isfinite(value):
            return in_64_bits(int(value))
        case str() if _INTEGER_TEXT.fullmatch(value):
            return in_64_bits(int(value))
        case datetime():
            return (value - EPOCH) // timedelta(seconds=1)
    shown = "a text that is no whole number" if isinstance(value, str) else kind_of(value)
    raise EvaluationError(f"int() cannot convert {shown}")


def _double(meter: Meter, now: int, value: object) -> float:
    match value:
        case bool():
            pass
        case int() | float():
            try:
                return float(value)
            except OverflowError as err:
                raise EvaluationError("double() got a number that is too large") from err
        case str() if len(value) <= 400 and _DOUBLE_TEXT.fullmatch(value):
            return float(value)
    shown = "a text that is no number" if isinstance(value, str) else kind_of(value)
    raise EvaluationError(f"double() cannot convert {shown}")


def _bool(meter: Meter, now: int, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _BOOLEAN_TEXTS:
        return _BOOLEAN_TEXTS[value]
    raise EvaluationError(f"bool() cannot convert {kind_of(value)}; compare it instead")


def _string(meter: Meter, now: int, value: object) -> str:
    return text_of(value)


def _type(meter: Meter, now: int, value: object) -> TypeName:
    return TYPES[TYPE_OF_CLASS.get(type(value), "null_type")]


def _dyn(meter: Meter, now: int, value: object) -> object:
    return value


def _timestamp(meter: Meter, now: int, value: object) -> datetime:
    match value:
        case datetime():
            return value
        case int() if not isinstance(value, bool):
            return _instant(value, 1000)
        case str():
            spend(meter, 50 + len(value) // 64)
            if found := parse_time(value):
                return found
    raise EvaluationError(f'timestamp() cannot convert {kind_of(value)}; write it as "2026-01-31T12:00:00Z"')


def _date(meter: Meter, now: int, value: object) -> datetime:
    # Numbers are milliseconds as in event.ts; below 1e11 (March 1973) they can only be meant as seconds.
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return _instant(value, 1000 if abs(value) < 1e11 else 1)
    return _timestamp(meter, now, value)


def _instant(number: int | float, milliseconds: int) -> datetime:
    try:
        return EPOCH + timedelta(milliseconds=number * milliseconds)
    except OverflowError as err:
        raise EvaluationError("a time leaves the years 1 to 9999") from err


def _duration(meter: Meter, now: int, value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    spend(meter, 150)
    try:
        return parse_duration(string_argument(meter, "duration", value))
    except EvaluationError:
        raise
    except ValueError as err:
        raise EvaluationError(str(err)) from err


def _now(meter: Meter, now: int) -> datetime:
    return _instant(now, 1)


def _now_plus(meter: Meter, now: int, value: object) -> object:
    return in_time("+", operator.add, _instant(now, 1), _duration(meter, now, value))


def _now_minus(meter: Meter, now: int, value: object) -> object:
    return in_time("-", operator.sub, _instant(now, 1), _duration(meter, now, value))


def _lowercase(meter: Meter, now: int, value: object) -> object:
    return bounded(meter, string_argument(meter, "lowercase", value).lower())


def _uppercase(meter: Meter, now: int, value: object) -> object:
    return bounded(meter, string_argument(meter, "uppercase", value).upper())


def _b64decode(meter: Meter, now: int, value: object) -> object:
    encoded = string_argument(meter, "b64decode", value)
    try:
        return bounded(meter, base64.b64decode(encoded, validate=True).decode())
    except (binascii.Error, UnicodeError) as err:
        raise EvaluationError("b64decode got a text that is not base64 of UTF-8") from err
    except EvaluationError:
        raise
    except ValueError as err:  # characters outside ASCII
        raise EvaluationError("b64decode got a text that is not base64 of UTF-8") from err


def _json_parse(meter: Meter, now: int, value: object) -> object:
    encoded = string_argument(meter, "json_parse", value)
    spend(meter, 10 + len(encoded) // 4)
    try:
        return json.loads(encoded)
    except (ValueError, RecursionError) as err:
        raise EvaluationError("json_parse got a text that is not JSON, or nests too deep") from err


_Part = Callable[[datetime], int]
_PARTS_OF_DATE: dict[str, _Part] = {
    "getFullYear": lambda at: at.year,
    "getMonth": lambda at: at.month - 1,
    "getDate": lambda at: at.day,
    "getDayOfMonth": lambda at: at.day - 1,
    "getDayOfWeek": lambda at: at.isoweekday() % 7,
    "getDayOfYear": lambda at: at.timetuple().tm_yday - 1,
    "getHours": lambda at: at.hour,
    "getMinutes": lambda at: at.minute,
    "getSeconds": lambda at: at.second,
    "getMilliseconds": lambda at: at.microsecond // 1000,
}
_UNIT_OF_DURATION = {
    "getHours": timedelta(hours=1),
    "getMinutes": timedelta(minutes=1),
    "getSeconds": timedelta(seconds=1),
    "getMilliseconds": timedelta(milliseconds=1),
}


def _accessor(name: str) -> Callable[..., int]:
    part, unit = _PARTS_OF_DATE[name], _UNIT_OF_DURATION.get(name)

    def read(meter: Meter, now: int, value: object, zone: object = None) -> int:
        if isinstance(value, datetime):
            return part(value if zone is None else _in_zone(meter, value, zone))
        if isinstance(value, timedelta) and unit is not None and zone is None:
            whole = abs(value) // unit  # towards zero: -90 s is -1 minute
            return whole if value >= timedelta(0) else -whole
        raise EvaluationError(f"{name} cannot read {kind_of(value)}; convert it with timestamp() or date()")

    return read


def _in_zone(meter: Meter, value: datetime, zone: object) -> datetime:
    name = string_argument(meter, "a time zone", zone)
    spend(meter, 50)
    try:
        if offset := re.fullmatch(r"([+-]?)([0-9]{2}):([0-5][0-9])", name):
            shift = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
            return value.astimezone(timezone(-shift if offset[1] == "-" else shift))
        return value.astimezone(ZoneInfo(name))
    except (KeyError, ValueError, OSError, OverflowError) as err:
        advice = 'write it as "Europe/Paris" or "+02:00"'
        raise EvaluationError(f"{name[:40]!r} is no time zone for this time; {advice}") from err


class Function(NamedTuple):
    """A row of the table: how a function is called, and what runs it as (meter, now, *arguments)."""

    form: str  # global, method or both
    usage: str
    least: int
    most: int
    run: Callable[..., object]
    is_boolean: bool = False
    takes_null: bool = False  # the others are false when any argument is null


FUNCTIONS = {
    "size": Function("both", "size(value)", 1, 1, _size, takes_null=True),
    "contains": Function("method", 'text.contains("part")', 2, 2, _contains, is_boolean=True),
    "startsWith": Function("method", 'text.startsWith("start")', 2, 2, _starts_with, is_boolean=True),
    "endsWith": Function("method", 'text.endsWith("end")', 2, 2, _ends_with, is_boolean=True),
    "matches": Function("both", 'text.matches("^a+$")', 2, 2, _matches, is_boolean=True),
    "int": Function("global", "int(value)", 1, 1, _int),
    "uint": Function("global", "uint(value)", 1, 1, _int),
    "double": Function("global", "double(value)", 1, 1, _double),
    "bool": Function("global", "bool(value)", 1, 1, _bool, is_boolean=True),
    "string": Function("global", "string(value)", 1, 1, _string),
    "type": Function("global", "type(value)", 1, 1, _type, takes_null=True),
    "dyn": Function("global", "dyn(value)", 1, 1, _dyn, takes_null=True),
    "timestamp": Function("global", 'timestamp("2026-01-31T12:00:00Z")', 1, 1, _timestamp),
    "duration": Function("global", 'duration("1h30m")', 1, 1, _duration),
    "date": Function("global", "date(event.ts)", 1, 1, _date),
    "now": Function("global", "now()", 0, 0, _now),
    "now_plus": Function("global", 'now_plus("1h")', 1, 1, _now_plus),
    "now_minus": Function("global", 'now_minus("1h")', 1, 1, _now_minus),
    "lowercase": Function("global", "lowercase(text)", 1, 1, _lowercase),
    "uppercase": Function("global", "uppercase(text)", 1, 1, _uppercase),
    "b64decode": Function("global", "b64decode(text)", 1, 1, _b64decode),
    "json_parse": Function("global", "json_parse(text)", 1, 1, _json_parse),
    **{name: Function("method", f"date(event.ts).{name}()", 1, 2, _accessor(name)) for name in _PARTS_OF_DATE},
}
