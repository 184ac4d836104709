"""Rates of starts that runs of a function share: rate limit, idempotency, throttle.

What a rate remembers is one row, replaced by compare-and-set in the transition that creates the run, so of two nodes
that would both start the last one allowed only one does. Who is late reads it anew and asks again. The rule itself is
`stepwell.engine.flow`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.engine.flow import next_turn, rate_key
from stepwell.store.base import Unique

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stepwell.engine.flow import Turn
    from stepwell.model.function import Function, Rate
    from stepwell.model.ids import Instant
    from stepwell.store.base import Store

MOST_KNOWN = 10_000


class Rates:
    """The states of keys as this node believes them to be: what it is about to write counts already."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], tuple[str, Instant]] = {}

    async def admit(self, function: Function, event: Mapping[str, Any], now: Instant) -> tuple[Unique, ...] | None:
        """What is to be taken with an event by rate limit and idempotency. None: it is over one of them."""
        turns: list[tuple[Turn, str | None]] = []
        for name, rate in (("rate", function.rate_limit), ("once", function.idempotency)):
            turn = await self._turn(function, name, rate, event, now)
            if turn is not None and turn[0].start_at > now:
                return None
            if turn is not None:
                turns.append(turn)
        return self._taken(function, turns)

    async def start(
        self, function: Function, event: Mapping[str, Any], now: Instant
    ) -> tuple[Instant, tuple[Unique, ...]]:
        """When a run may start by its throttle, and what is to be taken with it."""
        turn = await self._turn(function, "throttle", function.throttle, event, now)
        return (now, ()) if turn is None else (turn[0].start_at, self._taken(function, [turn]))

    def _taken(self, function: Function, turns: Sequence[tuple[Turn, str | None]]) -> tuple[Unique, ...]:
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        for one, _ in turns:
            self._known[function.env, one.key] = (one.state, one.until)
        return tuple(Unique(function.env, one.key, one.state, one.until, replaces=before) for one, before in turns)

    def forget(self, keys: Iterable[Unique]) -> None:
        """What was to be taken was not: the store is asked the next time."""
        for key in keys:
            self._known.pop((key.env, key.key), None)

    async def _turn(
        self, function: Function, name: str, rate: Rate | None, event: Mapping[str, Any], now: Instant
    ) -> tuple[Turn, str | None] | None:
        key = rate_key(function, name, rate, event, now) if rate is not None else None
        if rate is None or key is None:
            return None
        known = self._known.get((function.env, key))
        if known is None:
            known = (await self._store.read_keys(function.env, [key])).get(key)
        state = known[0] if known is not None and known[1] > now else None
        return next_turn(rate, key, state, now), state
