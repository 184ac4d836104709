"""What a function needs to go on, for an SDK that fetches it because it was too large to be sent along.

Large texts are read when it is their turn to be written, so that many SDKs fetching at once take little memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.engine.rerun import input_to_give
from stepwell.engine.run import fold
from stepwell.model.errors import NotFound
from stepwell.node.calls import memo_of, memo_of_input, result_of
from stepwell.node.reads.payloads import texts_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell.engine.run import Step
    from stepwell.model.dispatch import Memo
    from stepwell.model.ids import RunId
    from stepwell.model.journal import InputEdited
    from stepwell.model.payload import Payload
    from stepwell.store.base import Store


@dataclass(frozen=True, slots=True)
class State:
    """Events, the steps that have a result, in the order of their ids, and an edited input that is yet to be used."""

    store: Store
    payloads: tuple[Payload, ...]
    steps: tuple[Step, ...]
    edit: InputEdited | None = None

    async def events(self) -> AsyncIterator[bytes]:
        for payload in self.payloads:
            (text,) = await texts_of(self.store, [payload])
            yield text

    async def memos(self) -> AsyncIterator[Memo]:
        for step in self.steps:
            (text,) = await texts_of(self.store, [result_of(step)])
            yield memo_of(step, text)
        if self.edit is not None:
            (text,) = await texts_of(self.store, [self.edit.input])
            yield memo_of_input(self.edit, text)


async def state_of(store: Store, env: str, run: RunId) -> State | None:
    """The state of a live run; None when it has ended. Raises `NotFound`."""
    stored = await store.load_run(run)
    if stored is None or stored.row.env != env:
        raise NotFound(f"no run {run}")
    if stored.row.status.final:
        return None
    folded = fold(stored.row, stored.entries)
    return State(
        store, tuple(folded.events), tuple(folded.steps[step] for step in sorted(folded.stack)), input_to_give(folded)
    )
