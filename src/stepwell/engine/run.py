"""One run, as the fold of its journal.

`apply` is the only way in which a run changes. What happens next is chosen in `decide.py`; this file
only says what is known:

    QUEUED ──first answer──▶ RUNNING ──returned──▶ COMPLETED
       └───────────┬──────────┘   └───raised for good──▶ FAILED
                   └──cancel──▶ CANCELLED    a call under way may be given time to end: `cancelling`

A *call* is one request to a worker that has not been answered yet. A *step* is known from the first
time that a worker names it; its result, once recorded, never changes and has a place in `stack`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stepwell.model import journal
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import JobId
from stepwell.model.job import RunRow, RunStatus
from stepwell.model.payload import NULL, Payload, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell.model.dispatch import Kept
    from stepwell.model.ids import EventKey, Instant, RunId, StepId
    from stepwell.model.journal import CancelListener, Entry, Limit


WORKER_LOST = "worker lost"
"""Why a call is made again after its worker went away."""


class Phase(Enum):
    """Where a step stands. All but the last three mean that something will happen by itself."""

    SCHEDULED = "scheduled"  # a call of its own is under way or queued
    RETRYING = "retrying"  # an attempt failed, the next one has its time
    SLEEPING = "sleeping"
    WAITING = "waiting"
    INVOKING = "invoking"
    OFFLOADED = "offloaded"  # the server makes a request for it
    ASKING = "asking"  # the function is to say once more what the server shall request
    READY = "ready"  # to be run by the function itself when it gets there
    DONE = "done"
    FAILED = "failed"


# Looked up once: it takes as long as a call, and a fold is made of little else.
_READY, _DONE, _FAILED, _INVOKING, _SCHEDULED = Phase.READY, Phase.DONE, Phase.FAILED, Phase.INVOKING, Phase.SCHEDULED
_RUNNING = RunStatus.RUNNING

SLOWEST_REPORT_MS = 30_000
"""How long a report of a function in memory may be on its way before it is too late for an event to be found."""

CLOCKS_AGREE_MS = 250
"""How far the nodes' ideas of the store's time may be apart: an event has its time from one, a step from another."""


class Step(msgspec.Struct):
    """What is known of one step."""

    id: StepId
    phase: Phase
    name: str = ""
    index: int = 0
    kind: str = ""
    bare: bool = False
    output: Payload = NULL
    error: Payload | None = None
    attempts: int = 0  # that failed
    tried_at: Instant = 0  # when the last of those began
    timer: JobId | None = None
    until: Instant = 0
    opened_at: Instant = 0
    request: Payload | None = None  # what the server requests
    sealed: bool = False  # which needs credentials that only memory has
    answered: int = 0  # attempts that got an answer, and are made again all the same
    asked: int = 0  # the news by which the function was asked again

    @property
    def finished(self) -> bool:
        return self.phase is _DONE or self.phase is _FAILED


class Call(msgspec.Struct):
    """A request to a worker, not answered yet."""

    id: JobId
    target: StepId | None
    attempt: int
    live: bool
    due: Instant
    scheduled_at: Instant
    news: int = 0  # of the run when it was scheduled
    plans: bool = False  # it may name new steps but not run one


class Result(NamedTuple):
    """A result that a wait may follow: which news it was, when it was recorded, since when its step was at work."""

    news: int
    at: Instant
    since: Instant


class Run(msgspec.Struct):
    """The state of a run after `seq` entries."""

    id: RunId
    env: str = DEV_ENV
    shard: int = 0
    seq: int = 0
    status: RunStatus = RunStatus.QUEUED
    function: str = ""
    service: str = ""
    events: tuple[Payload, ...] = ()
    event_keys: tuple[EventKey, ...] = ()
    event_name: str = ""
    max_attempts: int = 5
    root: RunId | None = None
    parent: RunId | None = None
    parent_step: StepId | None = None
    depth: int = 0
    listeners: tuple[CancelListener, ...] = ()
    limits: tuple[Limit, ...] = ()
    priority_s: int = 0
    holds: tuple[Limit, ...] = ()
    admitted: bool = True  # it has the slots of a whole run, if it needs any
    start_within_ms: int | None = None
    finish_within_ms: int | None = None
    cancel_grace_ms: int = 0
    cancelling: journal.RunCancelling | None = None
    began: bool = False  # it is known that a call was made; said only of a run that has timeouts
    created_at: Instant = 0
    started_at: Instant | None = None
    ended_at: Instant | None = None
    version: int = -1  # request version of the SDK, -1 before its first answer
    planning: bool = False  # steps are planned, not executed at once
    pending: set[StepId] = set()
    steps: dict[StepId, Step] = {}
    stack: list[StepId] = []  # finished steps, in the order of their results
    open: set[StepId] = set()  # steps that will go on by themselves
    calls: dict[JobId, Call] = {}
    feed: list[StepId] = []  # results and readied retries, in the order they became known
    taken: set[str] = set()  # internal ids of events that ended a wait
    losses: int = 0  # workers lost in a row, without a result in between
    notes: int = 0
    warned: set[str] = set()  # what it was warned about that is told once
    state_bytes: int = 0
    output: Payload | None = None
    error: Payload | None = None
    error_status: int = 0
    recent: list[Result] = []  # what a wait that is reported now may follow
    in_memory: bool = False  # the function was last called by a live call
    seen: int = 0  # the news that the last answered call of the whole function knew
    covered: int = 0  # the news that the last scheduled call of the whole function will know
    latest: JobId | None = None  # that call
    answered: Call | None = None  # the last call that ended
    edit: journal.InputEdited | None = None  # the input that somebody gave one of the steps
    kept: Kept | None = None  # for whoever calls workers; not of the fold

    @property
    def finished(self) -> bool:
        return self.ended_at is not None

    @property
    def news(self) -> int:
        """How many results and readied retries there have been."""
        return len(self.feed)

    def asks(self) -> bool:
        """Whether all that is open are steps of which the function has to say more."""
        return all(self.steps[step_id].phase is Phase.ASKING for step_id in self.open)

    @property
    def awaits_beginning(self) -> bool:
        """Whether it has to be told that a call is made."""
        return not self.began and (self.start_within_ms is not None or self.finish_within_ms is not None)

    def deadlines(self) -> set[JobId]:
        """The timers that end it, if it has any."""
        if self.cancelling is not None:
            return {cancel_timer(self.id)}
        if self.began:
            return {finish_timer(self.id)} if self.finish_within_ms is not None else set()
        return {start_timer(self.id)} if self.start_within_ms is not None else set()

    def live_call(self) -> Call | None:
        """The call that holds the function in a worker's memory."""
        for call in self.calls.values():
            if call.live:
                return call
        return None

    def look_since(self) -> Instant:
        """From when on an event may end a wait that is reported now: since the step before it was dispatched.

        Which step that is nobody tells us when branches run side by side. It is one that the function heard of
        since it last reported all that it waits for, so the earliest of those counts.
        """
        return min([result.since for result in self.recent], default=self.created_at) - CLOCKS_AGREE_MS

    def must_plan(self) -> bool:
        """Whether a call of the whole function may not run a step by itself: it could be one that has a call of
        its own, of which the function cannot know."""
        return self.planning or any(call.target is not None for call in self.calls.values())

    def discovering(self) -> bool:
        """Whether the function is being called as a whole, or about to be."""
        return None in [call.target for call in self.calls.values()]

    def executing(self) -> bool:
        """Whether the function is being called as a whole and may run a new step in that very call."""
        return any(call.target is None and not call.plans for call in self.calls.values())

    def row(self) -> RunRow:
        return RunRow(
            id=self.id,
            env=self.env,
            shard=self.shard,
            function=self.function,
            service=self.service,
            status=self.status,
            seq=self.seq,
            created_at=self.created_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            event=self.event_keys[0] if self.event_keys else None,
            event_name=self.event_name,
            event_count=len(self.events),
            parent=self.parent,
            output=self.error if self.error is not None else self.output,
        )


