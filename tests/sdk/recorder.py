"""A server in a few lines: it records what an execution reports and calls again, as a real one would.

`run_live` speaks the frames of the worker protocol, `run_replay` the rules of call and response (section 5.3
of the Inngest wire protocol). Waits end in the order of their length, each when nothing else is left to do, so that
no result depends on how fast the machine is. Steps are retried without a pause.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from stepwell.model.dispatch import Memo
from stepwell.model.ids import JobId, RunId, StepId
from stepwell.model.op import Invoke, Op, StepDone, StepErrored, StepPlanned
from stepwell.model.payload import canonical
from stepwell.sdk.function import Function
from stepwell.sdk.live import LiveExecution
from stepwell.sdk.outcome import Declined, Outcome, Raised, Replied, Returned, Suspended
from stepwell.sdk.replay import ReplayCall, ReplayExecution
from stepwell.wire.worker import Call

RUN = RunId("01JZ0000000000000000000001")
MOST_CALLS = 300

Mode = Literal["live", "evicted", "replay"]


def an_event(name: str = "test/started", **data: Any) -> bytes:
    return canonical({"name": name, "data": data, "id": "e-1", "ts": 1_780_000_000_000, "user": {}})


@dataclass
class Recorded:
    """What happened to a run."""

    outcome: Outcome
    calls: int
    memos: list[Memo]
    ops: list[Op]

    @property
    def output(self) -> Any:
        assert isinstance(self.outcome, Returned), self.outcome
        return msgspec.json.decode(self.outcome.output)

    @property
    def error(self) -> dict[str, Any]:
        assert isinstance(self.outcome, Raised), self.outcome
        return msgspec.json.decode(self.outcome.error)  # type: ignore[no-any-return]


class _Watched(LiveExecution):
    """Says when it only waits."""

    on_idle: Callable[[], object] | None = None

    def _start_idling(self, for_s: float) -> None:
        super()._start_idling(for_s)
        if self.on_idle is not None:
            self.on_idle()


@dataclass
class Server:
    """Records steps. `answers` gives the results of waits and invokes by step name; `retries` is the function's."""

    function: Function[Any, Any]
    events: tuple[bytes, ...] = (an_event(),)
    answers: dict[str, Memo | Any] = field(default_factory=dict)
    retries: int = 4
    idle_ms: float = 5000
    sent: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memos: dict[StepId, Memo] = {}
        self.waits: dict[StepId, Op] = {}
        self.attempts: dict[StepId, int] = {}
        self.ops: list[Op] = []
        self.calls = 0
        self.news = 0

    async def send(self, events: list[bytes]) -> list[str]:
        self.sent += [msgspec.json.decode(text) for text in events]
        return [f"id-{number}" for number in range(len(self.sent) - len(events), len(self.sent))]

    def record(self, memo: Memo) -> None:
        self.waits.pop(memo.step, None)
        if memo.step not in self.memos:
            self.memos[memo.step] = memo
            self.news += 1

    def wait(self, op: Op) -> None:
        if op.step not in self.memos:
            self.waits.setdefault(op.step, op)

    def failed(self, op: StepErrored) -> bool:
        """Whether it is final; counts the attempt otherwise."""
        made = self.attempts.get(op.step, 0) + 1
        self.attempts[op.step] = made
        return not op.retry or made > self.retries

    def answer(self, op: Op) -> Memo:
        value = self.answers.get(op.name)
        if isinstance(value, Memo):
            return msgspec.structs.replace(value, step=op.step)
        return Memo(op.step, "data" if isinstance(op, Invoke) else "bare", canonical(value))

    def soonest(self) -> Op | None:
        return min(self.waits.values(), key=_due, default=None)

    def recorded(self, outcome: Outcome) -> Recorded:
        return Recorded(outcome, self.calls, list(self.memos.values()), self.ops)

    # Live

    async def run_live(self, *, evict: bool = False) -> Recorded:
        while True:
            outcome = await self.call_live(0 if evict else self.idle_ms, in_memory=not evict)
            if isinstance(outcome, Suspended | Declined):
                op = self.soonest()
                assert op is not None or isinstance(outcome, Declined), "suspended without a wait"
                if op is not None:
                    self.record(self.answer(op))
                continue
            return self.recorded(outcome)

    async def call_live(self, idle_ms: float, *, in_memory: bool) -> Outcome:
        self.calls += 1
        assert self.calls < MOST_CALLS, "the function does not get anywhere"
        loop = asyncio.get_running_loop()
        reports = 0

        def report(ops: tuple[Op, ...]) -> None:
            nonlocal reports
            reports += 1
            loop.call_soon(commit, reports, ops)

        def commit(number: int, ops: tuple[Op, ...]) -> None:
            self.ops += ops
            final: list[StepErrored] = []
            again: list[StepId] = []
            for op in ops:
                if isinstance(op, StepDone):
                    assert isinstance(op.output, bytes)
                    self.record(Memo(op.step, "data", op.output))
                elif isinstance(op, StepErrored):
                    if self.failed(op):
                        final.append(op)
                    else:
                        again.append(op.step)
                else:
                    self.wait(op)
            execution.acknowledge(number, self.news)
            for failed in final:
                assert isinstance(failed.error, bytes)
                memo = Memo(failed.step, "error", failed.error)
                self.record(memo)
                execution.resolve(memo, self.news)
            for step in again:
                execution.retry(step, self.attempts[step], self.news)

        def resolve() -> None:
            op = self.soonest()
            if op is not None:
                memo = self.answer(op)
                self.record(memo)
                execution.resolve(memo, self.news)

        call = Call(
            call=JobId(f"call-{self.calls}"),
            run=RUN,
            function=self.function.slug,
            attempt=0,
            max_attempts=self.retries + 1,
            events=self.events,
            memos=tuple(self.memos.values()),
            waiting=tuple(self.waits),
            attempts=dict(self.attempts),
            news=self.news,
        )
        execution = _Watched(self.function, call, report, idle_ms=idle_ms, send=self.send)
        if in_memory:
            execution.on_idle = lambda: loop.call_soon(resolve)
        return await execution.run()

    # Replay

    async def run_replay(self) -> Recorded:
        jobs: deque[StepId | None] = deque([None])
        pending: set[StepId] = set()
        planned: set[StepId] = set()
        plan_only = False

        def saved(op: Op) -> None:
            nonlocal plan_only
            had = bool(pending)
            pending.discard(op.step)
            if not pending or not had or getattr(op, "race", False) or op.step in racing:
                jobs.append(None)
                plan_only = False

        racing: set[StepId] = set()
        while True:
            if not jobs:
                op = self.soonest()
                assert op is not None, "nothing left to do, and no result"
                self.record(self.answer(op))
                saved(op)
            target = jobs.popleft()
            outcome = await self.call_replay(target, plan_only=plan_only)
            if (isinstance(outcome, Raised) and target is None) or not isinstance(outcome, Replied):
                return self.recorded(outcome)
            self.ops += outcome.ops
            if len(outcome.ops) > 1:
                plan_only = True
                if any(isinstance(op, StepPlanned) for op in outcome.ops) and not pending:
                    pending.update(op.step for op in outcome.ops if op.step not in self.memos)
                racing.update(op.step for op in outcome.ops if getattr(op, "race", False))
            for op in outcome.ops:
                if isinstance(op, StepDone):
                    assert isinstance(op.output, bytes)
                    self.record(Memo(op.step, "data", op.output))
                    saved(op)
                elif isinstance(op, StepErrored):
                    if self.failed(op):
                        assert isinstance(op.error, bytes)
                        self.record(Memo(op.step, "error", op.error))
                        saved(op)
                    else:
                        jobs.appendleft(target)
                elif isinstance(op, StepPlanned):
                    if op.step not in planned and op.step not in self.memos:
                        planned.add(op.step)
                        jobs.append(op.step)
                else:
                    self.wait(op)

    async def call_replay(self, target: StepId | None, *, plan_only: bool) -> Outcome:
        self.calls += 1
        assert self.calls < MOST_CALLS, "the function does not get anywhere"
        call = ReplayCall(
            run=RUN,
            attempt=self.attempts.get(target, 0) if target is not None else 0,
            max_attempts=self.retries + 1,
            events=self.events,
            memos=tuple(self.memos.values()),
            target=target,
            plan_only=plan_only,
        )
        return await ReplayExecution(self.function, call, send=self.send).run()

    async def run(self, mode: Mode) -> Recorded:
        if mode == "replay":
            return await self.run_replay()
        return await self.run_live(evict=mode == "evicted")


def _due(op: Op) -> float:
    return float(getattr(op, "for_ms", 0) or 0)
