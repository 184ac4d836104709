"""A call request: the body that asks an SDK to run a function, and back.

The body is put together from pieces that are canonical already (events, memos), with its keys in canonical
order, so the whole is canonical too and the bytes that are signed are the bytes that are sent. Above
`MAX_BODY_BYTES` the events and memos stay out and the SDK fetches them (`use_api`).

`ctx.fn_id` and `ctx.qi_id` come together or not at all: with them the SDK may report steps on the side while the
call is open (`checkpoint.py`), and the JS SDK does.

Protocol: sections 1.5, 4 and 5.4 of the Inngest wire protocol.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote_plus, urlsplit, urlunsplit

import msgspec

from stepwell.model.dispatch import Memo
from stepwell.model.event import DEV_ACCOUNT
from stepwell.model.ids import RunId, StepId
from stepwell.model.payload import NULL
from stepwell.wire import signature
from stepwell.wire.inngest.text import EMPTY_ARRAY, EMPTY_OBJECT, array, compose, order_of, read, write

MAX_BODY_BYTES = 4 * 1024 * 1024
"""A larger request is sent without events and memos (section 4.2)."""
MAX_STATE_BYTES = MAX_BODY_BYTES - 1024
"""A run whose memos are larger together is not even put into a body."""

DISCOVERY = "step"
"""The step parameter of a call that targets no step."""

UNKNOWN_VERSION = -1
"""The request version before the first answer; the JS SDK throws on 0 (trap 19)."""

INTERNAL_PARAMETERS = frozenset({"fnId", "stepId", "probe", "deployId"})
"""Query parameters of the protocol; the rest of a URL's query is the app's own and is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one request tells the SDK. `events` and the values of `memos` are canonical text.

    `use_api` asks the SDK to fetch memos and events; then `events` still holds the first event, and `memos`
    is empty whatever the run has. `version` is -1 before the SDK's first answer. `function` is the UUID of the
    function; without it nothing may be reported while the call is open. `generation` counts the dispatches of `job`.
    `ready` is the text of `memos` and of `stack`, where somebody keeps it.
    """

    run: RunId
    target: StepId | None = None
    attempt: int = 0
    max_attempts: int = 5
    events: tuple[bytes, ...] = ()
    memos: tuple[Memo, ...] = ()
    stack: tuple[StepId, ...] = ()
    disable_immediate_execution: bool = False
    version: int = UNKNOWN_VERSION
    request: str = ""
    function: str = ""
    job: str = ""
    generation: int = 0
    env: str = ""
    use_api: bool = False
    ready: Ready | None = None


class Ready:
    """The text of `memos` and `stack`, put together as the results come: a call of a thousand steps costs a join."""

    __slots__ = ("_members", "_order", "_stack", "size_bytes")

    def __init__(self) -> None:
        self._order: list[str] = []
        self._members: list[bytes] = []  # in that order, which is the canonical one
        self._stack: list[bytes] = []  # in the order in which the results came
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._stack)

    def add(self, memo: Memo) -> None:
        """One more result, of a step that has none yet."""
        order, name = order_of(memo.step), write(memo.step)
        place = bisect(self._order, order)
        member = b"".join((name, b":", *memo_pieces(memo)))
        self._order.insert(place, order)
        self._members.insert(place, member)
        self._stack.append(name)
        self.size_bytes += len(member) + 1

    def steps(self) -> bytes:
        return b"{" + b",".join(self._members) + b"}"

    def stack(self) -> bytes:
        return array(self._stack)


def build_body(call: Call, *, limit_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The canonical body of a call; above `limit_bytes` it is the short form with `use_api`."""
    assert call.events, "a run has at least one event"
    if call.use_api:
        return _body(call, EMPTY_ARRAY, EMPTY_OBJECT, use_api=True)
    ready = call.ready
    memo_bytes = ready.size_bytes if ready is not None else sum(len(memo.value) + 64 for memo in call.memos)
    if memo_bytes + sum(map(len, call.events)) <= limit_bytes:
        steps = ready.steps() if ready is not None else steps_object(call.memos)
        body = _body(call, array(call.events), steps, use_api=False)
        if len(body) <= limit_bytes:
            return body
    return _body(call, EMPTY_ARRAY, EMPTY_OBJECT, use_api=True)


