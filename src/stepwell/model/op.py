"""An op: what a worker reports about one step.

Both wire forms decode into these: the official SDKs' JSON (`wire.inngest.ops`) and our own frames
(`wire.worker`). Payload fields are canonical JSON by the time the engine sees them.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from stepwell.model.ids import Instant, StepId
from stepwell.model.offload import FETCH, Sealed
from stepwell.model.payload import NULL, Payload


class _Op(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    step: StepId
    name: str = ""  # the id the user wrote, shown in traces
    index: int = 0  # which use of that id in the run


class StepDone(_Op, frozen=True, kw_only=True):
    """The step returned `output`."""

    output: Payload = NULL
    kind: str = "step.run"
    bare: bool = False  # memo is the value itself, not `{"data": value}`
    input: Payload | None = None
    started_at: Instant = 0
    duration_ms: float = 0.0
    race: bool = False
    blocked: str = ""  # why the arguments are no `input`


class StepErrored(_Op, frozen=True, kw_only=True):
    """An attempt of the step failed. `error` is the error object as the worker wrote it."""

    error: Payload
    kind: str = "step.run"
    retry: bool = True
    retry_at: Instant | None = None
    started_at: Instant = 0
    duration_ms: float = 0.0
    race: bool = False
    input: Payload | None = None
    blocked: str = ""  # why the arguments are no `input`


class StepPlanned(_Op, frozen=True, kw_only=True):
    """The step is there to be run, in a call of its own."""

    kind: str = "step.run"
    input: Payload | None = None
    race: bool = False


class Sleep(_Op, frozen=True, kw_only=True):
    """Exactly one of `for_ms` (from when the op is recorded) and `until` counts; `until` wins."""

    for_ms: int = 0
    until: Instant | None = None
    race: bool = False


class WaitForEvent(_Op, frozen=True, kw_only=True):
    """Wait for an event. The deadline as for `Sleep`."""

    event: str
    expression: str | None = None
    for_ms: int = 0
    until: Instant | None = None
    race: bool = False


class Invoke(_Op, frozen=True, kw_only=True):
    """Call another function and wait for its end."""

    function: str  # slug
    data: Payload = b"{}"
    user: Payload = b"{}"
    v: str | None = None
    for_ms: int = 365 * 86_400_000
    until: Instant | None = None
    race: bool = False


class Offload(_Op, frozen=True, kw_only=True):
    """The server is to make a request. `request` is its JSON without credentials; `sealed` has them, if there are
    any. `kind` is `FETCH` or `INFER`."""

    request: Payload
    kind: str = FETCH
    sealed: Sealed | None = None
    race: bool = False


class Discover(_Op, frozen=True, kw_only=True):
    """The worker asks to be called again at once."""


class Completed(_Op, frozen=True, kw_only=True):
    """The function returned `output`."""

    output: Payload = NULL


class Unknown(_Op, frozen=True, kw_only=True):
    """An op that this server does not know, or one it knows and cannot read. `reason` says which."""

    reason: str


Op: TypeAlias = (
    StepDone | StepErrored | StepPlanned | Sleep | WaitForEvent | Invoke | Offload | Discover | Completed | Unknown
)