def hold_job(run: RunId) -> JobId:
    return JobId(f"{run}.hold")


def start_timer(run: RunId) -> JobId:
    return JobId(f"{run}.start")


def finish_timer(run: RunId) -> JobId:
    return JobId(f"{run}.finish")


def cancel_timer(run: RunId) -> JobId:
    return JobId(f"{run}.cancel")


def fold(row: RunRow, entries: Iterable[Entry]) -> Run:
    """The run that these entries, all of them from the first, tell of."""
    run = Run(row.id, env=row.env, shard=row.shard)
    for entry in entries:
        apply(run, entry)
    return run


def apply(run: Run, entry: Entry) -> None:
    """Take one more fact into account."""
    run.seq += 1
    _APPLIED[type(entry)](run, entry)


def _step_completed(run: Run, entry: journal.StepCompleted) -> None:
    step = _step(run, entry.step, entry.name, entry.index, entry.kind)
    step.output = entry.output
    step.bare = entry.bare
    _finish_step(run, step, _DONE, entry.at, entry.duration_ms, entry.call)
    run.state_bytes += size_of(entry.output)
    if entry.event is not None:
        run.taken.add(entry.event)


def _step_failed(run: Run, entry: journal.StepFailed) -> None:
    step = _step(run, entry.step, entry.name, entry.index, entry.kind)
    step.error = entry.error
    step.attempts = entry.attempt + 1
    _finish_step(run, step, _FAILED, entry.at, entry.duration_ms, entry.call)
    run.state_bytes += size_of(entry.error)


