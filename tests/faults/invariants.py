"""The global invariants, asked of a database that a scenario left behind.

journals    counted here, entry by entry, without the engine: one beginning, one result a step, one end
the auditor of the server, run by run over all that is stored, ended runs included
ledger      what really ran, against what is recorded: every extra execution needs a kill in the middle of it
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.model import journal
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import RunId
from stepwell.model.job import Job, Wait
from stepwell.node.auditor import audit_run
from stepwell.store.base import RunQuery, StoredRun
from tests.faults.harness import Line, Server
from tests.faults.stored import Stored

_ENDS = (journal.RunCompleted, journal.RunFailed, journal.RunCancelled)
_RESULTS = (journal.StepCompleted, journal.StepFailed)
_SHOWN = 10


@dataclass(slots=True)
class Tally:
    """What a database holds, counted."""

    runs: int = 0
    live: int = 0
    results: int = 0
    lost_calls: int = 0
    findings: list[str] = field(default_factory=list)
    results_of: dict[str, set[str]] = field(default_factory=dict)  # names of steps with a result, by run
    recorded_at: dict[tuple[str, str], float] = field(default_factory=dict)  # when, by run and name; seconds


async def tally(store: Stored, *, quiet: bool = False) -> Tally:
    """Count and audit everything. `quiet`: nothing is live any more, so nothing may be left to do."""
    found = Tally()
    before: RunId | None = None
    while page := await store.runs(RunQuery(env=DEV_ENV, before=before, limit=500)):
        for row in page:
            stored = await store.load_run(row.id)
            assert stored is not None
            _count(stored, await store.jobs_of(row.id), await store.waits_of(row.id), found)
        before = page[-1].id
    found.findings += [f"no ghost work: {text}" for text in await store.stray_rows(100)]
    if quiet:
        if found.live:
            found.findings.append(f"{found.live} runs are still live")
        counted = await store.status()
        found.findings += [f"{counted[name]} {name} are left" for name in ("jobs", "waits") if counted[name]]
    return found


async def assert_sound(server: Server, *, quiet: bool = False) -> Tally:
    """Nothing that is stored breaks an invariant, once nothing runs."""
    async with server.stored() as store:
        found = await tally(store, quiet=quiet)
    assert not found.findings, "\n".join([f"{len(found.findings)} findings:", *found.findings[:_SHOWN]])
    return found


async def settled(server: Server, seconds: float = 10) -> None:
    """The same while it runs: some rows are there for a moment only, and runs may move while they are looked at."""
    deadline = time.monotonic() + seconds
    while True:
        async with server.stored() as store:
            found = await tally(store)
        if not found.findings or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.2)
    assert not found.findings, "\n".join([f"{len(found.findings)} findings:", *found.findings[:_SHOWN]])


def _count(stored: StoredRun, jobs: Sequence[Job], waits: Sequence[Wait], found: Tally) -> None:
    run = stored.row.id
    entries: Sequence[Any] = stored.entries
    found.runs += 1
    found.live += not stored.row.status.final
    if len(entries) != stored.row.seq:
        found.findings.append(f"run {run}: {len(entries)} entries, and its row says {stored.row.seq}")
    results = Counter(entry.step for entry in entries if isinstance(entry, _RESULTS))
    ends = sum(isinstance(entry, _ENDS) for entry in entries)
    if repeated := [step for step, times in results.items() if times > 1]:
        found.findings.append(f"one result: run {run}: several of steps {repeated}")
    if ends != stored.row.status.final:
        found.findings.append(f"one end: run {run} is {stored.row.status} and has {ends} ends")
    if sum(isinstance(entry, journal.RunStarted) for entry in entries) != 1:
        found.findings.append(f"one beginning: run {run} has several")
    found.results += len(results)
    found.lost_calls += sum(isinstance(entry, journal.CallEnded) and entry.outcome == "lost" for entry in entries)
    names = {entry.step: entry.name for entry in entries if getattr(entry, "name", "")}
    found.results_of[run] = {names.get(step, step) for step in results}
    for entry in entries:
        if isinstance(entry, _RESULTS):
            found.recorded_at[run, names.get(entry.step, entry.step)] = entry.at / 1000
    found.findings += [str(finding) for finding in audit_run(stored.row, entries, jobs, waits)]


def extra_executions(
    ledger: Iterable[Line], kills: Sequence[float], *, on_the_way_s: float = 10.0, unnoticed_s: float = 1.0
) -> tuple[int, list[str]]:
    """Executions beyond the first of each step, and those of them that no kill explains.

    A step may run again only if a kill came between: not long after it began, since its result must still have been on
    its way, or a moment before, since the worker had not noticed yet.
    """
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in ledger:
        times[line.run, line.step].append(line.at)
    extra, unexplained = 0, []
    for (run, step), executed in times.items():
        executed.sort()
        for before, again in itertools.pairwise(executed):
            extra += 1
            if not any(before - unnoticed_s <= kill <= min(again, before + on_the_way_s) for kill in kills):
                near = min((kill - before for kill in kills), key=abs, default=None)
                unexplained.append(f"step {step} of run {run} ran again after {again - before:.3f} s; kill at {near} s")
    return extra, unexplained


def late_executions(ledger: Iterable[Line], recorded: Tally, *, unnoticed_s: float = 1.0) -> list[str]:
    """Steps that began although their result was recorded: whatever was killed, nothing may repeat them any more.

    One that was handed out before may begin a moment after.
    """
    return [
        f"step {line.step} of run {line.run} began {line.at - at:.3f} s after its result was recorded"
        for line in ledger
        if (at := recorded.recorded_at.get((line.run, line.step))) is not None and line.at > at + unnoticed_s
    ]


def missing_executions(ledger: Iterable[Line], recorded: Tally) -> list[str]:
    """Results of steps that never ran, according to the ledger, where the names of steps are the same."""
    ran: dict[str, set[str]] = defaultdict(set)
    for line in ledger:
        ran[line.run].add(line.step)
    return [
        f"steps {sorted(steps - ran[run])} of run {run} have results and never ran"
        for run, steps in recorded.results_of.items()
        if ran[run] and steps - ran[run] - {"nap"}
    ]
