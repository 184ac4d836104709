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
    batch_wait_ms. `session`: `rebuild`, `snapshot` or empty."""

    functions: dict[str, dict[str, Any]] = {}
    setup_schema: dict[str, Any] = {}
    session: str = ""


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
