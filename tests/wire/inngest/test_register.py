"""Registration: what is accepted, what is refused by name, and the traps of sync."""

import json
from pathlib import Path
from typing import Any

import pytest

from stepwell.model.function import (
    Batch,
    CancelOn,
    Concurrency,
    Debounce,
    Function,
    Rate,
    Service,
    Transport,
    Trigger,
)
from stepwell.wire.inngest import sync
from stepwell.wire.inngest.register import (
    RegisterRefused,
    accepted_answer,
    check_server_kind,
    composite_slug,
    normal_url,
    read_functions,
    read_register,
    unsupported_options,
)

RECORDED = Path(__file__).parents[1] / "recorded"
URL = "http://localhost:3000/api/inngest"


def a_function(**fields: Any) -> dict[str, Any]:
    config = {
        "id": "shop-import",
        "name": "Import",
        "triggers": [{"event": "shop/import"}],
        "steps": {
            "step": {
                "id": "step",
                "name": "step",
                "runtime": {"type": "http", "url": f"{URL}?fnId=shop-import&stepId=step"},
            }
        },
    }
    return {name: value for name, value in {**config, **fields}.items() if value is not ...}


def register(*functions: dict[str, Any], **fields: Any) -> tuple[Service, tuple[str, ...]]:
    body = {"appName": "shop", "url": URL, "functions": list(functions), "sdk": "py:v0.5.18", "v": "0.1", **fields}
    return read_register(json.dumps(body).encode())


def one(**fields: Any) -> Function:
    return register(a_function(**fields))[0].functions[0]


def refusal(*functions: dict[str, Any], **fields: Any) -> RegisterRefused:
    with pytest.raises(RegisterRefused) as refused:
        register(*functions, **fields)
    return refused.value


@pytest.mark.parametrize("name", ["appname", "appName", "APPNAME"])
def test_trap_1_top_level_names_are_read_in_any_case(name: str) -> None:
    service, _ = read_register(json.dumps({name: "shop", "URL": URL, "Functions": [a_function()]}).encode())
    assert service.name == "shop"
    assert [function.slug for function in service.functions] == ["shop-import"]


def test_trap_2_a_refusal_has_a_status_and_an_acceptance_has_no_error() -> None:
    assert json.loads(refusal(a_function(name="")).answer())["status"] == 400
    service, _ = register(a_function())
    answer = json.loads(accepted_answer(service, modified=True, sync_id="s"))
    assert answer == {"ok": True, "modified": True, "sync_id": "s", "app_id": service.id, "status": 200}


def test_trap_3_the_checksum_leaves_telemetry_out() -> None:
    first, _ = register(a_function())
    again, _ = register(a_function(), featureObservations={"x": 1})
    other, _ = register(a_function(name="Other"))
    assert first.checksum == again.checksum != other.checksum


@pytest.mark.parametrize(("attempts", "total"), [(0, 1), (3, 4), (20, 21), (None, 5)])
def test_trap_4_retries_are_not_attempts_and_0_is_not_absent(attempts: int | None, total: int) -> None:
    steps = a_function()["steps"]
    steps["step"]["retries"] = {"attempts": attempts}
    assert one(steps=steps).max_attempts == total
    assert one(retries=attempts).max_attempts == total
    assert one(retries={"attempts": attempts}).max_attempts == total


@pytest.mark.parametrize("attempts", [21, -1, 1.5, "3", True])
def test_retries_out_of_range_are_refused(attempts: object) -> None:
    assert "retries" in str(refusal(a_function(retries=attempts)))


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        (5, [Concurrency(5)]),
        (5.0, [Concurrency(5)]),
        ({"limit": 5}, [Concurrency(5)]),
        ([{"limit": 5, "key": "event.data.user", "scope": "fn"}], [Concurrency(5, "event.data.user")]),
        ([{"limit": 1, "key": "'all'", "scope": "account"}, 2], [Concurrency(1, "'all'", "account"), Concurrency(2)]),
        ({"fn": [], "step": [{"limit": 1}]}, [Concurrency(1)]),
        ({"step": 3}, [Concurrency(3)]),
        (0, []),
        ([{"limit": 0}], []),
        (None, []),
        ([], []),
    ],
)
def test_trap_5_every_form_of_concurrency_is_read(value: object, limits: list[Concurrency]) -> None:
    assert list(one(concurrency=value).concurrency) == limits


def test_a_concurrency_of_whole_runs_is_read() -> None:
    function = one(concurrency={"fn": [{"limit": 2, "key": "event.data.user"}], "step": 5})
    assert function.run_concurrency == (Concurrency(2, "event.data.user"),)
    assert function.concurrency == (Concurrency(5),)


