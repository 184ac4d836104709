"""Watching a task: its whole object, what changes while it goes on, and its whole object again.

    {"id": ..., "status": 1, ...}                                    everything so far
    {"data": {"id", "status": 7, ...}, "fields": ["status", ...]}    a part that has changed
    {"event": "delta", "data": {"delta", "seq", "resource_id"}}      to be merged into the output
    {"id": ..., "status": 10, ...}                                   everything; then the connection lingers and closes

What changes comes from the pieces that the performer publishes, in their order, and that the task has ended comes from
the journal. With server-sent events every line has an id, and who comes back with one goes on after it:

    ORIGIN.NUMBER.STATUS.LINES       after that piece, having seen that status and so many lines of the logs
    end                              nothing more is to come

Logs are told as a whole each time, since clients put the new value in the place of the old one; so no more often than
their size allows. Clients give a silent stream up, so one that has nothing to tell touches the task now and then.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import msgspec
from starlette.responses import Response

from stepwell.api.stream import Bell
from stepwell.model.errors import InvalidInput, NotFound
from stepwell.model.task import TaskStatus
from stepwell.streams.log import Place
from stepwell.wire.infsh import task as dto
from stepwell.wire.infsh.delta import merge_delta, rest_of
from stepwell.wire.infsh.progress import NewDelta, NewLog, NewOutput, NewStatus, Progress, Void, log_texts
from stepwell.wire.infsh.text import instant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from starlette.types import Receive, Scope, Send

    from stepwell.api.site import Site
    from stepwell.model.ids import RunId
    from stepwell.node.watch import Follower
    from stepwell.streams.log import Reader
    from stepwell.wire.infsh.framing import Framing
    from stepwell.wire.infsh.progress import Update
    from stepwell.wire.infsh.task import TaskView

HEARTBEAT_S = 10.0
TOUCH_S = 15.0
"""Clients give up a stream on which nothing but heartbeats came for 30 s."""
LINGER_S = 0.3
"""After the last line; a client that sees both at once never notices the line."""
END = "end"
_LOGS_S = 0.1
_LOG_BYTES_S = 256 * 1024
"""Logs are told at most so often, and so many bytes of them a second."""
_WRITE_BYTES = 32 * 1024
_AFTER = re.compile(r"(-|[0-9a-f]{4,40}m?)\.([0-9]{1,12})\.([0-9]{1,2})\.([0-9]{1,9})")
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_NOWHERE = "-"


class After:
    """Where somebody goes on, as the id of a line says. Raises `InvalidInput` for what is none."""

    def __init__(self, text: str) -> None:
        match = _AFTER.fullmatch(text)
        if match is None:
            raise InvalidInput("Last-Event-ID must be the id of an event of this stream", field="after")
        self.place = Place(match[1], int(match[2])) if match[1] != _NOWHERE else None
        self.status = int(match[3])
        self.lines = int(match[4])


class TaskStream(Response):
    """One who watches a task.

    Args:
        load: Reads the task, with what is known of its progress.
        after: Where they go on; None: from the beginning.
        merges: They put what they merged of deltas in the place of the result.
        returns: They come back when the stream ends without its last line, and give up when it breaks; for others it
            breaks, since they would wait for ever.
    """

    def __init__(
        self,
        site: Site,
        task: RunId,
        load: Callable[[Progress], Awaitable[TaskView]],
        framing: Framing,
        *,
        after: After | None = None,
        merges: bool = True,
        returns: bool = False,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.media_type = framing.content_type
        self.init_headers(_HEADERS)
        self._site = site
        self._task = task
        self._load = load
        self._framing = framing
        self._after = after
        self._merges = merges
        self._returns = returns
        self._known = False
        """They have seen what there is up to their place."""
        self._bell = Bell()
        self._gone = False
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        """When the timer rings, by the clock of the loop: a handle of uvloop that is due at once does not say."""
        self._progress = Progress()
        self._place: Place | None = None
        self._lines = 0
        """Of the logs, that were told."""
        self._logs_at = 0.0
        """When the logs may be told next."""
        self._sent_deltas: dict[str, Any] | None = None
        """What they have who merge what was sent on this connection."""
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._wrote_at = self._told_at = time.monotonic()

    async def opened(self) -> Self:
        """Begin to listen, then read what there is; it is to be answered with at once. Raises `NotFound`."""
        with ExitStack() as stack:
            self._follower = stack.enter_context(self._site.watch.follow(self._task, self._bell.ring))
            self._reader = stack.enter_context(self._site.streams.subscribe(self._task, self._bell.ring))
            after = self._after
            if after is not None:
                self._progress = Progress(TaskStatus(min(after.status, TaskStatus.UPLOADING)))
                self._known = await self._find(self._reader, after)
                self._lines = after.lines if self._known else 0
            if not self._known:
                for _ in self._read(self._reader):
                    pass
            self._view = await self._load(self._progress)
            self._listening = stack.pop_all()
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(self._leave(receive), name="subscriber")
        self._wake_later()
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            self._put(self._framing.opening())
            ended = await self._begin(self._reader) or await self._go_on(send, self._follower, self._reader)
            await self._flush(send)
            if self._gone:
                return
            if ended:
                await self._linger()
            elif self._framing.lines and not self._returns:
                return  # which closes the connection in the middle of the answer
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except NotFound:
            return  # it was deleted; nobody is told that it has ended
        finally:
            self._listening.close()
            leaving.cancel()
            if self._timer is not None:
                self._timer.cancel()

    # what is told

    async def _begin(self, reader: Reader) -> bool:
        """Everything so far, for those who have not seen it. Whether the task has ended."""
        view, known = self._view, self._known
        if view.status.final:
            if known:
                for update in self._read(reader):
                    self._tell(update)
            self._end(view)
            return True
        change = self._progress.come_to(view.status, view.updated_at)
        if known:
            if change is not None:
                self._tell(change)
            if self._progress.lines > self._lines:
                self._tell_logs()
            return False
        self._lines = self._progress.lines
        self._put(self._framing.whole(dto.whole(view), self._at()))
        merged = self._progress.merged
        if merged:
            self._tell_delta(merged, self._progress.deltas)
        return False

    async def _find(self, reader: Reader, after: After) -> bool:
        """Fold what somebody has seen. False: it is not known here."""
        if after.place is None:
            return True
        streams = self._site.streams
        until = time.monotonic() + streams.patience_s
        while True:
            log = streams.log(self._task)
            index = log.after(after.place)
            if index is not None:
                break
            if self._gone or not await self._bell.wait_until(until):
                return False
        for seen in range(log.first, index):
            self._progress.take(log.chunk(seen).text)
        reader.go_to(after.place)
        self._place = after.place
        return True

    async def _go_on(self, send: Send, follower: Follower, reader: Reader) -> bool:
        """Whatever is new. Whether the task has ended, or they have gone before, or the server stops."""
        while not self._gone and not self._site.watch.closed:
            moved = follower.take()
            view = await self._load(self._progress) if moved else None
            for update in self._read(reader):
                self._tell(update)
                if self._out_bytes > _WRITE_BYTES:
                    await self._flush(send)
            if view is not None and view.status.final:
                if not self._fits(view):
                    return False
                self._end(view)
                return True
            if view is not None:
                change = self._progress.come_to(view.status, view.updated_at)
                if change is not None:
                    self._tell(change)
            self._tell_late()
            await self._flush(send)
            await self._bell.wait()
        return False

    def _read(self, reader: Reader) -> Iterator[Update]:
        """Take the pieces that are there."""
        while True:
            chunk = reader.next()
            if reader.missed():
                self._progress.missed()
            if chunk is None:
                return
            self._place = reader.pass_by()
            yield from self._progress.take(chunk.text)

    def _tell(self, update: Update) -> None:
        who = {"id": self._task, "status": self._progress.status}
        match update:
            case NewStatus(status, at):
                data = {**who, "status": status, "updated_at": instant(at or self._site.node.world.now())}
                self._put(self._framing.part(data, ("status", "updated_at"), self._at()))
            case NewOutput(output):
                self._put(self._framing.part({**who, "output": output}, ("output",), self._at()))
            case NewDelta(delta, number):
                self._tell_delta(delta, number)
            case NewLog():
                if time.monotonic() >= self._logs_at:
                    self._tell_logs()
                else:
                    self._wake_later()
            case Void():
                self._put(self._framing.part({**who, "output": None}, ("output",), self._at(), event="reset"))

    def _tell_delta(self, delta: Any, number: int) -> None:
        if self._framing.lines:
            if self._sent_deltas is None:
                self._sent_deltas = {}
            merge_delta(self._sent_deltas, _value(delta))
        self._put(self._framing.typed("delta", {"delta": delta, "seq": number, "resource_id": ""}, self._at()))

    def _tell_logs(self) -> None:
        progress, now = self._progress, time.monotonic()
        self._lines = progress.lines
        self._logs_at = now + max(_LOGS_S, progress.log_bytes / _LOG_BYTES_S)
        at = progress.at or self._site.node.world.now()
        logs = [dto.log_entry(self._task, kind, text, at) for kind, text in log_texts(progress.logs).items()]
        self._put(
            self._framing.part({"id": self._task, "status": progress.status, "logs": logs}, ("logs",), self._at())
        )

    def _tell_late(self) -> None:
        """What is due by now: logs that were held back, that the task goes on, that the stream does."""
        now = time.monotonic()
        if self._progress.lines > self._lines and now >= self._logs_at:
            self._tell_logs()
        if now - self._told_at >= TOUCH_S:
            data = {
                "id": self._task,
                "status": self._progress.status,
                "updated_at": instant(self._site.node.world.now()),
            }
            self._put(self._framing.part(data, ("updated_at",), self._at()))
        elif now - self._wrote_at >= HEARTBEAT_S:
            told = self._told_at
            self._put(self._framing.heartbeat())
            self._told_at = told
        self._wake_later()

    def _fits(self, view: TaskView) -> bool:
        """Whether those who put what they merged in the place of the result have the result.

        What is missing at the end of a text is sent. If they have something else, the stream ends before its last
        line; who comes back gets the result alone.
        """
        if not self._sent_deltas or view.output is None:
            return True
        rest = rest_of(self._sent_deltas, _value(view.output))
        if rest is None:
            return not self._merges
        if rest:
            self._tell_delta(rest, self._progress.deltas + 1)
        return True

    def _end(self, view: TaskView) -> None:
        self._put(self._framing.whole(dto.whole(view), END))
        self._put(self._framing.done(END))

    def _at(self) -> str:
        origin, number = self._place or (_NOWHERE, 0)
        return f"{origin}.{number}.{self._progress.status:d}.{self._lines}"

    # writing

    def _put(self, text: bytes) -> None:
        self._out.append(text)
        self._out_bytes += len(text)
        self._told_at = time.monotonic()

    async def _flush(self, send: Send) -> None:
        """Write what there is; return once there is room for more."""
        if not self._out:
            return
        text = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        self._wrote_at = time.monotonic()
        await send({"type": "http.response.body", "body": text, "more_body": True})

    def _wake_later(self) -> None:
        """Ring at the time at which there is something to tell if nothing happens."""
        at = min(self._wrote_at + HEARTBEAT_S, self._told_at + TOUCH_S)
        if self._progress.lines > self._lines:
            at = min(at, self._logs_at)
        loop = asyncio.get_running_loop()
        due = loop.time() + max(0.0, at - time.monotonic())
        if self._timer is not None:
            if loop.time() < self._rings_at <= due:
                return  # it rings sooner, and is set again then
            self._timer.cancel()
        self._timer = loop.call_at(due, self._bell.ring)
        self._rings_at = due

    async def _linger(self) -> None:
        until = time.monotonic() + LINGER_S
        while not self._gone and await self._bell.wait_until(until):
            pass

    async def _leave(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._bell.ring()


def _value(value: object) -> Any:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
