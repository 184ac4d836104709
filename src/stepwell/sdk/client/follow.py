"""One run as it changes: what to ask next, and what each piece of an answer says. No socket and no `await`.

    ask() ──▶ opened(answer) ──▶ fed(piece), fed(piece) ...  ──▶ ended
      ▲              │ no such route                │ the connection was lost
      └── pause() ◀──┴── looked(run), now and then  ┴── dropped(error), resumed after the last change

The server sends each change with the number of its journal entry, so a stream that is resumed misses nothing and
repeats nothing. A server that cannot be followed (Inngest's own) is asked for the run at growing intervals.

Elsewhere: the loops that drive this (`client.py`, `async_client.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from stepwell.model.duration import parse_time
from stepwell.model.errors import NotFound
from stepwell.model.job import RunStatus
from stepwell.model.payload import decode
from stepwell.sdk.client import requests
from stepwell.sdk.client.address import Address
from stepwell.sdk.client.errors import ServerError, ServerUnreachable
from stepwell.sdk.client.exchange import QUIET_S, Answer, Ask, Flow
from stepwell.sdk.client.sse import EventStream, Message

FRESH_S = 10.0
"""How long after its start a run may not be there yet: the server first matches the event that starts it."""
PATIENCE_S = 60.0
"""How long the server may be away, or not begin an answer, before following gives up."""
SHORTEST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

Kind = Literal["run", "step", "call", "note", "delta", "reset", "gap"]
_KINDS = frozenset({"run", "step", "call", "note", "delta", "reset", "gap"})


@dataclass(frozen=True, slots=True)
class Update:
    """One change of a run.

    Attributes:
        kind: `run` (it changed its status), `step` (a step did), `call` (calling the function failed and is tried
            again), `note` (the server has something to tell), `delta` (a piece of a streamed result), `reset` (the
            pieces of a step are void, since it begins again; without a step, those of all steps that have no result),
            `gap` (pieces came and are gone).
        status: Of the run for `run`, of the step for `step`: COMPLETED, FAILED, RETRYING, SLEEPING, WAITING and so on.
        step: Id of the step, as the function names it.
        text: What a model says next, for a `delta` of its words; empty for everything else, so it can be printed as it
            comes.
        at: When it happened; None of what is not recorded (`delta`, `reset`, `gap`).
        details: All that the server said. Of a `delta` its `kind`, which is `text`, `reasoning`, `refusal`,
            `tool_call`, `tool_arguments` or `usage`, and its `index`, `offset` and `text`.
    """

    kind: Kind
    status: str = ""
    step: str | None = None
    text: str = ""
    at: datetime | None = None
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Follower:
    """Follows one run until it ends or nobody wants to know any more.

    Args:
        fresh: It was started by us just now and may not be there yet.
        pieces: Whether pieces of results are wanted, too.
    """

    def __init__(self, address: Address, run_id: str, *, fresh: bool = False, pieces: bool = False) -> None:
        self.run_id = run_id
        self._pieces = pieces
        self.ended = False
        self.polling = False
        self.status = RunStatus.QUEUED
        self._address = address
        self._keys = list(address.keys)
        self._last_id = ""
        self._names: dict[str, str] = {}
        self._stream = EventStream()
        self._pause_s = SHORTEST_PAUSE_S
        self._since = time.monotonic()
        self._fresh_until = self._since + FRESH_S if fresh else 0.0
        self._heard_at = self._since
        self._ever_heard = False
        self._missing = 0

    def ask(self) -> Ask:
        """The request for the stream."""
        self._stream = EventStream()
        key = self._keys[0] if self._keys else None
        return requests.followed(self._address, self.run_id, key=key, last_id=self._last_id, pieces=self._pieces)

    def opened(self, answer: Answer) -> bool:
        """Whether the answer is a stream to be read.

        Raises:
            Unauthorized, ServerError and others: An answer that asking again would not change.
        """
        if answer.ok:
            if "text/event-stream" not in answer.headers.get("content-type", ""):
                raise ServerError(f"what answers at {self._address.api} is no server of ours", status=answer.status)
            return True
        if answer.status in (404, 405, 501):
            # No such run, or no such route: `look` tells which. Twice, because a run that was just started may
            # appear between the two questions.
            self._missing += 1
            self.polling = True
        elif answer.status in (401, 403) and len(self._keys) > 1:
            self._keys.pop(0)
            self._pause_s = 0.0
        elif answer.status >= 500 or answer.status == 429:
            self._give_up_after(f"the server answered {answer.status}")
        else:
            requests.check(answer, self.ask())
        return False

    def fed(self, piece: bytes) -> Iterator[Update]:
        """The changes that a piece of the stream completes."""
        self._heard()
        for message in self._stream.feed(piece):
            update = self._read(message)
            self._last_id = message.id or self._last_id
            if update is not None:
                yield update
            if self.ended:
                return

    def dropped(self, error: ServerUnreachable) -> None:
        """The connection was lost, or never made. Raises `error` when the server has been away for too long."""
        never_there = error.refused and not self._ever_heard and not self._fresh_until
        if never_there or time.monotonic() - self._heard_at > PATIENCE_S + QUIET_S:
            raise error

    def look(self) -> Flow[dict[str, Any] | None]:
        """What to ask instead when there is no stream; None while the run is not there yet. Raises `NotFound`."""
        try:
            return (yield from requests.detail(self._address, self.run_id))
        except NotFound:
            if time.monotonic() < self._fresh_until:
                return None
            raise

    def looked(self, found: Mapping[str, Any] | None) -> Iterator[Update]:
        """The change between this look and the one before."""
        self._heard()
        if found is None:
            self.polling = False
            self._missing = 0
            return
        if self._missing == 1:
            self.polling = False  # it is there; the stream may be, too
            self._pause_s = SHORTEST_PAUSE_S
            return
        status = status_of(found)
        if status is not self.status:
            self.status = status
            self.ended = status.final
            self._pause_s = SHORTEST_PAUSE_S * 2
            yield Update("run", status.value, details=found)

    def pause(self) -> float:
        """How many seconds to wait before asking again."""
        pause = self._pause_s
        self._pause_s = min(max(pause * 1.6, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
        return pause

    def _heard(self) -> None:
        self._heard_at = time.monotonic()
        self._ever_heard = True
        if not self.polling:
            self._pause_s = SHORTEST_PAUSE_S

    def _give_up_after(self, reason: str) -> None:
        if time.monotonic() - self._heard_at > PATIENCE_S:
            raise ServerUnreachable(self._address.api, reason)

    def _read(self, message: Message) -> Update | None:
        try:
            found = decode(message.data)
        except ValueError:
            return None  # a comment of a later server
        if not isinstance(found, dict):
            return None
        if message.kind == "end":
            self.status = status_of(found)
            self.ended = True
            return None
        if message.kind not in _KINDS:
            return None
        update = self._update(message.kind, found)
        if update.kind == "run" and update.status in RunStatus.__members__:
            self.status = RunStatus(update.status)
        return update

    def _update(self, kind: str, found: Mapping[str, Any]) -> Update:
        text = found.get("text") if kind == "delta" and found.get("kind") == "text" else ""
        at = found.get("at")
        return Update(
            kind,  # type: ignore[arg-type]
            str(found.get("status") or ""),
            self._name(found),
            text if isinstance(text, str) else "",
            parse_time(at) if isinstance(at, str) else None,
            found,
        )

    def _name(self, found: Mapping[str, Any]) -> str | None:
        """The step's name, which the end of a wait does not repeat."""
        key, name = found.get("step"), found.get("name")
        if key and name:
            self._names[str(key)] = str(name)
        return str(name) if name else self._names.get(str(key))


def status_of(found: Mapping[str, Any]) -> RunStatus:
    """The status in either spelling; one that we have no word for counts as running."""
    text = str(found.get("status") or "").upper()
    if text in RunStatus.__members__:
        return RunStatus(text)
    return RunStatus.QUEUED if text == "SCHEDULED" else RunStatus.RUNNING
