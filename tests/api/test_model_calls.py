"""What traces show of calls of models that a function wraps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepwell.api.model_calls import read_wrapped

MESSAGES = [{"role": "user", "content": "Why?"}]
ANSWERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "openai": (
        {"model": "gpt-4o", "messages": MESSAGES},
        {
            "model": "gpt-4o-2024",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Because."}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        },
    ),
    "anthropic": (
        {"model": "claude", "max_tokens": 9, "messages": MESSAGES},
        {
            "model": "claude-x",
            "content": [{"type": "text", "text": "Because."}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 3, "output_tokens": 2},
        },
    ),
    "responses": (
        {"model": "gpt-4o", "input": "Why?"},
        {
            "object": "response",
            "model": "gpt-4o-2024",
            "status": "completed",
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "Because."}]}],
            "usage": {"input_tokens": 3, "output_tokens": 2},
        },
    ),
    "gemini": (
        {"contents": [{"role": "user", "parts": [{"text": "Why?"}]}]},
        {
            "modelVersion": "gemini-x",
            "candidates": [{"content": {"parts": [{"text": "Because."}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2},
        },
    ),
}


@pytest.mark.parametrize("provider", ANSWERS)
@pytest.mark.parametrize("positional", [False, True])
def test_a_wrapped_call_shows_its_prompt_its_answer_and_its_tokens(provider: str, positional: bool) -> None:
    body, result = ANSWERS[provider]
    given = json.dumps(["first", body] if positional else [body]).encode()
    prompt, answer = read_wrapped(given, json.dumps(result).encode())
    assert [message.text for message in prompt.messages] == ["Why?"]
    assert answer is not None
    assert answer.text == "Because."
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 2)


@pytest.mark.parametrize("given", [None, b"null", b"[]", b"[5]", b'["why"]', b'{"a": 1}', b'[{"messages": 5}]'])
@pytest.mark.parametrize(
    "result", [None, b"null", b'"text"', b'{"answer": "why"}', b'{"choices": 5}', b'{"candidates": "x"}']
)
def test_a_call_of_something_else_is_no_reason_to_fail(given: bytes | None, result: bytes | None) -> None:
    prompt, _ = read_wrapped(given, result)
    assert prompt.messages == ()
