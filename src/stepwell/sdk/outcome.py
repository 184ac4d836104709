"""How one execution of a function ended, and errors as the wire carries them.

Elsewhere: the frames made of these for the websocket (`worker.py`), and the HTTP answers (`serve`).
"""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, TypeAlias

import msgspec

from stepwell.model.ids import Instant
from stepwell.model.op import Op
from stepwell.model.payload import canonical
from stepwell.sdk.errors import (
    DefinitionError,
    FunctionError,
    NonRetriableError,
    RetryAfterError,
    StepError,
    StepResultNotPortable,
)

_MAX_STACK_CHARACTERS = 16_000
_MAX_TEXT_CHARACTERS = 100_000
_SDK = os.path.dirname(__file__)
_FINAL = (NonRetriableError, StepError, FunctionError, DefinitionError)
"""Another attempt would end alike."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The function returned; `output` is JSON."""

    output: bytes


@dataclass(frozen=True, slots=True)
class Raised:
    """The function failed. `error` is an error object; `retry_at` in ms since 1970."""

    error: bytes
    retry: bool = True
    retry_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Replied:
    """The function was left at these ops (replay only); the server calls again when they are done."""

    ops: tuple[Op, ...]


@dataclass(frozen=True, slots=True)
class Suspended:
    """The function only waits and was dropped from memory (live only). `news` is how much it had been told."""

    news: int


@dataclass(frozen=True, slots=True)
class Declined:
    """The call is given back with nothing of it running (live only)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Nobody wants an answer: `stop()` was called."""

    reason: str


Outcome: TypeAlias = Returned | Raised | Replied | Suspended | Declined | Stopped


def raised(error: BaseException) -> Raised:
    """What to answer when `error` escaped from a function or from a step."""
    retry, retry_at = verdict(error)
    return Raised(error_object(error), retry, retry_at)


def verdict(error: BaseException) -> tuple[bool, Instant | None]:
    """Whether another attempt may help, and when it should be made if the error says so.

    A group, as `TaskGroup` raises it, is tried again unless each error in it forbids that.
    """
    if isinstance(error, BaseExceptionGroup):
        verdicts = [verdict(member) for member in error.exceptions]
        moments = [moment for _, moment in verdicts if moment is not None]
        return any(retry for retry, _ in verdicts), max(moments, default=None)
    if isinstance(error, RetryAfterError):
        return True, milliseconds(error.at)
    return not isinstance(error, _FINAL), None


def error_object(error: BaseException) -> bytes:
    """The error as JSON: name, message, stack, and cause if there is one."""
    return canonical(_described(error, with_stack=True))


def _described(error: BaseException, *, with_stack: bool) -> dict[str, Any]:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, StepError):
        described: dict[str, Any] = {"name": error.name, "message": _text(error.message), "step": error.step_id}
    else:
        described = {"name": type(error).__name__, "message": _text(str(error))}
    code = getattr(error, "code", None)
    if isinstance(code, str) and isinstance(error, _FINAL):
        described["code"] = code
    if with_stack:
        stack = error.stack if isinstance(error, StepError) and error.stack else _stack(error)
        described["stack"] = _text(stack[-_MAX_STACK_CHARACTERS:])
        cause = error.__cause__
        if cause is not None and cause is not error:
            described["cause"] = _described(cause, with_stack=False)
    return described


def _stack(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, own_traceback(error)))


def own_traceback(error: BaseException) -> TracebackType | None:
    """The traceback from the user's first frame on; our own frames above it say nothing to them."""
    first: TracebackType | None = error.__traceback__
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_SDK):
        first = first.tb_next
    return first or error.__traceback__


def _text(text: str) -> str:
    return text[:_MAX_TEXT_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def step_error(step_name: str, error: bytes) -> BaseException:
    """The exception that a recorded error of a step raises at its await."""
    value = msgspec.json.decode(error)
    if not isinstance(value, dict):
        return StepError(step_name, "Error", str(value), data=value)
    name, message = str(value.get("name") or "Error"), str(value.get("message") or "")
    if name == StepResultNotPortable.__name__:
        where, _, rest = message.partition(": ")
        reason, _, fix = rest.rpartition("; ")
        return StepResultNotPortable(where, reason, fix)
    stack = value.get("stack")
    return StepError(step_name, name, message, stack=stack if isinstance(stack, str) else None, data=value.get("data"))


def milliseconds(moment: datetime) -> Instant:
    """Milliseconds since 1970, rounded up so that a deadline is never early."""
    return -int(-moment.timestamp() * 1000 // 1)
