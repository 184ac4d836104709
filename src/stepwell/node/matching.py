"""What an accepted event leads to: runs that start, waits that end, runs that are cancelled.

Accepting commits the events and a *match* job; that is what the sender's 2xx covers. Matching comes after
that commit, and looking back for a new wait comes after *its* commit, so whichever of event and wait was
first, one of the two finds the other. Both may be repeated after a crash: a run's id is derived from the
event and the function, and a wait is taken by a commit that only one can win.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from stepwell.engine import expr
from stepwell.engine.decide import Beginning, begin
from stepwell.engine.flow import collects, holds_of, limits_of, priority_of
from stepwell.engine.match import holds, reads, starts, trigger_names
from stepwell.model import message
from stepwell.model.event import INVOKED, TICK, read_body
from stepwell.model.ids import JobId, RunId, StepId, derived_ulid, shard_of
from stepwell.model.job import Claim, Job, JobKind
from stepwell.model.journal import CancelListener
from stepwell.model.payload import canonical
from stepwell.node.mismatches import REASONS, Mismatches
from stepwell.node.patience import patiently
from stepwell.node.rates import Rates
from stepwell.node.turns import Envelope, Plan, Turns
from stepwell.node.windows import Windows
from stepwell.store.base import Committed, Duplicate, RunMoved, Transition, Unique

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from stepwell.engine.run import Run
    from stepwell.model.event import Event
    from stepwell.model.function import Function
    from stepwell.model.ids import EventKey, Instant
    from stepwell.model.job import Wait
    from stepwell.node.clock import Gate, World
    from stepwell.node.mismatches import Look
    from stepwell.node.registry import Registry
    from stepwell.store.base import Store

CHUNK = 500
LOOK_BACK_PAGE = 1000
"""Events read at a time when a wait looks back."""
REGISTRY_MS = 250
"""How old a node's knowledge of the services may be when several nodes share a store and it matches an event. Who
registers is answered so much later, and no event that is sent after that answer misses the new functions."""
_DAY_MS = 86_400_000
_CANCEL_MS = 365 * _DAY_MS


class Matching:
    """The part of a node that turns events into work.

    Attributes:
        mismatches: Expressions that no event of that shape can match, by kind, since the node started.
        limited: Events that started no run because of a rate limit or idempotency, by function, since the node started.
    """

    def __init__(
        self,
        *,
        node: str,
        store: Store,
        world: World,
        registry: Registry,
        turns: Turns,
        new_key: Callable[[], str],
        alarm: Callable[[Instant], None],
        shared: bool = False,
    ) -> None:
        self._shared = shared
        self._node = node
        self._store = store
        self._world = world
        self._registry = registry
        self._turns = turns
        self._mismatches = Mismatches()
        self.mismatches = self._mismatches.counts
        self._rates = Rates(store)
        self._windows = Windows(
            store=store,
            world=world,
            registry=registry,
            turns=turns,
            rates=self._rates,
            begin=self._begin_together,
            new_key=new_key,
            alarm=alarm,
        )
        self.limited: Counter[str] = Counter()

    async def accept(self, env: str, events: Sequence[Event], transition: Transition, job: JobId) -> None:
        """Store events and the job to match them; on return they are durable. Matching has begun by then."""
        now = self._world.now()
        match = Job(
            id=job,
            kind=JobKind.MATCH,
            due=now,
            env=env,
            shard=shard_of(env, ""),
            keys=tuple(event.key for event in events),
            owner=self._node,
            fence=1,
        )
        outcome = await self._store.commit(
            Transition(events=tuple(events), jobs=(match,), blobs=transition.blobs, now=now)
        )
        assert isinstance(outcome, Committed), "accepting events depends on nothing"
        self._turns.tally.events += len(events)
        self._world.spawn(self.match(match, events))

    async def match(self, job: Job, events: Sequence[Event] | None = None) -> None:
        """Do what the events of a match job lead to, then end the job."""
        await patiently(self._world, lambda: self._match(job, events))

    async def _match(self, job: Job, events: Sequence[Event] | None) -> None:
        claim = Claim(job.id, job.fence)
        if events is None or len(events) != len(job.keys):
            events = await self._store.read_events(job.keys)
        if self._shared and self._world.now() - self._registry.refreshed_at > REGISTRY_MS:
            await self._registry.refresh(self._store, self._world.now())
        pending = _Pending(self._world)
        plans: list[_Begun] = []
        paths: dict[tuple[str, str], list[str | None]] = {}  # asked after all the events were stored, so good for all
        now = self._world.now()
        try:
            for event in events:
                (text,) = await self._turns.texts((event.body,))
                body = read_body(text)
                for function, parent in self._targets(event, body, now, pending, job.function):
                    if event.name != INVOKED and collects(function, body, now):
                        pending.add(self._collect(event, body, function))
                        continue
                    begun = await self._beginning(event, body, function, parent, now, job.function)
                    if begun is not None:
                        plans.append(begun)
                    else:
                        await self._not_started(event, function, parent)
                look = self._mismatches.of(event.name, now)
                self._look_at_triggers(event, body, now, look)
                name = (event.env, event.name)
                if name not in paths:
                    paths[name] = await self._store.wait_paths(*name)
                await self._wake(event, body, now, pending, look, paths[name])
        except BaseException:
            for begun in plans:
                self._turns.let_go(begun.plan)
            raise
        if len(plans) == 1 and not pending.count:
            if await self._create(plans[0], claim):
                return
        else:
            for start in range(0, len(plans), CHUNK):
                for begun in plans[start : start + CHUNK]:
                    pending.add(self._create(begun, None))
                await pending.wait()
            await pending.wait()
        await self._store.commit(Transition(ends=(claim,)))

    async def look_back(self, job: Job) -> None:
        """Look for an event that came before the wait was stored."""
        await patiently(self._world, lambda: self._look_back(job))

    async def _look_back(self, job: Job) -> None:
        claim = Claim(job.id, job.fence)
        assert job.run is not None
        assert job.step is not None
        waits = [wait for wait in await self._store.waits_of(job.run) if wait.step == job.step]
        run = await self._turns.run(job.run) if waits else None
        if run is not None:
            wait = waits[0]
            event = await self._came_before(wait, run, job.since)
            if event is not None:
                msg = message.EventMatched(wait.step, event.body, event.internal_id, back=True)
                # If another wait of the run took that very event in the meantime, there may be one more.
                again = partial(self._look_again, job)
                self._turns.post(wait.run, Envelope(msg, claim, ends=True, again=again))
                return
        await self._store.commit(Transition(ends=(claim,)))

    async def _came_before(self, wait: Wait, run: Run, since: Instant) -> Event | None:
        """The oldest event received at or after `since` that the wait asks for and the run has not taken."""
        now = self._world.now()
        look = self._mismatches.of(wait.event, now)
        limit = LOOK_BACK_PAGE
        seen: set[EventKey] = set()
        while True:
            page = await self._store.events_since(wait.env, wait.event, since, limit)
            for event in page:
                if event.key in seen or event.key in run.event_keys or event.internal_id in run.taken:
                    continue
                (text,) = await self._turns.texts((event.body,))
                if await self._fits(wait, read_body(text), now, look):
                    return event
            if len(page) < limit:
                return None
            # The next page begins at the last moment of this one, which may have more events than a page.
            last = page[-1].received_at
            seen = {event.key for event in page if event.received_at == last}
            since, limit = (last, LOOK_BACK_PAGE) if last > since else (since, limit * 2)

    def _look_again(self, job: Job) -> None:
        self._world.spawn(self.look_back(job))

    # runs to start

    def _targets(
        self, event: Event, body: dict[str, Any], now: Instant, pending: _Pending, aim: str
    ) -> list[tuple[Function, tuple[RunId, StepId] | None]]:
        found = self._registry.started_by(event.env, event.name, body, now)
        if event.name != INVOKED:
            aimed = self._registry.function(event.env, aim) if aim else None
            if aimed is not None and not aimed.archived and aimed not in found:
                found.append(aimed)
            return [(function, None) for function in found]
        details = body["data"].get("_inngest") or {}
        slug = details.get("fn_id", "")
        parent = None
        if details.get("correlation_id"):
            run_id, _, step_id = str(details["correlation_id"]).partition(".")
            parent = (RunId(run_id), StepId(step_id))
        # Functions that an invocation triggers start beside the invoked one, which starts once whatever its triggers.
        # None is started by its own invocations: each of its runs would lead to more of them.
        others = [function for function in found if function.slug not in (slug, details.get("source_fn_id"))]
        targets: list[tuple[Function, tuple[RunId, StepId] | None]] = [(function, None) for function in others]
        invoked = self._registry.function(event.env, slug)
        if invoked is not None and not invoked.archived:
            targets.append((invoked, parent))
        elif parent is not None:
            error = canonical({"name": "Error", "message": f"could not find function with ID: {slug}"})
            self._turns.post(parent[0], Envelope(message.ChildEnded(parent[1], error=error), done=pending.expect()))
        return targets

    def _look_at_triggers(self, event: Event, body: dict[str, Any], now: Instant, look: Look) -> None:
        """Ask the conditions that kept functions from starting; goes through them all, so not for every event."""
        if not self._mismatches.due((event.env, event.name), now):
            return
        names = trigger_names(event.name)
        for function in self._registry.conditional(event.env):
            conditions = [one.expression for one in function.triggers if one.event in names and one.expression]
            if conditions and not starts(function, names, body, now):
                for condition in conditions:
                    look.into(f"a trigger of function {function.slug}", condition, {"event": body})

    async def _beginning(
        self,
        event: Event,
        body: dict[str, Any],
        function: Function,
        parent: tuple[RunId, StepId] | None,
        now: Instant,
        aim: str,
    ) -> _Begun | None:
        """A run about to be created; None when its function takes no more of such events."""
        start_at, taken = event.ts, tuple[Unique, ...]()
        again = None
        if function.throttle or function.rate_limit or function.idempotency:
            # What fires together has been counted already, and batches are not counted at all.
            admitted = await self._rates.admit(function, body, now) if function.batch is None else ()
            if admitted is None:
                return None
            start, throttled = await self._rates.start(function, body, now)
            start_at, taken = max(event.ts, start), (*admitted, *throttled)
            again = partial(self._beginning_again, event, body, function, parent, aim)
        plan = await self._plan_run((event,), body, function, parent, start_at, now)
        run_id = plan.run.id
        unique = taken
        # The id of an occurrence is its time, which others share: it keeps two schedules of one function apart from
        # none but each other.
        if event.id != event.key and (event.name != TICK or function.slug == aim):
            unique = (Unique(event.env, f"run:{function.slug}:{event.id}", run_id, now + _DAY_MS), *taken)
        return _Begun(plan, unique, again)

    async def _plan_run(
        self,
        events: Sequence[Event],
        body: dict[str, Any],
        function: Function,
        parent: tuple[RunId, StepId] | None,
        start_at: Instant,
        now: Instant,
    ) -> Plan:
        event = events[0]
        run_id = _run_id(event, function)
        details = body["data"].get("_inngest") if event.name == INVOKED else None
        root = RunId(details["root"]) if parent is not None and details and details.get("root") else None
        beginning = Beginning(
            run=run_id,
            env=event.env,
            shard=shard_of(event.env, root or run_id),
            function=function.slug,
            service=function.service,
            events=tuple(one.body for one in events),
            event_keys=tuple(one.key for one in events),
            event_name=event.name,
            max_attempts=function.max_attempts,
            start_at=start_at if start_at > now else 0,
            root=root,
            parent=parent[0] if parent else None,
            parent_step=parent[1] if parent else None,
            depth=int(details.get("depth", 0)) if details else 0,
            cancel_on=cancel_listeners(function, now),
            **shared_limits(function, body, now),
        )
        live = self._registry.is_live(event.env, function.service)
        run, decision = begin(beginning, now, live=live, policy=self._turns.policy)
        plan = Plan(run, 0)
        try:
            await self._turns.add(plan, decision, now)
        except BaseException:
            self._turns.let_go(plan)
            raise
        return plan

    async def _collect(self, event: Event, body: dict[str, Any], function: Function) -> None:
        """Let an event wait with others, unless it is over a rate limit."""
        while True:
            admitted = await self._rates.admit(function, body, self._world.now()) if function.batch is None else ()
            if admitted is None:
                self.limited[function.slug] += 1
                return
            if await self._windows.collect(event, body, function, admitted) is None:
                return
            self._rates.forget(admitted)

    async def _begin_together(
        self, events: Sequence[Event], body: dict[str, Any], function: Function, now: Instant
    ) -> tuple[Plan, tuple[Unique, ...]]:
        start_at, taken = await self._rates.start(function, body, now)
        return await self._plan_run(events, body, function, None, max(events[0].ts, start_at), now), taken

    async def fire(self, job: Job) -> None:
        """The time of events that waited together is over."""
        await self._windows.fire(job)

    async def _beginning_again(
        self,
        event: Event,
        body: dict[str, Any],
        function: Function,
        parent: tuple[RunId, StepId] | None,
        aim: str,
    ) -> _Begun | None:
        begun = await self._beginning(event, body, function, parent, self._world.now(), aim)
        if begun is None:
            await self._not_started(event, function, parent)
        return begun

    async def _not_started(self, event: Event, function: Function, parent: tuple[RunId, StepId] | None) -> None:
        """An event is over a limit: count it, and tell who invoked the function."""
        if await self._store.run_row(_run_id(event, function)) is not None:
            return  # it was matched before, and is over the limit because of that very run
        self.limited[function.slug] += 1
        if parent is not None:
            text = f"function {function.slug} was not started: it is over its rate limit"
            ended = message.ChildEnded(parent[1], error=canonical({"name": "Error", "message": text}))
            gate = self._world.gate()
            self._turns.post(parent[0], Envelope(ended, done=gate.open))
            await gate.passed()

    async def _create(self, begun: _Begun, claim: Claim | None) -> bool:
        """Store a new run. False: `claim` was not used up, since the run exists already, or is not to be."""
        plan, unique, again = begun
        transition = plan.transition()
        assert transition is not None
        whole = Transition(
            run=transition.run,
            jobs=transition.jobs,
            waits=transition.waits,
            events=transition.events,
            blobs=transition.blobs,
            ends=(claim,) if claim is not None else (),
            unique=unique,
            now=self._world.now(),
        )
        match await patiently(self._world, lambda: self._store.commit(whole)):
            case Committed(parked):
                self._turns.perform(plan, parked)
                return True
            case Duplicate(key) if again is not None and not key.startswith("run:"):
                self._turns.let_go(plan)
                self._rates.forget(unique)
                another = await again()
                return await self._create(another, claim) if another is not None else False
            case RunMoved() | Duplicate():
                self._turns.let_go(plan)
                self._rates.forget(unique)
                return False  # matched before, or the sender repeated its id
            case _:
                self._turns.let_go(plan)
                return True  # the match job is somebody else's by now, who will do all this

    # waits to end

    async def _wake(
        self, event: Event, body: dict[str, Any], now: Instant, pending: _Pending, look: Look, paths: list[str | None]
    ) -> None:
        """Tell the runs that wait for an event; `paths` are those by which such waits are stored."""
        for path in paths:
            value = None
            if path is not None:
                value = expr.equality_key(body, path)
                if value is None:
                    reason = "it is missing, or no text, number or boolean"
                    look.tell("the runs that wait for it", f"async.{path}", expr.MismatchKind.MISSING, reason)
                    continue
                if self._mismatches.due((event.env, event.name, path), now):
                    await self._look_at_lookalikes(event, body, path, now, look)
            after: tuple[RunId, StepId] | None = None
            while True:
                page = await self._store.waits_for(event.env, event.name, path, value, after, CHUNK)
                for wait in page:
                    if await self._fits(wait, body, now, look) and await self._concerns(wait, event):
                        msg = message.EventMatched(wait.step, event.body, event.internal_id)
                        self._turns.post(wait.run, Envelope(msg, done=pending.expect()))
                if len(page) < CHUNK:
                    break
                after = (page[-1].run, page[-1].step)
                await pending.wait()

    async def _look_at_lookalikes(
        self, event: Event, body: dict[str, Any], path: str, now: Instant, look: Look
    ) -> None:
        """Ask the waits for what reads the same in another type, which the index keeps from this event."""
        for value in expr.lookalike_keys(body, path):
            for wait in await self._store.waits_for(event.env, event.name, path, value, None, REASONS):
                await self._fits(wait, body, now, look)

    async def _concerns(self, wait: Wait, event: Event) -> bool:
        """A run is not cancelled by the event that started it, nor by one that came before."""
        if not wait.cancels:
            return event.received_at >= wait.since
        run = await self._turns.run(wait.run)
        return run is not None and event.received_at >= run.created_at and event.key not in run.event_keys

    async def _fits(self, wait: Wait, candidate: dict[str, Any], now: Instant, look: Look) -> bool:
        if wait.expression is None:
            return True
        variables: dict[str, Any] = {"async": candidate}
        if reads(wait.expression, "event"):
            run = await self._turns.run(wait.run)
            if run is None:
                return False
            (text,) = await self._turns.texts(run.events[:1])
            variables["event"] = read_body(text)
        if holds(wait.expression, variables, now):
            return True
        look.into(f"step {wait.step} of run {wait.run}", wait.expression, variables)
        return False


class _Begun(NamedTuple):
    """A run that is about to be created, what is taken with it, and how to begin again if somebody else has that."""

    plan: Plan
    unique: tuple[Unique, ...]
    again: Callable[[], Awaitable[_Begun | None]] | None


def _run_id(event: Event, function: Function) -> RunId:
    return RunId(derived_ulid(event.received_at, event.key, function.slug))


def shared_limits(function: Function, body: dict[str, Any], now: Instant) -> dict[str, Any]:
    """What a run that this event starts counts for, as members of its `Beginning`."""
    return {
        "limits": limits_of(function, body, now) if function.concurrency else (),
        "priority_s": priority_of(function, body, now) if function.priority else 0,
        "holds": holds_of(function, body, now) if function.run_concurrency else (),
        "start_within_ms": function.start_within_ms if function.batch is None else None,
        "finish_within_ms": function.finish_within_ms,
        "cancel_grace_ms": function.cancel_grace_ms,
    }


def cancel_listeners(function: Function, now: Instant) -> tuple[CancelListener, ...]:
    """The events that cancel a run of the function that begins now."""
    return tuple(
        CancelListener(
            step=StepId(f"cancel:{number}"),
            event=one.event,
            expression=one.expression,
            until=now + (one.timeout_ms if one.timeout_ms is not None else _CANCEL_MS),
        )
        for number, one in enumerate(function.cancel_on)
    )


class _Pending:
    """Counts what is still to be made durable."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._gate: Gate | None = None
        self.count = 0

    def expect(self) -> Callable[[], None]:
        """Count one thing; call the result when it is durable."""
        self.count += 1
        return self._one_less

    def add(self, task: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine beside the others and count it until it is over."""
        self.count += 1
        self._world.spawn(self._run(task))

    async def wait(self) -> None:
        if self.count:
            self._gate = self._world.gate()
            await self._gate.passed()
            self._gate = None

    async def _run(self, task: Coroutine[Any, Any, object]) -> None:
        await task
        self._one_less()

    def _one_less(self) -> None:
        self.count -= 1
        if not self.count and self._gate is not None:
            self._gate.open()
