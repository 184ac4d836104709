"""What a worker is given of a run, and what is kept of it for the next call."""

from __future__ import annotations

from collections.abc import Iterable

from stepwell.engine.run import Phase, Run, Step
from stepwell.model.dispatch import Dispatch, Memo
from stepwell.model.ids import JobId, RunId, StepId
from stepwell.model.job import Job, JobKind
from stepwell.model.payload import Blob, Payload
from stepwell.node.calls import dispatch_of
from tests.workers.apps import a_dispatch

LARGE = b"1" * 20_000


async def texts(payloads: Iterable[Payload]) -> list[bytes]:
    return [LARGE if isinstance(one, Blob) else one for one in payloads]


def dispatch(run: Run) -> Dispatch:
    job = Job(id=JobId("j"), kind=JobKind.CALL, due=0, env="dev", shard=0, run=run.id)
    return dispatch_of(run, job, a_dispatch().function, (b"{}",), texts)


def finish(run: Run, name: str, output: Payload = b"1", *, error: Payload | None = None) -> StepId:
    step = StepId(name)
    run.steps[step] = Step(
        step, Phase.DONE if error is None else Phase.FAILED, name.upper(), output=output, error=error
    )
    run.stack.append(step)
    return step


def test_memos_are_made_once_and_further_ones_join_them() -> None:
    run = Run(RunId("r"))
    a, b = finish(run, "a"), finish(run, "b", error=b"{}")
    first = dispatch(run)
    assert first.memos == (Memo(a, "data", b"1", "A"), Memo(b, "error", b"{}", "B"))
    c = finish(run, "c", b"[22]")
    second = dispatch(run)
    assert (second.memos[2], second.stack, second.memo_bytes) == (Memo(c, "data", b"[22]", "C"), (a, b, c), 7)
    assert second.kept is first.kept
    assert all(one is other for one, other in zip(first.memos, second.memos, strict=False))
    assert (len(first.memos), first.memo_bytes) == (2, 3)


async def test_with_a_large_result_all_are_read_when_there_is_room() -> None:
    run = Run(RunId("r"))
    a = finish(run, "a")
    first = dispatch(run)
    b = finish(run, "b", Blob("0" * 64, len(LARGE)))
    second = dispatch(run)
    c = finish(run, "c")
    third = dispatch(run)
    assert (second.memos, second.memo_bytes, second.stack) == ((), 1 + len(LARGE), (a, b))
    assert second.load_memos is not None
    assert third.load_memos is not None
    assert await second.load_memos() == (Memo(a, "data", b"1", "A"), Memo(b, "data", LARGE, "B"))
    assert [memo.step for memo in await third.load_memos()] == [a, b, c]
    assert first.kept is not None
    assert first.kept.memos == list(first.memos)


def test_attempts_are_those_of_steps_without_a_result() -> None:
    run = Run(RunId("r"))
    a = finish(run, "a")
    run.steps[a].attempts = 2
    assert dispatch(run).attempts == {}
    b = StepId("b")
    run.steps[b] = Step(b, Phase.RETRYING, attempts=1)
    run.open.add(b)
    assert (dispatch(run).attempts, dispatch(run).waiting) == ({b: 1}, (b,))
