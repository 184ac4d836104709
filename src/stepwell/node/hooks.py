"""Webhooks of tasks: telling a URL that a task has ended, however often it takes.

    a task with a webhook ends ──▶ event HOOK_EVENT, in the same commit ──▶ a run of the server's own function
    each call of it is one request (`stepwell.gateway.webhook`); one that fails is made again, as any call is

So a delivery outlives a kill of the server, is seen in lists and traces, and can be cancelled. What is sent is put
together from the task when it is sent: nothing of it is kept twice, and the URL is only in the request of the task.
"""

from __future__ import annotations

from stepwell.model.event import event_body
from stepwell.model.function import Function, Service, Transport, Trigger
from stepwell.model.ids import Instant, RunId

HOOK_EVENT = "stepwell/webhook.due"
HOOK_SERVICE = "stepwell"
HOOK_FUNCTION = "stepwell-webhook"
HOOK_RETRIES = 9
"""After the first attempt: together they take about two hours and a half."""


def hook_event(task: RunId, at: Instant) -> bytes:
    """The event of a task that ended at `at`."""
    return event_body(name=HOOK_EVENT, id=task, ts=at, data={"task": task})


def hook_service(env: str) -> Service:
    """The service that the server itself is."""
    function = Function(
        slug=HOOK_FUNCTION,
        name=HOOK_FUNCTION,
        service=HOOK_SERVICE,
        triggers=(Trigger(event=HOOK_EVENT),),
        env=env,
        retries=HOOK_RETRIES,
    )
    return Service(name=HOOK_SERVICE, transport=Transport.LOCAL, env=env, functions=(function,))
