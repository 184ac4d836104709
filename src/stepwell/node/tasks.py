"""Tasks: runs of the functions of apps, begun by a request instead of an event of the outside.

One commit stores the run, its request (as the only event it begins with; there is no row of an event) and its call,
which this node has claimed already; the end of the call is the second commit. A request that comes twice with the
same key makes one task. A task sends no system events when it ends: whoever asked for it follows it, or names a
webhook (`hooks.py`).

Elsewhere: which apps there are (`apps.py`), what is shown of a task (`reads/tasks.py`), who makes the calls
(`stepwell.apps`), what cancelling does to a call (`stepwell.engine.decide`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stepwell.engine.decide import Beginning, begin
from stepwell.model import message
from stepwell.model.errors import Conflict, NotFound
from stepwell.model.ids import EventKey, RunId, shard_of
from stepwell.model.payload import canonical
from stepwell.model.task import TASK_EVENT, is_task
from stepwell.node.endings import body
from stepwell.node.hooks import hook_service
from stepwell.node.large import stored
from stepwell.node.turns import Envelope, Plan, Turns
from stepwell.store.base import Committed, Duplicate, StoreUnavailable, Unique

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stepwell.model.function import Service
    from stepwell.model.ids import Instant
    from stepwell.model.job import RunRow
    from stepwell.model.payload import Blob
    from stepwell.model.task import TaskRequest
    from stepwell.node.clock import World
    from stepwell.node.registry import Registry
    from stepwell.node.sessions import Sessions
    from stepwell.store.base import Store

KEY_MS = 86_400_000
"""How long the key of a request counts."""


class Tasks:
    """The part of a node that begins tasks. `new_key` draws ids."""

    def __init__(
        self,
        *,
        store: Store,
        world: World,
        registry: Registry,
        turns: Turns,
        sessions: Sessions,
        new_key: Callable[[], str],
        register: Callable[[Service], Awaitable[bool]],
        shared: bool,
    ) -> None:
        self._store = store
        self._world = world
        self._registry = registry
        self._turns = turns
        self._sessions = sessions
        self._new_key = new_key
        self._register = register
        self._hooked: set[str] = set()
        self._shared = shared

    async def begin(self, env: str, request: TaskRequest, *, run_at: Instant | None = None, key: str = "") -> RunId:
        """Store a task and begin with it; on return it is durable.

        Args:
            request: A session that it names is active, or was just opened for it.
            run_at: When it is to begin, in ms since 1970; at once if that has passed or is not given.
            key: Names the request for a day; empty if it has no name.

        Returns:
            Its id; with a key that was used before, the id of the task that it made then.

        Raises:
            NotFound: No such version of an app.
            SessionNotFound, SessionExpired, SessionEnded, SessionLost: Its session cannot be called.
            StoreUnavailable: Nothing is known to be stored; with a key the request may be repeated.
        """
        now = self._world.now()
        function = self._registry.function(env, request.app)
        if function is None and self._shared:
            await self._registry.refresh(self._store, now)
            function = self._registry.function(env, request.app)
        if function is None or function.archived or not self._registry.is_app(env, function.service):
            raise NotFound(f"there is no version {request.app!r} of an app; `stepwell app deploy DIRECTORY` makes one")
        if request.webhook:
            await self._serve_hooks(env)
        run_id = RunId(self._new_key())
        blobs: dict[Blob, bytes] = {}
        event = body(TASK_EVENT, run_id, now, canonical(msgspec.to_builtins(request)))
        beginning = Beginning(
            run=run_id,
            env=env,
            shard=shard_of(env, run_id),
            function=function.slug,
            service=function.service,
            events=(stored(event, blobs),),
            event_keys=(EventKey(run_id),),
            event_name=TASK_EVENT,
            max_attempts=function.max_attempts,
            start_at=run_at or 0,
            cancel_grace_ms=function.cancel_grace_ms,
        )
        run, decision = begin(beginning, now, live=True, policy=self._turns.policy)
        plan = Plan(run, 0, blobs=blobs)
        route: str | None = None
        if request.session:
            route = await self._sessions.enter(env, request.session, run_id, opens=request.opens)
        try:
            await self._turns.add(plan, decision, now)
            if route is not None:
                plan.jobs = {
                    job.id: msgspec.structs.replace(job, route=route, owner=None, fence=0) for job in plan.jobs.values()
                }
            transition = plan.transition()
            assert transition is not None, "a new run has entries"
            if key:
                unique = (Unique(env, f"task:{key}", run_id, now + KEY_MS),)
                transition = msgspec.structs.replace(transition, unique=unique, now=now)
            outcome = await self._store.commit(transition)
        except BaseException:
            self._turns.let_go(plan)
            self._sessions.left(run_id)
            raise
        if isinstance(outcome, Committed):
            self._turns.perform(plan, outcome.parked)
            return run_id
        self._turns.let_go(plan)
        self._sessions.left(run_id)
        match outcome:
            case Duplicate(_, first):
                if request.opens:
                    await self._sessions.end(env, request.session)  # the task that was begun before has its own
                return RunId(first)
            case _:
                # A commit whose answer was lost may have been applied, and was made once more.
                raise StoreUnavailable("the store is restarting; ask again with the same key")

    async def _serve_hooks(self, env: str) -> None:
        """Have the function that delivers webhooks, before the first of them is needed."""
        if env not in self._hooked:
            await self._register(hook_service(env))
            self._hooked.add(env)

    async def cancel(self, env: str, task: RunId, *, grace_ms: int | None = None) -> bool:
        """Cancel a task. On return that is durable: it is cancelled, or its call has been told to end.

        Args:
            grace_ms: How long the call may take to end by itself; 0 waits for nothing. Not longer than the app's own
                time, which it has without this.

        Returns:
            Whether there was anything to be cancelled; False for a task that has ended.

        Raises:
            NotFound: No such task.
        """
        row = await self.row(env, task)
        if row.status.final:
            return False
        gate = self._world.gate()
        self._turns.post(
            task, Envelope(message.CancelAsked("somebody asked for it", grace_ms=grace_ms), done=gate.open)
        )
        await gate.passed()
        return True

    async def delete(self, env: str, task: RunId) -> None:
        """Remove a task that has ended, for good.

        Raises:
            NotFound: No such task.
            Conflict: It has not ended.
        """
        row = await self.row(env, task)
        if not row.status.final:
            raise Conflict(f"task {task} has not ended; cancel it, or wait for it, before it is deleted")
        await self._store.remove_runs([task], self._world.now())

    async def row(self, env: str, task: RunId) -> RunRow:
        """What lists know of a task. Raises `NotFound`."""
        row = await self._store.run_row(task)
        if row is None or row.env != env or not is_task(row.event_name, row.function):
            raise NotFound(f"no task {task}")
        return row
