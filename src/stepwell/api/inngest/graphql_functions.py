"""Functions and services in GraphQL, and what their registered configuration says, in the schema's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.api.inngest.graphql_context import Context, Resolvers
from stepwell.model.function import DEFAULT_RETRIES, Function, Transport
from stepwell.model.ids import derived_uuid
from stepwell.model.payload import decode
from stepwell.node.reads import functions, services
from stepwell.node.reads.services import ServiceView

if TYPE_CHECKING:
    from collections.abc import Iterator


# queries


def _function(_: object, context: Context, query: dict[str, Any]) -> Function | None:
    return functions.find_function(context.node.registry, query["functionSlug"], context.env)


def _functions(_: object, context: Context) -> list[Function]:
    return functions.list_functions(context.node.registry, context.env)


def _app(_: object, context: Context, id: str) -> ServiceView | None:
    return services.service_with_id(context.node.registry, id, context.env)


def _apps(_: object, context: Context, filter: dict[str, Any] | None = None) -> list[ServiceView]:
    method = (filter or {}).get("method")
    found = services.list_services(context.node.registry, context.env)
    return [view for view in found if method is None or _method(view, context) == method]


def _connections(_: object, context: Context, **_arguments: Any) -> dict[str, Any]:
    info = {"hasNextPage": False, "hasPreviousPage": False, "startCursor": None, "endCursor": None}
    return {"edges": [], "pageInfo": info, "totalCount": 0}


# a function


def _config(function: Function) -> dict[str, Any]:
    found = decode(function.config)
    return found if isinstance(found, dict) else {}


def _listed(config: dict[str, Any], name: str) -> Iterator[Any]:
    """An option that may be one value or an array of them."""
    value = config.get(name)
    if isinstance(value, list):
        yield from value
    elif value is not None:
        yield value


def _object(config: dict[str, Any], name: str) -> dict[str, Any] | None:
    value = config.get(name)
    return value if isinstance(value, dict) else None


def _triggers(function: Function, context: Context) -> list[dict[str, Any]]:
    return [
        {"type": "CRON", "value": trigger.cron, "condition": None}
        if trigger.cron is not None
        else {"type": "EVENT", "value": trigger.event, "condition": trigger.expression}
        for trigger in function.triggers
    ]


def _concurrency(function: Function, context: Context) -> int:
    """The limit of the function as a whole; 0 means none."""
    return next((one["limit"]["value"] for one in _concurrencies(_config(function)) if one["key"] is None), 0)


def _concurrencies(config: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for value in _listed(config, "concurrency"):
        given = value if isinstance(value, dict) else {"limit": value}
        limit = given.get("limit")
        if isinstance(limit, int):
            scope = str(given.get("scope") or "fn")
            scope = {"fn": "FUNCTION", "env": "ENVIRONMENT", "account": "ACCOUNT"}.get(scope, scope.upper())
            found.append({"scope": scope, "limit": {"value": limit, "isPlanLimit": False}, "key": given.get("key")})
    return found


def _configuration(function: Function, context: Context) -> dict[str, Any]:
    config = _config(function)
    batch, rate, debounce = (_object(config, name) for name in ("batchEvents", "rateLimit", "debounce"))
    throttle, singleton, priority = (_object(config, name) for name in ("throttle", "singleton", "priority"))
    return {
        "cancellations": [
            {"event": one.get("event", ""), "timeout": one.get("timeout"), "condition": one.get("if")}
            for one in _listed(config, "cancel")
            if isinstance(one, dict)
        ],
        "retries": {"value": function.retries, "isDefault": function.retries == DEFAULT_RETRIES},
        "priority": priority.get("run") if priority else None,
        "eventsBatch": batch and {"maxSize": batch.get("maxSize"), "timeout": batch.get("timeout"), **_key(batch)},
        "concurrency": _concurrencies(config),
        "rateLimit": rate and {"limit": rate.get("limit"), "period": rate.get("period"), **_key(rate)},
        "debounce": debounce and {"period": debounce.get("period"), **_key(debounce)},
        "throttle": throttle
        and {
            "limit": throttle.get("limit"),
            "period": throttle.get("period"),
            "burst": throttle.get("burst") or 1,
            **_key(throttle),
        },
        "singleton": singleton and {"mode": singleton.get("mode") or "skip", **_key(singleton)},
    }


def _key(option: dict[str, Any]) -> dict[str, Any]:
    return {"key": option.get("key")}


# a service


def _method(view: ServiceView, context: Context) -> str:
    return "CONNECT" if view.service.transport is Transport.SOCKET else "SERVE"


def _sdk(view: ServiceView) -> tuple[str, str]:
    """Language and version out of `inngest-py:v0.5.19` or `py:v0.5.19`."""
    name, _, version = view.service.sdk.partition(":")
    return name.rpartition("-")[2], version.removeprefix("v")


RESOLVERS: Resolvers = {
    "Query": {
        "function": _function,
        "functionBySlug": _function,
        "functions": _functions,
        "app": _app,
        "apps": _apps,
        "workerConnections": _connections,
        "workerConnection": lambda _, context, connectionId: None,
    },
    "Function": {
        "config": lambda function, context: function.config.decode(),
        "configuration": _configuration,
        "concurrency": _concurrency,
        "triggers": _triggers,
        "app": lambda function, context: context.service(function.service),
        "appID": lambda function, context: derived_uuid("service", function.env, function.service),
        "failureHandler": lambda function, context: functions.failure_handler(context.node.registry, function),
        "isArchived": lambda function, context: function.archived,
    },
    "App": {
        "id": lambda view, context: view.service.id,
        "externalID": lambda view, context: view.service.name,
        "name": lambda view, context: view.service.name,
        "appVersion": lambda view, context: view.service.app_version or None,
        "sdkLanguage": lambda view, context: _sdk(view)[0],
        "sdkVersion": lambda view, context: _sdk(view)[1],
        "framework": lambda view, context: view.service.framework or None,
        "url": lambda view, context: view.service.url or None,
        "checksum": lambda view, context: view.service.checksum or None,
        "error": lambda view, context: view.service.error,
        "connected": lambda view, context: view.healthy,
        "functionCount": lambda view, context: len(view.functions),
        "autodiscovered": lambda view, context: False,
        "method": _method,
        "functions": lambda view, context: list(view.functions),
    },
}