def _call_scheduled(run: Run, entry: journal.CallScheduled) -> None:
    news = len(run.feed)
    run.calls[entry.call] = Call(
        entry.call, entry.target, entry.attempt, entry.live, entry.due, entry.at, news, entry.plans
    )
    if entry.reason == WORKER_LOST:
        run.losses += 1
    if entry.target is None:
        run.in_memory = entry.live
        run.covered, run.latest = news, entry.call


def _call_ended(run: Run, entry: journal.CallEnded) -> None:
    call = run.calls.pop(entry.call, None)
    if entry.version is not None and run.version == -1:
        run.version = entry.version
    _start(run, entry.started_at or entry.at)
    run.answered = call
    if entry.news is not None:
        run.covered = entry.news
    if call is not None and call.target is None and not call.live and entry.outcome == "answered":
        run.seen = call.news


def _step_scheduled(run: Run, entry: journal.StepScheduled) -> None:
    step = _step(run, entry.step, entry.name, entry.index, entry.kind)
    _open(run, step, _SCHEDULED, entry.at)


def _sleep_started(run: Run, entry: journal.SleepStarted) -> None:
    step = _step(run, entry.step, entry.name, entry.index, "step.sleep")
    step.timer, step.until = entry.timer, entry.until
    _open(run, step, Phase.SLEEPING, entry.at)


def _wait_started(run: Run, entry: journal.WaitStarted) -> None:
    step = _step(run, entry.step, entry.name, entry.index, "step.waitForEvent")
    step.timer, step.until = entry.timer, entry.until
    _open(run, step, Phase.WAITING, entry.at)


def _invoke_started(run: Run, entry: journal.InvokeStarted) -> None:
    step = _step(run, entry.step, entry.name, entry.index, "step.invoke")
    step.timer, step.until = entry.timer, entry.until
    _open(run, step, _INVOKING, entry.at)


def _offload_started(run: Run, entry: journal.OffloadStarted) -> None:
    step = _step(run, entry.step, entry.name, entry.index, entry.kind)
    step.request, step.sealed = entry.request, entry.sealed
    step.timer, step.until = entry.job, entry.at
    _open(run, step, Phase.OFFLOADED, entry.at)


def _offload_lost(run: Run, entry: journal.OffloadLost) -> None:
    step = run.steps[entry.step]
    step.timer, step.until = entry.job, entry.at
    if entry.job is None:
        step.phase = Phase.ASKING
        run.feed.append(step.id)
        step.asked = run.news


def _step_retried(run: Run, entry: journal.StepRetried) -> None:
    step = _step(run, entry.step, entry.name, entry.index, entry.kind)
    step.attempts = max(step.attempts, entry.attempt + 1)
    step.tried_at = entry.started_at
    step.error = entry.error
    step.timer, step.until = entry.timer, entry.retry_at
    if entry.exchange is None:
        _open(run, step, Phase.RETRYING, entry.at)
    else:
        step.answered += entry.exchange.status > 0 and not entry.exchange.cut


def _step_ready(run: Run, entry: journal.StepReady) -> None:
    step = run.steps[entry.step]
    step.phase, step.timer = _READY, None
    run.open.discard(step.id)
    run.feed.append(step.id)


def _input_edited(run: Run, entry: journal.InputEdited) -> None:
    run.edit = entry


def _group_found(run: Run, entry: journal.GroupFound) -> None:
    run.planning = True
    run.pending.update(entry.pending)


def _group_closed(run: Run, entry: journal.GroupClosed) -> None:
    run.planning = False


def _run_completed(run: Run, entry: journal.RunCompleted) -> None:
    run.output = entry.output
    _end(run, RunStatus.COMPLETED, entry.at)


def _run_failed(run: Run, entry: journal.RunFailed) -> None:
    run.error = entry.error
    run.error_status = entry.status
    _end(run, RunStatus.FAILED, entry.at)


def _run_cancelling(run: Run, entry: journal.RunCancelling) -> None:
    run.cancelling, run.listeners = entry, ()
    _start(run, min((call.due for call in run.calls.values()), default=entry.at))


def _run_cancelled(run: Run, entry: journal.RunCancelled) -> None:
    _end(run, RunStatus.CANCELLED, entry.at)


