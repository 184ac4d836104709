"""What the operators do with JSON that nobody declared, and what that costs.

Every rule of the dialect that is not about the text lives here: what null equals, what is sorted below what,
which types add. An operator that works in proportion to its data takes the meter, one number that the whole
evaluation draws on, and raises when it is used up.

Elsewhere: functions that users call by name (`functions.py`), the code that calls all this (`compiler.py`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from stepwell.engine.expr.limits import MAX_RESULT_LENGTH, EvaluationError


@dataclass(frozen=True, slots=True)
class TypeName:
    """What `type(x)` gives, and what a bare `int` or `string` means."""

    name: str


class _Missing:
    """An attribute that is not there, as an operand of an ordering."""


Meter = list[int]  # one number: the cost still allowed
MISSING = _Missing()
MISSES = (KeyError, IndexError, TypeError)
ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
TYPE_OF_CLASS = {
    type(None): "null_type",
    bool: "bool",
    int: "int",
    float: "double",
    str: "string",
    list: "list",
    dict: "map",
    datetime: "timestamp",
    timedelta: "duration",
    TypeName: "type",
}
TYPES = {name: TypeName(name) for name in TYPE_OF_CLASS.values()}
_ZERO_OF_CLASS: dict[type, object] = {
    bool: False,
    int: 0,
    float: 0,
    str: "",
    datetime: datetime.min.replace(tzinfo=UTC),
    timedelta: timedelta(0),
}
_NUMBERS = (int, float)


def kind_of(value: object) -> str:
    if value is None or value is MISSING:
        return "missing or null"
    name = TYPE_OF_CLASS.get(type(value), "unknown")
    words = {"bool": "boolean", "int": "number", "double": "number", "string": "text"}
    return f"a {words.get(name, name)}"


def _overrun() -> NoReturn:
    raise EvaluationError("the expression costs too much to evaluate; loop over fewer items or shorten the texts")


def spend(meter: Meter, cost: int) -> None:
    meter[0] -= cost
    if meter[0] < 0:
        _overrun()


def _spend_on_text(meter: Meter, text: object) -> None:
    """Comparing or looking up a text reads it all; for the usual short one that costs nothing to speak of."""
    if isinstance(text, str) and len(text) > 256:
        spend(meter, len(text) // 256)


def _finished(meter: Meter, value: object) -> object:
    """Let a value out. Lists that share their parts are small here and huge once written out as JSON."""
    pending = [value]
    while pending:
        current = pending.pop()
        spend(meter, 3)
        if isinstance(current, str):
            spend(meter, len(current) // 64)
        elif isinstance(current, list):
            spend(meter, len(current) // 8)
            pending.extend(current)
        elif isinstance(current, dict):
            spend(meter, len(current) // 8)
            pending.extend(current.values())
    return value


def truthy(value: object) -> bool:
    if isinstance(value, float):
        return value != 0 and not math.isnan(value)
    return bool(value) or isinstance(value, list | dict | timedelta)


def _equal(meter: Meter, left: object, right: object) -> bool:
    kind = left.__class__
    if kind is not right.__class__:
        return kind in _NUMBERS and right.__class__ in _NUMBERS and left == right
    if isinstance(left, str) and isinstance(right, str):
        _spend_on_text(meter, left)
        return left == right
    if kind is not list and kind is not dict:
        return left == right
    pending: list[tuple[Any, Any]] = [(left, right)]
    while pending:
        one, other = pending.pop()
        spend(meter, 2)
        if one.__class__ is list and other.__class__ is list:
            if len(one) != len(other):
                return False
            spend(meter, len(one) // 2)
            pending.extend(zip(one, other, strict=True))
        elif one.__class__ is dict and other.__class__ is dict:
            spend(meter, len(one))
            if len(one) != len(other) or not all(key in other for key in one):
                return False
            pending.extend((value, other[key]) for key, value in one.items())
        elif not _equal(meter, one, other):
            return False
    return True


def _order(meter: Meter, symbol: str, left: Any, right: Any) -> bool:
    compare = ORDER[symbol]
    if left is MISSING or right is MISSING:
        return compare(left is not MISSING and left is not None, right is not MISSING and right is not None)
    if left is None and right is None:
        return compare(0, 0)
    if left is None:
        left = _ZERO_OF_CLASS.get(right.__class__)
    elif right is None:
        right = _ZERO_OF_CLASS.get(left.__class__)
    alike = left.__class__ is right.__class__ and left.__class__ in _ZERO_OF_CLASS
    if alike or (left.__class__ in _NUMBERS and right.__class__ in _NUMBERS):
        _spend_on_text(meter, left)
        return compare(left, right)
    raise EvaluationError(f"cannot order {kind_of(left)} and {kind_of(right)} by {symbol}; convert one of them")


def _contained(meter: Meter, item: object, container: object) -> bool:
    if container is None:
        return False
    if isinstance(container, list):
        for element in container:
            spend(meter, 2)
            if _equal(meter, item, element):
                return True
        return False
    if isinstance(container, dict):
        _spend_on_text(meter, item)
        return item.__class__ in (str, int, float) and item in container
    raise EvaluationError(f'the right side of "in" is {kind_of(container)}; it must be a list or a map')


def _index(meter: Meter, target: Any, key: Any, absent: object) -> object:
    if key.__class__ is float and key.is_integer():
        key = int(key)
    if isinstance(target, list):
        return target[key] if key.__class__ is int and 0 <= key < len(target) else absent
    if isinstance(target, Mapping) and key.__class__ in (str, int, float):
        _spend_on_text(meter, key)
        return target.get(key, absent)
    return absent


def _has(target: object, name: str) -> bool:
    return isinstance(target, Mapping) and name in target


def _each(source: object) -> Iterable[object]:
    if isinstance(source, list | dict):
        return source
    if source is None:
        return ()
    raise EvaluationError(f"cannot loop over {kind_of(source)}; it must be a list or a map")


def _mapping(entries: list[tuple[object, object]]) -> dict[object, object]:
    built: dict[object, object] = {}
    for key, value in entries:
        if key.__class__ not in (str, int):
            raise EvaluationError(f"a key of a map is {kind_of(key)}; it must be a text or a whole number")
        if key in built:
            raise EvaluationError("a map has the same key twice; remove one")
        built[key] = value
    return built


def _add(meter: Meter, left: Any, right: Any) -> object:
    if left is None:
        return right
    if right is None:
        return left
    kinds = (left.__class__, right.__class__)
    if str in kinds:
        return bounded(meter, text_of(left) + text_of(right))
    if kinds == (list, list):
        return bounded(meter, left + right)
    if datetime in kinds or timedelta in kinds:
        if kinds != (datetime, datetime):
            return in_time("+", operator.add, left, right)
        raise EvaluationError("cannot add two timestamps; subtract them, or add a duration")
    return _calculate("+", left, right)


def _subtract(left: Any, right: Any) -> object:
    kinds = (left.__class__, right.__class__)
    if datetime in kinds or timedelta in kinds:
        return in_time("-", operator.sub, left, right)
    return _calculate("-", left, right)


def in_time(symbol: str, calculate: Callable[[Any, Any], object], left: object, right: object) -> object:
    try:
        return calculate(left, right)
    except TypeError as err:
        raise EvaluationError(f'cannot use "{symbol}" on {kind_of(left)} and {kind_of(right)}') from err
    except OverflowError as err:
        raise EvaluationError(f'"{symbol}" leaves the years 1 to 9999') from err


def bounded(meter: Meter, value: Any) -> object:
    spend(meter, 1 + len(value) // 64)
    if len(value) > MAX_RESULT_LENGTH:
        unit = "characters" if isinstance(value, str) else "items"
        raise EvaluationError(f"the expression builds {kind_of(value)} of more than {MAX_RESULT_LENGTH} {unit}")
    return value


def _calculate(symbol: str, left: Any, right: Any) -> object:
    left = 0 if left is None else left
    right = 0 if right is None else right
    if left.__class__ not in _NUMBERS or right.__class__ not in _NUMBERS:
        raise EvaluationError(
            f'cannot use "{symbol}" on {kind_of(left)} and {kind_of(right)}; convert with int() or double()'
        )
    if left.__class__ is int and right.__class__ is int:
        return in_64_bits(_calculate_integers(symbol, left, right))
    try:
        return _calculate_doubles(symbol, float(left), float(right))
    except OverflowError as err:
        raise EvaluationError(f'"{symbol}" got a number too large to calculate with') from err


def _calculate_integers(symbol: str, left: int, right: int) -> int:
    match symbol:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    if right == 0:
        raise EvaluationError(f'cannot use "{symbol}" with zero on its right')
    # CEL rounds towards zero and gives the remainder the sign of the left side; Python does neither.
    quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
    return quotient if symbol == "/" else left - quotient * right


def _calculate_doubles(symbol: str, left: float, right: float) -> float:
    match symbol:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/" if right == 0:
            return (
                math.nan if left == 0 or math.isnan(left) else math.copysign(math.inf, left) * math.copysign(1, right)
            )
        case "/":
            return left / right
    if right == 0 or math.isinf(left):
        raise EvaluationError(f'cannot use "{symbol}" with zero on its right or an infinite left')
    return math.fmod(left, right)


def in_64_bits(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise EvaluationError("an integer leaves 64 bits; calculate with double()")
    return value


def _negative(value: Any) -> object:
    if value.__class__ is timedelta:
        return in_time("-", operator.sub, timedelta(0), value)
    return -value if value.__class__ is float else _calculate("-", 0, value)


def text_of(value: object) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(in_64_bits(value))
        case float() if value.is_integer() and abs(value) < 1e21:
            return str(int(value))  # as Go writes a double, and JSON after it
        case float() if math.isfinite(value):
            return repr(value)
        case float():
            return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
        case datetime():
            return value.isoformat().removesuffix("+00:00") + "Z" if not value.microsecond else _with_fraction(value)
        case timedelta():
            return f"{_decimal_seconds(value)}s"
        case _:
            raise EvaluationError(f"cannot turn {kind_of(value)} into text")


def _with_fraction(value: datetime) -> str:
    return value.isoformat(timespec="microseconds").removesuffix("+00:00").rstrip("0") + "Z"


def _decimal_seconds(value: timedelta) -> str:
    seconds, rest = divmod(abs(value) // _MICROSECOND, 1_000_000)
    fraction = f".{rest:06d}".rstrip("0") if rest else ""
    return f"{'-' if value < timedelta(0) else ''}{seconds}{fraction}"


def string_argument(meter: Meter, function: str, value: object) -> str:
    if not isinstance(value, str):
        raise EvaluationError(f"{function} needs a text and got {kind_of(value)}; convert it with string()")
    spend(meter, 1 + len(value) // 64)
    return value


# What generated code calls an operator by.
OPERATORS: dict[str, object] = {
    "add": _add,
    "calculate": _calculate,
    "contained": _contained,
    "each": _each,
    "equal": _equal,
    "finished": _finished,
    "has": _has,
    "index": _index,
    "mapping": _mapping,
    "negative": _negative,
    "order": _order,
    "overrun": _overrun,
    "subtract": _subtract,
    "truthy": truthy,
}
