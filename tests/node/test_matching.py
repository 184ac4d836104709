"""A wait that looks back over more events than one page of the store has, and what an invocation starts."""

from __future__ import annotations

import pytest

from stepwell.model.event import DEV_ENV, INVOKED
from stepwell.model.function import Function, Service, Transport, Trigger
from stepwell.model.op import Invoke
from stepwell.node import matching
from stepwell.testing.node import InMemoryNode
from tests.node.cases import DAY_MS, a, names, reply, service, wait


@pytest.mark.parametrize("gap_ms", [0, 1], ids=["all at one moment", "one after another"])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 8, 9])
def test_a_wait_takes_each_event_that_came_before_it_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch, number: int, gap_ms: int
) -> None:
    monkeypatch.setattr(matching, "LOOK_BACK_PAGE", 2)
    node = InMemoryNode(service())
    node.send("go/f")
    (call,) = node.worker.calls
    for n in range(number):
        node.send("paid", {"n": n})
        node.pass_time(milliseconds=gap_ms)
    waits = [wait(f"w{n}", "paid") for n in range(number + 1)]
    reply(node, call, *waits)

    run = node.do(node.node.turns.run(call.run))
    assert run is not None
    outputs = [step.output for step in run.steps.values() if isinstance(step.output, bytes)]
    assert sorted(output[9:14] for output in outputs if b'"n"' in output) == [b'"n":%d' % n for n in range(number)]
    assert names(node).count("StepCompleted") == number
    assert not any(job.kind == "look" for job in node.store.job_rows.values())


def test_events_of_one_moment_that_fill_a_page_do_not_hide_those_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "LOOK_BACK_PAGE", 3)
    node = InMemoryNode(service())
    node.send("go/f")
    (call,) = node.worker.calls
    node.send("paid", {"n": 0})
    for moment in range(1, 4):
        node.pass_time(milliseconds=1)
        for _ in range(5):
            node.send("paid", {"n": moment})
    reply(node, call, *(wait(f"w{n}", "paid") for n in range(16)))

    assert names(node).count("StepCompleted") == 16


def invoke(name: str, function: str) -> Invoke:
    return Invoke(step=a(name), name=name, function=function, data=b'{"order":7}', for_ms=DAY_MS)


def watched(**conditions: str | None) -> Service:
    """The functions `f` and `child`, and those that invocations trigger, each on its condition."""
    triggers = {slug: Trigger(event=f"go/{slug}") for slug in ("f", "child")}
    triggers |= {slug: Trigger(event=INVOKED, expression=condition) for slug, condition in conditions.items()}
    functions = tuple(
        Function(slug=slug, name=slug, service="shop", triggers=(trigger,)) for slug, trigger in triggers.items()
    )
    return Service(name="shop", transport=Transport.HTTP, functions=functions)


def test_an_invocation_starts_the_functions_it_triggers_and_the_invoked_one_once() -> None:
    other, this = ("event.data._inngest.fn_id == 'other'", "event.data._inngest.fn_id == 'child'")
    node = InMemoryNode(watched(child=None, watcher=None, picky=this, elsewhere=other))
    node.send("go/f")
    (call,) = node.worker.calls
    reply(node, call, invoke("one", "child"))

    started = {str(run.function): run for run in node.runs()}
    assert len(started) == len(node.runs())
    assert started.keys() == {"f", "child", "watcher", "picky"}
    assert {slug for slug, run in started.items() if run.parent is not None} == {"child"}


def test_a_function_is_not_started_by_the_invocations_that_it_makes() -> None:
    node = InMemoryNode(watched(watcher=None))
    node.send("go/f")
    (call,) = node.worker.calls
    reply(node, call, invoke("one", "child"))
    watcher = next(run.id for run in node.runs() if run.function == "watcher")
    (call,) = (call for call in node.worker.calls if call.run == watcher)
    reply(node, call, invoke("two", "child"), invoke("three", "child"))

    assert sorted(run.function for run in node.runs()) == ["child", "child", "child", "f", "watcher"]


def test_who_waits_is_asked_once_for_the_events_of_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    node = InMemoryNode(service())
    node.send("go/f")
    (call,) = node.worker.calls
    reply(node, call, wait("first", "paid"), wait("second", "sent"))
    asked: list[tuple[str, str]] = []
    ask = node.store.wait_paths

    async def noted(env: str, event: str) -> list[str | None]:
        asked.append((env, event))
        return await ask(env, event)

    monkeypatch.setattr(node.store, "wait_paths", noted)
    names_sent = ["other", "paid", "other", "sent", "paid", "other"]
    node.do(node.node.accept(DEV_ENV, [node.event(name, {"n": n}) for n, name in enumerate(names_sent)]))

    assert [event for _, event in asked] == ["other", "paid", "sent"]
    run = node.do(node.node.turns.run(call.run))
    assert run is not None
    taken = {step.name: step.output for step in run.steps.values() if isinstance(step.output, bytes)}
    assert {name: output[9:14] for name, output in taken.items()} == {"first": b'"n":1', "second": b'"n":3'}
