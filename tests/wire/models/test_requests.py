"""What is sent to a provider, and what the trace says of it."""

import json
from typing import Any

import pytest

from stepwell.wire.models import detect, dialect_for
from stepwell.wire.models.credentials import Credentials, take_out
from stepwell.wire.models.dialect import Message, ProviderRequest, ToolCall
from tests.wire.models.cases import FORMATS, URLS, dumps

KEY = "sk-secret-123456"
PDF = "JVBERi0xLjQK" * 1000


def ask(
    format: str,
    body: object,
    *,
    url: str = "",
    headers: dict[str, str] | None = None,
    key: str = KEY,
    stream: bool = True,
) -> ProviderRequest:
    address, shown, credentials = take_out(url or URLS[format], headers or {}, auth_key=key)
    text = body if isinstance(body, bytes) else dumps(body)
    return dialect_for(format, address).request(
        address, headers=shown, body=text, credentials=credentials, stream=stream
    )


@pytest.mark.parametrize(
    ("format", "header", "value"),
    [
        ("openai-chat", "Authorization", f"Bearer {KEY}"),
        ("openai-responses", "Authorization", f"Bearer {KEY}"),
        ("grok", "Authorization", f"Bearer {KEY}"),
        ("azure-openai", "api-key", KEY),
        ("anthropic", "x-api-key", KEY),
        ("gemini", "x-goog-api-key", KEY),
    ],
)
def test_each_provider_gets_the_key_where_it_looks_for_it(format: str, header: str, value: str) -> None:
    assert ask(format, {}).headers[header] == value
    assert KEY not in repr(ask(format, {}))


def test_an_unknown_provider_gets_a_bearer_and_amazon_the_key_as_it_is() -> None:
    assert ask("other", {}, url="https://example.com/x").headers["Authorization"] == f"Bearer {KEY}"
    assert ask("bedrock", {}, url="https://example.com/x").headers["Authorization"] == KEY


def test_azure_gets_a_token_of_its_own_login_as_a_bearer() -> None:
    token = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.c2lnbmF0dXJl"
    sent = ask("azure-openai", {}, key=token).headers
    assert sent["Authorization"] == f"Bearer {token}"
    assert "api-key" not in sent


@pytest.mark.parametrize("format", FORMATS)
def test_a_caller_s_own_authentication_wins(format: str) -> None:
    sent = ask(format, {}, headers={"AUTHORIZATION": "Custom abcdef", "X-Extra": "1"}).headers
    assert sent["AUTHORIZATION"] == "Custom abcdef"
    assert sent["X-Extra"] == "1"
    assert KEY not in str(sent)


def test_a_key_in_gemini_s_url_stays_there_and_is_not_sent_twice() -> None:
    sent = ask("gemini", {}, url=f"{URLS['gemini']}?key={KEY}")
    assert sent.url.endswith(f":streamGenerateContent?alt=sse&key={KEY}")
    assert KEY not in str(sent.headers)


def test_no_key_no_authentication() -> None:
    for format in FORMATS:
        assert set(ask(format, {}, key="").headers) <= {"Content-Type", "Accept", "anthropic-version"}


def test_anthropic_gets_a_version_unless_the_caller_gave_one() -> None:
    assert ask("anthropic", {}).headers["anthropic-version"] == "2023-06-01"
    own = ask("anthropic", {}, headers={"Anthropic-Version": "2030-01-01", "content-type": "application/json"}).headers
    assert "anthropic-version" not in own
    assert "Content-Type" not in own


@pytest.mark.parametrize("format", ["openai-chat", "azure-openai", "grok"])
def test_chat_is_asked_for_a_stream_with_usage(format: str) -> None:
    sent = ask(format, {"model": "m", "stream_options": {"include_obfuscation": False}, "n": 2})
    assert sent.streamed
    assert json.loads(sent.body) == {
        "model": "m",
        "n": 2,
        "stream": True,
        "stream_options": {"include_obfuscation": False, "include_usage": True},
    }


def test_the_other_dialects_are_asked_for_a_stream_in_their_own_way() -> None:
    assert json.loads(ask("openai-responses", {"a": 1}).body) == {"a": 1, "stream": True}
    assert json.loads(ask("anthropic", {"a": 1}).body) == {"a": 1, "stream": True}
    gemini = ask("gemini", {"a": 1})
    assert json.loads(gemini.body) == {"a": 1}
    assert gemini.url == URLS["gemini"].replace(":generateContent", ":streamGenerateContent?alt=sse")


