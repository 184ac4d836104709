"""Opening: what can be wrong with a database is said in words, without the password; tables are made once."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import asyncpg
import pytest

from stepwell.model.credential import Credential
from stepwell.model.errors import ConfigurationError
from stepwell.store.base import COMMITTED, Hint, Node, Transition, Unique
from stepwell.store.migrations import migrations, read_migration
from stepwell.store.postgres import PostgresStore, database, schema
from stepwell.store.postgres import store as store_module
from stepwell.store.postgres.database import Address
from stepwell.store.postgres.text import indexed, plain, plainly
from tests.postgres import LOCKED, asked, shared_cluster
from tests.store.cases import Clock, a_claim, a_job, moved, run_id, started, store_all

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "s3cr3t"


@pytest.fixture
def empty_url() -> Iterator[str]:
    cluster = shared_cluster()
    url = cluster.database(empty=True)
    yield url
    cluster.drop(url)


async def refused(url: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await PostgresStore(url, patience_s=1).open()
    text = f"{caught.value!r} {caught.value}"
    assert SECRET not in text
    return text


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://u:s3cr3t@h/d", "begins with 'mysql'"),
        ("postgresql://u:s3cr3t@h:port/d", "cannot be read"),
        ("stepwell", "postgresql://user:password@host:5432/database"),
        ("postgresql://u:s3cr3t@127.0.0.1:1/d", "no PostgreSQL answers for d on 127.0.0.1:1"),
        ("postgresql://u:s3cr3t@nowhere.invalid/d", "no PostgreSQL answers"),
    ],
)
async def test_a_url_that_leads_nowhere_is_told(url: str, words: str) -> None:
    assert words in await refused(url)


async def test_an_unknown_database_is_told_with_what_to_do() -> None:
    url = shared_cluster().url("unknown").replace("stepwell@", f"stepwell:{SECRET}@")
    assert "createdb unknown" in await refused(url)


async def test_a_wrong_password_is_told(empty_url: str) -> None:
    await asked(empty_url, "SELECT 1")
    connection = await asyncpg.connect(empty_url)
    await connection.execute(f"DROP ROLE IF EXISTS {LOCKED}; CREATE ROLE {LOCKED} LOGIN PASSWORD 'right'")
    await connection.close()
    wrong, right = (empty_url.replace("stepwell@", f"{LOCKED}:{word}@") for word in (SECRET, "right"))
    assert "refused the password of user 'locked'" in await refused(wrong)
    assert "GRANT CREATE ON DATABASE" in await refused(right)  # which opens the door, and no more


async def test_an_old_server_is_refused(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "OLDEST_SERVER", 99)
    assert "99 or newer is needed" in await refused(empty_url)


def test_the_password_is_in_nothing_that_is_printed() -> None:
    address = Address(f"postgresql://me:{SECRET}@db.example:5433/shop?pooler=1&sslmode=require")
    assert str(address) == "shop on db.example:5433"
    assert address.pooler
    assert address.dsn == f"postgresql://me:{SECRET}@db.example:5433/shop?sslmode=require"
    assert str(Address("postgresql://me@a,b:5433/shop")) == "shop on a,b"
    assert str(Address("postgresql:///shop?host=/var/run/postgresql")) == "shop on /var/run/postgresql"


async def test_servers_that_start_together_make_the_tables_once(empty_url: str) -> None:
    stores = [PostgresStore(empty_url) for _ in range(6)]
    await asyncio.gather(*[store.open() for store in stores])
    await store_all(stores[0], Transition(run=started(1)))
    assert await stores[5].run_row(run_id(1)) is not None
    for store in stores:
        await store.close()


async def test_a_newer_database_is_refused_when_this_program_does_not_know_enough(empty_url: str) -> None:
    store = PostgresStore(empty_url)
    await store.open()
    await store.close()
    connection = await asyncpg.connect(empty_url)
    await connection.execute("UPDATE stepwell.meta SET schema = 90, usable_from = 80")
    assert "newer Stepwell (schema 90, for programs that know 80 or later)" in await refused(empty_url)
    await connection.execute(f"UPDATE stepwell.meta SET usable_from = {migrations('postgres')[-1].number}")
    await connection.close()
    await store.open()  # it only gained something
    await store.close()


async def test_a_migration_that_fails_leaves_nothing(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = read_migration(1, "-- usable from: 1\nCREATE TABLE stepwell.a (x int); INSERT INTO nowhere VALUES (1);")
    connection = await asyncpg.connect(empty_url)
    with pytest.raises(asyncpg.UndefinedTableError):
        await schema.migrate(connection, [broken])
    assert await asked(empty_url, "SELECT to_regclass('stepwell.a'), to_regclass('stepwell.meta')") == (None, None)
    assert await schema.migrate(connection, migrations("postgres")) == 0
    assert await schema.migrate(connection, migrations("postgres")) == migrations("postgres")[-1].number
    await connection.close()


async def test_a_migration_waits_for_nobody_for_long(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that has a table open delays it; meanwhile others can use the table."""
    monkeypatch.setattr(schema, "LOCK_TIMEOUT_MS", 100)
    further = read_migration(90, "-- usable from: 1\nALTER TABLE stepwell.run ADD COLUMN further text;")
    monkeypatch.setattr(store_module, "migrations", lambda dialect: [*migrations(dialect), further])
    reader = await asyncpg.connect(postgres_url)
    transaction = reader.transaction()
    await transaction.start()
    await reader.fetch("SELECT * FROM stepwell.run")
    store = PostgresStore(postgres_url)
    opening = asyncio.ensure_future(store.open())
    await asyncio.sleep(0.5)
    assert not opening.done()
    await asyncio.wait_for(asked(postgres_url, "SELECT count(*) FROM stepwell.run"), 2)
    await transaction.rollback()
    await asyncio.wait_for(opening, 5)
    await store.close()
    await reader.execute(
        "ALTER TABLE stepwell.run DROP COLUMN further;"
        f"UPDATE stepwell.meta SET schema = {migrations('postgres')[-1].number}"
    )
    await reader.close()


