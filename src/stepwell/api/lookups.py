"""The progress of what another server makes, for those who ask here how far it has come.

Pieces go only where somebody reads them. So who asks reads them for a while: the first answer waits a moment for what
the other server has, the next ones have it at hand, and none of them says less than the one before.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.model.ids import RunId
    from stepwell.streams.log import Reader
    from stepwell.streams.streams import Streams

KEEP_S = 15.0
"""How long pieces are read after somebody asked last."""
FIRST_S = 0.15
"""How long the first answer waits for them."""
_MOST = 1_000


class Lookups:
    """The runs that somebody asked for lately."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._kept: dict[RunId, _Kept] = {}

    async def know(self, run: RunId) -> None:
        """Have what was published of a run, here or elsewhere."""
        log = self._streams.known(run)
        if log is not None and log.number:
            return  # it is made here
        kept = self._kept.get(run)
        if kept is None:
            if len(self._kept) >= _MOST:
                self._drop(next(iter(self._kept)))
            kept = self._kept[run] = _Kept(self._streams, run)
        kept.drop_later(lambda: self._drop(run))
        if not kept.here.is_set():
            try:
                async with asyncio.timeout(FIRST_S):
                    await kept.here.wait()
            except TimeoutError:
                kept.here.set()  # nobody has any; whoever asks next does not wait

    def _drop(self, run: RunId) -> None:
        kept = self._kept.pop(run, None)
        if kept is not None:
            kept.close()


class _Kept:
    """The pieces of one run, read by nobody in particular."""

    def __init__(self, streams: Streams, run: RunId) -> None:
        self.here = asyncio.Event()
        self._reader: Reader = streams.subscribe(run, self.here.set)
        self._reader.__enter__()
        self._timer: asyncio.TimerHandle | None = None

    def drop_later(self, drop: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(KEEP_S, drop)

    def close(self) -> None:
        self._reader.__exit__(None, None, None)
        if self._timer is not None:
            self._timer.cancel()
