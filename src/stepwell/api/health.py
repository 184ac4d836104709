"""How this process is doing: one word for load balancers, more for its operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.api import answers
from stepwell.api.answers import instant
from stepwell.api.keys import Access
from stepwell.api.routes import Ask, Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from stepwell.api.site import Site


def routes() -> list[Route]:
    return [Route("GET", "/health", health, Access.OPEN), Route("GET", "/api/status", status)]


async def health(ask: Ask) -> Response:
    """200 while this node takes part, 503 once it stops, cannot reach the store, or others have taken its place."""
    site = ask.site
    ready = site.state == "ready"
    code = 200 if ready else 503
    body = {"status": code, "message": "OK" if ready else f"this server is {site.state}", "state": site.state}
    return answers.json(body, code)


async def status(ask: Ask) -> Response:
    """Durability, queues, refusals, and what the auditor found."""
    site = ask.site
    node = site.node
    return answers.json(
        {
            "version": site.version,
            "kind": site.kind,
            "state": site.state,
            "node": {
                "name": node.name,
                "refused_commits": node.turns.refused,
                "dropped_answers": node.turns.dropped,
            },
            "store": await node.store.status(),
            "requests": {
                "in_progress": site.bodies.requests,
                "body_bytes": site.bodies.bytes,
                "followers": site.watch.followers,
                "refused": dict(sorted(site.counts.items())),
            },
            "services": len(node.registry.services()),
            "functions": len(node.registry.functions(site.env)),
            "auditor": _audited(site),
            "limits": {name: getattr(site.limits, name) for name in type(site.limits).__dataclass_fields__},
        }
    )


def _audited(site: Site) -> dict[str, object] | None:
    """What the last walk over the store found; None before the first."""
    report = site.auditor.latest if site.auditor is not None else None
    if report is None:
        return None
    return {
        "checked_at": instant(report.checked_at),
        "runs": report.runs,
        "findings": [str(one) for one in report.findings],
    }
