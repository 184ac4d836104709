"""Runs as screens ask for them: pages, filters, counts, one run, and the texts behind its trace."""

import pytest

from stepwell.engine.span import InFlight
from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import EventKey, RunId, step_id, ulid
from stepwell.model.job import RunStatus
from stepwell.model.message import CancelAsked, ChildEnded
from stepwell.model.payload import INLINE_LIMIT_BYTES, blob_of, canonical
from stepwell.node.reads import runs
from stepwell.node.reads.runs import RunFilter, TimeField
from stepwell.store.base import Transition
from stepwell.store.memory import MemoryStore
from tests.node_reads.story import (
    NOON,
    Clock,
    Story,
    an_event,
    done,
    error_of,
    errored,
    event_asked,
    invoke,
    keep,
)


def run_at(minute: int, *, function: str = "shop-bill", data: object = None) -> Story:
    at = NOON + minute * 60_000
    event = an_event(EventKey(ulid(at, 1)), data=data, at=at)
    return Story(run=RunId(ulid(at, 7)), at=at, function=function, events=(event,))


@pytest.fixture
async def store() -> MemoryStore:
    """Ten runs, a minute apart: the even ones completed, the odd ones failed, the last is still going on."""
    kept = MemoryStore(Clock(NOON + 3_600_000))
    for minute in range(10):
        story = run_at(minute, function="shop-bill" if minute < 6 else "shop-ship", data={"n": minute})
        story.reply(done("a", minute))
        if minute < 9:
            story.returned({"n": minute}) if minute % 2 == 0 else story.raised("ValueError", "odd", retry=False)
        await keep(kept, story)
    return kept


def minutes(page: runs.RunPage) -> list[int]:
    return [(row.created_at - NOON) // 60_000 for row in page.rows]


async def test_runs_are_listed_newest_first_page_by_page(store: MemoryStore) -> None:
    seen, cursor = [], None
    while True:
        page = await runs.list_runs(store, RunFilter(), after=cursor, limit=4)
        seen.append(minutes(page))
        cursor = page.cursor
        if not page.more:
            break
    assert seen == [[9, 8, 7, 6], [5, 4, 3, 2], [1, 0]]


async def test_runs_are_listed_the_other_way_too(store: MemoryStore) -> None:
    first = await runs.list_runs(store, RunFilter(), limit=6, ascending=True)
    second = await runs.list_runs(store, RunFilter(), after=first.cursor, limit=6, ascending=True)
    assert (minutes(first), minutes(second)) == ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9])
    assert (first.more, second.more) == (True, False)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (RunFilter(statuses=(RunStatus.FAILED,)), [7, 5, 3, 1]),
        (RunFilter(statuses=(RunStatus.FAILED, RunStatus.RUNNING)), [9, 7, 5, 3, 1]),
        (RunFilter(functions=("shop-ship",)), [9, 8, 7, 6]),
        (RunFilter(functions=("nobody",)), []),
        (RunFilter(services=("shop",), statuses=(RunStatus.COMPLETED,)), [8, 6, 4, 2, 0]),
        (RunFilter(since=NOON + 3 * 60_000, until=NOON + 5 * 60_000), [4, 3]),
        (RunFilter(since=NOON + 3 * 60_000, until=NOON + 5 * 60_000, time_field=TimeField.STARTED), [4, 3]),
        (RunFilter(since=NOON + 8 * 60_000, time_field=TimeField.ENDED), [8]),
        (RunFilter(search="event.data.n > 6"), [9, 8, 7]),
        (RunFilter(search="output.n == 4"), [4]),
        (RunFilter(search="error.name == 'ValueError' && event.data.n < 4"), [3, 1]),
        (RunFilter(search="event.missing.deeper == 1"), []),
        (RunFilter(env="another"), []),
    ],
)
async def test_filters_narrow_the_list_and_the_count(
    store: MemoryStore, wanted: RunFilter, expected: list[int]
) -> None:
    assert minutes(await runs.list_runs(store, wanted)) == expected
    assert await runs.count_runs(store, wanted) == len(expected)


async def test_a_filter_that_needs_a_look_at_each_run_has_pages_too(store: MemoryStore) -> None:
    wanted = RunFilter(search="event.data.n >= 0")
    first = await runs.list_runs(store, wanted, limit=7)
    second = await runs.list_runs(store, wanted, limit=7, after=first.cursor)
    assert (minutes(first), first.more) == ([9, 8, 7, 6, 5, 4, 3], True)
    assert (minutes(second), second.more) == ([2, 1, 0], False)


