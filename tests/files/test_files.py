"""What is known of files stays in step with their bytes: whoever is killed where, and whoever does what at once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from stepwell.model.errors import Conflict, InvalidInput, NotFound, Overloaded
from stepwell.model.event import DEV_ENV
from stepwell.model.file import Contents, FileRecord
from stepwell.model.ids import IdSource
from stepwell.node.clock import World
from stepwell.node.files import (
    ANNOUNCED_MS,
    FILE,
    GOING,
    KEY,
    LEFTOVER_MS,
    OF_TASK,
    PENDING,
    USE,
    Files,
    name_in_address,
)
from stepwell.store.base import Record, Store
from stepwell.store.contents import DiskContents
from stepwell.store.memory import MemoryStore

HOUR_MS = 3_600_000


class Killed(Exception):
    """The server is gone."""


class Now:
    """A clock that is set, and what a node needs beside it."""

    def __init__(self) -> None:
        self.at = 1_700_000_000_000

    def now(self) -> int:
        return self.at

    async def sleep(self, milliseconds: int) -> None:
        self.at += milliseconds
        await asyncio.sleep(0.001)  # threads of the disk need real time


class Mortal:
    """Passes calls on until it has done so `lives` times; the next one kills, before or after it is done."""

    def __init__(self, inner: Any, life: list[int], after: bool) -> None:
        self._inner, self._life, self._after = inner, life, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name in ("read", "now", "shared"):
            return found

        async def call(*args: Any, **named: Any) -> Any:
            self._life[0] -= 1
            if self._life[0] < 0 or (self._life[0] == 0 and not self._after):
                raise Killed
            done = await found(*args, **named)
            if self._life[0] == 0:
                raise Killed
            return done

        return call


class Slow:
    """Lets others go first, at random."""

    def __init__(self, inner: Any, dice: random.Random) -> None:
        self._inner, self._dice = inner, dice

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name in ("read", "now", "shared"):
            return found

        async def call(*args: Any, **named: Any) -> Any:
            for _ in range(self._dice.randrange(4)):
                await asyncio.sleep(0)
            done = await found(*args, **named)
            for _ in range(self._dice.randrange(4)):
                await asyncio.sleep(0)
            return done

        return call


class Ground:
    """What outlives a server: its store, its folder, the time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = Now()
        self.store = MemoryStore(self.now)
        self.contents = DiskContents(folder)
        self.ids = IdSource(1)
        self.reader = self.closed()

    async def files(self, store: Any = None, contents: Any = None, **settings: Any) -> Files:
        """Of a server that has just started."""
        files = self.closed(store, contents, **settings)
        await files.open()
        return files

    def closed(self, store: Any = None, contents: Any = None, **settings: Any) -> Files:
        return Files(
            store=cast("Store", store or self.store),
            world=cast("World", self.now),
            contents=cast("Contents", contents or self.contents),
            new_id=lambda: self.ids.ulid(self.now.at),
            limit_bytes=10_000_000,
            base="http://here",
            **settings,
        )

    async def sound(self, *, tidy: bool = True) -> list[FileRecord]:
        """Every file that is known has its bytes; with `tidy` nothing else is left."""
        known = await self.reader.page(DEV_ENV, limit=10_000)
        for file in known:
            content = b"".join([piece async for piece in self.contents.read(file.digest)])
            assert len(content) == file.size_bytes
            assert await self.store.record("", USE, f"{file.digest}/{file.id}") is not None
        if tidy:
            lying = sorted(path.name for path in self.folder.rglob("*") if path.is_file())
            assert lying == sorted({file.digest for file in known})
            assert len(await self.store.records("", USE, limit=10_000)) == len(known)
            assert await self.store.records("", PENDING) == []
            assert await self.store.records("", GOING) == []
        return known


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path / "files")


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


def a_file(name: str = "a.txt", **fields: Any) -> FileRecord:
    return FileRecord(id="", filename=name, **fields)


def signature(files: Files, file: FileRecord) -> str:
    return files.upload_url(file).partition("=")[2]


async def upload(files: Files, file: FileRecord, content: bytes) -> FileRecord:
    return await files.receive(DEV_ENV, file.id, signature(files, file), pieces(content))


