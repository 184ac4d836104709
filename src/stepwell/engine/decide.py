"""What happens next to a run: `decide` takes one message and says what to record and what to do.

It reads no clock, draws no random number and opens no socket: the same run, message, time and policy
give the same decision on every node, in a test and in the simulator. The run it is given is advanced by
the entries it returns, so that several waiting messages can be decided one after the other and committed
together; if that commit is refused, the run is loaded again.

Two kinds of workers share these rules. One answers a call and forgets the function (HTTP): every new
result makes another call, a *discovery*, except inside a planned group, which is joined first. Two discoveries
could run the very same new step, so while others are under way a discovery only plans; and while one is under way
that may run a step itself, the next is made when it has answered. It may report finished steps before it answers
(a *checkpoint*): they are recorded, and make no call, since the function goes on by itself. The other kind
keeps the function in memory (a *live* call): it reports each step as it finishes and is handed results
as they come; it is called again only after it dropped the function.

A run that is cancelled ends at once, unless its function gives a call under way time to end by itself: then nothing
more happens to the run until that call is over or its time is, and it ends as cancelled whatever came of the call.

Elsewhere: the fold (`run.py`), which functions an event starts (`match.py`), pauses (`retry.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import msgspec

from stepwell.engine import expr
from stepwell.engine.rerun import input_to_give
from stepwell.engine.retry import retry_delay
from stepwell.engine.run import (
    WORKER_LOST,
    Call,
    Phase,
    Run,
    Step,
    apply,
    cancel_timer,
    finish_timer,
    hold_job,
    start_timer,
)
from stepwell.model import effect, journal, message, op
from stepwell.model.ids import JobId, StepId, derived_ulid
from stepwell.model.job import RunStatus
from stepwell.model.payload import NULL, Payload, canonical

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.engine.rerun import Again
    from stepwell.model.effect import Effect
    from stepwell.model.ids import EventKey, Instant, RunId
    from stepwell.model.journal import Entry
    from stepwell.model.message import CallInfo, Message

_DAY_MS = 86_400_000
LONGEST_WAIT_MS = 366 * _DAY_MS

_START, _FINISH, _CANCEL = StepId("timeout:start"), StepId("timeout:finish"), StepId("timeout:cancel")
"""What the timers of a run's timeouts have in place of a step."""

CANCEL_LATE_MS = 2_000
"""How much later than its time a call may tell that it ended which was told to."""

ASKED_AGAIN = "asked again"
"""Why a function is called whose request cannot be made without credentials that are gone."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits and defaults that decisions keep to."""

    max_steps: int = 1000
    max_depth: int = 50
    max_state_bytes: int = 32 * 1024 * 1024
    max_notes: int = 1000
    max_losses: int = 5
    """How many workers in a row a run may lose without getting any further."""
    retry_interval_ms: int | None = None


DEFAULT_POLICY = Policy()


class Decision(msgspec.Struct, frozen=True):
    """What to record, then what to do. The store commits both in one transaction."""

    entries: tuple[Entry, ...] = ()
    effects: tuple[Effect, ...] = ()


class Beginning(msgspec.Struct, frozen=True):
    """What a run begins with."""

    run: RunId
    env: str
    shard: int
    function: str
    service: str
    events: tuple[Payload, ...]
    event_keys: tuple[EventKey, ...]
    event_name: str
    max_attempts: int
    start_at: Instant = 0
    root: RunId | None = None
    parent: RunId | None = None
    parent_step: StepId | None = None
    depth: int = 0
    cancel_on: tuple[journal.CancelListener, ...] = ()
    limits: tuple[journal.Limit, ...] = ()
    priority_s: int = 0
    holds: tuple[journal.Limit, ...] = ()
    start_within_ms: int | None = None
    finish_within_ms: int | None = None
    cancel_grace_ms: int = 0
    again: Again | None = None


