"""An effect: something to be done because of a decision.

Most become rows in the same transaction as the entries (jobs, waits, events), so a crash loses
none. The last three are hints to a worker that is listening right now; losing one costs a repeated
call, never a result.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from stepwell.model.ids import Instant, JobId, RunId, StepId
from stepwell.model.offload import Sealed
from stepwell.model.payload import Payload


class CallWorker(msgspec.Struct, frozen=True):
    call: JobId
    target: StepId | None
    attempt: int
    due: Instant
    live: bool


class SetTimer(msgspec.Struct, frozen=True):
    timer: JobId
    step: StepId
    due: Instant


class DropJob(msgspec.Struct, frozen=True):
    """A timer that is no longer needed."""

    job: JobId


class HoldRun(msgspec.Struct, frozen=True):
    """Wait, from `due` on, for the slots of a whole run, and keep them until it ends."""

    job: JobId
    due: Instant


class EndCall(msgspec.Struct, frozen=True):
    """The call is over: its job goes, if it is not the very job that brought the message."""

    call: JobId


class AddWait(msgspec.Struct, frozen=True):
    """Listen for an event; look back at those accepted since `since`, unless it is None."""

    step: StepId
    event: str
    expression: str | None
    until: Instant
    since: Instant | None
    look: JobId | None
    cancels: bool = False


class DropWait(msgspec.Struct, frozen=True):
    step: StepId


class SendInvoke(msgspec.Struct, frozen=True):
    """Send the event that starts a child of this run."""

    step: StepId
    function: str
    event_id: str
    data: Payload
    user: Payload
    v: str | None
    until: Instant
    name: str


class StartOffload(msgspec.Struct, frozen=True):
    """Make the request of a step, at `due`. `sealed` is what this node shall keep in memory for it."""

    job: JobId
    step: StepId
    attempt: int
    due: Instant
    sealed: Sealed | None = None


class StopOffload(msgspec.Struct, frozen=True):
    """Nothing is requested for this step any more: a request under way is given up, its credentials are forgotten."""

    step: StepId


class WakeParent(msgspec.Struct, frozen=True):
    """Tell the run that invoked this one how it ended."""

    job: JobId
    run: RunId
    step: StepId
    output: Payload | None
    error: Payload | None


class AnnounceEnd(msgspec.Struct, frozen=True):
    """Send the system events of a run that ended, and drop all it still has: jobs, waits."""


class Deliver(msgspec.Struct, frozen=True):
    """Give the function in memory the result of a step."""

    call: JobId
    step: StepId
    news: int


class DeliverRetry(msgspec.Struct, frozen=True):
    """Tell the function in memory to try a step again."""

    call: JobId
    step: StepId
    attempt: int
    news: int


class Acknowledge(msgspec.Struct, frozen=True):
    """The report is committed."""

    call: JobId
    number: int
    news: int


class StopCall(msgspec.Struct, frozen=True):
    """Nobody wants the answer any more."""

    call: JobId
    reason: str


Effect: TypeAlias = (
    CallWorker
    | HoldRun
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
