"""What a function gets: its events, its steps, and a clock and random numbers that a replay repeats."""

from __future__ import annotations

import logging
import random
import uuid
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

from stepwell.sdk.logger import FunctionLogger
from stepwell.sdk.step import Steps, SyncSteps

if TYPE_CHECKING:
    from stepwell.sdk.event import Event
    from stepwell.sdk.execution import Execution
    from stepwell.sdk.service import Service

T_co = TypeVar("T_co", covariant=True)

_logger = logging.getLogger("stepwell.function")


class _Base(Generic[T_co]):
    """What both contexts share.

    Attributes:
        event: What started the run; the first of `events`.
        events: All of them, when the function takes batches.
        run_id: The run's id, the same in every execution of it.
    """

    def __init__(self, execution: Execution, events: tuple[Event[T_co], ...]) -> None:
        self.event: Event[T_co] = events[0]
        self.events = events
        self.run_id: str = execution.start.run
        self._execution = execution
        self._uuids = random.Random(f"{self.run_id} uuid4")

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 0: inside a step of the step, outside of the function's body."""
        return self._execution.attempt()

    @cached_property
    def logger(self) -> FunctionLogger:
        """A logger that is silent while recorded steps are replayed, so that each line appears once."""
        return FunctionLogger(_logger, self._execution)

    @cached_property
    def random(self) -> random.Random:
        """Random numbers that are the same in every execution of the run. Not for secrets: draw those in a step."""
        return random.Random(f"{self.run_id} random")

    @property
    def service(self) -> Service:
        """The service that the function belongs to."""
        return self._execution.function.service

    def now(self) -> datetime:
        """When the run started, in UTC: the same in every execution of it. Read the time of day in a step."""
        return self._execution.started_at

    def uuid4(self) -> uuid.UUID:
        """A UUID that is the same in every execution of the run, if the calls come in the same order."""
        return uuid.UUID(int=self._uuids.getrandbits(128), version=4)


class Context(_Base[T_co]):
    """The `ctx` of an `async def` function."""

    @cached_property
    def step(self) -> Steps:
        """Everything that is recorded."""
        return Steps(self._execution)


class SyncContext(_Base[T_co]):
    """The `ctx` of a plain `def` function."""

    @cached_property
    def step(self) -> SyncSteps:
        """Everything that is recorded."""
        return SyncSteps(self._execution)
