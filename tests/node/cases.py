"""Services and short words for tests of nodes."""

from __future__ import annotations

from typing import Any

from stepwell.model import message
from stepwell.model.dispatch import Dispatch
from stepwell.model.function import Function, Service, Transport, Trigger
from stepwell.model.ids import StepId, step_id
from stepwell.model.op import Op, StepDone, StepPlanned, WaitForEvent
from stepwell.testing.node import InMemoryNode

DAY_MS = 86_400_000


def service(transport: Transport = Transport.HTTP, *slugs: str, **details: Any) -> Service:
    functions = tuple(
        Function(slug=slug, name=slug, service="shop", triggers=(Trigger(event=f"go/{slug}"),), **details)
        for slug in slugs or ("f",)
    )
    return Service(name="shop", transport=transport, functions=functions)


def a(name: str) -> StepId:
    return step_id(name)


def done(name: str, output: bytes = b"1", **details: Any) -> StepDone:
    return StepDone(step=a(name), name=name, output=output, **details)


def planned(name: str, **details: Any) -> StepPlanned:
    return StepPlanned(step=a(name), name=name, **details)


def wait(name: str, event: str, for_ms: int = DAY_MS) -> WaitForEvent:
    return WaitForEvent(step=a(name), name=name, event=event, for_ms=for_ms)


def reply(node: InMemoryNode, call: Dispatch, *ops: Op) -> None:
    node.answer(call, message.Replied(call.job, ops, version=2, info=message.CallInfo(started_at=node.now())))


def report(node: InMemoryNode, call: Dispatch, number: int, *ops: Op) -> None:
    node.answer(call, message.Reported(call.job, ops, number))


def names(node: InMemoryNode) -> list[str]:
    """The kinds of entries of the only run."""
    (run,) = node.runs()
    return [type(entry).__name__ for entry in node.journal(run.id)]
