"""What checkers must refuse of a client's user. Each comment is itself checked. Nothing here is run."""

from __future__ import annotations

from dataclasses import dataclass

import stepwell

service = stepwell.Service("shop")


@dataclass
class Order:
    id: str


@dataclass
class Paid:
    amount: int


order_placed = stepwell.event("shop/order.placed", Order)


@service.function(on=order_placed)
async def tally(ctx: stepwell.Context[Order]) -> int:
    return 1


def synchronous(client: stepwell.Client) -> str:
    client.start(tally, Paid(1))  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    client.start(tally)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    client.start(tally, Order("o"), output=str)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    client.send(Order("o"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.run(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    client.start(tally, Order("o")).result(timeout=None).upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    return client.start(tally, Order("o")).result()  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


async def asynchronous(client: stepwell.AsyncClient) -> None:
    await client.start(tally, Paid(1))  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    client.start(tally, Order("o"))  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    run = await client.start(tally, Order("o"))
    run.result() + 1  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
    for _ in run.stream():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
