"""Pieces that another node publishes: all of them, once and in order, whatever gets lost on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from stepwell.model.ids import RunId, StepId
from stepwell.model.stream import USAGE, Piece
from stepwell.streams import relay as relays
from stepwell.streams.log import Reader
from stepwell.streams.relay import Relay
from stepwell.streams.streams import Streams, StreamSettings

RUN = RunId("01HZY000000000000000000000")
OTHER = RunId("01HZY000000000000000000001")
STEP = StepId("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8")


class Post:
    """Carries the mail of several nodes, in order; `lose` says which of it gets lost."""

    def __init__(self) -> None:
        self.mails: dict[str, FakeMail] = {}
        self.lose: Callable[[dict[str, Any]], bool] = lambda told: False
        self.carried: list[dict[str, Any]] = []

    def carry(self, sender: FakeMail, to: str | None, text: str) -> None:
        told = json.loads(text)
        assert text.isascii()
        if self.lose(told):
            return
        self.carried.append(told)
        for address, mail in self.mails.items():
            if mail is not sender and to in (None, address) and mail.heard is not None:
                asyncio.get_running_loop().call_soon(mail.heard, text)


class FakeMail:
    def __init__(self, post: Post, address: str) -> None:
        self.address = address
        self.heard: Callable[[str], None] | None = None
        self.back: Callable[[], None] | None = None
        self._post = post
        post.mails[address] = self

    def tell(self, to: str | None, text: str) -> None:
        self._post.carry(self, to, text)


class Node:
    def __init__(self, post: Post, name: str, **settings: Any) -> None:
        self.streams = Streams(StreamSettings(**settings))
        self.mail = FakeMail(post, name)
        self.relay = Relay(self.streams, self.mail)

    def say(self, *texts: str, run: RunId = RUN, step: StepId = STEP) -> None:
        for text in texts:
            self.streams.publish(run, step, "summarize", [Piece(text=text)])

    def subscribe(self, run: RunId = RUN) -> Reader:
        reader = self.streams.subscribe(run, lambda: None)
        reader.__enter__()
        return reader


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
async def nodes(post: Post, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Node]]:
    made: list[Node] = []
    monkeypatch.setattr(relays, "WANT_S", 0.05)
    monkeypatch.setattr(relays, "KEEP_S", 0.15)

    def node(name: str, **settings: Any) -> Node:
        made.append(Node(post, name, **settings))
        return made[-1]

    yield node
    for one in made:
        one.relay.close()


def read(reader: Reader) -> list[str]:
    """The words, with `!` for a reset and `?` for a gap."""
    found = []
    while (chunk := reader.next()) is not None:
        reader.pass_by()
        for event in chunk.text.decode().strip().split("\n\n"):
            data = json.loads(event.partition("data: ")[2])
            found.append({"reset": "!", "gap": f"?{data.get('missed')}"}.get(data["type"], data.get("text")))
    return found


async def until(reader: Reader, expected: list[str]) -> None:
    """The reader gets exactly that."""
    found: list[str] = []
    async with asyncio.timeout(5):
        while len(found) < len(expected):
            found += read(reader)
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.03)
    assert found + read(reader) == expected


async def test_who_subscribes_at_another_node_gets_what_was_said_and_what_is_said(nodes: Callable[..., Node]) -> None:
    here, there = nodes("here"), nodes("there")
    there.say("one", "two")
    reader = here.subscribe()
    await until(reader, ["one", "two"])
    there.say("three")
    await until(reader, ["three"])


async def test_what_nobody_follows_elsewhere_is_not_carried(post: Post, nodes: Callable[..., Node]) -> None:
    here, there = nodes("here"), nodes("there")
    here.subscribe()
    there.say("one", run=OTHER)
    await asyncio.sleep(0.05)
    assert [told for told in post.carried if "pieces" in told] == []


async def test_who_stops_following_is_sent_nothing_for_long(post: Post, nodes: Callable[..., Node]) -> None:
    here, there = nodes("here"), nodes("there")
    reader = here.subscribe()
    there.say("one")
    await until(reader, ["one"])
    reader.__exit__(None, None, None)
    await asyncio.sleep(0.3)
    post.carried.clear()
    there.say("two")
    await asyncio.sleep(0.05)
    assert post.carried == []


async def test_pieces_that_come_quickly_travel_together(post: Post, nodes: Callable[..., Node]) -> None:
    here, there = nodes("here"), nodes("there")
    reader = here.subscribe()
    await asyncio.sleep(0.01)
    words = [str(number) for number in range(150)]
    for word in words:
        there.say(word)
    await until(reader, words)
    assert len([told for told in post.carried if "pieces" in told]) <= 3


async def test_what_gets_lost_is_asked_for_again(post: Post, nodes: Callable[..., Node]) -> None:
    here, there = nodes("here"), nodes("there")
    reader = here.subscribe()
    there.say("one")
    await until(reader, ["one"])
    post.lose = lambda told: "pieces" in told
    there.say("two")
    await asyncio.sleep(0.03)
    post.lose = lambda told: False
    there.say("three")
    await until(reader, ["two", "three"])


async def test_what_got_lost_comes_although_nothing_else_is_said(post: Post, nodes: Callable[..., Node]) -> None:
    here, there = nodes("here"), nodes("there")
    reader = here.subscribe()
    there.say("one")
    await until(reader, ["one"])
    post.lose = lambda told: "pieces" in told
    there.say("two")
    await asyncio.sleep(0.03)
    post.lose = lambda told: False
    await until(reader, ["two"])


async def test_a_connection_that_comes_back_asks_at_once(
    post: Post, nodes: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "WANT_S", 60)
    here, there = nodes("here"), nodes("there")
    post.lose = lambda told: True
    reader = here.subscribe()
    there.say("one")
    await asyncio.sleep(0.02)
    assert read(reader) == []
    post.lose = lambda told: False
    assert here.mail.back is not None
    here.mail.back()
    await until(reader, ["one"])


async def test_who_comes_when_pieces_are_gone_there_is_told(nodes: Callable[..., Node]) -> None:
    here, there = nodes("here"), nodes("there", pieces=8)
    there.say(*map(str, range(20)))
    kept = read(there.subscribe())
    reader = here.subscribe()
    await until(reader, kept)
    assert reader.missed() == 20 - len(kept)


async def test_pieces_that_were_gone_before_they_were_asked_for_again_are_a_gap(
    post: Post, nodes: Callable[..., Node]
) -> None:
    here, there = nodes("here"), nodes("there", pieces=8)
    reader = here.subscribe()
    there.say("first")
    await until(reader, ["first"])
    post.lose = lambda told: "pieces" in told
    there.say(*map(str, range(20)))
    await asyncio.sleep(0.03)
    post.lose = lambda told: False
    kept = [text for text in read(there.subscribe()) if text != "first"]
    await until(reader, [f"?{20 - len(kept)}", *kept])


async def test_a_step_that_another_node_takes_over_begins_with_a_reset(nodes: Callable[..., Node]) -> None:
    here, there, third = nodes("here"), nodes("there"), nodes("third")
    reader = here.subscribe()
    there.say("half")
    await until(reader, ["half"])
    third.say("whole")  # there is gone
    await until(reader, ["!", "whole"])
    here.say("mine")
    await until(reader, ["!", "mine"])


async def test_a_reset_of_another_node_is_told_once(nodes: Callable[..., Node]) -> None:
    here, there, third = nodes("here"), nodes("there"), nodes("third")
    reader = here.subscribe()
    there.say("half")
    there.streams.void(RUN, STEP, "summarize")
    await until(reader, ["half", "!"])
    third.say("whole")
    await until(reader, ["whole"])


async def test_the_last_piece_of_a_step_is_known_to_be_the_last(nodes: Callable[..., Node]) -> None:
    here, there = nodes("here"), nodes("there")
    reader = here.subscribe()
    there.say('"kind":"usage",')
    await until(reader, ['"kind":"usage",'])
    assert reader.lacks(STEP)
    there.streams.publish(RUN, STEP, "summarize", [Piece(USAGE)])
    await until(reader, [""])
    assert not reader.lacks(STEP)


async def test_texts_of_a_release_to_come_are_passed_over(nodes: Callable[..., Node]) -> None:
    here = nodes("here")
    assert here.mail.heard is not None
    for text in ("nonsense", "[]", '{"other": 1}', '{"want": 5, "from": "x"}', '{"pieces": [[1]], "run": "x"}'):
        here.mail.heard(text)
