"""The steps that a function calls, and `@step`.

Each method only says what is asked for (`request.py`); what happens then is the execution's. The async and
the sync form have the same names and arguments.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import msgspec

from stepwell.model.duration import parse_time
from stepwell.model.ids import derived_uuid
from stepwell.model.op import Invoke, Sleep, WaitForEvent
from stepwell.model.payload import canonical
from stepwell.sdk.ai import Model, Reply, infer_step
from stepwell.sdk.errors import DefinitionError, EventNotValid, FunctionError, SyncStepInAsync
from stepwell.sdk.event import Event, EventType, read_event
from stepwell.sdk.execution import Execution, in_function
from stepwell.sdk.fetch import RETRIED_STATUSES, Headers, Seconds, fetch_step
from stepwell.sdk.options import Duration, condition_of, duration, milliseconds
from stepwell.sdk.outcome import milliseconds as instant
from stepwell.sdk.request import Body, Request, run_request
from stepwell.sdk.types import GIVEN, decode_result, encode_result, type_name
from stepwell.wire.inngest.ops import MAX_WAIT_MS

if TYPE_CHECKING:
    import httpx2
    from typing_extensions import TypeForm

    from stepwell.sdk.function import Function

DEFAULT_INVOKE_MS = 365 * 86_400_000
"""A year."""
_DAY_MS = 86_400_000
_SHOWN_CHARACTERS = 200
"""Of data in an error."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
AsyncF = TypeVar("AsyncF", bound=Callable[..., Awaitable[Any]])


