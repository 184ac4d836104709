"""What GraphQL can change: cancel a run, invoke a function, add and remove services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from stepwell.api.inngest.graphql_context import Context, NotSupportedYet, Resolvers
from stepwell.api.rerun import make_again, read_asked
from stepwell.model.errors import InvalidInput, NotFound
from stepwell.model.event import INVOKED
from stepwell.model.function import Service, Transport
from stepwell.model.ids import RunId
from stepwell.model.payload import canonical, decode, first_rounded
from stepwell.node.large import stored
from stepwell.node.reads import functions, runs, services
from stepwell.wire.inngest.event import invoked_event, read_event

if TYPE_CHECKING:
    from stepwell.model.job import RunRow
    from stepwell.model.payload import Blob
    from stepwell.node.reads.services import ServiceView


async def _cancel(_: object, context: Context, runID: str) -> RunRow | None:
    await context.node.cancel(RunId(runID), "cancelled through the API", context.env)
    return await runs.find_run(context.store, context.env, runID)


async def _invoke(
    _: object,
    context: Context,
    functionSlug: str,
    data: dict[str, Any] | None = None,
    user: dict[str, Any] | None = None,
    **_unused: Any,
) -> bool:
    function = functions.find_function(context.node.registry, functionSlug, context.env)
    if function is None or function.archived:
        raise NotFound(f"no function {functionSlug!r} is registered")
    if changed := first_rounded([data, user]):
        raise InvalidInput(f"the integer {str(changed[0])[:60]} would be rounded to a 64-bit float; give it as text")
    now, key = context.now, context.node.new_key()
    given = read_event({"data": data, "user": user}, now=now, key=key, env=context.env, name=INVOKED)
    system = invoked_event(
        id=given.id,
        at=now,
        function=functionSlug,
        data=canonical({name: value for name, value in (data or {}).items() if name != "_inngest"}),
        user=canonical(user or {}),
    )
    blobs: dict[Blob, bytes] = {}
    event = msgspec.structs.replace(given, body=stored(system.body(), blobs))
    await context.node.accept(context.env, [event], blobs)
    return True


async def _create_app(_: object, context: Context, input: dict[str, Any]) -> ServiceView:
    return await _sync(context, input["url"])


async def _sync(context: Context, url: str) -> ServiceView:
    if context.sync is None:
        raise NotSupportedYet("this server asks no service for its functions; let the service register itself")
    await context.sync(url)
    found = services.service_at(context.node.registry, url, context.env)
    # A service may register under another URL than the one it was asked at.
    return found or services.ServiceView(Service(name=url, transport=Transport.HTTP, env=context.env, url=url), ())


async def _delete_app(_: object, context: Context, id: str) -> str:
    found = services.service_with_id(context.node.registry, id, context.env)
    if found is None:
        raise NotFound(f"no app {id!r}")
    await context.node.forget(context.env, found.service.name)
    return id


async def _delete_by_name(_: object, context: Context, name: str) -> bool:
    if services.find_service(context.node.registry, name, context.env) is None:
        raise NotFound(f"no app named {name!r}")
    return await context.node.forget(context.env, name)


async def _rerun(
    _: object, context: Context, runID: str, fromStep: dict[str, Any] | None = None, **_unused: Any
) -> str:
    step = (fromStep or {}).get("stepID")
    given = (fromStep or {}).get("input")
    body = {"from_step": step} if given is None else {"from_step": step, "input": _json(given)}
    made, _step = await make_again(context.node, context.env, runID, read_asked(body, ""))
    return made.run


def _json(given: str | bytes) -> object:
    try:
        return decode(given)
    except ValueError as err:
        raise InvalidInput(f"fromStep.input is {err}", field="fromStep") from err


def _debug_session(_: object, context: Context, **_arguments: Any) -> None:
    raise NotSupportedYet("debugging sessions are not supported yet")


RESOLVERS: Resolvers = {
    "Mutation": {
        "cancelRun": _cancel,
        "rerun": _rerun,
        "invokeFunction": _invoke,
        "createApp": _create_app,
        "updateApp": _create_app,
        "deleteApp": _delete_app,
        "deleteAppByName": _delete_by_name,
        "createDebugSession": _debug_session,
    },
}
