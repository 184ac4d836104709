"""A node in memory, on virtual time: what a test needs to see real decisions without a server.

    node = InMemoryNode(Service(name="shop", transport=Transport.HTTP, functions=(...,)))
    node.send("order/placed", {"id": 1})
    (call,) = node.worker.calls                      # what the node asks of the worker
    node.answer(call, Returned(call.job, b"42"))     # what the worker says
    node.pass_time(days=2)                           # takes microseconds

Two nodes share a store when the second is given the store and the scheduler of the first. Another worker (say
`stepwell.testing.workers.ScriptedWorkers`) is given by a function of the world and the node's `deliver`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from zlib import crc32

from stepwell.model.dispatch import Opening
from stepwell.model.event import DEV_ENV, Event, event_body
from stepwell.model.ids import EventKey, IdSource, RunId
from stepwell.model.job import route_of
from stepwell.node.node import Node, NodeSettings
from stepwell.store.memory import MemoryStore
from stepwell.testing.world import Scheduler, VirtualWorld

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from stepwell.model.dispatch import Deliver, Dispatch, Gateway, Memo, Performer
    from stepwell.model.function import Service
    from stepwell.model.ids import Instant, JobId, StepId
    from stepwell.model.job import RunRow
    from stepwell.model.journal import Entry
    from stepwell.model.message import Message
    from stepwell.store.base import Store

T = TypeVar("T")

MakePerformer: TypeAlias = "Callable[[VirtualWorld, Deliver], Performer]"


@dataclass(slots=True)
class RecordingWorker:
    """A `Performer` that only writes down what it is asked; the test answers for it.

    On a shared store it is also a `Reach`: a worker is connected here that serves `functions` and takes so many calls
    at a time. Who changes that tells the node, by `Node.room`.
    """

    functions: tuple[str, ...] = ()
    capacity: int = 1_000

    calls: list[Dispatch] = field(default_factory=list)
    """Calls that nobody has answered or stopped."""
    results: list[tuple[JobId, Memo, int]] = field(default_factory=list)
    retries: list[tuple[JobId, StepId, int, int]] = field(default_factory=list)
    acknowledged: list[tuple[JobId, int, int]] = field(default_factory=list)
    stopped: list[tuple[JobId, str]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """All of it in order, in words."""

    def places(self, env: str, service: str, function: str) -> int:
        return max(0, self.capacity - len(self.calls)) if function in self.functions else 0

    def openings(self) -> Sequence[Opening]:
        if not self.functions:
            return ()
        places = max(0, self.capacity - len(self.calls))
        return [Opening(DEV_ENV, "shop", places, tuple(route_of(DEV_ENV, one) for one in self.functions))]

    def perform(self, dispatch: Dispatch) -> None:
        self.calls.append(dispatch)
        self.told.append(f"call {dispatch.target or 'function'}")

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None:
        self.results.append((call, memo, news))
        self.told.append(f"result {memo.name}")

    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None:
        self.retries.append((call, step, attempt, news))
        self.told.append(f"retry {attempt}")

    def acknowledge(self, call: JobId, number: int, news: int) -> None:
        self.acknowledged.append((call, number, news))
        self.told.append(f"ack {number}")

    def stop(self, call: JobId, reason: str) -> None:
        self.stopped.append((call, reason))
        self._drop(call)

    def ended(self, call: JobId) -> None:
        self._drop(call)

    async def close(self) -> None:
        """Nothing to close."""

    def _drop(self, call: JobId) -> None:
        self.calls = [one for one in self.calls if one.job != call]


class InMemoryNode:
    """A real node on a virtual world.

    Args:
        services: What it serves, stored as if they had registered.
        name: Of the node; nodes that share a store need different ones.
        store: Its store, of which it may be one of several nodes.
        scheduler: Virtual time; nodes that share a store must share it.
        performer: Makes the worker; a `RecordingWorker` without it.
        settings: Of the node.
        epoch: Which life of that name this is.
        gateway: Makes requests; without one they fail.
        connected: Functions of the service `shop` that a worker serves which is connected to this node, of several;
            None for workers that every node reaches.
    """

    def __init__(
        self,
        *services: Service,
        name: str = "node",
        store: MemoryStore | None = None,
        scheduler: Scheduler | None = None,
        performer: MakePerformer | None = None,
        settings: NodeSettings | None = None,
        epoch: int = 1,
        wrap: Callable[[MemoryStore, VirtualWorld], Store] | None = None,
        gateway: Gateway | None = None,
        connected: Sequence[str] | None = None,
    ) -> None:
        self.scheduler = scheduler or Scheduler()
        self.world = VirtualWorld(self.scheduler)
        self.store = store or MemoryStore(_Clock(self.scheduler))
        self.worker = RecordingWorker(functions=tuple(connected or ()))
        used: Store = wrap(self.store, self.world) if wrap is not None else self.store
        self.node = Node(
            name,
            epoch=epoch,
            store=used,
            world=self.world,
            performer=performer(self.world, self._deliver) if performer is not None else self.worker,
            gateway=gateway,
            ids=IdSource(crc32(f"{name} {epoch}".encode())),
            settings=settings or NodeSettings(),
            reach=self.worker if connected is not None else None,
        )
        for service in services:
            self.do(self.store.put_service(service))
        self.world.spawn(self.node.start())
        self.settle()

    def _deliver(self, *what: Any) -> None:
        self.node.deliver(*what)

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something in the node's world and give its result; time stands still unless it has to pass."""
        results: list[T] = []

        async def run() -> None:
            results.append(await coroutine)

        self.world.spawn(run())
        self.settle()
        while not results and not self.world.errors:
            self.pass_time(milliseconds=1)
        if self.world.errors:
            raise self.world.errors.pop()
        return results[0]

    def settle(self) -> None:
        """Let happen what can happen now."""
        self.scheduler.run_until(self.scheduler.now)
        if self.world.errors:
            raise self.world.errors.pop()

    def pass_time(self, **how_long: float) -> None:
        """Let time pass: arguments as of `timedelta`."""
        passing = timedelta(**how_long) // timedelta(milliseconds=1)
        until = self.scheduler.now + passing
        self.scheduler.at(until, _nothing)
        self.scheduler.run_until(until)
        if self.world.errors:
            raise self.world.errors.pop()

    def now(self) -> Instant:
        return self.scheduler.now

    def send(self, name: str, data: Mapping[str, Any] | None = None, *, id: str = "") -> Event:
        """Accept an event and do what follows at once."""
        event = self.event(name, data, id=id)
        self.do(self.node.accept(DEV_ENV, [event]))
        return event

    def event(self, name: str, data: Mapping[str, Any] | None = None, *, id: str = "") -> Event:
        """An event received now, not accepted yet."""
        key, now = EventKey(self.node.new_key()), self.node.world.now()
        body = event_body(name=name, id=id or key, ts=now, data=data or {})
        return Event(key=key, internal_id=key, id=id or key, name=name, ts=now, received_at=now, body=body)

    def answer(self, call: Dispatch, msg: Message) -> None:
        """The worker says something about a call."""
        self.node.deliver(call.run, call.job, call.fence, msg)
        self.settle()

    def deliver_together(self, *answers: tuple[Dispatch, Message]) -> None:
        """Several messages that are waiting when the node gets to look at its mailbox."""
        for call, msg in answers:
            self.node.deliver(call.run, call.job, call.fence, msg)
        self.settle()

    def runs(self) -> list[RunRow]:
        """All runs, oldest first."""
        return [self.store.run_rows[run] for run in sorted(self.store.run_rows)]

    def journal(self, run: RunId) -> list[Entry]:
        return self.store.journals[run]


class _Clock:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def now(self) -> Instant:
        return self._scheduler.now


def _nothing(_: object) -> None:
    pass
