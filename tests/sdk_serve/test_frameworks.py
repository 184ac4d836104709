"""The same service through every framework: found, registered, called."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

import stepwell
from stepwell.sdk.serve.message import LARGEST_BODY_BYTES
from tests.official.harness import free_port, until
from tests.sdk_client.scripted import Reply, scripted
from tests.sdk_serve.exchanges import a_call

service = stepwell.Service("web")
threads: list[str] = []


async def where() -> int:
    threads.append(threading.current_thread().name)
    return 41


@service.function(on="t/e", id="asynchronous")
async def asynchronous(ctx: stepwell.Context[Any]) -> int:
    return await ctx.step.run("one", where) + 1


@service.function(on="t/e", id="synchronous")
def synchronous(ctx: stepwell.SyncContext[Any]) -> int:
    return ctx.step.run("one", lambda: 41) + 1


class Web:
    """One framework's test client, reduced to a request and its answer."""

    def __init__(self, ask: Any) -> None:
        self.ask = ask

    def __call__(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        answer: tuple[int, dict[str, str], bytes] = self.ask(method, path, body, headers)
        return answer


def through_fastapi(url: str) -> Web:
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.testclient import TestClient

    import stepwell.serve

    def nobody() -> None:
        raise HTTPException(403, "log in first")

    app = FastAPI(dependencies=[Depends(nobody)])
    stepwell.serve.fastapi(app, service, url=url, dev=True)
    assert "/api/inngest" not in app.openapi()["paths"]
    return Web(_starlette_client(TestClient(app)))


def through_starlette(url: str) -> Web:
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    import stepwell.serve

    app = Starlette()
    stepwell.serve.starlette(app, service, url=url, dev=True)
    return Web(_starlette_client(TestClient(app)))


def through_asgi(url: str) -> Web:
    from starlette.testclient import TestClient

    return Web(_starlette_client(TestClient(service.asgi(url=url, dev=True))))


def through_a_mount(url: str) -> Web:
    from starlette.applications import Starlette
    from starlette.routing import Mount
    from starlette.testclient import TestClient

    app = Starlette(routes=[Mount("/api", service.asgi(url=url, dev=True))])
    return Web(_starlette_client(TestClient(app)))


def through_flask(url: str) -> Web:
    from flask import Flask

    import stepwell.serve

    app = Flask("web")
    stepwell.serve.flask(app, service, url=url, dev=True)
    client = app.test_client()

    def ask(method: str, path: str, body: bytes, headers: dict[str, str]) -> Any:
        answer = client.open(path, method=method, data=body, headers=headers, base_url="http://testserver")
        return answer.status_code, {name.lower(): value for name, value in answer.headers}, answer.data

    return Web(ask)


def through_django(url: str) -> Web:
    import django
    from django.conf import settings
    from django.test import Client
    from django.urls import path

    import stepwell.serve

    wanted: dict[str, Any] = {
        "DEBUG": False,
        "ALLOWED_HOSTS": ["testserver"],
        "ROOT_URLCONF": "stepwell_test_urls",
        "SECRET_KEY": "x",
        "MIDDLEWARE": ["django.middleware.csrf.CsrfViewMiddleware", "django.middleware.common.CommonMiddleware"],
        "DATA_UPLOAD_MAX_MEMORY_SIZE": 1000,
    }
    if not settings.configured:
        settings.configure(**wanted)
        django.setup()
    for name, value in wanted.items():  # Django has one of each in a process, and another test may have set it
        setattr(settings, name, value)
    urls = type(sys)("stepwell_test_urls")
    urls.urlpatterns = [path("api/inngest", stepwell.serve.django(service, url=url, dev=True))]  # type: ignore[attr-defined]
    sys.modules["stepwell_test_urls"] = urls
    from django.urls import clear_url_caches, set_urlconf

    clear_url_caches()
    set_urlconf(None)
    client = Client(enforce_csrf_checks=True)

    def ask(method: str, path: str, body: bytes, headers: dict[str, str]) -> Any:
        answer = client.generic(method, path, body, content_type="application/json", headers=headers)
        return answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content

    return Web(ask)


def _starlette_client(client: Any) -> Any:
    def ask(method: str, path: str, body: bytes, headers: dict[str, str]) -> Any:
        answer = client.request(method, path, content=body, headers=headers)
        return answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content

    return ask


FRAMEWORKS = {
    "asgi": through_asgi,
    "mount": through_a_mount,
    "starlette": through_starlette,
    "fastapi": through_fastapi,
    "flask": through_flask,
    "django": through_django,
}


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def web(framework: str) -> Web:
    return FRAMEWORKS[framework]("http://127.0.0.1:9")


@pytest.mark.parametrize("slug", ["web-asynchronous", "web-synchronous"])
def test_a_function_is_called_step_by_step(web: Web, slug: str) -> None:
    first = a_call(slug)
    status, headers, body = web("POST", f"/api/inngest?{first.query}", first.body)
    assert (status, headers["x-inngest-req-version"], headers["x-inngest-no-retry"]) == (206, "2", "false")
    assert headers["x-inngest-sdk"].startswith("stepwell-py:v")
    (op,) = json.loads(body)
    assert (op["op"], op["displayName"], op["data"]) == ("StepRun", "one", 41)
    second = a_call(slug, steps={"one": {"data": 41}})
    status, _, body = web("POST", f"/api/inngest?{second.query}", second.body)
    assert (status, body) == (200, b"42")


def test_introspection_answers_get_and_head(web: Web) -> None:
    status, headers, body = web("GET", "/api/inngest")
    assert status == 200
    assert "x-inngest-sdk" in headers
    assert json.loads(body)["function_count"] == 2
    status, headers, body = web("HEAD", "/api/inngest")
    assert (status, body) == (200, b"")


def test_a_sync_registers_under_the_url_it_came_to(framework: str) -> None:
    with scripted(lambda asked: Reply(value={"ok": True, "modified": False, "status": 200})) as server:
        status, _, body = FRAMEWORKS[framework](server.url)("PUT", "/api/inngest?tenant=a&deployId=d")
    assert (status, json.loads(body)["modified"]) == (200, False)
    (asked,) = server.asked
    registered = asked.json()
    assert registered["url"] == "http://testserver/api/inngest?tenant=a"
    assert registered["framework"] == ("" if framework in ("asgi", "mount") else framework)
    step = registered["functions"][0]["steps"]["step"]
    assert step["runtime"]["url"].startswith("http://testserver/api/inngest?tenant=a&fnId=web-asynchronous")


def test_a_large_request_is_read_whole_and_one_without_end_is_not(web: Web) -> None:
    call = a_call("web-asynchronous", event={"data": {"text": "x" * 3_000_000}})
    assert web("POST", f"/api/inngest?{call.query}", call.body)[0] == 206
    status, _, body = web("POST", f"/api/inngest?{call.query}", b"x" * (LARGEST_BODY_BYTES + 1))
    assert (status, json.loads(body)["code"]) == (413, "request_too_large")


def test_functions_under_a_sync_framework_share_one_loop() -> None:
    web = through_flask("http://127.0.0.1:9")
    threads.clear()
    for _ in range(3):
        call = a_call("web-asynchronous")
        web("POST", f"/api/inngest?{call.query}", call.body)
    assert threads == ["stepwell serve"] * 3


@pytest.fixture
def program(tmp_path: Any) -> Iterator[str]:
    """A program of its own: uvicorn, an application mounted nowhere, nothing configured but development mode."""
    (tmp_path / "app.py").write_text(
        "import stepwell\n"
        "service = stepwell.Service('alone')\n"
        "async def one(): return 1\n"
        "@service.function(on='t/e')\n"
        "async def f(ctx): return await ctx.step.run('one', one)\n"
        "app = service.asgi()\n"
    )
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "app:app",
        "--port",
        str(port),
        "--lifespan",
        "on",
        "--log-level",
        "error",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "STEPWELL_DEV": "1"})
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) in (0, -signal.SIGTERM)


@pytest.mark.slow
def test_a_program_under_uvicorn_serves(program: str) -> None:
    def found() -> httpx2.Response | None:
        try:
            return httpx2.get(f"{program}/api/inngest", trust_env=False)
        except httpx2.ConnectError:
            return None

    assert until("an answer", 20, found, lambda: "").json()["mode"] == "dev"
    call = a_call("alone-f", url=f"{program}/api/inngest")
    answer = httpx2.post(call.url, content=call.body, trust_env=False)
    assert answer.status_code == 206
    assert answer.json()[0]["data"] == 1
