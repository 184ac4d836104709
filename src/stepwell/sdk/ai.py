"""`step.ai`: models of AI providers, asked by the server while the function sleeps.

`Model` says where a model is and how it is spoken to; `Reply` is what it answered. Keys stay where they are given: in
this process, in its memory, and in the memory of the server that makes the call.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec

from stepwell.model.offload import INFER
from stepwell.model.payload import canonical
from stepwell.sdk.client.address import address_of, bearer
from stepwell.sdk.errors import DefinitionError, FunctionError
from stepwell.sdk.fetch import Seconds, credential_name, offload, timeout_ms
from stepwell.sdk.request import Request
from stepwell.sdk.types import decode_result, json_schema, plain, type_name
from stepwell.wire.offload import InvalidRequest, infer_request

R_co = TypeVar("R_co", covariant=True)

_SHOWN_LETTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model and where it is. Made by `openai`, `anthropic` and the others here.

    Attributes:
        name: As the provider calls it.
        format: The dialect of its API, such as `openai-chat`.
        url: The endpoint that is asked.
        api_key: Never stored; its text form is not shown.
        credential: The name of a key that the server keeps, instead of `api_key`.
        headers: Sent along.
        defaults: Members of the body that a call does not give.
    """

    name: str
    format: str
    url: str
    api_key: str = field(default="", repr=False)
    credential: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    defaults: Mapping[str, Any] = field(default_factory=dict)


def openai(
    model: str,
    *,
    api_key: str | None = None,
    base_url: str = "https://api.openai.com/v1",
    headers: Mapping[str, str] | None = None,
    credential: str | None = None,
) -> Model:
    """A model of OpenAI, or of anybody who speaks chat completions: give their `base_url`.

    Args:
        api_key: The variable `OPENAI_API_KEY` of this process if not given; needed for api.openai.com only.
        credential: The name of a key that the server keeps (`stepwell credential set`), instead of one in this process.

    Raises:
        DefinitionError: There is no key, or there are two.
    """
    needed = base_url.startswith("https://api.openai.com")
    key = _key(api_key, "OPENAI_API_KEY", f'ai.openai("{model}")', needed=needed, credential=credential)
    return _chat(model, "openai-chat", base_url, key, headers, credential)


def openai_responses(
    model: str,
    *,
    api_key: str | None = None,
    base_url: str = "https://api.openai.com/v1",
    headers: Mapping[str, str] | None = None,
    credential: str | None = None,
) -> Model:
    """A model of OpenAI by the Responses API. See `openai`."""
    needed = base_url.startswith("https://api.openai.com")
    key = _key(api_key, "OPENAI_API_KEY", f'ai.openai_responses("{model}")', needed=needed, credential=credential)
    url = f"{base_url.rstrip('/')}/responses"
    return Model(
        name=model,
        format="openai-responses",
        url=url,
        api_key=key,
        credential=_named(credential),
        headers=headers or {},
        defaults={"model": model},
    )


def anthropic(
    model: str,
    *,
    api_key: str | None = None,
    max_tokens: int = 4096,
    base_url: str = "https://api.anthropic.com",
    headers: Mapping[str, str] | None = None,
    credential: str | None = None,
) -> Model:
    """A model of Anthropic.

    Args:
        api_key: The variable `ANTHROPIC_API_KEY` of this process if not given.
        max_tokens: Which the API demands; the body of a call may say otherwise.

    Raises:
        DefinitionError: There is no key.
    """
    needed = base_url.startswith("https://api.anthropic.com")
    key = _key(api_key, "ANTHROPIC_API_KEY", f'ai.anthropic("{model}")', needed=needed, credential=credential)
    return Model(
        name=model,
        format="anthropic",
        url=f"{base_url.rstrip('/').removesuffix('/v1')}/v1/messages",
        api_key=key,
        credential=_named(credential),
        headers={"anthropic-version": "2023-06-01", **(headers or {})},
        defaults={"model": model, "max_tokens": max_tokens},
    )


def gemini(
    model: str,
    *,
    api_key: str | None = None,
    base_url: str = "https://generativelanguage.googleapis.com/v1beta",
    headers: Mapping[str, str] | None = None,
    credential: str | None = None,
) -> Model:
    """A model of Google by the Gemini API; the key is the variable `GEMINI_API_KEY` if not given.

    Raises:
        DefinitionError: There is no key.
    """
    needed = base_url.startswith("https://generativelanguage.googleapis.com")
    key = _key(api_key, "GEMINI_API_KEY", f'ai.gemini("{model}")', needed=needed, credential=credential)
    url = f"{base_url.rstrip('/')}/models/{model}:generateContent"
    return Model(
        name=model, format="gemini", url=url, api_key=key, credential=_named(credential), headers=headers or {}
    )