@pytest.mark.parametrize(
    ("value", "option", "words"),
    [
        ({"fn": [{"limit": 1}, {"limit": 2, "key": "a"}]}, "concurrency.fn", "has 2 limits and may have 1"),
        ([1, {"limit": 2, "key": "a"}, {"limit": 3, "key": "b"}], "concurrency", "has 3 limits and may have 2"),
        ([1, 2], "concurrency[1]", "same key and scope"),
        (-1, "concurrency.limit", "from 1 to 1000000"),
        (1.5, "concurrency.limit", "whole number"),
        ({"limit": True}, "concurrency.limit", "whole number"),
        ("3", "concurrency", "must be a number"),
        ({"limit": 1, "scope": "env"}, "concurrency.key", "is missing"),
        ({"limit": 1, "scope": "planet", "key": "a"}, "concurrency.scope", "`fn`, `env` or `account`"),
        ({"limit": 1, "key": 5}, "concurrency.key", "must be text"),
    ],
)
def test_a_concurrency_that_cannot_be_kept_is_refused(value: object, option: str, words: str) -> None:
    (problem, *_) = refusal(a_function(concurrency=value)).problems
    assert problem.option == option
    assert words in problem.message


def test_rates_are_read_with_what_may_start_at_once() -> None:
    function = one(
        throttle={"limit": 1, "period": "60s", "burst": 1, "key": "event.data.user"},
        rateLimit={"limit": 25, "period": "1h"},
        idempotency="event.data.cart",
    )
    assert function.throttle == Rate(1, 60_000, 1, "event.data.user")
    assert function.rate_limit == Rate(25, 3_600_000, 2)
    assert function.idempotency == Rate(1, 86_400_000, 0, "event.data.cart")
    assert one(throttle={"limit": 3, "period": "1m"}).throttle == Rate(3, 60_000, 2)


@pytest.mark.parametrize(
    ("fields", "option", "words"),
    [
        ({"throttle": {"limit": 0, "period": "1m"}}, "throttle.limit", "from 1 to"),
        ({"throttle": {"limit": 1, "period": "1m", "burst": -1}}, "throttle.burst", "from 0 to"),
        ({"throttle": {"limit": 1}}, "throttle.period", "is missing"),
        ({"throttle": {"limit": 1, "period": "1500ms"}}, "throttle.period", "whole seconds"),
        ({"throttle": 3}, "throttle", "must be an object"),
        ({"rateLimit": {"limit": 1, "period": "25h"}}, "rateLimit.period", "may be 24h"),
        ({"rateLimit": {"period": "1h"}}, "rateLimit.limit", "from 1 to"),
        ({"rateLimit": {"limit": 1, "period": "soon"}}, "rateLimit.period", "soon"),
        ({"idempotency": 5}, "idempotency", "must be text"),
        ({"priority": "event.data.p"}, "priority", "an object with `run`"),
    ],
)
def test_a_rate_that_cannot_be_kept_is_refused(fields: dict[str, Any], option: str, words: str) -> None:
    (problem,) = refusal(a_function(**fields)).problems
    assert problem.option == option
    assert words in problem.message


def test_events_that_wait_together_are_read() -> None:
    function = one(debounce={"period": "5s", "key": "event.data.user", "timeout": "1m"})
    assert function.debounce == Debounce(5_000, "event.data.user", 60_000)
    function = one(batchEvents={"maxSize": 10, "timeout": "5s", "key": "event.data.user", "if": "event.data.n > 1"})
    assert function.batch == Batch(10, 5_000, "event.data.user", "event.data.n > 1")


@pytest.mark.parametrize(
    ("fields", "option", "code", "words"),
    [
        ({"debounce": {"period": "500ms"}}, "debounce.period", "config_invalid", "may be 1s to 7d"),
        ({"debounce": {"period": "8d"}}, "debounce.period", "config_invalid", "is 8d and may be 1s to 7d"),
        ({"debounce": {"key": "a"}}, "debounce.period", "config_invalid", "is missing"),
        ({"debounce": 5}, "debounce", "config_invalid", "must be an object"),
        (
            {"batchEvents": {"maxSize": 1, "timeout": "5s"}},
            "batchEvents.maxSize",
            "batch_size_invalid",
            "from 2 to 100",
        ),
        ({"batchEvents": {"maxSize": 101, "timeout": "5s"}}, "batchEvents.maxSize", "batch_size_invalid", "to 100"),
        ({"batchEvents": {"maxSize": 5}}, "batchEvents.timeout", "batch_timeout_invalid", "is missing"),
        (
            {"batchEvents": {"maxSize": 5, "timeout": "11m"}},
            "batchEvents.timeout",
            "batch_timeout_invalid",
            "1s to 10m",
        ),
        (
            {"batchEvents": {"maxSize": 5, "timeout": "5s"}, "priority": {"run": "1"}},
            "batchEvents",
            "combo_unsupported",
            "together with `priority`",
        ),
    ],
)
def test_events_that_cannot_wait_so_are_refused(fields: dict[str, Any], option: str, code: str, words: str) -> None:
    (problem,) = refusal(a_function(**fields)).problems
    assert (problem.option, problem.code) == (option, code)
    assert words in problem.message


