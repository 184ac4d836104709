"""The invariants, checked against what is stored: nothing here trusts the code that wrote it.

A run is sound when its journal folds to its row, tells of one beginning, one result for each step and at most
one end, and when its jobs and waits are exactly those that its state asks for: none missing (it would never go
on), none left over (it would do what nobody wants). All of that is a pure function of four reads.

    RunAudit     one journal, entry by entry; the simulator keeps one for every run it watches
    audit_run    the same from scratch
    Auditor      walks the live runs of a store, a page at a time, every minute, in production too

Invariants that no store can show (what really ran, what a clock said, memory) are checked by the simulator and the
tests from outside.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from stepwell.engine.run import Phase, Run, apply, hold_job
from stepwell.model import journal
from stepwell.model.event import DEV_ENV
from stepwell.model.job import JobKind
from stepwell.model.payload import blob_of
from stepwell.store.base import EventQuery, StoreFull, StoreUnavailable
from stepwell.store.batch import blobs_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell.model.ids import EventKey, Instant, JobId, RunId
    from stepwell.model.job import Job, RunRow, Wait
    from stepwell.model.journal import Entry
    from stepwell.model.payload import Blob
    from stepwell.node.clock import World
    from stepwell.store.base import Store

log = logging.getLogger("stepwell.node")

EVERY_MS = 60_000
PAGE = 100
MOST_FINDINGS = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken invariant. `invariant` is its short name, the same everywhere."""

    invariant: str
    text: str
    run: RunId | None = None

    def __str__(self) -> str:
        return (
            f"{self.invariant}: {self.text}" if self.run is None else f"{self.invariant}: run {self.run}: {self.text}"
        )


ONE_RESULT = "one result"
ONE_END = "one end"
PROGRESS = "progress"
NO_GHOST_WORK = "no ghost work"
FOLD = "replay truth"
HONEST = "honest figures"
TIME = "time"
NO_SILENCE = "no silence"
DURABLE = "durable acceptance"
LIMITS = "limits"

_RESULTS = frozenset({journal.StepCompleted, journal.StepFailed})
_ABOUT_STEPS = _RESULTS | {
    journal.StepScheduled,
    journal.SleepStarted,
    journal.WaitStarted,
    journal.InvokeStarted,
    journal.OffloadStarted,
    journal.OffloadLost,
    journal.StepRetried,
}
_WHILE_CANCELLING = frozenset({journal.CallEnded, journal.RunCancelled, journal.Noted})
_TIMED = frozenset({Phase.SLEEPING, Phase.WAITING, Phase.INVOKING, Phase.OFFLOADED})
_CALL, _TIMER, _OFFLOAD, _WAITING = JobKind.CALL, JobKind.TIMER, JobKind.OFFLOAD, Phase.WAITING
_OF_A_RUN = (_CALL, _TIMER, _OFFLOAD)