def begin(beginning: Beginning, now: Instant, *, live: bool, policy: Policy = DEFAULT_POLICY) -> tuple[Run, Decision]:
    """Start a run: its first entry, its first call, the events that may cancel it."""
    run = Run(beginning.run, env=beginning.env, shard=beginning.shard)
    turn = _Turn(run, now, live, policy)
    again = beginning.again
    turn.record(
        journal.RunStarted(
            at=now,
            function=beginning.function,
            service=beginning.service,
            events=beginning.events,
            event_keys=beginning.event_keys,
            event_name=beginning.event_name,
            max_attempts=beginning.max_attempts,
            start_at=beginning.start_at,
            root=beginning.root,
            parent=beginning.parent,
            parent_step=beginning.parent_step,
            depth=beginning.depth,
            cancel_on=beginning.cancel_on,
            limits=beginning.limits,
            priority_s=beginning.priority_s,
            holds=beginning.holds,
            start_within_ms=beginning.start_within_ms,
            finish_within_ms=beginning.finish_within_ms,
            cancel_grace_ms=beginning.cancel_grace_ms,
            origin=again.origin if again is not None else None,
            from_step=again.from_step if again is not None else None,
        )
    )
    if again is not None:
        for entry in again.entries:
            turn.record(entry)
    for listener in beginning.cancel_on:
        turn.do(effect.AddWait(listener.step, listener.event, listener.expression, listener.until, None, None, True))
    if beginning.start_within_ms is not None:
        turn.do(effect.SetTimer(start_timer(run.id), _START, now + beginning.start_within_ms))
    due = max(now, beginning.start_at)
    if beginning.holds:
        turn.do(effect.HoldRun(hold_job(run.id), due))
    else:
        _call_first(turn, due)
    return run, turn.decision()


def _call_first(turn: _Turn, due: Instant) -> None:
    edit = None if turn.live else input_to_give(turn.run)
    if edit is None:
        turn.call(None, due=due)
    else:
        # Asked for that step alone: an SDK that runs on may take a step with an input for one with a result.
        planned = op.StepPlanned(step=edit.step, name=edit.name, index=edit.index, kind=edit.kind, input=edit.input)
        _plan(turn, planned, None)


def decide(run: Run, msg: Message, now: Instant, *, live: bool, policy: Policy = DEFAULT_POLICY) -> Decision:
    """Choose what follows from `msg`, and advance `run` by it. Same arguments, same decision, always.

    Args:
        run: Advanced in place by the entries of the decision.
        msg: What happened. One that the run is past changes nothing.
        now: Milliseconds since 1970.
        live: Whether the run's service is connected in a way that keeps functions in memory.
        policy: Limits.
    """
    turn = _Turn(run, now, live, policy)
    if run.cancelling is not None and not run.finished:
        _on_anything_while_cancelling(turn, msg)
        return turn.decision()
    match msg:
        case message.Reported():
            _on_report(turn, msg)
        case message.Replied():
            _on_reply(turn, msg)
        case message.Returned():
            if turn.end_call(msg.call, "answered", msg.info, version=msg.version) is not None:
                _complete(turn, msg.output)
        case message.Admitted():
            if not run.finished and not run.admitted:
                turn.record(journal.RunAdmitted(at=now))
                _call_first(turn, now)
        case message.Began():
            _on_began(turn)
        case message.TimerFired() if msg.timer in run.deadlines():
            _on_deadline(turn)
        case message.TimerFired():
            _on_timer(turn, msg)
        case message.Suspended():
            _on_suspended(turn, msg)
        case message.EventMatched():
            _on_event(turn, msg)
        case message.ChildEnded():
            _on_child(turn, msg)
        case message.OffloadEnded():
            _on_offload_ended(turn, msg)
        case message.OffloadLost():
            _on_offload_lost(turn, msg)
        case message.Raised():
            _on_raised(turn, msg)
        case message.CallLost():
            _on_lost(turn, msg)
        case message.CancelAsked():
            if not run.finished:
                _cancel(turn, msg.reason, msg.event, msg.grace_ms)
        case message.Logged():
            _on_logged(turn, msg)
        case _:
            assert_never(msg)
    return turn.decision()


