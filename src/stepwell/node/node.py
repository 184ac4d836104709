"""One server process: what it accepts, what it does about jobs, and how it proves that it is alive.

A job that is due when it is made by a node that has the run at hand is born claimed by that node and done at
once; nothing on the path of a step is searched for. Other jobs are found when their time comes: the node sleeps
until the earliest, claims what is due, and sleeps again. Recovery is no special act: the jobs of a node whose
lease ran out become claimable, and whoever claims them goes on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stepwell.engine.decide import DEFAULT_POLICY, Policy
from stepwell.model import message
from stepwell.model.errors import Conflict, NotFound
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import IdSource, JobId, RunId
from stepwell.model.job import Claim, Job, JobKind
from stepwell.model.payload import canonical
from stepwell.node.calls import dispatch_of
from stepwell.node.clock import StoreTime
from stepwell.node.matching import Matching
from stepwell.node.patience import patiently
from stepwell.node.registry import Registry, check_expressions, merged
from stepwell.node.schedules import Schedules
from stepwell.node.turns import Envelope, Turns, Verdict
from stepwell.store.base import Node as NodeRow
from stepwell.store.base import StoreFull, StoreUnavailable, Transition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.engine.run import Run
    from stepwell.model.dispatch import Performer
    from stepwell.model.event import Event
    from stepwell.model.function import Service
    from stepwell.model.ids import Instant
    from stepwell.model.job import RunStatus
    from stepwell.model.message import Message
    from stepwell.model.op import Op
    from stepwell.model.payload import Blob
    from stepwell.node.clock import Alarm, World
    from stepwell.store.base import Store

log = logging.getLogger("stepwell.node")

LEASE_MS = 10_000
CLAIM_LIMIT = 500
_FAR = 1 << 62


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How a node behaves. `search_ms` is how often it looks for jobs that other nodes may have left; None when it
    is alone on its store."""

    policy: Policy = field(default_factory=lambda: DEFAULT_POLICY)
    lease_ms: int = LEASE_MS
    search_ms: int | None = None
    cached_runs: int = 10_000


