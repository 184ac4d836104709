"""`stepwell credential`: a value comes from a pipe, a variable or a prompt, and is never shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stepwell.cli import cli
from stepwell.cli import credential as module
from stepwell.server import Server
from tests.docs import running

SECRET = bytes(range(32)).hex()
VALUE = "sk-canary-0123456789"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running.running_server(secret_key=SECRET) as server:
        yield server


@pytest.fixture
def ask(server: Server) -> Any:
    def ask(*words: str, **more: Any) -> Result:
        result = CliRunner().invoke(cli, ["credential", *words, "--url", server.url], **more)
        assert "canary" not in result.output
        return result

    return ask


def kept(ask: Any) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads(ask("list", "--json").stdout)["credentials"]}


def test_a_value_comes_from_a_pipe(ask: Any, server: Server) -> None:
    done = ask("set", "openai", "--host", "api.openai.com", "--host", "http://localhost:1", input=f"{VALUE}\r\n")
    assert done.exit_code == 0
    assert "openai is kept, for api.openai.com, http://localhost:1 where the API wants it" in done.output
    (stored,) = [one for one in server.node.credentials._known.values() if one.name == "openai"]
    assert server.node.credentials._open(stored) == VALUE
    listed = ask("list").output
    assert "api.openai.com, http://localhost:1" in listed
    assert stored.name in listed
    assert ask("remove", "openai").exit_code == 0
    assert "openai" not in kept(ask)
    again = ask("remove", "openai")
    assert (again.exit_code, "no credential 'openai'" in again.output) == (1, True)


def test_or_from_a_variable(ask: Any) -> None:
    place = ["--header", "authorization", "--from-env", "MY_KEY"]
    assert ask("set", "two", "--host", "a.example", *place, "--json", env={"MY_KEY": VALUE}).exit_code == 0
    assert kept(ask)["two"]["prefix"] == "Bearer "
    assert ask("set", "two", "--host", "a.example", *place, "--prefix", "Token ", env={"MY_KEY": VALUE}).exit_code == 0
    assert kept(ask)["two"]["prefix"] == "Token "
    assert "in the header authorization: Token …" in ask("list").output
    missing = ask("set", "two", "--host", "a", "--from-env", "NO_SUCH_KEY", env={"NO_SUCH_KEY": ""})
    assert "the variable NO_SUCH_KEY (--from-env) is not set" in missing.output


def test_or_is_asked_for_without_being_shown(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def prompt(text: str, **how: Any) -> str:
        asked.append({"text": text, **how})
        return VALUE

    monkeypatch.setattr(module, "_piped", lambda: False)
    monkeypatch.setattr("click.prompt", prompt)
    assert ask("set", "three", "--host", "a.example", "--query", "key").exit_code == 0
    assert asked == [{"text": "Value of three", "hide_input": True, "err": True}]
    assert "in the parameter key" in ask("list").output


def test_there_is_no_place_for_a_value_in_the_command(ask: Any) -> None:
    assert ask("set", "four", "sk-0123456789", "--host", "a.example").exit_code == 2
    assert "no value was piped in" in ask("set", "four", "--host", "a.example", input="").output
    assert "four" not in kept(ask)


def test_what_the_server_refuses_is_one_line(ask: Any) -> None:
    for words, why in (
        (["set", "a b", "--host", "a"], "the name of a credential has up to 64"),
        (["set", "five", "--host", "*.a"], "is no host"),
        (["set", "five", "--host", "a", "--header", "X", "--query", "q"], "one of them"),
    ):
        refused = ask(*words, input=VALUE)
        assert refused.exit_code == 1
        assert why in refused.output
        assert refused.output.count("\n") == 1


def test_a_rotation_says_what_it_did(ask: Any, server: Server) -> None:
    done = ask("rotate")
    assert f"0 sealed anew; all are sealed with the key {server.node.credentials.key}" in done.output


def test_a_value_that_leaves_this_machine_in_the_clear_is_told() -> None:
    result = CliRunner().invoke(
        cli, ["credential", "set", "x", "--host", "a", "--url", "http://192.0.2.1:1,https://b.example"], input=""
    )
    assert "the value goes to http://192.0.2.1:1 unencrypted" in result.output
    assert "b.example" not in result.output
