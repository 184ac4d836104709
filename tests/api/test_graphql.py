"""GraphQL as the official test utilities, test harnesses and dashboards send it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stepwell.api.inngest.graphql import execute
from stepwell.engine.span import InFlight
from stepwell.model import message
from stepwell.model.event import DEV_ENV
from stepwell.model.function import Function, Service, Transport, Trigger
from stepwell.model.ids import EventKey, IdSource, RunId, step_id, ulid
from stepwell.node.clock import AsyncioWorld
from stepwell.node.node import Node
from stepwell.store.base import Transition
from stepwell.store.memory import MemoryStore
from tests.node_reads.story import (
    EVENT,
    NOON,
    Clock,
    Story,
    an_event,
    done,
    errored,
    event_asked,
    invoke,
    keep,
    sleep,
    wait,
)

CONFIG = {
    "id": "shop-bill",
    "cancel": [{"event": "shop/cancelled", "if": "event.data.n == async.data.n", "timeout": "1h"}],
    "concurrency": [5, {"limit": 2, "key": "event.data.user", "scope": "env"}],
    "batchEvents": None,
    "throttle": {"limit": 3, "period": "10s"},
    "debounce": {"period": "5s", "key": "event.data.n"},
    "priority": {"run": "event.data.n"},
}


class NoPerformer:
    """Never answers."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    world = AsyncioWorld()
    one = Node("n", epoch=1, store=MemoryStore(Clock()), world=world, performer=NoPerformer(), ids=IdSource(1))
    await one.register(
        Service(
            name="shop",
            transport=Transport.HTTP,
            url="http://shop/api",
            sdk="inngest-py:v0.5.19",
            framework="fast_api",
            functions=(
                Function(
                    slug="shop-bill",
                    name="Bill",
                    service="shop",
                    triggers=(Trigger("shop/order", "event.data.n > 0"),),
                    url="http://shop/api?fnId=shop-bill",
                    config=json.dumps(CONFIG).encode(),
                ),
                Function(slug="shop-bill-failure", name="Bill (failure)", service="shop", triggers=()),
            ),
        )
    )
    yield one
    one.stop()
    await world.settle(1)


async def store_of(node: Node, *stories: Story) -> None:
    assert isinstance(node.store, MemoryStore)
    await keep(node.store, *stories)


