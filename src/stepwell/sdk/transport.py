"""The transports of `stepwell.http`: inside a function, each request of a library on httpx2 or httpx is a step that
the server makes; inside a step and outside of functions it goes out directly.

    library ──▶ httpx2.Client ──▶ Transport ──▶ in a function? ── no ──▶ fallback
                                                    │ yes
                                                    ▼
                                 step "POST api.openai.com/v1/chat/completions 3f2a..."   the answer, as a stream

The step is named after what is asked: method, address and body, without credentials, without what is excluded and
without the order of members in JSON. The answer carries a digest of each field back, so that a request that is not
the recorded one can be told from a new one, and what differs can be named.

A library may repeat a request that failed, though the server has done so already. If the request says so itself it
gets the same answer again; there is no second request.

Elsewhere: how an answer is recorded (`stepwell.wire.offload`), how the function waits (`execution.py`).
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
import sys
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qsl, urlsplit, urlunsplit
from weakref import WeakKeyDictionary

import httpx2
import msgspec

from stepwell.model.offload import FETCH
from stepwell.model.payload import canonical
from stepwell.sdk.branch import current_branch
from stepwell.sdk.errors import DefinitionError, FunctionError, RequestChanged, StepError, Suspended
from stepwell.sdk.execution import Execution, in_function
from stepwell.sdk.fetch import Seconds, credential_name, offload, timeout_ms
from stepwell.sdk.parking import roster_of_context
from stepwell.sdk.request import Request
from stepwell.wire.models.credentials import is_credential_header
from stepwell.wire.offload import FetchAnswer, InvalidRequest, fetch_request, read_answer, split

RETRIED_STATUSES = (408, 409, 429, 500, 502, 503, 504, 529)
"""Answers after which the server makes a request of a library again: those that AI libraries repeat."""
MAX_FIELDS = 64
"""Digests that go with a request; a body with more parts is told apart less finely."""
_DEEPEST = 6
_DIGEST_LETTERS = 8
_FIELD_NAMES_LETTERS = 4096
_NAMED_FIELDS = 5
_NAMED_LETTERS = 120  # of an address, in the name of a step

# Of requests of frameworks, these are other ones each time and say nothing about what is asked.
_NOT_COMPARED = ["body.prompt_cache_key", "body.params._meta.traceparent", "body.params._meta.tracestate"]

_NOT_SENT = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})
_RETRY_HEADER = "x-stainless-retry-count"  # openai, anthropic and other libraries of the same make
_BOUNDARY = re.compile(r'boundary="?([^";]+)')
_CONNECTION_OPTIONS = ("verify", "cert", "http1", "http2", "limits", "proxy", "mounts", "transport")

Direct: TypeAlias = Literal["direct"]
Fields: TypeAlias = dict[str, str]


class Transport(httpx2.BaseTransport):
    """For clients of httpx2 and httpx: `httpx2.Client(transport=Transport())`.

    Args:
        fallback: What makes requests inside steps and outside of functions. None refuses them.
        exclude: Fields that may differ from one execution to the next: `body.metadata.sent_at`, `body.messages.*.id`,
            `query.nonce`. They are sent, but no part of the step's identity.
        retry_statuses: Answers after which the server makes the request again, by the function's retries.
        timeout: Of one attempt, in seconds, or text such as `"2m"`; the server's limit, 15 minutes, if not given. The
            library's own timeouts count for direct requests only.
        credential: The name of a key that the server keeps, for requests of functions; keys that the library has are
            sent with direct requests only.

    Raises:
        DefinitionError: `exclude` or `timeout` cannot be read.
    """

    def __init__(
        self,
        *,
        fallback: httpx2.BaseTransport | Direct | None = "direct",
        exclude: Collection[str] = (),
        retry_statuses: Collection[int] = RETRIED_STATUSES,
        timeout: Seconds | None = None,
        credential: str | None = None,
    ) -> None:
        self._fallback = fallback
        self._clients: dict[str, Any] = {}
        self._rules = _Rules(exclude, retry_statuses, timeout, credential)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """One request of a client."""
        execution = _execution()
        if execution is None:
            return self._directly(request)
        if execution.function.is_async:
            execution.give_up(
                FunctionError(
                    "a request of a client without async was made in an async function, which cannot wait for it; "
                    "use stepwell.http.async_client() there, or make the call in a step"
                )
            )
            raise Suspended
        asking = _Asking(execution, request, request.read(), self._rules)
        if asking.again is not None:
            return asking.repeated()
        try:
            answer = execution.perform_blocking(asking.step)
        except StepError as err:
            raise asking.failed(err) from err
        return asking.answered(answer)

    def _directly(self, request: httpx2.Request) -> httpx2.Response:
        if self._fallback is None:
            raise _nowhere("Transport")
        if not isinstance(self._fallback, str):
            return self._fallback.handle_request(request)
        library = _library(request)
        client = self._clients.get(library.__name__) or self._clients.setdefault(library.__name__, library.Client())
        response: httpx2.Response = client.send(request, stream=True, auth=None, follow_redirects=False)
        return response

    def close(self) -> None:
        """Close what made the direct requests."""
        for client in self._clients.values():
            client.close()
        if isinstance(self._fallback, httpx2.BaseTransport):
            self._fallback.close()


class AsyncTransport(httpx2.AsyncBaseTransport):
    """`Transport` for clients with async: `httpx2.AsyncClient(transport=AsyncTransport())`."""

    def __init__(
        self,
        *,
        fallback: httpx2.AsyncBaseTransport | Direct | None = "direct",
        exclude: Collection[str] = (),
        retry_statuses: Collection[int] = RETRIED_STATUSES,
        timeout: Seconds | None = None,
        credential: str | None = None,
    ) -> None:
        self._fallback = fallback
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Any]] = WeakKeyDictionary()
        self._rules = _Rules(exclude, retry_statuses, timeout, credential)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One request of a client."""
        execution = _execution()
        if execution is None:
            return await self._directly(request)
        if _only_listens(request):
            await asyncio.Event().wait()
        asking = _Asking(execution, request, await request.aread(), self._rules)
        if asking.again is not None:
            return asking.repeated()
        try:
            if execution.function.is_async:
                answer = await execution.perform(asking.step)
            else:
                answer = _perform_in_own_loop(execution, asking.step)
        except StepError as err:
            raise asking.failed(err) from err
        return asking.answered(answer)

    async def _directly(self, request: httpx2.Request) -> httpx2.Response:
        if self._fallback is None:
            raise _nowhere("AsyncTransport")
        if not isinstance(self._fallback, str):
            return await self._fallback.handle_async_request(request)
        library = _library(request)
        # `run_sync` of frameworks may run another loop each time, which cannot use the connections of the one before.
        clients = self._clients.setdefault(asyncio.get_running_loop(), {})
        client = clients.get(library.__name__) or clients.setdefault(library.__name__, library.AsyncClient())
        response: httpx2.Response = await client.send(request, stream=True, auth=None, follow_redirects=False)
        return response

    async def aclose(self) -> None:
        """Close what made the direct requests of this event loop."""
        for client in self._clients.pop(asyncio.get_running_loop(), {}).values():
            await client.aclose()
        if isinstance(self._fallback, httpx2.AsyncBaseTransport):
            await self._fallback.aclose()


