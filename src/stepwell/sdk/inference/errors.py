"""What can go wrong between a program and an app, each with its facts as attributes."""

from __future__ import annotations

from typing import Any

from stepwell.model.errors import NotFound, StepwellError
from stepwell.sdk.client.errors import ServerError


class AppNotFound(NotFound):
    """The server has no such app, version or function.

    Attributes:
        app: What was asked for.
    """

    code = "APP_NOT_FOUND"

    def __init__(self, app: str, message: str) -> None:
        self.app = app
        super().__init__(message)


class RequirementsMissing(StepwellError):
    """The server lacks secrets that the app needs. No task was made.

    Attributes:
        keys: Their names.
    """

    code = "REQUIREMENTS_NOT_MET"
    http_status = 412

    def __init__(self, message: str, keys: tuple[str, ...]) -> None:
        self.keys = keys
        super().__init__(message)


class TaskFailed(StepwellError):
    """The task ended in failure.

    Attributes:
        task_id: Of the task.
        app: Reference of the version that was run.
        name: Class name of the error, such as `ValueError`.
        message: Its text.
        trace: The app's traceback as text; empty if the app did not come so far.
    """

    code = "TASK_FAILED"

    def __init__(self, task_id: str, app: str, error: dict[str, Any]) -> None:
        self.task_id = task_id
        self.app = app
        self.name = str(error.get("name") or "Error")
        self.message = str(error.get("message") or "")
        self.trace = str(error.get("stack") or "")
        told = f"{self.name}: {self.message}" if self.message else self.name
        trace = f"\n{self.trace.rstrip()}" if self.trace else ""
        super().__init__(f"{app} failed in task {task_id}: {told}{trace}")


class TaskCancelled(StepwellError):
    """The task was cancelled. `output` is what it had given by then, as JSON; None if nothing."""

    code = "TASK_CANCELLED"

    def __init__(self, task_id: str, app: str, output: Any = None) -> None:
        self.task_id = task_id
        self.app = app
        self.output = output
        super().__init__(f"task {task_id} of {app} was cancelled")


class SessionOver(StepwellError):
    """The session is not there any more: it was ended, was idle for too long, or never existed. Open a new one.

    Attributes:
        session: Its id.
        reason: `SESSION_NOT_FOUND`, `SESSION_EXPIRED`, `SESSION_ENDED` or `WORKER_LOST`.
    """

    code = "SESSION_OVER"
    http_status = 410

    def __init__(self, session: str, reason: str, message: str) -> None:
        self.session = session
        self.reason = reason
        super().__init__(message)


class SessionLost(SessionOver):
    """The process that held the session's state was lost, and the app can rebuild none."""

    code = "WORKER_LOST"


class TaskRefused(ServerError):
    """The server did not take what was asked of it.

    Attributes:
        reason: What the server calls it, such as `worker_leased` or `app_retired`.
    """

    def __init__(self, message: str, *, status: int, body: Any, reason: str) -> None:
        self.reason = reason
        super().__init__(message, status=status, body=body)
