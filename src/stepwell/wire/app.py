"""Frames between the server and a process that runs an app: four bytes of length, most significant first, and a
MessagePack map with `type`.

    server                                   process
      load(directory)            ───────▶    imports the app
                                 ◀───────    loaded(functions, schemas)
      setup(value, metadata)     ───────▶    makes an instance, calls its `setup`
                                 ◀───────    ready
      run(call, function, input) ───────▶
                                 ◀───────    output* | delta*, then done | failed
      cancel(call)               ───────▶    sets the flag, calls `on_cancel`
      unload                     ───────▶    calls `unload`, ends

One call at a time. What the app prints goes through stdout and stderr, and everything that a call printed was written
before its `done` or `failed`. The process side is `apps/harness`, which runs in the app's own environment and may
import nothing of ours: both sides keep to this file, and a test compares them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

PROTOCOL = 1
MAX_FRAME_BYTES = 256 * 1024 * 1024


class _Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower, omit_defaults=True):
    pass


# to the process


class Load(_Frame, frozen=True, kw_only=True):
    """Import the app. First frame."""

    directory: str
    protocol: int = PROTOCOL


class Setup(_Frame, frozen=True, kw_only=True):
    """Make an instance and set it up. `metadata`: app_id, app_version_id, app_variant, worker_id, gpu_ids ..."""

    value: Any = None
    metadata: dict[str, Any] = {}


class Run(_Frame, frozen=True, kw_only=True):
    """Call a function of the instance."""

    call: str
    function: str
    input: Any = None
    metadata: dict[str, Any] = {}


class RunMany(_Frame, frozen=True, kw_only=True):
    """Call a function that takes several inputs at a time. Each call gets its own `done` or `failed`."""

    calls: list[str]
    function: str
    inputs: list[Any]
    metadata: dict[str, Any] = {}


class Cancel(_Frame, frozen=True, kw_only=True):
    call: str


class Snapshot(_Frame, frozen=True, kw_only=True):
    """Ask the instance for its state: `snapshot()` of the app."""


class Restore(_Frame, frozen=True, kw_only=True):
    """Give the instance a state that it once told: `restore(state)` of the app."""

    state: bytes


class Unload(_Frame, frozen=True, kw_only=True):
    """Call `unload` and end."""


# from the process


class Loaded(_Frame, frozen=True, kw_only=True):
    """`functions` by name, each with description, input_schema, output_schema, capabilities, kind, batch_size,
    batch_wait_ms. `session`: `rebuild`, `snapshot` or empty. `cancels`: the app has an `on_cancel`."""

    functions: dict[str, dict[str, Any]] = {}
    setup_schema: dict[str, Any] = {}
    session: str = ""
    cancels: bool = False


class Ready(_Frame, frozen=True, kw_only=True):
    """Set up, or restored."""


class Output(_Frame, frozen=True, kw_only=True):
    """The whole output so far, of a function that yields. `files`: as for `done`."""

    call: str
    value: Any = None
    files: list[list[str | int]] = []


class Delta(_Frame, frozen=True, kw_only=True):
    """What is to be merged into what came before."""

    call: str
    value: Any = None


class Done(_Frame, frozen=True, kw_only=True):
    """The result. `meta` is what the app said of it (`output_meta`). `cancelled`: the app ended because it was asked
    to.

    `files`: paths of keys and positions into `value`, one to each file that the app made: there is a map with `path`,
    `uri`, `content_type`, `size` and `filename`, some of them. A map that looks so elsewhere is no file.
    """

    call: str
    value: Any = None
    files: list[list[str | int]] = []
    meta: Any = None
    cancelled: bool = False


class State(_Frame, frozen=True, kw_only=True):
    """The answer to `snapshot`."""

    state: bytes


class Failed(_Frame, frozen=True, kw_only=True):
    """Something went wrong. Without `call` it was loading or setup, and the process is of no use any more.

    `code` is `validation` (the input does not fit), `import`, `setup` or `app`.
    """

    message: str
    code: str = "app"
    name: str = ""
    call: str = ""
    trace: str = ""


ToProcess: TypeAlias = Load | Setup | Run | RunMany | Cancel | Snapshot | Restore | Unload
FromProcess: TypeAlias = Loaded | Ready | Output | Delta | Done | State | Failed


# bytes

HEADER_BYTES = 4

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(FromProcess).decode


def encode(frame: ToProcess) -> bytes:
    """A frame with its length.

    Raises:
        ValueError: It is longer than `MAX_FRAME_BYTES`, or holds something that no frame can.
    """
    try:
        data = _encode(frame)
    except (TypeError, OverflowError, msgspec.MsgspecError) as err:
        raise ValueError(f"cannot be sent to the process of an app: {err}") from err
    if len(data) > MAX_FRAME_BYTES:
        raise ValueError(
            f"{len(data)} bytes are more than the process of an app takes at a time, {MAX_FRAME_BYTES}; "
            "give large values as a file"
        )
    return len(data).to_bytes(HEADER_BYTES) + data


def read_frames(received: bytearray) -> list[FromProcess]:
    """Take the frames that have come completely out of what was received.

    Raises:
        ValueError: There is something else, or a frame that is too long.
    """
    frames: list[FromProcess] = []
    start = 0
    try:
        while len(received) - start >= HEADER_BYTES:
            begin = start + HEADER_BYTES
            size = int.from_bytes(received[start:begin])
            if size > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes is longer than {MAX_FRAME_BYTES}")
            if len(received) < begin + size:
                break
            start = begin + size
            with memoryview(received) as view:
                frames.append(_decode(view[begin:start]))
    except msgspec.MsgspecError as err:
        raise ValueError(f"a frame cannot be read: {err}") from err
    finally:
        del received[:start]
    return frames
