"""The apps that a node keeps: references, versions, the current one, and the services made of them."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.model.app import AppVersion
from stepwell.model.errors import Conflict, InvalidInput, NotFound
from stepwell.model.event import DEV_ENV
from stepwell.model.function import Transport
from stepwell.node.apps import Apps
from stepwell.node.node import NodeSettings
from stepwell.testing.node import InMemoryNode


def version(name: str = "k3f9", app: str = "stitch", **details: Any) -> AppVersion:
    return AppVersion(namespace="acme", name=app, version=name, checksum=f"sum-{name}", **details)


def node_with(*versions: AppVersion) -> InMemoryNode:
    node = InMemoryNode()
    for one in versions:
        node.do(node.node.apps.add(one))
    return node


def found(node: InMemoryNode, reference: str, own: str = "") -> str:
    _, version = node.do(node.node.apps.find(DEV_ENV, reference, own))
    return version.reference


def test_a_reference_means_the_current_version_unless_it_names_one() -> None:
    node = node_with(version("one1"), version("two2"))
    assert found(node, "acme/stitch") == "acme/stitch@two2"
    assert found(node, "acme/stitch@latest:run") == "acme/stitch@two2"
    assert found(node, "acme/stitch@one1") == "acme/stitch@one1"
    assert found(node, "stitch@one1:upscale", "acme") == "acme/stitch@one1"
    assert found(node, f"acme/stitch@{version('one1').id}") == "acme/stitch@one1"


@pytest.mark.parametrize("reference", ["acme/nope", "stitch", "acme/stitch@zzzz"])
def test_what_is_not_there_says_which_command_makes_it(reference: str) -> None:
    node = node_with(version())
    with pytest.raises(NotFound, match="`stepwell app deploy DIRECTORY`"):
        found(node, reference)
    with pytest.raises(InvalidInput, match="namespace/name"):
        found(node, "a/b/c/d")


def test_apps_and_versions_are_found_by_their_ids() -> None:
    node = node_with(version("one1"), version("two2"))
    app, _ = node.do(node.node.apps.find(DEV_ENV, "acme/stitch"))
    assert node.do(node.node.apps.find_id(DEV_ENV, app.id))[1].version == "two2"
    assert node.do(node.node.apps.find_id(DEV_ENV, version("one1").id))[1].version == "one1"
    with pytest.raises(NotFound, match="no app or version"):
        node.do(node.node.apps.find_id(DEV_ENV, "nope"))


def test_lists_are_by_name_and_versions_newest_first() -> None:
    node = node_with(version("one1"), version("two2"), version("x", app="draw"))
    assert [one.reference for one in node.do(node.node.apps.list(DEV_ENV))] == ["acme/draw", "acme/stitch"]
    assert [one.version for one in node.do(node.node.apps.versions(DEV_ENV, "acme/stitch"))] == ["two2", "one1"]
    assert node.do(node.node.apps.list("other")) == ()


def test_every_version_is_a_function_of_the_service_of_its_app() -> None:
    node = node_with(version("one1"), version("two2"))
    service = node.node.registry.service(DEV_ENV, "acme/stitch")
    assert service is not None
    assert (service.transport, service.app_version) == (Transport.APP, "two2")
    assert {one.slug for one in service.functions} == {"acme/stitch@one1", "acme/stitch@two2"}
    assert all(one.retries == 0 and not one.triggers and one.cancel_grace_ms for one in service.functions)
    assert node.node.registry.is_live(DEV_ENV, "acme/stitch")
    assert not node.node.registry.is_connected(DEV_ENV, "acme/stitch")


def test_apps_outlive_the_node_and_are_known_to_the_others() -> None:
    settings = NodeSettings(search_ms=1_000)
    first = InMemoryNode(name="a", settings=settings)
    second = InMemoryNode(name="b", store=first.store, scheduler=first.scheduler, settings=settings)
    first.do(first.node.apps.add(version("one1")))
    first.pass_time(seconds=10)
    assert second.node.registry.is_app(DEV_ENV, "acme/stitch")
    assert found(second, "acme/stitch") == "acme/stitch@one1"
    second.do(second.node.apps.add(version("two2")))
    assert found(first, "acme/stitch") == "acme/stitch@two2"
    again = InMemoryNode(name="a", epoch=2, store=first.store, scheduler=first.scheduler, settings=settings)
    assert again.node.registry.function(DEV_ENV, "acme/stitch@two2") is not None


def test_a_version_never_changes() -> None:
    node = node_with(version())
    node.do(node.node.apps.add(version()))
    with pytest.raises(Conflict, match="other files"):
        node.do(node.node.apps.add(AppVersion(namespace="acme", name="stitch", version="k3f9", checksum="other")))


def test_another_version_is_made_current() -> None:
    node = node_with(version("one1"), version("two2"))
    node.do(node.node.apps.add(version("tri3"), current=False))
    assert found(node, "acme/stitch") == "acme/stitch@two2"
    node.do(node.node.apps.set_current(DEV_ENV, "acme/stitch@one1"))
    assert found(node, "acme/stitch") == "acme/stitch@one1"
    app = node.do(node.node.apps.set_status(DEV_ENV, "acme/stitch", "maintenance", "back soon"))
    assert (app.status, app.status_message, app.current) == ("maintenance", "back soon", "one1")


def test_versions_and_apps_are_removed() -> None:
    node = node_with(version("one1"), version("two2"))
    with pytest.raises(Conflict, match="current version"):
        node.do(node.node.apps.remove(DEV_ENV, "acme/stitch@two2"))
    gone = node.do(node.node.apps.remove(DEV_ENV, "acme/stitch@one1"))
    assert [one.version for one in gone] == ["one1"]
    with pytest.raises(NotFound):
        found(node, "acme/stitch@one1")
    function = node.node.registry.function(DEV_ENV, "acme/stitch@one1")
    assert function is not None
    assert function.archived  # its runs go on
    assert [one.version for one in node.do(node.node.apps.remove(DEV_ENV, "acme/stitch"))] == ["two2"]
    assert node.do(node.node.apps.list(DEV_ENV)) == ()
    assert node.node.registry.service(DEV_ENV, "acme/stitch") is None
    assert node.do(node.store.records(DEV_ENV, "app_version")) == []


def test_who_is_overtaken_begins_anew() -> None:
    """Two nodes add a version at the same moment: both are there afterwards."""
    settings = NodeSettings(search_ms=1_000)
    first = InMemoryNode(name="a", settings=settings)
    second = InMemoryNode(name="b", store=first.store, scheduler=first.scheduler, settings=settings)
    for node, name in ((first, "one1"), (second, "two2"), (first, "tri3")):
        node.world.spawn(_add(node.node.apps, version(name)))
    first.pass_time(seconds=10)
    app, _ = first.do(first.node.apps.find(DEV_ENV, "acme/stitch"))
    assert set(app.versions) == {"one1", "two2", "tri3"}
    for node in (first, second):
        slugs = {one.slug for one in node.node.registry.functions(DEV_ENV)}
        assert slugs == {"acme/stitch@one1", "acme/stitch@two2", "acme/stitch@tri3"}


async def _add(apps: Apps, one: AppVersion) -> None:
    await apps.add(one)
