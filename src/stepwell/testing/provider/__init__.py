"""A stand-in for AI providers and for the web, for tests: real wire formats, scripted answers, no key, no network.

    from stepwell.testing.provider import Provider, call, fail, say

    with Provider(fail(429, retry_after_s=1), say("Hello")) as provider:
        client = openai.OpenAI(base_url=f"{provider.url}/v1", api_key="test", max_retries=1)
        ...
        assert provider.calls[-1].json["model"] == "gpt-4o"

It needs the extra `server`. `python -m stepwell.testing.provider` runs it alone, for a demonstration.

    script      what can be answered, and at what pace: start here
    server      the server, and what a test can ask of it
    dialects    how each provider writes it
    endpoints   the plain pages below /http
"""

from stepwell.testing.provider.asked import Asked
from stepwell.testing.provider.script import Fail, Raw, Reply, Say, call, drop, fail, held, raw, say
from stepwell.testing.provider.server import Provider

__all__ = ["Asked", "Fail", "Provider", "Raw", "Reply", "Say", "call", "drop", "fail", "held", "raw", "say"]
