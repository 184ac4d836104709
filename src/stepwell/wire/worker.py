"""Our own worker protocol: one websocket, MessagePack frames, a function that stays in memory.

    worker                                      server
      Hello ─────────────────────────────────▶
      ◀───────────────────────────── Welcome (or Refused, and the socket is closed)
      ◀──────────────────────────────── Call   run this function, here is what it has done so far
      Report 1 [StepDone a] ─────────────────▶  committed, then
      ◀─────────────────────────────── Ack 1    and only now the code after step a goes on
      Report 2 [Sleep s] ────────────────────▶
      ◀─────────────────────────────── Ack 2
      ◀─────────────────────────── Resolve s    a second later, the function still in memory
      Returned ──────────────────────────────▶
      ◀─────────────────────────────── Ended    the end is committed

A function that only waits is kept for `Welcome.idle_ms`, then the worker sends `Suspended` and forgets
it; the server makes a new `Call` when there is news. `news` counts the results that a run has: the
worker returns the highest it has seen, so that a result on its way at that moment is not missed.

Every frame is a MessagePack array whose first member is its name. A worker that does not know a frame
must close the connection with code 1002; the version in `Hello` and `Welcome` is there to prevent that.
What is to be said at the same moment may come in one message, a `Pack`, to a peer that has said `packs`;
a message costs either side more than the frames in it. Payloads (`bytes`) are JSON text. The handshake
carries `Authorization: Bearer` when keys are configured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from stepwell.model.dispatch import Memo
from stepwell.model.ids import Instant, JobId, RunId, StepId
from stepwell.model.op import Op

VERSION = 1
PATH = "/worker"
MAX_FRAME_BYTES = 64 * 1024 * 1024
MAX_PACKED = 128
"""Frames in one message."""
PACK_BYTES = 64 * 1024
"""Nothing is added to a message beyond this size; a larger frame comes alone."""


class _Frame(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    pass


# worker -> server


class Hello(_Frame, frozen=True, kw_only=True):
    version: int
    worker: str  # a name of this process, unique among connections
    service: str
    sdk: str  # `stepwell-py:v0.1.0`
    functions: bytes  # JSON array, the `functions` of a register request
    concurrency: int = 0  # calls at a time; 0 leaves it to the server
    app_version: str = ""
    instance: str = ""  # stays the same over reconnections of one process
    calls: tuple[JobId, ...] = ()  # calls this process still holds from a connection it lost
    packs: bool = False  # it takes several frames in one message


class Report(_Frame, frozen=True, kw_only=True):
    """Ops of a running function, in the order they happened. `number` counts from 1 in a call."""

    call: JobId
    number: int
    ops: tuple[Op, ...]


class Suspended(_Frame, frozen=True, kw_only=True):
    call: JobId
    news: int


class Returned(_Frame, frozen=True, kw_only=True):
    call: JobId
    output: bytes


class Raised(_Frame, frozen=True, kw_only=True):
    """`error` is an error object: name, message, stack. `retry_at` in ms since 1970."""

    call: JobId
    error: bytes
    retry: bool = True
    retry_at: Instant | None = None


class Declined(_Frame, frozen=True, kw_only=True):
    """The call is given back, at a point where nothing of it is running. Consumes no attempt."""

    call: JobId
    reason: str  # "draining", "capacity", "unknown function"


class Running(_Frame, frozen=True, kw_only=True):
    """A step has been running for a while. For the eye only; nothing is stored."""

    call: JobId
    step: StepId
    name: str


class Log(_Frame, frozen=True, kw_only=True):
    """A line of the function's logger, for the trace."""

    call: JobId
    level: str
    text: str
    at: Instant
    step: StepId | None = None


class Draining(_Frame, frozen=True, kw_only=True):
    """No new calls please; those in memory are finished or given back."""


# server -> worker


class Welcome(_Frame, frozen=True, kw_only=True):
    version: int
    server: str  # `stepwell:v0.1.0`
    node: str
    idle_ms: int  # how long a function that only waits stays in memory
    concurrency: int
    modified: bool  # the functions differ from what was registered before
    warnings: tuple[str, ...] = ()
    packs: bool = False  # it takes several frames in one message


class Refused(_Frame, frozen=True, kw_only=True):
    code: str
    message: str


class Call(_Frame, frozen=True, kw_only=True):
    """Run a function. `memos` are in the order in which the results were recorded."""

    call: JobId
    run: RunId
    function: str
    attempt: int
    max_attempts: int
    events: tuple[bytes, ...]
    memos: tuple[Memo, ...] = ()
    waiting: tuple[StepId, ...] = ()  # known to the server and not done: park on them, do not report them
    attempts: dict[StepId, int] = {}  # attempts already made of steps that have no result yet
    news: int = 0
    started_at: Instant = 0  # of the run, for `ctx.now()` and the like
    lingers: bool = True  # it may stay in memory while it waits; else it is let go of at once


class Ack(_Frame, frozen=True, kw_only=True):
    call: JobId
    number: int
    news: int


class Resolve(_Frame, frozen=True, kw_only=True):
    """A step in memory got its result."""

    call: JobId
    memo: Memo
    news: int


class Retry(_Frame, frozen=True, kw_only=True):
    """Try this step again now; `attempt` counts from 0."""

    call: JobId
    step: StepId
    attempt: int
    news: int


class Ended(_Frame, frozen=True, kw_only=True):
    """`Returned`, `Raised`, `Suspended` or `Declined` is committed."""

    call: JobId


class Stop(_Frame, frozen=True, kw_only=True):
    """Stop this call and forget it: `cancelled`, `stale`, or `finished`."""

    call: JobId
    reason: str


class Closing(_Frame, frozen=True, kw_only=True):
    """The server goes away: reconnect, perhaps to another node."""

    reason: str = ""


# either way


class Pack(_Frame, frozen=True, kw_only=True):
    """Several frames, in order. No pack lies in a pack, and the first frame of each side comes alone."""

    frames: tuple[msgspec.Raw, ...]


FromWorker: TypeAlias = Hello | Report | Suspended | Returned | Raised | Declined | Running | Log | Draining
FromServer: TypeAlias = Welcome | Refused | Call | Ack | Resolve | Retry | Ended | Stop | Closing

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
decode_from_server = msgspec.msgpack.Decoder(FromServer).decode
_decode_pack = msgspec.msgpack.Decoder(Pack).decode
_PACK = b"\x92\xa4Pack"  # how a pack begins: an array of two, a name of four letters


def packed(frames: Sequence[bytes]) -> bytes:
    """One message with these encoded frames; a single one is sent as it is."""
    return frames[0] if len(frames) == 1 else encode(Pack(frames=tuple(map(msgspec.Raw, frames))))


def unpacked(message: bytes) -> Sequence[bytes]:
    """The encoded frames in a message. Raises `ValueError` for a pack of none or of too many."""
    if not message.startswith(_PACK):
        return (message,)
    frames = _decode_pack(message).frames
    if not 0 < len(frames) <= MAX_PACKED:
        raise ValueError(f"a message has {len(frames)} frames and may have 1 to {MAX_PACKED}")
    return tuple(map(bytes, frames))


def outline(data: bytes) -> tuple[str | None, JobId | None]:
    """Name and call of a frame that cannot be decoded because its other members are wrong, as far as they are there."""
    try:
        value = msgspec.msgpack.decode(data)
    except (ValueError, RecursionError):
        return None, None
    name, call = value[:2] if isinstance(value, list) and len(value) > 1 else (None, None)
    return name if isinstance(name, str) else None, JobId(call) if isinstance(call, str) else None