class _Turn:
    """One decision in the making: what is recorded is applied at once."""

    __slots__ = ("_effects", "_entries", "live", "now", "policy", "run")

    def __init__(self, run: Run, now: Instant, live: bool, policy: Policy) -> None:
        self.run = run
        self.now = now
        self.live = live
        self.policy = policy
        self._entries: list[Entry] = []
        self._effects: list[Effect] = []

    def decision(self) -> Decision:
        return Decision(tuple(self._entries), tuple(self._effects))

    def record(self, entry: Entry) -> None:
        apply(self.run, entry)
        self._entries.append(entry)

    def do(self, what: Effect) -> None:
        self._effects.append(what)

    def next_job(self) -> JobId:
        """An id for the job that the next entry speaks of: unique, since sequence numbers are."""
        return JobId(f"{self.run.id}.{self.run.seq + 1}")

    def call(self, target: StepId | None, *, attempt: int = 0, due: Instant | None = None, reason: str = "") -> None:
        """Schedule a call of the function, or of one step of it."""
        live = self.live and target is None
        plans = target is None and not live and (self.run.must_plan() or self.run.discovering())
        when = self.now if due is None else due
        job = self.next_job()
        self.record(
            journal.CallScheduled(
                at=self.now,
                call=job,
                target=target,
                attempt=attempt,
                due=when,
                live=live,
                plans=plans,
                reason=reason,
            )
        )
        self.do(effect.CallWorker(job, target, attempt, when, live))

    def end_call(
        self,
        call_id: JobId,
        outcome: str,
        info: CallInfo,
        *,
        error: Payload | None = None,
        version: int | None = None,
        news: int | None = None,
    ) -> Call | None:
        """Close a call that is being answered. None: nobody waits for that answer any more."""
        call = self.run.calls.get(call_id)
        if call is None:
            return None
        self.record(
            journal.CallEnded(
                at=self.now,
                call=call_id,
                outcome=outcome,
                error=error,
                version=version,
                started_at=info.started_at,
                duration_ms=info.duration_ms,
                worker=info.worker,
                status=info.status,
                phases=info.phases,
                news=news,
            )
        )
        self.do(effect.EndCall(call_id))
        return call

    def retry_at(self, attempt: int, asked: Instant | None, *what: str) -> Instant:
        if asked is not None:
            return asked
        jitter_of = (self.run.id, str(self.run.seq), *what, str(attempt))
        return self.now + retry_delay(attempt, jitter_of=jitter_of, interval_ms=self.policy.retry_interval_ms)

    def finish(self, last: Entry, why: str, *, output: Payload | None = None, error: Payload | None = None) -> None:
        """Record the last entry of the run, stop what is still going on and tell who waits."""
        run = self.run
        assert not run.finished, "a run ends once"
        calls = tuple(run.calls)
        offloaded = [step_id for step_id in run.open if run.steps[step_id].request is not None]
        self.record(last)
        for call in calls:
            self.do(effect.StopCall(call, why))
        for step_id in offloaded:
            self.do(effect.StopOffload(step_id))
        self.do(effect.AnnounceEnd())
        if run.parent is not None and run.parent_step is not None:
            self.do(effect.WakeParent(JobId(f"{run.id}.end"), run.parent, run.parent_step, output, error))

    def fail(self, error: Payload, code: str = "", status: int = 0) -> None:
        self.finish(journal.RunFailed(at=self.now, error=error, code=code, status=status), "failed", error=error)


def _complete(turn: _Turn, output: Payload) -> None:
    turn.finish(journal.RunCompleted(at=turn.now, output=output), "finished", output=output)


# somebody cancels it


def _cancel(turn: _Turn, reason: str, event: str | None, grace_ms: int | None = None) -> None:
    run = turn.run
    call = run.live_call() if run.cancel_grace_ms and not run.open else None
    if call is None or call.due > turn.now or grace_ms == 0:
        _end_cancelled(turn, reason, event)
        return
    grace_ms = run.cancel_grace_ms if grace_ms is None else min(grace_ms, run.cancel_grace_ms)
    until = turn.now + grace_ms + CANCEL_LATE_MS
    for timer in sorted(run.deadlines()):
        turn.do(effect.DropJob(timer))
    for listener in run.listeners:
        turn.do(effect.DropWait(listener.step))
    turn.record(journal.RunCancelling(at=turn.now, until=until, reason=reason, event=event))
    turn.do(effect.SetTimer(cancel_timer(run.id), _CANCEL, until))
    turn.do(effect.StopCall(call.id, "cancelled"))


def _end_cancelled(turn: _Turn, reason: str, event: str | None) -> None:
    last = journal.RunCancelled(at=turn.now, reason=reason, event=event)
    turn.finish(last, "cancelled", error=_error("RunCancelled", f"the run was cancelled: {reason}"))


def _on_anything_while_cancelling(turn: _Turn, msg: Message) -> None:
    """The run has no open step, and one call; only its end, its time or somebody's impatience still matter."""
    run = turn.run
    asked = run.cancelling
    assert asked is not None
    match msg:
        case message.Returned() | message.Replied():
            over = turn.end_call(msg.call, "answered", msg.info, version=msg.version) is not None
        case message.Raised():
            over = turn.end_call(msg.call, "failed", msg.info, error=msg.error, version=msg.version) is not None
        case message.Suspended():
            over = turn.end_call(msg.call, "suspended", msg.info, news=msg.news) is not None
        case message.CallLost():
            over = turn.end_call(msg.call, "lost", msg.info, error=msg.error) is not None
        case message.TimerFired():
            over = msg.timer == cancel_timer(run.id)
        case message.CancelAsked():
            over = msg.grace_ms == 0
        case message.Logged():
            over = False
            _on_logged(turn, msg)
        case message.Reported():
            over = False  # it came too late; perhaps the worker is connected to a node that nobody told
            turn.do(effect.StopCall(msg.call, "cancelled" if msg.call in run.calls else "stale"))
        case _:
            over = False
    if over:
        _end_cancelled(turn, asked.reason, asked.event)


