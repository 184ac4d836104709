"""Why an expression did not match, and whether that looks like a mistake.

Most conditions are false most of the time: another order, another customer. Three causes are different, because
no event of that shape will ever match and the author would want to know:

    failed     it has no value: "a" < 1, division by zero, a limit, a result that is no boolean
    missing    a comparison is false because a field is missing or null: async.data.userid == "u1"
    unlike     two types that are never equal were compared: 5 == "5"

`x == null` and `has(x)` ask whether something is there, so their being false is ordinary; so is a false `||` as
long as one of its alternatives is. Reasons may be logged: they name fields and types, and no value but the start
of a pattern, time zone or duration that could not be read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from stepwell.engine.expr.compiler import Generator
from stepwell.engine.expr.functions import FUNCTIONS
from stepwell.engine.expr.language import Binary, Call, Field, Literal, Logic, Node, Variable
from stepwell.engine.expr.runtime import ORDER, kind_of, truthy

_MANY = 20  # alternatives of an `||`, beyond which one that is ordinarily false is taken for granted
_MANY_ITEMS = 100


class MismatchKind(StrEnum):
    FAILED = "failed"
    MISSING = "missing"
    UNLIKE = "unlike"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why an expression did not match, where that looks like a mistake; `reason` is for a person."""

    kind: MismatchKind
    reason: str


@dataclass(frozen=True, slots=True)
class _Side:
    """What a condition compares or hands to a function."""

    name: str
    is_null: bool  # the author wrote null
    value: Callable[[Mapping[str, object], int], object]


class Condition:
    """Part of an expression that can be asked why it is false. Compiled in pieces, each when first needed."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def is_true(self, variables: Mapping[str, object], now: int) -> bool:
        return truthy(self._value(variables, now))

    def operands(self, variables: Mapping[str, object], now: int) -> str:
        """What a comparison found on its two sides, to be put after "is false"."""
        if not isinstance(self._node, Binary):
            return ""
        left, right = self._sides
        kinds = [kind_of(side.value(variables, now)) for side in self._sides]
        unlike = ", and unlike types are never equal" if kinds[0] != kinds[1] and self._node.operator == "==" else ""
        return f": {left.name} is {kinds[0]}, {right.name} is {kinds[1]}{unlike}"

    def mistake(self, variables: Mapping[str, object], now: int) -> tuple[MismatchKind, str] | None:
        """The likely mistake in a condition that is false."""
        match self._node:
            case Logic(operator="&&"):
                first = next((part for part in self._parts if not part.is_true(variables, now)), None)
                return first.mistake(variables, now) if first else None
            case Logic(parts=parts):
                found = [part.mistake(variables, now) for part in self._parts] if len(parts) <= _MANY else [None]
                return None if None in found else found[0]
            case Binary(operator="=="):
                return self._absent(variables, now) or self._unlike(variables, now)
            case Binary(operator="in"):
                return self._absent(variables, now) or self._unlike_items(variables, now)
            case Binary(operator=symbol) if symbol in ORDER:
                return self._absent(variables, now)
            case Call(name=name) if not FUNCTIONS[name].takes_null:
                return self._absent(variables, now)
            case _:
                return None

    def _absent(self, variables: Mapping[str, object], now: int) -> tuple[MismatchKind, str] | None:
        if any(side.is_null for side in self._sides):
            return None
        for side in self._sides:
            if side.value(variables, now) is None:
                return MismatchKind.MISSING, f": {side.name} is missing or null"
        return None

    def _unlike(self, variables: Mapping[str, object], now: int) -> tuple[MismatchKind, str] | None:
        if any(side.is_null for side in self._sides):
            return None
        left, right = (kind_of(side.value(variables, now)) for side in self._sides)
        return (MismatchKind.UNLIKE, self.operands(variables, now)) if left != right else None

    def _unlike_items(self, variables: Mapping[str, object], now: int) -> tuple[MismatchKind, str] | None:
        item, items = (side.value(variables, now) for side in self._sides)
        if not isinstance(items, list) or not 0 < len(items) <= _MANY_ITEMS:
            return None
        kinds = {kind_of(one) for one in items}
        if kind_of(item) in kinds:
            return None
        name = self._sides[0].name
        return MismatchKind.UNLIKE, f": {name} is {kind_of(item)}, and there is none in the list"

    @functools.cached_property
    def _value(self) -> Callable[[Mapping[str, object], int], object]:
        return Generator().function(self._node)

    @functools.cached_property
    def _parts(self) -> tuple[Condition, ...]:
        return tuple(Condition(part) for part in self._node.parts) if isinstance(self._node, Logic) else ()

    @functools.cached_property
    def _sides(self) -> tuple[_Side, ...]:
        match self._node:
            case Binary(left=left, right=right):
                named = [(left, "the left side"), (right, "the right side")]
            case Call(name=name, arguments=arguments):
                named = [(one, f"an argument of {name}") for one in arguments]
            case _:
                named = []
        return tuple(
            _Side(
                _name(node) or otherwise, isinstance(node, Literal) and node.value is None, Generator().function(node)
            )
            for node, otherwise in named
        )


def _name(node: Node) -> str | None:
    if isinstance(node, Variable):
        return node.name
    if isinstance(node, Field):
        target = _name(node.target)
        return target and f"{target}.{node.name}"
    return None
