"""What the official SDKs say on the wire, without any server: the sample services called by hand.

Each case is one call to a service, exactly as the protocol's server would make it. `tests/wire/recorded/` holds what
the SDKs of the pinned versions answered and asked; everything that reads or writes their bytes may use those files.
A different answer fails here. After a deliberate change of versions record anew with

    STEPWELL_TEST_RECORD=1 pytest tests/official/test_services_answer.py
"""

import contextlib
import dataclasses
import hashlib
import http.server
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fleet import once
from tests.official.conftest import need_node
from tests.official.harness import ROOT, Kind, Service

pytestmark = [pytest.mark.official, once]

RECORDED = ROOT / "tests" / "wire" / "recorded"
RUN = "01K0RECORDED00000000000000"
KINDS: tuple[Kind, ...] = ("fastapi", "flask", "typescript")
SDKS: Mapping[Kind, str] = {"fastapi": "python", "typescript": "typescript"}
UNTIL = "2030-01-02T03:04:05.678Z"
ERROR = {"error": {"name": "KeyError", "message": "no such row", "stack": "at the bottom of the sea"}}

Memos = tuple[tuple[str, object], ...]  # (step id as hashed, memo), in the order in which they finished


@dataclasses.dataclass(frozen=True)
class Case:
    """One call, and the ops (or the result) that must come back."""

    name: str
    function: str
    ops: tuple[str, ...] = ()
    data: Mapping[str, object] = dataclasses.field(default_factory=dict)
    memos: Memos = ()
    status: Mapping[str, int] = dataclasses.field(default_factory=dict)  # by SDK; 206 when not said
    target: str = "step"  # the id of the step to execute
    attempt: int = 0
    max_attempts: int = 5
    plan_only: bool = False
    use_api: bool = False
    checkpointing: bool = False
    body: object = None  # of a 200
    only: str | None = None  # the one SDK that does this

    @property
    def step(self) -> str:
        return self.target if self.target == "step" else hashlib.sha1(self.target.encode()).hexdigest()


def both(status: int) -> dict[str, int]:
    return {"python": status, "typescript": status}


BEFORE: Memos = (("before", {"data": None}),)
BETWEEN: Memos = (*BEFORE, ("nap", None), ("between", {"data": None}))
THREE: Memos = (("one", {"data": 1}), ("two", {"data": 2}), ("three", {"data": 3}))
PAID = {"id": "e-9", "name": "KIND/paid", "data": {"order": "o-1"}, "ts": 1780000001000, "user": {}}
RACE = {"mode": "race"}
WAIT = {"mode": "wait"}

CASES = [
    Case("step-run", "linear", ("StepRun",)),
    Case("step-run-second", "linear", ("StepRun",), memos=THREE[:1]),
    Case("step-run-repeated-id", "repeated", ("StepRun",), memos=(("item", {"data": 0}), ("item:1", {"data": 1}))),
    Case("step-run-without-result", "naps", ("StepRun",), data={"until": UNTIL}),
    Case("step-planned", "parallel", ("StepPlanned", "StepPlanned"), data=WAIT),
    Case("step-planned-race", "parallel", ("StepPlanned", "StepPlanned"), data=RACE),
    Case("step-planned-alone", "linear", ("StepPlanned",), plan_only=True),
    Case("step-targeted", "parallel", ("StepRun",), data=WAIT, target="a1", plan_only=True),
    Case("step-targeted-race", "parallel", ("StepRun",), data=RACE, target="b1", plan_only=True),
    Case(
        "step-planned-second-round",
        "parallel",
        ("StepPlanned", "StepPlanned"),
        data=WAIT,
        memos=(("a1", {"data": "a1"}), ("b1", {"data": "b1"})),
        plan_only=True,
    ),
    Case("sleep", "naps", ("Sleep",), data={"until": UNTIL}, memos=BEFORE),
    Case("sleep-until", "naps", ("Sleep",), data={"until": UNTIL}, memos=BETWEEN),
    Case("wait-for-event", "wait", ("WaitForEvent",), data={"order": "o-1", "seconds": 90}, memos=BEFORE),
    Case(
        "wait-for-event-matched",
        "wait",
        data={"order": "o-1", "seconds": 90},
        memos=(*BEFORE, ("payment", PAID), ("after", {"data": None})),
        status=both(200),
        body={"name": "KIND/paid", "data": {"order": "o-1"}},
    ),
    Case(
        "completion-null",
        "wait",
        data={"order": "o-1", "seconds": 90},
        memos=(*BEFORE, ("payment", None), ("after", {"data": None})),
        status=both(200),
    ),
    Case("invoke-function", "parent", ("InvokeFunction",), data={"target": "child"}),
    Case("invoke-function-timeout", "parent", ("InvokeFunction",), data={"target": "child", "seconds": 90}),
    Case(
        "invoke-function-failed",
        "parent",
        data={"target": "child"},
        memos=(("call", ERROR),),
        status=both(200),
        body={"name": "KeyError", "message": "no such row"},
    ),
    Case("step-error", "retried", ("StepError",)),
    Case("step-error-last-attempt", "caught", ("StepFailed",), data={"catch": True}, attempt=1, max_attempts=2),
    Case("step-error-caught", "caught", ("StepRun",), data={"catch": True}, memos=(("hopeless", ERROR),)),
    Case(
        "step-error-escaped",
        "caught",
        data={"catch": False},
        memos=(("hopeless", ERROR),),
        status={"python": 500, "typescript": 400},
    ),
    Case("function-error", "failing", memos=BEFORE, status=both(500), max_attempts=2),
    Case(
        "function-error-last-attempt",
        "failing",
        memos=BEFORE,
        status={"python": 500, "typescript": 400},
        attempt=1,
        max_attempts=2,
    ),
    Case(
        "non-retriable",
        "non-retriable",
        data={"where": "function"},
        status={"python": 500, "typescript": 400},
    ),
    Case(
        "non-retriable-step",
        "non-retriable",
        ("StepFailed",),  # TypeScript's; in Python the error passes through the step and fails the function
        data={"where": "step"},
        status={"python": 500, "typescript": 206},
    ),
    Case("retry-after", "retry-after", data={"where": "function"}, status=both(500)),
    Case(
        "retry-after-step",
        "retry-after",
        ("StepError",),
        data={"where": "step"},
        status={"python": 500, "typescript": 206},
    ),
    Case("completion", "linear", memos=THREE, status=both(200), body={"sum": 6, "echo": None}),
    Case("send-event", "relay", ("StepRun",)),
    Case("use-api", "linear", ("StepRun",), memos=THREE[:2], use_api=True),
    Case("unknown-function", "nobody", status=both(500)),
    Case("unknown-step", "linear", target="nothing", status=both(500)),
    Case("checkpointing", "linear", ("RunComplete",), checkpointing=True, only="typescript"),
    Case("checkpointing-sleep", "naps", ("Sleep",), data={"until": UNTIL}, checkpointing=True, only="typescript"),
]