def _body(call: Call, events: bytes, steps: bytes, *, use_api: bool) -> bytes:
    # Every literal below is in canonical order; a new key has to keep it. `write` sees small values only.
    flag = b"true" if use_api else b"false"
    target, job = write(call.target or DISCOVERY), write(call.job)
    reports = bool(call.function and call.job)
    stack = call.ready.stack() if call.ready is not None else array(map(write, call.stack))
    return b"".join(
        (
            b'{"ctx":{"attempt":%d' % call.attempt,
            b',"disable_immediate_execution":%b' % (b"true" if call.disable_immediate_execution else b"false"),
            b',"env":%b' % write(call.env),
            b',"fn_id":%b' % write(call.function) if reports else b"",
            b',"generation_id":%d' % call.generation if reports else b"",
            b',"job_id":%b' % job if call.job else b"",
            b',"max_attempts":%d' % call.max_attempts,
            b',"qi_id":%b' % job if reports else b"",
            b',"request_id":%b' % write(call.request) if call.request else b"",
            b',"run_id":%b' % write(call.run),
            b',"stack":{"current":%d,"stack":%b}' % (len(call.stack), stack),
            b',"step_id":%b,"use_api":%b}' % (target, flag),
            b',"defers":{},"event":',
            call.events[0],
            b',"events":',
            events,
            b',"steps":',
            steps,
            b',"use_api":%b,"version":%d}' % (flag, call.version if call.version > 0 else UNKNOWN_VERSION),
        )
    )


def steps_object(memos: Iterable[Memo]) -> bytes:
    """The canonical object of step ids and memos, as calls and `GET /v0/runs/{id}/actions` carry it."""
    return compose({memo.step: memo_text(memo) for memo in memos})


def memo_text(memo: Memo) -> bytes:
    """The wire form of a recorded result (section 5.4).

    Raises:
        ValueError: A shape that is none of `data`, `error`, `bare` and `input`.
    """
    return b"".join(memo_pieces(memo))


def memo_pieces(memo: Memo) -> tuple[bytes, bytes, bytes]:
    """The same, with the value by itself in the middle, not copied."""
    value = memo.value or NULL
    match memo.shape:
        case "data" | "error" | "input":
            return b'{"%b":' % memo.shape.encode(), value, b"}"
        case "bare":
            return b"", value, b""
    raise ValueError(f"a memo has the shape data, error, bare or input, not {memo.shape!r}")


def read_memo(step: StepId, text: bytes) -> Memo:
    """Read a memo as the SDKs do: an object with just `data`, `error` or `input` is that, all else is the value itself.

    `error` must hold an object and `input` an array or object; otherwise the whole is a value.
    """
    if text[:1] == b"{":
        members = _members.decode(text)
        if len(members) == 1:
            ((shape, value),) = members.items()
            if shape == "data" or (shape in _OPENS and bytes(value)[:1] in _OPENS[shape]):
                return Memo(step, shape, bytes(value))
    return Memo(step, "bare", text)


_OPENS = {"error": (b"{",), "input": (b"[", b"{")}
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def headers(call: Call, body: bytes, *, key: str | None, now_s: int, server_kind: str) -> dict[str, str]:
    """The headers of a call request (section 1.5).

    Args:
        body: The very bytes that are sent.
        key: The signing key; None sends no signature, which SDKs accept in dev mode.
        now_s: Seconds since 1970.
        server_kind: `dev` or `cloud`; an SDK in the other mode refuses.
    """
    sent = {
        "Content-Type": "application/json",
        "X-Inngest-Server-Kind": server_kind,
        "X-Run-ID": call.run,
        "X-Inngest-Step-ID": call.target or DISCOVERY,
        "x-inngest-req-version": str(call.version if call.version > 0 else UNKNOWN_VERSION),
        "account-id": DEV_ACCOUNT,
    }
    if call.request:
        sent["x-request-id"] = call.request
    if call.job:
        sent["x-inngest-job-id"] = call.job
    if call.generation > 0:
        sent["x-inngest-generation-id"] = str(call.generation)
    if key:
        sent[signature.HEADER] = signature.sign(body, key, now_s)
    return sent


def call_url(url: str, slug: str, target: StepId | None) -> str:
    """Where a call goes: the function's URL with `fnId` and `stepId`.

    The slug is percent-encoded once, whatever letters it has, and the app's own query parameters are kept as
    they were written (trap 7).
    """
    parts = urlsplit(url)
    kept = [pair for pair in parts.query.split("&") if pair and parameter_name(pair) not in INTERNAL_PARAMETERS]
    kept += [f"fnId={quote(slug, safe='')}", f"stepId={quote(target or DISCOVERY, safe='')}"]
    return urlunsplit((parts.scheme, parts.netloc, parts.path or "/", "&".join(kept), ""))


