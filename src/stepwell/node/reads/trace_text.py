"""A trace as lines of text, for terminals.

    ✔ Run                     +0 ms      1.2 s
    ├─ ✔ charge               +3 ms      240 ms   3 attempts
    │  ├─ ✖ Attempt 0         +3 ms      12 ms    TimeoutError: bank is slow
    ...

`lines` gives pieces that say what they are, so that a terminal can colour them; `render` puts the same pieces
together without colours. Both are pure: the time is given, so that what is still going on has a length.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from stepwell.engine.span import InvokeInfo, SleepInfo, SpanKind, SpanStatus, WaitInfo
from stepwell.model.job import RunStatus
from stepwell.model.payload import decode
from stepwell.model.task import usage_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.engine.span import Note, Request, Span, Trace
    from stepwell.model.ids import Instant
    from stepwell.model.offload import Exchange
    from stepwell.model.payload import Payload

_LONGEST_NAME = 48
_LONGEST_TEXT = 100
_LONGEST_MESSAGE = 10_000  # of the run's own error, which is said in full nowhere else


class Role(StrEnum):
    """What a piece of a line is, for whoever colours it."""

    PLAIN = "plain"
    TREE = "tree"
    NAME = "name"
    TIME = "time"
    DETAIL = "detail"
    HEADING = "heading"
    GOOD = "good"
    BAD = "bad"
    BUSY = "busy"
    IDLE = "idle"  # queued, waiting or cancelled


class Piece(NamedTuple):
    role: Role
    text: str


Line: TypeAlias = tuple[Piece, ...]

_MARKS = {
    SpanStatus.QUEUED: Piece(Role.IDLE, "○"),
    SpanStatus.RUNNING: Piece(Role.BUSY, "●"),
    SpanStatus.WAITING: Piece(Role.IDLE, "◷"),
    SpanStatus.COMPLETED: Piece(Role.GOOD, "✔"),
    SpanStatus.FAILED: Piece(Role.BAD, "✖"),
    SpanStatus.CANCELLED: Piece(Role.IDLE, "⊘"),
}
_COLD = frozenset({"Preparing", "Serving", "Setting up"})
_OUTCOMES = {
    "answered": Role.GOOD,
    "suspended": Role.GOOD,
    "failed": Role.BAD,
    "lost": Role.BAD,
    "declined": Role.IDLE,
    "superseded": Role.IDLE,
    "stopped": Role.IDLE,
}


def render(trace: Trace, now: Instant) -> str:
    """The whole trace as text, without colours. Ends with a line break."""
    return "".join("".join(piece.text for piece in line).rstrip() + "\n" for line in lines(trace, now))


def lines(trace: Trace, now: Instant) -> list[Line]:
    """The whole trace: what run it is, the tree, the requests, the notes."""
    found = list(_heading(trace, now))
    found += [(), *_tree(trace, now)]
    if trace.requests:
        found += [(), (Piece(Role.HEADING, "Requests"),), *_requests(trace, now)]
    if trace.notes:
        found += [(), (Piece(Role.HEADING, "Notes"),)]
        found += [_note(note, trace.root.queued_at) for note in trace.notes]
    return found


def _heading(trace: Trace, now: Instant) -> Iterator[Line]:
    root = trace.root
    mark = _MARKS[root.status]
    yield (
        Piece(mark.role, f"{mark.text} {trace.status.value}"),
        Piece(Role.PLAIN, "  "),
        Piece(Role.HEADING, trace.function),
        Piece(Role.DETAIL, f"  run {trace.run}"),
    )
    facts = [f"created {_moment(root.queued_at)}"]
    if root.scheduled_at is not None and root.started_at is None:
        facts.append(f"starts {_moment(root.scheduled_at)}")
    if root.queue_ms is not None:
        facts.append(f"queued {duration_text(root.queue_ms)}")
    if root.started_at is not None:
        taken = duration_text((root.ended_at or now) - root.started_at)
        facts.append(f"took {taken}" if root.ended_at is not None else f"running for {taken}")
    facts += [f"waits for a slot of {limit}" for limit in trace.lacks]
    if trace.cancelling_at is not None and root.ended_at is None:
        facts.append(f"being cancelled for {duration_text(max(0, now - trace.cancelling_at))}")
    steps = sum(span.kind is SpanKind.STEP for span in root.children)
    facts += [_count(steps, "step"), _count(len(trace.requests), "request")]
    yield (Piece(Role.DETAIL, "  " + " · ".join(facts)),)
    if trace.parent is not None:
        yield (Piece(Role.DETAIL, f"  invoked by run {trace.parent}"),)
    if trace.origin is not None:
        since = f" from step {trace.from_step!r} on" if trace.from_step else ""
        yield (Piece(Role.DETAIL, f"  makes run {trace.origin} again{since}"),)
    if trace.status is RunStatus.CANCELLED:
        event = f" (event {trace.cancel_event})" if trace.cancel_event else ""
        reason = _short(trace.reason, _LONGEST_MESSAGE) or "no reason given"
        yield (Piece(Role.DETAIL, f"  cancelled: {reason}{event}"),)
    if root.error is not None:
        yield (Piece(Role.BAD, f"  {_error(root.error, _LONGEST_MESSAGE)}"),)


# the tree


class _Row(NamedTuple):
    tree: str
    span: Span


def _tree(trace: Trace, now: Instant) -> Iterator[Line]:
    rows = list(_rows(trace.root, "", ""))
    width = max(len(row.tree) + 2 + len(_short(row.span.name, _LONGEST_NAME)) for row in rows)
    zero = trace.root.queued_at
    for row in rows:
        span = row.span
        mark = _MARKS[span.status]
        name = _short(span.name, _LONGEST_NAME)
        room = width - len(row.tree) - 2 - len(name)
        begun = span.started_at if span.started_at is not None else span.scheduled_at or span.queued_at
        yield (
            Piece(Role.TREE, row.tree),
            mark,
            Piece(Role.NAME, f" {name}{' ' * room}"),
            Piece(Role.TIME, f"  {'+' + duration_text(max(0, begun - zero)):>9}  {_length(span, now):>8}"),
            Piece(Role.DETAIL, _details(span)),
            Piece(Role.BAD, _failure(span)),
        )


def _rows(span: Span, here: str, below: str) -> Iterator[_Row]:
    yield _Row(here, span)
    for child in span.children:
        last = child is span.children[-1]
        yield from _rows(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))


def _length(span: Span, now: Instant) -> str:
    if span.started_at is None:
        return "–"
    return duration_text(max(0, (span.ended_at if span.ended_at is not None else now) - span.started_at))


def _details(span: Span) -> str:
    facts: list[str] = []
    match span.info:
        case SleepInfo(until):
            facts.append(f"sleep until {_moment(until)}")
        case WaitInfo() as info:
            facts.append(f"wait for {info.event!r}" + (f" if {info.expression}" if info.expression else ""))
            if info.timed_out:
                facts.append("timed out")
            elif info.found_event is not None:
                facts.append(f"found event {info.found_event}")
            else:
                facts.append(f"until {_moment(info.until)}")
        case InvokeInfo() as info:
            facts.append(f"invoke {info.function}")
            if info.child is not None:
                facts.append(f"run {info.child}")
            if info.timed_out:
                facts.append("timed out")
        case None:
            if span.kind is SpanKind.STEP and span.step_kind not in ("", "step.run"):
                facts.append(span.step_kind.removeprefix("step."))
    phases = [child for child in span.children if child.kind is SpanKind.PHASE]
    if phases:
        facts += _called(span, phases)
    if span.origin is not None:
        facts.append(f"kept from run {span.origin}")
    if span.edited:
        facts.append("edited input")
    if span.exchange is not None:
        facts += _exchanged(span.exchange)
    if span.attempts is not None and span.attempts > 1 and span.kind is not SpanKind.RUN:
        facts.append(f"{span.attempts} attempts")
    if span.queue_ms is not None and span.queue_ms >= 1000 and span.kind is not SpanKind.RUN:
        facts.append(f"queued {duration_text(span.queue_ms)}")
    return "".join(f"  {fact}" if number == 0 else f" · {fact}" for number, fact in enumerate(facts))


def _called(span: Span, phases: list[Span]) -> Iterator[str]:
    """What a call of an app came to: whether it found a warm worker, and what the app says that it took."""
    cold = [one for one in phases if one.name in _COLD and one.duration_ms is not None]
    if cold:
        yield f"cold start {duration_text(sum(one.duration_ms or 0 for one in cold))}"
    if not isinstance(span.output, bytes):
        return
    result = decode(span.output)
    usage = usage_of(result.get("meta") if isinstance(result, dict) else None)
    if usage.input_tokens is not None or usage.output_tokens is not None:
        cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
        yield f"{usage.input_tokens or 0}{cached} → {usage.output_tokens or 0} tokens"
    if usage.cost_usd is not None:
        yield f"${usage.cost_usd:.6f}".rstrip("0").rstrip(".")


def _exchanged(exchange: Exchange) -> Iterator[str]:
    """What a request that the server made came to."""
    if exchange.model:
        yield exchange.model
    if exchange.status and not exchange.model:
        yield f"status {exchange.status}"
    if exchange.redirects:
        yield _count(exchange.redirects, "redirect")
    if exchange.input_tokens is not None and exchange.output_tokens is not None:
        cached = f" ({exchange.cached_tokens} cached)" if exchange.cached_tokens else ""
        yield f"{exchange.input_tokens}{cached} → {exchange.output_tokens} tokens"
    if exchange.cost_usd is not None:
        yield f"${exchange.cost_usd}"
    if exchange.first_token_ms is not None:
        yield f"first token {duration_text(round(exchange.first_token_ms))}"
    elif exchange.received_bytes:
        yield _count(exchange.received_bytes, "byte")
    if exchange.retry_after_ms is not None:
        yield f"asked to wait {duration_text(exchange.retry_after_ms)}"


def _failure(span: Span) -> str:
    """Why it failed, where that is not said on a line below."""
    if span.error is None or span.kind is SpanKind.RUN or span.children:
        return ""
    return f"  {_error(span.error)}"


# requests and notes


def _requests(trace: Trace, now: Instant) -> Iterator[Line]:
    zero = trace.root.queued_at
    rows = [_request(request, zero, now) for request in trace.requests]
    widths = [max(len(row[column].text) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        pieces: list[Piece] = []
        for column, (piece, width) in enumerate(zip(row, widths, strict=True)):
            right = column in (0, 1, 2)
            text = piece.text.rjust(width) if right else piece.text.ljust(width)
            pieces.append(Piece(piece.role, f"  {text}" if width else ""))
        yield tuple(pieces)


def _request(request: Request, zero: Instant, now: Instant) -> tuple[Piece, ...]:
    begun = request.started_at or max(request.scheduled_at, request.due)
    if request.ended_at is not None and request.started_at is not None:
        took = duration_text(round(request.duration_ms or request.ended_at - request.started_at))
    elif request.started_at is not None:
        took = duration_text(max(0, now - request.started_at))
    else:
        took = "–"
    outcome = request.outcome or ("running" if request.started_at is not None else "queued")
    what = f"step {request.target_name or request.target}" if request.target is not None else "function"
    facts = [f"attempt {request.attempt}"] if request.attempt else []
    facts += [request.reason] if request.reason else []
    if request.steps and request.target is None:
        facts.append(_short("ran " + ", ".join(request.steps), _LONGEST_TEXT))
    if request.error is not None:
        facts.append(_error(request.error))
    status = f" {request.status}" if request.status else ""
    return (
        Piece(Role.DETAIL, str(request.number)),
        Piece(Role.TIME, "+" + duration_text(max(0, begun - zero))),
        Piece(Role.TIME, took),
        Piece(Role.NAME, _short(what, _LONGEST_NAME)),
        Piece(Role.DETAIL, "live" if request.live else "request"),
        Piece(_OUTCOMES.get(request.outcome, Role.BUSY), outcome + status),
        Piece(Role.DETAIL, request.worker),
        Piece(Role.DETAIL, " · ".join(facts)),
    )


def _note(note: Note, zero: Instant) -> Line:
    where = f" ({note.step_name or note.step})" if note.step is not None else ""
    return (
        Piece(Role.TIME, f"  {'+' + duration_text(max(0, note.at - zero)):>9}"),
        Piece(Role.BAD if _is_bad(note) else Role.DETAIL, f"  {note.level.lower() or note.kind:<7}"),
        Piece(Role.PLAIN, f"  {_short(note.text, 4 * _LONGEST_TEXT)}{where}"),
    )


def _is_bad(note: Note) -> bool:
    return note.kind == "warning" or note.level.lower() in {"warning", "error", "critical"}


# words


def duration_text(milliseconds: int) -> str:
    """`12 ms`, `1.2 s`, `2 m 05 s`, `3 h 04 m`, `2 d 03 h`."""
    if milliseconds < 1000:
        return f"{milliseconds} ms"
    if milliseconds < 59_950:
        return f"{milliseconds / 1000:.1f} s"
    seconds = (milliseconds + 500) // 1000
    for unit, smaller, size in (("m", "s", 60), ("h", "m", 3600), ("d", "h", 86_400)):
        if seconds < size * {"m": 60, "h": 24}.get(unit, 1 << 40):
            part = seconds % size // (size // {"m": 60, "h": 60, "d": 24}[unit])
            return f"{seconds // size} {unit} {part:02} {smaller}"
    raise AssertionError("every length has a unit")


def _moment(at: Instant) -> str:
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{at % 1000:03} UTC"


def _error(error: Payload, limit: int = _LONGEST_TEXT) -> str:
    if not isinstance(error, bytes):
        return f"an error of {error.size_bytes} bytes"
    value = decode(error)
    if not isinstance(value, dict):
        return _short(value if isinstance(value, str) else error.decode(), limit)
    name, message = value.get("name"), value.get("message")
    return _short(": ".join(str(part) for part in (name, message) if part) or error.decode(), limit)


def _short(text: str, limit: int) -> str:
    flat = "".join(letter if letter.isprintable() else " " for letter in text)
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
