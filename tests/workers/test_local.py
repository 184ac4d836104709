"""The worker in this process, and what every performer has in common."""

from __future__ import annotations

import asyncio

from stepwell.model.dispatch import Memo
from stepwell.model.ids import JobId, StepId
from stepwell.model.message import Raised, Replied, Returned, Suspended
from stepwell.model.op import StepDone
from stepwell.workers.base import Dispatch, Performer
from stepwell.workers.http import HttpPerformer
from stepwell.workers.local import LocalPerformer
from stepwell.workers.socket import Registered, SocketPerformer
from tests.workers.apps import Mailbox, a_dispatch

A = StepId("a" * 40)


async def test_what_the_code_returns_is_the_outcome() -> None:
    mailbox = Mailbox()

    async def later(dispatch: Dispatch) -> bytes:
        await asyncio.sleep(0)
        return b"2"

    def fails(dispatch: Dispatch) -> bytes:
        raise LookupError("no such order")

    performer = LocalPerformer(
        mailbox,
        {
            "shop-ops": lambda dispatch: [StepDone(step=A)],
            "shop-later": later,
            "shop-fails": fails,
            "shop-suspends": lambda dispatch: Suspended(dispatch.job, 3),
        },
    )
    for slug in ("shop-ops", "shop-later", "shop-fails", "shop-suspends", "shop-nobody"):
        performer.perform(a_dispatch(slug=slug, job=JobId(slug)))
    await mailbox.wait(5)
    found = {job: message for _, job, _, message in mailbox.messages}
    assert isinstance(ops := found[JobId("shop-ops")], Replied)
    assert ops.ops == (StepDone(step=A),)
    assert isinstance(returned := found[JobId("shop-later")], Returned)
    assert returned.output == b"2"
    assert isinstance(raised := found[JobId("shop-fails")], Raised)
    assert raised.error == b'{"message":"no such order","name":"LookupError"}'
    assert found[JobId("shop-suspends")] == Suspended(JobId("shop-suspends"), 3)
    assert isinstance(found[JobId("shop-nobody")], Raised)
    await performer.close()


async def test_a_stopped_call_says_nothing_and_hints_are_heard() -> None:
    mailbox = Mailbox()
    performer = LocalPerformer(mailbox, lambda dispatch: b"1")
    performer.perform(a_dispatch())
    performer.stop(JobId("J"), "cancelled")
    performer.ended(JobId("J"))
    performer.acknowledge(JobId("J"), 1, 2)
    await asyncio.sleep(0.01)
    assert mailbox.messages == []
    assert performer.heard == [("stop", "J", "cancelled"), ("ended", "J"), ("acknowledged", "J", 1, 2)]
    await performer.close()
    performer.perform(a_dispatch())
    assert len(performer.performed) == 1


async def test_every_performer_is_one() -> None:
    async def register(service: object) -> Registered:
        return Registered(False)

    def deliver(*_: object) -> None: ...

    performers: list[Performer] = [
        HttpPerformer(deliver),
        SocketPerformer(deliver, register),
        LocalPerformer(deliver, lambda dispatch: b"1"),
    ]
    for performer in performers:
        performer.deliver_result(JobId("J"), Memo(A, "data", b"1"), 1)
        performer.deliver_retry(JobId("J"), A, 1, 1)
        performer.acknowledge(JobId("J"), 1, 1)
        performer.stop(JobId("J"), "stale")
        performer.ended(JobId("J"))
        await performer.close()
