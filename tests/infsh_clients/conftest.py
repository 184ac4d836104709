"""A real server with a real app, and the official clients as programs of their own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stepwell.apps.environment import EnvironmentSettings
from stepwell.apps.package import write_archive
from stepwell.apps.settings import AppSettings
from stepwell.server import Server, ServerSettings
from tests.apps.wheels import repack
from tests.libraries.environments import python_of
from tests.official.harness import node

HERE = Path(__file__).parent
JAVASCRIPT = HERE / "javascript"


class Serving:
    """A server in a thread of its own, since the clients take this one."""

    def __init__(self, settings: ServerSettings) -> None:
        self.server = Server(settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.do(self.server.start())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def do(self, what: Awaitable[Any]) -> Any:
        async def doing() -> Any:
            return await what

        return asyncio.run_coroutine_threadsafe(doing(), self._loop).result(60)

    def close(self) -> None:
        self.do(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def deploy(self, directory: Path, **query: str) -> str:
        """The reference of what was made."""
        archive = io.BytesIO()
        write_archive(directory, archive)
        response = httpx2.post(f"{self.url}/api/apps", params=query, content=archive.getvalue(), timeout=120)
        assert response.status_code == 201, response.text
        return str(response.json()["reference"])


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """With `acme/everything`, and `acme/secretive`, which needs a secret that is not there."""
    folder = tmp_path_factory.mktemp("infsh")
    wheels = folder / "wheels"
    repack(wheels, python_of("inferencesh"))
    environments = EnvironmentSettings(find_links=(str(wheels),), offline=True)
    settings = ServerSettings(
        port=0,
        data=folder / "data",
        discovery=False,
        poll=False,
        manage_logging=False,
        apps=AppSettings(environments=environments, idle_s=60),
    )
    serving = Serving(settings)
    try:
        serving.deploy(HERE / "app")
        secretive = folder / "secretive"
        shutil.copytree(HERE / "app", secretive)
        manifest = (secretive / "inf.yml").read_text().replace("name: everything", "name: secretive")
        (secretive / "inf.yml").write_text(manifest.replace("secrets: []", "secrets: [{key: KEY}]"))
        serving.deploy(secretive)
        yield serving
    finally:
        serving.close()


class Cutter:
    """A way to the server on which every stream breaks off 200 ms after it was asked for."""

    def __init__(self, port: int) -> None:
        self.cuts = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(one, other, one is client), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
                if asks and b"/stream HTTP/1.1" in data:
                    threading.Timer(0.2, self._cut, (source, target)).start()
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        source.close()

    def _cut(self, *sockets: socket.socket) -> None:
        self.cuts += 1
        for one in sockets:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def cutter(serving: Serving) -> Iterator[Cutter]:
    cutter = Cutter(serving.server.port)
    yield cutter
    cutter.close()


def python_client(kind: str, url: str, cut: str, folder: Path) -> dict[str, Any]:
    return _told([str(python_of("inferencesh-client")), str(HERE / "client.py"), kind, url, cut, str(folder)])


def javascript_client(kind: str, url: str, cut: str, folder: Path) -> dict[str, Any]:
    """Through a bundler, as the package wants it."""
    need_packages()
    bundle = folder / "client.bundle.mjs"
    esbuild = [str(JAVASCRIPT / "node_modules" / ".bin" / "esbuild"), "client.mjs", "--bundle", "--platform=node"]
    subprocess.run([*esbuild, "--format=esm", "--log-level=warning", f"--outfile={bundle}"], cwd=JAVASCRIPT, check=True)
    return _told([node(), str(bundle), kind, url, cut])


def need_packages() -> None:
    """Nobody needs Node to test Stepwell, except CI, where missing packages are a failure."""
    if not (JAVASCRIPT / "node_modules" / "@inferencesh").is_dir():
        missing = "the JavaScript client needs `npm ci` in tests/infsh_clients/javascript"
        assert "CI" not in os.environ, missing
        pytest.skip(missing)


def _told(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    told: dict[str, Any] = json.loads(done.stdout)
    return told
