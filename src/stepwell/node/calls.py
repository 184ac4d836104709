"""A call of a worker, put together from a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.engine.rerun import input_to_give
from stepwell.engine.run import Phase, Run, Step
from stepwell.model.dispatch import Dispatch, Kept, Memo
from stepwell.model.payload import Blob, Payload, size_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from stepwell.model.function import Function
    from stepwell.model.job import Job
    from stepwell.model.journal import InputEdited


_FAILED, _ASKING = Phase.FAILED, Phase.ASKING


def memo_of(step: Step, text: bytes) -> Memo:
    """The recorded result of a finished step as workers are given it."""
    if step.phase is _FAILED:
        return Memo(step.id, "error", text, step.name)
    return Memo(step.id, "bare" if step.bare else "data", text, step.name)


def result_of(step: Step) -> Payload:
    """The payload of a finished step, whichever way it finished."""
    return step.error if step.phase is _FAILED and step.error is not None else step.output


def memo_of_input(edit: InputEdited, text: bytes) -> Memo:
    """The input that a step without a result is to have, as workers are given it."""
    return Memo(edit.step, "input", text, edit.name)


def dispatch_of(
    run: Run,
    job: Job,
    function: Function,
    events: tuple[bytes, ...],
    texts: Callable[[Iterable[Payload]], Awaitable[list[bytes]]],
) -> Dispatch:
    """Everything about the call `job`, all of it from one moment of the run.

    Args:
        run: As it is now.
        job: The call; ours.
        function: Whose code is called.
        events: Texts of the run's events.
        texts: Reads payloads. Large results are fetched only once the performer has room for them.
    """
    kept: Kept | None = _kept(run)
    assert kept is not None
    memos, size_bytes, load_memos = tuple(kept.memos), kept.size_bytes, None
    edit = input_to_give(run)
    if kept.large or (edit is not None and isinstance(edit.input, Blob)):
        finished = [run.steps[step_id] for step_id in run.stack]
        results = [result_of(step) for step in finished]
        blanks = [memo_of(step, b"") for step in finished]
        if edit is not None:
            results.append(edit.input)
            blanks.append(memo_of_input(edit, b""))
        size_bytes = sum(map(size_of, results))
        memos = ()

        async def load() -> tuple[Memo, ...]:
            found = await texts(results)
            return tuple(
                Memo(blank.step, blank.shape, text, blank.name) for blank, text in zip(blanks, found, strict=True)
            )

        load_memos = load
    elif edit is not None and isinstance(edit.input, bytes):
        memos = (*memos, memo_of_input(edit, edit.input))
        size_bytes += len(edit.input)
    if edit is not None:
        kept = None  # what is made of memos once stays, and an input is gone when its step has a result
    unfinished = run.steps.values() if len(run.stack) < len(run.steps) else ()
    return Dispatch(
        job=job.id,
        fence=job.fence,
        run=run.id,
        function=function,
        target=job.step,
        attempt=job.attempt,
        max_attempts=run.max_attempts,
        live=job.live,
        events=events,
        memos=memos,
        waiting=tuple([step_id for step_id in run.open if run.steps[step_id].phase is not _ASKING]),
        attempts={step.id: step.attempts for step in unfinished if step.attempts and not step.finished},
        stack=tuple(run.stack),
        version=run.version,
        disable_immediate_execution=run.must_plan() or (job.id in run.calls and run.calls[job.id].plans),
        news=run.news,
        started_at=run.created_at,
        memo_bytes=size_bytes,
        load_memos=load_memos,
        kept=kept,
        lingers=not job.slots,
    )


def _kept(run: Run) -> Kept:
    """The memos of a run, with those of the results that have come since its last call."""
    kept = run.kept
    if kept is None:
        kept = run.kept = Kept()
    if not kept.large:
        for step_id in run.stack[len(kept.memos) :]:
            step = run.steps[step_id]
            result = result_of(step)
            if isinstance(result, Blob):
                run.kept = Kept(large=True)  # another one: a call in line may have the first
                return run.kept
            kept.memos.append(memo_of(step, result))
            kept.size_bytes += len(result)
    return kept
