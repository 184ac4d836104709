"""The processes of `--processes N` tell one another their figures, so a scrape that reaches one of them gets all.

Each listens on a Unix socket in a folder of their parent's, and answers whoever connects with its own figures.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from types import TracebackType

_PATIENCE_S: Final = 2.0
"""A process that does not answer for so long is left out."""


class Neighbours:
    """This process among its neighbours.

    Args:
        place: The socket of this process; the others have theirs beside it, each with its name.
        own: The figures of this process, in the text format of Prometheus.
    """

    def __init__(self, place: Path, own: Callable[[], Awaitable[bytes]]) -> None:
        self._place = place
        self._own = own
        self._server: asyncio.Server | None = None

    @property
    def name(self) -> str:
        """Stays the same when the process is replaced."""
        return self._place.name

    async def __aenter__(self) -> Self:
        self._place.unlink(missing_ok=True)  # of the one that was here before and was killed
        self._server = await asyncio.start_unix_server(self._answer, self._place)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._place.unlink(missing_ok=True)

    async def ask(self) -> dict[str, bytes]:
        """The figures of the others, by their names."""
        others = [one for one in sorted(self._place.parent.iterdir()) if one != self._place]
        told = await asyncio.gather(*map(_ask, others))
        return {one.name: text for one, text in zip(others, told, strict=True) if text}

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(await self._own())
            await writer.drain()
        writer.close()


async def _ask(place: Path) -> bytes:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(place)
            try:
                return await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""  # it is being replaced
