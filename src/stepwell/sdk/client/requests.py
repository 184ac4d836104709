"""What a client asks a server, and what the answers mean: generators that know neither sockets nor `await`.

    yield Ask  ──▶  somebody asks  ──▶  Answer  ──▶  the next Ask, or the result

What may be asked twice without harm is asked again after a failure: reading, and everything that carries a
seed. A seed names the ids of the events beforehand, so that a repeated send is the same send (section 2.4 of
the Inngest wire protocol), whether or not the first one arrived.

Elsewhere: carrying it out (`exchange.py`), runs as they change (`follow.py`).
"""

from __future__ import annotations

import base64
import os
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, quote

from stepwell.model.errors import InvalidInput, NotFound, Unauthorized
from stepwell.model.payload import canonical
from stepwell.sdk.client.address import Address, bearer
from stepwell.sdk.client.errors import EventsRefused, ServerError, ServerUnreachable
from stepwell.sdk.client.exchange import Answer, Ask, Flow, Pause
from stepwell.sdk.types import GIVEN, refuse_large_integers
from stepwell.wire.inngest.event import MAX_EVENTS, SEED_HEADER
from stepwell.wire.inngest.text import array, shortened

ATTEMPTS = 5
FIRST_PAUSE_S = 0.1
MATCH_S = 3.0
"""How long to wait for the first run of an event. Matching begins before the sender has its answer."""
LONGEST_PAUSE_S = 30.0
"""Also the longest `retry-after` that is waited for."""

_PASSING = frozenset({429, *range(500, 600)} - {501})
"""What another try may change. 501 says that the server has no such thing."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Events that the server has accepted. `ids` are its own, in the order in which the events were given."""

    ids: tuple[str, ...]


def send(address: Address, events: Sequence[bytes]) -> Flow[Sent]:
    """Send events, each one JSON text; more than the server takes at once are sent in several requests.

    Raises:
        EventsRefused: One of them is not acceptable. Those before it are accepted and named.
        Unauthorized: The event key is wrong.
        ServerUnreachable, ServerError: Also after `ATTEMPTS` tries.
    """
    ids: list[str] = []
    for start in range(0, len(events), MAX_EVENTS):
        part = events[start : start + MAX_EVENTS]
        ask = Ask(
            "POST",
            f"/e/{quote(address.event_key, safe='')}",
            array(part),
            headers={"Content-Type": "application/json", SEED_HEADER: seed()},
            to_events=True,
        )
        answer = yield from persistently(ask)
        found = answer.json()
        accepted = found.get("ids") if isinstance(found, dict) else None
        if isinstance(accepted, list):
            ids += [str(one) for one in accepted if one]
        if answer.status in (400, 413):
            raise EventsRefused(_text(answer), ids=tuple(ids), sent=len(events))
        if answer.status == 401:
            raise Unauthorized(f"{_text(answer)}; set STEPWELL_EVENT_KEY (or event_key=) to a key of the server")
        check(answer, ask)
        if not isinstance(accepted, list) or len(accepted) != len(part):
            raise ServerError(
                f"the server accepted {len(part)} events and named {len(accepted or ())} ids", status=answer.status
            )
    return Sent(tuple(ids))


def start(address: Address, slug: str, data: bytes) -> Flow[str]:
    """Start a function and return the id of the run.

    Args:
        data: JSON text.

    Raises:
        NotFound: The server knows no such function.
        InvalidInput: The server does not take the data.
    """
    ask = Ask(
        "POST",
        f"/api/functions/{quote(slug, safe='')}/invoke",
        b'{"data":%b}' % data,
        headers={"Content-Type": "application/json", SEED_HEADER: seed()},
    )
    asked: list[Ask] = []
    answer = yield from authorized(address, ask, asked)
    if answer.status == 404:
        raise NotFound(f"{_text(answer)} at {address.api}; is the service of {slug!r} running and synced?")
    check(answer, ask)
    found = _data(answer)
    run_id = found.get("run_id") if isinstance(found, dict) else None
    if not isinstance(run_id, str) or not run_id:
        raise ServerError(f"the server started {slug} and named no run: {_text(answer)}", status=answer.status)
    if len(asked) > 1 and isinstance(found.get("event_id"), str):
        # An earlier try may have arrived after all, and then it is its run that exists.
        existing = yield from runs_of_event(address, found["event_id"], wait_s=MATCH_S)
        run_id = next((str(one["run_id"]) for one in existing if one.get("run_id")), run_id)
    return run_id


