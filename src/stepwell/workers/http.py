"""Calls over HTTP: one signed POST for each, and a verdict on whatever comes back.

    perform ──▶ line of the service ──▶ room for its bytes ──▶ POST ──▶ read, bounded ──▶ wire.inngest.reply

The bytes that are signed are the bytes that are sent. An answer counts only if it arrived whole: a reset, a body
shorter than it promised, a broken chunk or a torn gzip stream is a lost call, which is tried again. Places are
bounded for each service, so a slow one does not hold up the others, and go to the oldest run first; the bytes of large
requests and of large answers are bounded together, so many large runs at once are delayed and not failed.

A redirect that keeps the method (307, 308) is followed with body, headers and query. One that would turn the call
into a GET (301, 302, 303) ends it with an error that names the new address: the answer to that GET would be an
introspection and must not be taken for a result.

In production an address must be public, of this machine, or named by the operator; that is asked where a connection is
opened, so of every address and after every redirect, and costs a kept connection nothing.

Protocol: sections 1.5, 4.1 and 5.1 of the Inngest wire protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from urllib.parse import urljoin, urlsplit, urlunsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from stepwell.model.ids import Instant, JobId, StepId, derived_ulid
from stepwell.model.message import CallInfo, CallLost, Logged, Message, Raised
from stepwell.wire.inngest import reply as replies
from stepwell.wire.inngest.call import MAX_STATE_BYTES, Call, Ready, build_body, call_url, headers, parameter_name
from stepwell.wire.inngest.text import shortened
from stepwell.workers.base import Addresses, Aimed, Clock, Deliver, Dispatch, Memo, now_ms, own_error
from stepwell.workers.budget import Budget, Places

CALL_TIMEOUT_S = 2 * 3600.0
"""How long a call may take (section 13)."""
CONNECT_TIMEOUT_S = 10.0
LOOKUP_TIMEOUT_S = 3.0
"""How long a registration waits for the addresses of its hosts; those that are later are checked by the calls alone."""
MAX_REDIRECTS = 60
CALLS_PER_SERVICE = 256
BYTES_IN_FLIGHT = 128 * 1024 * 1024
"""Of large requests being sent, and again of large answers being read."""
SMALL_BYTES = 64 * 1024
"""What is at most so large needs no room."""

_KEEP_ALIVE_S = 4.0  # below the five seconds after which Node and uvicorn close an idle connection
_THREAD_BYTES = 256 * 1024  # above it an answer is decoded beside the event loop
_CHUNK_BYTES = 64 * 1024

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Flight:
    """A call that was taken: it waits in line, or has a place and a task."""

    dispatch: Dispatch
    places: Places[_Flight]
    task: asyncio.Task[None] | None = None
    number: int = 0  # in the line
    timer: asyncio.TimerHandle | None = None  # for the deadline of a call in line


@dataclass(slots=True)
class _Room:
    """Bytes held for one request or answer; letting go twice is harmless."""

    budget: Budget
    size_bytes: int = 0

    async def take(self, size_bytes: int) -> None:
        if size_bytes > SMALL_BYTES and not self.size_bytes:
            await self.budget.take(size_bytes)
            self.size_bytes = size_bytes

    def release(self) -> None:
        if self.size_bytes:
            taken, self.size_bytes = self.size_bytes, 0
            self.budget.give(taken)


@dataclass(slots=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    framed: bool


@dataclass(slots=True)
class _Attempt:
    """What is measured of one call."""

    started_at: Instant = 0
    begun: float = 0.0
    status: int = 0
    url: str = ""
    traced: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(reused=False, url="", aimed=None))

    @property
    def refusal(self) -> str:
        aimed: Aimed | None = self.traced.aimed
        return aimed.refusal if aimed is not None else ""

    def info(self, worker: str) -> CallInfo:
        return CallInfo(self.started_at, (time.monotonic() - self.begun) * 1000, worker, self.status)


class _Stopped(Exception):
    """The call ends here, with a reply of our own."""

    def __init__(self, reply: replies.Failure) -> None:
        self.reply = reply


class HttpPerformer:
    """Calls services at their URLs.

    Args:
        deliver: Takes each outcome.
        signing_key: Signs every body; None sends unsigned, which SDKs accept in dev mode.
        server_kind: `dev` or `cloud`; SDKs of the other mode refuse.
        timeout_s: For one call, from its request to the end of its answer; waiting for a place not included.
        calls_per_service: Calls of one service at a time; more wait, those of the oldest runs in front.
        bytes_in_flight: See `BYTES_IN_FLIGHT`.
        addresses: Which may be called; None is all.
    """

    def __init__(
        self,
        deliver: Deliver,
        *,
        signing_key: str | None = None,
        server_kind: str = "dev",
        timeout_s: float = CALL_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        calls_per_service: int = CALLS_PER_SERVICE,
        bytes_in_flight: int = BYTES_IN_FLIGHT,
        max_answer_bytes: int = replies.MAX_BODY_BYTES,
        addresses: Addresses | None = None,
        clock: Clock = now_ms,
    ) -> None:
        self._deliver = deliver
        self._signing_key = signing_key
        self._server_kind = server_kind
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._calls_per_service = calls_per_service
        self._max_answer_bytes = max_answer_bytes
        self._addresses = addresses
        self._clock = clock
        self._requests = Budget(bytes_in_flight)
        self._answers = Budget(bytes_in_flight)
        self._places: dict[tuple[str, str], Places[_Flight]] = {}
        self._flights: dict[JobId, _Flight] = {}
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    # Performer

    def perform(self, dispatch: Dispatch) -> None:
        if self._closed:
            return
        self.stop(dispatch.job, "stale")  # the same job with an older fence
        service = (dispatch.function.env, dispatch.function.service)
        places = self._places.get(service)
        if places is None:
            places = self._places[service] = Places(self._calls_per_service)
        flight = self._flights[dispatch.job] = _Flight(dispatch, places)
        if places.take():
            self._take_off(flight)
            return
        flight.number = places.wait(flight, dispatch.started_at)
        left_s = self._left_s(dispatch)
        if left_s is not None:
            flight.timer = asyncio.get_running_loop().call_later(left_s, self._too_late, flight)

    def stop(self, call: JobId, reason: str) -> None:
        flight = self._flights.pop(call, None)
        if flight is not None:
            _abandon(flight)

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None:
        """Nothing is in memory over HTTP."""

    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None:
        """Nothing is in memory over HTTP."""

    def acknowledge(self, call: JobId, number: int, news: int) -> None:
        """Nothing is reported over HTTP."""

    def ended(self, call: JobId) -> None:
        """The call was forgotten when it was answered."""

    async def close(self) -> None:
        self._closed = True
        flights = list(self._flights.values())
        self._flights.clear()
        for flight in flights:
            _abandon(flight)
        await asyncio.gather(*[flight.task for flight in flights if flight.task is not None], return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    @property
    def in_flight(self) -> int:
        """Calls taken and not answered, those that wait for a place included."""
        return len(self._flights)

    # Addresses

    async def refusal(self, urls: Iterable[str]) -> str:
        """Why one of these URLs may not be called; empty if all may, or their hosts have no address yet."""
        if self._addresses is None:
            return ""
        resolver = LoopbackResolver()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                for host, port in sorted({place for url in urls if (place := place_of(url)) is not None}):
                    refusals = await _refusals(self._addresses, resolver, host, port)
                    if refusals and all(refusals):
                        return refusals[0]
        return ""

    # Places

    def _take_off(self, flight: _Flight) -> None:
        """Begin a call that has a place."""
        if flight.timer is not None:
            flight.timer.cancel()
        task = asyncio.get_running_loop().create_task(self._fly(flight), name=f"call {flight.dispatch.job}")
        task.add_done_callback(partial(self._land, flight.places))  # also of a task that is stopped before it begins
        flight.task = task

    def _land(self, places: Places[_Flight], task: asyncio.Task[None]) -> None:
        flight = places.leave()
        if flight is not None:
            self._take_off(flight)

    def _left_s(self, dispatch: Dispatch) -> float | None:
        return None if dispatch.deadline is None else max(0.0, (dispatch.deadline - self._clock()) / 1000)

    def _too_late(self, flight: _Flight) -> None:
        """The deadline of a call passes while it is in line."""
        flight.places.give_up(flight.number)
        self._over(flight, self._past_deadline(flight.dispatch, _Attempt(begun=time.monotonic())))

    # One call

    async def _fly(self, flight: _Flight) -> None:
        dispatch = flight.dispatch
        try:
            message = await self._outcome(dispatch)
        except Exception as err:
            about = {"run": dispatch.run, "function": dispatch.function.slug}
            log.exception("call %s of %s ended in an error of ours", dispatch.job, about["function"], extra=about)
            message = self._lost(
                dispatch, _Attempt(begun=time.monotonic()), "internal_error", f"the call failed: {err}"
            )
        self._over(flight, message)

    def _over(self, flight: _Flight, message: Message) -> None:
        dispatch = flight.dispatch
        if self._flights.get(dispatch.job) is flight:
            del self._flights[dispatch.job]
            self._deliver(dispatch.run, dispatch.job, dispatch.fence, message)

    async def _outcome(self, dispatch: Dispatch) -> Message:
        attempt = _Attempt(self._clock(), time.monotonic())
        left_s = self._left_s(dispatch)
        late = left_s is not None and left_s < self._timeout_s
        try:
            async with asyncio.timeout(left_s if late else self._timeout_s):
                return await self._call(dispatch, attempt)
        except TimeoutError:
            if late:
                return self._past_deadline(dispatch, attempt)
            text = f"the app at {attempt.url} did not answer within {self._timeout_s:g} s"
            return self._lost(dispatch, attempt, "request_duration_too_long", text)

    async def _call(self, dispatch: Dispatch, attempt: _Attempt) -> Message:
        request = derived_ulid(attempt.started_at, dispatch.job, str(dispatch.fence), str(dispatch.attempt))
        url = dispatch.function.url
        room, answer_room = _Room(self._requests), _Room(self._answers)
        try:
            _check_url(url)
            url = call_url(url, dispatch.function.slug, dispatch.target)
            redirects = 0
            while True:
                attempt.url = _shown(url)
                answer = await self._request(dispatch, request, url, attempt, room, answer_room)
                if not 300 <= answer.status < 400:
                    break
                if redirects == MAX_REDIRECTS:
                    text = f"redirected the call more than {MAX_REDIRECTS} times; break the loop"
                    raise _Stopped(_redirect_failure(answer, text))
                redirects += 1
                url = _redirected(answer, url)
            reply = await self._read_reply(answer, f"the app at {attempt.url}")
        except _Stopped as stopped:
            reply = stopped.reply
        except (aiohttp.ClientError, OSError, zlib.error) as err:
            if isinstance(err, TimeoutError) and not isinstance(err, aiohttp.ServerTimeoutError):
                raise
            if attempt.refusal:
                text = f"the app at {attempt.url} is not called: {attempt.refusal}"
                error = own_error("AddressRefused", shortened(text, 2000))
                return Raised(dispatch.job, error, retry=False, info=attempt.info(attempt.url), code="address_refused")
            return self._unreachable(dispatch, attempt, err)
        finally:
            room.release()
            answer_room.release()
        if isinstance(reply, (replies.Ops, replies.Result)) and reply.odd:
            self._deliver(dispatch.run, dispatch.job, dispatch.fence, Logged(dispatch.job, reply.odd))
        return replies.to_message(dispatch.job, reply, attempt.info(attempt.url))

    async def _request(
        self, dispatch: Dispatch, request: str, url: str, attempt: _Attempt, room: _Room, answer_room: _Room
    ) -> _Answer:
        sent, body = await self._written(dispatch, request, room)
        sent["Accept-Encoding"] = "identity"
        sent["Content-Length"] = str(len(body))
        attempt.traced.reused, attempt.traced.url, attempt.traced.aimed = False, url, None
        data: bytes | AsyncIterator[bytes] = body if len(body) <= SMALL_BYTES else _pieces(body, room)
        del body  # a large one lives in the pieces alone, and only until it is sent
        async with self._client().post(
            url, data=data, headers=sent, allow_redirects=False, trace_request_ctx=attempt.traced
        ) as response:
            attempt.status = response.status
            framed = response.content_length is not None or "chunked" in response.headers.get("Transfer-Encoding", "")
            found = {name.lower(): value for name, value in response.headers.items()}
            if 300 <= response.status < 400:
                response.close()  # whatever it says beside the address does not matter
                return _Answer(response.status, found, b"", framed)
            return _Answer(response.status, found, await self._read(response, answer_room), framed)

    async def _written(self, dispatch: Dispatch, request: str, room: _Room) -> tuple[dict[str, str], bytes]:
        """The headers and the body, for as long as there is room for them."""
        memo_bytes = dispatch.memo_bytes or sum(len(memo.value) for memo in dispatch.memos)
        use_api = memo_bytes + sum(map(len, dispatch.events)) > MAX_STATE_BYTES
        memos: tuple[Memo, ...] = ()
        if not use_api:
            await room.take(memo_bytes + sum(map(len, dispatch.events)))
            memos = await _loaded(dispatch)
        call = Call(
            run=dispatch.run,
            target=dispatch.target,
            attempt=dispatch.attempt,
            max_attempts=dispatch.max_attempts,
            events=dispatch.events,
            memos=memos,
            stack=dispatch.stack,
            disable_immediate_execution=dispatch.disable_immediate_execution,
            version=dispatch.version,
            request=request,
            function=dispatch.function.id,
            job=dispatch.job,
            generation=dispatch.fence,
            use_api=use_api,
            ready=None if use_api else _ready(dispatch),
        )
        body = build_body(call)
        now_s = self._clock() // 1000
        return headers(call, body, key=self._signing_key, now_s=now_s, server_kind=self._server_kind), body

    async def _read(self, response: aiohttp.ClientResponse, room: _Room) -> bytes:
        """The whole body, decompressed and bounded.

        Raises:
            _Stopped: It is too large, or compressed in a way we did not ask for.
            aiohttp.ClientPayloadError: It ended early.
        """
        what = f"the app at {_shown(str(response.url))}"
        length = response.content_length or 0
        if length > self._max_answer_bytes:
            response.close()
            raise _Stopped(replies.too_large(length, what))
        unpack = _unpacker(response.headers.get("Content-Encoding", ""), what)
        pieces: list[bytes] = []
        total = 0
        async for chunk in response.content.iter_any():
            for piece in unpack.feed(chunk, self._max_answer_bytes + 1 - total):
                total += len(piece)
                pieces.append(piece)
                if total > self._max_answer_bytes:
                    response.close()
                    raise _Stopped(replies.too_large(total, what))
            if total > SMALL_BYTES:
                await room.take(length or self._max_answer_bytes)
        unpack.finish()
        return b"".join(pieces)

    async def _read_reply(self, answer: _Answer, what: str) -> replies.Reply:
        now = self._clock()

        def read() -> replies.Reply:
            return replies.read_reply(
                answer.status, answer.headers, answer.body, now=now, framed=answer.framed, what=what
            )

        return await asyncio.to_thread(read) if len(answer.body) > _THREAD_BYTES else read()

    # What goes wrong on the way

    def _unreachable(self, dispatch: Dispatch, attempt: _Attempt, err: Exception) -> CallLost:
        where = f"the app at {attempt.url}"
        match err:
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError() | ssl.SSLError():
                code, text = "tls_error", f"{where} has no valid TLS certificate or speaks no TLS: {err}"
            case aiohttp.ClientConnectorDNSError():
                code, text = "http_unreachable", f"{where} has no address: {err}; check the host name"
            case aiohttp.ServerTimeoutError():
                code = "http_unreachable"
                text = f"{where} accepted no connection within {self._connect_timeout_s:g} s; is it running?"
            case aiohttp.ClientConnectorError():
                code, text = "http_unreachable", f"{where} cannot be connected to: {err}; is it running?"
            case aiohttp.ClientPayloadError() | zlib.error():
                code, text = "truncated_response", f"{where} did not send all of its answer: {err}"
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | OSError():
                code, text = "connection_lost", f"{where} closed the connection before it had answered: {err}"
            case _:
                code, text = "invalid_http", f"{where} answered with something that is not HTTP: {err}"
        # A connection kept from an earlier call may have been closed by the app just as we used it.
        at_once = code == "connection_lost" and bool(attempt.traced.reused) and not attempt.status
        return self._lost(dispatch, attempt, code, text, at_once=at_once)

    def _past_deadline(self, dispatch: Dispatch, attempt: _Attempt) -> CallLost:
        text = "the call's deadline passed before the app had answered"
        return self._lost(dispatch, attempt, "deadline_passed", text)

    def _lost(self, dispatch: Dispatch, attempt: _Attempt, code: str, text: str, *, at_once: bool = False) -> CallLost:
        name = "".join(word.capitalize() for word in code.split("_"))
        error = own_error(name, shortened(text, 2000))
        return CallLost(dispatch.job, error, at_once=at_once, info=attempt.info(attempt.url), code=code)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_note_reuse)
            if self._addresses is not None:
                trace.on_connection_create_start.append(partial(_aim, self._addresses))
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    resolver=LoopbackResolver(),
                    keepalive_timeout=_KEEP_ALIVE_S,
                    socket_factory=self._addresses.socket if self._addresses is not None else None,
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trace_configs=[trace],
                headers={"User-Agent": "stepwell"},
            )
        return self._session


def _abandon(flight: _Flight) -> None:
    if flight.timer is not None:
        flight.timer.cancel()
    if flight.task is not None:
        flight.task.cancel()
    else:
        flight.places.give_up(flight.number)


def _ready(dispatch: Dispatch) -> Ready | None:
    """The text of its memos, most of it from earlier calls of the run; None if a later call was quicker than this."""
    kept = dispatch.kept
    if kept is None or kept.large:
        return None
    ready = kept.made
    if not isinstance(ready, Ready):
        ready = kept.made = Ready()
    if len(ready) > len(dispatch.memos):
        return None
    for memo in dispatch.memos[len(ready) :]:
        ready.add(memo)
    return ready


async def _loaded(dispatch: Dispatch) -> tuple[Memo, ...]:
    if dispatch.load_memos is None:
        return dispatch.memos
    try:
        return await dispatch.load_memos()
    except OSError as err:  # of the store, not of the connection to the app
        raise RuntimeError(f"the recorded results cannot be read: {err}") from err


async def _note_reuse(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.reused = True


async def _aim(addresses: Addresses, session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    """Runs in the task that opens the connection."""
    host, port = place_of(context.trace_request_ctx.url) or ("", 0)
    context.trace_request_ctx.aimed = addresses.aim(host, port)


async def _pieces(body: bytes, room: _Room) -> AsyncIterator[bytes]:
    """The body in pieces; its room is free as soon as the last one is on its way."""
    view = memoryview(body)
    try:
        for start in range(0, len(body), _CHUNK_BYTES):
            yield bytes(view[start : start + _CHUNK_BYTES])
    finally:
        room.release()


# URLs and redirects


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        callable_ = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        callable_ = False
    if not callable_:
        text = f"the URL {shortened(url)!r} cannot be called; it must begin with http:// or https:// and name a host"
        raise _Stopped(replies.Failure(own_error("InvalidUrl", text), code="invalid_url", lost=True))


def _redirected(answer: _Answer, url: str) -> str:
    """Where a redirect leads, with the query parameters of the call."""
    location = answer.headers.get("location", "")
    if answer.status not in {307, 308}:
        raise _Stopped(
            _redirect_failure(
                answer,
                f"redirected the call to {shortened(_shown(location), 200)!r}, which would turn it into a GET; "
                "register that address, or answer 307 or 308",
            )
        )
    if not location:
        raise _Stopped(_redirect_failure(answer, "redirected the call without saying where; correct `Location`"))
    try:
        target = urlsplit(urljoin(url, location))
    except ValueError as err:
        text = f"redirected the call to {shortened(location)!r}, which is not an address; correct `Location`"
        raise _Stopped(_redirect_failure(answer, text)) from err
    _check_url(target.geturl())
    given = [pair for pair in target.query.split("&") if pair]
    names = {parameter_name(pair) for pair in given}
    carried = [pair for pair in urlsplit(url).query.split("&") if pair and parameter_name(pair) not in names]
    return urlunsplit(target._replace(query="&".join(given + carried), fragment=""))


def _redirect_failure(answer: _Answer, text: str) -> replies.Failure:
    return replies.Failure(
        own_error("Redirected", f"the app answered HTTP {answer.status} and {text}", status=answer.status),
        code=f"http_{answer.status}",
    )


# Bodies


class _Plain:
    """A body that is sent as it is."""

    def feed(self, chunk: bytes, limit: int) -> list[bytes]:
        return [chunk]

    def finish(self) -> None:
        pass


class _Zipped:
    """A gzip or zlib body, unpacked no further than anybody wants to read."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=47)
        self._fed = False

    def feed(self, chunk: bytes, limit: int) -> list[bytes]:
        """At most `limit` bytes of what `chunk` unpacks to; then the caller stops."""
        pieces = []
        while chunk and limit > 0:
            if self._stream.eof:
                self._stream = zlib.decompressobj(wbits=47)
            self._fed = True
            piece = self._stream.decompress(chunk, min(limit, _CHUNK_BYTES))
            limit -= len(piece)
            if piece:
                pieces.append(piece)
            chunk = self._stream.unconsumed_tail or self._stream.unused_data
        return pieces

    def finish(self) -> None:
        if self._fed and not self._stream.eof:
            raise aiohttp.ClientPayloadError("the compressed body ends early")


