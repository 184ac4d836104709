"""Reruns on a real node in virtual time: one commit, calls of both kinds, retention, and texts that are shared."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.engine.rerun import Recorded, recorded_steps
from stepwell.model import journal, message, op
from stepwell.model.dispatch import Memo
from stepwell.model.errors import Conflict
from stepwell.model.function import CancelOn, Concurrency, Transport
from stepwell.model.ids import RunId
from stepwell.model.offload import FETCH, Sealed
from stepwell.model.payload import INLINE_LIMIT_BYTES, canonical, decode
from stepwell.node.auditor import audit_run
from stepwell.node.rerun import Rerun
from stepwell.node.retention import Keep, Retention
from stepwell.store.base import StoredRun
from stepwell.testing.node import InMemoryNode
from tests.node.cases import a, done, reply, report, service

LARGE = canonical("x" * (INLINE_LIMIT_BYTES + 1))


def stored(node: InMemoryNode, run: RunId) -> StoredRun:
    found = node.do(node.store.load_run(run))
    assert found is not None
    return found


def again(node: InMemoryNode, run: RunId, name: str = "", edited: bytes | None = None, key: str = "") -> Rerun:
    old = stored(node, run)
    step: Recorded | None = recorded_steps(old.entries)[a(name)] if name else None
    return node.do(node.node.rerun(old, step=step, edited=edited, key=key))


def a_run(node: InMemoryNode, *steps: op.StepDone) -> RunId:
    """A run over HTTP that did these steps and returned."""
    node.send("go/f", {"n": 1})
    run = node.runs()[-1].id
    for step in steps:
        (call,) = node.worker.calls
        reply(node, call, step)
    (call,) = node.worker.calls
    node.answer(call, message.Returned(call.job, b"1", version=2))
    return run


def check(node: InMemoryNode, run: RunId) -> None:
    found = audit_run(
        node.store.run_rows[run],
        node.journal(run),
        node.store.jobs_by_run.get(run, {}).values(),
        node.store.waits_by_run.get(run, {}).values(),
    )
    assert found == []


@pytest.mark.parametrize("transport", [Transport.HTTP, Transport.SOCKET])
def test_the_first_call_has_what_is_kept_and_the_edited_input(transport: Transport) -> None:
    node = InMemoryNode(service(transport))
    if transport is Transport.HTTP:
        old = a_run(node, done("a"), done("b"), done("c"))
    else:
        node.send("go/f")
        old = node.runs()[0].id
        (call,) = node.worker.calls
        report(node, call, 1, done("a"), done("b"), done("c"))
        node.answer(call, message.Returned(call.job, b"1"))
    made = again(node, old, "b", b'["new"]')
    assert made.kept == 1
    (call,) = node.worker.calls
    assert (call.run, call.live) == (made.run, transport is Transport.SOCKET)
    assert call.memos == (Memo(a("a"), "data", b"1", "a"), Memo(a("b"), "input", b'["new"]', "b"))
    assert call.stack == (a("a"),)
    check(node, made.run)


def test_the_input_is_given_with_every_call_until_there_is_a_result() -> None:
    node = InMemoryNode(service())
    made = again(node, a_run(node, done("a"), done("b")), "b", b"[2]")
    (call,) = node.worker.calls
    reply(node, call, op.StepErrored(step=a("b"), name="b", error=b"{}"))
    node.pass_time(minutes=5)
    (call,) = node.worker.calls
    assert [memo.shape for memo in call.memos] == ["data", "input"]
    reply(node, call, done("b"))
    (call,) = node.worker.calls
    assert [memo.shape for memo in call.memos] == ["data", "data"]
    check(node, made.run)


@pytest.mark.parametrize(("result", "given"), [(LARGE, b"[1]"), (b"1", b"[%b]" % LARGE), (LARGE, b"[%b]" % LARGE)])
def test_large_texts_are_loaded_for_the_call(result: bytes, given: bytes) -> None:
    node = InMemoryNode(service())
    again(node, a_run(node, done("a", result), done("b")), "b", given)
    (call,) = node.worker.calls
    assert call.load_memos is not None
    assert call.memos == ()
    memos = node.do(_await(call.load_memos))
    assert [(memo.shape, memo.value) for memo in memos] == [("data", result), ("input", given)]


async def _await(load: Any) -> Any:
    return await load()


def test_the_texts_of_a_run_that_was_removed_stay_with_its_rerun() -> None:
    node = InMemoryNode(service())
    old = a_run(node, done("a", LARGE), done("b"))
    made = again(node, old, "b")
    keep = Keep(runs_ms=60_000)
    sweeper = Retention(node.store, node.world, "node", keep, loose_ms=0)
    node.pass_time(minutes=5)
    node.do(sweeper.sweep())
    node.pass_time(minutes=5)
    node.do(sweeper.sweep())
    assert old not in node.store.run_rows
    (call,) = node.worker.calls
    assert call.run == made.run
    assert call.load_memos is not None
    assert node.do(_await(call.load_memos))[0].value == LARGE
    check(node, made.run)


def test_a_request_is_changed_when_the_function_asks_for_it_and_its_credentials_stay() -> None:
    node = InMemoryNode(service())
    request = canonical({"url": "https://shop.example/a", "method": "GET", "headers": {"X-Key": "***"}})
    asked = op.Offload(
        step=a("get"),
        name="get",
        request=request,
        kind=FETCH,
        sealed=Sealed("https://shop.example/a", (("X-Key", "k"),)),
    )
    node.send("go/f")
    (call,) = node.worker.calls
    reply(node, call, asked)  # nobody makes requests here, so it fails
    (call,) = node.worker.calls
    node.answer(call, message.Returned(call.job, b"1", version=2))
    old = node.runs()[0].id
    made = again(node, old, "get", canonical({"method": "POST", "body": "b"}))
    (call,) = node.worker.calls
    assert call.memos == ()  # the function asks for it as ever
    reply(node, call, asked)
    (started,) = [entry for entry in node.journal(made.run) if isinstance(entry, journal.OffloadStarted)]
    assert isinstance(started.request, bytes)
    assert decode(started.request) == decode(request) | {"method": "POST", "body": "b"}
    assert started.sealed
    assert b'"k"' not in b"".join(canonical(str(entry)) for entry in node.journal(made.run))


def test_one_key_makes_one_run_for_a_day() -> None:
    node = InMemoryNode(service())
    old = a_run(node, done("a"))
    first, twice = again(node, old, key="k"), again(node, old, key="k")
    assert (twice.run, twice.doubled) == (first.run, True)
    assert len(node.runs()) == 2
    node.pass_time(hours=25)
    assert again(node, old, key="k").run != first.run


def test_a_rerun_is_cancelled_by_events_from_its_own_beginning_on() -> None:
    node = InMemoryNode(service(cancel_on=(CancelOn(event="stop"),)))
    old = a_run(node, done("a"))
    made = again(node, old, "a")
    node.send("stop")
    assert node.store.run_rows[made.run].status.value == "CANCELLED"


def test_a_rerun_of_a_child_wakes_no_parent() -> None:
    node = InMemoryNode(service(Transport.HTTP, "parent", "child"))
    node.send("go/parent")
    (call,) = node.worker.calls
    reply(node, call, op.Invoke(step=a("call"), name="call", function="child"))
    (call,) = node.worker.calls
    child = call.run
    node.answer(call, message.Returned(call.job, b"1", version=2))
    (call,) = node.worker.calls
    node.answer(call, message.Returned(call.job, b"2", version=2))
    made = again(node, child)
    assert node.store.run_rows[made.run].parent is None
    (call,) = node.worker.calls
    node.answer(call, message.Returned(call.job, b"3", version=2))
    assert node.store.run_rows[made.run].status.value == "COMPLETED"
    assert not node.store.job_rows


def test_what_cannot_be_made_again_is_refused_and_stores_nothing() -> None:
    node = InMemoryNode(service())
    node.send("go/f")
    (running,) = node.runs()
    with pytest.raises(Conflict, match="has not ended"):
        again(node, running.id)
    node.do(node.node.cancel(running.id, "enough"))
    node.do(node.node.forget(running.env, "shop"))
    with pytest.raises(Conflict, match="no service has the function 'f'"):
        again(node, running.id)
    assert len(node.runs()) == 1


@pytest.mark.parametrize("limits", [{"concurrency": (Concurrency(1),)}, {"run_concurrency": (Concurrency(1),)}])
def test_a_rerun_counts_for_the_limits_of_its_function(limits: dict[str, Any]) -> None:
    node = InMemoryNode(service(Transport.HTTP, **limits))
    old = a_run(node, done("a"), done("b"))
    node.send("go/f", {"n": 2})
    (busy,) = node.worker.calls
    made = again(node, old, "b", b'["new"]')
    assert [call.run for call in node.worker.calls] == [busy.run]
    check(node, made.run)
    node.answer(busy, message.Returned(busy.job, b"1"))
    (call,) = node.worker.calls
    assert (call.run, call.target) == (made.run, a("b"))
    check(node, made.run)
