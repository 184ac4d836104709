"""What a user is told about code that works against suspension, once for each place.

A notice names the function, the file and the line, and what to write instead. It goes to the `stepwell`
logger, and to the trace of the run.

Elsewhere: when these things are noticed (`execution.py`).
"""

from __future__ import annotations

import ast
import asyncio
import functools
import linecache
import logging
import os
import sys
from types import FrameType

from stepwell.sdk.parking import AnyTask, Site, frames_of, is_library

_log = logging.getLogger("stepwell")
_MOST_REMEMBERED = 10_000
_told: set[tuple[str, str, Site]] = set()


def tell(level: int, function: str, kind: str, site: Site, text: str) -> str | None:
    """Log `text` unless this function was told of the same `kind` at the same place before; the text if it was told."""
    key = (function, kind, site)
    if key in _told:
        return None
    if len(_told) >= _MOST_REMEMBERED:
        _told.clear()
    _told.add(key)
    message = f"{function}: {text}"
    _log.log(level, "%s", message)
    return message


def forget() -> None:
    """Tell everything again, for tests."""
    _told.clear()


def shown(site: Site) -> str:
    """`app.py:41`, with the path relative to the working directory where that is shorter."""
    filename, line = site
    if not filename:
        return "an unknown place"
    try:
        relative = os.path.relpath(filename)
    except ValueError:  # another drive
        relative = filename
    return f"{min(relative, filename, key=len)}:{line}"


def sites_of(frames: list[FrameType]) -> list[Site]:
    """Where the user's own frames stand, innermost first."""
    return [
        (frame.f_code.co_filename, frame.f_lineno)
        for frame in reversed(frames)
        if not is_library(frame.f_code.co_filename)
    ]


def frames_of_thread(thread: int | None) -> list[FrameType]:
    """The frames of a thread as it stands now, outermost first."""
    frames: list[FrameType] = []
    frame = sys._current_frames().get(thread or 0)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def waiting_at(task: AnyTask) -> str:
    """What a task waits for, in words: `in sleep at app.py:12`; only `in sleep` if no line of the user's is in it."""
    frames = frames_of(task)
    sites = sites_of(frames)
    inner = frames[-1].f_code.co_name if frames else "something"
    return f"in {inner} at {shown(sites[0])}" if sites else f"in {inner}"


def catching_site(sites: list[Site]) -> Site | None:
    """The `except` that can catch a suspension, given where the function stood when it was suspended."""
    for filename, line in sites:
        handler = _handler_around(filename, line)
        if handler is not None:
            return filename, handler
    return None


@functools.lru_cache(maxsize=64)
def _parsed(filename: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return None


def _handler_around(filename: str, line: int) -> int | None:
    module = _parsed(filename)
    if module is None:
        return None
    found: tuple[int, int] | None = None
    for node in ast.walk(module):
        if isinstance(node, ast.Try | ast.TryStar) and _within(node.body, line):
            for handler in node.handlers:
                if _catches_everything(handler.type):
                    found = max(found or (0, 0), (node.lineno, handler.lineno))
            for statement in node.finalbody:
                if any(isinstance(inner, ast.Return | ast.Break | ast.Continue) for inner in ast.walk(statement)):
                    found = max(found or (0, 0), (node.lineno, statement.lineno))
        elif isinstance(node, ast.With | ast.AsyncWith) and _within(node.body, line) and _suppresses(node):
            found = max(found or (0, 0), (node.lineno, node.lineno))
    return found[1] if found else None


def _suppresses(node: ast.With | ast.AsyncWith) -> bool:
    for item in node.items:
        call = item.context_expr
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("suppress"):
            return any(_catches_everything(kind) for kind in call.args)
    return False


def _within(body: list[ast.stmt], line: int) -> bool:
    return body[0].lineno <= line <= (body[-1].end_lineno or body[-1].lineno)


def _catches_everything(kind: ast.expr | None) -> bool:
    if kind is None:
        return True
    if isinstance(kind, ast.Tuple):
        return any(_catches_everything(member) for member in kind.elts)
    name = kind.attr if isinstance(kind, ast.Attribute) else kind.id if isinstance(kind, ast.Name) else ""
    return name in {"BaseException", "CancelledError", "BaseExceptionGroup"}


_TIMEOUT_FRAMES = frozenset({"Timeout._on_timeout", "wait_for", "_cancel_and_wait", "CancelScope._timeout"})


def cancelled_by_timeout(frame: FrameType | None) -> bool:
    """Whether a cancellation that is being made right now comes from a timeout of asyncio or anyio."""
    while frame is not None:
        if frame.f_code.co_qualname in _TIMEOUT_FRAMES and is_library(frame.f_code.co_filename):
            return True
        frame = frame.f_back
    return False


def task_name(task: asyncio.Task[object]) -> str:
    """The name somebody gave it, or that of its coroutine."""
    name = task.get_name()
    if not name.startswith("Task-") and name != "None":  # 3.13.0 names a task so if it has a factory
        return name
    coroutine = task.get_coro()
    return str(getattr(coroutine, "__qualname__", name))
