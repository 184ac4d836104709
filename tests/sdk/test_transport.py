"""`stepwell.http` in functions that are tested in memory: what is a step, what goes out directly, what is refused."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

import stepwell
from stepwell import http
from stepwell.model.dispatch import Memo
from stepwell.model.op import Offload
from stepwell.model.payload import decode
from stepwell.sdk import notice
from stepwell.sdk.errors import DefinitionError
from stepwell.sdk.fetch import fetch_answer
from stepwell.sdk.outcome import Outcome, Raised, Replied, Returned
from stepwell.sdk.replay import ReplayCall, ReplayExecution
from stepwell.sdk.transport import MAX_FIELDS, describe
from stepwell.testing import run
from stepwell.testing.provider import Provider, fail, say

Ctx = stepwell.Context[Any]
SyncCtx = stepwell.SyncContext[Any]
URL = "https://api.example.com/v1"
COMPLETIONS = "POST api.example.com/v1/chat/completions"
MESSAGES = "POST api.example.com/v1/messages"
EVENT = b'{"id":"e","name":"a/b","data":{},"ts":0}'
QUESTION: Any = [{"role": "user", "content": "why?"}]


@pytest.fixture(autouse=True)
def everything_is_told_again() -> Iterator[None]:
    notice.forget()
    yield
    notice.forget()


def completion(text: str = "Because.") -> httpx2.Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [choice]}
    return httpx2.Response(200, json=body)


def message(text: str = "Because.") -> httpx2.Response:
    return httpx2.Response(
        200,
        json={
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "claude-any",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 1, "output_tokens": 1},
        },
    )


def echoed(request: dict[str, Any]) -> httpx2.Response:
    return completion(str(request["body"]).partition('"content":"')[2].partition('"')[0])


def asks(**options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=URL, api_key="sk-any", http_client=http.async_client(**options), max_retries=0)


async def ask(client: openai.AsyncOpenAI, text: str = "why?", **more: Any) -> str:
    answer = await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": text}], **more)
    return answer.choices[0].message.content or ""


CHUNK = (
    'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o",'
    '"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'
)


# Steps


@pytest.mark.parametrize("crashing", [False, True])
def test_three_calls_of_a_library_at_once_are_three_steps(crashing: bool) -> None:
    client = asks()

    @stepwell.Service("library").function(on="a/b")
    async def three(ctx: Ctx) -> list[str]:
        answers = await asyncio.gather(*(ask(client, word) for word in ("one", "two", "three")))
        await ctx.step.sleep("nap", "1h")
        return [*answers, await ask(client, "four")]

    finished = run(three, steps={COMPLETIONS: echoed}, crash_after_each_step=crashing)
    assert finished.output == ["one", "two", "three", "four"]
    assert sorted(track.attempts for track in finished.steps.values()) == [0, 1, 1, 1, 1]  # the nap has none


@pytest.mark.parametrize("crashing", [False, True])
def test_equal_requests_are_counted(crashing: bool) -> None:
    client = asks()
    answers = itertools.cycle([completion("first"), completion("second")])

    @stepwell.Service("library").function(on="a/b")
    async def twice(ctx: Ctx) -> list[str]:
        return [await ask(client), await ask(client)]

    finished = run(twice, steps={COMPLETIONS: lambda _: next(answers)}, crash_after_each_step=crashing)
    assert finished.output == ["first", "second"]


@pytest.mark.parametrize("crashing", [False, True])
def test_a_plain_function_uses_clients_without_async(crashing: bool) -> None:
    gpt = openai.OpenAI(base_url=URL, api_key="any", http_client=http.client(), max_retries=0)
    claude = anthropic.Anthropic(
        base_url="https://api.example.com", api_key="any", http_client=http.client(), max_retries=0
    )

    @stepwell.Service("library").function(on="a/b")
    def both(ctx: SyncCtx) -> list[Any]:
        one = gpt.chat.completions.create(model="gpt-4o", messages=QUESTION)
        ctx.step.sleep("nap", "1h")
        two = claude.messages.create(model="claude-any", max_tokens=9, messages=QUESTION)
        return [one.choices[0].message.content, two.content[0].text]  # type: ignore[union-attr]

    steps = {COMPLETIONS: completion("gpt"), MESSAGES: message("claude")}
    assert run(both, steps=steps, crash_after_each_step=crashing).output == ["gpt", "claude"]


def test_branches_of_a_plain_function_ask_at_once() -> None:
    client = http.client()

    @stepwell.Service("library").function(on="a/b")
    def branches(ctx: SyncCtx) -> list[str]:
        return ctx.step.parallel([lambda n=n: client.get(f"{URL}/{n}").text for n in range(3)])  # type: ignore[misc]

    steps = {f"GET api.example.com/v1/{n}": httpx2.Response(200, text=str(n)) for n in range(3)}
    assert run(branches, steps=steps).output == ["0", "1", "2"]


@pytest.mark.parametrize("crashing", [False, True])
def test_a_recorded_body_is_replayed_as_a_stream(crashing: bool) -> None:
    client = asks()
    body = "".join(CHUNK % word for word in ("Be", "cause")) + "data: [DONE]\n\n"

    @stepwell.Service("library").function(on="a/b")
    async def streamed(ctx: Ctx) -> list[str]:
        chunks = await client.chat.completions.create(model="gpt-4o", messages=QUESTION, stream=True)
        words = [chunk.choices[0].delta.content or "" async for chunk in chunks]
        await ctx.step.sleep("nap", "1h")
        return words

    answer = httpx2.Response(200, text=body, headers={"Content-Type": "text/event-stream"})
    assert run(streamed, steps={COMPLETIONS: answer}, crash_after_each_step=crashing).output == ["Be", "cause"]


def test_what_a_client_gets_is_what_was_answered() -> None:
    client = http.async_client(base_url=URL, follow_redirects=True)

    @stepwell.Service("library").function(on="a/b")
    async def get(ctx: Ctx) -> list[Any]:
        response = await client.post("/there", params={"q": "a b"}, content=b"\x00\xff")
        assert response.elapsed.total_seconds() >= 0
        return [
            response.status_code, response.reason_phrase, response.headers.get_list("x-a"), list(response.content),
            str(response.url), len(response.history), client.cookies["c"],
        ]  # fmt: skip

    there = httpx2.Response(307, headers={"Location": "/here"})
    headers = [("X-A", "1"), ("X-A", "2"), ("Set-Cookie", "c=d")]
    here = httpx2.Response(418, headers=headers, content=b"\xfe\x01")
    finished = run(get, steps={"POST api.example.com/v1/there": there, "POST api.example.com/here": here})
    assert finished.output == [
        418, "I'm a teapot", ["1", "2"], [0xFE, 1], "https://api.example.com/here", 1, "d",
    ]  # fmt: skip


@pytest.mark.parametrize("crashing", [False, True])
def test_clients_of_httpx_are_served_with_its_own_classes(crashing: bool) -> None:
    anyway: Any = http.AsyncTransport()
    client = httpx.AsyncClient(transport=anyway, base_url=URL)

    @stepwell.Service("library").function(on="a/b")
    async def old(ctx: Ctx) -> list[Any]:
        response = await client.get("/old")
        async with client.stream("GET", "/lines") as streamed:
            return [type(response).__module__, response.json(), [line async for line in streamed.aiter_lines()]]

    steps = {
        "GET api.example.com/v1/old": httpx2.Response(200, json={"a": 1}),
        "GET api.example.com/v1/lines": httpx2.Response(200, text="one\ntwo\n"),
    }
    assert run(old, steps=steps, crash_after_each_step=crashing).output == ["httpx", {"a": 1}, ["one", "two"]]


def test_a_key_is_in_no_name_and_no_record() -> None:
    client = http.async_client(headers={"Authorization": "Bearer sk-canary", "X-Key": "sk-canary"})
    recorded: list[str] = []

    def answer(request: dict[str, Any]) -> httpx2.Response:
        recorded.append(str(request))
        return httpx2.Response(200)

    @stepwell.Service("library").function(on="a/b")
    async def secret(ctx: Ctx) -> None:
        for key in ("sk-canary-1", "sk-canary-2"):
            await client.get("https://api.example.com/x", params={"api_key": key, "page": "2"})

    finished = run(secret, steps={"GET api.example.com/x": answer})
    assert len(recorded) == 2
    assert "canary" not in str(recorded) + str(finished.steps)
    assert len({track.partition(":")[0] for track in finished.steps}) == 1  # another key is no other request


# A request that is another one in each execution


async def executed(function: stepwell.Function[Any, Any], *memos: Memo) -> Outcome:
    """One execution of a function with these results recorded, as a call over HTTP."""
    call = ReplayCall(run="01M7WHDWFY5HJD79SD05PPWMXY", attempt=0, max_attempts=4, events=(EVENT,), memos=memos)
    return await ReplayExecution(function, call).run()


def recorded(outcome: Outcome, answer: httpx2.Response) -> Memo:
    """The result of the one request that an execution asked for."""
    assert isinstance(outcome, Replied), outcome
    (op,) = outcome.ops
    assert isinstance(op, Offload)
    request: Any = decode(op.request)  # type: ignore[arg-type]
    return Memo(op.step, "data", fetch_answer(answer, request["echo"]), op.name)


@pytest.mark.parametrize(
    "body", [lambda n: {"prompt_cache_key": f"run-{n}"}, lambda n: {"params": {"_meta": {"traceparent": f"00-{n}"}}}]
)
def test_what_frameworks_make_up_for_each_request_is_not_compared(body: Callable[[int], Any]) -> None:
    client, numbers = http.async_client(), itertools.count()

    @stepwell.Service("library").function(on="a/b")
    async def made_up(ctx: Ctx) -> str:
        answer = await client.post(URL, json={"asked": "why?"} | body(next(numbers)))
        await ctx.step.sleep("nap", "1h")
        return answer.text

    steps = {"POST api.example.com/v1": httpx2.Response(200, text="Because.")}
    assert run(made_up, steps=steps, crash_after_each_step=True).output == "Because."
    assert next(numbers) > 2


def changing(client: openai.AsyncOpenAI) -> stepwell.Function[Any, Any]:
    numbers = itertools.count()

    @stepwell.Service("library").function(on="a/b")
    async def unstable(ctx: Ctx) -> str:
        return await ask(client, extra_body={"metadata": {"number": next(numbers)}})

    return unstable


async def test_a_request_that_changes_between_executions_ends_the_run_and_names_the_field() -> None:
    function = changing(asks())
    memo = recorded(await executed(function), completion())
    ended = await executed(function, memo)

    assert isinstance(ended, Raised)
    assert not ended.retry
    error: Any = decode(ended.error)
    assert error["name"] == "RequestChanged"
    assert "differs from the recorded one at its place in body.metadata.number;" in error["message"]


@pytest.mark.parametrize("field", ["body.metadata.number", "body.metadata", "body.*.number"])
async def test_a_field_that_is_excluded_may_change(field: str) -> None:
    function = changing(asks(transport=http.AsyncTransport(exclude=[field])))
    memo = recorded(await executed(function), completion("same"))

    assert await executed(function, memo) == Returned(b'"same"')


async def test_code_that_asks_more_than_it_did_is_no_mistake() -> None:
    client = asks()
    words = ["one"]

    @stepwell.Service("library").function(on="a/b")
    async def grown(ctx: Ctx) -> list[str]:
        return [await ask(client, word) for word in words]

    memo = recorded(await executed(grown), completion("1"))
    words.append("two")
    more = recorded(await executed(grown, memo), completion("2"))
    assert await executed(grown, memo, more) == Returned(b'["1","2"]')

    words.insert(0, "none")
    ended = await executed(grown, memo, more)  # asked where "one" was before, which is not asked for any more
    assert isinstance(ended, Raised)
    assert b"body.messages.0.content" in ended.error


# What a request is


def test_the_order_of_members_and_the_boundary_of_a_form_are_no_part_of_it() -> None:
    json = "application/json"
    assert describe("POST", URL, json, b'{"a":1,"b":[1]}') == describe("POST", URL, json, b'{ "b": [1], "a": 1 }')
    assert describe("POST", URL, json, b'{"a":[1,2]}') != describe("POST", URL, json, b'{"a":[2,1]}')
    parts = [
        describe("POST", URL, f"multipart/form-data; boundary={mark}", f"--{mark}\r\nx\r\n--{mark}--".encode())
        for mark in ("0123456789", "abcdefghij")
    ]
    assert parts[0] == parts[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("GET", URL, "", b""), ("POST", URL, "", b"")),
        (("GET", URL, "", b""), ("GET", f"{URL}/x", "", b"")),
        (("GET", f"{URL}?a=1", "", b""), ("GET", f"{URL}?a=2", "", b"")),
        (("POST", URL, "", b"\x00"), ("POST", URL, "", b"\x01")),
        (("POST", URL, "application/json", b'{"a":NaN}'), ("POST", URL, "application/json", b'{"b":NaN}')),
        (
            ("POST", URL, "application/x-www-form-urlencoded", b"a=1&a=2"),
            ("POST", URL, "application/x-www-form-urlencoded", b"a=2"),
        ),
        (
            ("POST", URL, "application/json", b'{"a":9007199254740993}'),
            ("POST", URL, "application/json", b'{"a":9007199254740992}'),
        ),
    ],
)
def test_any_other_difference_makes_another_request(one: Any, other: Any) -> None:
    assert describe(*one).digest != describe(*other).digest
    assert describe(*one).fields != describe(*other).fields


def test_parts_of_the_query_can_be_excluded() -> None:
    one, other = (describe("GET", f"{URL}?a=1&t={t}", "", b"", [["query", "t"]]) for t in (1, 2))
    assert one == other
    assert set(one.fields) == {"method", "url", "query.a", "body"}


@pytest.mark.parametrize(
    "body",
    [
        b"[%s]" % b",".join([b'{"a":1,"b":2}'] * 50),
        b'{"a":[%s]}' % b",".join([b"1"] * 999),
        b'{"%s":1}' % (b"a" * 9999),
    ],
)
def test_a_large_body_has_few_digests(body: bytes) -> None:
    described = describe("POST", URL, "application/json", body)
    assert len(described.fields) <= MAX_FIELDS
    assert described.fields != describe("POST", URL, "application/json", body.replace(b"1", b"3", 1)).fields


def test_the_server_follows_no_redirect_and_keeps_the_timeout_of_the_transport() -> None:
    transport = http.AsyncTransport(timeout="2m", retry_statuses=[418])
    asked: list[Any] = []

    @stepwell.Service("library").function(on="a/b")
    async def get(ctx: Ctx) -> int:
        return (await http.async_client(transport=transport).get(URL)).status_code

    def answer(request: dict[str, Any]) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(302, headers={"Location": "/here"})

    assert run(get, steps={"GET api.example.com/v1": answer}).output == 302
    assert [asked[0][name] for name in ("max_redirects", "timeout_ms", "retry_statuses")] == [0, 120_000, [418]]


# Failures and retries


@pytest.mark.parametrize("crashing", [False, True])
@pytest.mark.parametrize("wrong", [httpx2.Response(503), ValueError("nobody is there")])
def test_the_retries_of_a_library_ask_nobody(
    wrong: Any, crashing: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai.AsyncOpenAI, "_calculate_retry_timeout", lambda *_: 0.001)
    client = openai.AsyncOpenAI(base_url=URL, api_key="any", http_client=http.async_client(), max_retries=2)
    asked: list[Any] = []

    def answer(request: dict[str, Any]) -> httpx2.Response:
        asked.append(request)
        if isinstance(wrong, ValueError):
            raise wrong
        return httpx2.Response(503)

    @stepwell.Service("library").function(on="a/b")
    async def refused(ctx: Ctx) -> str:
        try:
            return await ask(client)
        except openai.APIError as err:
            await ctx.step.sleep("nap", "1h")
            return type(err).__name__

    with caplog.at_level(logging.WARNING, "stepwell"):
        finished = run(refused, steps={COMPLETIONS: answer}, crash_after_each_step=crashing)
    assert finished.output == ("APIConnectionError" if isinstance(wrong, ValueError) else "InternalServerError")
    assert len(asked) == (2 if crashing else 1)  # a function is run with and without crashes
    assert asked[0]["retry_statuses"] == [408, 409, 429, 500, 502, 503, 504, 529]
    assert caplog.text.count("a library repeats the request") == 1
    assert "max_retries=0" in caplog.text


def test_a_request_repeated_without_saying_so_is_a_step_of_its_own_and_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = http.async_client()
    answers = iter([httpx2.Response(503), httpx2.Response(200, text="at last")])

    @stepwell.Service("library").function(on="a/b")
    async def stubborn(ctx: Ctx) -> str:
        while (answer := await client.get(f"{URL}/x")).status_code != 200:
            pass
        return answer.text

    with caplog.at_level(logging.WARNING, "stepwell"):
        finished = run(stubborn, steps={"GET api.example.com/v1/x": lambda _: next(answers)})
    assert finished.output == "at last"
    assert len(finished.steps) == 2
    assert "it is a new step" in caplog.text


def test_a_request_that_is_too_large_ends_the_run_at_once() -> None:
    client = openai.AsyncOpenAI(base_url=URL, api_key="any", http_client=http.async_client(), max_retries=5)

    @stepwell.Service("library").function(on="a/b")
    async def large(ctx: Ctx) -> str:
        return await ask(client, "x" * 9_000_000)

    assert "8 MiB" in str(run(large).error)


def test_a_client_without_async_ends_an_async_function_and_says_which_to_use() -> None:
    @stepwell.Service("library").function(on="a/b")
    async def blocked(ctx: Ctx) -> Any:
        client = openai.OpenAI(base_url=URL, api_key="any", http_client=http.client())
        return client.chat.completions.create(model="gpt-4o", messages=QUESTION)

    @stepwell.Service("library").function(on="a/b")
    async def in_a_thread(ctx: Ctx) -> Any:
        return await asyncio.to_thread(http.client().get, URL)

    assert "use stepwell.http.async_client()" in str(run(blocked).error)
    assert "use stepwell.http.async_client()" in str(run(in_a_thread).error)


@pytest.mark.parametrize("crashing", [False, True])
def test_a_plain_function_may_run_a_loop_of_its_own(crashing: bool) -> None:
    client = asks()

    async def both() -> list[str]:
        return [*await asyncio.gather(ask(client, "one"), ask(client, "two")), await ask(client, "three")]

    @stepwell.Service("library").function(on="a/b")
    def awaited(ctx: SyncCtx) -> list[str]:
        words = asyncio.run(both())
        ctx.step.sleep("nap", "1h")
        more = [partial(lambda word: asyncio.run(ask(client, word)), word) for word in ("four", "five")]
        return [*words, *ctx.step.parallel(more), asyncio.run(ask(client, "six"))]

    finished = run(awaited, steps={COMPLETIONS: echoed}, crash_after_each_step=crashing)
    assert finished.output == ["one", "two", "three", "four", "five", "six"]


@pytest.mark.parametrize("crashing", [False, True])
def test_a_server_of_mcp_is_not_listened_to_in_a_function(crashing: bool) -> None:
    client = http.async_client(headers={"Mcp-Session-Id": "s", "Accept": "text/event-stream"})

    @stepwell.Service("library").function(on="a/b")
    async def session(ctx: Ctx) -> str:
        listening = asyncio.create_task(client.get("https://api.example.com/mcp"))
        answer = await client.post("https://api.example.com/mcp", json={"method": "tools/list"})
        await ctx.step.sleep("nap", "1h")
        assert not listening.done()
        listening.cancel()
        resumed = await client.get("https://api.example.com/mcp", headers={"Last-Event-Id": "1"})
        return answer.text + resumed.text

    steps = {f"{method} api.example.com/mcp": httpx2.Response(200, text=method) for method in ("POST", "GET")}
    assert run(session, steps=steps, crash_after_each_step=crashing).output == "POSTGET"


# Directly


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


def test_outside_of_functions_nothing_changes(provider: Provider) -> None:
    provider.answer(fail(503, retry_after_s=0.01), say("Hi"))
    before = len(provider.calls)
    with openai.OpenAI(
        base_url=f"{provider.url}/v1", api_key="sk-any", http_client=http.client(), max_retries=2
    ) as client:
        answer = client.chat.completions.create(model="gpt-4o", messages=QUESTION)
        assert answer.choices[0].message.content == "Hi"
        chunks = client.chat.completions.create(model="gpt-4o", messages=QUESTION, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hi"
    assert len(provider.calls) - before == 3


async def test_nor_with_async(provider: Provider) -> None:
    async with http.async_client(auth=("ann", "secret"), follow_redirects=True) as client:
        response = await client.get(f"{provider.url}/http/redirect/2")
        assert (response.status_code, len(response.history)) == (200, 2)
        async with client.stream("GET", f"{provider.url}/http/bytes/100000") as streamed:
            assert sum([len(piece) async for piece in streamed.aiter_bytes()]) == 100_000
    assert provider.requests[-1].headers["authorization"] == "Basic YW5uOnNlY3JldA=="
    anyway: Any = http.AsyncTransport()
    async with httpx.AsyncClient(transport=anyway) as old:
        assert isinstance(await old.get(f"{provider.url}/http/status/204"), httpx.Response)


def test_inside_a_step_a_request_goes_out_directly(provider: Provider) -> None:
    sync = http.client()
    url = f"{provider.url}/http/status/418"

    async def awaited() -> int:
        async with http.async_client() as client:
            return (await client.get(url)).status_code

    @stepwell.Service("library").function(on="a/b")
    async def stepping(ctx: Ctx) -> list[int]:
        one = await ctx.step.run("sync", lambda: sync.get(url).status_code)
        return [one, await ctx.step.run("async", awaited)]

    assert run(stepping).output == [418, 418]
    sync.close()

    @stepwell.Service("library").function(on="a/b")
    async def hidden(ctx: Ctx) -> int:
        with stepwell.outside():
            task = asyncio.ensure_future(awaited())
        return await task

    assert run(hidden).output == 418


@pytest.mark.parametrize("inside", [False, True])
def test_a_fallback_of_ones_own_or_none(inside: bool) -> None:
    mock = httpx2.MockTransport(lambda _: httpx2.Response(200, text="mine"))
    mine = http.client(transport=http.Transport(fallback=mock))
    none = http.client(transport=http.Transport(fallback=None))

    def called(call: Callable[[], Any]) -> Any:
        if not inside:
            return call()

        @stepwell.Service("library").function(on="a/b", retries=0)
        async def stepping(ctx: Ctx) -> Any:
            return await ctx.step.run("call", call)

        finished = run(stepping)
        if finished.error is not None:
            raise DefinitionError(str(finished.error))
        return finished.output

    assert called(lambda: mine.get(URL).text) == "mine"
    with pytest.raises(DefinitionError, match="inside a step or outside of functions"):
        called(lambda: none.get(URL).text)


async def test_a_fallback_with_async() -> None:
    mock = httpx2.MockTransport(lambda _: httpx2.Response(200, text="mine"))
    async with http.async_client(transport=http.AsyncTransport(fallback=mock)) as mine:
        assert (await mine.get(URL)).text == "mine"
    async with http.async_client(transport=http.AsyncTransport(fallback=None)) as none:
        with pytest.raises(DefinitionError, match=r"AsyncTransport\(fallback=None\)"):
            await none.get(URL)


@pytest.mark.parametrize("exclude", ["body.a", ["headers.x"], ["body"], ["messages"]])
def test_what_cannot_be_excluded_is_refused(exclude: Any) -> None:
    with pytest.raises(DefinitionError, match="exclude="):
        http.Transport(exclude=exclude)


@pytest.mark.parametrize("make", [http.client, http.async_client])
def test_options_of_the_connection_are_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(DefinitionError, match="verify= is about the connection"):
        make(verify=False)
    with pytest.raises(DefinitionError, match="longer than nothing"):
        http.Transport(timeout=0)
