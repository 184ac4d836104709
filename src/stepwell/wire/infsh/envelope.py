"""What is around every answer of this protocol.

Three generations of clients are in use. One answer suits all of them but those who ask for the bare object:

    {"success": true, "status": 200, "data": X, "messages": []}       everybody
    X                                                                  who sends `X-API-Version: 2`

An error has the members that each generation looks for, and the same text in all of them. Only missing requirements
(412) come without anything around them, whoever asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stepwell.model.errors import StepwellError

BARE_HEADER = "x-api-version"
BARE_VERSION = "2"

_KEPT = frozenset(
    {
        "SESSION_NOT_FOUND",
        "SESSION_EXPIRED",
        "SESSION_ENDED",
        "WORKER_LEASED",
        "WORKER_LOST",
        "APP_MISMATCH",
        "VERSION_MISMATCH",
    }
)
"""Codes of sessions are in upper case; all others are in lower case."""
_CODES = {"INVALID_INPUT": "invalid_request", "INTERNAL": "internal_error"}
_TITLES = {
    400: "Invalid request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    410: "Gone",
    412: "Requirements not met",
    413: "Too large",
    429: "Too many requests",
    501: "Not offered",
    503: "Not available now",
}


class Notice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something to be said beside a result: `warning` or `info`."""

    message: str
    code: str = ""
    level: str = "warning"
    meta: dict[str, Any] = {}

    def dto(self) -> dict[str, Any]:
        return {"level": self.level, "code": self.code, "message": self.message, "meta": self.meta}


class Requirement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that an app needs and does not have: a `secret`, a `credential` or a `scope`."""

    key: str
    message: str
    type: str = "secret"
    action: str = "add_secret"


def success(data: object, *, bare: bool = False, status: int = 200, messages: Sequence[Notice] = ()) -> object:
    """The body of an answer."""
    if bare:
        return data
    return {"success": True, "status": status, "data": data, "messages": [one.dto() for one in messages]}


def code_of(err: StepwellError) -> str:
    """What this protocol calls the error."""
    return err.code if err.code in _KEPT else _CODES.get(err.code, err.code.lower())


def error(code: str, message: str, status: int, meta: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The body of a refusal."""
    return {
        "type": f"/errors/{code}",
        "title": _TITLES.get(status, "Error"),
        "status": status,
        "detail": message,
        "success": False,
        "error": {"code": code, "message": message, "suggestions": [], "meta": dict(meta or {})},
    }


def requirements_not_met(missing: Sequence[Requirement]) -> dict[str, Any]:
    """The body of a 412, with nothing around it."""
    count = len(missing)
    return {
        "type": "/errors/requirements_not_met",
        "title": "Requirements not met",
        "status": 412,
        "detail": "; ".join(one.message for one in missing) or "requirements not met",
        "satisfied": count == 0,
        "errors": [
            {"type": one.type, "key": one.key, "message": one.message, "action": {"type": one.action}}
            for one in missing
        ],
    }