async def ask(node: Node, query: str, variables: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    answer = await execute(node, {"query": query, "variables": variables, **more})
    assert json.loads(json.dumps(answer)) == answer, "an answer is JSON"
    assert "errors" not in answer, answer
    data: dict[str, Any] = answer["data"]
    return data


async def errors(node: Node, query: str, variables: dict[str, Any] | None = None, **more: Any) -> list[str]:
    answer = await execute(node, {"query": query, "variables": variables, **more})
    assert answer["data"] is None or not any(answer["data"].values()), answer
    return [error["message"] for error in answer["errors"]]


def a_full_run() -> Story:
    story = Story().reply(done("a", {"n": 1}), took=40).reply(errored("flaky")).due().reply(done("flaky"))
    story.reply(sleep("nap", 1000)).fire("nap")
    story.reply(wait("pay", "shop/paid", 5000, "async.data.n == 1"))
    story.tell(message.EventMatched(step_id("pay"), b'{"name":"shop/paid"}', ulid(NOON, 44)))
    return story.reply(invoke("ask", "shop-child", 9000)).fire("ask")


# the Python test utilities

PY_RUN = """
        query GetRun($run_id: String!) {
            run(runID: $run_id) {
                output
                status
            }
            runTrigger(runID: $run_id) {
                payloads
            }
        }
"""
PY_STEPS = """
        query GetHistory($run_id: String!) {
            run(runID: $run_id) { trace { childrenSpans { name outputID } } }
        }
"""
PY_OUTPUT = """
        query GetHistory($output_id: String!) {
            runTraceSpanOutputByID(outputID: $output_id) { data error { message name stack } }
        }
"""
PY_EVENT = """
        query GetRunFromEventID($event_id: ID!) {
            event(query: {eventId: $event_id}) { functionRuns { id } }
        }
"""


async def test_python_waits_for_the_end_of_a_run(node: Node) -> None:
    await store_of(node, story := Story().returned({"ok": [1, None]}))
    data = await ask(node, PY_RUN, {"run_id": story.run.id})

    assert data["run"] == {"output": '{"ok":[1,null]}', "status": "COMPLETED"}
    [payload] = data["runTrigger"]["payloads"]
    assert json.loads(payload) == {"name": "shop/order", "id": EVENT, "ts": NOON, "data": {"n": 1}, "user": {}}


async def test_python_sees_no_output_before_the_end(node: Node) -> None:
    await store_of(node, story := Story().reply(sleep("nap", 5000)))
    assert (await ask(node, PY_RUN, {"run_id": story.run.id}))["run"] == {"output": None, "status": "RUNNING"}


async def test_python_finds_steps_by_name_and_their_outputs(node: Node) -> None:
    await store_of(node, story := Story().reply(done("a", {"n": 1})).reply(errored("b", retry=False)).returned(None))
    spans = (await ask(node, PY_STEPS, {"run_id": story.run.id}))["run"]["trace"]["childrenSpans"]
    assert [span["name"] for span in spans] == ["a", "b", "Finalization"]

    good = await ask(node, PY_OUTPUT, {"output_id": spans[0]["outputID"]})
    assert good["runTraceSpanOutputByID"] == {"data": '{"n":1}', "error": None}
    bad = await ask(node, PY_OUTPUT, {"output_id": spans[1]["outputID"]})
    assert bad["runTraceSpanOutputByID"] == {
        "data": None,
        "error": {"message": "bad", "name": "ValueError", "stack": "ValueError at line 1"},
    }


async def test_python_finds_the_runs_of_an_event_also_before_there_are_any(node: Node) -> None:
    await node.store.commit(Transition(events=(an_event(),)))
    assert await ask(node, PY_EVENT, {"event_id": EVENT}) == {"event": {"functionRuns": []}}
    await store_of(node, story := Story())
    assert await ask(node, PY_EVENT, {"event_id": EVENT}) == {"event": {"functionRuns": [{"id": story.run.id}]}}
    assert await ask(node, PY_EVENT, {"event_id": "nobody"}) == {"event": None}


# the TypeScript harness and tests

JS_TRACE = """query ($runId: String!) {
        run(runID: $runId) {
          status
          trace(preview: true) {
            status
            outputID
          }
        }
      }"""
JS_OUTPUT = """query ($traceID: String!) {
        runTraceSpanOutputByID(outputID: $traceID) {
          data
          error {
            message
            name
          }
        }
      }"""
JS_METADATA = """fragment TraceMetadataFields on RunTraceSpan {
        name stepID spanID
        metadata { scope kind values updatedAt }
      }
      query ($runId: String!) {
        run(runID: $runId) {
          trace(preview: true) {
            ...TraceMetadataFields
            childrenSpans { ...TraceMetadataFields childrenSpans { ...TraceMetadataFields } }
          }
        }
      }"""


async def test_javascript_polls_the_trace_and_fetches_its_output(node: Node) -> None:
    failed = Story(run=RunId(ulid(NOON, 8))).raised("ValueError", "bad", retry=False)
    await store_of(node, story := Story().returned({"ok": True}), failed, queued := Story(run=RunId(ulid(NOON, 9))))

    run = (await ask(node, JS_TRACE, {"runId": story.run.id}))["run"]
    assert (run["status"], run["trace"]["status"]) == ("COMPLETED", "COMPLETED")
    output = await ask(node, JS_OUTPUT, {"traceID": run["trace"]["outputID"]})
    assert output["runTraceSpanOutputByID"] == {"data": '{"ok":true}', "error": None}

    run = (await ask(node, JS_TRACE, {"runId": failed.run.id}))["run"]
    assert (run["status"], run["trace"]["status"]) == ("FAILED", "FAILED")
    output = await ask(node, JS_OUTPUT, {"traceID": run["trace"]["outputID"]})
    assert output["runTraceSpanOutputByID"] == {"data": None, "error": {"message": "bad", "name": "ValueError"}}

    run = (await ask(node, JS_TRACE, {"runId": queued.run.id}))["run"]
    assert run == {"status": "QUEUED", "trace": {"status": "QUEUED", "outputID": None}}
    assert await ask(node, JS_TRACE, {"runId": "nobody"}) == {"run": None}


async def test_javascript_finds_lists_where_there_is_nothing(node: Node) -> None:
    await store_of(node, story := Story().reply(done("a", 1)))
    trace = (await ask(node, JS_METADATA, {"runId": story.run.id}))["run"]["trace"]
    [step] = trace["childrenSpans"]
    assert (trace["name"], trace["stepID"], trace["metadata"]) == ("Run", None, [])
    assert (step["name"], step["stepID"], step["metadata"], step["childrenSpans"]) == ("a", step_id("a"), [], [])
    assert step["spanID"] != trace["spanID"]


async def test_javascript_finds_a_run_in_the_stream(node: Node) -> None:
    await store_of(node, story := Story())
    query = """query GetEventStream {
        stream(query: {limit: 999, includeInternalEvents: false}) {
          id trigger runs { id function { name } }
        }
      }"""
    data = await ask(node, query, {}, operationName="GetEventStream")
    assert data["stream"] == [
        {"id": EVENT, "trigger": "shop/order", "runs": [{"id": story.run.id, "function": {"name": "Bill"}}]}
    ]


async def test_javascript_finds_a_received_event_and_its_data(node: Node) -> None:
    await node.store.commit(Transition(events=(an_event(data={"z": 1.5, "a": "ü"}),)))
    query = "query Events($query: EventsQuery!) {\n  events(query: $query) {\n    id\n    name\n    payload\n  }\n}"
    data = await ask(node, query, {"query": {}}, operationName="Events")
    assert data["events"] == [{"id": EVENT, "name": "shop/order", "payload": '{"a":"ü","z":1.5}'}]
    assert await ask(node, "{ events(query: {}) { id } }") == {"events": [{"id": EVENT}]}


# dashboards

TRACE_FIELDS = """
fragment TraceDetails on RunTraceSpan {
  name status attempts duration queuedAt scheduledAt startedAt endedAt isRoot isUserland
  userlandSpan { spanName spanKind serviceName scopeName scopeVersion spanAttrs resourceAttrs }
  metadata { scope kind values updatedAt } response { statusCode headers }
  outputID debugRunID debugSessionID spanID parentSpanID stepID stepOp stepType skipReason skipExistingRunID
  stepInfo {
    __typename
    ... on InvokeStepInfo { triggeringEventID functionID timeout returnEventID runID timedOut }
    ... on SleepStepInfo { sleepUntil }
    ... on WaitForEventStepInfo { eventName expression timeout foundEventID timedOut }
    ... on RunStepInfo { type }
    ... on WaitForSignalStepInfo { signal timeout timedOut }
  }
}
"""
BELOW = "childrenSpans { ...TraceDetails childrenSpans { ...TraceDetails childrenSpans { ...TraceDetails } } }"


async def test_a_dashboard_shows_a_whole_trace(node: Node) -> None:
    await store_of(node, story := a_full_run())
    query = f"query GetRunTrace($runID: String!) {{ runTrace(runID: $runID) {{ ...TraceDetails {BELOW} }} }}"
    root = (await ask(node, query + TRACE_FIELDS, {"runID": story.run.id}))["runTrace"]
    spans = {span["name"]: span for span in root["childrenSpans"]}

    assert list(spans) == ["a", "flaky", "nap", "pay", "ask"]
    assert (root["isRoot"], root["stepType"], root["parentSpanID"], root["endedAt"]) == (True, "RUN", None, None)
    assert {span["parentSpanID"] for span in spans.values()} == {root["spanID"]}
    a = spans["a"]
    assert (a["stepOp"], a["stepType"], a["attempts"], a["duration"]) == ("RUN", "step.run", 1, 40)
    assert (a["queuedAt"], a["startedAt"]) == ("2026-03-04T12:00:00.000Z", "2026-03-04T12:00:00.003Z")
    assert a["response"] == {"statusCode": 206, "headers": {}}
    assert a["stepInfo"] == {"__typename": "RunStepInfo", "type": "step.run"}
    attempts = spans["flaky"]["childrenSpans"]
    assert [(one["name"], one["status"], one["stepID"]) for one in attempts] == [
        ("Attempt 0", "FAILED", step_id("flaky")),
        ("Attempt 1", "COMPLETED", step_id("flaky")),
    ]
    assert spans["nap"]["stepInfo"]["__typename"] == "SleepStepInfo"
    assert spans["nap"]["stepInfo"]["sleepUntil"] == spans["nap"]["endedAt"]
    assert spans["pay"]["stepInfo"] == {
        "__typename": "WaitForEventStepInfo",
        "eventName": "shop/paid",
        "expression": "async.data.n == 1",
        "timeout": spans["pay"]["stepInfo"]["timeout"],
        "foundEventID": ulid(NOON, 44),
        "timedOut": False,
    }
    assert spans["ask"]["stepInfo"]["timedOut"] is True
    assert (spans["ask"]["status"], spans["ask"]["stepOp"]) == ("FAILED", "INVOKE")


async def test_a_dashboard_follows_an_invocation_to_its_run(node: Node) -> None:
    parent = Story().reply(invoke("ask", "shop-child", 9000))
    event = an_event(event_asked(parent, "ask"), name="inngest/function.invoked")
    child = Story(run=RunId(ulid(NOON, 99)), events=(event,), parent=parent.run.id)
    await store_of(node, parent, child)
    query = """query ($id: String!) { run(runID: $id) { trace { childrenSpans {
      stepInfo { ... on InvokeStepInfo { runID triggeringEventID functionID } } } } } }"""
    data = await ask(node, query, {"id": parent.run.id})
    assert data["run"]["trace"]["childrenSpans"][0]["stepInfo"] == {
        "runID": child.run.id,
        "triggeringEventID": event.key,
        "functionID": "shop-child",
    }


RUNS = """
query GetRuns($appIDs: [UUID!], $startTime: Time!, $status: [FunctionRunStatus!], $timeField: RunsV2OrderByField!,
              $cursor: String = null, $celQuery: String = null, $preview: Boolean = false, $first: Int = 3) {
  runs(
    first: $first
    filter: {appIDs: $appIDs, from: $startTime, status: $status, timeField: $timeField, query: $celQuery}
    orderBy: [{field: $timeField, direction: DESC}]
    after: $cursor
    preview: $preview
  ) {
    edges {
      cursor
      node {
        app { externalID name } cronSchedule eventName function { name slug }
        id isBatch queuedAt endedAt startedAt status hasAI
      }
    }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
    totalCount
  }
}
"""


async def seven_runs(node: Node) -> list[str]:
    """Newest first."""
    ids: list[str] = []
    for number in range(7):
        at = NOON + number * 1000
        event = an_event(EventKey(ulid(at, 1)), data={"n": number}, at=at)
        story = Story(run=RunId(ulid(at, 7)), at=at, events=(event,))
        await store_of(node, story.returned(number) if number % 2 else story)
        ids.insert(0, story.run.id)
    return ids


async def test_a_dashboard_turns_the_pages_of_runs(node: Node) -> None:
    ids = await seven_runs(node)
    variables: dict[str, Any] = {"startTime": "2026-03-04T12:00:00Z", "timeField": "QUEUED_AT"}
    seen: list[str] = []
    infos: list[tuple[bool, bool, int]] = []
    while len(infos) < 5:
        page = (await ask(node, RUNS, variables))["runs"]
        seen += [edge["node"]["id"] for edge in page["edges"]]
        infos.append((page["pageInfo"]["hasNextPage"], page["pageInfo"]["hasPreviousPage"], page["totalCount"]))
        assert page["pageInfo"]["startCursor"] == page["edges"][0]["cursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
        variables["cursor"] = page["pageInfo"]["endCursor"]

    assert seen == ids
    assert infos == [(True, False, 7), (True, True, 7), (False, True, 7)]


async def test_a_row_of_the_list_of_runs(node: Node) -> None:
    await seven_runs(node)
    variables = {"startTime": "2026-03-04T12:00:05Z", "timeField": "QUEUED_AT", "status": ["COMPLETED", "SKIPPED"]}
    [edge] = (await ask(node, RUNS, variables))["runs"]["edges"]
    assert edge["node"] == {
        "app": {"externalID": "shop", "name": "shop"},
        "cronSchedule": None,
        "eventName": "shop/order",
        "function": {"name": "Bill", "slug": "shop-bill"},
        "id": ulid(NOON + 5000, 7),
        "isBatch": False,
        "queuedAt": "2026-03-04T12:00:05.000Z",
        "startedAt": "2026-03-04T12:00:05.003Z",
        "endedAt": "2026-03-04T12:00:05.013Z",
        "status": "COMPLETED",
        "hasAI": False,
    }


async def test_runs_are_filtered_by_function_service_and_expression(node: Node) -> None:
    await seven_runs(node)
    bill, app = node.registry.functions(DEV_ENV)[0].id, node.registry.services()[0].id
    nobody = "00000000-0000-4000-8000-000000000000"

    async def count(filter: str) -> int:
        total: int = (await ask(node, f"{{ runs(filter: {{{filter}}}) {{ totalCount }} }}"))["runs"]["totalCount"]
        return total

    assert await count(f'functionIDs: ["{bill}"]') == await count(f'appIDs: ["{app.upper()}"]') == 7
    assert await count(f'functionIDs: ["{nobody}"]') == await count(f'appIDs: ["{nobody}"]') == 0
    assert await count('query: "event.data.n >= 5"') == 2
    assert await count('from: "2026-03-04T12:00:02Z", until: "2026-03-04T12:00:04Z"') == 2
    assert await count('from: "2026-03-04T12:00:02Z", timeField: ENDED_AT') == 2
    assert await count("status: []") == 7
    assert len(await errors(node, '{ runs(filter: {query: "event."}) { totalCount } }')) == 1


async def test_runs_are_sorted_the_other_way_too(node: Node) -> None:
    ids = await seven_runs(node)
    query = "{ runs(first: 2, orderBy: [{field: QUEUED_AT, direction: ASC}]) { edges { node { id } } } }"
    assert [edge["node"]["id"] for edge in (await ask(node, query))["runs"]["edges"]] == ids[:-3:-1]


async def test_a_dashboard_shows_an_event_in_both_forms(node: Node) -> None:
    await store_of(node, story := Story().reply(wait("pay", "shop/paid", 5000)))
    query = """query GetEvent($id: ID!) { event(query: {eventId: $id}) {
      id name createdAt status pendingRuns totalRuns raw
      functionRuns { function { name } id status startedAt pendingSteps output waitingFor { eventName } }
    } }"""
    event = (await ask(node, query, {"id": EVENT}))["event"]
    assert (event["status"], event["pendingRuns"], event["totalRuns"]) == ("RUNNING", 1, 1)
    assert json.loads(event["raw"])["data"] == {"n": 1}
    assert event["functionRuns"][0]["status"] == "RUNNING"
    assert event["createdAt"] == "2026-03-04T12:00:00.000Z"

    query = """query GetEventV2($eventID: ULID!) { eventV2(id: $eventID) {
      name id receivedAt idempotencyKey occurredAt version source { name } raw
      runs { status id startedAt endedAt function { name slug } } } }"""
    newer = (await ask(node, query, {"eventID": EVENT.lower()}))["eventV2"]
    assert (newer["id"], newer["idempotencyKey"], newer["version"], newer["source"]) == (
        EVENT, None, None, {"name": "api"},
    )  # fmt: skip
    assert [run["id"] for run in newer["runs"]] == [story.run.id]


async def test_a_dashboard_turns_the_pages_of_events(node: Node) -> None:
    await seven_runs(node)
    query = """query GetEventsV2($cursor: String, $startTime: Time!, $endTime: Time, $celQuery: String = null,
                                 $eventNames: [String!] = null, $includeInternalEvents: Boolean = false) {
      eventsV2(first: 4, after: $cursor, filter: {from: $startTime, until: $endTime, query: $celQuery,
               eventNames: $eventNames, includeInternalEvents: $includeInternalEvents}) {
        edges { cursor node { name id receivedAt runs { status id function { name slug } } } }
        totalCount pageInfo { hasNextPage endCursor hasPreviousPage startCursor }
      } }"""
    first = (await ask(node, query, {"startTime": "2026-03-04"}))["eventsV2"]
    cursor = first["pageInfo"]["endCursor"]
    second = (await ask(node, query, {"startTime": "2026-03-04", "cursor": cursor}))["eventsV2"]
    assert (len(first["edges"]), len(second["edges"]), first["totalCount"]) == (4, 3, 7)
    assert (first["pageInfo"]["hasNextPage"], second["pageInfo"]["hasNextPage"]) == (True, False)
    assert all(len(edge["node"]["runs"]) == 1 for edge in first["edges"])


async def test_a_dashboard_shows_functions_and_services(node: Node) -> None:
    query = """query GetFunction($functionSlug: String!) { functionBySlug(query: {functionSlug: $functionSlug}) {
      name id slug config concurrency url failureHandler { slug } app { name } triggers { type value condition }
      configuration {
        cancellations { event timeout condition } retries { value isDefault } priority
        eventsBatch { maxSize timeout key } concurrency { scope limit { value isPlanLimit } key }
        rateLimit { limit period key } debounce { period key } throttle { burst key limit period }
        singleton { key mode }
      } } }"""
    function = (await ask(node, query, {"functionSlug": "shop-bill"}))["functionBySlug"]
    assert function["triggers"] == [{"type": "EVENT", "value": "shop/order", "condition": "event.data.n > 0"}]
    assert (function["failureHandler"], function["concurrency"]) == ({"slug": "shop-bill-failure"}, 5)
    configuration = function["configuration"]
    assert configuration["retries"] == {"value": 4, "isDefault": True}
    assert [one["scope"] for one in configuration["concurrency"]] == ["FUNCTION", "ENVIRONMENT"]
    assert configuration["throttle"] == {"limit": 3, "period": "10s", "burst": 1, "key": None}
    assert (configuration["eventsBatch"], configuration["priority"]) == (None, "event.data.n")
    assert configuration["cancellations"][0]["timeout"] == "1h"
    assert await ask(node, query, {"functionSlug": "nobody"}) == {"functionBySlug": None}

    query = """{ functions { slug } apps { id externalID name sdkLanguage sdkVersion framework url error connected
      functionCount autodiscovered method functions { slug } } }"""
    data = await ask(node, query)
    assert [function["slug"] for function in data["functions"]] == ["shop-bill", "shop-bill-failure"]
    [app] = data["apps"]
    assert (app["sdkLanguage"], app["sdkVersion"], app["method"], app["connected"]) == ("py", "0.5.19", "SERVE", True)
    again = await ask(node, "query ($id: UUID!) { app(id: $id) { name functionCount } }", {"id": app["id"]})
    assert again == {"app": {"name": "shop", "functionCount": 2}}


async def test_a_dashboard_finds_no_connected_workers(node: Node) -> None:
    query = """query GetWorkerConnections($appID: UUID!, $startTime: Time, $status: [ConnectV1ConnectionStatus!],
        $timeField: ConnectV1WorkerConnectionsOrderByField!, $cursor: String = null,
        $orderBy: [ConnectV1WorkerConnectionsOrderBy!] = [], $first: Int!) {
      workerConnections(first: $first, orderBy: $orderBy, after: $cursor
          filter: {appIDs: [$appID], from: $startTime, status: $status, timeField: $timeField}) {
        edges { node { id gatewayId app { id } status } } pageInfo { hasNextPage endCursor } totalCount
      } }"""
    variables = {"appID": node.registry.services()[0].id, "timeField": "CONNECTED_AT", "first": 50}
    data = await ask(node, query, variables)
    assert data["workerConnections"]["edges"] == []
    assert data["workerConnections"]["totalCount"] == 0


async def test_a_batch_shows_all_its_events(node: Node) -> None:
    batch = tuple(an_event(EventKey(ulid(NOON + number, 1)), at=NOON + number) for number in range(3))
    await store_of(node, story := Story(events=batch))
    query = """query ($id: String!) { run(runID: $id) { isBatch batchCreatedAt triggerIDs triggers }
      runTrigger(runID: $id) { payloads eventName IDs timestamp isBatch batchID cron } }"""
    data = await ask(node, query, {"id": story.run.id})
    assert data["runTrigger"]["IDs"] == data["run"]["triggerIDs"] == [event.key for event in batch]
    assert len(data["runTrigger"]["payloads"]) == len(data["run"]["triggers"]) == 3
    assert (data["runTrigger"]["isBatch"], data["runTrigger"]["timestamp"]) == (True, "2026-03-04T12:00:00.000Z")


async def test_a_run_started_by_the_clock_shows_its_schedule(node: Node) -> None:
    event = an_event(name="inngest/scheduled.timer", data={"cron": "*/5 * * * *"})
    await store_of(node, story := Story(events=(event,)))
    query = "query ($id: String!) { run(runID: $id) { cronSchedule } runTrigger(runID: $id) { cron } }"
    data = await ask(node, query, {"id": story.run.id})
    assert data == {"run": {"cronSchedule": "*/5 * * * *"}, "runTrigger": {"cron": "*/5 * * * *"}}


async def test_what_is_going_on_now_is_in_the_run_and_in_the_trace(node: Node) -> None:
    await store_of(node, story := Story())
    flight = InFlight(story.call(), NOON + 1)
    body = {"query": JS_TRACE, "variables": {"runId": story.run.id}}
    answer = await execute(node, body, running=lambda run: [flight])
    assert answer["data"]["run"]["status"] == answer["data"]["run"]["trace"]["status"] == "RUNNING"


async def test_a_run_of_a_function_that_is_gone_keeps_its_name(node: Node) -> None:
    await store_of(node, story := Story(function="gone-f"))
    query = "query ($id: String!) { run(runID: $id) { function { name slug app { name } } app { name } } }"
    run = (await ask(node, query, {"id": story.run.id}))["run"]
    assert run == {
        "function": {"name": "gone-f", "slug": "gone-f", "app": {"name": "shop"}},
        "app": {"name": "shop"},
    }


async def test_another_environment_sees_nothing(node: Node) -> None:
    await store_of(node, story := Story().returned(1))
    for query in (JS_TRACE.replace("$runId", "$id"), "query ($id: String!) { runTrace(runID: $id) { name } }"):
        answer = await execute(node, {"query": query, "variables": {"id": story.run.id}}, env="another")
        assert list(answer["data"].values()) == [None]
    listing = "{ runs { totalCount edges { node { id } } } events(query: {}) { id } functions { slug } apps { name } }"
    answer = await execute(node, {"query": listing}, env="another")
    assert answer["data"] == {"runs": {"totalCount": 0, "edges": []}, "events": [], "functions": [], "apps": []}


async def test_the_schema_can_be_asked_for(node: Node) -> None:
    from graphql import build_client_schema, get_introspection_query, print_schema

    data = await ask(node, get_introspection_query())
    assert "type RunTraceSpan" in print_schema(build_client_schema(data))  # type: ignore[arg-type]


def test_every_field_of_the_schema_has_a_value() -> None:
    """A field without a resolver must be an attribute or a member of what it is asked of."""
    from graphql import GraphQLObjectType

    from stepwell.api.inngest.graphql_engine import schema
    from stepwell.model.event import Event
    from stepwell.model.job import RunRow

    sources = {"FunctionRunV2": RunRow, "Function": Function, "Event": Event, "EventV2": Event}
    listed = {"Query", "Mutation", "RunTraceSpan", "App", "FunctionRun", "StreamItem", *sources}
    for name in listed:
        kind = schema().type_map[name]
        assert isinstance(kind, GraphQLObjectType)
        for field, definition in kind.fields.items():
            known = definition.resolve is not None or hasattr(sources.get(name), field) or (name, field) == (
                "FunctionRun", "event",
            )  # fmt: skip
            assert known, f"{name}.{field} has no value"
