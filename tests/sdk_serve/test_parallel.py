"""Steps at the same time, over a wire on which every call starts again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import stepwell
from stepwell.model.ids import step_id
from stepwell.sdk.serve.handler import Handler
from stepwell.sdk.serve.settings import serve_settings
from tests.sdk_serve.exchanges import a_call

service = stepwell.Service("par")


async def value(result: str) -> str:
    return result


@service.function(on="t/e")
async def first_wins(ctx: stepwell.Context[Any]) -> str:
    tasks = [asyncio.ensure_future(ctx.step.run(name, value, name)) for name in ("a", "b")]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    winner = done.pop().result()
    return await ctx.step.run("after", value, f"{winner} won")


@service.function(on="t/e")
async def joined(ctx: stepwell.Context[Any]) -> list[str]:
    return list(await asyncio.gather(ctx.step.run("a", value, "a"), ctx.step.run("b", value, "b")))


@service.function(on="t/e")
async def grouped(ctx: stepwell.Context[Any]) -> str:
    async with asyncio.TaskGroup() as group:
        a = group.create_task(ctx.step.run("a", value, "a"))
        group.create_task(ctx.step.sleep("pause", "1s"))
    return a.result()


async def ops_of(slug: str, **call: Any) -> list[dict[str, Any]]:
    handler = Handler(service, serve_settings(dev=True, environment={}))
    response = await handler.handle(a_call(slug, **call))
    assert response.status == 206, response.body
    ops: list[dict[str, Any]] = json.loads(response.body)
    return ops


def modes(ops: list[dict[str, Any]]) -> list[tuple[str, str, str | None]]:
    return [(op["displayName"], op["op"], op.get("opts", {}).get("parallelMode")) for op in ops]


async def test_steps_of_which_the_first_counts_are_planned_as_a_race() -> None:
    ops = await ops_of("par-first-wins")
    assert modes(ops) == [("a", "StepPlanned", "race"), ("b", "StepPlanned", "race")]


@pytest.mark.parametrize("target", ["a", "b"])
async def test_the_result_of_a_step_in_a_race_says_so_that_the_function_is_called_at_once(target: str) -> None:
    ops = await ops_of("par-first-wins", target=target, disable_immediate_execution=True)
    assert modes(ops) == [(target, "StepRun", "race")]


async def test_the_first_result_decides_and_the_loser_stays_planned() -> None:
    ops = await ops_of("par-first-wins", steps={"b": {"data": "b"}}, disable_immediate_execution=True)
    assert {(op["displayName"], op["op"]) for op in ops} == {("a", "StepPlanned"), ("after", "StepPlanned")}
    ops = await ops_of("par-first-wins", steps={"b": {"data": "b"}, "a": {"data": "a"}})
    # Planned and not run here: the call after b's result may have planned it already.
    assert [(op["displayName"], op["op"], op["opts"]["input"]) for op in ops] == [("after", "StepPlanned", ["b won"])]


async def test_a_plain_join_costs_one_call_for_the_whole_group() -> None:
    assert modes(await ops_of("par-joined")) == [("a", "StepPlanned", None), ("b", "StepPlanned", None)]
    targeted = await ops_of("par-joined", target="b", disable_immediate_execution=True)
    assert modes(targeted) == [("b", "StepRun", None)]
    assert targeted[0]["id"] == step_id("b", 0)


async def test_a_step_beside_a_wait_is_planned_with_it() -> None:
    assert {(name, op) for name, op, _ in modes(await ops_of("par-grouped"))} == {
        ("a", "StepPlanned"),
        ("pause", "Sleep"),
    }
