"""The bytes of files, on a disk: each content once, named by its hash.

    tmp/<random>.part  ──sync, rename, sync the folder──▶  ab/abcd…ef

A file under its hash is whole: nothing else is ever renamed to there. What a killed server was writing stays in `tmp`
until it has not grown for a while. Servers that share a database may share the folder, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from stepwell.model.errors import NotFound, StepwellError, TooLarge
from stepwell.model.file import HEAD_BYTES, Staged
from stepwell.store.base import StoreFull, StoreUnavailable
from stepwell.store.sqlite.directory import FULL_ERRORS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

T = TypeVar("T")

PIECE_BYTES = 256 * 1024
"""What a reader has in memory."""
_WRITE_BYTES = 1024 * 1024
"""What a writer has in memory."""


class Staging:
    """Where bytes are written while they come, under names that mean nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def stage(self, pieces: AsyncIterator[bytes], *, limit_bytes: int) -> Staged:
        """See `Contents.stage`."""
        part = _Part(self.directory / f"{secrets.token_hex(16)}.part")
        try:
            held: list[bytes] = []
            waiting = 0
            async for piece in pieces:
                held.append(piece)
                waiting += len(piece)
                if part.size + waiting > limit_bytes:
                    raise TooLarge(f"the file has more than {limit_bytes:,} bytes, the limit", field="size")
                if waiting >= _WRITE_BYTES:
                    await self._done(part.write, held)
                    held, waiting = [], 0
            return await self._done(part.finish, held)
        except BaseException:
            # In a thread of its own: this task may be cancelled, and one that writes may be at work.
            threading.Thread(target=part.discard).start()
            raise

    async def _done(self, what: Callable[[list[bytes]], T], pieces: list[bytes]) -> T:
        try:
            return await asyncio.to_thread(what, pieces)
        except OSError as err:
            raise _failure(err, self.directory) from err

    async def drop(self, staged: Staged) -> None:
        await asyncio.to_thread(Path(staged.path).unlink, missing_ok=True)

    def tidy(self, older_than_s: float) -> int:
        """See `Contents.tidy`."""
        removed, now = 0, time.time()
        for path in self.directory.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):  # it was finished, or somebody else tidies
                if now - path.stat().st_mtime >= older_than_s:
                    path.unlink()
                    removed += 1
        return removed


class DiskContents:
    """Contents in a folder.

    Args:
        directory: Made for the first file.
        temporary: Remove it when closed.
    """

    def __init__(self, directory: Path, *, temporary: bool = False) -> None:
        self.directory = directory
        self._temporary = temporary
        self._staging = Staging(directory / "tmp")

    async def open(self) -> None:
        """The folder is made for the first file."""

    async def close(self) -> None:
        if self._temporary:
            await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)

    async def stage(self, pieces: AsyncIterator[bytes], *, limit_bytes: int) -> Staged:
        return await self._staging.stage(pieces, limit_bytes=limit_bytes)

    async def keep(self, staged: Staged) -> None:
        try:
            await asyncio.to_thread(self._keep, staged)
        except OSError as err:
            raise _failure(err, self.directory) from err

    def _keep(self, staged: Staged) -> None:
        path = self._path(staged.digest)
        try:
            path.parent.mkdir()
        except FileExistsError:
            pass
        else:
            _sync(self.directory)
        try:
            os.replace(staged.path, path)
        except FileNotFoundError:
            if not path.is_file():
                raise
            return  # done before
        _sync(path.parent)

    async def drop(self, staged: Staged) -> None:
        await self._staging.drop(staged)

    async def read(self, digest: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        try:
            file = await asyncio.to_thread(self._path(digest).open, "rb")
        except FileNotFoundError:
            raise NotFound(f"the bytes of the file are not there any more ({digest[:12]}…)") from None
        except OSError as err:
            raise _failure(err, self.directory) from err
        try:
            file.seek(start)
            left = None if end is None else end - start
            while left is None or left > 0:
                piece = await asyncio.to_thread(file.read, PIECE_BYTES if left is None else min(PIECE_BYTES, left))
                if not piece:
                    return
                if left is not None:
                    left -= len(piece)
                yield piece
        finally:
            file.close()

    async def remove(self, digest: str) -> None:
        try:
            await asyncio.to_thread(self._remove, digest)
        except OSError as err:
            raise _failure(err, self.directory) from err

    def _remove(self, digest: str) -> None:
        path = self._path(digest)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        _sync(path.parent)

    async def tidy(self, older_than_s: float) -> int:
        return await asyncio.to_thread(self._staging.tidy, older_than_s)

    def _path(self, digest: str) -> Path:
        return self.directory / folder_of(digest) / digest


def folder_of(digest: str) -> str:
    """The folder of a content. Raises `NotFound` for what is no digest, so that it can be part of a path."""
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise NotFound(f"{digest[:80]!r} is not the SHA-256 of a content")
    return digest[:2]


class _Part:
    """A file that is being written. Its methods run in threads, one at a time."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._head = b""
        self._gone = False

    def write(self, pieces: list[bytes]) -> None:
        with self._lock:
            if self._gone:
                return  # nobody waits for it any more
            if self._file is None:
                self._make_folder()
                self._file = self._path.open("xb")
            for piece in pieces:
                if len(self._head) < HEAD_BYTES:
                    self._head += piece[: HEAD_BYTES - len(self._head)]
                self._hash.update(piece)
                self._file.write(piece)
                self.size += len(piece)

    def finish(self, pieces: list[bytes]) -> Staged:
        self.write(pieces)
        with self._lock:
            if self._file is None:  # an empty file
                self._make_folder()
                self._path.touch()
            else:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
        return Staged(path=str(self._path), digest=self._hash.hexdigest(), size_bytes=self.size, head=self._head)

    def _make_folder(self) -> None:
        for folder in (self._path.parent.parent, self._path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def discard(self) -> None:
        with self._lock:
            self._gone = True
            if self._file is not None:
                with contextlib.suppress(OSError):  # what it held back does not fit either
                    self._file.close()
            self._path.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    place = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _failure(err: OSError, directory: Path) -> StepwellError:
    if err.errno in FULL_ERRORS:
        return StoreFull(f"there is no room left for files in {directory}; nothing was stored")
    return StoreUnavailable(f"the folder for files, {directory}, cannot be used: {err.strerror or err}")
