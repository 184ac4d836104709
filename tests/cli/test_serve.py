"""What `stepwell dev` and `start` say when they start and stop, and of variables made for Inngest's server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stepwell.cli.options import keys_not_taken

if TYPE_CHECKING:
    from pathlib import Path

KEYS = {"STEPWELL_SIGNING_KEY": "0123456789abcdef" * 4, "STEPWELL_EVENT_KEY": "an-event-key"}


def lines(folder: Path, *words: str, until: str, **variables: str) -> list[str]:
    """What a server says from its start to its end; it is asked to end when it has said `until`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STEPWELL", "INNGEST"))}
    command = [sys.executable, "-m", "stepwell.cli", *words, "--port", "0", "--data", str(folder / "data")]
    said = []
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment | variables, cwd=folder
    ) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                said.append(line.rstrip())
                if until in line:
                    server.send_signal(signal.SIGTERM)
        finally:
            server.kill()
    assert server.returncode == 0, said
    return said


@pytest.mark.parametrize("command", ["dev", "start"])
def test_with_json_every_line_is_json(tmp_path: Path, command: str) -> None:
    variables = {"INNGEST_TICK": "150", **({} if command == "dev" else KEYS)}
    said = lines(tmp_path, command, "--log-json", until='"started"', **variables)
    told = [json.loads(line)["message"] for line in said]
    assert told[0].startswith("--tick (or INNGEST_TICK) does nothing here")
    assert "started" in told
    assert "stopping; what is in flight may still finish" in told
    assert told[-1] == "stopped"


def test_a_worker_that_ends_is_told_in_json_too(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    said = lines(tmp_path, "dev", "app.py", "--no-discovery", "--log-json", until="the worker waits for a change")
    told = [line for line in said if "the worker waits for a change" in line]
    assert [json.loads(line)["level"] for line in told] == ["info"]


def test_variables_of_inngests_server_that_do_nothing_are_named_once(tmp_path: Path) -> None:
    unknown = {
        "INNGEST_POSTGRES_MAX_OPEN_CONNS": "10",
        "INNGEST_CONNECT_GATEWAY_GRPC_PORT": "50052",
        "INNGEST_DEV": "1",
        "INNGEST_BASE_URL": "http://localhost:1",
    }
    said = lines(tmp_path, "start", until="state in", **unknown, **KEYS)
    for name in list(unknown)[:2]:
        assert sum(name in line and "does nothing here" in line for line in said) == 1
    assert not [line for line in said if "INNGEST_DEV" in line or "INNGEST_BASE_URL" in line]


def test_keys_that_are_there_for_sdks_do_not_stop_dev_and_are_told(tmp_path: Path) -> None:
    keys = {
        "INNGEST_SIGNING_KEY": "signkey-prod-0123456789abcdef",
        "INNGEST_SIGNING_KEY_FALLBACK": "signkey-prod-fedcba9876543210",
        "INNGEST_EVENT_KEY": "an-event-key",
    }
    said = lines(tmp_path, "dev", until="state in", **keys)
    [told] = [line for line in said if "not used by `dev`" in line]
    assert all(name in told and name.replace("INNGEST", "STEPWELL") in told for name in keys)
    assert "0123456789abcdef" not in told


def test_without_keys_there_is_nothing_to_tell() -> None:
    assert keys_not_taken({"INNGEST_DEV": "1", "INNGEST_EVENT_KEY": ""}) == []
    assert keys_not_taken({"INNGEST_EVENT_KEY": "k"}) == [
        "INNGEST_EVENT_KEY is not used by `dev`, which needs no keys; STEPWELL_EVENT_KEY would be"
    ]
