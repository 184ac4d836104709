"""A format that we do not know: sent as it is, stored as it comes, nothing read from it but its failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from stepwell.model.ids import Instant
from stepwell.wire.models.dialect import Answer, Assembler, Budget, Dialect, Prompt
from stepwell.wire.models.document import Document, body_document, parameters
from stepwell.wire.models.failure import Failure
from stepwell.wire.models.openai_chat import openai_failure


class Other(Dialect):
    name: ClassVar[str] = "other"
    provider: ClassVar[str] = ""
    raw: ClassVar[bool] = True

    def prompt(self, url: str, body: bytes) -> Prompt:
        asked = body_document(body)
        return Prompt(model=self.model(url, body), parameters=parameters(asked, leave_out=("model",)))

    def assembler(self, budget: Budget) -> Assembler:
        raise TypeError("answers of an unknown format are not put together")

    def answer(self, document: Document) -> Answer:
        return Answer()

    def failure(self, status: int, headers: Mapping[str, str], body: bytes, *, now_ms: Instant) -> Failure:
        return openai_failure(status, headers, body, now_ms=now_ms)

    def _can_stream(self, url: str, members: Mapping[str, msgspec.Raw]) -> bool:
        return False

    def _form(self, url: str, members: dict[str, msgspec.Raw], streamed: bool) -> tuple[str, dict[str, msgspec.Raw]]:
        return url, members


class Bedrock(Other):
    """Amazon's signed requests: the key that the caller gives is the whole header."""

    name: ClassVar[str] = "bedrock"
    provider: ClassVar[str] = "aws"

    def authentication(self, auth_key: str) -> dict[str, str]:
        return {"Authorization": auth_key}
