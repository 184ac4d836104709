"""A service inside a Starlette application.

stepwell.serve.starlette(app, service)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.sdk.serve.asgi import asgi
from stepwell.sdk.serve.settings import DEFAULT_PATH

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from stepwell.sdk.service import Service


def starlette(app: Starlette, service: Service, *, path: str = DEFAULT_PATH, **options: Any) -> None:
    """Add the endpoint of `service` to `app` at `path`.

    Args:
        options: The arguments of `serve_settings`: `url`, `dev`, `signing_key`, `serve_origin` and so on.
    """
    options.setdefault("framework", "starlette")
    app.router.add_route(path, asgi(service, **options), methods=["GET", "POST", "PUT"], include_in_schema=False)  # type: ignore[arg-type]
