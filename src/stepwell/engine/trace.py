"""The trace of a run: its journal, folded a second time, into the tree that people look at.

    Run                             from its creation to its end
    ├─ charge                       one span for each step, in the order in which the run came to them
    │  ├─ Attempt 0    failed       attempts are shown when there were several, or when one failed
    │  └─ Attempt 1
    ├─ nap                          sleeps, waits and invocations, with what they wait for
    ├─ Execution                    the function itself failed between steps and was tried again
    └─ Finalization                 the function after its last step
       ├─ Setting up                what a call of an app came through, if it is one
       └─ Running

Beside the tree stand the *requests*: every call of a worker that was made or is to be made. What is going on at
this moment is not in the journal; who knows it passes it in as `InFlight`.

Nothing here fetches a payload. Elsewhere: what spans and requests are (`span.py`), the
trace as lines of text (`stepwell.node.reads.trace_text`), JSON shapes of it (`stepwell.api`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from stepwell.engine.span import (
    InFlight,
    Info,
    InvokeInfo,
    Note,
    Ref,
    Request,
    SleepInfo,
    Span,
    SpanKind,
    SpanStatus,
    StepOp,
    Trace,
    WaitInfo,
)
from stepwell.model import journal
from stepwell.model.ids import EventKey
from stepwell.model.job import RunStatus
from stepwell.model.payload import decode
from stepwell.model.task import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from stepwell.model.ids import Instant, JobId, RunId, StepId
    from stepwell.model.journal import Entry
    from stepwell.model.offload import Exchange
    from stepwell.model.payload import Payload
    from stepwell.model.task import TaskPhase

INVOKE_TIMEOUT = "InngestInvokeTimeoutError"
EXECUTION = "Execution"
FINALIZATION = "Finalization"
PHASES = {
    TaskStatus.QUEUED: "Queued",
    TaskStatus.PREPARING: "Preparing",
    TaskStatus.SERVING: "Serving",
    TaskStatus.SETTING_UP: "Setting up",
    TaskStatus.RUNNING: "Running",
    TaskStatus.UPLOADING: "Uploading",
}
"""Names of the phases of a call that have a span."""


def trace_of(
    run: RunId,
    entries: Iterable[Entry],
    *,
    in_flight: Sequence[InFlight] = (),
    children: Mapping[EventKey, RunId] | None = None,
) -> Trace:
    """The trace that a journal tells.

    Args:
        run: Whose journal it is.
        entries: All of it, from the first.
        in_flight: The calls under way, when somebody knows.
        children: The runs that this one invoked, by the id of the event that asked for them.
    """
    fold = _Fold(run, children or {})
    for entry in entries:
        fold.take(entry)
    for flight in in_flight:
        fold.fly(flight)
    return fold.trace()


# folding


@dataclass(slots=True)
class _Attempt:
    number: int
    queued_at: Instant
    due: Instant = 0
    started_at: Instant | None = None
    ended_at: Instant | None = None
    status: SpanStatus = SpanStatus.QUEUED
    output: Payload | None = None
    error: Payload | None = None
    call: JobId | None = None
    exchange: Exchange | None = None


@dataclass(slots=True)
class _Step:
    id: StepId
    name: str
    index: int
    kind: str
    op: StepOp
    queued_at: Instant
    info: Info | None = None
    input: Payload | None = None
    attempts: dict[int, _Attempt] = field(default_factory=dict)
    status: SpanStatus = SpanStatus.QUEUED
    started_at: Instant | None = None
    ended_at: Instant | None = None
    output: Payload | None = None
    error: Payload | None = None
    call: JobId | None = None
    origin: RunId | None = None
    blocked: str = ""

    @property
    def finished(self) -> bool:
        return self.status is SpanStatus.COMPLETED or self.status is SpanStatus.FAILED


@dataclass(slots=True)
class _Function:
    """The function as a whole, called again after it failed, or called for the last time."""

    number: int
    attempts: list[_Attempt] = field(default_factory=list)
    kind: SpanKind = SpanKind.EXECUTION
    status: SpanStatus = SpanStatus.RUNNING


@dataclass(slots=True)
class _Call:
    request: Request
    attempt: int
    steps: list[str] = field(default_factory=list)
    ended_at: Instant | None = None
    started_at: Instant | None = None
    outcome: str = ""
    duration_ms: float | None = None
    error: Payload | None = None
    worker: str = ""
    status: int = 0
    phases: tuple[TaskPhase, ...] = ()
    last_step_at: Instant = 0

    @property
    def discovers(self) -> bool:
        return self.request.target is None

    @property
    def began(self) -> Instant:
        return self.started_at or max(self.request.scheduled_at, self.request.due)


_BROKEN = frozenset({"failed", "lost", "declined"})


class _Fold:
    def __init__(self, run: RunId, children: Mapping[EventKey, RunId]) -> None:
        self.run = run
        self.children = children
        self.status = RunStatus.QUEUED
        self.started: journal.RunStarted | None = None
        self.started_at: Instant | None = None
        self.end: journal.RunCompleted | journal.RunFailed | journal.RunCancelled | None = None
        self.calls: dict[JobId, _Call] = {}
        self.steps: dict[StepId, _Step] = {}
        self.order: list[_Step | _Function] = []
        self.failing: _Function | None = None  # the function itself failed; what comes of it is not known yet
        self.functions = 0
        self.last_ended: _Call | None = None
        self.answered: _Call | None = None  # the call whose ops come next
        self.retried: _Attempt | None = None
        self.notes: list[journal.Noted] = []
        self.edit: journal.InputEdited | None = None
        self.cancelling: journal.RunCancelling | None = None

    def take(self, entry: Entry) -> None:
        match entry:
            case journal.RunStarted():
                self.started = entry
            case journal.CallScheduled():
                self._scheduled(entry)
            case journal.CallEnded():
                self._call_ended(entry)
            case journal.StepScheduled():
                step = self._new(entry.step, entry.name, entry.index, entry.kind, _op(entry.kind), entry.at)
                step.input = step.input or entry.input
                self._got_further()
            case journal.SleepStarted():
                self._waits(entry, "step.sleep", StepOp.SLEEP, SleepInfo(entry.until))
            case journal.WaitStarted():
                info = WaitInfo(entry.event, entry.expression, entry.until)
                self._waits(entry, "step.waitForEvent", StepOp.WAIT_FOR_EVENT, info)
            case journal.InvokeStarted():
                child = self.children.get(EventKey(entry.event_id))
                invoked = InvokeInfo(entry.function, entry.event_id, entry.until, child)
                self._waits(entry, "step.invoke", StepOp.INVOKE, invoked).input = entry.input
            case journal.OffloadStarted():
                self._offloaded(entry)
            case journal.OffloadLost():
                self._offload_lost(entry)
            case journal.StepCompleted():
                self._completed(entry)
            case journal.StepRetried():
                self._step_retried(entry)
            case journal.StepFailed():
                self._failed(entry)
            case journal.RunCompleted() | journal.RunFailed() | journal.RunCancelled():
                self._over(entry)
            case journal.Noted():
                self.notes.append(entry)
            case journal.InputEdited():
                self.edit = entry
            case journal.RunCancelling():
                self.cancelling = entry
                if (call := self._discovery()) is not None:
                    self._begin(call.began)
            case (
                journal.StepReady()
                | journal.GroupFound()
                | journal.GroupClosed()
                | journal.RunAdmitted()
                | journal.RunBegan()
            ):
                pass
            case _:
                assert_never(entry)

    def _note(self, entry: journal.Noted) -> Note:
        """A note, with the name of a step that may have become known only later."""
        known = self.steps.get(entry.step) if entry.step is not None else None
        name = known.name if known is not None else ""
        return Note(entry.at, entry.kind, entry.text, entry.step, name, entry.call, entry.level)

    # calls

    def _scheduled(self, entry: journal.CallScheduled) -> None:
        step = self.steps.get(entry.target) if entry.target is not None else None
        self.calls[entry.call] = _Call(
            Request(
                number=len(self.calls) + 1,
                call=entry.call,
                target=entry.target,
                target_name=step.name if step is not None else "",
                attempt=entry.attempt,
                live=entry.live,
                reason=entry.reason,
                scheduled_at=entry.at,
                due=entry.due,
            ),
            entry.attempt,
        )
        if step is not None:
            step.attempts[entry.attempt] = _Attempt(entry.attempt, entry.at, entry.due, call=entry.call)
        elif entry.reason == "step retry" and self.retried is not None:
            self.retried.call = entry.call
        elif self.failing is not None and self.failing.attempts[-1].number == entry.attempt:
            # The call counts for nothing: it was given back untouched, or it was our own node that was lost.
            self.failing.attempts.pop()
            if not self.failing.attempts:
                self.order.remove(self.failing)
                self.failing = None

    def _call_ended(self, entry: journal.CallEnded) -> None:
        call = self.calls.get(entry.call)
        if call is None:
            return
        call.ended_at, call.outcome, call.error = entry.at, entry.outcome, entry.error
        call.worker, call.status, call.duration_ms = entry.worker, entry.status, entry.duration_ms
        call.phases = entry.phases or call.phases
        call.started_at = entry.started_at or call.started_at
        self._begin(entry.started_at or entry.at)
        if entry.outcome == "superseded":
            return  # its step got a result from another call, which is the one that speaks
        self.last_ended = call
        self.answered = None if entry.outcome in _BROKEN else call
        if entry.outcome not in _BROKEN:
            return
        step = self.steps.get(call.request.target) if call.request.target is not None else None
        if step is not None:
            attempt = step.attempts.setdefault(call.attempt, _Attempt(call.attempt, call.request.scheduled_at))
        else:
            if self.failing is None:
                self.functions += 1
                self.failing = _Function(self.functions)
                self.order.append(self.failing)
            attempt = _Attempt(call.attempt, call.request.scheduled_at, call.request.due)
            self.failing.attempts.append(attempt)
        attempt.started_at = max(call.began, call.last_step_at)
        attempt.ended_at, attempt.status = entry.at, SpanStatus.FAILED
        attempt.error, attempt.call = entry.error, entry.call

    def _got_further(self, call: _Call | None = None) -> None:
        """The function reported a step: whatever made it fail before is over."""
        call = call or self.answered or self._discovery()
        if self.failing is None or (call is not None and not call.discovers):
            return
        if call is not None:
            self.failing.attempts.append(_succeeded(call, call.ended_at or call.began))
        self.failing.status = SpanStatus.COMPLETED
        self.failing = None

    def _discovery(self) -> _Call | None:
        """The call of the function as a whole that is not over yet."""
        return next((call for call in self.calls.values() if call.discovers and not call.outcome), None)

    def _begin(self, at: Instant) -> None:
        if self.started_at is None:
            self.started_at = at
            self.status = RunStatus.RUNNING

    # steps

    def _new(self, step_id: StepId, name: str, index: int, kind: str, op: StepOp, at: Instant) -> _Step:
        step = self.steps.get(step_id)
        if step is None:
            step = self.steps[step_id] = _Step(step_id, name or step_id, index, kind, op, at)
            self.order.append(step)
        return step

    def _waits(
        self,
        entry: journal.SleepStarted | journal.WaitStarted | journal.InvokeStarted,
        kind: str,
        op: StepOp,
        info: Info,
    ) -> _Step:
        self._got_further()
        step = self._new(entry.step, entry.name, entry.index, kind, op, entry.at)
        step.info, step.status, step.started_at = info, SpanStatus.WAITING, entry.at
        return step

    def _offloaded(self, entry: journal.OffloadStarted) -> None:
        self._got_further()
        step = self._new(entry.step, entry.name, entry.index, entry.kind, _op(entry.kind), entry.at)
        step.input = entry.request
        if all(attempt.status is SpanStatus.FAILED for attempt in step.attempts.values()):
            number = len(step.attempts)
            step.attempts[number] = _Attempt(number, entry.at, started_at=entry.at, status=SpanStatus.RUNNING)

    def _offload_lost(self, entry: journal.OffloadLost) -> None:
        text = "its request may have been made by a server that went away; what came of it is unknown"
        if entry.job is None:
            text = f"{text}. The" if entry.made else "the"
            text += " credentials for its request are gone, so the function is asked for them again"
        self.notes.append(journal.Noted(at=entry.at, kind="warning", text=text, step=entry.step))

    def _attempt(self, entry: journal.StepCompleted | journal.StepRetried | journal.StepFailed) -> _Attempt:
        """The attempt that an entry tells of, with its times."""
        call = self.calls.get(entry.call) if entry.call is not None else None
        ended = min(entry.at, entry.started_at + round(entry.duration_ms)) if entry.started_at else entry.at
        started = min(entry.started_at, ended)
        queued = started or entry.at
        if call is not None:
            if not call.last_step_at:
                queued = call.request.scheduled_at
            if not started:
                started = max(call.began, call.last_step_at)
            call.last_step_at = max(call.last_step_at, ended)
            if not call.outcome:
                call.started_at = call.began  # it reports, so it runs
            if call.discovers:
                self._begin(call.request.scheduled_at)
            self._got_further(call)
            if not isinstance(entry, journal.StepRetried):
                call.attempt = 0  # what fails next in this call has its own attempts
        queued = min(queued, started or queued)
        step = self._new(entry.step, entry.name, entry.index, entry.kind, _op(entry.kind), queued)
        if call is not None:
            call.steps.append(step.name)
        attempt = step.attempts.get(entry.attempt)
        if attempt is None:
            attempt = step.attempts[entry.attempt] = _Attempt(entry.attempt, queued)
        attempt.started_at, attempt.ended_at, attempt.call = started or ended, ended, entry.call
        attempt.exchange = entry.exchange
        if entry.exchange is not None and entry.exchange.hidden:
            names = ", ".join(entry.exchange.hidden)
            text = f"the answer repeated credentials of its request ({names}); they were taken out of it"
            self.notes.append(journal.Noted(at=entry.at, kind="warning", text=text, step=entry.step))
        return attempt

    def _completed(self, entry: journal.StepCompleted) -> None:
        attempt = self._attempt(entry) if entry.call is not None or entry.exchange is not None else None
        step = self._new(entry.step, entry.name, entry.index, entry.kind, _op(entry.kind), entry.at)
        if attempt is not None:
            attempt.status, attempt.output = SpanStatus.COMPLETED, entry.output
        step.input = step.input or entry.input
        step.output, step.origin, step.blocked = entry.output, entry.origin, entry.blocked
        if isinstance(step.info, WaitInfo):
            info = step.info
            step.info = WaitInfo(info.event, info.expression, info.until, entry.event, entry.event is None)
        elif isinstance(step.info, InvokeInfo):
            step.info = _invoke_ended(step.info, timed_out=False)
        self._finish(step, SpanStatus.COMPLETED, entry.at, attempt)

    def _step_retried(self, entry: journal.StepRetried) -> None:
        attempt = self._attempt(entry)
        attempt.status, attempt.error = SpanStatus.FAILED, entry.error
        step = self.steps[entry.step]
        step.status = SpanStatus.RUNNING
        self.retried = _Attempt(entry.attempt + 1, entry.at, entry.retry_at)
        step.attempts[entry.attempt + 1] = self.retried

    def _failed(self, entry: journal.StepFailed) -> None:
        attempt = self._attempt(entry) if entry.call is not None or entry.exchange is not None else None
        step = self._new(entry.step, entry.name, entry.index, entry.kind, _op(entry.kind), entry.at)
        if attempt is not None:
            attempt.status, attempt.error = SpanStatus.FAILED, entry.error
        step.input = step.input or entry.input
        step.error, step.origin, step.blocked = entry.error, entry.origin, entry.blocked
        if isinstance(step.info, InvokeInfo):
            late = entry.at >= step.info.until and _error_name(entry.error) == INVOKE_TIMEOUT
            step.info = _invoke_ended(step.info, timed_out=late)
        self._finish(step, SpanStatus.FAILED, entry.at, attempt)

    def _finish(self, step: _Step, status: SpanStatus, at: Instant, attempt: _Attempt | None) -> None:
        step.status = status
        step.ended_at = attempt.ended_at if attempt is not None else at
        step.call = attempt.call if attempt is not None else None
        for number in [number for number, one in step.attempts.items() if one.status is SpanStatus.QUEUED]:
            del step.attempts[number]  # planned, and not needed any more

    # the end

    def _over(self, entry: journal.RunCompleted | journal.RunFailed | journal.RunCancelled) -> None:
        self.end = entry
        match entry:
            case journal.RunCompleted():
                self.status = RunStatus.COMPLETED
                self._finalize(entry.at, SpanStatus.COMPLETED, entry.output, None)
            case journal.RunFailed():
                self.status = RunStatus.FAILED
                self._finalize(entry.at, SpanStatus.FAILED, None, entry.error)
            case journal.RunCancelled():
                self.status = RunStatus.CANCELLED
                if self.failing is not None:
                    self.failing.status = SpanStatus.CANCELLED

    def _finalize(self, at: Instant, status: SpanStatus, output: Payload | None, error: Payload | None) -> None:
        last = self.last_ended
        if last is None or last.ended_at != at:
            last = self._discovery()  # a function in memory whose call is not over
        if last is None or not last.discovers:
            return  # a step of its own failed for good and took the run with it
        final = self.failing
        if final is None:
            final = _Function(0)
        else:
            self.order.remove(final)
        self.failing = None
        final.kind, final.status = SpanKind.FINALIZATION, status
        if last.outcome not in _BROKEN:
            attempt = _succeeded(last, at)
            attempt.status = status
            final.attempts.append(attempt)
        final.attempts[-1].output, final.attempts[-1].error = output, error
        self.order.append(final)

    # what is going on

    def fly(self, flight: InFlight) -> None:
        call = self.calls.get(flight.call)
        if call is None or call.outcome or self.end is not None:
            return
        call.started_at, call.worker = flight.started_at, flight.worker or call.worker
        call.phases = flight.phases
        self._begin(flight.started_at)
        attempts = [(step.id, attempt) for step in self.steps.values() for attempt in step.attempts.values()]
        began = {one.step: one.started_at for one in flight.steps}
        for step_id, attempt in attempts:
            if attempt.status is SpanStatus.QUEUED and (attempt.call == flight.call or step_id in began):
                attempt.status, attempt.started_at = SpanStatus.RUNNING, began.get(step_id, flight.started_at)
        for one in flight.steps:
            step = self._new(one.step, one.name, 0, "step.run", StepOp.RUN, one.started_at)
            if not step.finished:
                step.status, step.started_at = SpanStatus.RUNNING, step.started_at or one.started_at

    # freezing

    def trace(self) -> Trace:
        started = self.started
        assert started is not None, "a journal begins with the start of its run"
        end = self.end
        asked = end if isinstance(end, journal.RunCancelled) else self.cancelling
        output = end.output if isinstance(end, journal.RunCompleted) else None
        error = end.error if isinstance(end, journal.RunFailed) else None
        spans = tuple(
            self._step_span(one) if isinstance(one, _Step) else self._function_span(one) for one in self.order
        )
        spans = (*self._calls_of_apps(), *spans)
        root = Span(
            ref=Ref(self.run, SpanKind.RUN),
            name="Run",
            kind=SpanKind.RUN,
            status=SpanStatus(self.status.value),
            queued_at=started.at,
            scheduled_at=started.start_at if started.start_at > started.at else None,
            started_at=self.started_at,
            ended_at=end.at if end is not None else None,
            attempts=1 + max((call.request.attempt for call in self.calls.values() if call.discovers), default=0),
            output=output,
            error=error,
            children=spans,
        )
        return Trace(
            run=self.run,
            function=started.function,
            service=started.service,
            status=self.status,
            root=root,
            requests=tuple(self._request(call) for call in self.calls.values()),
            notes=tuple(map(self._note, self.notes)),
            start_at=started.start_at,
            parent=started.parent,
            reason=asked.reason if asked is not None else "",
            cancel_event=asked.event if asked is not None else None,
            cancelling_at=self.cancelling.at if self.cancelling is not None else None,
            origin=started.origin,
            from_step=self._from_step(started),
        )

    def _from_step(self, started: journal.RunStarted) -> str:
        if started.from_step is None:
            return ""
        known = self.steps.get(started.from_step)
        if known is not None:
            return known.name
        return self.edit.name if self.edit is not None and self.edit.name else started.from_step

    def _step_span(self, step: _Step) -> Span:
        attempts = sorted(step.attempts.values(), key=lambda attempt: attempt.number)
        status, ended, error = step.status, step.ended_at, step.error
        if not step.finished and self.end is not None:
            # What the run did not wait for; or the very step whose call failed and took the run with it.
            broken = self.status is RunStatus.FAILED and bool(attempts) and attempts[-1].status is SpanStatus.FAILED
            status = SpanStatus.FAILED if broken else SpanStatus.CANCELLED
            error = attempts[-1].error if broken else None
            ended = self.end.at
        elif status is SpanStatus.QUEUED and any(one.status is not SpanStatus.QUEUED for one in attempts):
            status = SpanStatus.RUNNING
        shown = attempts if len(attempts) > 1 or any(one.status is SpanStatus.FAILED for one in attempts) else []
        first = attempts[0] if attempts else None
        ref = Ref(self.run, SpanKind.STEP, step.id)
        return Span(
            ref=ref,
            name=step.name,
            kind=SpanKind.STEP,
            status=status,
            queued_at=min(step.queued_at, first.queued_at) if first is not None else step.queued_at,
            scheduled_at=_later(first) if first is not None else None,
            started_at=first.started_at if first is not None else step.started_at,
            ended_at=ended,
            op=step.op,
            step=step.id,
            step_kind=step.kind,
            index=step.index,
            attempts=max(1, len(attempts)) if step.info is None else None,
            info=step.info,
            input=step.input,
            output=None if step.op is StepOp.SLEEP else step.output,
            error=error,
            exchange=next((one.exchange for one in reversed(attempts) if one.exchange is not None), None),
            call=step.call or (attempts[-1].call if attempts else None),
            origin=step.origin,
            edited=self.edit is not None and self.edit.step == step.id,
            blocked=step.blocked,
            children=tuple(self._attempt_span(ref, one) for one in shown),
        )

    def _function_span(self, function: _Function) -> Span:
        attempts = function.attempts
        final = function.kind is SpanKind.FINALIZATION
        status, pending = function.status, None
        if status is SpanStatus.RUNNING:
            pending = self._discovery()
        if pending is not None:
            now = SpanStatus.RUNNING if pending.started_at is not None else SpanStatus.QUEUED
            request = pending.request
            waiting = _Attempt(pending.attempt, request.scheduled_at, request.due, pending.started_at, status=now)
            waiting.call = request.call
            attempts = [*attempts, waiting]
        last = attempts[-1]
        ref = Ref(self.run, function.kind, "" if final else str(function.number))
        shown = attempts if len(attempts) > 1 or last.status is SpanStatus.FAILED else []
        return Span(
            ref=ref,
            name=FINALIZATION if final else EXECUTION,
            kind=function.kind,
            status=status,
            queued_at=attempts[0].queued_at,
            scheduled_at=_later(attempts[0]),
            started_at=attempts[0].started_at,
            ended_at=self.end.at if status is SpanStatus.CANCELLED and self.end is not None else last.ended_at,
            attempts=len(attempts),
            output=last.output,
            error=last.error if final else None,
            call=last.call,
            children=tuple(self._attempt_span(ref, one) for one in shown) or self._phase_spans(last.call),
        )

    def _calls_of_apps(self) -> Iterator[Span]:
        """The calls of an app that no span of the function tells of: lost, told to end, or under way."""
        told = {attempt.call for one in self.order if isinstance(one, _Function) for attempt in one.attempts}
        for call in self.calls.values():
            request = call.request
            if not call.phases or request.call in told:
                continue
            ended = call.ended_at or (self.end.at if self.end is not None else None)
            broken = SpanStatus.FAILED if call.outcome in _BROKEN else SpanStatus.CANCELLED
            yield Span(
                ref=Ref(self.run, SpanKind.EXECUTION, f"call {request.number}"),
                name=EXECUTION,
                kind=SpanKind.EXECUTION,
                status=SpanStatus.RUNNING if ended is None else broken,
                queued_at=request.scheduled_at,
                started_at=call.began,
                ended_at=ended,
                error=call.error,
                call=request.call,
                children=self._phase_spans(request.call),
            )

    def _phase_spans(self, call_id: JobId | None) -> tuple[Span, ...]:
        """What a call of an app came through. A phase lasts until the next one begins."""
        call = self.calls.get(call_id) if call_id is not None else None
        if call is None or not call.phases:
            return ()
        over = call.ended_at or (self.end.at if self.end is not None else None)
        ends = [*(following.at for following in call.phases[1:]), over]
        return tuple(
            Span(
                ref=Ref(self.run, SpanKind.PHASE, f"{call.request.number}.{phase.status.name.lower()}"),
                name=PHASES[phase.status],
                kind=SpanKind.PHASE,
                status=SpanStatus.RUNNING if end is None else SpanStatus.COMPLETED,
                queued_at=phase.at,
                started_at=phase.at,
                ended_at=end,
                call=call_id,
            )
            for phase, end in zip(call.phases, ends, strict=True)
            if phase.status in PHASES
        )

    def _attempt_span(self, parent: Ref, attempt: _Attempt) -> Span:
        open_ = attempt.status in (SpanStatus.QUEUED, SpanStatus.RUNNING)
        return Span(
            ref=parent._replace(attempt=attempt.number),
            name=f"Attempt {attempt.number}",
            kind=SpanKind.ATTEMPT,
            status=SpanStatus.CANCELLED if open_ and self.end is not None else attempt.status,
            queued_at=attempt.queued_at,
            scheduled_at=_later(attempt),
            started_at=attempt.started_at,
            ended_at=self.end.at if open_ and self.end is not None else attempt.ended_at,
            output=attempt.output,
            error=attempt.error,
            call=attempt.call,
            exchange=attempt.exchange,
            children=self._phase_spans(attempt.call),
        )

    def _request(self, call: _Call) -> Request:
        request = call.request
        stopped = self.end is not None and not call.outcome
        return Request(
            number=request.number,
            call=request.call,
            target=request.target,
            target_name=request.target_name,
            attempt=request.attempt,
            live=request.live,
            reason=request.reason,
            scheduled_at=request.scheduled_at,
            due=request.due,
            started_at=call.started_at,
            ended_at=self.end.at if stopped and self.end is not None else call.ended_at,
            duration_ms=call.duration_ms,
            outcome="stopped" if stopped else call.outcome,
            error=call.error,
            worker=call.worker,
            status=call.status,
            steps=tuple(call.steps),
            phases=call.phases,
        )


def _succeeded(call: _Call, at: Instant) -> _Attempt:
    request = call.request
    began = max(call.began, call.last_step_at)
    return _Attempt(
        call.attempt,
        min(max(request.scheduled_at, call.last_step_at), began),
        request.due,
        began,
        max(at, began),
        SpanStatus.COMPLETED,
        call=request.call,
    )


def _later(attempt: _Attempt) -> Instant | None:
    return attempt.due if attempt.due > attempt.queued_at else None


def _invoke_ended(info: InvokeInfo, *, timed_out: bool) -> InvokeInfo:
    return InvokeInfo(info.function, info.event_id, info.until, info.child, timed_out)


_OPS = {"step.sleep": StepOp.SLEEP, "step.waitForEvent": StepOp.WAIT_FOR_EVENT, "step.invoke": StepOp.INVOKE}


def _op(kind: str) -> StepOp:
    if kind.startswith("step.ai.infer"):
        return StepOp.AI_GATEWAY
    if kind.startswith("step.waitForSignal"):
        return StepOp.WAIT_FOR_SIGNAL
    return _OPS.get(kind, StepOp.RUN)


def _error_name(error: Payload) -> str:
    """The name in a recorded error, as far as it can be told without fetching anything."""
    value = decode(error) if isinstance(error, bytes) else None
    return str(value.get("name") or "") if isinstance(value, dict) else ""
