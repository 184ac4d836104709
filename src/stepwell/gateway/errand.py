"""One errand: its request made, its answer read, and what both come to.

A fetch has any status as its result. An inference has a 2xx as its result; every other answer is an error, made again
when its kind says that this can help. What came of a request without an answer is unknown, so it is made again, under
the same key for those who can tell by it that it is the same request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import msgspec

from stepwell.gateway.credentials import Named
from stepwell.gateway.fetch import Fetcher, Incoming, Outgoing, Timing
from stepwell.gateway.live import EVERY_S, Live, Overheard
from stepwell.gateway.prices import Prices
from stepwell.gateway.scrub import Scrubber
from stepwell.model.dispatch import Errand
from stepwell.model.ids import Instant
from stepwell.model.offload import INFER, Exchange
from stepwell.model.payload import canonical
from stepwell.model.stream import Publisher
from stepwell.wire.models import detect, dialect_for
from stepwell.wire.models.credentials import Credentials
from stepwell.wire.models.dialect import Answer, AnswerReader, Dialect
from stepwell.wire.models.errors import AnswerError, StreamCut, StreamFailed
from stepwell.wire.models.failure import Failure, retry_after_ms
from stepwell.wire.offload import FetchAnswer, Request, is_plain_header, split, write_answer

P = ParamSpec("P")
T = TypeVar("T")

_THREAD_BYTES = 256 * 1024  # a text that is larger is read and written beside the event loop
_ERROR_BYTES = 1024 * 1024  # of a failing provider's answer


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended: a result, an error, or an error whose answer is the result if it stays the last."""

    exchange: Exchange
    output: bytes | None = None
    error: bytes | None = None
    retry: bool = False
    retry_after_ms: int | None = None


