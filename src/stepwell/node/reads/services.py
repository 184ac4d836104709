"""Services: the programs that serve functions. All of it is in the memory of the node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.model.event import DEV_ENV

if TYPE_CHECKING:
    from stepwell.model.function import Function, Service
    from stepwell.node.registry import Registry


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A service and the functions that it serves now, without those it once had."""

    service: Service
    functions: tuple[Function, ...]

    @property
    def healthy(self) -> bool:
        """Whether the last attempt to reach or register it went well."""
        return self.service.error is None


def list_services(registry: Registry, env: str = DEV_ENV) -> list[ServiceView]:
    """By name."""
    return [_view(service) for service in registry.services() if service.env == env]


def find_service(registry: Registry, name: str, env: str = DEV_ENV) -> ServiceView | None:
    service = registry.service(env, name)
    return _view(service) if service is not None else None


def service_with_id(registry: Registry, service_id: str, env: str = DEV_ENV) -> ServiceView | None:
    """A service by the UUID that the API shows."""
    return next((one for one in list_services(registry, env) if one.service.id == service_id.lower()), None)


def service_at(registry: Registry, url: str, env: str = DEV_ENV) -> ServiceView | None:
    """The service that is reached under a URL."""
    return next((one for one in list_services(registry, env) if one.service.url == url), None)


def _view(service: Service) -> ServiceView:
    return ServiceView(service, tuple(one for one in service.functions if not one.archived))
