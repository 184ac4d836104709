"""What a worker's frames may contain: JSON text, inline, below the limits, and nothing of anybody else's.

A frame decodes into the model's own types, which can also express what no worker may say: a reference to a
stored value, an op that was never sent. Everything that passes here is canonical.

    not a frame of this protocol          Unacceptable   closes the connection
    a frame about a call, not acceptable  BadCall        fails the run of that call
    an op that is not acceptable          op.Unknown     fails the run of that call, with the step's name

A connection carries many runs, so what one of them says wrong is its own affair.
"""

from __future__ import annotations

from typing import TypeVar

from stepwell.model.event import MAX_NAME_BYTES
from stepwell.model.ids import Instant, JobId
from stepwell.model.op import Completed, Invoke, Op, Sleep, StepDone, StepErrored, StepPlanned, Unknown, WaitForEvent
from stepwell.model.payload import Payload
from stepwell.wire import worker as frames
from stepwell.wire.inngest.ops import MAX_OPS, MAX_SHOWN_LETTERS, MAX_STEP_OUTPUT_BYTES, MAX_WAIT_MS
from stepwell.wire.inngest.reply import MAX_BODY_BYTES
from stepwell.wire.inngest.text import read, shortened, size, write

_Struct = TypeVar("_Struct")

_ABOUT_CALLS = frozenset(
    one.__name__ for one in (frames.Report, frames.Suspended, frames.Returned, frames.Raised, frames.Declined)
)
_FOR_THE_EYE = frozenset(one.__name__ for one in (frames.Running, frames.Log))


class Unacceptable(ValueError):
    """A frame that the protocol does not allow; the connection is closed with this text."""


class BadCall(ValueError):
    """What a worker says about a call cannot be taken. The run of that call fails with this text.

    `call` is set where no frame could be read that tells it.
    """

    name = "InvalidReport"
    code = "invalid_report"

    def __init__(self, text: str, call: JobId | None = None) -> None:
        self.call = call
        super().__init__(text)


class TooManyOps(BadCall):
    """A report has more ops than one may have."""

    name = code = "InngestErrFunctionOverflowed"


class OutputTooLarge(BadCall):
    """A result above its limit."""

    name = "OutputTooLarge"
    code = "output_too_large"


class _BadOp(ValueError):
    """One op cannot be taken; becomes the reason of an `Unknown`."""


def read_frame(data: bytes) -> frames.FromWorker | None:
    """The frame in a message; None for one without consequences that cannot be read.

    Raises:
        Unacceptable: It is no frame of a worker.
        BadCall: It is one about a call, with members that are not what they must be; `call` says which call.
    """
    try:
        frame: frames.FromWorker = frames.decode_from_worker(data)
    except (ValueError, RecursionError) as err:
        name, call = frames.outline(data)
        if name in _FOR_THE_EYE:
            return None
        if name in _ABOUT_CALLS and call is not None:
            text = f"the worker's {name} cannot be read: {err}; is its SDK newer than this server?"
            raise BadCall(text, call) from err
        raise Unacceptable(f"a frame cannot be read: {err}") from err
    return frame


def checked_frame(frame: frames.FromWorker, now: Instant) -> frames.FromWorker:
    """The frame, its payloads canonical and its times within reason.

    Args:
        now: Milliseconds since 1970.

    Raises:
        BadCall: Too many ops, a result or an error that is not JSON text, or a result above its limit.
    """
    match frame:
        case frames.Report():
            return _with(frame, ops=checked_ops(frame.ops, now))
        case frames.Returned():
            return _with(frame, output=checked_text(frame.output, "the function's result", result=True))
        case frames.Raised():
            error = checked_text(frame.error, "the function's error")
            return _with(frame, error=error, retry_at=_retry_at(frame.retry_at, now))
        case frames.Log():
            return frame if _is_moment(frame.at, now) else _with(frame, at=now)
    return frame


def checked_ops(ops: tuple[Op, ...], now: Instant) -> tuple[Op, ...]:
    """The ops of a report, their payloads canonical. One that cannot be taken becomes `Unknown`, which says why.

    Raises:
        TooManyOps: More than `MAX_OPS`.
        OutputTooLarge: A step's result is above its limit.
    """
    if len(ops) > MAX_OPS:
        raise TooManyOps(
            f"a report has {len(ops)} ops and may have {MAX_OPS}; run fewer steps in parallel, for example in chunks"
        )
    return tuple(_checked_op(op, now) for op in ops)


