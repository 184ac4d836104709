"""`POST /v1/runs/{id}/rerun`: an ended run made again, from its beginning or from one of its steps, perhaps with an
edited input.

    {"from_step": "draft",                      its name, `draft:1` for the second use of that name, or its id
     "input": {...},                            the whole new input, or
     "set": {"messages.0.content": "..."}}      what changes of the recorded one

The input is what the step was given: of `step.ai.infer` the body of the provider's request, of a fetch the request, of
a step that runs in the service its arguments, with those given by name in an object at the end. Without `from_step` it
is the data of the event. `Idempotency-Key` names the request: a second one with the same key makes no second run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stepwell.api.answers import v1
from stepwell.api.inngest.state import run_id
from stepwell.api.routes import Ask, Route
from stepwell.model.errors import Conflict, InvalidInput, NotFound, TooLarge
from stepwell.model.journal import RunStarted
from stepwell.model.offload import FETCH, INFER
from stepwell.model.payload import canonical, decode, first_rounded
from stepwell.node.reads.payloads import text_of, texts_of
from stepwell.node.reads.runs import load_run
from stepwell.node.rerun import HIDDEN, Recorded, Rerun, find_step, recorded_steps
from stepwell.wire.inngest.text import shortened, size
from stepwell.wire.offload import MAX_REQUEST_BYTES, is_plain_header, split

if TYPE_CHECKING:
    from stepwell.node.node import Node
    from stepwell.node.reads.runs import StoredRun

MAX_KEY_LETTERS = 200
_MEMBERS = frozenset({"from_step", "input", "set"})
_OF_A_REQUEST = frozenset({"url", "method", "headers", "body", "body_base64"})
_WAITS = frozenset({"step.sleep", "step.waitForEvent", "step.invoke", "step.sendEvent"})
_NAMED = 20
_NOTHING = object()


class NotEditable(Conflict):
    """The step of a run cannot be given another input; the message says why."""

    code = "NOT_EDITABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What somebody wants of a rerun. `given` is the whole new input, `changes` are parts of it by their path."""

    from_step: str | None = None
    given: object = _NOTHING
    changes: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""

    @property
    def edits(self) -> bool:
        return self.given is not _NOTHING or bool(self.changes)


def routes() -> list[Route]:
    return [Route("POST", "/v1/runs/{id}/rerun", rerun)]


async def rerun(ask: Ask) -> Any:
    """Answered when the new run has begun, durably."""
    site = ask.site
    wanted = run_id(ask)
    made, step = await make_again(site.node, site.env, wanted, read_asked(await ask.json(), _key(ask)))
    return v1(
        {
            "run_id": made.run,
            "origin": wanted,
            "from_step": None if step is None else step.shown,
            "kept": made.kept,
            "doubled": made.doubled,
        }
    )


def _key(ask: Ask) -> str:
    key = ask.request.headers.get("idempotency-key", "")
    if len(key) > MAX_KEY_LETTERS:
        raise InvalidInput(f"Idempotency-Key may have {MAX_KEY_LETTERS} letters; shorten it", field="Idempotency-Key")
    return key


def read_asked(body: Mapping[str, Any], key: str) -> Asked:
    """Read the body of a request. Raises `InvalidInput`."""
    unknown = sorted(body.keys() - _MEMBERS)
    if unknown:
        raise InvalidInput(
            f"{shortened(unknown[0], 60)!r} means nothing here; there are from_step, input and set", field=unknown[0]
        )
    step, changes = body.get("from_step"), body.get("set")
    if step is not None and (not isinstance(step, str) or not step):
        raise InvalidInput("from_step must be the name of a step, such as draft or draft:1", field="from_step")
    if changes is not None and not isinstance(changes, dict):
        raise InvalidInput('set must be an object of paths and values, such as {"model": "gpt-4o"}', field="set")
    return Asked(from_step=step, given=body.get("input", _NOTHING), changes=changes or {}, key=key)


