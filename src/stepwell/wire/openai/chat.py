"""Chat completions: a conversation becomes the input of an app that is a language model, its output an answer.

    messages                             app (`LLMInput`, `LanguageModel.Input`)
    system and developer, at the start   system_prompt
    the last one                         role, text, images, files, tool_call_id
    those between                        context

    output (`LLMOutput`, `LanguageModel.Output`)   answer
    response, reasoning, tool_calls, images        the message: content, reasoning_content, tool_calls, images
    usage.stop_reason                              finish_reason
    usage, or what the app said in `output_meta`   usage

Members of a request that are no settings of OpenAI's go to the app as they are, if its input has them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from stepwell.model.errors import InvalidInput
from stepwell.model.task import Usage
from stepwell.wire.infsh.request import read_body

__all__ = ["AnswerChanged", "ChatRequest", "Growing", "chunk", "completion", "finish_reason", "input_of", "read_chat"]

_ROLES = ("system", "developer", "user", "assistant", "tool")
_AT_START = ("system", "developer")
_SAME = (
    "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "seed",
    "tools",
)  # fmt: skip
"""What is called the same on both sides, and has the same form."""
_HINTS = frozenset({*_SAME, "reasoning_effort"}) - {"tools"}
"""Left out for an app that has no such setting; what else it cannot take is refused."""
_EFFORTS = {"minimal": "low", "xhigh": "high"}
_OWN = frozenset(
    {
        *_SAME, "model", "messages", "stream", "stream_options", "n", "stop", "max_tokens", "max_completion_tokens",
        "tool_choice", "response_format", "reasoning_effort", "metadata", "setup", "user", "store", "logprobs",
        "top_logprobs", "logit_bias", "modalities", "audio", "functions", "function_call", "parallel_tool_calls",
        "prediction", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity", "web_search_options",
    }
)  # fmt: skip
"""Members that are not handed on under their own names."""
_ENDS = {
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
}
_TEXTS = (("reasoning", "reasoning_content"), ("response", "content"))

_encode = msgspec.json.Encoder().encode


class _Image(msgspec.Struct):
    url: str


class _File(msgspec.Struct):
    file_data: str = ""


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: _Image | str | None = None
    file: _File | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning_state: dict[str, Any] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatRequest(msgspec.Struct):
    """What was asked, as far as it is not handed on as it is."""

    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    functions: list[Any] | None = None
    metadata: dict[str, Any] | None = None
    setup: Any = None

    @property
    def wants_usage(self) -> bool:
        """At the end of a stream."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def read_chat(text: bytes) -> tuple[ChatRequest, dict[str, Any]]:
    """Read a body, as far as that needs no app; and the whole of it. Raises `InvalidInput` that names the member."""
    asked = read_body(text, ChatRequest)
    if not asked.messages:
        raise InvalidInput("messages is empty; send at least one", field="messages")
    if asked.n not in (None, 1):
        raise InvalidInput(f"n is {asked.n}; an app gives one answer, so ask several times", field="n")
    if asked.logprobs:
        raise InvalidInput("logprobs are not offered: apps give none", field="logprobs")
    if asked.functions:
        raise InvalidInput("functions are not offered; use tools, which took their place", field="functions")
    if asked.modalities not in (None, [], ["text"]):
        raise InvalidInput('modalities other than ["text"] are not offered', field="modalities")
    return asked, msgspec.json.decode(text)


