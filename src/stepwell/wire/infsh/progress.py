"""How far a task has come, as a fold of the pieces that were published of it.

Every piece is taken once, and says what those who watch are to be told: a new status, the output so far, what is to be
merged into it, a line of a log, or that what came before is void. Who comes later gets the fold instead.

What is merged (`delta`) only makes sense to somebody who has had it from the beginning, since clients put it in place
of the final output. So a fold that does not know the beginning tells nobody of any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from stepwell.model.ids import Instant
from stepwell.model.task import PIECE_DELTA, PIECE_LOG, PIECE_OUTPUT, PIECE_STATUS, TaskStatus
from stepwell.wire.infsh.delta import merge_delta

LOG_RUN = 1
"""What the type of a log is that nobody says anything of: what the app printed."""


class _Told(msgspec.Struct):
    """A piece, as it is told to those who watch."""

    type: str = ""
    kind: str = ""
    text: str = ""
    at: Instant = 0
    log_type: int = LOG_RUN


class NewStatus(msgspec.Struct, frozen=True):
    status: TaskStatus
    at: Instant


class NewOutput(msgspec.Struct, frozen=True):
    """The whole output so far, as JSON."""

    output: msgspec.Raw


class NewDelta(msgspec.Struct, frozen=True):
    """What is to be merged, as JSON, and its number from 1."""

    delta: msgspec.Raw
    number: int


class NewLog(msgspec.Struct, frozen=True):
    """One line."""

    text: str
    log_type: int
    at: Instant


class Void(msgspec.Struct, frozen=True):
    """Output and deltas so far are of an attempt that counts no more."""


Update: TypeAlias = NewStatus | NewOutput | NewDelta | NewLog | Void

_read = msgspec.json.Decoder(_Told).decode
_read_value = msgspec.json.Decoder().decode


class Progress:
    """The fold. Begin with what is known otherwise; `whole` is False once pieces are known to be missing."""

    def __init__(self, status: TaskStatus = TaskStatus.RECEIVED, at: Instant = 0) -> None:
        self.status = status
        self.at = at
        """When something was told last; 0 if nothing was."""
        self.output: msgspec.Raw | None = None
        self.logs: dict[int, list[str]] = {}
        """Lines by their type."""
        self.log_bytes = 0
        self.events: list[NewStatus] = []
        self.deltas = 0
        """How many there were; it only ever becomes more."""
        self.whole = True
        self._merged: dict[str, Any] = {}

    @property
    def lines(self) -> int:
        """Of all logs."""
        return sum(map(len, self.logs.values()))

    @property
    def merged(self) -> dict[str, Any] | None:
        """All deltas in one; None if there are none, or not all of them are known."""
        return self._merged if self._merged and self.whole else None

    def take(self, text: bytes) -> list[Update]:
        """Take a piece, written as a server-sent event; one that voids others comes before the first that does not."""
        found: list[Update] = []
        for part in text.split(b"\n\n"):
            if part:
                update = self._one(_read(part[part.index(b"data: ") + 6 :]))
                if update is not None:
                    found.append(update)
        return found

    def come_to(self, status: TaskStatus, at: Instant) -> NewStatus | None:
        """It is known otherwise that the task has come to that status. None: that is nothing new."""
        if status <= self.status:
            return None  # it is made again; what was seen once stays true
        self.status = status
        change = NewStatus(status, at)
        self.events.append(change)
        return change

    def missed(self) -> None:
        """Pieces were gone before they could be taken."""
        self.whole = False

    def _one(self, told: _Told) -> Update | None:
        if told.type == "reset":
            self.output, self._merged, self.whole = None, {}, True
            return Void()
        if told.type == "gap":
            self.missed()
            return None
        if told.at:
            self.at = max(self.at, told.at)
        match told.kind:
            case kind if kind == PIECE_STATUS:
                return self.come_to(TaskStatus(int(told.text)), told.at)
            case kind if kind == PIECE_OUTPUT:
                self.output = msgspec.Raw(told.text.encode())
                return NewOutput(self.output)
            case kind if kind == PIECE_DELTA:
                self.deltas += 1
                if not self.whole:
                    return None
                text = told.text.encode()
                merge_delta(self._merged, _read_value(text))
                return NewDelta(msgspec.Raw(text), self.deltas)
            case kind if kind == PIECE_LOG:
                self.logs.setdefault(told.log_type, []).append(told.text)
                self.log_bytes += len(told.text) + 1
                return NewLog(told.text, told.log_type, told.at)
            case _:
                return None


def log_texts(logs: Mapping[int, list[str]]) -> dict[int, str]:
    """Logs by their type, each as one text."""
    return {kind: "\n".join(lines) + "\n" for kind, lines in sorted(logs.items())}