class Steps:
    """`ctx.step` of an async function. Await each; `asyncio.gather` and `TaskGroup` run several at once.

    The first argument is the step's id. Ids name steps in traces and on replays: the same id used again counts
    up (`load`, `load:1`, ...), so a loop needs no ids of its own, while steps that wait at the same time with
    different inputs do.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @overload
    async def run(self, id: str, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self, id: str, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run(self, id: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a callable once and keep its result; a plain `def` runs in a thread.

        Raises:
            StepError: It failed for good.
            StepResultNotPortable: Its result would not be the same on a replay.
        """
        return await self._execution.perform(_run(id, fn, args, kwargs))

    async def sleep(self, id: str, duration: Duration, /) -> None:
        """Wait: `timedelta(hours=1)` or `"1h30m"`, up to 366 days. Nothing is held meanwhile.

        Raises:
            DefinitionError: It is not a duration, or too long a one.
        """
        await self._execution.perform(_sleep(id, duration))

    async def sleep_until(self, id: str, moment: datetime | str, /) -> None:
        """Wait until a moment: a `datetime` with a time zone, or text in RFC 3339. One in the past ends at once.

        The server fails a run that asks for one more than 366 days off.
        """
        await self._execution.perform(_sleep_until(id, moment))

    @overload
    async def wait_for_event(
        self,
        id: str,
        event: EventType[T],
        /,
        *,
        timeout: Duration,
        match: str | None = None,
        condition: str | None = None,
    ) -> Event[T] | None: ...
    @overload
    async def wait_for_event(
        self, id: str, event: str, /, *, timeout: Duration, match: str | None = None, condition: str | None = None
    ) -> Event[Any] | None: ...
    async def wait_for_event(
        self,
        id: str,
        event: EventType[Any] | str,
        /,
        *,
        timeout: Duration,
        match: str | None = None,
        condition: str | None = None,
    ) -> Event[Any] | None:
        """Wait for an event that comes from now on; None if none came in time.

        Args:
            timeout: How long, up to 366 days.
            match: A path such as `data.id` at which it must equal the event that started the run.
            condition: CEL instead, over `event` (which started the run) and `async` (the new one).

        Raises:
            EventNotValid: Its data is not of the event's type. Catch it here, or it fails the run.
            DefinitionError: `timeout` is not a duration, or too long a one.
        """
        waited = await self._execution.perform(_wait(id, event, timeout, match, condition))
        return waited  # type: ignore[no-any-return]

    @overload
    async def invoke(self, id: str, function: Function[None, R], /, *, timeout: Duration | None = None) -> R: ...
    @overload
    async def invoke(self, id: str, function: Function[T, R], /, *, data: T, timeout: Duration | None = None) -> R: ...
    @overload
    async def invoke(
        self, id: str, function: str, /, *, output: TypeForm[R], data: Any = None, timeout: Duration | None = None
    ) -> R: ...
    @overload
    async def invoke(self, id: str, function: str, /, *, data: Any = None, timeout: Duration | None = None) -> Any: ...
    async def invoke(
        self,
        id: str,
        function: Function[Any, Any] | str,
        /,
        *,
        data: Any = None,
        output: Any = None,
        timeout: Duration | None = None,
    ) -> Any:
        """Run another function and wait for its result.

        Args:
            function: The function itself, or `service/function` by name.
            data: The data of the event that it sees; an object in JSON.
            output: How to read the result of a function given by name.
            timeout: How long to wait, a year if not given. The other run goes on in any case.

        Raises:
            StepError: It failed, does not exist, or took longer than `timeout`.
        """
        return await self._execution.perform(_invoke(id, function, data, output, timeout))

    async def fetch(
        self,
        id: str,
        url: str | httpx2.URL,
        /,
        *,
        method: str = "GET",
        params: Mapping[str, Any] | Sequence[tuple[str, Any]] | str | None = None,
        headers: Headers | None = None,
        cookies: Mapping[str, str] | None = None,
        content: str | bytes | None = None,
        data: Mapping[str, Any] | None = None,
        files: Any = None,
        json: Any = None,
        auth: tuple[str, str] | None = None,
        timeout: Seconds | None = None,
        follow_redirects: bool = False,
        retry_statuses: Collection[int] = RETRIED_STATUSES,
        credential: str | None = None,
    ) -> httpx2.Response:
        """Have the server make a request; the function holds nothing meanwhile. The arguments are those of
        `httpx2.request`, the response is one of httpx2, and its body can be read at any time.

        Args:
            timeout: In seconds, or text such as `"2m"`; the server's limit, 15 minutes, if not given.
            retry_statuses: Answers after which the request is made again, by the function's retries, as it is when no
                answer came; the last one is the result whatever it is.
            credential: The name of a key that the server keeps and sends along, to the places that it may be sent to.

        Raises:
            StepError: No answer came, or its address may not be called.
            DefinitionError: The request cannot be made.
        """
        _refuse_bad_id(id)
        request = fetch_step(
            id,
            url,
            method=method,
            params=params,
            headers=headers,
            cookies=cookies,
            content=content,
            data=data,
            files=files,
            json=json,
            auth=auth,
            timeout=timeout,
            follow_redirects=follow_redirects,
            retry_statuses=retry_statuses,
            credential=credential,
        )
        response: httpx2.Response = await self._execution.perform(request)
        return response

    @property
    def ai(self) -> Ai:
        """Models of AI providers."""
        return Ai(self._execution)

    async def send_event(self, id: str, /, *events: Event[Any]) -> list[str]:
        """Send events, once: those without an id get one that a second attempt of this step repeats.

        Returns:
            The server's ids of the events, in order.
        """
        sent = await self._execution.perform(_send(id, events, self._execution))
        return sent  # type: ignore[no-any-return]


