"""Scripted workers: they run the programs of `programs.py` behind both kinds of transport.

    HttpCall   answers one call as an official SDK does, and forgets the function: memos in, ops out; it may tell
               any node of the steps it has done before it answers
    LiveCall   keeps the function, reports step by step, waits for acknowledgements, is handed results,
               lets go after a while of waiting

Both write every execution into the ledger before anything else happens, and both live outside of the nodes: when a
node dies they go on with what they are doing. What the network does to a call is drawn from `Weather`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from stepwell.model import message, op
from stepwell.model.dispatch import Dispatch, Memo, Opening
from stepwell.model.errors import StepwellError
from stepwell.model.event import DEV_ENV
from stepwell.model.job import route_of
from stepwell.model.payload import canonical, decode
from stepwell.node.turns import Verdict
from stepwell.testing.programs import Kind, Leaf, Program, Progress, look, result_of

if TYPE_CHECKING:
    from random import Random

    from stepwell.model.dispatch import Deliver
    from stepwell.model.ids import JobId, RunId, StepId
    from stepwell.model.message import Message
    from stepwell.testing.ledger import Execution, Ledger
    from stepwell.testing.world import Scheduler, VirtualWorld

LOSABLE_ATTEMPTS = 2
"""Only the first attempts are lost, so that no run fails of bad luck: five are allowed, and steps fail two times."""

LOSABLE_CALLS = 4
"""Nor are more calls of a whole function lost than that, in a run: the fifth worker lost in a row is the end."""

IDLE_MS = 5_000

CHECKPOINT_TRIES = 3

Send = Callable[[str, str, object, Callable[[], None]], None]
"""Sends an event (name, id, data) and calls back once it is acknowledged."""
Report = Callable[["Dispatch", "op.Op", Callable[["Verdict | None"], None]], None]
"""Tells some node of a step that a call has done, and calls back with what became of it; None if nobody answered."""


@dataclass(slots=True)
class Weather:
    """How bad things are. All are chances from 0 to 1."""

    lost: float = 0.0  # a request or a reply gets lost, or comes late
    doubled: float = 0.0  # a message is delivered twice
    slow: float = 0.0  # a message takes seconds
    raised: float = 0.0  # the function itself fails


@dataclass(slots=True)
class Outside:
    """What the workers share."""

    scheduler: Scheduler
    random: Random
    weather: Weather
    ledger: Ledger
    programs: dict[str, Program]
    send: Send
    acknowledged: Callable[[RunId, StepId], None]  # a worker was told that this is recorded
    report: Report
    lost: dict[RunId, set[JobId]] = field(default_factory=dict)
    """Calls of whole functions that were lost."""

    def lose(self, dispatch: Dispatch) -> bool:
        """Whether a call may be lost for good, which it then counts as."""
        if dispatch.attempt >= LOSABLE_ATTEMPTS:
            return False
        if dispatch.target is None:
            lost = self.lost.setdefault(dispatch.run, set())
            if len(lost) >= LOSABLE_CALLS and dispatch.job not in lost:
                return False
            lost.add(dispatch.job)
        return True

    def latency(self) -> int:
        chance = self.random.random()
        if chance < self.weather.slow:
            return 200 + int(self.random.random() * 4_000)
        return int(chance * 6)


def _error(name: str, text: str) -> bytes:
    return canonical({"name": name, "message": text})


LOST = _error("ConnectionError", "the connection was reset")
RAISED = _error("OSError", "the function could not even begin")


def _nobody_asks() -> None:
    """No node waits for room."""


def _nobody_minds(dispatch: Dispatch) -> None:
    """Nobody looks at calls."""


def _tell(whom: Callable[[], None]) -> None:
    whom()


class ScriptedWorkers:
    """A `Performer`: the workers as one life of one node sees them. Also a `Reach`: a worker of the service `live`
    is connected to this node, or is not; what is to be handed to it without room is given back.

    Args:
        outside: What all workers share.
        world: Of the node. Messages to it wait while it is paused and are lost when it is dead.
        deliver: The node's.
        functions: Slugs of the service `live`.
        capacity: Calls at a time of that service.
        room: Told when there may be room for more of them.
        performing: Told of each call that the node makes.
    """

    def __init__(
        self,
        outside: Outside,
        world: VirtualWorld,
        deliver: Deliver,
        *,
        functions: Sequence[str] = (),
        capacity: int = 1_000_000,
        room: Callable[[], None] = _nobody_asks,
        performing: Callable[[Dispatch], None] = _nobody_minds,
    ) -> None:
        self.outside = outside
        self.world = world
        self.deliver = deliver
        self.live: dict[JobId, LiveCall] = {}
        self.connected = True
        self._routes = tuple(route_of(DEV_ENV, function) for function in functions)
        self._capacity = capacity
        self.room = room
        self._performing = performing

    def places(self, env: str, service: str, function: str) -> int:
        return max(0, self._capacity - len(self.live)) if self.connected else 0

    def openings(self) -> Sequence[Opening]:
        return [Opening(DEV_ENV, "live", self.places("", "", ""), self._routes)] if self.connected else []

    def connect(self) -> None:
        """A worker dials in."""
        self.connected = True
        self.world.do(_tell, self.room)

    def leave(self) -> None:
        """The worker goes elsewhere."""
        self.connected = False
        self.disconnect()

    def perform(self, dispatch: Dispatch) -> None:
        self._step("perform")
        self._performing(dispatch)
        if dispatch.live and dispatch.function.service == "live" and not self.places("", "", ""):
            self._arrive((dispatch, message.CallLost(dispatch.job, error=LOST, free=True, code="declined")))
            return
        if dispatch.live:
            self.live[dispatch.job] = LiveCall(self, dispatch)
        if dispatch.load_memos is not None:
            self.world.spawn(self._load(dispatch, dispatch.load_memos))
        else:
            self._call(dispatch)

    async def _load(self, dispatch: Dispatch, load: Callable[[], Awaitable[tuple[Memo, ...]]]) -> None:
        try:
            memos = await load()
        except StepwellError:
            self.live.pop(dispatch.job, None)
            lost = message.CallLost(dispatch.job, error=LOST, free=True, code="declined")
            self._arrive((dispatch, lost))
            return
        self._call(msgspec.structs.replace(dispatch, memos=memos))

    def _call(self, dispatch: Dispatch) -> None:
        outside = self.outside
        if not dispatch.live:
            HttpCall(self, dispatch).send()
        elif (call := self.live.get(dispatch.job)) is not None:
            outside.scheduler.after(outside.latency(), call.begin, dispatch.memos)

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None:
        self._step("deliver_result")
        if (live := self.live.get(call)) is not None:
            live.down(live.on_result, (memo, news))

    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None:
        self._step("deliver_retry")
        if (live := self.live.get(call)) is not None:
            live.down(live.on_retry, (step, attempt, news))

    def acknowledge(self, call: JobId, number: int, news: int) -> None:
        self._step("acknowledge")
        if (live := self.live.get(call)) is not None:
            live.down(live.on_ack, (number, news))

    def stop(self, call: JobId, reason: str) -> None:
        self._step("stop")
        live = self.live.get(call)
        if live is not None and reason == "cancelled" and live.winds_down():
            live.down(live.on_cancel, None)
        else:
            self._over(call)

    def ended(self, call: JobId) -> None:
        self._step("ended")
        self._over(call)

    def _over(self, call: JobId) -> None:
        if (live := self.live.pop(call, None)) is not None:
            live.down(live.on_stop, None)
            self.room()

    async def close(self) -> None:
        """Nothing to close."""

    def disconnect(self) -> None:
        """The worker loses its connection to this node."""
        calls = list(self.live.values())
        self.live.clear()
        for call in calls:
            call.lose()
        self.world.do(_tell, self.room)

    def up(self, dispatch: Dispatch, msg: Message) -> None:
        """A message has arrived at the node."""
        self.world.do(self._arrive, (dispatch, msg))

    def _arrive(self, what: tuple[Dispatch, Message]) -> None:
        dispatch, msg = what
        self.deliver(dispatch.run, dispatch.job, dispatch.fence, msg)

    def _step(self, name: str) -> None:
        if self.world.before_step is not None:
            self.world.before_step(name)


class _Running:
    """A step that is being executed."""

    __slots__ = ("_outside", "_then", "_unsent", "dispatch", "execution", "leaf", "started_at")

    def __init__(
        self,
        outside: Outside,
        dispatch: Dispatch,
        leaf: Leaf,
        then: Callable[[Leaf, Execution, bytes | None], None],
        given: bytes,
    ) -> None:
        self._outside = outside
        self._then = then
        self.dispatch = dispatch
        self.leaf = leaf
        self.execution = outside.ledger.record(dispatch.run, leaf.id, dispatch.job, outside.scheduler.now, given=given)
        self._unsent = leaf.copies
        if leaf.sends:
            for number in range(leaf.copies):
                outside.send(leaf.sends, f"{dispatch.run}.{leaf.id[:8]}.{number}", _k(dispatch), self._sent)
        else:
            outside.scheduler.after(leaf.ms, self._end)

    def _sent(self) -> None:
        self._unsent -= 1
        if not self._unsent:
            self._outside.scheduler.after(self.leaf.ms, self._end)

    def _end(self, _: object) -> None:
        leaf, execution = self.leaf, self.execution
        if execution.number < leaf.fails:
            error: bytes | None = _error("TryAgain", f"{leaf.name} failed")
        elif leaf.fatal:
            error = _error("NeverAgain", f"{leaf.name} failed for good")
        else:
            error = None
            execution.result = result_of(leaf, self.dispatch.run, execution.number)
        self._then(leaf, execution, error)


def _given(memos: Sequence[Memo], leaf: Leaf) -> bytes:
    """The input that a worker was told to use for a step instead of the program's."""
    return next((memo.value for memo in memos if memo.shape == "input" and memo.step == leaf.id), b"")


