"""The journal of a run: immutable facts, in order.

A run is nothing but the fold of these (`engine.run.apply`). An entry never changes once it is
committed, and its type never changes meaning: a new need is a new field with a default, or a new type.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from stepwell.model.ids import EventKey, Instant, JobId, RunId, StepId
from stepwell.model.offload import FETCH, Exchange
from stepwell.model.payload import NULL, Payload
from stepwell.model.task import TaskPhase


class _Entry(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    at: Instant = 0


class RunStarted(_Entry, frozen=True, kw_only=True):
    """First entry of every run."""

    function: str  # slug
    service: str
    events: tuple[Payload, ...]
    event_keys: tuple[EventKey, ...] = ()
    event_name: str = ""
    max_attempts: int = 5
    start_at: Instant = 0
    root: RunId | None = None  # None: this run is its own root
    parent: RunId | None = None
    parent_step: StepId | None = None
    depth: int = 0
    cancel_on: tuple[CancelListener, ...] = ()
    limits: tuple[Limit, ...] = ()
    priority_s: int = 0  # how much earlier than it came it is in line for a slot
    holds: tuple[Limit, ...] = ()  # of whole runs: it begins with `RunAdmitted`
    start_within_ms: int | None = None
    finish_within_ms: int | None = None
    cancel_grace_ms: int = 0  # how long a call under way may take to end by itself when the run is cancelled
    origin: RunId | None = None  # the ended run that this one makes again
    from_step: StepId | None = None  # the step up to whose result everything is kept from there


class CancelListener(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A wait that the run holds from its first moment; a match cancels it."""

    step: StepId  # `cancel:0`, `cancel:1` ...
    event: str
    expression: str | None = None
    until: Instant = 0


class Limit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A limit of the function, and what the run counts for in it. Which number it has is the function's to say."""

    scope: str  # `fn`, `env`, `account`
    key: str  # a hash of the scope, the expression and its value
    expression: str | None = None


class RunAdmitted(_Entry, frozen=True, kw_only=True):
    """It has the slots of a whole run."""


class RunBegan(_Entry, frozen=True, kw_only=True):
    """The first call of a run that has timeouts is on its way."""


class CallScheduled(_Entry, frozen=True, kw_only=True):
    """A worker will be called. The job has the id `call`."""

    call: JobId
    target: StepId | None = None  # None: discovery, the function runs as far as it can
    attempt: int = 0
    due: Instant = 0
    live: bool = False  # the function stays in the worker's memory and reports step by step
    plans: bool = False  # it may name new steps but not run one
    reason: str = ""


class CallEnded(_Entry, frozen=True, kw_only=True):
    """That call is over, answered or lost."""

    call: JobId
    outcome: str  # "answered" | "suspended" | "failed" | "lost" | "declined"
    error: Payload | None = None
    version: int | None = None  # request version of the SDK that answered
    started_at: Instant = 0
    duration_ms: float = 0.0
    worker: str = ""
    status: int = 0  # HTTP status, when there was one
    phases: tuple[TaskPhase, ...] = ()  # that a call of an app came through
    news: int | None = None  # of a worker that let go of the function: how many results it had been told of


class GroupFound(_Entry, frozen=True, kw_only=True):
    """One reply named several steps: they are planned, and joined when `pending` is empty."""

    pending: tuple[StepId, ...] = ()


class GroupClosed(_Entry, frozen=True, kw_only=True):
    """The last of the group is done: the function may execute steps immediately again."""


class StepScheduled(_Entry, frozen=True, kw_only=True):
    """The step will be run in a call of its own."""

    step: StepId
    name: str = ""
    index: int = 0
    kind: str = "step.run"
    input: Payload | None = None


class StepCompleted(_Entry, frozen=True, kw_only=True):
    """The one result of the step. `bare` says that the memo is the value itself."""

    step: StepId
    output: Payload = NULL
    bare: bool = False
    name: str = ""
    index: int = 0
    kind: str = ""
    input: Payload | None = None
    call: JobId | None = None  # the call that executed it
    attempt: int = 0
    event: str | None = None  # internal id of the event that ended a wait
    started_at: Instant = 0
    duration_ms: float = 0.0
    exchange: Exchange | None = None  # of a request that the server made
    blocked: str = ""  # why the arguments are no `input`
    origin: RunId | None = None  # the run that it happened in, from which it is kept


