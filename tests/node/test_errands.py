"""Requests for functions on real nodes: who makes them, with what, and what of another node's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepwell.model import journal
from stepwell.model.dispatch import Errand
from stepwell.model.ids import RunId, StepId
from stepwell.model.message import CancelAsked, OffloadEnded
from stepwell.model.offload import Exchange, Sealed
from stepwell.model.op import Offload
from stepwell.model.payload import INLINE_LIMIT_BYTES
from stepwell.node.node import NodeSettings
from stepwell.node.turns import Envelope
from stepwell.testing.node import InMemoryNode
from tests.node.cases import a, names, reply, service

SHARING = NodeSettings(search_ms=1000, lease_ms=6000)
SEALED = Sealed("https://example.com/?key=secret")


class Recording:
    """A gateway that remembers what it was told. Jobs keep credentials if it has a `secret`."""

    def __init__(self, secret: str = "") -> None:
        self.secret = secret
        self.sealed: dict[tuple[RunId, StepId], Sealed] = {}
        self.errands: list[Errand] = []
        self.stopped: list[StepId] = []

    def keep(self, run: RunId, step: StepId, sealed: Sealed) -> None:
        self.sealed[run, step] = sealed

    def holds(self, run: RunId, step: StepId) -> bool:
        return (run, step) in self.sealed

    def seal(self, run: RunId, step: StepId, given: Sealed | None) -> bytes | None:
        given = given or self.sealed.get((run, step))
        return f"{self.secret} {given.url}".encode() if self.secret and given is not None else None

    def unseal(self, run: RunId, step: StepId, sealed: bytes) -> str:
        secret, _, url = sealed.decode().partition(" ")
        if secret != self.secret:
            return "the key is not there"
        self.sealed[run, step] = Sealed(url)
        return ""

    def make(self, errand: Errand) -> None:
        self.errands.append(errand)

    def stop(self, run: RunId, step: StepId) -> None:
        self.sealed.pop((run, step), None)
        self.stopped.append(step)

    async def close(self) -> None:
        """Nothing to close."""


def fetch(*, sealed: Sealed | None = None, request: bytes = b'{"url":"https://example.com/"}') -> Offload:
    return Offload(step=a("rates"), name="rates", request=request, sealed=sealed)


def begun(gateway: Recording, *, sealed: Sealed | None = None, **details: Any) -> InMemoryNode:
    """A node whose function has asked for a request."""
    node = InMemoryNode(service(), gateway=gateway, **details)
    node.send("go/f")
    reply(node, node.worker.calls[0], fetch(sealed=sealed))
    return node


def end(node: InMemoryNode, errand: Errand, *, status: int = 200, cut: bool = False, **details: Any) -> None:
    ended = OffloadEnded(errand.step, errand.job, Exchange(job=errand.job, status=status, cut=cut), **details)
    node.node.deliver(errand.run, errand.job, errand.fence, ended)
    node.settle()


def test_a_request_is_made_at_once_and_its_answer_goes_to_the_function() -> None:
    gateway = Recording()
    node = begun(gateway, sealed=SEALED)
    (errand,) = gateway.errands
    assert (errand.step, errand.attempt, errand.fence) == (a("rates"), 0, 1)
    assert gateway.holds(errand.run, errand.step)
    assert not node.worker.calls
    end(node, errand, output=b'{"status_code":200}')
    (call,) = node.worker.calls
    assert [memo.value for memo in call.memos] == [b'{"status_code":200}']
    assert gateway.stopped == [a("rates")]
    assert not gateway.sealed


def test_a_large_request_is_read_from_the_store() -> None:
    node = InMemoryNode(service(), gateway=(gateway := Recording()))
    node.send("go/f")
    request = json.dumps({"url": "https://example.com/", "body": "x" * INLINE_LIMIT_BYTES}).encode()
    reply(node, node.worker.calls[0], fetch(request=request))
    node.settle()
    assert [errand.request for errand in gateway.errands] == [request]


def test_an_answer_that_came_twice_calls_the_function_once() -> None:
    gateway = Recording()
    node = begun(gateway)
    for _ in range(2):
        end(node, gateway.errands[0], output=b"1")
    assert len(node.worker.calls) == 1
    assert names(node).count("StepCompleted") == 1


def test_a_retry_waits_for_its_time_and_keeps_the_credentials_and_changes_the_key() -> None:
    gateway = Recording()
    node = begun(gateway, sealed=SEALED)
    first = gateway.errands[0]
    end(node, first, error=b"{}", retry=True, retry_at=node.now() + 5000)
    node.pass_time(seconds=4)
    assert len(gateway.errands) == 1
    node.pass_time(seconds=2)
    second = gateway.errands[1]
    assert (second.attempt, gateway.holds(second.run, second.step)) == (1, True)
    assert second.key != first.key


@pytest.mark.parametrize(
    ("status", "cut", "same"), [(0, False, True), (200, True, True), (503, False, False), (429, False, False)]
)
def test_a_request_whose_end_is_unknown_is_made_again_under_its_key(status: int, cut: bool, same: bool) -> None:
    node = begun(gateway := Recording())
    for _ in range(2):
        end(node, gateway.errands[-1], status=status, cut=cut, error=b"{}", retry=True, retry_at=node.now() + 1000)
        node.pass_time(seconds=2)
    keys = [errand.key() for errand in gateway.errands]
    assert len(keys) == 3
    assert len(set(keys)) == (1 if same else 3)


def test_the_end_of_a_run_stops_its_request_and_forgets_its_credentials() -> None:
    gateway = Recording()
    node = begun(gateway, sealed=SEALED)
    (run,) = node.runs()
    node.node.turns.post(run.id, Envelope(CancelAsked("enough")))
    node.settle()
    assert gateway.stopped == [a("rates")]
    assert not gateway.sealed


def test_a_node_without_a_gateway_says_so() -> None:
    node = InMemoryNode(service())
    node.send("go/f")
    reply(node, node.worker.calls[0], fetch())
    (call,) = node.worker.calls
    assert b"makes no requests" in call.memos[0].value


def test_another_node_makes_the_request_of_one_that_is_gone_under_the_same_key() -> None:
    gateway, other = Recording(), Recording()
    first = begun(gateway, name="first", settings=SHARING)
    second = InMemoryNode(name="second", store=first.store, scheduler=first.scheduler, settings=SHARING, gateway=other)
    first.world.pause()
    second.pass_time(seconds=20)
    (errand,) = other.errands
    assert errand.key() == gateway.errands[0].key()
    assert errand.job != gateway.errands[0].job
    assert "OffloadLost" in names(second)
    end(second, errand, output=b"1")
    first.world.unpause()
    end(first, gateway.errands[0], output=b"2")  # too late: somebody else's is the result
    first.pass_time(seconds=1)
    assert names(second).count("StepCompleted") == 1


def test_one_without_the_credentials_asks_the_function_for_them() -> None:
    gateway, other = Recording(), Recording()
    first = begun(gateway, name="first", settings=SHARING, sealed=SEALED)
    second = InMemoryNode(name="second", store=first.store, scheduler=first.scheduler, settings=SHARING, gateway=other)
    first.world.pause()
    second.pass_time(seconds=20)
    assert not other.errands
    (call,) = second.worker.calls
    assert call.target is None
    reply(second, call, fetch(sealed=SEALED))
    (errand,) = other.errands
    assert other.holds(errand.run, errand.step)


def test_a_job_that_keeps_the_credentials_needs_no_function_on_another_node() -> None:
    gateway, other = Recording("key"), Recording("key")
    first = begun(gateway, name="first", settings=SHARING, sealed=SEALED)
    second = InMemoryNode(name="second", store=first.store, scheduler=first.scheduler, settings=SHARING, gateway=other)
    first.world.pause()
    second.pass_time(seconds=20)
    (errand,) = other.errands
    assert not second.worker.calls
    assert other.sealed[errand.run, errand.step].url == SEALED.url

    end(second, errand, error=b"{}", retry=True, retry_at=second.now() + 1000)  # and the next job has them too
    third = InMemoryNode(
        name="third", store=first.store, scheduler=first.scheduler, settings=SHARING, gateway=(last := Recording("key"))
    )
    second.world.pause()
    third.pass_time(seconds=20)
    assert [last.holds(one.run, one.step) for one in last.errands] == [True]


def test_credentials_that_cannot_be_opened_are_told_and_asked_for() -> None:
    other = Recording("another")
    first = begun(Recording("key"), name="first", settings=SHARING, sealed=SEALED)
    second = InMemoryNode(name="second", store=first.store, scheduler=first.scheduler, settings=SHARING, gateway=other)
    first.world.pause()
    second.pass_time(seconds=20)
    assert not other.errands
    (call,) = second.worker.calls
    assert call.target is None
    (run,) = second.runs()
    notes = [entry.text for entry in second.journal(run.id) if isinstance(entry, journal.Noted)]
    assert notes == ["the credentials that were kept for its request cannot be opened: the key is not there"]


def test_the_job_of_a_step_with_a_result_is_gone_with_its_credentials() -> None:
    node = begun(gateway := Recording("key"), sealed=SEALED)
    (run,) = node.runs()
    (job,) = node.do(node.store.jobs_of(run.id))
    assert job.sealed == f"key {SEALED.url}".encode()
    end(node, gateway.errands[0], output=b"1")
    assert [one.sealed for one in node.do(node.store.jobs_of(run.id))] == [None]  # of the next call
