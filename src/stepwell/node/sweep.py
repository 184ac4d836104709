"""Cancelling many runs at once: those of a function that began in a stretch of time, perhaps with a condition.

The answer is given when every run of it is cancelled, durably; so a kill in the middle leaves a request that was not
answered and may be sent again. What was done is remembered by this process for those who ask, not stored.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.engine import expr
from stepwell.engine.match import holds
from stepwell.model.errors import Conflict, InvalidInput, NotFound
from stepwell.model.event import read_body
from stepwell.model.job import RunStatus
from stepwell.model.journal import RunStarted
from stepwell.store.base import RunQuery

if TYPE_CHECKING:
    from stepwell.model.ids import Instant, RunId
    from stepwell.node.node import Node

log = logging.getLogger("stepwell.node")

_PAGE = 500
_REMEMBERED = 1_000


@dataclass(frozen=True, slots=True)
class Cancellation:
    """One request to cancel many runs, and what came of it."""

    id: str
    env: str
    function: str
    started_after: Instant | None
    started_before: Instant
    condition: str | None
    at: Instant
    cancelled: tuple[RunId, ...] = ()


class Sweep:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._done: OrderedDict[str, Cancellation] = OrderedDict()

    async def cancel(
        self, env: str, function: str, *, after: Instant | None, before: Instant, condition: str | None
    ) -> Cancellation:
        """Cancel the live runs of a function that were created in [after, before) and whose first event fits.

        Raises:
            NotFound: No such function.
            InvalidInput: The condition is no expression.
        """
        node = self._node
        if node.registry.function(env, function) is None:
            raise NotFound(f"no function {function!r}")
        if condition:
            try:
                expr.compile(condition)
            except expr.ExpressionError as err:
                raise InvalidInput(f"the condition cannot be read: {err}", field="if") from err
        cancelled: list[RunId] = []
        query = RunQuery(
            env=env,
            functions=(function,),
            statuses=(RunStatus.QUEUED, RunStatus.RUNNING),
            created_from=after,
            created_until=before,
            limit=_PAGE,
        )
        last: RunId | None = None
        while True:
            rows = await node.store.runs(_after(query, last))
            for row in rows:
                if (condition is None or await self._fits(row.id, condition)) and await self._cancelled(env, row.id):
                    cancelled.append(row.id)
            if len(rows) < _PAGE:
                break
            last = rows[-1].id
        done = Cancellation(node.new_key(), env, function, after, before, condition, node.world.now(), tuple(cancelled))
        self._done[done.id] = done
        while len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)
        log.info("cancelled %d runs of %r", len(cancelled), function)
        return done

    def done(self, env: str) -> list[Cancellation]:
        """What this process has done, newest first."""
        return [one for one in reversed(self._done.values()) if one.env == env]

    def forget(self, env: str, cancellation: str) -> None:
        """Raises `NotFound`."""
        one = self._done.get(cancellation)
        if one is None or one.env != env:
            raise NotFound(f"no cancellation {cancellation}")
        del self._done[cancellation]

    async def _fits(self, run: RunId, condition: str) -> bool:
        stored = await self._node.store.load_run(run)
        if stored is None or not isinstance(first := stored.entries[0], RunStarted):
            return False
        (text,) = await self._node.turns.texts(first.events[:1])
        return holds(condition, {"event": read_body(text)}, self._node.world.now())

    async def _cancelled(self, env: str, run: RunId) -> bool:
        try:
            await self._node.cancel(run, "cancelled in bulk through the API", env)
        except (Conflict, NotFound):
            return False  # it ended by itself in the meantime
        return True


def _after(query: RunQuery, last: RunId | None) -> RunQuery:
    return RunQuery(
        env=query.env,
        functions=query.functions,
        statuses=query.statuses,
        created_from=query.created_from,
        created_until=query.created_until,
        limit=query.limit,
        before=last,
    )