class RunAudit:
    """A run folded once more, suspiciously."""

    __slots__ = ("_used", "findings", "run")

    def __init__(self, row: RunRow) -> None:
        self.run = Run(row.id, env=row.env, shard=row.shard)
        self.findings: list[Finding] = []
        """What is wrong with the entries themselves."""
        self._used: set[JobId] = set()

    def take(self, entries: Iterable[Entry]) -> None:
        """More entries of the journal."""
        run = self.run
        for entry in entries:
            kind = type(entry)
            if (kind is journal.RunStarted) != (run.seq == 0):
                self._find(ONE_END, f"entry {run.seq + 1} is a {kind.__name__}")
            elif run.finished and kind is not journal.Noted:
                self._find(ONE_END, f"a {kind.__name__} follows the end")
            elif kind in _ABOUT_STEPS:
                step = run.steps.get(entry.step)  # type: ignore[union-attr, arg-type]
                if step is not None and step.finished:
                    what = ONE_RESULT if kind in _RESULTS else NO_GHOST_WORK
                    self._find(what, f"a {kind.__name__} follows the result of step {step.name or step.id!r}")
            elif run.cancelling is not None and kind not in _WHILE_CANCELLING:
                self._find(ONE_END, f"a {kind.__name__} of a run that is being cancelled")
            elif type(entry) is journal.CallScheduled:
                self._check_call(entry)
            elif type(entry) is journal.CallEnded and entry.call not in run.calls:
                self._find(ONE_RESULT, f"call {entry.call} ends a second time")
            apply(run, entry)

    def _check_call(self, entry: journal.CallScheduled) -> None:
        run = self.run
        if entry.call in self._used:
            self._find(NO_GHOST_WORK, f"two calls are called {entry.call}")
        self._used.add(entry.call)
        step = run.steps.get(entry.target) if entry.target is not None else None
        if step is not None and step.finished:
            self._find(NO_GHOST_WORK, f"step {step.name or step.id!r} is called again after its result")
        elif step is not None and entry.attempt < step.attempts:
            what = f"attempt {entry.attempt} of step {step.name or step.id!r}"
            self._find(HONEST, f"{what} is to be made, and {step.attempts} have failed")

    def check(self, row: RunRow, jobs: Iterable[Job], waits: Iterable[Wait]) -> list[Finding]:
        """Everything that is wrong with the run, given what else is stored of it."""
        run = self.run
        found = self.findings
        if row != run.row():
            self._find(FOLD, f"its row says {row}, its journal folds to {run.row()}")
        if run.finished:
            for job in jobs:
                # A child may end after its parent; the parent's mailbox then takes the message and drops it.
                if job.kind is not JobKind.WAKE:
                    self._find(ONE_END, f"it has ended and still has the job {job.id} ({job.kind})")
            for wait in waits:
                self._find(ONE_END, f"it has ended and still waits for {wait.event!r}")
        else:
            self._check_live({job.id: job for job in jobs}, waits)
        self.findings = []
        return found

    def _check_live(self, jobs: dict[JobId, Job], waits: Iterable[Wait]) -> None:
        run = self.run
        if run.holds and hold_job(run.id) not in jobs:
            self._find(LIMITS, "the job that has the slots of the whole run is missing")
        if not run.calls and not run.open and run.admitted:
            self._find(PROGRESS, "it lives and nothing will ever happen to it")
        elif run.admitted and not run.calls and not run.pending and run.news > run.covered:
            self._find(PROGRESS, f"nobody tells the function of its last {run.news - run.covered} results")
        deadlines = run.deadlines()
        needed = deadlines.union(run.calls)
        for call in run.calls.values():
            job = jobs.get(call.id)
            if job is None:
                self._find(PROGRESS, f"the job of call {call.id} is missing")
            elif job.kind is not _CALL or job.step != call.target or job.live != call.live:
                self._find(PROGRESS, f"the job {job.id} is not that of its call")
            if call.target is not None:
                step = run.steps.get(call.target)
                if step is not None and step.finished:
                    self._find(NO_GHOST_WORK, f"step {step.name or step.id!r} has its result and will be called")
        for timer in deadlines:
            if timer not in jobs:
                self._find(PROGRESS, f"the timer {timer} of its timeout is missing")
            elif run.cancelling is not None and jobs[timer].due != run.cancelling.until:
                self._find(TIME, f"the timer {timer} is due at {jobs[timer].due}, not at {run.cancelling.until}")
        listening = {listener.step for listener in run.listeners}
        for step_id in run.open:
            step = run.steps[step_id]
            if step.timer is not None:
                needed.add(step.timer)
                job = jobs.get(step.timer)
                kind = _TIMER if step.request is None else _OFFLOAD
                if job is None or job.kind is not kind:
                    self._find(PROGRESS, f"the timer of step {step.name!r} is missing")
                elif job.due != step.until:
                    self._find(TIME, f"the timer of step {step.name!r} is due at {job.due}, not at {step.until}")
            elif step.phase in _TIMED:
                self._find(PROGRESS, f"step {step.name!r} waits without a timer")
            elif step.phase is Phase.ASKING and not run.asks():
                pass  # a function that dropped it goes on with the others
            elif not any(call.target == step_id or call.target is None for call in run.calls.values()):
                self._find(PROGRESS, f"nobody will call step {step.name!r}")
            if step.phase is _WAITING:
                listening.add(step_id)
        for step_id in run.pending:
            if step_id not in run.open:
                self._find(PROGRESS, f"a group waits for step {step_id}, which nobody runs")
        for job in jobs.values():
            if job.id not in needed and job.kind in _OF_A_RUN:
                self._find(NO_GHOST_WORK, f"nobody needs the job {job.id} ({job.kind})")
        for wait in waits:
            if wait.step not in listening:
                self._find(NO_GHOST_WORK, f"nobody needs the wait for {wait.event!r}")
            listening.discard(wait.step)
        for step_id in listening:
            self._find(PROGRESS, f"the wait of step {step_id} is missing")

    def _find(self, invariant: str, text: str) -> None:
        self.findings.append(Finding(invariant, text, self.run.id))


def audit_run(row: RunRow, entries: Iterable[Entry], jobs: Iterable[Job], waits: Iterable[Wait]) -> list[Finding]:
    """Everything that is wrong with one run, from all that is stored of it."""
    audit = RunAudit(row)
    audit.take(entries)
    return audit.check(row, jobs, waits)


@dataclass(frozen=True, slots=True)
class Report:
    """What one walk over a store found."""

    checked_at: Instant
    runs: int  # live runs looked at
    skipped: int  # that changed while they were looked at; the next walk sees them again
    findings: tuple[Finding, ...] = ()  # at most `MOST_FINDINGS`

    @property
    def sound(self) -> bool:
        return not self.findings


