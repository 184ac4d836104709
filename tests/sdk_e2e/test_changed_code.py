"""Code that is changed while runs sleep: recorded results stay with their ids, and the author is told."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.official.harness import Server, until
from tests.sdk_e2e.harness import OwnKind, a_service, ended_by

pytestmark = pytest.mark.slow

RUNS = 20


@pytest.mark.parametrize("kind", ["worker", "uvicorn"])
def test_renamed_and_added_steps_run_removed_ones_are_forgotten_and_kept_ones_keep_their_results(
    kind: OwnKind, shared: Server, tmp_path: Path
) -> None:
    server = shared
    with a_service(kind, server, tmp_path, name=f"{kind}-changing", app="changing") as service:
        sent = [server.send(service.event("changing"), {"n": n}) for n in range(RUNS)]
        shaped = server.send(service.event("shape"), {})
        asleep = [server.started(event) for event in sent]
        for run in asleep:
            server.waits_at(run.id, "nap")
        server.waits_at(server.started(shaped).id, "nap")
        ended_by(signal.SIGTERM, service.program)
        changed = service.start(VERSION="2")
        ended = [server.ended(run.id) for run in asleep]

        for run in ended:
            assert run.output == ["added of 2", "renamed of 2", "kept of 1", "last of 2"], server.explain(run.id)
            ran = [(line.step, line.facts["version"]) for line in service.ledger(run.id) if "(" not in line.step]
            assert ran == [("one", 1), ("removed", 1), ("kept", 1), ("added", 2), ("renamed", 2), ("last", 2)]

        run = server.failed(shaped)
        assert run.output["name"] == "RecordedResultChanged"
        assert "'shaped'" in run.output["message"]
        assert "give the step a new id" in run.output["message"]

        until(
            "the warning",
            10,
            lambda: "has a recorded result that the function did not ask for" in changed.log.read_text() or None,
            changed.tail,
        )
