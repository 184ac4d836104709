"""A service: a program's functions under one name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, overload

from stepwell.sdk.errors import DefinitionError
from stepwell.sdk.event import EventType, Trigger, triggers_of
from stepwell.sdk.function import Failure, Function, check_id, failure_trigger
from stepwell.sdk.options import (
    Batch,
    CancelOn,
    Checkpointing,
    Concurrency,
    Debounce,
    Options,
    RateLimit,
    Singleton,
    Throttle,
    Timeouts,
)

if TYPE_CHECKING:
    from typing import Unpack

    from stepwell.sdk.context import Context, SyncContext
    from stepwell.sdk.serve.asgi import AsgiApp

T = TypeVar("T")
R = TypeVar("R")

_FailureHandler = (
    Callable[["Context[Failure]"], Coroutine[Any, Any, object]] | Callable[["SyncContext[Failure]"], object]
)


class FunctionOptions(TypedDict, total=False):
    """The keyword options of `Service.function`."""

    retries: int
    """How often a failed step or body is tried again, 0 to 20; the server's default is 4, five attempts."""
    concurrency: int | Concurrency | Sequence[Concurrency]
    throttle: Throttle
    rate_limit: RateLimit
    debounce: Debounce
    batch: Batch
    priority: str
    """CEL for a number of seconds, -600 to 600, by which a run goes before the others."""
    singleton: Singleton
    idempotency: str
    """CEL; one run for each value in 24 hours."""
    cancel_on: EventType[Any] | str | CancelOn | Sequence[EventType[Any] | str | CancelOn]
    timeouts: Timeouts
    on_failure: _FailureHandler
    """Runs as a function of its own when a run failed for good; not when it was cancelled."""


class FunctionDecorator(Protocol[T]):
    """Turns a callable into a `Function`, and checks that its context fits `on=`."""

    @overload
    def __call__(self, handler: Callable[[Context[T]], Coroutine[Any, Any, R]], /) -> Function[T, R]: ...
    @overload
    def __call__(self, handler: Callable[[SyncContext[T]], R], /) -> Function[T, R]: ...


class Service:
    """A named set of functions, served together.

    Args:
        id: Names it on the server, and begins the slug of each of its functions.
        app_version: Shown beside its runs; your own words, such as a commit.
        checkpointing: Whether functions served over HTTP go on after a step and report its result on the side, where
            the server takes that. If False, each step takes a call. A worker always goes on.
    """

    def __init__(self, id: str, *, app_version: str = "", checkpointing: bool | Checkpointing = True) -> None:
        if not id:
            raise DefinitionError('a service needs an id, such as stepwell.Service("shop")')
        check_id(id, "a service")
        self.id = id
        self.app_version = app_version
        self.checkpointing = Checkpointing() if checkpointing is True else checkpointing or None
        self._functions: dict[str, Function[Any, Any]] = {}

    @property
    def functions(self) -> tuple[Function[Any, Any], ...]:
        """All functions, those made by `on_failure=` included."""
        return tuple(self._functions.values())

    def find(self, slug: str) -> Function[Any, Any] | None:
        """The function with this slug."""
        return self._functions.get(slug)

    def config(self, url: str | None = None) -> list[dict[str, Any]]:
        """The `functions` of a register request. Without `url` they are reached over the worker's connection."""
        return [one.config() if url is None else one.config(url) for one in self.functions]

    def asgi(self, **options: Any) -> AsgiApp:
        """The service as an ASGI application, to be run by itself or mounted anywhere.

        Args:
            options: Those of `stepwell.serve.serve_settings`, such as `signing_key`; else from the environment.
        """
        from stepwell.sdk.serve.asgi import asgi

        return asgi(self, **options)

    @overload
    def function(
        self, *, on: Trigger[T], id: str | None = None, name: str | None = None, **options: Unpack[FunctionOptions]
    ) -> FunctionDecorator[T]: ...
    @overload
    def function(
        self,
        *,
        on: str | Iterable[str | Trigger[Any]] = ...,
        id: str | None = None,
        name: str | None = None,
        **options: Unpack[FunctionOptions],
    ) -> FunctionDecorator[Any]: ...
    def function(
        self,
        *,
        on: Trigger[Any] | str | Iterable[str | Trigger[Any]] = (),
        id: str | None = None,
        name: str | None = None,
        **options: Any,
    ) -> FunctionDecorator[Any]:
        """Make a function of `async def f(ctx: Context[T]) -> R`, or of a plain `def` with a `SyncContext[T]`.

        Args:
            on: What starts it: an event type, several joined with `|`, a name, or a list of names. Without it nothing
                does, and it runs when another function or a client invokes it.
            id: Names it within the service; from the callable's name if not given. Runs in progress find their
                function by it.
            name: For people.
            options: See `FunctionOptions`.

        Raises:
            DefinitionError: An option that does not exist or is out of range, an id that cannot be one or is used
                twice, or a context that does not fit the callable.
        """
        _refuse_unknown(options)
        on_failure = options.pop("on_failure", None)

        def decorate(handler: Callable[..., Any]) -> Function[Any, Any]:
            own_id = _id_of(handler) if id is None else id
            made = self._add(handler, own_id, name or own_id, triggers_of(on), Options(**options))
            if on_failure is not None:
                failure_name = f"{made.name} (failure)"
                self._add(
                    on_failure, f"{own_id}-failure", failure_name, (failure_trigger(made.slug),), Options(retries=0)
                )
            return made

        return decorate

    def _add(
        self, handler: Callable[..., Any], id: str, name: str, triggers: tuple[Trigger[Any], ...], options: Options
    ) -> Function[Any, Any]:
        made: Function[Any, Any] = Function(
            handler, service=self, id=id, name=name, triggers=triggers, options=options
        )  # fmt: skip
        if made.slug in self._functions:
            raise DefinitionError(f"service {self.id!r} has two functions with the id {id!r}; give one of them `id=`")
        self._functions[made.slug] = made
        return made

    def __repr__(self) -> str:
        return f"<service {self.id}: {len(self._functions)} functions>"


def _refuse_unknown(options: dict[str, Any]) -> None:
    known = ["on", "id", "name", *FunctionOptions.__annotations__]
    for name in options:
        if name not in known:
            from difflib import get_close_matches  # which takes long to import

            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}=? There are" if near else "there are"
            raise DefinitionError(f"a function has no option {name}=; {hint} {', '.join(known)}")


def _id_of(handler: Callable[..., Any]) -> str:
    name = getattr(handler, "__name__", "")
    if not name or name == "<lambda>":
        raise DefinitionError("a function without a name needs `id=`")
    return name.strip("_").replace("_", "-")
