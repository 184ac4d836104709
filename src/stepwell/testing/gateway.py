"""A scripted gateway: it makes the requests of programs, in virtual time and through the same bad weather.

What it does goes into the ledger before anything else. It belongs to one life of one node: the credentials that it
keeps and the requests that it waits for are gone with it, while what it asked for goes on outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.model.message import OffloadEnded
from stepwell.model.offload import Exchange, Sealed
from stepwell.model.payload import canonical, decode
from stepwell.testing.programs import Leaf, result_of
from stepwell.testing.workers import LOSABLE_ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.model.dispatch import Deliver, Errand
    from stepwell.model.ids import RunId, StepId
    from stepwell.testing.ledger import Execution
    from stepwell.testing.workers import Outside
    from stepwell.testing.world import VirtualWorld


class ScriptedGateway:
    """A `Gateway` for programs.

    Args:
        outside: What all nodes share.
        world: Of the node. Answers to it wait while it is paused and are lost when it is dead.
        deliver: The node's.
        fail: Told of an invariant that was broken.
    """

    def __init__(
        self, outside: Outside, world: VirtualWorld, deliver: Deliver, fail: Callable[[str, str, RunId], None]
    ) -> None:
        self._outside = outside
        self._world = world
        self._deliver = deliver
        self._fail = fail
        self._sealed: dict[tuple[RunId, StepId], Sealed] = {}
        self._going: dict[tuple[RunId, StepId], Errand] = {}

    def keep(self, run: RunId, step: StepId, sealed: Sealed) -> None:
        self._sealed[run, step] = sealed

    def holds(self, run: RunId, step: StepId) -> bool:
        return (run, step) in self._sealed

    def seal(self, run: RunId, step: StepId, given: Sealed | None) -> bytes | None:
        kept = given or self._sealed.get((run, step))
        return kept.url.encode() if kept is not None and _outlives(step) else None

    def unseal(self, run: RunId, step: StepId, sealed: bytes) -> str:
        self._sealed[run, step] = Sealed(sealed.decode())
        return ""

    def make(self, errand: Errand) -> None:
        if self._world.before_step is not None:
            self._world.before_step("make")
        outside = self._outside
        request = decode(errand.request)
        leaf = outside.programs[request["function"]].leaves[errand.step]
        if leaf.secret and not self.holds(errand.run, errand.step):
            self._fail("secrecy", f"step {leaf.name} is requested without its credentials", errand.run)
        self._going[errand.run, errand.step] = errand
        chance = outside.random.random()
        lost = chance < outside.weather.lost and errand.attempt < LOSABLE_ATTEMPTS
        if lost and chance < outside.weather.lost / 2:  # it never arrives
            outside.scheduler.after(outside.latency() + 50, self._lost, errand)
            return
        execution = outside.ledger.record(
            errand.run, errand.step, errand.job, outside.scheduler.now, errand.key(), _edited(request)
        )
        if lost:
            outside.scheduler.after(outside.latency() + 50, self._lost, errand)
        else:
            outside.scheduler.after(outside.latency() + leaf.ms, self._answered, (errand, leaf, execution))

    def stop(self, run: RunId, step: StepId) -> None:
        self._sealed.pop((run, step), None)
        self._going.pop((run, step), None)

    async def close(self) -> None:
        """Nothing to close."""

    def _lost(self, errand: Errand) -> None:
        self._end(errand, _ended(errand, 0, error="the connection was reset", retry=True))

    def _answered(self, what: tuple[Errand, Leaf, Execution]) -> None:
        errand, leaf, execution = what
        if execution.number < leaf.fails:
            message = _ended(errand, 503, error=f"{leaf.name} failed", retry=True)
        elif leaf.fatal:
            message = _ended(errand, 400, error=f"{leaf.name} failed for good", retry=False)
        else:
            execution.result = result_of(leaf, errand.run, execution.number)
            message = OffloadEnded(errand.step, errand.job, _exchange(errand, 200), output=execution.result)
        self._end(errand, message)

    def _end(self, errand: Errand, message: OffloadEnded) -> None:
        outside = self._outside
        self._world.do(self._arrive, (errand, message))
        if outside.random.random() < outside.weather.doubled:
            outside.scheduler.after(outside.latency() + 20, self._again, (errand, message))

    def _again(self, what: tuple[Errand, OffloadEnded]) -> None:
        self._world.do(self._arrive, what)

    def _arrive(self, what: tuple[Errand, OffloadEnded]) -> None:
        errand, message = what
        if self._going.get((errand.run, errand.step)) is errand:
            self._deliver(errand.run, errand.job, errand.fence, message)


def _outlives(step: StepId) -> bool:
    """Whether the job of a step keeps its credentials; so it is with half of them."""
    return int(step[-1], 16) % 2 == 0


def _edited(request: dict[str, object]) -> bytes:
    """What somebody changed of a request; programs give theirs no body."""
    return canonical({"body": request["body"]}) if "body" in request else b""


def _exchange(errand: Errand, status: int) -> Exchange:
    return Exchange(job=errand.job, status=status)


def _ended(errand: Errand, status: int, *, error: str, retry: bool) -> OffloadEnded:
    text = canonical({"name": "GatewayError", "message": error})
    return OffloadEnded(errand.step, errand.job, _exchange(errand, status), error=text, retry=retry)
