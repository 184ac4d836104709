"""Named credentials on several nodes: known at once, sealed with the current key, never half of an exchange."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
from msgspec.structs import replace

from stepwell.model.credential import CannotOpen, Credential, CredentialRefused, NoSecretKey
from stepwell.model.errors import InvalidInput, NotFound
from stepwell.model.event import DEV_ENV
from stepwell.node import credentials as module
from stepwell.node.credentials import Credentials
from stepwell.server.cipher import AesCipher
from stepwell.store.clock import WallClock
from stepwell.store.memory import MemoryStore
from stepwell.testing.node import InMemoryNode
from tests.node.test_errands import SHARING

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
OPENAI = Credential(name="openai", origins=("https://api.openai.com",), changed_at=5)


def a_store() -> MemoryStore:
    return MemoryStore(WallClock())


async def test_a_credential_is_stored_sealed_and_opened_for_a_request() -> None:
    store = a_store()
    first, second = Credentials(store, AesCipher([OLD])), Credentials(store, AesCipher([OLD]))
    kept = await first.put(OPENAI, "sk-canary")
    assert (await store.credentials()) == [kept]
    assert b"canary" not in kept.sealed
    assert kept.created_at == 5
    assert (await second.opened(DEV_ENV, "openai")).value == "sk-canary"  # though nobody told this node
    changed = await second.put(replace(OPENAI, changed_at=9), "sk-other-canary")
    assert (changed.created_at, changed.changed_at) == (5, 9)
    await first.refresh()
    assert (await first.opened(DEV_ENV, "openai")).value == "sk-other-canary"
    await first.remove(DEV_ENV, "openai")
    with pytest.raises(NotFound):
        await first.remove(DEV_ENV, "openai")
    with pytest.raises(CredentialRefused, match="keeps no credential 'openai'; make it with `stepwell credential set"):
        await first.opened(DEV_ENV, "openai")


@pytest.mark.parametrize(
    "change",
    [{"origins": ("https://evil.example",)}, {"header": "X-Echo"}, {"query": "q"}, {"prefix": "p"}, {"env": "other"}],
)
async def test_whoever_changes_the_database_cannot_send_it_elsewhere(change: dict[str, str]) -> None:
    store = a_store()
    credentials = Credentials(store, AesCipher([OLD]))
    kept = await credentials.put(OPENAI, "sk-canary")
    await store.put_credential(replace(kept, **change))
    await credentials.refresh()
    with pytest.raises(CredentialRefused, match="changed since it was sealed"):
        await credentials.opened(change.get("env", DEV_ENV), "openai")


async def test_without_a_key_nothing_is_kept_or_used_and_the_text_says_what_to_do() -> None:
    store = a_store()
    with pytest.raises(NoSecretKey, match="openssl rand -hex 32"):
        await Credentials(store, None).put(OPENAI, "sk-canary")
    kept = await Credentials(store, AesCipher([OLD])).put(OPENAI, "sk-canary")
    none = Credentials(store, None)
    with pytest.raises(CredentialRefused, match=r"'openai' cannot be used: .*STEPWELL_SECRET_KEY"):
        await none.opened(DEV_ENV, "openai")
    with pytest.raises(NoSecretKey):
        await none.rotate()
    assert not none.usable(kept)
    wrong = Credentials(store, AesCipher([NEW]))
    with pytest.raises(CredentialRefused, match=r"sealed with the key .* has not got"):
        await wrong.opened(DEV_ENV, "openai")


async def test_a_key_is_exchanged() -> None:
    store = a_store()
    old, both, new = (Credentials(store, AesCipher(keys)) for keys in ([OLD], [NEW, OLD], [NEW]))
    for name in ("one", "two"):
        await old.put(replace(OPENAI, name=name), f"value of {name}")
    with pytest.raises(CannotOpen, match="the credential 'two'"):
        await new.rotate()
    assert await both.rotate() == 2
    assert await both.rotate() == 0
    await new.refresh()
    assert (await new.opened(DEV_ENV, "two")).value == "value of two"
    assert {new.key_of(one) for one in await new.all(DEV_ENV)} == {new.key}


async def test_an_exchange_does_not_bring_back_a_value_that_was_set_meanwhile() -> None:
    store = a_store()
    both = Credentials(store, AesCipher([NEW, OLD]))
    await Credentials(store, AesCipher([OLD])).put(OPENAI, "old value")
    plain_put = store.put_credential

    async def put(credential: Credential, *, over: Credential | None = None) -> bool:
        if over is not None:  # somebody sets another value in this very moment
            await plain_put(replace(over, sealed=AesCipher([NEW]).seal(b"new value", over.bound)))
        return await plain_put(credential, over=over)

    store.put_credential = put  # type: ignore[method-assign]
    await both.rotate()
    await both.refresh()
    assert (await both.opened(DEV_ENV, "openai")).value == "new value"


async def test_what_was_read_before_a_change_does_not_undo_it() -> None:
    store = a_store()
    credentials = Credentials(store, AesCipher([OLD]))
    await credentials.put(OPENAI, "old value")
    plain_read = store.credentials
    for change in (credentials.put(OPENAI, "new value"), credentials.remove(DEV_ENV, "openai")):

        async def read(change: Awaitable[object] = change) -> list[Credential]:
            found = await plain_read()
            store.credentials = plain_read  # type: ignore[method-assign]
            await change  # while the answer is on its way
            return found

        store.credentials = read  # type: ignore[method-assign]
        await credentials.refresh()
        if await store.credentials():
            assert (await credentials.opened(DEV_ENV, "openai")).value == "new value"
    assert credentials._known == {}


async def test_there_are_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    credentials = Credentials(a_store(), AesCipher([OLD]))
    for name in ("one", "two", "two"):
        await credentials.put(replace(OPENAI, name=name), "value")
    with pytest.raises(InvalidInput, match="the limit"):
        await credentials.put(replace(OPENAI, name="three"), "value")


def test_nodes_hear_of_changes_and_see_them_without_a_hint_a_little_later() -> None:
    first = InMemoryNode(name="first", settings=SHARING)
    second = InMemoryNode(name="second", store=first.store, scheduler=first.scheduler, settings=SHARING)
    first.do(first.store.put_credential(OPENAI))
    second.settle()
    assert second.node.credentials.key_of(OPENAI) == ""
    assert [one.name for one in known(second)] == ["openai"]
    first.store._credentials.clear()  # and nobody says so
    second.pass_time(seconds=SHARING.lease_ms / 1000)
    assert known(second) == []


def known(node: InMemoryNode) -> list[Credential]:
    return list(node.node.credentials._known.values())
