"""What `POST /apps/run` is asked for."""

import json
from typing import Any

import pytest

from stepwell.model.errors import InvalidInput
from stepwell.wire.infsh.request import RunRequest, read_run


def read(**body: Any) -> RunRequest:
    return read_run(json.dumps({"app": "a/b", **body}).encode())


def test_what_clients_send_is_read_and_what_nobody_knows_is_ignored() -> None:
    asked = read(
        input={"x": 1},
        setup=None,
        session="new",
        session_timeout=120,
        run_at="2026-11-20T10:00:00.250Z",
        workers=["w1"],
        auto_reconnect=True,
    )
    assert asked == RunRequest(
        app="a/b",
        input={"x": 1},
        session="new",
        session_timeout_s=120,
        run_at=1_795_168_800_250,
        workers=("w1",),
    )


def test_the_variant_may_be_in_the_metadata() -> None:
    assert read(metadata={"app_variant": "big"}).variant == "big"
    assert read(metadata={"app_variant": "big"}, variant="small").variant == "small"


@pytest.mark.parametrize(
    ("body", "field", "text"),
    [
        ({"app": None}, "app", "namespace/name"),
        ({"app": 3}, "app", "expected `str"),
        ({"workers": ["a", 1]}, "workers[1]", "expected `str"),
        ({"infra": "moon"}, "infra", "'moon'"),
        ({"session_timeout": 60}, "session_timeout", 'session: "new"'),
        ({"session": "new", "session_timeout": 3601}, "session_timeout", "1 to 3600"),
        ({"session": "new", "session_timeout": 0}, "session_timeout", "1 to 3600"),
        ({"run_at": "tomorrow"}, "run_at", "2026-11-20T10:00:00Z"),
        ({"webhook": "ftp://x"}, "webhook", "https://"),
    ],
)
def test_a_refusal_names_the_member(body: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(**body)
    assert caught.value.field == field
    assert text in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'"a"', b"\xff", b'{"a":' * 100_000])
def test_a_body_that_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_run(text)
