"""The events that tell how a run ended, as functions and waits are given them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepwell.engine.run import Run
from stepwell.model.failure import standard_error
from stepwell.model.ids import RunId, StepId, ulid_time
from stepwell.model.job import RunStatus
from stepwell.model.payload import canonical
from stepwell.node.endings import end_events

NOW = 1_780_000_000_000
RUN = RunId("01JZ0000000000000000000001")
EVENT = b'{"data":{"n":1},"id":"e-7","name":"files/import","ts":1779999999000,"user":{}}'
SILENT = "the function failed without saying why"
ERROR = b'{"code":"unknown","message":"bad row","name":"ValueError","stack":"Traceback ..."}'


def ended(status: RunStatus, outcome: bytes | None = None, **details: Any) -> list[tuple[str, str, Any]]:
    """Name, id and body of each event of a run that ended so."""
    run = Run(RUN, function="my-app-import-file", event_name="files/import", status=status)
    for name, value in details.items():
        setattr(run, name, value)
    return [(name, event_id, json.loads(text)) for name, event_id, text in end_events(run, [EVENT], outcome, NOW)]


def test_a_failed_run_sends_failed_and_finished_as_the_reference_has_it() -> None:
    failed, finished = ended(RunStatus.FAILED, ERROR, error_status=500)
    assert failed[2] == {
        "name": "inngest/function.failed",
        "id": RUN,
        "ts": NOW,
        "user": {},
        "data": {
            "function_id": "my-app-import-file",
            "run_id": RUN,
            "event": json.loads(EVENT),
            "events": [json.loads(EVENT)],
            "error": {
                "error": "invalid status code: 500",
                "name": "ValueError",
                "message": "bad row",
                "stack": "Traceback ...",
            },
            "_inngest": {"status": "Failed"},
        },
    }
    assert finished[0] == "inngest/function.finished"
    assert finished[2]["data"] == failed[2]["data"]
    assert ulid_time(finished[1]) == NOW, "a ULID, the same whenever it is asked for"
    assert ended(RunStatus.FAILED, ERROR, error_status=500) == [failed, finished]


def test_a_completed_run_sends_finished_with_its_result_and_correlation() -> None:
    ((_, _, finished),) = ended(RunStatus.COMPLETED, b'{"x":1}', parent=RUN, parent_step=StepId("abc"))
    assert finished["data"]["result"] == {"x": 1}
    assert finished["data"]["correlation_id"] == f"{RUN}.abc"
    assert "error" not in finished["data"]


def test_a_cancelled_run_says_so() -> None:
    assert [name for name, _, _ in ended(RunStatus.CANCELLED)] == [
        "inngest/function.cancelled",
        "inngest/function.finished",
    ]


def test_the_bodies_are_canonical() -> None:
    run = Run(RUN, function="f", event_name="a", status=RunStatus.FAILED, parent=RUN, parent_step=StepId("s"))
    for _, _, text in end_events(run, [EVENT, EVENT], ERROR, NOW):
        assert text == canonical(json.loads(text))


@pytest.mark.parametrize("name", ["inngest/function.finished", "inngest/function.failed"])
def test_a_run_of_a_system_event_sends_none_so_that_no_loop_begins(name: str) -> None:
    assert ended(RunStatus.FAILED, ERROR, event_name=name) == []


@pytest.mark.parametrize(
    ("error", "status", "reduced"),
    [
        (
            ERROR,
            500,
            {"error": "invalid status code: 500", "name": "ValueError", "message": "bad row", "stack": "Traceback ..."},
        ),
        (b'{"name":"E","message":"m","stack":null,"code":"c"}', 0, {"error": "m", "name": "E", "message": "m"}),
        (b'{"error":"no step","requestedStep":"x"}', 0, {"error": "no step", "name": "Error", "message": "no step"}),
        (
            b'{"name":"E","message":"m","cause":{"name":"C"}}',
            400,
            {"error": "invalid status code: 400", "name": "E", "message": "m", "cause": {"name": "C"}},
        ),
        (b'"plain"', 0, {"error": "plain", "name": "Error", "message": "plain"}),
        (b'"{\\"name\\":\\"E\\",\\"message\\":\\"twice\\"}"', 0, {"error": "twice", "name": "E", "message": "twice"}),
        (b"[1]", 0, {"error": "[1]", "name": "Error", "message": "[1]"}),
        (b"null", 0, {"error": SILENT, "name": "Error", "message": SILENT}),
    ],
)
def test_trap_41_the_failed_event_carries_the_reduced_error(error: bytes, status: int, reduced: dict[str, Any]) -> None:
    assert json.loads(standard_error(error, status=status)) == reduced
