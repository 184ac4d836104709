"""A mailbox for every run: messages that wait together are decided and committed together.

    post ──▶ mailbox ──▶ decide, one after the other ──▶ one commit ──▶ perform what it made
                 ▲                                            │
                 └────── refused: somebody moved the run ─────┘   load it again, decide again

Runs are kept folded within bounds (`folded.py`). What a node believes of a run may be out of date; every commit is
conditional on the run's sequence number and on the claims it relies on, so belief is never harmful, only slow.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from stepwell.engine import expr
from stepwell.engine.decide import DEFAULT_POLICY, Decision, Policy, decide
from stepwell.engine.flow import slots_of
from stepwell.engine.rerun import edited_request
from stepwell.engine.run import Run, apply, fold
from stepwell.model import effect
from stepwell.model.event import INVOKED, Event, read_body
from stepwell.model.ids import EventKey, JobId, RunId, StepId, derived_ulid
from stepwell.model.job import Claim, Job, JobKind, Slot, Wait, route_of
from stepwell.model.message import OffloadEnded, Replied, Reported
from stepwell.model.op import Offload
from stepwell.model.payload import Blob, Payload, canonical, decode
from stepwell.model.task import TASK_EVENT, read_request
from stepwell.node.endings import end_events
from stepwell.node.folded import Folded
from stepwell.node.hooks import HOOK_EVENT, hook_event
from stepwell.node.large import interned, stored
from stepwell.node.patience import patiently
from stepwell.node.tally import Tally
from stepwell.node.telling import Telling
from stepwell.store.base import (
    ClaimLost,
    Committed,
    Duplicate,
    RunMoved,
    RunWrite,
    StoreFull,
    StoreUnavailable,
    Transition,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from stepwell.model.dispatch import Gateway, Performer
    from stepwell.model.effect import Effect
    from stepwell.model.ids import Instant
    from stepwell.model.journal import Entry, InputEdited
    from stepwell.model.message import Message
    from stepwell.node.clock import World
    from stepwell.node.registry import Registry
    from stepwell.node.routes import Routes
    from stepwell.store.base import Store

log = logging.getLogger("stepwell.node")

CACHED_RUNS = 10_000
_CALL, _OFFLOAD, _HOLD = JobKind.CALL, JobKind.OFFLOAD, JobKind.HOLD  # looked up once, as it takes as long as a call
_LIMITED = (_CALL, _OFFLOAD, _HOLD)
_HINTS = frozenset({effect.Acknowledge, effect.Deliver, effect.DeliverRetry, effect.StopCall, effect.StopOffload})


class Verdict(Enum):
    """What became of a report that somebody waits to hear about."""

    TAKEN = "taken"  # it is recorded, durably
    STALE = "stale"  # nobody waits for that call any more
    FULL = "full"  # it made the run fail: its state is larger than runs may have
    BROKEN = "broken"  # a bug kept us from deciding; it may be reported again


class Envelope(msgspec.Struct):
    """A message on its way to a run; without one, that another node may have moved the run."""

    message: Message | None
    claim: Claim | None = None  # of the call that it answers, or of the job that it is the doing of
    ends: bool = False  # the job is done once the message is taken in, whatever it changed
    done: Callable[[], None] | None = None  # called once that is durable, or proved to be of no use
    again: Callable[[], None] | None = None  # called instead of ending the job when nothing came of it
    verdict: Callable[[Verdict], None] | None = None  # of a report: told what became of it, once that is durable


class Plan(msgspec.Struct):
    """What a turn is about to commit."""

    run: Run
    before: int
    entries: list[Entry] = []
    effects: list[Effect] = []
    holds: dict[JobId, Claim] = {}
    ends: dict[JobId, Claim] = {}
    jobs: dict[JobId, Job] = {}
    drop_jobs: list[JobId] = []
    waits: dict[tuple[RunId, StepId], Wait] = {}
    drop_waits: list[tuple[RunId, StepId]] = []
    drop_all: bool = False
    events: list[Event] = []
    blobs: dict[Blob, bytes] = {}
    again: list[Callable[[], None]] = []
    verdicts: list[tuple[Callable[[Verdict], None], Verdict]] = []
    kept: list[JobId] = []  # calls for which a place at a worker is kept

    def transition(self) -> Transition | None:
        """None when there is nothing to store."""
        if not (self.entries or self.holds or self.ends or self.jobs or self.drop_jobs or self.drop_waits):
            return None
        run, holds = self.run, self.holds
        return Transition(
            run=RunWrite(run.row(), self.before, tuple(self.entries)) if self.entries else None,
            holds=tuple([claim for job, claim in holds.items() if job not in self.ends]) if holds else (),
            ends=tuple(self.ends.values()),
            jobs=tuple(self.jobs.values()),
            drop_jobs=tuple(self.drop_jobs),
            waits=tuple(self.waits.values()),
            drop_waits=tuple(self.drop_waits),
            drop_all_of=run.id if self.drop_all else None,
            events=tuple(self.events),
            blobs=tuple(self.blobs.items()),
        )


PerformJob: TypeAlias = "Callable[[Job, Run | None, Sequence[Event]], None]"


class Turns:
    """The mailboxes of a node, and the runs it keeps folded."""

    def __init__(
        self,
        *,
        node: str,
        store: Store,
        world: World,
        registry: Registry,
        performer: Performer,
        gateway: Gateway | None,
        perform_job: PerformJob,
        alarm: Callable[[Instant], None],
        policy: Policy = DEFAULT_POLICY,
        cached_runs: int = CACHED_RUNS,
        routes: Routes | None = None,
        may_call: Callable[[], bool] = lambda: True,
    ) -> None:
        self._routes = routes
        self._may_call = may_call  # whether calls that are made now are for this node to make
        self._node = node
        self._store = store
        self._world = world
        self._registry = registry
        self._performer = performer
        self._gateway = gateway
        self._perform_job = perform_job
        self._alarm = alarm
        self.policy = policy
        self.telling = Telling(world, performer, self.texts)
        self._folded = Folded(cached_runs)
        self._boxes: dict[RunId, list[Envelope]] = {}
        self.watch: Callable[[Run, Sequence[Entry]], None] | None = None  # told of each commit of a run
        self.app_here: Callable[[str], bool] | None = None  # by route; None where every node can call every app
        self.on_task_end: Callable[[Run], None] | None = None  # told of each task that ended, durably
        self.tally = Tally()
        self.refused = 0  # commits that came too late; each was decided again or proved unneeded
        self.dropped = 0  # answers whose claim somebody else has by now

    @property
    def busy(self) -> int:
        """Runs that have messages which are not committed yet."""
        return len(self._boxes)

    # taking messages in

    def post(self, run: RunId, envelope: Envelope) -> None:
        """Put a message into the mailbox of a run."""
        box = self._boxes.get(run)
        if box is not None:
            box.append(envelope)
            return
        self._boxes[run] = [envelope]
        self._world.spawn(self._empty(run))

    def moved(self, run: RunId) -> None:
        """Another node committed something of a run: whom this node calls for it is told."""
        if self.telling.has(run):
            self.post(run, Envelope(None))

    def anything_moved(self) -> None:
        """Any run may have moved."""
        for run in self.telling.runs():
            self.post(run, Envelope(None))

    def deliver(self, run: RunId, job: JobId, fence: int, msg: Message, /) -> None:
        """Take what a performer has to say about a call. See `stepwell.model.dispatch.Deliver`."""
        self.post(run, Envelope(msg, Claim(job, fence), ends=type(msg) is OffloadEnded))

    async def _empty(self, run_id: RunId) -> None:
        while box := self._boxes[run_id]:
            self._boxes[run_id] = []
            try:
                told = [one for one in box if one.message is not None]
                if len(told) < len(box):
                    await patiently(self._world, lambda: self._catch_up(run_id))
                if told:
                    await self._turn(run_id, told)
            except Exception:
                # Nothing was stored and the claims are still ours: the messages are not lost but a bug keeps us
                # from deciding on them. The jobs stay visible to the auditor.
                log.exception("run %s: could not decide on %s", run_id, [type(one.message).__name__ for one in box])
                self._folded.forget(run_id)
                for envelope in box:
                    if envelope.verdict is not None:
                        envelope.verdict(Verdict.BROKEN)
        del self._boxes[run_id]

    async def _catch_up(self, run_id: RunId) -> None:
        """Learn what other nodes did to a run, and tell those whom this node calls for it."""
        run = self._folded.get(run_id)
        stored = await self._store.load_run(run_id, run.seq if run is not None else 0)
        if stored is not None:
            if run is None:
                run = fold(stored.row, stored.entries)
            else:
                for entry in stored.entries:
                    apply(run, entry)
            self.remember(run)
        else:
            run = None
        for call, reason in self.telling.catch_up(run_id, run):
            if run is None or call not in run.calls:
                self.telling.over(call)
            self._performer.stop(call, reason)

    async def _turn(self, run_id: RunId, batch: list[Envelope]) -> None:
        pause_ms = 10
        while batch:
            plan: Plan | None = None
            try:
                known = self._folded.get(run_id)
                run = known if known is not None else await self.run(run_id)
                if run is None:
                    await self._give_up(batch)
                    return
                plan = Plan(run, run.seq)
                try:
                    await self._decide_on(plan, run, batch)
                except BaseException:
                    self.let_go(plan)
                    raise
                if not plan.entries and run is known and not await self._is_current(run):
                    continue  # what changes nothing in a run that we remember may do so in the run as it is now
                transition = plan.transition()
                outcome = await self._store.commit(transition) if transition is not None else None
            except (StoreFull, StoreUnavailable):
                if plan is not None:
                    self.let_go(plan)
                self._folded.forget(run_id)
                await self._world.sleep(pause_ms)
                pause_ms = min(pause_ms * 2, 1000)
                continue
            match outcome:
                case Committed() | None:
                    self.perform(plan, outcome.parked if outcome is not None else ())
                    for envelope in batch:
                        if envelope.done is not None:
                            envelope.done()
                    for again in plan.again:
                        again()
                    for tell, verdict in plan.verdicts:
                        tell(verdict)
                    return
                case RunMoved():
                    self.refused += 1
                    self.let_go(plan)
                    self._folded.forget(run_id)
                case ClaimLost(job):
                    self.refused += 1
                    self.let_go(plan)
                    self._folded.forget(run_id)
                    batch = self._without(batch, plan.ends.get(job) or plan.holds[job])
                case Duplicate():
                    raise AssertionError("a turn takes no unique keys")

    def _without(self, batch: list[Envelope], claim: Claim) -> list[Envelope]:
        """The messages that do not rely on a claim that is lost. A later claim of the same job may be ours again."""
        left = []
        for envelope in batch:
            if envelope.claim != claim:
                left.append(envelope)
                continue
            self.dropped += 1
            if envelope.verdict is not None:
                envelope.verdict(Verdict.STALE)  # the claim is what the report says; the call goes on
                continue
            self.telling.over(claim.job)
            self._performer.stop(claim.job, "stale")
            if envelope.done is not None:
                envelope.done()
        return left

    async def _give_up(self, batch: list[Envelope]) -> None:
        """The run does not exist (any more)."""
        for envelope in batch:
            if envelope.verdict is not None:
                envelope.verdict(Verdict.STALE)
            elif envelope.claim is not None:
                self.telling.over(envelope.claim.job)
                self._performer.stop(envelope.claim.job, "stale")
                await self._store.commit(Transition(ends=(envelope.claim,)))
            if envelope.done is not None:
                envelope.done()

    # runs in memory

    async def run(self, run_id: RunId, *, fresh: bool = False) -> Run | None:
        """The run as this node knows it; with `fresh`, as the store has it now."""
        run = self._folded.get(run_id)
        if run is not None and not fresh:
            return run
        stored = await self._store.load_run(run_id, run.seq if run is not None else 0)
        if stored is None:
            return None
        if run is not None and self._folded.get(run_id) is run and run_id not in self._boxes:
            for entry in stored.entries:
                apply(run, entry)
        else:
            if run is not None:
                stored = await self._store.load_run(run_id)
                if stored is None:
                    return None
            run = fold(stored.row, stored.entries)
            if run_id in self._boxes and fresh:
                return run  # a turn is going on with another copy
        self.remember(run)
        return run

    def remembered(self, run_id: RunId) -> Run | None:
        """The run if it is at hand, perhaps out of date."""
        return self._folded.get(run_id)

    async def _is_current(self, run: Run) -> bool:
        """Whether a run from the cache is as the store has it; if not, it is forgotten.

        A commit with entries asks the same by itself. A message that seems to change nothing is dropped without
        one, and must not be dropped because of what another node did since.
        """
        stored = await self._store.load_run(run.id, run.seq)
        if stored is not None and stored.row.seq == run.seq:
            return True
        self._folded.forget(run.id)
        return False

    def remember(self, run: Run) -> None:
        """Keep a run that is known to be as the store has it."""
        if run.finished:
            self._folded.forget(run.id)
            return
        self._folded.keep(run)

    async def texts(self, payloads: Iterable[Payload], known: dict[Blob, bytes] | None = None) -> list[bytes]:
        """The texts of payloads, in order."""
        wanted = list(payloads)
        missing = [one for one in wanted if isinstance(one, Blob) and (known is None or one not in known)]
        found = dict(known or {})
        if missing:
            found.update(zip(missing, await self._store.read_blobs(missing), strict=True))
        return [found[one] if isinstance(one, Blob) else one for one in wanted]

    # deciding

    async def _decide_on(self, plan: Plan, run: Run, batch: list[Envelope]) -> None:
        now = self._world.now()
        live = self._registry.is_live(run.env, run.service)
        for envelope in batch:
            claim = envelope.claim
            assert envelope.message is not None
            if envelope.verdict is not None and claim is not None and plan.holds.get(claim.job, claim) != claim:
                plan.verdicts.append((envelope.verdict, Verdict.STALE))  # two dispatches of one call: not both are it
                continue
            msg = envelope.message if run.edit is None else await self._edited(run, run.edit, envelope.message)
            msg = interned(msg, plan.blobs)
            decision = decide(run, msg, now, live=live, policy=self.policy)
            taken = False
            if envelope.verdict is not None:
                taken = any(isinstance(one, effect.Acknowledge) for one in decision.effects)
                refused = Verdict.FULL if decision.entries else Verdict.STALE
                plan.verdicts.append((envelope.verdict, Verdict.TAKEN if taken else refused))
            if claim is not None:
                if envelope.again is not None and not decision.entries and not run.finished:
                    plan.again.append(envelope.again)
                elif envelope.ends:
                    plan.ends.setdefault(claim.job, claim)
                elif decision.entries or taken:
                    plan.holds.setdefault(claim.job, claim)  # the oldest: no late message passes by a newer claim
            await self.add(plan, decision, now)

    async def _edited(self, run: Run, edit: InputEdited, msg: Message) -> Message:
        """The message with the request of the edited step as somebody wants it."""
        if not isinstance(msg, Reported | Replied):
            return msg
        ops = list(msg.ops)
        for number, one in enumerate(ops):
            if isinstance(one, Offload) and one.step == edit.step:
                request, text = await self.texts((one.request, edit.input))
                ops[number] = edited_request(one, request, text)
        return msgspec.structs.replace(msg, ops=tuple(ops))

    async def add(self, plan: Plan, decision: Decision, now: Instant) -> None:
        """Turn a decision into rows of the plan."""
        plan.entries.extend(decision.entries)
        plan.effects.extend(decision.effects)
        run = plan.run
        for one in decision.effects:
            if type(one) in _HINTS:
                continue  # given once the commit is through
            match one:
                case effect.CallWorker():
                    self._add_job(plan, one.call, _CALL, one.due, now, one.target, one.attempt, live=one.live)
                case effect.EndCall():
                    claim = plan.holds.get(one.call)
                    if claim is not None:
                        plan.ends[one.call] = claim
                    else:
                        plan.drop_jobs.append(one.call)
                case effect.HoldRun():
                    self._add_job(plan, one.job, _HOLD, one.due, now, None)
                case effect.SetTimer():
                    self._add_job(plan, one.timer, JobKind.TIMER, one.due, now, one.step)
                case effect.DropJob():
                    if plan.jobs.pop(one.job, None) is None:
                        plan.drop_jobs.append(one.job)
                case effect.AddWait():
                    await self._add_wait(plan, one, now)
                case effect.DropWait():
                    if plan.waits.pop((run.id, one.step), None) is None:
                        plan.drop_waits.append((run.id, one.step))
                case effect.SendInvoke():
                    await self._add_invoke(plan, one, now)
                case effect.StartOffload():
                    sealed = self._gateway.seal(run.id, one.step, one.sealed) if self._gateway is not None else None
                    self._add_job(plan, one.job, _OFFLOAD, one.due, now, one.step, one.attempt, sealed=sealed)
                case effect.WakeParent():
                    plan.jobs[one.job] = Job(
                        id=one.job,
                        kind=JobKind.WAKE,
                        due=now,
                        env=run.env,
                        shard=run.shard,
                        run=one.run,
                        step=one.step,
                        output=one.output,
                        error=one.error,
                        owner=self._node,
                        fence=1,
                    )
                case effect.AnnounceEnd():
                    await self._add_end(plan, now)

    def _add_job(
        self,
        plan: Plan,
        job_id: JobId,
        kind: JobKind,
        due: Instant,
        now: Instant,
        step: StepId | None,
        attempt: int = 0,
        *,
        live: bool = False,
        since: Instant = 0,
        sealed: bytes | None = None,
    ) -> None:
        ours = due <= now
        route: str | None = None
        slots: tuple[Slot, ...] = ()
        run = plan.run
        if kind is _CALL or kind is _OFFLOAD:
            ours = ours and self._may_call()
        limits = run.holds if kind is _HOLD else run.limits
        if limits and kind in _LIMITED:
            function = self._registry.function(run.env, run.function)
            if function is not None:
                present = function.run_concurrency if kind is _HOLD else function.concurrency
                slots = slots_of(limits, present)
        if kind is _CALL and self._routes is not None and self._registry.is_connected(run.env, run.service):
            route = route_of(run.env, run.function)
            ours = ours and self._routes.keep(job_id, run.env, run.service, run.function)
            if ours:
                plan.kept.append(job_id)
        elif kind is _CALL and self.app_here is not None and self._registry.is_app(run.env, run.service):
            route = route_of(run.env, run.function)
            ours = ours and self.app_here(route)
        plan.jobs[job_id] = Job(
            id=job_id,
            kind=kind,
            due=due,
            env=run.env,
            shard=run.shard,
            run=run.id,
            step=step,
            attempt=attempt,
            live=live,
            since=since,
            route=route,
            slots=slots,
            rank=run.created_at - run.priority_s * 1000 if slots else 0,
            later=bool(slots) and due > now,
            sealed=sealed,
            owner=self._node if ours else None,
            fence=1 if ours else 0,
        )

    async def _add_wait(self, plan: Plan, one: effect.AddWait, now: Instant) -> None:
        run = plan.run
        path = value = None
        if one.expression is not None:
            (text,) = await self.texts(run.events[:1], plan.blobs)
            key = _index_key(one.expression, text)
            if key is not None:
                path, value = key
        plan.waits[run.id, one.step] = Wait(
            run=run.id,
            step=one.step,
            event=one.event,
            expression=one.expression,
            path=path,
            value=value,
            until=one.until,
            since=now if one.since is None else one.since,
            cancels=one.cancels,
            env=run.env,
            shard=run.shard,
        )
        if one.look is not None and one.since is not None:
            self._add_job(plan, one.look, JobKind.LOOK, now, now, one.step, since=one.since)

    async def _add_invoke(self, plan: Plan, one: effect.SendInvoke, now: Instant) -> None:
        run = plan.run
        data_text, user_text = await self.texts((one.data, one.user), plan.blobs)
        data = decode(data_text)
        if not isinstance(data, dict):
            data = {}
        data["_inngest"] = {
            "fn_id": one.function,
            "correlation_id": f"{run.id}.{one.step}",
            "source_fn_id": run.function,
            "expire": one.until,
            "name": one.name,
            "depth": run.depth + 1,
            "root": run.root or run.id,
        }
        whole = {"name": INVOKED, "id": one.event_id, "ts": now, "data": data, "user": decode(user_text) or {}}
        if one.v:
            whole["v"] = one.v
        self._add_event(plan, INVOKED, one.event_id, canonical(whole), EventKey(one.event_id), now)

    async def _add_end(self, plan: Plan, now: Instant) -> None:
        run = plan.run
        plan.drop_all = True
        plan.drop_jobs.clear()
        plan.drop_waits.clear()
        plan.waits.clear()
        plan.jobs = {job_id: job for job_id, job in plan.jobs.items() if job.run != run.id}
        if run.event_name == TASK_EVENT:
            (asked,) = await self.texts(run.events, plan.blobs)
            if b'"webhook":' in asked and read_request(asked, run.function).webhook:
                whole = hook_event(run.id, now)
                self._add_event(plan, HOOK_EVENT, run.id, whole, EventKey(derived_ulid(now, run.id, HOOK_EVENT)), now)
            return
        events = await self.texts(run.events, plan.blobs)
        outcome = run.error if run.error is not None else run.output
        text = (await self.texts((outcome,), plan.blobs))[0] if outcome is not None else None
        for name, event_id, whole in end_events(run, events, text, now):
            key = EventKey(derived_ulid(now, run.id, name))
            self._add_event(plan, name, event_id, whole, key, now)

    def _add_event(self, plan: Plan, name: str, event_id: str, whole: bytes, key: EventKey, now: Instant) -> None:
        event = Event(
            key=key,
            internal_id=key,
            id=event_id,
            name=name,
            ts=now,
            received_at=now,
            body=stored(whole, plan.blobs),
            env=plan.run.env,
            source="server",
        )
        plan.events.append(event)
        job = JobId(f"{key}.match")
        plan.jobs[job] = Job(
            id=job,
            kind=JobKind.MATCH,
            due=now,
            env=event.env,
            shard=plan.run.shard,
            keys=(key,),
            owner=self._node,
            fence=1,
        )

    def let_go(self, plan: Plan) -> None:
        """Keep no more places for the calls of a plan; of one that was stored, for those that it dropped again."""
        if self._routes is not None:
            for job in plan.kept:
                self._routes.let_go(job)
            plan.kept.clear()

    # after the commit

    def perform(self, plan: Plan, parked: Collection[JobId] = ()) -> None:
        """Carry out what is now durable, but for the jobs that are parked."""
        run, performer = plan.run, self._performer
        if plan.kept:
            plan.kept = [job for job in plan.kept if job not in plan.jobs]
            self.let_go(plan)
        if plan.entries:
            self.tally.add(plan.entries)
            if run.finished and log.isEnabledFor(logging.DEBUG):
                about = {"run": run.id, "function": run.function}
                log.debug("run %s of %s ended as %s", run.id, run.function, run.status.value, extra=about)
            if self.watch is not None:
                self.watch(run, plan.entries)
        if self._gateway is not None:
            for one in plan.effects:
                if type(one) is effect.StartOffload and one.sealed is not None:
                    self._gateway.keep(run.id, one.step, one.sealed)
        for job in plan.jobs.values():
            if job.id in parked:
                if self._routes is not None:
                    self._routes.let_go(job.id)
            elif job.owner is not None:
                self._perform_job(job, run, plan.events)
            else:
                if job.route is not None and self._routes is not None:
                    self._routes.left(job, run.service)
                self._alarm(job.due)
        for one in plan.effects:
            match one:
                case effect.CallWorker():
                    pass  # its job was performed
                case effect.EndCall():
                    self.telling.over(one.call)
                    performer.ended(one.call)
                case effect.Acknowledge() | effect.Deliver() | effect.DeliverRetry():
                    self.telling.tell(one, run, plan.entries)
                case effect.StopOffload():
                    if self._gateway is not None:
                        self._gateway.stop(run.id, one.step)
                case effect.AnnounceEnd() if run.event_name == TASK_EVENT and self.on_task_end is not None:
                    self.on_task_end(run)
                case effect.StopCall():
                    if one.call not in run.calls:
                        self.telling.over(one.call)
                        performer.stop(one.call, one.reason)
                    elif self.telling.stopping(one.call):
                        performer.stop(one.call, one.reason)
                case _:
                    pass
        self.remember(run)


def _index_key(expression: str, event: bytes) -> tuple[str, str] | None:
    try:
        return expr.compile(expression).equality(read_body(event))
    except (expr.ExpressionError, expr.EvaluationError):
        return None
