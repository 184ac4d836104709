"""What surfaces ask to see, in words of the model: runs, events, and the state of a live run.

Reads only. Every answer is about one environment: an id of another one is as unknown as one that never was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.engine.run import fold
from stepwell.model.errors import NotFound
from stepwell.node.calls import memo_of, result_of
from stepwell.store.base import EventQuery, RunQuery

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell.model.dispatch import Memo
    from stepwell.model.event import Event
    from stepwell.model.ids import EventKey, Instant, RunId
    from stepwell.model.job import RunRow, RunStatus
    from stepwell.model.journal import Entry
    from stepwell.model.payload import Payload
    from stepwell.node.node import Node

_SAME_ID_MS = 3_600_000
"""Senders repeat a request with the same seed within minutes."""
_SAME_ID_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class State:
    """What a function needs to go on: its events, and the recorded results in the order in which they finished."""

    events: tuple[bytes, ...]
    memos: tuple[Memo, ...]


@dataclass(frozen=True, slots=True)
class Journal:
    """A run's row and its entries from a sequence number on."""

    row: RunRow
    entries: tuple[Entry, ...]


class Lookup:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._store = node.store

    # runs

    async def run(self, env: str, run: RunId) -> RunRow:
        """Raises `NotFound`."""
        row = await self._store.run_row(run)
        if row is None or row.env != env:
            raise NotFound(f"no run {run}")
        return row

    async def runs(
        self,
        env: str,
        *,
        functions: tuple[str, ...] | None = None,
        statuses: tuple[RunStatus, ...] | None = None,
        created_from: Instant | None = None,
        created_until: Instant | None = None,
        before: RunId | None = None,
        limit: int = 50,
    ) -> list[RunRow]:
        """Runs, newest first; `before` is the last one seen."""
        return await self._store.runs(
            RunQuery(
                env=env,
                functions=functions,
                statuses=statuses,
                created_from=created_from,
                created_until=created_until,
                before=before,
                limit=limit,
            )
        )

    async def journal(self, env: str, run: RunId, after_seq: int = 0) -> Journal:
        """What was recorded of a run after that entry. Raises `NotFound`."""
        stored = await self._store.load_run(run, after_seq)
        if stored is None or stored.row.env != env:
            raise NotFound(f"no run {run}")
        return Journal(stored.row, stored.entries)

    async def state(self, env: str, run: RunId) -> State | None:
        """The state of a live run; None when it has ended. Raises `NotFound`."""
        stored = await self._store.load_run(run)
        if stored is None or stored.row.env != env:
            raise NotFound(f"no run {run}")
        if stored.row.status.final:
            return None
        folded = fold(stored.row, stored.entries)
        steps = [folded.steps[step] for step in folded.stack]
        texts = await self.texts([*folded.events, *(result_of(step) for step in steps)])
        split = len(folded.events)
        memos = tuple(memo_of(step, text) for step, text in zip(steps, texts[split:], strict=True))
        return State(tuple(texts[:split]), memos)

    # events

    async def event(self, env: str, internal_id: str) -> Event:
        """The newest event with that internal id. Raises `NotFound`."""
        event = await self._store.event_by_id(env, internal_id)
        if event is None:
            raise NotFound(f"no event {internal_id}")
        return event

    async def events(
        self,
        env: str,
        *,
        names: tuple[str, ...] | None = None,
        received_from: Instant | None = None,
        received_until: Instant | None = None,
        internal: bool = True,
        before: EventKey | None = None,
        limit: int = 20,
    ) -> list[Event]:
        """Events, newest first; `before` is the key of the last one seen."""
        return await self._store.events(
            EventQuery(
                env=env,
                names=names,
                received_from=received_from,
                received_until=received_until,
                internal=internal,
                before=before,
                limit=limit,
            )
        )

    async def runs_of_event(self, env: str, internal_id: str, limit: int = 100) -> list[RunRow]:
        """The runs that an event started. A sender that repeats its request makes several events of one id, and the
        first of them may have started the runs. Raises `NotFound`."""
        event = await self.event(env, internal_id)
        keys = [event.key]
        if event.internal_id != event.key:
            since = event.received_at - _SAME_ID_MS
            near = await self._store.events_since(env, event.name, since, _SAME_ID_LIMIT)
            keys = [one.key for one in near if one.internal_id == internal_id] or keys
        found: dict[RunId, RunRow] = {}
        for key in keys:
            for row in await self._store.runs(RunQuery(env=env, event=key, limit=limit)):
                found[row.id] = row
        return sorted(found.values(), key=lambda row: row.id, reverse=True)[:limit]

    async def internal_ids(self, keys: Iterable[EventKey | None]) -> dict[EventKey, str]:
        """What the API calls these events."""
        wanted: Sequence[EventKey] = list({key: None for key in keys if key is not None})
        return {event.key: event.internal_id for event in await self._store.read_events(wanted)}

    async def texts(self, payloads: Iterable[Payload]) -> list[bytes]:
        """The texts of payloads, in order."""
        return await self._node.turns.texts(payloads)
