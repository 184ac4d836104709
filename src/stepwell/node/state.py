"""What a function needs to go on, for an SDK that fetches it because it was too large to be sent along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.engine.run import fold
from stepwell.model.errors import NotFound
from stepwell.node.calls import memo_of, result_of
from stepwell.node.reads.payloads import texts_of

if TYPE_CHECKING:
    from stepwell.model.dispatch import Memo
    from stepwell.model.ids import RunId
    from stepwell.store.base import Store


@dataclass(frozen=True, slots=True)
class State:
    """Events, and the recorded results in the order in which they finished."""

    events: tuple[bytes, ...]
    memos: tuple[Memo, ...]


async def state_of(store: Store, env: str, run: RunId) -> State | None:
    """The state of a live run; None when it has ended. Raises `NotFound`."""
    stored = await store.load_run(run)
    if stored is None or stored.row.env != env:
        raise NotFound(f"no run {run}")
    if stored.row.status.final:
        return None
    folded = fold(stored.row, stored.entries)
    steps = [folded.steps[step] for step in folded.stack]
    texts = await texts_of(store, [*folded.events, *(result_of(step) for step in steps)])
    split = len(folded.events)
    memos = tuple(memo_of(step, text) for step, text in zip(steps, texts[split:], strict=True))
    return State(tuple(texts[:split]), memos)
