"""A wait that looks back over more events than one page of the store has."""

from __future__ import annotations

import pytest

from stepwell.node import matching
from stepwell.testing.node import InMemoryNode
from tests.node.cases import names, reply, service, wait


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
