"""Serve a service over HTTP: `stepwell.serve.fastapi(app, service)`.

Each adapter takes the options of `stepwell.sdk.serve.settings.serve_settings`. A framework is imported by the
adapter that is named after it and by nothing else.
"""

from __future__ import annotations

from stepwell.sdk.serve.asgi import asgi
from stepwell.sdk.serve.django import django
from stepwell.sdk.serve.fastapi import fastapi
from stepwell.sdk.serve.flask import flask
from stepwell.sdk.serve.handler import Handler
from stepwell.sdk.serve.message import Request
from stepwell.sdk.serve.settings import ServeSettings, serve_settings
from stepwell.sdk.serve.starlette import starlette
from stepwell.wire.inngest.reply import Response

__all__ = [
    "asgi",
    "django",
    "fastapi",
    "flask",
    "starlette",
    "Handler",
    "Request",
    "Response",
    "ServeSettings",
    "serve_settings",
]
