"""GraphQL requests that are wrong, too large or ask for changes."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stepwell.api.inngest import graphql_engine
from stepwell.api.inngest.graphql import PLAYGROUND, execute
from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV, INVOKED, read_body
from stepwell.model.function import Function, Service, Transport, Trigger
from stepwell.model.ids import IdSource
from stepwell.node.clock import AsyncioWorld
from stepwell.node.node import Node
from stepwell.store.base import EventQuery, RunQuery
from stepwell.store.memory import MemoryStore
from tests.node_reads.story import Clock, Story, keep


class NoPerformer:
    """Never answers."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    world = AsyncioWorld()
    one = Node("n", epoch=1, store=MemoryStore(Clock()), world=world, performer=NoPerformer(), ids=IdSource(1))
    await one.register(SHOP)
    yield one
    one.stop()
    await world.settle(1)


SHOP = Service(
    name="shop",
    transport=Transport.HTTP,
    url="http://shop/api",
    functions=(Function(slug="shop-bill", name="Bill", service="shop", triggers=(Trigger("shop/order"),)),),
)


async def ask(node: Node, query: str, variables: Any = None, **more: Any) -> dict[str, Any]:
    return await execute(node, {"query": query, "variables": variables}, **more)


# what is wrong


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "needs a `query`"),
        ({"query": "   "}, "needs a `query`"),
        ({"query": 5}, "needs a `query`"),
        ({"query": "{ functions { slug } }", "variables": [1]}, "`variables` must be a JSON object"),
        ({"query": "{ functions { slug } }", "operationName": 5}, "`operationName` must be text"),
        ({"query": "{ functions { slug"}, "Syntax Error"),
        ({"query": "{ functions }"}, "must have a selection of subfields"),
        ({"query": "{ nothing }"}, "Cannot query field 'nothing'"),
        ({"query": "{ functions { slug { x } } }"}, "must not have a selection"),
        ({"query": "{ run { id } }"}, "of type 'String!' is required"),
        ({"query": "query ($id: Int!) { run(runID: $id) { id } }", "variables": {"id": 1}}, "expecting type 'String!'"),
        ({"query": "query ($id: String!) { run(runID: $id) { id } }"}, "non-null type 'String!'"),
        ({"query": "{ functions { ...F } }"}, "Unknown fragment 'F'"),
        ({"query": "{ functions { ...F } } fragment F on Function { ...F }"}, "Cannot spread fragment 'F'"),
        ({"query": "query A { functions { slug } } query B { apps { id } }"}, "Must provide operation name"),
        ({"query": "query A { functions { slug } }", "operationName": "B"}, "Unknown operation named 'B'"),
        ({"query": 'mutation { cancelRun(runID: "x") { id } }'}, "not a ULID"),
        ({"query": '{ app(id: "x") { id } }'}, "not a UUID"),
        ({"query": '{ runs(filter: {from: "yesterday"}) { totalCount } }'}, "not a time"),
        ({"query": "subscription { runs { totalCount } }"}, "subscription"),
    ],
)
async def test_a_bad_request_is_an_error_in_words(node: Node, body: dict[str, Any], words: str) -> None:
    answer = await execute(node, body)
    assert answer.get("data") is None
    assert any(words in error["message"] for error in answer["errors"]), answer
    assert json.loads(json.dumps(answer)) == answer


async def test_a_bad_output_id_is_an_error_of_its_field(node: Node) -> None:
    answer = await ask(node, '{ runTraceSpanOutputByID(outputID: "nonsense") { data } functions { slug } }')
    assert answer["data"] == {"runTraceSpanOutputByID": None, "functions": [{"slug": "shop-bill"}]}
    [error] = answer["errors"]
    assert error["path"] == ["runTraceSpanOutputByID"]
    assert error["extensions"] == {"code": "INVALID_INPUT"}


