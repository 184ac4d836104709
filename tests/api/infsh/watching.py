"""A task that a test moves on, and those who watch it, without a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from stepwell.api.infsh.stream import After, TaskStream
from stepwell.api.site import Site
from stepwell.model.ids import RunId, StepId
from stepwell.model.stream import Piece
from stepwell.model.task import (
    PIECE_DELTA,
    PIECE_LOG,
    PIECE_OUTPUT,
    PIECE_STATUS,
    TASK_STEP,
    TaskRequest,
    TaskStatus,
)
from stepwell.node.watch import Watch
from stepwell.streams.streams import Streams
from stepwell.wire.infsh.framing import Framing
from stepwell.wire.infsh.progress import Progress, log_texts
from stepwell.wire.infsh.task import TaskView

TASK = RunId("01JTASK")
STEP = StepId(TASK_STEP)


class Source:
    """What a server knows of one task."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.streams = Streams()
        self.status = TaskStatus.RECEIVED
        self.output: object = None
        self.error = ""
        self.loads = 0
        self.site = cast(
            Site,
            SimpleNamespace(
                watch=self.watch,
                streams=self.streams,
                node=SimpleNamespace(world=SimpleNamespace(now=lambda: round(time.time() * 1000))),
            ),
        )

    async def load(self, progress: Progress) -> TaskView:
        self.loads += 1
        output = progress.output
        if self.status.final and self.output is not None:
            output = msgspec.Raw(json.dumps(self.output).encode())
        return TaskView(
            id=TASK,
            request=TaskRequest(app="a/b@c", function="run", input={"x": 1}),
            status=max(self.status, progress.status),
            created_at=1_000,
            updated_at=2_000,
            output=output,
            error=self.error,
            logs=log_texts(progress.logs),
        )

    def publish(self, kind: str, text: str, **more: Any) -> None:
        self.streams.publish(TASK, STEP, TASK_STEP, [Piece(kind, text, more=more)])

    def come_to(self, status: int) -> None:
        self.publish(PIECE_STATUS, str(status), at=5_000)

    def output_so_far(self, value: object) -> None:
        self.publish(PIECE_OUTPUT, json.dumps(value))

    def delta(self, value: object) -> None:
        self.publish(PIECE_DELTA, json.dumps(value))

    def log(self, line: str) -> None:
        self.publish(PIECE_LOG, line, at=5_000, log_type=1)

    def move(self, status: TaskStatus, output: object = None, error: str = "") -> None:
        """What a commit says."""
        self.status, self.output, self.error = status, output, error
        self.watch.moved_elsewhere(TASK)


class Watcher:
    """One connection. `lines` is what came, parsed; `ids` are those of the events."""

    def __init__(self, source: Source, *, lines: bool, after: str | None, **client: bool) -> None:
        self.lines: list[Any] = []
        self.ids: list[str] = []
        self.at: list[float] = []
        self.ended: bool | None = None
        self.ended_at = 0.0
        self._text = ""
        self._as_lines = lines
        self._news = asyncio.Event()
        self._leave = asyncio.Event()
        place = After(after) if after is not None else None
        stream = TaskStream(source.site, TASK, source.load, Framing(lines), after=place, **client)
        self._task = asyncio.create_task(self._answer(stream))

    async def _answer(self, stream: TaskStream) -> None:
        await (await stream.opened())({"type": "http"}, self._receive, self._send)

    async def _receive(self) -> Any:
        await self._leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self._text += message["body"].decode()
            self._take()
            if not message["more_body"]:
                self.ended, self.ended_at = True, time.monotonic()
        self._news.set()

    def _take(self) -> None:
        end = "\n" if self._as_lines else "\n\n"
        while end in self._text:
            part, self._text = self._text.split(end, 1)
            if not self._as_lines:
                fields = dict(line.split(": ", 1) for line in part.split("\n"))
                if "retry" in fields:
                    continue
                self.ids.append(fields.get("id", ""))
                part = fields["data"]
            self.lines.append(json.loads(part))
            self.at.append(time.monotonic())

    async def until(self, count: int) -> list[Any]:
        """The first so many lines."""
        async with asyncio.timeout(5):
            while len(self.lines) < count:
                self._news.clear()
                await self._news.wait()
        return self.lines[:count]

    async def end(self) -> list[Any]:
        """All lines. `ended` is False if the connection was broken off."""
        async with asyncio.timeout(5):
            await self._task
        self.ended = bool(self.ended)
        return self.lines

    async def drop(self) -> None:
        """Go away in the middle."""
        self._leave.set()
        async with asyncio.timeout(5):
            await self._task


@contextlib.asynccontextmanager
async def watching(
    source: Source, *, lines: bool = True, after: str | None = None, **client: bool
) -> AsyncIterator[Watcher]:
    watcher = Watcher(source, lines=lines, after=after, **client)
    await watcher.until(1) if after is None else await asyncio.sleep(0.005)
    yield watcher
    await watcher.drop()
