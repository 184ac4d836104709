"""Stepwell: durable functions for AI workflows in Python.

    import stepwell

    service = stepwell.Service("shop")
    order_paid = stepwell.event("shop/order.paid", Order)

    @service.function(on=order_paid)
    async def ship(ctx: stepwell.Context[Order]) -> str:
        label = await ctx.step.run("label", print_label, ctx.event.data)
        await ctx.step.sleep("pause", "1h")
        return label

Names are loaded when they are first used, so that `import stepwell` costs next to nothing.
"""

from __future__ import annotations

__version__: str
"""Of the installation; `0.0.0` in a source tree that was never installed."""

TYPE_CHECKING = False  # as checkers understand it; `typing` would be most of the import's time

if TYPE_CHECKING:
    from stepwell import ai as ai
    from stepwell import http as http
    from stepwell import serve as serve
    from stepwell import testing as testing
    from stepwell.model.errors import InvalidInput as InvalidInput
    from stepwell.model.errors import NotFound as NotFound
    from stepwell.model.errors import StepwellError as StepwellError
    from stepwell.model.errors import Unauthorized as Unauthorized
    from stepwell.model.job import RunStatus as RunStatus
    from stepwell.model.task import TaskStatus as TaskStatus
    from stepwell.sdk.client.async_client import AsyncClient as AsyncClient
    from stepwell.sdk.client.async_client import AsyncRun as AsyncRun
    from stepwell.sdk.client.client import Client as Client
    from stepwell.sdk.client.client import Run as Run
    from stepwell.sdk.client.errors import EventsRefused as EventsRefused
    from stepwell.sdk.client.errors import ResultTimeout as ResultTimeout
    from stepwell.sdk.client.errors import RunCancelled as RunCancelled
    from stepwell.sdk.client.errors import RunFailed as RunFailed
    from stepwell.sdk.client.errors import ServerUnreachable as ServerUnreachable
    from stepwell.sdk.client.follow import Update as Update
    from stepwell.sdk.client.requests import Sent as Sent
    from stepwell.sdk.context import Context as Context
    from stepwell.sdk.context import SyncContext as SyncContext
    from stepwell.sdk.errors import AmbiguousStep as AmbiguousStep
    from stepwell.sdk.errors import DefinitionError as DefinitionError
    from stepwell.sdk.errors import EventNotValid as EventNotValid
    from stepwell.sdk.errors import NestedStep as NestedStep
    from stepwell.sdk.errors import NonRetriableError as NonRetriableError
    from stepwell.sdk.errors import RecordedResultChanged as RecordedResultChanged
    from stepwell.sdk.errors import RetryAfterError as RetryAfterError
    from stepwell.sdk.errors import StepError as StepError
    from stepwell.sdk.errors import StepResultNotPortable as StepResultNotPortable
    from stepwell.sdk.errors import StepTimeout as StepTimeout
    from stepwell.sdk.errors import SyncStepInAsync as SyncStepInAsync
    from stepwell.sdk.event import Event as Event
    from stepwell.sdk.event import EventType as EventType
    from stepwell.sdk.event import Trigger as Trigger
    from stepwell.sdk.event import cron as cron
    from stepwell.sdk.event import event as event
    from stepwell.sdk.function import Failure as Failure
    from stepwell.sdk.function import Function as Function
    from stepwell.sdk.inference.async_client import AsyncTask as AsyncTask
    from stepwell.sdk.inference.client import Task as Task
    from stepwell.sdk.inference.errors import AppNotFound as AppNotFound
    from stepwell.sdk.inference.errors import RequirementsMissing as RequirementsMissing
    from stepwell.sdk.inference.errors import SessionLost as SessionLost
    from stepwell.sdk.inference.errors import SessionOver as SessionOver
    from stepwell.sdk.inference.errors import TaskCancelled as TaskCancelled
    from stepwell.sdk.inference.errors import TaskFailed as TaskFailed
    from stepwell.sdk.inference.follow import DeltaUpdate as DeltaUpdate
    from stepwell.sdk.inference.follow import LogUpdate as LogUpdate
    from stepwell.sdk.inference.follow import OutputUpdate as OutputUpdate
    from stepwell.sdk.inference.follow import ResetUpdate as ResetUpdate
    from stepwell.sdk.inference.follow import StatusUpdate as StatusUpdate
    from stepwell.sdk.options import Batch as Batch
    from stepwell.sdk.options import CancelOn as CancelOn
    from stepwell.sdk.options import Checkpointing as Checkpointing
    from stepwell.sdk.options import Concurrency as Concurrency
    from stepwell.sdk.options import Debounce as Debounce
    from stepwell.sdk.options import RateLimit as RateLimit
    from stepwell.sdk.options import Singleton as Singleton
    from stepwell.sdk.options import Throttle as Throttle
    from stepwell.sdk.options import Timeouts as Timeouts
    from stepwell.sdk.parking import outside as outside
    from stepwell.sdk.service import Service as Service
    from stepwell.sdk.step import step as step

_HOMES = {
    "__version__": "stepwell.sdk.version",
    **dict.fromkeys(("InvalidInput", "NotFound", "StepwellError", "Unauthorized"), "stepwell.model.errors"),
    "RunStatus": "stepwell.model.job",
    "TaskStatus": "stepwell.model.task",
    **dict.fromkeys(("AsyncClient", "AsyncRun"), "stepwell.sdk.client.async_client"),
    **dict.fromkeys(("Client", "Run"), "stepwell.sdk.client.client"),
    **dict.fromkeys(
        ("EventsRefused", "ResultTimeout", "RunCancelled", "RunFailed", "ServerUnreachable"),
        "stepwell.sdk.client.errors",
    ),
    "Update": "stepwell.sdk.client.follow",
    "Sent": "stepwell.sdk.client.requests",
    **dict.fromkeys(("Context", "SyncContext"), "stepwell.sdk.context"),
    **dict.fromkeys(
        (
            "AmbiguousStep", "DefinitionError", "EventNotValid", "NestedStep", "NonRetriableError",
            "RecordedResultChanged", "RetryAfterError", "StepError", "StepResultNotPortable", "StepTimeout",
            "SyncStepInAsync",
        ),
        "stepwell.sdk.errors",
    ),
    **dict.fromkeys(("Event", "EventType", "Trigger", "cron", "event"), "stepwell.sdk.event"),
    **dict.fromkeys(("Failure", "Function"), "stepwell.sdk.function"),
    "AsyncTask": "stepwell.sdk.inference.async_client",
    "Task": "stepwell.sdk.inference.client",
    **dict.fromkeys(
        ("AppNotFound", "RequirementsMissing", "SessionLost", "SessionOver", "TaskCancelled", "TaskFailed"),
        "stepwell.sdk.inference.errors",
    ),
    **dict.fromkeys(
        ("DeltaUpdate", "LogUpdate", "OutputUpdate", "ResetUpdate", "StatusUpdate"), "stepwell.sdk.inference.follow"
    ),
    **dict.fromkeys(
        (
            "Batch",
            "CancelOn",
            "Checkpointing",
            "Concurrency",
            "Debounce",
            "RateLimit",
            "Singleton",
            "Throttle",
            "Timeouts",
        ),
        "stepwell.sdk.options",
    ),
    "outside": "stepwell.sdk.parking",
    "Service": "stepwell.sdk.service",
    "step": "stepwell.sdk.step",
}  # fmt: skip

_MODULES = ("ai", "http", "serve", "testing")


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"stepwell.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'stepwell' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