def test_timeouts_are_read() -> None:
    function = one(timeouts={"start": "10s", "finish": "1h"})
    assert (function.start_within_ms, function.finish_within_ms) == (10_000, 3_600_000)
    assert one(timeouts={"finish": "1s"}).start_within_ms is None
    assert refusal(a_function(timeouts={"start": "soon"})).problems[0].option == "timeouts.start"
    assert refusal(a_function(timeouts="1h")).problems[0].option == "timeouts"


def test_a_priority_is_an_expression() -> None:
    assert one(priority={"run": "event.data.p"}).priority == "event.data.p"
    assert one(priority={}).priority is None


@pytest.mark.parametrize("value", [None, 0, [], {}, "", {"fn": [], "step": None}, [{"limit": 0}]])
@pytest.mark.parametrize("option", sorted(unsupported_options()))
def test_an_option_that_asks_for_nothing_is_fine(option: str, value: object) -> None:
    assert one(**{option: value}).warnings == ()


ASKING = {
    "singleton": {"mode": "skip"},
}


@pytest.mark.parametrize("option", sorted(ASKING))
def test_an_option_that_does_not_act_yet_is_refused_by_name(option: str) -> None:
    assert set(ASKING) == set(unsupported_options())
    refused = refusal(a_function(**{option: ASKING[option]}))
    assert f"function 'shop-import', {option}: is not supported by this server yet" in str(refused)
    assert "Remove it" in str(refused)


def test_all_problems_are_told_at_once() -> None:
    refused = refusal(
        a_function(name="", singleton={"mode": "skip"}, triggers=[{"cron": 5}, {"event": ""}]),
        a_function(id="shop-b", retries=99),
    )
    assert [(problem.function, problem.option, problem.code) for problem in refused.problems] == [
        ("shop-import", "singleton", "config_invalid"),
        ("shop-import", "name", "config_invalid"),
        ("shop-import", "triggers[0].cron", "schedule_invalid"),
        ("shop-import", "triggers[1].event", "event_name_invalid"),
        ("shop-b", "retries", "config_invalid"),
    ]
    answer = json.loads(refused.answer())
    assert answer["error"].startswith("At least one function is invalid: function 'shop-import', singleton")
    assert answer["error"].endswith("(and 4 more)")
    assert len(answer["data"]) == 5


def test_trap_6_an_unknown_option_is_kept_and_warned_about() -> None:
    service, warnings = register(a_function(newThing={"x": 1}, checkpoint={"batch_steps": 3}), someField=1)
    (function,) = service.functions
    assert warnings == (
        "unknown field 'someField' has no effect",
        "function 'shop-import': unknown option 'newThing' has no effect",
    )
    assert service.warnings == warnings[:1]
    assert function.warnings == warnings[1:]
    assert json.loads(function.config)["newThing"] == {"x": 1}


def test_an_unknown_member_further_down_is_warned_about_where_it_is() -> None:
    runtime = {"type": "http", "url": URL, "region": "x"}
    step = {"id": "step", "name": "step", "runtime": runtime, "retries": {"attempts": 1, "pause": "1s"}, "queue": 1}
    function = one(
        triggers=[{"event": "shop/import", "every": 2}],
        steps={"step": step},
        cancel=[{"event": "shop/stop"}, {"event": "shop/halt", "match": "data.id"}],
    )
    assert sorted(function.warnings) == [
        "function 'shop-import': cancel[1]: unknown option 'match' has no effect",
        "function 'shop-import': steps.step.retries: unknown option 'pause' has no effect",
        "function 'shop-import': steps.step.runtime: unknown option 'region' has no effect",
        "function 'shop-import': steps.step: unknown option 'queue' has no effect",
        "function 'shop-import': triggers[0]: unknown option 'every' has no effect",
    ]


