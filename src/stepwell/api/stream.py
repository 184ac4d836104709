"""Following a run: its changes out of the journal and the pieces of its answers, as server-sent events.

    journal ──▶ changes ─┐
                         ├─▶ in the order of cause and effect ─▶ one write for all that is there ─▶ subscriber
    streams ──▶ pieces ──┘

The id of an event says where the subscriber is in both: `12` or `12.<origin>.57`. Who comes back with it misses nothing
and gets nothing twice; where that cannot be, they are told: `gap` (pieces are gone) or `reset` (pieces are void). A
subscriber who does not read holds up nobody and nothing is kept for them: what they get next is read when they can take
it.

`/follow` has the changes alone.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.responses import Response

from stepwell.api import answers
from stepwell.api.answers import instant
from stepwell.api.inngest.v1 import run_row
from stepwell.api.keys import Access
from stepwell.api.read_tokens import DEFAULT_LIFETIME_S, LONGEST_LIFETIME_S, read_token
from stepwell.api.routes import Ask, Route
from stepwell.api.runs import runs_shown
from stepwell.model import journal
from stepwell.model.errors import InvalidInput, Overloaded
from stepwell.model.job import RunStatus
from stepwell.streams.log import Place
from stepwell.streams.streams import gap_event, reset_event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from stepwell.api.site import Site
    from stepwell.model.ids import RunId, StepId
    from stepwell.model.journal import Entry
    from stepwell.node.watch import Follower
    from stepwell.streams.log import Reader

KEEP_ALIVE_S = 15.0
RETRY_MS = 500
"""After how long a browser whose connection broke comes back."""
_LATE_S = 0.25
_JUST_MS = 3_000
_STREAMED = re.compile(rb'\\?"stream\\?": ?true')
"""In a request, or in the body of one as text."""
_WRITE_BYTES = 32 * 1024
"""So much is written before the subscriber has to take it."""
_POSITION = re.compile(r"([0-9]{1,9})(?:\.(?:(end)|([0-9a-f]{4,40}m?)\.([0-9]{1,12})))?")
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def routes() -> list[Route]:
    return [
        Route("GET", "/api/runs/{id}/follow", follow),
        Route("GET", "/api/runs/{id}/stream", stream, Access.READ_TOKEN),
        Route("POST", "/api/runs/{id}/token", token),
    ]


async def token(ask: Ask) -> Response:
    """A token for the stream of a run, to be given to a browser: `{"lifetime_s": 600}`."""
    given = (await ask.json()).get("lifetime_s", DEFAULT_LIFETIME_S)
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= LONGEST_LIFETIME_S:
        raise InvalidInput(
            f"lifetime_s is a whole number of seconds from 1 to {LONGEST_LIFETIME_S}, not {given!r}", field="lifetime_s"
        )
    row = await run_row(ask)
    until_s = int(time.time()) + given
    made = read_token(row.id, until_s, ask.site.keys.signing)
    path = f"/api/runs/{row.id}/stream?token={quote(made)}"
    return answers.json({"token": made, "path": path, "expires_at": instant(until_s * 1000)}, 201)


async def follow(ask: Ask) -> Response:
    """Changes of a run, from the first or from after `Last-Event-ID`, until it has ended.

    The id of an event is the number of its last journal entry: who comes back with it misses nothing.
    """
    row, match = await run_row(ask), _after(ask)
    return _Stream(ask.site, row.id, int(match[1]), None, pieces=False)


async def stream(ask: Ask) -> Response:
    """The same with the pieces of answers.

    A browser that comes back after the end gets a 204, which tells it to stay away.
    """
    row, match = await run_row(ask), _after(ask)
    number = int(match[1])
    if match[2] and row.status.final and number >= row.seq:
        return Response(status_code=204, headers=_HEADERS)
    return _Stream(ask.site, row.id, number, Place(match[3], int(match[4])) if match[3] else None)


def _after(ask: Ask) -> re.Match[str]:
    """Where a stream shall begin; `after` in the query is for those who cannot send the header.

    Raises:
        InvalidInput: It is the id of no event.
        Overloaded: There are as many streams as may be.
    """
    match = _POSITION.fullmatch(ask.request.headers.get("last-event-id") or ask.query("after") or "0")
    if match is None:
        raise InvalidInput("Last-Event-ID must be the id of an event of this stream", field="after")
    most = ask.site.limits.max_streams
    if ask.site.watch.followers >= most:
        raise Overloaded(f"{most} streams are open and no more may be (max_streams)", retry_after_s=5)
    return match


class Bell:
    """Wakes the one who writes a stream, for whichever reason."""

    def __init__(self) -> None:
        self._rung = False
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self) -> None:
        """Return once it is rung; at once if it was since the last time."""
        if not self._rung:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        self._rung = False

    async def wait_until(self, at: float) -> bool:
        """The same, but no longer than to that time, by the monotonic clock. False: that is over."""
        try:
            async with asyncio.timeout(at - time.monotonic()):
                await self.wait()
        except TimeoutError:
            return False
        return True


class _Stream(Response):
    """One subscriber.

    Args:
        known: Entries of the journal whose changes they have.
        place: The last piece that they have; None if they have none.
        pieces: Whether they want pieces.
    """

    media_type = "text/event-stream"

    def __init__(self, site: Site, run: RunId, known: int, place: Place | None, *, pieces: bool = True) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(_HEADERS)
        self._site = site
        self._run = run
        self._known = known
        self._place = place
        self._wants_pieces = pieces
        self._reader: Reader | None = None
        self._bell = Bell()
        self._gone = False
        self._tick: asyncio.TimerHandle | None = None
        self._quiet = False
        self._written_at = 0.0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._read = 0  # entries
        self._names: dict[str, str] = {}  # an entry that ends a wait does not repeat the name of its step
        self._begun: set[StepId] = set()
        self._streamed: set[StepId] = set()  # as far as their requests tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(self._leave(receive), name="subscriber")
        self._look_later(KEEP_ALIVE_S)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with ExitStack() as stack:
                follower = stack.enter_context(self._site.watch.follow(self._run, self._bell.ring))
                if self._wants_pieces:
                    reader = self._site.streams.subscribe(self._run, self._bell.ring)
                    self._reader = stack.enter_context(reader)
                    self._put(b"retry: %d\n\n" % RETRY_MS)
                    await self._resume(reader)
                await self._go_on(send, follower)
            await self._flush(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            leaving.cancel()
            if self._tick is not None:
                self._tick.cancel()

    async def _resume(self, reader: Reader) -> None:
        """Go on after the last piece that the subscriber has, or tell them that nobody knows it."""
        if self._place is None:
            return
        until = time.monotonic() + self._site.streams.patience_s
        while not reader.go_to(self._place):
            if self._gone or not await self._bell.wait_until(until):
                self._place = None
                self._put(reset_event(None, None, "it is not known here which pieces you have"))
                return

    async def _last_of(self, ended: journal.StepCompleted) -> None:
        """Wait a moment for the last pieces of a step that another server has just made."""
        reader, site = self._reader, self._site
        if reader is None or ended.step not in self._streamed or not site.streams.patience_s:
            return
        if site.node.world.now() - ended.at > _JUST_MS:
            return
        until = time.monotonic() + _LATE_S
        while reader.lacks(ended.step) and not self._gone:
            if not await self._bell.wait_until(until):
                return

    async def _go_on(self, send: Send, follower: Follower) -> None:
        moved = True
        while not self._gone and not self._site.watch.closed:  # who is sent away comes back with the last id
            if moved and await self._changes(send):
                return
            moved = await self._pieces(send)
            await self._flush(send)
            if not moved:
                await self._bell.wait()
                moved = follower.take()
                if self._quiet:
                    self._put(b": still here\n\n")

    async def _changes(self, send: Send) -> bool:
        """What the journal has that was not read yet, and all pieces. Whether the run has ended."""
        stored = await self._site.node.store.load_run(self._run, self._read)
        if stored is None:
            return True  # it was deleted
        for entry in stored.entries:
            match entry:
                case journal.OffloadStarted():
                    self._begun.add(entry.step)
                    if isinstance(entry.request, bytes) and _STREAMED.search(entry.request):
                        self._streamed.add(entry.step)
                case journal.StepCompleted() if entry.step in self._begun:
                    await self._last_of(entry)
                    await self._pieces(send)  # which came before it
                case journal.StepFailed() | journal.StepRetried() if entry.step in self._begun:
                    await self._pieces(send)
            self._read += 1
            shown = _change(entry)
            if shown is None:
                continue
            if "step" in shown:
                shown["name"] = self._names.setdefault(shown["step"], shown["name"]) or shown["name"]
            if self._read > self._known:
                self._change(shown["type"], {"number": self._read, "at": instant(entry.at), **shown})
            if self._out_bytes > _WRITE_BYTES:
                await self._flush(send)
        row = stored.row
        await self._pieces(send, known=False)
        if not row.status.final or self._read < row.seq:
            return False
        (last,) = await runs_shown(self._site, [row])
        self._change("end", {"type": "end", **last})
        return True

    async def _pieces(self, send: Send, *, known: bool = True) -> bool:
        """The pieces that are there; with `known` those of steps that were begun. Whether there are others."""
        reader = self._reader
        if reader is None:
            return False
        while True:
            chunk = reader.next()
            if missed := reader.missed():
                self._put(gap_event(missed))
            if chunk is None:
                return False
            if known and chunk.source.step not in self._begun:
                return True  # the journal has more to say, and says it first
            self._place = place = reader.pass_by()
            number = max(self._read, self._known)
            self._put(b"id: %d.%b.%d\n%b" % (number, place.origin.encode(), place.number, chunk.text))
            if self._out_bytes > _WRITE_BYTES:
                await self._flush(send)

    def _change(self, kind: str, value: Mapping[str, Any]) -> None:
        if kind == "end" and self._wants_pieces:
            at = b"%d.end" % self._read
        elif self._place is not None:
            at = b"%d.%b.%d" % (self._read, self._place.origin.encode(), self._place.number)
        else:
            at = b"%d" % self._read
        self._put(b"event: %b\nid: %b\ndata: %b\n\n" % (kind.encode(), at, answers.encode(value)))

    # writing

    def _put(self, text: bytes) -> None:
        self._out.append(text)
        self._out_bytes += len(text)

    async def _flush(self, send: Send) -> None:
        """Write what there is; return once the subscriber has room for more."""
        if not self._out:
            return
        text = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        self._quiet = False
        self._written_at = time.monotonic()
        await send({"type": "http.response.body", "body": text, "more_body": True})

    def _look_later(self, seconds: float) -> None:
        self._tick = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        left = self._written_at + KEEP_ALIVE_S - time.monotonic()
        if left <= 0:
            self._quiet = True
            self._bell.ring()
        self._look_later(left if left > 0 else KEEP_ALIVE_S)

    async def _leave(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._bell.ring()


def _change(entry: Entry) -> dict[str, Any] | None:
    """An entry as followers see it; None for those that only matter inside."""
    match entry:
        case journal.RunStarted():
            return {"type": "run", "status": RunStatus.QUEUED.value}
        case journal.RunCompleted():
            return {"type": "run", "status": RunStatus.COMPLETED.value}
        case journal.RunFailed():
            return {"type": "run", "status": RunStatus.FAILED.value, "code": entry.code}
        case journal.RunCancelled():
            return {"type": "run", "status": RunStatus.CANCELLED.value, "reason": entry.reason}
        case journal.StepScheduled():
            return _step(entry.step, entry.name, "SCHEDULED")
        case journal.StepCompleted():
            return _step(entry.step, entry.name, "COMPLETED", duration_ms=entry.duration_ms, origin=entry.origin)
        case journal.StepFailed():
            return _step(entry.step, entry.name, "FAILED", duration_ms=entry.duration_ms, origin=entry.origin)
        case journal.StepRetried():
            return _step(entry.step, entry.name, "RETRYING", until=instant(entry.retry_at))
        case journal.SleepStarted():
            return _step(entry.step, entry.name, "SLEEPING", until=instant(entry.until))
        case journal.WaitStarted():
            return _step(entry.step, entry.name, "WAITING", until=instant(entry.until), event=entry.event)
        case journal.InvokeStarted():
            return _step(entry.step, entry.name, "INVOKING", until=instant(entry.until), function=entry.function)
        case journal.OffloadStarted():
            return _step(entry.step, entry.name, "REQUESTING")
        case journal.CallEnded() if entry.outcome in {"failed", "lost"}:
            return {"type": "call", "outcome": entry.outcome, "status": entry.status}
        case journal.Noted():
            return {"type": "note", "kind": entry.kind, "level": entry.level or None, "text": entry.text}
        case _:
            return None


def _step(step: str, name: str, status: str, **more: object) -> dict[str, Any]:
    return {"type": "step", "step": step, "name": name, "status": status, **more}
