"""Pieces that another node publishes, for those who subscribe here.

    here                                                         there, where the step is made
    somebody subscribes ── want: this run, up to here I have it ──▶ all nodes
                        ◀── pieces, at most every 10 ms ─────────── whoever has some, and from now on
    still somebody? again every 5 s ──▶                             forgotten after 15 s

Each node relays what it publishes itself and nothing else, and only where it is wanted, so pieces that nobody else
follows cost nothing. They are numbered: what got lost is noticed by the next that comes, and wanted again.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from stepwell.streams.log import Chunk, Source
from stepwell.streams.streams import gap_event

if TYPE_CHECKING:
    from stepwell.model.ids import RunId
    from stepwell.store.mail import Mail
    from stepwell.streams.log import Log
    from stepwell.streams.streams import Streams

WANT_S = 5.0
KEEP_S = 15.0
EVERY_S = 0.010
_PIECES = 200
"""In one text."""


class Relay:
    """Joins the streams of a node to those of the others."""

    def __init__(self, streams: Streams, mail: Mail) -> None:
        self._streams = streams
        self._mail = mail
        self._loop = asyncio.get_running_loop()
        self._wanted: dict[RunId, dict[str, _Wanted]] = {}  # by others, by their address
        self._news: set[RunId] = set()
        self._flush: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        mail.heard = self._hear
        mail.back = self._want_all
        streams.on_published = self._published
        streams.on_subscribed = self._want
        streams.patience_s = 1.0
        self._want_again()

    def close(self) -> None:
        for timer in (self._flush, self._again):
            if timer is not None:
                timer.cancel()

    # for those who subscribe here

    def _want_again(self) -> None:
        self._again = self._loop.call_later(WANT_S, self._want_again)
        self._want_all()
        now = self._loop.time()
        for run, by in list(self._wanted.items()):
            for address in [address for address, one in by.items() if one.until < now]:
                del by[address]
            if not by:
                del self._wanted[run]

    def _want_all(self) -> None:
        self._ask(list(self._streams.read()))

    def _want(self, run: RunId) -> None:
        self._ask([run])

    def _ask(self, runs: list[RunId]) -> None:
        if runs:
            wanted = [[run, self._streams.log(run).heard] for run in runs]
            self._mail.tell(None, _text({"want": wanted, "from": self._mail.address}))

    def _take(self, run: RunId, origin: str, since: int, pieces: list[list[Any]]) -> None:
        log = self._streams.log(run)
        if not log.readers:
            return
        last = log.heard.get(origin, 0)
        if since > last and origin in log.heard:
            self._want(run)  # something between got lost
            return
        now = self._streams.clock()
        last = max(last, since)
        for number, step, name, text in pieces:
            if number <= last:
                continue
            source = log.steps.get(step)
            if source is None or source.origin != origin:
                source = Source(origin, step, name)
            event = text.encode()
            if number > last + 1 and origin in log.heard:
                event = gap_event(number - last - 1) + event
            log.heard[origin] = last = number
            self._streams.add(log, Chunk(number, source, now, event))
        self._streams.settle(run, log, now)

    # for those who subscribe elsewhere

    def _hear(self, text: str) -> None:
        try:
            told = json.loads(text)
            if "want" in told:
                for run, heard in told["want"]:
                    self._remember(run, told["from"], heard)
            elif "pieces" in told:
                self._take(told["run"], told["origin"], told["since"], told["pieces"])
        except (ValueError, KeyError, TypeError):  # of a release to come
            return

    def _remember(self, run: RunId, address: str, heard: dict[str, int]) -> None:
        log = self._streams.known(run)
        sent = heard.get(log.origin, 0) if log is not None else 0
        self._wanted.setdefault(run, {})[address] = _Wanted(sent, self._loop.time() + KEEP_S)
        if log is not None and log.number > sent:
            self._news.add(run)
            self._send()

    def _published(self, run: RunId) -> None:
        if run not in self._wanted:
            return
        self._news.add(run)
        log = self._streams.known(run)
        if log is not None and log.complete:
            self._send()  # at once: the end of the step follows
        elif self._flush is None:
            self._flush = self._loop.call_later(EVERY_S, self._send)

    def _send(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        news, self._news = self._news, set()
        for run in news:
            log = self._streams.known(run)
            if log is not None:
                for address, wanted in self._wanted.get(run, {}).items():
                    self._send_to(address, run, log, wanted)

    def _send_to(self, address: str, run: RunId, log: Log, wanted: _Wanted) -> None:
        chunks = log.own_since(wanted.sent)
        for at in range(0, len(chunks), _PIECES):
            some = chunks[at : at + _PIECES]
            pieces = [[one.number, one.source.step, one.source.name, one.text.decode()] for one in some]
            told = {"pieces": pieces, "run": run, "origin": log.origin, "since": wanted.sent}
            self._mail.tell(address, _text(told))
            wanted.sent = some[-1].number


class _Wanted:
    """Pieces that another node wants of a run: the number of the last that it was sent, and until when."""

    __slots__ = ("sent", "until")

    def __init__(self, sent: int, until: float) -> None:
        self.sent = sent
        self.until = until


def _text(told: dict[str, Any]) -> str:
    return json.dumps(told, separators=(",", ":"))
