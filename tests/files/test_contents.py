"""Where bytes are kept: on a disk, and in object stores. Each passes the same tests."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stepwell.model.errors import ConfigurationError, NotFound, TooLarge
from stepwell.model.file import Contents
from stepwell.store import contents as contents_module
from stepwell.store.base import StoreFull
from stepwell.store.contents import DiskContents

LIMIT = 100_000_000


async def pieces(content: bytes, size: int = 70_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def read(contents: Contents, digest: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in contents.read(digest, start, end)])


async def kept(contents: Contents, content: bytes) -> str:
    staged = await contents.stage(pieces(content), limit_bytes=LIMIT)
    await contents.keep(staged)
    return staged.digest


def lying(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.fixture(params=["disk", "objects", pytest.param("s3", marks=pytest.mark.slow)])
async def contents(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Contents]:
    made: Contents
    if request.param == "disk":
        made = DiskContents(tmp_path / "files")
    else:
        module = pytest.importorskip("stepwell.store.contents_s3")
        url = request.getfixturevalue("bucket") if request.param == "s3" else f"file://{tmp_path}/objects"
        (tmp_path / "objects").mkdir()
        made = module.ObjectContents(url, tmp_path / "files" / "tmp")
    await made.open()
    yield made
    await made.close()


@pytest.mark.parametrize("size", [0, 1, 69_999, 70_001, 3_000_000, 40_000_000])
async def test_what_is_kept_is_read_again_by_its_digest(contents: Contents, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    staged = await contents.stage(pieces(content), limit_bytes=LIMIT)
    assert (staged.digest, staged.size_bytes) == (hashlib.sha256(content).hexdigest(), size)
    assert staged.head == content[:8192]
    with pytest.raises(NotFound):
        await read(contents, staged.digest)
    await contents.keep(staged)
    assert await read(contents, staged.digest) == content
    await contents.drop(staged)
    assert await read(contents, staged.digest) == content
    assert [name for name in lying(tmp_path) if name.endswith(".part")] == []


async def test_any_part_is_read(contents: Contents) -> None:
    content = bytes(range(256)) * 4_000
    digest = await kept(contents, content)
    for start, end in [(0, 1), (5, 5), (255, 300_000), (1_000_000, None), (1_023_999, None), (7, 1_024_000)]:
        assert await read(contents, digest, start, end) == content[start:end]
    reading = contents.read(digest)
    assert len(await anext(reading)) < len(content)
    await reading.aclose()  # type: ignore[attr-defined]  # somebody who had enough


async def test_the_same_bytes_are_kept_once_and_a_removal_is_for_good(contents: Contents) -> None:
    first, second = await kept(contents, b"same"), await kept(contents, b"same")
    assert first == second
    assert await read(contents, first) == b"same"
    await contents.remove(first)
    await contents.remove(first)
    with pytest.raises(NotFound):
        await read(contents, first)
    assert await kept(contents, b"same") == first
    assert await read(contents, first) == b"same"


@pytest.mark.parametrize("digest", ["", "a", "../../etc/passwd", "A" * 64, "a" * 63 + "/", "a" * 65])
async def test_what_is_no_digest_is_not_found(contents: Contents, digest: str) -> None:
    with pytest.raises(NotFound):
        await read(contents, digest)
    with pytest.raises(NotFound):
        await contents.remove(digest)


async def test_what_is_cut_off_leaves_nothing(contents: Contents, tmp_path: Path) -> None:
    async def cut() -> AsyncIterator[bytes]:
        async for piece in pieces(b"x" * 5_000_000):
            yield piece
        raise ConnectionResetError("the sender went away")

    async def endless() -> AsyncIterator[bytes]:
        async for piece in pieces(b"x" * 5_000_000):
            yield piece
        await asyncio.sleep(60)

    with pytest.raises(ConnectionResetError, match="went away"):
        await contents.stage(cut(), limit_bytes=LIMIT)
    with pytest.raises(TooLarge, match="4,999,999 bytes"):
        await contents.stage(pieces(b"x" * 5_000_000), limit_bytes=4_999_999)
    task = asyncio.create_task(contents.stage(endless(), limit_bytes=LIMIT))
    await until(lambda: lying(tmp_path / "files") != [])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: lying(tmp_path) == [])


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_only_what_does_not_grow_any_more_is_tidied_up(contents: Contents, tmp_path: Path) -> None:
    staged = await contents.stage(pieces(b"whole"), limit_bytes=LIMIT)
    old = tmp_path / "files" / "tmp" / "0123.part"
    old.write_bytes(b"left by a server that was killed")
    ago = time.time() - 1_801
    os.utime(old, (ago, ago))
    digest = await kept(contents, b"kept")
    assert await contents.tidy(1_800) == 1
    assert not old.exists()
    await contents.keep(staged)
    assert await read(contents, staged.digest) == b"whole"
    assert await read(contents, digest) == b"kept"
    assert await contents.tidy(0) == 0


async def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = DiskContents(tmp_path / "files")

    def full(part: Any, pieces: list[bytes]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(contents_module._Part, "write", full)
    with pytest.raises(StoreFull, match="no room left"):
        await contents.stage(pieces(b"x" * 3_000_000), limit_bytes=LIMIT)
    monkeypatch.undo()
    await until(lambda: lying(tmp_path) == [])

    staged = await contents.stage(pieces(b"x"), limit_bytes=LIMIT)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EDQUOT, "Quota")))
    with pytest.raises(StoreFull):
        await contents.keep(staged)
    monkeypatch.undo()
    await contents.keep(staged)


async def test_bytes_are_synced_before_they_have_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def noted(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any) -> Any:
            what = os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else str(args[1])
            done.append(f"{name} {Path(what).relative_to(tmp_path)}")
            return real(*args)

        monkeypatch.setattr(os, name, call)

    noted("fsync")
    noted("replace")
    digest = await kept(DiskContents(tmp_path / "files"), b"text")
    part, *rest = done
    assert part.startswith("fsync files/tmp/")
    assert rest == [
        "fsync files",
        f"replace files/{digest[:2]}/{digest}",
        f"fsync files/{digest[:2]}",
    ]


async def test_a_place_that_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    module = pytest.importorskip("stepwell.store.contents_s3")
    for url in (f"file://{tmp_path}/none", "nonsense://x"):
        contents = module.ObjectContents(url, tmp_path / "tmp")
        with pytest.raises(ConfigurationError, match="cannot be used"):
            await contents.open()


def test_a_program_that_used_an_object_store_ends_well(tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    program = f"""
import asyncio
from pathlib import Path
from stepwell.store.contents_s3 import ObjectContents

async def pieces():
    yield b"x" * 30_000_000

async def main():
    contents = ObjectContents("memory:///", Path({str(tmp_path)!r}))
    await contents.open()
    staged = await contents.stage(pieces(), limit_bytes=10**9)
    await contents.keep(staged)
    print(sum([len(one) async for one in contents.read(staged.digest)]))
    await contents.close()

asyncio.run(main())
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "30000000\n"), done.stderr
