"""What a trace is made of: spans, requests and notes, and the ids under which they can be asked for.

Only values. How they come about from a journal is told in `trace.py`. Spans refer to payloads and never hold their
text, so a trace is small however large the results are.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from stepwell.model.ids import RunId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.model.ids import Instant, JobId, StepId
    from stepwell.model.job import RunStatus
    from stepwell.model.offload import Exchange
    from stepwell.model.payload import Payload
    from stepwell.model.task import TaskPhase


class SpanStatus(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"  # for a time, an event or another run
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"  # the run ended first


class SpanKind(StrEnum):
    RUN = "run"
    STEP = "step"
    ATTEMPT = "attempt"
    EXECUTION = "execution"
    FINALIZATION = "finalization"
    PHASE = "phase"  # of a call of an app


class StepOp(StrEnum):
    """What kind of thing a step asks for, in the words of the protocol."""

    RUN = "RUN"
    SLEEP = "SLEEP"
    WAIT_FOR_EVENT = "WAIT_FOR_EVENT"
    WAIT_FOR_SIGNAL = "WAIT_FOR_SIGNAL"
    INVOKE = "INVOKE"
    AI_GATEWAY = "AI_GATEWAY"


class Ref(NamedTuple):
    """Where a span hangs. Its text is opaque to clients and stable for ever."""

    run: RunId
    kind: SpanKind
    name: str = ""  # the id of a step, or which execution
    attempt: int | None = None

    @property
    def text(self) -> str:
        attempt = "" if self.attempt is None else str(self.attempt)
        plain = "\x1f".join((self.run, self.kind, self.name, attempt))
        return base64.urlsafe_b64encode(plain.encode()).rstrip(b"=").decode()

    @property
    def span_id(self) -> str:
        """16 hex digits, as OpenTelemetry has them."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def read_ref(text: str) -> Ref:
    """What `Ref.text` wrote. Raises `ValueError` for anything else."""
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
        run, kind, name, attempt = plain.split("\x1f")
        return Ref(RunId(run), SpanKind(kind), name, int(attempt) if attempt else None)
    except (ValueError, binascii.Error) as err:
        raise ValueError(f"{text[:80]!r} is not the id of an output; take it from a trace") from err


def trace_id(run: RunId) -> str:
    """32 hex digits, as OpenTelemetry has them."""
    return hashlib.sha256(run.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class SleepInfo:
    until: Instant


@dataclass(frozen=True, slots=True)
class WaitInfo:
    event: str
    expression: str | None
    until: Instant
    found_event: str | None = None  # internal id
    timed_out: bool | None = None  # None: still waiting, or the run ended first


@dataclass(frozen=True, slots=True)
class InvokeInfo:
    function: str  # slug
    event_id: str  # internal id of the event that asks for the child
    until: Instant
    child: RunId | None = None
    timed_out: bool | None = None


Info: TypeAlias = SleepInfo | WaitInfo | InvokeInfo


@dataclass(frozen=True, slots=True)
class Span:
    """One line of the tree. Times are milliseconds since 1970; None means that it has not come to that."""

    ref: Ref
    name: str
    kind: SpanKind
    status: SpanStatus
    queued_at: Instant
    scheduled_at: Instant | None = None  # not before this time, when that is later than `queued_at`
    started_at: Instant | None = None
    ended_at: Instant | None = None
    op: StepOp | None = None
    step: StepId | None = None
    step_kind: str = ""  # as the worker named it: `step.run`, `step.ai.wrap` ...
    index: int = 0  # which use of the same id in the run
    attempts: int | None = None
    info: Info | None = None
    input: Payload | None = None
    output: Payload | None = None
    error: Payload | None = None
    call: JobId | None = None  # the request it happened in, or the last of them
    exchange: Exchange | None = None  # of a request that the server made, or of the last of them
    origin: RunId | None = None  # the run that it happened in, from which its result is kept
    edited: bool = False  # somebody gave it another input than the function did
    blocked: str = ""  # why its arguments are no `input`
    children: tuple[Span, ...] = ()

    @property
    def output_id(self) -> str | None:
        """Under which `output` or `error` can be asked for; None while there is neither."""
        return self.ref.text if self.output is not None or self.error is not None else None

    @property
    def queue_ms(self) -> int | None:
        """How long it waited although it could have begun."""
        if self.started_at is None:
            return None
        return max(0, self.started_at - max(self.queued_at, self.scheduled_at or 0))

    @property
    def duration_ms(self) -> int | None:
        """From its start to its end; None before that."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0, self.ended_at - self.started_at)

    def walk(self) -> Iterator[Span]:
        """This span and all below it, from the top."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a worker. `outcome` is empty until it is over."""

    number: int  # from 1
    call: JobId
    target: StepId | None  # None: the function as a whole
    target_name: str
    attempt: int
    live: bool
    reason: str
    scheduled_at: Instant
    due: Instant
    started_at: Instant | None = None
    ended_at: Instant | None = None
    duration_ms: float | None = None
    outcome: str = ""  # "answered" | "suspended" | "failed" | "lost" | "declined" | "superseded" | "stopped"
    error: Payload | None = None
    worker: str = ""
    status: int = 0
    steps: tuple[str, ...] = ()  # names of the steps whose attempts it made
    phases: tuple[TaskPhase, ...] = ()  # that a call of an app came through

    @property
    def open(self) -> bool:
        return not self.outcome

    @property
    def queue_ms(self) -> int | None:
        return None if self.started_at is None else max(0, self.started_at - max(self.scheduled_at, self.due))


@dataclass(frozen=True, slots=True)
class Note:
    """A warning, a late result or a line of a log."""

    at: Instant
    kind: str
    text: str
    step: StepId | None = None
    step_name: str = ""
    call: JobId | None = None
    level: str = ""


@dataclass(frozen=True, slots=True)
class RunningStep:
    """A step that a function in memory is in the middle of."""

    step: StepId
    name: str
    started_at: Instant


@dataclass(frozen=True, slots=True)
class InFlight:
    """A call that somebody is answering right now, as only its performer knows."""

    call: JobId
    started_at: Instant
    worker: str = ""
    steps: tuple[RunningStep, ...] = ()
    phases: tuple[TaskPhase, ...] = ()  # that a call of an app has come through


@dataclass(frozen=True, slots=True)
class Trace:
    run: RunId
    function: str
    service: str
    status: RunStatus
    root: Span
    requests: tuple[Request, ...] = ()
    notes: tuple[Note, ...] = ()
    start_at: Instant = 0  # when the run was to begin, if not at once
    parent: RunId | None = None
    reason: str = ""  # why it was cancelled
    cancel_event: str | None = None  # internal id
    cancelling_at: Instant | None = None  # when its call was told to end
    lacks: tuple[str, ...] = ()  # the limits of which a call of it waits for a slot, in words
    origin: RunId | None = None  # the run that this one makes again
    from_step: str = ""  # the name of the step from which on it does so; empty: from the beginning

    def find(self, ref: Ref) -> Span | None:
        return next((span for span in self.root.walk() if span.ref == ref), None)
