"""A service inside a Flask application.

    app = Flask(__name__)
    stepwell.serve.flask(app, service)

Functions run on an event loop in a thread beside Flask's; the request's own thread waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.sdk.serve.background import run_in_background
from stepwell.sdk.serve.handler import Handler
from stepwell.sdk.serve.message import LARGEST_BODY_BYTES, Request, lower_case, too_large
from stepwell.sdk.serve.settings import DEFAULT_PATH, serve_settings

if TYPE_CHECKING:
    from flask import Blueprint, Flask
    from flask import Response as FlaskResponse

    from stepwell.sdk.service import Service


def flask(app: Flask | Blueprint, service: Service, *, path: str = DEFAULT_PATH, **options: Any) -> None:
    """Add the endpoint of `service` to `app` at `path`.

    Args:
        options: The arguments of `serve_settings`: `url`, `dev`, `signing_key`, `serve_origin` and so on.
    """
    options.setdefault("framework", "flask")
    handler = Handler(service, serve_settings(**options))

    def endpoint() -> FlaskResponse:
        from flask import Response as FlaskResponse
        from flask import request

        if (request.content_length or 0) > LARGEST_BODY_BYTES:
            answer = too_large().response()
        else:
            asked = Request(
                "GET" if request.method == "HEAD" else request.method,
                request.url,
                lower_case(request.headers.items()),
                request.get_data(cache=False),
            )
            answer = run_in_background(handler.handle(asked))
        return FlaskResponse(answer.body, answer.status, dict(answer.headers))

    app.add_url_rule(path, f"stepwell-{service.id}", endpoint, methods=["GET", "POST", "PUT"])
