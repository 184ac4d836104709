"""A store as one node sees it: slow, sometimes refusing, and a good place to die.

All nodes share one `MemoryStore`. Each has its own `FaultyStore` before it, through which every call may take
time, so that calls of several nodes and tasks overlap. A node may die at a commit in two ways that matter: before
the transition is applied, and after, before it learns of it. Who waits for a slow commit and dies meanwhile gets
the second kind for free. What nodes hear of one another comes late, twice, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from stepwell.model import message
from stepwell.model.job import JobKind
from stepwell.model.journal import RunStarted
from stepwell.model.task import TASK_EVENT
from stepwell.store.base import Committed, StoreFull, StoreUnavailable
from stepwell.testing.world import Crashed, Task, VirtualWorld, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
    from random import Random

    from stepwell.model.event import Event
    from stepwell.model.function import Service
    from stepwell.model.ids import EventKey, Instant, JobId, RunId, StepId
    from stepwell.model.job import Claim, Job, RunRow, Wait
    from stepwell.model.payload import Blob
    from stepwell.store.base import Hint, Node, Outcome, StoredRun, Transition
    from stepwell.store.memory import MemoryStore

T = TypeVar("T")

BEFORE = "before the commit"
APPLIED = "after the commit, before its answer"
EFFECT = "between effects"
RERUN = "rerun asked for"
TASK = "task asked for"
POINTS = (BEFORE, APPLIED, EFFECT)
IMPOSSIBLE = {("Began", EFFECT)}
"""Deaths that cannot be: nothing is done to the world once it is recorded that a run has begun."""


@dataclass(slots=True)
class Trouble:
    """What the store and the processes go through. All are chances from 0 to 1, of each call."""

    crash: float = 0.0  # the node dies at a commit or a claim
    effect_crash: float = 0.0  # the node dies at an effect
    refused: float = 0.0  # one call is refused
    slow: float = 0.0  # a commit takes time
    deaf: float = 0.0  # a hint gets lost; half as often it comes late, or twice
    down: bool = False  # every call is refused
    full: bool = False  # every write is refused


@dataclass(slots=True)
class Removed:
    """The jobs that the last transition removed."""

    jobs: list[Job]


class FaultyStore:
    """Implements what a node uses of `stepwell.store.base.Store`."""

    def __init__(
        self,
        inner: MemoryStore,
        world: VirtualWorld,
        random: Random,
        trouble: Trouble,
        removed: Removed,
        life: tuple[str, int],
    ) -> None:
        self._life = life
        self._inner = inner
        self._removed = removed
        self._world = world
        self._random = random
        self._trouble = trouble
        self._heard: Callable[[Hint], None] | None = None
        self._speaking = False

    # hints

    def listen(self, heard: Callable[[Hint], None]) -> None:
        self._heard = heard
        self._inner.listen(self._overhear)

    def _overhear(self, hint: Hint) -> None:
        world, trouble, random = self._world, self._trouble, self._random
        if not world.alive:
            self._inner.listeners.remove(self._overhear)
            return
        if self._speaking:  # what this node does itself
            if hint.admitted:
                world.scheduler.after(0, self._tell, hint)
            return
        chance = random.random()
        if chance >= trouble.deaf:
            late = chance < trouble.deaf * 1.5
            world.scheduler.after(random.choice((50, 3_000)) if late else int(chance * 8), self._tell, hint)
            if random.random() < trouble.deaf / 2:
                world.scheduler.after(random.choice((1, 500)), self._tell, hint)

    def _tell(self, hint: Hint) -> None:
        if self._heard is not None:
            self._world.do(self._heard, hint)

    def _say(self, what: Callable[[Any], T], argument: Any) -> T:
        """Do something that the other nodes hear of."""
        self._speaking = True
        try:
            return what(argument)
        finally:
            self._speaking = False

    # writes

    async def commit(self, transition: Transition) -> Outcome:
        trouble = self._trouble
        if trouble.down or trouble.full:
            self._refuse()
        chance = self._random.random()
        if chance < trouble.crash:
            self._crash(transition)
        elif chance > 1 - trouble.refused:
            raise StoreUnavailable("the store is restarting")
        if self._random.random() < trouble.slow:
            outcome: Outcome = await wait_for(self._slow_commit, transition)
        else:
            outcome = self._say(self._inner.apply, transition)
            self._note(self._world.task, transition)
        return outcome

    def _note(self, task: Task | None, transition: Transition) -> None:
        if task is not None:
            task.last = (transition, self._removed.jobs)

    def _crash(self, transition: Transition) -> None:
        if self._random.random() < 0.5:
            raise Crashed(BEFORE, message_type(transition, self._inner.job_rows))
        kind = message_type(transition, self._inner.job_rows)
        if isinstance(self._say(self._inner.apply, transition), Committed):
            raise Crashed(APPLIED, kind)
        raise Crashed("after a refused commit")

    def _slow_commit(self, task: Task, transition: Transition) -> None:
        self._world.scheduler.after(int(self._random.random() * 4), self._apply, (task, transition))

    def _apply(self, what: tuple[Task, Transition]) -> None:
        # The transition is on its way to the store: whether the node still lives makes no difference.
        task, transition = what
        name, epoch = self._life
        node = self._inner.nodes.get(name)
        if node is not None and node.epoch > epoch:
            return  # a store takes nothing more from a life once it knows a later one
        try:
            outcome = self._say(self._inner.apply, transition)
        except AssertionError as bug:
            task.fail(bug)  # whoever asked has it, as from any store
            return
        self._note(task, transition)
        self._world.scheduler.after(int(self._random.random() * 4), task.resume, outcome)

    async def claim_due(self, node: Node, now: Instant, limit: int, routes: Collection[str] | None = None) -> list[Job]:
        if late := self._call(write=True):
            await late
        jobs = self._inner.claim(node, self._inner.clock.now(), limit, routes)
        if jobs and self._random.random() < self._trouble.crash:
            raise Crashed("after a claim")
        return jobs

    async def heartbeat(self, node: Node) -> bool:
        if late := self._call(write=True):
            await late
        return self._inner.renew(node)

    async def release_lost(self, now: Instant) -> int:
        if late := self._call(write=True):
            await late
        return self._say(self._inner.free_lost, self._inner.clock.now())

    async def release(self, claims: Sequence[Claim]) -> None:
        if late := self._call(write=True):
            await late
        self._say(self._inner.give_back, claims)

    async def put_service(self, service: Service) -> None:
        if late := self._call(write=True):
            await late
        await self._inner.put_service(service)

    # reads

    async def now(self) -> Instant:
        if late := self._call():
            await late
        return self._inner.clock.now()

    async def load_run(self, run: RunId, after_seq: int = 0) -> StoredRun | None:
        if late := self._call():
            await late
        return await self._inner.load_run(run, after_seq)

    async def read_blobs(self, blobs: Sequence[Blob]) -> list[bytes]:
        if late := self._call():
            await late
        return await self._inner.read_blobs(blobs)

    async def next_due(self, routes: Collection[str] | None = None) -> Instant | None:
        if late := self._call():
            await late
        return self._inner.first_due(routes)

    async def read_events(self, keys: Sequence[EventKey]) -> list[Event]:
        if late := self._call():
            await late
        return await self._inner.read_events(keys)

    async def events_since(self, env: str, name: str, since: Instant, limit: int) -> list[Event]:
        if late := self._call():
            await late
        return await self._inner.events_since(env, name, since, limit)

    async def wait_paths(self, env: str, event: str) -> list[str | None]:
        if late := self._call():
            await late
        return await self._inner.wait_paths(env, event)

    async def waits_for(
        self, env: str, event: str, path: str | None, value: str | None, after: tuple[RunId, StepId] | None, limit: int
    ) -> list[Wait]:
        if late := self._call():
            await late
        return await self._inner.waits_for(env, event, path, value, after, limit)

    async def waits_of(self, run: RunId) -> list[Wait]:
        if late := self._call():
            await late
        return await self._inner.waits_of(run)

    async def run_row(self, run: RunId) -> RunRow | None:
        if late := self._call():
            await late
        return await self._inner.run_row(run)

    async def services(self) -> list[Service]:
        if late := self._call():
            await late
        return await self._inner.services()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # what only surfaces and auditors ask for

    def _call(self, *, write: bool = False) -> Coroutine[Any, Any, None] | None:
        """What to wait for before the answer, if anything. May refuse the call."""
        trouble = self._trouble
        if trouble.down or (write and trouble.full):
            self._refuse()
        chance = self._random.random()
        if chance < trouble.refused:
            raise StoreUnavailable("the store is restarting")
        return self._world.sleep(int(self._random.random() * 4)) if chance > 1 - trouble.slow / 4 else None

    def _refuse(self) -> None:
        if self._trouble.down:
            raise StoreUnavailable("the store is down")
        raise StoreFull("the disk is full")


def message_type(transition: Transition, jobs: Mapping[JobId, Job]) -> str:
    """What kind of message led to a transition, judged by what it changes. `jobs` must have those that it ends."""
    write = transition.run
    names = [type(entry).__name__ for entry in write.entries] if write is not None else []
    if "RunStarted" in names:
        assert write is not None
        first = write.entries[0]
        assert isinstance(first, RunStarted)
        if first.event_name == TASK_EVENT:
            return TASK
        return RERUN if first.origin is not None else "events to match"
    if names[:1] == ["RunAdmitted"]:
        return "Admitted"
    if names == ["RunBegan"]:
        return "Began"
    for claim in (*transition.ends, *transition.holds):
        job = jobs.get(claim.job)
        if job is None or job.kind is JobKind.CALL:
            continue
        if job.kind is JobKind.TIMER:
            return "TimerFired"
        if job.kind is JobKind.WAKE:
            return "ChildEnded"
        if job.kind is JobKind.OFFLOAD:
            return "OffloadLost" if "OffloadLost" in names else "OffloadEnded"
        if job.kind is JobKind.MATCH:
            return "events to match"
        if job.kind is JobKind.TICK:
            return "occurrence"
        return "EventMatched (look-back)"
    if write is None:
        return "events accepted" if transition.events else "nothing"
    for entry, name in zip(write.entries, names, strict=True):
        if name == "CallEnded":
            outcome: str = entry.outcome  # type: ignore[union-attr]
            if outcome == "answered":
                return "Returned" if names[-1] in ("RunCompleted", "RunCancelled") else "Replied"
            return {"failed": "Raised", "suspended": "Suspended"}.get(outcome, "CallLost")
        if name in ("RunCancelled", "RunCancelling"):
            return "CancelAsked" if entry.event is None else "EventMatched (cancels)"  # type: ignore[union-attr]
        if name == "StepCompleted" and entry.event is not None:  # type: ignore[union-attr]
            return "EventMatched"
    return "Reported"


_NOT_PLAYED = {
    message.Logged: "the simulator's programs do not log",
}
"""Messages that no node dies of here, and why."""

_MORE = {message.EventMatched: ("EventMatched (look-back)", "EventMatched (cancels)")}
"""Messages that come about in several ways."""


def _message_types() -> tuple[str, ...]:
    played = [one for one in get_args(message.Message) if one not in _NOT_PLAYED]
    return tuple(name for one in played for name in (one.__name__, *_MORE.get(one, ())))


MESSAGE_TYPES = ("events accepted", "events to match", "occurrence", RERUN, TASK, *_message_types())
"""All that `message_type` is to have said after enough seeds."""
