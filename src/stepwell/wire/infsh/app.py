"""Apps and their versions as clients see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.model.app import App, AppFunction, AppVersion, Resources, Variant
from stepwell.wire.infsh.text import instant, short_id


def app_dto(app: App, version: AppVersion, function: str = "") -> dict[str, Any]:
    """An app with the version that was meant, and the function that the reference named."""
    return {
        "id": app.id,
        "short_id": short_id(app.id),
        "created_at": instant(app.created_at),
        "updated_at": instant(app.updated_at),
        "namespace": app.namespace,
        "name": app.name,
        "title": str(version.metadata.get("title", "")),
        "description": version.description,
        "agent_description": str(version.metadata.get("agent_description", "")),
        "category": version.category,
        "images": version.images,
        "tags": [str(one) for one in version.metadata.get("tags") or ()],
        "visibility": "private",
        "version_id": version.id,
        "version": version_dto(version),
        "status": app.status,
        "status_message": app.status_message,
        "resolved_function": function,
    }


def version_dto(version: AppVersion) -> dict[str, Any]:
    default = version.functions.get(version.default_function)
    return {
        "id": version.id,
        "short_id": version.version,
        "created_at": instant(version.created_at),
        "updated_at": instant(version.created_at),
        "metadata": version.metadata,
        "setup_schema": version.setup_schema or None,
        "input_schema": default.input_schema if default is not None else None,
        "output_schema": default.output_schema if default is not None else None,
        "functions": {name: _function(one) for name, one in version.functions.items()},
        "default_function": version.default_function,
        "env": version.variables,
        "kernel": version.kernel,
        "required_secrets": [
            {"key": one.key, "description": one.description, "optional": one.optional} for one in version.secrets
        ],
        "required_credentials": {
            one.key: {"description": one.description, "optional": one.optional} for one in version.integrations
        },
        "resources": _resources(version.resources),
        "variants": _variants(version.variants),
        "checksum": version.checksum,
        "warnings": [],
    }


def _function(function: AppFunction) -> dict[str, Any]:
    return {
        "name": function.name,
        "description": function.description,
        "input_schema": function.input_schema,
        "output_schema": function.output_schema,
        "capabilities": function.capabilities,
        "kind": function.kind,
    }


def _variants(variants: Mapping[str, Variant]) -> dict[str, Any]:
    return {
        name: {"resources": _resources(one.resources) if one.resources is not None else None, "env": one.env}
        for name, one in variants.items()
    }


def _resources(resources: Resources) -> dict[str, Any]:
    return {
        "gpu": {"count": resources.gpus, "vram": resources.vram_bytes, "type": resources.gpu_type or "none"},
        "ram": resources.ram_bytes,
    }
