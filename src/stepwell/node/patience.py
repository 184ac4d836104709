"""A store may refuse for a while: what a node has to do, it asks for again until it is done.

A job that is ours is nobody else's as long as this node lives, so giving up on it would leave it undone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from stepwell.store.base import StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stepwell.node.clock import World

T = TypeVar("T")

FIRST_PAUSE_MS = 10
LONGEST_PAUSE_MS = 1000


async def patiently(world: World, what: Callable[[], Awaitable[T]]) -> T:
    """The result of `what`, which is done again, after a pause, while the store refuses."""
    pause_ms = FIRST_PAUSE_MS
    while True:
        try:
            return await what()
        except (StoreFull, StoreUnavailable):
            await world.sleep(pause_ms)
            pause_ms = min(pause_ms * 2, LONGEST_PAUSE_MS)
