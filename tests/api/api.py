"""What tests ask a running server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx2

from stepwell.server import Server
from tests.fleet import Balancer
from tests.postgres import free_port

T = TypeVar("T")


class Api:
    """A server; or several on one database, the next of which has each request.

    Attributes:
        first: The same of the first server alone, for what a server knows by itself.
    """

    def __init__(self, *servers: Server) -> None:
        self.server = servers[0]
        self.first = self if len(servers) == 1 else Api(servers[0])
        self.port = servers[0].port
        self.servers = servers
        limits = httpx2.Limits()
        self._balancer: Balancer | None = None
        if len(servers) > 1:
            self.port, limits = free_port(), httpx2.Limits(max_keepalive_connections=0)
            self._balancer = Balancer(self.port, [one.port for one in servers])
        self.http = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", timeout=10, trust_env=False, verify=False, limits=limits
        )

    async def stop(self) -> None:
        """Stop all of it, one after the other."""
        for server in self.servers:
            await server.stop()

    async def close(self) -> None:
        await self.http.aclose()
        if self.first is not self:
            await self.first.close()
        if self._balancer is not None:
            self._balancer.close()

    async def get(self, path: str, **query: Any) -> Any:
        response = await self.http.get(path, params=query)
        assert response.status_code == 200, f"GET {path}: {response.status_code} {response.text}"
        return response.json()

    async def send(self, name: str, data: dict[str, Any] | None = None, **more: Any) -> str:
        response = await self.http.post("/e/any-key", json={"name": name, "data": data or {}, **more})
        assert response.status_code == 200, response.text
        [event] = response.json()["ids"]
        return str(event)

    async def started(self, event: str) -> dict[str, Any]:
        """The run of an event, once it is there."""

        async def look() -> dict[str, Any] | None:
            runs = (await self.get(f"/v1/events/{event}/runs"))["data"]
            return runs[0] if runs else None

        return await until(look)

    async def ended(self, run: str) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            found: dict[str, Any] = (await self.get(f"/v1/runs/{run}"))["data"]
            return found if found["ended_at"] is not None else None

        return await until(look)

    async def finished(self, event: str) -> dict[str, Any]:
        return await self.ended((await self.started(event))["run_id"])

    async def waiting(self, run: str, step: str) -> None:
        """Wait until the run has come to a step that is not done."""

        async def look() -> bool | None:
            trace = (await self.get(f"/api/runs/{run}"))["trace"]
            return any(one["name"] == step and one["status"] == "WAITING" for one in trace["children"]) or None

        await until(look)

    async def follow(self, run: str, **query: Any) -> list[tuple[int, dict[str, Any]]]:
        """Everything a follower of the run is told, with its numbers, to the end of the stream."""
        found = []
        number = 0
        async with self.http.stream("GET", f"/api/runs/{run}/follow", params=query) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if line.startswith("id:"):
                    number = int(line[3:])
                elif line.startswith("data:"):
                    found.append((number, json.loads(line[5:])))
        return found


async def until(look: Callable[[], Awaitable[T | None]], seconds: float = 10) -> T:
    """Look again and again until there is an answer."""
    async with asyncio.timeout(seconds):
        while True:
            answer = await look()
            if answer is not None:
                return answer
            await asyncio.sleep(0.01)
