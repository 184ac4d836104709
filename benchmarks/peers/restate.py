"""Restate: one node of its server, and a worker on one of its SDKs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.client import Client
from benchmarks.processes import Child, free_port
from benchmarks.targets import Target
from benchmarks.workloads import SENDERS

APPS = Path(__file__).parent / "apps"


class Restate(Target):
    """With the settings that its server has by itself; it syncs its log before it acknowledges.

    Args:
        server: Its program.
        worker: How its functions are started, less port and marks.
    """

    def __init__(
        self, name: str, title: str, server: Path, worker: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        super().__init__(name, title, http=True, durable="RocksDB's log, synced before it acknowledges (its default)")
        self._program = server
        self._worker = worker
        self._environment = environment
        self._ingress, self._admin, self._node = free_port(), free_port(), free_port()
        self._clients = [Client(self._ingress) for _ in range(SENDERS)]

    async def start_server(self) -> float:
        begin = time.monotonic()
        command = [str(self._program), "--no-logo", "--listen-mode", "tcp", "--base-dir", str(self.folder / "data")]
        command += ["--bind-ip", "127.0.0.1", "--bind-port", str(self._node)]
        ports = {"RESTATE_INGRESS__BIND_PORT": str(self._ingress), "RESTATE_ADMIN__BIND_PORT": str(self._admin)}
        quiet = {"RESTATE_DISABLE_TELEMETRY": "true", "RESTATE_LOG_FILTER": "error", "DO_NOT_TRACK": "1"}
        environment = {**ports, **quiet, "RESTATE_NODE_NAME": "bench"}
        self.servers = [Child("Restate's server", command, self.folder / "server.log", environment)]
        await self.answers(self.servers[0], self._admin, "GET", "/health")
        await self.answers(self.servers[0], self._ingress, "GET", "/restate/health")
        return time.monotonic() - begin

    async def start_worker(self) -> None:
        port = free_port()
        environment = {**self._environment, **self.environment(), "PORT": str(port)}
        child = Child("Restate's worker", self._worker, self.folder / "worker.log", environment)
        self.workers = [child]
        body = json.dumps({"uri": f"http://127.0.0.1:{port}", "force": True}).encode()
        await self.answers(child, self._admin, "POST", "/deployments", body)

    async def trigger(self, kind: str, datas: Sequence[Mapping[str, object]]) -> None:
        """A request for each run, for there are none for several; over as many connections as our single events."""
        left = iter(datas)

        async def sender(client: Client) -> None:
            for data in left:
                status, answer = await client.request("POST", f"/bench/{kind}/send", json.dumps(data).encode())
                if status >= 300:
                    raise RuntimeError(f"a run was answered with {status}: {answer[:300]!r}")

        await asyncio.gather(*[sender(client) for client in self._clients[: len(datas)]])

    def crash(self) -> None:
        for child in self.servers:
            child.kill()

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        super().stop()


def python_worker(interpreter: Path) -> list[str]:
    return [str(interpreter), "-m", "benchmarks.peers.apps.restate"]


def typescript_worker() -> list[str]:
    return ["node", str(APPS / "restate.cjs")]
