"""What this server is doing, for its operator: one report, as JSON and as a page without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse

from stepwell.api import answers
from stepwell.api.answers import instant
from stepwell.api.routes import Ask, Route

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.responses import Response

    from stepwell.api.site import Site

SHOWN_GONE_MS = 3_600_000
"""How long a node is shown after its lease ran out."""


def routes() -> list[Route]:
    return [Route("GET", "/status", page), Route("GET", "/api/status", status)]


async def status(ask: Ask) -> Response:
    """Durability, nodes, queues, workers, refusals, settings, what was removed, and what the auditor found."""
    return answers.json(await report(ask.site))


async def page(ask: Ask) -> Response:
    """The same for a person, or as JSON for a program that does not ask for a page."""
    told = await report(ask.site)
    if "text/html" not in ask.request.headers.get("accept", ""):
        return answers.json(told)
    return HTMLResponse(_page(told), headers=_HEADERS)


async def report(site: Site) -> dict[str, Any]:
    """Everything that the status tells. Only the store is asked, a few questions."""
    node, store = site.node, site.node.store
    now = node.world.now()
    backlog = await store.backlog(now)
    nodes = [one for one in await store.known_nodes() if one.lease_until > now - SHOWN_GONE_MS]
    return {
        "version": site.version,
        "kind": site.kind,
        "state": site.state,
        "at": instant(now),
        "uptime_s": round(site.uptime_s, 1),
        "node": {
            "name": node.name,
            "refused_commits": node.turns.refused,
            "dropped_answers": node.turns.dropped,
        },
        "nodes": [
            {"name": one.name, "lease_until": instant(one.lease_until), "alive": one.lease_until > now} for one in nodes
        ],
        "store": await store.status(),
        "queue": {
            "due": backlog.due,
            "oldest_due_lag_ms": 0 if backlog.oldest_due is None else max(0, now - backlog.oldest_due),
            "waiting_for_limits": backlog.parked,
        },
        "workers": [
            {"service": line.service, "connected": line.workers, "waiting_calls": line.waiting} for line in site.lines()
        ],
        "requests": {
            "in_progress": site.bodies.requests,
            "body_bytes": site.bodies.bytes,
            "followers": site.watch.followers,
            "refused": dict(sorted(site.counts.items())),
        },
        "apps": _apps(site),
        "services": len(node.registry.services()),
        "functions": len(node.registry.functions(site.env)),
        "auditor": _audited(site),
        "retention": _swept(site),
        "limits": {name: getattr(site.limits, name) for name in type(site.limits).__dataclass_fields__},
        "settings": dict(site.settings),
    }


def _apps(site: Site) -> dict[str, object] | None:
    """The workers of apps on this machine; None in a server that runs none."""
    if site.app_figures is None:
        return None
    figures = site.app_figures()
    return {
        "isolation": figures.isolation,
        "waiting_calls": figures.waiting,
        "workers_started": figures.started,
        "workers": [
            {
                "id": one.id,
                "app": one.app,
                "state": one.state,
                "pid": one.pid,
                "session": one.session,
                "memory_bytes": one.memory_bytes,
                "tasks": one.tasks,
                "gpus": list(one.gpus),
                "since": instant(one.since),
            }
            for one in figures.workers
        ],
    }


def _audited(site: Site) -> dict[str, object] | None:
    """What the last walk over the store found; None before the first."""
    auditor = site.auditor
    if auditor is None or (latest := auditor.latest) is None:
        return None
    return {
        "checked_at": instant(latest.checked_at),
        "runs": latest.runs,
        "findings": [str(one) for one in latest.findings],
        "found_at": [instant(auditor.seen_since.get(one)) for one in latest.findings],
    }


def _swept(site: Site) -> dict[str, object] | None:
    """What is kept, and what the last sweep of this node removed."""
    retention = site.retention
    if retention is None:
        return None
    keep, latest = retention.keep, retention.latest
    return {
        "keep_runs_ms": keep.runs_ms,
        "keep_runs_at_most": keep.most_runs,
        "keep_events_ms": keep.oldest_event_ms,
        "last_sweep": None
        if latest is None
        else {
            "began_at": instant(latest.began_at),
            "duration_ms": latest.ended_at - latest.began_at,
            "runs": latest.runs,
            "events": latest.events,
            "texts": latest.blobs,
        },
    }


# the page

_STYLE = """
:root{color-scheme:light dark;--ink:#1d2330;--soft:#667085;--line:#e3e6ec;--bg:#f6f7f9;--card:#fff;--good:#12805c;
--bad:#c0362c;--warn:#9a6700}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ee;--soft:#98a2b3;--line:#2b3140;--bg:#12151c;--card:#1a1f2a;
--good:#4cc38a;--bad:#ff7b72;--warn:#e0b341}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:68rem;margin:0 auto;padding:2rem 1.25rem 3rem}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:.4rem .9rem;margin-bottom:1.5rem}
h1{font-size:1.35rem;margin:0}
h2{font-size:.95rem;margin:0 0 .6rem}
.state{font-weight:600}.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}.soft{color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.75rem;margin-bottom:.75rem}
.grid{columns:21rem;column-gap:.75rem}
section,.tile{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.9rem 1rem}
.tile{padding-inline:.8rem}
.tile b{display:block;font-size:1.25rem;white-space:nowrap;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.85rem}
section{break-inside:avoid;margin-bottom:.75rem}
section.wide{column-span:all;margin-top:.75rem}
table{border-collapse:collapse;width:100%;font-size:.88rem}
td,th{padding:.28rem .8rem .28rem 0;text-align:left;vertical-align:top;border-top:1px solid var(--line);
overflow-wrap:anywhere}
.tight td{white-space:nowrap}.tight td:first-child{white-space:normal;overflow-wrap:anywhere}
section p{margin:.6rem 0 0}
tr:first-child td,tr:first-child th{border-top:0}
th{font-weight:400;color:var(--soft);width:44%;overflow-wrap:normal}
td.n{text-align:right;font-variant-numeric:tabular-nums}
ul{margin:0;padding-left:1.1rem}
footer{margin-top:1.25rem;font-size:.85rem}
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def _page(told: Mapping[str, Any]) -> str:
    store, queue = told["store"], told["queue"]
    findings = told["auditor"]["findings"] if told["auditor"] is not None else []
    good = told["state"] == "ready" and not findings
    word = "found broken invariants" if findings else str(told["state"])
    lag = queue["oldest_due_lag_ms"]
    waiting = sum(line["waiting_calls"] for line in told["workers"])
    tiles = [
        ("runs under way", _number(store.get("live_runs", 0)), ""),
        ("jobs due now", _count(queue["due"]), "warn" if queue["due"] > 1000 else ""),
        ("longest overdue", _span(lag), "warn" if lag > 10_000 else ""),
        ("calls that wait for a limit", _count(queue["waiting_for_limits"]), ""),
        ("calls without a worker", _number(waiting), "warn" if waiting else ""),
        ("workers here", _number(sum(line["connected"] for line in told["workers"])), ""),
        ("up for", _span(told["uptime_s"] * 1000), ""),
    ]
    sections = [
        _findings(told["auditor"], findings),
        _section("Store", _facts(_shown(store))),
        _section("Nodes", _nodes(told)),
        _section("Services and workers", _workers(told)),
        _section("Kept", _kept(told["retention"], store.get("last_backup"))),
        _section("Requests", _facts(_requests(told["requests"]))),
        _section("Limits", _facts(_shown(told["limits"]))),
        *([_section("Apps", _app_workers(told["apps"]), "wide")] if told["apps"] is not None else []),
        _section("Settings", _facts(_shown(told["settings"])), "wide"),
    ]
    state = f'<span class="state {"good" if good else "bad"}">● {escape(word)}</span>'
    shown = "".join(
        f'<div class="tile"><b class="{tone}">{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value, tone in tiles
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="10">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><title>Stepwell: '
        f"{escape(word)}</title><style>{_STYLE}</style></head><body><main><header><h1>Stepwell</h1>{state}"
        f'<span class="soft">{escape(str(told["version"]))} · {escape(str(told["kind"]))} · '
        f"{escape(str(store.get('durability', '')))}</span></header>"
        f'<div class="tiles">{shown}</div><div class="grid">{"".join(sections)}</div>'
        f'<footer class="soft">{escape(str(told["at"]))}, every 10 s · the same as JSON: /api/status · figures over '
        "time: /metrics</footer></main></body></html>"
    )


