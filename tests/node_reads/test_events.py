"""Events as screens ask for them, and the runs that they started."""

import pytest

from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV
from stepwell.model.function import Function, Service, Transport, Trigger
from stepwell.model.ids import EventKey, RunId, ulid
from stepwell.node.reads import events, functions, services
from stepwell.node.reads.events import EventFilter
from stepwell.node.registry import Registry
from stepwell.store.base import Transition
from stepwell.store.memory import MemoryStore
from tests.node_reads.story import NOON, Clock, Story, an_event, keep


@pytest.fixture
def registry() -> Registry:
    def function(slug: str, config: bytes = b"{}", archived: bool = False) -> Function:
        return Function(
            slug=slug, name=slug, service="shop", triggers=(Trigger("shop/order"),), config=config, archived=archived
        )

    known = Registry()
    known.load(
        [
            Service(
                name="shop",
                transport=Transport.HTTP,
                url="http://shop/api",
                functions=(
                    function("shop-bill"),
                    function("shop-bill-failure"),
                    function("shop-batch", b'{"batchEvents":{"maxSize":10}}'),
                    function("shop-old", archived=True),
                ),
            )
        ]
    )
    return known


@pytest.fixture
async def store() -> MemoryStore:
    kept = MemoryStore(Clock())
    names = ["shop/order", "shop/paid", "inngest/function.finished"]
    found = tuple(
        an_event(EventKey(ulid(NOON + number, 1)), name=names[number % 3], at=NOON + number) for number in range(9)
    )
    await kept.commit(Transition(events=found))
    return kept


def numbers(page: events.EventPage) -> list[int]:
    return [event.received_at - NOON for event in page.events]


async def test_events_are_listed_newest_first_page_by_page(store: MemoryStore) -> None:
    first = await events.list_events(store, EventFilter(), limit=5)
    second = await events.list_events(store, EventFilter(), limit=5, after=first.cursor)
    assert (numbers(first), first.more) == ([8, 7, 6, 5, 4], True)
    assert (numbers(second), second.more) == ([3, 2, 1, 0], False)
    with pytest.raises(InvalidInput, match="cursor"):
        await events.list_events(store, EventFilter(), after="nonsense")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (EventFilter(names=("shop/paid",)), [7, 4, 1]),
        (EventFilter(internal=False), [7, 6, 4, 3, 1, 0]),
        (EventFilter(since=NOON + 2, until=NOON + 4), [3, 2]),
        (EventFilter(env="another"), []),
    ],
)
async def test_filters_narrow_the_list_and_the_count(
    store: MemoryStore, wanted: EventFilter, expected: list[int]
) -> None:
    assert numbers(await events.list_events(store, wanted)) == expected
    assert await events.count_events(store, wanted) == len(expected)


async def test_an_event_is_there_before_it_started_anything(registry: Registry) -> None:
    store = MemoryStore(Clock())
    event = an_event()
    await store.commit(Transition(events=(event,)))
    detail = await events.event_detail(store, registry, DEV_ENV, event.internal_id)
    assert detail is not None
    assert (detail.body, detail.runs) == (event.body, ())
    assert await events.event_detail(store, registry, DEV_ENV, "nobody") is None
    assert await events.event_detail(store, registry, "another", event.internal_id) is None


async def test_the_runs_of_an_event_come_in_the_order_of_their_creation(registry: Registry) -> None:
    store = MemoryStore(Clock())
    first, second = Story(run=RunId(ulid(NOON + 1, 1))), Story(run=RunId(ulid(NOON + 2, 1)), function="shop-ship")
    await keep(store, second, first)
    detail = await events.event_detail(store, registry, DEV_ENV, first.events[0].internal_id)
    assert detail is not None
    assert [row.id for row in detail.runs] == [first.run.id, second.run.id]


async def test_an_event_of_a_repeated_request_has_the_runs_of_the_first(registry: Registry) -> None:
    store = MemoryStore(Clock())
    shown = ulid(NOON, 5)
    first = an_event(EventKey(ulid(NOON, 1)), internal_id=shown)
    again = an_event(EventKey(ulid(NOON + 500, 2)), internal_id=shown, at=NOON + 500)
    await keep(store, story := Story(events=(first,)))
    await store.commit(Transition(events=(again,)))
    detail = await events.event_detail(store, registry, DEV_ENV, shown)
    assert detail is not None
    assert detail.event.key == again.key
    assert [row.id for row in detail.runs] == [story.run.id]


async def test_every_event_of_a_batch_has_its_run(registry: Registry) -> None:
    store = MemoryStore(Clock())
    batch = tuple(an_event(EventKey(ulid(NOON + number, 1)), at=NOON + number) for number in range(3))
    story = Story(run=RunId(ulid(NOON + 9, 1)), at=NOON + 9, function="shop-batch", events=batch)
    await keep(store, story, Story(run=RunId(ulid(NOON + 20, 1)), function="shop-batch"))
    for event in batch[1:]:
        found = await events.runs_of_event(store, registry, event)
        assert [row.id for row in found] == [story.run.id]


def test_functions_and_services_are_found_by_their_names_and_ids(registry: Registry) -> None:
    slugs = [function.slug for function in functions.list_functions(registry)]
    assert slugs == ["shop-batch", "shop-bill", "shop-bill-failure"]
    assert functions.list_functions(registry, service="other") == functions.list_functions(registry, "another") == []
    old = functions.find_function(registry, "shop-old")
    assert old is not None
    assert old.archived
    assert functions.function_with_id(registry, old.id) == old
    assert functions.function_with_id(registry, old.id, "another") is None
    bill = functions.find_function(registry, "shop-bill")
    assert bill is not None
    handler = functions.failure_handler(registry, bill)
    assert handler is not None
    assert handler.slug == "shop-bill-failure"
    assert functions.failure_handler(registry, handler) is None

    [view] = services.list_services(registry)
    assert view.healthy
    assert [function.slug for function in view.functions] == ["shop-bill", "shop-bill-failure", "shop-batch"]
    assert services.find_service(registry, "shop") == services.service_with_id(registry, view.service.id) == view
    assert services.service_at(registry, "http://shop/api") == view
    assert services.find_service(registry, "nobody") is services.service_at(registry, "http://x") is None