# a worker answers


def _on_reply(turn: _Turn, msg: message.Replied) -> None:
    call = turn.end_call(msg.call, "answered", msg.info, version=msg.version)
    if call is None:
        return
    run = turn.run
    joining = bool(run.pending)
    missed = call.target is None and run.news > run.covered
    steps = [o for o in msg.ops if not isinstance(o, (op.Discover, op.Completed, op.Unknown))]
    if len(steps) > 1:
        planned = any(isinstance(o, op.StepPlanned) for o in steps)
        joined = planned and run.version >= 2 and not any(o.race for o in steps)
        pending = tuple(o.step for o in steps if not _is_finished(run, o.step)) if joined else ()
        turn.record(journal.GroupFound(at=turn.now, pending=pending))
    saved, called = _take_ops(turn, call, msg.ops)
    if run.finished or called:
        return
    if call.target is None and _drop_unsaid(turn, call):
        saved = bool(saved)
    if saved is not None:
        _rediscover(turn, race=saved)
    elif missed and not joining:
        _rediscover(turn, race=True)  # a result came while the function was looking at those before it
    if not run.calls and not run.open and not run.pending:
        _drive_again(turn, call)
    elif not run.discovering() and any(run.steps[step_id].phase is Phase.ASKING for step_id in run.open):
        turn.call(None, reason=ASKED_AGAIN)


def _on_report(turn: _Turn, msg: message.Reported) -> None:
    call = turn.run.calls.get(msg.call)
    if call is None:
        turn.do(effect.StopCall(msg.call, "finished" if turn.run.finished else "stale"))
        return
    _take_ops(turn, call, msg.ops)
    if turn.run.status is not RunStatus.FAILED:
        turn.do(effect.Acknowledge(msg.call, msg.number, turn.run.news))


def _take_ops(turn: _Turn, call: Call, ops: Sequence[op.Op]) -> tuple[bool | None, bool]:
    """Record the ops. Returns whether a result was saved (None: no, else whether it races), and whether the
    function will be called again anyway.

    Waits come first, so that one registered beside a step that sends the event cannot miss it.
    """
    saved: bool | None = None
    called = False
    run = turn.run
    for one in sorted(ops, key=_is_no_wait) if len(ops) > 1 else ops:
        if run.finished:
            break
        known = run.steps.get(one.step)
        if known is not None and known.finished:
            if isinstance(one, (op.StepDone, op.StepErrored)):
                saved = bool(saved) or one.race  # reported twice: nothing to save, yet the function must go on
            continue
        match one:
            case op.StepDone():
                _save(turn, call, one)
                saved = bool(saved) or one.race
            case op.StepErrored() if call.live and known is not None and _is_repeated(one, known):
                pass
            case op.StepErrored():
                if not _retry_step(turn, call, one, known):
                    saved = bool(saved) or one.race
            case op.StepPlanned():
                _plan(turn, one, known)
            case op.Completed():
                turn.end_call(call.id, "answered", message.CallInfo())  # if it is open yet
                _complete(turn, one.output)
            case op.Discover():
                if not run.discovering():
                    turn.call(None)
                called = True
            case op.Unknown():
                turn.fail(_error("UnknownOperation", one.reason), "unknown_op")
            case op.Sleep() | op.WaitForEvent() | op.Invoke():
                if known is None:
                    _open_wait(turn, one)
                    if one.step not in run.open:
                        saved = bool(saved) or one.race  # it failed at once
            case op.Offload():
                if known is None or known.phase is Phase.ASKING:
                    _offload(turn, one, known)
            case _:
                assert_never(one)
        _check_limits(turn)
    return saved, called


def _is_no_wait(one: op.Op) -> bool:
    return not isinstance(one, op.WaitForEvent)


def _is_repeated(one: op.StepErrored, known: Step) -> bool:
    """Whether a worker in memory tells of a failed attempt that is recorded: the report came twice."""
    return known.phase is Phase.RETRYING or (one.started_at > 0 and one.started_at == known.tried_at)


def _is_finished(run: Run, step_id: StepId) -> bool:
    step = run.steps.get(step_id)
    return step is not None and step.finished


