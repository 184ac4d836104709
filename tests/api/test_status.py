"""What a server tells its operator: the same figures as a page, as JSON and for Prometheus, and no secrets."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from stepwell.api.metrics import MOST_SERVICES
from stepwell.api.site import Line
from stepwell.cli import cli
from stepwell.node.auditor import Finding, Report
from stepwell.node.retention import Keep
from stepwell.server import Server, ServerSettings
from stepwell.store.base import Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SIGNING_KEY = "5ec2e7" * 8
EVENT_KEY = "an-event-key-nobody-may-see"
HTML = {"accept": "text/html,application/xhtml+xml"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(ServerSettings(port=0, data=tmp_path, discovery=False, manage_logging=False))
    await made.start()
    yield made
    await made.stop()


async def get(server: Server, path: str, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=server.url) as client:
        return await client.get(path, headers=headers)


async def figures(server: Server, **headers: str) -> dict[tuple[str, ...], float]:
    answer = await get(server, "/metrics", **headers)
    assert answer.status_code == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def send(server: Server, count: int = 3) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as client:
        answer = await client.post(f"/e/{EVENT_KEY}", json=[{"name": "shop/order", "data": {}}] * count)
        assert answer.status_code == 200


async def test_the_figures_say_what_was_done(server: Server) -> None:
    before = await figures(server)
    await send(server)
    after = await figures(server)
    assert after["stepwell_events_accepted_total",] - before["stepwell_events_accepted_total",] == 3
    assert after["stepwell_commit_seconds_count",] > before["stepwell_commit_seconds_count",]
    assert after["stepwell_commit_seconds_sum",] > 0
    assert after["stepwell_commit_group_size_bucket", "+Inf"] == after["stepwell_commit_group_size_count",]
    assert after["stepwell_store_bytes", "database"] > 1000
    assert after["process_resident_memory_bytes",] > 10_000_000
    assert after["stepwell_runs_ended_total", "failed"] == 0
    (up,) = [(name[1:], value) for name, value in after.items() if name[0] == "stepwell_up"]
    assert (set(up[0]), up[1]) == ({server.site.version, "dev", "local"}, 1)


async def test_an_event_that_starts_a_run_is_seen_in_the_figures(server: Server) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as client:
        function = {
            "id": "shop-order",
            "name": "order",
            "triggers": [{"event": "shop/order"}],
            "steps": {
                "step": {"id": "step", "name": "step", "runtime": {"type": "http", "url": "http://127.0.0.1:9/x"}}
            },
        }
        service = {"url": "http://127.0.0.1:9/x", "deployType": "ping", "sdk": "test:v1", "appName": "shop", "v": "0.1",
                   "framework": "none", "functions": [function]}  # fmt: skip
        answer = await client.post("/fn/register", json=service)
        assert answer.status_code == 200, answer.text
    await send(server, 5)
    seen = await figures(server)
    for _ in range(100):
        seen = await figures(server)
        if seen["stepwell_runs_started_total",] == 5:
            break
    assert seen["stepwell_runs_started_total",] == 5
    assert seen["stepwell_live_runs",] == 5
    assert seen["stepwell_calls_scheduled_total",] >= 5


async def test_services_beyond_a_hundred_share_a_label(server: Server) -> None:
    server.site.lines = lambda: [Line(f"s{number:03d}", 1, 2) for number in range(MOST_SERVICES + 50)]
    seen = await figures(server)
    waiting = {name: value for name, value in seen.items() if name[0] == "stepwell_calls_waiting"}
    assert len(waiting) == MOST_SERVICES + 1
    assert waiting["stepwell_calls_waiting", "(others)"] == 100


async def test_the_page_is_whole_without_anything_from_elsewhere(server: Server) -> None:
    answer = await get(server, "/status", **HTML)
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.findall(r"<script|src=|href=|url\(|@import", answer.text)
    for text in ("ready", "synchronous=FULL", "local (this one)", "runs under way", "kept for ever"):
        assert text in answer.text
    assert (await get(server, "/status")).json().keys() == (await get(server, "/api/status")).json().keys()


async def test_what_others_named_cannot_write_into_the_page(server: Server) -> None:
    server.site.lines = lambda: [Line("<script>alert(1)</script>", 0, 3)]
    text = (await get(server, "/status", **HTML)).text
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


async def test_findings_are_on_the_page_with_the_time_they_were_made_first(server: Server) -> None:
    auditor = server.site.auditor
    assert auditor is not None
    finding = Finding("progress", "it lives and nothing will ever happen to it")
    auditor.latest = Report(1_700_000_060_000, 5, 0, (finding,))
    auditor.seen_since = {finding: 1_700_000_000_000}
    told = (await get(server, "/api/status")).json()
    assert told["auditor"]["found_at"] == ["2023-11-14T22:13:20.000Z"]
    text = (await get(server, "/status", **HTML)).text
    assert "nothing will ever happen to it" in text
    assert "2023-11-14T22:13:20.000Z" in text
    assert (await figures(server))["stepwell_auditor_findings",] == 1


async def test_the_last_sweep_is_told(server: Server) -> None:
    retention = server.site.retention
    assert retention is not None
    retention.keep = Keep(runs_ms=3_600_000)
    await retention.sweep()
    told: dict[str, Any] = (await get(server, "/api/status")).json()["retention"]
    assert told["keep_runs_ms"] == 3_600_000
    assert told["keep_events_ms"] == 86_400_000
    assert told["last_sweep"]["runs"] == 0


async def test_no_key_is_told_and_none_is_enough_without(tmp_path: Path) -> None:
    settings = ServerSettings(
        dev=False,
        port=0,
        data=tmp_path,
        signing_key=SIGNING_KEY,
        event_keys=(EVENT_KEY,),
        discovery=False,
        service_urls=("http://user:hunter2@127.0.0.1:9/api/inngest",),
        manage_logging=False,
    )
    server = Server(settings)
    await server.start()
    try:
        for path in ("/status", "/api/status", "/metrics"):
            assert (await get(server, path)).status_code == 401
            hint = await get(server, path, **HTML)
            assert (hint.status_code, hint.headers["content-type"]) == (401, "text/html; charset=utf-8")
            assert "stepwell status --url URL --key KEY" in hint.text
            assert (await get(server, path)).json()["status"] == 401
            for more in ({}, HTML):
                answer = await get(server, path, authorization=f"Bearer {SIGNING_KEY}", **more)
                assert answer.status_code == 200
                assert not [secret for secret in (SIGNING_KEY, EVENT_KEY, "hunter2") if secret in answer.text]
    finally:
        await server.stop()


async def test_pages_of_others_see_nothing(server: Server) -> None:
    for path in ("/status", "/metrics"):
        answer = await get(server, path, origin="https://evil.example", **HTML)
        assert answer.status_code == 403


@pytest.mark.slow
async def test_a_server_on_postgresql_tells_the_same(postgres_url: str) -> None:
    settings = ServerSettings(port=0, data=None, db=postgres_url, discovery=False, manage_logging=False)
    server = Server(settings)
    await server.start()
    try:
        await send(server)
        told = (await get(server, "/api/status")).json()
        assert [(node["name"], node["alive"]) for node in told["nodes"]] == [(server.node.name, True)]
        assert told["queue"] == {"due": 0, "oldest_due_lag_ms": 0, "waiting_for_limits": 0}
        assert told["settings"]["db"] == "set"
        assert "PostgreSQL" in (await get(server, "/status", **HTML)).text
        seen = await figures(server)
        assert seen["stepwell_commit_seconds_count",] > 0
        assert seen["stepwell_store_bytes", "database"] > 1000
        retention = server.site.retention
        assert retention is not None
        assert await retention._my_turn()
        assert not await retention._my_turn()
        assert (await retention.sweep()).runs == 0
    finally:
        await server.stop()
    report, texts = await asyncio.to_thread(audited, postgres_url)
    assert (report["findings"], texts) == ([], 0)


def audited(url: str) -> tuple[dict[str, Any], int]:
    done = CliRunner().invoke(cli, ["audit", "--db", url, "--json"])
    assert done.exit_code == 0, done.output
    report: dict[str, Any] = json.loads(done.stdout)
    return report, report["texts"]


async def test_a_lost_node_is_shown_as_gone_and_forgotten_after_an_hour(server: Server) -> None:
    store, now = server.node.store, server.node.world.now()
    await store.heartbeat(Node("lately", 1, now - 60_000))
    await store.heartbeat(Node("long-ago", 1, now - 3_700_000))
    shown = {node["name"]: node["alive"] for node in (await get(server, "/api/status")).json()["nodes"]}
    assert shown == {server.node.name: True, "lately": False}
    told = await asyncio.to_thread(CliRunner().invoke, cli, ["status", "--url", server.url])
    assert "lately, gone, its lease ran out at" in told.output
    assert "long-ago" not in told.output
