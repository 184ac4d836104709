"""What a function in memory is told: every result of its run, in the order of the journal, and none twice.

The order matters. A function that sees its own step finish before the timer that fired earlier decides a race one
way, and decides it the other way when it is replayed from the journal. Results may be recorded by another node,
which cannot reach the worker; may be large, and have to be read first; and may be recorded in one turn with a
report of the worker itself. So each call has a line: the news of the run up to where the worker knows it, and
what is still to be said, one thing after the other.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from stepwell.engine.run import Phase, Run
from stepwell.model import journal
from stepwell.model.effect import Acknowledge
from stepwell.model.job import RunStatus
from stepwell.node.calls import memo_of, result_of
from stepwell.node.patience import patiently

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from stepwell.engine.run import Step
    from stepwell.model.dispatch import Performer
    from stepwell.model.effect import Deliver, DeliverRetry
    from stepwell.model.ids import JobId, RunId, StepId
    from stepwell.model.journal import Entry
    from stepwell.model.payload import Payload
    from stepwell.node.clock import World


class _Line(msgspec.Struct):
    """One call in memory; also one of a request, which is told nothing but that it is over."""

    run: RunId
    told: int  # the news that the worker knows, or that stand in the queue
    busy: bool = False  # a large result is being read
    stopping: bool = False  # it was told to end, and has time for that
    queue: deque[tuple[Step | None, Callable[[bytes], None]]] = msgspec.field(default_factory=deque)


class Telling:
    """The lines of the live calls that this node made; on a shared store also its other calls, since another node
    may end their runs."""

    def __init__(
        self, world: World, performer: Performer, texts: Callable[[Iterable[Payload]], Awaitable[list[bytes]]]
    ) -> None:
        self._world = world
        self._performer = performer
        self._texts = texts
        self._lines: dict[JobId, _Line] = {}
        self._calls_of: dict[RunId, list[JobId]] = {}

    def called(self, call: JobId, run: RunId, news: int) -> None:
        """A worker is being called and told of that much."""
        if call not in self._lines:
            self._calls_of.setdefault(run, []).append(call)
        self._lines[call] = _Line(run, news)

    def over(self, call: JobId) -> None:
        """Nothing more is to be said to that call."""
        line = self._lines.pop(call, None)
        if line is not None:
            calls = self._calls_of[line.run]
            calls.remove(call)
            if not calls:
                del self._calls_of[line.run]

    def stopping(self, call: JobId) -> bool:
        """That call is to be told to end, and has time for it. Whether this node has not told it yet."""
        line = self._lines.get(call)
        if line is None:
            return True
        new, line.stopping = not line.stopping, True
        return new

    def has(self, run: RunId) -> bool:
        """Whether this node calls somebody for a run."""
        return run in self._calls_of

    def runs(self) -> list[RunId]:
        """The runs that this node calls somebody for."""
        return list(self._calls_of)

    def calls(self) -> list[JobId]:
        """All calls that this node made and that are not over."""
        return list(self._lines)

    def catch_up(self, run_id: RunId, run: Run | None) -> list[tuple[JobId, str]]:
        """Tell the calls of a run what they do not know yet. Returns those that are to end, and why.

        Args:
            run: As the store has it; None if it is gone.
        """
        over = []
        for call in tuple(self._calls_of.get(run_id, ())):
            line = self._lines[call]
            known = run.calls.get(call) if run is not None else None
            if run is None or known is None:
                cancelled = run is not None and run.status is RunStatus.CANCELLED
                over.append((call, "cancelled" if cancelled else "stale"))
            elif run.cancelling is not None:
                if not line.stopping:
                    line.stopping = True
                    over.append((call, "cancelled"))
            elif known.live and line.told < run.news:
                for number in range(line.told, run.news):
                    self._tell_one(line, call, run, run.feed[number], number + 1, set())
                line.told = run.news
        return over

    def tell(self, what: Acknowledge | Deliver | DeliverRetry, run: Run, recorded: Sequence[Entry]) -> None:
        """Tell a call what came to pass up to and with that effect. Nothing happens if another node made the call.

        Args:
            what: One of the effects of a turn; they have to be told in order.
            run: As it is after the turn.
            recorded: In the turn; among it are results that the worker itself reported and need not be told. That a
                failed attempt was the last is for the server to say, so a failure is told before it is acknowledged.
        """
        call = what.call
        line = self._lines.get(call)
        if line is None:
            return
        if line.told < what.news:
            # Not those that failed: whether an attempt was the last one is for the server to say.
            known = {entry.step for entry in recorded if type(entry) is journal.StepCompleted and entry.call == call}
            for number in range(line.told, what.news):
                self._tell_one(line, call, run, run.feed[number], number + 1, known)
            line.told = what.news
        if isinstance(what, Acknowledge):
            number = what.number
            self._say(line, None, lambda _: self._performer.acknowledge(call, number, what.news))

    def _tell_one(self, line: _Line, call: JobId, run: Run, step_id: StepId, news: int, known: set[StepId]) -> None:
        step, performer = run.steps[step_id], self._performer
        if step.finished:
            if step_id not in known:
                self._say(line, step, lambda text: performer.deliver_result(call, memo_of(step, text), news))
        elif step.phase is Phase.READY or step.phase is Phase.ASKING:
            attempt = step.attempts
            self._say(line, None, lambda _: performer.deliver_retry(call, step_id, attempt, news))

    def _say(self, line: _Line, step: Step | None, say: Callable[[bytes], None]) -> None:
        if not line.busy:
            text = result_of(step) if step is not None else b""
            if isinstance(text, bytes):
                say(text)
                return
            line.busy = True
            self._world.spawn(self._say_all(line))
        line.queue.append((step, say))

    async def _say_all(self, line: _Line) -> None:
        while line.queue:
            step, say = line.queue.popleft()
            text: Payload = result_of(step) if step is not None else b""
            if not isinstance(text, bytes):
                large = text
                (text,) = await patiently(self._world, lambda: self._texts((large,)))  # noqa: B023 - awaited at once
            say(text)
        line.busy = False