@dataclass(slots=True)
class Auditor:
    """Walks a store again and again. It only reads, and lets others go first between runs.

    `latest` is what the status page shows; a finding is also logged, once, when it is new.
    """

    store: Store
    world: World
    every_ms: int = EVERY_MS
    latest: Report | None = None
    stopped: bool = False
    seen_since: dict[Finding, Instant] = field(default_factory=dict)
    """When each of the latest findings was made first."""

    async def run(self) -> None:
        """Audit until `stop`."""
        while not self.stopped:
            await self.world.sleep(self.every_ms)
            try:
                await self.audit()
            except (StoreFull, StoreUnavailable) as err:
                log.warning("the auditor could not read the store: %s", err)

    def stop(self) -> None:
        self.stopped = True

    async def audit(self) -> Report:
        """One walk over all live runs, and over the rows that belong to none."""
        checked_at = self.world.now()
        findings = [Finding(NO_GHOST_WORK, text) for text in await self._strays()]
        runs = skipped = 0
        after: RunId | None = None
        while page := await self.store.live_runs(after, PAGE):
            for row in page:
                found = await self._look_at(row.id)
                runs += 1
                if found is None:
                    skipped += 1
                elif len(findings) < MOST_FINDINGS:
                    findings.extend(found)
                await self.world.sleep(0)
            after = page[-1].id
        report = self.latest = Report(checked_at, runs, skipped, tuple(findings[:MOST_FINDINGS]))
        for finding in report.findings:
            if finding not in self.seen_since:
                log.error("broken invariant: %s", finding, extra={"run": finding.run})
        self.seen_since = {finding: self.seen_since.get(finding, checked_at) for finding in report.findings}
        return report

    async def audit_all(self) -> tuple[Report, int]:
        """Everything that is stored, once: also ended runs, and whether each text that is referred to can be read and
        is what its hash says. Returns also how many texts there are.
        """
        live = await self.audit()
        findings, runs, skipped = list(live.findings), live.runs, live.skipped
        texts: dict[str, bool] = {}
        envs = {DEV_ENV}
        for list_runs in (self.store.live_runs, partial(_ended_runs, self.store)):
            after: RunId | None = None
            while page := await list_runs(after, PAGE):
                for row in page:
                    envs.add(row.env)
                    stored = await self.store.load_run(row.id)
                    if stored is None:
                        continue
                    if stored.row.status.final and row.status.final:
                        runs += 1
                        found = await self._look_at(row.id)
                        skipped += found is None
                        findings += found or ()
                    for entry in stored.entries:
                        findings += await self._texts(blobs_of(entry), f"a {type(entry).__name__}", row.id, texts)
                after = page[-1].id
        for env in sorted(envs):
            before: EventKey | None = None
            while events := await self.store.events(EventQuery(env, before=before, limit=PAGE)):
                for event in events:
                    findings += await self._texts(blobs_of(event), f"event {event.key}", None, texts)
                before = events[-1].key
        return Report(live.checked_at, runs, skipped, tuple(findings[:MOST_FINDINGS])), len(texts)

    async def _texts(
        self, blobs: Iterable[Blob], where: str, run: RunId | None, known: dict[str, bool]
    ) -> list[Finding]:
        found: list[Finding] = []
        for blob in blobs:
            if (good := known.get(blob.hash)) is None:
                good = known[blob.hash] = await self._is_there(blob)
            if not good and (run is None or await self.store.run_row(run) is not None):
                found.append(Finding(DURABLE, f"{where} refers to the text {blob.hash}, which is lost or spoilt", run))
        return found

    async def _is_there(self, blob: Blob) -> bool:
        try:
            (text,) = await self.store.read_blobs([blob])
        except KeyError:
            return False
        return blob_of(text) == blob

    async def _strays(self) -> list[str]:
        """Rows that belong to nothing, if they still do at a second look: some are gone in a moment."""
        first = set(await self.store.stray_rows(MOST_FINDINGS))
        if not first:
            return []
        await self.world.sleep(1000)
        return [text for text in await self.store.stray_rows(MOST_FINDINGS) if text in first]

    async def _look_at(self, run: RunId) -> list[Finding] | None:
        """The findings of one run; None if it changed while being read."""
        stored = await self.store.load_run(run)
        if stored is None:
            return []
        jobs, waits = await self.store.jobs_of(run), await self.store.waits_of(run)
        again = await self.store.run_row(run)
        if again is None or again.seq != stored.row.seq:
            return None
        return audit_run(stored.row, stored.entries, jobs, waits)


async def _ended_runs(store: Store, after: RunId | None, limit: int) -> list[RunRow]:
    return await store.ended_runs(after, None, limit)