def checked_text(payload: Payload, what: str, *, result: bool = False) -> bytes:
    """Canonical text of a payload that a worker sent.

    Args:
        result: It is what a function returned, and limited as such.

    Raises:
        BadCall: It is no text, or no JSON.
        OutputTooLarge: It is above the limit.
    """
    limit = MAX_BODY_BYTES if result else MAX_STEP_OUTPUT_BYTES
    if not isinstance(payload, bytes):
        raise BadCall(f"{what} must be JSON text, not a reference")
    try:
        text = write(read(payload))
    except (ValueError, RecursionError) as err:
        raise BadCall(f"{what} is {err}") from err
    if len(text) > limit:
        raise OutputTooLarge(
            f"{what} has {size(len(text))} and may have {size(limit)}; "
            "store the value elsewhere and return a reference to it"
        )
    return text


def _checked_op(op: Op, now: Instant) -> Op:
    if len(op.name) > MAX_SHOWN_LETTERS:
        op = _with(op, name=op.name[:MAX_SHOWN_LETTERS])
    try:
        return _checked(op, now)
    except OutputTooLarge:
        raise
    except (BadCall, _BadOp) as err:
        return Unknown(step=op.step, name=op.name, reason=str(err))


def _checked(op: Op, now: Instant) -> Op:
    step = f"step {shortened(op.name or op.step, 80)!r}"
    if len(op.step) > 255 or not 0 <= op.index < 1 << 31:
        raise _BadOp(f"{step} may have an id of 255 letters and an index of 31 bits; shorten it")
    match op:
        case StepDone():
            output = checked_text(op.output, f"the result of {step}")
            given, blocked = _input(op.input, step), op.blocked[:MAX_SHOWN_LETTERS]
            return _with(op, output=output, input=given, blocked=blocked, **_measures(op, now))
        case StepErrored():
            error = checked_text(op.error, f"the error of {step}")
            given, blocked = _input(op.input, step), op.blocked[:MAX_SHOWN_LETTERS]
            retry_at = _retry_at(op.retry_at, now)
            return _with(op, error=error, retry_at=retry_at, input=given, blocked=blocked, **_measures(op, now))
        case StepPlanned():
            return _with(op, input=_input(op.input, step))
        case Invoke():
            _check_wait(op, step)
            data = checked_text(op.data, f"the data of {step}")
            user = checked_text(op.user, f"the user of {step}")
            if data[:1] != b"{" or user[:1] != b"{":
                raise _BadOp(f"the data and the user of {step} must be JSON objects")
            return _with(op, data=data, user=user)
        case Completed():
            return _with(op, output=checked_text(op.output, f"the result of {step}", result=True))
        case WaitForEvent():
            if not 0 < len(op.event.encode()) <= MAX_NAME_BYTES:
                raise _BadOp(f"the name of the event that {step} waits for must have 1 to {MAX_NAME_BYTES} bytes")
            _check_wait(op, step)
        case Sleep():
            _check_wait(op, step)
    return op


def _with(value: _Struct, **changes: object) -> _Struct:
    """A copy with other fields; `value` is one of the frames or ops, which are structs."""
    fields: tuple[str, ...] = type(value).__struct_fields__  # type: ignore[attr-defined]
    return type(value)(**{name: getattr(value, name) for name in fields} | changes)


def _input(payload: Payload | None, step: str) -> bytes | None:
    return None if payload is None else checked_text(payload, f"the input of {step}")


def _retry_at(retry_at: Instant | None, now: Instant) -> Instant | None:
    return None if retry_at is None else min(max(retry_at, now), now + MAX_WAIT_MS)


def _measures(op: StepDone | StepErrored, now: Instant) -> dict[str, object]:
    """When the step ran and for how long; what cannot be is as good as not measured."""
    if _is_moment(op.started_at, now) and 0 <= op.duration_ms <= MAX_WAIT_MS:
        return {}
    return {"started_at": 0, "duration_ms": 0.0}


def _is_moment(at: Instant, now: Instant) -> bool:
    return 0 <= at <= now + MAX_WAIT_MS  # a worker's clock may be ahead of ours


def _check_wait(op: Sleep | WaitForEvent | Invoke, step: str) -> None:
    """A wait that is too long is the engine's to refuse."""
    if op.until is None and op.for_ms < 0:
        raise _BadOp(f"{step} waits {op.for_ms} ms; a wait cannot be shorter than nothing")
