"""One server process: what it accepts, what it does about jobs, and how it proves that it is alive.

A job that is due when it is made by a node that has the run at hand is born claimed by that node and done at
once; nothing on the path of a step is searched for. Other jobs are found when their time comes: the node sleeps
until the earliest, claims what is due, and sleeps again. Recovery is no special act: the jobs of a node whose
lease ran out become claimable, and whoever claims them goes on.

Where several nodes share a store, each keeps a lease. A node that cannot prove its own makes no calls and claims
nothing, before others may take its jobs; once it reaches the store again it goes on with what is still its own. What
other nodes commit is heard as hints, and found by searching where a hint got lost.

Elsewhere: whose a call is that only some nodes can make (`routes.py`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from stepwell.engine.decide import DEFAULT_POLICY, Policy
from stepwell.model import message
from stepwell.model.errors import Conflict, NotFound
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import IdSource, JobId, RunId
from stepwell.model.job import Claim, Job, JobKind, route_of
from stepwell.model.payload import canonical
from stepwell.node.apps import Apps, package_of
from stepwell.node.calls import dispatch_of
from stepwell.node.clock import StoreTime
from stepwell.node.credentials import Credentials
from stepwell.node.errands import Errands
from stepwell.node.matching import REGISTRY_MS, Matching
from stepwell.node.patience import patiently
from stepwell.node.registry import Registry, check_expressions, merged
from stepwell.node.rerun import Rerun, Reruns
from stepwell.node.routes import Routes
from stepwell.node.schedules import Schedules
from stepwell.node.sessions import SESSION_ROUTES, Sessions, session_route
from stepwell.node.tasks import Tasks
from stepwell.node.turns import Envelope, Turns, Verdict
from stepwell.store.base import Committed, StoreFull, StoreUnavailable, Transition
from stepwell.store.base import Node as NodeRow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell.engine.rerun import Recorded
    from stepwell.engine.run import Run
    from stepwell.model.dispatch import Gateway, Performer, Reach
    from stepwell.model.event import Event
    from stepwell.model.function import Service
    from stepwell.model.ids import Instant
    from stepwell.model.job import RunStatus
    from stepwell.model.message import Message
    from stepwell.model.op import Op
    from stepwell.model.payload import Blob
    from stepwell.node.clock import Alarm, World
    from stepwell.node.watch import Watch
    from stepwell.store.base import Hint, Store, StoredRun

log = logging.getLogger("stepwell.node")

LEASE_MS = 10_000
CLAIM_LIMIT = 500
RENEW_AGAIN_MS = 250
"""How soon a node tries again when it could not renew its lease."""
SLOW_MS = 1_000
"""A store that takes so long to renew a lease was away."""
TELL_AGAIN_MS = 10_000
"""How often it is logged, at most, that the lease could not be renewed."""
JUST_LOST_MS = 60_000
"""A node whose lease ran out longer ago was lost before, and told then."""
JUST_REGISTERED_MS = 5_000
"""For how long after a service was stored there may be nodes that do not know it."""
FOLLOW_MS = 5_000
"""How often runs that somebody follows are read anew in case a hint got lost."""
TIDY_SESSIONS_MS = 30_000
LOOK_FOR_PACKAGES_MS = 2_000
"""How often it is looked which packages of apps have come, beside every change of what is registered."""
_FAR = 1 << 62


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How a node behaves. `search_ms` is how often it looks for jobs that other nodes may have left; None when it
    is alone on its store. A lease is not counted on for its last tenth."""

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
        gateway: Gateway | None = None,
        ids: IdSource | None = None,
        settings: NodeSettings | None = None,
        reach: Reach | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """`reach` are the workers that are connected to this node alone; on a store that it shares."""
        self.name = name
        self.store = store
        self.world = world = StoreTime(world)
        self.settings = settings or NodeSettings()
        self.registry = Registry()
        self.credentials = credentials or Credentials(store, None)
        self._epoch = epoch
        self._performer = performer
        self._ids = ids or IdSource()
        self._alarm_at: Instant = _FAR
        self._alarm: Alarm | None = None
        self._claiming = False
        self._claim_again = False
        self._proved_until = 0  # by the monotonic clock; nobody else has taken our jobs before that
        self._cut_off = False
        self._renewing = False
        self._tidied_at = 0
        self._has_package: Callable[[str], bool] | None = None
        self._apps_here: frozenset[str] = frozenset()  # routes
        self._apps_seen: tuple[int, Instant] = (-1, 0)  # the state of the registry that these are of, and when
        self._told_lost: set[tuple[str, int]] = set()
        self._held: list[Job] = []  # calls that were to be made while we could not prove our lease
        self.draining = False
        self.stopped = False
        self.shared = self.settings.search_ms is not None
        self.watch: Watch | None = None
        self._routes = Routes(reach) if self.shared and reach is not None else None
        self.turns = Turns(
            node=name,
            store=store,
            world=world,
            registry=self.registry,
            performer=performer,
            gateway=gateway,
            perform_job=self._perform_job,
            alarm=self._wake_at,
            policy=self.settings.policy,
            cached_runs=self.settings.cached_runs,
            routes=self._routes,
            may_call=self._may_call,
        )
        self.errands = Errands(turns=self.turns, world=world, gateway=gateway, hold=self._hold)
        self.matching = Matching(
            node=name,
            store=store,
            world=world,
            registry=self.registry,
            turns=self.turns,
            new_key=self.new_key,
            alarm=self._wake_at,
            shared=self.shared,
        )
        self.reruns = Reruns(store=store, world=world, registry=self.registry, turns=self.turns)
        self.sessions = Sessions(
            node=name,
            epoch=lambda: self._epoch,
            store=store,
            world=world,
            new_key=self.new_key,
            shared=self.shared,
        )
        self.turns.on_task_end = self.sessions.ended
        self.tasks = Tasks(
            store=store,
            world=world,
            registry=self.registry,
            turns=self.turns,
            sessions=self.sessions,
            new_key=self.new_key,
            register=self.register,
            shared=self.shared,
        )
        self.apps = Apps(
            store=store,
            world=world,
            registry=self.registry,
            register=self.register,
            forget=self.forget,
            shared=self.shared,
        )
        self.schedules = Schedules(
            node=name,
            store=store,
            world=world,
            registry=self.registry,
            perform_job=self._perform_job,
            alarm=self._wake_at,
            shared=self.shared,
        )

    # life

    async def start(self) -> None:
        """Take part: prove life, know the services, free what a lost node left, begin to work."""
        self.store.listen(self._hear)
        await self.world.learn(self.store)
        self.registry.load(await self.store.services())
        await self.credentials.refresh()
        await self._renew()
        await self.store.release_lost(self.world.now())
        await self.schedules.mend()
        await self.sessions.start(self.registry.envs_with_apps())
        self.world.spawn(self._beat())
        if self.shared:
            self.world.spawn(self._poll())
        self._wake_at(self.world.now())

    def drain(self) -> None:
        """Claim nothing more, and leave new calls to other nodes. What is under way may go on, and be committed."""
        self.draining = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm, self._alarm_at = None, _FAR

    def stop(self) -> None:
        """Claim nothing more, and let the lease run out. What is under way may still be committed."""
        self.drain()
        self.stopped = True

    async def leave(self) -> None:
        """After `stop`: give everything back now, so that nobody waits for the lease of this node to run out."""
        while self._renewing:  # or that would be stored last
            await self.world.sleep(10)
        await self.store.heartbeat(NodeRow(self.name, self._epoch, 0))
        await self.store.release_lost(self.world.now())

    @property
    def cut_off(self) -> bool:
        """Whether the lease cannot be proved, so that other nodes may have taken what this one had."""
        return self.shared and self.world.monotonic() >= self._proved_until

    def _may_call(self) -> bool:
        return not self.draining and not self.cut_off

    def _row(self) -> NodeRow:
        return NodeRow(self.name, self._epoch, self.world.now() + self.settings.lease_ms)

    async def _beat(self) -> None:
        lease_ms = self.settings.lease_ms
        pause_ms = lease_ms // 3
        patience_ms = 0  # how long others may take to come back before their jobs are taken from them
        away = False  # the store, since the last time
        told: int | None = None  # when it was logged that it is away
        while not self.stopped:
            await self.world.sleep(pause_ms)
            pause_ms = lease_ms // 3
            begun = self.world.monotonic()
            try:
                await self.world.learn(self.store)
                self._cut_off = self._cut_off or self.cut_off
                if not await self._renew():
                    return
                told = None
                if self._cut_off and not self.cut_off:
                    self._cut_off = False
                    log.info("node %s reaches its store again", self.name)
                    self._take_up()
                    away = True
                elif self._held:
                    self._take_up()  # between two beats the lease was not proved, and nobody has noticed
                if away or self.world.monotonic() - begun > SLOW_MS:
                    # The store was away, and perhaps others could not renew either: they come back in a moment.
                    away, patience_ms = False, lease_ms // 2
                if patience_ms > 0:
                    patience_ms -= pause_ms
                elif freed := await self.store.release_lost(self.world.now()):
                    self._wake_at(self.world.now())
                    if self.shared:
                        await self._tell_lost(freed)
                if self.shared:
                    await self.registry.refresh(self.store, self.world.now())
                    await self.credentials.refresh()
                self.schedules.mend_soon()
                await self._tidy_sessions()
            except (StoreFull, StoreUnavailable) as err:
                if told is None or begun - told >= TELL_AGAIN_MS:
                    told = begun
                    log.warning("node %s could not renew its lease: %s", self.name, err)
                away = True
                if self.shared:
                    pause_ms = min(pause_ms, RENEW_AGAIN_MS)
            if self.cut_off and not self._cut_off:
                self._cut_off = True
                log.warning("node %s can no longer prove its lease; it makes no calls until it can", self.name)

    async def _tidy_sessions(self) -> None:
        """Once in a while, forget sessions that are over; those of nodes that are gone are lost."""
        envs, now = self.registry.envs_with_apps(), self.world.now()
        if not envs or now < self._tidied_at + TIDY_SESSIONS_MS:
            return
        self._tidied_at = now
        dead = await self._dead_nodes() if self.shared else set()
        for env in envs:
            await self.sessions.tidy(env, dead)

    async def _dead_nodes(self) -> set[str]:
        known, now = await self.store.known_nodes(), self.world.now()
        return {one.name for one in known} - {one.name for one in known if one.lease_until > now}

    async def _tell_lost(self, freed: int) -> None:
        """Log whose jobs were freed a moment ago; a node that left by itself has no lease that ran out."""
        now = self.world.now()
        known = await self.store.known_nodes()
        lost = {(one.name, one.epoch) for one in known if now - JUST_LOST_MS < one.lease_until <= now}
        new, self._told_lost = lost - self._told_lost, lost
        for name, _ in sorted(new):
            log.warning("node %s is lost; %d jobs of lost nodes are taken over", name, freed)

    async def _renew(self) -> bool:
        """Renew the lease. False: this node must not take part any more."""
        if self.stopped:
            return False
        self._renewing = True
        try:
            return await self._prove()
        finally:
            self._renewing = False

    async def _prove(self) -> bool:
        asked = self.world.monotonic()
        if not await self.store.heartbeat(self._row()):
            if not self.shared:
                log.error("node %s was given up by the others; it stops taking part", self.name)
                self.stop()
                return False
            log.warning("node %s was given up by the others; it starts over", self.name)
            self._epoch = max(self._epoch + 1, await self.store.now())
            self._cut_off = True
            if not await self.store.heartbeat(self._row()):
                return True  # tried again with the next beat
        # What others judge our lease by is the store's clock, which we know only so well.
        self._proved_until = asked + self.settings.lease_ms * 9 // 10 - self.world.uncertain_ms
        return True

    def _take_up(self) -> None:
        """Go on after a time without a lease: other nodes may have done anything with what we had."""
        self.turns.anything_moved()
        held, self._held = self._held, []
        for job in held:
            self.world.spawn(patiently(self.world, partial(self._dispatch_if_ours, job)))
        if self._routes is not None:
            self._routes.anything()
        self._wake_at(self.world.now())

    def _hold(self, job: Job) -> bool:
        """Keep a job for later, if we cannot prove our lease now."""
        if self.cut_off:
            self._held.append(job)
        return self.cut_off

    async def _dispatch_if_ours(self, job: Job) -> None:
        assert job.run is not None
        for stored in await self.store.jobs_of(job.run):
            if stored.id == job.id and stored.owner == self.name and stored.fence == job.fence:
                if job.kind is JobKind.OFFLOAD:
                    self.errands.begin(job, None, Claim(job.id, job.fence))
                else:
                    await self._load_and_dispatch(job)
                return
        self._let_go(job)

    async def _poll(self) -> None:
        """See what no hint told."""
        while not self.stopped:
            await self.world.sleep(FOLLOW_MS)
            if self.watch is not None:
                self.watch.anything_moved()
            if self._may_call():
                try:
                    await self._claim_left_behind()
                except (StoreFull, StoreUnavailable) as err:
                    log.warning("node %s cannot look for due jobs: %s", self.name, err)

    async def _claim_left_behind(self) -> None:
        """Claim calls that were to go to connected workers of services that are reached by HTTP now."""
        routes = list(self.registry.open_routes()) if self._routes is not None else []
        if self._routes is not None and self.registry.envs_with_apps():
            # Whoever makes the calls of a session whose worker is gone says so.
            routes += map(session_route, await self._dead_nodes())
        if routes:
            self._do(await self.store.claim_due(self._row(), self.world.now(), CLAIM_LIMIT, routes))

    # what other nodes say

    def _hear(self, hint: Hint) -> None:
        """Another node committed something."""
        if self.stopped:
            return
        if hint.missed:
            self.turns.anything_moved()
            if self._routes is not None:
                self._routes.anything()
            if self.watch is not None:
                self.watch.anything_moved()
        for run in hint.runs:
            self.turns.moved(run)
            if self.watch is not None:
                self.watch.moved_elsewhere(run)
        if hint.missed or (hint.routes and self._serves(hint.routes)):
            self._wake_at(self.world.now())
        if hint.missed or hint.services:
            self.world.spawn(self._know_services())

    def _serves(self, routes: Sequence[str | None]) -> bool:
        named = {route for route in routes if route is not None}
        ours = self._routes.heard(named) if named and self._routes is not None else bool(named)
        return ours or None in routes or not named.isdisjoint(self._own_routes())

    def _own_routes(self) -> tuple[str, ...]:
        """The routes of calls that this node can make because of what it has, whoever is connected."""
        sessions = (session_route(self.name),) if self.sessions.any else ()
        return (*sessions, *self._routes_of_apps())

    async def _know_services(self) -> None:
        try:
            await self.registry.refresh(self.store, self.world.now())
            await self.credentials.refresh()
        except (StoreFull, StoreUnavailable) as err:
            log.warning("node %s could not read what services there are: %s", self.name, err)

    async def know_services(self) -> None:
        """See to it that `registry` has what was registered on any node before this was called.

        Raises `StoreUnavailable`.
        """
        if self.shared and self.world.now() - self.registry.refreshed_at > REGISTRY_MS:
            await self.registry.refresh(self.store, self.world.now())

    def room(self, env: str, service: str) -> None:
        """What performers say when a worker that is connected here has room for a call."""
        if self._routes is not None and self._routes.is_waited_for(env, service):
            self._wake_at(self.world.now())

    def call_apps(self, has_package: Callable[[str], bool]) -> None:
        """This node calls apps whose packages it has, by their checksums. Where several share a store, calls of the
        others are left to those that have them."""
        if self.shared:
            self._has_package = has_package
            self.turns.app_here = lambda route: route in self._routes_of_apps()

    def _routes_of_apps(self) -> frozenset[str]:
        """The routes of the calls of apps that can be made here."""
        if self._has_package is None:
            return self._apps_here
        registry, now = self.registry, self.world.now()
        changes, at = self._apps_seen
        if registry.changes != changes or now >= at + LOOK_FOR_PACKAGES_MS:
            self._apps_seen = (registry.changes, now)
            self._apps_here = frozenset(
                route_of(one.env, one.slug)
                for env in registry.envs_with_apps()
                for one in registry.functions_of_apps(env)
                if one.archived or self._has_package(package_of(one.config))  # a removed one is gone everywhere
            )
        return self._apps_here

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
        if self.shared:
            await self.registry.refresh(self.store, self.world.now())
        known, now = self.registry.service(service.env, service.name), self.world.now()
        stored, modified = merged(service, known, now)
        if modified:
            await self.store.put_service(stored)
            self.registry.put(stored)
        await self.schedules.mend()
        # Until every node knows; also of what somebody else stored a moment ago, who waits for that, too.
        if self.shared and (modified or known is None or now - known.registered_at < JUST_REGISTERED_MS):
            await self.world.sleep(REGISTRY_MS + 1)
        return modified

    async def forget(self, env: str, name: str) -> bool:
        """Remove a service. Its runs go on as long as something answers for it."""
        self.registry.remove(env, name)
        return await self.store.remove_service(env, name)

    async def cancel(self, run_id: RunId, reason: str, env: str = DEV_ENV) -> bool:
        """Cancel a run, durably.

        Returns:
            True: it is cancelled. False: its call has been told to end, and has a while for that; it will be cancelled.

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
        if status is not None and status.final and status.value != "CANCELLED":
            raise Conflict(f"run {run_id} ended as {status.value} before it could be cancelled")
        return status is None or status.final

    async def rerun(
        self, stored: StoredRun, *, step: Recorded | None = None, edited: bytes | None = None, key: str = ""
    ) -> Rerun:
        """Make an ended run again; on return the new run has begun, durably. See `stepwell.node.rerun`."""
        return await self.reruns.begin(RunId(self.new_key()), stored, step=step, edited=edited, key=key)

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
        number = claim.job.removeprefix(f"{run_id}.")
        if number == claim.job or not (number.isascii() and number.isdigit() and len(number) < 20):
            return Verdict.STALE  # no call of this run; if it is one of another run, that must not suffer
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
        if self.draining or at >= self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self.world.call_at(at, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm, self._alarm_at = None, _FAR
        if self._claiming:
            self._claim_again = True
        elif not self.draining:
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
        while not self.draining:
            if self.cut_off:
                return self.world.now() + RENEW_AGAIN_MS
            self._claim_again = False
            whole = False
            if self._routes is None:
                jobs = await self.store.claim_due(self._row(), self.world.now(), CLAIM_LIMIT)
                whole = len(jobs) == CLAIM_LIMIT
                self._do(jobs)
                routes: list[str] | None = None
            else:
                openings = self._routes.openings()
                own = self._own_routes()
                routes = [*own, *(route for opening, _ in openings for route in opening.routes)]
                for opening, places in openings:
                    limit = min(places, CLAIM_LIMIT)
                    jobs = await self.store.claim_due(self._row(), self.world.now(), limit, opening.routes)
                    self._routes.claimed(opening, jobs, limit)
                    whole = whole or len(jobs) == limit
                    self._do(jobs)
                if own or not openings:
                    jobs = await self.store.claim_due(self._row(), self.world.now(), CLAIM_LIMIT, own)
                    whole = len(jobs) == CLAIM_LIMIT
                    self._do(jobs)
            if whole or self._claim_again:
                continue
            due = await self.store.next_due(routes)
            search = self.settings.search_ms
            now = self.world.now()
            return max(now + 1, min(_FAR if due is None else due, _FAR if search is None else now + search))
        return _FAR

    def _do(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._perform_job(job, None, ())

    def _let_go(self, job: Job) -> None:
        """The call is not, or no longer, on its way to a worker."""
        if self._routes is not None:
            self._routes.let_go(job.id)

    def _perform_job(self, job: Job, run: Run | None, events: Sequence[Event]) -> None:
        """Do a job that is ours. `run` and `events` are what the caller has at hand of it."""
        claim = Claim(job.id, job.fence)
        if job.later:
            self.world.spawn(patiently(self.world, lambda: self._enter(job)))
            return
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
            case JobKind.OFFLOAD:
                self.errands.begin(job, run, claim)
            case JobKind.HOLD:
                assert job.run is not None
                self.turns.post(job.run, Envelope(message.Admitted(), claim))
            case JobKind.WINDOW:
                self.world.spawn(self.matching.fire(job))
            case JobKind.TICK:
                self.world.spawn(self.schedules.come(job))
            case JobKind.WAKE:
                assert job.run is not None
                assert job.step is not None
                ended = message.ChildEnded(job.step, job.output, job.error)
                self.turns.post(job.run, Envelope(ended, claim, ends=True))

    async def _enter(self, job: Job) -> None:
        """Ask for the slots of a job whose time has come, and do it if it gets them all."""
        match await self.store.commit(Transition(holds=(Claim(job.id, job.fence),), enter=(job,))):
            case Committed(parked) if not parked:
                self._perform_job(job.asked(parked=False), None, ())
            case _:
                self._let_go(job)  # whoever claims it once it has them

    def _call(self, job: Job, run: Run | None, claim: Claim) -> None:
        assert job.run is not None
        if job.repeated:
            # Another node, or this one in an earlier life, may have made this call already. That attempt goes into
            # the journal before the next one is made.
            lost = message.CallLost(
                job.id,
                error=canonical({"name": "NodeLost", "message": "the server that made this call went away"}),
                free=True,
                code="node_lost",
            )
            self._let_go(job)
            self.turns.post(job.run, Envelope(lost, claim))
            return
        events = tuple([event for event in run.events if isinstance(event, bytes)]) if run is not None else ()
        if (
            run is not None
            and len(events) == len(run.events)
            and self.registry.function(run.env, run.function) is not None
        ):
            self._dispatch(run, job, events)
        else:
            self.world.spawn(patiently(self.world, lambda: self._load_and_dispatch(job)))

    async def _load_and_dispatch(self, job: Job) -> None:
        assert job.run is not None
        run = await self.turns.run(job.run, fresh=True)
        if run is None or job.id not in run.calls:
            self._let_go(job)
            await self.store.commit(Transition(ends=(Claim(job.id, job.fence),)))
            return
        events = tuple(await self.turns.texts(run.events))
        if self.shared and self.registry.function(run.env, run.function) is None:
            await self.registry.refresh(self.store, self.world.now())
        self._dispatch(run, job, events)

    def _dispatch(self, run: Run, job: Job, events: tuple[bytes, ...]) -> None:
        if self._hold(job):
            return
        self._let_go(job)
        function = self.registry.function(run.env, run.function)
        if function is None:
            error = {"name": "FunctionNotFound", "message": f"no service serves {run.function!r} any more"}
            lost = message.CallLost(job.id, error=canonical(error), code="function_not_found")
            self.turns.post(run.id, Envelope(lost, Claim(job.id, job.fence)))
            return
        if run.cancelling is not None:
            error = {"name": "RunCancelled", "message": "the run was cancelled before this call was made"}
            lost = message.CallLost(job.id, error=canonical(error), free=True)
            self.turns.post(run.id, Envelope(lost, Claim(job.id, job.fence)))
            return
        if run.awaits_beginning:
            self.turns.post(run.id, Envelope(message.Began(), Claim(job.id, job.fence)))
        if job.live or self.shared:
            self.turns.telling.called(job.id, run.id, run.news)
        if job.route is not None and job.route.startswith(SESSION_ROUTES):
            self.sessions.came(run.env, run.id, events[0])
        self._performer.perform(dispatch_of(run, job, function, events, self.turns.texts))