@pytest.mark.parametrize("format", FORMATS)
def test_without_a_stream_the_plain_form_is_asked_for_even_if_the_caller_wanted_a_stream(format: str) -> None:
    url = URLS[format].replace(":generateContent", ":streamGenerateContent?alt=sse&x=1")
    sent = ask(format, {"stream": True, "stream_options": {"include_usage": True}}, url=url, stream=False)
    assert not sent.streamed
    assert sent.url == URLS[format] + ("?x=1" if format == "gemini" else "")
    assert "stream" not in json.loads(sent.body) or format == "gemini"
    assert sent.headers["Accept"] == "application/json"


@pytest.mark.parametrize(
    ("format", "body"),
    [
        ("openai-chat", {"modalities": ["text", "audio"]}),
        ("openai-responses", {"background": True}),
        ("gemini", {"generationConfig": {"speechConfig": {}}}),
        ("other", {"stream": False}),
    ],
)
def test_what_cannot_come_as_a_stream_is_asked_for_plain(format: str, body: object) -> None:
    sent = ask(format, body, url=URLS.get(format, "https://example.com/x"))
    assert not sent.streamed
    assert json.loads(sent.body) == body


def test_the_caller_s_members_are_sent_as_they_were_written() -> None:
    body = b'{ "model" : "m", "t": 0.10, "big": 12345678901234567890123, "text": "\\u00fc\\/", "n": 1e2 }'
    sent = ask("anthropic", body).body
    assert sent == b'{"model":"m","t":0.10,"big":12345678901234567890123,"text":"\\u00fc\\/","n":1e2,"stream":true}'


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff"])
def test_a_body_that_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="must be a JSON object"):
        ask("openai-chat", body)


def test_credentials_of_another_request_are_not_sent() -> None:
    dialect = dialect_for("gemini", "")
    with pytest.raises(ValueError, match="another request"):
        dialect.request(URLS["gemini"] + "?key=***", headers={}, body=b"{}", credentials=Credentials())


@pytest.mark.parametrize(
    ("format", "url", "name"),
    [
        ("openai-chat", "https://api.deepseek.com/v1/chat/completions", "openai-chat"),
        ("openai-chat", "http://localhost:11434/v1/chat/completions", "openai-chat"),
        ("openai-chat", URLS["grok"], "grok"),
        ("openai-chat", URLS["azure-openai"], "azure-openai"),
        ("openai-chat", "http://localhost/anything", "openai-chat"),
        ("grok", "http://localhost/v1/chat/completions", "grok"),
        ("Gemini", "http://localhost/x", "gemini"),
        ("bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com/model/x/invoke", "bedrock"),
        ("", URLS["anthropic"], "anthropic"),
        ("newer", URLS["openai-responses"], "openai-responses"),
        ("newer", "https://example.com/generate", "other"),
        ("", "http://[broken", "other"),
    ],
)
def test_the_format_and_the_address_say_which_dialect_it_is(format: str, url: str, name: str) -> None:
    assert dialect_for(format, url).name == name


@pytest.mark.parametrize(
    "url",
    [
        "https://api.twilio.com/2010/Accounts/x/messages",
        "https://api.openai.com/v1/threads/t/messages",
        "https://x/responses",
    ],
)
def test_addresses_that_only_look_like_a_model_s(url: str) -> None:
    assert detect(url) is None


def test_detection_ignores_the_query() -> None:
    found = detect(URLS["azure-openai"])
    assert found is not None
    assert found.name == "azure-openai"