def grok(
    model: str,
    *,
    api_key: str | None = None,
    base_url: str = "https://api.x.ai/v1",
    headers: Mapping[str, str] | None = None,
    credential: str | None = None,
) -> Model:
    """A model of xAI; the key is the variable `XAI_API_KEY` if not given.

    Raises:
        DefinitionError: There is no key.
    """
    key = _key(
        api_key,
        "XAI_API_KEY",
        f'ai.grok("{model}")',
        needed=base_url.startswith("https://api.x.ai"),
        credential=credential,
    )
    return _chat(model, "grok", base_url, key, headers, credential)


def deepseek(
    model: str,
    *,
    api_key: str | None = None,
    base_url: str = "https://api.deepseek.com/v1",
    headers: Mapping[str, str] | None = None,
    credential: str | None = None,
) -> Model:
    """A model of DeepSeek; the key is the variable `DEEPSEEK_API_KEY` if not given.

    Raises:
        DefinitionError: There is no key.
    """
    needed = base_url.startswith("https://api.deepseek.com")
    key = _key(api_key, "DEEPSEEK_API_KEY", f'ai.deepseek("{model}")', needed=needed, credential=credential)
    return _chat(model, "openai-chat", base_url, key, headers, credential)


def azure_openai(
    deployment: str,
    *,
    endpoint: str,
    api_key: str | None = None,
    api_version: str = "2024-10-21",
    headers: Mapping[str, str] | None = None,
    credential: str | None = None,
) -> Model:
    """A deployment of Azure OpenAI; the key is the variable `AZURE_OPENAI_API_KEY` if not given.

    Args:
        endpoint: Such as `https://my-resource.openai.azure.com`.

    Raises:
        DefinitionError: There is no key.
    """
    key = _key(api_key, "AZURE_OPENAI_API_KEY", f'ai.azure_openai("{deployment}")', needed=True, credential=credential)
    url = f"{endpoint.rstrip('/')}/openai/deployments/{deployment}/chat/completions?api-version={api_version}"
    return Model(
        name=deployment,
        format="azure-openai",
        url=url,
        api_key=key,
        credential=_named(credential),
        headers=headers or {},
    )


def app(
    reference: str,
    *,
    url: str | None = None,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
    credential: str | None = None,
) -> Model:
    """A model of your own: an app of the server that is a language model, `namespace/name[@version][:function]`.

    Args:
        reference: A name alone is in the server's own namespace.
        url: Of the server, as it reaches itself; that of `STEPWELL_URL` or `http://localhost:8288` if not given.
        api_key: The server's key, of which only the hash is sent; `STEPWELL_API_KEY` if not given, as for a client.

    Raises:
        DefinitionError: There are two keys.
        ConfigurationError: The URL is none.
    """
    address = address_of(url, api_key=api_key)
    key = _key(api_key, "", f'ai.app("{reference}")', needed=False, credential=credential)
    if credential is None and address.keys:
        key = bearer(address.keys[0]).removeprefix("Bearer ")
    return _chat(reference, "openai-chat", f"{address.api}/v1", key, headers, credential)


def other(
    model: str,
    *,
    url: str,
    format: str = "other",
    api_key: str = "",
    headers: Mapping[str, str] | None = None,
    credential: str | None = None,
) -> Model:
    """A model at any address. With a `format` that the server knows (`openai-chat`, `anthropic` ...) its answer is
    read; with another it is handed on as it is."""
    key = _key(api_key or None, "", f'ai.other("{model}")', needed=False, credential=credential)
    named = _named(credential)
    return Model(name=model, format=format, url=url, api_key=key, credential=named, headers=headers or {})


def _chat(
    model: str, format: str, base_url: str, key: str, headers: Mapping[str, str] | None, credential: str | None
) -> Model:
    url = f"{base_url.rstrip('/')}/chat/completions"
    return Model(
        name=model,
        format=format,
        url=url,
        api_key=key,
        credential=_named(credential),
        headers=headers or {},
        defaults={"model": model},
    )


def _key(given: str | None, variable: str, call: str, *, needed: bool, credential: str | None) -> str:
    if credential is not None:
        if given is not None:
            raise DefinitionError(f"{call} has api_key= and credential=; give only one of them")
        return ""
    key = given if given is not None else os.environ.get(variable, "")
    if needed and not key:
        raise DefinitionError(
            f"{call} needs a key: set {variable} in the service's environment, or give api_key=... or credential=..."
        )
    return key


def _named(credential: str | None) -> str:
    try:
        return credential_name(credential)
    except ValueError as err:
        raise DefinitionError(str(err)) from None


# replies


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of a call. `cached_tokens` are part of the input, `reasoning_tokens` of the output."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for. `arguments` is JSON text as the model wrote it, so perhaps not valid."""

    id: str
    name: str
    arguments: str


