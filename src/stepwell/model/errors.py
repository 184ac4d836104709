"""Every error that Stepwell raises on purpose. Anything else that escapes is a bug.

`code` is stable and on the wire; the message is for people and may change. Whether a caller may try
again and which HTTP status fits is decided here once, on the class.
"""

from __future__ import annotations


class StepwellError(Exception):
    """Base of every error we raise on purpose."""

    code = "INTERNAL"
    http_status = 500
    retryable = False


class InvalidInput(StepwellError):
    """Something that a caller sent is not acceptable; the message names the field, the limit and what to do."""

    code = "INVALID_INPUT"
    http_status = 400

    def __init__(self, message: str, *, field: str | None = None) -> None:
        self.field = field
        super().__init__(message)


class TooLarge(InvalidInput):
    """A size limit was exceeded."""

    code = "TOO_LARGE"
    http_status = 413


class NotFound(StepwellError):
    """No such run, event, function or service."""

    code = "NOT_FOUND"
    http_status = 404


class Conflict(StepwellError):
    """The thing is already in another state than the call needs."""

    code = "CONFLICT"
    http_status = 409


class Unauthorized(StepwellError):
    """No credential, or a wrong one."""

    code = "UNAUTHORIZED"
    http_status = 401


class Overloaded(StepwellError):
    """A limit on work in progress was reached; nothing was accepted. Try again after a moment."""

    code = "OVERLOADED"
    http_status = 503
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class ConfigurationError(StepwellError):
    """The program was started in a way that cannot work; the message says what to change."""

    code = "CONFIGURATION"


class BuildFailed(StepwellError):
    """What an app runs in cannot be made; the message ends with the last lines of what the tools said."""

    code = "BUILD_FAILED"
    http_status = 422
