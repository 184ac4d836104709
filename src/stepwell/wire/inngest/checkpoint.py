"""A checkpoint: steps that an SDK reports while the call that runs them is still open.

The SDK goes on with the function instead of answering after each step, and says on the side what it has done.
Only what is finished may be said so, since nobody calls the function again because of it: the result of a step,
its final failure, the end of the run. What a function waits for travels in the answer to the call.

    POST /v1/checkpoint/{run}/async     {run_id, fn_id, qi_id, generation_id, steps: [op, ...]}

`qi_id` and `generation_id` are those of the call, so a call that was given up and made again is told from its
successor.

Protocol: section 10.1 of the Inngest wire protocol.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stepwell.model.errors import InvalidInput, TooLarge
from stepwell.model.ids import Instant, JobId, RunId
from stepwell.model.op import Completed, Op, StepDone, StepErrored, StepPlanned
from stepwell.wire.inngest.ops import MAX_OPS, MAX_STEP_OUTPUT_BYTES, read_ops, write_ops
from stepwell.wire.inngest.text import compose, shortened, size, write

FIRST_GENERATION = 1
"""Of a call's first dispatch; SDKs that know no generations report for that one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What one request reports. `ops` are in the order in which the steps finished."""

    call: JobId
    generation: int
    ops: tuple[Op, ...]


def read_checkpoint(body: dict[str, Any], *, run: RunId, now: Instant) -> Checkpoint:
    """Read the decoded body of a request.

    A step that is only announced (`StepPlanned`) says nothing that needs to be recorded and is left out.

    Args:
        run: Whose address the request was sent to.
        now: Milliseconds since 1970.

    Raises:
        InvalidInput: A field is missing or wrong, or an op may not be sent this way; names the op and its step.
        TooLarge: The result of a step is above the limit. Sent in the answer to the call, it fails that step.
    """
    call, generation, steps = body.get("qi_id"), body.get("generation_id"), body.get("steps")
    if body.get("run_id", run) != run:
        raise InvalidInput(
            f"run_id is {shortened(str(body['run_id']), 60)!r} and the address names {run}", field="run_id"
        )
    if not isinstance(call, str) or not call:
        raise InvalidInput("qi_id must be the `ctx.qi_id` of the call that reports", field="qi_id")
    if generation is None:
        generation = FIRST_GENERATION
    if not isinstance(generation, int) or isinstance(generation, bool) or not 0 <= generation < 1 << 31:
        raise InvalidInput("generation_id must be the whole number that the call came with", field="generation_id")
    if not isinstance(steps, list) or not all(isinstance(item, dict) for item in steps):
        raise InvalidInput("steps must be an array of ops, each of them an object", field="steps")
    if len(steps) > MAX_OPS:
        raise InvalidInput(f"steps has {len(steps)} ops and may have {MAX_OPS}; send several requests", field="steps")
    ops = [one for item in steps for one in _reported(item, read_ops(item, now=now))]
    return Checkpoint(
        call=JobId(call), generation=generation, ops=tuple(one for one in ops if not isinstance(one, StepPlanned))
    )


def _reported(item: dict[str, Any], found: tuple[Op, ...]) -> tuple[Op, ...]:
    code = str(item.get("op"))
    for one in found:
        if isinstance(one, StepErrored) and code.lower() in {"step", "steprun"}:
            raise TooLarge(
                f"step {one.name!r} returned more than {size(MAX_STEP_OUTPUT_BYTES)}, which a step may return; "
                "store the value elsewhere and return a reference to it",
                field="steps",
            )
        if not isinstance(one, StepDone | StepPlanned | Completed) and code.lower() != "stepfailed":
            raise _not_synchronous(item, code)
    if not found:
        raise _not_synchronous(item, code)
    return found


def _not_synchronous(item: dict[str, Any], code: str) -> InvalidInput:
    name = item.get("displayName") or item.get("id") or ""
    return InvalidInput(
        f"the op {shortened(code, 60)} of step {shortened(str(name), 80)!r} may not be sent as a checkpoint; "
        "StepRun, Step, StepFailed, StepPlanned and RunComplete may, the rest belongs into the answer to the call",
        field="steps",
    )


# The other direction, for our own SDK's serve


def write_checkpoint(
    *, run: RunId, function: str, call: JobId, generation: int, request: str, started_at: Instant, ops: Iterable[Op]
) -> bytes:
    """The canonical body of a checkpoint.

    Args:
        function: The `ctx.fn_id` of the call.
        call: Its `ctx.qi_id`.
        request: Its request id; empty if it has none.
        started_at: When the call arrived, in milliseconds since 1970.
        ops: Their payloads must be canonical text.
    """
    members = {
        "run_id": write(run),
        "fn_id": write(function),
        "qi_id": write(call),
        "generation_id": write(generation),
        "request_started_at": write(started_at),
        "steps": write_ops(ops),
    }
    if request:
        members["request_id"] = write(request)
    return compose(members)
