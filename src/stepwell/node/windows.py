"""Events that do not start a run each: debounced ones, of which the last starts one, and batches.

What is collected under a key is one row, the *window*: its events, and the job that will start a run with them. The row
is replaced by compare-and-set, in one transaction with the job and with a mark that the event has been taken in, so an
event is in one window, also when it is matched twice or by two nodes. The rules are `stepwell.engine.flow`.

    event ──▶ window: a row, and a job due at its end ──▶ the job is done, or the window full ──▶ one run, no row
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from stepwell.engine.flow import batched, debounced, window_key
from stepwell.model.event import read_body
from stepwell.model.ids import JobId, shard_of
from stepwell.model.job import Claim, Job, JobKind, Window
from stepwell.node.patience import patiently
from stepwell.store.base import Committed, Duplicate, RunMoved, Transition, Unique

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell.model.event import Event
    from stepwell.model.function import Function
    from stepwell.model.ids import Instant
    from stepwell.node.clock import World
    from stepwell.node.rates import Rates
    from stepwell.node.registry import Registry
    from stepwell.node.turns import Plan, Turns
    from stepwell.store.base import Store

YEAR_MS = 366 * 86_400_000
DAY_MS = 86_400_000
MOST_KNOWN = 10_000


class BeginRun(Protocol):
    """Plans a run with these events, the first of which has that body, and says what else it takes."""

    async def __call__(
        self, events: Sequence[Event], body: dict[str, Any], function: Function, now: Instant, /
    ) -> tuple[Plan, tuple[Unique, ...]]: ...


class Windows:
    """The windows that are open, as this node believes them to be."""

    def __init__(
        self,
        *,
        store: Store,
        world: World,
        registry: Registry,
        turns: Turns,
        rates: Rates,
        begin: BeginRun,
        new_key: Callable[[], str],
        alarm: Callable[[Instant], None],
    ) -> None:
        self._store = store
        self._world = world
        self._registry = registry
        self._turns = turns
        self._rates = rates
        self._begin = begin
        self._new_key = new_key
        self._alarm = alarm
        self._known: dict[tuple[str, str], str | None] = {}

    async def collect(
        self, event: Event, body: dict[str, Any], function: Function, taken: tuple[Unique, ...]
    ) -> Duplicate | None:
        """Take an event into the window of its key; on return that is durable.

        Args:
            event: Which.
            body: What it says.
            function: Has a debounce or batches.
            taken: Keys to take along; if somebody else has one of them by now, nothing is done and it is returned.
        """
        key = window_key(function, body, self._world.now())
        while True:
            place = (event.env, key)
            if place not in self._known:
                state = await self._read(event.env, key)
                self._known.setdefault(place, state)
            before = self._known[place]
            now = self._world.now()
            window = msgspec.json.decode(before, type=Window) if before is not None else None
            job_id = JobId(f"{self._new_key()}.window")
            after: Window | None
            if function.batch is not None:
                after, full = batched(function.batch, window, job_id, event.key, now)
            else:
                assert function.debounce is not None
                after, full = debounced(function.debounce, window, job_id, event.key, event.ts, now), False
                if after is None:
                    return None  # one that is newer waits already
            mark = Unique(event.env, f"run:{function.slug}:{event.id}", "window", now + DAY_MS)
            outcome = await self._store_window(place, before, window, after, full, function, (mark, *taken), now)
            if isinstance(outcome, Duplicate) and outcome.key == key:
                continue
            return outcome if isinstance(outcome, Duplicate) and outcome.key != mark.key else None

    async def _store_window(
        self,
        place: tuple[str, str],
        before: str | None,
        window: Window | None,
        after: Window,
        full: bool,
        function: Function,
        taken: tuple[Unique, ...],
        now: Instant,
    ) -> object:
        env, key = place
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        self._known[place] = None if full else msgspec.json.encode(after).decode()
        old = (window.job,) if window is not None and (full or window.job != after.job) else ()
        if full:
            return await self._start(place, before, after.events, function, taken, None, old)
        job = Job(
            id=after.job,
            kind=JobKind.WINDOW,
            due=after.due,
            env=env,
            shard=shard_of(env, ""),
            keys=after.events[:1],
            function=function.slug,
            window=key,
        )
        row = Unique(env, key, msgspec.json.encode(after).decode(), after.due + YEAR_MS, replaces=before)
        new = (job,) if window is None or window.job != after.job else ()
        transition = Transition(unique=(*taken, row), jobs=new, drop_jobs=old, now=now)
        outcome = await patiently(self._world, lambda: self._store.commit(transition))
        if not isinstance(outcome, Committed):
            self._known.pop(place, None)
        else:
            self._alarm(after.due)
        return outcome

    async def fire(self, job: Job) -> None:
        """The time of a window is over: start a run with its events."""
        await patiently(self._world, lambda: self._fire(job))

    async def _fire(self, job: Job) -> None:
        claim = Claim(job.id, job.fence)
        place = (job.env, job.window)
        while True:
            state = await self._read(*place)
            window = msgspec.json.decode(state, type=Window) if state is not None else None
            function = self._registry.function(job.env, job.function)
            if window is None or window.job != job.id:
                await self._store.commit(Transition(ends=(claim,)))
                return
            self._known[place] = None
            outcome = await self._start(place, state, window.events, function, (), claim, ())
            if not isinstance(outcome, Duplicate) or outcome.key.startswith("run:"):
                return

    async def _start(
        self,
        place: tuple[str, str],
        before: str | None,
        keys: Sequence[str],
        function: Function | None,
        taken: tuple[Unique, ...],
        claim: Claim | None,
        drop: tuple[JobId, ...],
    ) -> object:
        """Close a window, and create the run of its events, if there are any and somebody serves it."""
        env, key = place
        now = self._world.now()
        events = await self._store.read_events(keys)  # type: ignore[arg-type]
        closed = Unique(env, key, self._new_key(), now, replaces=before)
        ends = (claim,) if claim is not None else ()
        closing = Transition(ends=ends, unique=(*taken, closed), drop_jobs=drop, now=now)
        if not events or function is None:
            return await self._store.commit(closing)
        (text,) = await self._turns.texts((events[0].body,))
        plan, more = await self._begin(events, read_body(text), function, now)
        transition = plan.transition()
        assert transition is not None
        whole = Transition(
            run=transition.run,
            jobs=transition.jobs,
            waits=transition.waits,
            events=transition.events,
            blobs=transition.blobs,
            ends=ends,
            drop_jobs=drop,
            unique=(*taken, closed, *more),
            now=now,
        )
        outcome = await patiently(self._world, lambda: self._store.commit(whole))
        if isinstance(outcome, Committed):
            self._turns.perform(plan, outcome.parked)
            return outcome
        self._known.pop(place, None)
        self._rates.forget(more)
        self._turns.let_go(plan)
        # The run is there already: an event of the window had started it in another way.
        return await self._store.commit(closing) if isinstance(outcome, RunMoved) else outcome

    async def _read(self, env: str, key: str) -> str | None:
        found = (await self._store.read_keys(env, [key])).get(key)
        return found[0] if found is not None and found[1] > self._world.now() else None