def client(*, transport: Transport | None = None, credential: str | None = None, **options: Any) -> httpx2.Client:
    """A client whose requests are steps inside functions: `OpenAI(http_client=client(), max_retries=0)`.

    Args:
        transport: One with settings of your own.
        credential: The name of a key that the server keeps, as in `Transport`.
        options: Of `httpx2.Client`, except those of the connection.

    Raises:
        DefinitionError: An option of the connection, which belongs to the transport's `fallback`.
    """
    _refuse_connection(options, "HTTPTransport")
    _refuse_both(transport, credential)
    return httpx2.Client(transport=transport or Transport(credential=credential), **options)


def async_client(
    *, transport: AsyncTransport | None = None, credential: str | None = None, **options: Any
) -> httpx2.AsyncClient:
    """`client` with async: `AsyncOpenAI(http_client=async_client(), max_retries=0)`."""
    _refuse_connection(options, "AsyncHTTPTransport")
    _refuse_both(transport, credential)
    return httpx2.AsyncClient(transport=transport or AsyncTransport(credential=credential), **options)


def _refuse_both(transport: object, credential: str | None) -> None:
    if transport is not None and credential is not None:
        raise DefinitionError("credential= is a setting of the transport; give it to the one in transport=")


def _refuse_connection(options: dict[str, Any], made_by: str) -> None:
    for name in _CONNECTION_OPTIONS:
        if name in options:
            raise DefinitionError(
                f"{name}= is about the connection, which the server opens; for requests outside of functions give "
                f"transport=...(fallback=httpx2.{made_by}({name}=...))"
            )


