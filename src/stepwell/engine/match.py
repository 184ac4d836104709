"""Which functions an event starts, by name and condition."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from stepwell.engine import expr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stepwell.model.function import Function
    from stepwell.model.ids import Instant


@lru_cache(1024)
def trigger_names(event: str) -> tuple[str, ...]:
    """Every trigger name that a function may have to be considered for this event.

    For `a/b.c.d`: itself, `a/*`, `a/b.*` and `a/b.c.*`.
    """
    names = [event]
    for place, letter in enumerate(event):
        if letter == "/" or letter == ".":
            names.append(f"{event[: place + 1]}*")
    return tuple(names)


def starts(function: Function, names: Iterable[str], event: Mapping[str, Any], now: Instant) -> bool:
    """Whether one of the function's triggers fits. A condition that fails to evaluate does not fit."""
    wanted = set(names)
    for trigger in function.triggers:
        if trigger.event not in wanted:
            continue
        if trigger.expression is None or holds(trigger.expression, {"event": event}, now):
            return True
    return False


def holds(expression: str, variables: Mapping[str, Any], now: Instant) -> bool:
    """Whether an expression is true; one that cannot be evaluated is not."""
    try:
        return expr.compile(expression).matches(variables, now)
    except (expr.ExpressionError, expr.EvaluationError):
        return False


def reads(expression: str, variable: str) -> bool:
    """Whether evaluating needs the variable. A text that is no expression needs none."""
    try:
        return variable in expr.compile(expression).variables
    except expr.ExpressionError:
        return False


def mismatch(expression: str, variables: Mapping[str, Any], now: Instant) -> expr.Mismatch | None:
    """Why an expression does not hold, where that looks like a mistake; None if it is just false, or holds."""
    try:
        return expr.compile(expression).mismatch(variables, now)
    except expr.ExpressionError as err:
        return expr.Mismatch(expr.MismatchKind.FAILED, str(err))
