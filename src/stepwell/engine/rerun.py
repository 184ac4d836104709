"""A run made again: what it keeps of the record of an ended run, and what becomes of an edited input.

    the record    a ─ b ─ c(failed) ─ d       rerun from c: a and b are kept, c and what follows happen anew
    the new run   a' b' InputEdited(c) ...    a' and b' say which run they happened in

Kept is every result that was recorded before that of the step: its input may depend on them, and none of them on it.
So no child is started again, no event sent again and nothing waited for again before that step. What was under way
beside it and ended after it happens anew.

Who gives a step its edited input depends on its kind: a body that runs in the user's process gets it with the next
call, in place of a result; a request that the server makes is changed here, when the function asks for it. So
credentials come from the function as ever.

Elsewhere: which inputs are acceptable (`stepwell.api`), storing the new run (`stepwell.node.rerun`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from stepwell.model import journal
from stepwell.model.ids import step_id
from stepwell.model.offload import FETCH, INFER, Sealed
from stepwell.model.op import Offload
from stepwell.model.payload import canonical, decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stepwell.engine.run import Run
    from stepwell.model.ids import Instant, RunId, StepId
    from stepwell.model.journal import Entry
    from stepwell.model.payload import Payload

HIDDEN = "***"
"""Stands for a value that only the function has, as in recorded requests."""


@dataclass(frozen=True, slots=True)
class Again:
    """What a run begins with that makes an ended one again: results that are kept, then perhaps an edited input."""

    origin: RunId
    from_step: StepId | None
    entries: tuple[Entry, ...]


@dataclass(slots=True)
class Recorded:
    """What a journal tells of one step."""

    id: StepId
    name: str = ""
    index: int = 0
    kind: str = ""
    input: Payload | None = None  # arguments, or a request
    blocked: str = ""  # why there are no arguments
    sealed: bool = False  # the request needed credentials
    finished: bool = False
    failed: bool = False

    @property
    def shown(self) -> str:
        """Its name as people write it: `name`, or `name:1` for the second use."""
        return f"{self.name or self.id}:{self.index}" if self.index else self.name or self.id

    @property
    def offloaded(self) -> bool:
        """Whether the server makes the request of this step."""
        return self.kind in (FETCH, INFER)


_KINDS: dict[type, str] = {
    journal.SleepStarted: "step.sleep",
    journal.WaitStarted: "step.waitForEvent",
    journal.InvokeStarted: "step.invoke",
}
_ABOUT_STEPS = (
    journal.StepScheduled,
    journal.StepCompleted,
    journal.StepRetried,
    journal.StepFailed,
    journal.SleepStarted,
    journal.WaitStarted,
    journal.InvokeStarted,
    journal.OffloadStarted,
)


def recorded_steps(entries: Iterable[Entry]) -> dict[StepId, Recorded]:
    """The steps that a journal tells of, in the order in which it comes to them."""
    found: dict[StepId, Recorded] = {}
    for entry in entries:
        if not isinstance(entry, _ABOUT_STEPS):
            continue
        step = found.setdefault(entry.step, Recorded(entry.step))
        step.name, step.index = entry.name or step.name, entry.index or step.index
        step.kind = _KINDS.get(type(entry)) or getattr(entry, "kind", "") or step.kind
        match entry:
            case journal.OffloadStarted():
                step.input, step.sealed = entry.request, entry.sealed
            case journal.StepCompleted() | journal.StepFailed():
                step.input = step.input if step.offloaded else entry.input or step.input
                step.blocked = entry.blocked
                step.finished, step.failed = True, isinstance(entry, journal.StepFailed)
            case journal.StepScheduled() | journal.InvokeStarted():
                step.input = entry.input or step.input
            case _:
                pass
    return found


def find_step(steps: Mapping[StepId, Recorded], wanted: str) -> Recorded | None:
    """The step of that id, or of that name: `draft` for its first use, `draft:1` for the second."""
    by_hash = [step for step in steps if step in (wanted, step_id(wanted))]
    if by_hash:
        return steps[by_hash[0]]
    return next((step for step in steps.values() if step.name and step.shown == wanted), None)


def again(
    run: RunId, entries: Iterable[Entry], now: Instant, *, step: Recorded | None, edited: Payload | None = None
) -> Again:
    """What a new run begins with that makes `run` again.

    Args:
        run: Has ended.
        entries: Its whole journal.
        now: Time of the new entries.
        step: From which on everything happens anew; None: from the beginning.
        edited: The input of that step.
    """
    if step is None:
        return Again(run, None, ())
    journaled = tuple(entries)
    steps = recorded_steps(journaled)
    kept: list[Entry] = []
    for entry in journaled:
        if not isinstance(entry, journal.StepCompleted | journal.StepFailed):
            continue
        if entry.step == step.id:
            break
        kept.append(_kept(run, entry, steps[entry.step], now))
    if edited is not None:
        kept.append(
            journal.InputEdited(
                at=now, step=step.id, input=edited, name=step.name, index=step.index, kind=step.kind or "step.run"
            )
        )
    return Again(run, step.id, tuple(kept))


def _kept(
    run: RunId, entry: journal.StepCompleted | journal.StepFailed, step: Recorded, now: Instant
) -> journal.StepCompleted | journal.StepFailed:
    """The result once more. How long it took and what it cost is told in the run that it is from."""
    origin = entry.origin or run
    if isinstance(entry, journal.StepFailed):
        return journal.StepFailed(
            at=now,
            step=entry.step,
            error=entry.error,
            name=step.name,
            index=step.index,
            kind=step.kind,
            input=step.input,
            blocked=step.blocked,
            origin=origin,
        )
    return journal.StepCompleted(
        at=now,
        step=entry.step,
        output=entry.output,
        bare=entry.bare,
        name=step.name,
        index=step.index,
        kind=step.kind,
        input=step.input,
        event=entry.event,
        blocked=step.blocked,
        origin=origin,
    )


# edited inputs


def input_to_give(run: Run) -> journal.InputEdited | None:
    """The edited input that the function has yet to be given, with its next call."""
    edit = run.edit
    if edit is None or edit.kind in (FETCH, INFER):
        return None
    step = run.steps.get(edit.step)
    return None if step is not None and step.finished else edit


def edited_request(one: Offload, request: bytes, edited: bytes) -> Offload:
    """The op of a request, changed as somebody wants it.

    Args:
        one: As the function asks for it.
        request: Its JSON.
        edited: For an inference the whole body of the provider's request; for a fetch the members that change, of
            which `***` stands for what the function gives. To another host than the function's go no credentials.
    """
    members: dict[str, Any] = decode(request)
    change: dict[str, Any] = decode(edited)
    url = one.sealed.url if one.sealed is not None else str(members.get("url", ""))
    shown_url = str(members.get("url", ""))
    headers = dict(one.sealed.headers) if one.sealed is not None else dict(members.get("headers") or {})
    if one.kind == INFER:
        body = dict(change)
        shown_url = _with_model(shown_url, str(members.get("format", "")), body)
        url = _with_model(url, str(members.get("format", "")), dict(change))
        members["body"] = body
    else:
        if "body" in change or "body_base64" in change:
            members.pop("body", None)
            members.pop("body_base64", None)
        members |= {name: change[name] for name in ("method", "body", "body_base64") if name in change}
        if "headers" in change:
            own = {name.lower(): value for name, value in headers.items()}
            shown = dict(change["headers"])
            headers = {name: own.get(name.lower(), "") if text == HIDDEN else text for name, text in shown.items()}
            members["headers"] = shown
        if change.get("url", shown_url) != shown_url:
            url = shown_url = str(change["url"])
    sealed = one.sealed
    if sealed is not None and _origin(url) != _origin(sealed.url):
        sealed = None  # what the function gives for one host is not for another
        members["headers"] = {name: text for name, text in dict(members.get("headers") or {}).items() if text != HIDDEN}
    elif sealed is not None:
        sealed = Sealed(url, tuple(headers.items()), sealed.auth_key)
    members["url"] = shown_url
    return Offload(
        step=one.step,
        name=one.name,
        index=one.index,
        request=canonical(members),
        kind=one.kind,
        sealed=sealed,
        race=one.race,
    )


def _with_model(url: str, format: str, body: dict[str, Any]) -> str:
    """The address, where a dialect names its model in it, for the `model` that the body names."""
    before, mark, rest = {
        "gemini": _around(url, "/models/", ":"),
        "azure-openai": _around(url, "/deployments/", "/"),
    }.get(format, ("", "", ""))
    if not mark or not isinstance(body.get("model"), str):
        return url
    return f"{before}{quote(body.pop('model'), safe='')}{rest}"


def _around(url: str, opening: str, closing: str) -> tuple[str, str, str]:
    """What stands before and after the part of an address between two marks; the middle is empty without it."""
    before, found, after = url.partition(opening)
    part, end, rest = after.partition(closing)
    return (before + found, part, end + rest) if found and end else ("", "", "")


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower()
