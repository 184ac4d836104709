"""In some universes there is an app, and somebody asks for tasks of it, cancels some, and wants to hear of their end.

trouble   a task is asked for at any node until one answers, and perhaps of two at once, under one key
verdict   each request made one task; each task that ended told its webhook once, by a run that the end began
"""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from stepwell.model.event import DEV_ENV
from stepwell.model.function import Function, Service, Transport
from stepwell.model.ids import RunId, step_id
from stepwell.model.task import TASK_EVENT, TaskRequest
from stepwell.node.hooks import HOOK_FUNCTION
from stepwell.store.base import StoreFull, StoreUnavailable
from stepwell.testing.programs import Kind, Leaf, Program, Sequence
from stepwell.testing.world import START, at_once

if TYPE_CHECKING:
    from stepwell.testing.simulation import Machine, Simulation

ONE_TASK = "one task"
SERVICE, SLUG = "acme/app", "acme/app@1"
GRACE_MS = 4_000
_LATEST_MS = 24_000


class Tasks:
    """The tasks of one universe."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._random = Random(f"tasks {simulation.seed}")
        self._asked: list[_Asking] = []

    def write(self) -> None:
        """Decide whether there is an app, and what its calls take."""
        random, simulation = self._random, self._simulation
        if random.random() < 0.6:
            return
        leaf = Leaf(Kind.STEP, "work", id=step_id("work"), ms=random.choice((1, 300, 6_000)))
        simulation.outside.programs[SLUG] = Program(Sequence([leaf]), {leaf.id: leaf})
        simulation.outside.programs[HOOK_FUNCTION] = Program(Sequence([]), {})
        function = Function(slug=SLUG, name=SLUG, service=SERVICE, triggers=(), cancel_grace_ms=GRACE_MS)
        at_once(simulation.store.put_service(Service(name=SERVICE, transport=Transport.APP, functions=(function,))))
        for number in range(random.choice((1, 2, 4))):
            asking = _Asking(simulation, random, f"task-{number}")
            self._asked.append(asking)
            simulation.unsent += 1
            when = START + random.randrange(_LATEST_MS)
            for _ in range(2 if random.random() < 0.3 else 1):
                simulation.scheduler.at(when, asking.attempt)

    def wrong(self) -> tuple[RunId | None, str] | None:
        """What is not as it must be, and of which run."""
        store = self._simulation.store
        rows = store.run_rows
        made = {run for run, row in rows.items() if row.event_name == TASK_EVENT}
        if made != {asking.task for asking in self._asked}:
            return None, f"{len(self._asked)} requests made the tasks {sorted(made)}"
        hooks: dict[str, int] = {}
        for row in rows.values():
            if row.function == HOOK_FUNCTION and row.event is not None:
                task = store.event_rows[row.event].id
                hooks[task] = hooks.get(task, 0) + 1
        for asking in self._asked:
            assert asking.task is not None
            if hooks.get(asking.task, 0) != asking.hooked:
                return asking.task, f"its webhook was told {hooks.get(asking.task, 0)} times"
        return None


class _Asking:
    """A request for a task. Whoever gets no answer asks again, under the same key."""

    __slots__ = ("_cancel", "_done", "_later_ms", "_simulation", "hooked", "key", "task")

    def __init__(self, simulation: Simulation, random: Random, key: str) -> None:
        self._simulation = simulation
        self._done = False
        self._later_ms = 5_000 if random.random() < 0.2 else 0
        self._cancel = random.choice((1, 200, 4_000)) if random.random() < 0.4 else 0
        self.hooked = random.random() < 0.5
        self.key = key
        self.task: RunId | None = None

    def attempt(self, _: object = None) -> None:
        simulation = self._simulation
        if self._done:
            return
        machine = simulation._usable()
        if machine is not None and machine.world is not None:
            machine.world.do(machine.world.spawn, self._ask(machine))
        simulation.scheduler.after(4_000, self.attempt)

    async def _ask(self, machine: Machine) -> None:
        node = machine.node
        assert node is not None
        request = TaskRequest(app=SLUG, function="run", webhook="https://caller.example" if self.hooked else "")
        run_at = node.world.now() + self._later_ms if self._later_ms else None
        try:
            task = await node.tasks.begin(DEV_ENV, request, run_at=run_at, key=self.key)
        except (StoreFull, StoreUnavailable):
            return
        self._simulation.scheduler.after(self._simulation.outside.latency(), partial(self._answered, task))

    def _answered(self, task: RunId, _: object) -> None:
        simulation = self._simulation
        if self.task is not None and self.task != task:
            simulation.watcher.fail(ONE_TASK, f"request {self.key} made {self.task} and {task}", task)
        if task not in simulation.store.run_rows:
            simulation.watcher.fail("durable acceptance", f"task {task} was acknowledged and is not there", task)
        self.task = task
        if self._done:
            return
        self._done = True
        simulation.unsent -= 1
        if self._cancel:
            simulation.scheduler.after(self._cancel, self._stop)

    def _stop(self, _: object) -> None:
        machine = self._simulation._usable()
        if machine is not None and self.task is not None and not self._simulation.calm:
            self._simulation.cancel_run(machine, self.task)
