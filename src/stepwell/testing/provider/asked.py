"""What the stand-in was asked."""

from __future__ import annotations

import json as json_text
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Asked:
    """One request, as it arrived.

    Attributes:
        number: From 1, in the order of arrival.
        dialect: `openai-chat`, `openai-responses`, `anthropic`, `gemini`, `grok`, `azure-openai`; `http` for the
            plain endpoints and anything else.
        query: As it stood in the URL, without the question mark.
        headers: Names in lower case; of a repeated one the last.
        streamed: A stream was asked for.
        answered: The answer was sent to its end.
        abandoned: The caller closed the connection before that.
    """

    number: int
    dialect: str
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    streamed: bool = False
    answered: bool = False
    abandoned: bool = False

    @property
    def json(self) -> Any:
        """The body as JSON; an empty object if it is none."""
        try:
            return json_text.loads(self.body)
        except ValueError:
            return {}