def _unpacker(encoding: str, what: str) -> _Plain | _Zipped:
    kind = encoding.strip().lower()
    if kind in {"", "identity"}:
        return _Plain()
    if kind in {"gzip", "x-gzip", "deflate"}:
        return _Zipped()
    raise _Stopped(
        replies.Failure(
            own_error(
                "UnsupportedEncoding",
                f"{what} compressed its answer with {shortened(kind, 40)!r} although the request asks for none; "
                "turn compression off for it, or use gzip",
            ),
            code="unsupported_encoding",
            lost=True,
        )
    )


# Addresses


class LoopbackResolver(AbstractResolver):
    """The system's resolver, except that `localhost` is always both loopback addresses, IPv6 first.

    An app may listen on either one only, and SDKs register 127.0.0.1 as well, which is stored as localhost
    (section 3.6).
    """

    def __init__(self) -> None:
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if host.rstrip(".").lower() != "localhost":
            return await self._system.resolve(host, port, family)
        found = [("::1", socket.AF_INET6), ("127.0.0.1", socket.AF_INET)]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for address, kind in found
            if family in {socket.AF_UNSPEC, kind}
        ]

    async def close(self) -> None:
        await self._system.close()


def place_of(url: str) -> tuple[str, int] | None:
    """Host and port of a URL, as the client reads it; None if it cannot."""
    try:
        parts = URL(url)
        host, port = parts.raw_host, parts.port
    except ValueError:
        return None
    return (host, port) if host and port else None


async def _refusals(addresses: Addresses, resolver: LoopbackResolver, host: str, port: int) -> list[str]:
    """What is said about each address of a host; nothing about one that has none."""
    try:
        found = await resolver.resolve(host, port)
    except (OSError, ValueError):
        return []
    return [addresses.refusal(host, port, one["host"]) for one in found]


def _shown(url: str) -> str:
    """A URL without what must not be shown: user, password, query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