async def make_again(node: Node, env: str, run: str, asked: Asked) -> tuple[Rerun, Recorded | None]:
    """Begin the new run. Returns it and the step that it begins from.

    Raises:
        NotFound: No such run, or no such step in it.
        Conflict: The run has not ended, its function is gone, or the step cannot be edited.
        InvalidInput: The input does not fit.
    """
    stored = await load_run(node.store, env, run)
    if stored is None:
        raise NotFound(f"no run {run}")
    if not stored.row.status.final:
        raise Conflict(f"run {run} has not ended; wait for it, or cancel it, before it is made again")
    step = _step(stored, asked.from_step) if asked.from_step is not None else None
    edited = None
    if asked.edits:
        if changed := first_rounded([None if asked.given is _NOTHING else asked.given, dict(asked.changes)]):
            raise InvalidInput(
                f"the integer {str(changed[0])[:60]} would be rounded to a 64-bit float; give it as text", field="input"
            )
        edited = await _event(node, stored, asked) if step is None else await _input(node, stored, step, asked)
        if len(edited) > MAX_REQUEST_BYTES:
            raise TooLarge(
                f"the input has {size(len(edited))} and may have {size(MAX_REQUEST_BYTES)}; "
                "give a reference to the data instead of the data",
                field="input",
            )
    return await node.rerun(stored, step=step, edited=edited, key=asked.key), step


def _step(stored: StoredRun, wanted: str) -> Recorded:
    steps = recorded_steps(stored.entries)
    found = find_step(steps, wanted)
    if found is None:
        names = ", ".join(shortened(one.shown, 60) for one in list(steps.values())[:_NAMED])
        more = f" and {len(steps) - _NAMED} more" if len(steps) > _NAMED else ""
        known = f"it has {names}{more}" if names else "it came to none"
        raise NotFound(f"run {stored.row.id} has no step {shortened(wanted, 80)!r}; {known}")
    return found


# inputs


async def _event(node: Node, stored: StoredRun, asked: Asked) -> bytes:
    """The first event of the run with other data."""
    first = stored.entries[0]
    assert isinstance(first, RunStarted), "a journal begins with the start of its run"
    (text,) = await texts_of(node.store, first.events[:1])
    event = decode(text)
    own = event.get("data") or {}
    data = own if asked.given is _NOTHING else asked.given
    if not isinstance(data, dict):
        raise InvalidInput("input must be the data of the event, an object", field="input")
    data = _with(dict(data), asked.changes)
    if "_inngest" in own:  # of an invocation
        data["_inngest"] = own["_inngest"]
    return _written(event | {"data": data})


async def _input(node: Node, stored: StoredRun, step: Recorded, asked: Asked) -> bytes:
    name = shortened(step.shown, 80)
    if step.kind in _WAITS:
        what = step.kind.removeprefix("step.")
        raise NotEditable(f"step {name!r} is a {what}, which has no input to edit; edit the step before it")
    recorded = await text_of(node.store, step.input)
    if step.kind == INFER:
        return _written(_body(name, decode(recorded) if recorded is not None else {}, asked))
    if step.kind == FETCH:
        return _written(_request(step, name, decode(recorded) if recorded is not None else {}, asked))
    service = node.registry.service(stored.row.env, stored.row.service)
    if service is not None and service.sdk.startswith(("py:", "inngest-py:")):
        raise NotEditable(
            f"step {name!r} runs in a service on Inngest's Python SDK, which takes no other arguments for a step; "
            "edit the event, or make the run again without input"
        )
    return _written(_arguments(step, name, recorded, asked))