def _supersede(turn: _Turn, step_id: StepId, by: Call) -> None:
    """A step got its result from somewhere else than the call that was made for it."""
    for call in tuple(turn.run.calls.values()):
        if call.target == step_id and call.id != by.id:
            turn.end_call(call.id, "superseded", message.CallInfo())
            turn.do(effect.StopCall(call.id, "stale"))


def _save(turn: _Turn, call: Call, one: op.StepDone) -> None:
    known = turn.run.steps.get(one.step)
    _supersede(turn, one.step, call)
    if known is not None and known.timer is not None:
        turn.do(effect.DropJob(known.timer))
    turn.record(
        journal.StepCompleted(
            at=turn.now,
            step=one.step,
            output=one.output,
            bare=one.bare,
            name=one.name,
            index=one.index,
            kind=one.kind,
            input=one.input,
            call=call.id,
            attempt=_attempt(call, known),
            started_at=one.started_at,
            duration_ms=one.duration_ms,
            blocked=one.blocked,
        )
    )


def _attempt(call: Call, known: Step | None) -> int:
    """Which attempt of a step this was. A live call runs many steps, so only the step can tell; a worker that
    answers makes one attempt a call."""
    if known is not None and known.attempts:
        return known.attempts
    return 0 if call.live else call.attempt


def _retry_step(turn: _Turn, call: Call, one: op.StepErrored, known: Step | None) -> bool:
    """Record a failed attempt. True: there will be another; False: the step failed for good."""
    attempt = _attempt(call, known)
    again = one.retry and attempt + 1 < turn.run.max_attempts
    if not again:
        _supersede(turn, one.step, call)
        turn.record(
            journal.StepFailed(
                at=turn.now,
                step=one.step,
                error=one.error,
                name=one.name,
                index=one.index,
                kind=one.kind,
                input=one.input,
                call=call.id,
                attempt=attempt,
                started_at=one.started_at,
                duration_ms=one.duration_ms,
                blocked=one.blocked,
            )
        )
        return False
    retry_at = turn.retry_at(attempt, one.retry_at, one.step)
    timer = turn.next_job() if call.live else None
    turn.record(
        journal.StepRetried(
            at=turn.now,
            step=one.step,
            error=one.error,
            retry_at=retry_at,
            name=one.name,
            index=one.index,
            kind=one.kind,
            call=call.id,
            attempt=attempt,
            timer=timer,
            started_at=one.started_at,
            duration_ms=one.duration_ms,
        )
    )
    if timer is not None:
        turn.do(effect.SetTimer(timer, one.step, retry_at))
    else:
        # The function as a whole is called again only if nothing else can want to call it in the meantime.
        alone = call.target is None and not turn.run.calls and turn.run.open == {one.step}
        turn.call(None if alone else one.step, attempt=attempt + 1, due=retry_at, reason="step retry")
    return True


def _plan(turn: _Turn, one: op.StepPlanned, known: Step | None) -> None:
    if known is not None and known.phase is not Phase.READY and _has_call(turn.run, known):
        return
    turn.record(
        journal.StepScheduled(
            at=turn.now, step=one.step, name=one.name, index=one.index, kind=one.kind, input=one.input
        )
    )
    turn.call(one.step, attempt=known.attempts if known is not None else 0)


def _has_call(run: Run, step: Step) -> bool:
    """Whether the next attempt of a step is queued, under way, or due after a pause."""
    return step.timer is not None or any(call.target in (step.id, None) for call in run.calls.values())


