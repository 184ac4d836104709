"""Events: the list, one event, and the runs that it started.

An event is known to the outside by its internal id, which a sender that repeats a request may give to several
stored events; only the first of them started anything. A run that was started by a batch stands in the lists under
the first event of it, so the other events of the batch are found through the journals of runs of that time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.model import journal
from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import EventKey, ulid_time
from stepwell.node.reads.payloads import text_of
from stepwell.store.base import EventQuery, RunQuery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.model.event import Event
    from stepwell.model.ids import Instant, RunId
    from stepwell.model.job import RunRow
    from stepwell.node.registry import Registry
    from stepwell.store.base import Store

PAGE_LIMIT = 1000
COUNT_LIMIT = 5000
"""Events counted at most; the store keeps no count."""
RUNS_LIMIT = 1000
_SCAN_PAGE = 500
_TWINS_MS = 86_400_000  # a sender repeats a request within moments; a day is how long ids are kept apart
_BATCH_MS = 600_000  # the longest that an event can wait for its batch, with room to spare


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events to show. Every field narrows; `since` belongs to the range of received times, `until` does not."""

    env: str = DEV_ENV
    names: tuple[str, ...] | None = None
    since: Instant | None = None
    until: Instant | None = None
    internal: bool = True  # also those that the server sends

    def query(self, before: EventKey | None, limit: int) -> EventQuery:
        return EventQuery(
            env=self.env,
            names=self.names,
            received_from=self.since,
            received_until=self.until,
            internal=self.internal,
            before=before,
            limit=limit,
        )


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events, newest first, and whether more follow. The key of the last is the cursor."""

    events: tuple[Event, ...]
    more: bool

    @property
    def cursor(self) -> str | None:
        return self.events[-1].key if self.events else None


@dataclass(frozen=True, slots=True)
class EventDetail:
    """An event, its whole text, and the runs it started, in the order of their creation."""

    event: Event
    body: bytes
    runs: tuple[RunRow, ...]


async def list_events(store: Store, wanted: EventFilter, *, after: str | None = None, limit: int = 20) -> EventPage:
    """A page of events, newest first.

    Args:
        after: The cursor of the page before.
        limit: 1 to 1000.

    Raises:
        InvalidInput: The limit or the cursor is not acceptable.
    """
    if not 1 <= limit <= PAGE_LIMIT:
        raise InvalidInput(f"limit must be 1 to {PAGE_LIMIT}, not {limit}", field="limit")
    found = await store.events(wanted.query(_cursor(after), limit + 1))
    return EventPage(tuple(found[:limit]), len(found) > limit)


async def count_events(store: Store, wanted: EventFilter) -> int:
    """How many events there are, or `COUNT_LIMIT` if there are more."""
    count, before = 0, None
    while count < COUNT_LIMIT:
        page = await store.events(wanted.query(before, _SCAN_PAGE))
        count += len(page)
        if len(page) < _SCAN_PAGE:
            break
        before = page[-1].key
    return min(count, COUNT_LIMIT)


async def find_event(store: Store, env: str, internal_id: str) -> Event | None:
    """The event with that internal id, the newest if there are several."""
    return await store.event_by_id(env, internal_id)


async def event_text(store: Store, event: Event) -> bytes:
    """The whole event as functions see it."""
    text = await text_of(store, event.body)
    assert text is not None, "an event has a body"
    return text


async def event_detail(store: Store, registry: Registry, env: str, internal_id: str) -> EventDetail | None:
    """An event with its text and its runs; None when there is no such event."""
    event = await find_event(store, env, internal_id)
    if event is None:
        return None
    return EventDetail(event, await event_text(store, event), await runs_of_event(store, registry, event))


async def runs_of_event(store: Store, registry: Registry, event: Event) -> tuple[RunRow, ...]:
    """The runs that an event started, alone or in a batch, in the order of their creation."""
    found: dict[RunId, RunRow] = {}
    keys = await _twins(store, event)
    for key in keys:
        for row in await store.runs(RunQuery(env=event.env, event=key, limit=RUNS_LIMIT)):
            found[row.id] = row
    batching = tuple(one.slug for one in registry.functions(event.env) if b'"batchEvents"' in one.config)
    if batching:
        for row in await _batches(store, event, batching, keys):
            found[row.id] = row
    return tuple(found[run] for run in sorted(found))


async def _twins(store: Store, event: Event) -> list[EventKey]:
    """The keys of all stored events with the internal id of this one."""
    if event.key == event.internal_id:
        return [event.key]
    query = EventQuery(
        env=event.env,
        names=(event.name,),
        received_from=event.received_at - _TWINS_MS,
        received_until=event.received_at + _TWINS_MS,
        limit=PAGE_LIMIT,
    )
    found = [other.key for other in await store.events(query) if other.internal_id == event.internal_id]
    return found if event.key in found else [event.key, *found]


async def _batches(store: Store, event: Event, functions: tuple[str, ...], keys: Sequence[EventKey]) -> list[RunRow]:
    query = RunQuery(
        env=event.env,
        functions=functions,
        created_from=event.received_at,
        created_until=event.received_at + _BATCH_MS,
        limit=RUNS_LIMIT,
        ascending=True,
    )
    found = []
    for row in await store.runs(query):
        if row.event_count > 1 and row.event not in keys:
            stored = await store.load_run(row.id)
            first = stored.entries[0] if stored is not None else None
            if isinstance(first, journal.RunStarted) and not set(keys).isdisjoint(first.event_keys):
                found.append(row)
    return found


def _cursor(text: str | None) -> EventKey | None:
    if text is None:
        return None
    try:
        ulid_time(text)
    except ValueError as err:
        raise InvalidInput(f"the cursor is not one of ours: {err}", field="cursor") from err
    return EventKey(text)
