"""Webhooks on their way: what is sent, how it is signed, what is tried again and what is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stepwell.gateway.policy import Policy
from stepwell.gateway.webhook import DELIVERY, SIGNATURE, Hook, Webhooks
from stepwell.model.dispatch import Dispatch
from stepwell.model.event import DEV_ENV
from stepwell.model.function import Function
from stepwell.model.ids import JobId, RunId
from stepwell.model.message import Message, Raised, Returned
from stepwell.model.payload import canonical, decode
from stepwell.node.hooks import HOOK_FUNCTION, HOOK_SERVICE, hook_event
from stepwell.testing.provider import Provider
from stepwell.wire.signature import SignatureRefused, verify

KEY = "signkey-test-" + "ab" * 32
BODY = canonical({"id": "task", "status": 10})


class Sending:
    """The performer, asked one thing after the other."""

    def __init__(self, *, loopback: bool = True, key: str | None = KEY) -> None:
        self.url: str | None = None
        self.error: Exception | None = None
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        self.webhooks = Webhooks(self._deliver, self._compose, Policy(loopback=loopback), key)

    def _deliver(self, run: RunId, job: JobId, fence: int, message: Message, /) -> None:
        assert (run, job, fence) == ("run", "run.1", 3)
        self._told.put_nowait(message)

    async def _compose(self, env: str, task: str) -> Hook | None:
        assert (env, task) == (DEV_ENV, "task")
        if self.error is not None:
            raise self.error
        return Hook(self.url, BODY) if self.url is not None else None

    async def send(self, url: str | None) -> Any:
        self.url = url
        function = Function(slug=HOOK_FUNCTION, name=HOOK_FUNCTION, service=HOOK_SERVICE, triggers=())
        event = hook_event(RunId("task"), 1)
        self.webhooks.perform(
            Dispatch(job=JobId("run.1"), fence=3, run=RunId("run"), function=function, events=(event,))
        )
        return await asyncio.wait_for(self._told.get(), 20)


@pytest.fixture
async def sending() -> AsyncIterator[Sending]:
    sending = Sending()
    yield sending
    await sending.webhooks.close()


def reason(message: Any) -> str:
    assert isinstance(message, Raised)
    return str(decode(message.error)["message"]) if isinstance(message.error, bytes) else ""


async def test_the_body_arrives_signed(sending: Sending, provider: Provider) -> None:
    told = await sending.send(f"{provider.url}/http/echo?token=t")
    assert isinstance(told, Returned)
    assert (told.output, told.info.status) == (b'{"status":200}', 200)
    (asked,) = provider.requests
    assert (asked.method, asked.body, asked.query) == ("POST", BODY, "token=t")
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers[DELIVERY.lower()] == "run"
    signature = asked.headers[SIGNATURE.lower()]
    assert verify(asked.body, signature, [KEY], now_s=int(time.time())) == KEY
    with pytest.raises(SignatureRefused):
        verify(asked.body + b" ", signature, [KEY], now_s=int(time.time()))


async def test_without_a_key_nothing_is_signed(provider: Provider) -> None:
    sending = Sending(key=None)
    await sending.send(f"{provider.url}/http/echo")
    assert SIGNATURE.lower() not in provider.requests[0].headers
    await sending.webhooks.close()


@pytest.mark.parametrize(
    ("status", "again"), [
        (200, None), (204, None), (301, False), (400, False), (404, False), (410, False),
        (408, True), (425, True), (429, True), (500, True), (503, True),
    ],
)  # fmt: skip
async def test_what_is_tried_again(status: int, again: bool | None, sending: Sending, provider: Provider) -> None:
    told = await sending.send(f"{provider.url}/http/status/{status}")
    if again is None:
        assert isinstance(told, Returned)
    else:
        assert isinstance(told, Raised)
        assert (told.retry, told.info.status) == (again, status)
        assert str(status) in reason(told)
    assert len(provider.requests) == 1


async def test_a_redirect_is_not_followed(sending: Sending, provider: Provider) -> None:
    told = await sending.send(f"{provider.url}/http/redirect/1?status=302")
    assert isinstance(told, Raised)
    assert not told.retry
    assert len(provider.requests) == 1


async def test_nobody_there_is_tried_again(sending: Sending, provider: Provider) -> None:
    told = await sending.send(f"{provider.url}/http/drop")
    assert isinstance(told, Raised)
    assert told.retry


async def test_addresses_that_may_not_be_called_are_not_called(provider: Provider) -> None:
    sending = Sending(loopback=False)
    told = await sending.send(f"{provider.url}/http/echo")
    assert isinstance(told, Raised)
    assert not told.retry
    assert provider.requests == []
    await sending.webhooks.close()


async def test_a_task_that_is_gone_ends_it(sending: Sending) -> None:
    told = await sending.send(None)
    assert isinstance(told, Returned)
    assert b"no such task" in (told.output if isinstance(told.output, bytes) else b"")


async def test_what_cannot_be_put_together_is_tried_again(sending: Sending) -> None:
    sending.error = RuntimeError("the store is away")
    told = await sending.send("https://example.com")
    assert isinstance(told, Raised)
    assert told.retry
    assert "the store is away" in reason(told)


async def test_a_stopped_call_says_nothing(sending: Sending, provider: Provider) -> None:
    sending.url = f"{provider.url}/http/slow?delay_s=5"
    function = Function(slug=HOOK_FUNCTION, name=HOOK_FUNCTION, service=HOOK_SERVICE, triggers=())
    event = hook_event(RunId("task"), 1)
    sending.webhooks.perform(
        Dispatch(job=JobId("run.1"), fence=3, run=RunId("run"), function=function, events=(event,))
    )
    await asyncio.sleep(0.05)
    sending.webhooks.stop(JobId("run.1"), "cancelled")
    assert isinstance(await sending.send(f"{provider.url}/http/echo"), Returned)  # the only thing that was said
