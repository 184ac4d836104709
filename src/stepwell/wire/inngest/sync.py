"""What a service says about itself: the register payload, the in-band sync and introspection of our own SDK.

Configurations are plain JSON objects as `register.py` reads them; nothing here knows the user's code.

Protocol: sections 3.3, 3.5 and 3.7 of the Inngest wire protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stepwell.wire import signature
from stepwell.wire.inngest.call import call_url
from stepwell.wire.inngest.text import write

SYNC_KIND_HEADER = "x-inngest-sync-kind"
IN_BAND = "in_band"
OUT_OF_BAND = "out_of_band"
SCHEMA_VERSION = "2024-05-24"
CAPABILITIES = {"in_band_sync": "v1", "trust_probe": "v1"}


def function_config(
    *,
    slug: str,
    name: str,
    url: str,
    triggers: Sequence[Mapping[str, Any]],
    retries: int | None = None,
    cancel: Sequence[Mapping[str, Any]] = (),
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The configuration of one function (section 3.4).

    Args:
        slug: `<service>-<function>`, as `register.composite_slug` makes it.
        url: Of the service; `fnId` and `stepId` are added.
        retries: Retries, not attempts; None leaves it to the server.
        cancel: Objects of `event`, `if`, `timeout`.
        options: Further options, such as `concurrency`; those that are None are left out.
    """
    step: dict[str, Any] = {
        "id": "step",
        "name": "step",
        "runtime": {"type": "ws" if url.startswith("ws") else "http", "url": call_url(url, slug, None)},
    }
    if retries is not None:
        step["retries"] = {"attempts": retries}
    config: dict[str, Any] = {"id": slug, "name": name, "triggers": list(triggers), "steps": {"step": step}}
    if cancel:
        config["cancel"] = list(cancel)
    config.update({option: value for option, value in (options or {}).items() if value is not None})
    return config


def register_body(
    *,
    service: str,
    url: str,
    sdk: str,
    functions: Sequence[Mapping[str, Any]],
    framework: str = "",
    app_version: str = "",
    env: str | None = None,
    platform: str | None = None,
) -> bytes:
    """The body of `POST /fn/register`.

    Args:
        sdk: `<language>:v<version>`, such as `stepwell-py:v0.1.0`.
        functions: As `function_config` makes them.
    """
    body: dict[str, Any] = {
        "appName": service,
        "url": url,
        "functions": list(functions),
        "sdk": sdk,
        "framework": framework,
        "v": "0.1",
        "deployType": "ping",
        "capabilities": CAPABILITIES,
    }
    if app_version:
        body["appVersion"] = app_version
    if env or platform:
        body["headers"] = {"env": env, "platform": platform}
    return write(body)


def in_band_body(
    *,
    service: str,
    url: str,
    sdk: str,
    functions: Sequence[Mapping[str, Any]],
    inspection: Mapping[str, Any],
    framework: str = "",
    app_version: str = "",
    env: str | None = None,
    platform: str | None = None,
) -> bytes:
    """The body that answers a signed in-band sync; to be signed in turn.

    Args:
        inspection: The authenticated introspection, as `introspection` makes it.
    """
    language, _, version = sdk.partition(":v")
    return write(
        {
            "app_id": service,
            "appVersion": app_version or None,
            "capabilities": CAPABILITIES,
            "env": env,
            "framework": framework,
            "functions": list(functions),
            "inspection": dict(inspection),
            "platform": platform,
            "sdk_author": "stepwell",
            "sdk_language": language,
            "sdk_version": version,
            "url": url,
        }
    )


def introspection(
    *,
    function_count: int,
    mode: str,
    event_key: str | None = None,
    signing_key: str | None = None,
    signing_key_fallback: str | None = None,
    authenticated: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What `GET {service url}` answers.

    Args:
        mode: `dev` or `cloud`.
        authenticated: Given only when the request's signature was verified: `app_id`, `api_origin`, `env`,
            `framework`, `sdk_language`, `sdk_version`, `serve_origin`, `serve_path` and the like. Hashes of the keys
            are added then, never the keys.
    """
    body: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "function_count": function_count,
        "has_event_key": bool(event_key),
        "has_signing_key": bool(signing_key),
        "has_signing_key_fallback": bool(signing_key_fallback),
        "mode": mode,
    }
    if authenticated is None:
        return body
    return {
        **body,
        **authenticated,
        "authentication_succeeded": True,
        "capabilities": CAPABILITIES,
        "event_key_hash": signature.event_key_hash(event_key) if event_key else None,
        "signing_key_hash": signature.bearer_hash(signing_key) if signing_key else None,
        "signing_key_fallback_hash": signature.bearer_hash(signing_key_fallback) if signing_key_fallback else None,
    }
