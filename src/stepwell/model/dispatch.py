"""The seam between the node and user code: a call goes out once, messages come back.

The node decides that a worker is called and builds a `Dispatch`: everything about the call, as values. A
performer carries it to the user's code over its transport and turns what happens into messages of
`model.message`, which it hands to `Deliver` together with the call's fence.

    node --perform(Dispatch)--> performer --HTTP, websocket, in process--> user code
    node <--deliver(run, job, fence, message)-- performer

Each performed call ends in exactly one of `Replied`, `Returned`, `Raised`, `Suspended` and `CallLost`, unless
the node stopped it or the performer was closed; a live call may send any number of `Reported` before. No method
but `close` waits: calls that find no room queue here, and everything else is a hint whose loss costs a
repeated call, never a result. All of it runs on one event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from stepwell.model.event import DEV_ENV
from stepwell.model.function import Function
from stepwell.model.ids import Instant, JobId, RunId, StepId
from stepwell.model.message import Message
from stepwell.model.offload import Sealed


class Memo(msgspec.Struct, frozen=True, array_like=True):
    """A recorded result: `shape` is `data`, `error`, `bare` (the value itself) or `input`."""

    step: StepId
    shape: str
    value: bytes
    name: str = ""


@dataclass(slots=True)
class Kept:
    """The memos of a run, made once and kept for its next calls as long as the node has the run at hand.

    `made` is for the performer: what it made of the memos, or of the first of them. They only become more. A run with
    a `large` result keeps none.
    """

    memos: list[Memo] = field(default_factory=list)
    size_bytes: int = 0
    large: bool = False
    made: object = None


class Dispatch(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a worker, complete in itself.

    `events` are canonical event bodies. `memos` are the recorded results in the order in which they were
    recorded, their values canonical, and `memo_bytes` is about their size together. When results are large, leave
    `memos` empty and give `load_memos`: the performer awaits it once it has room, so calls that queue stay small;
    it may be awaited again (a redirect repeats the request). An error raised by it loses the call, which is retried.
    `kept` begins with `memos`, and has further ones once a later call is made.

    `waiting` are steps known to the server and not done, `attempts` the attempts already made of steps that have
    no result yet. `stack` are the steps in the order they finished; it must describe the same moment as `memos`.
    `version` is the request version that the run's SDK reported, -1 before its first answer. `news` counts the
    results the run has. A live function that does not `linger` lets go of its worker as soon as it only waits: its call
    has slots that others want. Past `deadline` the call is given up as lost, whatever state it is in.
    """

    job: JobId
    fence: int
    run: RunId
    function: Function
    target: StepId | None = None
    attempt: int = 0
    max_attempts: int = 5
    live: bool = False
    events: tuple[bytes, ...] = ()
    memos: tuple[Memo, ...] = ()
    waiting: tuple[StepId, ...] = ()
    attempts: Mapping[StepId, int] = msgspec.field(default_factory=dict)
    stack: tuple[StepId, ...] = ()
    version: int = -1
    disable_immediate_execution: bool = False
    news: int = 0
    started_at: Instant = 0
    deadline: Instant | None = None
    memo_bytes: int = 0
    load_memos: Callable[[], Awaitable[tuple[Memo, ...]]] | None = None
    kept: Kept | None = None
    lingers: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """One request to be made for a step, complete but for the credentials that the gateway was given to keep.

    `request` is its JSON; `name` the id that the user wrote. `key()` stays the same until an answer has come that is
    not the result: it tells a receiver that a repeated request is the same one. Few requests need it.
    """

    job: JobId
    fence: int
    run: RunId
    step: StepId
    kind: str
    request: bytes
    env: str = DEV_ENV
    name: str = ""
    attempt: int = 0
    key: Callable[[], str] = str


class Gateway(Protocol):
    """Makes requests for functions that are suspended. Each ends in one `OffloadEnded`, unless it was stopped."""

    def keep(self, run: RunId, step: StepId, sealed: Sealed) -> None:
        """Remember the credentials of a step until `stop`, or until there is no room for them any more."""

    def holds(self, run: RunId, step: StepId) -> bool:
        """Whether the credentials of a step are at hand."""

    def seal(self, run: RunId, step: StepId, given: Sealed | None) -> bytes | None:
        """What the job of a request keeps of its credentials: these, or those at hand, encrypted. None if credentials
        are in memory only."""

    def unseal(self, run: RunId, step: StepId, sealed: bytes) -> str:
        """Remember the credentials that a job kept. Returns why that cannot be done; empty if it was."""

    def make(self, errand: Errand) -> None:
        """Make the request, at once or as soon as there is room. The outcome arrives as a message."""

    def stop(self, run: RunId, step: StepId) -> None:
        """Give up the request of a step, if one is under way, and forget its credentials. No message follows."""

    async def close(self) -> None:
        """Give up everything; no message follows."""


class Deliver(Protocol):
    """Takes a message to the run's mailbox. Must neither block nor raise; called on the event loop.

    `fence` is that of the dispatch: the node refuses a message whose fence is no longer the job's.
    """

    def __call__(self, run: RunId, job: JobId, fence: int, message: Message, /) -> None: ...


class Performer(Protocol):
    """Calls user code over one transport."""

    def perform(self, dispatch: Dispatch) -> None:
        """Make the call, at once or as soon as there is room. The outcome arrives as a message."""

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None:
        """Give a function in memory the result of a step. Nothing happens if it is not there any more."""

    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None:
        """Tell a function in memory to try a step again; `attempt` counts from 0."""

    def acknowledge(self, call: JobId, number: int, news: int) -> None:
        """Report `number` of the call is committed."""

    def stop(self, call: JobId, reason: str) -> None:
        """Nobody wants the answer any more (`cancelled`, `stale`, `finished`); no message follows."""

    def ended(self, call: JobId) -> None:
        """The last message of the call is committed."""

    async def close(self) -> None:
        """Stop everything. Calls in flight are told to stop, and no message follows."""


class Opening(msgspec.Struct, frozen=True):
    """Room at the workers of one service that dialled in to this node."""

    env: str
    service: str
    places: int  # calls that they could take now
    routes: tuple[str, ...]  # of the functions that they could take them of; see `model.job.route_of`
    full: tuple[str, ...] = ()  # of the functions that only such workers have as have no room


class Reach(Protocol):
    """Which calls can be made here that other nodes perhaps cannot make, and the other way round.

    Whoever implements it tells the node when there is room for calls of a service, which may be more often than
    there was none.
    """

    def places(self, env: str, service: str, function: str) -> int:
        """Calls of a function, given by its slug, that workers here could take now."""

    def openings(self) -> Sequence[Opening]:
        """The services that workers here serve; also those whose workers have no room just now."""