class TestPrompts:
    CALL = ToolCall("c1", "weather", '{"city":"Oslo"}')

    def of(self, format: str, body: dict[str, Any], url: str = "") -> Any:
        return dialect_for(format, "").prompt(url, dumps(body))

    def test_chat(self) -> None:
        function = {"name": "weather", "arguments": '{"city":"Oslo"}'}
        prompt = self.of(
            "openai-chat",
            {
                "model": "gpt-4o",
                "temperature": 0.5,
                "stream": False,
                "tools": [{"type": "function", "function": {"name": "weather"}}],
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "What is "},
                            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + PDF}},
                            {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                        ],
                    },
                    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": function}]},
                    {"role": "tool", "tool_call_id": "c1", "content": "rain"},
                ],
            },
        )
        assert (prompt.model, prompt.tools, prompt.parameters) == ("gpt-4o", ("weather",), {"temperature": 0.5})
        assert prompt.messages == (
            Message("system", "Be kind."),
            Message("user", "What is [image image/png, 9 kB][image, https://x/y.png]"),
            Message("assistant", "", (self.CALL,)),
            Message("tool", "rain", (), "c1"),
        )

    def test_responses(self) -> None:
        prompt = self.of(
            "openai-responses",
            {
                "model": "gpt-5",
                "instructions": "Be kind.",
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
                    {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Oslo"}'},
                    {"type": "function_call_output", "call_id": "c1", "output": "rain"},
                ],
                "tools": [{"type": "function", "name": "weather"}, {"type": "web_search"}],
            },
        )
        assert prompt.tools == ("weather", "web_search")
        assert prompt.messages == (
            Message("system", "Be kind."),
            Message("user", "Weather?"),
            Message("assistant", "", (self.CALL,)),
            Message("tool", "rain", (), "c1"),
        )
        assert self.of("openai-responses", {"input": "Hi"}).messages == (Message("user", "Hi"),)

    def test_anthropic_with_a_document(self) -> None:
        source = {"type": "base64", "media_type": "application/pdf", "data": PDF}
        prompt = self.of(
            "anthropic",
            {
                "model": "claude-sonnet-4-5",
                "max_tokens": 100,
                "system": [{"type": "text", "text": "Be kind."}],
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "document", "source": source}, {"type": "text", "text": "Summary?"}],
                    },
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}}],
                    },
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "rain"}]},
                ],
            },
        )
        assert prompt.parameters == {"max_tokens": 100}
        assert prompt.messages == (
            Message("system", "Be kind."),
            Message("user", "[document application/pdf, 9 kB]Summary?"),
            Message("assistant", "", (self.CALL,)),
            Message("user", "rain", (), "c1"),
        )

    def test_gemini_whose_model_is_in_the_address(self) -> None:
        call = {"id": "c1", "name": "weather", "args": {"city": "Oslo"}}
        picture = {"inlineData": {"mimeType": "image/png", "data": PDF}}
        prompt = self.of(
            "gemini",
            {
                "systemInstruction": {"parts": [{"text": "Be kind."}]},
                "contents": [
                    {
                        "role": "user",
                        "parts": [{"text": "See "}, picture],
                    },
                    {"role": "model", "parts": [{"functionCall": call}]},
                    {"role": "user", "parts": [{"functionResponse": {"id": "c1", "response": {"sky": "rain"}}}]},
                ],
                "tools": [{"functionDeclarations": [{"name": "weather"}]}, {"googleSearch": {}}],
                "generationConfig": {"temperature": 0.2, "stopSequences": ["x"]},
            },
            URLS["gemini"] + "?key=***",
        )
        assert (prompt.model, prompt.parameters) == ("gemini-2.5-flash", {"temperature": 0.2})
        assert prompt.tools == ("weather", "googleSearch")
        assert prompt.messages == (
            Message("system", "Be kind."),
            Message("user", "See [image image/png, 9 kB]"),
            Message("model", "", (self.CALL,)),
            Message("user", '{"sky":"rain"}', (), "c1"),
        )

    def test_azure_names_its_deployment_if_the_body_names_no_model(self) -> None:
        assert self.of("azure-openai", {}, URLS["azure-openai"]).model == "chat"
        assert self.of("azure-openai", {"model": "gpt-4o"}, URLS["azure-openai"]).model == "gpt-4o"

    @pytest.mark.parametrize("format", [*FORMATS, "other", "bedrock"])
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b'{"messages": 5, "contents": "x", "input": {}, "tools": {}, "system": 3, "model": 1}',
            b'{"messages": [1, {"content": [null, {"type": 5}], "tool_calls": "x"}], "contents": [{"parts": 1}]}',
            b'{"input": [{"type": []}, {"content": [5]}], "tools": [5, {"function": 1}], "generationConfig": []}',
        ],
    )
    def test_a_prompt_that_cannot_be_read_is_no_error(self, format: str, body: bytes) -> None:
        assert dialect_for(format, "").prompt("http://[", body).model == ""
