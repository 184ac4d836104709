"""The page about the endpoint for OpenAI's clients: its app is deployed, and asked by its programs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

import stepwell
from stepwell.apps.declared import directory_of
from stepwell.apps.environment import EnvironmentSettings
from stepwell.apps.package import write_archive
from stepwell.apps.settings import AppSettings
from stepwell.server import Server
from tests.apps.harness import python
from tests.apps.wheels import repack
from tests.docs import running
from tests.docs.pages import DOCS, read_page

pytestmark = pytest.mark.slow

PAGE = read_page(DOCS / "openai-endpoint.md")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """With the app of the page, and a worker for its service."""
    repack(tmp_path / "wheels", python())
    environments = EnvironmentSettings(find_links=(str(tmp_path / "wheels"),), offline=True)
    made = running.load(PAGE, PAGE.modules["page"])
    with running.running_server(data=tmp_path / "data", apps=AppSettings(environments=environments)) as server:
        file = tmp_path / "parrot.py"
        file.write_text(PAGE.titled("parrot.py").text)
        archive = io.BytesIO()
        with directory_of(file) as directory:
            write_archive(directory, archive)
        told = httpx2.post(
            f"{server.url}/api/apps", params={"as": "acme/parrot"}, content=archive.getvalue(), timeout=120
        )
        assert told.status_code == 201, told.text
        monkeypatch.setenv("STEPWELL_URL", server.url)
        with running.working(running.services_of(made), server):
            yield server


def test_the_programs_do_what_the_page_says(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    module = PAGE.modules["asks"]
    module.replaced["http://localhost:8288"] = server.url
    running.load(PAGE, module)
    assert capsys.readouterr().out == "Pieces of eight\nPieces| of| nine||"
    with stepwell.Client(server.url) as client:
        assert client.start("parrots/repeat", {"text": "Pieces of ten"}).result("30s") == "Pieces of ten"
