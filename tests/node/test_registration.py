"""What is checked when a service registers."""

from __future__ import annotations

import pytest

from stepwell.model.errors import InvalidInput
from stepwell.model.function import CancelOn, Function, Service, Transport, Trigger
from stepwell.node.matching import REGISTRY_MS
from stepwell.node.node import NodeSettings
from stepwell.node.registry import check_expressions
from stepwell.testing.node import InMemoryNode


def service(*functions: Function) -> Service:
    return Service(name="shop", transport=Transport.HTTP, functions=functions)


def function(slug: str, expression: str | None, cancel: str | None = None) -> Function:
    cancel_on = (CancelOn("shop/stop", cancel),) if cancel is not None else ()
    return Function(
        slug=slug, name=slug, service="shop", triggers=(Trigger("shop/go", expression),), cancel_on=cancel_on
    )


def test_conditions_that_compile_are_accepted() -> None:
    check_expressions(service(function("a", None), function("b", "size(event.data.items) > 1", "async.data.x == 1")))


def test_every_condition_that_does_not_compile_is_named() -> None:
    with pytest.raises(InvalidInput) as refused:
        check_expressions(service(function("a", "event.data.x ="), function("b", None, "async.data.")))
    assert "function 'a', trigger 'shop/go'" in str(refused.value)
    assert "function 'b', cancelled by 'shop/stop'" in str(refused.value)


def test_a_cancelling_condition_may_not_call_functions() -> None:
    with pytest.raises(InvalidInput, match="calls a function"):
        check_expressions(service(function("a", None, "size(async.data.items) > 1")))


def test_who_registers_what_somebody_else_registers_just_now_waits_until_every_node_knows() -> None:
    settings = NodeSettings(search_ms=1_000)
    node = InMemoryNode(name="a", settings=settings)
    other = InMemoryNode(name="b", store=node.store, scheduler=node.scheduler, settings=settings)
    node.pass_time(seconds=10)
    answered: list[tuple[bool, int]] = []

    async def register(at: InMemoryNode) -> None:
        modified = await at.node.register(service(function("a", None)))
        answered.append((modified, node.now()))

    begun = node.now()
    for one in (node, node, other):
        one.world.spawn(register(one))
    node.pass_time(seconds=1)
    assert [modified for modified, _ in answered] == [True, False, False]
    assert all(at - begun > REGISTRY_MS for _, at in answered)
    node.pass_time(seconds=10)
    again = node.now()
    node.world.spawn(register(node))
    node.settle()
    assert answered[3:] == [(False, again)]  # long known
