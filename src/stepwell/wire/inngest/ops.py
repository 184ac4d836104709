"""Opcodes: what an official SDK reports about steps, as JSON and as `model.op`.

Reading forgives what SDKs differ in (the spelling of an op, a duration in `name` instead of `opts`) and
nothing else: an op that this server does not know, or cannot read, becomes `Unknown` with a reason that names
it, and the engine fails the run with that reason. An op that says nothing (`None`) disappears.

Protocol: sections 5.2, 5.3 and 5.5 of the Inngest wire protocol.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from stepwell.model.duration import format_duration, parse_duration, parse_time
from stepwell.model.event import MAX_NAME_BYTES
from stepwell.model.ids import Instant, StepId
from stepwell.model.message import LogLine
from stepwell.model.offload import FETCH, INFER
from stepwell.model.op import (
    Completed,
    Discover,
    Invoke,
    Offload,
    Op,
    Sleep,
    StepDone,
    StepErrored,
    StepPlanned,
    Unknown,
    WaitForEvent,
)
from stepwell.model.payload import NULL, Payload, decode, first_rounded, roundings
from stepwell.wire.inngest.text import EMPTY_OBJECT, array, compose, shortened, size, write
from stepwell.wire.offload import fetch_request, infer_request

MAX_OPS = 1000
"""Ops in one response (section 5.3)."""
MAX_STEP_OUTPUT_BYTES = 4 * 1024 * 1024
MAX_STEP_INPUT_BYTES = 4 * 1024 * 1024
MAX_SHOWN_LETTERS = 1000
"""Of the name of a step, which is for the eye; what is longer is cut."""
MAX_ODD = 20
"""Unknown members of one response that are told."""
MAX_ODD_LETTERS = 200
"""Of the value of an unknown member, as it is told."""
MAX_WAIT_MS = 366 * 86_400_000
"""The longest sleep or wait (section 13)."""
DEFAULT_INVOKE_MS = 365 * 86_400_000

_MEMBERS = frozenset(
    "id op name displayName data error opts userland timing metadata "
    # What the JavaScript SDK keeps about a step and sends along when it fails.
    "mode rawArgs hashedId input promise fulfilled hasStepState handled middleware memoizationDeferred "
    "transformedResultPromise".split()
)
_OPTS = frozenset(
    "type input parallelMode stackLine duration event timeout if function_id payload "
    "url method headers body auth_key format signal conflict fn_slug meta target_hashed_id "
    "body_base64 exact timeout_ms max_redirects retry_statuses credential auto_tool_call input_blocked".split()
)
_PAYLOAD = frozenset("data user v name id ts".split())
"""Of an invocation; the last three mean nothing there."""

_LATEST_MS = 1 << 50  # far in the future, and small enough for every store
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHORTEST_DATE = 10  # characters; a shorter text is always a duration


class InvalidOps(ValueError):
    """The text is not an opcode or a list of them; the message says what it is instead."""


class TooManyOps(InvalidOps):
    """More ops in one response than `MAX_OPS`. The run fails, it is not tried again."""

    code = "InngestErrFunctionOverflowed"


class _Unreadable(ValueError):
    """One op cannot be read; becomes the reason of an `Unknown`."""


@dataclass(frozen=True, slots=True)
class _Context:
    """What belongs to the response as a whole: the time, and what its headers say about retries."""

    now: Instant
    retry: bool
    retry_at: Instant | None


_Object: TypeAlias = dict[str, Any]
_Reader: TypeAlias = Callable[[_Object, _Context], Op | None]


def read_ops(value: object, *, now: Instant, retry: bool = True, retry_at: Instant | None = None) -> tuple[Op, ...]:
    """Read the body of a 206: one opcode object or an array of them, already decoded from JSON.

    Args:
        now: Milliseconds since 1970, to judge dates.
        retry: False if the response's headers forbid another attempt.
        retry_at: When the next attempt is due according to the headers.

    Raises:
        InvalidOps: Neither an object nor an array of objects.
        TooManyOps: More than `MAX_OPS`.
    """
    items = value if isinstance(value, list) else [value]
    if len(items) > MAX_OPS:
        raise TooManyOps(
            f"the response has {len(items)} ops and may have {MAX_OPS}; run fewer steps in parallel, "
            "for example in chunks or in functions of their own"
        )
    context = _Context(now, retry, retry_at)
    ops: list[Op] = []
    for position, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidOps(f"op {position} of the response is {_kind_of(item)} where an object with `op` belongs")
        op = _read_op(item, context)
        if op is not None:
            ops.append(op)
    return tuple(ops)


def odd_members(value: object, *, now: Instant) -> tuple[LogLine, ...]:
    """What the body of a 206 says that has no effect, each member once: those of ops that this server does not know,
    and metadata, which it does not keep yet. `now` is the time of the lines."""
    found: dict[str, LogLine] = {}
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            continue
        opts = item.get("opts")
        if not isinstance(opts, dict):
            opts = {}
        payload = opts.get("payload")
        if not isinstance(payload, dict):
            payload = {}
        if item.keys() <= _MEMBERS and opts.keys() <= _OPTS and payload.keys() <= _PAYLOAD and not item.get("metadata"):
            continue
        odd = [(member, given) for member, given in item.items() if member not in _MEMBERS]
        odd += [(f"opts.{member}", given) for member, given in opts.items() if member not in _OPTS]
        odd += [(f"opts.payload.{member}", given) for member, given in payload.items() if member not in _PAYLOAD]
        if item.get("metadata"):
            odd.append(("metadata", item["metadata"]))
        for member, given in odd:
            about = f"op.{shortened(member, 60)}"
            if about not in found and len(found) < MAX_ODD:
                found[about] = _odd(item, shortened(member, 60), given, about, now)
    return tuple(found.values())


def rounded_numbers(value: object, *, now: Instant, since: int) -> tuple[LogLine, ...]:
    """Which steps in the body of a 206 have numbers that were changed as they were recorded, each step once.

    Args:
        now: The time of the lines.
        since: What `roundings` said in this thread before the body was read.
    """
    if roundings() == since:
        return ()
    found: dict[str, LogLine] = {}
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            continue
        changed = first_rounded([item.get("data"), item.get("error"), item.get("opts")])
        step = _text(item, "id")[:255]
        if changed is not None and step not in found and len(found) < MAX_ODD:
            what = f"the op {_text(item, 'op')[:60]} of step {shortened(_display_name(item) or step, 80)!r}"
            text = f"{what} has {rounding_text(*changed)}"
            found[step] = LogLine(now, "warning", text, StepId(step) if step else None, f"rounded.{step}")
    return tuple(found.values())


def rounding_text(given: int, became: int) -> str:
    """What became of an integer that was rounded, and what to do."""
    shown = shortened(str(given), 60)
    return (
        f"the integer {shown}, which became {shortened(str(became), 60)}: JSON that is signed has numbers of "
        "64-bit floating point, exact up to 2**53; give it as text"
    )


def _odd(item: _Object, member: str, given: object, about: str, now: Instant) -> LogLine:
    step = _text(item, "id")[:255] or None
    try:
        shown = shortened(write(given).decode(), MAX_ODD_LETTERS)
    except ValueError:
        shown = "something that has no JSON form"
    if _text(item, "op").lower().endswith("gateway"):
        shown = "(not shown, since it may be a credential)"
    known = member in {"metadata", "opts.payload.meta"}
    why = "is not passed on by this server yet" if known else "is unknown to this server and has no effect"
    text = f"the field {member!r} of the op {_text(item, 'op')[:60]} {why}: {shown}"
    return LogLine(now, "warning", text, StepId(step) if step else None, about)


def _read_op(item: _Object, context: _Context) -> Op | None:
    code = item.get("op")
    if not isinstance(code, str) or not code:
        return _unknown(item, "an op without the field `op`; update the SDK")
    reader = _READERS.get(code.lower())
    if reader is None:
        known = _LATER.get(code.lower())
        if known is not None:
            return _unknown(item, f"the op {known} is not supported by this server yet")
        return _unknown(item, f"the op {shortened(code, 60)!r} is not known to this server; update it, or pin the SDK")
    try:
        return reader(item, context)
    except ValueError as err:
        return _unknown(item, f"the op {code} cannot be read: {err}")


def _unknown(item: _Object, reason: str) -> Unknown:
    name = _text(item, "displayName") or _text(item, "name") or _text(item, "id")
    where = f"step {shortened(name, 80)!r}: " if name else ""
    return Unknown(step=StepId(_text(item, "id")), name=_display_name(item), index=_index(item), reason=where + reason)


# Reading, one function per op


def _none(item: _Object, context: _Context) -> None:
    return None


def _step(item: _Object, context: _Context) -> Op:
    return _done(item, bare=True)


def _step_run(item: _Object, context: _Context) -> Op:
    return _done(item, bare=False)


def _done(item: _Object, *, bare: bool) -> Op:
    step = _step_id(item)
    started_at, duration_ms = _timing(item)
    output = write(item.get("data"))
    if len(output) > MAX_STEP_OUTPUT_BYTES:
        return StepErrored(
            step=step,
            name=_display_name(item),
            index=_index(item),
            kind=_kind(item),
            error=step_too_large(_display_name(item), len(output)),
            retry=False,
            started_at=started_at,
            duration_ms=duration_ms,
            race=_race(item),
        )
    return StepDone(
        step=step,
        name=_display_name(item),
        index=_index(item),
        output=output,
        kind=_kind(item),
        bare=bare,
        input=_input(item),
        started_at=started_at,
        duration_ms=duration_ms,
        race=_race(item),
        blocked=_text(_opts(item), "input_blocked")[:MAX_SHOWN_LETTERS],
    )


def _step_error(item: _Object, context: _Context) -> Op:
    return _errored(item, context, final=False)


def _step_failed(item: _Object, context: _Context) -> Op:
    return _errored(item, context, final=True)


def _errored(item: _Object, context: _Context, *, final: bool) -> Op:
    error = item.get("error")
    if error is None:
        error = {"name": "Error", "message": "the step failed without saying why"}
    elif not isinstance(error, dict):
        error = {"name": "Error", "message": error if isinstance(error, str) else write(error).decode()}
    text = write(error)
    if len(text) > MAX_STEP_OUTPUT_BYTES:
        text = write({"name": str(error.get("name") or "Error"), "message": shortened(str(error.get("message")), 4000)})
    started_at, duration_ms = _timing(item)
    retry = context.retry and not final and error.get("noRetry") is not True
    return StepErrored(
        step=_step_id(item),
        name=_display_name(item),
        index=_index(item),
        error=text,
        kind=_kind(item),
        retry=retry,
        retry_at=context.retry_at if retry else None,
        started_at=started_at,
        duration_ms=duration_ms,
        race=_race(item),
        input=_input(item),
        blocked=_text(_opts(item), "input_blocked")[:MAX_SHOWN_LETTERS],
    )


def _planned(item: _Object, context: _Context) -> Op:
    return StepPlanned(
        step=_step_id(item),
        name=_display_name(item),
        index=_index(item),
        kind=_kind(item),
        input=_input(item),
        race=_race(item),
    )


def _sleep(item: _Object, context: _Context) -> Op:
    written = _opts(item).get("duration")
    if written is None:
        written = item.get("name")
    if not isinstance(written, str) or not written.strip():
        raise _Unreadable("`opts.duration` or `name` must say how long, such as '30s' or a date")
    for_ms, until = _deadline(written, context.now, "sleep")
    return Sleep(
        step=_step_id(item),
        name=_display_name(item, own_name=False),
        index=_index(item),
        for_ms=for_ms,
        until=until,
        race=_race(item),
    )


def _wait_for_event(item: _Object, context: _Context) -> Op:
    opts = _opts(item)
    event = _text(opts, "event") or _text(item, "name")
    if not event:
        raise _Unreadable("`opts.event` or `name` must name the event to wait for")
    if not _text(opts, "event") and opts.get("timeout") is None:
        # SDKs that say the event in `name` say how long, too; else `name` is more likely that of the step.
        raise _Unreadable("`opts.event` must name the event to wait for, or `name` with `opts.timeout` beside it")
    if len(event.encode()) > MAX_NAME_BYTES:
        raise _Unreadable(
            f"the name of the event to wait for may have {MAX_NAME_BYTES} bytes; no event has a longer one"
        )
    for_ms, until = _timeout(opts, context.now, default_ms=0)
    return WaitForEvent(
        step=_step_id(item),
        name=_display_name(item, own_name=False),
        index=_index(item),
        event=event,
        expression=_text(opts, "if") or None,
        for_ms=for_ms,
        until=until,
        race=_race(item),
    )


def _invoke(item: _Object, context: _Context) -> Op:
    opts = _opts(item)
    function = _text(opts, "function_id")
    if not function:
        raise _Unreadable("`opts.function_id` must name the function to invoke")
    payload = opts.get("payload")
    if payload is None:
        payload = {}
    if not isinstance(payload, dict):
        raise _Unreadable(f"`opts.payload` is {_kind_of(payload)} and must be an object")
    version = payload.get("v")
    if version is not None and not isinstance(version, str):
        raise _Unreadable(f"`opts.payload.v` is {_kind_of(version)} and must be text")
    for_ms, until = _timeout(opts, context.now, default_ms=DEFAULT_INVOKE_MS)
    return Invoke(
        step=_step_id(item),
        name=_display_name(item),
        index=_index(item),
        function=function,
        data=_payload_object(payload, "data"),
        user=_payload_object(payload, "user"),
        v=version or None,
        for_ms=for_ms,
        until=until,
        race=_race(item),
    )


def _gateway(item: _Object, context: _Context) -> Op:
    opts = _opts(item)
    request, sealed = fetch_request(
        _url(opts),
        method=_text(opts, "method") or "POST",
        headers=_headers(opts),
        body=_body(opts),
        exact=opts.get("exact") is True,
        timeout_ms=_count(opts, "timeout_ms"),
        max_redirects=_count(opts, "max_redirects"),
        retry_statuses=[one for one in opts.get("retry_statuses") or () if isinstance(one, int)],
        echo=_text(opts, "echo"),
        credential=_text(opts, "credential"),
    )
    return Offload(
        step=_step_id(item),
        name=_display_name(item),
        index=_index(item),
        request=request,
        kind=FETCH,
        sealed=sealed,
        race=_race(item),
    )


def _ai_gateway(item: _Object, context: _Context) -> Op:
    opts = _opts(item)
    body = opts.get("body")
    if not isinstance(body, dict):
        raise _Unreadable(f"`opts.body` is {_kind_of(body)} and must be the object that the provider expects")
    request, sealed = infer_request(
        _url(opts),
        format=_text(opts, "format"),
        headers=_headers(opts),
        body=body,
        auth_key=_text(opts, "auth_key"),
        exact=opts.get("exact") is True,
        timeout_ms=_count(opts, "timeout_ms"),
        credential=_text(opts, "credential"),
    )
    return Offload(
        step=_step_id(item),
        name=_display_name(item),
        index=_index(item),
        request=request,
        kind=INFER,
        sealed=sealed,
        race=_race(item),
    )


def _discover(item: _Object, context: _Context) -> Op:
    return Discover(step=StepId(_text(item, "id")), name=_display_name(item), index=_index(item))


def _run_complete(item: _Object, context: _Context) -> Op:
    return Completed(
        step=StepId(_text(item, "id")), name=_display_name(item), index=_index(item), output=write(item.get("data"))
    )


_READERS: dict[str, _Reader] = {
    "none": _none,
    "step": _step,
    "steprun": _step_run,
    "steperror": _step_error,
    "stepfailed": _step_failed,
    "stepplanned": _planned,
    "sleep": _sleep,
    "waitforevent": _wait_for_event,
    "invokefunction": _invoke,
    "gateway": _gateway,
    "aigateway": _ai_gateway,
    "discoveryrequest": _discover,
    "runcomplete": _run_complete,
}

_LATER = {name.lower(): name for name in ("WaitForSignal", "SyncRunComplete", "DeferAdd", "DeferAbort")}


# The fields that ops share


def _step_id(item: _Object) -> StepId:
    step = item.get("id")
    if not isinstance(step, str) or not step:
        raise _Unreadable("`id` must be the hashed id of the step")
    if len(step) > 255:
        raise _Unreadable(f"`id` has {len(step)} characters and may have 255; it is a hash of the step's id")
    return StepId(step)


def _display_name(item: _Object, *, own_name: bool = True) -> str:
    """The id the user wrote. `name` is a duration or an event in some ops, and then not it."""
    userland = item.get("userland")
    found = _text(item, "displayName") or (_text(userland, "id") if isinstance(userland, dict) else "")
    return (found or (_text(item, "name") if own_name else ""))[:MAX_SHOWN_LETTERS]


def _index(item: _Object) -> int:
    userland = item.get("userland")
    index = userland.get("index") if isinstance(userland, dict) else None
    return index if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < 1 << 31 else 0


def _opts(item: _Object) -> _Object:
    opts = item.get("opts")
    return opts if isinstance(opts, dict) else {}


def _kind(item: _Object) -> str:
    return _text(_opts(item), "type")[:MAX_SHOWN_LETTERS] or "step.run"


def _race(item: _Object) -> bool:
    return _opts(item).get("parallelMode") == "race"


def _input(item: _Object) -> Payload | None:
    given = _opts(item).get("input")
    if given is None:
        return None
    text = write(given)
    if len(text) > MAX_STEP_INPUT_BYTES:
        raise _Unreadable(
            f"`opts.input` has {size(len(text))} and may have {size(MAX_STEP_INPUT_BYTES)}; "
            "pass a reference to the data instead of the data"
        )
    return text


def _timing(item: _Object) -> tuple[Instant, float]:
    timing = item.get("timing")
    if not isinstance(timing, dict):
        return 0, 0.0
    start, duration = timing.get("a"), timing.get("b")
    if not isinstance(start, int | float) or not isinstance(duration, int | float):
        return 0, 0.0
    # Nanoseconds since 1970 do not fit a double, so a signer may have rounded them by some hundred.
    started_at, duration_ms = int(start + 500_000) // 1_000_000, duration / 1_000_000
    if not (0 <= started_at <= _LATEST_MS and 0 <= duration_ms <= _LATEST_MS):
        return 0, 0.0
    return started_at, duration_ms


def _timeout(opts: _Object, now: Instant, *, default_ms: int) -> tuple[int, Instant | None]:
    written = opts.get("timeout")
    if written is None:
        return default_ms, None
    if not isinstance(written, str):
        raise _Unreadable(f"`opts.timeout` is {_kind_of(written)} and must be text, such as '1h'")
    if not written.strip():
        return 0, None  # times out at once
    return _deadline(written, now, "timeout")


def _deadline(written: str, now: Instant, what: str) -> tuple[int, Instant | None]:
    """The duration in milliseconds, or the moment, that a text means; what lies in the past is due at once."""
    if len(written) >= _SHORTEST_DATE:
        moment = parse_time(written)
        if moment is not None:
            until = (moment - _EPOCH) // timedelta(milliseconds=1)
            _check_length(until - now, written, what)
            return 0, until
    for_ms = max(0, -(parse_duration(written) // timedelta(milliseconds=-1)))
    _check_length(for_ms, written, what)
    return for_ms, None


def _check_length(length_ms: int, written: str, what: str) -> None:
    if length_ms > MAX_WAIT_MS:
        raise _Unreadable(
            f"InngestErrTimeoutTooLong: the {what} {shortened(written, 60)!r} is longer than "
            f"{MAX_WAIT_MS // 86_400_000} days; wait in several steps"
        )


def _payload_object(payload: _Object, name: str) -> bytes:
    value = payload.get(name)
    if value is None:
        return EMPTY_OBJECT
    if not isinstance(value, dict):
        raise _Unreadable(f"`opts.payload.{name}` is {_kind_of(value)} and must be an object")
    return write(value)


def _url(opts: _Object) -> str:
    url = opts.get("url")
    if not isinstance(url, str) or not url:
        raise _Unreadable("`opts.url` must be the address to request")
    return url


def _body(opts: _Object) -> bytes | None:
    """Of a request: text, or in the form of our own SDK any bytes."""
    if "body_base64" in opts:
        return b64decode(_text(opts, "body_base64"), validate=True)
    body = opts.get("body")
    if body is not None and not isinstance(body, str):
        raise _Unreadable(f"`opts.body` is {_kind_of(body)} and must be text; encode it before the request is made")
    return None if body is None else body.encode()


def _count(opts: _Object, name: str) -> int | None:
    value = opts.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise _Unreadable(f"`opts.{name}` is {_kind_of(value)} and must be a whole number")
    return value


def _headers(opts: _Object) -> dict[str, str]:
    headers = opts.get("headers")
    if headers is None:
        return {}
    if not isinstance(headers, dict) or not all(isinstance(value, str | int) for value in headers.values()):
        raise _Unreadable("`opts.headers` must be an object of texts")
    return {name: str(value) for name, value in headers.items()}


def _text(item: _Object, name: str) -> str:
    value = item.get(name)
    return value if isinstance(value, str) else ""


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    for kind, name in ((str, "text"), (int, "a number"), (float, "a number"), (list, "an array"), (dict, "an object")):
        if isinstance(value, kind):
            return name
    return f"a {type(value).__name__}"


def step_too_large(name: str, size_bytes: int) -> bytes:
    """The error of a step whose result is above `MAX_STEP_OUTPUT_BYTES`."""
    return write(
        {
            "name": "StepOutputTooLarge",
            "message": f"step {name!r} returned {size(size_bytes)} and a step may return "
            f"{size(MAX_STEP_OUTPUT_BYTES)}; store the value elsewhere and return a reference to it",
        }
    )


# Writing, as an official SDK would


def write_ops(ops: Iterable[Op]) -> bytes:
    """The canonical body of a 206 that reports `ops`; what `read_ops` reads back.

    Their payloads must be canonical text. `retry_at` has no place in an op: it travels in the response's headers.

    Raises:
        ValueError: An `Unknown`, which cannot be sent, or a payload that is a reference and not text.
    """
    return array(_write_op(op) for op in ops)


def _write_op(op: Op) -> bytes:
    members: dict[str, bytes] = {"id": write(op.step)}
    if op.name:
        members["displayName"] = write(op.name)
        members["userland"] = compose({"id": write(op.name), "index": write(op.index)})
    elif op.index:
        members["userland"] = compose({"index": write(op.index)})
    opts: dict[str, bytes] = {}
    match op:
        case StepDone():
            members["op"] = b'"Step"' if op.bare else b'"StepRun"'
            members["data"] = _inline(op.output)
            opts |= {"type": write(op.kind), **_written_input(op)}
            members.update(_written_timing(op.started_at, op.duration_ms))
        case StepErrored():
            members["op"] = b'"StepError"' if op.retry else b'"StepFailed"'
            members["error"] = _inline(op.error)
            opts |= {"type": write(op.kind), **_written_input(op)}
            members.update(_written_timing(op.started_at, op.duration_ms))
        case StepPlanned():
            members["op"] = b'"StepPlanned"'
            opts["type"] = write(op.kind)
            if op.input is not None:
                opts["input"] = _inline(op.input)
        case Sleep():
            members["op"] = b'"Sleep"'
            members["name"] = opts["duration"] = write(_written_deadline(op.for_ms, op.until))
        case WaitForEvent():
            members["op"] = b'"WaitForEvent"'
            members["name"] = opts["event"] = write(op.event)
            opts["timeout"] = write(_written_deadline(op.for_ms, op.until))
            if op.expression is not None:
                opts["if"] = write(op.expression)
        case Invoke():
            members["op"] = b'"InvokeFunction"'
            opts["function_id"] = write(op.function)
            payload = {"data": _inline(op.data), "user": _inline(op.user)}
            if op.v is not None:
                payload["v"] = write(op.v)
            opts["payload"] = compose(payload)
            opts["timeout"] = write(_written_deadline(op.for_ms, op.until))
        case Offload():
            members["op"] = b'"Gateway"' if op.kind == FETCH else b'"AIGateway"'
            opts.update(_written_request(op))
        case Discover():
            members["op"] = b'"DiscoveryRequest"'
        case Completed():
            members["op"] = b'"RunComplete"'
            members["data"] = _inline(op.output)
        case Unknown():
            raise ValueError(f"an unknown op cannot be sent: {op.reason}")
    if getattr(op, "race", False):
        opts["parallelMode"] = b'"race"'
    if opts:
        members["opts"] = compose(opts)
    return compose(members)


def _written_input(op: StepDone | StepErrored) -> dict[str, bytes]:
    """The arguments of a step, or why they are not there."""
    if op.input is not None:
        return {"input": _inline(op.input)}
    return {"input_blocked": write(op.blocked)} if op.blocked else {}


def _written_request(op: Offload) -> dict[str, bytes]:
    """The options of a request, with its credentials: this is the one way that they have to travel."""
    members = decode(_inline(op.request))
    if op.sealed is not None:
        members |= {"url": op.sealed.url, "headers": dict(op.sealed.headers)}
        if op.sealed.auth_key:
            members["auth_key"] = op.sealed.auth_key
    return {name: write(value) for name, value in members.items()} | {"type": write(op.kind)}


def _inline(payload: Payload) -> bytes:
    if not isinstance(payload, bytes):
        raise ValueError("a payload must be text before it is sent; load the blob first")
    return payload or NULL


def _written_timing(started_at: Instant, duration_ms: float) -> dict[str, bytes]:
    if not started_at:
        return {}
    return {"timing": compose({"a": write(started_at * 1_000_000), "b": write(round(duration_ms * 1_000_000))})}


def _written_deadline(for_ms: int, until: Instant | None) -> str:
    if until is None:
        return format_duration(timedelta(milliseconds=for_ms))
    return (_EPOCH + timedelta(milliseconds=until)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
