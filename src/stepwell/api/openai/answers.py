"""Errors as OpenAI's clients expect them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.api import answers
from stepwell.api.routes import Errors
from stepwell.model.errors import Conflict, NotFound, StepwellError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ModelNotFound(NotFound):
    code = "MODEL_NOT_FOUND"
    field = "model"


class ModelFailed(StepwellError):
    """The app failed. Whoever asked decides whether to ask again, and clients do by themselves."""

    code = "MODEL_FAILED"
    http_status = 500


class ModelCancelled(Conflict):
    """Somebody cancelled the task; clients would ask again after a 409, and are told not to."""

    code = "TASK_CANCELLED"


def error_body(err: StepwellError) -> dict[str, Any]:
    """What an answer holds, and the piece of a stream that failed after it had begun."""
    status = err.http_status
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    told = {"message": str(err), "type": kind, "param": getattr(err, "field", None), "code": err.code.lower()}
    return {"error": told}


def error(err: StepwellError, request: Request) -> Response:
    """The answer to a request that was refused on purpose."""
    headers = answers.refusal_headers(err)
    if isinstance(err, ModelCancelled):
        headers["x-should-retry"] = "false"
    return answers.json(error_body(err), err.http_status, headers)


def bug(reference: str, request: Request) -> Response:
    """The answer to a request that met a bug of ours."""
    text = f"this server made a mistake; its log has more under {reference}"
    return answers.json({"error": {"message": text, "type": "server_error", "param": None, "code": "internal"}}, 500)


ERRORS = Errors(error, bug)
"""For the routes of this surface."""
