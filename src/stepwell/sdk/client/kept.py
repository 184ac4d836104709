"""Many small requests to one server over connections that are kept open.

A general HTTP client costs more than all the rest of a reported step. This one can do little: HTTP/1.1, a body that
is known beforehand, one request at a time on each connection, an answer that is read whole. Where the program's
environment asks for a proxy, `AsyncExchange` does the work instead.

A kept connection may have been closed by the server just as it is used. So only what may be asked twice goes here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit

from stepwell.sdk.client.errors import ServerUnreachable
from stepwell.sdk.client.exchange import (
    ANSWER_S,
    CONNECT_S,
    STOPPING,
    Answer,
    Ask,
    AsyncExchange,
    Flow,
    Pause,
    Step,
    after_failure,
    certificates,
)

if TYPE_CHECKING:
    from stepwell.sdk.client.address import Address

T = TypeVar("T")

IDLE_S = 4.0
"""How long a connection is kept without use; servers close theirs after five seconds."""
MOST_IDLE = 256
MAX_ANSWER_BYTES = 1024 * 1024
_MAX_HEAD_BYTES = 64 * 1024


class KeptExchange:
    """Carries out flows on the running event loop, over connections of its own.

    Args:
        user_agent: Of every request.
    """

    def __init__(self, address: Address, user_agent: str) -> None:
        self.address = address
        self._user_agent = user_agent
        self._idle: list[tuple[float, _Connection]] = []
        self._until_the_end: AsyncGenerator[None, None] | None = None
        self._through_proxy: AsyncExchange | None = None
        if _wants_proxy(address):
            self._through_proxy = AsyncExchange(address, user_agent)

    async def run(self, flow: Flow[T]) -> T:
        """The result of `flow`. Every request of it may be sent twice."""
        if self._through_proxy is not None:
            return await self._through_proxy.run(flow)
        step = Step(flow)
        while not step.ended:
            match step.wants:
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                    step.answered(None)
                case Ask() as ask:
                    address = self.address
                    try:
                        answer = await self._ask(ask)
                    except (OSError, EOFError, ValueError) as err:
                        failed = self._unreachable(ask, err)
                        self._leave(address)
                        step.failed(failed)
                    else:
                        if answer.status == STOPPING:
                            self._leave(address)
                        step.answered(answer)
        return step.result()

    async def close(self) -> None:
        """Close what is open and not in use."""
        self._close_idle()
        if self._through_proxy is not None:
            await self._through_proxy.close()

    def _leave(self, address: Address) -> None:
        """Ask the next of several servers from now on, if it is still this one that is asked."""
        if (moved := after_failure(self.address, address)) is not self.address:
            self._close_idle()
            self.address = moved

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    async def _while_the_loop_runs(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._close_idle()

    async def _ask(self, ask: Ask) -> Answer:
        address = self.address
        parts = urlsplit(ask.url(address))
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        request = self._request(ask, parts.netloc.rpartition("@")[2], target)
        while (connection := self._kept()) is not None:
            try:
                return await self._answered(connection, request, address)
            except (OSError, EOFError):
                if connection.heard:
                    raise  # of this very request
        connection = await self._connected(parts.scheme, parts.hostname or "localhost", parts.port)
        return await self._answered(connection, request, address)

    async def _answered(self, connection: _Connection, request: bytes, address: Address) -> Answer:
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await connection.ask(request)
        except BaseException:
            connection.close()
            raise
        if connection.open and self.address is address and len(self._idle) < MOST_IDLE:
            self._idle.append((time.monotonic(), connection))
        else:
            connection.close()
        return answer

    def _kept(self) -> _Connection | None:
        """The connection that was used last, if it is still fit for use."""
        while self._idle:
            since, connection = self._idle.pop()
            if connection.open and time.monotonic() - since < IDLE_S:
                return connection
            connection.close()
        return None

    async def _connected(self, scheme: str, host: str, port: int | None) -> _Connection:
        if self._until_the_end is None:
            # Nobody tells a handler below another application when the program ends. But event loops close the
            # generators that are open in them before they end themselves.
            self._until_the_end = self._while_the_loop_runs()
            await anext(self._until_the_end)
        secured = scheme == "https"
        async with asyncio.timeout(CONNECT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection, host, port or (443 if secured else 80), ssl=certificates() if secured else None
            )
        return connection

    def _request(self, ask: Ask, host: str, target: str) -> bytes:
        body = ask.body or b""
        headers = {"Host": host, "User-Agent": self._user_agent, "Content-Length": str(len(body)), **ask.headers}
        if self.address.env:
            headers["x-inngest-env"] = self.address.env
        lines = [f"{ask.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode("latin-1") + body

    def _unreachable(self, ask: Ask, error: Exception) -> ServerUnreachable:
        reason = f"no answer within {ANSWER_S:g} s" if isinstance(error, TimeoutError) else str(error)
        refused = isinstance(error, ConnectionRefusedError)
        url = self.address.api if refused else ask.url(self.address).partition("?")[0]
        wrapped = ServerUnreachable(url, reason or type(error).__name__, refused=refused)
        wrapped.__cause__ = error
        return wrapped


class _Connection(asyncio.Protocol):
    """One connection. `heard`: something came back to the last request. `open`: it can take another."""

    def __init__(self) -> None:
        self.open = True
        self.heard = False
        self._transport: asyncio.Transport | None = None
        self._got = bytearray()
        self._waiter: asyncio.Future[Answer] | None = None
        self._ended = False

    async def ask(self, request: bytes) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            EOFError, OSError: The connection ended before the answer was whole.
            ValueError: What came back is no HTTP that is understood here.
        """
        assert self._transport is not None
        self.heard = False
        if self._transport.is_closing():
            raise EOFError("the connection was closed")
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.close()

    # Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            self.close()  # nobody asked
            return
        self.heard = True
        self._got += data
        self._look()

    def eof_received(self) -> bool | None:
        self._ended = True
        self.open = False
        if self._waiter is not None and not self._waiter.done():
            self._look()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or EOFError("the server closed the connection before it had answered"))

    def _look(self) -> None:
        assert self._waiter is not None
        try:
            answer = self._read()
        except ValueError as err:
            self.open = False
            self._waiter.set_exception(err)
        else:
            if answer is not None:
                self._waiter.set_result(answer)

    def _read(self) -> Answer | None:
        """The answer, if all of it is there."""
        head_end = self._got.find(b"\r\n\r\n")
        if head_end < 0:
            if len(self._got) > _MAX_HEAD_BYTES:
                raise ValueError(f"the headers of the answer have more than {_MAX_HEAD_BYTES} bytes")
            return None
        first, *lines = bytes(self._got[:head_end]).decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        status = rest[:3]
        if not version.startswith("HTTP/1.") or not status.isdigit():
            raise ValueError(f"the answer begins with {first[:80]!r}, which is not HTTP/1.1")
        if status.startswith("1"):
            del self._got[: head_end + 4]
            return self._read()
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = self._body(head_end + 4, int(status), headers)
        if body is None:
            return None
        if headers.get("connection", "").lower() == "close" or version == "HTTP/1.0":
            self.open = False
        return Answer(int(status), body, headers)

    def _body(self, start: int, status: int, headers: dict[str, str]) -> bytes | None:
        if len(self._got) - start > MAX_ANSWER_BYTES:
            raise ValueError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        if status in {204, 304}:
            end = start
        elif "chunked" in headers.get("transfer-encoding", "").lower():
            return self._chunks(start)
        elif "content-length" in headers:
            end = start + int(headers["content-length"])
            if len(self._got) < end:
                return None
        elif self._ended:
            end = len(self._got)
        else:
            return None
        body = bytes(self._got[start:end])
        del self._got[:end]
        return body

    def _chunks(self, at: int) -> bytes | None:
        pieces: list[bytes] = []
        while True:
            line_end = self._got.find(b"\r\n", at)
            if line_end < 0:
                return None
            size = int(bytes(self._got[at:line_end]).partition(b";")[0], 16)
            at = line_end + 2
            if not size:
                end = self._got.find(b"\r\n\r\n", line_end)  # trailers, if any, end with an empty line
                if end < 0:
                    return None
                del self._got[: end + 4]
                return b"".join(pieces)
            if len(self._got) < at + size + 2:
                return None
            pieces.append(bytes(self._got[at : at + size]))
            at += size + 2


def _wants_proxy(address: Address) -> bool:
    """Whether the environment names a proxy for this server."""
    if address.is_local:
        return False
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(address.api)
    proxies = getproxies()
    return bool(proxies.get(parts.scheme) or proxies.get("all")) and not proxy_bypass(parts.hostname or "")
