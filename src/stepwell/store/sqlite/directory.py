"""The data directory: one server at a time, on a file system that keeps its promises, with room for large texts.

The lock is the operating system's, held on an open file. It goes with the process that held it, however that ended;
the file itself means nothing, so one left behind does no harm and a pid used again does not matter.

A large text is a file named by its hash: written under another name, synced, renamed, and the directory synced, all
before the transaction that names it. A file without a row is garbage, a row without a file cannot be.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from stepwell.model.errors import ConfigurationError
from stepwell.store.base import StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NETWORK_FILE_SYSTEMS = frozenset(
    "nfs nfs4 cifs smb3 smbfs afs 9p ceph fuse.sshfs fuse.s3fs fuse.rclone fuse.gcsfuse fuse.glusterfs glusterfs "
    "lustre gfs2 ocfs2 davfs fuse.davfs2 virtiofs drvfs".split()
)

FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StoreLocked(ConfigurationError):
    """Another server is using the data directory."""

    code = "STORE_LOCKED"


class DirectoryLock:
    """Held from `take` to `drop`, or to the end of the process."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._file = -1

    def take(self) -> None:
        """Raises `ConfigurationError` if another server has it, or if there is no locking here."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            _lock(file)
        except OSError as err:
            holder = _holder(file)
            os.close(file)
            directory = self._path.parent
            if err.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise ConfigurationError(
                    f"the file system of {directory} cannot lock files ({err.strerror}), and without locks two servers "
                    "would spoil each other's data. Put the data directory on a local disk."
                ) from err
            raise StoreLocked(
                f"another server is using the data directory {directory}{f' (process {holder})' if holder else ''}. "
                "Stop it first, or give this one a directory of its own (--data)."
            ) from err
        self._file = file
        if sys.platform != "win32":  # there the lock covers what would be written
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)

    def holder(self) -> int | None:
        """The process whose server uses the directory; None if none does. Nothing is made or kept locked."""
        try:
            file = os.open(self._path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return None
        try:
            _lock(file, shared=True)
        except OSError:
            return _holder(file) or 0
        finally:
            os.close(file)
        return None

    def drop(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _lock(file: int, *, shared: bool = False) -> None:
    """Raises `OSError` if another has it. `shared` bars only those who want it alone."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _holder(file: int) -> int | None:
    """Whose lock it is, as far as the file says: a help for people, nothing decides by it."""
    try:
        text = os.read(file, 20).decode().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None


def check_file_system(directory: Path, mounts: str | None = None) -> str:
    """The type of the file system, "unknown" where it cannot be told. Refuses those on the network.

    Args:
        mounts: The text of `/proc/self/mountinfo`, by default read.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return "unknown"
    kind = _file_system(directory.resolve(), mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"the data directory {directory} is on a network file system ({kind}). SQLite's write-ahead log needs "
            "shared memory and locks that such file systems do not keep, and data would be lost sooner or later. Put "
            "the directory on a local disk, or use PostgreSQL."
        )
    return kind


def _file_system(directory: Path, mounts: str) -> str:
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5:
            continue
        place = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        # The last of equals is the one mounted on top.
        if directory.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, after.split()[0]
    return kind


class BlobFiles:
    """Texts too large for the database, each in a file named by its hash."""

    def __init__(self, directory: Path, point: Callable[[str], None] = lambda name: None) -> None:
        self._directory = directory
        self._point = point

    def prepare(self) -> None:
        """Remove what writers left that were killed in the middle."""
        self._directory.mkdir(exist_ok=True)
        for stale in self._directory.glob("*/*.tmp"):
            stale.unlink(missing_ok=True)

    def write(self, hash: str, text: bytes) -> None:
        """Durable on return. Raises `StoreFull` or `StoreUnavailable`."""
        path = self._path(hash)
        temporary = path.with_name(f"{path.name}.{os.urandom(6).hex()}.tmp")
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
                _sync_directory(self._directory)
            if not (path.exists() and path.stat().st_size == len(text)):
                self._point("blob file: write")
                with temporary.open("wb") as file:
                    file.write(text)
                    file.flush()
                    self._point("blob file: sync")
                    os.fsync(file.fileno())
                self._point("blob file: rename")
                temporary.replace(path)
            self._point("blob file: sync directory")
            _sync_directory(path.parent)
            self._point("blob file: done")
        except OSError as err:
            temporary.unlink(missing_ok=True)
            if err.errno in FULL_ERRORS:
                raise StoreFull(f"the disk is full: {len(text)} bytes for {path.parent} were not stored") from err
            raise StoreUnavailable(f"cannot write {path}: {err.strerror}") from err

    def read(self, hash: str) -> bytes:
        """Raises `KeyError` if it is not there."""
        try:
            return self._path(hash).read_bytes()
        except FileNotFoundError as err:
            raise KeyError(hash) from err

    def remove(self, hashes: Iterable[str]) -> None:
        """Those that are there. The caller sees to it that nobody is writing one of them."""
        for hash in hashes:
            self._path(hash).unlink(missing_ok=True)

    def old_ones(self, part: int, older_than_s: float) -> list[str]:
        """Texts in one of the 256 folders whose files were last written so long ago."""
        until = time.time() - older_than_s
        found: list[str] = []
        for path in (self._directory / f"{part:02x}").glob("*"):
            try:
                if path.suffix != ".tmp" and path.stat().st_mtime <= until:
                    found.append(path.parent.name + path.name)
            except FileNotFoundError:
                continue
        return found

    def _path(self, hash: str) -> Path:
        return self._directory / hash[:2] / hash[2:]


def disk_is_full(directory: Path) -> bool:
    """Whether there is no room for a few pages. SQLite reports some failures for want of space as mere I/O errors."""
    probe = directory / "full-probe.tmp"
    try:
        with probe.open("wb") as file:
            file.write(bytes(65_536))
            file.flush()
            os.fsync(file.fileno())
    except OSError as err:
        return err.errno in FULL_ERRORS
    finally:
        probe.unlink(missing_ok=True)
    return False


def _sync_directory(path: Path) -> None:
    if sys.platform == "win32":
        return  # a directory cannot be opened there; its entries are journalled by the file system
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
