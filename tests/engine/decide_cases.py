"""A run to decide about, and short words for what workers say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stepwell.engine.decide import DEFAULT_POLICY, Beginning, Decision, Policy, begin, decide
from stepwell.engine.run import Call, Run, fold
from stepwell.model import effect, message, op
from stepwell.model.ids import JobId, RunId, StepId, step_id
from stepwell.model.journal import CancelListener, Entry
from stepwell.model.message import Message
from stepwell.model.op import Op

NOON = 1_800_000_000_000
SECOND = 1_000


@dataclass
class Story:
    """A run, and everything that was decided about it so far."""

    live: bool = False
    policy: Policy = DEFAULT_POLICY
    max_attempts: int = 5
    version: int = 2
    depth: int = 0
    parent: RunId | None = None
    cancel_on: tuple[CancelListener, ...] = ()
    now: int = NOON
    run: Run = field(init=False)
    last: Decision = field(init=False)
    entries: list[Entry] = field(init=False, default_factory=list)
    effects: list[effect.Effect] = field(init=False, default_factory=list)
    calls_made: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.run, decision = begin(
            Beginning(
                run=RunId("01RUN"),
                env="env",
                shard=0,
                function="f",
                service="s",
                events=(b'{"name":"go"}',),
                event_keys=(),
                event_name="go",
                max_attempts=self.max_attempts,
                parent=self.parent,
                parent_step=a("child") if self.parent else None,
                depth=self.depth,
                cancel_on=self.cancel_on,
            ),
            self.now,
            live=self.live,
            policy=self.policy,
        )
        self._remember(decision)

    def _remember(self, decision: Decision) -> Decision:
        self.last = decision
        self.entries.extend(decision.entries)
        self.effects.extend(decision.effects)
        self.calls_made += sum(isinstance(one, effect.CallWorker) for one in decision.effects)
        return decision

    def tell(self, msg: Message, *, after: int = 0) -> Decision:
        """Something happens, after so many milliseconds."""
        self.now += after
        return self._remember(decide(self.run, msg, self.now, live=self.live, policy=self.policy))

    def call_of(self, name: str | None = None) -> Call:
        """The newest open call of that step, or of the function as a whole."""
        target = a(name) if name is not None else None
        return [call for call in self.run.calls.values() if call.target == target][-1]

    def calls(self) -> list[StepId | None]:
        """The targets of all open calls."""
        return [call.target for call in self.run.calls.values()]

    def reply(self, *ops: Op, to: str | None = None, after: int = 0) -> Decision:
        """The worker answers its newest call, of the step `to` if given."""
        call = self.call_of(to)
        return self.tell(
            message.Replied(call.id, ops, self.version, message.CallInfo(started_at=call.due)), after=after
        )

    def report(self, *ops: Op, number: int = 1, after: int = 0) -> Decision:
        call = self.run.live_call()
        assert call is not None
        return self.tell(message.Reported(call.id, ops, number), after=after)

    def returns(self, output: bytes = b"42") -> Decision:
        return self.tell(message.Returned(self.call_of().id, output, self.version))

    def timer(self, name: str) -> message.TimerFired:
        timer = self.run.steps[a(name)].timer
        assert timer is not None
        return message.TimerFired(a(name), timer)

    def kinds(self) -> list[str]:
        """The entries of the last decision, by kind."""
        return [type(entry).__name__ for entry in self.last.entries]

    def did(self, kind: type[Any]) -> list[Any]:
        """The effects of that kind of the last decision."""
        return [one for one in self.last.effects if isinstance(one, kind)]

    def folded(self) -> Run:
        """The run as another node would read it from the journal."""
        return fold(self.run.row(), self.entries)


def a(name: str, index: int = 0) -> StepId:
    return step_id(name, index)


def done(name: str, output: bytes = b"1", **details: Any) -> op.StepDone:
    return op.StepDone(step=a(name), name=name, output=output, **details)


def failed(name: str, **details: Any) -> op.StepErrored:
    return op.StepErrored(step=a(name), name=name, error=b'{"name":"ValueError"}', **details)


def planned(name: str, **details: Any) -> op.StepPlanned:
    return op.StepPlanned(step=a(name), name=name, **details)


def sleep(name: str, for_ms: int = 30 * SECOND, **details: Any) -> op.Sleep:
    return op.Sleep(step=a(name), name=name, for_ms=for_ms, **details)


def wait(name: str, event: str = "paid", for_ms: int = 60 * SECOND, **details: Any) -> op.WaitForEvent:
    return op.WaitForEvent(step=a(name), name=name, event=event, for_ms=for_ms, **details)


def invoke(name: str, function: str = "g", **details: Any) -> op.Invoke:
    return op.Invoke(step=a(name), name=name, function=function, **details)


def matched(name: str, event: str = "ev", **details: Any) -> message.EventMatched:
    return message.EventMatched(a(name), b'{"name":"paid"}', event, **details)


def job(text: str) -> JobId:
    return JobId(text)
