"""The outside witness: what really ran, whatever the server believes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from stepwell.model.ids import Instant, JobId, RunId, StepId


class Execution(msgspec.Struct):
    """One real execution of a step."""

    run: RunId
    step: StepId
    call: JobId
    number: int  # counts the executions of this step in this run, from 0
    at: Instant
    result: bytes = b""
    key: str = ""  # that a request was made with
    given: bytes = b""  # the input that it was to have instead of the program's


class Ledger:
    """Every execution, and what the network did that explains some of them."""

    def __init__(self) -> None:
        self.executions: dict[tuple[RunId, StepId], list[Execution]] = {}
        self.doubled: set[JobId] = set()
        """Calls whose request the network delivered twice."""

    def record(
        self, run: RunId, step: StepId, call: JobId, at: Instant, key: str = "", given: bytes = b""
    ) -> Execution:
        done = self.executions.setdefault((run, step), [])
        execution = Execution(run, step, call, len(done), at, key=key, given=given)
        done.append(execution)
        return execution
