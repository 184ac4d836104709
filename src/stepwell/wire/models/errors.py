"""What can be wrong with the answer of a provider, once its status said that all is well.

A status that says otherwise is not an exception but a `Failure`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.model.errors import StepwellError

if TYPE_CHECKING:
    from stepwell.wire.models.failure import Failure


class AnswerError(StepwellError):
    """Base of what can be wrong with an answer."""

    code = "PROVIDER_ANSWER"
    http_status = 502


class AnswerTooLarge(AnswerError):
    """The answer, or one event of its stream, is above the limit. Asked again it would be as large."""

    code = "PROVIDER_ANSWER_TOO_LARGE"

    def __init__(self, what: str, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(f"{what} is larger than {limit_bytes} bytes; ask for less, or raise the limit")


class AnswerMalformed(AnswerError):
    """The answer is not what its format promises."""

    code = "PROVIDER_ANSWER_MALFORMED"
    retryable = True


class StreamCut(AnswerError):
    """The connection closed in good order before the answer was complete."""

    code = "PROVIDER_STREAM_CUT"
    retryable = True


class StreamFailed(AnswerError):
    """The provider reported an error in the middle of its stream.

    Attributes:
        failure: What it said, read as if it had been the answer to the request.
    """

    code = "PROVIDER_STREAM_FAILED"

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        self.retryable = failure.retryable
        super().__init__(f"the provider reported an error in the middle of its answer: {failure.message}")