class Stub(http.server.ThreadingHTTPServer):
    """Stands where the server would: writes down what the SDK asks, and answers what the protocol says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.exchanges: list[dict[str, Any]] = []
        self.steps: Mapping[str, object] = {}
        self.event: Mapping[str, object] = {}


class _Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def do_GET(self) -> None:
        if self.path.endswith("/actions"):
            self._answer(self.server.steps)
        elif self.path.endswith("/batch"):
            self._answer([self.server.event])
        else:  # the TypeScript SDK asks for `/dev` to see whether a server is there
            self._answer({})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])) or "null")
        if self.path.startswith("/fn/register"):
            self._answer({"ok": True, "modified": True, "sync_id": "s", "app_id": "a", "status": 200}, body)
        elif self.path.startswith("/e/"):
            ids = [f"01K0SENT{n:018}" for n, _ in enumerate(body)]
            self._answer({"ids": ids, "status": 200}, body)
        else:
            self._answer({}, body)

    def _answer(self, answer: object, body: object = None) -> None:
        self.server.exchanges.append(
            {
                "from": "sdk",
                "request": {
                    "method": self.command,
                    "path": self.path,
                    "headers": _headers(self.headers.items()),
                    "body": body,
                },
                "response": {"status": 200, "headers": {"content-type": "application/json"}, "body": answer},
            }
        )
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with Stub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module", params=KINDS)
def service(request: pytest.FixtureRequest, stub: Stub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    if request.param == "typescript":
        need_node()
    with contextlib.closing(Service(request.param, tmp_path_factory.mktemp(request.param), stub.url)) as service:
        yield service


@pytest.mark.parametrize(
    ("service", "case"),
    [(kind, case) for kind in KINDS for case in CASES if case.only in (None, SDKS.get(kind, "python"))],
    indirect=["service"],
    ids=lambda value: value.name if isinstance(value, Case) else value,
)
def test_a_service_answers_a_call_as_recorded(service: Service, stub: Stub, case: Case) -> None:
    sdk = SDKS.get(service.kind, "python")
    stub.exchanges.clear()
    exchange = call(service, stub, case)
    response = exchange["response"]
    expected = case.status.get(sdk, 206)

    assert response["status"] == expected, response
    assert response["headers"]["x-inngest-sdk"].startswith("inngest-")
    if expected == 206:
        assert [op["op"] for op in response["body"]] == list(case.ops)
    if expected == 200:
        assert response["body"] == _of(service, case.body)
    # The SDK's own requests come before the answer, but two that it makes at once come in either order.
    asked = sorted(stub.exchanges, key=lambda asked: str(asked["request"]["path"]))
    compare(service, stub, case.name, [*asked, exchange])


def test_a_service_introduces_itself_as_recorded(service: Service, stub: Stub) -> None:
    response = service.http.get(service.url)
    answer = _response(response.status_code, response.headers.items(), response.json())

    assert answer["status"] == 200
    assert answer["body"]["mode"] == "dev"
    request: dict[str, Any] = {"method": "GET", "path": "/api/inngest", "headers": {}, "body": None}
    compare(service, stub, "introspection", [{"from": "server", "request": request, "response": answer}])


def test_a_service_registers_as_recorded(service: Service, stub: Stub) -> None:
    stub.exchanges.clear()
    headers = {"x-inngest-server-kind": "dev"}
    response = service.http.put(service.url, headers=headers)
    answer = _response(response.status_code, response.headers.items(), response.json())
    asked = [asked for asked in stub.exchanges if asked["request"]["path"].startswith("/fn/register")]

    assert answer["status"] == 200
    assert {key.lower() for key in asked[0]["request"]["body"]} >= {"appname", "url", "functions", "sdk"}
    request = {"method": "PUT", "path": "/api/inngest", "headers": headers, "body": None}
    compare(service, stub, "register", [*asked, {"from": "server", "request": request, "response": answer}])


def call(service: Service, stub: Stub, case: Case) -> dict[str, Any]:
    """Call a function as the server would."""
    event = {
        "data": dict(case.data),
        "id": "e-7",
        "name": service.event(case.function),
        "ts": 1780000000000,
        "user": {},
    }
    steps = _of(service, _hashed(case.memos))
    hashes = list(steps)
    stub.steps, stub.event = steps, event
    context: dict[str, object] = {
        "attempt": case.attempt,
        "disable_immediate_execution": case.plan_only,
        "env": "",
        "max_attempts": case.max_attempts,
        "run_id": RUN,
        "stack": {"current": len(hashes), "stack": hashes},
        "step_id": case.step,
        "use_api": case.use_api,
    }
    if case.checkpointing:
        context |= {"fn_id": "2f2f5f64-0000-4000-8000-000000000000", "qi_id": "1"}
    body = {
        "ctx": context,
        "event": event,
        "events": [] if case.use_api else [event],
        "steps": {} if case.use_api else steps,
        "use_api": case.use_api,
        "version": 2 if case.memos else -1,
    }
    headers = {
        "content-type": "application/json",
        "x-inngest-server-kind": "dev",
        "x-inngest-req-version": "2" if case.memos else "-1",
        "x-request-id": "01K0REQUEST000000000000000",
        "x-run-id": RUN,
    }
    path = f"/api/inngest?fnId={service.slug(case.function)}&stepId={case.step}"
    content = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    response = service.http.post(f"http://127.0.0.1:{service.port}{path}", content=content, headers=headers)
    try:
        answer = json.loads(response.content)
    except ValueError:
        answer = response.text
    return {
        "from": "server",
        "request": {"method": "POST", "path": path, "headers": headers, "body": body},
        "response": _response(response.status_code, response.headers.items(), answer),
    }


def compare(service: Service, stub: Stub, name: str, exchanges: list[dict[str, Any]]) -> None:
    """Compare with the recorded exchanges, or write them when asked to. Flask has nothing of its own to say."""
    if service.kind not in SDKS:
        return
    text = json.dumps(exchanges, indent=2, ensure_ascii=False)
    # Where the tests run is of no interest, and differs.
    for here, anywhere in (
        (str(ROOT), "/srv/app"),
        (os.path.realpath(ROOT), "/srv/app"),
        (f":{service.port}", ":3000"),
        (f":{stub.server_port}", ":8288"),
    ):
        text = text.replace(here, anywhere)
    file = RECORDED / f"{SDKS[service.kind]}-{name}.json"
    if os.environ.get("STEPWELL_TEST_RECORD"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert _loose(json.loads(text)) == _loose(json.loads(file.read_text()))


def _of(service: Service, value: object) -> Any:
    """The value with the service's own name in it: the TypeScript SDK refuses an event that it did not wait for."""
    return json.loads(json.dumps(value).replace("KIND", service.kind))


