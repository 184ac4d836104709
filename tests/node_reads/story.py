"""Tells the life of a run to the engine, message by message, and keeps the journal that comes of it."""

from stepwell.engine import decide as engine
from stepwell.engine.span import InFlight, Trace
from stepwell.engine.trace import trace_of
from stepwell.model import message, op
from stepwell.model.event import DEV_ENV, Event
from stepwell.model.ids import EventKey, JobId, RunId, StepId, derived_ulid, step_id, ulid
from stepwell.model.journal import Entry
from stepwell.model.message import CallInfo, Message
from stepwell.model.payload import Payload, canonical
from stepwell.store.base import COMMITTED, RunWrite, Transition
from stepwell.store.memory import MemoryStore

NOON = 1_772_625_600_000  # 2026-03-04 12:00:00 UTC
RUN = RunId(ulid(NOON, 7))
EVENT = EventKey(ulid(NOON, 1))


class Story:
    """One run. Time passes only when a method is told how much."""

    def __init__(
        self,
        *,
        live: bool = False,
        max_attempts: int = 3,
        start_at: int = 0,
        run: RunId = RUN,
        at: int = NOON,
        function: str = "shop-bill",
        events: tuple[Event, ...] = (),
        parent: RunId | None = None,
    ) -> None:
        self.live = live
        self.now = at
        self.events = events or (an_event(),)
        beginning = engine.Beginning(
            run=run,
            env=DEV_ENV,
            shard=0,
            function=function,
            service="shop",
            events=tuple(event.body for event in self.events),
            event_keys=tuple(event.key for event in self.events),
            event_name=self.events[0].name,
            max_attempts=max_attempts,
            start_at=start_at,
            parent=parent,
        )
        self.policy = engine.Policy(retry_interval_ms=1000)
        self.run, decision = engine.begin(beginning, at, live=live, policy=self.policy)
        self.entries: list[Entry] = list(decision.entries)

    def tell(self, msg: Message) -> "Story":
        decision = engine.decide(self.run, msg, self.now, live=self.live, policy=self.policy)
        self.entries += decision.entries
        return self

    def trace(self, *in_flight: InFlight, children: dict[EventKey, RunId] | None = None) -> Trace:
        return trace_of(self.run.id, self.entries, in_flight=in_flight, children=children)

    def later(self, milliseconds: int) -> "Story":
        self.now += milliseconds
        return self

    def call(self, step: str | None = None) -> JobId:
        """The open call of the function, or of one step."""
        wanted = step_id(step) if step is not None else None
        found = [call.id for call in self.run.calls.values() if call.target == wanted]
        assert found, f"no open call of {step or 'the function'}: {list(self.run.calls.values())}"
        return found[-1]

    # what workers say

    def reply(self, *ops: op.Op, to: str | None = None, took: int = 10) -> "Story":
        call, info = self.call(to), self.info(206, took)
        return self.tell(message.Replied(call, ops, version=2, info=info))

    def report(self, *ops: op.Op) -> "Story":
        return self.tell(message.Reported(self.call(), ops))

    def returned(self, value: object, took: int = 10) -> "Story":
        call, info = self.call(), self.info(200, took)
        return self.tell(message.Returned(call, canonical(value), version=2, info=info))

    def tell_output(self, output: Payload) -> "Story":
        call, info = self.call(), self.info(200, 10)
        return self.tell(message.Returned(call, output, version=2, info=info))

    def raised(
        self, name: str, text: str, *, to: str | None = None, took: int = 10, retry: bool = True, code: str = ""
    ) -> "Story":
        call, info = self.call(to), self.info(500, took)
        error = error_of(name, text)
        return self.tell(message.Raised(call, error, retry=retry, version=2, info=info, code=code))

    def lost(self, *, to: str | None = None, free: bool = False, took: int = 10) -> "Story":
        call, info = self.call(to), self.info(0, took)
        return self.tell(message.CallLost(call, error_of("ConnectionRefused", "nobody there"), free=free, info=info))

    def fire(self, step: str) -> "Story":
        """The timer of a step fires when it is due."""
        known = self.run.steps[step_id(step)]
        assert known.timer is not None
        self.now = max(self.now, known.until)
        return self.tell(message.TimerFired(known.id, known.timer))

    def info(self, status: int, took: int) -> CallInfo:
        """About a call that begins 3 ms from when it may and takes so long."""
        self.later(3)
        started = self.now
        self.later(took)
        return CallInfo(started_at=started, duration_ms=took, worker="http://shop", status=status)

    def due(self) -> "Story":
        """Time passes until the next call is due."""
        self.now = max(self.now, min(call.due for call in self.run.calls.values()))
        return self


def an_event(
    key: EventKey = EVENT, *, name: str = "shop/order", data: object = None, internal_id: str = "", at: int = NOON
) -> Event:
    shown = internal_id or key
    body = {"name": name, "id": shown, "ts": at, "data": {"n": 1} if data is None else data, "user": {}}
    return Event(
        key=key, internal_id=shown, id=shown, name=name, ts=at, received_at=at, body=canonical(body), source="api"
    )


async def keep(store: MemoryStore, *stories: Story) -> None:
    """Store runs as a node would have, and the events that they began with."""
    for story in stories:
        new = tuple(event for event in story.events if event.key not in store.event_rows)
        write = RunWrite(story.run.row(), 0, tuple(story.entries))
        assert await store.commit(Transition(run=write, events=new)) == COMMITTED


class Clock:
    """Says what it is set to."""

    def __init__(self, at: int = NOON) -> None:
        self.at = at

    def now(self) -> int:
        return self.at


def done(name: str, value: object = None, *, index: int = 0, started_at: int = 0, took: float = 0) -> op.StepDone:
    return op.StepDone(
        step=step_id(name, index),
        name=name,
        index=index,
        output=canonical(value),
        started_at=started_at,
        duration_ms=took,
    )


def errored(name: str, error: str = "ValueError", text: str = "bad", *, retry: bool = True) -> op.StepErrored:
    return op.StepErrored(step=step_id(name), name=name, error=error_of(error, text), retry=retry)


def planned(name: str) -> op.StepPlanned:
    return op.StepPlanned(step=step_id(name), name=name)


def sleep(name: str, milliseconds: int) -> op.Sleep:
    return op.Sleep(step=step_id(name), name=name, for_ms=milliseconds)


def wait(name: str, event: str, milliseconds: int, expression: str | None = None) -> op.WaitForEvent:
    return op.WaitForEvent(step=step_id(name), name=name, event=event, expression=expression, for_ms=milliseconds)


def invoke(name: str, function: str, milliseconds: int) -> op.Invoke:
    return op.Invoke(step=step_id(name), name=name, function=function, data=b'{"x":1}', for_ms=milliseconds)


def error_of(name: str, text: str) -> bytes:
    return canonical({"name": name, "message": text, "stack": f"{name} at line 1"})


def event_asked(story: Story, step: str) -> EventKey:
    """The key of the event by which a step invokes."""
    return EventKey(derived_ulid(story.now, story.run.id, StepId(step_id(step))))
