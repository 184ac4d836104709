"""A server in production calls services at public addresses, on this machine, and where its operator said (S20).

0.0.0.0 leads to this machine too, and is refused as long as nobody names it: it stands for the inside of a network.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import aiohttp
import pytest

from stepwell.gateway.gateway import GatewaySettings
from stepwell.model.errors import ConfigurationError
from stepwell.server import ServerSettings
from stepwell.wire.signature import bearer_hash
from tests.api.api import Api, until
from tests.api.conftest import Place, Start
from tests.api.scripted import Scripted, returned, scripted

KEY = "signkey-prod-" + "0123456789abcdef" * 2
KEYS: dict[str, Any] = {"dev": False, "signing_key": KEY, "event_keys": ("any-key-",)}
BEARER = {"authorization": f"Bearer {bearer_hash(KEY)}"}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """`shop.internal` is an address inside of the network."""
    original = aiohttp.ThreadedResolver.resolve

    async def resolve(self: aiohttp.ThreadedResolver, host: str, *more: Any) -> Any:
        found = await original(self, "0.0.0.0" if host == "shop.internal" else host, *more)
        return [{**one, "hostname": host} for one in found]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)


@pytest.fixture
async def shop(stack: AsyncExitStack) -> Scripted:
    """A service inside of the network, which has not registered."""
    service = await stack.enter_async_context(scripted("shop", ""))
    service.url = service.url.replace("127.0.0.1", "shop.internal")
    service.answers["f"] = lambda call: returned("shipped")
    return service


def place_of(service: Scripted) -> str:
    return service.url.removeprefix("http://").partition("/")[0]


async def production(start: Start, shop: Scripted, **settings: Any) -> Api:
    api = await start(**KEYS, **settings)
    api.http.headers.update(BEARER)
    shop.server_url = api.server.url
    shop.on_put = None
    return api


async def run(api: Api) -> dict[str, Any]:
    response = await api.http.post("/e/any-key-", json={"name": "shop/f", "data": {}})
    assert response.status_code == 200, response.text
    return await api.finished(response.json()["ids"][0])


async def services(api: Api) -> dict[str, Any]:
    return {one["name"]: one for one in (await api.get("/api/services"))["services"]}


async def test_s20_a_service_inside_of_the_network_cannot_register(start: Start, shop: Scripted) -> None:
    api = await production(start, shop)
    response = await shop.register(**BEARER)
    assert response.status_code == 400
    assert response.json() == {
        "error": "`url` cannot be called: shop.internal is 0.0.0.0, which is not a public address (this network); "
        f"whoever runs the server can allow it: --allow-address {place_of(shop)}",
        "status": 400,
        "code": "address_refused",
    }
    assert await services(api) == {}


async def test_s20_nor_one_whose_functions_are_there(start: Start, shop: Scripted) -> None:
    api = await production(start, shop)
    body = shop.payload()
    body["url"] = shop.url.replace("shop.internal", "localhost")
    response = await api.http.post("/fn/register", json=body)
    assert (response.status_code, response.json()["code"]) == (400, "address_refused")


async def test_s20_a_server_in_development_and_a_service_on_this_machine_are_free(start: Start, shop: Scripted) -> None:
    dev = await start()
    shop.server_url = dev.server.url
    assert (await shop.register()).status_code == 200
    assert (await dev.finished(await dev.send("shop/f")))["output"] == "shipped"
    api = await production(start, shop)
    shop.url = shop.url.replace("shop.internal", "localhost")
    assert (await shop.register(**BEARER)).status_code == 200
    assert (await run(api))["output"] == "shipped"


async def test_s20_what_the_operator_allows_registers_and_runs(start: Start, shop: Scripted) -> None:
    api = await production(start, shop, gateway=GatewaySettings(allow_addresses=(place_of(shop),)))
    assert (await shop.register(**BEARER)).status_code == 200
    assert (await run(api))["output"] == "shipped"


async def test_s20_the_operators_own_services_are_allowed_by_being_named(
    start: Start, shop: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.on_put = lambda: (503, {}, {})  # until it knows the server
    api = await production(start, shop, service_urls=(shop.url,), poll_interval_s=0.1)
    monkeypatch.setattr(shop, "register", partial(shop.register, **BEARER))

    async def known() -> bool | None:
        return "shop" in await services(api) or None

    await until(known)
    assert (await run(api))["output"] == "shipped"


async def test_s20_a_service_that_is_no_longer_allowed_is_not_called_and_says_so(
    start: Start, shop: Scripted, kept: Place, caplog: pytest.LogCaptureFixture
) -> None:
    before = await production(start, shop, data=kept, gateway=GatewaySettings(allow_addresses=(place_of(shop),)))
    assert (await shop.register(**BEARER)).status_code == 200
    assert (await run(before))["output"] == "shipped"
    await before.stop()
    calls, asked = len(shop.calls), shop.asked
    caplog.set_level(logging.WARNING)
    api = await production(start, shop, data=kept, poll=True, poll_interval_s=0.1)
    async with asyncio.timeout(5):
        ended = await run(api)

    async def told() -> str | None:
        found: str | None = (await services(api))["shop"]["error"]
        return found

    assert (await until(told)).startswith("address_refused: shop.internal is 0.0.0.0")
    assert ended["status"] == "Failed"
    trace = await api.get(f"/api/runs/{ended['run_id']}")
    assert f"--allow-address {place_of(shop)}" in str(trace)
    assert (len(shop.calls), shop.asked) == (calls, asked)
    assert len([one for one in caplog.records if "cannot be asked: address_refused" in one.getMessage()]) == 1


def test_a_place_of_a_service_that_cannot_be_read_is_refused_at_start() -> None:
    url = "http://" + "ü" * 70 + ".example/x"
    with pytest.raises(ConfigurationError, match="--service-url"):
        ServerSettings(**KEYS, service_urls=(url,)).check()
