"""One request over the network: redirects followed one by one, limits kept, times measured.

Whatever comes back is handed on as it arrived, except that gzip and deflate are undone. The addresses of each hop are
checked by the policy where its socket is opened; credentials go to the origin that the caller named, and to no other.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import aiohttp
import yarl

from stepwell.gateway.policy import Policy
from stepwell.gateway.scrub import Scrubber
from stepwell.gateway.unpack import ACCEPTED, TornBody, Unpacker
from stepwell.wire.models.credentials import is_credential_header

MAX_REDIRECTS = 5
SMALL_BYTES = 64 * 1024
"""A body up to this size needs no place."""
_LONGEST_URL = 16 * 1024
_KEEP_ALIVE_S = 15.0
_PIECE_BYTES = 256 * 1024
_STEADY = 10  # pauses
_METHOD = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BLANK = re.compile(r"[\x00-\x20]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f]")
_OURS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade"}
)
_END_S = 1.0
_END_BYTES = 4096


class FetchFailed(Exception):
    """No answer. `final`: the same request can have no other end. The message shows no credential."""

    def __init__(self, code: str, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.final = final


@dataclass(frozen=True, slots=True, repr=False)
class Outgoing:
    """A request, with all its credentials: neither stored nor shown.

    `secret` are the names, in lower case, of the headers that go to the first origin only; `scrub` knows the values
    that no other origin may see in its address, and takes them out of the answer.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None
    secret: frozenset[str] = frozenset()
    scrub: Scrubber = field(default_factory=Scrubber)
    max_redirects: int = MAX_REDIRECTS


@dataclass(slots=True)
class Timing:
    """What is measured of a request, in milliseconds from its beginning."""

    begun: float = field(default_factory=time.monotonic)
    redirects: int = 0
    connected_ms: float | None = None
    first_byte_ms: float | None = None
    received_bytes: int = 0

    def now_ms(self) -> float:
        return (time.monotonic() - self.begun) * 1000


