"""The auditor finds what is wrong with a store, and nothing else."""

from __future__ import annotations

from msgspec.structs import replace

from stepwell.model import journal
from stepwell.model.ids import JobId, RunId
from stepwell.model.job import Job, JobKind, RunStatus
from stepwell.node.auditor import Auditor, audit_run
from stepwell.testing.node import InMemoryNode
from tests.node.cases import done, planned, reply, service, wait


def a_busy_node() -> tuple[InMemoryNode, RunId]:
    node = InMemoryNode(service())
    node.send("go/f")
    (call,) = node.worker.calls
    reply(node, call, planned("a"), wait("w", "paid"))
    (run,) = node.runs()
    return node, run.id


def findings(node: InMemoryNode, run: RunId) -> list[str]:
    store = node.store
    found = audit_run(
        store.run_rows[run],
        store.journals[run],
        store.jobs_by_run.get(run, {}).values(),
        store.waits_by_run.get(run, {}).values(),
    )
    return [f"{one.invariant}: {one.text}" for one in found]


def test_a_sound_run_has_no_findings() -> None:
    node, run = a_busy_node()
    assert findings(node, run) == []
    report = node.do(Auditor(node.store, node.world).audit())
    assert report.sound
    assert (report.runs, report.skipped) == (1, 0)


def test_a_missing_call_or_timer_is_found() -> None:
    node, run = a_busy_node()
    node.store.jobs_by_run[run].clear()
    found = " ".join(findings(node, run))
    assert "progress: the job of call" in found
    assert "progress: the timer of step 'w' is missing" in found


def test_a_missing_wait_is_found() -> None:
    node, run = a_busy_node()
    node.store.waits_by_run[run].clear()
    assert findings(node, run)[0].startswith("progress: the wait of step")


def test_a_job_that_nobody_needs_is_found() -> None:
    node, run = a_busy_node()
    jobs = node.store.jobs_by_run[run]
    extra = replace(next(iter(jobs.values())), id=JobId("extra"))
    jobs[extra.id] = extra
    assert findings(node, run) == [f"no ghost work: nobody needs the job extra ({extra.kind})"]


def test_a_row_that_says_something_else_than_its_journal_is_found() -> None:
    node, run = a_busy_node()
    node.store.run_rows[run] = replace(node.store.run_rows[run], status=RunStatus.COMPLETED)
    assert findings(node, run)[0].startswith("replay truth: its row says")


def test_whatever_follows_the_end_is_found() -> None:
    node = InMemoryNode(service())
    node.send("go/f")
    (call,) = node.worker.calls
    reply(node, call, done("x"))
    (run,) = node.runs()
    node.do(node.node.cancel(run.id, "enough"))
    node.store.journals[run.id].append(journal.RunCompleted(at=1))
    assert "one end: a RunCompleted follows the end" in findings(node, run.id)


def test_an_ended_run_that_keeps_a_job_is_found_by_the_walk() -> None:
    node, run = a_busy_node()
    node.do(node.node.cancel(run, "enough"))
    job = node.event("x")
    node.store._add_job(Job(id=JobId(job.key), kind=JobKind.TIMER, due=1, run=run))
    report = node.do(Auditor(node.store, node.world).audit())
    assert not report.sound
    assert "ended run" in report.findings[0].text


def test_the_auditor_looks_again_every_minute() -> None:
    node, _ = a_busy_node()
    auditor = Auditor(node.store, node.world)
    node.world.spawn(auditor.run())
    node.pass_time(seconds=61)
    assert auditor.latest is not None
    first = auditor.latest.checked_at
    node.pass_time(seconds=61)
    assert auditor.latest.checked_at > first
    auditor.stop()
