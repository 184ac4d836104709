"""Run a function in a test: in memory, without a server, in a moment.

    run = stepwell.testing.run(ship, order_paid(Order("o1")), steps={"charge": Receipt("r1")})
    assert run.output == "label-o1"
    assert run.steps["charge"].attempts == 1
    assert run.took == timedelta(hours=1)  # it slept that long, which took no time

Elsewhere: how it is done (`driver.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, NoReturn, TypeVar, cast, overload

from stepwell.model.event import INVOKED, TICK, occurrence_text, tick_data
from stepwell.model.ids import Instant
from stepwell.model.payload import decode
from stepwell.sdk.client.errors import RunFailed
from stepwell.sdk.event import Cron, Event
from stepwell.sdk.function import Function
from stepwell.sdk.outcome import Outcome, Raised, Returned, step_error
from stepwell.sdk.types import decode_result
from stepwell.testing.driver import (
    Answers,
    Driver,
    NotAnswered,
    NotRepeatable,
    Track,
    not_the_same,
    sent_events,
    started_by,
)

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

__all__ = ["FinishedRun", "NotAnswered", "NotRepeatable", "RecordedStep", "RecordedSteps", "run", "run_async"]


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One step of a finished run.

    Attributes:
        name: Its id, as the function writes it.
        index: Which use of that id, from 0.
        completed: It has a result.
        output: The result, of the type that the function sees; the event or None of a wait.
        error: What was raised at its await when it failed for good.
        attempts: How often its body ran; 0 for what has none.
    """

    name: str
    index: int
    completed: bool
    output: Any
    error: BaseException | None
    attempts: int


