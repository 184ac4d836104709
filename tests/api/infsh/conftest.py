"""A real server with an app whose calls a test answers."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.model.app import AppFunction, AppVersion, Needed, Variant
from tests.api.api import Api
from tests.api.conftest import Start
from tests.api.infsh.performing import ScriptedApps

FUNCTIONS = {
    "run": AppFunction(name="run", input_schema={"type": "object"}, output_schema={"type": "object"}),
    "more": AppFunction(name="more"),
}


def version(name: str = "stitch", short: str = "k3f9", **details: Any) -> AppVersion:
    about: dict[str, Any] = {"checksum": short, "functions": FUNCTIONS, "variants": {"big": Variant()}, **details}
    return AppVersion(namespace="acme", name=name, version=short, **about)


@pytest.fixture
async def api(start: Start, data: Any) -> Api:
    """With `acme/stitch` in two versions, and `acme/secretive`, which needs KEY."""
    api = await start(data=data)
    apps = api.server.node.apps
    for one in (
        version(short="old1"),
        version(description="Stitches images"),
        version("secretive", "s1", secrets=(Needed(key="KEY"), Needed(key="MAYBE", optional=True))),
    ):
        await apps.add(one)
    return api


@pytest.fixture
def performer(api: Api) -> ScriptedApps:
    return ScriptedApps(*api.servers)