def get(address: Address, path: str, query: Mapping[str, str | None] | None = None) -> Flow[Any]:
    """The data of a GET, out of its envelope.

    Raises:
        ServerError: The answer is neither an object nor a list.
        NotFound: And the other errors of `check`.
    """
    ask = Ask("GET", path, query={name: value for name, value in (query or {}).items() if value is not None})
    answer = yield from authorized(address, ask)
    check(answer, ask)
    found = answer.json()
    if not isinstance(found, (dict, list)):
        kind = answer.headers.get("content-type") or "something"
        raise ServerError(
            f"{address.api} answers, but not as a Stepwell server does: {path} is {kind} and should be an object or a "
            "list in JSON; is STEPWELL_URL (or url=) right?",
            status=answer.status,
            body=answer.body.decode("utf-8", "replace"),
        )
    return _unwrapped(found)


def get_text(address: Address, path: str) -> Flow[bytes]:
    """The body of a GET as it is. Raises as `get`."""
    ask = Ask("GET", path)
    answer = yield from authorized(address, ask)
    check(answer, ask)
    return answer.body


def register(address: Address, body: bytes, query: str, headers: Mapping[str, str]) -> Flow[Answer]:
    """Tell the server about a service. Whatever it answers is the result.

    Args:
        query: Of the request that asked for it; a `deployId` in it is passed on.
    """
    deploy = [value for name, value in parse_qsl(query) if name == "deployId"]
    ask = Ask(
        "POST",
        "/fn/register",
        body,
        query={"deployId": deploy[0]} if deploy else {},
        headers={"Content-Type": "application/json", **headers},
    )
    return (yield from authorized(address, ask))


def checkpoint(address: Address, run_id: str, body: bytes) -> Flow[Answer]:
    """Report finished steps of a call that is open yet. Whatever the server answers is the result."""
    path = f"/v1/checkpoint/{quote(run_id, safe='')}/async"
    return (yield from authorized(address, Ask("POST", path, body, headers={"Content-Type": "application/json"})))


def detail(address: Address, run_id: str) -> Flow[dict[str, Any]]:
    """Everything about a run, in the form of `GET /api/runs/{id}`; from a server without it, what `/v1` tells."""
    try:
        found = yield from get(address, f"/api/runs/{quote(run_id, safe='')}")
    except NotFound:
        found = yield from get(address, f"/v1/runs/{quote(run_id, safe='')}")
    if not isinstance(found, dict):
        raise ServerError(f"the server told nothing about run {run_id}", status=200, body=found)
    return found


def cancel(address: Address, run_id: str) -> Flow[None]:
    """Cancel a run. One that has ended stays as it is."""
    ask = Ask("POST", f"/api/runs/{quote(run_id, safe='')}/cancel", b"{}", headers={"Content-Type": "application/json"})
    answer = yield from authorized(address, ask)
    if answer.status in (404, 405):
        ask = Ask("DELETE", f"/v1/runs/{quote(run_id, safe='')}")
        answer = yield from authorized(address, ask)
    if answer.status != 409:
        check(answer, ask)


def rerun(address: Address, run_id: str, body: bytes) -> Flow[str]:
    """Make an ended run again and return the id of the new run, which is made once however often this was tried.

    Args:
        body: JSON text with `from_step`, `set` and `input`, as far as they are wanted.

    Raises:
        NotFound: There is no such run, or no such step in it.
        InvalidInput: The input does not fit.
        ServerError: With status 409: the run has not ended, or the step cannot be edited.
    """
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
    ask = Ask("POST", f"/v1/runs/{quote(run_id, safe='')}/rerun", body, headers=headers)
    answer = yield from authorized(address, ask)
    check(answer, ask)
    found = _data(answer)
    made = found.get("run_id") if isinstance(found, dict) else None
    if not isinstance(made, str) or not made:
        raise ServerError(f"the server made {run_id} again and named no run: {_text(answer)}", status=answer.status)
    return made


def runs_of_event(address: Address, event_id: str, *, wait_s: float) -> Flow[list[dict[str, Any]]]:
    """The runs that an event started, waiting up to `wait_s` for the first of them.

    Functions are matched right after an event is accepted, so this asks quickly at first and seldom later.
    """
    path = f"/v1/events/{quote(event_id, safe='')}/runs"
    deadline = time.monotonic() + wait_s
    pause = 0.02
    while True:
        found = yield from get(address, path)
        left = deadline - time.monotonic()
        if found or left <= 0:
            return [one for one in found or () if isinstance(one, dict)]
        yield Pause(min(pause, left))
        pause *= 1.6


def stream_url(address: Address, run_id: str, *, lifetime_s: int, wait_s: float) -> Flow[str]:
    """Where a browser finds the stream of a run, with a token that is good for so long.

    Args:
        wait_s: How long to wait for a run that is not there yet.

    Raises:
        NotFound: There is no such run.
        InvalidInput: The server gives no tokens for so long.
    """
    ask = Ask(
        "POST",
        f"/api/runs/{quote(run_id, safe='')}/token",
        canonical({"lifetime_s": lifetime_s}),
        headers={"Content-Type": "application/json"},
    )
    deadline = time.monotonic() + wait_s
    pause = 0.02
    while True:
        answer = yield from authorized(address, ask)
        left = deadline - time.monotonic()
        if answer.status != 404 or left <= 0:
            break
        yield Pause(min(pause, left))
        pause *= 1.6
    check(answer, ask)
    found = answer.json()
    if not isinstance(found, dict) or not isinstance(found.get("path"), str):
        raise ServerError("the server gave no address for the stream", status=answer.status, body=found)
    return f"{address.api}{found['path']}"