def _run_admitted(run: Run, entry: journal.RunAdmitted) -> None:
    run.admitted = True


def _run_began(run: Run, entry: journal.RunBegan) -> None:
    run.began = True
    _start(run, entry.at)


def _noted(run: Run, entry: journal.Noted) -> None:
    run.notes += 1
    if entry.about:
        run.warned.add(entry.about)


def _run_started(run: Run, entry: journal.RunStarted) -> None:
    run.function = entry.function
    run.service = entry.service
    run.events = entry.events
    run.event_keys = entry.event_keys
    run.event_name = entry.event_name
    run.max_attempts = entry.max_attempts
    run.root = entry.root
    run.parent = entry.parent
    run.parent_step = entry.parent_step
    run.depth = entry.depth
    run.listeners = entry.cancel_on
    run.limits = entry.limits
    run.priority_s = entry.priority_s
    run.holds = entry.holds
    run.admitted = not entry.holds
    run.start_within_ms = entry.start_within_ms
    run.finish_within_ms = entry.finish_within_ms
    run.cancel_grace_ms = entry.cancel_grace_ms
    run.created_at = entry.at


def _step(run: Run, step_id: StepId, name: str, index: int, kind: str) -> Step:
    step = run.steps.get(step_id)
    if step is None:
        step = run.steps[step_id] = Step(step_id, _READY, name, index, kind)
    return step


def _open(run: Run, step: Step, phase: Phase, at: Instant) -> None:
    step.phase = phase
    step.opened_at = at
    run.open.add(step.id)


def _start(run: Run, at: Instant) -> None:
    if run.started_at is None:
        run.started_at = at
        run.status = _RUNNING


def _finish_step(run: Run, step: Step, phase: Phase, at: Instant, duration_ms: float, call_id: JobId | None) -> None:
    step_id, feed, recent = step.id, run.feed, run.recent
    run.losses = 0
    since = _at_work_since(run, step, at, duration_ms, call_id)
    step.phase, step.timer = phase, None
    run.open.discard(step_id)
    run.pending.discard(step_id)
    run.stack.append(step_id)
    feed.append(step_id)
    while recent and (recent[0].at < at - SLOWEST_REPORT_MS if run.in_memory else recent[0].news <= run.seen):
        del recent[0]
    recent.append(Result(len(feed), at, since))
    call = run.calls.get(call_id) if call_id is not None else None
    if call is not None:
        # The function got further in this very call: whatever fails next has its own attempts.
        call.attempt = 0
        if call.id == run.latest and not call.live:
            run.covered += 1  # it knows what it reported itself
        _start(run, call.scheduled_at)


def _at_work_since(run: Run, step: Step, at: Instant, duration_ms: float, call_id: JobId | None) -> Instant:
    """From when on the step may have caused an event. Judged by our own clock only, so rather too early."""
    if step.phase is _INVOKING or step.request is not None:
        return step.opened_at
    if call_id is None:
        return at
    call = run.calls.get(call_id)
    if call is not None:
        return max(call.due, at - int(duration_ms) - SLOWEST_REPORT_MS)
    if run.answered is not None and run.answered.id == call_id:
        return run.answered.due
    return at


def _end(run: Run, status: RunStatus, at: Instant) -> None:
    run.status = status
    run.ended_at = at
    run.calls.clear()
    run.open.clear()
    run.pending.clear()


_APPLIED: dict[type, Callable[[Run, Any], None]] = {
    journal.RunStarted: _run_started,
    journal.RunAdmitted: _run_admitted,
    journal.RunBegan: _run_began,
    journal.CallScheduled: _call_scheduled,
    journal.CallEnded: _call_ended,
    journal.GroupFound: _group_found,
    journal.GroupClosed: _group_closed,
    journal.StepScheduled: _step_scheduled,
    journal.StepCompleted: _step_completed,
    journal.StepRetried: _step_retried,
    journal.StepReady: _step_ready,
    journal.StepFailed: _step_failed,
    journal.InputEdited: _input_edited,
    journal.SleepStarted: _sleep_started,
    journal.WaitStarted: _wait_started,
    journal.InvokeStarted: _invoke_started,
    journal.OffloadStarted: _offload_started,
    journal.OffloadLost: _offload_lost,
    journal.RunCompleted: _run_completed,
    journal.RunFailed: _run_failed,
    journal.RunCancelling: _run_cancelling,
    journal.RunCancelled: _run_cancelled,
    journal.Noted: _noted,
}
"""What each entry changes. A table, since a run that is loaded is folded entry by entry, however many there are."""
