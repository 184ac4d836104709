"""Takes errands from the node, makes their requests, and says how each ended.

    keep(credentials) ─▶ make(errand) ─▶ request, answer ─▶ deliver(OffloadEnded)
                              └──▶ stop: the request is given up, its credentials are forgotten

Credentials are held in memory, for one step each, until the step has its result or the run its end; the oldest are
dropped when there are too many, which costs no more than a function that is asked again. With `seal` the job of the
request has them too, encrypted, and they are gone with it. They go into requests and nowhere else: what is recorded,
logged or told of a request is made from its recorded form.

Elsewhere: one errand from its request to its outcome (`errand.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import msgspec

from stepwell.gateway.credentials import Find, Named
from stepwell.gateway.errand import Doing, Outcome, beside, own_error
from stepwell.gateway.fetch import MAX_REDIRECTS, Fetcher, FetchFailed
from stepwell.gateway.policy import Policy
from stepwell.gateway.prices import Prices
from stepwell.model.credential import CannotOpen, Cipher, CredentialRefused
from stepwell.model.dispatch import Deliver, Errand
from stepwell.model.errors import StepwellError
from stepwell.model.ids import Instant, RunId, StepId
from stepwell.model.job import Claim
from stepwell.model.message import OffloadEnded
from stepwell.model.offload import Exchange, Sealed
from stepwell.model.payload import canonical
from stepwell.model.stream import Publisher
from stepwell.wire.models.credentials import Credentials
from stepwell.wire.offload import read_request, split

log = logging.getLogger("stepwell.gateway")

Clock: TypeAlias = Callable[[], Instant]

IDEMPOTENCY_HEADERS: Mapping[str, str] = {
    "api.stripe.com": "Idempotency-Key",
    "api.openai.com": "Idempotency-Key",
    "api.adyen.com": "Idempotency-Key",
    "api.mollie.com": "Idempotency-Key",
    "api.resend.com": "Idempotency-Key",
    "api.paypal.com": "PayPal-Request-Id",
    "api-m.paypal.com": "PayPal-Request-Id",
}
"""Hosts, with their port if it is not the usual one, that take a repeated request for the same one by this header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Limits of the requests that the server makes."""

    allow_addresses: tuple[str, ...] = ()
    """Places that are not public and may be called all the same: `host:port`, `address:port` or `network/bits:port`."""
    allow_loopback: bool = False
    """Whether this machine itself may be called, on any port; so it is in development."""
    timeout_s: float = 900.0
    """For one request, from its beginning to the end of its answer; a function may ask for less."""
    connect_timeout_s: float = 10.0
    """For one connection, with the look-up of its name and TLS."""
    max_answer_bytes: int = 8 * 1024 * 1024
    """Of an answer, after it was unpacked."""
    answers_bytes: int = 128 * 1024 * 1024
    """Of the large answers to fetches that are being read, together; more wait."""
    max_redirects: int = MAX_REDIRECTS
    """Followed in a row by one request."""
    max_retry_after_s: float = 86_400.0
    """The longest pause that a Retry-After can bring about."""
    requests: int = 1000
    """Made at a time; more wait."""
    requests_per_host: int = 100
    """Made at a time to one host; more wait."""
    credentials: int = 100_000
    """Steps whose credentials are kept; the functions of the oldest are asked again when they are needed."""
    credentials_s: float = 2 * 86_400.0
    """How long they are kept at most: another server may have ended the run, which nobody tells this one."""
    idempotency_headers: Mapping[str, str] = field(default_factory=lambda: IDEMPOTENCY_HEADERS)
    """Which header tells a host that a repeated request is the same one."""


@dataclass(slots=True)
class _Flight:
    """One errand under way."""

    errand: Errand
    task: asyncio.Task[None] | None = None


class HttpGateway:
    """Makes requests over the network.

    Args:
        deliver: Takes each outcome.
        settings: Limits, and what may be called.
        find: Knows the credentials that the server keeps; without it there are none.
        cipher: Opens the credentials that jobs keep; with `seal` they keep those of all requests.
        publisher: Takes the pieces of answers that somebody may want to see while they come.
        prices: What calls of models cost.
        clock: The wall clock, in milliseconds since 1970.

    Raises:
        ConfigurationError: A place to be allowed cannot be read.
    """

    def __init__(
        self,
        deliver: Deliver,
        settings: GatewaySettings | None = None,
        *,
        find: Find | None = None,
        cipher: Cipher | None = None,
        seal: bool = False,
        publisher: Publisher | None = None,
        prices: Prices | None = None,
        clock: Clock = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._deliver = deliver
        self._settings = settings = settings or GatewaySettings()
        self._find = find
        self._publisher = publisher
        self._prices = prices or Prices()
        self._clock = clock
        self._fetcher = Fetcher(
            Policy(settings.allow_addresses, loopback=settings.allow_loopback),
            connect_timeout_s=settings.connect_timeout_s,
            per_host=settings.requests_per_host,
        )
        self._places = asyncio.Semaphore(settings.requests)
        self._room = asyncio.Semaphore(max(1, settings.answers_bytes // settings.max_answer_bytes))
        self._cipher, self._seals = cipher, seal and cipher is not None
        self._sealed: OrderedDict[tuple[RunId, StepId], tuple[Instant, Sealed]] = OrderedDict()
        self._flights: dict[tuple[RunId, StepId], _Flight] = {}
        self._priced: asyncio.Future[None] | None = None
        self._closed = self._draining = False
        self.held_back: list[Claim] = []
        """The jobs of requests that were not made any more."""

    # Gateway

    def keep(self, run: RunId, step: StepId, sealed: Sealed) -> None:
        now, settings = self._clock(), self._settings
        self._sealed[run, step] = (now, sealed)
        self._sealed.move_to_end((run, step))
        oldest = now - int(settings.credentials_s * 1000)
        while len(self._sealed) > settings.credentials or next(iter(self._sealed.values()))[0] < oldest:
            self._sealed.popitem(last=False)

    def holds(self, run: RunId, step: StepId) -> bool:
        return (run, step) in self._sealed

    def seal(self, run: RunId, step: StepId, given: Sealed | None) -> bytes | None:
        if not self._seals:
            return None
        if given is None:
            _, given = self._sealed.get((run, step), (0, None))
        assert self._cipher is not None
        return None if given is None else self._cipher.seal(msgspec.msgpack.encode(given), _bound(run, step))

    def unseal(self, run: RunId, step: StepId, sealed: bytes) -> str:
        if self._cipher is None:
            return "this server has no secret key (STEPWELL_SECRET_KEY)"
        try:
            opened = self._cipher.open(sealed, _bound(run, step))
        except CannotOpen as err:
            return str(err)
        self.keep(run, step, msgspec.msgpack.decode(opened, type=Sealed))
        return ""

    def make(self, errand: Errand) -> None:
        if self._closed:
            return
        if self._draining:
            self.held_back.append(Claim(errand.job, errand.fence))
            return
        key = errand.run, errand.step
        self._give_up(key)  # the same step by a job that nobody believes in any more
        flight = self._flights[key] = _Flight(errand)
        _, sealed = self._sealed.get(key, (0, None))
        flight.task = asyncio.get_running_loop().create_task(self._fly(flight, sealed), name=f"request {errand.job}")

    def stop(self, run: RunId, step: StepId) -> None:
        self._sealed.pop((run, step), None)
        self._give_up((run, step))

    def drain(self) -> None:
        """Make no new requests."""
        self._draining = True

    async def close(self) -> None:
        self._closed = True
        tasks = [flight.task for flight in self._flights.values() if flight.task is not None]
        self._flights.clear()
        self._sealed.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._fetcher.close()

    @property
    def in_flight(self) -> int:
        """Requests taken and not ended, those that wait for a place included."""
        return len(self._flights)

    def _give_up(self, key: tuple[RunId, StepId]) -> None:
        flight = self._flights.pop(key, None)
        if flight is not None and flight.task is not None:
            flight.task.cancel()

    # one errand

    async def _fly(self, flight: _Flight, sealed: Sealed | None) -> None:
        errand = flight.errand
        async with self._places:
            outcome = await self._outcome(errand, sealed)
        key = errand.run, errand.step
        if self._flights.get(key) is not flight:
            return
        del self._flights[key]
        asked = outcome.retry_after_ms if outcome.retry else None
        if asked is not None:
            asked = max(0, min(asked, int(self._settings.max_retry_after_s * 1000)))
        message = OffloadEnded(
            errand.step,
            errand.job,
            outcome.exchange,
            output=outcome.output,
            error=outcome.error,
            retry=outcome.retry,
            retry_at=None if asked is None else self._clock() + asked,
        )
        self._deliver(errand.run, errand.job, errand.fence, message)

    def _load_prices(self) -> asyncio.Future[None]:
        """Begin to load the price list, which takes half a second the first time."""
        if self._priced is None:
            self._priced = asyncio.create_task(asyncio.to_thread(self._prices.load), name="price list")
        return self._priced

    async def _outcome(self, errand: Errand, sealed: Sealed | None) -> Outcome:
        """Make the request. Whatever happens becomes an outcome."""
        settings = self._settings
        try:
            request = await beside(len(errand.request), read_request, errand.request)
        except ValueError as err:
            exchange = Exchange(job=errand.job, started_at=self._clock())
            return Outcome(exchange, error=own_error(errand.kind, f"the request cannot be read: {err}", "invalid"))
        credentials = Credentials()
        if sealed is not None:
            url, headers, credentials = split(sealed.url, dict(sealed.headers), sealed.auth_key)
            request = replace(request, url=url, headers=headers)
        named = None
        if request.credential:
            try:
                named = await self._named(errand, request.credential)
            except StepwellError as err:
                exchange = Exchange(job=errand.job, started_at=self._clock(), url=request.url)
                error = own_error(errand.kind, str(err), err.code.lower())
                return Outcome(exchange, error=error, retry=err.retryable)
        doing = Doing(
            errand=errand,
            request=request,
            credentials=credentials,
            fetcher=self._fetcher,
            prices=self._prices,
            load_prices=self._load_prices,
            room=self._room,
            now=self._clock,
            max_answer_bytes=settings.max_answer_bytes,
            max_redirects=settings.max_redirects,
            idempotency_headers=settings.idempotency_headers,
            named=named,
            publisher=self._publisher,
        )
        limit_s = settings.timeout_s
        if request.timeout_ms is not None:
            limit_s = min(limit_s, request.timeout_ms / 1000)
        try:
            async with asyncio.timeout(limit_s):
                return await doing.do()
        except FetchFailed as err:
            return Outcome(await doing.broken(), error=doing.error(str(err), err.code), retry=not err.final)
        except TimeoutError:
            text = f"no complete answer came within {limit_s:g} s, the limit"
            return Outcome(await doing.broken(), error=doing.error(text, "timed_out"), retry=True)
        except CredentialRefused as err:
            return Outcome(doing.told(), error=doing.error(str(err), err.code.lower()))
        except ValueError as err:
            return Outcome(doing.told(), error=doing.error(f"the request cannot be made: {err}", "invalid_request"))
        except Exception as err:
            # Without its text, which may hold what must not be logged.
            text = "the request of step %r of run %s ended in an error of ours: %s in %s"
            log.error(text, errand.name, errand.run, type(err).__name__, _place(err))
            return Outcome(doing.told(), error=doing.error("the server failed at the request", "internal_error"))

    async def _named(self, errand: Errand, name: str) -> Named:
        """A credential of the server's. Raises `StepwellError`: it cannot be used, or not now."""
        if self._find is None:
            raise CredentialRefused("this server keeps no credentials")
        return Named(await self._find(errand.env, name))


def _bound(run: RunId, step: StepId) -> bytes:
    """What the credentials of a step are sealed together with: they are of no use to another one."""
    return canonical(["step", run, step])


def _place(err: BaseException) -> str:
    """File and line where an error was raised."""
    trace = err.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "an unknown place"