def _k(dispatch: Dispatch) -> object:
    return decode(dispatch.events[0])["data"].get("k")


def _wait_op(leaf: Leaf, dispatch: Dispatch) -> op.Op:
    one = leaf.wait_op()
    if isinstance(one, op.Invoke):
        return op.Invoke(
            step=one.step,
            name=one.name,
            index=one.index,
            function=one.function,
            data=canonical({"k": f"{dispatch.run}.{leaf.id[:8]}"}),
            for_ms=one.for_ms,
            race=one.race,
        )
    return one


def _done(leaf: Leaf, execution: Execution, error: bytes | None, started: int, now: int) -> op.Op:
    if error is None:
        return op.StepDone(
            step=leaf.id,
            name=leaf.name,
            index=leaf.index,
            output=execution.result,
            started_at=started,
            duration_ms=now - started,
            race=leaf.race,
        )
    return op.StepErrored(
        step=leaf.id,
        name=leaf.name,
        index=leaf.index,
        error=error,
        retry=not leaf.fatal,
        started_at=started,
        duration_ms=now - started,
        race=leaf.race,
    )


class HttpCall:
    """One request and its reply."""

    def __init__(self, workers: ScriptedWorkers, dispatch: Dispatch) -> None:
        self._workers = workers
        self._outside = workers.outside
        self._dispatch = dispatch
        self._begun = 0
        self._lose_reply = False

    def send(self) -> None:
        outside, dispatch = self._outside, self._dispatch
        weather, random = outside.weather, outside.random
        chance = random.random()
        if chance < weather.lost and outside.lose(dispatch):
            kind = random.randrange(3)
            if kind == 0:  # the request never arrives
                outside.scheduler.after(outside.latency() + 50, self._lost)
                return
            # The worker does its work, the server learns nothing of it, or too late.
            outside.scheduler.after(outside.latency() + random.choice((1, 100, 3_000)), self._lost)
            self._lose_reply = kind == 1
        outside.scheduler.after(outside.latency(), self._arrive)
        if random.random() < weather.doubled:
            outside.ledger.doubled.add(dispatch.job)
            outside.scheduler.after(outside.latency() + random.choice((0, 30, 2_000)), self._arrive)

    def _lost(self, _: object) -> None:
        at_once = self._outside.random.random() < 0.5
        self._workers.up(self._dispatch, message.CallLost(self._dispatch.job, error=LOST, at_once=at_once))

    def _arrive(self, _: object) -> None:
        """The worker has the request."""
        outside, dispatch = self._outside, self._dispatch
        again, self._begun = bool(self._begun), outside.scheduler.now
        program = outside.programs[dispatch.function.slug]
        if dispatch.target is not None:
            leaf = program.leaves[dispatch.target]
            _Running(outside, dispatch, leaf, self._ran, _given(dispatch.memos, leaf))
            return
        if outside.random.random() < outside.weather.raised and dispatch.attempt < LOSABLE_ATTEMPTS:
            self._answer(message.Raised(dispatch.job, error=RAISED, version=2, info=self._info()))
            return
        # A request that the network doubled is another instance of the service, which runs the same steps: only one
        # of the two may go on, or each would believe its own results.
        may_report = program.checkpoints and not again and not dispatch.attempt
        self._go_on(
            program, {memo.step: memo for memo in dispatch.memos if memo.shape != "input"}, may_report=may_report
        )

    def _go_on(self, program: Program, memos: dict[StepId, Memo], *, may_report: bool) -> None:
        dispatch = self._dispatch
        progress = look(program, memos, {step: place for place, step in enumerate(memos)})
        if progress.output is not None:
            self._answer(message.Returned(dispatch.job, progress.output, version=2, info=self._info()))
        elif progress.error is not None:
            self._answer(message.Raised(dispatch.job, error=progress.error, retry=False, version=2, info=self._info()))
        else:
            self._found(program, progress, memos, may_report=may_report)

    def _found(self, program: Program, progress: Progress, memos: dict[StepId, Memo], *, may_report: bool) -> None:
        dispatch = self._dispatch
        new = progress.new
        at_once = len(new) == 1 and new[0].kind is Kind.STEP and not dispatch.disable_immediate_execution
        if at_once and (program.eager or not new[0].grouped):
            ran = partial(self._checkpoint, program, memos, CHECKPOINT_TRIES) if may_report else self._ran
            _Running(self._outside, dispatch, new[0], ran, _given(dispatch.memos, new[0]))
            return
        ops = tuple(
            op.StepPlanned(step=leaf.id, name=leaf.name, index=leaf.index, race=leaf.race)
            if leaf.kind is Kind.STEP
            else _wait_op(leaf, dispatch)
            for leaf in new
        )
        self._answer(message.Replied(dispatch.job, ops, version=2, info=self._info()))

    def _checkpoint(
        self,
        program: Program,
        memos: dict[StepId, Memo],
        tries: int,
        leaf: Leaf,
        execution: Execution,
        error: bytes | None,
    ) -> None:
        """Tell of a step and go on with the function; what cannot be told is left to the answer."""
        if error is not None or not tries:
            self._ran(leaf, execution, error)
            return

        def told(verdict: Verdict | None) -> None:
            if verdict is Verdict.TAKEN:
                self._outside.acknowledged(self._dispatch.run, leaf.id)
                known = {**memos, leaf.id: Memo(leaf.id, "data", execution.result)}
                self._go_on(program, known, may_report=True)
            elif verdict is not Verdict.STALE:  # a stale one stops here
                self._checkpoint(program, memos, tries - 1, leaf, execution, error)

        one = _done(leaf, execution, error, execution.at, self._outside.scheduler.now)
        self._outside.report(self._dispatch, one, told)

    def _ran(self, leaf: Leaf, execution: Execution, error: bytes | None) -> None:
        one = _done(leaf, execution, error, execution.at, self._outside.scheduler.now)
        self._answer(message.Replied(self._dispatch.job, (one,), version=2, info=self._info()))

    def _info(self) -> message.CallInfo:
        now = self._outside.scheduler.now
        return message.CallInfo(started_at=self._begun, duration_ms=now - self._begun, worker="http", status=206)

    def _answer(self, msg: Message) -> None:
        if self._lose_reply:
            return
        outside = self._outside
        outside.scheduler.after(outside.latency(), self._answered, msg)
        if outside.random.random() < outside.weather.doubled:
            outside.scheduler.after(outside.latency() + outside.random.choice((0, 50, 5_000)), self._answered, msg)

    def _answered(self, msg: Any) -> None:
        self._workers.up(self._dispatch, msg)


