"""Answers of this surface, to each generation of clients; see `wire.infsh.envelope`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from stepwell.api.answers import JSON, encode, refusal_headers
from stepwell.api.routes import Errors
from stepwell.model.errors import StepwellError
from stepwell.wire.infsh import envelope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    from stepwell.api.routes import Ask
    from stepwell.wire.infsh.envelope import Notice, Requirement

_PROBLEM = "application/problem+json"


class RequirementsNotMet(StepwellError):
    """The server lacks what the app needs; no task was made."""

    code = "REQUIREMENTS_NOT_MET"
    http_status = 412

    def __init__(self, missing: Sequence[Requirement]) -> None:
        self.missing = tuple(missing)
        super().__init__("; ".join(one.message for one in missing))


def data(ask: Ask, value: object, status: int = 200, messages: Sequence[Notice] = ()) -> Response:
    """An answer. `Raw` members go out as the text they are."""
    body = envelope.success(value, bare=_bare(ask.request), status=status, messages=messages)
    return Response(encode(body), status, media_type=JSON)


def error(err: StepwellError, request: Request) -> Response:
    """The answer to a request that was refused on purpose."""
    if isinstance(err, RequirementsNotMet):
        return _problem(envelope.requirements_not_met(err.missing), 412, request)
    field = getattr(err, "field", None)
    body = envelope.error(envelope.code_of(err), str(err), err.http_status, {"field": field} if field else None)
    return _problem(body, err.http_status, request, refusal_headers(err))


def bug(reference: str, request: Request) -> Response:
    """The answer to a request that met a bug of ours."""
    text = f"this server made a mistake; its log has more under {reference}"
    return _problem(envelope.error("internal_error", text, 500), 500, request)


ERRORS = Errors(error, bug)
"""For the routes of this surface."""


def _bare(request: Request) -> bool:
    return request.headers.get(envelope.BARE_HEADER) == envelope.BARE_VERSION


def _problem(
    body: Mapping[str, object], status: int, request: Request, headers: Mapping[str, str] | None = None
) -> Response:
    wanted = _bare(request) or _PROBLEM in request.headers.get("accept", "")
    return Response(encode(body), status, dict(headers or {}), _PROBLEM if wanted else JSON)
