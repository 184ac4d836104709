"""Tasks: calls of an app in a process that the server keeps warm, durable before the call is made.

    task      one warm worker, asked by 1 client and by 32, each of which waits for its output      tasks/s, CPU;
              then a first output that is told at once, and a cancel         from the app's code to the client, and back
    fair      1,000 tasks of 20 apps, those of one after those of another,     who had how much at half time
              for 8 processes
    coldness  the app `embeddings` of the examples, in a new process and in a warm one

A task asked with `wait` is one request, and two commits are between it and its answer. The CPU of the server is that of
its process alone; that of the apps' processes is the worker's. To see what it is without a disk, name a folder in
memory: `python -m benchmarks --only websocket,task --folder /dev/shm`.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.client import Client
from benchmarks.processes import median, percentile
from benchmarks.targets import ROOT, Stepwell
from benchmarks.workloads import SENDERS, Figures, Size, Workload, spread

APP = Path(__file__).parent / "apps" / "task"
EMBEDDINGS = ROOT / "examples" / "apps" / "embeddings"
APPS = 20
QUEUED = 50
WORK_S = 0.02
WORKERS = 8
"""Of all apps together in `fair`, so that apps have to take turns."""
PATIENCE_S = 120.0


async def task(target: Stepwell, size: Size) -> Figures:
    await deploy(target, APP)

    async def call(client: Client) -> None:
        await run(client, "bench/task", {"n": 1})

    figures: Figures = {}
    for count in (1, SENDERS):
        found = await asked(target.port, call, count, size.seq_s / 2, target)
        figures |= {f"clients_{count}_{name}": value for name, value in found.items()}
    figures |= await _told(target, size.first)
    return figures | await _cancelled(target, size.first)


async def asked(port: int, call: Any, count: int, for_s: float, target: Any) -> Figures:
    """Calls of so many clients, each one after the other. `target` says what CPU its processes have had."""
    clients, times = [Client(port) for _ in range(count)], []
    for client in clients:
        await call(client)  # connects, and warms up
    own, all_of_them = target.servers[0].own_cpu_s(), target.server_cpu_s()
    begin = time.monotonic()

    async def one(client: Client) -> None:
        while (sent := time.monotonic()) < begin + for_s:
            await call(client)
            times.append(time.monotonic() - sent)

    try:
        await asyncio.gather(*[one(client) for client in clients])
        took = time.monotonic() - begin
    finally:
        for client in clients:
            client.close()
    server = target.servers[0].own_cpu_s() - own
    worker = target.server_cpu_s() - all_of_them - server
    cost = {"server_cpu_ms": server / len(times) * 1e3, "worker_cpu_ms": worker / len(times) * 1e3}
    return {"per_s": len(times) / took, **spread(times), **cost}


async def fair(make: Callable[[], Stepwell], folder: Path, size: Size) -> Figures:
    names = [f"bench/fair{number}" for number in range(APPS)]
    target = make()
    target.options = ("--app-workers", str(WORKERS))
    try:
        await target.start(folder)
        for name in names:
            await deploy(target, APP, "--as", name)
        return await _shared(target.port, names)
    finally:
        target.stop()


async def _shared(port: int, names: Sequence[str]) -> Figures:
    """Queue tasks faster than they can be made, those of one app after those of the other."""
    clients = [Client(port) for _ in range(SENDERS)]
    left = [name for name in names for _ in range(QUEUED)]
    left.reverse()
    asked: list[tuple[str, str]] = []
    begun = time.monotonic()

    async def sender(client: Client) -> None:
        while left:
            name = left.pop()
            asked.append((name, (await run(client, f"{name}:work", {"wait_s": WORK_S}, wait=False))["id"]))

    try:
        await asyncio.gather(*[sender(client) for client in clients])
        taken_s = time.monotonic() - begun
        outputs = [((await _ended(clients[0], task))["output"], name) for name, task in asked]
    finally:
        for client in clients:
            client.close()
    ended = sorted((output["at"] / 1e9 - begun, name) for output, name in outputs)
    half = [name for _, name in ended[: len(ended) // 2]]
    counts = [half.count(name) for name in names]
    firsts = [next(at for at, its in ended if its == name) for name in names]
    return {
        "accepted_per_s": len(asked) / taken_s,
        "ended_s": ended[-1][0],
        "jain_at_half": sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts)),
        "apps_begun_at_half": float(sum(count > 0 for count in counts)),
        "last_app_begins_s": max(firsts),
    }


async def coldness(target: Stepwell, size: Size) -> Figures:
    await deploy(target, EMBEDDINGS)
    given = json.loads((EMBEDDINGS / "input.json").read_text())
    client, cold, warm = Client(target.port), [], []
    try:
        for number in range(size.starts + 1):
            begun = time.monotonic()
            await run(client, "examples/embeddings", given, setup={"another": number})
            cold.append(time.monotonic() - begun)
            for _ in range(20):
                begun = time.monotonic()
                await run(client, "examples/embeddings", given, setup={"another": number})
                warm.append(time.monotonic() - begun)
    finally:
        client.close()
    return {"cold_s": median(cold), "warm_p50_ms": percentile(warm, 0.5) * 1e3}


async def _told(target: Stepwell, count: int) -> Figures:
    """From the yield of a first output to a client that follows the task."""
    times = []
    client = Client(target.port)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{target.port}", timeout=PATIENCE_S) as follower:
        for _ in range(count):
            begun = await run(client, "bench/task:tell", {"wait_s": 0.1}, wait=False)
            times.append((await _first_output(follower, begun["id"]))[1])
    client.close()
    return {"output_p50_ms": percentile(times, 0.5) * 1e3, "output_p95_ms": percentile(times, 0.95) * 1e3}


async def _cancelled(target: Stepwell, count: int) -> Figures:
    """From a client's cancel to the app's `on_cancel`."""
    times = []
    client = Client(target.port)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{target.port}", timeout=PATIENCE_S) as follower:
        for _ in range(count):
            begun = await run(client, "bench/task:hang", {}, wait=False)
            await _first_output(follower, begun["id"])
            sent = time.monotonic_ns()
            await client.request("POST", f"/tasks/{begun['id']}/cancel", b"{}")
            await _ended(client, begun["id"])
            said = json.dumps(await _get(client, f"/tasks/{begun['id']}/logs"))
            found = re.search(r"cancelled (\d+)", said)
            if found is None:
                raise RuntimeError(f"the app was not told that its task was cancelled: {said[:300]}")
            times.append((int(found[1]) - sent) / 1e9)
    client.close()
    return {"cancel_p50_ms": percentile(times, 0.5) * 1e3, "cancel_p95_ms": percentile(times, 0.95) * 1e3}


async def _first_output(client: httpx2.AsyncClient, task: str) -> tuple[int, float]:
    """When it was made, and for how many seconds it was on its way."""
    headers = {"Accept": "application/x-ndjson"}
    async with client.stream("GET", f"/tasks/{task}/stream", headers=headers) as answer:
        async for line in answer.aiter_lines():
            now = time.monotonic_ns()
            if found := re.search(r'"output":\{[^{}]*"at":(\d{3,})', line):
                return int(found[1]), (now - int(found[1])) / 1e9
    raise RuntimeError(f"task {task} ended without an output")


async def run(client: Client, app: str, given: Any, *, wait: bool = True, **more: Any) -> Any:
    """The task, ended if `wait`."""
    name, _, function = app.partition(":")
    body = {"app": name, "input": given, "wait": wait, **({"function": function} if function else {}), **more}
    status, answer = await client.request("POST", "/apps/run", json.dumps(body).encode())
    found = json.loads(answer)
    if status >= 300 or (wait and found["data"]["status"] != 10):
        raise RuntimeError(f"a task was answered with {status}: {answer[:300]!r}")
    return found["data"]


async def _ended(client: Client, task: str) -> Any:
    """The task, once it has ended. Raises `TimeoutError`."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        seen = await _get(client, f"/tasks/{task}")
        if seen["status"] >= 10:
            return seen
        await asyncio.sleep(0.01)
    raise TimeoutError(f"task {task} does not end")


async def _get(client: Client, path: str) -> Any:
    status, answer = await client.request("GET", path)
    if status >= 300:
        raise RuntimeError(f"{path} was answered with {status}: {answer[:300]!r}")
    return json.loads(answer)["data"]


async def deploy(target: Stepwell, app: Path, *words: str) -> None:
    command = [sys.executable, "-m", "stepwell.cli", "app", "deploy", str(app), *words]
    command += ["--url", f"http://127.0.0.1:{target.port}"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{app.name} cannot be deployed: {done.stderr[-1000:]}")


TASKS = {
    "task": Workload(f"tasks of one warm worker, 1 and {SENDERS} clients", task, only="websocket"),
    "coldness": Workload("a task of a new process and of a warm one", coldness, True, only="websocket"),
}
"""What is measured of apps."""