class StepRetried(_Entry, frozen=True, kw_only=True):
    """An attempt failed; another is made at `retry_at`."""

    step: StepId
    error: Payload
    retry_at: Instant
    name: str = ""
    index: int = 0
    kind: str = "step.run"
    call: JobId | None = None
    attempt: int = 0  # the one that failed
    timer: JobId | None = None  # set when the retry waits on a timer, not on a scheduled call
    started_at: Instant = 0
    duration_ms: float = 0.0
    exchange: Exchange | None = None  # of a request that the server made


class StepReady(_Entry, frozen=True, kw_only=True):
    """The pause before a retry is over: the function in memory may try the step again."""

    step: StepId


class StepFailed(_Entry, frozen=True, kw_only=True):
    """The step failed for good. The function sees `error` where it awaits the step."""

    step: StepId
    error: Payload
    name: str = ""
    index: int = 0
    kind: str = "step.run"
    input: Payload | None = None
    call: JobId | None = None
    attempt: int = 0
    started_at: Instant = 0
    duration_ms: float = 0.0
    exchange: Exchange | None = None  # of a request that the server made
    blocked: str = ""  # why the arguments are no `input`
    origin: RunId | None = None  # the run that it happened in, from which it is kept


class InputEdited(_Entry, frozen=True, kw_only=True):
    """The step is made with this input, whatever the function gives it."""

    step: StepId
    input: Payload
    name: str = ""
    index: int = 0
    kind: str = "step.run"


class SleepStarted(_Entry, frozen=True, kw_only=True):
    step: StepId
    until: Instant
    timer: JobId
    name: str = ""
    index: int = 0


class WaitStarted(_Entry, frozen=True, kw_only=True):
    """Waits for `event` until `until`. Events accepted since `since` count as well."""

    step: StepId
    event: str
    until: Instant
    timer: JobId
    expression: str | None = None
    since: Instant = 0
    name: str = ""
    index: int = 0


class InvokeStarted(_Entry, frozen=True, kw_only=True):
    """Another function was called; its end is awaited until `until`."""

    step: StepId
    function: str
    until: Instant
    timer: JobId
    event_id: str  # of the invoke event; the child is known by it
    name: str = ""
    index: int = 0
    input: Payload | None = None


class OffloadStarted(_Entry, frozen=True, kw_only=True):
    """The server will make a request, under the id `job`; anew when the function was asked again."""

    step: StepId
    request: Payload
    job: JobId
    kind: str = FETCH
    sealed: bool = False  # it needs credentials, which only memory has
    name: str = ""
    index: int = 0


class OffloadLost(_Entry, frozen=True, kw_only=True):
    """The job of a request came to nothing. Another one makes it, or the function is asked for the credentials."""

    step: StepId
    lost: JobId
    made: bool = False  # the request may have been made: its outcome is unknown
    job: JobId | None = None  # that makes it now; None: the function is asked again
    attempt: int = 0


class RunCompleted(_Entry, frozen=True, kw_only=True):
    output: Payload = NULL


class RunFailed(_Entry, frozen=True, kw_only=True):
    """`error` is the error object as received, or one of our own."""

    error: Payload
    code: str = ""
    status: int = 0  # HTTP status of the failing answer, when there was one


class RunCancelling(_Entry, frozen=True, kw_only=True):
    """It is to be cancelled: its call was told to end, and has time until `until`. Whatever comes of that call, the
    run ends as cancelled."""

    until: Instant
    reason: str = ""
    event: str | None = None  # internal id of the event that cancelled it


class RunCancelled(_Entry, frozen=True, kw_only=True):
    reason: str = ""
    event: str | None = None  # internal id of the event that cancelled it


class Noted(_Entry, frozen=True, kw_only=True):
    """Something worth seeing that changes nothing: a warning, a dropped late result, log lines."""

    kind: str  # "warning" | "late" | "log"
    text: str
    about: str = ""  # what a warning is about that is told once in a run
    level: str = ""  # of a line of a log
    step: StepId | None = None
    call: JobId | None = None


Entry: TypeAlias = (
    RunStarted
    | RunAdmitted
    | RunBegan
    | CallScheduled
    | CallEnded
    | GroupFound
    | GroupClosed
    | StepScheduled
    | StepCompleted
    | StepRetried
    | StepReady
    | StepFailed
    | InputEdited
    | SleepStarted
    | WaitStarted
    | InvokeStarted
    | OffloadStarted
    | OffloadLost
    | RunCompleted
    | RunFailed
    | RunCancelling
    | RunCancelled
    | Noted
)

ENTRY_VERSION = 1
