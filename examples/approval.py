"""Wait for a person, for days if need be, and remind them once.

    stepwell dev examples/approval.py
    stepwell send expenses/handed-in '{"id": "e1", "amount": 900}' --follow

and, from another terminal, while it waits:

    stepwell send expenses/decided '{"id": "e1", "approved": true, "by": "Grace"}'

While it waits nothing of it runs, and it survives a restart of everything.
"""

from typing import TypedDict

import stepwell

service = stepwell.Service("expenses")


class Expense(TypedDict):
    id: str
    amount: float


class Decision(TypedDict):
    id: str
    approved: bool
    by: str


handed_in = stepwell.event("expenses/handed-in", Expense)
decided = stepwell.event("expenses/decided", Decision)


@service.function(on=handed_in)
async def approve(ctx: stepwell.Context[Expense]) -> str:
    expense = ctx.event.data
    if expense["amount"] < 100:
        return "approved: small enough"

    await ctx.step.run("ask", notify, f"please decide on {expense['amount']} EUR")
    decision = await ctx.step.wait_for_event("decision", decided, match="data.id", timeout="2d")
    if decision is None:
        await ctx.step.run("remind", notify, "a decision is due")
        decision = await ctx.step.wait_for_event("late-decision", decided, match="data.id", timeout="5d")

    if decision is None:
        return "given up after a week"
    return f"{'approved' if decision.data['approved'] else 'refused'} by {decision.data['by']}"


async def notify(text: str) -> None:
    print(text, flush=True)  # a mail, in earnest
