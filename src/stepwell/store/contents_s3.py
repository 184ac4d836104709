"""The bytes of files in an object store: S3 and what speaks like it.

Their hash is their name, so they are written to the disk first; then they go up, in parts when they are large, and
are there at once or not at all. Access is read from the environment as by every AWS tool (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL for another place than Amazon's).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError

from stepwell.model.errors import ConfigurationError, NotFound
from stepwell.store.base import StoreUnavailable
from stepwell.store.contents import PIECE_BYTES, Staging, folder_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell.model.file import Staged

_PART_BYTES = 16 * 1024 * 1024  # of 10,000 at most, so the largest file has 160 GB
_PARTS_AT_ONCE = 4


class ObjectContents:
    """Contents in an object store.

    Args:
        url: `s3://bucket/prefix`.
        staging: Folder on this machine for what is on its way.
    """

    def __init__(self, url: str, staging: Path) -> None:
        self._url = url
        self._staging = Staging(staging)
        self._store: Any = None

    async def open(self) -> None:
        try:
            self._store = obstore.store.from_url(self._url)
            await obstore.list_with_delimiter_async(self._store, "00")
        except (BaseError, ValueError, OSError) as err:
            raise ConfigurationError(
                f"the files of this server are to be kept in {self._url}, which cannot be used: {_words(err)}"
            ) from err

    async def close(self) -> None:
        self._store = None

    async def stage(self, pieces: AsyncIterator[bytes], *, limit_bytes: int) -> Staged:
        return await self._staging.stage(pieces, limit_bytes=limit_bytes)

    async def keep(self, staged: Staged) -> None:
        key = _key(staged.digest)
        try:
            if not await self._is_there(key, staged.size_bytes):
                path = Path(staged.path)
                await obstore.put_async(self._store, key, path, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
        except (BaseError, OSError) as err:
            raise self._failure(err) from err
        await self._staging.drop(staged)

    async def _is_there(self, key: str, size_bytes: int) -> bool:
        try:
            return bool((await obstore.head_async(self._store, key))["size"] == size_bytes)
        except FileNotFoundError:
            return False

    async def drop(self, staged: Staged) -> None:
        await self._staging.drop(staged)

    async def read(self, digest: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        if end is not None and end <= start:
            return
        try:
            options: Any = {"range": {"offset": start} if end is None else (start, end)} if start or end else {}
            found = await obstore.get_async(self._store, _key(digest), options=options)
            async for piece in found.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)
        except FileNotFoundError:
            raise NotFound(f"the bytes of the file are not there any more ({digest[:12]}…)") from None
        except (BaseError, OSError) as err:
            raise self._failure(err) from err

    async def remove(self, digest: str) -> None:
        try:
            await obstore.delete_async(self._store, _key(digest))
        except FileNotFoundError:
            return
        except (BaseError, OSError) as err:
            raise self._failure(err) from err

    async def tidy(self, older_than_s: float) -> int:
        return await asyncio.to_thread(self._staging.tidy, older_than_s)

    def _failure(self, err: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"the files in {self._url} cannot be reached: {_words(err)}")


def _key(digest: str) -> str:
    return f"{folder_of(digest)}/{digest}"


def _words(err: Exception) -> str:
    """The first line of what went wrong, without what the library prints of its inside."""
    return str(err).strip().partition("\n")[0][:300]