class Node:
    """Accepts events and registrations, drives runs, and keeps time."""

    def __init__(
        self,
        name: str,
        *,
        epoch: int,
        store: Store,
        world: World,
        performer: Performer,
        ids: IdSource | None = None,
        settings: NodeSettings | None = None,
    ) -> None:
        self.name = name
        self.store = store
        self.world = world = StoreTime(world)
        self.settings = settings or NodeSettings()
        self.registry = Registry()
        self._epoch = epoch
        self._performer = performer
        self._ids = ids or IdSource()
        self._alarm_at: Instant = _FAR
        self._alarm: Alarm | None = None
        self._claiming = False
        self._claim_again = False
        self.draining = False
        self.stopped = False
        self.turns = Turns(
            node=name,
            store=store,
            world=world,
            registry=self.registry,
            performer=performer,
            perform_job=self._perform_job,
            alarm=self._wake_at,
            policy=self.settings.policy,
            cached_runs=self.settings.cached_runs,
        )
        self._shared = self.settings.search_ms is not None
        self.matching = Matching(
            node=name, store=store, world=world, registry=self.registry, turns=self.turns, shared=self._shared
        )
        self.schedules = Schedules(
            node=name,
            store=store,
            world=world,
            registry=self.registry,
            perform_job=self._perform_job,
            alarm=self._wake_at,
            shared=self._shared,
        )

    # life

    async def start(self) -> None:
        """Take part: prove life, know the services, free what a lost node left, begin to work."""
        await self.world.learn(self.store)
        self.registry.load(await self.store.services())
        await self.store.heartbeat(self._row())
        await self.store.release_lost(self.world.now())
        await self.schedules.mend()
        self.world.spawn(self._beat())
        self._wake_at(self.world.now())

    def stop(self) -> None:
        """Claim nothing more. What is under way may still be committed."""
        self.stopped = True
        if self._alarm is not None:
            self._alarm.cancel()

    def _row(self) -> NodeRow:
        return NodeRow(self.name, self._epoch, self.world.now() + self.settings.lease_ms)

    async def _beat(self) -> None:
        while not self.stopped:
            await self.world.sleep(self.settings.lease_ms // 3)
            try:
                await self.world.learn(self.store)
                if not await self.store.heartbeat(self._row()):
                    log.error("node %s was given up by the others; it stops taking part", self.name)
                    self.stop()
                    return
                if await self.store.release_lost(self.world.now()):
                    self._wake_at(self.world.now())
                if self._shared:
                    await self.registry.refresh(self.store, self.world.now())
                await self.schedules.mend()
            except (StoreFull, StoreUnavailable) as err:
                log.warning("node %s could not renew its lease: %s", self.name, err)

    # what surfaces ask for

    def new_key(self) -> str:
        """A fresh ULID of this moment."""
        return self._ids.ulid(self.world.now())

    async def accept(self, env: str, events: Sequence[Event], blobs: dict[Blob, bytes] | None = None) -> None:
        """Make events durable and begin to match them. Raises `StoreFull` or `StoreUnavailable`."""
        transition = Transition(blobs=tuple((blobs or {}).items()))
        await self.matching.accept(env, events, transition, JobId(f"{self.new_key()}.match"))

    async def register(self, service: Service) -> bool:
        """Store a service and its functions. Returns whether anything changed.

        Raises:
            InvalidInput: An expression of a trigger or of a cancelling event cannot be used; names all that cannot.
        """
        check_expressions(service)
        stored, modified = merged(service, self.registry.service(service.env, service.name), self.world.now())
        if modified:
            await self.store.put_service(stored)
        self.registry.put(stored)
        await self.schedules.mend()
        return modified

    async def forget(self, env: str, name: str) -> bool:
        """Remove a service. Its runs go on as long as something answers for it."""
        self.registry.remove(env, name)
        return await self.store.remove_service(env, name)

    async def cancel(self, run_id: RunId, reason: str, env: str = DEV_ENV) -> None:
        """Cancel a run; on return it is cancelled, durably.

        Raises:
            NotFound: No such run.
            Conflict: It had ended before.
        """
        row = await self.store.run_row(run_id)
        if row is None or row.env != env:
            raise NotFound(f"no run {run_id}")
        if row.status.final:
            raise Conflict(f"run {run_id} has already ended as {row.status.value}")
        gate = self.world.gate()
        self.turns.post(run_id, Envelope(message.CancelAsked(reason), done=gate.open))
        await gate.passed()
        ended = await self.store.run_row(run_id)
        status: RunStatus | None = ended.status if ended is not None else None
        if status is not None and status.value != "CANCELLED":
            raise Conflict(f"run {run_id} ended as {status.value} before it could be cancelled")

    async def report(self, run_id: RunId, claim: Claim, ops: tuple[Op, ...], env: str = DEV_ENV) -> Verdict:
        """Record what a call that is open yet reports of its steps, whichever node made the call.

        Args:
            claim: The call, and which dispatch of it reports.
            ops: Finished steps, or the end of the run.

        Raises:
            NotFound: No such run.
        """
        run = self.turns.remembered(run_id)
        if run is None:
            row = await self.store.run_row(run_id)
            if row is None or row.env != env:
                raise NotFound(f"no run {run_id}")
            if row.status.final:
                return Verdict.STALE
        elif run.env != env:
            raise NotFound(f"no run {run_id}")
        if not claim.job.startswith(f"{run_id}."):
            return Verdict.STALE  # a call of another run, which must not suffer
        gate, told = self.world.gate(), list[Verdict]()

        def tell(verdict: Verdict) -> None:
            told.append(verdict)
            gate.open()

        self.turns.post(run_id, Envelope(message.Reported(claim.job, ops), claim, verdict=tell))
        await gate.passed()
        return told[0]

    def deliver(self, run: RunId, job: JobId, fence: int, msg: Message, /) -> None:
        """What performers call with what they have to say."""
        self.turns.deliver(run, job, fence, msg)

    # jobs

    def _wake_at(self, at: Instant) -> None:
        """Look for due jobs at that time, if not before."""
        if self.stopped or at >= self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self.world.call_at(at, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm, self._alarm_at = None, _FAR
        if self._claiming:
            self._claim_again = True
        elif not self.stopped:
            self._claiming = True
            self.world.spawn(self._claim())

    async def _claim(self) -> None:
        soonest = self.world.now() + 1000  # after an error
        try:
            soonest = await self._claim_all()
        except (StoreFull, StoreUnavailable) as err:
            log.warning("node %s cannot look for due jobs: %s", self.name, err)
        finally:
            self._claiming = False
        self._wake_at(self.world.now() if self._claim_again else soonest)

    async def _claim_all(self) -> Instant:
        """Claim and do what is due. Returns when to look again."""
        while not self.stopped:
            self._claim_again = False
            now = self.world.now()
            jobs = await self.store.claim_due(self._row(), now, CLAIM_LIMIT)
            for job in jobs:
                self._perform_job(job, None, ())
            if len(jobs) == CLAIM_LIMIT or self._claim_again:
                continue
            due = await self.store.next_due()
            search = self.settings.search_ms
            return max(now + 1, min(_FAR if due is None else due, _FAR if search is None else now + search))
        return _FAR

    def _perform_job(self, job: Job, run: Run | None, events: Sequence[Event]) -> None:
        """Do a job that is ours. `run` and `events` are what the caller has at hand of it."""
        claim = Claim(job.id, job.fence)
        match job.kind:
            case JobKind.CALL:
                self._call(job, run, claim)
            case JobKind.TIMER:
                assert job.run is not None
                assert job.step is not None
                fired = message.TimerFired(job.step, job.id)
                self.turns.post(job.run, Envelope(fired, claim, ends=True))
            case JobKind.MATCH:
                known = [event for event in events if event.key in job.keys]
                self.world.spawn(self.matching.match(job, known or None))
            case JobKind.LOOK:
                self.world.spawn(self.matching.look_back(job))
            case JobKind.TICK:
                self.world.spawn(self.schedules.come(job))
            case JobKind.WAKE:
                assert job.run is not None
                assert job.step is not None
                ended = message.ChildEnded(job.step, job.output, job.error)
                self.turns.post(job.run, Envelope(ended, claim, ends=True))

    def _call(self, job: Job, run: Run | None, claim: Claim) -> None:
        assert job.run is not None
        if job.fence > 1:
            # Another node, or this one in an earlier life, may have made this call already. That attempt goes into
            # the journal before the next one is made.
            lost = message.CallLost(
                job.id,
                error=canonical({"name": "NodeLost", "message": "the server that made this call went away"}),
                free=True,
                code="node_lost",
            )
            self.turns.post(job.run, Envelope(lost, claim))
        elif (
            run is not None
            and all(isinstance(event, bytes) for event in run.events)
            and self.registry.function(run.env, run.function) is not None
        ):
            self._dispatch(run, job, tuple(event for event in run.events if isinstance(event, bytes)))
        else:
            self.world.spawn(patiently(self.world, lambda: self._load_and_dispatch(job)))

    async def _load_and_dispatch(self, job: Job) -> None:
        assert job.run is not None
        run = await self.turns.run(job.run, fresh=True)
        if run is None or job.id not in run.calls:
            await self.store.commit(Transition(ends=(Claim(job.id, job.fence),)))
            return
        events = tuple(await self.turns.texts(run.events))
        if self._shared and self.registry.function(run.env, run.function) is None:
            await self.registry.refresh(self.store, self.world.now())
        self._dispatch(run, job, events)

    def _dispatch(self, run: Run, job: Job, events: tuple[bytes, ...]) -> None:
        function = self.registry.function(run.env, run.function)
        if function is None:
            error = {"name": "FunctionNotFound", "message": f"no service serves {run.function!r} any more"}
            lost = message.CallLost(job.id, error=canonical(error), code="function_not_found")
            self.turns.post(run.id, Envelope(lost, Claim(job.id, job.fence)))
            return
        if job.live:
            self.turns.telling.called(job.id, run.news)
        self._performer.perform(dispatch_of(run, job, function, events, self.turns.texts))
