"""What a web page may do to a server without keys, and what Host it must be called by (S10 to S12)."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest
import websockets

from stepwell.api.gate import Gate
from tests.api.api import Api
from tests.api.conftest import Start

FOREIGN = "https://evil.example"
NEIGHBOUR = "http://localhost:3000"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


async def test_s10_a_foreign_page_is_refused_whatever_the_method(plain: Api, subtests: pytest.Subtests) -> None:
    for path in ("/e/key", "/fn/register", "/api/runs", "/v1/events", "/health", "/v0/gql", "/nowhere"):
        for headers in (
            {"origin": FOREIGN},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
            {"origin": FOREIGN, "content-type": "text/plain"},
        ):
            with subtests.test(path=path, headers=headers):
                for method in METHODS:
                    response = await plain.http.request(method, path, headers=headers, content=b'{"name": "a/b"}')
                    assert response.status_code == 403, method
                    assert response.json()["status"] == 403
                    assert "access-control-allow-origin" not in response.headers
    assert (await plain.get("/v1/events"))["data"] == []


async def test_s10_a_page_of_this_machine_may_send_events_and_nothing_else(plain: Api) -> None:
    headers = {"origin": NEIGHBOUR, "sec-fetch-site": "same-site"}
    preflight = await plain.http.options(
        "/e/key",
        headers={**headers, "access-control-request-method": "POST", "access-control-request-headers": "content-type"},
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == NEIGHBOUR
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-allow-headers"] == "content-type"
    sent = await plain.http.post("/e/key", json={"name": "a/b"}, headers=headers)
    assert sent.status_code == 200
    assert sent.headers["access-control-allow-origin"] == NEIGHBOUR
    for method in METHODS:
        assert (await plain.http.request(method, "/api/runs", headers=headers)).status_code == 403
    assert (await plain.http.get("/e/key", headers=headers)).status_code == 403


async def test_pages_of_an_origin_that_a_setting_names_may_do_everything(start: Start) -> None:
    api = await start(allowed_origins=("http://localhost:3000/", "https://my.example"))
    for origin in (NEIGHBOUR, "https://my.example"):
        headers = {"origin": origin, "sec-fetch-site": "cross-site"}
        read = await api.http.get("/api/runs", headers=headers)
        assert (read.status_code, read.headers["access-control-allow-origin"]) == (200, origin)
    assert (await api.http.get("/api/runs", headers={"origin": "http://localhost:3001"})).status_code == 403


async def test_our_own_pages_and_links_to_them_come_in(plain: Api) -> None:
    own = f"http://127.0.0.1:{plain.server.port}"
    assert (await plain.http.get("/api/runs", headers={"origin": own})).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-user": "?1"}
    assert (await plain.http.get("/health", headers=link)).status_code == 200
    assert (await plain.http.post("/e/key", json={"name": "a"}, headers=link)).status_code == 403


PATHS = ["/health", "/e/key", "/dev", "/api/runs", "/nowhere"]


async def test_s11_an_unknown_host_is_refused(plain: Api, subtests: pytest.Subtests) -> None:
    for path in PATHS:
        with subtests.test(path=path):
            for host in (
                "evil.example",
                f"evil.example:{plain.server.port}",
                "127.0.0.1.evil.example",
                "localhost.evil",
                "",
            ):
                response = await plain.http.get(path, headers={"host": host})
                assert response.status_code == 403, host
            for host in ("localhost", "LOCALHOST:1234", "[::1]:8288", "127.0.0.1", "app.localhost:80"):
                assert (await plain.http.get("/health", headers={"host": host})).status_code == 200, host


async def test_configured_names_are_known_hosts(start: Start) -> None:
    api = await start(allowed_hosts=("host.docker.internal",))
    assert (await api.http.get("/health", headers={"host": "host.docker.internal:8288"})).status_code == 200


async def test_s12_a_foreign_page_gets_no_websocket_and_no_stream(plain: Api) -> None:
    url = f"ws://127.0.0.1:{plain.server.port}/worker"
    for headers in ({"Origin": FOREIGN}, {"Origin": NEIGHBOUR}, {"Host": "evil.example"}):
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            async with websockets.connect(url, additional_headers=headers, proxy=None):
                pass
        assert refused.value.response.status_code == 403
    run = "01JQDAE4RQF8MBCR55T5AK4KXS"
    assert (await plain.http.get(f"/api/runs/{run}/follow", headers={"origin": FOREIGN})).status_code == 403


async def test_both_loopbacks_answer(plain: Api) -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with contextlib.closing(socket.socket(family)) as client:
            client.settimeout(2)
            try:
                client.connect((address, plain.server.port))
            except OSError as err:
                if family is socket.AF_INET6 and err.errno in (97, 99):
                    pytest.skip("no IPv6 on this machine")
                raise


async def test_with_a_key_any_page_may_ask_and_the_key_decides(start: Start) -> None:
    api = await start(signing_key="ab" * 16)
    response = await api.http.get("/api/runs", headers={"origin": FOREIGN, "host": "stepwell.example"})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("bound", "host", "known"),
    [
        ("127.0.0.1", "10.0.0.5:8288", False),
        ("10.0.0.5", "10.0.0.5:8288", True),
        ("0.0.0.0", "10.0.0.5:8288", True),
        ("::", "[fd00::5]:8288", True),
        ("0.0.0.0", "evil.example", False),
        ("127.0.0.1", "user@evil.example", False),
        ("127.0.0.1", "localhost.", True),
    ],
)
def test_which_host_is_known_depends_on_the_bound_address(bound: str, host: str, known: bool) -> None:
    headers: dict[bytes, Any] = {b"host": host.encode()}
    assert (Gate(bound=bound).check("GET", "/health", headers) is None) is known


async def test_the_address_that_the_server_prints_leads_to_the_status_page(plain: Api) -> None:
    answer = await plain.http.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/status")
    page = await plain.http.get(answer.headers["location"], headers={"accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
