"""Events by name and time, waits by what they listen for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from stepwell.model.credential import Credential
from stepwell.model.event import DEV_ENV
from stepwell.model.function import Function, Service, Transport, Trigger
from stepwell.store.base import EventQuery, Transition
from tests.store.cases import a_wait, an_event, event_key, run_id, step, store_all

if TYPE_CHECKING:
    from stepwell.model.ids import RunId, StepId
    from stepwell.store.base import Store


async def test_events_are_read_in_the_order_asked_for(store: Store) -> None:
    events = [an_event(i) for i in range(1, 4)]
    await store_all(store, Transition(events=tuple(events)))
    keys = [event_key(3), event_key(9), event_key(1), event_key(3)]
    assert await store.read_events(keys) == [events[2], events[0], events[2]]
    assert await store.read_events([]) == []


async def test_events_since_a_moment_come_oldest_first(store: Store) -> None:
    late = an_event(1, received_at=50)  # its key is older than the moment it was received
    others = [an_event(2), an_event(3), an_event(4, name="other"), an_event(5, env="e2"), an_event(6)]
    await store_all(store, Transition(events=(late, *others)))
    found = await store.events_since(DEV_ENV, "order/placed", 3, 10)
    assert [event.key for event in found] == [event_key(3), event_key(6), event_key(1)]
    assert len(await store.events_since(DEV_ENV, "order/placed", 0, 2)) == 2
    assert await store.events_since(DEV_ENV, "order/placed", 51, 2) == []


async def test_events_are_listed_newest_first_a_page_at_a_time(store: Store) -> None:
    await store_all(store, Transition(events=tuple(an_event(i) for i in range(1, 8))))
    seen: list[str] = []
    before = None
    while page := await store.events(EventQuery(DEV_ENV, before=before, limit=3)):
        seen += [event.key for event in page]
        before = page[-1].key
    assert seen == [event_key(i) for i in range(7, 0, -1)]


async def test_events_are_narrowed_by_every_field(store: Store) -> None:
    names = ["a", "b", "inngest/function.finished", "inngestx", "a"]
    await store_all(store, Transition(events=tuple(an_event(i, name) for i, name in enumerate(names, 1))))
    await store_all(store, Transition(events=(an_event(9, "a", env="e2"),)))

    async def numbers(query: EventQuery) -> list[int]:
        return [event.ts for event in await store.events(query)]

    assert await numbers(EventQuery(DEV_ENV)) == [5, 4, 3, 2, 1]
    assert await numbers(EventQuery("e2")) == [9]
    assert await numbers(EventQuery(DEV_ENV, names=("a",))) == [5, 1]
    assert await numbers(EventQuery(DEV_ENV, names=("a", "b"), limit=2)) == [5, 2]
    assert await numbers(EventQuery(DEV_ENV, names=("a", "b"), before=event_key(5))) == [2, 1]
    assert await numbers(EventQuery(DEV_ENV, names=())) == []
    assert await numbers(EventQuery(DEV_ENV, internal=False)) == [5, 4, 2, 1]
    assert await numbers(EventQuery(DEV_ENV, received_from=2, received_until=4)) == [3, 2]


async def test_the_newest_of_two_events_with_one_id_is_found(store: Store) -> None:
    await store_all(
        store,
        Transition(events=(an_event(2, internal_id="same"), an_event(5, internal_id="same"))),
        Transition(events=(an_event(3, internal_id="same"), an_event(6, internal_id="same", env="e2"))),
    )
    found = await store.event_by_id(DEV_ENV, "same")
    assert found is not None
    assert found.key == event_key(5)
    assert await store.event_by_id(DEV_ENV, "none") is None


async def test_the_paths_of_waits_are_told_once_each(store: Store) -> None:
    await store_all(
        store,
        Transition(
            waits=(
                *(a_wait(i, 1, path="data.id", value=str(i)) for i in range(1, 20)),
                a_wait(1, 2, path="data.user", value=None),
                a_wait(1, 3, path=""),
                a_wait(1, 4),
                a_wait(1, 5, env="e2", path="elsewhere"),
                a_wait(1, 6, event="other", path="else"),
            )
        ),
    )
    assert await store.wait_paths(DEV_ENV, "order/paid") == [None, "", "data.id", "data.user"]
    assert await store.wait_paths(DEV_ENV, "nothing") == []
    await store_all(store, Transition(drop_waits=((run_id(1), step(4)), (run_id(1), step(3)))))
    assert await store.wait_paths(DEV_ENV, "order/paid") == ["data.id", "data.user"]


async def test_waits_are_found_by_exactly_their_key_a_page_at_a_time(store: Store) -> None:
    alike = [a_wait(i, j, path="data.id", value="7") for i in (2, 1, 3) for j in (2, 1)]
    await store_all(
        store,
        Transition(
            waits=(
                *alike,
                a_wait(4, 1, path="data.id", value="8"),
                a_wait(4, 2, path="data.id"),
                a_wait(4, 3),
                a_wait(4, 4, path="data.id", value="7", env="e2"),
                a_wait(4, 5, path="data.id", value="7", event="other"),
            )
        ),
    )
    seen: list[tuple[RunId, StepId]] = []
    after = None
    while page := await store.waits_for(DEV_ENV, "order/paid", "data.id", "7", after, 4):
        after = (page[-1].run, page[-1].step)
        seen += [(wait.run, wait.step) for wait in page]
    assert seen == [(run_id(i), step(j)) for i in (1, 2, 3) for j in (1, 2)]
    assert await store.waits_for(DEV_ENV, "order/paid", None, None, None, 9) == [a_wait(4, 3)]
    assert await store.waits_for(DEV_ENV, "order/paid", "data.id", None, None, 9) == [a_wait(4, 2, path="data.id")]


async def test_services_are_put_replaced_and_removed(store: Store) -> None:
    function = Function(slug="shop-order", name="Order", service="shop", triggers=(Trigger("order/placed"),))
    shop = Service(name="shop", transport=Transport.HTTP, url="http://localhost:1", functions=(function,))
    await store.put_service(Service(name="shop", transport=Transport.SOCKET))
    await store.put_service(shop)
    await store.put_service(Service(name="shop", env="e2", transport=Transport.LOCAL))
    await store.put_service(Service(name="bakery", transport=Transport.LOCAL))
    assert [(service.env, service.name) for service in await store.services()] == [
        (DEV_ENV, "bakery"),
        (DEV_ENV, "shop"),
        ("e2", "shop"),
    ]
    assert (await store.services())[1] == shop
    assert await store.remove_service(DEV_ENV, "shop")
    assert not await store.remove_service(DEV_ENV, "shop")
    assert len(await store.services()) == 2


async def test_credentials_are_put_replaced_and_removed(store: Store) -> None:
    first = Credential(name="openai", origins=("https://api.openai.com",), sealed=b"\x00\xff", created_at=5)
    second = replace(first, sealed=b"\x01", header="x-key", changed_at=7)
    assert await store.put_credential(first)
    assert await store.put_credential(Credential(name="openai", env="e2", query="key"))
    assert await store.put_credential(Credential(name="mail"))
    assert [(one.env, one.name) for one in await store.credentials()] == [
        (DEV_ENV, "mail"),
        (DEV_ENV, "openai"),
        ("e2", "openai"),
    ]
    assert (await store.credentials())[1] == first

    assert await store.put_credential(second)
    assert not await store.put_credential(first, over=first)  # somebody was faster
    assert (await store.credentials())[1] == second
    assert await store.put_credential(first, over=second)
    assert (await store.credentials())[1] == first

    assert await store.remove_credential(DEV_ENV, "openai")
    assert not await store.remove_credential(DEV_ENV, "openai")
    assert not await store.put_credential(first, over=first)  # it is gone
    assert len(await store.credentials()) == 2
