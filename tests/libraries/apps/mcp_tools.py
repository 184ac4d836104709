"""A client of MCP over HTTP, with the protocol as it is now and as it was, with sessions and events."""

from __future__ import annotations

import asyncio
import os

from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from stepwell import http

URL = f"{os.environ['TOOLS']}/mcp"

web = http.async_client(headers={"Authorization": f"Bearer {os.environ['KEY']}"})


async def asked(prompt: str) -> str:
    async with Client(streamable_http_client(URL, http_client=web)) as client:
        return str((await client.call_tool("say", {"prompt": prompt})).content[0].text)


async def streamed(prompt: str) -> str:
    async with Client(streamable_http_client(URL, http_client=web), mode="legacy") as client:
        said: list[str | None] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            said.append(message)

        answer = await client.call_tool("say", {"prompt": prompt}, progress_callback=progress)
        assert said == [prompt]
        return str(answer.content[0].text)


def asked_now(prompt: str) -> str:
    return asyncio.run(asked(prompt))
