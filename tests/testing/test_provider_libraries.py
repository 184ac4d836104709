"""The providers' own libraries, unmodified, take the stand-in for the provider.

They are loaded by name: their many types would cost the type checker more than all of ours.
"""

import json
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pydantic
import pytest

from stepwell.testing.provider import Provider, call, drop, fail, say
from stepwell.wire.models.dialect import Usage

pytestmark = pytest.mark.slow

WORDS = "Grüße, 世界 🎉! How are you?"
MESSAGES = [{"role": "user", "content": "Hi"}]
USED = Usage(input_tokens=100, output_tokens=30, cached_read_tokens=40, reasoning_tokens=5)
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
OSLO = '{"city":"Oslo"}'


class Person(pydantic.BaseModel):
    name: str
    age: int


class TestOpenAI:
    @pytest.fixture
    def openai(self) -> Any:
        return import_module("openai")

    @pytest.fixture
    def client(self, openai: Any, provider: Provider) -> Iterator[Any]:
        with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="key", max_retries=0) as client:
            yield client

    def test_chat(self, client: Any, provider: Provider) -> None:
        provider.answer(say(WORDS, usage=USED))
        completion = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert completion.choices[0].message.content == WORDS
        assert completion.usage.prompt_tokens_details.cached_tokens == 40
        assert provider.calls[0].headers["authorization"] == "Bearer key"

    def test_chat_streamed(self, client: Any, provider: Provider) -> None:
        provider.answer(say(WORDS, usage=USED, tool_calls=[call("weather", OSLO), call("weather", "{}")]))
        options = {"include_usage": True}
        with client.chat.completions.stream(
            model="gpt-4o", messages=MESSAGES, tools=[CHAT_TOOL], stream_options=options
        ) as stream:
            for _ in stream:
                pass
            completion = stream.get_final_completion()
        assert completion.choices[0].message.content == WORDS
        assert [each.function.arguments for each in completion.choices[0].message.tool_calls] == [OSLO, "{}"]
        assert completion.usage.completion_tokens == 30

    def test_responses(self, client: Any, provider: Provider) -> None:
        provider.answer(say(WORDS, reasoning="Let me think.", usage=USED))
        response = client.responses.create(model="gpt-5", input="Hi")
        assert response.output_text == WORDS
        assert response.usage.output_tokens_details.reasoning_tokens == 5

    def test_responses_streamed(self, client: Any, provider: Provider) -> None:
        provider.answer(say(WORDS, reasoning="Let me think.", usage=USED, tool_calls=[call("weather", OSLO)]))
        tool = {"type": "function", "name": "weather", "strict": True, "parameters": SCHEMA}
        with client.responses.stream(model="gpt-5", input="Hi", tools=[tool]) as stream:
            kinds = [event.type for event in stream]
            response = stream.get_final_response()
        assert response.output_text == WORDS
        assert response.output[2].parsed_arguments == {"city": "Oslo"}
        assert "response.function_call_arguments.delta" in kinds
        assert kinds[-1] == "response.completed"

    def test_structured_output(self, client: Any, provider: Provider) -> None:
        provider.answer(say(json={"name": "Ada", "age": 36}))
        ada = Person(name="Ada", age=36)
        assert client.responses.parse(model="gpt-5", input="x", text_format=Person).output_parsed == ada
        completion = client.chat.completions.parse(model="gpt-5", messages=MESSAGES, response_format=Person)
        assert completion.choices[0].message.parsed == ada

    def test_errors(self, openai: Any, client: Any, provider: Provider) -> None:
        def chat(**more: Any) -> Any:
            return client.chat.completions.create(model="gpt-4o", messages=MESSAGES, **more)

        provider.answer(fail(429, "slow down", code="rate_limit_exceeded", retry_after_s=2))
        with pytest.raises(openai.RateLimitError) as limited:
            chat()
        assert limited.value.code == "rate_limit_exceeded"
        provider.answer(fail(500))
        with pytest.raises(openai.InternalServerError):
            chat()
        provider.answer(drop())
        with pytest.raises(openai.APIConnectionError):
            chat()
        provider.answer(say(WORDS, cut_after=3))
        with pytest.raises(openai.APIConnectionError):
            list(chat(stream=True))
        provider.answer(say(WORDS, error_after=3, error=fail(500, "in the middle")))
        with pytest.raises(openai.APIError, match="in the middle"):
            list(chat(stream=True))
        last = list(client.responses.create(model="gpt-5", input="x", stream=True))[-1]
        assert (last.type, last.message) == ("error", "in the middle")  # this library hands it on as an event

    def test_retries_by_the_library_are_counted(self, openai: Any, provider: Provider) -> None:
        provider.answer(fail(429, retry_after_s=0.01), fail(503), say("Hello"))
        with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="key", max_retries=2) as client:
            assert client.responses.create(model="gpt-5", input="x").output_text == "Hello"
        assert [asked.headers["x-stainless-retry-count"] for asked in provider.calls] == ["0", "1", "2"]

    def test_azure(self, openai: Any, provider: Provider) -> None:
        provider.answer(say(WORDS, usage=USED))
        with openai.AzureOpenAI(
            azure_endpoint=provider.url, api_key="key", api_version="2024-10-21", max_retries=0
        ) as client:
            completion = client.chat.completions.create(model="deployed", messages=MESSAGES)
            chunks = list(client.chat.completions.create(model="deployed", messages=MESSAGES, stream=True))
        assert completion.choices[0].message.content == WORDS
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == WORDS
        assert provider.calls[0].path == "/openai/deployments/deployed/chat/completions"
        assert provider.calls[0].headers["api-key"] == "key"

    def test_grok_counts_reasoning_beside_the_completion(self, openai: Any, provider: Provider) -> None:
        provider.answer(say(WORDS, usage=USED))
        with openai.OpenAI(base_url=f"{provider.url}/grok/v1", api_key="key", max_retries=0) as client:
            usage = client.chat.completions.create(model="grok-4", messages=MESSAGES).usage
        assert (usage.completion_tokens, usage.total_tokens) == (25, 130)


