"""Functions that start by the clock, over HTTP: registration, what the function is told, and what lists show."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.api import Api, until
from tests.api.conftest import Place, Start
from tests.api.scripted import Answer, Scripted, config, returned

URL = "http://127.0.0.1:3999/api/inngest"


def body(*triggers: dict[str, Any]) -> dict[str, Any]:
    function = config("shop", "tidy", URL, triggers=list(triggers))
    return {"appName": "shop", "url": URL, "sdk": "js:v4.18.1", "functions": [function]}


async def runs_of(api: Api, count: int) -> list[dict[str, Any]]:
    async def look() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = (await api.get("/api/runs", function="shop-tidy"))["runs"]
        return found if sum(one["ended_at"] is not None for one in found) >= count else None

    return await until(look)


async def test_a_function_starts_by_the_clock(api: Api, shop: Scripted) -> None:
    events: list[dict[str, Any]] = []

    def answer(call: dict[str, Any]) -> Answer:
        events.append(call["event"])
        return returned("tidy")

    shop.answers["tidy"] = answer
    shop.options["tidy"] = {"triggers": [{"cron": "@every 1s"}]}
    await shop.register()
    found = await runs_of(api, 2)

    assert {(one["event_name"], one["schedule"]) for one in found} == {("inngest/scheduled.timer", "@every 1s")}
    times = [event["data"]["scheduledAt"] for event in events]
    assert times == sorted(set(times))
    for event in events:
        assert event["id"] == event["data"]["scheduledAt"]
        assert event["data"].keys() == {"cron", "scheduledAt", "fireAt"}
    (one,) = (await api.get("/v1/events", name="inngest/scheduled.timer", limit=1))["data"]
    runs = (await api.get(f"/v1/events/{one['internal_id']}/runs"))["data"]
    assert [run["function_slug"] for run in runs] == ["shop-tidy"]


async def test_a_schedule_goes_on_after_a_restart_and_comes_once(start: Start, kept: Place) -> None:
    api = await start(data=kept)
    assert (await api.http.post("/fn/register", json=body({"cron": "@every 1s"}))).status_code == 200
    before = await occurrences(api, 2)
    await api.stop()
    api = await start(data=kept)
    after = await occurrences(api, len(before) + 2)

    assert set(before) <= set(after)
    assert len(after) == len(set(after))


async def occurrences(api: Api, count: int) -> list[str]:
    """The times of the occurrences so far, once there are so many."""

    async def look() -> list[str] | None:
        found = (await api.get("/v1/events", name="inngest/scheduled.timer", limit=100))["data"]
        return [one["id"] for one in found] if len(found) >= count else None

    return await until(look)


@pytest.mark.parametrize(
    ("trigger", "says"),
    [
        ({"cron": "* * * * * *"}, "triggers[0].cron: '* * * * * *' has six fields and must have five"),
        ({"cron": "TZ=Europe/Nowhere 0 9 * * *"}, "triggers[0].cron: 'Europe/Nowhere' is no time zone"),
        ({"cron": "0 0 30 2 *"}, "never comes"),
        ({"cron": "@daily", "jitter": "1h"}, "triggers[0].jitter: is 1h and may be 1s to 5m"),
    ],
)
async def test_a_schedule_that_cannot_be_carried_out_is_refused(api: Api, trigger: dict[str, Any], says: str) -> None:
    response = await api.http.post("/fn/register", json=body(trigger))
    answer = response.json()
    assert (response.status_code, answer["status"], answer["code"]) == (400, 400, "invalid_function")
    assert answer["error"].startswith("At least one function is invalid: function 'shop-tidy', ")
    assert says in answer["error"]
    assert (await api.get("/api/services"))["services"] == []


async def test_triggers_by_the_clock_are_shown(api: Api) -> None:
    triggers = [{"event": "shop/tidy"}, {"cron": "TZ=Europe/Berlin 0 9 * * *", "jitter": "30s"}, {"cron": "@daily"}]
    assert (await api.http.post("/fn/register", json=body(*triggers))).status_code == 200

    assert (await api.get("/api/functions"))["functions"][0]["triggers"] == triggers
    assert (await api.get("/dev"))["functions"][0]["triggers"] == triggers
    query = "{ functions { triggers { type value condition } } }"
    answer = (await api.http.post("/v0/gql", json={"query": query})).json()
    assert answer["data"]["functions"][0]["triggers"] == [
        {"type": "EVENT", "value": "shop/tidy", "condition": None},
        {"type": "CRON", "value": "TZ=Europe/Berlin 0 9 * * *", "condition": None},
        {"type": "CRON", "value": "@daily", "condition": None},
    ]
