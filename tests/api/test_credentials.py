"""Named credentials over REST: what is taken, what is refused, and that a value never comes back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from stepwell.api.credentials import read_host
from stepwell.model.errors import InvalidInput
from stepwell.server.cipher import AesCipher
from tests.api.api import Api
from tests.api.conftest import Start

SECRET = bytes(range(32)).hex()
OTHER = bytes(range(1, 33)).hex()
VALUE = "sk-canary-0123456789"
OPENAI: dict[str, Any] = {"name": "openai", "hosts": ["api.openai.com"], "value": VALUE}


@pytest.fixture
async def keeping(start: Start, data: Any) -> Api:
    return await start(data=data, secret_key=SECRET)


async def test_a_credential_is_set_listed_and_removed_without_its_value(keeping: Api) -> None:
    made = await keeping.http.post("/api/credentials", json=OPENAI)
    assert made.status_code == 201
    again = await keeping.http.post("/api/credentials", json=OPENAI | {"hosts": ["HTTPS://API.openai.com:443/", "b:1"]})
    assert again.status_code == 200
    listed = await keeping.get("/api/credentials")
    (one,) = listed["credentials"]
    assert one == again.json()
    assert (one["name"], one["hosts"]) == ("openai", ["https://api.openai.com", "https://b:1"])
    assert one["created_at"] == made.json()["created_at"] < one["changed_at"]
    assert one["usable"]
    assert one["key"] == listed["key"] == AesCipher([bytes(range(32))]).key
    removed = await keeping.http.delete("/api/credentials/openai")
    gone = await keeping.http.delete("/api/credentials/openai")
    assert (removed.status_code, gone.status_code) == (204, 404)
    for answer in (made, again, removed, gone):
        assert "canary" not in answer.text
    assert "canary" not in str(listed)


@pytest.mark.parametrize(
    ("change", "field", "why"),
    [
        ({"name": "a b"}, "name", "up to 64 letters"),
        ({"name": 5}, "name", "must be text"),
        ({"hosts": []}, "hosts", "list of the places"),
        ({"hosts": "api.openai.com"}, "hosts", "list of the places"),
        ({"hosts": ["*.example.com"]}, "hosts", "is no host"),
        ({"hosts": ["a"] * 21}, "hosts", "may have 20"),
        ({"value": "short"}, "value", "8 at least"),
        ({"value": "x" * 8193}, "value", "may have 8192"),
        ({"value": "sk-canary\nX-Evil: 1"}, "value", "only printable ASCII"),
        ({"value": "sk-canäry-0123"}, "value", "only printable ASCII"),
        ({"value": None}, "value", "must be text"),
        ({"header": "X-Key", "query": "key"}, "query", "one of them"),
        ({"header": "X Key"}, "header", "no header that holds a credential"),
        ({"header": "Host"}, "header", "no header that holds a credential"),
        ({"header": "User-Agent"}, "header", "no header that holds a credential"),
        ({"prefix": "Bearer "}, "prefix", "give header"),
        ({"header": "X-Key", "prefix": "a\r\n"}, "prefix", "printable ASCII"),
    ],
)
async def test_what_cannot_be_kept_is_refused_by_its_field(
    start: Start, change: dict[str, Any], field: str, why: str
) -> None:
    api = await start(secret_key=SECRET)
    refused = await api.http.post("/api/credentials", json=OPENAI | change)
    assert refused.status_code == 400
    assert why in refused.json()["error"]
    assert "canary" not in refused.text
    assert (await api.get("/api/credentials"))["credentials"] == []


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("api.openai.com", "https://api.openai.com"),
        (" Api.OpenAI.com ", "https://api.openai.com"),
        ("https://api.openai.com:443/", "https://api.openai.com"),
        ("api.example.com:8443", "https://api.example.com:8443"),
        ("http://localhost:11434", "http://localhost:11434"),
        ("http://localhost:80", "http://localhost"),
        ("[::1]:8080", "https://[::1]:8080"),
        ("https://10.0.0.5", "https://10.0.0.5"),
    ],
)
def test_hosts_as_people_write_them(text: str, origin: str) -> None:
    assert read_host(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://",
        "ftp://a",
        "a/path",
        "a?b",
        "a#b",
        "u:p@a",
        "*.a",
        "a b",
        "a:0",
        "a:99999",
        "a:",
        "a\\b",
        "-a",
        "ä",
    ],
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no host"):
        read_host(text)


async def test_a_server_without_a_secret_key_says_what_to_do(plain: Api) -> None:
    for path in ("/api/credentials", "/api/credentials/rotate"):
        refused = await plain.http.post(path, json=OPENAI)
        assert (refused.status_code, refused.json()["code"]) == (409, "no_secret_key")
        assert "openssl rand -hex 32" in refused.json()["error"]
    assert await plain.get("/api/credentials") == {"credentials": [], "key": ""}


async def test_a_key_is_exchanged(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = tmp_path / "data"
    first = await start(data=kept, secret_key=SECRET)
    await first.http.post("/api/credentials", json=OPENAI)
    await first.server.stop()

    both = await start(data=kept, secret_key=OTHER, secret_key_fallback=SECRET)
    done = await both.http.post("/api/credentials/rotate")
    assert done.json()["changed"] == 1
    await both.server.stop()

    with caplog.at_level(logging.WARNING):
        new = await start(data=kept, secret_key=OTHER)
        assert (await new.get("/api/credentials"))["credentials"][0]["usable"]
        await new.server.stop()
        assert "cannot be used" not in caplog.text
        old = await start(data=kept, secret_key=SECRET)
    assert not (await old.get("/api/credentials"))["credentials"][0]["usable"]
    assert "the credentials openai cannot be used: this server was not started with the key" in caplog.text
    refused = await old.http.post("/api/credentials/rotate")
    assert (refused.status_code, refused.json()["code"]) == (409, "cannot_open")


async def test_the_status_page_shows_no_key(start: Start) -> None:
    api = await start(secret_key=SECRET, secret_key_fallback=OTHER)
    for path in ("/status", "/api/status"):
        told = (await api.http.get(path)).text
        assert SECRET not in told
        assert OTHER not in told
    assert (await api.get("/api/status"))["settings"]["secret_key"] == "set"