class LiveCall:
    """A function in the memory of a worker that is connected to one life of one node."""

    def __init__(self, workers: ScriptedWorkers, dispatch: Dispatch) -> None:
        self._workers = workers
        self._outside = workers.outside
        self._dispatch = dispatch
        self._program = self._outside.programs[dispatch.function.slug]
        self._memos: dict[StepId, Memo] = {}
        self._order: dict[StepId, int] = {}
        self._inputs: tuple[Memo, ...] = ()
        self._begun = False
        self._held: list[tuple[Callable[[Any], None], object]] = []  # said before the worker had the call
        self._parked = set(dispatch.waiting)
        self._news = dispatch.news
        self._busy: set[StepId] = set()  # running, or reported and not acknowledged
        self._unacknowledged: dict[int, list[tuple[Leaf, Execution | None, bytes | None]]] = {}
        self._told: dict[StepId, Memo] = {}  # results of steps in a report that is not acknowledged yet
        self._number = 0
        self._over = False
        self._cancelled = False
        self._up_at = 0
        self._down_at = 0
        self._changes = 0

    def down(self, what: Callable[[Any], None], argument: object) -> None:
        """A frame from the server, in the order in which they were sent."""
        if not self._begun:
            self._held.append((what, argument))
            return
        outside = self._outside
        self._down_at = max(self._down_at, outside.scheduler.now + outside.latency())
        outside.scheduler.at(self._down_at, what, argument)

    def begin(self, memos: tuple[Memo, ...]) -> None:
        """The worker has the call."""
        outside, dispatch = self._outside, self._dispatch
        self._begun = True
        self._inputs = tuple(memo for memo in memos if memo.shape == "input")
        for memo in memos:
            if memo.shape != "input":
                self._take(memo)
        for what, argument in self._held:
            self.down(what, argument)
        if self._over:
            return
        chance = outside.random.random()
        if chance < outside.weather.lost:
            if chance < outside.weather.lost / 2 and outside.lose(dispatch):
                self.lose()
            else:
                self._up(message.CallLost(dispatch.job, error=LOST, free=True, code="declined"), last=True)
            return
        if outside.random.random() < outside.weather.raised and dispatch.attempt < LOSABLE_ATTEMPTS:
            self._up(message.Raised(dispatch.job, error=RAISED), last=True)
            return
        self._go_on()

    def lose(self) -> None:
        """The connection breaks: the node is told, the worker goes on with the steps it runs."""
        if self._over:
            return
        self._over = True
        self._workers.live.pop(self._dispatch.job, None)
        self._workers.world.do(_tell, self._workers.room)
        outside = self._outside
        if outside.lose(self._dispatch):
            lost = message.CallLost(self._dispatch.job, error=LOST, at_once=outside.random.random() < 0.5)
        else:
            lost = message.CallLost(self._dispatch.job, error=LOST, free=True, code="declined")
        outside.scheduler.after(outside.latency(), self._arrived, lost)

    # frames from the server

    def on_ack(self, what: tuple[int, int]) -> None:
        number, news = what
        reported = self._unacknowledged.pop(number, None)
        if self._over or reported is None:
            return
        self._news = max(self._news, news)
        for leaf, execution, error in reported:
            self._busy.discard(leaf.id)
            if execution is not None:
                self._outside.acknowledged(self._dispatch.run, leaf.id)
            if leaf.id in self._told:
                self._take(self._told.pop(leaf.id))
            elif execution is None:
                if leaf.id not in self._memos:
                    self._parked.add(leaf.id)
            elif error is None:
                self._take(Memo(leaf.id, "data", execution.result, leaf.name))
            else:
                self._parked.add(leaf.id)  # the server says whether there is another attempt
        self._go_on()

    def on_result(self, what: tuple[Memo, int]) -> None:
        memo, news = what
        if self._over:
            return
        self._news = max(self._news, news)
        if any(leaf.id == memo.step for reported in self._unacknowledged.values() for leaf, _, _ in reported):
            self._told[memo.step] = memo
            return
        self._take(memo)
        self._go_on()

    def on_retry(self, what: tuple[StepId, int, int]) -> None:
        step, _, news = what
        if self._over:
            return
        self._news = max(self._news, news)
        self._parked.discard(step)
        self._go_on()

    def on_stop(self, _: object) -> None:
        self._over = True

    def winds_down(self) -> bool:
        """Whether the function gets time to end; it is told so once."""
        first, self._cancelled = not self._cancelled, True
        return first and self._dispatch.function.cancel_grace_ms > 0

    def on_cancel(self, _: object) -> None:
        """End soon, in one way or another; or never."""
        if self._over:
            return
        self._over = True
        job, random = self._dispatch.job, self._outside.random
        last = random.choice(
            (
                message.Returned(job, b'"too late"'),
                message.Raised(job, error=RAISED),
                message.CallLost(job, error=LOST),
                message.Suspended(job, self._news),
                None,
            )
        )
        self._outside.scheduler.after(random.choice((1, 300, 5_000, 15_000)), self._say_last, last)

    def _say_last(self, msg: Any) -> None:
        if msg is not None:
            self._over = False
            self._up(msg, last=True)
        # A node whose run was over before has no use for what was said, and says nothing more to the call.
        if self._workers.live.pop(self._dispatch.job, None) is not None:
            self._workers.world.do(_tell, self._workers.room)

    # the function

    def _take(self, memo: Memo) -> None:
        self._parked.discard(memo.step)
        if memo.step not in self._memos:
            self._order[memo.step] = len(self._order)
            self._memos[memo.step] = memo

    def _go_on(self) -> None:
        self._changes += 1
        progress = look(self._program, self._memos, self._order)
        if progress.output is not None or progress.error is not None:
            if progress.output is not None:
                self._up(message.Returned(self._dispatch.job, progress.output), last=True)
            elif progress.error is not None:
                self._up(message.Raised(self._dispatch.job, error=progress.error, retry=False), last=True)
            return
        waits: list[tuple[Leaf, Execution | None, bytes | None]] = []
        for leaf in progress.new:
            if leaf.id in self._parked or leaf.id in self._busy:
                continue
            self._busy.add(leaf.id)
            if leaf.kind is Kind.STEP:
                _Running(self._outside, self._dispatch, leaf, self._ran, _given(self._inputs, leaf))
            else:
                waits.append((leaf, None, None))
        if waits:
            self._report(waits)
        elif not self._busy:
            self._outside.scheduler.after(IDLE_MS if self._dispatch.lingers else 0, self._idle, self._changes)

    def _ran(self, leaf: Leaf, execution: Execution, error: bytes | None) -> None:
        if not self._over:
            self._report([(leaf, execution, error)])

    def _report(self, what: list[tuple[Leaf, Execution | None, bytes | None]]) -> None:
        self._number += 1
        self._unacknowledged[self._number] = what
        now = self._outside.scheduler.now
        ops = tuple(
            _wait_op(leaf, self._dispatch) if execution is None else _done(leaf, execution, error, execution.at, now)
            for leaf, execution, error in what
        )
        self._up(message.Reported(self._dispatch.job, ops, self._number))

    def _idle(self, changes: int) -> None:
        if not self._over and changes == self._changes:
            self._up(message.Suspended(self._dispatch.job, self._news), last=True)

    def _up(self, msg: Message, *, last: bool = False) -> None:
        """A frame to the server, in the order in which they were sent."""
        if self._over:
            return
        self._over = last
        outside = self._outside
        self._up_at = max(self._up_at, outside.scheduler.now + outside.latency())
        outside.scheduler.at(self._up_at, self._arrived, msg)
        if outside.random.random() < outside.weather.doubled:
            outside.scheduler.at(self._up_at + outside.random.choice((0, 20, 3_000)), self._arrived, msg)

    def _arrived(self, msg: Any) -> None:
        self._workers.up(self._dispatch, msg)