class TestAnthropic:
    @pytest.fixture
    def anthropic(self) -> Any:
        return import_module("anthropic")

    @pytest.fixture
    def client(self, anthropic: Any, provider: Provider) -> Iterator[Any]:
        with anthropic.Anthropic(base_url=provider.url, api_key="key", max_retries=0) as client:
            yield client

    def test_messages_plain_and_streamed(self, client: Any, provider: Provider) -> None:
        used = Usage(input_tokens=100, output_tokens=30, cached_read_tokens=40, cached_write_tokens=20)
        provider.answer(say(WORDS, reasoning="Let me think.", usage=used, tool_calls=[call("weather", OSLO)]))
        asked = {"model": "claude-opus-5", "max_tokens": 100, "messages": MESSAGES}
        plain = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            text = "".join(stream.text_stream)
            streamed = stream.get_final_message()

        assert text == WORDS
        for message in (plain, streamed):
            assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
            assert message.content[0].thinking == "Let me think."
            assert message.content[0].signature
            assert message.content[1].text == WORDS
            assert message.content[2].input == {"city": "Oslo"}
            assert message.stop_reason == "tool_use"
            usage = message.usage
            counts = (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens)
            assert (*counts, usage.output_tokens) == (40, 40, 20, 30)

    def test_errors(self, anthropic: Any, client: Any, provider: Provider) -> None:
        asked = {"model": "claude-opus-5", "max_tokens": 100, "messages": MESSAGES}
        provider.answer(fail(529, "too much"))
        with pytest.raises(anthropic.APIStatusError) as overloaded:
            client.messages.create(**asked)
        assert overloaded.value.body["error"]["type"] == "overloaded_error"
        provider.answer(say(WORDS, error_after=4, error=fail(529, "in the middle")))
        with pytest.raises(anthropic.APIStatusError, match="in the middle"):
            list(client.messages.create(**asked, stream=True))


class TestGemini:
    @pytest.fixture
    def client(self, provider: Provider) -> Iterator[Any]:
        genai = import_module("google.genai")
        client = genai.Client(api_key="key", http_options={"base_url": provider.url})
        yield client
        client.close()

    def test_plain_and_streamed(self, client: Any, provider: Provider) -> None:
        provider.answer(say(WORDS, reasoning="Let me think.", usage=USED, tool_calls=[call("weather", OSLO)]))
        plain = client.models.generate_content(model="gemini-2.5-flash", contents="Hi")
        chunks = list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="Hi"))

        assert [part.text for part in plain.candidates[0].content.parts] == ["Let me think.", WORDS, None]
        assert plain.function_calls[0].args == {"city": "Oslo"}
        parts = [part for chunk in chunks for part in chunk.candidates[0].content.parts]
        assert "".join(part.text for part in parts if part.text and not part.thought) == WORDS
        assert chunks[-1].candidates[0].finish_reason.name == "STOP"
        for last in (plain, chunks[-1]):
            usage = last.usage_metadata
            assert (usage.prompt_token_count, usage.cached_content_token_count) == (100, 40)
            assert (usage.candidates_token_count, usage.thoughts_token_count) == (25, 5)
        assert [asked.streamed for asked in provider.calls] == [False, True]

    def test_structured_output(self, client: Any, provider: Provider) -> None:
        config = {"response_mime_type": "application/json", "response_schema": Person}
        provider.answer(say(json={"name": "Ada", "age": 36}))
        answer = client.models.generate_content(model="gemini-2.5-flash", contents="Hi", config=config)
        assert answer.parsed == Person(name="Ada", age=36)
        provider.answer()  # on its own it fills the schema that the library sends
        answer = client.models.generate_content(model="gemini-2.5-flash", contents="Hi", config=config)
        assert answer.parsed == Person(name="example", age=1)

    def test_errors(self, client: Any, provider: Provider) -> None:
        errors = import_module("google.genai.errors")
        provider.answer(fail(429, "slow down", retry_after_s=7))
        with pytest.raises(errors.ClientError, match="slow down") as limited:
            client.models.generate_content(model="gemini-2.5-flash", contents="Hi")
        assert (limited.value.code, limited.value.status) == (429, "RESOURCE_EXHAUSTED")
        assert "7s" in json.dumps(limited.value.details)
