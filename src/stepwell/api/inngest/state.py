"""What an SDK fetches of a run whose state was too large to send along (`use_api`), and the old way to cancel.

Protocol: sections 4.2 and 8.2 of the Inngest wire protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response, StreamingResponse

from stepwell.api import answers
from stepwell.api.routes import Ask, Route
from stepwell.model.errors import InvalidInput, StepwellError
from stepwell.model.ids import RunId, ulid_time
from stepwell.node.state import state_of
from stepwell.wire.inngest.call import memo_pieces
from stepwell.wire.inngest.text import write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell.api.site import Site
    from stepwell.node.state import State

_PIECE_BYTES = 64 * 1024


class Gone(StepwellError):
    """The run has ended; what SDKs need to go on with it is not served any more."""

    code = "GONE"
    http_status = 410


def routes() -> list[Route]:
    return [
        Route("GET", "/v0/runs/{id}/actions", actions),
        Route("GET", "/v0/runs/{id}/batch", batch),
        Route("DELETE", "/v0/runs/{id}", cancel),
    ]


async def actions(ask: Ask) -> Response:
    """Recorded results by step, as `steps` of a call has them."""
    state = await _state(ask)
    members = ((write(memo.step), b":", *memo_pieces(memo)) async for memo in state.memos())
    return StreamingResponse(_joined(ask.site, b"{", members, b"}"), media_type=answers.JSON)


async def batch(ask: Ask) -> Response:
    """The events of the run."""
    state = await _state(ask)
    events = ((text,) async for text in state.events())
    return StreamingResponse(_joined(ask.site, b"[", events, b"]"), media_type=answers.JSON)


async def _joined(
    site: Site, opening: bytes, items: AsyncIterator[tuple[bytes, ...]], closing: bytes
) -> AsyncIterator[bytes]:
    """Piece by piece: a state may be as large as a run may become, and many SDKs ask at once; some of them wait."""
    piece, before = bytearray(opening), b""
    async with site.sending_states:
        async for item in items:
            piece += before
            before = b","
            for text in item:
                if len(text) < _PIECE_BYTES:
                    piece += text
                else:
                    yield bytes(piece)
                    piece.clear()
                    yield text
            if len(piece) >= _PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
        piece += closing
        yield bytes(piece)


async def cancel(ask: Ask) -> Response:
    await ask.site.node.cancel(run_id(ask), "cancelled through the API", ask.site.env)
    return Response(status_code=204)


async def _state(ask: Ask) -> State:
    state = await state_of(ask.site.node.store, ask.site.env, run_id(ask))
    if state is None:
        raise Gone("runtime state is no longer available for runID")
    return state


def run_id(ask: Ask) -> RunId:
    """The run named in the path. Raises `InvalidInput`."""
    text = ask.part("id")
    try:
        ulid_time(text)
    except ValueError as err:
        raise InvalidInput(f"Invalid run ID: {err}", field="id") from err
    return RunId(text.upper())