@pytest.mark.parametrize("after", [False, True])
async def test_a_server_killed_while_a_file_is_stored_leaves_all_or_nothing(ground: Ground, after: bool) -> None:
    other = await (await ground.files()).store_bytes(a_file(), pieces(b"other"))
    points = 0
    for point in range(1, 60):
        calm = await ground.files()
        announced = await calm.announce(a_file(size_bytes=4))
        life = [1_000]
        mortal = await ground.files(Mortal(ground.store, life, after), Mortal(ground.contents, life, after))
        life[0] = point
        try:
            await upload(mortal, announced, b"text")
        except Killed:
            points += 1
        else:
            assert points >= 10
            break
        await ground.sound(tidy=False)
        again = await ground.files()
        with contextlib.suppress(Conflict):  # it is there already
            await upload(again, announced, b"text")  # whoever heard nothing sends it again
        assert (await again.find(DEV_ENV, announced.id)).size_bytes == 4
        ground.now.at += LEFTOVER_MS
        await ground.contents.tidy(0)
        await again.sweep()
        await ground.sound()
        await again.remove(DEV_ENV, announced.id)
        assert [file.id for file in await ground.sound()] == [other.id]
    else:
        pytest.fail("it never got to the end")


@pytest.mark.parametrize("after", [False, True])
async def test_what_a_killed_server_left_is_gone_within_an_hour(ground: Ground, after: bool) -> None:
    for point in range(1, 60):
        life = [1_000]
        mortal = await ground.files(Mortal(ground.store, life, after), Mortal(ground.contents, life, after))
        life[0] = point
        try:
            await mortal.store_bytes(a_file(task="t1"), pieces(b"text"))
        except Killed:
            pass
        else:
            break
        again = await ground.files()
        await again.sweep()
        await ground.sound(tidy=False)
        ground.now.at += LEFTOVER_MS
        await ground.contents.tidy(0)
        await again.sweep()
        for file in await ground.sound():
            await again.remove(DEV_ENV, file.id)
        assert await ground.sound() == []
    assert point >= 10


@pytest.mark.parametrize("after", [False, True])
async def test_a_server_killed_while_a_file_is_removed_leaves_no_half_of_it(ground: Ground, after: bool) -> None:
    for point in range(1, 60):
        calm = await ground.files()
        kept = await calm.store_bytes(a_file(), pieces(b"text"))
        life = [1_000]
        mortal = await ground.files(Mortal(ground.store, life, after), Mortal(ground.contents, life, after))
        life[0] = point
        try:
            await mortal.remove(DEV_ENV, kept.id)
        except Killed:
            pass
        else:
            break
        known = await ground.sound(tidy=False)
        again = await ground.files()
        if known and point % 2:
            await again.remove(DEV_ENV, kept.id)
        elif point % 3 == 0:
            same = await again.store_bytes(a_file(), pieces(b"text"))  # the same bytes, meanwhile
            ground.now.at += LEFTOVER_MS
            await again.sweep()
            assert same.id in [file.id for file in await ground.sound()]
        ground.now.at += LEFTOVER_MS
        await again.sweep()
        for file in await ground.sound():
            await again.remove(DEV_ENV, file.id)
    assert point > 8


async def test_files_with_the_same_bytes_come_and_go_at_once(ground: Ground) -> None:
    """On several servers, in any order: whoever has been told that his file is there can read it."""
    for seed in range(60):
        dice = random.Random(seed)
        servers = [await ground.files(Slow(ground.store, dice), Slow(ground.contents, dice)) for _ in range(3)]

        async def live(dice: random.Random, servers: list[Files]) -> None:
            files = dice.choice(servers)
            for _ in range(3):
                content = dice.choice([b"one", b"two"])
                kept = await files.store_bytes(a_file(), pieces(content))
                found = b"".join([piece async for piece in dice.choice(servers).read(kept)])
                assert found == content
                if dice.random() < 0.8:
                    await dice.choice(servers).remove(DEV_ENV, kept.id)

        await asyncio.gather(*[live(dice, servers) for _ in range(4)])
        await ground.sound()


class Meddled:
    """Somebody else does something just before a record of that kind is put."""

    def __init__(self, inner: Any, kind: str, meanwhile: Callable[[], Awaitable[Any]]) -> None:
        self._inner, self._kind, self._meanwhile = inner, kind, meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def put_record(self, record: Record) -> bool:
        if record.kind == self._kind:
            await self._meanwhile()
        done: bool = await self._inner.put_record(record)
        return done


