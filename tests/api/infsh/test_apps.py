"""Apps over HTTP: looked up by id and by name, listed, changed; and what this surface does not offer."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.api.app import table
from stepwell.api.infsh.answers import ERRORS
from stepwell.api.keys import Access
from tests.api.api import Api
from tests.api.conftest import Start

SIGNING_KEY = "5a" * 32


async def test_an_app_is_found_by_name_and_by_id(api: Api) -> None:
    app = (await api.get("/apps/acme/stitch"))["data"]
    assert (app["namespace"], app["name"], app["description"]) == ("acme", "stitch", "Stitches images")
    assert app["version"]["short_id"] == "k3f9"
    assert (await api.get(f"/apps/{app['id']}"))["data"] == app
    assert (await api.get(f"/v1/apps/{app['id']}"))["data"] == app
    old = (await api.get("/apps/acme/stitch@old1:more"))["data"]
    assert (old["version"]["short_id"], old["resolved_function"]) == ("old1", "more")
    missing = await api.http.get("/apps/acme/nope")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert "stepwell app deploy" in missing.json()["detail"]


async def test_apps_are_listed(api: Api) -> None:
    async def names(**body: Any) -> list[str]:
        response = await api.http.post("/apps/list", json=body)
        assert response.status_code == 200, response.text
        return [one["name"] for one in response.json()["data"]["items"]]

    assert (await api.http.post("/apps/list")).json()["data"]["items"][0]["name"] == "secretive"
    assert await names() == ["secretive", "stitch"]
    assert await names(sort=[{"field": "name", "dir": "desc"}]) == ["stitch", "secretive"]
    assert await names(search={"term": "images"}) == ["stitch"]
    assert await names(filters=[{"field": "name", "operator": "eq", "value": "secretive"}]) == ["secretive"]
    assert await names(limit=1) == ["secretive"]


async def test_versions_are_listed_and_one_is_made_current(api: Api) -> None:
    app = (await api.get("/apps/acme/stitch"))["data"]
    versions = (await api.http.post(f"/apps/{app['id']}/versions/list")).json()["data"]["items"]
    assert [one["short_id"] for one in versions] == ["k3f9", "old1"]
    old = versions[1]
    assert (await api.get(f"/apps/{app['id']}/versions/{old['id']}"))["data"] == old
    changed = await api.http.put(f"/apps/{app['id']}/versions/{old['id']}/current")
    assert changed.json()["data"]["version_id"] == old["id"]
    assert (await api.get("/apps/acme/stitch"))["data"]["version_id"] == old["id"]


async def test_an_app_is_removed(api: Api) -> None:
    app = (await api.get("/apps/acme/stitch"))["data"]["id"]
    assert (await api.http.delete(f"/apps/{app}")).status_code == 200
    assert (await api.http.get(f"/apps/{app}")).status_code == 404
    assert (await api.http.post("/apps/run", json={"app": "acme/stitch"})).status_code == 404


async def test_of_secrets_names_are_told_and_nothing_is_taken(api: Api) -> None:
    for server in api.servers:
        server.site.app_secrets = frozenset({"KEY", "OTHER"})
    found = (await api.http.post("/secrets/list", json={"search": {"term": "ke"}})).json()["data"]["items"]
    assert [(one["key"], one["masked_value"]) for one in found] == [("KEY", "********")]
    for method, path in (("POST", "/secrets"), ("PUT", "/secrets/KEY"), ("GET", "/secrets/reveal/KEY")):
        refused = await api.http.request(method, path, json={"key": "A", "value": "B"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        assert "--app-secret" in refused.json()["detail"]


async def test_who_asks_is_told_who_they_are(api: Api) -> None:
    me = (await api.get("/me"))["data"]
    assert (me["scopes"], me["team"]["username"]) == (["*"], "local")


async def test_what_is_not_offered_is_an_empty_list_or_says_so(api: Api, subtests: pytest.Subtests) -> None:
    for prefix in ("", "/v1"):
        for area in ("flows", "engines", "skills", "apikeys", "mcp-servers", "chats"):
            path = f"/{area}/list"
            with subtests.test(path=prefix + path):
                page = (await api.http.post(prefix + path)).json()["data"]
                assert (page["items"], page["has_next"]) == ([], False)
        for method, path in (
            ("GET", "/flows/abc"),
            ("POST", "/flows"),
            ("POST", "/agents/run"),
            ("GET", "/chats/abc/stream"),
            ("DELETE", "/knowledge/a/b"),
            ("PUT", "/mcp-servers/x"),
            ("POST", "/search"),
            ("GET", "/teams/abc"),
            ("POST", "/apps/abc/transfer"),
            ("POST", "/apps"),
            ("POST", "/tasks/abc/visibility"),
        ):
            with subtests.test(method=method, path=prefix + path):
                response = await api.http.request(method, prefix + path)
                told = response.json()
                assert (response.status_code, told["error"]["code"], told["success"]) == (404, "not_found", False)
                assert "does not offer" in told["detail"]
        assert (await api.get(f"{prefix}/teams"))["data"] == []


async def test_paths_of_the_other_surface_below_v1_stay_its_own(api: Api) -> None:
    answer = await api.http.get("/v1/apps/stitch/functions")
    assert "success" not in answer.json()


async def test_a_method_that_a_path_does_not_take_is_refused_in_the_same_shape(api: Api) -> None:
    response = await api.http.get("/apps/run/x/y/z", headers={"accept": "application/problem+json"})
    assert response.headers["content-type"] == "application/problem+json"
    refused = await api.http.put("/me")
    assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
    assert refused.headers["allow"] == "GET, HEAD"


async def test_with_a_signing_key_every_route_asks_for_it(start: Start, subtests: pytest.Subtests) -> None:
    api = await start(dev=False, signing_key=SIGNING_KEY, event_keys=("event-key-1",))
    routes = [one for one in table(api.server.site) if one.errors is ERRORS]
    assert len(routes) > 100
    for route in routes:
        if route.access is Access.ADDRESS:
            continue  # what its address is signed with is the key
        path = route.path.replace("{rest:path}", "x").replace("{", "").replace("}", "")
        with subtests.test(method=route.method, path=path):
            response = await api.http.request(route.method, path)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")
    key = {"authorization": f"Bearer {SIGNING_KEY}"}
    assert (await api.http.get("/me", headers=key)).status_code == 200


async def test_in_development_any_key_is_as_good_as_none(api: Api) -> None:
    for headers in ({}, {"authorization": "Bearer inf_abc"}):
        assert (await api.http.get("/me", headers=headers)).status_code == 200


async def test_a_browser_may_use_a_server_that_has_a_key(start: Start) -> None:
    api = await start(dev=False, signing_key=SIGNING_KEY, event_keys=("event-key-1",))
    asked = {
        "origin": "https://my.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-client-source,x-inf-target-url",
    }
    preflight = await api.http.options("/apps/run", headers=asked)
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
    assert "DELETE" in preflight.headers["access-control-allow-methods"]
