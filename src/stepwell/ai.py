"""Models for `step.ai.infer`: `ai.openai("gpt-4o-mini")`, and what they reply."""

from __future__ import annotations

from stepwell.sdk.ai import (
    Model,
    OutputNotValid,
    Reply,
    ToolCall,
    Usage,
    anthropic,
    app,
    azure_openai,
    deepseek,
    gemini,
    grok,
    openai,
    openai_responses,
    other,
)

__all__ = [
    "Model",
    "OutputNotValid",
    "Reply",
    "ToolCall",
    "Usage",
    "anthropic",
    "app",
    "azure_openai",
    "deepseek",
    "gemini",
    "grok",
    "openai",
    "openai_responses",
    "other",
]
