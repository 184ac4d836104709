"""In some universes somebody makes ended runs again: from their beginning or from a step, with its input or another.

trouble   the request is made of any node until one answers, and perhaps of two at once, under one key
verdict   each request made one run; what it kept is the record of the other run and was not executed; the edited
          input reached every execution of its step, and no other step
"""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from stepwell.engine.rerun import Recorded, recorded_steps
from stepwell.model import journal
from stepwell.model.errors import Conflict
from stepwell.model.payload import canonical
from stepwell.store.base import StoreFull, StoreUnavailable
from stepwell.testing.programs import Kind
from stepwell.testing.world import START

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell.model.ids import RunId, StepId
    from stepwell.model.journal import Entry
    from stepwell.testing.programs import Program
    from stepwell.testing.simulation import Machine, Simulation

AS_RECORDED = "as recorded"
_LATEST_MS = 28_000
_LOOK_AGAIN_MS = 700


class Reruns:
    """What is made again in one universe."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._random = Random(f"reruns {simulation.seed}")
        self._asked: list[_Asking] = []

    def plan(self) -> None:
        """Decide how often, and when."""
        random = self._random
        for number in range(random.choice((0, 0, 1, 1, 2))):
            asking = _Asking(self._simulation, random, f"again-{number}")
            self._asked.append(asking)
            self._simulation.unsent += 1
            self._simulation.scheduler.at(START + random.randrange(4_000, _LATEST_MS), asking.choose)

    def wrong(self) -> tuple[RunId | None, str] | None:
        """What is not as it must be, and of which run."""
        journals = self._simulation.store.journals
        made = {run for run, entries in journals.items() if _origin(entries) is not None}
        for asking in self._asked:
            if asking.run is not None and asking.run not in made:
                return asking.run, f"request {asking.key} was answered with run {asking.run}, which is not there"
        if len(made) != len({asking.run for asking in self._asked}):
            return None, f"{len(self._asked)} requests made the runs {sorted(made)}"
        for asking in self._asked:
            if asking.run is not None and (text := self._wrong(asking, asking.run)):
                return asking.run, text
        return None

    def _wrong(self, asking: _Asking, run: RunId) -> str:
        store, ledger = self._simulation.store, self._simulation.ledger
        old, new = _results(store.journals[asking.origin]), _results(store.journals[run])
        kept = {step: entry for step, entry in new.items() if entry.origin is not None}
        first = asking.step.id if asking.step is not None else None
        expected = []
        for step in old if first is not None else ():
            if step == first:
                break
            expected.append(step)
        if list(kept) != expected:
            return f"kept {list(kept)} and was to keep {expected}"
        for step, entry in kept.items():
            if _result(entry) != _result(old[step]) or entry.origin != (old[step].origin or asking.origin):
                return f"step {entry.name} is not as run {asking.origin} recorded it"
            if ledger.executions.get((run, step)):
                return f"step {entry.name} was kept and executed all the same"
        for (where, step), executions in ledger.executions.items():
            given = asking.edited if where == run and step == first else b""
            if where == run and any(execution.given != given for execution in executions):
                return f"step {step} was executed with {[one.given for one in executions]} and was to have {given!r}"
        return ""


class _Asking:
    """A request to make a run again. Whoever gets no answer asks again, under the same key."""

    __slots__ = ("_done", "_random", "_simulation", "edited", "key", "origin", "run", "step")

    def __init__(self, simulation: Simulation, random: Random, key: str) -> None:
        self._simulation = simulation
        self._random = random
        self._done = False
        self.key = key
        self.origin: RunId
        self.step: Recorded | None = None
        self.edited = b""
        self.run: RunId | None = None

    def choose(self, _: object = None) -> None:
        """Take an ended run, once there is one."""
        simulation, random = self._simulation, self._random
        rows = simulation.store.run_rows
        ended = [run for run, row in rows.items() if row.status.final and row.function in simulation.functions]
        if not ended:
            simulation.scheduler.after(_LOOK_AGAIN_MS, self.choose)
            return
        self.origin = random.choice(ended)
        entries = simulation.store.journals[self.origin]
        program = simulation.outside.programs[simulation.store.run_rows[self.origin].function]
        steps = [step for step in recorded_steps(entries).values() if _leads_on(program, entries, step.id)]
        if steps and random.random() < 0.85:
            self.step = random.choice(steps)
            if program.leaves[self.step.id].kind in (Kind.STEP, Kind.FETCH) and random.random() < 0.7:
                self.edited = canonical({"body": self.key} if self.step.offloaded else [self.key])
        for _again in range(2 if random.random() < 0.3 else 1):
            self.attempt()

    def attempt(self, _: object = None) -> None:
        simulation = self._simulation
        if self._done:
            return
        machine = simulation._usable()
        if machine is not None and machine.world is not None:
            machine.world.do(machine.world.spawn, self._make(machine))
        simulation.scheduler.after(4_000, self.attempt)

    async def _make(self, machine: Machine) -> None:
        node = machine.node
        assert node is not None
        try:
            stored = await node.store.load_run(self.origin)
            assert stored is not None, "no run is removed here"
            made = await node.rerun(stored, step=self.step, edited=self.edited or None, key=self.key)
        except (StoreFull, StoreUnavailable, Conflict):
            return
        self._simulation.scheduler.after(self._simulation.outside.latency(), partial(self._answered, made.run))

    def _answered(self, run: RunId, _: object) -> None:
        if self.run is not None and self.run != run:
            self._simulation.watcher.fail(AS_RECORDED, f"request {self.key} made {self.run} and {run}", run)
        self.run = run
        if not self._done:
            self._done = True
            self._simulation.unsent -= 1


def is_rerun(entries: Sequence[Entry]) -> bool:
    """Whether a journal is that of a run made again."""
    return _origin(entries) is not None


def _origin(entries: Sequence[Entry]) -> RunId | None:
    start = entries[0]
    return start.origin if isinstance(start, journal.RunStarted) else None


def _results(entries: Iterable[Entry]) -> dict[StepId, journal.StepCompleted | journal.StepFailed]:
    """The results of a run, in their order."""
    results = (entry for entry in entries if isinstance(entry, journal.StepCompleted | journal.StepFailed))
    return {entry.step: entry for entry in results}


def _result(entry: journal.StepCompleted | journal.StepFailed) -> object:
    return entry.output if isinstance(entry, journal.StepCompleted) else entry.error


def _leads_on(program: Program, entries: Iterable[Entry], step: StepId) -> bool:
    """Whether a run that begins at a step can end: an event that a kept step has sent comes to no new wait."""
    kept: set[StepId] = set()
    for result in _results(entries):
        if result == step:
            break
        kept.add(result)
    sent = {leaf.sends for leaf in program.leaves.values() if leaf.sends and leaf.id in kept}
    waits = [leaf for leaf in program.leaves.values() if leaf.kind is Kind.WAIT and leaf.sure and leaf.id not in kept]
    return not any(leaf.event in sent for leaf in waits)
