"""The programs that `docs/durable-libraries.md` shows, one for each library, in the environment of that library."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tests.docs.pages import DOCS, read_page
from tests.libraries.environments import OFFLINE, python_of
from tests.sdk_e2e.harness import PATH

pytestmark = pytest.mark.slow

SAID = "Because of the air."
_MESSAGE = {"role": "assistant", "content": SAID}
_CHOICE = {"index": 0, "finish_reason": "stop", "message": _MESSAGE}
_USED = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
CHAT = {"id": "1", "object": "chat.completion", "created": 1, "model": "any", "choices": [_CHOICE], "usage": _USED}
_TEXT = {"type": "output_text", "text": SAID, "annotations": []}
RESPONSE = {
    "id": "1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "any",
    "output": [{"id": "2", "type": "message", "status": "completed", "role": "assistant", "content": [_TEXT]}],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
MESSAGES = {
    "id": "1",
    "type": "message",
    "role": "assistant",
    "model": "any",
    "content": [{"type": "text", "text": SAID}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
GEMINI = {"candidates": [{"content": {"role": "model", "parts": [{"text": SAID}]}, "finishReason": "STOP"}]}
TOOLS = {
    "server/discover": {
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "tools", "version": "1"},
        "ttlMs": 0,
        "cacheScope": "private",
    },
    "tools/list": {"resultType": "complete", "tools": [], "ttlMs": 0, "cacheScope": "private"},
    "tools/call": {"resultType": "complete", "content": [{"type": "text", "text": SAID}]},
}

RESPONSES_OF_OPENAI = "POST api.openai.com/v1/responses"
CHAT_OF_OPENAI = "POST api.openai.com/v1/chat/completions"
GEMINI_ADDRESS = "POST generativelanguage.googleapis.com/v1/models/gemini-2.5-flash:generateContent"
SHOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": (RESPONSES_OF_OPENAI, RESPONSE),
    "anthropic": ("POST api.anthropic.com/v1/messages", MESSAGES),
    "google-genai": (GEMINI_ADDRESS, GEMINI),
    "mistralai": ("POST api.mistral.ai/v1/chat/completions", CHAT),
    "pydantic-ai": (CHAT_OF_OPENAI, CHAT),
    "openai-agents": (RESPONSES_OF_OPENAI, RESPONSE),
    "langchain-openai": (CHAT_OF_OPENAI, CHAT),
    "litellm": (CHAT_OF_OPENAI, CHAT),
    "mcp": ("POST tools.example.com/mcp", TOOLS),
}


def title_of(library: str) -> str:
    return f"with_{library.replace('-', '_')}.py"


def test_all_that_are_shown_are_run() -> None:
    shown = [block.title for block in read_page(DOCS / "durable-libraries.md").blocks]
    assert {title for title in shown if title.startswith("with_")} == set(map(title_of, SHOWN))


@pytest.mark.parametrize(
    "library", [pytest.param(one, marks=[pytest.mark.long] if one == "litellm" else []) for one in SHOWN]
)
def test_what_is_shown_is_durable(library: str) -> None:
    step, answer = SHOWN[library]
    assert ran(library, step, answer) == SAID


def ran(library: str, step: str, answer: dict[str, Any]) -> Any:
    """What the function shown for a library returns, when it is run with a crash after each step."""
    command = [str(python_of(library)), "-m", "tests.libraries.shown", title_of(library), step, json.dumps(answer)]
    done = subprocess.run(
        command, env={**os.environ, **OFFLINE, "PYTHONPATH": PATH}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
