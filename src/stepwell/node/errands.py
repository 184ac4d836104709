"""Requests that the server makes: from the job to the gateway, and what to do when they cannot be made.

job ──▶ the run's request is read ──▶ gateway.make ──▶ OffloadEnded ──▶ mailbox of the run
  └──▶ it may have been made before, or its credentials are gone ──▶ OffloadLost
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from stepwell.model.dispatch import Errand
from stepwell.model.ids import JobId, derived_uuid
from stepwell.model.message import Logged, LogLine, OffloadEnded, OffloadLost
from stepwell.model.offload import Exchange
from stepwell.model.payload import canonical
from stepwell.node.patience import patiently
from stepwell.node.turns import Envelope

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.engine.run import Run, Step
    from stepwell.model.dispatch import Gateway
    from stepwell.model.ids import RunId, StepId
    from stepwell.model.job import Claim, Job
    from stepwell.node.clock import World
    from stepwell.node.turns import Turns


class Errands:
    """Hands requests to a gateway; with none, they fail. `hold` keeps a job, and says so, while nothing may be made."""

    def __init__(self, *, turns: Turns, world: World, gateway: Gateway | None, hold: Callable[[Job], bool]) -> None:
        self._turns = turns
        self._hold = hold
        self._world = world
        self._gateway = gateway

    def begin(self, job: Job, run: Run | None, claim: Claim) -> None:
        """Do a job that is ours. `run` is what the caller has at hand of it."""
        assert job.run is not None
        assert job.step is not None
        gateway = self._gateway
        if gateway is None:
            error = {"name": "GatewayError", "message": "this server makes no requests for functions"}
            ended = OffloadEnded(job.step, job.id, Exchange(job=job.id), error=canonical(error))
            self._turns.post(job.run, Envelope(ended, claim, ends=True))
            return
        if job.sealed is not None and not gateway.holds(job.run, job.step):
            self._unseal(gateway, job, job.run, job.step, job.sealed)
        if job.repeated:
            # Another node, or this one in an earlier life, may have made this request already.
            self._lose(gateway, job.run, job.step, job.id, claim, made=True)
        else:
            step = run.steps.get(job.step) if run is not None else None
            if step is not None and step.timer == job.id and isinstance(step.request, bytes):
                self._make(gateway, job, job.run, step, step.request, claim)
            else:
                self._world.spawn(patiently(self._world, lambda: self._load_and_make(gateway, job, claim)))

    def _unseal(self, gateway: Gateway, job: Job, run: RunId, step: StepId, sealed: bytes) -> None:
        why = gateway.unseal(run, step, sealed)
        if why:
            text = f"the credentials that were kept for its request cannot be opened: {why}"
            line = LogLine(self._world.now(), "warning", text, step)
            self._turns.post(run, Envelope(Logged(job.id, (line,))))

    async def _load_and_make(self, gateway: Gateway, job: Job, claim: Claim) -> None:
        assert job.run is not None
        assert job.step is not None
        run = await self._turns.run(job.run, fresh=True)
        step = run.steps.get(job.step) if run is not None else None
        if run is None or step is None or step.timer != job.id or step.request is None:
            # Nobody waits for it: the run, asked once more, says the same, and the job goes.
            self._lose(gateway, job.run, job.step, job.id, claim, made=False)
            return
        (text,) = await self._turns.texts((step.request,))
        self._make(gateway, job, job.run, step, text, claim)

    def _make(self, gateway: Gateway, job: Job, run: RunId, step: Step, request: bytes, claim: Claim) -> None:
        if self._hold(job):
            return
        if step.sealed and not gateway.holds(run, step.id):
            self._lose(gateway, run, step.id, job.id, claim, made=False)
            return
        gateway.make(
            Errand(
                job=job.id,
                fence=job.fence,
                run=run,
                step=step.id,
                kind=step.kind,
                request=request,
                env=job.env,
                name=step.name,
                attempt=job.attempt,
                key=partial(derived_uuid, run, step.id, str(step.answered)),
            )
        )

    def _lose(self, gateway: Gateway, run: RunId, step: StepId, job: JobId, claim: Claim, *, made: bool) -> None:
        lost = OffloadLost(step, job, made=made, held=gateway.holds(run, step))
        self._turns.post(run, Envelope(lost, claim, ends=True))