def test_schedules_are_read_in_the_forms_of_both_sdks() -> None:
    function = one(
        triggers=[
            {"cron": "TZ=Europe/Berlin 0 9 * * 1-5"},
            {"cron": "*/5 * * * *", "jitter": "30s"},
            {"cron": "@every 10s", "expression": None, "event": None, "jitter": None},
        ]
    )
    assert function.triggers == (
        Trigger(cron="TZ=Europe/Berlin 0 9 * * 1-5"),
        Trigger(cron="*/5 * * * *", jitter_ms=30_000),
        Trigger(cron="@every 10s"),
    )
    assert function.warnings == ()


def test_triggers_cancels_and_expressions_are_read() -> None:
    function = one(
        triggers=[
            {"event": "shop/import", "expression": "event.data.size > 0"},
            {"event": "shop/*", "expression": None},
        ],
        cancel=[
            {"event": "shop/stop", "if": "async.data.id == event.data.id", "timeout": "1h"},
            {"event": "shop/halt"},
        ],
    )
    assert function.triggers == (Trigger("shop/import", "event.data.size > 0"), Trigger("shop/*"))
    assert function.cancel_on == (
        CancelOn("shop/stop", "async.data.id == event.data.id", 3_600_000),
        CancelOn("shop/halt"),
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"id": ...}, "is missing"),
        ({"id": "shop-" + "x" * 255}, "has 260 letters and may have 255"),
        ({"name": "x" * 256}, "has 256 letters"),
        ({"triggers": [{"event": f"a/{n}"} for n in range(11)]}, "has 11 entries and may have 10"),
        ({"triggers": [{"event": "a"}, {"event": "a"}]}, "is there twice"),
        ({"triggers": [{"event": "a", "cron": "* * * * *"}]}, "both `event` and `cron`"),
        ({"triggers": [{"cron": "@daily"}, {"cron": "@daily", "jitter": "1s"}]}, "is there twice"),
        ({"triggers": [{"cron": ["* * * * *"]}]}, "triggers[0].cron: must be text"),
        ({"triggers": [{"cron": "@daily", "expression": "true"}]}, "has no meaning beside `cron`"),
        ({"triggers": [{"cron": "@daily", "jitter": "500ms"}]}, "is 500ms and may be 1s to 5m"),
        ({"triggers": [{"cron": "@daily", "jitter": "6m"}]}, "is 6m and may be 1s to 5m"),
        ({"triggers": [{"cron": "@daily", "jitter": "a bit"}]}, "not a duration"),
        ({"triggers": [{"cron": "@daily", "jitter": 5}]}, "must be text"),
        ({"triggers": ["a"]}, "must be an object"),
        ({"triggers": {"event": "a"}}, "must be an array"),
        ({"triggers": [{"event": "ü" * 128}]}, "has 256 bytes and may have 255"),
        ({"triggers": [{"event": "a*"}]}, "only at its end"),
        ({"triggers": [{"event": "a/*/b"}]}, "only at its end"),
        ({"triggers": [{"event": "a", "expression": 1}]}, "must be text"),
        ({"cancel": [{"event": "a"}] * 6}, "has 6 entries and may have 5"),
        ({"cancel": [{"event": "a", "timeout": "soon"}]}, "not a duration"),
        ({"cancel": [{"event": "a", "timeout": "367d"}]}, "at most 366 days"),
        ({"cancel": [{}]}, "cancel[0].event"),
        ({"steps": {}}, "exactly one entry"),
        ({"steps": {"step": {"id": "step"}}}, "says where the function is called"),
        ({"steps": {"step": {"runtime": {"type": "ftp", "url": "ftp://x"}}}}, "`http` or `ws`"),
        ({"steps": {"step": {"runtime": {"type": "http", "url": "file:///etc"}}}}, "is not a URL"),
    ],
)
def test_a_limit_or_a_wrong_type_is_named(fields: dict[str, Any], says: str) -> None:
    assert says in str(refusal(a_function(**fields)))


def test_two_functions_with_one_slug_are_refused() -> None:
    assert "used by two functions" in str(refusal(a_function(), a_function()))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "Invalid request"),
        (b"[]", "Invalid request"),
        (b"{}", "App ID required"),
        (b'{"appName":""}', "App ID required"),
        (b'{"appName":"a"}', "`url` is missing"),
        (b'{"appName":"a","url":"x"}', "cannot be called"),
        (b'{"appName":"a","url":"http://x","functions":{}}', "must be an array"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "Invalid request"),
    ],
)
def test_a_payload_that_cannot_be_read_says_why(body: bytes, says: str) -> None:
    with pytest.raises(RegisterRefused, match=says):
        read_register(body)


