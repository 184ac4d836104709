"""Rows that live between decisions: jobs, waits, and what a list shows of a run."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from stepwell.model.event import DEV_ENV
from stepwell.model.ids import EventKey, Instant, JobId, RunId, StepId
from stepwell.model.payload import Payload


class JobKind(StrEnum):
    CALL = "call"  # call a worker for `run`, `step` being the target or empty
    TIMER = "timer"  # tell `run` that the time of `step` has come
    MATCH = "match"  # find what the events in `keys` start and wake
    LOOK = "look"  # has an event that `step` of `run` waits for come before the wait was stored?
    WAKE = "wake"  # tell `run` that the child of `step` ended, as `output` or `error` says
    OFFLOAD = "offload"  # make the request of `step` of `run`
    HOLD = "hold"  # has the slots of a whole run, which begins once this job has them, and keeps them until it ends
    WINDOW = "window"  # start `function` with the events that were collected under the key `window`
    TICK = "tick"  # the occurrence of the schedule `cron` of `function` that was to come at `due`


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """One of `limit` places that the jobs of a key share. A job that has one keeps it until the job is removed.

    Keys are taken in the order of their text, one after the other, so nobody waits for another in a circle.
    """

    key: str
    limit: int


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that has to be done at or after `due`. An id is never used twice.

    `fence` rises each time the right to work on the job changes hands; `owner` is the node that has it
    now, None when anybody may claim it. Only the owner with the current fence may end the job.
    `route` names whom the job has to reach when not every node can; such a job is claimed only where somebody can.

    A job with `slots` is done only while it has them all. It asks for them when it is made, or, with `later`, when its
    owner asks for it. While it lacks one it is *parked*: nobody's, and found by no search; among those parked for a
    key the smallest `rank` comes first. `parked` is the key that it waits for, as the store says it.
    """

    id: JobId
    kind: JobKind
    due: Instant
    env: str = DEV_ENV
    shard: int = 0
    run: RunId | None = None
    step: StepId | None = None
    attempt: int = 0
    live: bool = False
    keys: tuple[EventKey, ...] = ()
    since: Instant = 0
    output: Payload | None = None
    error: Payload | None = None
    function: str = ""  # slug; of a match: the one function that the events start, beside those that ask for them
    cron: str = ""
    window: str = ""
    route: str | None = None
    slots: tuple[Slot, ...] = ()
    rank: Instant = 0
    later: bool = False
    parked: str | None = None
    untouched: int = 0  # claims up to this fence made nothing of it: the job was parked
    sealed: bytes | None = None  # the credentials of the request, encrypted, where they outlive the memory of a node
    owner: str | None = None
    fence: int = 0

    @property
    def repeated(self) -> bool:
        """Whether somebody may have done it already: it was claimed before."""
        return self.fence > self.untouched + 1

    def asked(self, *, parked: bool) -> Job:
        """A job that was made `later` and has asked for its slots by now. If it is parked, its claim is over."""
        return msgspec.structs.replace(self, later=False, untouched=self.fence if parked else self.fence - 1)


class Window(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Events that wait to start one run, and the job that is to start it at `due`."""

    job: JobId
    events: tuple[EventKey, ...]
    due: Instant
    opened_at: Instant
    ts: int = 0  # of the event that waits, where only the newest does


def route_of(env: str, function: str) -> str:
    """The route of the calls of a function that only workers can take which dialled in somewhere.

    By function and not by service: workers of one service may have different functions, while its code is being
    exchanged, and a call that nobody here can take must not be in the way of those that somebody can.
    """
    return f"{env}/{function}"


class Claim(msgspec.Struct, frozen=True):
    """The right to end a job, as it was when the job was handed out."""

    job: JobId
    fence: int


class Wait(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run that listens for an event. `path` and `value` narrow the search: an event can match only if
    the text key of what it has at `path` is `value`; both None when the expression allows no such index."""

    run: RunId
    step: StepId
    event: str
    expression: str | None = None
    path: str | None = None
    value: str | None = None
    until: Instant = 0
    since: Instant = 0  # when it began to listen
    cancels: bool = False
    env: str = DEV_ENV
    shard: int = 0


class RunStatus(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def final(self) -> bool:
        return self in _FINAL


_FINAL = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """What lists and the compare-and-set need of a run. Written with every decision."""

    id: RunId
    env: str
    shard: int
    function: str  # slug
    service: str
    status: RunStatus
    seq: int
    created_at: Instant
    started_at: Instant | None = None
    ended_at: Instant | None = None
    event: EventKey | None = None  # the first event that started it
    event_name: str = ""
    event_count: int = 1
    parent: RunId | None = None
    output: Payload | None = None  # or the error, when it failed