async def test_a_mistake_of_ours_is_in_the_log_and_not_in_the_answer(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(node.store, "load_run", broken)
    answer = await ask(node, '{ run(runID: "x") { id } }')
    [error] = answer["errors"]
    assert "a secret" not in json.dumps(answer)
    assert "this server made a mistake" in error["message"]
    assert "a secret" in caplog.text
    assert error["message"].split()[-1] in caplog.text


# what is too much


async def test_a_long_query_is_refused(node: Node) -> None:
    answer = await ask(node, "{ functions { slug } }" + " " * graphql_engine.MAX_LETTERS)
    assert "may have" in answer["errors"][0]["message"]
    aliases = " ".join(f"a{number}: functions {{ slug }}" for number in range(2500))
    answer = await ask(node, f"{{ {aliases} }}"[: graphql_engine.MAX_LETTERS])
    assert answer["data"] is None


@pytest.mark.parametrize("levels", [25, 400, 9000])
async def test_a_deep_query_is_refused(node: Node, levels: int) -> None:
    query = "{ runTrace(runID: 1) " + "{ parentSpan " * levels + "{ name }" + "}" * levels + "}"
    answer = await ask(node, query[: graphql_engine.MAX_LETTERS])
    assert answer["data"] is None
    assert len(answer["errors"]) == 1


async def test_fragments_that_multiply_are_refused_at_once(node: Node) -> None:
    fragments = []
    for number in range(20):
        below = f"{{ ...F{number + 1} }}"
        fields = f"a: parentSpan {below} b: parentSpan {below} c: childrenSpans {below}"
        fragments.append(f"fragment F{number} on RunTraceSpan {{ {fields} }}")
    query = '{ runTrace(runID: "x") { ...F0 } } ' + " ".join(fragments) + " fragment F20 on RunTraceSpan { name }"
    answer = await asyncio.wait_for(ask(node, query), 5)
    assert answer["data"] is None
    assert "fields with its fragments" in answer["errors"][0]["message"]


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        ("{ runs(first: 1000) { edges { node { trace { childrenSpans { %s } } } } } }", {}),
        ("query ($n: Int) { runs(first: $n) { edges { node { trace { childrenSpans { %s } } } } } }", {"n": 10**6}),
        ("query ($n: Int = 999) { runs(first: $n) { edges { node { trace { childrenSpans { %s } } } } } }", {}),
        ("{ stream(query: {limit: 999}) { runs { function { app { functions { app { %s } } } } } } }", {}),
    ],
)
async def test_long_lists_of_large_items_are_refused(node: Node, query: str, variables: dict[str, Any]) -> None:
    fields = " ".join(f"a{number}: name" for number in range(150))
    answer = await ask(node, query % fields, variables)
    assert answer["data"] is None
    assert "ask for shorter lists" in answer["errors"][0]["message"]


async def test_a_list_is_never_longer_than_a_page(node: Node) -> None:
    answer = await ask(node, "{ runs(first: 1000000) { edges { node { id } } } stream(query: {limit: -5}) { id } }")
    assert answer == {"data": {"runs": {"edges": []}, "stream": []}}


# changes


async def test_cancelling_a_run(node: Node) -> None:
    assert isinstance(node.store, MemoryStore)
    await keep(node.store, story := Story())
    query = "mutation CancelRun($runID: ULID!) { cancelRun(runID: $runID) { id status } }"
    answer = await ask(node, query, {"runID": story.run.id})
    assert answer == {"data": {"cancelRun": {"id": story.run.id, "status": "CANCELLED"}}}

    again = await ask(node, query, {"runID": story.run.id})
    assert again["errors"][0]["extensions"] == {"code": "CONFLICT"}
    nobody = await ask(node, query, {"runID": "01JZ0000000000000000000001"})
    assert nobody["errors"][0]["extensions"] == {"code": "NOT_FOUND"}


async def test_invoking_a_function(node: Node) -> None:
    query = """mutation InvokeFunction($functionSlug: String!, $data: Map, $user: Map,
                                       $debugSessionID: ULID = null, $debugRunID: ULID = null) {
      invokeFunction(data: $data, functionSlug: $functionSlug, user: $user,
                     debugSessionID: $debugSessionID, debugRunID: $debugRunID) }"""
    variables = {"functionSlug": "shop-bill", "data": {"n": 1, "_inngest": {"fn_id": "other"}}, "user": {"id": 5}}
    assert await ask(node, query, variables) == {"data": {"invokeFunction": True}}

    [event] = await node.store.events(EventQuery(env=DEV_ENV))
    assert isinstance(event.body, bytes)
    body = read_body(event.body)
    assert (event.name, body["data"], body["user"]) == (
        INVOKED, {"n": 1, "_inngest": {"fn_id": "shop-bill"}}, {"id": 5},
    )  # fmt: skip
    found = []
    for _ in range(100):
        if found := await node.store.runs(RunQuery(env=DEV_ENV)):
            break
        await asyncio.sleep(0.01)
    assert [row.function for row in found] == ["shop-bill"]

    answer = await ask(node, query, {"functionSlug": "nobody"})
    assert answer["errors"][0]["extensions"] == {"code": "NOT_FOUND"}


