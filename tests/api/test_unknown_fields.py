"""Fields that no reference knows: accepted, and told where people look."""

from __future__ import annotations

import json
from typing import Any

from tests.api.api import Api
from tests.api.scripted import Answer, Scripted, done, ops, returned
from tests.api.test_checkpoint import checkpoint, open_call


async def test_an_unknown_field_of_an_op_is_told_in_the_trace_once_in_a_run(api: Api, shop: Scripted) -> None:
    def answer(call: dict[str, Any]) -> Answer:
        count = len(call["steps"])
        return returned(count) if count == 3 else ops({**done(f"s{count}", count), "colour": count})

    shop.answers["odd"] = answer
    await shop.register()
    run = await api.finished(await api.send("shop/odd"))
    assert (run["status"], run["output"]) == ("Completed", 3)

    shown = await api.get(f"/api/runs/{run['run_id']}")
    (note,) = shown["notes"]
    assert note["kind"] == "warning"
    assert note["text"] == "the field 'colour' of the op StepRun is unknown to this server and has no effect: 0"
    lines = (await api.get(f"/api/runs/{run['run_id']}/lines"))["lines"]
    assert "colour" in json.dumps(lines)


async def test_an_unknown_field_of_a_checkpoint_is_told_too(api: Api, shop: Scripted) -> None:
    async with open_call(api, shop, returned(3)) as context:
        for n in range(2):
            assert (await checkpoint(api, context, {**done(f"s{n}", n), "colour": n})).status_code == 200
    run = context["run_id"]
    await api.ended(run)
    assert [note["text"] for note in (await api.get(f"/api/runs/{run}"))["notes"]] == [
        "the field 'colour' of the op StepRun is unknown to this server and has no effect: 0"
    ]


async def test_a_run_without_unknown_fields_has_no_notes(api: Api, shop: Scripted) -> None:
    shop.answers["plain"] = lambda call: returned(1) if call["steps"] else ops(done("s", 1))
    await shop.register()
    run = await api.finished(await api.send("shop/plain"))
    assert (await api.get(f"/api/runs/{run['run_id']}"))["notes"] == []