def _open_wait(turn: _Turn, one: op.Sleep | op.WaitForEvent | op.Invoke) -> None:
    run, now = turn.run, turn.now
    until = one.until if one.until is not None else now + one.for_ms
    if until - now > LONGEST_WAIT_MS:
        turn.fail(
            _error(
                "InngestErrTimeoutTooLong",
                f"step {one.name!r} asks to wait {(until - now) // _DAY_MS} days; the limit is 366 days",
            ),
            "wait_too_long",
        )
        return
    if isinstance(one, op.WaitForEvent) and one.expression is not None:
        try:
            expr.compile(one.expression)
        except expr.ExpressionError as err:
            turn.fail(_error("InvalidExpression", f"step {one.name!r}: {err}"), "invalid_expression")
            return
    timer = turn.next_job()
    match one:
        case op.Sleep():
            turn.record(
                journal.SleepStarted(at=now, step=one.step, until=until, timer=timer, name=one.name, index=one.index)
            )
        case op.WaitForEvent():
            since = run.look_since()
            turn.record(
                journal.WaitStarted(
                    at=now,
                    step=one.step,
                    event=one.event,
                    until=until,
                    timer=timer,
                    expression=one.expression,
                    since=since,
                    name=one.name,
                    index=one.index,
                )
            )
            look = JobId(f"{timer}.look")
            turn.do(effect.AddWait(one.step, one.event, one.expression, until, since, look))
        case op.Invoke():
            if run.depth + 1 > turn.policy.max_depth:
                turn.record(
                    journal.StepFailed(
                        at=now,
                        step=one.step,
                        error=_error(
                            "InvocationTooDeep",
                            f"step {one.name!r} would invoke {one.function!r} at depth {run.depth + 1}; "
                            f"the limit is {turn.policy.max_depth}. Does a function invoke itself?",
                        ),
                        name=one.name,
                        index=one.index,
                        kind="step.invoke",
                    )
                )
                return
            event_id = derived_ulid(now, run.id, one.step)
            turn.record(
                journal.InvokeStarted(
                    at=now,
                    step=one.step,
                    function=one.function,
                    until=until,
                    timer=timer,
                    event_id=event_id,
                    name=one.name,
                    index=one.index,
                    input=one.data,
                )
            )
            turn.do(effect.SendInvoke(one.step, one.function, event_id, one.data, one.user, one.v, until, one.name))
        case _:
            assert_never(one)
    turn.do(effect.SetTimer(timer, one.step, until))


def _offload(turn: _Turn, one: op.Offload, known: Step | None) -> None:
    job = turn.next_job()
    turn.record(
        journal.OffloadStarted(
            at=turn.now,
            step=one.step,
            request=one.request,
            job=job,
            kind=one.kind,
            sealed=one.sealed is not None,
            name=one.name,
            index=one.index,
        )
    )
    attempt = known.attempts if known is not None else 0
    turn.do(effect.StartOffload(job, one.step, attempt, turn.now, one.sealed))


def _check_limits(turn: _Turn) -> None:
    run, policy = turn.run, turn.policy
    if run.finished:
        return
    if len(run.steps) > policy.max_steps:
        turn.fail(
            _error("InngestErrFunctionOverflowed", f"the run has more than {policy.max_steps} steps, the limit"),
            "too_many_steps",
        )
    elif run.state_bytes > policy.max_state_bytes:
        turn.fail(
            _error(
                "InngestErrStateOverflowed",
                f"the results of the run's steps exceed {policy.max_state_bytes // (1024 * 1024)} MiB together; "
                "keep large results elsewhere and return a reference",
            ),
            "state_too_large",
        )


# the function goes on


def _rediscover(turn: _Turn, *, race: bool) -> None:
    """A result was saved and no function in memory waits for it: call the function, unless a group is still
    being joined."""
    run = turn.run
    if run.pending and not race and run.version >= 2:
        return
    if run.executing():
        return  # made when that one has answered
    if run.planning and run.version >= 2:
        turn.record(journal.GroupClosed(at=turn.now))
    turn.call(None)


def _pass_on(turn: _Turn, step_id: StepId) -> None:
    """A step got its result from outside: a timer, an event, a child."""
    run = turn.run
    live_call = run.live_call()
    if live_call is not None:
        turn.do(effect.Deliver(live_call.id, step_id, run.news))
    elif not turn.live:
        _rediscover(turn, race=False)
    elif not run.discovering():
        turn.call(None)


def _drive_again(turn: _Turn, call: Call) -> None:
    """The worker had nothing to say and nothing else is going on: ask again, but not for ever."""
    if call.attempt + 1 < turn.run.max_attempts:
        turn.call(None, attempt=call.attempt + 1, reason="nothing reported")
    else:
        turn.fail(
            _error(
                "NoProgress",
                "the function neither returned nor reported a step, and nothing that it waits for is left",
            ),
            "no_progress",
        )


def _on_suspended(turn: _Turn, msg: message.Suspended) -> None:
    call = turn.end_call(msg.call, "suspended", msg.info, news=msg.news)
    if call is None:
        return
    run = turn.run
    if run.news > msg.news:
        turn.call(None)  # a result was on its way when the worker let go
    elif not run.calls and run.asks():
        _drive_again(turn, call)


# time, events, children


def _on_began(turn: _Turn) -> None:
    run = turn.run
    if run.finished or not run.awaits_beginning:
        return
    if run.start_within_ms is not None:
        turn.do(effect.DropJob(start_timer(run.id)))
    turn.record(journal.RunBegan(at=turn.now))
    if run.finish_within_ms is not None:
        turn.do(effect.SetTimer(finish_timer(run.id), _FINISH, turn.now + run.finish_within_ms))


