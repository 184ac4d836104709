"""Checkpoints: finished steps of a run, reported by an SDK while the call that runs them is still open.

Answered 200 once the steps are durable. 409 tells the SDK to stop running the function: the call was given up and
made again, or the run is over. Every other refusal leaves the steps to the answer of the call.

Protocol: section 10.1 of the Inngest wire protocol. Elsewhere: runs that begin in an SDK (`later.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.api import answers
from stepwell.api.inngest.state import run_id
from stepwell.api.routes import Ask, Route
from stepwell.model.errors import Conflict, StepwellError, TooLarge
from stepwell.model.job import Claim
from stepwell.model.message import Logged
from stepwell.model.payload import roundings
from stepwell.node.turns import Verdict
from stepwell.wire.inngest.checkpoint import read_checkpoint
from stepwell.wire.inngest.ops import odd_members, rounded_numbers

if TYPE_CHECKING:
    from starlette.responses import Response


class Undecided(StepwellError):
    """A mistake of ours kept the steps from being recorded; they may be sent again."""

    code = "UNDECIDED"
    retryable = True


def routes() -> list[Route]:
    return [
        Route("POST", "/v1/checkpoint/{id}/async", checkpoint),
        Route("POST", "/v1/http/runs/{id}/async", checkpoint),
    ]


async def checkpoint(ask: Ask) -> Response:
    """Record finished steps of an open call."""
    run, node = run_id(ask), ask.site.node
    body, now = await ask.json(), node.world.now()
    since = roundings()
    found = read_checkpoint(body, run=run, now=now)
    odd = (*odd_members(body["steps"], now=now), *rounded_numbers(body["steps"], now=now, since=since))
    match await node.report(run, Claim(found.call, found.generation), found.ops, ask.site.env):
        case Verdict.TAKEN:
            if odd:
                node.deliver(run, found.call, found.generation, Logged(found.call, odd))
            return answers.json({})
        case Verdict.STALE:
            raise Conflict(
                f"stale: run {run} does not wait for the call {found.call[:60]} any more, because the call was made "
                "again or the run is over; stop running the function"
            )
        case Verdict.FULL:
            raise TooLarge(f"run {run} has failed: it has more steps, or larger results together, than a run may have")
        case Verdict.BROKEN:
            raise Undecided(f"the steps of run {run} could not be recorded; see the server's log, and send them again")