class OutputNotValid(FunctionError):
    """What a model answered is not of the type that was asked for.

    Attributes:
        step_id: The step that asked.
        text: What the model answered.
    """

    code = "MODEL_OUTPUT_NOT_VALID"

    def __init__(self, step_id: str, text: str, annotation: Any, reason: str) -> None:
        self.step_id = step_id
        self.text = text
        shown = text if len(text) <= _SHOWN_LETTERS else f"{text[:_SHOWN_LETTERS]}..."
        super().__init__(
            f"step {step_id!r}: the model's answer is not {type_name(annotation)} ({reason}); it begins with {shown!r}"
        )


@dataclass(frozen=True, slots=True)
class Reply(Generic[R_co]):
    """What a model answered. The same on every replay.

    Attributes:
        text: Its words; empty if it only called tools.
        response: The provider's answer as JSON.
        usage: None if the provider told none.
        cost_usd: None if the price or the usage is unknown.
    """

    text: str
    model: str
    response: Any
    tool_calls: tuple[ToolCall, ...]
    finish_reasons: tuple[str, ...]
    reasoning: str
    refusal: str
    usage: Usage | None
    cost_usd: Decimal | None
    _step: str
    _output: Any

    @property
    def output(self) -> R_co:
        """The answer as the type that was asked for; its text if none was.

        Raises:
            OutputNotValid: The model answered something else.
        """
        if self._output is None:
            return self.text  # type: ignore[return-value]
        try:
            value: R_co = decode_result(_json_in(self.text).encode(), self._output)
        except Exception as err:  # validators of the user's may raise anything
            raise OutputNotValid(self._step, self.text, self._output, str(err).partition("\n")[0]) from err
        return value


def infer_step(
    id: str, *, model: Model, body: Mapping[str, Any], output: Any, timeout: Seconds | None, stream: bool = False
) -> Request:
    """What `step.ai.infer` asks for.

    Raises:
        DefinitionError: The request cannot be made; the message says why.
    """
    if not isinstance(model, Model):
        raise DefinitionError(f'step.ai.infer("{id}", model=...) needs a model, such as ai.openai("gpt-4o-mini")')
    whole = {**model.defaults, **body}
    if output is not None:
        whole = _asking_for(model.format, whole, output)
    try:
        text, sealed = infer_request(
            model.url,
            format=model.format,
            headers=model.headers,
            body=whole,
            auth_key=model.api_key,
            credential=model.credential,
            exact=True,
            timeout_ms=timeout_ms(id, timeout),
            stream=stream,
        )
    except (InvalidRequest, ValueError) as err:
        raise DefinitionError(f'step.ai.infer("{id}", ...): {err}') from err
    return Request(id, partial(_reply, id, output), ("infer", text), waiting=partial(offload, text, INFER, sealed))


def _asking_for(format: str, body: dict[str, Any], output: Any) -> dict[str, Any]:
    """The body with the schema of the output, where the provider takes one and the caller gave none."""
    schema = json_schema(output)
    if schema is None:
        return body
    if format in {"openai-chat", "grok", "azure-openai"} and "response_format" not in body:
        name = "".join(letter if letter.isalnum() else "_" for letter in type_name(output))[:64]
        return {**body, "response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}}
    if format == "openai-responses" and "text" not in body:
        return {**body, "text": {"format": {"type": "json_schema", "name": "output", "schema": schema}}}
    if format == "gemini" and "generationConfig" not in body:
        config = {"responseMimeType": "application/json", "responseJsonSchema": schema}
        return {**body, "generationConfig": config}
    return body


def _reply(step: str, output: Any, text: bytes) -> Reply[Any]:
    told = msgspec.json.decode(text)
    usage, cost = told.get("usage"), told.get("cost_usd")
    return Reply(
        text=told["text"],
        model=told["model"],
        response=told["response"],
        tool_calls=tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in told["tool_calls"]),
        finish_reasons=tuple(told["finish_reasons"]),
        reasoning=told.get("reasoning", ""),
        refusal=told.get("refusal", ""),
        usage=None if usage is None else Usage(**usage),
        cost_usd=None if cost is None else Decimal(cost),
        _step=step,
        _output=output,
    )


def model_answer(given: Any) -> bytes:
    """What a test gives as a model's answer, in the form in which the server would record it: its words, or what
    they are the JSON of."""
    text = given if isinstance(given, str) else canonical(plain(given)).decode()
    empty: dict[str, Any] = {"tool_calls": [], "finish_reasons": ["stop"], "usage": None, "cost_usd": None}
    return canonical({"text": text, "model": "scripted", "response": None, **empty})


def _json_in(text: str) -> str:
    """The JSON of an answer that may stand between the fences of Markdown."""
    stripped = text.strip()
    if stripped.startswith("```") and stripped.endswith("```"):
        stripped = stripped.partition("\n")[2].removesuffix("```").strip()
    return stripped
