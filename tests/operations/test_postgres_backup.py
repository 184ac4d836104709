"""The commands for PostgreSQL that the page on operations shows bring everything back."""

from __future__ import annotations

import asyncio
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from stepwell.node.auditor import Auditor
from stepwell.node.clock import AsyncioWorld
from stepwell.store.postgres import PostgresStore
from tests.cli.test_upkeep import ended
from tests.docs.pages import DOCS
from tests.postgres import binaries
from tests.store.cases import contents, run_id, store_all

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = re.findall(r"^\$ (pg_\w+ .*)$", (DOCS / "operations.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.slow
async def test_a_dump_is_brought_back_as_the_page_says(postgres_url: str, tmp_path: Path) -> None:
    if not (binaries() / "pg_dump").exists():
        pytest.skip("pg_dump is not installed beside the server")
    store = PostgresStore(postgres_url)
    await store.open()
    await store_all(store, *[ended(number) for number in (1, 2, 3)])
    runs = [run_id(number) for number in (1, 2, 3)]
    before = await contents(store, runs)
    dump, restore = COMMANDS
    await call(dump, postgres_url, tmp_path)
    await store.remove_runs(runs, 5)
    await store_all(store, ended(4))
    await store.close()
    await call(restore, postgres_url, tmp_path)
    again = PostgresStore(postgres_url)
    await again.open()
    assert await contents(again, runs) == before
    assert await again.run_row(run_id(4)) is None
    report, texts = await Auditor(again, AsyncioWorld()).audit_all()
    assert (report.findings, report.runs, texts) == ((), 3, 1)
    await again.close()


async def call(command: str, url: str, folder: Path) -> None:
    environment = {"STEPWELL_DB": url, "PATH": f"{binaries()}:/usr/bin:/bin"}
    done = await asyncio.to_thread(
        subprocess.run, ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
