"""How this process is doing, in one word for load balancers. More: `status.py` and `metrics.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.api import answers
from stepwell.api.keys import Access
from stepwell.api.routes import Ask, Route

if TYPE_CHECKING:
    from starlette.responses import Response


def routes() -> list[Route]:
    return [Route("GET", "/health", health, Access.OPEN)]


async def health(ask: Ask) -> Response:
    """200 while this node takes part, 503 once it stops, cannot reach the store, or others have taken its place."""
    site = ask.site
    ready = site.state == "ready"
    code = 200 if ready else 503
    body = {"status": code, "message": "OK" if ready else f"this server is {site.state}", "state": site.state}
    return answers.json(body, code)