def _on_deadline(turn: _Turn) -> None:
    run = turn.run
    if run.finished:
        return
    if run.began:
        _cancel(turn, f"it did not finish within {run.finish_within_ms} ms of its start, its limit", None)
    else:
        _cancel(turn, f"it did not start within {run.start_within_ms} ms, its limit", None)


def _on_timer(turn: _Turn, msg: message.TimerFired) -> None:
    run, now = turn.run, turn.now
    step = run.steps.get(msg.step)
    if run.finished or step is None or step.timer != msg.timer:
        return
    match step.phase:
        case Phase.SLEEPING:
            turn.record(journal.StepCompleted(at=now, step=step.id, bare=True))
        case Phase.WAITING:
            turn.record(journal.StepCompleted(at=now, step=step.id, bare=True))
            turn.do(effect.DropWait(step.id))
        case Phase.INVOKING:
            turn.record(
                journal.StepFailed(
                    at=now,
                    step=step.id,
                    error=_error("InngestInvokeTimeoutError", "Timed out waiting for invoked function to complete"),
                    kind=step.kind,
                )
            )
        case Phase.RETRYING:
            turn.record(journal.StepReady(at=now, step=step.id))
            live_call = run.live_call()
            if live_call is not None:
                turn.do(effect.DeliverRetry(live_call.id, step.id, step.attempts, run.news))
            elif not run.discovering():
                turn.call(None)
            return
        case _:
            return
    _pass_on(turn, step.id)


def _on_event(turn: _Turn, msg: message.EventMatched) -> None:
    run, now = turn.run, turn.now
    if run.finished:
        return
    if any(listener.step == msg.step for listener in run.listeners):
        _cancel(turn, "an event that cancels it arrived", msg.event)
        return
    step = run.steps.get(msg.step)
    if step is None or step.phase is not Phase.WAITING or (msg.back and msg.event in run.taken):
        return
    timer = step.timer
    turn.record(journal.StepCompleted(at=now, step=step.id, output=msg.body, bare=True, event=msg.event))
    turn.do(effect.DropWait(step.id))
    if timer is not None:
        turn.do(effect.DropJob(timer))
    _pass_on(turn, step.id)


def _on_child(turn: _Turn, msg: message.ChildEnded) -> None:
    run, now = turn.run, turn.now
    step = run.steps.get(msg.step)
    if run.finished or step is None or step.phase is not Phase.INVOKING:
        return
    timer = step.timer
    if msg.error is not None:
        turn.record(journal.StepFailed(at=now, step=step.id, error=msg.error, kind=step.kind))
    else:
        turn.record(journal.StepCompleted(at=now, step=step.id, output=msg.output or NULL))
    if timer is not None:
        turn.do(effect.DropJob(timer))
    _pass_on(turn, step.id)
    _check_limits(turn)


# requests that the server makes


def _on_offload_ended(turn: _Turn, msg: message.OffloadEnded) -> None:
    run, now, exchange = turn.run, turn.now, msg.exchange
    step = run.steps.get(msg.step)
    if run.finished or step is None or step.timer != msg.job:
        return
    attempt = step.attempts
    if msg.error is not None and msg.retry and attempt + 1 < run.max_attempts:
        retry_at = turn.retry_at(attempt, msg.retry_at, step.id)
        job = turn.next_job()
        turn.record(
            journal.StepRetried(
                at=now,
                step=step.id,
                error=msg.error,
                retry_at=retry_at,
                name=step.name,
                index=step.index,
                kind=step.kind,
                attempt=attempt,
                timer=job,
                started_at=exchange.started_at,
                duration_ms=exchange.duration_ms,
                exchange=exchange,
            )
        )
        turn.do(effect.StartOffload(job, step.id, attempt + 1, retry_at))
        return
    if msg.output is not None:
        turn.record(
            journal.StepCompleted(
                at=now,
                step=step.id,
                output=msg.output,
                name=step.name,
                index=step.index,
                kind=step.kind,
                attempt=attempt,
                started_at=exchange.started_at,
                duration_ms=exchange.duration_ms,
                exchange=exchange,
            )
        )
    else:
        turn.record(
            journal.StepFailed(
                at=now,
                step=step.id,
                error=msg.error or _error("GatewayError", "the request failed without saying why"),
                name=step.name,
                index=step.index,
                kind=step.kind,
                attempt=attempt,
                started_at=exchange.started_at,
                duration_ms=exchange.duration_ms,
                exchange=exchange,
            )
        )
    turn.do(effect.StopOffload(step.id))
    _pass_on(turn, step.id)
    _check_limits(turn)


