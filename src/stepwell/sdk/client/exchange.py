"""Carrying out what `requests.py` asks: one small loop that blocks, and the same loop with `await`.

What is asked is a generator: it yields an `Ask` and is sent the `Answer`, it yields a `Pause` and is resumed
after it, and what it returns is the result. A request that got no answer is thrown into it as
`ServerUnreachable`, so that it can decide whether to ask again.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeAlias, TypeVar
from urllib.parse import urlencode

from stepwell.model.payload import decode
from stepwell.sdk.client.address import Address
from stepwell.sdk.client.errors import ServerUnreachable

if TYPE_CHECKING:
    import ssl

    import httpx2

T = TypeVar("T")

CONNECT_S = 5.0
ANSWER_S = 30.0
"""How long the server may take to begin an answer."""
QUIET_S = 45.0
"""How long a followed run may say nothing before the connection counts as lost; the server sends comments."""
_PIECE_BYTES = 1 << 18
STOPPING = 503
"""The status of a server that stops, or has lost its store; of several another is asked the next time."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `path` begins with a slash and is encoded; `key` goes into `Authorization`.

    Attributes:
        file: What is sent in place of `body`, piece by piece.
        elsewhere: A whole address, in place of `path` at the server's.
    """

    method: str
    path: str
    body: bytes | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    to_events: bool = False
    file: Path | None = None
    elsewhere: str = ""

    def url(self, address: Address) -> str:
        if self.elsewhere:
            return self.elsewhere
        base = address.events if self.to_events else address.api
        return f"{base}{self.path}{'?' + urlencode(self.query) if self.query else ''}"


@dataclass(frozen=True, slots=True)
class Pause:
    """Ask nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Names of headers are in lower case."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The decoded body, or None if it is no JSON."""
        try:
            return decode(self.body)
        except ValueError:
            return None


Flow: TypeAlias = Generator[Ask | Pause, Answer | None, T]


class Exchange:
    """Carries out flows, blocking. Safe to share between threads."""

    def __init__(self, address: Address, user_agent: str) -> None:
        import httpx2

        self.address = address
        self._http = httpx2.Client(**_settings(address, user_agent))

    def run(self, flow: Flow[T]) -> T:
        """The result of `flow`."""
        step = Step(flow)
        while not step.ended:
            match step.wants:
                case Pause(seconds):
                    time.sleep(seconds)
                    step.answered(None)
                case Ask() as ask:
                    import httpx2

                    address = self.address
                    try:
                        with nullcontext() if ask.file is None else ask.file.open("rb") as file:
                            body = ask.body if file is None else _pieces(file)
                            got = self._http.request(
                                ask.method, ask.url(address), content=body, headers=dict(ask.headers)
                            )
                    except httpx2.RequestError as err:
                        self.address = after_failure(self.address, address)
                        step.failed(unreachable(err, address, ask))
                    else:
                        if got.status_code == STOPPING:
                            self.address = after_failure(self.address, address)
                        step.answered(_answer(got, got.content))
        return step.result()

    @contextmanager
    def stream(self, ask: Ask, *, quiet_s: float = QUIET_S) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """A request whose answer is read as it comes. Raises `ServerUnreachable`, also while it is read.

        Args:
            quiet_s: How long it may say nothing.
        """
        import httpx2

        address = self.address
        timeout = httpx2.Timeout(quiet_s, connect=CONNECT_S)
        try:
            with self._http.stream(
                ask.method, ask.url(address), headers=dict(ask.headers), timeout=timeout
            ) as response:
                body = b"" if response.is_success else response.read()
                if response.status_code == STOPPING:
                    self.address = after_failure(self.address, address)
                yield _answer(response, body), response.iter_bytes()
        except httpx2.RequestError as err:
            self.address = after_failure(self.address, address)
            raise unreachable(err, address, ask) from err

    def close(self) -> None:
        self._http.close()


