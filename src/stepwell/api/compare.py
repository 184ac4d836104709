"""`GET /api/runs/{id}/compare/{other}`: two runs of a function side by side, as after a rerun with another input.

Of each run and of each step: what it was given, what came of it, and what it took. Steps are the same if their ids are;
they come in the order of the first run, then those that only the second one has.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from stepwell.api import answers, masking
from stepwell.api.answers import Raw
from stepwell.api.model_calls import asks_model, model_call
from stepwell.api.routes import Ask, Route
from stepwell.model.errors import InvalidInput, NotFound
from stepwell.model.ids import RunId, ulid_time
from stepwell.node.reads.payloads import text_of
from stepwell.node.reads.runs import SpanKind, run_detail
from stepwell.wire.inngest.text import shortened

if TYPE_CHECKING:
    from stepwell.model.ids import StepId
    from stepwell.model.payload import Payload
    from stepwell.node.reads.runs import RunDetail, Span

MOST_LETTERS = 4000
"""Of one text; a longer one is cut, and the run itself has it."""


def routes() -> list[Route]:
    return [Route("GET", "/api/runs/{id}/compare/{other}", compare)]


async def compare(ask: Ask) -> Response:
    site = ask.site
    runs: list[RunDetail] = []
    for part in ("id", "other"):
        wanted = _run_id(ask.part(part), part)
        found = await run_detail(site.node.store, site.env, wanted, site.running)
        if found is None:
            raise NotFound(f"no run {wanted}")
        runs.append(found)
    old, new = runs
    if old.row.function != new.row.function:
        raise InvalidInput(
            f"run {old.row.id} is one of {old.row.function} and run {new.row.id} one of {new.row.function}; "
            "two runs of one function can be compared",
            field="other",
        )
    before, after = _steps(old), _steps(new)
    shown = []
    for step in (*before, *(step for step in after if step not in before)):
        sides = [await _side(ask, spans.get(step)) for spans in (before, after)]
        name = (before.get(step) or after[step]).name
        index = (before.get(step) or after[step]).index
        shown.append(
            {
                "name": f"{name}:{index}" if index else name,
                "step": step,
                "same": _is_kept(before.get(step), after.get(step), old, new) or _alike(*sides),
                "old": sides[0],
                "new": sides[1],
            }
        )
    return answers.json({"function": old.row.function, "old": _run(ask, old), "new": _run(ask, new), "steps": shown})


def _run_id(text: str, field: str) -> RunId:
    try:
        ulid_time(text)
    except ValueError as err:
        raise InvalidInput(f"Invalid run ID: {err}", field=field) from err
    return RunId(text.upper())


def _steps(run: RunDetail) -> dict[StepId, Span]:
    return {span.step: span for span in run.trace.root.children if span.kind is SpanKind.STEP and span.step is not None}


def _run(ask: Ask, run: RunDetail) -> dict[str, Any]:
    """What a run came to. Tokens and cost are those of its own requests, each attempt counted, kept results not."""
    redaction, root = ask.site.redaction, run.trace.root
    made = [one for span in root.children for one in (span.children or (span,)) if one.exchange is not None]
    exchanges = [one.exchange for one in made if one.exchange is not None]
    costs = [Decimal(one.cost_usd) for one in exchanges if one.cost_usd is not None]
    return {
        "id": run.row.id,
        "status": run.status.value,
        "origin": run.trace.origin,
        "from_step": run.trace.from_step or None,
        "duration_ms": root.duration_ms,
        "input_tokens": _sum([one.input_tokens for one in exchanges]),
        "output_tokens": _sum([one.output_tokens for one in exchanges]),
        "cost_usd": str(sum(costs)) if costs else None,
        "output": _cut(redaction.shown(run.output)),
        "error": _cut(redaction.shown(run.error)),
    }


def _sum(numbers: list[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


async def _side(ask: Ask, span: Span | None) -> dict[str, Any] | None:
    if span is None:
        return None
    call = await model_call(ask.site.node, span, ask.site.redaction) if asks_model(span) else None
    exchange = span.exchange
    told: dict[str, Any] = {
        "status": span.status.value,
        "kind": span.step_kind,
        "origin": span.origin,
        "edited": span.edited,
        "attempts": span.attempts,
        "duration_ms": span.duration_ms if span.origin is None else None,
        "first_token_ms": exchange.first_token_ms if exchange is not None else None,
        "cost_usd": exchange.cost_usd if exchange is not None else None,
        "error": _cut(await _text(ask, span.error)),
    }
    if call is None:
        return told | {
            "input": _cut(await _text(ask, span.input)),
            "output": _cut(masking.shown(await _text(ask, span.output))),
        }
    return told | {
        "model": call.model or None,
        "input_tokens": call.input_tokens,
        "output_tokens": call.output_tokens,
        "prompt": [
            {"role": one.role, "text": shortened(one.text, MOST_LETTERS)} for one in call.prompt.messages if one.text
        ],
        "parameters": dict(call.prompt.parameters),
        "answer": None if call.answer is None else shortened(call.answer, MOST_LETTERS),
    }


def _is_kept(before: Span | None, after: Span | None, old: RunDetail, new: RunDetail) -> bool:
    """Whether both have one result, that of one of them or of a third run."""
    if before is None or after is None:
        return False
    return (before.origin or old.row.id) == (after.origin or new.row.id)


_MEASURES = frozenset({"origin", "edited", "attempts", "duration_ms", "first_token_ms", "cost_usd"}) | {
    "input_tokens",
    "output_tokens",
}


def _alike(old: dict[str, Any] | None, new: dict[str, Any] | None) -> bool:
    """Whether the same went in and the same came out, whatever it took."""
    if old is None or new is None:
        return False
    return {name: value for name, value in old.items() if name not in _MEASURES} == {
        name: value for name, value in new.items() if name not in _MEASURES
    }


async def _text(ask: Ask, payload: Payload | None) -> bytes | None:
    return ask.site.redaction.shown(await text_of(ask.site.node.store, payload))


def _cut(text: bytes | None) -> object:
    """JSON as it is; of a long one its beginning, as text."""
    if text is None:
        return None
    return Raw(text) if len(text) <= MOST_LETTERS else shortened(text.decode(), MOST_LETTERS)