def _on_offload_lost(turn: _Turn, msg: message.OffloadLost) -> None:
    """Make the request once more. If only the function has the credentials for it, it is asked to say all again."""
    run = turn.run
    step = run.steps.get(msg.step)
    if run.finished or step is None or step.timer != msg.job:
        return
    job = turn.next_job() if msg.held or not step.sealed else None
    turn.record(
        journal.OffloadLost(at=turn.now, step=step.id, lost=msg.job, made=msg.made, job=job, attempt=step.attempts)
    )
    if job is not None:
        turn.do(effect.StartOffload(job, step.id, step.attempts, turn.now))
        return
    live_call = run.live_call()
    if live_call is not None:
        turn.do(effect.DeliverRetry(live_call.id, step.id, step.attempts, run.news))
    elif not run.discovering():
        turn.call(None, reason=ASKED_AGAIN)


def _drop_unsaid(turn: _Turn, call: Call) -> bool:
    """Fail the steps of which the function was to say more, in this very call, and said nothing: its code must have
    changed. Returns whether there were any."""
    run = turn.run
    unsaid = [step for step in map(run.steps.__getitem__, run.open) if step.phase is Phase.ASKING]
    unsaid = sorted((step for step in unsaid if step.asked <= call.news), key=lambda step: step.asked)
    for step in unsaid:
        text = (
            f"the credentials for step {step.name!r} are gone, and the function, called again, did not come to that "
            "step; was its code changed?"
        )
        error = _error("CredentialsLost", text)
        turn.record(journal.StepFailed(at=turn.now, step=step.id, error=error, kind=step.kind, attempt=step.attempts))
        turn.do(effect.StopOffload(step.id))
    return bool(unsaid)


def _on_logged(turn: _Turn, msg: message.Logged) -> None:
    """Keep the lines, as many as a trace may have; the last one says that there were more."""
    run, limit = turn.run, turn.policy.max_notes
    if run.finished:
        return
    news = [line for line in msg.lines if not line.about or line.about not in run.warned]
    for line in news[: max(0, limit - run.notes)]:
        turn.record(
            journal.Noted(
                at=min(line.at, turn.now),
                kind="warning" if line.about else "log",
                text=line.text,
                about=line.about,
                level=line.level,
                step=line.step,
                call=msg.call,
            )
        )
        if run.notes == limit:
            text = f"the run logged more than {limit} lines; further ones are only in the server's log"
            turn.record(journal.Noted(at=turn.now, kind="warning", text=text))


# calls that fail


def _on_raised(turn: _Turn, msg: message.Raised) -> None:
    call = turn.end_call(msg.call, "failed", msg.info, error=msg.error, version=msg.version)
    if call is None:
        return
    if msg.retry and call.attempt + 1 < turn.run.max_attempts:
        due = turn.retry_at(call.attempt, msg.retry_at, call.target or "")
        turn.call(call.target, attempt=call.attempt + 1, due=due, reason="retry")
    else:
        turn.fail(msg.error, msg.code, msg.info.status)


def _on_lost(turn: _Turn, msg: message.CallLost) -> None:
    call = turn.end_call(msg.call, "declined" if msg.code == "declined" else "lost", msg.info, error=msg.error)
    if call is None:
        return
    if msg.free:
        turn.call(call.target, attempt=call.attempt, reason=msg.code or "given back")
    elif call.live:
        _call_another_worker(turn, call, msg)
    elif call.attempt + 1 < turn.run.max_attempts:
        at_once = msg.at_once and call.attempt == 0
        due = turn.now if at_once else turn.retry_at(call.attempt, None, call.target or "")
        turn.call(call.target, attempt=call.attempt + 1, due=due, reason="lost")
    else:
        turn.fail(msg.error, msg.code or "call_lost", msg.info.status)


def _call_another_worker(turn: _Turn, call: Call, msg: message.CallLost) -> None:
    """The worker that held the function in memory is gone. That is no failure of the function, whose attempts are
    its own; but one that ends every worker it runs in must come to an end."""
    run = turn.run
    if run.losses + 1 < turn.policy.max_losses:
        due = turn.now if run.losses == 0 else turn.retry_at(run.losses - 1, None, "loss")
        turn.call(None, attempt=call.attempt, due=due, reason=WORKER_LOST)
    else:
        turn.fail(msg.error, msg.code or "worker_lost")


def _error(name: str, text: str) -> bytes:
    return canonical({"name": name, "message": text})
