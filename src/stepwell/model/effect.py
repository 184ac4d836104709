"""An effect: something to be done because of a decision.

Most become rows in the same transaction as the entries (jobs, waits, events), so a crash loses
none. The last three are hints to a worker that is listening right now; losing one costs a repeated
call, never a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from stepwell.model.ids import Instant, JobId, RunId, StepId
from stepwell.model.offload import Sealed
from stepwell.model.payload import Payload


@dataclass(frozen=True, slots=True)
class CallWorker:
    call: JobId
    target: StepId | None
    attempt: int
    due: Instant
    live: bool


@dataclass(frozen=True, slots=True)
class SetTimer:
    timer: JobId
    step: StepId
    due: Instant


@dataclass(frozen=True, slots=True)
class DropJob:
    """A timer that is no longer needed."""

    job: JobId


@dataclass(frozen=True, slots=True)
class EndCall:
    """The call is over: its job goes, if it is not the very job that brought the message."""

    call: JobId


@dataclass(frozen=True, slots=True)
class AddWait:
    """Listen for an event; look back at those accepted since `since`, unless it is None."""

    step: StepId
    event: str
    expression: str | None
    until: Instant
    since: Instant | None
    look: JobId | None
    cancels: bool = False


@dataclass(frozen=True, slots=True)
class DropWait:
    step: StepId


@dataclass(frozen=True, slots=True)
class SendInvoke:
    """Send the event that starts a child of this run."""

    step: StepId
    function: str
    event_id: str
    data: Payload
    user: Payload
    v: str | None
    until: Instant
    name: str


@dataclass(frozen=True, slots=True)
class StartOffload:
    """Make the request of a step, at `due`. `sealed` is what this node shall keep in memory for it."""

    job: JobId
    step: StepId
    attempt: int
    due: Instant
    sealed: Sealed | None = None


@dataclass(frozen=True, slots=True)
class StopOffload:
    """Nothing is requested for this step any more: a request under way is given up, its credentials are forgotten."""

    step: StepId


@dataclass(frozen=True, slots=True)
class WakeParent:
    """Tell the run that invoked this one how it ended."""

    job: JobId
    run: RunId
    step: StepId
    output: Payload | None
    error: Payload | None


@dataclass(frozen=True, slots=True)
class AnnounceEnd:
    """Send the system events of a run that ended, and drop all it still has: jobs, waits."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give the function in memory the result of a step."""

    call: JobId
    step: StepId
    news: int


@dataclass(frozen=True, slots=True)
class DeliverRetry:
    """Tell the function in memory to try a step again."""

    call: JobId
    step: StepId
    attempt: int
    news: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The report is committed."""

    call: JobId
    number: int
    news: int


@dataclass(frozen=True, slots=True)
class StopCall:
    """Nobody wants the answer any more."""

    call: JobId
    reason: str


Effect: TypeAlias = (
    CallWorker
    | SetTimer
    | DropJob
    | EndCall
    | AddWait
    | DropWait
    | SendInvoke
    | StartOffload
    | StopOffload
    | WakeParent
    | AnnounceEnd
    | Deliver
    | DeliverRetry
    | Acknowledge
    | StopCall
)