def input_of(asked: ChatRequest, members: dict[str, Any], app: str, takes: Collection[str]) -> dict[str, Any]:
    """The input of an app. Only what was said is in it, so that the app's own defaults count.

    Args:
        members: The whole body.
        app: Its reference, for errors.
        takes: Names of the members of its input; empty if they are not known.

    Raises:
        InvalidInput: It cannot be said in that way, or the app takes no such thing.
    """
    opening: list[str] = []
    rest: list[dict[str, Any]] = []
    for number, message in enumerate(asked.messages):
        told = _turn(message, f"messages[{number}]")
        if message.role in _AT_START and not rest:
            opening.append(told.get("text", ""))
        else:
            rest.append(told)
    if not rest:
        raise InvalidInput("messages has only instructions; add one of the user", field="messages")
    given: dict[str, Any] = {}
    if opening:
        given["system_prompt"] = "\n\n".join(opening)
    *context, last = rest
    if context:
        given["context"] = context
    if last["role"] == "user":
        del last["role"]
    given |= {"text": "", **last}
    for name in _SAME:
        if members.get(name) is not None:
            given[name] = members[name]
    most = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    if most is not None:
        given["max_tokens"] = most
    if asked.stop is not None:
        given["stop"] = [asked.stop] if isinstance(asked.stop, str) else asked.stop
    if asked.reasoning_effort is not None:
        given["reasoning_effort"] = _EFFORTS.get(asked.reasoning_effort, asked.reasoning_effort)
    if asked.tool_choice is not None and asked.tools:
        given["tool_choice"] = _tool_choice(asked.tool_choice)
    if asked.response_format is not None:
        given["response_format"] = _response_format(asked.response_format)
    if not takes:
        return given
    for name in given.keys() - takes:
        if name in _HINTS:
            del given[name]
        else:
            raise InvalidInput(f"model {app!r} has no {name!r} in its input; leave out what needs it", field=name)
    return given | {
        name: value for name, value in members.items() if name in takes and name not in given and name not in _OWN
    }


def _turn(message: _Message, where: str) -> dict[str, Any]:
    """A message, as apps have it in their context."""
    if message.role not in _ROLES:
        raise InvalidInput(
            f"{where}.role is {message.role[:40]!r}; it is one of {', '.join(_ROLES)}", field=f"{where}.role"
        )
    parts = message.content if isinstance(message.content, list) else [_Part("text", message.content or "")]
    texts, images, files = [], [], []
    for number, part in enumerate(parts):
        match part.type:
            case "text" | "refusal":
                texts.append(part.text or part.refusal)
            case "image_url" if part.image_url:
                images.append(part.image_url if isinstance(part.image_url, str) else part.image_url.url)
            case "file" if part.file is not None and part.file.file_data:
                files.append(part.file.file_data)
            case _:
                place = f"{where}.content[{number}]"
                raise InvalidInput(
                    f"{place} is of type {part.type[:40]!r}; offered are text, image_url with a url, and file with "
                    "file_data",
                    field=place,
                )
    told: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "text": "\n".join(texts),
        "images": images,
        "files": files,
        "tool_calls": message.tool_calls,
        "tool_call_id": message.tool_call_id,
        "reasoning": message.reasoning_content,
        "reasoning_state": message.reasoning_state,
    }
    return {name: value for name, value in told.items() if value or name in ("role", "text")}


def _tool_choice(choice: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(choice, str):
        return {"mode": choice}
    function = choice.get("function")
    if choice.get("type") != "function" or not isinstance(function, dict) or not function.get("name"):
        raise InvalidInput(
            'tool_choice is "none", "auto", "required" or {"type": "function", "function": {"name": ...}}',
            field="tool_choice",
        )
    return {"mode": "function", "name": function["name"]}


def _response_format(asked: dict[str, Any]) -> dict[str, Any]:
    if asked.get("type") != "json_schema":
        return {"type": asked.get("type")}
    schema = asked.get("json_schema")
    if not isinstance(schema, dict) or "schema" not in schema:
        raise InvalidInput("response_format.json_schema has no schema", field="response_format.json_schema.schema")
    told = {"type": "json_schema", "json_schema": schema["schema"]}
    return told | {name: schema[name] for name in ("name", "strict") if schema.get(name) is not None}


# answers


def completion(
    id: str, created: int, model: str, output: dict[str, Any], said: Usage, more: dict[str, Any]
) -> dict[str, Any]:
    """The whole answer.

    Args:
        created: Seconds since 1970.
        output: Of the app.
        said: What the app said in `output_meta`.
        more: Further members.
    """
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    message |= Growing().rest(output, whole=True)
    if not message["content"] and "tool_calls" not in message:
        message["content"] = ""
    for call in message.get("tool_calls", ()):
        del call["index"]
    if output.get("reasoning_state"):
        message["reasoning_state"] = output["reasoning_state"]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(output)}
    return {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": usage_of(output, said),
        **more,
    }


