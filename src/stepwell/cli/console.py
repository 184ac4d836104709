"""What runs come to, told on the terminal of `stepwell dev` while it happens.

     ↻ shop-fulfil  step 'charge' failed, next try in 15 s: TimeoutError: bank is slow
         Traceback (most recent call last): ...
     ✗ shop-fulfil failed  ValueError: bad row  1.2 s  01J…
         Traceback (most recent call last): ...
     ✓ shop-fulfil completed 2.1 s  01J…

What is committed is looked at as it goes by; only what makes a line is kept for a moment, so that telling costs the
runs themselves next to nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from stepwell.cli.output import bold, dim, duration_text, error_text, plan_text, printable, say, stack_lines
from stepwell.model import journal
from stepwell.model.payload import Blob, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.engine.run import Run
    from stepwell.model.ids import Instant, RunId, StepId
    from stepwell.model.journal import Entry
    from stepwell.model.payload import Payload
    from stepwell.store.base import Store

PAUSE_S = 0.05
"""How long commits are gathered before they are told of."""
_STACKS = 1000
"""Runs whose last traceback is remembered."""
_TOLD: Final = (
    journal.RunCompleted,
    journal.RunFailed,
    journal.RunCancelled,
    journal.StepRetried,
    journal.StepFailed,
)

log = logging.getLogger("stepwell")


class Console:
    """Tells of runs that this server carries forward.

    Args:
        store: Where large errors are.
        as_json: One JSON object a line instead of lines for people.
    """

    def __init__(self, store: Store, *, as_json: bool = False) -> None:
        self._store = store
        self._as_json = as_json
        self._moved: list[tuple[Run, tuple[Entry, ...]]] = []
        self._stacks: dict[RunId, list[str]] = {}  # the last traceback that was shown of a run
        self._woken = asyncio.Event()

    def moved(self, run: Run, entries: Sequence[Entry]) -> None:
        """These entries of a run were committed together."""
        for entry in entries:
            if isinstance(entry, _TOLD) or _failed(entry):
                self._moved.append((run, tuple(entries)))
                self._woken.set()
                return

    async def tell(self) -> None:
        """Tell for ever."""
        while True:
            await self._woken.wait()
            await asyncio.sleep(PAUSE_S)
            await self.tell_now()

    async def tell_now(self) -> None:
        """Tell what has come in until now."""
        self._woken.clear()
        moved, self._moved = self._moved, []
        for run, entries in moved:
            try:
                await self._tell(run, entries)
            except Exception:  # a line that is missing must not end the server
                log.exception("run %s cannot be told of", run.id)

    async def _tell(self, run: Run, entries: Sequence[Entry]) -> None:
        failed: journal.CallEnded | None = None
        for entry in entries:
            match entry:
                case journal.StepRetried():
                    name = entry.name or _name(run, entry.step)
                    await self._retry(run, entry.error, entry.retry_at - entry.at, name)
                case journal.StepFailed():
                    await self._step_failed(run, entry.error, entry.name or _name(run, entry.step))
                case journal.CallEnded():
                    failed = entry if _failed(entry) else None
                case journal.CallScheduled() if failed is not None:
                    # The attempt that follows; without one its failure is that of a step or of the run.
                    if entry.attempt and failed.error is not None:
                        step = _name(run, entry.target) if entry.target is not None else None
                        await self._retry(run, failed.error, entry.due - failed.at, step)
                    failed = None
                case journal.RunCompleted():
                    self._end(run, "completed", entry.at, None)
                case journal.RunFailed():
                    self._end(run, "failed", entry.at, await self._error(entry.error))
                case journal.RunCancelled():
                    self._end(run, "cancelled", entry.at, None, entry.reason)
                case _:
                    pass

    async def _retry(self, run: Run, error: Payload, pause_ms: int, step: str | None) -> None:
        value = await self._error(error)
        if self._as_json:
            self._line(run, "attempt failed", step=step, error=value, next_try_ms=max(0, pause_ms))
            return
        when = f"next try in {plan_text(pause_ms)}" if pause_ms > 0 else "trying again"
        what = "attempt" if step is None else f"step {printable(step)!r}"
        say(f"{run.function}  {what} failed, {when}: {error_text(value)}", mark="↻", colour="yellow")
        self._show_new_stack(run, value)

    async def _step_failed(self, run: Run, error: Payload, step: str) -> None:
        value = await self._error(error)
        if self._as_json:
            self._line(run, "step failed", step=step, error=value)
            return
        say(f"{run.function}  step {printable(step)!r} failed for good: {error_text(value)}", mark="✗", colour="red")
        self._show_new_stack(run, value)

    def _end(self, run: Run, word: str, at: Instant, error: Any, reason: str = "") -> None:
        self._stacks.pop(run.id, None)
        took = at - run.created_at
        if self._as_json:
            told = {"error": error} if word == "failed" else {"reason": reason} if reason else {}
            self._line(run, word, duration_ms=took, **told)
            return
        mark, colour = {"completed": ("✓", "green"), "failed": ("✗", "red")}.get(word, ("⊘", "yellow"))
        why = f"  {error_text(error)} " if word == "failed" else f"  {printable(reason)} " if reason else ""
        say(f"{bold(run.function)} {word}{why} {dim(duration_text(took))}  {dim(run.id)}", mark=mark, colour=colour)
        _show(stack_lines(error))

    def _line(self, run: Run, message: str, **facts: Any) -> None:
        bad = "failed" in message
        line = {
            "at": datetime.now(UTC).isoformat(),
            "level": "warning" if bad else "info",
            "logger": "stepwell.runs",
            "message": f"{run.function} {message}",
            "run": run.id,
            "function": run.function,
            **{name: value for name, value in facts.items() if value is not None},
        }
        click.echo(json.dumps(line), err=True)

    def _show_new_stack(self, run: Run, error: Any) -> None:
        """The traceback of an attempt, unless the attempt before it had the same."""
        stack = stack_lines(error)
        if stack != self._stacks.pop(run.id, []):
            _show(stack)
        if stack:
            self._stacks[run.id] = stack
        if len(self._stacks) > _STACKS:
            del self._stacks[next(iter(self._stacks))]

    async def _error(self, error: Payload) -> Any:
        if isinstance(error, Blob):
            (error,) = await self._store.read_blobs((error,))
        return decode(error)


def _show(stack: list[str]) -> None:
    for line in stack:
        click.echo(dim(f"     {line}"), err=True)


def _failed(entry: Entry) -> bool:
    """Whether it is the end of a call that failed, after which there may be another attempt."""
    return isinstance(entry, journal.CallEnded) and entry.outcome == "failed" and entry.error is not None


def _name(run: Run, step: StepId) -> str:
    known = run.steps.get(step)
    return known.name if known is not None else ""