async def test_invoking_with_literals(node: Node) -> None:
    answer = await ask(node, 'mutation { invokeFunction(functionSlug: "shop-bill", data: {a: {b: [1, "x"]}}) }')
    assert answer == {"data": {"invokeFunction": True}}
    query = 'mutation ($data: Map) { invokeFunction(functionSlug: "shop-bill", data: $data) }'
    answer = await ask(node, query, {"data": {"ids": [9007199254740993]}})
    assert "9007199254740993 would be rounded" in answer["errors"][0]["message"]
    [event] = await node.store.events(EventQuery(env=DEV_ENV))
    assert isinstance(event.body, bytes)
    assert read_body(event.body)["data"]["a"] == {"b": [1, "x"]}


async def test_adding_and_removing_services(node: Node) -> None:
    asked = []

    async def sync(url: str) -> None:
        asked.append(url)
        if "nobody" in url:
            raise InvalidInput(f"nothing answers at {url}")
        await node.register(Service(name="bank", transport=Transport.HTTP, url=url))

    query = "mutation CreateApp($input: CreateAppInput!) { createApp(input: $input) { url name } }"
    answer = await ask(node, query, {"input": {"url": "http://bank/api"}}, sync=sync)
    assert answer == {"data": {"createApp": {"url": "http://bank/api", "name": "bank"}}}
    answer = await ask(node, query, {"input": {"url": "http://nobody/api"}}, sync=sync)
    assert answer["errors"][0]["message"] == "nothing answers at http://nobody/api"
    answer = await ask(node, query, {"input": {"url": "http://bank/api"}})
    assert answer["errors"][0]["extensions"] == {"code": "NOT_SUPPORTED"}
    assert asked == ["http://bank/api", "http://nobody/api"]

    [shop] = [service for service in node.registry.services() if service.name == "shop"]
    answer = await ask(node, "mutation ($id: String!) { deleteApp(id: $id) }", {"id": shop.id})
    assert answer == {"data": {"deleteApp": shop.id}}
    assert await ask(node, 'mutation { deleteAppByName(name: "bank") }') == {"data": {"deleteAppByName": True}}
    assert node.registry.services() == await node.store.services() == []
    answer = await ask(node, 'mutation { deleteAppByName(name: "bank") }')
    assert answer["errors"][0]["extensions"] == {"code": "NOT_FOUND"}


async def test_what_is_not_there_yet_says_so(node: Node) -> None:
    session = 'mutation { createDebugSession(input: {functionSlug: "f"}) { debugRunID } }'
    assert "not supported yet" in (await ask(node, session))["errors"][0]["message"]


RERUN = """mutation Rerun($runID: ULID!, $fromStep: RerunFromStepInput) {
  rerun(runID: $runID, fromStep: $fromStep) }"""


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (None, "no run 01JZ0000000000000000000001"),
        ({"stepID": "a", "input": "[1]"}, "no run 01JZ0000000000000000000001"),
        ({"stepID": "a", "input": "[1"}, "fromStep.input is not valid JSON"),
    ],
)
async def test_a_rerun_that_cannot_be_made_says_why(node: Node, step: object, says: str) -> None:
    answer = await ask(node, RERUN, {"runID": "01JZ0000000000000000000001", "fromStep": step})
    assert answer["data"] == {"rerun": None}
    assert says in answer["errors"][0]["message"]


# around it


def test_the_library_is_loaded_with_the_first_query() -> None:
    code = (
        "import sys, stepwell.api.inngest.graphql; "
        "sys.exit(any(name == 'graphql' or name.startswith('graphql.') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_playground_needs_nothing_from_elsewhere() -> None:
    assert "http://" not in PLAYGROUND
    assert "https://" not in PLAYGROUND
