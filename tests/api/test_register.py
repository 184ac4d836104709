"""`/fn/register`, `/fn/remove`, `/dev`: how services announce themselves, and what SDKs expect of the answers."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.api.api import Api
from tests.api.conftest import Place, Start
from tests.api.scripted import Scripted, config, returned, scripted

URL = "http://127.0.0.1:3999/api/inngest"


def body(*functions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"appName": "shop", "url": URL, "sdk": "js:v4.18.1", "functions": list(functions), **more}


async def test_trap_1_names_are_read_in_any_case(api: Api) -> None:
    """inngest-py sends `appname`, the others `appName`."""
    for name in ("appname", "appName", "APPNAME"):
        sent = {name: f"app-{name}", "url": URL, "functions": [config(f"app-{name}", "f", URL)]}
        response = await api.http.post("/fn/register", json=sent)
        assert response.status_code == 200, response.text
    assert {one["name"] for one in (await api.get("/api/services"))["services"]} == {
        "app-appname",
        "app-appName",
        "app-APPNAME",
    }


async def test_trap_2_the_answer_passes_the_js_schema(api: Api) -> None:
    answer = (await api.http.post("/fn/register?deployId=7", json=body(config("shop", "f", URL)))).json()
    assert answer["status"] == 200
    assert answer["ok"] is True
    assert isinstance(answer["modified"], bool)
    assert "error" not in answer
    assert {"sync_id", "app_id"} <= answer.keys()


async def test_trap_3_the_same_content_again_modifies_nothing(api: Api) -> None:
    sent = body(config("shop", "f", URL), featureObservations={"n": 1})
    assert (await api.http.post("/fn/register", json=sent)).json()["modified"] is True
    assert (await api.http.post("/fn/register", json={**sent, "featureObservations": {"n": 2}})).json()[
        "modified"
    ] is False
    changed = body(config("shop", "f", URL), config("shop", "g", URL))
    assert (await api.http.post("/fn/register", json=changed)).json()["modified"] is True
    [first, _] = (await api.get("/api/functions"))["functions"]
    assert (first["slug"], first["version"]) == ("shop-f", 1)


async def test_trap_4_zero_retries_are_one_attempt(api: Api, shop: Scripted) -> None:
    shop.answers["once"] = lambda call: (500, {"x-inngest-sdk": "inngest-py:v0.5.18"}, {"name": "E", "message": "no"})
    steps = config("shop", "once", shop.url)["steps"]
    steps["step"]["retries"]["attempts"] = 0
    shop.options["once"] = {"steps": steps}
    assert (await shop.register()).status_code == 200
    assert (await api.finished(await api.send("shop/once")))["status"] == "Failed"
    assert len(shop.calls) == 1


async def test_an_unknown_field_is_shown_with_its_service(api: Api) -> None:
    response = await api.http.post("/fn/register", json=body(config("shop", "f", URL), brandNew=1))
    assert response.status_code == 200
    [service] = (await api.get("/api/services"))["services"]
    assert service["warnings"] == ["unknown field 'brandNew' has no effect"]
    [function] = (await api.get("/api/functions"))["functions"]
    assert function["warnings"] == []


async def test_trap_6_unknown_options_are_accepted(plain: Api) -> None:
    response = await plain.http.post("/fn/register", json=body(config("shop", "f", URL, brandNew={"a": 1})))
    assert response.status_code == 200
    [function] = (await plain.get("/api/functions"))["functions"]
    assert any("brandNew" in text for text in function["warnings"])


async def test_a_function_that_is_gone_starts_no_more_runs(api: Api, shop: Scripted) -> None:
    shop.answers = {"old": lambda call: returned(1), "new": lambda call: returned(2)}
    await shop.register()
    del shop.answers["old"]
    await shop.register()
    assert [one["slug"] for one in (await api.get("/dev"))["functions"]] == ["shop-new"]
    event = await api.send("shop/old")
    await api.finished(await api.send("shop/new"))
    assert (await api.get(f"/v1/events/{event}/runs"))["data"] == []


REFUSED = [
    (b"{", {}, "Invalid request"),
    (b"[]", {}, "Invalid request"),
    (b"\xff", {}, "Invalid request"),
    (b'{"url": "http://localhost:1/x"}', {}, "App ID required"),
    (b'{"appName": "a"}', {}, "`url` is missing"),
    (b'{"appName": "a", "url": "ftp://x"}', {}, "cannot be called"),
    (b'{"appName": "a", "url": "http://x/", "functions": [{}]}', {}, "At least one function is invalid"),
    (b'{"appName": "a", "url": "http://x/", "sdk": "js:v3.30.0"}', {}, "security defect"),
    (b"{}", {"x-inngest-expected-server-kind": "cloud"}, "Expected server kind cloud, got dev"),
]


async def test_a_refused_registration_says_why_and_its_status(plain: Api, subtests: pytest.Subtests) -> None:
    for sent, headers, error in REFUSED:
        with subtests.test(sent=sent):
            response = await plain.http.post("/fn/register", content=sent, headers=headers)
            assert response.status_code == 400
            assert response.json()["status"] == 400, "without it JS reports success (trap 2)"
            assert error in response.json()["error"]


async def test_an_option_that_would_silently_not_work_is_refused_by_name(plain: Api) -> None:
    response = await plain.http.post("/fn/register", json=body(config("shop", "f", URL, singleton={"mode": "skip"})))
    if response.status_code == 200:
        pytest.skip("this server has singleton by now")
    assert "singleton" in response.json()["error"]
    assert response.json()["data"][0]["function"] == "shop-f"


async def test_services_are_remembered_over_a_restart(start: Start, stack: AsyncExitStack, kept: Place) -> None:
    first = await start(data=kept)
    shop = await stack.enter_async_context(scripted("shop", first.server.url))
    shop.answers["f"] = lambda call: returned("hello")
    await shop.register()
    await first.stop()

    second = await start(data=kept)
    assert [one["name"] for one in (await second.get("/api/services"))["services"]] == ["shop"]
    assert (await second.finished(await second.send("shop/f")))["output"] == "hello"


async def test_a_removed_service_is_gone(api: Api, shop: Scripted) -> None:
    shop.answers["f"] = lambda call: returned(1)
    await shop.register()
    response = await api.http.delete("/fn/remove", params={"url": shop.url})
    assert response.json()["removed"] == ["shop"]
    assert (await api.get("/dev"))["functions"] == []
    assert (await api.http.delete("/fn/remove", params={"url": shop.url})).status_code == 404
    assert (await api.http.delete("/fn/remove")).status_code == 400


async def test_trap_52_dev_shows_functions_in_the_shape_that_js_tests_parse(api: Api) -> None:
    slug = "shop-größe ☂"
    function = {**config("shop", "f", URL), "id": slug, "name": "Find the size"}
    assert (await api.http.post("/fn/register", json=body(function))).status_code == 200
    info = await api.get("/dev")
    assert info["functions"] == [
        {
            "name": "Find the size",
            "id": slug,
            "slug": slug,
            "url": "http://localhost:3999/api/inngest",
            "triggers": [{"event": "shop/f"}],
            "steps": [
                {
                    "id": "step",
                    "name": "step",
                    "uri": "http://localhost:3999/api/inngest?fnId=shop-gr%C3%B6%C3%9Fe%20%E2%98%82&stepId=step",
                }
            ],
        }
    ]
    assert info["handlers"][0]["sdk"]["app"] == "shop"
    assert {"version", "authed", "startOpts", "isSingleNodeService", "features"} <= info.keys()


async def test_trap_53_and_55_probes_and_bare_arrays(api: Api) -> None:
    probe = await api.http.post("/v0/connect/start")
    assert (probe.status_code, probe.headers["content-type"]) == (200, "application/octet-stream")
    worker = await api.http.post("/v0/connect/start", headers={"content-type": "application/protobuf"})
    assert worker.status_code == 501
    assert "Connect" in worker.json()["error"]
    await api.http.post("/fn/register", json=body(config("shop", "f", URL)))
    functions = await api.get("/v1/apps/shop/functions")
    assert isinstance(functions, list)
    assert functions[0]["slug"] == "shop-f"
    assert functions[0]["config"]["triggers"] == [{"event": "shop/f"}]
    assert (await api.http.get("/v1/apps/nobody/functions")).status_code == 404


async def test_what_is_not_there_yet_says_so_by_name(plain: Api) -> None:
    for method, path, word in (
        ("POST", "/v1/signals", "signals"),
        ("GET", "/v2/runs", "v2"),
        ("POST", "/v1/realtime/publish", "realtime"),
        ("POST", "/v1/checkpoint", "durable endpoints"),
        ("POST", "/v1/checkpoint/01JQDAE4RQF8MBCR55T5AK4KXS/steps", "durable endpoints"),
        ("GET", "/v1/http/runs/01JQDAE4RQF8MBCR55T5AK4KXS/output", "durable endpoints"),
    ):
        response = await plain.http.request(method, path, json={})
        assert response.status_code == 501
        assert word in response.json()["error"]
    for path in ("/nowhere", "/v1/nowhere"):
        response = await plain.http.get(path)
        assert (response.status_code, response.json()["status"]) == (404, 404)
    response = await plain.http.put("/fn/register")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json() == {
        "error": "/fn/register does not take PUT; it takes POST",
        "status": 405,
        "code": "method_not_allowed",
    }
    response = await plain.http.post("/api/status")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert (await plain.http.post("/v0/telemetry", content=b"...")).status_code == 202


async def test_graphql_answers_two_hundred_even_to_nonsense(plain: Api) -> None:
    response = await plain.http.post("/v0/gql", json={"query": "{ functions { slug } }"})
    assert response.json() == {"data": {"functions": []}}
    for sent in (b"{", b"[]", json.dumps({"query": "{"}).encode()):
        response = await plain.http.post("/v0/gql", content=sent)
        assert response.status_code == 200
        assert response.json()["errors"][0]["message"]
