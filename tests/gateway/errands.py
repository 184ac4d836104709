"""An errand as the node hands it on, and a mailbox for what came of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from stepwell.gateway.gateway import GatewaySettings, HttpGateway
from stepwell.model.credential import Cipher, CredentialRefused, Opened
from stepwell.model.dispatch import Errand
from stepwell.model.ids import JobId, RunId, StepId
from stepwell.model.message import Message, OffloadEnded
from stepwell.model.offload import FETCH, INFER, Sealed
from stepwell.wire.offload import fetch_request, infer_request

RUN = RunId("01HZY000000000000000000000")
STEP = StepId("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8")
HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


class Asking:
    """A gateway, asked one thing after the other. `kept` are the named credentials that it knows."""

    def __init__(self, *kept: Opened, cipher: Cipher | None = None, seal: bool = False, **settings: Any) -> None:
        self._kept = {(one.credential.env, one.credential.name): one for one in kept}
        self._ended: asyncio.Queue[OffloadEnded] = asyncio.Queue()
        settings = {"allow_loopback": True} | settings
        self.gateway = HttpGateway(
            self._deliver, GatewaySettings(**settings), find=self._find, cipher=cipher, seal=seal
        )
        self.jobs = 0

    async def _find(self, env: str, name: str) -> Opened:
        if (env, name) not in self._kept:
            raise CredentialRefused(f"the server keeps no credential {name!r}")
        return self._kept[env, name]

    def _deliver(self, run: RunId, job: JobId, fence: int, message: Message, /) -> None:
        assert isinstance(message, OffloadEnded)
        assert (run, fence, message.job, message.exchange.job) == (RUN, 1, job, job)
        self._ended.put_nowait(message)

    def begin(
        self, request: bytes, sealed: Sealed | None, *, kind: str = FETCH, step: StepId = STEP, **more: Any
    ) -> Errand:
        self.jobs += 1
        if sealed is not None:
            self.gateway.keep(RUN, step, sealed)
        errand = Errand(
            job=JobId(f"{RUN}.{self.jobs}"), fence=1, run=RUN, step=step, kind=kind, request=request, **more
        )
        self.gateway.make(errand)
        return errand

    async def end(self) -> OffloadEnded:
        return await asyncio.wait_for(self._ended.get(), 20)

    async def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        key: str = "",
        **more: Any,
    ) -> OffloadEnded:
        request, sealed = fetch_request(url, method=method, headers=headers or {}, body=body, **more)
        self.begin(request, sealed, key=lambda: key)
        return await self.end()

    async def infer(
        self,
        url: str,
        *,
        format: str = "openai-chat",
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] = HELLO,
        auth_key: str = "",
        key: str = "",
        **more: Any,
    ) -> OffloadEnded:
        request, sealed = infer_request(url, format=format, headers=headers or {}, body=body, auth_key=auth_key, **more)
        self.begin(request, sealed, kind=INFER, key=lambda: key)
        return await self.end()

    def nothing_came(self) -> bool:
        return self._ended.empty()


def output_of(ended: OffloadEnded) -> Any:
    assert isinstance(ended.output, bytes), ended
    return json.loads(ended.output)


def error_of(ended: OffloadEnded) -> Any:
    assert isinstance(ended.error, bytes), ended
    return json.loads(ended.error)
