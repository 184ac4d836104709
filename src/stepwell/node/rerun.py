"""Making an ended run again, in one commit: the new run, what it keeps of the record, and its first call.

The new run refers to the texts of the old one, so they stay as long as either run does. A request that comes twice
with the same key makes one run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.engine.decide import Beginning, begin
from stepwell.engine.rerun import HIDDEN, Recorded, again, find_step, recorded_steps
from stepwell.model.errors import Conflict
from stepwell.model.event import read_body
from stepwell.model.ids import RunId, shard_of
from stepwell.model.journal import RunStarted
from stepwell.node.large import stored as stored_text
from stepwell.node.matching import cancel_listeners, shared_limits
from stepwell.node.turns import Plan, Turns
from stepwell.store.base import Committed, Duplicate, StoreUnavailable, Transition, Unique

if TYPE_CHECKING:
    from stepwell.model.payload import Blob
    from stepwell.node.clock import World
    from stepwell.node.registry import Registry
    from stepwell.store.base import Store, StoredRun

__all__ = [  # the surfaces may not import the engine; what they need of it comes from here
    "HIDDEN", "KEY_MS", "Recorded", "Rerun", "Reruns", "find_step", "recorded_steps",
]  # fmt: skip

KEY_MS = 86_400_000
"""How long the key of a request counts."""


@dataclass(frozen=True, slots=True)
class Rerun:
    """What came of a request. `doubled`: that run was there already, made by a request with the same key."""

    run: RunId
    kept: int
    doubled: bool = False


class Reruns:
    """The part of a node that makes ended runs again."""

    def __init__(self, *, store: Store, world: World, registry: Registry, turns: Turns) -> None:
        self._store = store
        self._world = world
        self._registry = registry
        self._turns = turns

    async def begin(
        self, run_id: RunId, stored: StoredRun, *, step: Recorded | None, edited: bytes | None, key: str
    ) -> Rerun:
        """Store the new run and begin with it.

        Args:
            run_id: Of the new run.
            stored: The run to be made again, with its whole journal.
            step: From which on everything happens anew; None: from the beginning.
            edited: Canonical: the input of that step; without a step the whole of the first event.
            key: Names the request; empty if it has no name.

        Raises:
            Conflict: The run has not ended, or no service has its function any more.
            StoreUnavailable: Nothing is known to be stored; with a key the request may be repeated.
        """
        row, now = stored.row, self._world.now()
        if not row.status.final:
            raise Conflict(f"run {row.id} has not ended; wait for it, or cancel it, before it is made again")
        function = self._registry.function(row.env, row.function)
        if function is None or function.archived:
            raise Conflict(
                f"no service has the function {row.function!r} any more; start one that has, then make the run again"
            )
        first = stored.entries[0]
        assert isinstance(first, RunStarted), "a journal begins with the start of its run"
        blobs: dict[Blob, bytes] = {}
        events, kept_input = first.events, None
        if edited is not None and step is None:
            events = (stored_text(edited, blobs), *events[1:])
        elif edited is not None:
            kept_input = stored_text(edited, blobs)
        (text,) = await self._turns.texts(events[:1], blobs)
        anew = again(row.id, stored.entries, now, step=step, edited=kept_input)
        beginning = Beginning(
            run=run_id,
            env=row.env,
            shard=shard_of(row.env, run_id),
            function=row.function,
            service=function.service,
            events=events,
            event_keys=first.event_keys,
            event_name=first.event_name,
            max_attempts=function.max_attempts,
            depth=first.depth,
            cancel_on=cancel_listeners(function, now),
            **shared_limits(function, read_body(text), now),
            again=anew,
        )
        live = self._registry.is_live(row.env, function.service)
        run, decision = begin(beginning, now, live=live, policy=self._turns.policy)
        plan = Plan(run, 0, blobs=blobs)
        kept = len(run.stack)
        try:
            await self._turns.add(plan, decision, now)
            transition = plan.transition()
            assert transition is not None, "a new run has entries"
            unique = (Unique(row.env, f"rerun:{row.id}:{key}", run_id, now + KEY_MS),) if key else ()
            outcome = await self._store.commit(
                Transition(
                    run=transition.run,
                    jobs=transition.jobs,
                    waits=transition.waits,
                    blobs=transition.blobs,
                    unique=unique,
                    now=now,
                )
            )
        except BaseException:
            self._turns.let_go(plan)
            raise
        match outcome:
            case Committed(parked):
                self._turns.perform(plan, parked)
                return Rerun(run_id, kept)
            case Duplicate(_, first_made):
                self._turns.let_go(plan)
                return Rerun(RunId(first_made), kept, doubled=True)
            case _:
                # A commit whose answer was lost may have been applied, and was made once more.
                self._turns.let_go(plan)
                raise StoreUnavailable("the store is restarting; ask again with the same key")
