"""`stepwell rerun` and `stepwell run diff`: what they ask for, and what they show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stepwell.cli import cli, rerun, runs

OLD, NEW = "01M7W3056KKTTQFBXRS51SXGDW", "01M7W31ZQ3VDKPCC3E3GM0J7XE"


def side(**details: Any) -> dict[str, Any]:
    """A step as the server tells of it."""
    return {
        "status": "COMPLETED",
        "kind": "step.ai.infer",
        "origin": None,
        "edited": False,
        "attempts": 1,
        "duration_ms": 1200,
        "first_token_ms": 400.0,
        "cost_usd": "0.0012",
        "error": None,
        **details,
    }


def whole(run: str, **details: Any) -> dict[str, Any]:
    return {
        "id": run,
        "status": "COMPLETED",
        "origin": None,
        "from_step": None,
        "duration_ms": 1300,
        "input_tokens": 12,
        "output_tokens": 34,
        "cost_usd": "1E-7",
        "output": {"text": "Good day"},
        "error": None,
        **details,
    }


PROMPT = [{"role": "system", "text": "Be kind."}, {"role": "user", "text": "Hello\nthere"}]
COMPARED = {
    "function": "desk-answer",
    "old": whole(OLD),
    "new": whole(NEW, status="FAILED", output=None, error={"name": "E", "message": "bad\x1b[31m"}, cost_usd=None),
    "steps": [
        {"name": "first", "step": "1", "same": True, "old": side(), "new": side(origin=OLD)},
        {
            "name": "draft",
            "step": "2",
            "same": False,
            "old": side(model="large", prompt=PROMPT, parameters={"temperature": 1}, answer="word " * 200),
            "new": side(model="small", prompt=PROMPT[:1], parameters={}, answer=None, edited=True, attempts=3),
        },
        {"name": "gone", "step": "3", "same": False, "old": side(kind="step.run", output=[1]), "new": None},
    ],
}


class Answers:
    """Stands for the server."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url

    asked: list[tuple[str, Any, dict[str, str]]] = []

    def post(self, path: str, body: Any, **headers: str) -> Any:
        self.asked.append((path, body, headers))
        return {"data": {"run_id": NEW, "origin": OLD, "from_step": body.get("from_step"), "kept": 2, "doubled": False}}

    def get(self, path: str, **query: Any) -> Any:
        assert path == f"/api/runs/{OLD}/compare/{NEW}"
        return COMPARED


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, dict[str, str]]]:
    Answers.asked = []
    monkeypatch.setattr(rerun, "Api", Answers)
    monkeypatch.setattr(runs, "Api", Answers)
    return Answers.asked


def run(*words: str, status: int = 0, **more: Any) -> Result:
    result = CliRunner().invoke(cli, list(words), **more)
    assert result.exit_code == status, result.output
    return result


def test_changes_are_json_or_text(answers: list[Any]) -> None:
    changes = [
        "model=gpt-4o",
        "temperature=0.5",
        "messages.0.content=Be brief = kind.",
        "stop=null",
        'tools=[{"a": 1}]',
    ]
    run("rerun", OLD, "--from", "draft:1", *(word for one in changes for word in ("--set", one)))
    [(path, body, headers)] = answers
    assert path == f"/v1/runs/{OLD}/rerun"
    assert body == {
        "from_step": "draft:1",
        "set": {
            "model": "gpt-4o",
            "temperature": 0.5,
            "messages.0.content": "Be brief = kind.",
            "stop": None,
            "tools": [{"a": 1}],
        },
    }
    assert len(headers["Idempotency-Key"]) == 36


def test_an_input_comes_from_the_line_a_file_or_standard_input(answers: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "prompt.json"
    file.write_text('{"n": "ü"}', encoding="utf-8")
    run("rerun", OLD, "--input", "[1]")
    run("rerun", OLD, "--input", f"@{file}")
    run("rerun", OLD, "--input", "-", input='{"m": 2}')
    assert [body["input"] for _, body, _ in answers] == [[1], {"n": "ü"}, {"m": 2}]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "model"], "--set 'model' must be PATH=VALUE"),
        (["--set", "=x"], "must be PATH=VALUE"),
        (["--input", "{"], "--input is not JSON"),
        (["--input", "@/nowhere/prompt.json"], "the file /nowhere/prompt.json cannot be read"),
        (["--input", "[" * 100_000], "nested too deeply"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(answers: list[Any], words: list[str], says: str) -> None:
    assert says in run("rerun", OLD, *words, status=2).output
    assert not answers


def test_it_stays_until_the_run_has_ended_and_shows_both(monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[str] = []

    def follow(api: object, run_id: str, *, quiet: bool) -> dict[str, Any]:
        followed.append(run_id)
        return {"status": "FAILED"}

    monkeypatch.setattr(rerun, "follow_run", follow)
    told = json.loads(run("rerun", OLD, "--compare", "--json", status=1).stdout)
    assert followed == [NEW]
    assert (told["run_id"], told["run"], told["comparison"]["function"]) == (NEW, {"status": "FAILED"}, "desk-answer")
    result = run("rerun", OLD, "--from", "draft", "--compare", status=1)
    assert "2 results kept" in result.stderr
    assert "desk-answer" in result.stdout


def test_two_runs_stand_side_by_side() -> None:
    lines = run("run", "diff", OLD, NEW).stdout.splitlines()
    assert lines[0] == "desk-answer"

    def cells(start: str, after: int = 0) -> list[str]:
        line = next(line for line in lines[after:] if line.startswith(start))
        return [line[18:48].strip(), line[50:].strip()]

    assert cells("run") == [OLD, NEW]
    assert cells("cost") == ["$0.0000001", ""]
    assert cells("output") == ['{"text": "Good day"}', ""]
    assert cells("error")[1] == "E: bad [31m"
    draft = lines.index("draft  ai.infer")
    assert cells("model", draft) == ["large", "small"]
    assert cells("attempts", draft) == ["", "3"]
    assert cells("first token", draft) == ["400 ms", "400 ms"]
    assert cells("system", draft) == ["Be kind.", "Be kind."]
    assert cells("temperature", draft) == ["1", ""]
    user = next(number for number, line in enumerate(lines) if line.startswith("user"))
    assert [line.strip() for line in lines[user : user + 2]] == ["user              Hello", "there"]
    answer = next(number for number, line in enumerate(lines) if line.startswith("answer"))
    assert lines[answer + 11].strip() == "… (--json has more)"
    gone = lines.index("gone  run")
    assert cells("", gone + 1) == ["", "(not reached)"]
    assert lines[-1] == "the same in both: first"
    assert not any("\x1b" in line for line in lines)


def test_a_comparison_is_json_for_programs() -> None:
    assert json.loads(run("run", "diff", OLD, NEW, "--json").stdout) == COMPARED
