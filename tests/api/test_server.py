"""Starting and stopping: what is refused, what is told, and that nothing acknowledged is lost on the way."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from stepwell.model.errors import ConfigurationError
from stepwell.server import Server, ServerSettings
from stepwell.server.listening import listen
from stepwell.server.logs import Hide, JsonLines, Lines
from tests.api.api import Api, until
from tests.api.conftest import Place, Start
from tests.api.scripted import returned, scripted

KEY = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"host": "0.0.0.0"}, "--unsafe-no-auth"),
        ({"host": "10.1.2.3"}, "can be reached from other machines"),
        ({"dev": False}, "a signing key is needed"),
        ({"dev": False, "signing_key": KEY}, "an event key is needed"),
        ({"dev": False, "signing_key": KEY, "event_keys": ("short",)}, "fewer than 8 letters"),
        ({"signing_key": "not hex"}, "--signing-key"),
        ({"signing_key": "abcd"}, "could be guessed"),
        ({"signing_key_fallback": KEY}, "no signing key"),
        ({"event_keys": (" ",)}, "an event key is empty"),
        ({"port": 70000}, "--port"),
        ({"service_urls": ("not a url",)}, "--service-url"),
        ({"poll_interval_s": 0}, "poll interval"),
        ({"retry_interval_ms": -1}, "--retry-interval"),
    ],
)
async def test_s13_settings_that_cannot_work_are_refused(settings: dict[str, Any], error: str) -> None:
    server = Server(ServerSettings(data=None, **{"port": 0, **settings}))
    with pytest.raises(ConfigurationError) as refused:
        await server.start()
    assert error in str(refused.value)
    assert KEY not in str(refused.value)


async def test_s13_beyond_loopback_is_possible_on_purpose(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    api = await start(host="0.0.0.0", unsafe_no_auth=True)
    assert (await api.http.get("/health")).status_code == 200
    assert "asks for no key" in caplog.text


async def test_a_port_in_use_is_named_with_its_flag(plain: Api) -> None:
    second = Server(ServerSettings(data=None, port=plain.server.port))
    with pytest.raises(ConfigurationError, match=f"port {plain.server.port} .* --port"):
        await second.start()


def test_a_port_in_use_on_the_other_loopback_counts_too() -> None:
    first = listen("127.0.0.1", 0)
    port = first[0].getsockname()[1]
    if len(first) == 1:
        pytest.skip("no IPv6 on this machine")
    first[0].close()
    with pytest.raises(ConfigurationError, match="::1"):
        listen("localhost", port)
    first[1].close()


async def test_two_servers_on_one_data_folder_are_refused(start: Start, tmp_path: Path) -> None:
    await start(data=tmp_path)
    with pytest.raises(ConfigurationError, match="another server"):
        await start(data=tmp_path)
    with pytest.raises(ConfigurationError, match="another server"):
        await start(data=tmp_path, fresh=True)


async def test_fresh_forgets_what_the_folder_holds_and_nothing_else(start: Start, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    first = await start(data=tmp_path)
    await first.send("a/b", {"text": "x" * 1_000_000})
    await first.server.stop()
    kept = await start(data=tmp_path)
    assert len((await kept.get("/v1/events"))["data"]) == 1
    await kept.server.stop()
    empty = await start(data=tmp_path, fresh=True)
    assert (await empty.get("/v1/events"))["data"] == []
    assert (tmp_path / "notes.txt").read_text() == "mine"


async def test_an_answer_on_its_way_is_still_taken_when_the_server_stops(
    start: Start, stack: AsyncExitStack, tmp_path: Path
) -> None:
    first = await start(data=tmp_path, drain_s=5)
    shop = await stack.enter_async_context(scripted("shop", first.server.url))
    shop.answers["f"] = lambda call: returned("done")
    shop.hold = asyncio.Event()
    await shop.register()
    event = await first.send("shop/f")

    async def called() -> bool | None:
        return bool(shop.calls) or None

    await until(called)
    stopping = asyncio.create_task(first.server.stop())
    await asyncio.sleep(0.05)
    refused = await first.http.post("/e/key", json={"name": "a/b"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert (await first.http.get("/health")).status_code == 503
    shop.hold.set()
    await stopping
    second = await start(data=tmp_path)
    assert (await second.finished(event))["output"] == "done"
    assert len(shop.calls) == 1, "the answer was committed, so the call was not made again"


async def test_a_call_that_was_not_waited_for_is_made_again(start: Start, stack: AsyncExitStack, kept: Place) -> None:
    first = await start(data=kept, drain_s=0)
    shop = await stack.enter_async_context(scripted("shop", first.server.url))
    shop.answers["f"] = lambda call: returned("done")
    shop.hold = asyncio.Event()
    await shop.register()
    event = await first.send("shop/f")

    async def called() -> bool | None:
        return bool(shop.calls) or None

    await until(called)
    await first.stop()
    await first.stop()
    shop.hold.set()
    second = await start(data=kept)
    assert (await second.finished(event))["output"] == "done"


async def test_the_status_page_tells_the_durability_and_the_limits(api: Api, data: Place | None) -> None:
    status = await api.get("/api/status")
    durability = "synchronous_commit" if isinstance(data, str) else "synchronous=FULL"
    assert ("none" if data is None else durability) in status["store"]["durability"]
    assert status["limits"]["max_body_bytes"] == 16 * 1024 * 1024
    assert status["state"] == "ready"


async def test_sigterm_ends_the_process_in_order(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from stepwell.server import serve, ServerSettings; "
        f"serve(ServerSettings(port=0, data=Path({str(tmp_path)!r}), discovery=False, log_json=True))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stderr=asyncio.subprocess.PIPE)

    async def ready() -> bool | None:
        return (tmp_path / "stepwell.db").exists() or None

    await until(ready)
    await asyncio.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, errors = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0, errors.decode()
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [line["message"].partition(";")[0] for line in lines] == ["started", "stopping", "stopped"]
    assert all(line["node"] == "local" and line["logger"] == "stepwell.server" for line in lines)
    assert lines[0]["url"].startswith("http://localhost:")
    assert lines[2]["duration_ms"] >= 0


def test_a_log_line_as_json_is_one_object() -> None:
    record = logging.makeLogRecord(
        {"msg": "two\nlines %s", "args": ("\ud800",), "levelname": "INFO", "name": "stepwell"}
    )
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["level"] == "info"


def test_no_key_and_no_password_comes_through_the_log() -> None:
    hide = Hide(["5ec2e7" * 8, None, "event-key"])
    try:
        raise ValueError("refused: " + "5ec2e7" * 8)
    except ValueError:
        record = logging.makeLogRecord(
            {
                "msg": "POST /e/%s to http://me:hunter2@host/x, a@b: c@d",
                "args": ("event-key",),
                "levelname": "ERROR",
                "name": "stepwell",
                "url": "postgresql://stepwell:hunter2@host:5432/x",
                "exc_info": sys.exc_info(),
            }
        )
    for formatter in (JsonLines(hide), Lines(hide)):
        line = formatter.format(record)
        assert not [secret for secret in ("5ec2e7" * 8, "/event-key", "hunter2") if secret in line]
        assert "@host" in line
        assert "a@b: c@d" in line
