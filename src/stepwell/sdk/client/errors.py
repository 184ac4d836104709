"""What can go wrong between a program and a server, each with its facts as attributes.

Elsewhere: errors that a function raises or catches (`stepwell.sdk.errors`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from stepwell.model.errors import InvalidInput, StepwellError


class ServerUnreachable(StepwellError):
    """No server answered, also not after some more tries. What was asked may have arrived or not.

    Attributes:
        refused: No connection was made, so it certainly did not arrive.
    """

    code = "SERVER_UNREACHABLE"
    http_status = 503
    retryable = True

    def __init__(self, url: str, reason: str, *, refused: bool = False) -> None:
        self.url = url
        self.reason = reason
        self.refused = refused
        advice = "start one with `stepwell dev`, or set STEPWELL_URL (or url=) to where yours is"
        super().__init__(f"no server answers at {url}: {reason}; {advice}" if refused else f"{url}: {reason}")


class ServerError(StepwellError):
    """The server answered with something that is not what was asked for.

    Attributes:
        status: HTTP status of the answer.
        body: The answer, decoded if it was JSON, else its text.
    """

    code = "SERVER_ERROR"

    def __init__(self, message: str, *, status: int, body: Any = None) -> None:
        self.status = status
        self.body = body
        self.retryable = status >= 500 or status == 429
        super().__init__(message)


class EventsRefused(InvalidInput):
    """The server did not accept all events of a send. Those before the bad one are accepted and stay so.

    Attributes:
        ids: Ids of the accepted ones, in the order in which they were given. Send the rest again once it is mended.
    """

    code = "EVENTS_REFUSED"

    def __init__(self, message: str, *, ids: tuple[str, ...], sent: int) -> None:
        self.ids = ids
        self.sent = sent
        accepted = f" ({len(ids)} of {sent} events were accepted and stay so)" if sent > 1 else ""
        super().__init__(f"{message}{accepted}")


class RunFailed(StepwellError):
    """The run ended in failure.

    Attributes:
        run_id: Of the run.
        function: Its slug.
        step: Id of the step that failed it, as the function names it; None if the function's own code did.
        name: Class name of the error, such as `ValueError`.
        message: Its text.
        stack: Its traceback as text, if the worker sent one.
        error: The whole error object.
    """

    code = "RUN_FAILED"

    def __init__(self, run_id: str, function: str, error: dict[str, Any], *, step: str | None = None) -> None:
        self.run_id = run_id
        self.function = function
        self.step = step
        self.name = str(error.get("name") or "Error")
        self.message = str(error.get("message") or "")
        stack = error.get("stack")
        self.stack = stack if isinstance(stack, str) else None
        self.error = error
        where = f"step {step!r} of {function}" if step else function
        told = f"{self.name}: {self.message}" if self.message else self.name
        super().__init__(f"{where} failed in run {run_id}: {told}")


class RunCancelled(StepwellError):
    """The run was cancelled, so it has no result."""

    code = "RUN_CANCELLED"

    def __init__(self, run_id: str, function: str) -> None:
        self.run_id = run_id
        self.function = function
        super().__init__(f"run {run_id} of {function} was cancelled")


class ResultTimeout(StepwellError, TimeoutError):
    """The run was still going when `timeout` was over. It goes on; ask again whenever you like."""

    code = "RESULT_TIMEOUT"
    retryable = True

    def __init__(self, run_id: str, timeout: timedelta, status: str) -> None:
        self.run_id = run_id
        self.timeout = timeout
        self.status = status
        super().__init__(
            f"run {run_id} was {status.lower()} after {timeout.total_seconds():g} s; "
            "it goes on, so ask again with a longer timeout, or cancel it"
        )
