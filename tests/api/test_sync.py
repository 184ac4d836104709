"""Services that are found, asked and asked again, and what is said about those that do not register."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from stepwell.api.inngest.sync import ServiceSync, discovery_ports
from stepwell.workers.sync import SyncClient
from tests.api.api import Api, until
from tests.api.conftest import Start
from tests.api.scripted import SDK, Scripted, returned, scripted


async def services(api: Api) -> dict[str, Any]:
    return {one["name"]: one for one in (await api.get("/api/services"))["services"]}


async def test_a_named_service_is_registered_at_start(start: Start, stack: AsyncExitStack) -> None:
    shop = await stack.enter_async_context(scripted("shop", "unknown yet"))
    shop.answers["f"] = lambda call: returned(1)
    api = await start(service_urls=(shop.url,), poll_interval_s=0.1)
    shop.server_url = api.server.url

    async def look() -> bool | None:
        return "shop" in await services(api) or None

    await until(look)
    asked = shop.asked
    await asyncio.sleep(0.35)
    assert shop.asked == asked, "without polling a service that is well is left alone"


async def test_changed_code_is_noticed_by_polling(start: Start, stack: AsyncExitStack) -> None:
    api = await start(poll=True, poll_interval_s=0.1)
    shop = await stack.enter_async_context(scripted("shop", api.server.url))
    shop.answers["f"] = lambda call: returned(1)
    await shop.register()
    shop.answers["g"] = lambda call: returned(2)

    async def look() -> bool | None:
        return (await services(api))["shop"]["functions"] == ["shop-f", "shop-g"] or None

    await until(look)


async def test_a_service_that_is_gone_keeps_its_error_until_it_is_back(start: Start) -> None:
    api = await start(poll=True, poll_interval_s=0.1)
    async with scripted("shop", api.server.url) as shop:
        shop.answers["f"] = lambda call: returned(1)
        await shop.register()
        port = int(shop.url.split(":")[2].split("/")[0])

    async def gone() -> bool | None:
        return str((await services(api))["shop"]["error"]).startswith("unreachable: ") or None

    await until(gone)
    async with scripted("shop", api.server.url, port) as shop:
        shop.answers["f"] = lambda call: returned(1)

        async def back() -> bool | None:
            return (await services(api))["shop"]["error"] is None or None

        await until(back)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((401, SDK, {"message": "signature"}), "unauthorized"),
        ((403, SDK, {}), "forbidden"),
        ((404, {}, {}), "url_not_found"),
        ((200, {}, "a page"), "url_not_found"),
        ((500, SDK, {"message": "no"}), "internal_server_error"),
        ((400, SDK, {"code": "server_kind_mismatch", "message": "no"}), "server_kind_mismatch"),
        ((400, SDK, {"message": "no"}), "invalid_function"),
        ((200, SDK, {"message": "registered"}), "registered_elsewhere"),
    ],
)
async def test_why_a_service_did_not_register_is_shown_beside_its_url(
    start: Start, stack: AsyncExitStack, answer: Any, code: str
) -> None:
    shop = await stack.enter_async_context(scripted("shop", "nowhere"))
    shop.on_put = lambda: answer
    api = await start(service_urls=(shop.url,))

    async def look() -> Any:
        [target] = (await api.get("/api/services"))["urls"]
        return target["error"]

    assert (await until(look)).startswith(f"{code}: ")


async def test_what_was_refused_is_shown_beside_the_url_and_logged_once(
    start: Start, stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    api = await start()
    shop = await stack.enter_async_context(scripted("shop", api.server.url))
    shop.answers["f"] = lambda call: returned(1)
    shop.options["f"] = {"triggers": 5}
    shop.content = True
    client = SyncClient()
    stack.push_async_callback(client.close)
    asking = api.server.site.sync = ServiceSync(api.server.site, client, named=(shop.url,))
    for _ in range(3):
        await asking.round()
    [target] = asking.targets()
    assert str(target["error"]).startswith("invalid_function: ")
    assert "triggers" in str(target["error"])
    assert len([one for one in caplog.records if "was refused" in one.getMessage()]) == 1
    assert len([one for one in caplog.records if "has not registered" in one.getMessage()]) == 1
    shop.options["f"] = {}
    await asking.round()
    assert list(await services(api)) == ["shop"]
    assert asking.targets() == []


async def test_a_service_nobody_named_is_found(start: Start, stack: AsyncExitStack) -> None:
    api = await start()
    shop = await stack.enter_async_context(scripted("shop", api.server.url))
    shop.answers["f"] = lambda call: returned(1)
    port = int(shop.url.split(":")[2].split("/")[0])
    client = SyncClient()
    stack.push_async_callback(client.close)
    looking = ServiceSync(api.server.site, client, ports=(1, api.server.port, port), own_ports=(api.server.port,))
    api.server.site.sync = looking
    await looking.round()
    assert list(await services(api)) == ["shop"]
    asked = shop.asked
    await looking.round()
    assert shop.asked == asked + 1, "polled, and not looked for again"
    assert 3000 in discovery_ports()


async def test_a_service_that_registers_with_one_of_two_servers_is_known_to_the_other(
    postgres_url: str, start: Start, stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    """Both ask it again and again, and each time it registers with the one that it is configured for."""
    here = await start(data=postgres_url, poll=True, poll_interval_s=0.1)
    shop = await stack.enter_async_context(scripted("shop", here.server.url))
    shop.answers["f"] = lambda call: returned(1)
    there = await start(data=postgres_url, poll=True, poll_interval_s=0.1, service_urls=(shop.url,))

    async def asked_often() -> bool | None:
        return shop.asked >= 20 or None

    await until(asked_often)
    for api in (here, there):
        assert (await api.get("/api/services"))["urls"] == []
        assert [one["error"] for one in (await services(api)).values()] == [None]
    assert "registered_elsewhere" not in caplog.text


async def test_a_remembered_service_that_is_gone_does_not_end_the_search(
    start: Start, stack: AsyncExitStack, tmp_path: Path
) -> None:
    first = await start(data=tmp_path)
    async with scripted("old", first.server.url) as old:
        old.answers["f"] = lambda call: returned(1)
        await old.register()
    await first.server.stop()

    api = await start(data=tmp_path)
    shop = await stack.enter_async_context(scripted("shop", api.server.url))
    shop.answers["f"] = lambda call: returned(1)
    client = SyncClient()
    stack.push_async_callback(client.close)
    looking = api.server.site.sync = ServiceSync(
        api.server.site, client, ports=(int(shop.url.split(":")[2].split("/")[0]),)
    )
    await looking.round()
    assert list(await services(api)) == ["old", "shop"]


async def test_graphql_can_add_a_service_by_its_url(start: Start, stack: AsyncExitStack) -> None:
    api = await start()
    shop = await stack.enter_async_context(scripted("shop", api.server.url))
    shop.answers["f"] = lambda call: returned(1)
    query = "mutation($url: String!) { createApp(input: {url: $url}) { name url } }"
    response = await api.http.post("/v0/gql", json={"query": query, "variables": {"url": shop.url}})
    if "errors" in response.json():
        pytest.skip(f"not there yet: {response.text}")
    assert list(await services(api)) == ["shop"]


@pytest.mark.slow
async def test_an_official_python_service_is_found_and_runs(start: Start, tmp_path: Path, free_port: int) -> None:
    api = await start()
    environment = {
        **os.environ,
        "PORT": str(free_port),
        "LEDGER": str(tmp_path / "ledger"),
        "INNGEST_DEV": api.server.url,
        "INNGEST_BASE_URL": api.server.url,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.official.python.services.fastapi_app", env=environment
    )
    client = SyncClient()
    try:
        looking = ServiceSync(api.server.site, client, ports=(free_port,))
        api.server.site.sync = looking

        async def look() -> bool | None:
            await looking.round()
            return "fastapi" in await services(api) or None

        await until(look, 30)
        run = await api.finished(await api.send("fastapi/linear", {"echo": "hello"}))
        assert run["output"] == {"echo": "hello", "sum": 6}
    finally:
        process.terminate()
        await process.wait()
        await client.close()


@pytest.fixture
def free_port() -> int:
    from tests.official.harness import free_port

    return free_port()


def test_scripted_services_write_what_inngest_py_writes() -> None:
    service = Scripted("shop", "")
    service.answers["f"] = lambda call: returned(1)
    assert {"appname", "url", "functions", "sdk"} <= service.payload().keys()
