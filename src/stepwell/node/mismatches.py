"""Expressions that did not match because of a mistake: told once, counted always.

An event that does not match is nothing to speak of, unless no event of its shape ever will: the field is called
something else, a number meets a text, the evaluation fails. The author finds out here, at a price that ordinary
traffic does not feel: an event is looked into only so often, a reason is logged once, and a minute has so many lines.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from stepwell.engine.expr import MismatchKind
from stepwell.engine.match import mismatch

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from stepwell.model.ids import Instant

log = logging.getLogger("stepwell.node")

REASONS = 20  # an event
LOOKS = 500  # an event; each costs a few evaluations
REMEMBERED = 1000  # pairs of expression and reason
LINES = 100  # a minute
_MINUTE_MS = 60_000
_SHOWN = 200  # characters of an expression
_NONE = {kind.value: 0 for kind in MismatchKind}


class Mismatches:
    """What a node has seen since it started.

    Attributes:
        counts: How often, by kind: `failed`, `missing`, `unlike`. At most 20 are counted for one event.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = dict(_NONE)
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._asked: OrderedDict[Hashable, Instant] = OrderedDict()
        self._minute = 0
        self._lines = 0

    def of(self, event: str, now: Instant) -> Look:
        """For one event, by name."""
        return Look(self, event, now)

    def due(self, question: Hashable, now: Instant, every_ms: int = 1000) -> bool:
        """Whether a question that costs a search may be asked again; at most once in that time."""
        last = self._asked.get(question)
        if last is not None and now - last < every_ms:
            return False
        _remember(self._asked, question, now)
        return True

    def tell(self, owner: str, event: str, expression: str, kind: MismatchKind, reason: str, now: Instant) -> None:
        """Count it, and log it unless that was done before."""
        self.counts[kind.value] += 1
        told = (expression, reason) in self._told
        _remember(self._told, (expression, reason), None)
        if told or not self._line_left(now):
            return
        shown = expression if len(expression) <= _SHOWN else f"{expression[:_SHOWN]}..."
        log.warning("event %r does not match %r of %s (%s): %s", event, shown, owner, kind.value, reason)

    def _line_left(self, now: Instant) -> bool:
        minute = now // _MINUTE_MS
        if minute != self._minute:
            self._minute, self._lines = minute, 0
        self._lines += 1
        if self._lines == LINES + 1:
            log.warning("more than %d reasons for not matching in a minute; the others are only counted", LINES)
        return self._lines <= LINES


class Look:
    """One event, and what may still be spent on finding out why it did not match."""

    def __init__(self, mismatches: Mismatches, event: str, now: Instant) -> None:
        self._mismatches = mismatches
        self._event = event
        self._now = now
        self._reasons = REASONS
        self._looks = LOOKS

    def into(self, owner: str, expression: str, variables: Mapping[str, Any]) -> None:
        """Ask an expression that did not hold for its reason."""
        if self._looks and self._reasons:
            self._looks -= 1
            if found := mismatch(expression, variables, self._now):
                self.tell(owner, expression, found.kind, found.reason)

    def tell(self, owner: str, expression: str, kind: MismatchKind, reason: str) -> None:
        if self._reasons:
            self._reasons -= 1
            self._mismatches.tell(owner, self._event, expression, kind, reason, self._now)


def _remember(memory: OrderedDict[Any, Any], key: Hashable, value: object) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)
