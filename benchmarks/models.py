"""Calls of models that the server makes, against a stand-in provider in a process of its own.

    ask      one call at a time, of a provider that answers at once      what a call takes more than a direct one, CPU
    asks     100 calls in flight, of a provider that takes 200 ms        calls/s, CPU

A call is a step: from its code to the server, which records it, asks, records the answer and tells the function. What
is asked, and how fast the stand-in answers, is in `benchmarks/apps/provider.py`. Runs are of 10 calls, so the CPU of
a call holds a tenth of what a run costs around it.
"""

from __future__ import annotations

import json
import time

import aiohttp

from benchmarks.processes import percentile
from benchmarks.targets import Target
from benchmarks.workloads import (
    IN_FLIGHT,
    STEPS,
    Figures,
    Meter,
    Size,
    Workload,
    closed_loop,
    one_run,
    spread,
    step_times,
)

TOKENS = 20
SLOW_S = 0.2


def prompt(*, delay_s: float = 0.0, tokens: int = TOKENS, pause_s: float = 0.0) -> str:
    """What makes the stand-in answer so: `delay_s` before the first token, `pause_s` before each other."""
    return json.dumps({"delay_s": delay_s, "tokens": tokens, "pause_s": pause_s})


async def ask(target: Target, size: Size) -> Figures:
    asked = {"provider": target.provider_url, "prompt": prompt()}
    direct: list[float] = []
    runs = -(-size.one_steps // STEPS)
    await one_run(target, "ask", steps=1, **asked)  # the first call of all makes the server load its list of prices
    target.marks.forget()
    async with aiohttp.ClientSession() as session:
        await _ask(session, target.provider_url, asked["prompt"])  # connects
        meter = Meter(target)
        for _ in range(runs):
            await one_run(target, "ask", steps=STEPS, **asked)
            direct += [await _ask(session, target.provider_url, asked["prompt"]) for _ in range(STEPS)]
    times = spread(step_times(target))
    alone = spread(direct)
    return {
        **times,
        **meter.per(runs * STEPS),
        "direct_p50_ms": alone["p50_ms"],
        "added_p50_ms": times["p50_ms"] - alone["p50_ms"],
        "added_p99_ms": times["p99_ms"] - alone["p99_ms"],
    }


async def asks(target: Target, size: Size) -> Figures:
    asked = {"provider": target.provider_url, "prompt": prompt(delay_s=SLOW_S)}
    await one_run(target, "ask", steps=1, **asked)  # as above
    target.marks.forget()
    meter = Meter(target)
    rate = await closed_loop(target, size.seq_s, kind="ask", data=asked)
    times = step_times(target)
    return {
        "per_s": rate * STEPS,
        **spread(times),
        **meter.per(len(target.marks.of) * STEPS),
        "most_per_s": IN_FLIGHT / SLOW_S,
        "added_p50_ms": (percentile(times, 0.5) - SLOW_S) * 1e3,
    }


async def _ask(session: aiohttp.ClientSession, url: str, text: str) -> float:
    """Ask the provider without a server between. Seconds until the whole answer was there."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], "stream": True}
    sent = time.monotonic()
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        await answer.read()
    return time.monotonic() - sent


MODELS = {
    "ask": Workload("one call of a model at a time", ask),
    "asks": Workload(f"{IN_FLIGHT} calls of a model in flight, {SLOW_S * 1e3:.0f} ms each", asks),
}
"""Those of the workloads that need a stand-in provider."""
