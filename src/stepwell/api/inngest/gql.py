"""`POST /v0/gql`: where GraphQL requests come in. What they mean is `graphql.py` and the files named after it.

Protocol: section 8.5 of the Inngest wire protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, Response

from stepwell.api import answers
from stepwell.api.inngest.graphql import PLAYGROUND, execute
from stepwell.api.keys import Access
from stepwell.api.routes import Ask, Route
from stepwell.model.errors import StepwellError

if TYPE_CHECKING:
    from stepwell.api.inngest.graphql import SyncApp


def routes() -> list[Route]:
    return [
        Route("POST", "/v0/gql", query),
        Route("GET", "/v0/gql", playground, Access.DEVELOPMENT),
        Route("GET", "/v0", playground, Access.DEVELOPMENT),
    ]


async def query(ask: Ask) -> Response:
    """Always 200 once the caller may ask; what went wrong is in `errors`."""
    site = ask.site
    try:
        body = await ask.json()
    except StepwellError as err:
        if err.http_status not in {400, 413}:
            raise
        return answers.json({"data": None, "errors": [{"message": str(err)}]})
    sync: SyncApp | None = site.sync.ask if site.sync is not None else None
    hidden = site.redaction
    return answers.json(await execute(site.node, body, env=site.env, sync=sync, running=site.running, redaction=hidden))


async def playground(ask: Ask) -> Response:
    del ask
    return HTMLResponse(PLAYGROUND)