class SyncSteps:
    """`ctx.step` of a plain `def` function. See `Steps`; these block."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @overload
    def run(self, id: str, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, id: str, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, id: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """As `Steps.run`. A plain `def` runs in the function's own thread, an `async def` on the event loop."""
        return self._execution.perform_blocking(_run(id, fn, args, kwargs))

    def parallel(self, branches: Sequence[Callable[[], R]], /) -> list[R]:
        """Run steps at once: `ctx.step.parallel([lambda: ctx.step.run("a", f), lambda: ctx.step.run("b", g)])`.

        A branch may call several steps, one after the other. It is called again from its start after each of them,
        so what it does between them should be free of effects.

        Returns:
            What the branches returned, in their order.

        Raises:
            The first error in the order of the branches, when all have ended.
        """
        return self._execution.perform_branches(branches)

    def sleep(self, id: str, duration: Duration, /) -> None:
        """As `Steps.sleep`."""
        self._execution.perform_blocking(_sleep(id, duration))

    def sleep_until(self, id: str, moment: datetime | str, /) -> None:
        """As `Steps.sleep_until`."""
        self._execution.perform_blocking(_sleep_until(id, moment))

    @overload
    def wait_for_event(
        self,
        id: str,
        event: EventType[T],
        /,
        *,
        timeout: Duration,
        match: str | None = None,
        condition: str | None = None,
    ) -> Event[T] | None: ...
    @overload
    def wait_for_event(
        self, id: str, event: str, /, *, timeout: Duration, match: str | None = None, condition: str | None = None
    ) -> Event[Any] | None: ...
    def wait_for_event(
        self,
        id: str,
        event: EventType[Any] | str,
        /,
        *,
        timeout: Duration,
        match: str | None = None,
        condition: str | None = None,
    ) -> Event[Any] | None:
        """As `Steps.wait_for_event`."""
        waited = self._execution.perform_blocking(_wait(id, event, timeout, match, condition))
        return waited  # type: ignore[no-any-return]

    @overload
    def invoke(self, id: str, function: Function[None, R], /, *, timeout: Duration | None = None) -> R: ...
    @overload
    def invoke(self, id: str, function: Function[T, R], /, *, data: T, timeout: Duration | None = None) -> R: ...
    @overload
    def invoke(
        self, id: str, function: str, /, *, output: TypeForm[R], data: Any = None, timeout: Duration | None = None
    ) -> R: ...
    @overload
    def invoke(self, id: str, function: str, /, *, data: Any = None, timeout: Duration | None = None) -> Any: ...
    def invoke(
        self,
        id: str,
        function: Function[Any, Any] | str,
        /,
        *,
        data: Any = None,
        output: Any = None,
        timeout: Duration | None = None,
    ) -> Any:
        """As `Steps.invoke`."""
        return self._execution.perform_blocking(_invoke(id, function, data, output, timeout))

    def fetch(
        self,
        id: str,
        url: str | httpx2.URL,
        /,
        *,
        method: str = "GET",
        params: Mapping[str, Any] | Sequence[tuple[str, Any]] | str | None = None,
        headers: Headers | None = None,
        cookies: Mapping[str, str] | None = None,
        content: str | bytes | None = None,
        data: Mapping[str, Any] | None = None,
        files: Any = None,
        json: Any = None,
        auth: tuple[str, str] | None = None,
        timeout: Seconds | None = None,
        follow_redirects: bool = False,
        retry_statuses: Collection[int] = RETRIED_STATUSES,
        credential: str | None = None,
    ) -> httpx2.Response:
        """As `Steps.fetch`."""
        _refuse_bad_id(id)
        request = fetch_step(
            id,
            url,
            method=method,
            params=params,
            headers=headers,
            cookies=cookies,
            content=content,
            data=data,
            files=files,
            json=json,
            auth=auth,
            timeout=timeout,
            follow_redirects=follow_redirects,
            retry_statuses=retry_statuses,
            credential=credential,
        )
        response: httpx2.Response = self._execution.perform_blocking(request)
        return response

    @property
    def ai(self) -> SyncAi:
        """Models of AI providers."""
        return SyncAi(self._execution)

    def send_event(self, id: str, /, *events: Event[Any]) -> list[str]:
        """As `Steps.send_event`."""
        sent = self._execution.perform_blocking(_send(id, events, self._execution))
        return sent  # type: ignore[no-any-return]


