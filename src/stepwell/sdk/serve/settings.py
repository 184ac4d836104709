"""How a service is served: which keys, in which mode, under which address.

Signatures are verified unless the mode is *dev*. There is no way to be open to everybody by forgetting
something: without a key, and without dev being asked for, calls are refused and the answer says what to set.

    STEPWELL_DEV                    `1` for development, `0` for production; else INNGEST_DEV, which may be a URL
    STEPWELL_SIGNING_KEY            else INNGEST_SIGNING_KEY; with ..._FALLBACK while keys are changed
    STEPWELL_SERVE_ORIGIN, _PATH    else INNGEST_SERVE_ORIGIN (or _HOST), _PATH: where the server calls
    STEPWELL_ALLOW_IN_BAND_SYNC     `0` registers with a request of our own only; else INNGEST_...

Protocol: sections 1.2 and 1.3 of the Inngest wire protocol. Elsewhere: the server's address (`client/address.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from stepwell.model.errors import ConfigurationError
from stepwell.sdk.client.address import Address, address_of, first
from stepwell.wire.signature import check_key

DEV = "dev"
CLOUD = "cloud"

DEFAULT_PATH = "/api/inngest"
"""Where the adapters put the endpoint; servers look there by themselves in development (section 3.6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """What `serve_settings` found. `keys` are tried in order to verify a request."""

    address: Address
    dev: bool = False
    keys: tuple[str, ...] = field(default=(), repr=False)
    origin: str | None = None
    path: str | None = None
    in_band: bool = True
    framework: str = ""
    app_version: str = ""

    @property
    def mode(self) -> str:
        return DEV if self.dev else CLOUD


def serve_settings(
    *,
    url: str | None = None,
    dev: bool | None = None,
    signing_key: str | None = None,
    event_key: str | None = None,
    serve_origin: str | None = None,
    serve_path: str | None = None,
    framework: str = "",
    app_version: str = "",
    environment: Mapping[str, str] | None = None,
) -> ServeSettings:
    """Read the settings; what is None comes from the environment.

    Args:
        url: Of the server.
        dev: True accepts unsigned requests and is for one's own machine only.
        signing_key: `signkey-<env>-<hex>` or bare hex, the same as the server's.
        serve_origin: Scheme and host under which the server reaches this program. Needed behind a proxy that
            changes them, and to accept unsigned sync requests in production.
        serve_path: Path of the endpoint, if a proxy changes it.

    Raises:
        ConfigurationError: A key or an address that cannot be used.
    """
    found = os.environ if environment is None else environment
    keys = (
        signing_key or first(found, "STEPWELL_SIGNING_KEY", "INNGEST_SIGNING_KEY"),
        first(found, "STEPWELL_SIGNING_KEY_FALLBACK", "INNGEST_SIGNING_KEY_FALLBACK"),
    )
    for key in filter(None, keys):
        try:
            check_key(key)
        except ValueError as err:
            raise ConfigurationError(str(err)) from err
    origin = serve_origin or first(
        found, "STEPWELL_SERVE_ORIGIN", "INNGEST_SERVE_ORIGIN", "STEPWELL_SERVE_HOST", "INNGEST_SERVE_HOST"
    )
    if origin and "://" not in origin:
        origin = f"https://{origin}"
    return ServeSettings(
        # The signing key is the API's credential here, and rotates together with the one that verifies.
        address=address_of(url, api_key=signing_key, event_key=event_key, environment=found),
        dev=_dev(found) if dev is None else dev,
        keys=tuple(dict.fromkeys(key for key in keys if key)),
        origin=origin.rstrip("/") or None,
        path=serve_path or first(found, "STEPWELL_SERVE_PATH", "INNGEST_SERVE_PATH") or None,
        in_band=_true(first(found, "STEPWELL_ALLOW_IN_BAND_SYNC", "INNGEST_ALLOW_IN_BAND_SYNC") or "1"),
        framework=framework,
        app_version=app_version,
    )


def _dev(environment: Mapping[str, str]) -> bool:
    return _true(first(environment, "STEPWELL_DEV", "INNGEST_DEV"))


def _true(text: str) -> bool:
    return text.lower() not in {"", "0", "false", "no", "off"}
