"""One seed: a small universe with two nodes, workers, bad luck, and an end at which everything must be right.

    trouble   nodes crash at commits and effects, pause, restart; the store refuses; messages get lost, doubled,
              late; clocks are wrong; events, cancellations and children come at any moment
    calm      faults stop, everybody is restarted, time passes until nothing is left to do
    verdict   every run ended as its program must, the ledger agrees, no row is left over

Every seed has at least two nodes, three runs, a parallel group and a wait for an event: the third run is that of
`child`, and the function `parent` begins with a wait before which nothing fails and nobody is cancelled.

Nodes are the real ones (`stepwell.node`); everything around them is virtual, and every choice is drawn from one
source, so a seed always tells the same story. `Simulation(seed).play()` raises `Violation` with that story.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from stepwell.engine.decide import Policy
from stepwell.model.errors import Conflict, NotFound
from stepwell.model.event import DEV_ENV, Event, event_body
from stepwell.model.function import CancelOn, Concurrency, Function, Service, Transport, Trigger
from stepwell.model.ids import EventKey, IdSource, RunId, StepId
from stepwell.model.job import Claim
from stepwell.node.auditor import LIMITS
from stepwell.node.node import Node, NodeSettings
from stepwell.node.turns import Verdict as Verdicts
from stepwell.store.base import StoreFull, StoreUnavailable
from stepwell.store.memory import MemoryStore
from stepwell.testing.clockwork import Clockwork
from stepwell.testing.faulty import EFFECT, FaultyStore, Removed, Trouble, message_type
from stepwell.testing.gateway import ScriptedGateway
from stepwell.testing.ledger import Ledger
from stepwell.testing.programs import DAY_MS, Author, Program
from stepwell.testing.reruns import Reruns
from stepwell.testing.tasks import Tasks
from stepwell.testing.verdict import Verdict, Violation, Watcher
from stepwell.testing.workers import Outside, ScriptedWorkers, Weather
from stepwell.testing.world import START, Crashed, Scheduler, VirtualWorld, at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.model.dispatch import Dispatch
    from stepwell.model.job import Job
    from stepwell.model.op import Op
    from stepwell.store.base import Transition

__all__ = ["Result", "Simulation", "Violation"]

EVENTS_MS = 16_000
TROUBLE_MS = 24_000
CALM_MS = 12 * DAY_MS // 24  # longer than all pauses of retries together


@dataclass(slots=True)
class Result:
    """What a seed amounted to."""

    transitions: int
    runs: int
    crashes: int
    points: dict[tuple[str, str], int]
    """How often a node died there: (message type, crash point)."""


class Machine:
    """One node through all its lives."""

    def __init__(self, simulation: Simulation, name: str, skew_ms: int) -> None:
        self._simulation = simulation
        self.name = name
        self.skew_ms = skew_ms
        self.epoch = 0
        self.world: VirtualWorld | None = None
        self.node: Node | None = None
        self.workers: ScriptedWorkers | None = None
        self.lives: list[tuple[VirtualWorld, Node, ScriptedWorkers]] = []
        self.ready = False

    @property
    def usable(self) -> bool:
        return self.ready and self.world is not None and not self.world.held

    def start(self, _: object = None) -> None:
        """Begin a new life."""
        simulation = self._simulation
        self.epoch += 1
        self.ready = False
        world = self.world = VirtualWorld(simulation.scheduler, skew_ms=self.skew_ms)
        world.on_crash = self._crashed
        if simulation.trouble.effect_crash:
            world.before_step = self._before_step
        life = (self.name, self.epoch)
        store = FaultyStore(simulation.store, world, simulation.random, simulation.trouble, simulation.removed, life)
        workers = self.workers = ScriptedWorkers(
            simulation.outside,
            world,
            self._deliver,
            functions=simulation.live_functions,
            capacity=simulation.capacity,
            room=self._room,
            performing=self._performing,
        )
        workers.connected = simulation.calm or simulation.random.random() < simulation.connected
        self.node = Node(
            self.name,
            epoch=self.epoch,
            store=store,
            world=world,
            performer=workers,
            gateway=ScriptedGateway(simulation.outside, world, self._deliver, simulation.watcher.fail),
            ids=IdSource(simulation.random.getrandbits(32)),
            settings=simulation.settings,
            reach=workers,
        )
        self.lives.append((world, self.node, workers))
        world.do(world.spawn, self._start())

    async def _start(self) -> None:
        assert self.node is not None
        try:
            await self.node.start()
        except (StoreFull, StoreUnavailable):
            raise Crashed("while starting") from None
        self.ready = True

    def _deliver(self, *what: Any) -> None:
        assert self.node is not None
        self.node.deliver(*what)

    def _room(self) -> None:
        if self.node is not None:
            self.node.room(DEV_ENV, "live")

    def _performing(self, dispatch: Dispatch) -> None:
        """A node calls nobody once others may have taken the call from it."""
        simulation = self._simulation
        proof = simulation.store.nodes.get(self.name)
        if proof is None or proof.lease_until <= simulation.scheduler.now:
            text = f"{self.name} makes call {dispatch.job} without a lease"
            simulation.watcher.fail("no ghost work", text, dispatch.run)
        job = simulation.store.job_rows.get(dispatch.job)
        if job is not None and job.slots:
            place = simulation.store.book.places.get(job.id)
            ours = (job.owner, job.fence) == (self.name, dispatch.fence)
            if (place is None and ours) or (place is not None and place.line is not None):
                simulation.watcher.fail(LIMITS, f"{self.name} makes call {job.id} without its slots", dispatch.run)

    def _before_step(self, name: str) -> None:
        simulation, world = self._simulation, self.world
        if simulation.random.random() < simulation.trouble.effect_crash and world is not None:
            last = world.task.last if world.task is not None else None
            kind = message_type(last[0], {job.id: job for job in last[1]}) if last is not None else None
            raise Crashed(EFFECT, kind)

    def _crashed(self, crash: Crashed) -> None:
        simulation, workers = self._simulation, self.workers
        simulation.crashed(self, crash)
        if workers is not None:
            for call in list(workers.live.values()):
                call.on_stop(None)
            workers.live.clear()
        pause = simulation.random.choice((1, 50, 2_000, 15_000)) if not simulation.calm else 1_000
        simulation.scheduler.after(pause, self.start)


class Simulation:
    """One seed."""

    def __init__(self, seed: int, *, story: bool = False) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.limits = Random(seed + 0.5)  # its own source: a seed without limits tells the story that it always told
        self.graces = Random(seed + 0.25)  # likewise of functions that get time to end when they are cancelled
        self.scheduler = Scheduler(START)
        self.store = MemoryStore(self, touched=self._touched)
        self.ledger = Ledger()
        self.trouble = Trouble()
        self.removed = Removed([])
        self.calm = False
        self.crashes = 0
        self.points: dict[tuple[str, str], int] = {}
        self.outside = Outside(
            self.scheduler, random, Weather(), self.ledger, {}, self._send, self._acknowledged, self._report
        )
        self.functions: dict[str, Function] = {}
        self.watcher = Watcher(self.store, self.scheduler, story=story)
        self.acknowledged: list[Event] = []
        self.clockwork = Clockwork(self)
        self.reruns = Reruns(self)
        self.tasks = Tasks(self)
        self.settings = NodeSettings(
            policy=Policy(retry_interval_ms=None if random.random() < 0.15 else random.choice((200, 1_500))),
            lease_ms=random.choice((10_000, 18_000)),
            search_ms=random.choice((4_000, 12_000)),
            cached_runs=1 if random.random() < 0.125 else 100,
        )
        self.machines = [Machine(self, name, 0) for name in ("a", "b", "c")[: 3 if random.random() < 0.1 else 2]]
        self.unsent = 0
        self.live_functions: tuple[str, ...] = ()
        self.capacity = random.choice((1, 3, 1_000))  # calls at a time of the worker that is connected to a node
        self.connected = random.choice((0.3, 0.7, 1.0))  # the chance that one is, when the node begins

    def now(self) -> int:
        """The clock of the store."""
        return self.scheduler.now

    def play(self) -> Result:
        """Let it happen. Raises `Violation` if anything is wrong."""
        self._write_functions()
        self.tasks.write()
        self._begin_trouble()
        for machine in self.machines:
            machine.start()
        self._plan_events()
        self.reruns.plan()
        scheduler = self.scheduler
        logging.getLogger("stepwell.node").addFilter(self._on_log)
        try:
            self._run(scheduler)
        finally:
            logging.getLogger("stepwell.node").removeFilter(self._on_log)
        Verdict(self).give()
        return Result(self.watcher.transitions, len(self.store.run_rows), self.crashes, self.points)

    def untie(self) -> None:
        """Let go of everything, so that it is freed at once: a universe is one big knot of references."""
        for machine in self.machines:
            for world, node, workers in machine.lives:
                world.end()
                for one in (node.turns, node, workers, world):
                    vars(one).clear()
            vars(machine).clear()
        self.scheduler.clear()
        vars(self.store).clear()
        vars(self).clear()

    def _on_log(self, record: logging.LogRecord) -> bool:
        """Refusals are what we came for; errors are bugs that the node caught so as to go on."""
        if record.levelno >= logging.ERROR:
            text = record.getMessage()
            if record.exc_info is not None and record.exc_info[1] is not None:
                text += f": {record.exc_info[1]!r}"
            self.watcher.fail("no silence", text)
        return False

    def _run(self, scheduler: Scheduler) -> None:
        scheduler.run_until(START + EVENTS_MS, over=self._broken)
        scheduler.run_until(START + TROUBLE_MS, over=self._is_over)
        self._begin_calm()
        if not scheduler.run_until(scheduler.now + CALM_MS, over=self._is_over) and not self._escaped():
            self.watcher.fail("progress", "work is left over and nothing happens: " + self._leftovers())

    # the beginning

    def _write_functions(self) -> None:
        random = self.random
        slugs = ["parent", "other", *(["child", "leaf"][: random.randrange(1, 3)])]
        live = random.random() < 0.5
        for slug in slugs:
            invoked = [one for one in slugs if one in ("child", "leaf") and one > slug] if slug != "leaf" else []
            if slug in ("parent", "other"):
                invoked = slugs[2:]
            author = Author(random, slug, invoked, ["outside/x"] if random.random() < 0.5 else [])
            main = slug == "parent"
            program: Program = author.write(random.choice((1, 1, 2, 2, 3)), group=main, wait=main)
            self.outside.programs[slug] = program
        by_service: dict[str, list[Function]] = {"http": [], "live": []}
        for slug in slugs:
            service = "live" if (live if slug == "parent" else random.random() < 0.5) else "http"
            cancel_on = (CancelOn(event="outside/stop", expression="async.data.k == event.data.k"),)
            function = Function(
                slug=slug,
                name=slug,
                service=service,
                triggers=(Trigger(event="go/" + ("parent" if slug in ("parent", "other") else slug)),),
                cancel_on=cancel_on if random.random() < 0.3 else (),
                concurrency=self._limits(),
                finish_within_ms=10 * DAY_MS if self.limits.random() < 0.15 else None,
                run_concurrency=(Concurrency(1, "event.data.k"),) if self.limits.random() < 0.15 else (),
                cancel_grace_ms=self.graces.choice((1_000, 10_000)) if self.graces.random() < 0.3 else 0,
            )
            self.functions[slug] = function
            by_service[service].append(function)
        for service, function in self.clockwork.write():
            by_service[service].append(function)
        self.live_functions = tuple(function.slug for function in by_service["live"])
        for name, functions in by_service.items():
            transport = Transport.SOCKET if name == "live" else Transport.HTTP
            service_row = Service(name=name, transport=transport, functions=tuple(functions))
            at_once(self.store.put_service(service_row))

    def _limits(self) -> tuple[Concurrency, ...]:
        """Mostly none. Functions that share a key agree on its limit."""
        random = self.limits
        if random.random() < 0.6:
            return ()
        own = Concurrency(random.choice((1, 1, 2)), random.choice((None, "event.data.k")))
        shared = Concurrency(1 + self.seed % 2, "event.data.k", "env")
        return random.choice(((own,), (own,), (shared,), (own, shared)))

    def _begin_trouble(self) -> None:
        random, trouble, weather = self.random, self.trouble, self.outside.weather
        trouble.slow = random.choice((0.1, 0.3, 0.8))
        trouble.deaf = random.choice((0.0, 0.0, 0.3, 1.0))
        if random.random() < 0.08:
            return  # a quiet day
        trouble.crash = random.choice((0.0, 0.01, 0.03))
        trouble.effect_crash = random.choice((0.0, 0.01, 0.02))
        trouble.refused = random.choice((0.0, 0.0, 0.03))
        weather.lost = random.choice((0.0, 0.05, 0.15))
        weather.doubled = random.choice((0.0, 0.05, 0.2))
        weather.slow = random.choice((0.0, 0.05, 0.3))
        weather.raised = random.choice((0.0, 0.03))
        scheduler = self.scheduler
        for _ in range(random.randrange(4)):
            scheduler.at(START + random.randrange(TROUBLE_MS // 2), self._pause)
        for _ in range(random.randrange(3)):
            scheduler.at(START + random.randrange(TROUBLE_MS // 2), self._disconnect)
        for _ in range(random.randrange(4)):
            scheduler.at(START + random.randrange(TROUBLE_MS // 2), self._move)
        if random.random() < 0.2:
            scheduler.at(START + random.randrange(TROUBLE_MS // 2), self._outage)
        if random.random() < 0.3:
            for _ in range(2):
                scheduler.at(START + random.randrange(TROUBLE_MS // 2), self._jump)

    def _plan_events(self) -> None:
        random, scheduler = self.random, self.scheduler
        for number in range(1 if random.random() < 0.85 else 2):
            scheduler.at(START + random.randrange(5_000), self._emit, ("go/parent", f"k{number}", ""))
        scheduler.at(START + random.randrange(5_000), self._emit, ("go/child", "k0", ""))
        if random.random() < 0.2:
            self._twice()
        for _ in range(random.randrange(3)):
            scheduler.at(START + random.randrange(EVENTS_MS), self._emit, ("outside/x", "x", ""))
        if random.random() < 0.22:
            scheduler.at(START + random.randrange(EVENTS_MS), self._stop)
        if random.random() < 0.25:
            scheduler.at(START + random.randrange(EVENTS_MS), self._cancel)
        if self.graces.random() < 0.3:
            for _ in range(self.graces.randrange(1, 4)):
                scheduler.at(START + self.graces.randrange(EVENTS_MS), self._cancel_called)

    def _twice(self) -> None:
        """Somebody sends the same event again."""
        for _ in range(2):
            when = START + self.random.randrange(5_000)
            self.scheduler.at(when, self._emit, ("go/parent", "twice", "the-same-id"))

    # events from outside

    def _emit(self, what: tuple[str, str, str]) -> None:
        name, k, event_id = what
        self._send(name, event_id, k, _nothing)

    def _send(self, name: str, event_id: str, k: object, then: Callable[[], None]) -> None:
        """Send an event until a node acknowledges it."""
        _Sending(self, name, event_id, k, then).attempt()

    def _report(self, dispatch: Dispatch, one: Op, then: Callable[[Verdicts | None], None]) -> None:
        """Tell a node, whichever it is, of a step that a call has done."""
        _Reporting(self, dispatch, one, then).attempt()

    def _acknowledged(self, run: RunId, step: StepId) -> None:
        if not self.watcher.is_recorded(run, step):
            self.watcher.fail("durable acceptance", f"run {run}: step {step} was acknowledged, not recorded", run)

    # bad luck

    def _pause(self, _: object) -> None:
        machine = self._usable()
        if machine is not None and machine.world is not None:
            world = machine.world
            world.pause()
            self.scheduler.after(self.random.choice((500, 4_000, 12_000, 20_000)), _unpause, world)

    def _disconnect(self, _: object) -> None:
        machine = self._usable()
        if machine is not None and machine.workers is not None:
            machine.workers.disconnect()

    def _move(self, _: object) -> None:
        """A worker leaves its node for another one."""
        machines = [machine for machine in self.machines if machine.usable and machine.workers is not None]
        self.random.shuffle(machines)
        for machine in machines[:1]:
            assert machine.workers is not None
            machine.workers.leave()
        for machine in machines[1:2] or machines:
            assert machine.workers is not None
            self.scheduler.after(self.random.choice((1, 300, 5_000)), _connect, machine.workers)

    def _outage(self, _: object) -> None:
        if self.random.random() < 0.5:
            self.trouble.full = True
        else:
            self.trouble.down = True
        self.scheduler.after(self.random.choice((20, 700, 5_000)), self._outage_over)

    def _outage_over(self, _: object) -> None:
        self.trouble.full = self.trouble.down = False

    def _jump(self, _: object) -> None:
        machine = self.random.choice(self.machines)
        machine.skew_ms += self.random.choice((-7_200_000, -300_000, -40, 300, 300_000, 3_600_000))
        if machine.world is not None:
            machine.world.skew_ms = machine.skew_ms

    def _stop(self, _: object) -> None:
        if self._somebody_waited(self._stop):
            self._emit(("outside/stop", "k0", ""))

    def _somebody_waited(self, again: Callable[[object], None]) -> bool:
        """Whether a run has come to a wait. If not, `again` is called later: every seed is to have a wait."""
        if self.watcher.waited:
            return True
        self.scheduler.after(200, again)
        return False

    def _cancel(self, _: object) -> None:
        if not self._somebody_waited(self._cancel):
            return
        machine = self._usable()
        live = [run for run, row in self.store.run_rows.items() if not row.status.final]
        if machine is None or machine.world is None or not live:
            return
        self.cancel_run(machine, self.random.choice(live))

    def _cancel_called(self, _: object) -> None:
        """Cancel a run that gives its call time to end; perhaps somebody asks twice, perhaps on another node."""
        if not self._somebody_waited(self._cancel_called):
            return
        machines = [machine for machine in self.machines if machine.usable]
        graceful = {slug for slug, function in self.functions.items() if function.cancel_grace_ms}
        rows = [row for row in self.store.run_rows.values() if not row.status.final and row.function in graceful]
        live = [row.id for row in rows if any(job.live for job in self.store.jobs_by_run.get(row.id, {}).values())]
        if not machines or not live:
            return
        run = self.graces.choice(live)
        for _ in range(self.graces.choice((1, 1, 2))):
            self.cancel_run(self.graces.choice(machines), run)

    def cancel_run(self, machine: Machine, run: RunId) -> None:
        """Somebody asks a node to cancel a run."""
        assert machine.world is not None
        self.watcher.cancelled.add(run)
        machine.world.do(machine.world.spawn, _cancel(machine, run))

    def crashed(self, machine: Machine, crash: Crashed) -> None:
        """A machine tells that it died."""
        self.crashes += 1
        self.watcher.tell("%s dies %s (%s)", machine.name, crash.point, crash.detail)
        if isinstance(crash.detail, str):
            key = (crash.detail, crash.point)
            self.points[key] = self.points.get(key, 0) + 1

    def _usable(self) -> Machine | None:
        usable = [machine for machine in self.machines if machine.usable]
        return self.random.choice(usable) if usable else None

    # the end

    def _begin_calm(self) -> None:
        self.calm = True
        self.clockwork.begin_calm()
        trouble, weather = self.trouble, self.outside.weather
        trouble.crash = trouble.effect_crash = trouble.refused = trouble.slow = 0.0
        trouble.down = trouble.full = False
        weather.lost = weather.doubled = weather.slow = weather.raised = 0.0
        for machine in self.machines:
            if machine.world is not None:
                machine.world.before_step = None
                machine.world.unpause()
            if machine.workers is not None:
                machine.workers.connect()

    def _broken(self) -> bool:
        return self.watcher.violation is not None

    def _escaped(self) -> bool:
        """Whether a task ended with an error, which says more than the work that it left; the verdict tells it."""
        return any(machine.world is not None and machine.world.errors for machine in self.machines)

    def _is_over(self) -> bool:
        watcher, store = self.watcher, self.store
        if watcher.violation is not None:
            return True
        if watcher.live or self.unsent or store.job_rows or store.waits_by_run:
            return False
        # One that died at its start has yet to live.
        return len(store.nodes) == len(self.machines) and self.clockwork.over

    def _leftovers(self) -> str:
        store = self.store
        lines = [
            f"job {job.id} {job.kind} of {job.run} owned by {job.owner}, fence {job.fence}"
            for job in store.job_rows.values()
        ]
        lines += [f"run {run} {store.run_rows[run].function} {store.run_rows[run].status}" for run in self.watcher.live]
        lines += [f"wait of {run}" for run in store.waits_by_run]
        return "; ".join(lines[:20]) or f"{len(store.nodes)} nodes came up, nobody accepts {self.unsent} events"

    def _touched(self, transition: Transition, removed: list[Job]) -> None:
        self.removed.jobs = removed
        self.watcher.on_transition(transition, removed)


class _Sending:
    """An event on its way. Whoever gets no answer sends again."""

    __slots__ = ("_done", "_event_id", "_k", "_name", "_simulation", "_then")

    def __init__(self, simulation: Simulation, name: str, event_id: str, k: object, then: Callable[[], None]) -> None:
        self._simulation = simulation
        self._name = name
        self._event_id = event_id
        self._k = k
        self._then = then
        self._done = False
        simulation.unsent += 1

    def attempt(self, _: object = None) -> None:
        if self._done:
            return
        simulation = self._simulation
        machine = simulation._usable()
        if machine is None or machine.world is None:
            simulation.scheduler.after(300, self.attempt)
            return
        world, coroutine = machine.world, self._accept(machine)
        world.do(world.spawn, coroutine)
        simulation.scheduler.after(4_000, self.attempt)

    async def _accept(self, machine: Machine) -> None:
        node = machine.node
        assert node is not None
        key = EventKey(node.new_key())
        now = node.world.now()
        event_id = self._event_id or key
        event = Event(
            key=key,
            internal_id=key,
            id=event_id,
            name=self._name,
            ts=now,
            received_at=now,
            body=event_body(name=self._name, id=event_id, ts=now, data={"k": self._k}),
        )
        try:
            await node.accept(DEV_ENV, [event])
        except (StoreFull, StoreUnavailable):
            return
        simulation = self._simulation
        simulation.acknowledged.append(event)
        simulation.scheduler.after(simulation.outside.latency(), self._acknowledged)

    def _acknowledged(self, _: object) -> None:
        if not self._done:
            self._done = True
            self._simulation.unsent -= 1
            self._then()


class _Reporting:
    """A checkpoint on its way. The request or the answer may get lost, come late, or come twice."""

    __slots__ = ("_dispatch", "_done", "_one", "_simulation", "_then")

    def __init__(
        self, simulation: Simulation, dispatch: Dispatch, one: Op, then: Callable[[Verdicts | None], None]
    ) -> None:
        self._simulation = simulation
        self._dispatch = dispatch
        self._one = one
        self._then = then
        self._done = False

    def attempt(self) -> None:
        simulation = self._simulation
        weather, random, scheduler = simulation.outside.weather, simulation.random, simulation.scheduler
        scheduler.after(4_000, self._told, None)
        if random.random() < weather.lost:
            return
        for _ in range(2 if random.random() < weather.doubled else 1):
            scheduler.after(simulation.outside.latency(), self._arrive)

    def _arrive(self, _: object) -> None:
        machine = self._simulation._usable()
        if machine is not None and machine.world is not None:
            machine.world.do(machine.world.spawn, self._report(machine))

    async def _report(self, machine: Machine) -> None:
        node, dispatch, simulation = machine.node, self._dispatch, self._simulation
        assert node is not None
        try:
            verdict = await node.report(dispatch.run, Claim(dispatch.job, dispatch.fence), (self._one,), DEV_ENV)
        except (StoreFull, StoreUnavailable):
            return
        if simulation.random.random() >= simulation.outside.weather.lost:
            simulation.scheduler.after(simulation.outside.latency(), self._told, verdict)

    def _told(self, verdict: Verdicts | None) -> None:
        if not self._done:
            self._done = True
            self._then(verdict)


async def _cancel(machine: Machine, run: RunId) -> None:
    assert machine.node is not None
    try:
        await machine.node.cancel(run, "somebody asked")
    except (NotFound, Conflict, StoreFull, StoreUnavailable):
        pass


def _connect(workers: ScriptedWorkers) -> None:
    workers.connect()


def _unpause(world: VirtualWorld) -> None:
    world.unpause()


def _nothing() -> None:
    pass
