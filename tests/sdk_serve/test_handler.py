"""Who may call a service, and what it answers to those who may not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

import stepwell
from stepwell.model.errors import ConfigurationError
from stepwell.sdk.serve.handler import Handler
from stepwell.sdk.serve.message import Request
from stepwell.sdk.serve.settings import ServeSettings, serve_settings
from stepwell.wire.inngest.register import read_register
from stepwell.wire.inngest.reply import Response
from stepwell.wire.signature import bearer_hash, verify
from tests.sdk_client.scripted import Reply, scripted
from tests.sdk_serve.exchanges import KEY, NOW, OTHER_KEY, URL, a_call, request

service = stepwell.Service("shop")
ran: list[str] = []


async def charge() -> int:
    ran.append("charge")
    return 41


@service.function(on="t/e", id="pay")
async def pay(ctx: stepwell.Context[Any]) -> int:
    return await ctx.step.run("charge", charge) + 1


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


def secured(**options: Any) -> Handler:
    """In production, with a key, at `NOW`."""
    settings = serve_settings(
        signing_key=options.pop("signing_key", KEY), environment=options.pop("environment", {}), **options
    )
    return Handler(service, settings, now_s=lambda: NOW)


def in_development(**options: Any) -> Handler:
    return Handler(service, serve_settings(dev=True, environment={}, **options), now_s=lambda: NOW)


def code_of(response: Response) -> str:
    return str(json.loads(response.body)["code"])


# Signatures


async def test_a_signed_call_is_served_and_its_answer_is_signed_with_the_same_key() -> None:
    response = await secured().handle(a_call("shop-pay", key=KEY))
    assert response.status == 206
    assert json.loads(response.body)[0]["data"] == 41
    mark = response.headers["X-Inngest-Signature"]
    assert verify(response.body, mark, [KEY], now_s=NOW) == KEY


async def test_after_a_change_of_keys_the_old_one_still_verifies_and_signs_its_answers() -> None:
    handler = secured(environment={"STEPWELL_SIGNING_KEY_FALLBACK": OTHER_KEY})
    response = await handler.handle(a_call("shop-pay", key=OTHER_KEY))
    assert response.status == 206
    assert verify(response.body, response.headers["X-Inngest-Signature"], [OTHER_KEY], now_s=NOW) == OTHER_KEY


@pytest.mark.parametrize("at", [NOW - 301, NOW + 301, NOW - 360, NOW + 360])
async def test_a_signature_more_than_five_minutes_off_is_refused(at: int) -> None:
    response = await secured().handle(a_call("shop-pay", key=KEY, at=at))
    assert (response.status, code_of(response)) == (401, "sig_verification_failed")
    assert "X-Inngest-Signature" not in response.headers
    assert ran == []


@pytest.mark.parametrize("at", [NOW - 299, NOW + 299])
async def test_a_signature_within_five_minutes_is_accepted(at: int) -> None:
    assert (await secured().handle(a_call("shop-pay", key=KEY, at=at))).status == 206


@pytest.mark.parametrize(
    "mark",
    [
        None,
        "",
        "s=00",
        "t=1780000000",
        f"t={NOW}&s=" + "0" * 64,
        f"s={'0' * 64}&t={NOW}",
        f"t=&s={'0' * 64}",
        f"t={NOW}&s={'0' * 64}&t={NOW}",
        "t=99999999999999999999&s=" + "0" * 64,
        f"t={NOW}.5&s=" + "0" * 64,
    ],
)
async def test_a_signature_that_proves_nothing_is_refused(mark: str | None) -> None:
    signed = a_call("shop-pay", key=KEY)
    headers = {name: value for name, value in signed.headers.items() if name != "x-inngest-signature"}
    if mark is not None:
        headers["x-inngest-signature"] = mark
    response = await secured().handle(replace(signed, headers=headers))
    assert (response.status, code_of(response)) == (401, "sig_verification_failed")
    assert ran == []


async def test_a_signature_of_another_body_or_another_key_is_refused() -> None:
    other_body = a_call("shop-pay", key=KEY, attempt=1)
    mixed = replace(a_call("shop-pay"), headers=other_body.headers)
    assert (await secured().handle(mixed)).status == 401
    assert (await secured().handle(a_call("shop-pay", key=OTHER_KEY))).status == 401
    assert ran == []


async def test_a_captured_request_is_served_once() -> None:
    handler, captured = secured(), a_call("shop-pay", key=KEY)
    assert (await handler.handle(captured)).status == 206
    again = await handler.handle(captured)
    assert (again.status, code_of(again)) == (401, "request_replayed")
    assert ran == ["charge"]


async def test_a_captured_request_is_not_served_under_another_name_either() -> None:
    handler, captured = secured(), a_call("shop-pay", key=KEY)
    await handler.handle(captured)
    elsewhere = replace(captured, url=captured.url.replace("stepId=step", "stepId=0"))
    respelled = {
        **captured.headers,
        "x-inngest-signature": captured.headers["x-inngest-signature"].replace("t=", "t=0"),
    }
    assert code_of(await handler.handle(elsewhere)) == "request_replayed"
    assert code_of(await handler.handle(replace(captured, headers=respelled))) == "request_replayed"
    assert ran == ["charge"]


async def test_the_same_call_made_anew_by_the_server_is_served() -> None:
    handler = secured()
    first = await handler.handle(a_call("shop-pay", key=KEY, request_id="1"))
    second = await handler.handle(a_call("shop-pay", key=KEY, request_id="2"))
    assert (first.status, second.status) == (206, 206)


async def test_without_a_key_nothing_is_served_unless_development_was_asked_for() -> None:
    careless = Handler(service, serve_settings(environment={}))
    for asked in (a_call("shop-pay"), a_call("shop-pay", key=KEY), request("PUT")):
        response = await careless.handle(asked)
        assert (response.status, code_of(response)) == (500, "signing_key_missing")
        assert b"STEPWELL_DEV=1" in response.body
    assert ran == []
    assert (await in_development().handle(a_call("shop-pay"))).status == 206


async def test_development_does_not_look_at_signatures() -> None:
    response = await in_development(signing_key=KEY).handle(a_call("shop-pay", key=OTHER_KEY))
    assert response.status == 206
    assert "X-Inngest-Signature" not in response.headers


async def test_a_server_of_the_other_kind_is_told_what_to_set() -> None:
    to_dev = await in_development().handle(a_call("shop-pay", headers={"x-inngest-server-kind": "cloud"}))
    to_cloud = await secured().handle(a_call("shop-pay", headers={"x-inngest-server-kind": "dev"}))
    assert [(one.status, code_of(one)) for one in (to_dev, to_cloud)] == [(400, "server_kind_mismatch")] * 2
    assert b"STEPWELL_DEV" in to_dev.body
    assert b"STEPWELL_DEV" in to_cloud.body
    assert ran == []


async def test_an_unusable_key_is_refused_at_once_and_never_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        serve_settings(signing_key="signkey-prod-not-hex!", environment={})
    assert "not-hex" not in str(caught.value)


# Introspection and probes


async def test_introspection_tells_strangers_little_and_the_server_more() -> None:
    handler = secured(event_key="my-event-key", url="http://stepwell:8288")
    stranger = json.loads((await handler.handle(request("GET"))).body)
    assert stranger == {
        "schema_version": "2024-05-24",
        "function_count": 1,
        "has_event_key": True,
        "has_signing_key": True,
        "has_signing_key_fallback": False,
        "mode": "cloud",
    }
    answer = await handler.handle(request("GET", key=KEY))
    known = json.loads(answer.body)
    assert known["authentication_succeeded"] is True
    assert known["app_id"] == "shop"
    assert known["signing_key_hash"] == bearer_hash(KEY)
    assert known["event_key_hash"] == "756db3455bd70816c089ed7fcd514ab0e66cf5cdf62ccb7a3bca66d96ee3132c"
    assert (known["serve_origin"], known["serve_path"]) == ("http://127.0.0.1:3000", "/api/inngest")
    assert verify(answer.body, answer.headers["X-Inngest-Signature"], [KEY], now_s=NOW)
    assert (await handler.handle(request("GET", key=OTHER_KEY))).status == 401


async def test_a_trust_probe_is_answered_signed_and_may_be_repeated() -> None:
    handler = secured()
    probe = request("POST", f"{URL}?fnId=shop-pay&stepId=step&probe=trust", b"", key=KEY)
    for _ in range(2):
        response = await handler.handle(probe)
        assert response.status == 200
        assert verify(response.body, response.headers["X-Inngest-Signature"], [KEY], now_s=NOW)
    assert (await handler.handle(replace(probe, headers={}))).status == 401
    unknown = request("POST", f"{URL}?fnId=shop-pay&stepId=step&probe=hope", b"", key=KEY)
    assert (await handler.handle(unknown)).status == 400


# Calls that make no sense


async def test_an_unknown_function_is_named_with_those_there_are_and_may_be_tried_again() -> None:
    response = await in_development().handle(a_call("shop-nobody"))
    assert (response.status, code_of(response)) == (500, "function_not_found")
    assert b"shop-pay" in response.body
    assert response.headers.get("x-inngest-no-retry") is None
    assert response.headers["x-inngest-sdk"].startswith("stepwell-py:v")


@pytest.mark.parametrize("body", [b"", b"{}", b"nonsense", b'{"ctx":{}}', b"[1]", b"\xff\xfe", b"[" * 100_000])
async def test_a_body_that_is_no_call_is_refused_and_nothing_breaks(body: bytes) -> None:
    response = await in_development().handle(request("POST", f"{URL}?fnId=shop-pay&stepId=step", body))
    assert (response.status, code_of(response)) == (400, "invalid_call")


async def test_a_call_without_a_function_and_an_unknown_method_are_refused() -> None:
    assert (await in_development().handle(request("POST", URL, b"{}"))).status == 400
    assert (await in_development().handle(request("DELETE"))).status == 405


# Registration


async def test_a_sync_registers_under_the_address_it_came_to_with_the_hashed_key() -> None:
    with scripted(lambda asked: Reply(value={"ok": True, "modified": True, "status": 200})) as server:
        handler = secured(url=server.url, framework="flask", environment={"STEPWELL_ENV": "branch"})
        url = "https://app.example.com/api/inngest?tenant=a&deployId=d-1&fnId=x"
        response = await handler.handle(request("PUT", url, key=KEY))
    assert response.status == 200
    assert json.loads(response.body) == {"message": "Successfully registered", "modified": True}
    (asked,) = server.asked
    assert asked.headers["authorization"] == f"Bearer {bearer_hash(KEY)}"
    assert asked.headers["x-inngest-env"] == "branch"
    assert asked.headers["x-inngest-sdk"].startswith("stepwell-py:v")
    assert asked.query == {"deployId": "d-1"}
    registered, warnings = read_register(asked.body)
    assert (registered.name, registered.framework) == ("shop", "flask")
    assert registered.url == "https://app.example.com/api/inngest?tenant=a"
    (function,) = registered.functions
    assert function.slug == "shop-pay"
    assert warnings == ()


async def test_a_sync_tries_the_fallback_key_when_the_first_is_refused() -> None:
    def check(asked: Any) -> Reply:
        fits = asked.headers["authorization"] == f"Bearer {bearer_hash(OTHER_KEY)}"
        return Reply(value={"ok": True, "status": 200}) if fits else Reply(401, text="Authentication failed")

    with scripted(check) as server:
        handler = secured(url=server.url, environment={"STEPWELL_SIGNING_KEY_FALLBACK": OTHER_KEY})
        assert (await handler.handle(request("PUT", key=KEY))).status == 200
    assert len(server.asked) == 2


async def test_an_unsigned_sync_in_production_cannot_choose_where_calls_go() -> None:
    attack = request("PUT", "https://evil.example/api/inngest")
    with scripted(lambda asked: Reply(value={"ok": True, "status": 200})) as server:
        refused = await secured(url=server.url).handle(attack)
        assert refused.status == 401
        assert server.asked == []
        accepted = await secured(url=server.url, serve_origin="app.example.com").handle(attack)
        assert accepted.status == 200
    assert server.asked[0].json()["url"] == "https://app.example.com/api/inngest"


async def test_what_the_server_says_to_a_registration_reaches_whoever_asked_for_it() -> None:
    answer = Reply(400, {"error": "At least one function is invalid: x", "status": 400})
    with scripted(lambda asked: answer) as server:
        response = await in_development(url=server.url).handle(request("PUT"))
    assert response.status == 400
    assert b"At least one function is invalid: x" in response.body


async def test_a_sync_without_a_server_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.sdk.client.requests.FIRST_PAUSE_S", 0.001)
    response = await in_development(url="http://127.0.0.1:9").handle(request("PUT"))
    assert response.status == 500
    assert b"stepwell dev" in response.body


async def test_an_in_band_sync_is_answered_with_everything_and_needs_a_signature() -> None:
    handler = secured(serve_path="/jobs", app_version="7")
    body = b'{"url":"https://app.example.com/api/inngest?fnId=a"}'
    headers = {"x-inngest-sync-kind": "in_band"}
    response = await handler.handle(request("PUT", URL, body, key=KEY, headers=headers))
    assert response.status == 200
    assert response.headers["x-inngest-sync-kind"] == "in_band"
    assert verify(response.body, response.headers["X-Inngest-Signature"], [KEY], now_s=NOW)
    said = json.loads(response.body)
    assert said["url"] == "https://app.example.com/jobs"
    assert said["appVersion"] == "7"
    assert said["inspection"]["authentication_succeeded"] is True
    assert [one["id"] for one in said["functions"]] == ["shop-pay"]
    registered, _ = read_register(response.body)
    assert registered.name == "shop"
    assert (await handler.handle(request("PUT", URL, body, headers=headers))).status == 401


async def test_in_band_sync_can_be_switched_off() -> None:
    with scripted(lambda asked: Reply(value={"ok": True, "status": 200})) as server:
        handler = secured(url=server.url, environment={"INNGEST_ALLOW_IN_BAND_SYNC": "0"})
        asked = request("PUT", URL, b"{}", key=KEY, headers={"x-inngest-sync-kind": "in_band"})
        response = await handler.handle(asked)
    assert response.headers["x-inngest-sync-kind"] == "out_of_band"
    assert len(server.asked) == 1


# Settings


@pytest.mark.parametrize(
    ("environment", "dev", "api"),
    [
        ({}, False, "http://localhost:8288"),
        ({"STEPWELL_DEV": "1"}, True, "http://localhost:8288"),
        ({"INNGEST_DEV": "true"}, True, "http://localhost:8288"),
        ({"INNGEST_DEV": "0"}, False, "http://localhost:8288"),
        ({"STEPWELL_DEV": "0", "INNGEST_DEV": "1"}, False, "http://localhost:8288"),
        ({"INNGEST_DEV": "http://localhost:9999/"}, True, "http://localhost:9999"),
        ({"INNGEST_DEV": "http://a:1", "INNGEST_BASE_URL": "http://b:2"}, True, "http://b:2"),
        ({"INNGEST_BASE_URL": "http://b:2", "INNGEST_API_BASE_URL": "http://c:3"}, False, "http://c:3"),
        ({"STEPWELL_URL": "http://s:4", "INNGEST_API_BASE_URL": "http://c:3"}, False, "http://s:4"),
    ],
)
def test_the_environment_is_read_in_the_documented_order(environment: dict[str, str], dev: bool, api: str) -> None:
    settings = serve_settings(environment=environment)
    assert (settings.dev, settings.address.api) == (dev, api)


def test_the_keys_of_both_names_are_read_and_never_printed() -> None:
    settings = serve_settings(environment={"INNGEST_SIGNING_KEY": KEY, "INNGEST_SIGNING_KEY_FALLBACK": OTHER_KEY})
    assert settings.keys == (KEY, OTHER_KEY)
    assert "1234" not in repr(settings)
    assert "8765" not in repr(settings)


def test_settings_are_read_once_and_are_the_only_state() -> None:
    assert isinstance(Handler(service, in_development().settings).settings, ServeSettings)
    assert Request("GET", f"{URL}?fnId=a&tenant=b&stepId=c").own_url == f"{URL}?tenant=b"
