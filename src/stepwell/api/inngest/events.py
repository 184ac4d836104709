"""Events coming in: the one endpoint that is called more often than all others, so nothing stands around it.

The 2xx is sent once the events and the job to match them are durable. What was accepted before a bad event stays
accepted, and the answer names those ids beside the error (trap 10).

Protocol: sections 2.1 to 2.7 of the Inngest wire protocol.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from stepwell.api import answers
from stepwell.api.body import Disconnected
from stepwell.api.keys import Access
from stepwell.api.routes import Ask, Route
from stepwell.model.errors import InvalidInput, NotFound, Overloaded, StepwellError, Unauthorized
from stepwell.model.event import INVOKED
from stepwell.model.payload import INLINE_LIMIT_BYTES, first_rounded, roundings
from stepwell.node.large import stored
from stepwell.wire.inngest.event import SEED_HEADER, invoked_event, read_event, read_events, read_seed, unknown_fields
from stepwell.wire.inngest.ops import rounding_text
from stepwell.wire.inngest.text import read, write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from starlette.responses import Response
    from starlette.types import Receive, Send

    from stepwell.api.site import Site
    from stepwell.model.event import Event
    from stepwell.model.payload import Blob

log = logging.getLogger("stepwell.api")

_SEED = SEED_HEADER.encode()
_TYPE = (b"content-type", b"application/json")
_REMEMBERED = 1_000
_INVOKED = frozenset({"name", "id", "ts", "data", "user", "v"})


def routes() -> list[Route]:
    return [
        # POST /e/{key} is answered by `EventIntake` before the table is asked.
        Route("POST", "/e", _no_key, Access.OPEN),
        Route("POST", "/invoke/{slug:path}", invoke),
    ]


class EventIntake:
    """`POST /e/{key}` as a bare ASGI callable."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._draw = lambda _at: site.node.new_key()

    async def __call__(
        self,
        key: str,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        send: Send,
        extra: Sequence[tuple[bytes, bytes]],
        client: str = "",
    ) -> None:
        site = self._site
        status, more = 200, []
        held = None
        try:
            site.keys.check_event_key(key.rstrip("/"))
            if site.closing:
                raise Overloaded("this server is stopping; send again in a moment")
            held = site.bodies.hold()
            body = await held.read(headers, receive)
            status, answer = await self._take(body, headers)
        except StepwellError as err:
            site.counts[f"refused:{err.code.lower()}"] += 1
            status = err.http_status
            if status == 401:
                site.refusals.note(client, "POST /e", str(err))
            answer = answers.encode({"ids": [], "status": status, "error": str(err)})
            more = [(name.encode(), value.encode()) for name, value in answers.refusal_headers(err).items()]
            if isinstance(err, Disconnected):
                return
        except Exception:
            reference = site.node.new_key()
            log.exception("%s: POST /e", reference)
            status, answer = 500, bytes(answers.bug(reference).body)
        finally:
            if held is not None:
                held.release()
        length = (b"content-length", b"%d" % len(answer))
        await send({"type": "http.response.start", "status": status, "headers": [_TYPE, length, *more, *extra]})
        await send({"type": "http.response.body", "body": answer})

    async def _take(self, body: bytes, headers: Mapping[bytes, bytes]) -> tuple[int, bytes]:
        site, seed = self._site, headers.get(_SEED)
        intake = read_events(
            body,
            now=site.node.world.now(),
            draw=self._draw,
            seed=read_seed(seed.decode("latin-1")) if seed is not None else None,
            env=site.env,
        )
        if intake.events:
            await accept(site, intake.events)
        if intake.unknown:
            _tell(site, intake.unknown)
        for name, changed in intake.rounded.items():
            _tell_rounded(site, name, *changed)
        if intake.error is None:
            return 200, answers.encode({"ids": intake.ids, "status": 200})
        site.counts["refused:event"] += 1
        status = intake.error.http_status
        return status, answers.encode({"ids": intake.ids, "status": status, "error": str(intake.error)})


