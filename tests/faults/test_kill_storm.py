"""SIGKILL at random moments under load: nothing acknowledged is lost, nothing is done twice without a reason.

Four clients post events in batches and keep the id of each one, acknowledged or not: ids are derived from the seed that
a batch is sent with. Meanwhile the server is killed and started again and again. Two witnesses stand outside: the
clients' ids, and a ledger to which every step appends when it begins.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

import httpx2
import pytest

from stepwell.model.event import DEV_ENV
from stepwell.model.job import RunRow
from stepwell.store.base import EventQuery
from stepwell.wire.inngest.event import Seed
from tests.faults.harness import Program, Server, WorkerProgram, free_port, until
from tests.faults.invariants import assert_sound, extra_executions, late_executions, missing_executions
from tests.fleet import nodes_wanted

pytestmark = pytest.mark.slow

LONG_ON_NODES = [pytest.mark.long] if nodes_wanted() else []
BATCH = 50
CLIENTS = 4
CONCURRENCY = 100  # calls at a time of the connected worker; each has at most three steps in flight
HTTP_SLOTS = 256  # calls at a time of a service over HTTP
IN_FLIGHT = 3 * CONCURRENCY + HTTP_SLOTS
FUNCTIONS = {"storm/short": {"storm-short"}, "storm/wide": {"storm-wide", "storm-slow", "storm-http-pair"}}
STEPS = {"storm-short": 2, "storm-wide": 4, "storm-slow": 3, "storm-http-pair": 2}


@dataclasses.dataclass(slots=True)
class Sent:
    """What the clients know: names of events by id, and which of them somebody promised to keep."""

    names: dict[str, str] = dataclasses.field(default_factory=dict)
    acknowledged: set[str] = dataclasses.field(default_factory=set)
    repeated: int = 0  # batches that were sent again because nothing had come back


@dataclasses.dataclass(slots=True)
class Storm:
    server: Server
    worker: WorkerProgram
    service: Program
    sent: Sent = dataclasses.field(default_factory=Sent)


@pytest.fixture
async def storm(unstarted: Server, tmp_path: Path) -> AsyncIterator[Storm]:
    server = unstarted
    await server.start()
    worker = WorkerProgram("storm", server, tmp_path, "--concurrency", str(CONCURRENCY))
    port = free_port()
    environment = {"PORT": str(port), "LEDGER": str(worker.ledger_file), "INNGEST_DEV": server.url}
    command = [sys.executable, "-m", "tests.faults.apps.storm_http"]
    service = Program("the service", command, tmp_path / "http.log", environment)
    try:
        await until("a registered service", lambda: _registers(port), 60, service.tail)
        await server.serves(*STEPS)
        yield Storm(server, worker, service)
    finally:
        await worker.stop()
        await service.stop()


async def _registers(port: int) -> bool:
    async with httpx2.AsyncClient(timeout=10) as http:
        try:
            return (await http.put(f"http://127.0.0.1:{port}/api/inngest")).status_code == 200
        except httpx2.TransportError:
            return False


@pytest.mark.parametrize(
    ("seed", "kills", "events"),
    [
        pytest.param(0, 3, 1_000, id="quick"),
        # Forty kills and 20,000 events together.
        pytest.param(1, 20, 10_000, id="F1-F3-first-half", marks=LONG_ON_NODES),
        pytest.param(2, 20, 10_000, id="F1-F3-second-half", marks=LONG_ON_NODES),
    ],
)
async def test_acknowledged_events_survive_any_number_of_kills(
    storm: Storm, seed: int, kills: int, events: int
) -> None:
    """F1, F2 and F3 in one storm: at least `kills` kills while at least `events` events are acknowledged."""
    server, sent = storm.server, storm.sent
    draw = random.Random(seed)
    enough = asyncio.Event()

    def due() -> int:
        """So many events may be acknowledged by now: the clients go through the whole storm, whatever their pace."""
        return events * (len(server.kills) + 1) // kills

    async with asyncio.TaskGroup() as tasks:
        for client in range(CLIENTS):
            tasks.create_task(_post(server, sent, enough, f"client {client} of {seed}", due))
        begun = time.monotonic()
        for _ in range(kills):
            await asyncio.sleep(draw.uniform(0.1, 2.0))
            await server.restart(a_victim(server, draw))
        await until("enough events", lambda: len(sent.acknowledged) >= events, 120, server.explain)
        enough.set()
    stormy_s = time.monotonic() - begun
    await server.all_ended(seconds=240)
    await server.stop()
    ledger = storm.worker.ledger()

    found = await assert_sound(server, quiet=True)
    rows = await server.rows()
    await _assert_one_run_each(server, rows, sent)
    assert {row.status.value for row in rows} == {"COMPLETED"}
    assert found.results == sum(STEPS[row.function] for row in rows)
    extra, unexplained = extra_executions(ledger, server.kills)
    assert unexplained == []
    assert extra <= len(server.kills) * IN_FLIGHT
    assert missing_executions(ledger, found) == []
    assert late_executions(ledger, found) == []
    unknown = len(sent.names) - len(sent.acknowledged)
    print(
        f"{len(server.kills)} kills in {stormy_s:.0f} s, {len(sent.acknowledged)} events acknowledged, {unknown} not, "
        f"{sent.repeated} batches repeated, {found.runs} runs, {found.results} results, {extra} extra executions"
    )


@pytest.mark.parametrize(
    ("runs", "steps"),
    [
        pytest.param(50, 20, id="F2"),
        pytest.param(300, 10, id="F3-third"),
        pytest.param(1_000, 10, id="F3", marks=pytest.mark.long),
    ],
)
async def test_kills_while_results_arrive_leave_one_result_a_step(
    unstarted: Server, tmp_path: Path, runs: int, steps: int
) -> None:
    """F2 and F3: the server is killed again and again until all runs have ended."""
    server = unstarted
    draw = random.Random(runs)
    await server.start()
    worker = WorkerProgram("storm", server, tmp_path, "--concurrency", str(CONCURRENCY))
    try:
        await server.serves("storm-chain")
        await server.send(*({"name": "storm/chain", "data": {"steps": steps}} for _ in range(runs)))
        while (before := _reached(worker)) < runs * steps:
            # Not before there is a new result, so that the storm gets somewhere however slow the machine is.
            await until("a step after a new result", partial(_further, worker, before), 60, server.explain)
            await asyncio.sleep(draw.uniform(0.0, 1.5))
            await server.restart(a_victim(server, draw))
        await server.all_ended(90)
        await server.stop()
        ledger = worker.ledger()
    finally:
        await worker.stop()

    found = await assert_sound(server, quiet=True)
    assert await server.count(statuses=["COMPLETED"]) == runs
    assert (found.runs, found.results) == (runs, runs * steps)
    assert {step for of_run in found.results_of.values() for step in of_run} == {f"link {n}" for n in range(steps)}
    extra, unexplained = extra_executions(ledger, server.kills)
    assert unexplained == []
    assert extra <= len(server.kills) * CONCURRENCY
    assert missing_executions(ledger, found) == []
    assert late_executions(ledger, found) == []
    print(f"{len(server.kills)} kills, {runs} runs, {found.results} results, {extra} extra executions")


def a_victim(server: Server, draw: random.Random) -> int | None:
    """Which node is killed next. None stands for all that there are, as when the power goes."""
    return draw.randrange(server.nodes) if server.nodes and draw.random() < 0.7 else None


def _reached(worker: WorkerProgram) -> int:
    """How many steps have begun, each counted once; it begins only when the one before it has its result."""
    return len({(line.run, line.step) for line in worker.ledger()})


def _further(worker: WorkerProgram, than: int) -> bool:
    return _reached(worker) > than


async def _post(server: Server, sent: Sent, enough: asyncio.Event, client: str, due: Callable[[], int]) -> None:
    """Post batches until there are enough. Half of those that got no answer are sent again, the others left alone."""
    draw = random.Random(client)
    async with httpx2.AsyncClient(base_url=server.url, timeout=20) as http:
        while not enough.is_set():
            seed = Seed(time.time_ns() // 1_000_000, draw.randbytes(10))
            header = f"{seed.at},{base64.b64encode(seed.entropy).decode()}"
            names = ["storm/wide" if draw.random() < 0.1 else "storm/short" for _ in range(BATCH)]
            ids = [seed.ulid(position + 1) for position in range(BATCH)]
            sent.names.update(zip(ids, names, strict=True))
            body = [{"name": name, "data": {"client": client}} for name in names]
            for attempt in itertools.count():
                try:
                    answer = await http.post("/e/faults", json=body, headers={"x-inngest-event-id-seed": header})
                except httpx2.TransportError:
                    answer = None
                if answer is not None and answer.status_code == 200:
                    assert answer.json()["ids"] == ids
                    sent.acknowledged.update(ids)
                    break
                if attempt == 0 and draw.random() < 0.5:
                    break
                sent.repeated += attempt == 0
                await asyncio.sleep(0.2)
            await asyncio.sleep(draw.uniform(0, 0.6))
            while len(sent.acknowledged) > due() and not enough.is_set():  # noqa: ASYNC110 - of a process, too
                await asyncio.sleep(0.05)


async def _assert_one_run_each(server: Server, rows: Sequence[RunRow], sent: Sent) -> None:
    async with server.stored() as on:
        events = await on.events(EventQuery(env=DEV_ENV, names=tuple(FUNCTIONS), limit=1_000_000))
    ids = {event.key: event.internal_id for event in events}
    runs = Counter((ids[row.event], row.function) for row in rows if row.event is not None)
    assert sum(runs.values()) == len(rows)
    assert {event_id for event_id, _ in runs} <= set(sent.names), "runs of events that nobody sent"
    assert set(runs.values()) == {1}, "several runs of one event and function"
    missing = [
        (event_id, function)
        for event_id in sent.acknowledged
        for function in FUNCTIONS[sent.names[event_id]]
        if (event_id, function) not in runs
    ]
    assert missing == [], f"{len(missing)} runs of acknowledged events are missing"
    foreign = [pair for pair in runs if pair[1] not in FUNCTIONS[sent.names[pair[0]]]]
    assert foreign == []
