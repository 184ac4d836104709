"""When services are asked to register: at once, again and again, and those that nobody named.

    named URLs        at start, then every interval until they have registered
    known services    every interval, so that changed code is noticed; those that failed even without polling
    local ports       every interval until some service has registered in this life of the server (discovery)

What goes wrong is kept where people look: on the service when there is one, else beside the URL. It is logged when it
changes, not each time. A service is not removed because it does not answer: its runs wait for it.

Protocol: section 3.6 of the Inngest wire protocol. The requests: `stepwell.workers.sync`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from stepwell.model.errors import InvalidInput, StepwellError
from stepwell.model.function import Transport
from stepwell.wire.inngest.register import normal_url

if TYPE_CHECKING:
    from stepwell.api.site import Site

log = logging.getLogger("stepwell.services")

PORTS = (80, 443, *range(3000, 3011), 4321, 5000, 5173, 8000, 8080, 8081, 8787, 8888, *range(8910, 8916))
PATHS = ("/api/inngest", "/x/inngest", "/.netlify/functions/inngest", "/.redwood/functions/inngest")
"""Where discovery looks (section 3.6)."""
_AT_A_TIME = 8

UNREACHABLE = "unreachable"
ELSEWHERE = "registered_elsewhere"
_ELSEWHERE_TEXT = (
    "it says that it has registered, and not here; is it configured for another server? "
    "For this one set INNGEST_DEV to its address"
)


class Answer(Protocol):
    @property
    def ok(self) -> bool: ...
    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...


class Client(Protocol):
    """`stepwell.workers.sync.SyncClient`."""

    async def look(self, url: str) -> bool | None: ...

    async def ask(self, url: str) -> Answer: ...


class SyncFailed(StepwellError):
    """A service was asked to register and did not. `reason` is one of section 3.2."""

    code = "SYNC_FAILED"
    http_status = 422

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {message}")


@dataclass(slots=True)
class Target:
    """A URL that is asked because somebody named it or it was found."""

    url: str
    named: bool
    registered: bool = False
    error: str | None = None


class ServiceSync:
    """Asks, looks, and remembers what came of it.

    Args:
        named: URLs of services to register.
        own_ports: Ports that are this server's, not to be looked at.
        ports: Where to look for services nobody named; empty looks nowhere.
    """

    def __init__(
        self,
        site: Site,
        client: Client,
        *,
        named: Iterable[str] = (),
        poll: bool = True,
        interval_s: float = 5.0,
        ports: Sequence[int] = (),
        own_ports: Iterable[int] = (),
    ) -> None:
        self._site = site
        self._client = client
        self._poll = poll
        self._interval_s = interval_s
        self._ports = tuple(dict.fromkeys(port for port in ports if port not in set(own_ports)))
        self._targets = {(url := normal_url(one)): Target(url, named=True) for one in named}
        self._asking: set[str] = set()
        self._registrations = 0
        self._refusals: dict[str, tuple[str, str]] = {}  # of the URLs that are being asked
        self._slots = asyncio.Semaphore(_AT_A_TIME)

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await self.round()
            await asyncio.sleep(self._interval_s)

    async def round(self) -> None:
        """Ask everybody who is due, once."""
        try:
            await asyncio.gather(*(self._ask(url) for url in self._due()))
            if not self._registrations:  # one that is remembered may be gone for good
                await asyncio.gather(*(self._discover(port) for port in self._ports))
        except Exception:
            log.exception("services could not be asked; trying again in %g s", self._interval_s)

    def _due(self) -> list[str]:
        urls = [one.url for one in self._targets.values() if not one.registered]
        for service in self._site.node.registry.services():
            if service.transport is Transport.HTTP and service.url and (self._poll or service.error is not None):
                urls.append(service.url)
        return list(dict.fromkeys(urls))

    # what surfaces see

    def targets(self) -> list[dict[str, object]]:
        """URLs that were asked and have not registered."""
        return [
            {"url": one.url, "named": one.named, "error": one.error}
            for one in self._targets.values()
            if not one.registered
        ]

    def registered(self, url: str) -> None:
        """A service has just registered with that URL, which is empty when it dialled in."""
        self._registrations += 1
        target = self._targets.get(url)
        if target is not None:
            target.registered, target.error = True, None

    def refused(self, url: str, reason: str, text: str) -> None:
        """A registration with that URL was refused, which is what came of asking for it."""
        if url in self._asking:
            self._refusals[url] = (reason, text)
        elif len(self._asking) == 1:  # it announces itself under another URL, or under none
            self._refusals[next(iter(self._asking))] = (reason, text)

    def forget(self, url: str) -> bool:
        """Ask no more at that URL. False: it was not asked."""
        return self._targets.pop(url, None) is not None

    async def ask(self, url: str) -> None:
        """Ask the service at a URL now; from then on it belongs to those that are asked.

        Raises:
            SyncFailed: It did not register.
            InvalidInput: Not a URL.
        """
        try:
            url = normal_url(url)
        except ValueError as err:
            raise InvalidInput(str(err), field="url") from err
        if url not in self._targets:
            self._targets[url] = Target(url, named=True)
        answer = await self._outcome(url)
        if answer is not None:
            raise SyncFailed(*answer)

    # asking

    async def _ask(self, url: str) -> None:
        if url in self._asking:
            return
        async with self._slots:
            await self._outcome(url)

    async def _outcome(self, url: str) -> tuple[str, str] | None:
        """Ask once. Returns code and message of what went wrong, and keeps them where people look."""
        self._asking.add(url)
        before = self._registrations
        try:
            answer = await self._client.ask(url)
        finally:
            self._asking.discard(url)
            refusal = self._refusals.pop(url, None)
        if answer.ok and refusal is None and (self._registrations > before or await self._known_to_all(url)):
            await self._keep(url, None)
            return None
        if refusal is not None:
            wrong = refusal  # whatever the service makes of it
        elif answer.ok:
            wrong = (ELSEWHERE, _ELSEWHERE_TEXT)
        else:
            wrong = (answer.code, answer.message)
        await self._keep(url, f"{wrong[0]}: {wrong[1]}")
        return wrong

    async def _known_to_all(self, url: str) -> bool:
        """Whether a service of that URL has registered with another server on this database."""
        node = self._site.node
        if not node.shared:
            return False
        await node.registry.refresh(node.store, node.world.now())
        known = [one for one in node.registry.services() if one.url == url and one.transport is Transport.HTTP]
        if known:
            self.registered(url)
        return bool(known)

    async def _keep(self, url: str, error: str | None) -> None:
        target = self._targets.get(url)
        if target is not None and not target.named and error is not None and error.startswith(UNREACHABLE):
            del self._targets[url]  # what was found is gone
        elif target is not None:
            if error is not None and error != target.error:
                log.warning("the service at %s has not registered: %s", url, error)
            target.error = error
        site = self._site
        async with site.registering:
            for service in site.node.registry.services():
                if service.url == url and service.transport is Transport.HTTP and service.error != error:
                    if error is None:
                        log.info("service %r at %s is back", service.name, url)
                    elif target is None:
                        log.warning("service %r at %s cannot be asked: %s", service.name, url, error)
                    changed = msgspec.structs.replace(service, error=error)
                    await site.node.store.put_service(changed)
                    site.node.registry.put(changed)

    # looking

    async def _discover(self, port: int) -> None:
        scheme = "https" if port == 443 else "http"
        for path in PATHS:
            async with self._slots:
                found = await self._client.look(f"{scheme}://127.0.0.1:{port}{path}")
            if found is None:
                return  # nothing listens there
            if found:
                url = normal_url(f"{scheme}://127.0.0.1:{port}{path}")
                if url not in self._targets:
                    log.info("found a service at %s", url)
                    self._targets[url] = Target(url, named=False)
                await self._ask(url)
                return


def discovery_ports() -> list[int]:
    """The ports of section 3.6, and `$PORT`."""
    extra = os.environ.get("PORT", "")
    return [*PORTS, *([int(extra)] if extra.isdigit() and 0 < int(extra) < 65536 else [])]
