"""An execution that answers one call and is gone: what serving functions over HTTP means.

The function runs again from its first line with the recorded results, as far as it gets. What it then waits
for is the answer: the result of the one new step, run in this very call; or a plan of several, each of which
the server asks for in a call of its own (`target`).

    one new step, immediate execution allowed     run it, answer its result
    several, or not allowed                       answer StepPlanned for each, and the waits
    `target` given                                run that step, answer its result
    the function returns or raises                answer that

A step that the function was waiting for already while recorded results were still being handed out may have
been planned by an earlier call and be running elsewhere, so it is planned again and not run here; servers
drop a plan that they know.

Rules: section 5.3 of the Inngest wire protocol, seen from the SDK. Elsewhere: JSON (`stepwell.wire.inngest`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from stepwell.model.dispatch import Memo
from stepwell.model.ids import StepId
from stepwell.model.op import Op, StepDone, StepErrored, StepPlanned
from stepwell.model.payload import canonical
from stepwell.sdk.attempt import StepUse
from stepwell.sdk.execution import Execution, Observer, Start
from stepwell.sdk.outcome import Raised, Replied
from stepwell.sdk.parking import AnyTask, is_plain_join

if TYPE_CHECKING:
    from stepwell.sdk.function import Function


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayCall:
    """A call request. `memos` in the order of `ctx.stack.stack`, then those that are not on it."""

    run: str
    attempt: int
    max_attempts: int
    events: tuple[bytes, ...]
    memos: tuple[Memo, ...] = ()
    target: StepId | None = None  # None: as far as it gets
    plan_only: bool = False  # `disable_immediate_execution`
    started_at: int = 0  # ms since 1970; 0 if unknown
    attempts: dict[StepId, int] = field(default_factory=dict)


class ReplayExecution(Execution):
    """One call request, answered. `run()` gives `Replied`, `Returned`, `Raised` or `Stopped`."""

    def __init__(
        self,
        function: Function[Any, Any],
        call: ReplayCall,
        *,
        send: Callable[[list[bytes]], Any] | None = None,
        observer: Observer | None = None,
    ) -> None:
        start = Start(
            run=call.run,  # type: ignore[arg-type]
            attempt=call.attempt,
            max_attempts=call.max_attempts,
            events=call.events,
            memos=call.memos,
            started_at=call.started_at,
        )
        super().__init__(function, start, send=send, observer=observer)
        self._call_request = call
        self._new: dict[StepId, StepUse] = {}
        self._old: set[StepId] = set()
        self._answering: StepUse | None = None
        self._answer_races = False

    def _take_apart(self) -> None:
        super()._take_apart()
        self._new.clear()
        self._answering = None

    def _found(self, use: StepUse) -> None:
        self._new[use.id] = use

    def _dropped(self, use: StepUse) -> None:
        self._new.pop(use.id, None)
        if self._answering is use:  # the function gave up waiting for it, and goes on without
            self._answering = None

    def _feed(self, use: StepUse, memo: Memo) -> None:
        self._old.update(self._new)
        super()._feed(use, memo)

    def _on_quiet(self, outside: list[AnyTask]) -> None:
        target = self._call_request.target
        if self._answering is None and target is not None and target in self._new:
            # At once, before what is recorded is handed out: that may decide a race against this very step.
            self._answer_with(self._new[target])
        if self._answering is None:
            super()._on_quiet(outside)

    def _settled(self, outside: list[AnyTask]) -> None:
        new = list(self._new.values())
        if self._call_request.target is not None:
            self._leave(_step_not_found(self._call_request.target, new))
        elif len(new) == 1 and new[0].request.body and not self._call_request.plan_only and new[0].id not in self._old:
            self._answer_with(new[0])
        else:
            self._leave(Replied(self._plan(new)))

    def _answer_with(self, use: StepUse) -> None:
        self._answering = use
        self.caught_up = True
        waiting = list(self._parked.values())
        self._answer_races = len(waiting) > 1 and self._is_race(waiting)
        self._run_body(use, self.start.attempt)

    def _finished(self, use: StepUse, op: StepDone | StepErrored) -> None:
        self._leave(Replied((msgspec.structs.replace(op, race=True) if self._answer_races else op,)))

    def _plan(self, new: list[StepUse]) -> tuple[Op, ...]:
        race = len(new) > 1 and self._is_race(new)
        return tuple(_planned(use, race=race) for use in new)

    def _is_race(self, new: list[StepUse]) -> bool:
        """Whether code may go on before all of them are done. A plain join saves the server a call for each."""
        if not self.function.is_async or self._root is None:
            return False
        return not is_plain_join(self._root, [use.task for use in new if use.task is not None])


def _planned(use: StepUse, *, race: bool) -> Op:
    if use.request.waiting is not None:
        op: Any = use.request.waiting(use.id, use.name, use.index)
        return msgspec.structs.replace(op, race=race)  # type: ignore[no-any-return]
    body = use.body
    return StepPlanned(
        step=use.id, name=use.name, index=use.index, kind=body.kind, input=body.written_input(), race=race
    )


def _step_not_found(target: StepId, new: list[StepUse]) -> Raised:
    found = ", ".join(repr(use.name) for use in new) or "none"
    message = (
        f"the server asked for the step {target}, which the function does not reach any more (waiting: {found}); "
        "its code has changed, or it depends on a clock, a random number or the outside between steps"
    )
    return Raised(canonical({"name": "StepNotFound", "message": message, "code": "step_unexpected"}))