class AsyncExchange:
    """Carries out flows on an event loop."""

    def __init__(self, address: Address, user_agent: str) -> None:
        import httpx2

        self.address = address
        self._http = httpx2.AsyncClient(**_settings(address, user_agent))

    async def run(self, flow: Flow[T]) -> T:
        """The result of `flow`."""
        step = Step(flow)
        while not step.ended:
            match step.wants:
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                    step.answered(None)
                case Ask() as ask:
                    import httpx2

                    address = self.address
                    try:
                        with nullcontext() if ask.file is None else ask.file.open("rb") as file:
                            body = ask.body if file is None else _pieces_async(file)
                            got = await self._http.request(
                                ask.method, ask.url(address), content=body, headers=dict(ask.headers)
                            )
                    except httpx2.RequestError as err:
                        self.address = after_failure(self.address, address)
                        step.failed(unreachable(err, address, ask))
                    else:
                        if got.status_code == STOPPING:
                            self.address = after_failure(self.address, address)
                        step.answered(_answer(got, got.content))
        return step.result()

    @asynccontextmanager
    async def stream(self, ask: Ask) -> AsyncIterator[tuple[Answer, AsyncIterator[bytes]]]:
        """A request whose answer is read as it comes. Raises `ServerUnreachable`, also while it is read."""
        import httpx2

        address = self.address
        timeout = httpx2.Timeout(QUIET_S, connect=CONNECT_S)
        try:
            async with self._http.stream(
                ask.method, ask.url(address), headers=dict(ask.headers), timeout=timeout
            ) as response:
                body = b"" if response.is_success else await response.aread()
                if response.status_code == STOPPING:
                    self.address = after_failure(self.address, address)
                yield _answer(response, body), response.aiter_bytes()
        except httpx2.RequestError as err:
            self.address = after_failure(self.address, address)
            raise unreachable(err, address, ask) from err

    async def close(self) -> None:
        await self._http.aclose()


class Step(Generic[T]):
    """A flow and where it stands."""

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self._result: T | None = None
        self.ended = False
        self.wants: Ask | Pause | None = None
        self._go(lambda: next(flow))

    def answered(self, answer: Answer | None) -> None:
        self._go(lambda: self._flow.send(answer))

    def failed(self, error: ServerUnreachable) -> None:
        self._go(lambda: self._flow.throw(error))

    def result(self) -> T:
        return self._result  # type: ignore[return-value]

    def _go(self, move: Callable[[], Ask | Pause]) -> None:
        try:
            self.wants = move()
        except StopIteration as stop:
            self.ended, self._result = True, stop.value


def after_failure(now: Address, used: Address) -> Address:
    """Where to ask next when `used` failed and `now` is asked: the next server, unless somebody else went on already.

    Every flow asks again what failed, and asks only what may be asked twice, so the next try reaches another server.
    """
    return used.next() if now is used else now


def unreachable(error: httpx2.RequestError, address: Address, ask: Ask) -> ServerUnreachable:
    """The error of a request that got no answer."""
    import httpx2

    refused = isinstance(error, httpx2.ConnectError)
    url = address.events if ask.to_events else address.api
    reason = str(error).strip() or type(error).__name__
    wrapped = ServerUnreachable(url if refused else ask.url(address).partition("?")[0], reason, refused=refused)
    wrapped.__cause__ = error
    return wrapped


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece


async def _pieces_async(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
        yield piece


def _answer(response: httpx2.Response, body: bytes) -> Answer:
    return Answer(response.status_code, body, {name.lower(): value for name, value in response.headers.items()})


def _settings(address: Address, user_agent: str) -> dict[str, Any]:
    import httpx2

    headers = {"User-Agent": user_agent}
    if address.env:
        headers["x-inngest-env"] = address.env
    return {
        "headers": headers,
        "timeout": httpx2.Timeout(ANSWER_S, connect=CONNECT_S),
        "trust_env": not address.is_local,
        "verify": certificates(),
    }


@functools.cache
def certificates() -> ssl.SSLContext:
    """The certificates to trust, read once: it takes longer than most requests."""
    import httpx2

    return httpx2.create_ssl_context()
