"""The services and functions that this node knows, in memory; the store has the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stepwell.engine import cron, expr
from stepwell.engine.match import starts, trigger_names
from stepwell.model.errors import InvalidInput
from stepwell.model.function import Transport
from stepwell.model.job import route_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from stepwell.model.function import Function, Service, Trigger
    from stepwell.model.ids import Instant
    from stepwell.store.base import Store


class Registry:
    """Looked up on every event and every turn, replaced as a whole when a service registers."""

    def __init__(self) -> None:
        self._services: dict[tuple[str, str], Service] = {}
        self._functions: dict[tuple[str, str], Function] = {}
        self._by_trigger: dict[tuple[str, str], tuple[Function, ...]] = {}
        self._scheduled: tuple[tuple[Function, Trigger], ...] = ()
        self._conditional: tuple[Function, ...] = ()
        self._open_routes: tuple[str, ...] = ()
        self._live: set[tuple[str, str]] = set()
        self._connected: set[tuple[str, str]] = set()
        self._envs_with_apps: tuple[str, ...] = ()
        self._changes = 0
        self.refreshed_at: Instant = 0

    @property
    def changes(self) -> int:
        """How often what is known has changed."""
        return self._changes

    def load(self, services: Iterable[Service]) -> None:
        """Know exactly these services."""
        self._services = {(service.env, service.name): service for service in services}
        self._index()

    async def refresh(self, store: Store, now: Instant) -> None:
        """Know what other nodes registered since."""
        changes = self._changes
        services = await store.services()
        self.refreshed_at = now
        if changes != self._changes:
            return  # somebody registered here while we read
        if {(service.env, service.name): service for service in services} != self._services:
            self.load(services)

    def put(self, service: Service) -> None:
        self._services[service.env, service.name] = service
        self._index()

    def remove(self, env: str, name: str) -> None:
        self._services.pop((env, name), None)
        self._index()

    def services(self) -> list[Service]:
        return sorted(self._services.values(), key=lambda service: (service.env, service.name))

    def service(self, env: str, name: str) -> Service | None:
        return self._services.get((env, name))

    def function(self, env: str, slug: str) -> Function | None:
        """A function by slug; also one that its service no longer has, as long as runs may need it."""
        return self._functions.get((env, slug))

    def functions(self, env: str | None = None) -> list[Function]:
        found = [one for (its_env, _), one in self._functions.items() if env in (None, its_env) and not one.archived]
        return sorted(found, key=lambda function: function.slug)

    def started_by(self, env: str, name: str, event: Mapping[str, Any], now: Instant) -> list[Function]:
        """The functions that an event starts."""
        names = trigger_names(name)
        candidates: dict[str, Function] = {}
        for trigger in names:
            for function in self._by_trigger.get((env, trigger), ()):
                candidates.setdefault(function.slug, function)
        return [function for function in candidates.values() if starts(function, names, event, now)]

    def scheduled(self) -> tuple[tuple[Function, Trigger], ...]:
        """The functions that start by the clock, with each of their schedules."""
        return self._scheduled

    def conditional(self, env: str) -> list[Function]:
        """The functions with a trigger that has a condition."""
        return [function for function in self._conditional if function.env == env]

    def open_routes(self) -> tuple[str, ...]:
        """The routes of the functions that any node can call: it needs neither a worker of theirs nor their files."""
        return self._open_routes

    def is_live(self, env: str, service: str) -> bool:
        """Whether the service's functions stay in its worker's memory, so that losing it costs no attempt."""
        return (env, service) in self._live

    def is_app(self, env: str, service: str) -> bool:
        """Whether it is an app of this server."""
        found = self._services.get((env, service))
        return found is not None and found.transport is Transport.APP

    def apps(self, env: str) -> tuple[str, ...]:
        """The names of the services that are apps of this server, also of those that are gone and had tasks."""
        found = [one.name for one in self._services.values() if one.env == env and one.transport is Transport.APP]
        return tuple(sorted(found))

    def functions_of_apps(self, env: str) -> list[Function]:
        """The functions of the apps of this server, also of versions that were removed."""
        return [one for name in self.apps(env) for one in self._services[env, name].functions]

    def envs_with_apps(self) -> tuple[str, ...]:
        """The environments that have apps of this server."""
        return self._envs_with_apps

    def is_connected(self, env: str, service: str) -> bool:
        """Whether only workers that dialled in to some node can take calls of the service."""
        return (env, service) in self._connected

    def _index(self) -> None:
        self._changes += 1
        self._functions = {}
        by_trigger: dict[tuple[str, str], list[Function]] = {}
        for service in self._services.values():
            for function in service.functions:
                known = self._functions.get((function.env, function.slug))
                if known is not None and function.archived and not known.archived:
                    continue
                self._functions[function.env, function.slug] = function
        for function in self._functions.values():
            if function.archived:
                continue
            for name in {trigger.event for trigger in function.triggers}:
                by_trigger.setdefault((function.env, name), []).append(function)
        self._by_trigger = {key: tuple(functions) for key, functions in by_trigger.items()}
        self._scheduled = tuple(
            (function, trigger)
            for function in self._functions.values()
            if not function.archived
            for trigger in function.triggers
            if trigger.cron is not None
        )
        apps = {key for key, service in self._services.items() if service.transport is Transport.APP}
        self._connected = {key for key, service in self._services.items() if service.transport is Transport.SOCKET}
        self._live = self._connected | apps
        present = self.functions()
        self._conditional = tuple(one for one in present if any(trigger.expression for trigger in one.triggers))
        self._open_routes = tuple(
            route_of(one.env, one.slug) for one in present if (one.env, one.service) not in self._live
        )
        self._envs_with_apps = tuple(sorted({env for env, _ in apps}))


def check_expressions(service: Service) -> None:
    """Raise `InvalidInput` that names every schedule of the service's functions that cannot be read or never comes,
    and every condition that could never be evaluated."""
    wrong = []
    for function in service.functions:
        for position, trigger in enumerate(function.triggers):
            if trigger.cron is not None:
                try:
                    cron.parse(trigger.cron)
                except cron.ScheduleError as err:
                    wrong.append(f"function {function.slug!r}, triggers[{position}].cron: {err}")
            elif problem := _problem(trigger.expression, calls=True):
                wrong.append(f"function {function.slug!r}, trigger {trigger.event!r}: {problem}")
        for one in function.cancel_on:
            if problem := _problem(one.expression, calls=False):
                wrong.append(f"function {function.slug!r}, cancelled by {one.event!r}: {problem}")
        if problem := _problem(function.priority, calls=True):
            wrong.append(f"function {function.slug!r}, priority: run: {problem}")
        for option, rate in (
            ("rateLimit.key", function.rate_limit),
            ("throttle.key", function.throttle),
            ("idempotency", function.idempotency),
            ("debounce.key", function.debounce),
            ("batchEvents.key", function.batch),
        ):
            if rate is not None and (problem := _problem(rate.key, calls=True)):
                wrong.append(f"function {function.slug!r}, {option}: {problem}")
        if function.batch is not None and (problem := _problem(function.batch.condition, calls=True)):
            wrong.append(f"function {function.slug!r}, batchEvents.if: {problem}")
        for limit in (*function.concurrency, *function.run_concurrency):
            if problem := _problem(limit.key, calls=True):
                wrong.append(f"function {function.slug!r}, concurrency: key: {problem}")
    if wrong:
        raise InvalidInput("; ".join(wrong), field="functions")


def _problem(expression: str | None, *, calls: bool) -> str | None:
    """What is wrong with a condition; None if nothing is."""
    if expression is None:
        return None
    try:
        program = expr.compile(expression)
    except expr.ExpressionError as err:
        return str(err)
    if program.uses_calls and not calls:
        return f"{expression!r} calls a function, which the condition of a cancelling event may not"
    return None


def merged(new: Service, old: Service | None, now: Instant) -> tuple[Service, bool]:
    """The service to store when `new` registers over `old`, and whether anything changed.

    Functions that are no longer there are kept as archived: their runs go on, events no longer start them. A
    changed configuration raises the function's version.
    """
    before = {function.slug: function for function in old.functions} if old is not None else {}
    functions = []
    for function in new.functions:
        known = before.pop(function.slug, None)
        version = 1
        if known is not None:
            same = msgspec.structs.replace(function, version=known.version, archived=False) == known
            version = known.version if same else known.version + (not known.archived or known.config != function.config)
        functions.append(msgspec.structs.replace(function, version=version))
    functions.extend(msgspec.structs.replace(gone, archived=True) for gone in before.values())
    result = msgspec.structs.replace(new, functions=tuple(functions), registered_at=now, error=None)
    modified = old is None or msgspec.structs.replace(result, registered_at=old.registered_at) != old
    return result, modified
