"""Answers that every generation of clients reads."""

import pytest

from stepwell.model.errors import Conflict, InvalidInput, NotFound, Overloaded, StepwellError, Unauthorized
from stepwell.wire.infsh import envelope
from stepwell.wire.infsh.envelope import Notice, Requirement


def test_one_answer_suits_three_generations() -> None:
    body = envelope.success({"id": "t"}, messages=[Notice(code="late", message="it is late")])
    assert body == {
        "success": True,  # the agent classes of the Python client look for it
        "status": 200,
        "data": {"id": "t"},
        "messages": [{"level": "warning", "code": "late", "message": "it is late", "meta": {}}],
    }


def test_who_asks_for_the_bare_object_gets_it() -> None:
    assert envelope.success({"id": "t"}, bare=True) == {"id": "t"}


def test_an_error_has_the_same_text_wherever_clients_look() -> None:
    body = envelope.error("not_found", "no app a/b", 404, {"field": "app"})
    assert body["detail"] == body["error"]["message"] == "no app a/b"
    assert body["type"].rsplit("/errors/", 1)[-1] == body["error"]["code"] == "not_found"
    assert (body["status"], body["success"], body["title"]) == (404, False, "Not found")
    assert body["error"]["meta"] == {"field": "app"}


class _Ended(StepwellError):
    code = "SESSION_ENDED"
    http_status = 410


@pytest.mark.parametrize(
    ("err", "code"),
    [
        (InvalidInput("no"), "invalid_request"),
        (NotFound("no"), "not_found"),
        (Conflict("no"), "conflict"),
        (Unauthorized("no"), "unauthorized"),
        (Overloaded("no"), "overloaded"),
        (StepwellError("no"), "internal_error"),
        (_Ended("no"), "SESSION_ENDED"),
    ],
)
def test_codes_are_those_of_the_protocol(err: StepwellError, code: str) -> None:
    assert envelope.code_of(err) == code


def test_missing_requirements_have_nothing_around_them() -> None:
    body = envelope.requirements_not_met([Requirement(key="KEY", message="KEY is not set")])
    assert (body["status"], body["satisfied"], body["detail"]) == (412, False, "KEY is not set")
    assert body["errors"] == [
        {"type": "secret", "key": "KEY", "message": "KEY is not set", "action": {"type": "add_secret"}}
    ]
