"""A service inside a FastAPI application.

    app = FastAPI()
    stepwell.serve.fastapi(app, service)

The endpoint stands beside FastAPI's own routes and not among them: dependencies of the application, which a
server knows nothing of, do not apply to it. Its signature protects it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.sdk.serve.asgi import asgi
from stepwell.sdk.serve.settings import DEFAULT_PATH

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI

    from stepwell.sdk.service import Service


def fastapi(app: FastAPI | APIRouter, service: Service, *, path: str = DEFAULT_PATH, **options: Any) -> None:
    """Add the endpoint of `service` to `app` at `path`.

    Args:
        options: The arguments of `serve_settings`: `url`, `dev`, `signing_key`, `serve_origin` and so on.
    """
    options.setdefault("framework", "fastapi")
    router: Any = getattr(app, "router", app)
    router.add_route(path, asgi(service, **options), methods=["GET", "POST", "PUT"], include_in_schema=False)
