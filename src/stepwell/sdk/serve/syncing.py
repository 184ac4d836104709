"""Telling a server which functions there are: by a request of our own, or inside the answer to its request.

Protocol: sections 3.3 and 3.7 of the Inngest wire protocol. Elsewhere: the bodies (`stepwell.wire.inngest.sync`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stepwell.model.errors import StepwellError
from stepwell.model.payload import decode
from stepwell.sdk.client.exchange import Answer, AsyncExchange
from stepwell.sdk.client.requests import register as ask_to_register
from stepwell.sdk.serve.message import Refusal, respond
from stepwell.sdk.serve.settings import ServeSettings
from stepwell.sdk.version import SDK
from stepwell.wire.inngest.reply import Response
from stepwell.wire.inngest.sync import IN_BAND, OUT_OF_BAND, SYNC_KIND_HEADER, in_band_body, register_body
from stepwell.wire.inngest.text import shortened

if TYPE_CHECKING:
    from stepwell.sdk.service import Service

_PLATFORMS = {
    "VERCEL": "vercel",
    "NETLIFY": "netlify",
    "CF_PAGES": "cloudflare-pages",
    "RENDER": "render",
    "RAILWAY_ENVIRONMENT": "railway",
}


async def register(
    service: Service, settings: ServeSettings, url: str, query: str, about: Mapping[str, str]
) -> Response:
    """Register with the server and pass on what it said.

    Raises:
        Refusal: It did not answer, or did not accept the functions. Its own words are in the message.
    """
    body = register_body(
        service=service.id,
        url=url,
        sdk=SDK,
        functions=service.config(url),
        framework=settings.framework,
        app_version=settings.app_version or service.app_version,
        env=settings.address.env,
        platform=platform(),
    )
    exchange = AsyncExchange(settings.address, SDK)
    try:
        said = await exchange.run(ask_to_register(settings.address, body, query, {**about, "x-inngest-sdk": SDK}))
    except StepwellError as err:
        raise Refusal(500, "registration_failed", str(err)) from err
    finally:
        await exchange.close()
    told = said.json()
    if not said.ok:
        raise Refusal(_status(said), "registration_failed", f"the server refused: {_words(said)}")
    modified = bool(told.get("modified")) if isinstance(told, dict) else False
    message = "Successfully registered"
    return respond(200, {"message": message, "modified": modified}, {**about, SYNC_KIND_HEADER: OUT_OF_BAND})


def answer_in_band(
    service: Service, settings: ServeSettings, url: str, inspection: bytes, about: Mapping[str, str]
) -> Response:
    """Everything that a registration says, as the answer to a signed sync request."""
    body = in_band_body(
        service=service.id,
        url=url,
        sdk=SDK,
        functions=service.config(url),
        inspection=decode(inspection),
        framework=settings.framework,
        app_version=settings.app_version or service.app_version,
        env=settings.address.env,
        platform=platform(),
    )
    empty = respond(200, {}, {**about, SYNC_KIND_HEADER: IN_BAND})
    return Response(200, body, empty.headers)


def platform(environment: Mapping[str, str] = os.environ) -> str | None:
    """Where this program is hosted, as far as the environment tells."""
    return next((name for variable, name in _PLATFORMS.items() if environment.get(variable)), None)


def _status(said: Answer) -> int:
    # A refused key or payload is the caller's to see as such; anything else is a failure to register.
    return said.status if said.status in (400, 401, 403) else 500


def _words(said: Answer) -> str:
    told = said.json()
    if isinstance(told, dict) and isinstance(told.get("error"), str):
        return str(told["error"])
    return shortened(said.body[:1000].decode("utf-8", "replace")) or f"HTTP {said.status}"