def _section(title: str, inside: str, shape: str = "") -> str:
    return f'<section class="{shape}"><h2>{escape(title)}</h2>{inside}</section>'


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    return f"<table>{rows}</table>" if rows else '<span class="soft">nothing</span>'


def _findings(audited: Mapping[str, Any] | None, findings: list[str]) -> str:
    if audited is None:
        return _section("Auditor", '<span class="soft">the first look is a minute after the start</span>')
    if not findings:
        text = f"nothing wrong with {_number(audited['runs'])} live runs at {audited['checked_at']}"
        return _section("Auditor", f'<span class="good">✓</span> {escape(text)}')
    lines = "".join(
        f'<li>{escape(text)} <span class="soft">since {escape(str(since))}</span></li>'
        for text, since in zip(findings, audited["found_at"], strict=True)
    )
    return _section("Auditor: broken invariants", f'<ul class="bad">{lines}</ul>', "wide")


def _nodes(told: Mapping[str, Any]) -> str:
    rows = []
    for node in told["nodes"]:
        mark = '<span class="good">alive</span>' if node["alive"] else '<span class="warn">gone</span>'
        here = " (this one)" if node["name"] == told["node"]["name"] else ""
        rows.append(
            f"<tr><td>{escape(node['name'] + here)}</td><td>{mark}</td>"
            f'<td class="soft">until {escape(node["lease_until"][11:19])}</td></tr>'
        )
    here = told["node"]
    late = f"{_number(here['refused_commits'])} commits came too late, {_number(here['dropped_answers'])} answers"
    return f'<table class="tight">{"".join(rows)}</table><p class="soft">{escape(late)}</p>'


