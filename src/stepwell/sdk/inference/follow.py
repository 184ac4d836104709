"""One task as it changes: what to ask next, and what each piece of an answer says. No socket and no `await`.

    ask() ──▶ opened(answer) ──▶ fed(piece), fed(piece) ...  ──▶ ended
      ▲                                │ the connection was lost
      └── pause() ◀────────────────────┴── dropped(error), resumed after the last change

The server numbers what it tells, so a stream that is resumed misses nothing and repeats nothing. Where it cannot go on
(it was restarted), it tells the whole task again: then only what is new of that is an update.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from stepwell.model.payload import decode
from stepwell.model.task import TaskStatus
from stepwell.sdk.client.address import Address
from stepwell.sdk.client.errors import ServerError, ServerUnreachable
from stepwell.sdk.client.exchange import QUIET_S, Answer, Ask
from stepwell.sdk.client.follow import LONGEST_PAUSE_S, PATIENCE_S, SHORTEST_PAUSE_S
from stepwell.sdk.client.sse import EventStream, Message
from stepwell.sdk.inference import requests
from stepwell.wire.infsh.delta import merge_delta

O_co = TypeVar("O_co", covariant=True)


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """The task came to another status."""

    status: TaskStatus


@dataclass(frozen=True, slots=True)
class LogUpdate:
    """What was printed since the last of these. `kind`: 0 while it was built, 3 by `setup`, 4 by the function."""

    text: str
    kind: int = 4


@dataclass(frozen=True, slots=True)
class OutputUpdate(Generic[O_co]):
    """The whole output so far, or at last."""

    output: O_co


@dataclass(frozen=True, slots=True)
class DeltaUpdate:
    """A piece to be merged into what came before, as JSON; `merged` is what that makes so far."""

    delta: Any
    merged: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ResetUpdate:
    """Outputs and pieces so far are void: the call begins again, or pieces were lost. What counts comes next."""


TaskUpdate: TypeAlias = StatusUpdate | LogUpdate | OutputUpdate[O_co] | DeltaUpdate | ResetUpdate


class TaskFollower:
    """Follows one task until it has ended, or nobody wants to know any more. `last` is then the whole task."""

    def __init__(self, address: Address, task: str) -> None:
        self.task = task
        self.ended = False
        self.last: dict[str, Any] = {}
        self.status = TaskStatus.UNKNOWN
        self._address = address
        self._keys = list(address.keys)
        self._last_id = ""
        self._stream = EventStream()
        self._pause_s = SHORTEST_PAUSE_S
        self._heard_at = time.monotonic()
        self._ever_heard = False
        self._logs: dict[int, str] = {}
        self._output: Any = None
        self._merged: dict[str, Any] = {}
        self._number = 0

    def ask(self) -> Ask:
        """The request for the stream."""
        self._stream = EventStream()
        key = self._keys[0] if self._keys else None
        return requests.streamed(self._address, self.task, key=key, last_id=self._last_id)

    def opened(self, answer: Answer) -> bool:
        """Whether the answer is a stream to be read.

        Raises:
            NotFound, Unauthorized, ServerError: An answer that asking again would not change.
        """
        if answer.status == 204:  # it ended, and the last thing that came said so
            self._last_id = ""
            return False
        if answer.ok:
            if "text/event-stream" not in answer.headers.get("content-type", ""):
                raise ServerError(f"what answers at {self._address.api} is no server of ours", status=answer.status)
            return True
        if answer.status in (401, 403) and len(self._keys) > 1:
            self._keys.pop(0)
            self._pause_s = 0.0
        elif answer.status >= 500 or answer.status == 429:
            if time.monotonic() - self._heard_at > PATIENCE_S:
                raise ServerUnreachable(self._address.api, f"the server answered {answer.status}")
        elif answer.status == 400 and self._last_id:
            self._last_id = ""  # of another version of the server
        else:
            requests.check(answer, self.ask())
        return False

    def fed(self, piece: bytes) -> Iterator[TaskUpdate[Any]]:
        """The changes that a piece of the stream completes."""
        self._heard_at = time.monotonic()
        self._ever_heard = True
        self._pause_s = SHORTEST_PAUSE_S
        for message in self._stream.feed(piece):
            yield from self._read(message)
            self._last_id = message.id or self._last_id
            if self.ended:
                return

    def dropped(self, error: ServerUnreachable) -> None:
        """The connection was lost, or never made. Raises `error` when the server has been away for too long."""
        never_there = error.refused and not self._ever_heard
        if never_there or time.monotonic() - self._heard_at > PATIENCE_S + QUIET_S:
            raise error

    def pause(self) -> float:
        """How many seconds to wait before asking again."""
        pause = self._pause_s
        self._pause_s = min(max(pause * 1.6, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
        return pause

    def _read(self, message: Message) -> Iterator[TaskUpdate[Any]]:
        try:
            found = decode(message.data)
        except ValueError:
            return  # a comment of a later server
        if not isinstance(found, dict):
            return
        data = found.get("data")
        if found.get("event") == "delta" and isinstance(data, dict):
            yield from self._delta(data)
        elif found.get("event") == "reset":
            yield from self._void()
        elif isinstance(data, dict) and "fields" in found:
            yield from self._part(data, found["fields"])
        elif "id" in found and "status" in found:
            yield from self._whole(found)

    def _whole(self, found: dict[str, Any]) -> Iterator[TaskUpdate[Any]]:
        status = TaskStatus(found["status"])
        if not status.final and (self._number or (self._output is not None and found.get("output") is None)):
            yield from self._void()  # pieces may have come while nobody listened
        yield from self._printed(found.get("logs"))
        yield from self._put_out(found.get("output"))
        self._merged = copy.deepcopy(self._output) if isinstance(self._output, dict) else {}
        self.last = found
        self.ended = status.final
        yield from self._came_to(status)

    def _part(self, data: Mapping[str, Any], fields: Any) -> Iterator[TaskUpdate[Any]]:
        if "logs" in fields:
            yield from self._printed(data.get("logs"))
        if "output" in fields:
            yield from self._put_out(data.get("output"))
        if "status" in fields:
            yield from self._came_to(TaskStatus(data["status"]))

    def _came_to(self, status: TaskStatus) -> Iterator[TaskUpdate[Any]]:
        if status > self.status:
            self.status = status
            yield StatusUpdate(status)

    def _printed(self, logs: Any) -> Iterator[TaskUpdate[Any]]:
        """Logs are told as a whole each time."""
        for one in logs or ():
            kind, text = int(one.get("log_type") or 0), str(one.get("content") or "")
            known = self._logs.get(kind, "")
            self._logs[kind] = text
            new = text[len(known) :] if text.startswith(known) else text
            if new:
                yield LogUpdate(new, kind)

    def _put_out(self, output: Any) -> Iterator[TaskUpdate[Any]]:
        if output is not None and output != self._output:
            self._output = output
            yield OutputUpdate(output)

    def _delta(self, data: Mapping[str, Any]) -> Iterator[TaskUpdate[Any]]:
        number = int(data.get("seq") or 0)
        if number and number <= self._number:
            return
        self._number = number
        merge_delta(self._merged, data.get("delta"))
        yield DeltaUpdate(data.get("delta"), copy.deepcopy(self._merged))

    def _void(self) -> Iterator[TaskUpdate[Any]]:
        self._output, self._merged, self._number = None, {}, 0
        yield ResetUpdate()
