"""Behind PgBouncer in transaction mode every transaction may have another session."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from stepwell.store.base import COMMITTED, Hint, Node, Transition
from stepwell.store.postgres import PostgresStore
from tests.postgres import away, free_port, quiet_user, shared_cluster
from tests.store.cases import a_job, moved, run_id, started, store_all
from tests.store.test_postgres_faults import Load

if TYPE_CHECKING:
    from collections.abc import Iterator

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed (apt-get install pgbouncer)")


@pytest.fixture(scope="module")
def pooler() -> Iterator[int]:
    """The port of a PgBouncer before the shared cluster, with fewer sessions than it has clients."""
    assert PGBOUNCER is not None
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="stepwell-pgbouncer-"))
    (folder / "users").write_text('"stepwell" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={shared_cluster().port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {folder}/users\npool_mode = transaction\ndefault_pool_size = 3\n"
        "max_client_conn = 200\nserver_reset_query =\n"
    )
    user = quiet_user()
    if user is not None:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, user)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([PGBOUNCER, str(folder / "pgbouncer.ini")], user=user, stderr=log, stdout=log)
    deadline = time.monotonic() + 10
    while True:
        try:
            away(_connect(port))
            break
        except (OSError, asyncpg.PostgresError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((folder / "log").read_text()) from None
            time.sleep(0.02)
    yield port
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


async def _connect(port: int) -> None:
    connection = await asyncpg.connect(
        f"postgresql://stepwell@127.0.0.1:{port}/postgres", statement_cache_size=0, timeout=2
    )
    await connection.close()


def through(url: str, pooler: int) -> str:
    return url.replace(f":{shared_cluster().port}/", f":{pooler}/")


async def test_a_pooler_is_noticed_and_everything_works(postgres_url: str, pooler: int) -> None:
    stores = [PostgresStore(through(postgres_url, pooler)) for _ in range(2)]
    for store in stores:
        await store.open()
        assert (await store.status())["pooler"] is True
    loads = [Load(store) for store in stores]
    loads[1].numbers = 1_000_000
    await asyncio.gather(*[load.run(load.until(800)) for load in loads])
    for number in range(1, loads[0].numbers + 1):
        stored = await stores[1].load_run(run_id(number))
        assert stored is not None
        assert stored.row.seq == len(stored.entries) == 2 + loads[0].steps
    node = Node("alpha", 1, 10**15)
    assert await stores[0].heartbeat(node)
    await store_all(stores[0], Transition(run=started(9_000_000), jobs=(a_job("j", 9_000_000),)))
    late = Transition(run=moved(9_000_000, 4, "late"))
    assert await stores[1].commit(late) != COMMITTED
    assert [job.id for job in await stores[1].claim_due(node, 0, 9)] == ["j"]
    for store in stores:
        await store.close()


async def test_tables_are_made_through_a_pooler(pooler: int) -> None:
    cluster = shared_cluster()
    url = cluster.database(empty=True)
    stores = [PostgresStore(through(url, pooler)) for _ in range(3)]
    await asyncio.gather(*[store.open() for store in stores])
    await store_all(stores[0], Transition(run=started(1)))
    assert await stores[2].run_row(run_id(1)) is not None
    for store in stores:
        await store.close()


async def test_hints_are_heard_on_a_way_around_the_pooler(postgres_url: str, pooler: int) -> None:
    one = PostgresStore(through(postgres_url, pooler))
    around = PostgresStore(through(postgres_url, pooler), listen_url=postgres_url)
    deaf = PostgresStore(through(postgres_url, pooler))
    heard: list[Hint] = []
    around.listen(heard.append)
    deaf.listen(heard.append)
    for store in (one, around, deaf):
        await store.open()
    assert (await deaf.status())["hints"] is False
    async with asyncio.timeout(5):
        while not (await around.status())["hints"]:  # noqa: ASYNC110 - another task makes it true
            await asyncio.sleep(0.01)
        await store_all(one, Transition(run=started(1)))
        while not heard:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    assert heard == [Hint(runs=(run_id(1),))]
    for store in (one, around, deaf):
        await store.close()