def _execution() -> Execution | None:
    """The execution that a request is a step of."""
    return None if roster_of_context.get() is None else in_function()


def _perform_in_own_loop(execution: Execution, step: Request) -> FetchAnswer:
    """A step of a plain function that runs an event loop of its own, as `run_sync` of frameworks does: the loop waits
    with the function's thread. When the function leaves memory all of the loop does, whatever waits for what in it."""
    try:
        answer: FetchAnswer = execution.perform_blocking(step)
    except Exception:
        raise
    except BaseException:
        for task in asyncio.all_tasks():
            task.cancel()
        raise
    return answer


def _only_listens(request: httpx2.Request) -> bool:
    """Whether a request opens the stream on which an MCP server may say something by itself: nobody waits for its
    answer, which never ends. In a function the server has nothing to say."""
    headers = request.headers
    opens = request.method == "GET" and "text/event-stream" in headers.get("accept", "")
    return opens and "mcp-session-id" in headers and "last-event-id" not in headers


def _nowhere(name: str) -> DefinitionError:
    return DefinitionError(
        f"{name}(fallback=None) makes requests of functions only, and this one was made inside a step or outside of "
        "functions; leave fallback= out to have it go out directly"
    )


def _library(request: httpx2.Request) -> Any:
    """httpx2 or httpx, whichever a request is of."""
    return sys.modules[type(request).__module__.partition(".")[0]]


# What is asked


class _Rules:
    """The settings of a transport."""

    def __init__(
        self,
        exclude: Collection[str],
        retry_statuses: Collection[int],
        timeout: Seconds | None,
        credential: str | None,
    ) -> None:
        if isinstance(exclude, str):
            raise DefinitionError(f"exclude= needs a list of fields, such as [{exclude!r}]")
        for one in exclude:
            if one.partition(".")[0] not in {"body", "query"} or not one.partition(".")[2]:
                raise DefinitionError(
                    f'exclude= has fields such as "body.metadata.sent_at" and "query.nonce", not {one!r}'
                )
        self.exclude = tuple(one.split(".") for one in (*_NOT_COMPARED, *exclude))
        self.retry_statuses = tuple(retry_statuses)
        self.timeout_ms = timeout_ms("stepwell.http", timeout)
        try:
            self.credential = credential_name(credential)
        except ValueError as err:
            raise DefinitionError(str(err)) from None


@dataclass(slots=True)
class _Requests:
    """The requests of one execution so far: how many, and which of them failed how."""

    count: int = 0
    failed: dict[str, FetchAnswer | StepError] = field(default_factory=dict)


_requests: WeakKeyDictionary[Execution, _Requests] = WeakKeyDictionary()