async def test_bytes_that_somebody_began_to_use_are_not_removed(ground: Ground) -> None:
    other = await ground.files()
    kept = await other.store_bytes(a_file(), pieces(b"text"))
    files = await ground.files(
        Meddled(ground.store, GOING, lambda: other.store_bytes(a_file("new.txt"), pieces(b"text")))
    )
    await files.remove(DEV_ENV, kept.id)
    assert [file.filename for file in await ground.sound()] == ["new.txt"]


async def test_of_many_who_remove_a_file_one_does(ground: Ground) -> None:
    dice = random.Random(1)
    for _ in range(30):
        servers = [await ground.files(Slow(ground.store, dice), Slow(ground.contents, dice)) for _ in range(3)]
        kept = await servers[0].store_bytes(a_file(), pieces(b"text"))
        done = await asyncio.gather(*[one.remove(DEV_ENV, kept.id) for one in servers], return_exceptions=True)
        assert done.count(None) == 1
        assert all(one is None or isinstance(one, (NotFound, Conflict)) for one in done)
        assert await ground.sound() == []


async def test_a_sweep_beside_a_slow_upload_loses_nothing(ground: Ground) -> None:
    """One that was thought dead and was not: it is told, or its file is whole."""
    told = 0
    for seed in range(100):
        dice = random.Random(seed)
        slow = await ground.files(Slow(ground.store, dice), Slow(ground.contents, dice))
        sweeper = await ground.files(Slow(ground.store, dice), Slow(ground.contents, dice))

        async def sweep(sweeper: Files, dice: random.Random) -> None:
            while not await ground.store.records("", PENDING):  # noqa: ASYNC110
                await asyncio.sleep(0)
            for _ in range(dice.randrange(40)):
                await asyncio.sleep(0)
            ground.now.at += ANNOUNCED_MS
            await sweeper.sweep()

        outcome, _ = await asyncio.gather(
            slow.store_bytes(a_file(), pieces(b"text")), sweep(sweeper, dice), return_exceptions=True
        )
        ground.now.at += ANNOUNCED_MS
        await sweeper.sweep()
        known = await ground.sound()
        if isinstance(outcome, FileRecord):
            assert [file.id for file in known] == [outcome.id]
            await slow.remove(DEV_ENV, outcome.id)
        else:
            assert isinstance(outcome, Conflict), outcome
            assert known == []
            told += 1
    assert 0 < told < 100


async def test_a_removal_that_hangs_holds_up_nobody_for_long(ground: Ground) -> None:
    files = await ground.files()
    digest = (await files.store_bytes(a_file(), pieces(b"text"))).digest
    going = Record(env="", kind=GOING, key=digest, value=b"", at=ground.now.at)
    assert await ground.store.put_record(going)
    with pytest.raises(Overloaded, match="in a moment"):
        await files.store_bytes(a_file(), pieces(b"text"))
    ground.now.at += 60_000
    await files.store_bytes(a_file(), pieces(b"text"))
    ground.now.at += LEFTOVER_MS
    await files.sweep()
    assert len(await ground.sound()) == 2


async def test_an_announcement_is_good_for_a_day(ground: Ground) -> None:
    files = await ground.files()
    announced = await files.announce(a_file())
    assert announced.created_at == ground.now.at
    ground.now.at += ANNOUNCED_MS - 1
    await files.sweep()
    assert await files.announced(DEV_ENV, announced.id, signature(files, announced)) == announced
    ground.now.at += 1
    with pytest.raises(NotFound, match="is over"):
        await upload(files, announced, b"late")
    await files.sweep()
    await ground.sound()


async def test_bytes_of_another_upload_are_not_taken_for_those_that_are_being_stored(ground: Ground) -> None:
    files = await ground.files()
    announced = await files.announce(a_file())
    life = [1_000]
    mortal = await ground.files(Mortal(ground.store, life, True), Mortal(ground.contents, life, True))
    life[0] = 5
    with pytest.raises(Killed):
        await upload(mortal, announced, b"these")
    with pytest.raises(Conflict, match="other bytes"):
        await upload(files, announced, b"those")
    await upload(files, announced, b"these")
    await ground.contents.tidy(0)
    await ground.sound()


