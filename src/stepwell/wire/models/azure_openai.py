"""Azure OpenAI: chat completions of OpenAI's form, addressed by deployment, with the key in `api-key`.

    https://<resource>.openai.azure.com/openai/deployments/<deployment>/chat/completions?api-version=<date>
    https://<resource>.openai.azure.com/openai/v1/chat/completions

A stream begins with a chunk that holds only the verdict on the prompt (`prompt_filter_results`, empty `id` and
`model`); each choice carries `content_filter_results`. Both are members of the plain answer too.
"""

from __future__ import annotations

import re
from typing import ClassVar
from urllib.parse import unquote

from stepwell.wire.models.openai_chat import OpenAIChat

_ENTRA_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+$")
"""Microsoft's own login gives a signed token in place of a key, and that goes where everybody has it."""

_DEPLOYMENT = re.compile(r"/deployments/([^/?]+)/")


class AzureOpenAI(OpenAIChat):
    name: ClassVar[str] = "azure-openai"
    provider: ClassVar[str] = "azure"

    def model(self, url: str, body: bytes) -> str:
        deployment = _DEPLOYMENT.search(url)
        return super().model(url, body) or (unquote(deployment[1]) if deployment is not None else "")

    def authentication(self, auth_key: str) -> dict[str, str]:
        if _ENTRA_TOKEN.match(auth_key):
            return super().authentication(auth_key)
        return {"api-key": auth_key}