async def test_commits_are_synced_even_where_the_server_is_set_otherwise(
    empty_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = empty_url.rpartition("/")[2]
    connection = await asyncpg.connect(empty_url)
    await connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    await connection.close()
    store = PostgresStore(empty_url)
    with caplog.at_level(logging.WARNING):
        await store.open()
    assert "synchronous_commit is off" in caplog.text
    assert "fsync is off" in caplog.text  # as it is on the quick server of these tests
    status = await store.status()
    assert str(status["durability"]).startswith("PostgreSQL, synchronous_commit=on, fsync=off")
    assert len(status["warnings"]) == 2  # type: ignore[arg-type]
    await store.close()


async def test_jobs_that_wait_for_somebody_absent_cost_nothing(postgres_url: str) -> None:
    """Also when the planner believes that there are next to none, as it does after a quiet night."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        "INSERT INTO stepwell.job (id, env, shard, due, owner, epoch, fence, route, body)"
        " SELECT 'old' || n, 'dev', 0, 1, 'alpha', 0, 1, '', '' FROM generate_series(1, 5000) AS n"
    )
    await connection.execute("DELETE FROM stepwell.job")
    waiting = (
        "INSERT INTO stepwell.job (id, env, shard, due, fence, route, body)"
        " SELECT 'absent' || n, 'dev', 0, n, 0, 'absent', '' FROM generate_series($1::int, $2::int) AS n"
    )
    await connection.execute(waiting, 0, 0)
    await connection.execute("VACUUM ANALYZE stepwell.job")
    await connection.execute(waiting, 1, 100_000)
    store = PostgresStore(postgres_url, Clock())
    await store.open()
    await store_all(store, Transition(jobs=tuple(a_job(f"j{i}", route="here", due=10**9) for i in range(20))))
    node = Node("alpha", 1, 10**15)
    before = await _rows_read(connection)
    for number in range(101, 111):
        assert await store.next_due({"here", "there"}) == 10**9
        assert len(await store.claim_due(node, 10**9, 1, {"here", "there"})) == 1
        assert await store.release_lost(0) >= 0
        await store.release([a_claim("j1")])
        await store_all(store, Transition(run=started(number), jobs=(a_job(f"{number}", number, owner="alpha"),)))
        await store_all(store, Transition(run=moved(number, 1, "x"), holds=(a_claim(f"{number}"),)))
        ends = (a_claim(f"{number}"),)
        await store_all(store, Transition(run=moved(number, 2, "x"), ends=ends, drop_all_of=run_id(number)))
    assert await _rows_read(connection) - before < 20_000
    await store.close()
    await connection.close()


async def _rows_read(connection: asyncpg.Connection) -> int:
    await asyncio.sleep(1.2)  # backends tell their figures once a second
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    rows: int = await connection.fetchval(
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'job'"
    )
    return rows


async def test_a_key_taken_on_two_servers_at_once_is_taken_once(postgres_url: str) -> None:
    stores = [PostgresStore(postgres_url), PostgresStore(postgres_url)]
    for store in stores:
        await store.open()
    for number in range(20):
        key = f"k{number}"
        outcomes = await asyncio.gather(
            *[
                store.commit(Transition(unique=(Unique("e", key, f"by {at}", 99),), now=1))
                for at, store in enumerate(stores)
            ]
        )
        assert sum(outcome == COMMITTED for outcome in outcomes) == 1
    for store in stores:
        await store.close()


@pytest.mark.parametrize("text", ["", "a", "\0", "\1", "\0\1\1\0\1", "\1\2", "a\0" * 9])
def test_a_text_with_nul_comes_back(text: str) -> None:
    assert "\0" not in plain(text)
    assert plainly(plain(text)) == text


def test_long_texts_differ_when_they_are_different() -> None:
    texts = ["x" * 5000, "x" * 5001, "é" * 400, "é" * 401, "x" * 600, "\1#" + "a" * 64]
    assert len({indexed(text) for text in texts}) == len(texts)
    assert max(len(indexed(text).encode()) for text in texts) <= 600


# hints


class Heard(list[Hint]):
    async def until(self, what: str) -> Hint:
        async with asyncio.timeout(5):
            while True:
                for hint in self:
                    if getattr(hint, what):
                        return hint
                await asyncio.sleep(0.005)


async def test_servers_hear_what_others_commit(postgres_url: str) -> None:
    one, other = PostgresStore(postgres_url), PostgresStore(postgres_url)
    own, heard = Heard(), Heard()
    one.listen(own.append)
    other.listen(heard.append)
    for store in (one, other):
        await store.open()
    await until_listening(one, other)
    now = await one.now()
    jobs = (
        a_job("a", due=now, route="here"),
        a_job("b", due=now),
        a_job("later", due=now + 60_000, route="later"),
        a_job("own", due=now, owner="alpha", route="own"),
    )
    await store_all(one, Transition(run=started(1), jobs=jobs))
    hint = await heard.until("runs")
    assert hint.runs == (run_id(1),)
    assert set(hint.routes) == {"here", None}
    await one.remove_service("dev", "none")
    assert (await heard.until("services")).services
    heard.clear()
    await one.put_credential(Credential(name="openai"))
    assert (await heard.until("services")).services
    await asyncio.sleep(0.05)
    assert own == []
    for store in (one, other):
        await store.close()


async def until_listening(*stores: PostgresStore) -> None:
    async with asyncio.timeout(5):
        for store in stores:
            while not (await store.status())["hints"]:  # noqa: ASYNC110 - another task makes it true
                await asyncio.sleep(0.01)


async def test_hints_come_together_and_too_many_become_one(postgres_url: str) -> None:
    one, other = PostgresStore(postgres_url), PostgresStore(postgres_url)
    heard = Heard()
    other.listen(heard.append)
    for store in (one, other):
        await store.open()
    await until_listening(other)
    await asyncio.gather(*[one.commit(Transition(run=started(number))) for number in range(1, 601)])
    await heard.until("missed")
    await asyncio.gather(*[one.commit(Transition(run=started(number))) for number in range(601, 631)])
    async with asyncio.timeout(5):
        while len({run for hint in heard for run in hint.runs}) < 30:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
    assert len(heard) < 10
    for store in (one, other):
        await store.close()


async def test_whoever_was_not_listening_for_a_while_is_told_so(postgres_url: str) -> None:
    store = PostgresStore(postgres_url)
    heard = Heard()
    store.listen(heard.append)
    await store.open()
    await until_listening(store)
    await asked(
        postgres_url,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'stepwell listener'",
    )
    assert await heard.until("missed") == Hint(missed=True)
    await store.close()


async def test_a_hint_of_a_release_to_come_is_not_understood_and_not_ignored(postgres_url: str) -> None:
    store = PostgresStore(postgres_url)
    heard = Heard()
    store.listen(heard.append)
    await store.open()
    await until_listening(store)
    await asked(postgres_url, """SELECT pg_notify('stepwell', '{"other": 1}')""")
    assert await heard.until("missed") == Hint(missed=True)
    await store.close()


async def test_a_server_that_is_alone_tells_nothing_until_another_comes(postgres_url: str) -> None:
    one, other = PostgresStore(postgres_url), PostgresStore(postgres_url)
    one.listen(Heard().append)
    heard = Heard()
    other.listen(heard.append)
    for store in (one, other):
        await store.open()
    await until_listening(one, other)
    until = await one.now() + 60_000
    assert await one.heartbeat(Node("alpha", 1, until))
    await asyncio.sleep(0.05)
    await store_all(one, Transition(run=started(1)))
    await asyncio.sleep(0.05)
    assert heard == []
    assert await other.heartbeat(Node("beta", 1, until))
    await asyncio.sleep(0.2)
    await store_all(one, Transition(run=started(2)))
    assert (await heard.until("runs")).runs == (run_id(2),)
    assert await other.heartbeat(Node("beta", 1, 0))
    assert await one.heartbeat(Node("alpha", 1, until))
    await store_all(one, Transition(run=started(3)))
    await asyncio.sleep(0.05)
    assert len(heard) == 1
    for store in (one, other):
        await store.close()
