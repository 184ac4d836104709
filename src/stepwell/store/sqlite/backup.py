"""A copy of a data directory that is whole, taken while a server works in the original or while none does.

    copy the database (SQLite's own online copy: one moment of it) ──▶ copy the files it names ──▶ check ──▶ rename

A text in a file is never changed and its file is there before the row that names it. So every file that the copy names
was there at the moment of the copy; one that was swept since then makes the backup start again.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stepwell.model.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTE = "last-backup.json"
ATTEMPTS = 5
_PAGES_AT_ONCE = 1024


class Backup(NamedTuple):
    """What was written."""

    place: Path
    schema: int
    runs: int
    database_bytes: int
    files: int
    files_bytes: int


class _FileSwept(Exception):
    """A text went while it was to be copied; the database has forgotten it by now."""


def back_up(directory: Path, to: Path, *, note: bool = True) -> Backup:
    """Write a copy of the data directory to `to`, which must not exist yet.

    Args:
        note: Leave a note in the directory, for the status page.

    Raises:
        ConfigurationError: There is no database, `to` is taken or cannot be written, or the copy is not sound.
    """
    source = directory / "stepwell.db"
    if not source.is_file():
        raise ConfigurationError(f"there is no database in {directory} (--data)")
    if to.exists():
        raise ConfigurationError(f"{to} exists already; a backup is written to a new folder")
    part = to.with_name(f"{to.name}.part")
    try:
        part.mkdir(parents=True)
    except FileExistsError:
        raise ConfigurationError(
            f"{part} is there already: another backup is being written, or one was broken off; remove it then"
        ) from None
    except OSError as err:
        raise ConfigurationError(f"cannot make {part}: {err.strerror}") from err
    try:
        done = _copy(directory, part)
        part.rename(to)
        _sync(to.parent)
    except (OSError, sqlite3.Error) as err:
        raise ConfigurationError(f"the backup of {directory} could not be written to {to}: {err}") from err
    finally:
        if part.exists():
            shutil.rmtree(part)
    if note:
        _note(directory, to)
    return done._replace(place=to)


def _copy(directory: Path, part: Path) -> Backup:
    for attempt in range(ATTEMPTS):
        try:
            _copy_database(directory / "stepwell.db", part / "stepwell.db")
            return _copy_files(directory, part)
        except _FileSwept:
            shutil.rmtree(part / "files", ignore_errors=True)
            if attempt == ATTEMPTS - 1:
                raise ConfigurationError(
                    "texts were removed again and again while they were copied; stop the server, or try again"
                ) from None
    raise AssertionError("unreachable")


def _copy_database(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    reading = sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    writing = sqlite3.connect(target, isolation_level=None)
    try:
        reading.execute("PRAGMA busy_timeout = 5000")
        # Within a read transaction every page is of the same moment, and what the server writes meanwhile does not
        # make the copy begin again.
        reading.execute("BEGIN")
        reading.execute("SELECT 1 FROM meta").fetchone()
        reading.backup(writing, pages=_PAGES_AT_ONCE, sleep=0)
        (verdict,) = writing.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise ConfigurationError(f"the database {source} is damaged: {verdict}")
        writing.execute("UPDATE node SET lease_until = 0")  # no node of the copy is alive
    finally:
        reading.close()
        writing.close()
    _sync(target)


def _copy_files(directory: Path, part: Path) -> Backup:
    database = sqlite3.connect(part / "stepwell.db", isolation_level=None)
    count = size = 0
    try:
        (schema,) = database.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        (runs,) = database.execute("SELECT count(*) FROM run").fetchone()
        for hash, size_bytes in database.execute("SELECT hash, size_bytes FROM blob WHERE body IS NULL"):
            if not size_bytes:
                continue
            target = part / "blobs" / hash[:2] / hash[2:]
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    shutil.copyfile(directory / "blobs" / hash[:2] / hash[2:], target)
                except FileNotFoundError:
                    raise _FileSwept from None
                _sync(target)
            if target.stat().st_size != size_bytes:
                raise ConfigurationError(f"the text {hash} has {target.stat().st_size} bytes and had {size_bytes}")
            count, size = count + 1, size + size_bytes
        for digest in _contents(database):
            copied = _copy_content(directory, part, digest)
            count, size = count + bool(copied), size + copied
    finally:
        database.close()
    for folder in _folders(part):
        _sync(folder)
    return Backup(part, int(schema), runs, (part / "stepwell.db").stat().st_size, count, size)


def _contents(database: sqlite3.Connection) -> list[str]:
    """The digests of the files that a database knows of (`stepwell.node.files`)."""
    tables = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'record'"
    if database.execute(tables).fetchone() is None:
        return []
    known = "SELECT DISTINCT substr(key, 1, 64) FROM record WHERE env = '' AND kind = 'file_use'"
    return [digest for (digest,) in database.execute(known)]


def _copy_content(directory: Path, part: Path, digest: str) -> int:
    """Returns how many bytes were copied; none of what is kept elsewhere, and of an upload that is still going on."""
    source, target = (place / "files" / digest[:2] / digest for place in (directory, part))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        database = sqlite3.connect(f"{(directory / 'stepwell.db').resolve().as_uri()}?mode=ro", uri=True)
        try:
            needed = digest in _contents(database)
        finally:
            database.close()
        if needed:
            return 0
        raise _FileSwept from None
    _sync(target)
    return target.stat().st_size


def _folders(part: Path) -> Iterator[Path]:
    yield from (path for path in part.rglob("*") if path.is_dir())
    yield part


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _note(directory: Path, to: Path) -> None:
    """For the status page. A data directory that may only be read gets none."""
    note = directory / NOTE
    try:
        note.with_suffix(".tmp").write_bytes(
            msgspec.json.encode({"at": time.time_ns() // 1_000_000, "place": str(to.resolve())})
        )
        note.with_suffix(".tmp").replace(note)
    except OSError:
        return


def last_backup(directory: Path) -> dict[str, object] | None:
    """When the last backup was taken from here and where to, as far as is known."""
    try:
        found = msgspec.json.decode((directory / NOTE).read_bytes(), type=dict[str, object])
    except (OSError, ValueError):
        return None
    return found
