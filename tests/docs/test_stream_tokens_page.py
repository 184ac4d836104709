"""The page about streams: its program in Python prints, its page in a browser shows what a model says."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepwell.server import Server
from stepwell.testing.provider import Provider, fail, say
from tests.docs import running
from tests.docs.pages import DOCS, Page, pages

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WORDS = [f"word{number} " for number in range(20)]


@pytest.fixture
def page() -> Page:
    return next(one for one in pages() if one.path.name == "stream-tokens.md")


@pytest.fixture
def server(page: Page, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with the page's service, whose model is the stand-in."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
    made = running.load(page, page.modules["page"])
    made.MODEL = made.ai.openai("gpt-4o-mini", base_url=f"{provider.url}/v1", api_key="sk-test")  # type: ignore[attr-defined]
    with running.running_server(retry_interval_ms=20) as server:
        with running.working(running.services_of(made), server):
            monkeypatch.setenv("STEPWELL_URL", server.url)
            yield server


def test_the_program_prints_what_the_model_says(
    page: Page, server: Server, provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    provider.answer(say(WORDS))
    running.load(page, page.modules["reader"])
    assert capsys.readouterr().out == "".join(WORDS)


class Site:
    """The page's web application on a free port, with a page that asks by itself and then reports what it shows."""

    def __init__(self, web: ModuleType, folder: Path) -> None:
        self.shown: list[str] = []
        self.reported = threading.Event()
        whole = html()
        (folder / "page.html").write_text(
            f"{whole}<script>"
            'const report = () => fetch("/shown", { method: "POST", body: answer.textContent });'
            "new MutationObserver(report).observe(answer, { childList: true, characterData: true, subtree: true });"
            'document.querySelector("button").click();</script>'
        )

        async def shown(request: Request) -> Response:
            self.shown.append((await request.body()).decode())
            self.reported.set()
            return Response()

        web.app.router.routes.append(Route("/shown", shown, methods=["POST"]))
        config = uvicorn.Config(web.app, port=0, lifespan="off", log_config=None)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        while not self._server.started:
            pass
        return f"http://localhost:{self._server.servers[0].sockets[0].getsockname()[1]}/"

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


def html() -> str:
    text = (DOCS / "stream-tokens.md").read_text(encoding="utf-8")
    return text.partition('```html title="page.html"\n')[2].partition("```")[0]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_shows_what_the_model_says_while_it_says_it(
    page: Page, server: Server, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.answer(say("only half of it", pause_s=0.05, cut_after=4), fail(503), say(WORDS, pause_s=0.05))
    monkeypatch.chdir(tmp_path)
    site = Site(running.load(page, page.modules["web"]), tmp_path)
    assert CHROMIUM is not None
    browser = subprocess.Popen(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--remote-debugging-port=0",
            site.url,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(400):
            site.reported.wait(30)
            site.reported.clear()
            if site.shown and site.shown[-1] == "".join(WORDS):
                break
    finally:
        browser.terminate()
        browser.wait(10)
        site.close()
    assert site.shown[-1] == "".join(WORDS)
    assert any(text.startswith("only") for text in site.shown)
    assert len([text for text in site.shown if text.startswith("word0")]) > 5  # not all at once
    assert all("".join(WORDS).startswith(text) or "only half of it".startswith(text) for text in site.shown)
