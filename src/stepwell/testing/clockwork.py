"""In some universes a function starts by the clock: every few seconds, through all the trouble and for a while after.

    trouble   occurrences may come late, and those that come too late for their own time are left out
    calm      once all nodes are well again, each occurrence comes
    then      the function is retired, or there would be no end

No occurrence ever comes twice, none that is no occurrence comes, and each that came has one run.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from stepwell.engine.cron import Schedule, parse
from stepwell.model.event import TICK, occurrence_text
from stepwell.model.function import Function, Service, Trigger
from stepwell.model.ids import step_id, ulid_time
from stepwell.testing.programs import Kind, Leaf, Program, Sequence
from stepwell.testing.world import at_once

if TYPE_CHECKING:
    from stepwell.model.ids import EventKey, Instant
    from stepwell.testing.simulation import Simulation

SLUG = "clock"
EACH_OCCURRENCE = "each occurrence once"

WELL_MS = 45_000
"""After so much calm every node is back, and what a lost one had is somebody else's."""
RETIRED_MS = 75_000
SLACK_MS = 2_000
"""How late an occurrence may be when all is well, and how old a node's knowledge of the services may be."""


class Clockwork:
    """The function of one universe that starts by the clock, if it has one; does nothing if not."""

    def __init__(self, simulation: Simulation) -> None:
        random = Random(f"clock {simulation.seed}")
        self._simulation = simulation
        self._schedule: Schedule | None = None
        self._text = f"@every {random.choice((11, 17, 23))}s"
        self._jitter_ms = random.choice((0, 0, 3_000))
        self._service = random.choice(("http", "live"))
        self._well_at: Instant = 0
        self._retired_at: Instant = 0
        if random.random() < 0.12:
            self._schedule = parse(self._text)

    def write(self) -> list[tuple[str, Function]]:
        """The function, with the service that has it."""
        if self._schedule is None:
            return []
        leaves = {
            leaf.id: leaf for leaf in (Leaf(Kind.STEP, name, id=step_id(name), ms=5) for name in ("tick", "tock"))
        }
        self._simulation.outside.programs[SLUG] = Program(Sequence(list(leaves.values())), leaves)
        return [(self._service, self._function())]

    def _function(self, *, archived: bool = False) -> Function:
        trigger = Trigger(cron=self._text, jitter_ms=self._jitter_ms)
        return Function(slug=SLUG, name=SLUG, service=self._service, triggers=(trigger,), archived=archived)

    @property
    def over(self) -> bool:
        return self._schedule is None or self._retired_at > 0

    def begin_calm(self) -> None:
        """The trouble is over; the function is soon retired."""
        if self._schedule is not None:
            self._well_at = self._simulation.scheduler.now + WELL_MS
            self._simulation.scheduler.after(RETIRED_MS, self._retire)

    def _retire(self, _: object) -> None:
        store = self._simulation.store
        (service,) = (one for one in at_once(store.services()) if one.name == self._service)
        others = (function for function in service.functions if function.slug != SLUG)
        functions = (*others, self._function(archived=True))
        at_once(store.put_service(Service(name=service.name, transport=service.transport, functions=functions)))
        self._retired_at = self._simulation.scheduler.now

    def wrong(self) -> str | None:
        """What is not as it must be at the end; None if all is well."""
        schedule, store = self._schedule, self._simulation.store
        if schedule is None:
            return None
        runs: dict[EventKey, int] = {}
        for row in store.run_rows.values():
            if row.function == SLUG and row.event is not None:
                runs[row.event] = runs.get(row.event, 0) + 1
        came: set[Instant] = set()
        for event in store.event_rows.values():
            if event.name != TICK:
                continue
            occurrence = ulid_time(event.key)
            if event.id != occurrence_text(occurrence) or schedule.after(occurrence - 1) != occurrence:
                return f"{event.id} is no occurrence of {self._text}"
            if occurrence in came:
                return f"occurrence {event.id} came twice"
            came.add(occurrence)
            count = runs.get(event.key, 0)
            if count > 1 or (count < 1 and event.received_at < self._retired_at - SLACK_MS):
                return f"occurrence {event.id} started {count} runs"
        due = schedule.after(self._well_at)
        while due is not None and due < self._retired_at - SLACK_MS:
            if due not in came:
                return f"occurrence {occurrence_text(due)} never came"
            due = schedule.after(due)
        return None
