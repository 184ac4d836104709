"""A file that somebody uploaded or an app made: bytes by their content, and what is said of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec

from stepwell.model.event import DEV_ENV
from stepwell.model.ids import Instant


class FileRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a file. The bytes are elsewhere, under `digest`; several files may share them."""

    id: str
    env: str = DEV_ENV
    filename: str = ""  # as given, for people; never a path of ours
    content_type: str = "application/octet-stream"
    size_bytes: int = 0
    digest: str = ""  # sha-256, hexadecimal; empty: announced, its bytes have not come
    public: bool = False
    category: str = ""
    path: str = ""  # as given by the client, only shown
    created_at: Instant = 0
    task: str = ""  # the task that it belongs to
    role: str = ""  # `input` or `output`, of that task
    metadata: dict[str, Any] = {}


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that have come whole, synced, and that nobody finds yet. `head` is how they begin, to tell their type."""

    path: str  # on this machine
    digest: str  # sha-256, hexadecimal
    size_bytes: int
    head: bytes


HEAD_BYTES = 8192


class Contents(Protocol):
    """Keeps bytes by their content: the same bytes are kept once.

    stage ──▶ keep ──▶ read, any part, again and again ──▶ remove
          └─▶ drop
    """

    async def open(self) -> None:
        """Prepare. Raises `ConfigurationError` when that is impossible."""

    async def close(self) -> None: ...

    async def stage(self, pieces: AsyncIterator[bytes], *, limit_bytes: int) -> Staged:
        """Write what comes. What is cut off in the middle leaves nothing that can be seen.

        Raises:
            TooLarge: More than `limit_bytes` came.
            StoreFull: There is no room.
        """

    async def keep(self, staged: Staged) -> None:
        """Have it found by its digest. Durable on return; doing so twice is fine."""

    async def drop(self, staged: Staged) -> None:
        """Forget it. What was kept stays."""

    def read(self, digest: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` to `end` (exclusive). Raises `NotFound`."""

    async def remove(self, digest: str) -> None:
        """Remove what was kept; nothing is there is fine. Durable on return."""

    async def tidy(self, older_than_s: float) -> int:
        """Remove what uploads left that were killed so long ago. Returns how many."""
