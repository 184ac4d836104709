"""Pieces of an answer that is still being made, as whoever makes it hands them to those who follow the run.

    gateway --publish(run, step, pieces)--> streams --one server-sent event--> subscribers

Pieces are for eyes that watch: none of them is recorded, and the result of the step does not depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stepwell.model.ids import RunId, StepId

TEXT = "text"
USAGE = "usage"


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of what a step is about to return.

    Attributes:
        kind: `text`, `reasoning`, `refusal`, `tool_call` (one begins), `tool_arguments` or `usage`.
        index: Tells choices, blocks or tool calls apart.
        more: Further members of what subscribers get, such as the name of a tool; small, and JSON.
    """

    kind: str = TEXT
    text: str = ""
    index: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


class Publisher(Protocol):
    """Takes pieces to whoever follows the run. Neither method waits or raises."""

    def publish(self, run: RunId, step: StepId, name: str, pieces: Sequence[Piece]) -> None:
        """Hand on the next pieces of a step; `name` is the id that the user wrote."""

    def void(self, run: RunId, step: StepId, name: str) -> None:
        """What was published of the step is not part of its result: it begins again, or has failed."""