class Incoming:
    """An answer whose body is still to be read. Wherever it repeats a credential of its request, that is taken out."""

    def __init__(
        self, url: str, response: aiohttp.ClientResponse, timing: Timing, scrub: Scrubber, ticks: Ticks
    ) -> None:
        self.url = url
        self.status = response.status
        self._scrub = scrub
        self._ticks = ticks
        self._pausing: asyncio.Future[None] | None = None
        self._pauses = 0
        self._response = response
        self._timing = timing
        self._unpacker = Unpacker(response.headers.get("Content-Encoding", ""))
        self.large = False
        """Whether `read` took a place for a large body."""
        self.told = False
        """Whether all that matters was read: what follows is awaited beside, so that the connection is kept."""

    @property
    def reason(self) -> str:
        return self._scrub.clean_text(self._response.reason or "")

    @property
    def content_type(self) -> str:
        return self._scrub.clean_text((self._response.headers.getall("Content-Type", None) or [""])[-1])

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """As they came, except those that tell of a compression that `read` undoes, or of a length that is another by
        now."""
        gone = {"content-encoding", "content-length"} if self._unpacker.undone else set()
        if self._scrub.found:
            gone.add("content-length")
        clean = self._scrub.clean_text
        return tuple((name, clean(value)) for name, value in self._response.headers.items() if name.lower() not in gone)

    async def chunks(self, *, every_s: float = 0.0) -> AsyncGenerator[bytes, None]:
        """The body, unpacked. Who may read no further than to some part of it closes it, with `aclosing`.

        Args:
            every_s: How long to wait after something came before more is read, so that what comes in many small pieces
                is dealt with in fewer. The end of a short body is not waited with.

        Raises:
            FetchFailed: It ended early.
        """
        clean = self._scrub.stream()
        paused: asyncio.ReadTransport | None = None
        try:
            content = self._response.content
            while chunk := await content.readany():
                self._timing.received_bytes += len(chunk)
                for piece in self._unpacker.feed(chunk):
                    if cleaned := clean.feed(piece):
                        yield cleaned
                if every_s and not content.is_eof():
                    self._pauses += 1
                    connection = self._response.connection
                    if self._pauses <= _STEADY or connection is None or connection.transport is None:
                        await self._pause(every_s)
                    else:
                        paused = connection.transport
                        self._ticks.pause(paused, every_s)
            self._unpacker.finish()
            if rest := clean.finish():
                yield rest
        except TornBody as err:
            raise FetchFailed("truncated_response", f"{_where(self.url)}: {err}") from err
        except (aiohttp.ClientPayloadError, aiohttp.ClientOSError, OSError) as err:
            if isinstance(err, TimeoutError):
                raise
            raise FetchFailed("truncated_response", f"{_where(self.url)} did not send all of its answer") from err
        finally:
            if paused is not None:
                self._ticks.resume(paused)

    async def _pause(self, seconds: float) -> None:
        """Let more of the body come, but for no longer than that, and not once it is whole."""
        if self._pausing is None:
            self._response.content.on_eof(self._go_on)
        loop = asyncio.get_running_loop()
        self._pausing = loop.create_future()
        timer = loop.call_later(seconds - loop.time() % seconds, self._go_on)
        try:
            await self._pausing
        finally:
            timer.cancel()

    def _go_on(self) -> None:
        if self._pausing is not None and not self._pausing.done():
            self._pausing.set_result(None)

    async def read(
        self,
        limit_bytes: int,
        room: asyncio.Semaphore,
        *,
        every_s: float = 0.0,
        each: Callable[[bytes], None] | None = None,
    ) -> bytes:
        """The whole body. One that is not small waits for a place in `room`, which the caller frees, and meanwhile its
        server waits too. `each` is shown what comes, as `chunks` gives it.

        Raises:
            FetchFailed: It ended early, or is larger.
        """
        pieces: list[bytes] = []
        total = 0
        async with aclosing(self.chunks(every_s=every_s)) as chunks:
            async for piece in chunks:
                total += len(piece)
                if each is not None:
                    each(piece)
                if total > limit_bytes:
                    raise FetchFailed(
                        "response_too_large",
                        f"the answer of {_where(self.url)} has more than {limit_bytes} bytes, the limit; ask for less, "
                        "or fetch it in a step of your own and keep it elsewhere",
                        final=True,
                    )
                pieces.append(piece)
                if total > SMALL_BYTES and not self.large:
                    await room.acquire()
                    self.large = True
        return b"".join(pieces)

    async def beginning(self, limit_bytes: int) -> bytes:
        """As much of the body as is needed to understand an error."""
        text = b""
        async with aclosing(self.chunks()) as chunks:
            async for piece in chunks:
                text += piece
                if len(text) >= limit_bytes:
                    break
        return text[:limit_bytes]


class Ticks:
    """The moments at which bodies that have come in small pieces for a while are read on.

    Between them such a body comes no further than its socket: one read of all that is there is much cheaper than one
    for every piece. Its end may be that much later. The moments are the same for all bodies, so that there is one
    timer, and one turn of the loop, for all of them.
    """

    def __init__(self) -> None:
        self._paused: set[asyncio.ReadTransport] = set()
        self._timer: asyncio.TimerHandle | None = None

    def pause(self, transport: asyncio.ReadTransport, every_s: float) -> None:
        """Read nothing of it until the next moment; they are `every_s` seconds apart."""
        transport.pause_reading()
        self._paused.add(transport)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(every_s - loop.time() % every_s, self._resume_all)

    def resume(self, transport: asyncio.ReadTransport) -> None:
        """Read it as it comes from now on, if it still is to be read at a moment to come."""
        if transport in self._paused:
            self._paused.discard(transport)
            if not transport.is_closing():
                transport.resume_reading()

    def _resume_all(self) -> None:
        self._timer = None
        paused, self._paused = self._paused, set()
        for transport in paused:
            if not transport.is_closing():
                transport.resume_reading()


