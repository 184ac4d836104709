"""Checkpoints: what may be reported while a call is open, and how a refusal says what may not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepwell.model.errors import InvalidInput, TooLarge
from stepwell.model.ids import JobId, RunId, StepId
from stepwell.model.op import Completed, StepDone, StepErrored
from stepwell.wire.inngest.checkpoint import read_checkpoint, write_checkpoint
from stepwell.wire.inngest.ops import MAX_STEP_OUTPUT_BYTES

RUN = RunId("01JQDAE4RQF8MBCR55T5AK4KXS")
A = StepId("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8")
NOW = 1_780_000_000_000


def body(*steps: Any, **fields: Any) -> dict[str, Any]:
    return {"run_id": RUN, "fn_id": "f", "qi_id": f"{RUN}.2", "generation_id": 1, "steps": list(steps), **fields}


def step(op: str = "StepRun", **fields: Any) -> dict[str, Any]:
    return {"op": op, "id": A, "displayName": "a", **fields}


def test_finished_steps_are_read_as_in_an_answer() -> None:
    failed = step("StepFailed", error={"name": "E", "message": "m"})
    found = read_checkpoint(body(step(data=41), failed, step("RunComplete", data=42)), run=RUN, now=NOW)
    assert (found.call, found.generation) == (f"{RUN}.2", 1)
    done, errored, completed = found.ops
    assert isinstance(done, StepDone)
    assert done.output == b"41"
    assert isinstance(errored, StepErrored)
    assert errored.retry is False
    assert isinstance(completed, Completed)


def test_a_step_that_is_only_announced_is_nothing_to_record() -> None:
    assert read_checkpoint(body(step("StepPlanned")), run=RUN, now=NOW).ops == ()


def test_without_a_generation_it_is_the_first() -> None:
    assert read_checkpoint(body(generation_id=None), run=RUN, now=NOW).generation == 1


@pytest.mark.parametrize(
    "op", ["Sleep", "WaitForEvent", "InvokeFunction", "StepError", "DiscoveryRequest", "None", "Gateway", "Nonsense"]
)
def test_what_is_not_finished_is_refused_with_the_names_of_op_and_step(op: str) -> None:
    with pytest.raises(InvalidInput, match=rf"the op {op} of step 'a'") as refused:
        read_checkpoint(body(step(data=1), step(op, name="1s")), run=RUN, now=NOW)
    assert refused.value.http_status == 400


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"run_id": "01JQDAE4RQF8MBCR55T5AK4KXT"}, "run_id"),
        ({"qi_id": None}, "qi_id"),
        ({"qi_id": 7}, "qi_id"),
        ({"generation_id": "1"}, "generation_id"),
        ({"generation_id": True}, "generation_id"),
        ({"generation_id": -1}, "generation_id"),
        ({"generation_id": 1 << 31}, "generation_id"),
        ({"steps": None}, "steps"),
        ({"steps": [1]}, "steps"),
        ({"steps": [[]]}, "steps"),
        ({"steps": [{"op": "StepRun", "data": 1}]}, "StepRun"),
        ({"steps": [{"op": "StepRun", "id": A}] * 1001}, "1001 ops and may have 1000"),
    ],
)
def test_a_wrong_field_is_named(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read_checkpoint(body() | changed, run=RUN, now=NOW)


def test_a_result_that_is_too_large_is_left_to_the_answer_of_the_call() -> None:
    with pytest.raises(TooLarge, match=r"step 'a' returned more than 4 MiB"):
        read_checkpoint(body(step(data="x" * MAX_STEP_OUTPUT_BYTES)), run=RUN, now=NOW)


def test_what_our_sdk_writes_is_read_back() -> None:
    done = StepDone(step=A, name="a", output=b'{"n":1}', started_at=NOW, duration_ms=2.0)
    text = write_checkpoint(
        run=RUN, function="f", call=JobId(f"{RUN}.2"), generation=3, request="r", started_at=NOW, ops=[done]
    )
    sent = json.loads(text)
    assert (sent["fn_id"], sent["request_id"], sent["request_started_at"]) == ("f", "r", NOW)
    found = read_checkpoint(sent, run=RUN, now=NOW)
    assert (found.call, found.generation, found.ops) == (f"{RUN}.2", 3, (done,))
