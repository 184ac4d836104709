"""A request's credentials do not get into what we say about a service's answer either."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepwell.model.op import Offload
from stepwell.wire.inngest.ops import read_ops, write_ops
from stepwell.wire.inngest.reply import Failure, Ops, read_reply

CANARY = "canary-77aa01"
OPTS = {
    "AIGateway": {
        "type": "step.ai.infer",
        "url": f"https://api.example.com/v1/chat/completions?key={CANARY}",
        "headers": {"x-other": CANARY},
        "auth_key": CANARY,
        "format": "openai-chat",
        "body": {"model": "m"},
    },
    "Gateway": {"url": f"https://u:{CANARY}@example.com/?token={CANARY}", "headers": {"cookie": CANARY}, "body": "x"},
}
HEADERS = {"x-inngest-sdk": "js:v4", "content-type": "application/json"}


def op(kind: str, **changes: Any) -> dict[str, Any]:
    return {"op": kind, "id": "a" * 40, "displayName": "ask", "opts": {**OPTS[kind], **changes}}


@pytest.mark.parametrize("kind", OPTS)
def test_an_op_shows_no_credential_and_keeps_them_all(kind: str) -> None:
    (read,) = read_ops([op(kind)], now=0)
    assert isinstance(read, Offload)
    assert CANARY not in repr(read)
    assert isinstance(read.request, bytes)
    assert CANARY.encode() not in read.request
    assert read.sealed is not None
    assert CANARY in read.sealed.url
    (again,) = read_ops(json.loads(write_ops([read])), now=0)
    assert again == read


@pytest.mark.parametrize("kind", OPTS)
@pytest.mark.parametrize("cut", [0, 1, 30])
def test_an_answer_that_cannot_be_read_is_not_shown(kind: str, cut: int) -> None:
    body = json.dumps([op(kind)]).encode()
    for status, headers in ((206, HEADERS), (500, HEADERS), (206, {}), (201, HEADERS)):
        reply = read_reply(status, headers, body[: len(body) - cut] + (b"x" if not cut else b""), now=0)
        assert isinstance(reply, Failure)
        assert CANARY.encode() not in reply.error


@pytest.mark.parametrize("kind", OPTS)
@pytest.mark.parametrize(
    "changes", [{"url": None}, {"headers": [CANARY]}, {"body": [CANARY]}, {"headers": {"a": {"b": CANARY}}}]
)
def test_a_request_that_cannot_be_read_names_the_member_and_not_its_value(kind: str, changes: dict[str, Any]) -> None:
    (read,) = read_ops([op(kind, **changes)], now=0)
    assert not isinstance(read, Offload)
    assert CANARY not in repr(read)


def test_what_has_no_effect_is_told_without_its_value_if_it_may_be_secret() -> None:
    reply = read_reply(206, HEADERS, json.dumps([op("AIGateway", surprise=CANARY)]).encode(), now=0)
    assert isinstance(reply, Ops)
    assert CANARY not in repr(reply)


@pytest.mark.parametrize("kind", OPTS)
def test_a_named_credential_needs_nothing_secret_and_travels_both_ways(kind: str) -> None:
    plain = {"url": "https://api.example.com/", "headers": {"stepwell-credential": "openai", "Authorization": CANARY}}
    (read,) = read_ops([op(kind, **plain)], now=0)
    assert isinstance(read, Offload)
    assert isinstance(read.request, bytes)
    assert json.loads(read.request)["credential"] == "openai"
    assert read.sealed is None
    (again,) = read_ops(json.loads(write_ops([read])), now=0)
    assert again == read
