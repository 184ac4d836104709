"""The page on serving: each framework's program, on a real HTTP server, registered and called by a real Stepwell."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from types import ModuleType
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import httpx2
import pytest

import stepwell
from tests.docs import running
from tests.docs.pages import DOCS, read_page

pytestmark = pytest.mark.slow

PAGE = read_page(DOCS / "serving.md")


@contextmanager
def asgi(app: Any) -> Iterator[str]:
    """An ASGI application under uvicorn, in a thread."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listener:
        web = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=web.run, args=([listener],), daemon=True)
        thread.start()
        running.patiently(lambda: web.started or None, lambda: "uvicorn has not started")
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            web.should_exit = True
            thread.join(10)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def wsgi(app: Any) -> Iterator[str]:
    """A WSGI application under the standard library's server, in a thread."""
    with make_server("127.0.0.1", 0, app, _Server, _Quiet) as web:
        thread = threading.Thread(target=web.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{web.server_port}"
        finally:
            web.shutdown()
            thread.join(10)


def django_application(module: ModuleType) -> Any:
    import django
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.urls import clear_url_caches, set_urlconf

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=module.__name__, SECRET_KEY="x", MIDDLEWARE=[])
        django.setup()
    settings.ROOT_URLCONF = module.__name__
    settings.ALLOWED_HOSTS = ["*"]
    clear_url_caches()
    set_urlconf(None)
    return WSGIHandler()


FRAMEWORKS: dict[str, Callable[[ModuleType], Any]] = {
    "asgi": lambda module: asgi(module.app),
    "fastapi": lambda module: asgi(module.app),
    "flask": lambda module: wsgi(module.app),
    "django": lambda module: wsgi(django_application(module)),
}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_program_is_registered_and_its_function_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with running.running_server(poll=False) as server:
        monkeypatch.setenv("STEPWELL_DEV", "1")
        monkeypatch.setenv("STEPWELL_URL", server.url)
        monkeypatch.setitem(sys.modules, "shop", running.load(PAGE, PAGE.modules["page"]))
        module = running.load(PAGE, PAGE.modules[name])
        with FRAMEWORKS[name](module) as url:
            answer = httpx2.put(f"{url}/api/inngest")
            assert answer.status_code == 200, answer.text
            with stepwell.Client(server.url) as client:
                assert client.start("shop/fulfil", {"id": name}).result(timeout="20s") == f"parcel for {name}"
