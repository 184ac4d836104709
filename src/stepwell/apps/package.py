"""The files of an app, as one package: what its directory holds, named by a checksum, and never changed afterwards.

    directory ──collect──▶ files, links followed ──▶ <packages>/<checksum>/   read-only
        archive (tar.gz) ◀──write_archive──┘  ▲
            └──────────unpack, safely─────────┘

The checksum is over paths, contents and which files may be executed, in order of the paths: the same content has the
same checksum wherever and however it was packed. Links are followed, also those that lead out of the directory, since
apps share helpers that way; an archive from elsewhere may hold none.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import io
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from stepwell.model.errors import InvalidInput, TooLarge

__all__ = ["Package", "PackageLimits", "Packages", "write_archive"]

_CHUNK = 1 << 18
_LEFT_OUT = frozenset(
    ".git .hg .svn .venv venv node_modules __pycache__ .mypy_cache .pytest_cache .ruff_cache .tox .nox .idea .vscode"
    " .DS_Store .env .ipynb_checkpoints .stepwell".split()
)
_LEFT_OUT_ENDS = (".pyc", ".pyo")


@dataclass(frozen=True, slots=True)
class PackageLimits:
    """How large a package may be."""

    bytes: int = 2 << 30
    """Of all its files together, unpacked."""
    files: int = 20_000
    """How many there may be, counting folders."""


@dataclass(frozen=True, slots=True)
class Package:
    """A stored package."""

    checksum: str
    directory: Path
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _File:
    path: str  # in the package, with `/`
    source: Path
    executable: bool


class Packages:
    """The packages in a folder, one folder each. Several processes may share them."""

    def __init__(self, folder: Path, *, limits: PackageLimits | None = None) -> None:
        self._folder = folder
        self._limits = limits or PackageLimits()

    def add(self, directory: Path) -> Package:
        """Store what a directory holds. Blocks while files are copied.

        Raises:
            InvalidInput: It holds what cannot be packed: a link to nothing, a socket, names that are no text.
            TooLarge: There is too much of it.
        """
        return self._add(directory, "")

    def _add(self, directory: Path, expected: str) -> Package:
        with self._room() as room:
            target = room / "package"
            target.mkdir()
            package = _copy(_collect(directory, self._limits), target, self._limits)
            if expected and package.checksum != expected:
                raise InvalidInput(
                    f"the archive holds other files than package {expected[:12]}…; fetch it once more", field="archive"
                )
            kept = self._folder / package.checksum
            for path in [target, *target.rglob("*")]:
                path.chmod(0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444)
            target.chmod(0o755)  # or it could not be moved
            try:
                target.rename(kept)
            except OSError:
                if not kept.is_dir():
                    raise
                _remove(target)  # somebody was quicker, and the content is the same
            else:
                kept.chmod(0o555)
                _settle(self._folder)
        return Package(package.checksum, kept, package.files, package.size_bytes)

    def add_archive(self, archive: BinaryIO, *, expected: str = "") -> Package:
        """Store what an archive holds: tar, tar.gz or zip. Blocks while it is unpacked.

        Args:
            archive: A file that can be read at any place.
            expected: The checksum of the package that it is to be, if it is one that another server has.

        Raises:
            InvalidInput: It is none of these, is damaged, or holds what no archive of ours does: links, devices,
                absolute paths, `..`, the same path twice; or it is not what was expected.
            TooLarge: Unpacked, it is too much.
        """
        with self._room() as room:
            unpacked = room / "unpacked"
            unpacked.mkdir()
            _unpack(archive, unpacked, self._limits)
            return self._add(unpacked, expected)

    def find(self, checksum: str) -> Path | None:
        """The folder of a package, if it is here."""
        if len(checksum) != 64 or not set(checksum) <= set("0123456789abcdef"):
            return None
        kept = self._folder / checksum
        return kept if kept.is_dir() else None

    def remove(self, checksum: str) -> None:
        """Forget a package that nothing uses any more; no error if it is not here."""
        kept = self.find(checksum)
        if kept is not None:
            with self._room() as room:
                kept.chmod(0o755)
                kept.rename(room / "removed")

    @contextlib.contextmanager
    def _room(self) -> Iterator[Path]:
        """A folder beside the packages, for what is not finished; it goes with the block."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob(".unfinished-*"):  # by processes that were killed
            if (lock := _locked(left)) is not None:
                with contextlib.suppress(FileNotFoundError):  # its owner has finished just now
                    _remove(left)
                os.close(lock)
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
        lock = _locked(made)
        room = made.with_name(made.name.replace(".new-", ".unfinished-"))
        made.rename(room)  # only now, since it is locked, for others to see
        try:
            yield room
        finally:
            _remove(room)
            if lock is not None:
                os.close(lock)


