"""A backup has the bytes of files, too."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from stepwell.model.errors import ConfigurationError
from stepwell.store.sqlite import backup
from stepwell.store.sqlite.backup import back_up
from tests.files.conftest import Place, begun


async def read(place: Place, uri: str) -> bytes:
    response = await place.http.get(urlsplit(uri).path)
    assert response.status_code == 200
    return response.content


async def test_files_are_in_a_backup_and_are_read_from_a_server_on_it(place: Place, tmp_path: Path) -> None:
    first = await place.upload(b"one", filename="a.txt")
    await place.upload(b"one", filename="same.txt")
    second = await place.upload(b"three", filename="b.txt")
    gone = await place.upload(b"gone", filename="c.txt")
    await place.http.delete(f"/files/{gone['id']}")
    await place.announce(filename="never.txt")
    done = await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / "copy")
    assert (done.files, done.files_bytes) == (2, 8)
    await place.http.delete(f"/files/{first['id']}")

    restored = await begun(tmp_path / "copy")
    try:
        assert await read(restored, first["uri"]) == b"one"
        assert await read(restored, second["uri"]) == b"three"
        assert len(restored.kept) == 2
    finally:
        await restored.http.aclose()
        await restored.server.stop()


async def test_a_file_that_went_meanwhile_begins_the_backup_again(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [await place.upload(b"%d" % number, filename="a.txt") for number in range(3)]
    loop, real, attempts = asyncio.get_running_loop(), backup._copy_database, 0

    def meddled(source: Path, target: Path) -> None:
        nonlocal attempts
        real(source, target)
        attempts += 1
        if len(files) > 1:
            removed = place.http.delete(f"/files/{files.pop()['id']}")
            assert asyncio.run_coroutine_threadsafe(removed, loop).result(10).status_code == 200

    monkeypatch.setattr(backup, "_copy_database", meddled)
    done = await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / "copy")
    assert (attempts, done.files) == (3, 1)
    assert len(list((tmp_path / "copy" / "files").rglob("*/*"))) == 1
    monkeypatch.setattr(backup, "ATTEMPTS", 1)
    files.append(await place.upload(b"again", filename="a.txt"))
    assert len(files) == 2
    with pytest.raises(ConfigurationError, match="again and again"):
        await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / "other")


async def test_bytes_that_are_kept_elsewhere_are_no_part_of_it(place: Place, tmp_path: Path) -> None:
    await place.upload(b"one", filename="a.txt")
    shutil.rmtree(place.folder)  # as with an object store
    done = await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / "copy")
    assert (done.files, done.files_bytes) == (0, 0)
