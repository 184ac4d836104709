"""Options that are written wrongly get one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from stepwell.cli import api, cli
from stepwell.model.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost:8288", "http://localhost:8288"),
        ("localhost", "http://localhost"),
        ("shop.example.com/", "http://shop.example.com"),
        ("http://stepwell", "http://stepwell"),
        ("wss://shop.example.com", "https://shop.example.com"),
        ("[::1]:8288", "http://[::1]:8288"),
    ],
)
def test_an_address_needs_no_scheme(text: str, url: str) -> None:
    assert api.server_url(text) == url


@pytest.mark.parametrize("text", ["foo", "", "ftp://host", "localhost:99999999", "http://", "local host:1", "[::1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    for command in (["runs"], ["worker", "app.py"], ["send", "a/b"]):
        result = CliRunner().invoke(cli, [*command, "--url", text])
        assert result.exit_code == 2
        assert "--url" in result.output
        assert "Traceback" not in result.output


def test_a_secret_for_apps_that_the_server_does_not_have_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEPWELL_APP_SECRETS", "HOME,NOT_THERE")
    result = CliRunner().invoke(cli, ["dev", "--port", "0"])
    assert isinstance(result.exception, ConfigurationError)
    assert "--app-secret NOT_THERE: this server has no variable of that name" in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["runs"], ["worker", "app.py"]])
def test_a_key_that_is_none_is_refused(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, [*command, "--key", "abc"])
    assert result.exit_code == 2
    assert "hex digits" in result.output


def test_a_wrong_event_key_names_the_option_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(401, json={"error": "Event key not found"})

    client = httpx2.Client
    monkeypatch.setattr(httpx2, "Client", lambda **named: client(transport=httpx2.MockTransport(answer), **named))
    sent = CliRunner().invoke(cli, ["send", "a/b", "--event-key", "wrong"])
    assert "set STEPWELL_EVENT_KEY or use --event-key" in sent.output
    listed = CliRunner().invoke(cli, ["runs"])
    assert "set STEPWELL_API_KEY or use --key" in listed.output


def test_of_several_servers_the_first_that_accepts_a_connection_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.host)
        if request.url.host != "c.example":
            raise httpx2.ConnectError("refused") if request.url.host == "a.example" else httpx2.ConnectTimeout("")
        return httpx2.Response(200, json={"runs": []})

    client = httpx2.Client
    monkeypatch.setattr(httpx2, "Client", lambda **named: client(transport=httpx2.MockTransport(answer), **named))
    monkeypatch.setenv("STEPWELL_URL", "a.example,http://b.example,c.example")
    listed = CliRunner().invoke(cli, ["runs"])
    assert listed.exit_code == 0, listed.output
    several = api.Api("http://a.example,http://b.example,http://c.example")
    several.get("/api/runs")
    several.get("/api/runs")
    assert asked == ["a.example", "b.example", "c.example"] * 2 + ["c.example"]
    monkeypatch.setenv("STEPWELL_URL", "a.example,a.example:1")
    refused = CliRunner().invoke(cli, ["runs"])
    assert "no server answers at http://a.example:1 or http://a.example. Start" in refused.output


def test_no_summary_is_cut() -> None:
    for group in ([], ["run"]):
        assert (
            "..." not in CliRunner().invoke(cli, [*group, "--help"], terminal_width=80).output.partition("Commands")[2]
        )


def test_the_first_key_comes_before_its_fallback() -> None:
    for command in ("dev", "start"):
        text = CliRunner().invoke(cli, [command, "--help"]).output
        assert text.index("--signing-key KEY") < text.index("--signing-key-fallback") < text.index("--event-key")


def test_a_folder_and_a_database_for_one_state_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWELL_DB", "postgresql://127.0.0.1:1/nothing")
    result = CliRunner().invoke(cli, ["start", "--signing-key", "ab" * 16, "--data", str(tmp_path / "data")])
    assert isinstance(result.exception, ConfigurationError)
    assert "give only one of them" in str(result.exception)
    monkeypatch.setenv("STEPWELL_DATA", str(tmp_path / "data"))  # of an image, for whoever names no database
    result = CliRunner().invoke(cli, ["start", "--signing-key", "ab" * 16])
    assert "give only one of them" not in f"{result.output}{result.exception}"
