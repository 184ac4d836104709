"""One run of a function in this process: its steps run for real, its clock does not.

    function ──op──▶ recorded ──▶ goes on ... nothing can go on ──▶ time jumps to whatever ends next

Results of steps are recorded as a server records them, and the function reads them back. When it only waits, the
first of these happens: an event that a wait matches, then the end of a sleep, of a timeout, of the pause after a
failed attempt, or of an invoked function, in the order of their times. So a year of sleeping takes no time, and
nothing depends on how fast the machine is.

With `crashing` the function is dropped after each recorded step and entered again, as if its process had died.

Elsewhere: what tests see of it (`runs.py`); how a body is run and suspended (`stepwell.sdk.live`).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from stepwell.engine.expr import compile as compiled
from stepwell.engine.retry import retry_delay
from stepwell.model.dispatch import Memo
from stepwell.model.event import INVOKED
from stepwell.model.ids import Instant, JobId, RunId, StepId, derived_ulid, derived_uuid
from stepwell.model.offload import INFER
from stepwell.model.op import Invoke, Offload, Op, Sleep, StepDone, StepErrored, WaitForEvent
from stepwell.model.payload import NULL, canonical, decode
from stepwell.sdk.ai import model_answer
from stepwell.sdk.event import Event, read_event
from stepwell.sdk.fetch import fetch_answer
from stepwell.sdk.live import LiveExecution
from stepwell.sdk.outcome import Outcome, Raised, Returned, Stopped, error_object
from stepwell.sdk.types import plain
from stepwell.wire.worker import Call

if TYPE_CHECKING:
    from stepwell.sdk.attempt import StepUse
    from stepwell.sdk.function import Function
    from stepwell.sdk.parking import AnyTask
    from stepwell.sdk.request import Request

DEFAULT_RETRIES = 4
FOREVER_MS = 1e9
"""How long the real clock may idle while another function runs."""


class NotAnswered(AssertionError):
    """The function asked for something that the test has no answer to. The message says what to give."""


class NotRepeatable(AssertionError):
    """The function ends otherwise when its process dies between its steps. The message says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a test gives for what is outside of its function."""

    events: Sequence[Event[Any]] = ()
    functions: Sequence[Function[Any, Any]] = ()
    invoke: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Track:
    """One step of the run."""

    id: StepId
    name: str
    index: int
    request: Request
    attempts: int = 0
    memo: Memo | None = None


@dataclass(slots=True)
class _Pending:
    """Something that ends by itself."""

    op: Op
    due: Instant
    memo: Memo | None = None  # of an invoked function, once it has ended
    is_retry: bool = False


class Driver:
    """A run in memory. Call `run` once, then look at it.

    Args:
        events: What starts it, as JSON text.
        started_at: Its virtual time at the beginning.
        earlier: A run of the same function whose results are recorded instead of those of this one.
    """

    def __init__(
        self,
        function: Function[Any, Any],
        events: tuple[bytes, ...],
        answers: Answers,
        started_at: Instant,
        *,
        crashing: bool = False,
        earlier: Driver | None = None,
    ) -> None:
        self.function = function
        self.now = self.started_at = started_at
        self.run_id = RunId(derived_ulid(started_at, function.slug))
        self.tracks: dict[StepId, Track] = {}
        self.memos: dict[StepId, Memo] = {}
        self.sent: list[bytes] = []
        self.entries = 0
        self.attempt = 0
        self.outcome: Outcome | None = None
        retries = function.options.retries
        self._max_attempts = (DEFAULT_RETRIES if retries is None else retries) + 1
        self._events = events
        self._answers = answers
        self._crashing = crashing
        self._earlier = earlier
        self._started_by = decode(events[0])
        self._arriving = [event for event in answers.events if event.ts is None]
        self._dated = sorted(
            ((int(event.ts.timestamp() * 1000), event) for event in answers.events if event.ts is not None),
            key=lambda pair: pair[0],
        )
        self._pending: dict[StepId, _Pending] = {}
        self._attempts: dict[StepId, int] = {}
        self._invoked: dict[StepId, AnyTask] = {}
        self._execution: _Execution | None = None
        self._going_on = False
        self._problem: BaseException | None = None

    async def run(self) -> Outcome:
        """Run to the end. Raises `NotAnswered`."""
        try:
            while self.outcome is None:
                ended = await self._enter()
                if self._problem is not None:
                    raise self._problem
                if isinstance(ended, Raised) and ended.retry and self.attempt + 1 < self._max_attempts:
                    self.now += self._pause(ended.retry_at, self.attempt, "(function)")
                    self.attempt += 1
                elif isinstance(ended, Raised | Returned):
                    self.outcome = ended
                else:
                    assert isinstance(ended, Stopped), ended  # that was the crash
        finally:
            for task in self._invoked.values():
                task.cancel()
        return self.outcome

    async def send(self, texts: list[bytes]) -> list[str]:
        """What `step.send_event` does: the events are kept, and wake the waits that are there."""
        self.sent += texts
        for text in texts:
            self._arrive(decode(text))
        return [derived_ulid(self.now, self.run_id, text.decode()) for text in texts]

    # One execution

    async def _enter(self) -> Outcome:
        self.entries += 1
        loop, reports = asyncio.get_running_loop(), 0

        def report(ops: tuple[Op, ...]) -> None:
            nonlocal reports
            reports += 1
            loop.call_soon(self._commit, execution, reports, ops, context=Context())

        call = Call(
            call=JobId(f"call-{self.entries}"),
            run=self.run_id,
            function=self.function.slug,
            attempt=self.attempt,
            max_attempts=self._max_attempts,
            events=self._events,
            memos=tuple(self.memos.values()),
            waiting=tuple(self._pending),
            attempts=dict(self._attempts),
            started_at=self.started_at,
        )
        self._execution = execution = _Execution(self, self.function, call, report, idle_ms=FOREVER_MS, send=self.send)
        return await execution.run()

    def found(self, use: StepUse) -> None:
        """The function came to a step that has no result."""
        self.tracks.setdefault(use.id, Track(use.id, use.name, use.index, use.request))
        if self._earlier is not None and use.id not in self._earlier.tracks and self._problem is None:
            # Ends here, because the code may come to another step each time it is entered.
            self._problem = NotRepeatable(not_the_same(self, [f"only after a crash it comes to {use.name!r}"]))
            assert self._execution is not None
            asyncio.get_running_loop().call_soon(self._execution.stop, "strayed", context=Context())

    def replacement(self, use: StepUse) -> Request:
        """What is run for a step: its body, or what the test gave instead."""
        body = use.request.body
        if body is None or use.name not in self._answers.steps:
            return use.request
        given = self._answers.steps[use.name]
        function = given if callable(given) and not isinstance(given, type) else _giving(given)
        return replace(use.request, body=replace(body, function=function, result=body.annotation))

    def _commit(self, execution: _Execution, number: int, ops: tuple[Op, ...]) -> None:
        if execution is not self._execution:
            return
        recorded = len(self.memos)
        for op in ops:
            match op:
                case StepDone(output=bytes() as output):
                    self._ended(op, Memo(op.step, "data", output))
                case StepErrored(error=bytes() as error):
                    self._failed(op, error)
                case Sleep() | WaitForEvent():
                    until = op.until if op.until is not None else self.now + op.for_ms
                    self._pending[op.step] = _Pending(op, until)
                case Invoke():
                    self._pending[op.step] = _Pending(op, self.now + op.for_ms)
                    self._invoked[op.step] = asyncio.create_task(self._invoke(op))
                case Offload():
                    self._requested(op)
                case _:
                    raise AssertionError(f"a worker does not report {op}")
        if self._problem is not None:
            execution.stop("not answered")
            return
        if self._crashing and len(self.memos) > recorded:
            execution.stop("crash")
            return
        execution.acknowledge(number)
        for op in ops:
            if isinstance(op, StepErrored | Offload) and op.step in self.memos:
                execution.resolve(self.memos[op.step])

    def _ended(self, op: StepDone, memo: Memo) -> None:
        self.tracks[op.step].attempts += 1
        before = self._earlier.memos.get(op.step) if self._earlier is not None else None
        self._record(memo if before is None else before)

    def _requested(self, op: Offload) -> None:
        """A request that a server would make: the test has its answer."""
        # Of a request of a library, the address is enough: nobody knows the digest that ends its name.
        name = op.name if op.name in self._answers.steps else op.name.rpartition(" ")[0]
        if name not in self._answers.steps:
            what, example = (
                ("asks a model", '"its answer"') if op.kind == INFER else ("fetches", "httpx2.Response(200)")
            )
            problem = NotAnswered(f"step {op.name!r} {what}; give steps={{{op.name!r}: {example}}}")
            self._problem = self._problem or problem
            return
        self.tracks[op.step].attempts += 1
        given = self._answers.steps[name]
        assert isinstance(op.request, bytes)
        request: Any = decode(op.request)
        try:
            if callable(given) and not isinstance(given, type):
                given = given(request)
            if isinstance(given, BaseException) or (isinstance(given, type) and issubclass(given, BaseException)):
                raise given
            answer = model_answer(given) if op.kind == INFER else fetch_answer(given, request.get("echo", ""))
            memo = Memo(op.step, "data", answer)
        except Exception as err:
            # It stands for the failure of the request.
            memo = Memo(op.step, "error", error_object(err))
        self._record(memo)

    def _failed(self, op: StepErrored, error: bytes) -> None:
        track = self.tracks[op.step]
        made = self._attempts.get(op.step, 0)
        track.attempts += 1
        self._attempts[op.step] = made + 1
        if op.retry and made + 1 < self._max_attempts:
            due = self.now + self._pause(op.retry_at, made, op.step)
            self._pending[op.step] = _Pending(op, due, is_retry=True)
        else:
            self._record(Memo(op.step, "error", error))

    def _record(self, memo: Memo) -> None:
        self._pending.pop(memo.step, None)
        self.memos[memo.step] = self.tracks[memo.step].memo = memo

    def _pause(self, retry_at: Instant | None, attempt: int, step: str) -> int:
        if retry_at is not None:  # by the real clock, which is the one that errors know
            return max(0, retry_at - time.time_ns() // 1_000_000)
        return retry_delay(attempt, jitter_of=(self.run_id, step, str(attempt)))

    # Time

    def go_on_soon(self) -> None:
        """The function only waits: let the next thing happen."""
        if not self._going_on:
            self._going_on = True
            asyncio.get_running_loop().call_soon(self._go_on, context=Context())

    def _go_on(self) -> None:
        self._going_on = False
        execution = self._execution
        if execution is None or not execution.is_idle:
            return
        for event in self._arriving:
            if self._arrive(_as_sent(event, self.now)):
                self._arriving.remove(event)
                return
        if any(not task.done() for task in self._invoked.values()):
            return  # it says when it has ended
        first = min(self._pending.values(), key=lambda one: one.due, default=None)
        if self._dated and (first is None or self._dated[0][0] <= first.due):
            at, event = self._dated.pop(0)
            self.now = max(self.now, at)
            if not self._arrive(_as_sent(event, self.now)):
                self.go_on_soon()
            return
        assert first is not None, "the function waits for nothing that could end"
        self.now = max(self.now, first.due)
        if first.is_retry:
            del self._pending[first.op.step]
            execution.retry(first.op.step, self._attempts[first.op.step])
        else:
            self._resolve(first.memo or _ran_out(first.op))

    def _arrive(self, event: dict[str, Any]) -> bool:
        """Whether a wait matched."""
        found = [one.op for one in self._pending.values() if self._fits(one.op, event)]
        for op in found:
            self._resolve(Memo(op.step, "data", canonical(event)))
        return bool(found)

    def _fits(self, op: Op, event: dict[str, Any]) -> bool:
        if not isinstance(op, WaitForEvent) or op.event != event["name"]:
            return False
        variables = {"event": self._started_by, "async": event}
        return op.expression is None or compiled(op.expression).matches(variables, self.now)

    def _resolve(self, memo: Memo) -> None:
        self._record(memo)
        assert self._execution is not None
        if self._crashing:
            self._execution.stop("crash")
        else:
            self._execution.resolve(memo)

    # Invoked functions

    async def _invoke(self, op: Invoke) -> None:
        try:
            memo, took = await self._invoked_memo(op)
        except Exception as err:
            # Of the test, not of the function: it is raised by `run`.
            self._problem = err
            if self._execution is not None:
                self._execution.stop("no answer")
            return
        pending = self._pending[op.step]
        ends = pending.due - op.for_ms + took
        if ends <= pending.due:
            pending.due, pending.memo = ends, memo
        self.go_on_soon()

    async def _invoked_memo(self, op: Invoke) -> tuple[Memo, int]:
        given = self._answers.invoke
        for name in (op.name, op.function):
            if name in given:
                assert isinstance(op.data, bytes)
                return await _stubbed(op.step, given[name], decode(op.data)), 0
        known = {one.slug: one for one in self._answers.functions}
        function = known.get(op.function) or self.function.service.find(op.function)
        if function is None:
            raise NotAnswered(
                f"step {op.name!r} invokes {op.function!r}, which is not in this service; "
                f"give functions=[...] with it, or invoke={{{op.name!r}: result}}"
            )
        event = {"name": INVOKED, "data": decode(op.data), "ts": self.now, "user": {}}  # type: ignore[arg-type]
        event["id"] = derived_uuid(self.run_id, op.step)
        child = Driver(function, (canonical(event),), self._answers, self.now)
        outcome = await child.run()
        self.sent += child.sent
        took = child.now - child.started_at
        if isinstance(outcome, Returned):
            return Memo(op.step, "data", outcome.output), took
        assert isinstance(outcome, Raised)
        return Memo(op.step, "error", outcome.error), took


class _Execution(LiveExecution):
    """A live execution that says when it only waits."""

    def __init__(
        self,
        driver: Driver,
        function: Function[Any, Any],
        call: Call,
        report: Callable[[tuple[Op, ...]], None],
        **options: Any,
    ) -> None:
        super().__init__(function, call, report, **options)
        self._driver = driver

    @property
    def is_idle(self) -> bool:
        return self._idle is not None

    def _found(self, use: StepUse) -> None:
        self._driver.found(use)
        super()._found(use)

    def _run_body(self, use: StepUse, attempt: int) -> None:
        use.request = self._driver.replacement(use)
        super()._run_body(use, attempt)

    def _start_idling(self, for_s: float) -> None:
        super()._start_idling(for_s)
        self._driver.go_on_soon()


def not_the_same(driver: Driver, problems: Sequence[str]) -> str:
    """What `NotRepeatable` says."""
    return (
        f"{driver.function.slug} is not the same when its process dies between its steps: {'; '.join(problems)}. "
        "Whatever it needs after a step has to be that step's result: variables that a step changes, the clock and "
        "random numbers are gone or others in the next process"
    )


def _giving(given: Any) -> Callable[..., Any]:
    async def give(*arguments: Any, **options: Any) -> Any:
        if isinstance(given, BaseException) or (isinstance(given, type) and issubclass(given, BaseException)):
            raise given
        return given

    return give


async def _stubbed(step: StepId, given: Any, data: Any) -> Memo:
    try:
        if isinstance(given, BaseException):
            raise given
        value = given(data) if callable(given) else given
        if inspect.isawaitable(value):
            value = await value
        return Memo(step, "data", canonical(plain(value)))
    except Exception as err:
        # It stands for the failure of the invoked function.
        return Memo(step, "error", error_object(err))


def _ran_out(op: Op) -> Memo:
    if isinstance(op, Invoke):
        name, message = "InngestInvokeTimeoutError", "Timed out waiting for invoked function to complete"
        return Memo(op.step, "error", canonical({"name": name, "message": message}))
    return Memo(op.step, "data", NULL)


def _as_sent(event: Event[Any], now: Instant) -> dict[str, Any]:
    """An event as a server hands it out."""
    body = event.body()
    return {"id": derived_uuid(event.name, str(now)), "ts": now, "user": {}, **body}


def started_by(events: Sequence[Event[Any]], now: Instant) -> tuple[bytes, ...]:
    """The events that start a run, as JSON text."""
    return tuple(canonical(_as_sent(event, now)) for event in events)


def sent_events(texts: Sequence[bytes]) -> list[Event[Any]]:
    """Events that a function sent, with their data as plain JSON."""
    return [read_event(text, ()) for text in texts]