class Fetcher:
    """Makes requests over one shared pool of connections.

    Args:
        policy: Which addresses may be called.
        connect_timeout_s: For one connection, name and TLS included.
        per_host: Connections to one host at a time; requests beyond them wait.
    """

    def __init__(self, policy: Policy, *, connect_timeout_s: float = 10.0, per_host: int = 100) -> None:
        self._policy = policy
        self._connect_timeout_s = connect_timeout_s
        self._per_host = per_host
        self._session: aiohttp.ClientSession | None = None
        self._ends: set[asyncio.Task[None]] = set()
        self._ticks = Ticks()

    @asynccontextmanager
    async def open(self, request: Outgoing, timing: Timing) -> AsyncIterator[Incoming]:
        """Make a request and follow its redirects.

        Raises:
            FetchFailed: There is no answer, or it leads where it must not.
        """
        method, url, body = request.method.upper(), request.url, request.body
        headers = _sendable(request.headers)
        _check(method, url)
        while True:
            try:
                response = await self._send(method, url, headers, body, timing)
            except (aiohttp.ClientError, OSError, ValueError) as err:
                if isinstance(err, TimeoutError) and not isinstance(err, aiohttp.ServerTimeoutError):
                    raise
                raise self._failure(url, err) from err
            timing.first_byte_ms = timing.now_ms()
            location = response.headers.get("Location", "")
            redirected = response.status in {301, 302, 303, 307, 308} and location and request.max_redirects > 0
            if not redirected:
                break
            status = response.status
            response.close()  # whatever it says beside the address does not matter
            if timing.redirects >= min(request.max_redirects, MAX_REDIRECTS):
                limit = min(request.max_redirects, MAX_REDIRECTS)
                text = f"{_where(request.url)} redirected the request more than {limit} times, the limit"
                raise FetchFailed("too_many_redirects", text, final=True)
            timing.redirects += 1
            target = _target(url, location)
            if origin(target) != origin(url):
                headers, target = _without_credentials(headers, target, request)
            if status == 303 or (status in {301, 302} and method == "POST"):
                method, body = ("HEAD" if method == "HEAD" else "GET"), None
                headers = {name: value for name, value in headers.items() if not name.lower().startswith("content-")}
            url = target
        incoming = Incoming(url, response, timing, request.scrub, self._ticks)
        try:
            yield incoming
        finally:
            if incoming.told and not response.content.at_eof():
                end = asyncio.create_task(_read_end(response), name="end of an answer")
                self._ends.add(end)
                end.add_done_callback(self._ends.discard)
            else:
                response.close()

    async def close(self) -> None:
        """Close all connections."""
        for end in self._ends:
            end.cancel()
        await asyncio.gather(*self._ends, return_exceptions=True)
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timing: Timing
    ) -> aiohttp.ClientResponse:
        parts = urlsplit(url)
        assert parts.hostname is not None
        target = self._policy.aim(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        if parts.username is not None and not any(name.lower() == "authorization" for name in headers):
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers = {**headers, "Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
        try:
            return await self._client().request(
                method,
                yarl.URL(bare, encoded=True),
                headers={**headers, "Content-Length": str(len(body))} if body is not None else headers,
                data=_pieces(body) if body is not None and len(body) > _PIECE_BYTES else body,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError) as err:
            if target.refusal:
                raise FetchFailed("address_refused", target.refusal, final=True) from err
            raise
        finally:
            if target.connected_at is not None:
                timing.connected_ms = (target.connected_at - timing.begun) * 1000

    def _failure(self, url: str, err: Exception) -> FetchFailed:
        where = _where(url)
        match err:
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError() | ssl.SSLError():
                return FetchFailed("tls_error", f"{where} has no valid TLS certificate or speaks no TLS", final=True)
            case aiohttp.ClientConnectorDNSError():
                return FetchFailed("unknown_host", f"{where} has no address; check the host name")
            case aiohttp.ServerTimeoutError():
                return FetchFailed("unreachable", f"{where} took no connection within {self._connect_timeout_s:g} s")
            case aiohttp.ClientConnectorError():
                return FetchFailed("unreachable", f"{where} cannot be connected to: {err.os_error.strerror or err}")
            case aiohttp.InvalidURL() | ValueError():
                return FetchFailed("invalid_url", "the URL cannot be requested", final=True)
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | OSError():
                return FetchFailed("connection_lost", f"{where} closed the connection before it had answered")
            case _:
                return FetchFailed(
                    "invalid_http", f"{where} answered with something that is not HTTP, or with too many headers"
                )

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(
                    self._policy,
                    limit=0,
                    limit_per_host=self._per_host,
                    keepalive_timeout=_KEEP_ALIVE_S,
                    socket_factory=self._policy.socket,
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                skip_auto_headers=("Content-Type",),
            )
        return self._session


class _Connector(aiohttp.TCPConnector):
    """Says when a connection is ready. aiohttp's own tracing tells the same at the price of all else that it tells."""

    def __init__(self, policy: Policy, **settings: Any) -> None:
        super().__init__(**settings)
        self._policy = policy

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[aiohttp.tracing.Trace], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        self._policy.connected()
        return connection


async def _read_end(response: aiohttp.ClientResponse) -> None:
    """Read the few bytes between the last event of a stream and the end of the answer, if they come soon.

    They come in a packet of their own as often as not, and a connection that is closed before them costs the next
    request a handshake.
    """
    read = 0
    try:
        async with asyncio.timeout(_END_S):
            while read < _END_BYTES and not response.content.at_eof():
                read += len(await response.content.readany())
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass  # then the connection is not used again
    finally:
        response.close()  # if it is not at its end


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """A large body, so that it is not copied into the socket's buffer at once."""
    view = memoryview(body)
    for start in range(0, len(body), _PIECE_BYTES):
        yield bytes(view[start : start + _PIECE_BYTES])


def _check(method: str, url: str) -> None:
    """Raise `FetchFailed` for what cannot be requested at all."""
    if not _METHOD.fullmatch(method) or method in {"CONNECT", "TRACE"}:
        raise FetchFailed("invalid_request", f"{method[:40]!r} is not a method that can be requested", final=True)
    try:
        parts = urlsplit(url)
        whole = parts.scheme.lower() in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or len(url) > _LONGEST_URL or _BLANK.search(url):
        raise FetchFailed(
            "invalid_url",
            f"the URL cannot be requested: it must begin with http:// or https://, name a host, have no blanks and at "
            f"most {_LONGEST_URL} letters",
            final=True,
        )


def _sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """The caller's headers without those that the connection decides on."""
    sent = {name: value for name, value in headers.items() if name.lower() not in _OURS}
    for name, value in sent.items():
        if not _HEADER_NAME.fullmatch(name) or _CONTROL.search(value):
            raise FetchFailed("invalid_request", f"the header {name[:40]!r} cannot be sent", final=True)
    lowered = {name.lower() for name in sent}
    if "accept-encoding" not in lowered:
        sent["Accept-Encoding"] = ACCEPTED
    if "user-agent" not in lowered:
        sent["User-Agent"] = "stepwell"
    return sent


def _target(url: str, location: str) -> str:
    try:
        target = urlsplit(urljoin(url, location))
        target = target._replace(path=quote(target.path, safe="/%:@!$&'()*+,;=~-._"), fragment="")
        text = urlunsplit(target)
    except ValueError:
        text = ""
    try:
        _check("GET", text)
    except FetchFailed as err:
        text = f"{_where(url)} redirected the request to something that is no http or https address"
        raise FetchFailed("invalid_redirect", text, final=True) from err
    return text


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL: what a connection is opened to."""
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.hostname or "", parts.port or (443 if parts.scheme.lower() == "https" else 80)


def _without_credentials(headers: Mapping[str, str], target: str, request: Outgoing) -> tuple[dict[str, str], str]:
    """What may go to another origin. Raises `FetchFailed` if its address holds a credential of the first one."""
    parts = urlsplit(target)
    target = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if request.scrub.holds(target):
        text = f"{_where(request.url)} redirected the request to {_where(target)} with a credential in the address"
        raise FetchFailed("invalid_redirect", text, final=True)
    kept = {
        name: value
        for name, value in headers.items()
        if name.lower() not in request.secret and not is_credential_header(name)
    }
    return kept, target


def _where(url: str) -> str:
    """Scheme and host of a URL: the part of it that may be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
