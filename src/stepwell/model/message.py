"""A message: something happened that a run may care about.

Every delivery is at least once, so each message names what it answers and a run that has moved on
ignores it.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from stepwell.model.ids import Instant, JobId, StepId
from stepwell.model.offload import Exchange
from stepwell.model.op import Op
from stepwell.model.payload import Payload
from stepwell.model.task import TaskPhase


class CallInfo(msgspec.Struct, frozen=True):
    """About the call that a worker's message belongs to."""

    started_at: Instant = 0
    duration_ms: float = 0.0
    worker: str = ""
    status: int = 0
    phases: tuple[TaskPhase, ...] = ()  # that a call of an app came through, in order


class Replied(msgspec.Struct, frozen=True):
    """The worker answered a call with ops; the call is over."""

    call: JobId
    ops: tuple[Op, ...]
    version: int | None = None
    info: CallInfo = CallInfo()


class Reported(msgspec.Struct, frozen=True):
    """A worker that goes on running reports ops; `number` counts its reports and is acknowledged.

    One that keeps no function in memory reports finished steps only: what it waits for is in its answer.
    """

    call: JobId
    ops: tuple[Op, ...]
    number: int = 0


class Returned(msgspec.Struct, frozen=True):
    """The function returned; the call and the run are over."""

    call: JobId
    output: Payload
    version: int | None = None
    info: CallInfo = CallInfo()


class Raised(msgspec.Struct, frozen=True):
    """The function itself failed, or answered in a way that counts as that."""

    call: JobId
    error: Payload
    retry: bool = True
    retry_at: Instant | None = None
    version: int | None = None
    info: CallInfo = CallInfo()
    code: str = ""


class Suspended(msgspec.Struct, frozen=True):
    """A worker dropped a waiting function from its memory. `news` is how much it had been told."""

    call: JobId
    news: int
    info: CallInfo = CallInfo()


class CallLost(msgspec.Struct, frozen=True):
    """Nobody will answer: no connection, the worker went away, or the node that asked did."""

    call: JobId
    error: Payload
    at_once: bool = False  # the next attempt needs no pause
    free: bool = False  # consumes no attempt: the worker gave the call back untouched, or our node was lost
    info: CallInfo = CallInfo()
    code: str = ""


class TimerFired(msgspec.Struct, frozen=True):
    """The time that `step` waited for has come. `timer` tells this timer from an earlier one."""

    step: StepId
    timer: JobId


class EventMatched(msgspec.Struct, frozen=True):
    """An event satisfied a wait of this run; `body` is the whole event."""

    step: StepId
    body: Payload
    event: str  # internal id
    back: bool = False  # found by looking back: an event that this run already took does not count


class ChildEnded(msgspec.Struct, frozen=True):
    """The run that `step` invoked is over. Exactly one of `output` and `error` is set."""

    step: StepId
    output: Payload | None = None
    error: Payload | None = None


class OffloadEnded(msgspec.Struct, frozen=True):
    """A request made for `step` came to an end. `job` tells this attempt from others.

    With `error` and `retry` it is made again while attempts are left. With both `output` and `error` the answer is an
    error worth trying again, and it is the result of the step once no attempt is left.
    """

    step: StepId
    job: JobId
    exchange: Exchange
    output: Payload | None = None
    error: Payload | None = None
    retry: bool = False
    retry_at: Instant | None = None


class OffloadLost(msgspec.Struct, frozen=True):
    """A request cannot be made as it stands. `made`: it may have been made, by a node that went away. `held`: whoever
    says this has the credentials that it needs."""

    step: StepId
    job: JobId
    made: bool
    held: bool


class CancelAsked(msgspec.Struct, frozen=True):
    """`grace_ms`: how long a call under way may take to end by itself, if its function gives it any time; None: as
    long as the function says, which is the longest."""

    reason: str
    event: str | None = None
    grace_ms: int | None = None


class LogLine(msgspec.Struct, frozen=True):
    """A line of a function's logger. `at` is the worker's clock.

    With `about` it is a warning of the server's, told once in a run however often it is sent.
    """

    at: Instant
    level: str
    text: str
    step: StepId | None = None
    about: str = ""


class Logged(msgspec.Struct, frozen=True):
    """A function logged. For people only: nothing else about the run changes."""

    call: JobId
    lines: tuple[LogLine, ...]


class Admitted(msgspec.Struct, frozen=True):
    """The run has the slots that it keeps until it ends."""


class Began(msgspec.Struct, frozen=True):
    """A call of a run that has timeouts is being made."""


Message: TypeAlias = (
    Admitted
    | Began
    | Replied
    | Reported
    | Returned
    | Raised
    | Suspended
    | CallLost
    | TimerFired
    | EventMatched
    | ChildEnded
    | OffloadEnded
    | OffloadLost
    | CancelAsked
    | Logged
)
