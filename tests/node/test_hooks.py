"""Webhooks of tasks on a real node in virtual time: durable with the end of the task, made again while they fail."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.model import message
from stepwell.model.dispatch import Dispatch
from stepwell.model.event import DEV_ENV, read_body
from stepwell.model.ids import RunId
from stepwell.model.job import RunRow, RunStatus
from stepwell.model.payload import canonical
from stepwell.node.hooks import HOOK_EVENT, HOOK_FUNCTION, HOOK_RETRIES, HOOK_SERVICE
from stepwell.testing.node import InMemoryNode
from tests.node.test_tasks import a_node, begin, check, request

URL = "https://caller.example/hook?token=secret"


def ended(node: InMemoryNode, **details: Any) -> RunId:
    """A task that ended and had a webhook."""
    run = begin(node, request=request(**{"webhook": URL, **details}))
    (call,) = (one for one in node.worker.calls if one.run == run)
    node.answer(call, message.Returned(call.job, b'{"output":1}'))
    return run


def deliveries(node: InMemoryNode) -> list[RunRow]:
    return [row for row in node.runs() if row.function == HOOK_FUNCTION]


def call_of(node: InMemoryNode) -> Dispatch:
    (call,) = node.worker.calls
    assert (call.function.slug, call.live) == (HOOK_FUNCTION, False)
    return call


def test_the_end_of_a_task_and_its_webhook_are_one_commit() -> None:
    node = a_node()
    run = begin(node, request=request(webhook=URL))
    (call,) = node.worker.calls
    before = len(node.store.event_rows)
    node.store.listeners.clear()
    committed: list[Any] = []
    commit = node.store.commit

    async def counted(transition: Any) -> Any:
        committed.append(transition)
        return await commit(transition)

    node.store.commit = counted  # type: ignore[method-assign]
    node.answer(call, message.Returned(call.job, b'{"output":1}'))
    assert committed[0].run.row.status is RunStatus.COMPLETED
    assert [event.name for event in committed[0].events] == [HOOK_EVENT]
    assert len(node.store.event_rows) == before + 1
    (delivery,) = deliveries(node)
    assert (delivery.service, delivery.event_name) == (HOOK_SERVICE, HOOK_EVENT)
    assert read_body(call_of(node).events[0])["data"] == {"task": run}
    assert URL.encode() not in b"".join(event.body for event in committed[0].events)  # it is in the request alone
    check(node, run)


def test_a_delivery_that_fails_is_made_again_until_it_is_given_up() -> None:
    node = a_node()
    ended(node)
    made = 0
    while node.worker.calls:
        call = call_of(node)
        made += 1
        node.answer(call, message.Raised(call.job, canonical({"message": "answered 503"})))
        node.pass_time(hours=3)
    assert made == HOOK_RETRIES + 1
    assert deliveries(node)[0].status is RunStatus.FAILED


def test_a_delivery_is_over_once_it_was_answered() -> None:
    node = a_node()
    ended(node)
    call = call_of(node)
    node.answer(call, message.Returned(call.job, b'{"status":200}'))
    node.pass_time(days=2)
    assert node.worker.calls == []
    assert [row.status for row in deliveries(node)] == [RunStatus.COMPLETED]


@pytest.mark.parametrize("how", ["failed", "cancelled", "large"])
def test_every_end_is_told(how: str) -> None:
    node = a_node()
    run = begin(node, request=request(webhook=URL, input="x" * 50_000 if how == "large" else 1))
    if how == "cancelled":
        node.do(node.node.tasks.cancel(DEV_ENV, run, grace_ms=0))
    else:
        (call,) = node.worker.calls
        node.answer(call, message.Raised(call.job, b'{"message":"no"}'))
    assert read_body(call_of(node).events[0])["data"] == {"task": run}


def test_without_a_webhook_there_is_no_delivery() -> None:
    node = a_node()
    ended(node, webhook="", input={"webhook": "not ours"})
    assert deliveries(node) == []
    assert node.node.registry.service(DEV_ENV, HOOK_SERVICE) is None


def test_after_a_kill_the_delivery_is_made() -> None:
    node = a_node()
    run = ended(node)
    other = InMemoryNode(name=node.node.name, epoch=2, store=node.store, scheduler=node.scheduler)
    other.pass_time(minutes=1)
    call = call_of(other)
    assert read_body(call.events[0])["data"] == {"task": run}
    other.answer(call, message.Returned(call.job, b"1"))
    assert [row.status for row in deliveries(other)] == [RunStatus.COMPLETED]
