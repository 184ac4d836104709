"""What is checked when a service registers."""

from __future__ import annotations

import pytest

from stepwell.model.errors import InvalidInput
from stepwell.model.function import CancelOn, Function, Service, Transport, Trigger
from stepwell.node.registry import check_expressions


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
