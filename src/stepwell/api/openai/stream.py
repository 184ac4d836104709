"""An answer that is told while the app gives it: chunks as server-sent events, ended by `[DONE]`.

Nothing is answered before there is something to say, or the task has ended, so that most errors are plain ones. After a
while the answer begins all the same, since something on the way may give it up.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from stepwell.api.answers import encode
from stepwell.api.openai import answers
from stepwell.api.openai.answers import ModelFailed
from stepwell.api.openai.tasks import about
from stepwell.api.stream import Bell
from stepwell.model.errors import StepwellError
from stepwell.model.task import usage_of as said_usage
from stepwell.wire.infsh.progress import NewDelta, NewOutput, Progress
from stepwell.wire.openai.chat import AnswerChanged, Growing, chunk, finish_reason, usage_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from stepwell.api.openai.tasks import Tasks
    from stepwell.api.site import Site
    from stepwell.model.ids import RunId
    from stepwell.node.reads.tasks import Task
    from stepwell.streams.log import Reader

BEGIN_S = 5.0
HEARTBEAT_S = 10.0
_WRITE_BYTES = 32 * 1024
_DONE = b"data: [DONE]\n\n"


class ChatStream(Response):
    """One client that follows one task.

    Args:
        model: As it was asked for.
        created: Seconds since 1970.
        with_usage: A last chunk has the usage.
        gpus: That the app holds.
        named: The request has a key.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        site: Site,
        tasks: Tasks,
        task: RunId,
        request: Request,
        *,
        id: str,
        created: int,
        model: str,
        with_usage: bool,
        gpus: int,
        named: bool,
        headers: dict[str, str],
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        self._site = site
        self._tasks = tasks
        self._task = task
        self._request = request
        self._chunk = (id, created, model)
        self._with_usage = with_usage
        self._gpus = gpus
        self._named = named
        self._bell = Bell()
        self._progress = Progress()
        self._growing = Growing()
        self._begun = False
        self._said = False
        self._out: list[bytes] = []
        self._out_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ring = self._bell.ring
        try:
            async with self._tasks.followed(self._task, receive, ring, self._named) as gone:
                with (
                    self._site.watch.follow(self._task, ring) as follower,
                    self._site.streams.subscribe(self._task, ring) as reader,
                ):
                    due, moved = time.monotonic() + BEGIN_S, True
                    while not gone():
                        found = await self._tasks.load(self._task) if moved else None
                        await self._read(reader, send)
                        if found is not None and found.status.final:
                            await self._end(found)
                            break
                        if self._site.watch.closed:
                            return  # the connection breaks off: this is not the end of the answer
                        await self._flush(send)
                        if not await self._bell.wait_until(due):
                            self._out.append(b": the app is at work\n\n")
                            await self._flush(send)
                            due = time.monotonic() + HEARTBEAT_S
                        moved = follower.take()
                    if gone():
                        return
        except StepwellError as err:
            if not self._begun:
                await answers.error(err, self._request)(scope, receive, send)
                return
            self._put(answers.error_body(err))
        await self._flush(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _read(self, reader: Reader, send: Send) -> None:
        """Tell what the pieces that are there add."""
        while True:
            piece = reader.next()
            if reader.missed():
                self._progress.missed()
            if piece is None:
                return
            reader.pass_by()
            for update in self._progress.take(piece.text):
                match update:
                    case NewDelta():
                        self._grow(self._progress.merged)
                    case NewOutput(output):
                        self._grow(msgspec.json.decode(output))
            if self._out_bytes > _WRITE_BYTES:
                await self._flush(send)

    def _grow(self, output: object, *, whole: bool = False) -> None:
        if isinstance(output, dict):
            delta = self._growing.rest(output, whole=whole)
            if delta:
                self._say(delta)

    async def _end(self, found: Task) -> None:
        await self._tasks.check(found)
        output = msgspec.json.decode(found.output or b"null")
        if not isinstance(output, dict):
            raise ModelFailed("the app gave back something else than a language model does")
        try:
            self._grow(output, whole=True)
        except AnswerChanged as err:
            raise ModelFailed(f"the whole answer is not what was streamed of it; task {self._task} has it") from err
        self._say({}, finish_reason(output))
        if self._with_usage:
            usage = usage_of(output, said_usage(found.meta))
            more = about(found, self._gpus, self._site.gpu_second_usd)
            self._put({**chunk(*self._chunk, None), "usage": usage, **more})
        self._out.append(_DONE)

    def _say(self, delta: dict[str, Any], ends: str | None = None) -> None:
        if not self._said:
            delta = {"role": "assistant", **delta}
            self._said = True
        told = chunk(*self._chunk, delta, ends)
        self._put({**told, "usage": None} if self._with_usage else told)

    def _put(self, value: dict[str, Any]) -> None:
        text = b"data: %b\n\n" % encode(value)
        self._out.append(text)
        self._out_bytes += len(text)

    async def _flush(self, send: Send) -> None:
        """Write what there is; return once there is room for more."""
        if not self._out:
            return
        text = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        if not self._begun:
            self._begun = True
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": text, "more_body": True})
