"""Deploying an app over HTTP, with an importer that does what a test tells it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, BinaryIO

import pytest

from stepwell.model.app import AppVersion, read_reference
from stepwell.model.errors import InvalidInput
from tests.api.api import Api, until

LINES = {"accept": "application/x-ndjson"}


class Importer:
    def __init__(self) -> None:
        self.received = b""
        self.cancelled = False
        self.hold: asyncio.Event | None = None

    async def import_archive(
        self, archive: BinaryIO, *, as_: str, version: str, progress: Callable[[str], None], **_: Any
    ) -> AppVersion:
        self.received = archive.read()
        if not self.received.startswith(b"PK"):
            raise InvalidInput("the archive cannot be read", field="archive")
        progress("installing 3 packages")
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        named = read_reference(as_)
        return AppVersion(namespace=named.namespace, name=named.name, version=version or "a1b2", checksum="c")


@pytest.fixture
def importer(plain: Api) -> Importer:
    made = Importer()
    plain.server.site.importer = made
    return made


async def test_an_archive_becomes_a_version(plain: Api, importer: Importer) -> None:
    archive = b"PK" + bytes(3 << 20)
    response = await plain.http.post("/api/apps", params={"as": "acme/stitch"}, content=archive)
    assert (response.status_code, response.json()["reference"]) == (201, "acme/stitch@a1b2")
    assert importer.received == archive
    second = await plain.http.post(
        "/api/apps", params={"as": "acme/stitch", "version": "c3d4", "current": "false"}, content=b"PK2"
    )
    assert second.json()["reference"] == "acme/stitch@c3d4"
    assert (await plain.get("/apps/acme/stitch"))["data"]["version"]["short_id"] == "a1b2"
    assert (await plain.get("/apps/acme/stitch@c3d4"))["data"]["version"]["short_id"] == "c3d4"


async def test_progress_comes_line_by_line(plain: Api, importer: Importer) -> None:
    importer.hold = asyncio.Event()
    params = {"as": "acme/stitch"}
    async with plain.http.stream("POST", "/api/apps", params=params, content=b"PK", headers=LINES) as response:
        lines = response.aiter_lines()
        assert json.loads(await anext(lines)) == {"type": "progress", "text": "installing 3 packages"}
        importer.hold.set()
        done = json.loads(await anext(lines))
    assert (done["type"], done["reference"], done["app"]["name"]) == ("done", "acme/stitch@a1b2", "stitch")


async def test_what_goes_wrong_is_the_last_line(plain: Api, importer: Importer) -> None:
    params = {"as": "acme/stitch"}
    response = await plain.http.post("/api/apps", params=params, content=b"no archive", headers=LINES)
    (line,) = response.text.splitlines()
    assert json.loads(line) == {
        "type": "error",
        "error": "the archive cannot be read",
        "status": 400,
        "code": "invalid_input",
        "field": "archive",
    }
    refused = await plain.http.post("/api/apps", params=params, content=b"no archive")
    assert (refused.status_code, refused.json()["field"]) == (400, "archive")


async def test_whoever_goes_away_ends_it(plain: Api, importer: Importer) -> None:
    importer.hold = asyncio.Event()
    params = {"as": "acme/stitch"}
    async with plain.http.stream("POST", "/api/apps", params=params, content=b"PK", headers=LINES) as response:
        await anext(response.aiter_lines())

    async def cancelled() -> bool | None:
        return importer.cancelled or None

    await until(cancelled)
    assert (await plain.http.get("/apps/acme/stitch")).status_code == 404


@pytest.mark.parametrize(("params", "content"), [({"current": "maybe"}, b"PK"), ({}, b"")])
async def test_a_request_that_makes_no_sense_is_refused(
    plain: Api, importer: Importer, params: dict[str, str], content: bytes
) -> None:
    assert (await plain.http.post("/api/apps", params=params, content=content)).status_code == 400


async def test_a_server_without_apps_says_so(plain: Api) -> None:
    plain.server.site.importer = None
    assert (await plain.http.post("/api/apps", content=b"PK")).status_code == 404
