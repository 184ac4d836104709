"""`stepwell send --follow`, with a server that comes and goes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from stepwell.cli import cli, follow, runs, send
from stepwell.cli.api import ConnectionLost

NOON = "2026-03-04T12:00:00.000Z"
ERROR = {"name": "ValueError", "message": "bad\x1b row"}
STEP = {
    "step": "s1",
    "status": "RUNNING",
    "error": None,
    "children": [{"error": ERROR, "children": []}, {"error": None, "children": []}],
}


class Scripted:
    """Answers as a server would; `streams` are what each connection brings, an error ends one early."""

    url = "http://localhost:8288"

    def __init__(self, *streams: list[Any], runs: int = 1) -> None:
        self.streams = list(streams)
        self.runs = runs
        self.asked: list[str | None] = []
        self.paths: list[str] = []

    def get(self, path: str) -> Any:
        if path.startswith("/v1/events/"):
            return {"data": [{"run_id": f"run-{number}"} for number in range(self.runs)]}
        times = {"created_at": NOON, "ended_at": NOON}
        return {
            "id": path.rpartition("/")[2],
            "function": "shop",
            "status": "COMPLETED",
            "output": 5,
            "trace": {"children": [STEP]},
            "requests": [],
            **times,
        }

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return {"ids": ["event"], "status": 200}

    def events(self, path: str, after: str | None, on_open: Callable[[], None]) -> Iterator[tuple[str, Any]]:
        self.asked.append(after)
        self.paths.append(path)
        if not self.streams:
            raise ConnectionLost("refused")
        on_open()
        for number, one in enumerate(self.streams.pop(0), 1):
            if isinstance(one, Exception):
                raise one
            yield str(number), {"at": NOON, **one}


END = {"type": "end"}


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PAUSE_S", 0.0)
    monkeypatch.setattr(follow, "MATCH_S", 0.0)


def test_a_broken_stream_is_opened_again_where_it_broke(capsys: pytest.CaptureFixture[str]) -> None:
    begun = {"type": "step", "step": "s1", "name": "charge", "status": "SCHEDULED"}
    api = Scripted([begun, ConnectionLost("peer closed")], [END])
    (run,) = follow.follow_runs(api, "event")  # type: ignore[arg-type]
    assert run["status"] == "COMPLETED"
    assert api.asked == [None, "1"]
    said = capsys.readouterr().err
    assert said.index("the server is gone (peer closed)") < said.index("the server is back")


def test_a_server_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "GONE_S", 0.05)
    with pytest.raises(click.ClickException, match="the run run-0 goes on"):
        follow.follow_runs(Scripted(), "event", quiet=True)  # type: ignore[arg-type]


def test_a_failed_attempt_shows_its_error_and_the_next_try(capsys: pytest.CaptureFixture[str]) -> None:
    later = "2026-03-04T12:00:15.000Z"
    retry = {"type": "step", "step": "s1", "name": "charge", "status": "RETRYING", "until": later}
    follow.follow_runs(Scripted([retry, END]), "event")  # type: ignore[arg-type]
    line = capsys.readouterr().err.splitlines()[0]
    assert line == f"     {'charge':<24} ↻ retrying next try in 15 s: ValueError: bad  row"


def test_a_result_that_is_kept_from_another_run_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    kept = {"type": "step", "step": "s1", "name": "charge", "status": "COMPLETED", "origin": "run-1"}
    own = {**kept, "step": "s2", "origin": None}
    follow.follow_runs(Scripted([kept, own, END]), "event")  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("completed")[1].strip() for line in lines[:2]] == ["kept from the record", ""]


@pytest.mark.parametrize(("status", "code"), [("COMPLETED", 0), ("FAILED", 1)])
def test_a_run_that_goes_on_already_is_followed_to_its_end(
    monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    class Ending(Scripted):
        def get(self, path: str) -> Any:
            return {**super().get(path), "status": status}

    said = {"type": "delta", "step": "s1", "name": "draft", "kind": "text", "text": "Good day"}
    monkeypatch.setattr(runs, "Api", lambda url, key: Ending([said, END]))
    result = CliRunner().invoke(cli, ["run", "follow", "run-7"])
    assert result.exit_code == code
    assert "Good day" in result.stderr
    assert "run-7" in result.stderr
    monkeypatch.setattr(runs, "Api", lambda url, key: Ending([END]))
    assert json.loads(CliRunner().invoke(cli, ["run", "follow", "run-7", "--json"]).stdout)["status"] == status


class Waiting(Scripted):
    """A server where nothing begins for a while."""

    def __init__(self, *, started_at: str | None, connected: int) -> None:
        super().__init__([END])
        self.started_at = started_at
        self.line = {"service": "shop", "connected": connected, "waiting_calls": 2}

    def get(self, path: str) -> Any:
        if path == "/api/status":
            return {"workers": [self.line]}
        found = super().get(path)
        if not path.startswith("/v1/") and not self.ended:
            found |= {"service": "shop", "started_at": self.started_at, "ended_at": None}
        return found

    ended = False

    def events(self, path: str, after: str | None, on_open: Callable[[], None]) -> Iterator[tuple[str, Any]]:
        time.sleep(0.3)
        self.ended = True
        yield from super().events(path, after, on_open)


@pytest.mark.parametrize(
    ("started_at", "connected", "said"),
    [
        (None, 0, "nothing has begun: no workers of the service shop connected, calls waiting: 2"),
        (None, 1, "nothing has begun: 1 worker of the service shop connected, calls waiting: 2"),
        (NOON, 0, None),
    ],
)
def test_a_run_that_does_not_begin_is_explained_once(
    started_at: str | None,
    connected: int,
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(follow, "BEGIN_S", 0.05)
    follow.follow_runs(Waiting(started_at=started_at, connected=connected), "event")  # type: ignore[arg-type]
    lines = [line for line in capsys.readouterr().err.splitlines() if "nothing has begun" in line]
    assert [line.strip(" ○") for line in lines] == ([said] if said else [])


@pytest.mark.parametrize("runs", [0, 2])
def test_json_is_one_document_whatever_was_started(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "Api", lambda url, key: Scripted([END], [END], runs=runs))
    result = CliRunner().invoke(cli, ["send", "a/b", "--json", "--follow"])
    assert result.exit_code == 0
    assert [run["id"] for run in json.loads(result.stdout)["runs"]] == [f"run-{number}" for number in range(runs)]


def test_an_event_that_starts_nothing_may_still_have_done_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "Api", lambda url, key: Scripted(runs=0))
    result = CliRunner().invoke(cli, ["send", "a/b", "--follow"])
    assert result.exit_code == 0
    assert "it may have ended waits or cancelled runs" in result.stderr


def test_ctrl_c_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(send, "Api", lambda url, key: Scripted())
    monkeypatch.setattr(send, "follow_runs", interrupted)
    result = CliRunner().invoke(cli, ["send", "a/b", "--follow"])
    assert result.exit_code == 130
    assert "Aborted" not in result.output


def test_words_of_a_model_are_printed_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    def delta(step: str, text: str, kind: str = "text") -> dict[str, Any]:
        return {"type": "delta", "step": step, "name": f"say-{step}", "kind": kind, "text": text}

    changes = [
        delta("a", "It "),
        delta("a", "Hm", "reasoning"),
        delta("a", "burns\nred\x1b[2J"),
        delta("b", "Other"),
        {"type": "reset", "step": "b", "name": "say-b", "reason": "it failed"},
        {"type": "gap", "missed": 7},
        delta("b", "words"),
        {"type": "step", "step": "b", "name": "say-b", "status": "COMPLETED"},
        END,
    ]
    api = Scripted(changes)
    follow.follow_runs(api, "event")  # type: ignore[arg-type]
    assert api.paths == ["/api/runs/run-0/stream"]
    lines = [line.rstrip() for line in capsys.readouterr().err.splitlines()]
    assert lines[:3] == [
        f"  {'say-a':<24} It burns",
        f"  {'':<24} red [2J",
        f"  {'say-b':<24} Other",
    ]
    assert "what was said of say-b is void: it failed" in lines[3]
    assert "7 pieces of an answer were not kept so long" in lines[4]
    assert lines[5] == f"  {'say-b':<24} words"
    assert "completed" in lines[6]


def test_who_wants_no_words_is_sent_none() -> None:
    api = Scripted([END])
    follow.follow_runs(api, "event", quiet=True)  # type: ignore[arg-type]
    assert api.paths == ["/api/runs/run-0/follow"]