def _workers(told: Mapping[str, Any]) -> str:
    text = f"{_plural(told['services'], 'service')} with {_plural(told['functions'], 'function')}"
    rows = "".join(
        f'<tr><td>{escape(line["service"])}</td><td class="n">{_plural(line["connected"], "worker")}</td>'
        f'<td class="n">{_plural(line["waiting_calls"], "call")} waiting</td></tr>'
        for line in told["workers"]
    )
    return f'<table class="tight">{rows}</table><p class="soft">{escape(text)}</p>' if rows else escape(text)


def _app_workers(apps: Mapping[str, Any]) -> str:
    text = f"{_plural(apps['waiting_calls'], 'call')} waiting · isolation: {apps['isolation']}"
    rows = "".join(
        f"<tr><td>{escape(one['app'])}</td><td>{escape(one['state'])}</td>"
        f'<td class="n">{one["pid"] or "–"}</td><td class="n">{_size(one["memory_bytes"])}</td>'
        f'<td class="n">{_plural(one["tasks"], "task")}</td></tr>'
        for one in apps["workers"]
    )
    return f'<table class="tight">{rows}</table><p class="soft">{escape(text)}</p>' if rows else escape(text)


def _kept(retention: Mapping[str, Any] | None, backup: Any) -> str:
    facts: list[tuple[str, str]] = []
    if retention is not None:
        most = retention["keep_runs_at_most"]
        facts = [
            ("ended runs", _age(retention["keep_runs_ms"]) + (f", at most {_number(most)}" if most else "")),
            ("events", _age(retention["keep_events_ms"])),
        ]
        last = retention["last_sweep"]
        if last is not None:
            removed = f"{_number(last['runs'])} runs, {_number(last['events'])} events, {_number(last['texts'])} texts"
            facts.append(("last removed", f"{removed} at {last['began_at']} in {_span(last['duration_ms'])}"))
        else:
            facts.append(("last removed", "nothing yet by this node"))
    if isinstance(backup, dict):
        facts.append(("last backup", f"{instant(backup.get('at'))} to {backup.get('place')}"))
    else:
        facts.append(("last backup", "none known"))
    return _facts(facts)


def _requests(requests: Mapping[str, Any]) -> list[tuple[str, str]]:
    refused = sorted(requests["refused"].items())
    return [
        ("in progress", _number(requests["in_progress"])),
        ("bytes of bodies", _number(requests["body_bytes"])),
        ("following a run", _number(requests["followers"])),
        *[(name.replace(":", ": "), _number(count)) for name, count in refused],
    ]


def _shown(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), _value(name, value)) for name, value in facts.items() if name != "last_backup"]


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ((), [], ""):
        return "–"
    if isinstance(value, dict):
        return ", ".join(str(key) for key in value)
    if isinstance(value, (list, tuple)):
        return ", ".join(str(one) for one in value)
    if isinstance(value, (int, float)):
        if name.endswith("_bytes"):
            return _size(value)
        if name.endswith("_ms"):
            return _span(value)
        return _number(value) if isinstance(value, int) and name != "port" else f"{value:g}"
    return str(value)


def _number(value: int) -> str:
    return f"{value:,}"


def _plural(count: int, one: str) -> str:
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def _count(due: int) -> str:
    return _number(due) + ("+" if due >= 10_000 else "")


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if count >= 100 or unit == "bytes" else f"{count:.1f} {unit}"


def _age(milliseconds: int | None) -> str:
    return "kept for ever" if milliseconds is None else f"kept for {_span(milliseconds)}"


def _span(milliseconds: float) -> str:
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = int(seconds % size // smaller_size)
            return f"{int(seconds // size)} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds:.0f} s"
