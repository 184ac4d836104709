"""How each provider writes an answer, plain and as a stream, and an error.

Written from the providers' documentation and held against their own libraries, not against our reader: what a reader
puts together from `events` must be what `plain` says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from stepwell.testing.provider.asked import Asked
from stepwell.testing.provider.script import Call, Fail, Say
from stepwell.wire.models.dialect import Usage

Event = tuple[str, str]
"""Name (empty for none) and data."""

_CREATED = 1_763_000_000


class Writer(Protocol):
    """One dialect."""

    def plain(self, said: Say, asked: Asked) -> dict[str, Any]: ...

    def events(self, said: Say, asked: Asked) -> list[Event]: ...

    def error(self, failure: Fail) -> dict[str, Any]: ...

    def error_event(self, failure: Fail) -> Event: ...

    def headers(self, failure: Fail) -> dict[str, str]: ...


def usage_of(said: Say, asked: Asked) -> Usage:
    """The scripted usage, or one by length: four characters a token in, one token a piece out."""
    if said.usage is not None:
        return said.usage
    reasoning = len(said.reasoning.split())
    output = len(said.pieces) + len(said.refusal.split()) + reasoning + 8 * len(said.calls)
    return Usage(input_tokens=max(1, len(asked.body) // 4), output_tokens=max(1, output), reasoning_tokens=reasoning)


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _halves(text: str) -> list[str]:
    """A text in two pieces, so that whoever puts it together has something to do."""
    middle = (len(text) + 1) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]


def _model(said: Say, asked: Asked) -> str:
    told = asked.json.get("model") if isinstance(asked.json, dict) else None
    return said.model or (told if isinstance(told, str) and told else "stand-in")


def _call_id(called: Call, asked: Asked, place: int, prefix: str) -> str:
    return called.id or f"{prefix}{asked.number:04}{place:04}"


@dataclass(frozen=True, slots=True)
class ChatWriter:
    """OpenAI chat completions, and with small differences Grok's and Azure's."""

    flavour: str = "openai-chat"

    def plain(self, said: Say, asked: Asked) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": said.text or None, "refusal": said.refusal or None}
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        if said.calls:
            message["tool_calls"] = [self._call(called, asked, place) for place, called in enumerate(said.calls)]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish(said)}
        if self.flavour == "azure-openai":
            choice["content_filter_results"] = _FILTERED if said.text else {}
        head = self._head(said, asked, "chat.completion")
        return {**head, "choices": [choice], "usage": self._usage(said, asked), **self._tail()}

    def events(self, said: Say, asked: Asked) -> list[Event]:
        head = {**self._head(said, asked, "chat.completion.chunk"), **self._tail()}
        told = bool((asked.json.get("stream_options") or {}).get("include_usage"))

        def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
            choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            if self.flavour == "azure-openai" and not finish:
                choice["content_filter_results"] = _FILTERED if delta.get("content") else {}
            return {**head, "choices": [choice], **({"usage": None} if told else {}), "obfuscation": "xyz"}

        chunks: list[dict[str, Any]] = []
        if self.flavour == "azure-openai":
            chunks.append({**head, "id": "", "model": "", "choices": [], **self._tail(), "prompt_filter_results": []})
        chunks.append(chunk({"role": "assistant", "content": "" if said.text else None, "refusal": None}))
        chunks += [chunk({"reasoning_content": piece}) for piece in _halves(said.reasoning)]
        chunks += [chunk({"content": piece}) for piece in said.pieces]
        chunks += [chunk({"refusal": piece}) for piece in _halves(said.refusal)]
        for place, called in enumerate(said.calls):
            whole = self._call(called, asked, place)
            chunks.append(
                chunk({"tool_calls": [{"index": place, **whole, "function": {**whole["function"], "arguments": ""}}]})
            )
            for piece in _halves(called.arguments):
                chunks.append(chunk({"tool_calls": [{"index": place, "function": {"arguments": piece}}]}))
        chunks.append(chunk({}, self._finish(said)))
        if told:
            chunks.append({**head, "choices": [], "usage": self._usage(said, asked)})
        return [("", _dumps(each)) for each in chunks] + [("", "[DONE]")]

    def error(self, failure: Fail) -> dict[str, Any]:
        kind = _OPENAI_TYPES.get(failure.status, "server_error" if failure.status >= 500 else "invalid_request_error")
        return {"error": {"message": failure.message, "type": kind, "param": None, "code": failure.code}}

    def error_event(self, failure: Fail) -> Event:
        return "", _dumps(self.error(failure))

    def headers(self, failure: Fail) -> dict[str, str]:
        return _openai_headers(failure)

    def _head(self, said: Say, asked: Asked, kind: str) -> dict[str, Any]:
        created = _CREATED + asked.number
        return {"id": f"chatcmpl-{asked.number:08}", "object": kind, "created": created, "model": _model(said, asked)}

    def _tail(self) -> dict[str, Any]:
        if self.flavour == "azure-openai":
            return {"system_fingerprint": "fp_stand_in", "prompt_filter_results": []}
        return {"service_tier": "default", "system_fingerprint": "fp_stand_in"}

    def _call(self, called: Call, asked: Asked, place: int) -> dict[str, Any]:
        function = {"name": called.name, "arguments": called.arguments}
        return {"id": _call_id(called, asked, place, "call_"), "type": "function", "function": function}

    def _finish(self, said: Say) -> str:
        return said.finish_reason or ("tool_calls" if said.calls else "stop")

    def _usage(self, said: Say, asked: Asked) -> dict[str, Any]:
        used = usage_of(said, asked)
        completion = used.output_tokens - (used.reasoning_tokens if self.flavour == "grok" else 0)
        told: dict[str, Any] = {
            "prompt_tokens": used.input_tokens,
            "completion_tokens": completion,
            "total_tokens": used.total_tokens,
            "prompt_tokens_details": {"cached_tokens": used.cached_read_tokens, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens, "audio_tokens": 0},
        }
        if used.cached_write_tokens:
            told["prompt_tokens_details"]["cache_write_tokens"] = used.cached_write_tokens
        return told


_FILTERED = {"hate": {"filtered": False, "severity": "safe"}}

_OPENAI_TYPES = {
    401: "invalid_request_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "requests",
    503: "service_unavailable",
}


def _openai_headers(failure: Fail) -> dict[str, str]:
    headers = {"x-request-id": "req_stand_in"}
    if failure.retry_after_s is not None:
        headers["retry-after"] = f"{failure.retry_after_s:g}"
        headers["retry-after-ms"] = f"{round(failure.retry_after_s * 1000)}"
    for name, (limit, remaining, reset_s) in failure.limits.items():
        headers[f"x-ratelimit-limit-{name}"] = str(limit)
        headers[f"x-ratelimit-remaining-{name}"] = str(remaining)
        headers[f"x-ratelimit-reset-{name}"] = f"{reset_s:g}s"
    return headers


@dataclass(frozen=True, slots=True)
class ResponsesWriter:
    """OpenAI responses."""

    def plain(self, said: Say, asked: Asked) -> dict[str, Any]:
        used = usage_of(said, asked)
        incomplete = said.finish_reason not in (None, "completed")
        return {
            **self._head(said, asked, "incomplete" if incomplete else "completed"),
            "incomplete_details": {"reason": said.finish_reason} if incomplete else None,
            "output": self._items(said, asked),
            "usage": {
                "input_tokens": used.input_tokens,
                "input_tokens_details": {
                    "cached_tokens": used.cached_read_tokens,
                    "cache_write_tokens": used.cached_write_tokens,
                },
                "output_tokens": used.output_tokens,
                "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
                "total_tokens": used.total_tokens,
            },
        }

    def events(self, said: Say, asked: Asked) -> list[Event]:
        begun = {**self._head(said, asked, "in_progress"), "incomplete_details": None, "output": [], "usage": None}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
        ]
        for place, item in enumerate(self._items(said, asked)):
            events += self._item_events(item, place, said)
        whole = self.plain(said, asked)
        events.append({"type": f"response.{whole['status']}", "response": whole})
        return [
            (event["type"], _dumps({"type": event["type"], "sequence_number": number, **event}))
            for number, event in enumerate(events)
        ]

    def error(self, failure: Fail) -> dict[str, Any]:
        return ChatWriter().error(failure)

    def error_event(self, failure: Fail) -> Event:
        code = failure.code or ("rate_limit_exceeded" if failure.status == 429 else "server_error")
        return "error", _dumps(
            {"type": "error", "sequence_number": 99, "code": code, "message": failure.message, "param": None}
        )

    def headers(self, failure: Fail) -> dict[str, str]:
        return _openai_headers(failure)

    def _head(self, said: Say, asked: Asked, status: str) -> dict[str, Any]:
        request = asked.json
        return {
            "id": f"resp_{asked.number:08}",
            "object": "response",
            "created_at": _CREATED + asked.number,
            "status": status,
            "error": None,
            "instructions": request.get("instructions"),
            "metadata": request.get("metadata") or {},
            "model": _model(said, asked),
            "parallel_tool_calls": True,
            "temperature": request.get("temperature", 1.0),
            "tool_choice": request.get("tool_choice", "auto"),
            "tools": request.get("tools") or [],
            "top_p": request.get("top_p", 1.0),
            "text": request.get("text") or {"format": {"type": "text"}},
        }

    def _items(self, said: Say, asked: Asked) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        if said.reasoning:
            summary = [{"type": "summary_text", "text": said.reasoning}]
            items.append({"id": f"rs_{asked.number:08}", "type": "reasoning", "summary": summary})
        content: list[dict[str, Any]] = []
        if said.text:
            content.append({"type": "output_text", "annotations": [], "logprobs": [], "text": said.text})
        if said.refusal:
            content.append({"type": "refusal", "refusal": said.refusal})
        if content:
            items.append(
                {
                    "id": f"msg_{asked.number:08}",
                    "type": "message",
                    "status": "completed",
                    "role": "assistant",
                    "content": content,
                }
            )
        for place, called in enumerate(said.calls):
            items.append(
                {
                    "id": f"fc_{asked.number:04}{place:04}",
                    "type": "function_call",
                    "status": "completed",
                    "arguments": called.arguments,
                    "call_id": _call_id(called, asked, place, "call_"),
                    "name": called.name,
                }
            )
        return items

    def _item_events(self, item: dict[str, Any], place: int, said: Say) -> list[dict[str, Any]]:
        at: dict[str, Any] = {"item_id": item["id"], "output_index": place}
        events: list[dict[str, Any]] = []
        if item["type"] == "function_call":
            begun = {**item, "status": "in_progress", "arguments": ""}
            events += [
                {"type": "response.function_call_arguments.delta", **at, "delta": piece}
                for piece in _halves(item["arguments"])
            ]
            events.append(
                {
                    "type": "response.function_call_arguments.done",
                    **at,
                    "name": item["name"],
                    "arguments": item["arguments"],
                }
            )
        elif item["type"] == "reasoning":
            begun = {**item, "summary": []}
            where = {**at, "summary_index": 0}
            part = item["summary"][0]
            events.append({"type": "response.reasoning_summary_part.added", **where, "part": {**part, "text": ""}})
            events += [
                {"type": "response.reasoning_summary_text.delta", **where, "delta": piece}
                for piece in _halves(said.reasoning)
            ]
            events.append({"type": "response.reasoning_summary_text.done", **where, "text": said.reasoning})
            events.append({"type": "response.reasoning_summary_part.done", **where, "part": part})
        else:
            begun = {**item, "status": "in_progress", "content": []}
            for number, part in enumerate(item["content"]):
                events += self._part_events(part, {**at, "content_index": number}, said)
        return [
            {"type": "response.output_item.added", "output_index": place, "item": begun},
            *events,
            {"type": "response.output_item.done", "output_index": place, "item": item},
        ]

    def _part_events(self, part: dict[str, Any], at: dict[str, Any], said: Say) -> list[dict[str, Any]]:
        if part["type"] == "refusal":
            pieces, kind, name = _halves(said.refusal), "response.refusal", "refusal"
        else:
            pieces, kind, name = list(said.pieces), "response.output_text", "text"
        more: dict[str, Any] = {"logprobs": []} if name == "text" else {}
        return [
            {"type": "response.content_part.added", **at, "part": {**part, name: ""}},
            *({"type": f"{kind}.delta", **at, "delta": piece, **more} for piece in pieces),
            {"type": f"{kind}.done", **at, name: part[name], **more},
            {"type": "response.content_part.done", **at, "part": part},
        ]


@dataclass(frozen=True, slots=True)
class AnthropicWriter:
    """Anthropic messages."""

    def plain(self, said: Say, asked: Asked) -> dict[str, Any]:
        content = self._blocks(said, asked)
        return {**self._head(said, asked), "content": content, **self._stop(said), "usage": self._usage(said, asked)}

    def events(self, said: Say, asked: Asked) -> list[Event]:
        used = self._usage(said, asked)
        begun = {
            **self._head(said, asked),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**used, "output_tokens": 1},
        }
        events: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
        for index, block in enumerate(self._blocks(said, asked)):
            empty, deltas = self._deltas(block, said)
            events.append({"type": "content_block_start", "index": index, "content_block": empty})
            if index == 0:
                events.append({"type": "ping"})
            events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
            events.append({"type": "content_block_stop", "index": index})
        events.append({"type": "message_delta", "delta": self._stop(said), "usage": used})
        events.append({"type": "message_stop"})
        return [(event["type"], _dumps(event)) for event in events]

    def error(self, failure: Fail) -> dict[str, Any]:
        kind = failure.code or _ANTHROPIC_TYPES.get(
            failure.status, "api_error" if failure.status >= 500 else "invalid_request_error"
        )
        return {"type": "error", "error": {"type": kind, "message": failure.message}, "request_id": "req_stand_in"}

    def error_event(self, failure: Fail) -> Event:
        return "error", _dumps(self.error(failure))

    def headers(self, failure: Fail) -> dict[str, str]:
        headers = {"request-id": "req_stand_in"}
        if failure.retry_after_s is not None:
            headers["retry-after"] = f"{failure.retry_after_s:g}"
        for name, (limit, remaining, reset_s) in failure.limits.items():
            reset = datetime.now(UTC) + timedelta(seconds=reset_s)
            headers[f"anthropic-ratelimit-{name}-limit"] = str(limit)
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(remaining)
            headers[f"anthropic-ratelimit-{name}-reset"] = reset.isoformat()
        return headers

    def _head(self, said: Say, asked: Asked) -> dict[str, Any]:
        return {
            "id": f"msg_{asked.number:08}",
            "type": "message",
            "role": "assistant",
            "model": _model(said, asked),
        }

    def _blocks(self, said: Say, asked: Asked) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        if said.reasoning:
            blocks.append({"type": "thinking", "thinking": said.reasoning, "signature": "c3RhbmQtaW4="})
        if words := said.text or said.refusal:
            blocks.append({"type": "text", "text": words})
        for place, called in enumerate(said.calls):
            id = _call_id(called, asked, place, "toolu_")
            blocks.append({"type": "tool_use", "id": id, "name": called.name, "input": _object(called.arguments)})
        return blocks

    def _deltas(self, block: dict[str, Any], said: Say) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        if block["type"] == "thinking":
            thoughts = [{"type": "thinking_delta", "thinking": piece} for piece in _halves(said.reasoning)]
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return {**block, "thinking": "", "signature": ""}, [*thoughts, signed]
        if block["type"] == "tool_use":
            written = next(called.arguments for called in said.calls if called.name == block["name"])
            pieces = ["", *_halves(written)]
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        pieces = list(said.pieces) or _halves(said.refusal)
        return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]

    def _stop(self, said: Say) -> dict[str, Any]:
        usual = "tool_use" if said.calls else "refusal" if said.refusal else "end_turn"
        return {"stop_reason": said.finish_reason or usual, "stop_sequence": None}

    def _usage(self, said: Say, asked: Asked) -> dict[str, Any]:
        used = usage_of(said, asked)
        long = used.cached_write_long_tokens
        told = {
            "input_tokens": used.input_tokens - used.cached_read_tokens - used.cached_write_tokens,
            "cache_creation_input_tokens": used.cached_write_tokens,
            "cache_read_input_tokens": used.cached_read_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": used.cached_write_tokens - long,
                "ephemeral_1h_input_tokens": long,
            },
            "output_tokens": used.output_tokens,
            "service_tier": "standard",
        }
        if used.reasoning_tokens:
            told["output_tokens_details"] = {"thinking_tokens": used.reasoning_tokens}
        return told


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def _object(arguments: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True)
class GeminiWriter:
    """Gemini generateContent."""

    def plain(self, said: Say, asked: Asked) -> dict[str, Any]:
        parts = [part for pieces in self._parts(said, asked) for part in _joined(pieces)]
        candidate = {"content": {"parts": parts, "role": "model"}, "finishReason": self._finish(said), "index": 0}
        return {"candidates": [candidate], **self._tail(said, asked)}

    def events(self, said: Say, asked: Asked) -> list[Event]:
        pieces = [piece for group in self._parts(said, asked) for piece in group] or [{"text": ""}]
        events: list[Event] = []
        for number, piece in enumerate(pieces):
            candidate: dict[str, Any] = {"content": {"parts": [piece], "role": "model"}}
            tail = self._tail(said, asked)
            if number == len(pieces) - 1:
                candidate["finishReason"] = self._finish(said)
            else:
                tail["usageMetadata"] = {"promptTokenCount": tail["usageMetadata"]["promptTokenCount"]}
            candidate["index"] = 0
            events.append(("", _dumps({"candidates": [candidate], **tail})))
        return events

    def error(self, failure: Fail) -> dict[str, Any]:
        status = failure.code or _GRPC_CODES.get(failure.status, "INTERNAL" if failure.status >= 500 else "UNKNOWN")
        error: dict[str, Any] = {"code": failure.status, "message": failure.message, "status": status}
        if failure.retry_after_s is not None:
            delay = f"{failure.retry_after_s:g}s"
            error["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}]
        return {"error": error}

    def error_event(self, failure: Fail) -> Event:
        return "", _dumps(self.error(failure))

    def headers(self, failure: Fail) -> dict[str, str]:
        return {}

    def _parts(self, said: Say, asked: Asked) -> list[list[dict[str, Any]]]:
        """Groups of parts; those of one group are one part in the plain form."""
        groups: list[list[dict[str, Any]]] = [
            [{"text": piece, "thought": True} for piece in _halves(said.reasoning)],
            [{"text": piece} for piece in said.pieces or _halves(said.refusal)],
        ]
        for place, called in enumerate(said.calls):
            id = _call_id(called, asked, place, "call_")
            groups.append([{"functionCall": {"id": id, "name": called.name, "args": _object(called.arguments)}}])
        return [group for group in groups if group]

    def _finish(self, said: Say) -> str:
        return said.finish_reason or ("SAFETY" if said.refusal else "STOP")

    def _tail(self, said: Say, asked: Asked) -> dict[str, Any]:
        used = usage_of(said, asked)
        told = {
            "promptTokenCount": used.input_tokens,
            "candidatesTokenCount": used.output_tokens - used.reasoning_tokens,
            "totalTokenCount": used.total_tokens,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": used.input_tokens}],
        }
        if used.cached_read_tokens:
            told["cachedContentTokenCount"] = used.cached_read_tokens
        if used.reasoning_tokens:
            told["thoughtsTokenCount"] = used.reasoning_tokens
        model = said.model or asked.path.rpartition("/")[2].partition(":")[0]
        return {"usageMetadata": told, "modelVersion": model, "responseId": f"gem{asked.number:08}"}


_GRPC_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def _joined(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if "text" not in pieces[0]:
        return pieces
    return [{**pieces[0], "text": "".join(piece["text"] for piece in pieces)}]


WRITERS: Mapping[str, Writer] = {
    "openai-chat": ChatWriter(),
    "grok": ChatWriter("grok"),
    "azure-openai": ChatWriter("azure-openai"),
    "openai-responses": ResponsesWriter(),
    "anthropic": AnthropicWriter(),
    "gemini": GeminiWriter(),
}