@pytest.mark.parametrize(
    ("after", "limit", "search"), [("nonsense", 5, None), (None, 0, None), (None, 5000, None), (None, 5, "event.")]
)
async def test_what_cannot_be_listed_is_refused(
    store: MemoryStore, after: str | None, limit: int, search: str | None
) -> None:
    with pytest.raises(InvalidInput):
        await runs.list_runs(store, RunFilter(search=search), after=after, limit=limit)


async def test_a_run_in_detail() -> None:
    store = MemoryStore(Clock())
    story = Story().reply(done("a", 1)).returned({"ok": True})
    await keep(store, story)
    detail = await runs.run_detail(store, DEV_ENV, story.run.id)

    assert detail is not None
    assert (detail.status, detail.output, detail.error) == (RunStatus.COMPLETED, b'{"ok":true}', None)
    assert [event.body for event in detail.events] == [story.events[0].body]
    assert [span.name for span in detail.trace.root.children] == ["a", "Finalization"]
    assert await runs.run_detail(store, "another", story.run.id) is None
    assert await runs.run_detail(store, DEV_ENV, "nobody") is None
    assert await runs.find_run(store, "another", story.run.id) is None


async def test_a_run_that_failed_has_an_error_and_no_output() -> None:
    store = MemoryStore(Clock())
    await keep(store, story := Story().raised("ValueError", "bad", retry=False))
    detail = await runs.run_detail(store, DEV_ENV, story.run.id)
    assert detail is not None
    assert (detail.output, detail.error) == (None, error_of("ValueError", "bad"))


async def test_a_queued_run_that_is_being_worked_on_is_running_everywhere() -> None:
    store = MemoryStore(Clock())
    await keep(store, story := Story())
    flight = InFlight(story.call(), NOON + 1)
    detail = await runs.run_detail(store, DEV_ENV, story.run.id, lambda run: [flight])
    assert detail is not None
    assert detail.row.status is RunStatus.QUEUED
    assert detail.status is detail.trace.status is RunStatus.RUNNING


async def test_an_invocation_is_linked_with_the_run_it_started() -> None:
    store = MemoryStore(Clock())
    parent = Story().reply(invoke("ask", "shop-child", 9000))
    asked = event_asked(parent, "ask")
    event = an_event(asked, name="inngest/function.invoked")
    child = Story(run=RunId(ulid(NOON, 99)), events=(event,), parent=parent.run.id)
    await keep(store, parent, child)
    trace = await runs.run_trace(store, DEV_ENV, parent.run.id)
    assert trace is not None
    info = trace.root.children[0].info
    assert isinstance(info, runs.InvokeInfo)
    assert info.child == child.run.id


async def test_the_texts_behind_a_trace() -> None:
    store = MemoryStore(Clock())
    story = Story().reply(errored("flaky")).due().reply(done("flaky", [1])).reply(invoke("ask", "f", 9000))
    story.tell(ChildEnded(step_id("ask"), error=b'"plain words"')).returned(None)
    await keep(store, story)

    async def behind(span: runs.Span) -> runs.SpanOutput:
        assert span.output_id is not None
        found = await runs.span_output(store, DEV_ENV, span.output_id)
        assert found is not None
        return found

    root = story.trace().root
    flaky, ask, end = root.children
    assert (await behind(root)).data == (await behind(end)).data == b"null"
    assert (await behind(flaky)).data == (await behind(flaky.children[1])).data == b"[1]"
    failed = await behind(flaky.children[0])
    assert failed.data is None
    assert failed.error == runs.ErrorText("ValueError", "bad", "ValueError at line 1")
    asked = await behind(ask)
    assert (asked.input, asked.error) == (b'{"x":1}', runs.ErrorText("Error", "plain words"))
    assert await runs.span_output(store, "another", str(root.output_id)) is None


async def test_an_output_id_of_a_run_that_is_gone_leads_nowhere() -> None:
    root = Story().returned(1).trace().root
    assert await runs.span_output(MemoryStore(Clock()), DEV_ENV, str(root.output_id)) is None
    with pytest.raises(InvalidInput, match="output"):
        await runs.span_output(MemoryStore(Clock()), DEV_ENV, "nonsense")


async def test_large_texts_are_fetched() -> None:
    store = MemoryStore(Clock())
    text = canonical("x" * (INLINE_LIMIT_BYTES + 1))
    story = Story()
    await store.commit(Transition(blobs=((blob_of(text), text),)))
    story.tell_output(blob_of(text))
    await keep(store, story)
    detail = await runs.run_detail(store, DEV_ENV, story.run.id)
    assert detail is not None
    assert detail.output == text


async def test_a_cancelled_run_says_why() -> None:
    store = MemoryStore(Clock())
    await keep(store, story := Story().tell(CancelAsked("not needed")))
    trace = await runs.run_trace(store, DEV_ENV, story.run.id)
    assert trace is not None
    assert (trace.status, trace.reason) == (RunStatus.CANCELLED, "not needed")