def _hashed(memos: Memos) -> dict[str, object]:
    return {hashlib.sha1(step.encode()).hexdigest(): memo for step, memo in memos}


def _response(status: int, headers: Any, body: object) -> dict[str, Any]:
    return {"status": status, "headers": _headers(headers), "body": body}


def _headers(headers: Any) -> dict[str, str]:
    """Those that mean something in the protocol."""
    names = ("content-type", "retry-after", "user-agent", "authorization")
    kept = {name.lower(): value for name, value in headers}
    return {
        name: value for name, value in sorted(kept.items()) if name in names or name.startswith(("x-inngest", "x-run"))
    }


def _loose(value: Any, key: str = "") -> Any:
    """Without what differs from one call to the next: times, traces of the stack, random seeds."""
    match value:
        case dict():
            return {name: _loose(member, name) for name, member in value.items()}
        case list():
            return [_loose(member) for member in value]
        case str() if key in ("stack", "x-inngest-event-id-seed"):
            return "..."
        case str():
            return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", value)
        case int() if key in ("a", "b", "ts", "timestamp", "request_started_at"):
            return 0
    return value


def test_recorded_exchanges_tell_nothing_of_the_machine() -> None:
    files = sorted(Path(RECORDED).glob("*.json"))

    assert files
    assert not [file.name for file in files if str(ROOT) in file.read_text() or "/root/" in file.read_text()]
