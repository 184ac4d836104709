"""A request that the server makes for a suspended function: what it needs, and what it came to.

What is asked (`step.fetch`, `step.ai.infer`) is JSON text whose credentials are taken out; it is recorded. The
credentials themselves are `Sealed`: they go from the function to the memory of the node that makes the request and
nowhere else. If they are gone when they are needed, the function is asked again.

Elsewhere: the members of that JSON (`stepwell.wire.offload`), how requests are made (`stepwell.gateway`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from stepwell.model.ids import Instant, JobId

FETCH = "step.fetch"
INFER = "step.ai.infer"


class Sealed(msgspec.Struct, frozen=True, array_like=True):
    """URL, headers and key of a request as the function gave them. Its text form shows none of it."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    auth_key: str = ""

    def __repr__(self) -> str:
        return "Sealed(***)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Exchange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request and what came back, as far as somebody may see it. Unknown is None, not zero.

    `cost_usd` is exact decimal text, reckoned with the price list `prices`. Times count from the start of the request.
    """

    job: JobId
    started_at: Instant = 0
    duration_ms: float = 0.0
    status: int = 0  # 0: no answer came
    cut: bool = False  # the answer began and did not come whole: nobody knows what became of the request
    hidden: tuple[str, ...] = ()  # names of the credentials that the answer repeated, and that were taken out of it
    url: str = ""  # that answered, without credentials
    redirects: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    connected_ms: float | None = None  # None: no new connection was needed, or none was made
    first_byte_ms: float | None = None
    first_token_ms: float | None = None
    provider: str = ""
    model: str = ""
    response_id: str = ""
    finish: str = ""  # why the model stopped
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None  # part of the input that was read from the provider's cache
    reasoning_tokens: int | None = None  # part of the output
    cost_usd: str | None = None
    prices: str = ""
    retry_after_ms: int | None = None  # what the answer asked for, before any limit of ours