class _Asking:
    """One request made in a function. `again` is the failure that it repeats, if the library says that it does."""

    def __init__(self, execution: Execution, request: httpx2.Request, body: bytes, rules: _Rules) -> None:
        self._execution = execution
        self._request = request
        self._library = _library(request)
        self._rules = rules
        self._made = _requests.setdefault(execution, _Requests())
        if request.url.scheme not in {"http", "https"} or not request.url.host:
            raise self._library.UnsupportedProtocol(f"{str(request.url)!r} is no address of HTTP", request=request)
        shown, _, _ = split(str(request.url), {}, "")
        described = describe(request.method, shown, request.headers.get("content-type", ""), body, rules.exclude)
        parts = urlsplit(shown)
        self._name = f"{request.method} {f'{parts.netloc}{parts.path}'[:_NAMED_LETTERS]} {described.digest}"
        self.again = self._made.failed.get(self._name) if request.headers.get(_RETRY_HEADER, "0") != "0" else None
        if self.again is None:
            self.step = self._as_step(body, described.fields)

    def _as_step(self, body: bytes, fields: Fields) -> Request:
        made = self._made
        made.count += 1
        if self._name in made.failed and current_branch.get() is None:
            self._execution.warn(
                "repeated",
                f"the request {self._name!r} is made again although the server has tried it as often as the function's "
                "retries allow; it is a new step. Turn the library's own retries off (max_retries=0)",
            )
        sent = {name: value for name, value in self._request.headers.items() if name.lower() not in _NOT_SENT}
        if self._rules.credential:
            sent = {name: value for name, value in sent.items() if not is_credential_header(name)}
        try:
            text, sealed = fetch_request(
                str(self._request.url),
                method=self._request.method,
                headers=sent,
                body=body or None,
                exact=True,
                timeout_ms=self._rules.timeout_ms,
                max_redirects=0,  # the client follows them itself
                retry_statuses=self._rules.retry_statuses,
                echo=canonical({"place": made.count, "fields": fields}).decode(),
                credential=self._rules.credential,
            )
        except InvalidRequest as err:
            self._execution.give_up(DefinitionError(f"the request {self._name!r}: {err}"))
            raise Suspended from err
        return Request(
            self._name,
            _read,
            "a request of a library",  # what it asks is in its name
            waiting=partial(offload, text, FETCH, sealed),
            displaced=partial(_displaced, self._name, made.count, fields),
        )

    def answered(self, answer: FetchAnswer) -> httpx2.Response:
        """The response for the client."""
        if answer.status in self._rules.retry_statuses:
            self._made.failed[self._name] = answer
        else:
            self._made.failed.pop(self._name, None)
        response: httpx2.Response = self._library.Response(
            answer.status,
            headers=list(answer.headers),
            stream=_recorded(self._library)(answer.body),
            request=self._request,
            extensions={"reason_phrase": answer.reason.encode("ascii", "ignore"), "http_version": b"HTTP/1.1"},
        )
        return response

    def failed(self, error: StepError) -> Exception:
        """The library's own error for a request that nobody answered."""
        self._made.failed[self._name] = error
        told: Exception = self._library.ReadError(error.message, request=self._request)
        return told

    def repeated(self) -> httpx2.Response:
        """How the request ended that this one repeats."""
        self._execution.warn(
            "retried",
            f"a library repeats the request {self._name!r}, which the server has tried as often as the function's "
            "retries allow; it gets the same answer again. Turn the library's own retries off (max_retries=0)",
        )
        if isinstance(self.again, StepError):
            raise self.failed(self.again) from self.again
        assert self.again is not None, "only asked for a repeated request"
        return self.answered(self.again)


def _read(text: bytes) -> FetchAnswer:
    return read_answer(msgspec.json.decode(text))


