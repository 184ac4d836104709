"""Functions, as their services registered them. All of it is in the memory of the node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.model.event import DEV_ENV

if TYPE_CHECKING:
    from stepwell.model.function import Function
    from stepwell.node.registry import Registry

_FAILURE = "-failure"  # official SDKs register the handler of a function's failure under this ending


def list_functions(registry: Registry, env: str = DEV_ENV, service: str | None = None) -> list[Function]:
    """The functions that events can start, by slug; of one service when given."""
    return [one for one in registry.functions(env) if service is None or one.service == service]


def find_function(registry: Registry, slug: str, env: str = DEV_ENV) -> Function | None:
    """A function by its slug; also an archived one, whose runs are still shown."""
    return registry.function(env, slug)


def function_with_id(registry: Registry, function_id: str, env: str = DEV_ENV) -> Function | None:
    """A function by the UUID that the API shows."""
    for service in registry.services():
        for one in service.functions:
            if service.env == env and one.id == function_id.lower():
                return registry.function(env, one.slug)
    return None


def failure_handler(registry: Registry, function: Function) -> Function | None:
    """The function that is told when runs of this one fail."""
    found = registry.function(function.env, function.slug + _FAILURE)
    return found if found is not None and not found.archived else None
