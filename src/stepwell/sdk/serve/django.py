"""A service as a Django view.

    urlpatterns = [path("api/inngest", stepwell.serve.django(service))]

Functions run on an event loop in a thread beside Django's, under WSGI and ASGI alike; the request's own thread
waits. The view needs no CSRF token, because no browser uses it and its signature protects it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stepwell.sdk.serve.background import run_in_background
from stepwell.sdk.serve.handler import Handler
from stepwell.sdk.serve.message import LARGEST_BODY_BYTES, Request, lower_case, too_large
from stepwell.sdk.serve.settings import serve_settings

if TYPE_CHECKING:
    from stepwell.sdk.service import Service


def django(service: Service, **options: Any) -> Callable[[Any], Any]:
    """A view that is the endpoint of `service`.

    Args:
        options: The arguments of `serve_settings`: `url`, `dev`, `signing_key`, `serve_origin` and so on.
    """
    options.setdefault("framework", "django")
    handler = Handler(service, serve_settings(**options))

    def view(request: Any) -> Any:
        from django.http import HttpResponse

        length = request.META.get("CONTENT_LENGTH") or "0"
        if length.isdigit() and int(length) > LARGEST_BODY_BYTES:
            answer = too_large().response()
        else:
            asked = Request(
                "GET" if request.method == "HEAD" else request.method,
                request.build_absolute_uri(),
                lower_case(request.headers.items()),
                request.read(),  # not `body`, whose limit is set for forms
            )
            answer = run_in_background(handler.handle(asked))
        return HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))

    view.csrf_exempt = True  # type: ignore[attr-defined]
    return view