class RecordedSteps(dict[str, RecordedStep]):
    """Steps in the order in which they were found: `charge`, and `charge:1` for the second use of that id."""

    def __missing__(self, name: str) -> NoReturn:
        raise KeyError(f"no step {name!r}; there are: {', '.join(self) or 'none'}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun(Generic[R_co]):
    """How a run ended.

    Attributes:
        error: Why it failed; None if it completed.
        steps: What it did.
        events_sent: By `step.send_event`, its own and those of functions that it invoked; their data is plain JSON.
        took: How long it would have taken, steps aside: its sleeps, waits and pauses before further attempts.
        entries: How often its body was entered.
    """

    error: RunFailed | None
    steps: RecordedSteps
    events_sent: list[Event[Any]]
    took: timedelta
    entries: int
    _output: Any = field(repr=False)

    @property
    def output(self) -> R_co:
        """What the function returned, read as its annotation says. Raises `RunFailed` if it did not return."""
        if self.error is not None:
            raise self.error
        return cast(R_co, self._output)


@overload
def run(
    function: Function[None, R],
    event: None = None,
    /,
    *,
    events: Sequence[Event[Any]] = (),
    functions: Sequence[Function[Any, Any]] = (),
    invoke: Mapping[str, Any] = {},
    steps: Mapping[str, Any] = {},
    at: datetime | None = None,
    crash_after_each_step: bool = False,
) -> FinishedRun[R]: ...
@overload
def run(
    function: Function[T, R],
    event: Event[T] | Sequence[Event[T]],
    /,
    *,
    events: Sequence[Event[Any]] = (),
    functions: Sequence[Function[Any, Any]] = (),
    invoke: Mapping[str, Any] = {},
    steps: Mapping[str, Any] = {},
    at: datetime | None = None,
    crash_after_each_step: bool = False,
) -> FinishedRun[R]: ...
def run(
    function: Function[Any, R], event: Event[Any] | Sequence[Event[Any]] | None = None, /, **options: Any
) -> FinishedRun[R]:
    """Run a function to its end, in memory and with a clock that jumps.

    Its steps run for real, except those in `steps`. What a server does beyond a single run is not done:
    concurrency, throttling, cancellation, `on_failure`.

    Args:
        event: What starts it; several for a function that takes batches; none for one on a schedule.
        events: What arrives while it waits. One without `ts` comes as soon as a wait matches it, one with `ts` then.
        functions: Of other services, to be run when it invokes them; those of its own service are found.
        invoke: Results of invoked functions instead, by step id or slug: a value, an exception that is its failure,
            or a callable that gets the data.
        steps: What is used instead of the bodies of steps, by id: a value, an exception that each attempt raises, or
            a callable that gets the step's arguments. Requests that a server would make need one: a
            model's answer as text or as what JSON can hold, an `httpx2.Response`, or a callable that gets the request.
        at: When it starts, by its own clock; now if not given.
        crash_after_each_step: Do it all once more, with a crash after each recorded step, as if the process died
            there; steps run once more, and their first results are used. What the function keeps outside its steps is
            gone each time, and it has to end the same.

    Raises:
        NotRepeatable: It does not end the same.
        NotAnswered: It invokes a function that is neither found nor given.

    A function that fails is no error here: see `FinishedRun.error`. In a test that is `async def`, await `run_async`.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_run(function, event, **options))
    raise RuntimeError("this thread has an event loop already; write `await stepwell.testing.run_async(...)`")


@overload
async def run_async(
    function: Function[None, R],
    event: None = None,
    /,
    *,
    events: Sequence[Event[Any]] = (),
    functions: Sequence[Function[Any, Any]] = (),
    invoke: Mapping[str, Any] = {},
    steps: Mapping[str, Any] = {},
    at: datetime | None = None,
    crash_after_each_step: bool = False,
) -> FinishedRun[R]: ...
@overload
async def run_async(
    function: Function[T, R],
    event: Event[T] | Sequence[Event[T]],
    /,
    *,
    events: Sequence[Event[Any]] = (),
    functions: Sequence[Function[Any, Any]] = (),
    invoke: Mapping[str, Any] = {},
    steps: Mapping[str, Any] = {},
    at: datetime | None = None,
    crash_after_each_step: bool = False,
) -> FinishedRun[R]: ...
async def run_async(
    function: Function[Any, R], event: Event[Any] | Sequence[Event[Any]] | None = None, /, **options: Any
) -> FinishedRun[R]:
    """`run`, for a test that is a coroutine itself."""
    return await _run(function, event, **options)


async def _run(
    function: Function[Any, R],
    event: Event[Any] | Sequence[Event[Any]] | None,
    *,
    at: datetime | None = None,
    crash_after_each_step: bool = False,
    **answers: Any,
) -> FinishedRun[R]:
    started_at = time.time_ns() // 1_000_000 if at is None else int(at.timestamp() * 1000)
    texts = started_by(_starting(function, event, started_at), started_at)
    given = Answers(**answers)
    driver = Driver(function, texts, given, started_at)
    outcome = await driver.run()
    if crash_after_each_step:
        again = Driver(function, texts, given, started_at, crashing=True, earlier=driver)
        await again.run()
        _compare(driver, again)
    error = _error(driver, outcome)
    return FinishedRun(
        error=error,
        steps=RecordedSteps((_key(track), _recorded(track)) for track in driver.tracks.values()),
        events_sent=sent_events(driver.sent),
        took=timedelta(milliseconds=driver.now - driver.started_at),
        entries=driver.entries,
        _output=decode_result(outcome.output, function.result_type) if isinstance(outcome, Returned) else None,
    )


def _starting(
    function: Function[Any, Any], event: Event[Any] | Sequence[Event[Any]] | None, at: Instant
) -> Sequence[Event[Any]]:
    if event is not None:
        return (event,) if isinstance(event, Event) else event
    for trigger in function.triggers:
        if isinstance(trigger, Cron):
            return (Event(TICK, tick_data(trigger.schedule, at, at), id=occurrence_text(at)),)
    return (Event(INVOKED, {}),)


def _error(driver: Driver, outcome: Outcome | None) -> RunFailed | None:
    if not isinstance(outcome, Raised):
        return None
    told = decode(outcome.error)
    return RunFailed(driver.run_id, driver.function.slug, told, step=told.get("step"))


def _key(track: Track) -> str:
    return f"{track.name}:{track.index}" if track.index else track.name


def _recorded(track: Track) -> RecordedStep:
    memo = track.memo
    done = memo is not None and memo.shape != "error"
    return RecordedStep(
        track.name,
        track.index,
        completed=done,
        output=track.request.read(memo.value) if memo is not None and done else None,
        error=step_error(track.name, memo.value) if memo is not None and not done else None,
        attempts=track.attempts,
    )


def _compare(straight: Driver, crashed: Driver) -> None:
    one, other = _ending(straight), _ending(crashed)
    problems = []
    if one != other:
        problems.append(f"it {other} instead of: it {one}")
    names = [_key(track) for id, track in straight.tracks.items() if id not in crashed.tracks]
    if names:
        problems.append(f"only without a crash it comes to {', '.join(map(repr, names))}")
    for id, track in crashed.tracks.items():
        before = straight.tracks.get(id)
        completed = before is not None and before.memo is not None and before.memo.shape != "error"
        if completed and track.memo is not None and track.memo.shape == "error":
            problems.append(f"step {_key(track)!r} fails: {step_error(track.name, track.memo.value)}")
    if problems:
        raise NotRepeatable(not_the_same(straight, problems))


def _ending(driver: Driver) -> str:
    match driver.outcome:
        case Returned(output):
            return f"returns {output.decode()}"
        case Raised(error):
            told = decode(error)
            return f"fails with {told['name']}: {told['message']}"
        case other:
            raise AssertionError(other)