def _body(name: str, request: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    """The body of a request to a provider."""
    body = request.get("body") if asked.given is _NOTHING else asked.given
    if isinstance(body, list) and len(body) == 1:
        body = body[0]  # as the protocol's own reruns have it
    if not isinstance(body, dict):
        raise InvalidInput(
            f"input of step {name!r} must be the body of the provider's request, an object", field="input"
        )
    changed: dict[str, Any] = _with(body, asked.changes)
    return changed


def _arguments(step: Recorded, name: str, recorded: bytes | None, asked: Asked) -> list[Any]:
    if step.blocked:
        raise NotEditable(
            f"step {name!r} cannot be edited: {step.blocked}. Pass plain values, and build objects inside the step"
        )
    if recorded is None and (asked.given is _NOTHING or (step.finished and not step.failed)):
        raise NotEditable(f"step {name!r} has no recorded arguments to edit; make the run again without input")
    own = decode(recorded) if recorded is not None else None
    own = own if isinstance(own, list) or own is None else [own]
    given = own if asked.given is _NOTHING else asked.given
    if isinstance(given, dict) and (own is None or (len(own) == 1 and isinstance(own[0], dict))):
        given = [given]  # a call with names only
    if not isinstance(given, list):
        raise InvalidInput(
            f"input of step {name!r} must be the list of its arguments, those given by name in an object at its end",
            field="input",
        )
    arguments = list(given)
    for path, value in asked.changes.items():
        if not path.partition(".")[0].isdigit() and arguments and isinstance(arguments[-1], dict):
            arguments[-1] = _with(arguments[-1], {path: value})
        else:
            arguments = _with(arguments, {path: value})
    return arguments


def _request(step: Recorded, name: str, request: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    """The members of a fetch that change."""
    own = {member: value for member, value in request.items() if member in _OF_A_REQUEST}
    given = {} if asked.given is _NOTHING else asked.given
    if not isinstance(given, dict) or not given.keys() <= _OF_A_REQUEST:
        raise InvalidInput(
            f"input of step {name!r} must be an object with some of {', '.join(sorted(_OF_A_REQUEST))}", field="input"
        )
    change: dict[str, Any] = dict(given)
    for path, value in asked.changes.items():
        member, _, below = path.partition(".")
        if member not in _OF_A_REQUEST:
            raise InvalidInput(
                f"{shortened(path, 80)!r} is no part of a request; it has {', '.join(sorted(_OF_A_REQUEST))}",
                field="set",
            )
        base = change.get(member, own.get(member))
        if below and member == "body" and isinstance(base, str):
            base = _json_of(name, base)
        change[member] = _with({member: base if base is not None else {}}, {path: value})[member] if below else value
    if "body" in change and not isinstance(change["body"], str | None):
        change["body"] = canonical(change["body"]).decode()
    if not isinstance(change.get("method", ""), str) or not isinstance(change.get("body_base64", ""), str):
        raise InvalidInput(f"method and body_base64 of step {name!r} must be texts", field="input")
    _check_url(step, name, str(own.get("url", "")), change.get("url"))
    _check_headers(name, own.get("headers") or {}, change.get("headers"))
    return change


def _json_of(name: str, text: str) -> Any:
    try:
        return decode(text)
    except ValueError as err:
        raise InvalidInput(f"the body of step {name!r} is not JSON, so give all of it as body", field="set") from err


def _check_url(step: Recorded, name: str, own: str, wanted: object) -> None:
    if wanted is None or wanted == own:
        return
    if not isinstance(wanted, str) or urlsplit(wanted).scheme not in {"http", "https"}:
        raise InvalidInput(f"url of step {name!r} must be a whole address, https://...", field="input")
    if HIDDEN in own or HIDDEN in wanted or split(wanted, {}, "")[0] != wanted:
        raise NotEditable(f"the address of step {name!r} has a secret in it, which only the function can give")
    if step.sealed and urlsplit(own)[:2] != urlsplit(wanted)[:2]:
        raise NotEditable(
            f"step {name!r} sends credentials of the function's, which are for {urlsplit(own).hostname} alone; "
            "change the function to ask another host"
        )


def _check_headers(name: str, own: Mapping[str, str], wanted: object) -> None:
    if wanted is None:
        return
    if not isinstance(wanted, dict) or not all(isinstance(value, str) for value in wanted.values()):
        raise InvalidInput(f"headers of step {name!r} must be an object of texts", field="input")
    hidden = {header.lower() for header, value in own.items() if value == HIDDEN}
    for header, value in wanted.items():
        if value == HIDDEN and header.lower() in hidden:
            continue
        if not is_plain_header(header) or value == HIDDEN:
            raise NotEditable(
                f"the header {shortened(header, 60)!r} of step {name!r} may hold a secret, and an edit is stored; "
                f"{HIDDEN!r} leaves what the function gives"
            )


def _written(value: object) -> bytes:
    try:
        return canonical(value)
    except (ValueError, RecursionError) as err:
        raise InvalidInput(f"input cannot be stored: {err}", field="input") from err


# changes by path


def _with(value: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of `value` with other members at the paths, such as `messages.0.content`.

    Raises:
        InvalidInput: A path leads nowhere.
    """
    for path, new in changes.items():
        value = _changed(value, path.split("."), new, path)
    return value


def _changed(value: Any, parts: list[str], new: Any, path: str) -> Any:
    part, rest = parts[0], parts[1:]
    if isinstance(value, dict):
        below = _changed(value.get(part, {}), rest, new, path) if rest else new
        return value | {part: below}
    if isinstance(value, list):
        if not part.isdigit() or int(part) >= len(value):
            raise InvalidInput(
                f"set: {shortened(path, 80)!r} leads nowhere: {shortened(part, 40)!r} in a list of {len(value)}",
                field="set",
            )
        place = int(part)
        below = _changed(value[place], rest, new, path) if rest else new
        return [*value[:place], below, *value[place + 1 :]]
    raise InvalidInput(
        f"set: {shortened(path, 80)!r} leads nowhere: there is nothing below that has {shortened(part, 40)!r}",
        field="set",
    )
