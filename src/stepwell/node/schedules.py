"""Functions that start by the clock.

An occurrence of a schedule is a job, made while the one before it is done:

    registration ──▶ tick 09:00 ──due──▶ one commit: the event and its match job, and tick 10:00 ──due──▶ ...

A tick is made with a unique key of its occurrence, and done with its claim: so nodes may make schedules begin at any
time, all of them, and an occurrence still comes once. Each node does so with every beat for what it believes to be
missing, which is how a schedule begins that a crash, another node or a returning service left without its next tick.

Who comes too late for its own occurrence starts the last one that was missed, and none of those between.

Elsewhere: when the occurrences are (`stepwell.engine.cron`); the run that the event leads to (`matching.py`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from stepwell.engine.cron import Schedule, ScheduleError, parse
from stepwell.model.event import TICK, Event, event_body, occurrence_text, tick_data
from stepwell.model.ids import EventKey, JobId, derived_fraction, derived_ulid, shard_of
from stepwell.model.job import Claim, Job, JobKind
from stepwell.node.matching import CHUNK, REGISTRY_MS
from stepwell.node.patience import patiently
from stepwell.store.base import COMMITTED, Duplicate, StoreFull, StoreUnavailable, Transition, Unique

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell.engine.run import Run
    from stepwell.model.function import Function, Trigger
    from stepwell.model.ids import Instant
    from stepwell.node.clock import Gate, World
    from stepwell.node.registry import Registry
    from stepwell.store.base import Store

log = logging.getLogger("stepwell.node")

REMEMBERED_MS = 86_400_000
"""How long after its time an occurrence is known to have come, in case clocks are set back."""
TOLD_MS = 3_600_000
"""How often a schedule that cannot be carried out is logged."""


class Schedules:
    """The part of a node that keeps functions with a schedule going."""

    def __init__(
        self,
        *,
        node: str,
        store: Store,
        world: World,
        registry: Registry,
        perform_job: Callable[[Job, Run | None, Sequence[Event]], None],
        alarm: Callable[[Instant], None],
        shared: bool,
    ) -> None:
        self._node = node
        self._store = store
        self._world = world
        self._registry = registry
        self._perform_job = perform_job
        self._alarm = alarm
        self._shared = shared
        self._mending = False
        self._reading: Gate | None = None
        self._made: dict[tuple[str, str, str], tuple[Instant, Instant]] = {}
        """Of each schedule, a time and the occurrence after it, the tick of which is known to have been made."""

    def mend_soon(self) -> None:
        """Mend beside whatever else goes on. What the store refuses is tried again when this is asked for again."""
        if not self._mending and (self._registry.scheduled() or self._made):
            self._mending = True
            self._world.spawn(self._mend_beside())

    async def _mend_beside(self) -> None:
        try:
            await self.mend()
        except (StoreFull, StoreUnavailable) as err:
            log.warning("node %s could not see to its schedules: %s", self._node, err)
        finally:
            self._mending = False

    async def mend(self) -> None:
        """See to it that each schedule has its next tick. Raises `StoreFull` or `StoreUnavailable`."""
        now = self._world.now()
        made: dict[tuple[str, str, str], tuple[Instant, Instant]] = {}
        ticks: list[Job] = []
        for function, trigger in self._registry.scheduled():
            assert trigger.cron is not None
            key = (function.env, function.slug, trigger.cron)
            known = self._made.get(key)
            if known is not None and known[0] <= now < known[1]:
                made[key] = known
                continue
            schedule = _read(function.slug, trigger.cron)
            due = schedule.after(now) if schedule is not None else None
            if due is None:
                made[key] = (now, now + TOLD_MS)
                continue
            ticks.append(_tick(*key, due))
            made[key] = (now, due)
        for start in range(0, len(ticks), CHUNK):
            await self._make(ticks[start : start + CHUNK], now)
        self._made = made

    async def _make(self, ticks: Sequence[Job], now: Instant) -> None:
        """Store ticks side by side, for a store that commits many at once; those that exist already stay."""
        gate, left = self._world.gate(), len(ticks)
        refused: list[StoreFull | StoreUnavailable] = []

        async def make(tick: Job) -> None:
            nonlocal left
            try:
                await self._store.commit(Transition(jobs=(tick,), unique=(_once(tick),), now=now))
            except (StoreFull, StoreUnavailable) as err:
                refused.append(err)
            left -= 1
            if not left:
                gate.open()

        for tick in ticks:
            self._world.spawn(make(tick))
        await gate.passed()
        if refused:
            raise refused[0]
        for tick in ticks:
            self._alarm(tick.due)

    async def come(self, tick: Job) -> None:
        """Do a tick that is ours."""
        await patiently(self._world, lambda: self._come(tick))

    async def _come(self, tick: Job) -> None:
        found = await self._wanted(tick)
        schedule = _read(tick.function, tick.cron) if found is not None else None
        claim = Claim(tick.id, tick.fence)
        if found is None or schedule is None:
            await self._store.commit(Transition(ends=(claim,)))
            return
        function, trigger = found
        now = max(self._world.now(), tick.due)
        occurrence = schedule.latest(tick.due, now)
        if occurrence > tick.due:
            log.warning(
                "function %r was to start at %s (%s); it starts for %s, and for none between",
                *(function.slug, occurrence_text(tick.due), tick.cron, occurrence_text(occurrence)),
                extra={"function": function.slug},
            )
        event = self._event(function, trigger, tick.cron, occurrence, now)
        match = Job(
            id=JobId(f"{event.key}.match"),
            kind=JobKind.MATCH,
            due=now,
            env=tick.env,
            shard=tick.shard,
            keys=(event.key,),
            function=function.slug,
            owner=self._node,
            fence=1,
        )
        missed = _tick(tick.env, tick.function, tick.cron, occurrence) if occurrence > tick.due else None
        after = schedule.after(occurrence)
        following = _tick(tick.env, tick.function, tick.cron, after) if after is not None else None
        while True:
            unique = tuple(_once(one) for one in (missed, following) if one is not None)
            jobs = (match, following) if following is not None else (match,)
            whole = Transition(ends=(claim,), jobs=jobs, events=(event,), unique=unique, now=now)
            outcome = await self._store.commit(whole)
            if not isinstance(outcome, Duplicate):
                break
            if missed is not None and outcome.value == missed.id:
                # That occurrence has a tick of its own, which comes, or came, by itself.
                await self._store.commit(Transition(ends=(claim,)))
                return
            following = None  # it is made already
        if outcome is COMMITTED:
            self._perform_job(match, None, (event,))
            if following is not None:
                self._alarm(following.due)

    async def _wanted(self, tick: Job) -> tuple[Function, Trigger] | None:
        """Whose schedule it is; None if nobody's any more, as the store has it."""
        for longest_ms in (REGISTRY_MS, 0):
            if self._shared and self._world.now() - self._registry.refreshed_at > longest_ms:
                await self._refresh()
            function = self._registry.function(tick.env, tick.function)
            if function is not None and not function.archived:
                for trigger in function.triggers:
                    if trigger.cron == tick.cron:
                        return function, trigger
        return None

    async def _refresh(self) -> None:
        """Know the services as the store has them. Many ticks come at one moment: they read once."""
        if self._reading is not None:
            await self._reading.passed()
            return
        self._reading = gate = self._world.gate()
        try:
            await self._registry.refresh(self._store, self._world.now())
        finally:
            self._reading = None
            gate.open()

    def _event(self, function: Function, trigger: Trigger, cron: str, occurrence: Instant, now: Instant) -> Event:
        name = occurrence_text(occurrence)
        key = EventKey(derived_ulid(occurrence, function.env, function.slug, cron))
        jitter = int(trigger.jitter_ms * derived_fraction(function.env, function.slug, cron, name))
        at = max(occurrence + jitter, now)
        return Event(
            key=key,
            internal_id=key,
            id=name,
            name=TICK,
            ts=at,
            received_at=now,
            body=event_body(name=TICK, id=name, ts=at, data=tick_data(cron, occurrence, at)),
            env=function.env,
            source="server",
        )


def _read(function: str, cron: str) -> Schedule | None:
    """A schedule that was readable when it was registered; None if it is not here and now: a zone is unknown."""
    try:
        return parse(cron)
    except ScheduleError as err:
        log.error("function %r cannot start on its schedule: %s", function, err, extra={"function": function})
        return None


def _tick(env: str, function: str, cron: str, due: Instant) -> Job:
    key = derived_ulid(due, env, function, cron)
    return Job(
        id=JobId(f"{key}.tick"),
        kind=JobKind.TICK,
        due=due,
        env=env,
        shard=shard_of(env, ""),
        function=function,
        cron=cron,
    )


def _once(tick: Job) -> Unique:
    return Unique(tick.env, f"tick:{tick.id}", tick.id, tick.due + REMEMBERED_MS)
