"""Files that the server gets from elsewhere, for whoever names their URL: public addresses only, as for any request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from stepwell.gateway.fetch import Fetcher, FetchFailed, Outgoing, Timing
from stepwell.gateway.policy import Policy
from stepwell.model.errors import InvalidInput

_ANSWER_S = 60.0
_IDLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """What comes from a URL."""

    content_type: str
    pieces: AsyncIterator[bytes]


class Downloads:
    """Gets files."""

    def __init__(self, policy: Policy) -> None:
        self._fetcher = Fetcher(policy, per_host=20)

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[Fetched]:
        """Ask for a file.

        Raises:
            InvalidInput: There is none, it may not be asked for, or it did not come whole; also while it is read.
        """
        try:
            async with asyncio.timeout(None) as limit:
                limit.reschedule(asyncio.get_running_loop().time() + _ANSWER_S)
                request = Outgoing("GET", url, {"Accept": "*/*", "Accept-Encoding": "identity"})
                async with self._fetcher.open(request, Timing()) as answer:
                    if not 200 <= answer.status < 300:
                        raise _refused(f"it answered {answer.status}")

                    async def pieces() -> AsyncIterator[bytes]:
                        loop = asyncio.get_running_loop()
                        async for piece in answer.chunks():
                            limit.reschedule(loop.time() + _IDLE_S)
                            yield piece

                    yield Fetched(answer.content_type, pieces())
        except FetchFailed as err:
            raise _refused(str(err)) from err
        except TimeoutError as err:
            raise _refused(f"nothing came for {_IDLE_S:g} s") from err

    async def close(self) -> None:
        await self._fetcher.close()


def _refused(why: str) -> InvalidInput:
    return InvalidInput(f"the file cannot be got from its URL: {why}; upload it instead", field="uri")
