"""Chat completions, embeddings and the list of models, for apps that declare the capability `llm` or `embeddings`.

A model is named by the reference of its app, `namespace/name[@version][:function]`; a name alone is in the namespace of
this server. One request is one task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from stepwell.api import answers
from stepwell.api.infsh.tasks import check_runnable
from stepwell.api.openai.answers import ERRORS, ModelFailed, ModelNotFound
from stepwell.api.openai.stream import ChatStream
from stepwell.api.openai.tasks import Tasks, about, headers_of, is_named
from stepwell.api.routes import Ask, Route
from stepwell.model.app import AppFunction, read_reference
from stepwell.model.errors import InvalidInput, NotFound
from stepwell.model.ids import ulid_time
from stepwell.model.task import TaskRequest, usage_of
from stepwell.wire.openai.chat import completion, input_of, read_chat
from stepwell.wire.openai.embeddings import embeddings, read_embeddings

if TYPE_CHECKING:
    from starlette.responses import Response

    from stepwell.api.site import Site
    from stepwell.model.app import App, AppVersion
    from stepwell.node.reads.tasks import Task

_CHAT, _EMBEDDINGS = "llm", "embeddings"
_WHAT = {_CHAT: "a language model", _EMBEDDINGS: "an app that makes embeddings"}


def routes(site: Site) -> list[Route]:
    surface = _Surface(site)
    table = [
        Route("POST", "/v1/chat/completions", surface.chat),
        Route("POST", "/v1/embeddings", surface.embeddings),
        Route("GET", "/v1/models", surface.models),
        Route("GET", "/v1/models/{model:path}", surface.model),
    ]
    return [replace(one, errors=ERRORS) for one in table]


class _Surface:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._tasks = Tasks(site)

    async def chat(self, ask: Ask) -> Response:
        asked, members = read_chat(await ask.body())
        version, function = await self._model(ask, asked.model, _CHAT)
        takes = function.input_schema.get("properties", {})
        given = input_of(asked, members, version.reference, takes)
        task = await self._tasks.begin(ask, _request(version, function, given, asked.setup, asked.metadata))
        id, created = f"chatcmpl-{task}", ulid_time(task) // 1000
        if asked.stream:
            return ChatStream(
                self._site,
                self._tasks,
                task,
                ask.request,
                id=id,
                created=created,
                model=asked.model,
                with_usage=asked.wants_usage,
                gpus=version.resources.gpus,
                named=is_named(ask),
                headers=headers_of(task),
            )
        found = await self._tasks.ended(ask, task)
        output = _output(found)
        if not isinstance(output, dict):
            raise ModelFailed("the app gave back something else than a language model does")
        answer = completion(id, created, asked.model, output, usage_of(found.meta), self._about(found, version))
        return answers.json(answer, headers=headers_of(task))

    async def embeddings(self, ask: Ask) -> Response:
        asked = read_embeddings(await ask.body())
        version, function = await self._model(ask, asked.model, _EMBEDDINGS)
        given, takes = asked.input_of(), function.input_schema.get("properties", {})
        if takes and "dimensions" in given and "dimensions" not in takes:
            raise InvalidInput(
                f"model {version.reference!r} has no 'dimensions' in its input; leave them out", field="dimensions"
            )
        task = await self._tasks.begin(ask, _request(version, function, given, asked.setup, None))
        found = await self._tasks.ended(ask, task)
        answer = embeddings(asked, _output(found), usage_of(found.meta), self._about(found, version))
        if answer is None:
            raise ModelFailed(f"the app gave back no vector for each of {len(asked.texts)} texts")
        return answers.json(answer, headers=headers_of(task))

    def _about(self, found: Task, version: AppVersion) -> dict[str, Any]:
        return about(found, version.resources.gpus, self._site.gpu_second_usd)

    async def models(self, ask: Ask) -> Response:
        found = []
        for app in await self._site.node.apps.list(self._site.env):
            _, version = await self._site.node.apps.find(self._site.env, app.reference)
            told = _shown(app, version)
            if told["capabilities"] and app.status != "retired":
                found.append(told)
        return answers.json({"object": "list", "data": found})

    async def model(self, ask: Ask) -> Response:
        wanted = ask.part("model")
        app, version = await self._find(wanted)
        told = _shown(app, version)
        if not told["capabilities"]:
            raise ModelNotFound(f"app {version.reference} is neither {' nor '.join(_WHAT.values())}")
        return answers.json({**told, "id": wanted})

    async def _find(self, model: str) -> tuple[App, AppVersion]:
        try:
            return await self._site.node.apps.find(self._site.env, model, self._site.namespace)
        except NotFound as err:
            raise ModelNotFound(str(err)) from err
        except InvalidInput as err:
            raise InvalidInput(str(err), field="model") from err

    async def _model(self, ask: Ask, model: str, capability: str) -> tuple[AppVersion, AppFunction]:
        """The version that is meant, and its function with that capability."""
        app, version = await self._find(model)
        named = read_reference(model).function
        able = [name for name, one in version.functions.items() if capability in one.capabilities]
        name = named or (version.default_function if version.default_function in able else "".join(able[:1]))
        if name not in able:
            what = f"function {named!r} of app" if named else "app"
            raise InvalidInput(
                f"{what} {version.reference} is not {_WHAT[capability]}: it has not the capability {capability!r}",
                field="model",
            )
        check_runnable(ask, app, version)
        return version, version.functions[name]


def _request(
    version: AppVersion, function: AppFunction, given: dict[str, Any], setup: Any, metadata: dict[str, Any] | None
) -> TaskRequest:
    return TaskRequest(app=version.reference, function=function.name, input=given, setup=setup, metadata=metadata or {})


def _output(found: Task) -> Any:
    return msgspec.json.decode(found.output or b"null")


def _shown(app: App, version: AppVersion) -> dict[str, Any]:
    capabilities: Sequence[str] = [
        one for one in _WHAT if any(one in function.capabilities for function in version.functions.values())
    ]
    return {
        "id": app.reference,
        "object": "model",
        "created": app.created_at // 1000,
        "owned_by": app.namespace,
        "capabilities": capabilities,
        "description": version.description,
    }
