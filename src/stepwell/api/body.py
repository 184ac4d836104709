"""Request bodies: read whole, up to a limit each and up to a limit together.

Reaching the second limit answers 503 with `Retry-After`, so senders slow down and nothing is lost. Bytes count from
when they arrive until the request has been answered, since that is how long they take room. A gzip body is unpacked
no further than the first limit, however well it was packed.
"""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.model.errors import InvalidInput, Overloaded, StepwellError, TooLarge
from stepwell.wire.inngest.text import size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What surfaces refuse to go beyond; every refusal names the limit."""

    max_body_bytes: int = 16 * 1024 * 1024
    """Of one request, unpacked. Official SDKs send batches of 8 MB."""
    max_bodies_bytes: int = 64 * 1024 * 1024
    """Of all requests in progress together; above it senders get 503."""
    max_file_bytes: int = 5 * 1024**3
    """Of one file that is uploaded; it never is in memory as a whole."""
    max_requests: int = 5_000
    """Requests with a body in progress; above it senders get 503."""
    body_idle_s: float = 30.0
    """How long a sender may pause inside a body."""
    headers_s: float = 30.0
    """How long a client may take from connecting, or from the first byte of a further request, to the end of its
    headers; then it is disconnected."""
    max_streams: int = 4_000
    """Open event streams (`/follow`, `/stream`) at a time."""


class UnsupportedEncoding(StepwellError):
    """A body in a content encoding that this server does not unpack."""

    code = "UNSUPPORTED_ENCODING"
    http_status = 415


class BodyTimeout(StepwellError):
    """The sender stopped in the middle of a body."""

    code = "BODY_TIMEOUT"
    http_status = 408


class Disconnected(StepwellError):
    """The sender went away; nobody reads the answer."""

    code = "DISCONNECTED"
    http_status = 400


class Bodies:
    """The bodies in progress of one process."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes = 0
        self.requests = 0

    def hold(self) -> Held:
        """Begin with one request. Raises `Overloaded`."""
        if self.requests >= self.limits.max_requests:
            raise Overloaded(
                f"{self.requests} requests are in progress and {self.limits.max_requests} may be (max_requests)"
            )
        self.requests += 1
        return Held(self)


class Held:
    """The room that one request takes; `release` must be called in the end."""

    __slots__ = ("_bodies", "_bytes", "_open")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._bytes = 0
        self._open = True

    def release(self) -> None:
        if self._open:
            self._open = False
            self._bodies.requests -= 1
            self._bodies.bytes -= self._bytes

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The whole body, unpacked.

        Raises:
            TooLarge: Above `max_body_bytes`.
            Overloaded: Above `max_bodies_bytes` together with the others.
            UnsupportedEncoding: Neither plain nor gzip.
            InvalidInput: Not what its encoding says.
            BodyTimeout, Disconnected: The sender stopped.
        """
        limit = self._bodies.limits.max_body_bytes
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            raise self._too_large(int(announced))
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding not in (b"identity", b"", b"gzip", b"x-gzip"):
            raise UnsupportedEncoding(
                f"content-encoding {encoding.decode('ascii', 'replace')[:40]!r} is not supported; "
                "send the body plain or as gzip"
            )
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected("the sender went away before its body had arrived")
        body: bytes = message.get("body", b"")
        self._take(len(body))
        if message.get("more_body", False):
            body = await self._rest(body, receive)
        if len(body) > limit:
            raise self._too_large(len(body))
        return self._unpacked(body) if encoding in (b"gzip", b"x-gzip") else body

    async def _rest(self, first: bytes, receive: Receive) -> bytes:
        pieces, total = [first], len(first)
        limit, idle_s = self._bodies.limits.max_body_bytes, self._bodies.limits.body_idle_s
        while True:
            try:
                message = await asyncio.wait_for(receive(), idle_s)
            except TimeoutError as err:
                raise BodyTimeout(f"the body stopped arriving for {idle_s:g} s (body_idle_s)") from err
            if message["type"] != "http.request":
                raise Disconnected("the sender went away before its body had arrived")
            piece = message.get("body", b"")
            total += len(piece)
            if total > limit:
                raise self._too_large(total)
            self._take(len(piece))
            pieces.append(piece)
            if not message.get("more_body", False):
                return b"".join(pieces)

    def _unpacked(self, body: bytes) -> bytes:
        limit = self._bodies.limits.max_body_bytes
        unpacker = zlib.decompressobj(wbits=31)
        try:
            text = unpacker.decompress(body, limit + 1)
        except zlib.error as err:
            raise InvalidInput(f"the body is not the gzip that its content-encoding says: {err}") from err
        if len(text) > limit:
            raise self._too_large(len(text))
        if not unpacker.eof:
            raise InvalidInput("the gzip body ends before its end")
        self._take(len(text))
        return text

    def _take(self, count: int) -> None:
        bodies = self._bodies
        # A single request is always let in, so that a limit set too low does not stop everything.
        if bodies.bytes and bodies.bytes + count > bodies.limits.max_bodies_bytes:
            raise Overloaded(
                f"the bodies of all requests in progress would take {size(bodies.bytes + count)} and may take "
                f"{size(bodies.limits.max_bodies_bytes)} (max_bodies_bytes); send again in a moment"
            )
        bodies.bytes += count
        self._bytes += count

    def _too_large(self, count: int) -> TooLarge:
        return TooLarge(
            f"the body has {size(count)} or more and may have {size(self._bodies.limits.max_body_bytes)} "
            "(max_body_bytes); send less at a time"
        )
