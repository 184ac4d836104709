"""A real server on a free port that keeps files, and a client for it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from stepwell.node.files import Files
from stepwell.server import Server, ServerSettings
from tests.libraries.environments import python_of
from tests.postgres import free_port


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


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A bucket of a server that speaks like S3, and the variables that lead there."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(python_of("moto")), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert server.poll() is None, "moto ended"
            try:
                assert httpx2.put(f"{url}/stepwell-files", trust_env=False).status_code == 200
                break
            except httpx2.TransportError:
                assert time.monotonic() < deadline, "moto did not start"
                time.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", url)
            patch.setenv("AWS_ALLOW_HTTP", "true")
            patch.setenv("AWS_REGION", "us-east-1")
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            yield "s3://stepwell-files/a/prefix"
    finally:
        server.terminate()
        server.wait()
