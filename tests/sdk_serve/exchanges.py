"""Requests to a service, made by hand or taken from the recordings, with and without a signature."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepwell.model.ids import step_id
from stepwell.model.payload import canonical
from stepwell.sdk.serve.message import Request
from stepwell.wire.signature import sign

RECORDED = Path(__file__).parents[1] / "wire" / "recorded"
URL = "http://127.0.0.1:3000/api/inngest"
RUN = "01JZ0000000000000000000001"
KEY = "signkey-test-12345678"
OTHER_KEY = "signkey-test-87654321"
NOW = 1_780_000_000


def a_call(
    slug: str,
    *,
    event: Mapping[str, Any] | None = None,
    steps: Mapping[str, Any] | None = None,
    target: str = "step",
    url: str = URL,
    key: str | None = None,
    at: int = NOW,
    headers: Mapping[str, str] | None = None,
    **ctx: Any,
) -> Request:
    """A call request. `steps` are memos by the step's own id, in the order in which they finished."""
    memos = {step_id(name, 0): memo for name, memo in (steps or {}).items()}
    event = {"name": "t/e", "data": {}, "id": "e-1", "ts": 1_780_000_000_000, "user": {}, **(event or {})}
    found = target if target == "step" else step_id(target, 0)
    body = canonical(
        {
            "ctx": {
                "attempt": 0,
                "disable_immediate_execution": False,
                "env": "",
                "max_attempts": 5,
                "run_id": RUN,
                "stack": {"current": len(memos), "stack": list(memos)},
                "step_id": found,
                "use_api": False,
                **ctx,
            },
            "event": event,
            "events": [event],
            "steps": memos,
            "use_api": ctx.get("use_api", False),
            "version": 2,
        }
    )
    return request("POST", f"{url}?fnId={slug}&stepId={found}", body, key=key, at=at, headers=headers)


def request(
    method: str,
    url: str = URL,
    body: bytes = b"",
    *,
    key: str | None = None,
    at: int = NOW,
    headers: Mapping[str, str] | None = None,
) -> Request:
    found = {"content-type": "application/json", "host": "127.0.0.1:3000", **(headers or {})}
    if key:
        found["x-inngest-signature"] = sign(body, key, at)
    return Request(method, url, found, body)


def recorded(name: str) -> tuple[Request, dict[str, Any], list[dict[str, Any]]]:
    """A recorded request to the official SDK, its answer, and what the SDK asked the server meanwhile."""
    exchanges = json.loads((RECORDED / f"{name}.json").read_text())
    (called,) = [one for one in exchanges if one["from"] == "server"]
    asked = [one for one in exchanges if one["from"] == "sdk"]
    sent = called["request"]
    body = b"" if sent["body"] is None else canonical(sent["body"])
    return (
        request(sent["method"], "http://127.0.0.1:3000" + sent["path"], body, headers=sent["headers"]),
        called["response"],
        asked,
    )
