"""What `stepwell dev` says of runs while they happen."""

from __future__ import annotations

import json

import pytest

from stepwell.cli.console import Console
from stepwell.model import journal
from stepwell.model.ids import JobId, RunId, step_id
from stepwell.model.job import RunRow, RunStatus
from stepwell.model.journal import Entry
from stepwell.model.payload import Blob
from stepwell.store.base import StoredRun

RUN = RunId("01KJWBG7G00000000000000007")
ERROR = b'{"name": "ValueError", "message": "bad\\u001b[2J row", "stack": "Traceback:\\n  File \\"app.py\\"\\n"}'


class Journals:
    """A store with one run; `read` counts how often it was asked for."""

    def __init__(self, status: RunStatus, *entries: Entry) -> None:
        self.entries = entries
        self.status = status
        self.read = 0

    async def load_run(self, run: RunId, after_seq: int = 0) -> StoredRun | None:
        self.read += 1
        row = RunRow(
            id=run,
            env="dev",
            shard=0,
            function="shop-fulfil",
            service="shop",
            status=self.status,
            seq=len(self.entries),
            created_at=1000,
        )
        return StoredRun(row, self.entries[after_seq:])

    async def read_blobs(self, blobs: list[Blob]) -> list[bytes]:
        return [ERROR for _ in blobs]


async def told(journals: Journals, *, as_json: bool = False, since: int = 0) -> None:
    console = Console(journals, as_json=as_json, since=since)  # type: ignore[arg-type]
    console.moved(RUN)
    console.moved(RUN)
    await console.tell_now()


async def test_a_run_that_ended_well_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    journals = Journals(RunStatus.COMPLETED, journal.RunCompleted(at=3100))
    await told(journals)
    assert capsys.readouterr().err == f" ✓ shop-fulfil completed 2.1 s  {RUN}\n"
    assert journals.read == 1


async def test_a_failed_run_shows_the_traceback_and_nothing_that_moves_the_cursor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    await told(Journals(RunStatus.FAILED, journal.RunFailed(at=3100, error=ERROR)))
    assert capsys.readouterr().err.splitlines() == [
        f" ✗ shop-fulfil failed  ValueError: bad [2J row  2.1 s  {RUN}",
        "     Traceback:",
        '       File "app.py"',
    ]


async def test_failed_attempts_say_when_the_next_one_is(capsys: pytest.CaptureFixture[str]) -> None:
    charge = step_id("charge")
    await told(
        Journals(
            RunStatus.RUNNING,
            journal.StepScheduled(at=5, step=charge, name="charge"),
            journal.StepRetried(at=10, step=charge, error=b'{"name": "E", "message": "m"}', retry_at=15_010),
            journal.CallEnded(at=20, call=JobId("c"), outcome="failed", error=b'"broken"'),
            journal.CallScheduled(at=20, call=JobId("d"), attempt=1, due=90_020),
            journal.StepFailed(at=30, step=charge, error=Blob(hash="0" * 64, size_bytes=9)),
        )
    )
    assert capsys.readouterr().err.splitlines() == [
        " ↻ shop-fulfil  step 'charge' failed, next try in 15 s: E: m",
        " ↻ shop-fulfil  attempt failed, next try in 1 m 30 s: broken",
        " ✗ shop-fulfil  step 'charge' failed for good: ValueError: bad [2J row",
        "     Traceback:",
        '       File "app.py"',
    ]


async def test_attempts_that_fail_alike_show_their_traceback_once(capsys: pytest.CaptureFixture[str]) -> None:
    retried = journal.StepRetried(at=10, step=step_id("a"), name="a", error=ERROR, retry_at=20)
    await told(Journals(RunStatus.RUNNING, retried, retried))
    assert capsys.readouterr().err.count("Traceback") == 1


async def test_what_happened_before_the_start_is_not_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    retried = journal.StepRetried(at=10, step=step_id("a"), error=b'"x"', retry_at=20)
    await told(Journals(RunStatus.COMPLETED, retried, journal.RunCompleted(at=3100)), since=3000)
    assert len(capsys.readouterr().err.splitlines()) == 1


async def test_with_a_log_for_programs_each_line_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    await told(Journals(RunStatus.FAILED, journal.RunFailed(at=3100, error=ERROR)), as_json=True)
    line = json.loads(capsys.readouterr().err)
    assert (line["message"], line["run"], line["level"]) == ("shop-fulfil failed", RUN, "warning")
    assert line["error"]["name"] == "ValueError"