@pytest.mark.parametrize(
    ("sdk", "denied"), [("js:v3.21.9", 0), ("js:v3.22.0", 1), ("js:v3.53.1", 1), ("js:v3.53.2", 0)]
)
def test_js_releases_with_the_security_defect_are_refused(sdk: str, denied: int) -> None:
    if denied:
        assert json.loads(refusal(a_function(), sdk=sdk).answer())["code"] == "sdk_version_denied"
    else:
        register(a_function(), sdk=sdk)


def test_the_other_server_kind_is_refused() -> None:
    check_server_kind(None, "dev")
    check_server_kind("dev", "dev")
    with pytest.raises(RegisterRefused, match="Expected server kind cloud, got dev"):
        check_server_kind("cloud", "dev")


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://127.0.0.1:3000/api/inngest", "http://localhost:3000/api/inngest"),
        ("http://0.0.0.0:3000/x", "http://localhost:3000/x"),
        ("http://127.0.0.1/x", "http://127.0.0.1/x"),
        ("http://Example.com:80/x/", "http://example.com/x/"),
        ("https://example.com:443", "https://example.com"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("http://h/x?fnId=a&keep=%20b&stepId=step&probe=trust", "http://h/x?keep=%20b"),
        ("http://[::1]:3000/x#part", "http://[::1]:3000/x"),
        ("http://user:pass@h:81/", "http://user:pass@h:81/"),
    ],
)
def test_a_url_is_normalised_before_it_is_compared(url: str, normal: str) -> None:
    assert normal_url(url) == normal
    assert normal_url(normal) == normal


@pytest.mark.parametrize("url", ["", "localhost:3000", "ftp://h", "http://", "http://h:99999/"])
def test_what_is_not_a_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        normal_url(url)


def test_a_service_that_dialled_in_needs_no_url() -> None:
    functions, warnings = read_functions([a_function(steps=...)], service="shop", transport=Transport.SOCKET)
    assert functions[0].url == "ws://connected"
    assert warnings == ()


def test_a_function_without_triggers_can_only_be_invoked_and_says_so() -> None:
    assert one(triggers=[]).warnings == (
        "function 'shop-import': no triggers: it runs only when another function invokes it",
    )


def test_our_own_payload_reads_back() -> None:
    slug = composite_slug("shop", "büro")
    config = sync.function_config(
        slug=slug,
        name="Büro",
        url=URL + "?tenant=1",
        triggers=[{"event": "a/b"}],
        retries=0,
        cancel=[{"event": "a/c"}],
        options={"concurrency": None},
    )
    service, warnings = read_register(
        sync.register_body(service="shop", url=URL, sdk="stepwell-py:v0.1.0", functions=[config], app_version="7")
    )
    (function,) = service.functions
    assert warnings == ()
    assert (function.slug, function.max_attempts, function.url) == ("shop-büro", 1, URL + "?tenant=1")
    assert (service.sdk, service.app_version) == ("stepwell-py:v0.1.0", "7")


def test_an_in_band_sync_reads_as_a_registration() -> None:
    inspection = sync.introspection(
        function_count=1, mode="cloud", signing_key="signkey-prod-12345678", authenticated={"app_id": "shop"}
    )
    assert inspection["signing_key_hash"].startswith("b2ed9921")
    body = sync.in_band_body(
        service="shop", url=URL, sdk="stepwell-py:v0.1.0", functions=[a_function()], inspection=inspection
    )
    service, _ = read_register(body)
    assert (service.name, service.sdk, len(service.functions)) == ("shop", "stepwell-py:v0.1.0", 1)
    assert "12345678" not in body.decode()


@pytest.mark.parametrize("recording", sorted(RECORDED.glob("*-register.json")), ids=lambda path: path.stem)
def test_what_official_sdks_register_is_accepted_without_a_warning(recording: Path) -> None:
    body = json.loads(recording.read_text())[0]["request"]["body"]
    service, warnings = read_register(json.dumps(body).encode())
    assert warnings == ()
    assert len(service.functions) == len(body["functions"]) > 10
    assert service.url == "http://localhost:3000/api/inngest"
    by_slug = {function.slug: function for function in service.functions}
    assert by_slug[f"{service.name}-child"].max_attempts == 1
    assert by_slug[f"{service.name}-linear"].max_attempts == 5
    assert by_slug[f"{service.name}-cancellable"].cancel_on[0].expression == "async.data.order == event.data.order"
