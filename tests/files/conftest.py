"""A real server on a free port that keeps files, and a client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from stepwell.node.files import Files
from stepwell.server import Server, ServerSettings


@dataclass
class Place:
    """A server with files in `folder`."""

    server: Server
    http: httpx2.AsyncClient
    folder: Path

    @property
    def files(self) -> Files:
        files = self.server.site.files
        assert files is not None
        return files

    @property
    def kept(self) -> list[Path]:
        """What is on the disk, finished or not."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    async def announce(self, **entry: Any) -> dict[str, Any]:
        response = await self.http.post("/files", json={"files": [{"uri": "", **entry}]})
        assert response.status_code == 200, response.text
        [file] = response.json()["data"]
        return dict(file)

    async def upload(self, content: bytes, **entry: Any) -> dict[str, Any]:
        """As the clients do it: announced, then put without a key."""
        file = await self.announce(**entry)
        url = urlsplit(file["upload_url"])  # on this machine, whatever the server is called in public
        response = await self.http.put(f"{url.path}?{url.query}", content=content, headers={"content-type": "x/y"})
        assert response.status_code == 200, response.text
        return file


async def begun(data: Path | None, **settings: Any) -> Place:
    server = Server(
        ServerSettings(**({"port": 0, "data": data, "discovery": False, "manage_logging": False} | settings))
    )
    await server.start()
    http = httpx2.AsyncClient(base_url=server.url, timeout=30, trust_env=False)
    return Place(server, http, (data or Path("nowhere")) / "files")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = await begun(tmp_path / "data")
    yield place
    await place.http.aclose()
    await place.server.stop()