def parameter_name(pair: str) -> str:
    """The decoded name in one `name=value` of a query."""
    return unquote_plus(pair.partition("=")[0])


# The other direction, for our own SDK's serve


class _Stack(msgspec.Struct):
    stack: list[StepId] | None = None
    current: int = 0


class _Context(msgspec.Struct):
    run_id: RunId
    attempt: int = 0
    max_attempts: int | None = None
    disable_immediate_execution: bool = False
    env: str | None = ""
    stack: _Stack = msgspec.field(default_factory=_Stack)
    request_id: str | None = ""
    fn_id: str | None = ""
    qi_id: str | None = ""
    generation_id: int | None = 0
    job_id: str | None = ""
    step_id: str | None = None
    use_api: bool = False


class _Request(msgspec.Struct):
    ctx: _Context
    event: msgspec.Raw
    events: list[msgspec.Raw] = []
    steps: dict[StepId, msgspec.Raw] = {}
    use_api: bool = False
    version: int = UNKNOWN_VERSION


class InvalidCall(ValueError):
    """A request that is not a call of this protocol; the message names what is wrong. HTTP status 400."""


_request = msgspec.json.Decoder(_Request)


def read_call(body: bytes, *, target: StepId | None = None) -> Call:
    """Read a call request. Values stay the text they arrived as.

    Memos come back in the order in which the steps finished; those that are not on the stack (`input`) follow.

    Args:
        target: The step asked for, as `target_of` reads it from the URL.

    Raises:
        InvalidCall: Not JSON, or without a field that a call must have.
    """
    try:
        request = _request.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise InvalidCall(f"the body is not a call of a function: {err}") from err
    context = request.ctx
    stack = tuple(context.stack.stack or ())
    return Call(
        run=context.run_id,
        target=target,
        attempt=context.attempt,
        max_attempts=context.max_attempts or 0,
        events=tuple(map(bytes, request.events)) or (bytes(request.event),),
        memos=read_steps(request.steps, stack),
        stack=stack,
        disable_immediate_execution=context.disable_immediate_execution,
        version=request.version,
        request=context.request_id or "",
        function=(context.qi_id and context.fn_id) or "",
        job=context.qi_id or context.job_id or "",
        generation=context.generation_id or 0,
        env=context.env or "",
        use_api=request.use_api or context.use_api,
    )


def read_steps(steps: Mapping[StepId, msgspec.Raw | bytes], stack: Sequence[StepId]) -> tuple[Memo, ...]:
    """The memos of a `steps` object, in the order of the stack."""
    known = set(stack)
    ordered = [*(step for step in stack if step in steps), *(step for step in steps if step not in known)]
    return tuple(read_memo(step, bytes(steps[step])) for step in dict.fromkeys(ordered))


def read_actions(body: bytes) -> dict[StepId, bytes]:
    """The answer of `GET /v0/runs/{id}/actions`: memo texts by step. Raises `InvalidCall`."""
    try:
        return {StepId(step): bytes(text) for step, text in _members.decode(body).items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise InvalidCall(f"the run's recorded steps cannot be read: {err}") from err


def read_batch(body: bytes) -> tuple[bytes, ...]:
    """The answer of `GET /v0/runs/{id}/batch`: event texts. Raises `InvalidCall`."""
    try:
        return tuple(map(bytes, _raws.decode(body)))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise InvalidCall(f"the run's events cannot be read: {err}") from err


_raws = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Target:
    """What the query of a request to an app asks for. `probe` is `trust` for a trust probe (section 3.5)."""

    function: str
    step: StepId | None = None
    probe: str = ""
    rest: Mapping[str, str] = field(default_factory=dict)


def target_of(query: str) -> Target:
    """Read `fnId`, `stepId` and `probe` from the query of a request, raw and without its `?`.

    Raises:
        InvalidCall: `fnId` is missing.
    """
    found: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name:
            found.setdefault(unquote_plus(name), unquote_plus(value))
    function = found.pop("fnId", "")
    if not function:
        raise InvalidCall("the query parameter `fnId` is missing; it names the function to run")
    step = found.pop("stepId", DISCOVERY)
    probe = found.pop("probe", "")
    return Target(function, None if step in {"", DISCOVERY} else StepId(step), probe, found)


def event_of(text: bytes) -> dict[str, Any]:
    """An event of a call, decoded. Raises `InvalidCall` if it is not an object."""
    try:
        event = read(text)
    except ValueError as err:
        raise InvalidCall(f"an event of the call cannot be read: {err}") from err
    if not isinstance(event, dict):
        raise InvalidCall("an event of the call is not an object")
    return event