def _displaced(name: str, place: int, fields: Fields, recorded: bytes) -> RequestChanged | None:
    """What is wrong if the recorded answer is that of another request at the same place."""
    try:
        told = msgspec.json.decode(msgspec.json.decode(recorded)["echo"])
        before: Fields = told["fields"]
        if told["place"] != place:
            return None
    except (msgspec.DecodeError, KeyError, TypeError):  # the result of another step
        return None
    differ = sorted(one for one in before.keys() | fields.keys() if before.get(one) != fields.get(one))
    return RequestChanged(name, tuple(differ[:_NAMED_FIELDS]))


@functools.cache
def _recorded(library: Any) -> Any:
    """A recorded body as a stream of a library: in one piece, and as often as somebody reads it."""

    class Recorded(library.SyncByteStream, library.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, body: bytes) -> None:
            self._body = body

        def __iter__(self) -> Iterator[bytes]:
            yield self._body

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield self._body

    return Recorded


# What a request is


@dataclass(frozen=True, slots=True)
class Described:
    """What a request asks: the digest of all of it, and one of each field."""

    digest: str
    fields: Fields


def describe(method: str, url: str, content_type: str, body: bytes, exclude: Collection[list[str]] = ()) -> Described:
    """The identity of a request. `url` has no credentials; `exclude` has paths that begin with `body` or `query`."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    left_out = {".".join(path[1:]) for path in exclude if path[0] == "query"}
    query = [[name, value] for name, value in pairs if name not in left_out]
    read = _body_of(content_type, body)
    for path in exclude:
        if path[0] == "body":
            read = _without(read, path[1:])
    address = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    whole = {"method": method, "url": address, "query": query, "body": read}
    asked: dict[str, Any] = {"method": method, "url": address}
    for name in dict(query):
        asked[f"query.{name}"] = [value for other, value in query if other == name]
    if not _is_short(asked):
        asked = {"method": method, "url": address, "query": query}
    finer = (asked | dict(_flat(read, "body", depth)) for depth in range(_DEEPEST, 0, -1))
    asked = next(filter(_is_short, finer), asked | {"body": read})
    return Described(_digest(whole, 2 * _DIGEST_LETTERS), {name: _digest(value) for name, value in asked.items()})


def _is_short(fields: dict[str, Any]) -> bool:
    return len(fields) <= MAX_FIELDS and sum(map(len, fields)) <= _FIELD_NAMES_LETTERS


def _body_of(content_type: str, body: bytes) -> Any:
    """A body as JSON, in which equal ones are equal whatever their order of members or their boundaries."""
    kind = content_type.partition(";")[0].strip().lower()
    boundary = _BOUNDARY.search(content_type)
    if kind == "application/x-www-form-urlencoded":
        form: dict[str, list[str]] = {}
        for name, member in parse_qsl(body.decode("latin-1"), keep_blank_values=True):
            form.setdefault(name, []).append(member)
        return form
    if kind.startswith("multipart/") and boundary is not None:
        body = body.replace(boundary[1].encode(), b"boundary")
    elif body[:1] in {b"{", b"["}:
        try:
            value = msgspec.json.decode(body)
            _digest(value)
        except (ValueError, OverflowError):  # no JSON, or a number that has no place
            pass
        else:
            return value
    return hashlib.sha256(body).hexdigest() if body else None


def _without(value: Any, path: list[str]) -> Any:
    """JSON without what is at a path, of which `*` is any member or item."""
    name, rest = path[0], path[1:]
    if isinstance(value, dict):
        kept = {key: _without(one, rest) if rest and name in {key, "*"} else one for key, one in value.items()}
        return kept if rest else {key: one for key, one in kept.items() if name not in {key, "*"}}
    if isinstance(value, list):
        if not rest:
            return [one for at, one in enumerate(value) if name not in {str(at), "*"}]
        return [_without(one, rest) if name in {str(at), "*"} else one for at, one in enumerate(value)]
    return value


def _flat(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if depth and members:
        for name, member in members:
            yield from _flat(member, f"{path}.{name}", depth - 1)
    else:
        yield path, value


def _digest(value: Any, letters: int = _DIGEST_LETTERS) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:letters]