def followed(address: Address, run_id: str, *, key: str | None, last_id: str | None, pieces: bool = False) -> Ask:
    """The request that follows a run, with `pieces` those of its results too; its answer is a stream of server-sent
    events."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if last_id:
        headers["Last-Event-ID"] = last_id
    what = "stream" if pieces else "follow"
    return with_key(Ask("GET", f"/api/runs/{quote(run_id, safe='')}/{what}", headers=headers), key)


def seed() -> str:
    """A new seed: the time in milliseconds and ten random bytes."""
    return f"{time.time_ns() // 1_000_000},{base64.b64encode(os.urandom(10)).decode()}"


# Asking


def persistently(ask: Ask, asked: list[Ask] | None = None) -> Generator[Ask | Pause, Answer | None, Answer]:
    """Ask until there is an answer that another try would not change, `ATTEMPTS` times at most.

    Args:
        asked: Gets every try appended.
    """
    pause = FIRST_PAUSE_S
    for attempt in range(1, ATTEMPTS + 1):
        wait = pause
        if asked is not None:
            asked.append(ask)
        try:
            answer = yield ask
        except ServerUnreachable:
            if attempt == ATTEMPTS:
                raise
        else:
            assert answer is not None
            if attempt == ATTEMPTS or answer.status not in _PASSING:
                return answer
            wait = max(pause, _retry_after(answer))
        yield Pause(min(wait, LONGEST_PAUSE_S))
        pause *= 2
    raise AssertionError("unreachable")


def authorized(
    address: Address, ask: Ask, asked: list[Ask] | None = None
) -> Generator[Ask | Pause, Answer | None, Answer]:
    """Ask with each key in turn until one is accepted."""
    answer = yield from persistently(with_key(ask, address.keys[0] if address.keys else None), asked)
    for key in address.keys[1:]:
        if answer.status not in (401, 403):
            break
        answer = yield from persistently(with_key(ask, key), asked)
    return answer


def with_key(ask: Ask, key: str | None) -> Ask:
    return ask if key is None else replace(ask, headers={**ask.headers, "Authorization": bearer(key)})


def _retry_after(answer: Answer) -> float:
    try:
        return max(0.0, float(answer.headers.get("retry-after", "0")))
    except ValueError:  # a date; our server sends seconds
        return 0.0


# Answers


def check(answer: Answer, ask: Ask) -> None:
    """Raise what a failed answer means."""
    if answer.ok:
        return
    text, what = _text(answer), f"{ask.method} {ask.path}"
    if answer.status in (401, 403):
        raise Unauthorized(
            f"{what}: {text}; set STEPWELL_API_KEY (or api_key=) to the server's signing key"
            if answer.status == 401
            else f"{what}: {text}"
        )
    if answer.status == 404:
        raise NotFound(f"{what}: {text}")
    if answer.status in (400, 413, 422):
        found = answer.json()
        field = found.get("field") if isinstance(found, dict) else None
        raise InvalidInput(text, field=field if isinstance(field, str) else None)
    raise ServerError(f"{what}: the server answered {answer.status}: {text}", status=answer.status, body=answer.json())


def _text(answer: Answer) -> str:
    """What an answer says went wrong."""
    found = answer.json()
    if isinstance(found, dict):
        for name in ("error", "message"):
            if isinstance(found.get(name), str) and found[name]:
                return str(found[name])
    text = answer.body[:1000].decode("utf-8", "replace").strip()
    return shortened(text) if text else f"HTTP {answer.status}"


def _data(answer: Answer) -> Any:
    return _unwrapped(answer.json())


def _unwrapped(found: Any) -> Any:
    if isinstance(found, dict) and "data" in found:
        return found["data"]
    return found


def event_texts(events: Sequence[Any]) -> list[bytes]:
    """Events as JSON text: objects with a `body()`, or dicts as they are on the wire.

    Raises:
        TypeError: Something else; the message says what to write.
        ValueError: A dict that JSON cannot hold.
        StepResultNotPortable: It has an integer beyond 2**53, which would be rounded.
    """
    texts = []
    for one in events:
        body = one.body() if hasattr(one, "body") else one
        if not isinstance(body, Mapping):
            raise TypeError(
                f"an event to send is made by an event type, such as order_paid(Order(...)), or a dict with `name` and "
                f"`data`; got a {type(one).__name__}"
            )
        members = dict(body)
        texts.append(canonical(members))
        refuse_large_integers(members, f"event {members.get('name')!r}", GIVEN)
    return texts
