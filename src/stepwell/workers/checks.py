"""What a worker's frames may contain: JSON text, inline, below the limits, and nothing of anybody else's.

A frame decodes into the model's own types, which can also express what no worker may say: a reference to a
stored value, an op that was never sent. Everything that passes here is canonical.
"""

from __future__ import annotations

from typing import TypeVar

from stepwell.model.ids import Instant
from stepwell.model.op import Completed, Invoke, Op, Sleep, StepDone, StepErrored, StepPlanned, WaitForEvent
from stepwell.model.payload import Payload
from stepwell.wire import worker as frames
from stepwell.wire.inngest.ops import MAX_OPS, MAX_SHOWN_LETTERS, MAX_STEP_OUTPUT_BYTES, MAX_WAIT_MS
from stepwell.wire.inngest.reply import MAX_BODY_BYTES
from stepwell.wire.inngest.text import read, shortened, size, write

_Struct = TypeVar("_Struct")


class Unacceptable(ValueError):
    """A frame that the protocol does not allow; the connection is closed with this text."""


class OutputTooLarge(ValueError):
    """A result above its limit. The run fails with this text."""


def checked_frame(frame: frames.FromWorker, now: Instant) -> frames.FromWorker:
    """The frame, its payloads canonical and its times within what may be waited.

    Args:
        now: Milliseconds since 1970.

    Raises:
        Unacceptable: A payload that is not JSON text, or an op that no worker may send.
        OutputTooLarge: A result is above its limit.
    """
    match frame:
        case frames.Report():
            return _with(frame, ops=checked_ops(frame.ops, now))
        case frames.Returned():
            return _with(frame, output=checked_text(frame.output, "the function's result", result=True))
        case frames.Raised():
            error = checked_text(frame.error, "the function's error")
            return _with(frame, error=error, retry_at=_retry_at(frame.retry_at, now))
    return frame


def checked_ops(ops: tuple[Op, ...], now: Instant) -> tuple[Op, ...]:
    """The ops of a report, their payloads canonical.

    Raises:
        Unacceptable: Too many, or a payload that is not JSON text.
        OutputTooLarge: A step's result is above its limit.
    """
    if len(ops) > MAX_OPS:
        raise Unacceptable(f"a report has {len(ops)} ops and may have {MAX_OPS}; send several")
    return tuple(_checked(op, now) for op in ops)


def checked_text(payload: Payload, what: str, *, result: bool = False) -> bytes:
    """Canonical text of a payload that a worker sent.

    Args:
        result: It is what a function returned, and limited as such.

    Raises:
        Unacceptable: It is no text, or no JSON.
        OutputTooLarge: It is above the limit.
    """
    limit = MAX_BODY_BYTES if result else MAX_STEP_OUTPUT_BYTES
    if not isinstance(payload, bytes):
        raise Unacceptable(f"{what} must be JSON text, not a reference")
    try:
        text = write(read(payload))
    except ValueError as err:
        raise Unacceptable(f"{what} is {err}") from err
    if len(text) > limit:
        raise OutputTooLarge(
            f"{what} has {size(len(text))} and may have {size(limit)}; "
            "store the value elsewhere and return a reference to it"
        )
    return text


def _checked(op: Op, now: Instant) -> Op:
    step = f"step {shortened(op.name or op.step, 80)!r}"
    if len(op.step) > 255 or len(op.name) > MAX_SHOWN_LETTERS or not 0 <= op.index < 1 << 31:
        raise Unacceptable(
            f"{step} may have an id of 255 letters, a name of {MAX_SHOWN_LETTERS} and an index of 31 bits; shorten it"
        )
    match op:
        case StepDone():
            _check_measures(op, step)
            output = checked_text(op.output, f"the result of {step}")
            return _with(op, output=output, input=_input(op.input, step))
        case StepErrored():
            _check_measures(op, step)
            error = checked_text(op.error, f"the error of {step}")
            return _with(op, error=error, retry_at=_retry_at(op.retry_at, now))
        case StepPlanned():
            return _with(op, input=_input(op.input, step))
        case Invoke():
            _check_wait(op, step, now)
            data = checked_text(op.data, f"the data of {step}")
            user = checked_text(op.user, f"the user of {step}")
            if data[:1] != b"{" or user[:1] != b"{":
                raise Unacceptable(f"the data and the user of {step} must be JSON objects")
            return _with(op, data=data, user=user)
        case Completed():
            return _with(op, output=checked_text(op.output, f"the result of {step}", result=True))
        case Sleep() | WaitForEvent():
            _check_wait(op, step, now)
    return op


def _with(value: _Struct, **changes: object) -> _Struct:
    """A copy with other fields; `value` is one of the frames or ops, which are structs."""
    fields: tuple[str, ...] = type(value).__struct_fields__  # type: ignore[attr-defined]
    return type(value)(**{name: getattr(value, name) for name in fields} | changes)


def _input(payload: Payload | None, step: str) -> bytes | None:
    return None if payload is None else checked_text(payload, f"the input of {step}")


def _retry_at(retry_at: Instant | None, now: Instant) -> Instant | None:
    return None if retry_at is None else min(max(retry_at, now), now + MAX_WAIT_MS)


def _check_measures(op: StepDone | StepErrored, step: str) -> None:
    if not (0 <= op.started_at < 1 << 50 and 0 <= op.duration_ms < 1 << 50):
        raise Unacceptable(f"{step} cannot have started at {op.started_at} ms and taken {op.duration_ms} ms")


def _check_wait(op: Sleep | WaitForEvent | Invoke, step: str, now: Instant) -> None:
    length_ms = op.for_ms if op.until is None else max(0, op.until - now)
    if not 0 <= length_ms <= MAX_WAIT_MS or not 0 <= op.for_ms <= MAX_WAIT_MS:
        raise Unacceptable(
            f"{step} waits {length_ms} ms and may wait 0 to {MAX_WAIT_MS // 86_400_000} days; wait in several steps"
        )
