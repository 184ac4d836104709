"""What must be true of a simulated universe: after every transition, and at its end.

The watcher audits each run that a transition touched and keeps a tail of what happened. The verdict compares the
journals with the programs, with the ledger of what really ran, and with the events that were really accepted.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Any

from stepwell.model import journal
from stepwell.model.dispatch import Memo
from stepwell.model.ids import EventKey, RunId, StepId, derived_ulid
from stepwell.model.job import RunStatus
from stepwell.model.payload import NULL, decode
from stepwell.node.auditor import FOLD, LIMITS, NO_GHOST_WORK, ONE_END, ONE_RESULT, PROGRESS, RunAudit
from stepwell.testing.clockwork import EACH_OCCURRENCE
from stepwell.testing.programs import Kind, Leaf, Program, look
from stepwell.testing.reruns import AS_RECORDED, is_rerun
from stepwell.testing.tasks import ONE_TASK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stepwell.model.ids import JobId
    from stepwell.model.job import Job, RunRow
    from stepwell.model.journal import Entry
    from stepwell.model.payload import Payload
    from stepwell.store.base import RunWrite, Transition
    from stepwell.store.memory import MemoryStore
    from stepwell.testing.ledger import Execution
    from stepwell.testing.simulation import Simulation
    from stepwell.testing.world import Scheduler

TAIL = 80
WHOLE_STORE_EVERY = 100
CLOCK_MS = 20
"""How far the time that a node reckons with may be from that of the store."""

FENCE = "fence"
ENOUGH = "enough to do"
"""Not about the nodes: a seed in which too little happens is a mistake of the simulator."""

LEAST_NODES = 2
LEAST_RUNS = 3

_SAID = frozenset({journal.StepCompleted, journal.StepFailed, journal.StepRetried})
_WAITS = (journal.SleepStarted, journal.WaitStarted, journal.InvokeStarted)


class Violation(AssertionError):
    """A seed broke an invariant."""

    def __init__(self, seed: int, invariant: str, text: str, tail: list[str]) -> None:
        self.seed = seed
        self.invariant = invariant
        story = "\n".join(f"    {line}" for line in tail)
        super().__init__(f"seed {seed}: {invariant}: {text}\n{story}")


class Watcher:
    """Looks at every transition as it is applied."""

    def __init__(self, store: MemoryStore, scheduler: Scheduler, *, story: bool = False) -> None:
        self.transitions = 0
        self.violation: tuple[str, str] | None = None
        self.cancelled: set[RunId] = set()
        self.live: dict[RunId, None] = {}
        self.waited = False
        """Whether a run has come to a wait for an event."""
        self._store = store
        self._scheduler = scheduler
        self._audits: dict[RunId, RunAudit] = {}
        self._written: dict[RunId, list[Entry]] = {}
        self._tail: deque[tuple[int, str | Transition, Any]] = deque(maxlen=None if story else TAIL)
        self._begun = scheduler.now
        self._suspect: RunId | None = None
        self._job_ids: set[JobId] = set()

    def tell(self, text: str, *values: Any) -> None:
        """Something worth reading if this seed fails."""
        self._tail.append((self._scheduler.now, text, values))

    def tail(self) -> list[str]:
        return [
            f"{(at - self._begun) / 1000:8.3f} {what % more if isinstance(what, str) else _told(what, more)}"
            for at, what, more in self._tail
        ]

    def fail(self, invariant: str, text: str, run: RunId | None = None) -> None:
        if self.violation is None:
            self.violation = (invariant, text)
            if run is not None:
                self._suspect = run

    def told(self) -> list[str]:
        """The tail, and all of the run that is wrong."""
        lines = self.tail()
        if self._suspect is not None:
            lines.append(f"the journal of {self._suspect}:")
            for number, entry in enumerate(self._store.journals.get(self._suspect, ()), 1):
                lines.append(f"{number:4} {(entry.at - self._begun) / 1000:8.3f} {_in_words(entry)}")
        return lines

    def on_transition(self, transition: Transition, removed: list[Job]) -> None:
        self.transitions += 1
        for job in transition.jobs:
            if job.id in self._job_ids:
                self.fail(NO_GHOST_WORK, f"job id {job.id} is used a second time", job.run)
            self._job_ids.add(job.id)
        self._tail.append((self._scheduler.now, transition, removed))  # in words only if somebody reads it
        write = transition.run
        if write is None:
            for job in (*transition.jobs, *removed):
                if job.run is not None and (audit := self._audits.get(job.run)) is not None:
                    self._check_stored(job.run, audit)
        else:
            run = write.row.id
            audit = self._audits.get(run)
            if audit is None:
                audit = self._audits[run] = RunAudit(write.row)
                self._written[run] = []
                self.live[run] = None
            self._check_fences(transition, write)
            audit.take(write.entries)
            self._written[run] += write.entries
            self.waited = self.waited or journal.WaitStarted in map(type, write.entries)
            if write.row.status.final:
                self.live.pop(run, None)
            self._check_stored(run, audit)
        for key, gate in self._store.book.gates.items():
            if gate.held > gate.limit:
                self.fail(LIMITS, f"{gate.held} jobs hold a slot of {key}, and {gate.limit} may")
        if self.transitions % WHOLE_STORE_EVERY == 0:
            self.check_rows()

    def _check_stored(self, run: RunId, audit: RunAudit) -> None:
        """The row, the jobs and the waits of a run are what its journal says."""
        store = self._store
        jobs = store.jobs_by_run.get(run)
        waits = store.waits_by_run.get(run)
        found = audit.check(store.run_rows[run], jobs.values() if jobs else (), waits.values() if waits else ())
        if found:
            self.fail(found[0].invariant, str(found[0]), run)

    def _check_fences(self, transition: Transition, write: RunWrite) -> None:
        """What a worker said is recorded only with the claim of the call that it said it about."""
        claimed: set[JobId] | None = None
        for entry in write.entries:
            if type(entry) is journal.CallEnded:
                source = entry.call if entry.outcome != "superseded" else None
            else:
                source = _source(entry) if type(entry) in _SAID else None
            if source is None:
                continue
            if claimed is None:
                claimed = {claim.job for claim in (*transition.ends, *transition.holds)}
            if source not in claimed:
                text = f"run {write.row.id}: a {type(entry).__name__} was recorded without the claim of its call"
                self.fail(FENCE, text, write.row.id)

    def is_recorded(self, run: RunId, step: StepId) -> bool:
        """Whether the store has the result of a step."""
        audit = self._audits.get(run)
        known = audit.run.steps.get(step) if audit is not None else None
        return known is not None and (known.finished or known.attempts > 0)

    def check_rows(self) -> None:
        """All rows, also those that the last transition did not touch."""
        for text in self._store.wrong_slots():
            self.fail(LIMITS, text)
        for run in sorted(self._audits.keys() & self._store.run_rows.keys()):
            self._check_stored(run, self._audits[run])

    def check_journals(self) -> None:
        """The journals are what was written and audited, and nothing else."""
        rows, journals, written = self._store.run_rows, self._store.journals, self._written
        for run in sorted(rows.keys() | journals.keys() | written.keys()):
            if run not in rows or run not in written or journals.get(run) != written[run]:
                self.fail(FOLD, f"the journal of run {run} is not what was written", run)


def _source(entry: Any) -> JobId | None:
    """The job whose doing an entry tells of."""
    exchange = getattr(entry, "exchange", None)
    source: JobId | None = entry.call if exchange is None else exchange.job
    return source


def _told(transition: Transition, removed: list[Job]) -> str:
    """One transition in words."""
    words = []
    if (write := transition.run) is not None:
        entries = "; ".join(map(_in_words, write.entries))
        words.append(f"{write.row.function} {write.row.id[-6:]} @{write.expected_seq}: {entries}")
    words += [f"event {event.name} {event.key[-6:]}" for event in transition.events]
    words += [f"+{job.kind}({_short(job)})" for job in transition.jobs]
    words += [f"-{job.kind}({_short(job)})" for job in removed]
    return " ".join(words)


def _short(job: Job) -> str:
    return job.id[-10:] if job.run is None else f"{job.run[-6:]}{job.id[26:]}"


def _in_words(entry: Entry) -> str:
    parts = [type(entry).__name__]
    for name in ("name", "index", "call", "target", "outcome", "attempt", "reason", "error", "output", "pending"):
        value = getattr(entry, name, None)
        if value not in (None, "", 0, ()):
            parts.append(value[26:] if name == "call" else str(value)[:60])
    return " ".join(parts)


class Verdict:
    """The end of a seed: is everything as it must be?"""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._store = simulation.store
        self._watcher = simulation.watcher
        self._run: RunId | None = None

    def give(self) -> None:
        """Raises `Violation` with the first thing that is wrong."""
        watcher, simulation = self._watcher, self._simulation
        if watcher.violation is None:
            for machine in simulation.machines:
                if machine.world is not None and machine.world.errors:
                    error = machine.world.errors[0]
                    text = f"an error escaped: {error!r}"
                    raise Violation(simulation.seed, "no silence", text, watcher.told()) from error
        if watcher.violation is None:
            watcher.check_rows()
            self._check_events()
            if wrong := self._simulation.clockwork.wrong():
                self._fail(EACH_OCCURRENCE, wrong)
            if (found := self._simulation.reruns.wrong()) is not None:
                self._watcher.fail(AS_RECORDED, found[1], found[0])
            if (found := self._simulation.tasks.wrong()) is not None:
                self._watcher.fail(ONE_TASK, found[1], found[0])
            for run in self._store.run_rows:
                self._run = run
                self._check_run(run)
            self._check_rows()
            self._run = None
            watcher.check_journals()
            self._check_enough()
        if watcher.violation is not None:
            raise Violation(simulation.seed, *watcher.violation, watcher.told())

    def _fail(self, invariant: str, text: str) -> None:
        self._watcher.fail(invariant, text, self._run)

    def _text(self, payload: Payload) -> bytes:
        return payload if isinstance(payload, bytes) else self._store.blobs[payload.hash]

    def _check_rows(self) -> None:
        store = self._store
        if store.job_rows or store.waits_by_run:
            self._fail(ONE_END, "jobs or waits are left over")

    def _check_enough(self) -> None:
        """What every seed has. Runs that went wrong are told before."""
        store, programs = self._store, self._simulation.outside.programs
        missing = []
        if len(store.nodes) < LEAST_NODES:
            missing.append(f"{len(store.nodes)} nodes of {LEAST_NODES}")
        if len(store.run_rows) < LEAST_RUNS:
            missing.append(f"{len(store.run_rows)} runs of {LEAST_RUNS}")
        if not any(programs[row.function].parallel for row in store.run_rows.values()):
            missing.append("no parallel group in the program of a run")
        if not self._watcher.waited:
            missing.append("no wait for an event in a journal")
        if missing:
            self._fail(ENOUGH, f"the simulator made this seed too small: {', '.join(missing)}")

    def _check_events(self) -> None:
        """What was acknowledged is there and started what it had to, once."""
        simulation, store = self._simulation, self._store
        for event in simulation.acknowledged:
            if event.key not in store.event_rows:
                self._fail("durable acceptance", f"event {event.key} was acknowledged and is gone")
        expected: dict[tuple[str, str], int] = {}
        for event in store.event_rows.values():
            for function in simulation.functions.values():
                if function.triggers[0].event != event.name:
                    continue
                which = (function.slug, event.id)
                expected[which] = expected.get(which, 0) + 1
        started: dict[tuple[str, str], int] = {}
        for row in store.run_rows.values():
            if row.event is not None and row.event in store.event_rows and not is_rerun(store.journals[row.id]):
                event = store.event_rows[row.event]
                which = (row.function, event.id)
                started[which] = started.get(which, 0) + 1
                if event.name.startswith("go/") and row.id != derived_ulid(event.received_at, event.key, row.function):
                    self._fail(ONE_RESULT, f"run {row.id} is not the run of its event")
        for which in expected:
            if started.get(which, 0) != 1:
                self._fail("durable acceptance", f"event {which[1]} started {started.get(which, 0)} runs of {which[0]}")

    def _check_run(self, run: RunId) -> None:
        simulation, store = self._simulation, self._store
        row = store.run_rows[run]
        entries = store.journals[run]
        if not row.status.final:
            self._fail(PROGRESS, f"run {run} never ended")
            return
        program = simulation.outside.programs[row.function]
        memos: dict[StepId, Memo] = {}
        order: dict[StepId, int] = {}
        found: defaultdict[type, list[Any]] = defaultdict(list)  # entries by type
        for entry in entries:
            found[type(entry)].append(entry)
            if type(entry) is journal.StepCompleted:
                order[entry.step] = len(order)
                memos[entry.step] = Memo(entry.step, "data", self._text(entry.output))
            elif type(entry) is journal.StepFailed:
                order[entry.step] = len(order)
                memos[entry.step] = Memo(entry.step, "error", self._text(entry.error))
        opened = {entry.step: entry for kind in _WAITS for entry in found[kind]}
        for entry in found[journal.StepCompleted]:
            if entry.origin is None:
                self._check_result(run, program.leaves[entry.step], entry, opened.get(entry.step))
        self._check_end(row, entries, look(program, memos, order))
        self._check_requests(run, found)
        self._check_ledger(run, program, found, entries[-2])

    def _check_end(self, row: RunRow, entries: list[Entry], progress: Any) -> None:
        end = entries[-1]
        if isinstance(end, journal.RunCompleted):
            if self._text(end.output) != progress.output:
                self._fail(
                    "replay truth", f"run {row.id} returned {end.output!r}, its journal gives {progress.output!r}"
                )
        elif isinstance(end, journal.RunFailed):
            if progress.error is None or end.error != progress.error:
                self._fail("replay truth", f"run {row.id} failed of {end.error!r}, its journal gives {progress}")
        elif row.status is RunStatus.CANCELLED:
            if isinstance(end, journal.RunCancelled) and end.event is not None:
                self._check_canceller(row, entries[0], EventKey(end.event))
            elif row.id not in self._watcher.cancelled:
                self._fail("no silence", f"run {row.id} was cancelled by nobody")

    def _check_canceller(self, row: RunRow, start: Entry, key: EventKey) -> None:
        assert isinstance(start, journal.RunStarted)
        event = self._store.event_rows.get(key)
        if event is None:
            self._fail("no silence", f"run {row.id} was cancelled by an unknown event")
        elif key == row.event or key in start.event_keys:
            self._fail("no silence", f"run {row.id} was cancelled by the event that started it")
        elif event.received_at < row.created_at:
            early = row.created_at - event.received_at
            self._fail("no silence", f"run {row.id} was cancelled by an event from {early} ms before it")

    def _check_result(self, run: RunId, leaf: Leaf, entry: journal.StepCompleted, opened: Any) -> None:
        if leaf.kind is Kind.STEP or leaf.kind is Kind.FETCH:
            executions = self._simulation.ledger.executions.get((run, leaf.id), [])
            output = self._text(entry.output)
            if not any(one.result == output and one.call == _source(entry) for one in executions):
                self._fail(ONE_RESULT, f"run {run}: the result of {leaf.name} is not that of an execution")
            return
        if leaf.kind is Kind.SLEEP:
            if entry.at < opened.until:
                self._fail("time", f"run {run}: {leaf.name} woke {opened.until - entry.at} ms early")
        elif leaf.kind is Kind.WAIT:
            self._check_wait(run, leaf, entry, opened)

    def _check_wait(self, run: RunId, leaf: Leaf, entry: journal.StepCompleted, opened: Any) -> None:
        if entry.output == NULL:
            if leaf.sure:
                self._fail("event behind the wait", f"run {run}: {leaf.name} missed its event")
            elif entry.at < opened.until:
                self._fail("time", f"run {run}: {leaf.name} gave up {opened.until - entry.at} ms early")
            return
        event = self._store.event_rows.get(EventKey(entry.event or ""))
        if event is None or event.name != leaf.event or event.body != entry.output:
            self._fail(ONE_RESULT, f"run {run}: {leaf.name} got something that is not its event")
            return
        if event.received_at < opened.since:
            early = opened.since - event.received_at
            self._fail("event behind the wait", f"run {run}: {leaf.name} got an event that is {early} ms too old")
        if leaf.expression is not None:
            start = self._store.journals[run][0]
            assert isinstance(start, journal.RunStarted)
            mine, got = start.events[0], event.body
            assert isinstance(mine, bytes)
            assert isinstance(got, bytes)
            if decode(mine)["data"].get("k") != decode(got)["data"].get("k"):
                self._fail(ONE_RESULT, f"run {run}: {leaf.name} got somebody else's event")

    def _check_ledger(self, run: RunId, program: Program, found: Mapping[type, list[Any]], end: Entry) -> None:
        """Each execution is the recorded one, or something that is recorded explains it; `end` is the last entry but
        one."""
        executions = self._simulation.ledger.executions
        recorded = Counter((entry.step, entry.call) for kind in _SAID for entry in found[kind])
        outcomes = {entry.call: entry.outcome for entry in found[journal.CallEnded]}
        scheduled = {entry.call for entry in found[journal.CallScheduled]}
        for leaf in program.leaves.values():
            if leaf.kind is not Kind.STEP:
                continue
            seen: dict[JobId, int] = {}
            for execution in executions.get((run, leaf.id), ()):
                seen[execution.call] = seen.get(execution.call, 0) + 1
                self._explain(leaf, execution, scheduled, recorded, outcomes, seen[execution.call], end)

    def _check_requests(self, run: RunId, found: Mapping[type, list[Any]]) -> None:
        """Each job made its request at most once, and as often as an answer was not the result there is a new key."""
        keys: dict[StepId, int] = {}
        jobs: set[JobId | None] = set()
        for entry in (*found[journal.OffloadStarted], *found[journal.OffloadLost]):
            jobs.add(entry.job)
            keys[entry.step] = 1
        for entry in found[journal.StepRetried]:
            if entry.exchange is not None:
                jobs.add(entry.timer)
                keys[entry.step] += entry.exchange.status > 0
        for step, allowed in keys.items():
            made = self._simulation.ledger.executions.get((run, step), [])
            calls = [execution.call for execution in made]
            if len(set(calls)) < len(calls) or not set(calls) <= jobs:
                self._fail("no ghost work", f"run {run}: requests of step {step} were made by {calls}")
            if len({execution.key for execution in made}) > allowed:
                self._fail("honest figures", f"run {run}: step {step} has more than {allowed} keys for its requests")

    def _explain(
        self,
        leaf: Leaf,
        execution: Execution,
        scheduled: set[JobId],
        recorded: Counter[tuple[StepId, JobId]],
        outcomes: Mapping[JobId, str],
        times: int,
        end: Entry,
    ) -> None:
        call = execution.call
        outcome = outcomes.get(call)
        # What was still running when the call was lost, or when the function returned: the loser of a race.
        unfinished = outcome in ("lost", "declined", "failed", "superseded", None) or (
            isinstance(end, journal.CallEnded) and end.call == call
        )
        if call not in scheduled:
            self._fail("no ghost work", f"{leaf.name} ran in call {call}, which was never scheduled")
        elif call not in self._simulation.ledger.doubled and times > recorded[leaf.id, call] + unfinished:
            self._fail("no ghost work", f"{leaf.name} ran {times} times in call {call}, and nothing explains that")
