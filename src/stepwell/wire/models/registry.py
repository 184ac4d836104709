"""Which dialect an address speaks."""

from __future__ import annotations

from urllib.parse import urlsplit

from stepwell.wire.models.anthropic import Anthropic
from stepwell.wire.models.azure_openai import AzureOpenAI
from stepwell.wire.models.dialect import Dialect
from stepwell.wire.models.gemini import Gemini
from stepwell.wire.models.grok import Grok
from stepwell.wire.models.openai_chat import OpenAIChat
from stepwell.wire.models.openai_responses import OpenAIResponses
from stepwell.wire.models.other import Bedrock, Other

_OTHER = Other()
_DIALECTS = (OpenAIChat(), OpenAIResponses(), Anthropic(), Gemini(), Grok(), AzureOpenAI(), Bedrock(), _OTHER)
_BY_NAME: dict[str, Dialect] = {each.name: each for each in _DIALECTS}

_OF_PATH = {  # `/messages` alone is what many other APIs have
    "/chat/completions": "openai-chat",
    "/v1/responses": "openai-responses",
    "/openai/responses": "openai-responses",
    "/v1/messages": "anthropic",
}
_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")


def dialect_for(format: str, url: str) -> Dialect:
    """The dialect of a call, always one.

    Args:
        format: As the op names it. SDKs say `openai-chat` for providers of that form too that have a dialect of their
            own here; then the host decides. A name that we do not know leaves it to the address.
    """
    named, found = _BY_NAME.get(format.lower()), detect(url)
    if named is None or (named.name == "openai-chat" and isinstance(found, OpenAIChat)):
        return found or _OTHER
    return named


def detect(url: str) -> Dialect | None:
    """The dialect of an address by its path, and of those that share a path by its host; None if it is none of ours."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return None
    path = parts.path.rstrip("/")
    if path.endswith((":generateContent", ":streamGenerateContent")):
        return _BY_NAME["gemini"]
    name = next((name for end, name in _OF_PATH.items() if path.endswith(end)), None)
    if name == "openai-chat" and host.endswith(_AZURE):
        name = "azure-openai"
    if name == "openai-chat" and (host == "api.x.ai" or host.endswith(".api.x.ai")):
        name = "grok"
    return None if name is None else _BY_NAME[name]
