"""A task: one call of a function of an app, as a run.

The run is one of the function whose slug is the reference of the app's version, and its only event holds the request.
What is recorded are its beginning, that it is to be cancelled, and its end; how far it has come in between is told
to those who watch.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

from stepwell.model.event import INVOKED, read_body
from stepwell.model.ids import Instant

TASK_EVENT = "stepwell/task"
"""The name of the event that a task begins with. Its `data` is a `TaskRequest`."""


class TaskStatus(IntEnum):
    """How far a task has come. It only ever becomes more."""

    UNKNOWN = 0
    RECEIVED = 1  # stored
    QUEUED = 2  # waits for a worker
    DISPATCHED = 3  # has one
    PREPARING = 4  # the package and what it needs are made ready
    SERVING = 5  # the process starts
    SETTING_UP = 6
    RUNNING = 7
    CANCELLING = 8
    UPLOADING = 9  # files of the output are stored
    COMPLETED = 10
    FAILED = 11
    CANCELLED = 12

    @property
    def final(self) -> bool:
        return self >= TaskStatus.COMPLETED


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a task is to do, with everything settled: the version, the function, the session."""

    app: str  # reference of the version
    function: str  # empty: the default one
    input: Any = None
    setup: Any = None
    variant: str = "default"
    session: str = ""  # id of the session; empty: none
    opens: bool = False  # it is the first call of its session
    session_timeout_s: int = 0  # of the session that it opens
    workers: tuple[str, ...] = ()  # ids; one of these is to do it
    webhook: str = ""
    infra: str = ""
    metadata: dict[str, Any] = {}
    batch: str = ""  # set by `map` of our client, for display


def is_task(event_name: str, function: str) -> bool:
    """Whether a run is a task: one that a request began, or that of an app which another run invoked.

    Args:
        event_name: Of the event that it began with.
        function: Its slug.
    """
    return event_name == TASK_EVENT or (event_name == INVOKED and "/" in function and "@" in function)


class _Begun(msgspec.Struct):
    """The event that a task began with, as far as it matters."""

    name: str
    data: msgspec.Raw


def read_request(event: bytes, app: str) -> TaskRequest:
    """What the run that began with this event is to do.

    Args:
        event: The whole event, as functions see it.
        app: Reference of the version whose function the run is of. A run that another one invoked calls its default
            function, and what was given is the input.
    """
    begun = msgspec.json.decode(event, type=_Begun)
    if begun.name == TASK_EVENT:
        return msgspec.json.decode(begun.data, type=TaskRequest)
    data = read_body(event).get("data")
    if begun.name == INVOKED and isinstance(data, dict):
        data = {name: value for name, value in data.items() if name != "_inngest"}
    return TaskRequest(app=app, function="", input=data)


LOG_TYPES = {"build": 0, "run": 1, "serve": 2, "setup": 3, "task": 4}
"""The level of a line that an app logged, as it is recorded, and its number on the wire."""


class TaskPhase(msgspec.Struct, frozen=True, array_like=True):
    """The task had come to `status` at `at`."""

    status: TaskStatus
    at: Instant


# What is published of a task while it goes on: kinds of pieces (`model.stream.Piece`), of the step TASK_STEP.
TASK_STEP = "task"
PIECE_STATUS = "status"  # text: the number of the status; `more`: {"at": Instant}
PIECE_OUTPUT = "output"  # text: JSON of the whole output so far
PIECE_DELTA = "delta"  # text: JSON of what is to be merged into what came before
PIECE_LOG = "log"  # text: one line; `more`: {"at": Instant, "log_type": int}


class _Item(msgspec.Struct):
    """What an app says of one thing that it took or made. Tokens and cents."""

    tokens: float | None = None
    cached_tokens: float | None = None
    cost: float | None = None


class _Meta(msgspec.Struct):
    inputs: list[_Item] = []
    outputs: list[_Item] = []


class TaskResult(msgspec.Struct):
    """The result of a run of an app: what callers get, and what the app said of it (`output_meta`)."""

    output: msgspec.Raw = msgspec.Raw(b"null")
    meta: Any = None


class Usage(msgspec.Struct, frozen=True):
    """What a call took, as the app said it. None: it said nothing of that."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None


def usage_of(meta: object) -> Usage:
    """The sums over all that an app said of its inputs and outputs; what cannot be read counts for nothing."""
    try:
        said = msgspec.convert(meta or {}, _Meta)
    except msgspec.ValidationError:
        return Usage()

    def total(numbers: list[float | None]) -> float | None:
        known = [one for one in numbers if one is not None]
        return sum(known) if known else None

    def count(numbers: list[float | None]) -> int | None:
        found = total(numbers)
        return None if found is None else round(found)

    cents = total([one.cost for one in (*said.inputs, *said.outputs)])
    return Usage(
        count([one.tokens for one in said.inputs]),
        count([one.tokens for one in said.outputs]),
        count([one.cached_tokens for one in said.inputs]),
        None if cents is None else cents / 100,
    )
