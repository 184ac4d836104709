"""What traces show of the answers of fetches."""

from __future__ import annotations

import json

import pytest

from stepwell.api.masking import shown


@pytest.mark.parametrize(
    "headers",
    [
        {"Set-Cookie": "a=secret", "X-Auth-Token": "secret", "Content-Type": "text/plain"},
        [["Set-Cookie", "a=secret"], ["set-cookie", "b=secret"], ["Content-Type", "text/plain"]],
    ],
)
def test_cookies_and_tokens_are_hidden(headers: object) -> None:
    text = json.dumps({"url": "https://a/", "status_code": 200, "headers": headers, "body": "hello"}).encode()
    found = shown(text) or b""
    assert b"secret" not in found
    assert b"text/plain" in found
    assert json.loads(found)["body"] == "hello"


@pytest.mark.parametrize(
    "text", [None, b"null", b'{"status_code": "ok"}', b'["status_code"]', b'{"headers": {"Set-Cookie": "x"}}']
)
def test_other_results_are_shown_as_they_are(text: bytes | None) -> None:
    assert shown(text) == text
