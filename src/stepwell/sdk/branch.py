"""The branches of `step.parallel`: sync code that reaches several steps at once from one thread.

A thread has one place to stand, so a branch is left at its next step by an exception, and called again from
its start with the answers it had, when the steps of all branches are settled.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, TypeAlias

from stepwell.sdk.request import Request

Answer: TypeAlias = tuple[Any, BaseException | None]


class _Pause(BaseException):
    """Leaves a branch of `step.parallel` at a step that has no answer yet."""


class Branch:
    """One callable of `step.parallel`: called from its start again until no step of it waits."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.request: Request | None = None
        self.answers: list[Answer] = []
        self.value: Any = None
        self.error: BaseException | None = None
        self._work = work
        self._at = 0
        self._ended = False

    def advance(self) -> bool:
        """Go on to the next step without an answer, or to the end; whether it ended."""
        if self._ended:
            return True
        self._at, self.request = 0, None
        token = current_branch.set(self)
        try:
            self.value = self._work()
        except BaseException as err:
            if not self._is_paused() and not isinstance(err, Exception):
                raise
            # Raised by `perform_branches`, when the other branches have ended too.
            self.error = err
        finally:
            current_branch.reset(token)
        if self._is_paused():  # whatever libraries made of the pause on its way
            self.value = self.error = None
            return False
        self._ended = True
        return True

    def next(self, request: Request) -> Answer:
        """The answer to the branch's next step, if there is one."""
        if self._at < len(self.answers):
            self._at += 1
            return self.answers[self._at - 1]
        if not self._is_paused():  # else it is left already, and this comes from its cleanup
            self.request = request
        raise _Pause

    def _is_paused(self) -> bool:
        return self.request is not None


current_branch: contextvars.ContextVar[Branch | None] = contextvars.ContextVar("stepwell_branch", default=None)
