"""With keys: who may do what, route by route (S6, S8), and what the answers say."""

from __future__ import annotations

import logging

import httpx2
import pytest
import websockets

from stepwell.api.app import table
from stepwell.api.infsh.answers import ERRORS as INFSH
from stepwell.api.keys import Access, Keys
from stepwell.api.openai.answers import ERRORS as OPENAI
from stepwell.model.errors import Unauthorized
from stepwell.wire.signature import bearer_hash
from tests.api.api import Api
from tests.api.conftest import Start

KEY = "signkey-prod-" + "0123456789abcdef" * 2
OLD = "signkey-prod-" + "fedcba9876543210" * 2
EVENT_KEY = "an-event-key-of-ours"

OPEN = {("GET", "/health"), ("POST", "/e")}
"""What answers without a credential. `POST /e` says only that a key is needed."""


@pytest.fixture
async def closed(start: Start) -> Api:
    return await start(dev=False, signing_key=KEY, signing_key_fallback=OLD, event_keys=(EVENT_KEY,))


async def test_s8_nothing_is_open_by_accident(closed: Api) -> None:
    routes = table(closed.server.site)
    assert len(routes) > 30
    for route in routes:
        path = route.path.replace("{id}", "01JQDAE4RQF8MBCR55T5AK4KXS").replace("{name}", "a")
        path = path.replace("{slug:path}", "a").replace("{rest:path}", "/x")
        response = await closed.http.request(route.method, path)
        if route.access is Access.OPEN:
            assert (route.method, route.path) in OPEN
        elif route.access in (Access.DEVELOPMENT, Access.ADDRESS):
            assert response.status_code == 404, path
        else:
            assert response.status_code == 401, f"{route.method} {path}"
            body = response.json()
            if route.errors is INFSH:
                assert (body["detail"], body["error"]["code"]) == ("Authentication failed", "unauthorized")
            elif route.errors is OPENAI:
                assert (body["error"]["message"], body["error"]["code"]) == ("Authentication failed", "unauthorized")
            else:
                assert body == {"error": "Authentication failed", "status": 401, "code": "unauthorized"}
    assert (await closed.http.post("/e/x", json={"name": "a/b"})).status_code == 401


async def test_who_is_refused_is_in_the_log_once_and_without_the_key(
    closed: Api, caplog: pytest.LogCaptureFixture
) -> None:
    headers, url = {"authorization": "Bearer not-the-key"}, f"ws://127.0.0.1:{closed.server.port}/worker"
    for _ in range(3):
        await closed.http.get("/api/runs", headers=headers)
        await closed.http.post("/e/not-the-key", json={"name": "a/b"})
        with pytest.raises(websockets.exceptions.InvalidStatus):
            await websockets.connect(url, proxy=None, additional_headers=headers)
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("refused ")]
    assert told == [
        "refused GET /api/runs from 127.0.0.1: Authentication failed",
        "refused POST /e from 127.0.0.1: Event key not found",
        "refused a worker from 127.0.0.1: its signing key is missing or wrong",
    ]
    assert not any("not-the-key" in one.getMessage() for one in caplog.records if one.name.startswith("stepwell"))


ACCEPTED = [
    f"Bearer {bearer_hash(KEY)}",
    f"Bearer signkey-prod-{bearer_hash(KEY)}",
    f"bearer {bearer_hash(OLD)}",
    f"Bearer {KEY}",
]


async def test_every_form_of_the_credential_is_accepted(closed: Api, subtests: pytest.Subtests) -> None:
    for credential in ACCEPTED:
        with subtests.test(credential=credential):
            response = await closed.http.get("/v1/events", headers={"authorization": credential})
            assert response.status_code == 200
            assert response.headers["x-inngest-server-kind"] == "cloud"


NOT_ACCEPTED = ["", "Bearer", "Basic abc", f"Bearer {'0' * 64}", "Bearer \xff"]


async def test_every_other_credential_is_refused(closed: Api, subtests: pytest.Subtests) -> None:
    for credential in NOT_ACCEPTED:
        with subtests.test(credential=credential):
            headers = {b"authorization": credential.encode("latin-1")}
            assert (await closed.http.get("/v1/events", headers=headers)).status_code == 401


async def test_s6_event_keys(closed: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for key in ("wrong", "%00", EVENT_KEY + "x", EVENT_KEY[:-1], bearer_hash(KEY)):
            response = await closed.http.post(f"/e/{key}", json={"name": "a/b"})
            assert response.status_code == 401, key
            assert response.json()["error"] == "Event key not found"
        assert (await closed.http.post(f"/e/{EVENT_KEY}", json={"name": "a/b"})).status_code == 200
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpcore", "httpx"))]
    assert EVENT_KEY not in "".join(ours)
    assert EVENT_KEY not in repr(vars(closed.server.site.keys))


async def test_a_server_of_the_other_kind_is_refused_at_registration(closed: Api) -> None:
    headers = {"authorization": f"Bearer {bearer_hash(KEY)}", "x-inngest-expected-server-kind": "dev"}
    response = await closed.http.post("/fn/register", json={}, headers=headers)
    assert response.json()["error"] == "Expected server kind dev, got cloud"
    assert (await closed.http.get("/dev")).status_code == 404


async def test_a_worker_without_the_key_sees_no_frame(closed: Api) -> None:
    url = f"ws://127.0.0.1:{closed.server.port}/worker"
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        async with websockets.connect(url, proxy=None):
            pass
    assert refused.value.response.status_code == 403
    headers = {"Authorization": f"Bearer {bearer_hash(KEY)}"}
    async with websockets.connect(url, additional_headers=headers, proxy=None):
        pass


async def test_health_is_open_and_says_little(closed: Api) -> None:
    response: httpx2.Response = await closed.http.get("/health")
    assert response.json() == {"status": 200, "message": "OK", "state": "ready"}


def test_keys_are_needed_when_they_are_required_and_none_is_known() -> None:
    with pytest.raises(Unauthorized, match="not found"):
        Keys(events_required=True).check_event_key("anything")
    Keys().check_event_key("anything")
    with pytest.raises(Unauthorized, match="required"):
        Keys().check_event_key("")