class Ai:
    """`ctx.step.ai` of an async function."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @overload
    async def infer(
        self,
        id: str,
        /,
        *,
        model: Model,
        body: Mapping[str, Any],
        output: TypeForm[R],
        stream: bool = False,
        timeout: Seconds | None = None,
    ) -> Reply[R]: ...
    @overload
    async def infer(
        self,
        id: str,
        /,
        *,
        model: Model,
        body: Mapping[str, Any],
        stream: bool = False,
        timeout: Seconds | None = None,
    ) -> Reply[str]: ...
    async def infer(
        self,
        id: str,
        /,
        *,
        model: Model,
        body: Mapping[str, Any],
        output: Any = None,
        stream: bool = False,
        timeout: Seconds | None = None,
    ) -> Reply[Any]:
        """Have the server ask a model; the function holds nothing meanwhile.

        Args:
            model: Such as `ai.openai("gpt-4o-mini")`.
            body: The provider's own request, without the model's name.
            output: The type of the answer. Its schema is sent where the provider takes one; `reply.output` is of it.
            stream: Show the answer to everybody who follows the run while it comes (`run.stream()`); the reply is the
                same, and comes when it is whole.
            timeout: In seconds, or text such as `"2m"`; the server's limit, 15 minutes, if not given.

        Raises:
            StepError: The provider refused, or did not answer, until the attempts were used up.
            DefinitionError: The request cannot be made.
        """
        _refuse_bad_id(id)
        request = infer_step(id, model=model, body=body, output=output, stream=stream, timeout=timeout)
        reply: Reply[Any] = await self._execution.perform(request)
        return reply

    @overload
    def wrap(self, id: str, fn: AsyncF, /) -> AsyncF: ...
    @overload
    def wrap(self, id: str, fn: Callable[P, R], /) -> Callable[P, Awaitable[R]]: ...
    def wrap(self, id: str, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """A call of a model's own client as a step: `await step.ai.wrap("draft", client.messages.create)(model=...)`.

        What comes back takes the arguments of `fn`, overloads included, and runs it once; a plain `def` in a thread.
        """

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._execution.perform(_wrap(id, fn, args, kwargs))

        return call


class SyncAi:
    """`ctx.step.ai` of a plain `def` function. See `Ai`; these block."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @overload
    def infer(
        self,
        id: str,
        /,
        *,
        model: Model,
        body: Mapping[str, Any],
        output: TypeForm[R],
        stream: bool = False,
        timeout: Seconds | None = None,
    ) -> Reply[R]: ...
    @overload
    def infer(
        self,
        id: str,
        /,
        *,
        model: Model,
        body: Mapping[str, Any],
        stream: bool = False,
        timeout: Seconds | None = None,
    ) -> Reply[str]: ...
    def infer(
        self,
        id: str,
        /,
        *,
        model: Model,
        body: Mapping[str, Any],
        output: Any = None,
        stream: bool = False,
        timeout: Seconds | None = None,
    ) -> Reply[Any]:
        """As `Ai.infer`."""
        _refuse_bad_id(id)
        request = infer_step(id, model=model, body=body, output=output, stream=stream, timeout=timeout)
        reply: Reply[Any] = self._execution.perform_blocking(request)
        return reply

    def wrap(self, id: str, fn: F, /) -> F:
        """As `Ai.wrap`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._execution.perform_blocking(_wrap(id, fn, args, kwargs))

        return call  # type: ignore[return-value]


# Requests


def _wrap(id: str, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
    _refuse_bad_id(id)
    if not callable(fn):
        raise DefinitionError(
            f'step.ai.wrap("{id}", ...) needs a callable and got a {type(fn).__name__}; '
            f'write step.ai.wrap("{id}", client.messages.create)(...)'
        )
    return run_request(id, Body(fn, args, kwargs, kind="step.ai.wrap"))


def _run(id: str, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
    _refuse_bad_id(id)
    if not callable(fn):
        what = "a coroutine: leave out the call" if inspect.iscoroutine(fn) else f"a {type(fn).__name__}"
        if inspect.iscoroutine(fn):
            fn.close()
        raise DefinitionError(
            f'step.run("{id}", ...) needs a callable and got {what}; write step.run("{id}", f, argument)'
        )
    declared: StepDeclaration | None = getattr(fn, "__stepwell_step__", None)
    if declared is None:
        return run_request(id, Body(fn, args, kwargs))
    bound = getattr(fn, "__self__", None)
    function = declared.function if bound is None else functools.partial(declared.function, bound)
    return run_request(id, Body(function, args, kwargs, retries=declared.retries, timeout=declared.timeout))


def _sleep(id: str, length: Duration) -> Request:
    _refuse_bad_id(id)
    for_ms = _length(id, "sleep", length)
    return Request(
        id,
        _nothing,
        ("sleep", for_ms),
        waiting=lambda step, name, index: Sleep(step=step, name=name, index=index, for_ms=for_ms),
    )


def _sleep_until(id: str, moment: datetime | str) -> Request:
    _refuse_bad_id(id)
    read = parse_time(moment) if isinstance(moment, str) else moment
    if read is None:
        raise ValueError(f'{moment!r} is not a moment; write a datetime, or text such as "2026-09-01T09:00:00Z"')
    if not isinstance(read, datetime):
        raise DefinitionError(
            f"step {id!r}: {moment!r} is not a moment; write a datetime with a time zone, or step.sleep for a duration"
        )
    if read.tzinfo is None:
        raise ValueError(
            "step.sleep_until needs a datetime with a time zone, such as datetime(2026, 9, 1, 9, tzinfo=UTC)"
        )
    until = instant(read.astimezone(UTC))
    # Whether that is too far off is for the server to say: a function must not depend on this machine's clock.
    return Request(
        id,
        _nothing,
        ("sleep_until", until),
        waiting=lambda step, name, index: Sleep(step=step, name=name, index=index, until=until),
    )


def _wait(id: str, event: EventType[Any] | str, timeout: Duration, match: str | None, condition: str | None) -> Request:
    _refuse_bad_id(id)
    kind: EventType[Any] = EventType(event, Any) if isinstance(event, str) else event
    if kind.expression:
        raise DefinitionError(
            f'step.wait_for_event("{id}", ...) cannot use `.when()`, where `event` is the new event; '
            'write condition="async.data.amount > 10" instead'
        )
    for_ms = _length(id, "wait", timeout)
    expression = condition_of(match, condition)

    def read(text: bytes) -> Event[Any] | None:
        if text == b"null":
            return None
        try:
            return read_event(text, (kind,))
        except EventNotValid as err:
            raise _unexpected(id, kind, text, err.__cause__ or err) from err.__cause__

    return Request(
        id,
        read,
        ("wait", kind.name, expression, for_ms),
        waiting=lambda step, name, index: WaitForEvent(
            step=step, name=name, index=index, event=kind.name, expression=expression, for_ms=for_ms
        ),
    )


def _invoke(id: str, function: Function[Any, Any] | str, data: Any, output: Any, timeout: Duration | None) -> Request:
    _refuse_bad_id(id)
    if isinstance(function, str):
        slug, data_type, result = function.replace("/", "-"), Any, Any if output is None else output
    else:
        slug, data_type, result = function.slug, function.data_type, function.result_type
    if data is None:
        written = b"{}"
    else:
        written = encode_result(data, data_type, f"the data of step.invoke {id!r}", GIVEN)[0]
        if not written.startswith(b"{"):
            raise DefinitionError(
                f'the data of step.invoke("{id}", ...) must be an object in JSON, such as a dataclass'
            )
    for_ms = DEFAULT_INVOKE_MS if timeout is None else _length(id, "wait", timeout)
    return Request(
        id,
        functools.partial(_read_result, result),
        ("invoke", slug, written, for_ms),
        waiting=lambda step, name, index: Invoke(
            step=step, name=name, index=index, function=slug, data=written, for_ms=for_ms
        ),
    )


def _send(id: str, events: Sequence[Event[Any]], execution: Execution) -> Request:
    _refuse_bad_id(id)
    bodies = [event.body() for event in events]
    use = f"{id}#{execution.times_used(id)}"
    for number, body in enumerate(bodies):
        body.setdefault("id", derived_uuid("sent", execution.start.run, use, str(number)))
    texts = [canonical(body) for body in bodies]

    async def send() -> list[str]:
        if execution.send is None:
            raise FunctionError("step.send_event has nothing to send with; give the worker the server's address")
        ids = await execution.send(texts)
        return list(ids)

    posting = Body(send, kind="step.sendEvent", result=list[str], shows_input=False)
    return Request(id, functools.partial(_read_result, list[str]), tuple(texts), body=posting)


def _length(id: str, verb: str, value: Duration) -> int:
    """How long a step waits, in milliseconds."""
    try:
        for_ms = milliseconds(value)
    except ValueError as err:
        raise DefinitionError(f"step {id!r}: {err}") from None
    if for_ms > MAX_WAIT_MS:
        limit = MAX_WAIT_MS // _DAY_MS
        raise DefinitionError(
            f"step {id!r} asks to {verb} {-(-for_ms // _DAY_MS)} days; the limit is {limit} days, "
            "so use several steps, one after the other"
        )
    return for_ms


def _unexpected(id: str, kind: EventType[Any], text: bytes, reason: BaseException) -> EventNotValid:
    data = msgspec.json.decode(text).get("data")
    came = canonical(data).decode()
    shown = came if len(came) <= _SHOWN_CHARACTERS else f"{came[:_SHOWN_CHARACTERS]}..."
    return EventNotValid(
        f"step {id!r} waited for event {kind.name!r} with {type_name(kind.annotation)} as its data, "
        f"and the data that came is not that: {shown} ({reason})"
    )


def _read_result(annotation: Any, text: bytes) -> Any:
    return decode_result(text, annotation)


def _nothing(text: bytes) -> None:
    return None


def _refuse_bad_id(id: str) -> None:
    if not id or not isinstance(id, str):
        raise DefinitionError(f'the first argument of a step is its id, such as step.run("charge", ...); got {id!r}')


# The decorator


@dataclass(frozen=True, slots=True)
class StepDeclaration:
    """What `@step` says about a callable."""

    function: Callable[..., Any]
    id: str
    retries: int | None
    timeout: timedelta | None


@overload
def step(fn: F, /) -> F: ...
@overload
def step(*, id: str | None = None, retries: int | None = None, timeout: Duration | None = None) -> Callable[[F], F]: ...
def step(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    id: str | None = None,
    retries: int | None = None,
    timeout: Duration | None = None,
) -> Any:
    """Make a callable a step wherever a function calls it; anywhere else, and inside a step, it is a plain call.

    Args:
        id: The step's id; the callable's name if not given.
        retries: How often a failed attempt is repeated; at most the function's own retries count.
        timeout: The limit of each attempt, for `async def` only, because a thread cannot be interrupted.

    Raises:
        SyncStepInAsync: When a sync one is called inside an async function.
    """
    if fn is None:
        return functools.partial(_declare, id=id, retries=retries, timeout=timeout)
    return _declare(fn)


def _declare(
    fn: Callable[..., Any], *, id: str | None = None, retries: int | None = None, timeout: Duration | None = None
) -> Callable[..., Any]:
    if isinstance(fn, classmethod | staticmethod):
        raise DefinitionError("write @classmethod or @staticmethod above @stepwell.step, not below")
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise DefinitionError(f"{fn.__qualname__} yields; a step returns its result")
    if timeout is not None and not inspect.iscoroutinefunction(fn):
        raise DefinitionError(f"{fn.__qualname__} runs in a thread, which cannot be interrupted; make it `async def`")
    limit = None if timeout is None else duration(timeout)
    declared = StepDeclaration(fn, id or fn.__name__, retries, limit)
    takes_self = next(iter(inspect.signature(fn).parameters), "") in {"self", "cls"}

    def request(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        body = Body(fn, args, kwargs, retries=retries, timeout=limit, shows_input=not takes_self)
        return run_request(declared.id, body)

    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def call(*args: Any, **kwargs: Any) -> Any:
            execution = in_function()
            if execution is None:
                return await fn(*args, **kwargs)
            return await execution.perform(request(args, kwargs))
    else:

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            execution = in_function()
            if execution is None:
                return fn(*args, **kwargs)
            if execution.function.is_async:
                raise SyncStepInAsync(declared.id)
            return execution.perform_blocking(request(args, kwargs))

    call.__stepwell_step__ = declared  # type: ignore[attr-defined]
    return call