@dataclass(slots=True)
class Doing:
    """An errand in the making.

    `request` and `credentials` are its two halves, `named` is a credential that the server adds, `publisher` takes the
    pieces of an answer while it comes. `load_prices` begins
    to load the price list if nobody has yet, `room` has the places for large answers, and `exchange` is what can be
    said of the request so far.
    """

    errand: Errand
    request: Request
    credentials: Credentials
    fetcher: Fetcher
    prices: Prices
    load_prices: Callable[[], asyncio.Future[None]]
    room: asyncio.Semaphore
    now: Callable[[], Instant]
    max_answer_bytes: int
    max_redirects: int
    idempotency_headers: Mapping[str, str]
    named: Named | None = None
    publisher: Publisher | None = None
    timing: Timing = field(default_factory=Timing)
    exchange: Exchange = field(init=False)
    _reading: tuple[Dialect, AnswerReader] | None = field(init=False, default=None)
    scrub: Scrubber = field(init=False)
    live: Live | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        kept = self.named.secrets() if self.named is not None else ()
        self.scrub = Scrubber([*kept, *self.credentials.named()])
        self.exchange = Exchange(job=self.errand.job, started_at=self.now(), url=self.request.url)

    async def do(self) -> Outcome:
        """Make the request and read its answer.

        Raises:
            FetchFailed: There is none.
            ValueError: The request cannot be made as it is.
        """
        whole = False
        try:
            outcome = await (self._infer() if self.errand.kind == INFER else self._fetch())
            whole = outcome.error is None
            return outcome
        finally:
            if self.live is not None and not whole:
                self.live.fail()

    def _go_live(self) -> None:
        if self.publisher is not None and self.live is None:
            self.live = Live(self.errand, self.publisher, self.scrub)

    def told(self, *, cut: bool = False) -> Exchange:
        """What can be said of the request by now; `cut` if nothing more of its answer will come."""
        timing = self.timing
        return msgspec.structs.replace(
            self.exchange,
            cut=cut and self.exchange.status > 0,
            hidden=self.scrub.found,
            duration_ms=round(timing.now_ms(), 1),
            redirects=timing.redirects,
            received_bytes=timing.received_bytes,
            connected_ms=_rounded(timing.connected_ms),
            first_byte_ms=_rounded(timing.first_byte_ms),
        )

    async def broken(self) -> Exchange:
        """The same of a request without a whole answer. What a model used until then, as far as it said, is spent."""
        if self._reading is not None:
            dialect, reader = self._reading
            await self._account(dialect, reader.answer_so_far())
        return self.told(cut=True)

    def _note(self, **what: Any) -> None:
        self.exchange = msgspec.structs.replace(self.exchange, **what)

    # fetch

    async def _fetch(self) -> Outcome:
        request, credentials = self.request, self.credentials
        url, headers = credentials.put_back(request.url, request.headers)
        limit = self.max_redirects if request.max_redirects is None else min(request.max_redirects, self.max_redirects)
        spoken = detect(request.url)
        outgoing = self._outgoing(request.method, url, headers, request.body, spoken, max_redirects=limit)
        dialect = spoken if request.method == "POST" and request.body else None
        if dialect is not None:
            self.load_prices()
        async with self.fetcher.open(outgoing, self.timing) as incoming:
            self._note(status=incoming.status, url=self._shown(incoming.url))
            try:
                body = await self._read(incoming, dialect)
            finally:
                if incoming.large:
                    self.room.release()
            answer = FetchAnswer(
                self._shown(incoming.url),
                incoming.status,
                incoming.reason,
                incoming.headers,
                body,
                round(self.timing.now_ms()),
                request.echo,
            )
        if dialect is not None and 200 <= answer.status < 300:
            await self._read_as_model(dialect, answer)
        output = await beside(len(body), write_answer, answer, exact=request.exact)
        if answer.status not in request.retry_statuses:
            return Outcome(self.told(), output)
        asked = retry_after_ms(dict(answer.headers), now_ms=self.now())
        self._note(retry_after_ms=asked)
        text = f"{_host(answer.url)} answered with status {answer.status}"
        return Outcome(self.told(), output, self.error(text, "http_status"), retry=True, retry_after_ms=asked)

    async def _read(self, incoming: Incoming, dialect: Dialect | None) -> bytes:
        """The body of the answer to a fetch. A model's that comes as a stream, as its library asked for, is live."""
        content_type = incoming.content_type
        if dialect is None or not content_type.startswith("text/event-stream"):
            return await incoming.read(self.max_answer_bytes, self.room)
        self._go_live()
        if self.live is None:
            return await incoming.read(self.max_answer_bytes, self.room)
        overheard = Overheard(self.live, dialect.reader(content_type, limit_bytes=self.max_answer_bytes))
        return await incoming.read(self.max_answer_bytes, self.room, every_s=EVERY_S, each=overheard.feed)

    async def _read_as_model(self, dialect: Dialect, answer: FetchAnswer) -> None:
        """Take note of what a model used that was asked by a plain request, as libraries do."""
        self._note(provider=dialect.provider, model=dialect.model(self.request.url, self.request.body or b""))
        reader = dialect.reader(_content_type(answer.headers), limit_bytes=self.max_answer_bytes)
        try:
            await beside(len(answer.body), reader.feed, answer.body)
            told = (await beside(len(answer.body), reader.finish)).answer
        except AnswerError:  # the function gets it as it is
            told = reader.answer_so_far()
        await self._account(dialect, told)
        if self.live is not None:
            self.live.finish(told, **self._used())

    def _used(self) -> dict[str, Any]:
        """What a call used, for those who follow it."""
        exchange = self.exchange
        return {
            "model": exchange.model,
            "input_tokens": exchange.input_tokens,
            "output_tokens": exchange.output_tokens,
            "cost_usd": exchange.cost_usd,
        }

    # infer

    async def _infer(self, *, stream: bool = True) -> Outcome:
        request, credentials = self.request, self.credentials
        if request.stream:
            self._go_live()
        dialect = dialect_for(request.format, request.url)
        self.load_prices()
        asked = await beside(
            len(request.body or b""),
            dialect.request,
            request.url,
            headers=request.headers,
            body=request.body or b"{}",
            credentials=credentials,
            stream=stream,
        )
        self._note(provider=dialect.provider, model=dialect.model(request.url, asked.body))
        limit = self.max_redirects
        suffix = "" if stream else "-plain"  # the request with a stream had its answer
        outgoing = self._outgoing(
            "POST", asked.url, asked.headers, asked.body, dialect, max_redirects=limit, suffix=suffix
        )
        async with self.fetcher.open(outgoing, self.timing) as incoming:
            self._note(status=incoming.status, url=self._shown(incoming.url))
            if not 200 <= incoming.status < 300:
                body = self.scrub.clean(await incoming.beginning(_ERROR_BYTES))
                failure = dialect.failure(incoming.status, dict(incoming.headers), body, now_ms=self.now())
                if failure.stream_refused and stream:
                    return await self._infer(stream=False)
                return self._refused(failure, body)
            return await self._answered(dialect, incoming)

    async def _answered(self, dialect: Dialect, incoming: Incoming) -> Outcome:
        reader = dialect.reader(incoming.content_type, limit_bytes=self.max_answer_bytes)
        self._reading = dialect, reader
        live = self.live
        try:
            async with aclosing(incoming.chunks(every_s=EVERY_S if live is not None else 0.0)) as chunks:
                async for chunk in chunks:
                    deltas = reader.feed(chunk)
                    if deltas and self.exchange.first_token_ms is None:
                        self._note(first_token_ms=_rounded(self.timing.now_ms()))
                    if live is not None:
                        live.add(deltas)
                    if reader.done:
                        incoming.told = True
                        break
            answered = await beside(self.timing.received_bytes, reader.finish)
        except StreamFailed as err:
            await self._account(dialect, reader.answer_so_far())
            said = self.scrub.clean(canonical({"message": err.failure.message}))
            return self._refused(err.failure, said)
        except AnswerError as err:
            await self._account(dialect, reader.answer_so_far())
            text = f"{_host(self.exchange.url)}: {err}"
            cut = isinstance(err, StreamCut)
            return Outcome(self.told(cut=cut), error=self.error(text, err.code.lower()), retry=err.retryable)
        await self._account(dialect, answered.answer)
        if live is not None:
            live.finish(answered.answer, **self._used())
        body = self.scrub.clean(answered.body)
        if dialect.raw:
            body = _as_json(body)
        if self.request.exact:
            return Outcome(self.told(), await beside(len(body), self._told_exactly, body, answered.answer))
        return Outcome(self.told(), await beside(len(body), _canonical, body))

    def _told_exactly(self, body: bytes, answer: Answer) -> bytes:
        """The answer with what was read from it, so that nobody has to know the dialect."""
        exchange = self.exchange
        told = {
            "text": answer.text,
            "model": exchange.model,
            "tool_calls": [
                {"id": call.id, "name": call.name, "arguments": call.arguments} for call in answer.tool_calls
            ],
            "finish_reasons": list(answer.finish_reasons),
            "reasoning": answer.reasoning,
            "refusal": answer.refusal,
            "usage": None
            if answer.usage is None
            else {
                "input_tokens": answer.usage.input_tokens,
                "output_tokens": answer.usage.output_tokens,
                "cached_tokens": answer.usage.cached_read_tokens,
                "reasoning_tokens": answer.usage.reasoning_tokens,
            },
            "cost_usd": exchange.cost_usd,
            "response": msgspec.json.decode(body),
        }
        return self.scrub.clean(canonical(told))

    async def _account(self, dialect: Dialect, answer: Answer) -> None:
        """Take note of what was used, and what it costs."""
        usage, model = answer.usage, answer.model or self.exchange.model
        told: dict[str, Any] = {
            "model": model,
            "response_id": answer.response_id,
            "finish": ", ".join(answer.finish_reasons),
        }
        if usage is not None:
            told |= {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "cached_tokens": usage.cached_read_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
            }
        if answer.cost_usd is not None:
            told["cost_usd"] = f"{answer.cost_usd:.9f}".rstrip("0").rstrip(".")
        elif usage is not None:
            loaded = self.load_prices()
            if not loaded.done():
                await asyncio.shield(loaded)
            cost = self.prices.cost(dialect.provider, self.request.url, model, usage, at=datetime.now(UTC))
            if cost is not None:
                told |= {"cost_usd": str(cost.usd), "prices": cost.version}
        self._note(**told)

    def _refused(self, failure: Failure, body: bytes) -> Outcome:
        """An answer of a provider that is an error. The message is that of the protocol, section 5.5."""
        self._note(retry_after_ms=failure.retry_after_ms)
        text = body.decode("utf-8", "replace")
        error = {
            "name": "AIGatewayError",
            "message": f"Error making AI request: unsuccessful status code: {failure.status}",
            "data": text,
            "stack": text,
        }
        return Outcome(
            self.told(), error=canonical(error), retry=failure.retryable, retry_after_ms=failure.retry_after_ms
        )

    # both

    def _outgoing(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        dialect: Dialect | None,
        *,
        max_redirects: int,
        suffix: str = "",
    ) -> Outgoing:
        """The request as it is sent; `suffix` goes behind the key that tells whether it is a repeated one."""
        if self.named is not None:
            self.named.check(url)
            url, headers = self.named.added(url, headers, dialect)
        sent = dict(headers)
        self._note(sent_bytes=len(body or b""))
        name = self.idempotency_headers.get(urlsplit(url).netloc.rpartition("@")[2].lower())
        own = {"idempotency-key", "x-idempotency-key", (name or "").lower()}
        if name is not None and method.upper() not in {"GET", "HEAD"} and not own & {each.lower() for each in sent}:
            sent[name] = f"{self.errand.key()}{suffix}"
        return Outgoing(
            method=method,
            url=url,
            headers=sent,
            body=body,
            secret=frozenset(name.lower() for name in sent if not is_plain_header(name)),
            scrub=self.scrub,
            max_redirects=max_redirects,
        )

    def _shown(self, url: str) -> str:
        shown = self.request.url
        if url != shown:
            shown, _, _ = split(url, {}, "")
        return self.scrub.clean_text(shown)

    def error(self, text: str, code: str) -> bytes:
        """An error that the function can read, without credentials."""
        return self.scrub.clean(own_error(self.errand.kind, text, code))


def own_error(kind: str, text: str, code: str) -> bytes:
    """An error of a request that was not answered."""
    name = "AIGatewayError" if kind == INFER else "GatewayError"
    return canonical({"name": name, "message": text, "code": code})


async def beside(size_bytes: int, what: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Do something with that much text, off the event loop if it is much."""
    return await asyncio.to_thread(what, *args, **named) if size_bytes > _THREAD_BYTES else what(*args, **named)


def _canonical(body: bytes) -> bytes:
    return canonical(msgspec.json.decode(body))


def _as_json(body: bytes) -> bytes:
    """The answer of a provider of which nothing is known: JSON, or its text."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return canonical(body.decode("utf-8", "replace"))
    return body


def _content_type(headers: Iterable[tuple[str, str]]) -> str:
    return {name.lower(): value for name, value in headers}.get("content-type", "")


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)
