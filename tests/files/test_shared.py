"""Several servers on one database, with one folder for files: each serves them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.files.conftest import Place, begun


@pytest.fixture
async def places(tmp_path: Path, postgres_url: str) -> AsyncIterator[list[Place]]:
    places = [await begun(tmp_path / "data", db=postgres_url, public_url="http://files.test") for _ in range(2)]
    yield places
    for place in places:
        await place.http.aclose()
        await place.server.stop()


def path_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


async def test_a_file_is_announced_put_read_and_removed_at_any_server(places: list[Place]) -> None:
    one, other = places
    file = await one.announce(filename="a.txt", content_type="text/plain")
    assert (await other.http.put(path_of(file["upload_url"]), content=b"text")).status_code == 200
    for place in places:
        assert (await place.http.get(path_of(file["uri"]))).text == "text"
        assert (await place.http.get(f"/files/{file['id']}")).json()["data"]["uri"] == file["uri"]
    assert (await other.http.put(path_of(file["upload_url"]), content=b"text")).status_code == 409
    assert (await one.http.delete(f"/files/{file['id']}")).status_code == 200
    assert (await other.http.get(path_of(file["uri"]))).status_code == 404
    assert one.kept == []


async def test_the_same_bytes_come_and_go_at_all_of_them_at_once(places: list[Place]) -> None:
    async def live(number: int) -> None:
        here, there = places[number % 2], places[(number + 1) % 2]
        for _ in range(5):
            file = await here.upload(b"same", filename=f"{number}.txt", content_type="text/plain")
            assert (await there.http.get(path_of(file["uri"]))).text == "same"
            assert (await there.http.delete(f"/files/{file['id']}")).status_code == 200

    await asyncio.gather(*[live(number) for number in range(8)])
    assert places[0].kept == []
    last = await places[0].upload(b"same", filename="last.txt")
    assert (await places[1].http.get(path_of(last["uri"]))).content == b"same"


async def test_of_two_servers_one_takes_an_upload(places: list[Place]) -> None:
    for _ in range(5):
        file = await places[0].announce(filename="a.bin")
        puts = [
            place.http.put(path_of(file["upload_url"]), content=bytes([number]) * 100_000)
            for number, place in enumerate(places * 2)
        ]
        statuses = [answer.status_code for answer in await asyncio.gather(*puts)]
        assert sorted(statuses) == [200, 409, 409, 409]
        content = (await places[1].http.get(path_of(file["uri"]))).content
        assert content == bytes([statuses.index(200)]) * 100_000
