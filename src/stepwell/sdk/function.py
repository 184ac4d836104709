"""A function: a callable, what starts it, and its options. Made by `Service.function`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union, get_origin
from urllib.parse import quote

from stepwell.model.event import FAILED
from stepwell.sdk.context import Context, SyncContext
from stepwell.sdk.errors import DefinitionError
from stepwell.sdk.event import EventType, Trigger, read_event
from stepwell.sdk.options import Options
from stepwell.sdk.types import return_type

if TYPE_CHECKING:
    from stepwell.sdk.execution import Execution
    from stepwell.sdk.service import Service

T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

SOCKET_URL = "ws://worker"
"""The address of a function that is reached over the worker's own connection."""


@dataclass(frozen=True, slots=True)
class FailureError:
    """Why a run failed: class name, text, and traceback if there is one."""

    name: str = "Error"
    message: str = ""
    stack: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """What `on_failure` gets as its event's data."""

    function_id: str
    run_id: str
    error: FailureError
    event: dict[str, Any]
    events: list[dict[str, Any]] | None = None


class Function(Generic[T_contra, R_co]):
    """A durable function. Pass it to `step.invoke` and to clients; its type says what it takes and returns.

    Attributes:
        slug: `<service>-<id>`, its name on the server.
        handler: The callable itself, for tests that need no steps.
    """

    def __init__(
        self,
        handler: Callable[..., Any],
        *,
        service: Service,
        id: str,
        name: str,
        triggers: tuple[Trigger[Any], ...],
        options: Options,
    ) -> None:
        _refuse_wrong_callable(handler)
        check_id(id, "a function")
        self.handler = handler
        self.service = service
        self.id = id
        self.name = name
        self.slug = f"{service.id}-{id}"
        self.triggers = triggers
        self.options = options
        self.is_async = inspect.iscoroutinefunction(handler)
        self.__name__ = getattr(handler, "__name__", id)
        self.__doc__ = handler.__doc__

    @property
    def data_type(self) -> Any:
        """The type of the data that it is invoked with; `Any` if only a name or a schedule starts it."""
        kinds = tuple(dict.fromkeys(one.annotation for one in self.triggers if isinstance(one, EventType)))
        return Union[kinds] if kinds else Any  # noqa: UP007 - of a tuple that is known at run time

    @property
    def result_type(self) -> Any:
        """What it returns, by its annotation."""
        return return_type(self.handler)

    def context_for(self, execution: Execution) -> Context[Any] | SyncContext[Any]:
        """The `ctx` of one execution. Raises `EventNotValid` if its events are not what `on=` says."""
        events = tuple(read_event(text, self.triggers) for text in execution.start.events)
        kind = Context if self.is_async else SyncContext
        return kind(execution, events)

    def config(self, url: str = SOCKET_URL) -> dict[str, Any]:
        """Its entry in the `functions` of a register request.

        Args:
            url: Where it is called; the function and step parameters are added to its query.
        """
        query = f"fnId={quote(self.slug, safe='')}&stepId=step"
        address = f"{url}{'&' if '?' in url else '?'}{query}"
        step: dict[str, Any] = {
            "id": "step",
            "name": "step",
            "runtime": {"type": "ws" if url.startswith("ws") else "http", "url": address},
        }
        if self.options.retries is not None:
            step["retries"] = {"attempts": self.options.retries}
        return {
            "id": self.slug,
            "name": self.name,
            "triggers": [trigger.config() for trigger in self.triggers],
            "steps": {"step": step},
            **self.options.config(),
        }

    def __repr__(self) -> str:
        return f"<function {self.slug}>"


def failure_trigger(slug: str) -> EventType[Failure]:
    """What starts the `on_failure` of the function `slug`."""
    quoted = slug.replace("\\", "\\\\").replace("'", "\\'")
    return EventType(FAILED, Failure, expression=f"event.data.function_id == '{quoted}'")


def check_id(id: object, what: str) -> None:
    """Raise `DefinitionError` for an id that could not be told from another, or not be written in an address.

    Args:
        what: Of which thing it is, for the message.
    """
    if not isinstance(id, str) or not id:
        raise DefinitionError(f"{what} needs an id that is a text and not empty, not {id!r}")
    if id != id.strip() or not id.isprintable() or "/" in id:
        raise DefinitionError(
            f"{what} cannot have the id {id!r}: spaces at its ends, control characters and slashes are not allowed; "
            'write a name such as "import-orders"'
        )


def _refuse_wrong_callable(handler: Callable[..., Any]) -> None:
    where = getattr(handler, "__qualname__", repr(handler))
    if inspect.isasyncgenfunction(handler) or inspect.isgeneratorfunction(handler):
        raise DefinitionError(f"{where} yields; a function returns its result, and its pieces are steps")
    is_async = inspect.iscoroutinefunction(handler)
    declared = _context_kind(handler)
    if is_async and declared == "SyncContext":
        raise DefinitionError(f"{where} is `async def` and takes a SyncContext; write `ctx: stepwell.Context[...]`")
    if not is_async and declared == "Context":
        raise DefinitionError(
            f"{where} is a plain `def` and takes a Context; write `async def`, or `ctx: stepwell.SyncContext[...]`"
        )


def _context_kind(handler: Callable[..., Any]) -> str | None:
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError):
        return None
    if (
        len([p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)])
        > 1
    ):
        where = getattr(handler, "__qualname__", repr(handler))
        raise DefinitionError(f"{where} takes several arguments; a function takes one, the context `ctx`")
    if not any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
        where = getattr(handler, "__qualname__", repr(handler))
        kind = "Context" if inspect.iscoroutinefunction(handler) else "SyncContext"
        raise DefinitionError(f"{where} takes no argument; a function takes the context: `ctx: stepwell.{kind}[...]`")
    annotation: Any = parameters[0].annotation if parameters else None
    if isinstance(annotation, str):
        return annotation.partition("[")[0].rpartition(".")[2].strip()
    kind = get_origin(annotation) or annotation
    return kind.__name__ if isinstance(kind, type) else None
