"""An error as data: what a worker wrote, and the reduced form that events carry.

What a worker sent is recorded as it is, with whatever keys it had. The reduced form has `error`, `name`, `message`,
`stack`, `cause` and nothing else.

Protocol: sections 2.9 and 5.6 of the Inngest wire protocol.
"""

from __future__ import annotations

from typing import Any

from stepwell.model.payload import canonical, decode

MAX_MESSAGE_LETTERS = 10_000
"""How much of an answer that is no error object is kept as a message."""


def status_text(status: int) -> str:
    """What the member `error` says when a failure came from an HTTP status."""
    return f"invalid status code: {status}"


def standard_error(error: bytes, *, status: int = 0) -> bytes:
    """Reduce a recorded error to what failed events carry (section 2.9): extra keys such as `code` go.

    Args:
        error: The recorded error, any JSON.
        status: The HTTP status of the answer that failed the run; 0 when it was not an answer.
    """
    found = as_object(decode(error))
    name, message, stack = found.get("name"), found.get("message"), found.get("stack")
    text = found.get("error")
    reduced: dict[str, Any] = {"name": name if isinstance(name, str) and name else "Error"}
    if isinstance(message, str):
        reduced["message"] = message
    else:
        reduced["message"] = text if isinstance(text, str) else ""
    if isinstance(stack, str) and stack:
        reduced["stack"] = stack
    if found.get("cause") is not None:
        reduced["cause"] = found["cause"]
    if status:
        reduced["error"] = status_text(status)
    else:
        reduced["error"] = text if isinstance(text, str) and text else reduced["message"]
    return canonical(reduced)


def as_object(value: object) -> dict[str, Any]:
    """Any JSON as an error object. Text is unwrapped once, since some SDKs encode an error twice."""
    if isinstance(value, str):
        try:
            inner = decode(value)
        except ValueError:
            inner = None
        if isinstance(inner, dict):
            return inner
        return {"name": "Error", "message": value[:MAX_MESSAGE_LETTERS]}
    if isinstance(value, dict):
        return value
    if value is None:
        return {"name": "Error", "message": "the function failed without saying why"}
    return {"name": "Error", "message": canonical(value).decode()[:MAX_MESSAGE_LETTERS]}
