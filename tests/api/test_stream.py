"""Who may read the stream of a run: whoever has the key, and for a while whoever has a token of that run."""

from __future__ import annotations

import time

import pytest

from stepwell.api.body import Limits
from stepwell.api.read_tokens import TokenRefused, check_read_token, read_token
from stepwell.model.ids import RunId
from tests.api.api import Api, until
from tests.api.conftest import Start
from tests.api.scripted import returned, scripted

RUN = RunId("01JQDAE4RQF8MBCR55T5AK4KXS")
OTHER = RunId("01JQDAE4RQF8MBCR55T5AK4KXT")
KEY = "signkey-prod-" + "0123456789abcdef" * 2
OLD = "signkey-prod-" + "fedcba9876543210" * 2


def test_a_token_is_good_for_its_run_until_its_time() -> None:
    token = read_token(RUN, 1000, [KEY])
    check_read_token(token, RUN, 999.9, [KEY])
    with pytest.raises(TokenRefused, match="expired"):
        check_read_token(token, RUN, 1000, [KEY])
    with pytest.raises(TokenRefused, match="not for the stream of this run"):
        check_read_token(token, OTHER, 10, [KEY])


def test_a_token_of_a_key_that_is_being_exchanged_is_good() -> None:
    token = read_token(RUN, 1000, [OLD])
    check_read_token(token, RUN, 10, [KEY, OLD])
    with pytest.raises(TokenRefused):
        check_read_token(token, RUN, 10, [KEY])
    with pytest.raises(TokenRefused):
        check_read_token(token, RUN, 10, [])


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token.replace("1000.", "9000."),
        lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
        lambda token: token.partition(".")[2],
        lambda token: f"{token}A",
        lambda token: "",
        lambda token: "1000.",
        lambda token: f"-{token}",
        lambda token: f"{token}\n",
        lambda token: f"٣{token}",
    ],
)
def test_a_token_that_was_changed_is_none(change: object) -> None:
    token = read_token(RUN, 1000, [KEY])
    with pytest.raises(TokenRefused):
        check_read_token(change(token), RUN, 10, [KEY])  # type: ignore[operator]


def test_tokens_tell_nothing_of_the_key() -> None:
    assert KEY not in read_token(RUN, 1000, [KEY])
    assert read_token(RUN, 1000, [KEY]) != read_token(RUN, 1000, [OLD])


# over HTTP


BEARER = {"authorization": f"Bearer {KEY}"}


async def an_ended_run(api: Api, **headers: str) -> str:
    async with scripted("shop", f"http://127.0.0.1:{api.server.port}") as shop:
        shop.answers["one"] = lambda call: returned(1)
        assert (await shop.register(**headers)).status_code == 200
        sent = await api.http.post("/e/an-event-key-of-ours", json={"name": "shop/one", "data": {}})
        (event,) = sent.json()["ids"]

        async def ended() -> str | None:
            runs = (await api.http.get(f"/v1/events/{event}/runs", headers=headers)).json()["data"]
            return str(runs[0]["run_id"]) if runs and runs[0]["ended_at"] else None

        return await until(ended)


@pytest.fixture
async def closed(start: Start) -> Api:
    return await start(dev=False, signing_key=KEY, event_keys=("an-event-key-of-ours",))


async def test_a_token_opens_the_stream_of_its_run_and_nothing_else(closed: Api) -> None:
    run, other = await an_ended_run(closed, **BEARER), await an_ended_run(closed, **BEARER)
    made = await closed.http.post(f"/api/runs/{run}/token", json={"lifetime_s": 60}, headers=BEARER)
    assert made.status_code == 201
    told = made.json()
    assert told["path"] == f"/api/runs/{run}/stream?token={told['token']}"
    read = await closed.http.get(told["path"])
    assert read.status_code == 200
    assert read.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert read.headers["cache-control"] == "no-store"
    assert "event: end" in read.text
    token = {"token": told["token"]}
    assert (await closed.http.get(f"/api/runs/{run.lower()}/stream", params=token)).status_code == 200
    for path in (f"/api/runs/{other}/stream", f"/api/runs/{run}", f"/api/runs/{run}/follow", f"/v1/runs/{run}"):
        assert (await closed.http.get(path, params=token)).status_code == 401, path
    assert (await closed.http.post(f"/api/runs/{run}/token", params=token)).status_code == 401
    assert (await closed.http.get(f"/api/runs/{run}/stream")).status_code == 401
    assert (await closed.http.get(f"/api/runs/{run}/stream", headers=BEARER)).status_code == 200


async def test_a_token_that_has_expired_says_so_and_what_to_do(closed: Api) -> None:
    run = await an_ended_run(closed, **BEARER)
    old = read_token(RunId(run), int(time.time()) - 1, [KEY])
    refused = await closed.http.get(f"/api/runs/{run}/stream", params={"token": old})
    assert refused.status_code == 401
    assert refused.json()["error"] == "the token has expired; make another with POST /api/runs/{id}/token"


async def test_a_token_is_for_a_run_that_is_there_and_a_time_that_can_be(closed: Api) -> None:
    assert (await closed.http.post(f"/api/runs/{RUN}/token", headers=BEARER)).status_code == 404
    run = await an_ended_run(closed, **BEARER)
    for lifetime in (0, 86_401, "60", True, 1.5):
        refused = await closed.http.post(f"/api/runs/{run}/token", json={"lifetime_s": lifetime}, headers=BEARER)
        assert (refused.status_code, refused.json()["field"]) == (400, "lifetime_s")
    assert (await closed.http.post(f"/api/runs/{run}/token", headers=BEARER)).status_code == 201


async def test_any_page_may_read_with_a_token_when_the_server_has_a_key(closed: Api) -> None:
    run = await an_ended_run(closed, **BEARER)
    path = (await closed.http.post(f"/api/runs/{run}/token", headers=BEARER)).json()["path"]
    read = await closed.http.get(path, headers={"origin": "https://shop.example"})
    assert (read.status_code, read.headers["access-control-allow-origin"]) == (200, "*")


async def test_without_keys_pages_of_this_machine_need_a_token_and_others_may_not(api: Api) -> None:
    run = await an_ended_run(api)
    stream = f"/api/runs/{run}/stream"
    path = (await api.http.post(f"/api/runs/{run}/token")).json()["path"]
    here, away = {"origin": "http://localhost:3000"}, {"origin": "https://evil.example"}
    own = {"origin": f"http://127.0.0.1:{api.port}"}
    assert (await api.http.get(stream)).status_code == 200
    assert (await api.http.get(stream, headers=own)).status_code == 200
    assert (await api.http.get(stream, headers=here)).status_code == 401
    read = await api.http.get(path, headers=here)
    assert (read.status_code, read.headers["access-control-allow-origin"]) == (200, "http://localhost:3000")
    assert (await api.http.get(path, headers=away)).status_code == 403
    assert (await api.http.get(f"/api/runs/{run}", headers=here)).status_code == 403
    assert (await api.http.post(f"/api/runs/{run}/token", headers=here)).status_code == 403


async def test_no_more_streams_are_open_than_may_be(start: Start) -> None:
    api = await start(limits=Limits(max_streams=0))
    run = await an_ended_run(api)
    refused = await api.http.get(f"/api/runs/{run}/stream")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert "max_streams" in refused.json()["error"]
