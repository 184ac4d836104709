"""A worker of our own protocol without an SDK: it sends the frames that a test writes."""

from __future__ import annotations

import asyncio
import uuid
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from stepwell.model.ids import StepId
from stepwell.model.op import StepDone
from stepwell.sdk.worker import socket_url
from stepwell.wire import worker as frames
from tests.faults.harness import Server

Frame = TypeVar("Frame")


class Peer:
    """Serves one function: `f` of the service `peer`, started by `peer/f`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._socket: ClientConnection | None = None

    async def __aenter__(self) -> Self:
        self._socket = await connect(socket_url(self._server.url), compression=None, max_size=frames.MAX_FRAME_BYTES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.socket.close()

    @property
    def socket(self) -> ClientConnection:
        assert self._socket is not None
        return self._socket

    async def greet(self, name: str, *, concurrency: int = 10, calls: tuple[Any, ...] = ()) -> frames.Welcome:
        runtime = {"type": "ws", "url": "ws://connected?fnId=peer-f&stepId=step"}
        step = {"id": "step", "name": "step", "runtime": runtime, "retries": {"attempts": 4}}
        function = {"id": "peer-f", "name": "f", "triggers": [{"event": "peer/f"}], "steps": {"step": step}}
        await self.send(
            frames.Hello(
                version=frames.VERSION,
                worker=f"{name}-{uuid.uuid4().hex[:6]}",
                service="peer",
                sdk="stepwell-py:v0.1.0",
                functions=msgspec.json.encode([function]),
                concurrency=concurrency,
                instance=name,
                calls=calls,
            )
        )
        return await self.expect(frames.Welcome)

    async def send(self, frame: frames.FromWorker) -> None:
        await self.socket.send(frames.encode(frame))

    async def expect(self, kind: type[Frame], seconds: float = 10) -> Frame:
        """The next frame, which must be of that kind."""
        data = await asyncio.wait_for(self.socket.recv(), seconds)
        assert isinstance(data, bytes)
        frame = frames.decode_from_server(data)
        assert isinstance(frame, kind), frame
        return frame

    async def call(self, seconds: float = 10) -> frames.Call:
        return await self.expect(frames.Call, seconds)

    async def drop(self) -> None:
        """End the connection without a word."""
        self.socket.transport.abort()


def step_done(name: str, output: bytes) -> StepDone:
    return StepDone(step=StepId(name), name=name, output=output)
