"""Chat completions of apps, asked for by OpenAI's own client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import openai
import pytest

from stepwell.model.task import TaskStatus
from tests.api.api import Api, until
from tests.api.infsh.performing import Call, ScriptedApps

HELLO: Any = [{"role": "user", "content": "Hello"}]
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 2, "reasoning_tokens": 1}


async def says(call: Call) -> None:
    call.come_to(TaskStatus.RUNNING)
    call.returned({"response": f"You said {call.request.input['text']}", "usage": USAGE})


async def task_status(api: Api, task: str, status: int) -> None:
    async def look() -> bool | None:
        return (await api.get(f"/tasks/{task}"))["data"]["status"] == status or None

    await until(look)


async def test_an_app_answers(api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI) -> None:
    performer.script = says
    answer = await client.chat.completions.create(model="acme/speaker", messages=HELLO)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        "You said Hello",
        "stop",
    )
    assert (answer.object, answer.model) == ("chat.completion", "acme/speaker")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 3, 10)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    task = answer._request_id
    assert answer.id == f"chatcmpl-{task}"
    assert (await api.get(f"/tasks/{task}"))["data"]["status"] == TaskStatus.COMPLETED
    (call,) = performer.calls
    assert (call.request.app, call.request.function, call.request.input) == (
        "acme/speaker@v1",
        "run",
        {"text": "Hello"},
    )


async def test_the_sync_client(api: Api, performer: ScriptedApps) -> None:
    performer.script = grows

    def ask() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key="none") as client:
            whole = client.chat.completions.create(model="acme/speaker", messages=HELLO)
            pieces = client.chat.completions.create(model="acme/speaker", messages=HELLO, stream=True)
            return whole.choices[0].message.content, "".join(one.choices[0].delta.content or "" for one in pieces)

    assert await asyncio.to_thread(ask) == ("one two three", "one two three")


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (
            {"messages": [{"role": "system", "content": "A"}, {"role": "developer", "content": "B"}, *HELLO]},
            {"system_prompt": "A\n\nB", "text": "Hello"},
        ),
        (
            {
                "messages": [
                    *HELLO,
                    {"role": "assistant", "content": "Hi", "reasoning_content": "Hm"},
                    {"role": "system", "content": "Be brief"},
                    {"role": "user", "content": [{"type": "text", "text": "What"}, {"type": "text", "text": "now?"}]},
                ]
            },
            {
                "context": [
                    {"role": "user", "text": "Hello"},
                    {"role": "assistant", "text": "Hi", "reasoning": "Hm"},
                    {"role": "system", "text": "Be brief"},
                ],
                "text": "What\nnow?",
            },
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "See"},
                            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                        ],
                    }
                ]
            },
            {"text": "See", "images": ["https://example.com/a.png"]},
        ),
        (
            {
                "messages": [
                    *HELLO,
                    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function"}]},
                    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
                ],
                "tools": [{"type": "function", "function": {"name": "weather"}}],
                "tool_choice": {"type": "function", "function": {"name": "weather"}},
            },
            {
                "context": [
                    {"role": "user", "text": "Hello"},
                    {"role": "assistant", "text": "", "tool_calls": [{"id": "c1", "type": "function"}]},
                ],
                "role": "tool",
                "tool_call_id": "c1",
                "text": "sunny",
                "tools": [{"type": "function", "function": {"name": "weather"}}],
                "tool_choice": {"mode": "function", "name": "weather"},
            },
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "strict": True, "schema": {"type": "object"}},
                }
            },
            {
                "text": "Hello",
                "response_format": {
                    "type": "json_schema",
                    "name": "answer",
                    "strict": True,
                    "json_schema": {"type": "object"},
                },
            },
        ),
        (
            {"stop": "END", "max_completion_tokens": 5, "temperature": 0, "seed": 1, "reasoning_effort": "minimal"},
            {"text": "Hello", "stop": ["END"], "max_tokens": 5, "temperature": 0, "seed": 1, "reasoning_effort": "low"},
        ),
        # no setting of this app's, and one of its own
        ({"presence_penalty": 1, "extra_body": {"style": "formal", "other": 1}}, {"text": "Hello", "style": "formal"}),
    ],
)
async def test_what_the_app_is_given(
    api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI, asked: dict[str, Any], given: dict[str, Any]
) -> None:
    performer.script = says
    await client.chat.completions.create(**{"model": "acme/speaker", "messages": HELLO, **asked})
    assert performer.calls[0].request.input == given


@pytest.mark.parametrize(
    ("model", "function"),
    [("parrot", "talk"), ("local/parrot@v1", "talk"), ("local/parrot:talk", "talk"), ("acme/speaker", "run")],
)
async def test_which_function_is_called(
    api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI, model: str, function: str
) -> None:
    performer.script = says
    await client.chat.completions.create(model=model, messages=HELLO)
    assert performer.calls[0].request.function == function


async def test_tool_calls(api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI) -> None:
    async def calls(call: Call) -> None:
        made = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
        call.returned({"response": "", "tool_calls": [made]})

    performer.script = calls
    choice = (await client.chat.completions.create(model="acme/speaker", messages=HELLO)).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == ("c1", "weather", {"city": "Bern"})


# streams


async def grows(call: Call) -> None:
    """Says whole outputs, each longer than the one before."""
    for words in ("one", "one two"):
        call.output({"response": words})
    call.returned({"response": "one two three"}, {"inputs": [{"tokens": 4}], "outputs": [{"tokens": 3}]})


async def adds(call: Call) -> None:
    """Says what is added."""
    for word in ("one", " two", " three"):
        call.delta({"response": word})
    call.returned({"response": "one two three"}, {"inputs": [{"tokens": 4}], "outputs": [{"tokens": 3}]})


@pytest.mark.parametrize("script", [grows, adds])
async def test_a_stream(api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI, script: Any) -> None:
    performer.script = script
    pieces = [
        one
        async for one in await client.chat.completions.create(
            model="acme/speaker", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    ]
    *said, end, last = pieces
    assert [one.choices[0].delta.content for one in said] == ["one", " two", " three"]
    assert [one.choices[0].delta.role for one in said] == ["assistant", None, None]
    assert (end.choices[0].finish_reason, end.choices[0].delta.content) == ("stop", None)
    assert (last.choices, last.usage and last.usage.total_tokens) == ([], 7)
    assert len({(one.id, one.model, one.created) for one in pieces}) == 1


async def test_words_come_as_they_are_said(api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI) -> None:
    heard = asyncio.Event()

    async def waits(call: Call) -> None:
        call.delta({"response": "one"})
        await heard.wait()  # nobody says more before that has arrived
        call.returned({"response": "one two"})

    performer.script = waits
    words = []
    async with asyncio.timeout(5):
        async for one in await client.chat.completions.create(model="acme/speaker", messages=HELLO, stream=True):
            words.append(one.choices[0].delta.content or "")
            heard.set()
    assert "".join(words) == "one two"


async def test_tool_calls_piece_by_piece(api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI) -> None:
    async def calls(call: Call) -> None:
        call.delta({"response": "", "reasoning": "Hm"})
        call.delta({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": ""}}]})
        for part in ('{"ci', 'ty": 1}'):
            call.delta({"tool_calls": [{"index": 0, "function": {"name": "", "arguments": part}}]})
        made = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": 1}'}}
        call.returned({"response": "", "tool_calls": [made]})

    performer.script = calls
    pieces = [
        one.choices[0]
        async for one in await client.chat.completions.create(model="acme/speaker", messages=HELLO, stream=True)
    ]
    told = [call for one in pieces for call in one.delta.tool_calls or ()]
    assert [(one.index, one.id, one.function and one.function.name) for one in told] == [
        (0, "c1", "weather"),
        (0, None, None),
        (0, None, None),
    ]
    assert "".join(one.function.arguments or "" for one in told if one.function) == '{"city": 1}'
    assert pieces[0].delta.model_extra == {"reasoning_content": "Hm"}
    assert pieces[-1].finish_reason == "tool_calls"


async def test_what_is_taken_back_is_an_error(api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI) -> None:
    async def changes(call: Call) -> None:
        call.output({"response": "one"})
        await asyncio.sleep(0.05)
        call.returned({"response": "two"})

    performer.script = changes
    stream = await client.chat.completions.create(model="acme/speaker", messages=HELLO, stream=True)
    assert (await anext(stream)).choices[0].delta.content == "one"
    with pytest.raises(openai.APIError, match="not what was streamed"):
        await anext(stream)


# errors


@pytest.mark.parametrize(
    ("body", "status", "code", "param", "text"),
    [
        ({"model": "acme/none"}, 404, "model_not_found", "model", "stepwell app deploy"),
        ({"model": "a/b/c/d"}, 400, "invalid_input", "model", "namespace/name"),
        ({"model": "acme/images"}, 400, "invalid_input", "model", "capability 'llm'"),
        ({"model": "local/parrot:run"}, 400, "invalid_input", "model", "'run'"),
        ({"model": "acme/secretive"}, 412, "requirements_not_met", None, "--app-secret KEY"),
        ({"n": 2}, 400, "invalid_input", "n", "one answer"),
        ({"messages": []}, 400, "invalid_input", "messages", "empty"),
        ({"messages": [{"role": "poet", "content": ""}]}, 400, "invalid_input", "messages[0].role", "poet"),
        ({"messages": "Hello"}, 400, "invalid_input", "messages", "array"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, 400, "invalid_input", None, "audio"),
        ({"messages": [{"role": "system", "content": "A"}]}, 400, "invalid_input", "messages", "instructions"),
        ({"model": "acme/lines", "tools": [{"type": "function"}]}, 400, "invalid_input", "tools", "no 'tools'"),
        ({"logprobs": True}, 400, "invalid_input", "logprobs", "logprobs"),
        ({"tools": [{}], "tool_choice": {"type": "x"}}, 400, "invalid_input", "tool_choice", "required"),
        ({"response_format": {"type": "json_schema"}}, 400, "invalid_input", None, "schema"),
    ],
)
async def test_what_is_refused(
    api: Api,
    performer: ScriptedApps,
    client: openai.AsyncOpenAI,
    body: dict[str, Any],
    status: int,
    code: str,
    param: str | None,
    text: str,
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(**{"model": "acme/speaker", "messages": HELLO, **body})
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert param is None or caught.value.param == param
    assert text in caught.value.message
    assert performer.calls == []


@pytest.mark.parametrize("stream", [False, True])
async def test_an_app_that_fails(api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI, stream: bool) -> None:
    async def fails(call: Call) -> None:
        call.raised("out of luck")

    performer.script = fails
    with pytest.raises(openai.InternalServerError, match="out of luck"):
        await client.chat.completions.create(model="acme/speaker", messages=HELLO, stream=stream)


async def test_a_task_that_somebody_cancels(api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI) -> None:
    async def cancelled(call: Call) -> None:
        await api.http.post(f"/tasks/{call._dispatch.run}/cancel")
        call.raised("stopped")

    performer.script = cancelled
    with pytest.raises(openai.ConflictError, match="was cancelled"):
        await client.with_options(max_retries=2).chat.completions.create(model="acme/speaker", messages=HELLO)
    assert len(performer.calls) == 1  # it was cancelled on purpose, so the client does not ask again


async def test_an_app_that_fails_in_the_middle(api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI) -> None:
    heard = asyncio.Event()

    async def fails(call: Call) -> None:
        call.delta({"response": "one"})
        await heard.wait()
        call.raised("out of luck")

    performer.script = fails
    stream = await client.chat.completions.create(model="acme/speaker", messages=HELLO, stream=True)
    assert (await anext(stream)).choices[0].delta.content == "one"
    heard.set()
    with pytest.raises(openai.APIError, match="out of luck"):
        await anext(stream)


async def test_keys_are_checked(start: Any) -> None:
    api = await start(dev=False, signing_key="signkey-test-" + "ab" * 32, event_keys=("event-key-1",))
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    key = "signkey-test-" + "ab" * 32
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key=key) as client:
        assert (await client.models.list()).data == []


# clients that go away, and come back


@pytest.mark.parametrize("stream", [False, True])
async def test_the_task_of_a_client_that_goes_is_cancelled(
    api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI, stream: bool
) -> None:
    begun = asyncio.Event()

    async def lasts(call: Call) -> None:
        begun.set()
        call.delta({"response": "one"})
        await call.stopped.wait()
        call.raised("stopped")

    performer.script = lasts

    async def ask() -> None:
        answer = await client.chat.completions.create(model="acme/speaker", messages=HELLO, stream=stream)
        async for _ in answer:  # type: ignore[union-attr]
            pass

    asking = asyncio.create_task(ask())
    async with asyncio.timeout(5):
        await begun.wait()
        task = performer.calls[0]._dispatch.run
        await asyncio.sleep(0.05)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await performer.calls[0].stopped.wait()
    await task_status(api, task, TaskStatus.CANCELLED)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_comes_back_gets_its_answer(
    api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI, stream: bool
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def waits(call: Call) -> None:
        begun.set()
        call.delta({"response": "one"})
        await go_on.wait()
        call.returned({"response": "one two"})

    performer.script = waits

    async def ask() -> str | None:
        answer: Any = await client.chat.completions.create(
            model="acme/speaker", messages=HELLO, stream=stream, extra_headers={"Idempotency-Key": "once"}
        )
        if not stream:
            return str(answer.choices[0].message.content)
        return "".join([one.choices[0].delta.content or "" async for one in answer])

    first = asyncio.create_task(ask())
    async with asyncio.timeout(5):
        await begun.wait()
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        second = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        go_on.set()
        assert await second == "one two"
        assert await ask() == "one two"
    assert len(performer.calls) == 1


async def test_a_key_whose_task_failed_makes_another(
    api: Api, performer: ScriptedApps, client: openai.AsyncOpenAI
) -> None:
    async def fails(call: Call) -> None:
        call.raised("out of luck")

    async def ask() -> str | None:
        answer = await client.chat.completions.create(
            model="acme/speaker", messages=HELLO, extra_headers={"Idempotency-Key": "again"}
        )
        return answer.choices[0].message.content

    performer.script = fails
    with pytest.raises(openai.InternalServerError):
        await ask()
    performer.script = says
    assert [await ask(), await ask()] == ["You said Hello"] * 2
    assert len(performer.calls) == 2
