"""One call request: read it, run the function again from the recorded steps, write down how far it got.

Where the server takes reports of finished steps while the call is open, the function goes on after each of them
(`stepwell.sdk.checkpoint`). The answer is one of four: the steps that were found or run (206), the result (200), an
error that may be tried again (500) or one that may not (400). When the run has more recorded results than fit into a
request, they are fetched from the server first (`use_api`).

Elsewhere: running and replaying (`stepwell.sdk.replay`), the JSON of it (`stepwell.wire.inngest`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from stepwell.model.errors import StepwellError
from stepwell.model.ids import StepId
from stepwell.model.op import StepErrored
from stepwell.sdk.checkpoint import CheckpointExecution
from stepwell.sdk.client.exchange import AsyncExchange
from stepwell.sdk.client.requests import get_text, send
from stepwell.sdk.options import duration
from stepwell.sdk.outcome import Outcome, Raised, Replied, Returned
from stepwell.sdk.replay import ReplayCall, ReplayExecution
from stepwell.sdk.serve.message import Refusal
from stepwell.sdk.serve.reporting import Reporting
from stepwell.sdk.serve.settings import ServeSettings
from stepwell.sdk.version import SDK
from stepwell.wire.inngest.call import Call, InvalidCall, read_actions, read_batch, read_call, read_steps
from stepwell.wire.inngest.reply import Response, respond_error, respond_ops, respond_result

if TYPE_CHECKING:
    from stepwell.sdk.function import Function


async def serve_call(
    function: Function[Any, Any], body: bytes, target: StepId | None, settings: ServeSettings, reporting: Reporting
) -> Response:
    """Run `function` for one call and answer it.

    Raises:
        Refusal: The request is none, or the server does not give the recorded results.
    """
    try:
        call = read_call(body, target=target)
        if call.use_api:
            call = await _with_state(call, settings)
    except InvalidCall as err:
        raise Refusal(400, "invalid_call", str(err)) from err
    sender = _Sender(settings)
    try:
        outcome = await _execution(function, call, reporting, sender).run()
    finally:
        await sender.close()
    return answer(outcome)


def _execution(
    function: Function[Any, Any], call: Call, reporting: Reporting, sender: _Sender
) -> ReplayExecution | CheckpointExecution:
    checkpointing, report = function.service.checkpointing, None
    # A step has the attempts of the call in which it runs. So an attempt of one is answered, and the next has its own.
    if checkpointing is not None and not (call.target or call.disable_immediate_execution or call.attempt):
        report = reporting.of(call)
    if checkpointing is None or report is None:
        return ReplayExecution(function, _replay(call), send=sender)
    return CheckpointExecution(
        function,
        _replay(call),
        report,
        for_s=duration(checkpointing.max_runtime).total_seconds(),
        parallel=checkpointing.parallel and function.options.concurrency is None,
        send=sender,
    )


def answer(outcome: Outcome) -> Response:
    """How an execution ended, as the server reads it."""
    match outcome:
        case Returned(output):
            return respond_result(output, sdk=SDK)
        case Raised(error, retry, retry_at):
            return respond_error(error, sdk=SDK, retry=retry, retry_at=retry_at)
        case Replied(ops):
            failed = [op for op in ops if isinstance(op, StepErrored)]
            moments = [op.retry_at for op in failed if op.retry_at is not None]
            # Of several that failed those that must not be tried again say so themselves.
            retry = not failed or any(op.retry for op in failed)
            return respond_ops(ops, sdk=SDK, retry=retry, retry_at=max(moments, default=None))
        case _:
            raise Refusal(500, "stopped", "the function was stopped before it could answer; it will be called again")


def _replay(call: Call) -> ReplayCall:
    return ReplayCall(
        run=call.run,
        attempt=call.attempt,
        max_attempts=call.max_attempts,
        events=call.events,
        memos=call.memos,
        target=call.target,
        plan_only=call.disable_immediate_execution,
    )


async def _with_state(call: Call, settings: ServeSettings) -> Call:
    """The call with the events and recorded results that were too large to come along (section 4.2)."""
    exchange = AsyncExchange(settings.address, SDK)
    run = quote(call.run, safe="")
    try:
        events = await exchange.run(get_text(settings.address, f"/v0/runs/{run}/batch"))
        actions = await exchange.run(get_text(settings.address, f"/v0/runs/{run}/actions"))
    except StepwellError as err:
        raise Refusal(
            500, "state_unavailable", f"the recorded steps of run {call.run} could not be fetched: {err}"
        ) from err
    finally:
        await exchange.close()
    steps = read_actions(actions)
    return replace(call, events=read_batch(events) or call.events, memos=read_steps(steps, call.stack), use_api=False)


class _Sender:
    """Sends the events of `step.send_event`; connects when it is first used."""

    def __init__(self, settings: ServeSettings) -> None:
        self._address = settings.address
        self._exchange: AsyncExchange | None = None

    async def __call__(self, events: list[bytes]) -> list[str]:
        if self._exchange is None:
            self._exchange = AsyncExchange(self._address, SDK)
        sent = await self._exchange.run(send(self._address, events))
        return list(sent.ids)

    async def close(self) -> None:
        if self._exchange is not None:
            await self._exchange.close()
