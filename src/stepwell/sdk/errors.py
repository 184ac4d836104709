"""What a user's function raises, and what it may catch.

Two of these are for raising (`NonRetriableError`, `RetryAfterError`), one for catching (`StepError`), and
the rest say that a function was written in a way that cannot be replayed; those are never retried, because
the next attempt would end alike.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from stepwell.model.duration import parse_duration
from stepwell.model.errors import ConfigurationError, StepwellError


class NonRetriableError(StepwellError):
    """Raise it in a step or a function whose next attempt would fail alike: `NonRetriableError("no such card")`."""

    code = "NON_RETRIABLE"


class RetryAfterError(StepwellError):
    """Raise it to choose when the next attempt is made, instead of the usual growing pause.

    Args:
        after: How long from now, as a `timedelta` or text such as `"5m"`, or at which moment (with a time zone). The
            server keeps it between 1 s and 24 h.
        message: What went wrong, for people.

    Raises:
        ValueError: `after` is none of these.
    """

    code = "RETRY_AFTER"
    retryable = True

    def __init__(self, after: timedelta | datetime | str, message: str = "") -> None:
        if isinstance(after, datetime):
            if after.tzinfo is None:
                raise ValueError("RetryAfterError needs a datetime with a time zone, such as datetime.now(UTC)")
            self.at = after.astimezone(UTC)
        else:
            read: Any = parse_duration(after) if isinstance(after, str) else after
            if not isinstance(read, timedelta):
                raise ValueError(f'RetryAfterError({after!r}): write timedelta(minutes=5), "5m", or a datetime')
            try:
                self.at = datetime.now(UTC) + read
            except OverflowError as err:
                raise ValueError(f"RetryAfterError({after!r}): that is after the year 9999") from err
        super().__init__(message or f"try again at {self.at.isoformat(timespec='seconds')}")


class StepError(StepwellError):
    """A step failed for good: its last attempt failed, or it said that another makes no sense.

    Raised where the step is awaited, so that the function can do something else instead. One that escapes
    fails the run without another attempt.

    Attributes:
        step_id: The id that the function gave the step.
        name: Class name of the error that the step raised, such as `ValueError`.
        message: Its text.
        stack: Its traceback as text, or None if none was recorded.
        data: What else the failing side said about it, as plain JSON.
    """

    code = "STEP_FAILED"

    def __init__(self, step_id: str, name: str, message: str, *, stack: str | None = None, data: Any = None) -> None:
        self.step_id = step_id
        self.name = name
        self.message = message
        self.stack = stack
        self.data = data
        super().__init__(f"step {step_id!r} failed: {name}: {message}")


class FunctionError(StepwellError):
    """A function is written in a way that cannot work; the next attempt would fail alike."""

    code = "FUNCTION_INVALID"


class StepResultNotPortable(FunctionError):
    """A value would not be the same after it was stored and read back, so that a replay would see another one."""

    code = "STEP_RESULT_NOT_PORTABLE"

    def __init__(self, where: str, reason: str, fix: str) -> None:
        self.where = where
        self.reason = reason
        self.fix = fix
        super().__init__(f"{where}: {reason}; {fix}")


class RecordedResultChanged(StepwellError):
    """A recorded result does not read as the type that the function's code now says; older code recorded it."""

    code = "RECORDED_RESULT_CHANGED"
    retryable = True


class RequestChanged(FunctionError):
    """A request of a library is not the one that the function made at that place before.

    Attributes:
        fields: What differs, such as `body.messages.0.content`.
    """

    code = "REQUEST_CHANGED"

    def __init__(self, request: str, fields: tuple[str, ...]) -> None:
        self.fields = fields
        named = ", ".join(fields) or "a field that was left out when it was recorded"
        super().__init__(
            f"the request {request!r} differs from the recorded one at its place in {named}; make it from what "
            "is the same in every execution (ctx.now(), ctx.uuid4(), results of steps), or leave the field out of the "
            "comparison: exclude=[...] of the transport"
        )


class SyncStepInAsync(FunctionError):
    """A sync `@step` was called inside an async function, where it cannot wait without stopping everything else."""

    code = "SYNC_STEP_IN_ASYNC"

    def __init__(self, step_id: str) -> None:
        self.step_id = step_id
        super().__init__(
            f"the sync step {step_id!r} was called inside an async function; "
            f'write `await ctx.step.run("{step_id}", ...)`, or make the step `async def`'
        )


class NestedStep(FunctionError):
    """A step was started inside another step."""

    code = "NESTED_STEP"

    def __init__(self, inner: str, outer: str) -> None:
        self.inner = inner
        self.outer = outer
        super().__init__(
            f"step {inner!r} was started inside step {outer!r}; a step is recorded as a whole, "
            "so call the function directly there, or start the inner step from the function's body"
        )


class AmbiguousStep(FunctionError):
    """Two steps with one id and different inputs wait at the same time; a replay could swap their results."""

    code = "AMBIGUOUS_STEP"

    def __init__(self, step_id: str) -> None:
        self.step_id = step_id
        super().__init__(
            f"two steps named {step_id!r} wait at the same time and differ in input; "
            f'give each an id of its own, such as f"{step_id}-{{item.id}}"'
        )


class EventNotValid(FunctionError):
    """The data of an event is not what the function's `on=`, or the step that waited for it, says it is."""

    code = "EVENT_NOT_VALID"


class StepTimeout(StepwellError):
    """An attempt of a step took longer than its `timeout=`. Counts as a failed attempt."""

    code = "STEP_TIMEOUT"
    retryable = True


class DefinitionError(ConfigurationError, TypeError):
    """A function, step or service was declared in a way that cannot work; the message says what to write."""

    code = "DEFINITION_INVALID"


class WorkerRefused(ConfigurationError):
    """The server does not accept this worker: a key, a version or an option of a function. Trying again is no use."""

    code = "WORKER_REFUSED"


class Suspended(asyncio.CancelledError):
    """Passes through a function that is dropped from memory until there is news. Never catch it.

    It is a `BaseException`, so `except Exception` lets it pass; asyncio treats it as a cancellation.
    """
