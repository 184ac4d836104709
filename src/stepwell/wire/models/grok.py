"""xAI's Grok: chat completions of OpenAI's form, with reasoning counted beside the completion, not in it.

That difference is told by the total, so it is read where usage is (`openai_chat`), also when an SDK calls the format
`openai-chat`.
"""

from __future__ import annotations

from typing import ClassVar

from stepwell.wire.models.openai_chat import OpenAIChat


class Grok(OpenAIChat):
    name: ClassVar[str] = "grok"
    provider: ClassVar[str] = "x-ai"