def write_archive(directory: Path, target: BinaryIO, *, limits: PackageLimits | None = None) -> int:
    """Write what a directory holds as a tar.gz: the same bytes for the same content. Returns how many files.

    Raises:
        InvalidInput, TooLarge: As for `Packages.add`.
    """
    limits = limits or PackageLimits()
    found = _collect(directory, limits)
    with (
        gzip.GzipFile(fileobj=target, mode="wb", filename="", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for file in found:
            with _opened(file) as source:
                entry = tarfile.TarInfo(file.path)
                entry.size = os.fstat(source.fileno()).st_size
                entry.mode = 0o755 if file.executable else 0o644
                try:
                    tar.addfile(entry, source)
                except OSError as err:
                    if err.errno is not None:
                        raise
                    raise InvalidInput(f"{file.path} became shorter while it was packed", field="directory") from err
    return len(found)


def _collect(directory: Path, limits: PackageLimits) -> list[_File]:
    """The files of a package, in order of their paths as bytes."""
    if not directory.is_dir():
        raise InvalidInput(f"{directory} is no directory", field="directory")
    found: list[_File] = []
    count = size = 0
    # each folder with what it is called in the package, and the folders that it is in, links followed
    folders: list[tuple[Path, str, frozenset[tuple[int, int]]]] = [(directory, "", frozenset())]
    while folders:
        folder, prefix, above = folders.pop()
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise InvalidInput(f"{prefix[:-1]} is a link to a folder that it is in; remove it", field="directory")
        for entry in _entries(folder, prefix):
            path = prefix + entry.name
            try:
                mode = entry.stat().st_mode
            except FileNotFoundError as err:
                told = f"is a link to {os.readlink(entry)}, which is not there" if entry.is_symlink() else "went away"
                raise InvalidInput(f"{path} {told}", field="directory") from err
            except OSError as err:  # links in a circle
                raise InvalidInput(f"{path} cannot be followed: {err.strerror}", field="directory") from err
            count += 1
            if stat.S_ISDIR(mode):
                _check(count, size, limits)
                if not (Path(entry.path) / "pyvenv.cfg").is_file():
                    folders.append((Path(entry.path), f"{path}/", above | {identity}))
                continue
            if not stat.S_ISREG(mode):
                raise InvalidInput(f"{path} is no file and no folder; remove it", field="directory")
            size += entry.stat().st_size
            found.append(_File(path, Path(entry.path), bool(mode & 0o100)))
            _check(count, size, limits)
    return sorted(found, key=lambda file: file.path.encode())


def _entries(folder: Path, prefix: str) -> list[os.DirEntry[str]]:
    """What is in a folder, without what is left out."""
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not _is_left_out(entry.name)]
    for entry in kept:
        if not _is_name(entry.name):
            shown = (prefix + entry.name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            raise InvalidInput(f"{shown!r} is no name that every machine takes; rename it", field="directory")
    return kept


def _is_left_out(name: str) -> bool:
    """Histories, environments, caches, and files with secrets: no part of an app."""
    return name in _LEFT_OUT or name.endswith(_LEFT_OUT_ENDS) or name.startswith(".env.")


def _is_name(name: str) -> bool:
    return not any(letter < " " or letter in "\x7f\\" or "\ud800" <= letter <= "\udfff" for letter in name)


def _check(files: int, size: int, limits: PackageLimits) -> None:
    if files > limits.files:
        raise TooLarge(f"the app has more than {limits.files:,} files; leave out what it does not need", field="files")
    if size > limits.bytes:
        raise TooLarge(
            f"the app is larger than {limits.bytes:,} bytes; fetch large files in its setup() instead", field="bytes"
        )


def _copy(files: list[_File], target: Path, limits: PackageLimits) -> Package:
    """Copy files into a folder and compute their checksum on the way, so that it is that of the copies."""
    checksum = hashlib.sha256()
    copied = 0
    for count, file in enumerate(files, start=1):
        to = target / file.path
        to.parent.mkdir(parents=True, exist_ok=True)
        content, size = hashlib.sha256(), 0
        with _opened(file) as source, to.open("xb") as written:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                _check(count, copied + size, limits)
                content.update(chunk)
                written.write(chunk)
            written.flush()
            os.fsync(written.fileno())  # a version that is stored has its files, whatever happens
        if file.executable:
            to.chmod(0o755)
        copied += size
        path = file.path.encode()
        checksum.update(b"%d:%s:%d:" % (len(path), path, file.executable) + content.digest())
    return Package(checksum.hexdigest(), target, len(files), copied)


def _opened(file: _File) -> BinaryIO:
    try:
        return file.source.open("rb")
    except OSError as err:
        raise InvalidInput(f"{file.path} cannot be read: {err.strerror}", field="directory") from err


def _unpack(archive: BinaryIO, target: Path, limits: PackageLimits) -> None:
    start = archive.read(4)
    archive.seek(0)
    try:
        if start.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=archive, mode="rb") as packed:
                _unpack_tar(packed, target, limits)
        elif start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            _unpack_zip(archive, target, limits)
        else:
            _unpack_tar(archive, target, limits)
    except (
        tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, struct.error,
        EOFError, NotImplementedError, RecursionError, ValueError,
    ) as err:  # fmt: skip
        raise InvalidInput(f"the archive cannot be read: {err}; send a tar.gz or a zip", field="archive") from err


def _unpack_tar(raw: BinaryIO | gzip.GzipFile, target: Path, limits: PackageLimits) -> None:
    into = _Unpacked(target, limits)
    bounded = _Bounded(raw, limits.bytes + limits.files * 4096)
    with tarfile.open(fileobj=bounded, mode="r:", errorlevel=2) as tar:
        for entry in tar:
            if entry.isdir():
                into.folder(entry.name)
            elif entry.isreg() and not entry.issparse():
                content = tar.extractfile(entry)
                assert content is not None
                into.file(entry.name, content, executable=bool(entry.mode & 0o100))
            else:
                raise InvalidInput(
                    f"the archive holds {entry.name[:200]!r}, which is no file and no folder; pack what links lead to",
                    field="archive",
                )


def _unpack_zip(raw: BinaryIO, target: Path, limits: PackageLimits) -> None:
    into = _Unpacked(target, limits)
    with zipfile.ZipFile(raw) as archive:
        for entry in archive.infolist():
            mode = entry.external_attr >> 16
            if entry.is_dir():
                into.folder(entry.filename)
            elif entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InvalidInput(
                    f"{entry.filename[:200]!r} in the archive is encrypted, or packed otherwise than zip's usual way",
                    field="archive",
                )
            elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                with archive.open(entry) as content:
                    into.file(entry.filename, content, executable=bool(mode & 0o100))
            else:
                raise InvalidInput(
                    f"the archive holds {entry.filename[:200]!r}, which is no file and no folder", field="archive"
                )


class _Unpacked:
    """Writes files of an archive below a folder, and nowhere else."""

    def __init__(self, target: Path, limits: PackageLimits) -> None:
        self._target = target
        self._limits = limits
        self._entries = 0
        self._size = 0

    def folder(self, name: str) -> None:
        path = self._inside(name)
        if path is not None:
            self._make(path)

    def file(self, name: str, content: IO[bytes], *, executable: bool) -> None:
        path = self._inside(name)
        if path is None:
            return
        self._make(path.parent)
        try:
            with path.open("xb") as written:
                while chunk := content.read(_CHUNK):
                    self._size += len(chunk)
                    _check(self._entries, self._size, self._limits)
                    written.write(chunk)
        except FileExistsError as err:
            raise InvalidInput(f"{name[:200]!r} is in the archive twice", field="archive") from err
        if executable:
            path.chmod(0o755)

    def _inside(self, name: str) -> Path | None:
        """Where the entry goes; None if it is left out."""
        self._entries += 1
        _check(self._entries, self._size, self._limits)
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not all(map(_is_name, path.parts)):
            raise InvalidInput(f"{name[:200]!r} in the archive is no path below its top", field="archive")
        if any(map(_is_left_out, path.parts)):
            return None
        if len(name.encode()) > 2048 or any(len(part.encode()) > 255 for part in path.parts):
            raise InvalidInput(f"{name[:200]!r}... in the archive is too long a path", field="archive")
        return self._target / path

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as err:
            name = folder.relative_to(self._target)
            raise InvalidInput(f"{str(name)[:200]!r} in the archive is a file and a folder", field="archive") from err


class _Bounded(io.BufferedIOBase):
    """A file to read an archive from, that gives up on one that unpacks to too much.

    `tarfile` reads headers of any length at once, into memory; ours are short.
    """

    def __init__(self, raw: BinaryIO | gzip.GzipFile, most: int) -> None:
        self._raw = raw
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > 1 << 20:
            raise InvalidInput("the archive has a header of more than a megabyte", field="archive")
        self._within(self._raw.tell() + size)
        return self._raw.read(size)

    def seek(self, place: int, whence: int = 0, /) -> int:
        self._within(place)
        return self._raw.seek(place, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def _within(self, place: int) -> None:
        if place > self._most + (1 << 20):
            raise TooLarge(f"the archive unpacks to more than {self._most:,} bytes", field="archive")


def _locked(folder: Path) -> int | None:
    """A lock on a folder, which ends with the process at the latest; None if somebody else has it."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    return opened


def _settle(folder: Path) -> None:
    """Have the names in a folder on disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _remove(folder: Path) -> None:
    """Remove a folder, read-only as it may be."""
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o755)
    shutil.rmtree(folder)
