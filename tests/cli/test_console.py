"""What `stepwell dev` says of runs while they happen."""

from __future__ import annotations

import json

import pytest

from stepwell.cli.console import Console
from stepwell.engine.run import Phase, Run, Step
from stepwell.model import journal
from stepwell.model.ids import JobId, RunId, step_id
from stepwell.model.journal import Entry
from stepwell.model.payload import Blob

RUN = RunId("01KJWBG7G00000000000000007")
CHARGE = step_id("charge")
ERROR = b'{"name": "ValueError", "message": "bad\\u001b[2J row", "stack": "Traceback:\\n  File \\"app.py\\"\\n"}'


class Blobs:
    """A store that may be asked for large errors and for nothing else."""

    async def read_blobs(self, blobs: list[Blob]) -> list[bytes]:
        return [ERROR for _ in blobs]


def a_run(run: RunId = RUN) -> Run:
    steps = {CHARGE: Step(CHARGE, Phase.RETRYING, "charge")}
    return Run(run, function="shop-fulfil", created_at=1000, steps=steps)


async def told(*commits: tuple[Entry, ...], as_json: bool = False, run: Run | None = None) -> None:
    console = Console(Blobs(), as_json=as_json)  # type: ignore[arg-type]
    for entries in commits:
        console.moved(run or a_run(), entries)
    await console.tell_now()


async def test_a_run_that_ended_well_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    await told((journal.RunCompleted(at=3100),))
    assert capsys.readouterr().err == f" ✓ shop-fulfil completed 2.1 s  {RUN}\n"


async def test_a_failed_run_shows_the_traceback_and_nothing_that_moves_the_cursor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    await told((journal.RunFailed(at=3100, error=ERROR),))
    assert capsys.readouterr().err.splitlines() == [
        f" ✗ shop-fulfil failed  ValueError: bad [2J row  2.1 s  {RUN}",
        "     Traceback:",
        '       File "app.py"',
    ]


async def test_failed_attempts_say_when_the_next_one_is(capsys: pytest.CaptureFixture[str]) -> None:
    await told(
        (journal.StepRetried(at=10, step=CHARGE, error=b'{"name": "E", "message": "m"}', retry_at=15_010),),
        (
            journal.CallEnded(at=20, call=JobId("c"), outcome="failed", error=b'"broken"'),
            journal.CallScheduled(at=20, call=JobId("d"), attempt=1, due=90_020),
        ),
        (
            journal.CallEnded(at=25, call=JobId("d"), outcome="failed", error=b'"down"'),
            journal.CallScheduled(at=25, call=JobId("e"), target=CHARGE, attempt=1, due=25),
        ),
        (journal.StepFailed(at=30, step=CHARGE, error=Blob(hash="0" * 64, size_bytes=9)),),
    )
    assert capsys.readouterr().err.splitlines() == [
        " ↻ shop-fulfil  step 'charge' failed, next try in 15 s: E: m",
        " ↻ shop-fulfil  attempt failed, next try in 1 m 30 s: broken",
        " ↻ shop-fulfil  step 'charge' failed, trying again: down",
        " ✗ shop-fulfil  step 'charge' failed for good: ValueError: bad [2J row",
        "     Traceback:",
        '       File "app.py"',
    ]


async def test_attempts_that_fail_alike_show_their_traceback_once(capsys: pytest.CaptureFixture[str]) -> None:
    retried = journal.StepRetried(at=10, step=step_id("a"), name="a", error=ERROR, retry_at=20)
    await told((retried,), (retried,))
    assert capsys.readouterr().err.count("Traceback") == 1


async def test_of_no_end_of_runs_that_fail_a_traceback_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(Blobs())  # type: ignore[arg-type]
    retried = journal.StepRetried(at=10, step=CHARGE, error=ERROR, retry_at=20)
    for number in range(1_100):
        console.moved(a_run(RunId(f"{number:026}")), (retried,))
    await console.tell_now()
    assert len(console._stacks) == 1_000
    console.moved(a_run(RunId(f"{1_099:026}")), (journal.RunCompleted(at=30),))
    await console.tell_now()
    assert len(console._stacks) == 999


async def test_what_makes_no_line_is_not_kept() -> None:
    console = Console(Blobs())  # type: ignore[arg-type]
    console.moved(
        a_run(),
        (
            journal.StepCompleted(at=1, step=CHARGE, output=b"1"),
            journal.CallEnded(at=2, call=JobId("c"), outcome="answered"),
            journal.CallScheduled(at=2, call=JobId("d"), attempt=0, due=2),
        ),
    )
    assert console._moved == []


async def test_with_a_log_for_programs_each_line_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    await told((journal.RunFailed(at=3100, error=ERROR),), as_json=True)
    line = json.loads(capsys.readouterr().err)
    assert (line["message"], line["run"], line["level"]) == ("shop-fulfil failed", RUN, "warning")
    assert line["error"]["name"] == "ValueError"