def chunk(id: str, created: int, model: str, delta: dict[str, Any] | None, ends: str | None = None) -> dict[str, Any]:
    """A piece of a stream; without a delta it has no choices."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": ends}
    return {
        "id": id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [choice] if delta is not None else [],
    }


def finish_reason(output: dict[str, Any]) -> str:
    usage = output.get("usage")
    told = usage.get("stop_reason") if isinstance(usage, dict) else None
    if isinstance(told, str) and told in _ENDS:
        return _ENDS[told]
    return "tool_calls" if output.get("tool_calls") else "stop"


def usage_of(output: dict[str, Any], said: Usage) -> dict[str, Any] | None:
    """Tokens as the output counts them, else as the app said; None if it says nothing of them."""
    told = output.get("usage")
    told = told if isinstance(told, dict) else {}

    def number(name: str) -> int:
        value = told.get(name)
        return int(value) if isinstance(value, int | float) else 0

    given, made = number("prompt_tokens"), number("completion_tokens")
    cached, reasoning = number("cached_tokens"), number("reasoning_tokens")
    if not given and not made:
        if said.input_tokens is None and said.output_tokens is None:
            return None
        given, made, cached = said.input_tokens or 0, said.output_tokens or 0, said.cached_tokens or 0
    return {
        "prompt_tokens": given,
        "completion_tokens": made,
        "total_tokens": given + made,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


class AnswerChanged(Exception):
    """The output is not what was sent of it with more behind it, and what was sent cannot be taken back."""


class Growing:
    """An answer that grows: tells of each output so far what has not been sent yet.

    An output that takes something back is held back until it says the same again, and more.
    """

    def __init__(self) -> None:
        self._sent = {name: "" for name, _ in _TEXTS}
        self._calls: dict[int, str] = {}
        """What was sent of the arguments of each call that was told of."""

    def rest(self, output: dict[str, Any], *, whole: bool) -> dict[str, Any]:
        """The delta; empty if there is nothing to be sent.

        Args:
            whole: Nothing more is to come.

        Raises:
            AnswerChanged: The whole output is another one than what was sent.
        """
        delta: dict[str, Any] = {}
        for name, to in _TEXTS:
            want = output.get(name)
            if not isinstance(want, str):
                continue
            more = self._more(self._sent[name], want, whole)
            if more:
                delta[to] = more
                self._sent[name] = want
        calls = [
            told
            for place, call in enumerate(output.get("tool_calls") or ())
            if isinstance(call, dict) and (told := self._call(place, call, whole))
        ]
        if calls:
            delta["tool_calls"] = calls
        if whole and isinstance(output.get("images"), list) and output["images"]:
            delta["images"] = [
                {"type": "image_url", "image_url": {"url": one.get("uri", "") if isinstance(one, dict) else one}}
                for one in output["images"]
            ]
        return delta

    def _call(self, place: int, call: dict[str, Any], whole: bool) -> dict[str, Any] | None:
        index = call.get("index", place)
        function = call.get("function")
        if not isinstance(index, int) or not isinstance(function, dict):
            return None
        arguments = function.get("arguments") or ""
        if not isinstance(arguments, str):
            if not whole:
                return None
            arguments = _encode(arguments).decode()
        sent = self._calls.get(index)
        more = self._more(sent or "", arguments, whole)
        if sent is None and function.get("name"):
            self._calls[index] = arguments
            who = {"id": call.get("id") or f"call_{index}", "type": "function"}
            return {"index": index, **who, "function": {"name": function["name"], "arguments": more}}
        if sent is None or not more:
            return None
        self._calls[index] = arguments
        return {"index": index, "function": {"arguments": more}}

    def _more(self, sent: str, want: str, whole: bool) -> str:
        if want.startswith(sent):
            return want[len(sent) :]
        if whole and not sent.startswith(want):
            raise AnswerChanged
        return ""