def _tell(site: Site, unknown: Iterable[tuple[str, str]]) -> None:
    """Log the unknown fields that were not logged before; once there are too many to remember, none."""
    for name, field in sorted(unknown):
        if len(site.told) >= _REMEMBERED:
            return
        if (name, field) in site.told:
            continue
        site.told.add((name, field))
        log.warning("event %r has an unknown field %r; functions see it, the server does not read it", name, field)
        if len(site.told) == _REMEMBERED:
            log.warning("%d unknown fields of events were logged; further ones are not", _REMEMBERED)


def _tell_rounded(site: Site, name: str, given: int, became: int) -> None:
    """Log that events of this name have integers that were rounded, once, unless there is too much to remember."""
    if len(site.told) < _REMEMBERED and (name, "") not in site.told:
        site.told.add((name, ""))
        log.warning("event %r has %s", name, rounding_text(given, became))


async def accept(site: Site, events: Sequence[Event]) -> None:
    """Store events and begin to match them; large ones leave their text to the blobs."""
    blobs: dict[Blob, bytes] = {}
    small = [
        event
        if len(event.body) <= INLINE_LIMIT_BYTES
        else msgspec.structs.replace(event, body=stored(event.body, blobs))
        for event in events
        if isinstance(event.body, bytes)
    ]
    await site.node.accept(site.env, small, blobs)


async def _no_key(ask: Ask) -> Response:
    raise Unauthorized("Event key is required")


async def invoke(ask: Ask) -> Response:
    """`POST /invoke/{slug}`: run one function with an event-like body."""
    event = await invoked(ask, ask.part("slug"))
    return answers.json({"id": event.internal_id, "status": 200})


def check_function(site: Site, slug: str) -> None:
    """Raise `NotFound`, naming what there is, unless the function can be run."""
    function = site.node.registry.function(site.env, slug)
    if function is None or function.archived:
        known = ", ".join(one.slug for one in site.node.registry.functions(site.env)[:20]) or "none"
        raise NotFound(f"no function {slug!r}; there are: {known}")


async def invoked(ask: Ask, slug: str, *, with_id: bool = True) -> Event:
    """Accept the event that runs the function.

    Args:
        with_id: Whether the sender may name the event, so that it runs the function only once.

    Raises:
        NotFound: No such function.
        InvalidInput: The body is not an event, or it names itself and may not.
    """
    site = ask.site
    check_function(site, slug)
    text = await ask.body()
    try:
        value = read(text) if text.strip() else {}
    except ValueError as err:
        raise InvalidInput(f"the body is {err}") from err
    if not isinstance(value, dict):
        raise InvalidInput('the body must be a JSON object such as {"data": {}}')
    if not with_id and value.get("id") is not None:
        raise InvalidInput("an id is not accepted here: every request starts a run of its own", field="id")
    now, key = site.node.world.now(), site.node.new_key()
    seed = read_seed(ask.request.headers.get(SEED_HEADER))
    shown = seed.ulid(0) if seed is not None else key
    if seed is not None and not with_id:
        known = await site.node.store.event_by_id(site.env, shown)
        if known is not None and known.name == INVOKED:
            return known
    since = roundings()
    given = read_event(value, now=now, key=key, internal_id=shown, env=site.env, name=INVOKED)
    changed = first_rounded(value) if roundings() != since else None
    assert isinstance(given.body, bytes)
    members = read(given.body)
    system = invoked_event(
        id=given.id,
        at=given.ts,
        function=slug,
        data=write(members["data"]),
        user=write(members["user"]),
        v=members.get("v"),
        more={name: write(more) for name, more in members.items() if name not in _INVOKED},
    )
    event = msgspec.structs.replace(given, body=system.body())
    await accept(site, [event])
    _tell(site, ((f"{INVOKED} of {slug}", field) for field in unknown_fields(value)))
    if changed is not None:
        _tell_rounded(site, f"{INVOKED} of {slug}", *changed)
    return event
