"""What runs come to, told on the terminal of `stepwell dev` while it happens.

     ↻ shop-fulfil  step 'charge' failed, next try in 15 s: TimeoutError: bank is slow
         Traceback (most recent call last): ...
     ✗ shop-fulfil failed  ValueError: bad row  1.2 s  01J…
         Traceback (most recent call last): ...
     ✓ shop-fulfil completed 2.1 s  01J…

The server says only that a run has moved on. What happened is read from its journal a moment later, once for all
that came in between, so that telling costs the runs themselves next to nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from stepwell.cli.output import bold, dim, duration_text, error_text, plan_text, printable, say, stack_lines
from stepwell.model import journal
from stepwell.model.payload import Blob, decode

if TYPE_CHECKING:
    from stepwell.model.ids import Instant, RunId
    from stepwell.model.job import RunRow
    from stepwell.model.journal import Entry
    from stepwell.model.payload import Payload
    from stepwell.store.base import Store

PAUSE_S = 0.05
"""How long commits are gathered before their runs are read."""

log = logging.getLogger("stepwell")


@dataclass(slots=True)
class _Told:
    """How far a run has been told, and what of it later lines need."""

    seq: int = 0
    names: dict[str, str] = field(default_factory=dict)
    failed: journal.CallEnded | None = None
    stack: list[str] = field(default_factory=list)  # the last traceback that was shown of it


class Console:
    """Tells of runs that this server carries forward.

    Args:
        store: Where their journals are.
        as_json: One JSON object a line instead of lines for people.
        since: Nothing older is told; the start of the program.
    """

    def __init__(self, store: Store, *, as_json: bool = False, since: Instant | None = None) -> None:
        self._store = store
        self._as_json = as_json
        self._since = round(time.time() * 1000) if since is None else since
        self._told: dict[RunId, _Told] = {}
        self._moved: dict[RunId, None] = {}
        self._woken = asyncio.Event()

    def moved(self, run: RunId) -> None:
        """Something of this run was committed."""
        self._moved[run] = None
        self._woken.set()

    async def tell(self) -> None:
        """Tell for ever."""
        while True:
            await self._woken.wait()
            await asyncio.sleep(PAUSE_S)
            await self.tell_now()

    async def tell_now(self) -> None:
        """Tell what has come in until now."""
        self._woken.clear()
        runs, self._moved = self._moved, {}
        for run in runs:
            try:
                await self._tell_run(run)
            except Exception:  # a line that is missing must not end the server
                log.exception("run %s cannot be told of", run)

    async def _tell_run(self, run: RunId) -> None:
        told = self._told.setdefault(run, _Told())
        stored = await self._store.load_run(run, told.seq)
        if stored is None:
            del self._told[run]
            return
        for entry in stored.entries:
            told.seq += 1
            await self._tell_entry(stored.row, told, entry)
        if stored.row.status.final and told.seq >= stored.row.seq:
            del self._told[run]

    async def _tell_entry(self, row: RunRow, told: _Told, entry: Entry) -> None:
        new = entry.at >= self._since
        match entry:
            case journal.StepScheduled():
                told.names[entry.step] = entry.name
            case journal.StepRetried() if new:
                await self._retry(row, told, entry.error, entry.retry_at - entry.at, _name(told, entry))
            case journal.StepFailed() if new:
                await self._step_failed(row, told, entry.error, _name(told, entry))
            case journal.CallEnded():
                told.failed = entry if entry.outcome == "failed" and entry.error is not None else None
            case journal.CallScheduled() if told.failed is not None:
                if new and entry.attempt and told.failed.error is not None:
                    step = told.names.get(entry.target, "") if entry.target is not None else None
                    await self._retry(row, told, told.failed.error, entry.due - told.failed.at, step)
                told.failed = None
            case journal.RunCompleted() if new:
                self._end(row, "completed", entry.at, None)
            case journal.RunFailed() if new:
                self._end(row, "failed", entry.at, await self._error(entry.error))
            case journal.RunCancelled() if new:
                self._end(row, "cancelled", entry.at, None, entry.reason)
            case _:
                pass

    async def _retry(self, row: RunRow, told: _Told, error: Payload, pause_ms: int, step: str | None) -> None:
        value = await self._error(error)
        if self._as_json:
            self._line(row, "attempt failed", step=step, error=value, next_try_ms=max(0, pause_ms))
            return
        when = f"next try in {plan_text(pause_ms)}" if pause_ms > 0 else "trying again"
        what = "attempt" if step is None else f"step {printable(step)!r}"
        say(f"{row.function}  {what} failed, {when}: {error_text(value)}", mark="↻", colour="yellow")
        _show_new_stack(told, value)

    async def _step_failed(self, row: RunRow, told: _Told, error: Payload, step: str) -> None:
        value = await self._error(error)
        if self._as_json:
            self._line(row, "step failed", step=step, error=value)
            return
        say(f"{row.function}  step {printable(step)!r} failed for good: {error_text(value)}", mark="✗", colour="red")
        _show_new_stack(told, value)

    def _end(self, row: RunRow, word: str, at: Instant, error: Any, reason: str = "") -> None:
        took = at - row.created_at
        if self._as_json:
            told = {"error": error} if word == "failed" else {"reason": reason} if reason else {}
            self._line(row, word, duration_ms=took, **told)
            return
        mark, colour = {"completed": ("✓", "green"), "failed": ("✗", "red")}.get(word, ("⊘", "yellow"))
        why = f"  {error_text(error)} " if word == "failed" else f"  {printable(reason)} " if reason else ""
        say(f"{bold(row.function)} {word}{why} {dim(duration_text(took))}  {dim(row.id)}", mark=mark, colour=colour)
        _show(stack_lines(error))

    def _line(self, row: RunRow, message: str, **facts: Any) -> None:
        bad = "failed" in message
        line = {
            "at": datetime.now(UTC).isoformat(),
            "level": "warning" if bad else "info",
            "logger": "stepwell.runs",
            "message": f"{row.function} {message}",
            "run": row.id,
            "function": row.function,
            **{name: value for name, value in facts.items() if value is not None},
        }
        click.echo(json.dumps(line), err=True)

    async def _error(self, error: Payload) -> Any:
        if isinstance(error, Blob):
            (error,) = await self._store.read_blobs((error,))
        return decode(error)


def _show_new_stack(told: _Told, error: Any) -> None:
    """The traceback of an attempt, unless the attempt before it had the same."""
    stack = stack_lines(error)
    if stack != told.stack:
        _show(stack)
    told.stack = stack


def _show(stack: list[str]) -> None:
    for line in stack:
        click.echo(dim(f"     {line}"), err=True)


def _name(told: _Told, entry: journal.StepRetried | journal.StepFailed) -> str:
    return entry.name or told.names.get(entry.step, "")
