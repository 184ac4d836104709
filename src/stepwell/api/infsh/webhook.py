"""What a webhook is sent: the whole task, as anybody gets it who asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.api.answers import encode
from stepwell.api.infsh.views import view_of
from stepwell.model.errors import NotFound
from stepwell.model.ids import RunId
from stepwell.wire.infsh import task as dto

if TYPE_CHECKING:
    from stepwell.api.site import Site


async def webhook_of(site: Site, env: str, task: str) -> tuple[str, bytes] | None:
    """URL and body; None if there is no such task, if it has no webhook, or if it goes on."""
    if env != site.env:
        return None
    try:
        view = await view_of(site, RunId(task))
    except NotFound:
        return None
    if not view.request.webhook or not view.status.final:
        return None
    return view.request.webhook, encode(dto.whole(view))