async def test_old_files_go_when_they_are_kept_for_so_long_only(ground: Ground) -> None:
    files = await ground.files(keep_ms=24 * HOUR_MS)
    old = [await files.store_bytes(a_file(), pieces(b"%d" % (number % 3))) for number in range(5)]
    ground.now.at += 23 * HOUR_MS
    young = await files.store_bytes(a_file(), pieces(b"1"))
    assert await files.sweep() == 0
    ground.now.at += HOUR_MS + 1
    assert await files.sweep() == len(old)
    assert [file.id for file in await ground.sound()] == [young.id]
    assert await (await ground.files()).sweep() == 0


async def test_files_belong_to_tasks(ground: Ground) -> None:
    files = await ground.files()
    given = await files.store_bytes(a_file("in.txt"), pieces(b"in"))
    await files.assign(given, "task1", "input")
    await files.assign(given, "task2", "input")
    await files.assign(given, "task2", "input")
    made = [await files.store_bytes(a_file("out.txt", task="task1"), pieces(b"%d" % n)) for n in range(3)]
    assert [(file.id, file.task, file.role) for file in await files.of_task(DEV_ENV, "task1")] == [
        (given.id, "task1", "input"),
        *((file.id, "task1", "output") for file in made),
    ]
    assert len(await files.of_task(DEV_ENV, "task1", "output")) == 3
    assert await files.of_task(DEV_ENV, "task") == []
    assert await files.of_task("other", "task1") == []
    await files.remove(DEV_ENV, made[0].id)
    await files.remove(DEV_ENV, given.id)
    assert [file.id for file in await files.of_task(DEV_ENV, "task1")] == [made[1].id, made[2].id]
    assert await files.of_task(DEV_ENV, "task2") == []
    assert len(await ground.store.records(DEV_ENV, OF_TASK, prefix="task1/output/")) == 2


async def test_servers_of_one_store_sign_alike_and_others_do_not(ground: Ground, tmp_path: Path) -> None:
    first, second = await ground.files(), await ground.files()
    file = await first.store_bytes(a_file("a b.txt"), pieces(b"text"))
    assert first.uri(file) == second.uri(file)
    assert first.uri(file).endswith("/a%20b.txt")
    key = first.uri(file).split("/")[-2]
    assert await second.shown(DEV_ENV, key) == file
    with pytest.raises(NotFound):
        await second.shown("other", key)
    with pytest.raises(NotFound):
        await second.shown(DEV_ENV, f"{file.id}.{signature(first, file)}")
    other = await Ground(tmp_path / "elsewhere").files()
    assert other.uri(file) != first.uri(file)
    [kept] = await ground.store.records("", KEY)
    assert len(kept.value) == 32
    assert repr(kept.value) not in repr(first)


async def test_what_is_too_large_is_not_announced(ground: Ground) -> None:
    files = await ground.files()
    with pytest.raises(InvalidInput, match="10,000,001 bytes and may have 10,000,000"):
        await files.announce(a_file(size_bytes=10_000_001))
    assert await ground.store.records("", PENDING) == []


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("a.txt", "a.txt"),
        ("", "file"),
        ("dir/a.txt", "a.txt"),
        ("C:\\dir\\a.txt", "a.txt"),
        ("a\0/b", "b"),
        ("..", "file"),
        (" . ", "file"),
        ("a\nb\u2028c.txt", "abc.txt"),
        ("x" * 200 + ".png", "x" * 116 + ".png"),
        ("x" * 200, "x" * 120),
        ("." + "y" * 200, "." + "y" * 119),
        ("漢字.png", "漢字.png"),
    ],
)
def test_the_last_part_of_an_address_is_a_name(filename: str, expected: str) -> None:
    assert name_in_address(a_file(filename)) == expected


async def test_a_file_of_another_environment_is_not_found(ground: Ground) -> None:
    files = await ground.files()
    kept = await files.store_bytes(a_file(env="other"), pieces(b"text"))
    with pytest.raises(NotFound):
        await files.find(DEV_ENV, kept.id)
    with pytest.raises(NotFound):
        await files.remove(DEV_ENV, kept.id)
    assert await ground.store.record("other", FILE, kept.id) is not None
