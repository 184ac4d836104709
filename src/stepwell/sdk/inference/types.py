"""What type checkers need to know of a class that is an app: what its `run` takes and gives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from datetime import timedelta
from typing import Any, Protocol, TypedDict, TypeVar

I_contra = TypeVar("I_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)


class Async(Protocol[I_contra, O_co]):
    """`async def run(self, input: Input) -> Output`."""

    def run(self, input: I_contra, /) -> Coroutine[Any, Any, O_co]: ...


class AsyncStream(Protocol[I_contra, O_co]):
    """`async def run(self, input: Input) -> AsyncIterator[Output]` with `yield`."""

    def run(self, input: I_contra, /) -> AsyncIterator[O_co]: ...


class Stream(Protocol[I_contra, O_co]):
    """`def run(self, input: Input) -> Iterator[Output]`."""

    def run(self, input: I_contra, /) -> Iterator[O_co]: ...


class Plain(Protocol[I_contra, O_co]):
    """`def run(self, input: Input) -> Output`."""

    def run(self, input: I_contra, /) -> O_co: ...


class Options(TypedDict, total=False):
    """How a task is to be run.

    Keys:
        setup: What the app's `setup` gets; each value has warm processes of its own.
        session: Id of a session to run in; `client.sessions.open` is easier.
        variant: One of the app's variants.
        webhook: An address that is told of the end.
        key: The same key again begins nothing new; at most 255 letters.
    """

    setup: object
    session: str
    variant: str
    webhook: str
    key: str


class RunOptions(Options, total=False):
    """How a task is to be run and waited for.

    Keys:
        timeout: How long to wait: a `timedelta`, text such as `"1m"`, or seconds. The task goes on after that.
    """

    timeout: timedelta | str | float | None
