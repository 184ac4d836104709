"""Credentials leave a request before it is stored, and come back before it is sent."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.wire.models.credentials import (
    Credentials,
    is_credential_header,
    is_credential_parameter,
    spoken,
    take_out,
)

CANARY = "sk-canary-0123456789"


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Proxy-Authorization",
        "x-api-key",
        "api-key",
        "X-Goog-Api-Key",
        "Cookie",
        "Set-Cookie",
        "X-Auth-Token",
        "Helicone-Auth",
        "cf-aig-authorization",
        "Ocp-Apim-Subscription-Key",
        "x-functions-key",
        "X-Amz-Security-Token",
        "x-hub-signature",
        "apikey",
    ],
)
def test_headers_that_hold_credentials(name: str) -> None:
    shown = take_out("https://x", {name: CANARY})[1]
    assert is_credential_header(name)
    assert shown == {name: "***"}


@pytest.mark.parametrize(
    "name", ["Content-Type", "Idempotency-Key", "OpenAI-Organization", "anthropic-version", "Author"]
)
def test_headers_that_do_not(name: str) -> None:
    assert not is_credential_header(name)


@pytest.mark.parametrize(
    "name", ["key", "api_key", "apikey", "access_token", "X-Amz-Signature", "sig", "auth", "user[password]"]
)
def test_parameters_that_hold_credentials(name: str) -> None:
    assert is_credential_parameter(name)


@pytest.mark.parametrize("name", ["alt", "keyword", "api-version", "monkey", "page", "tokens", "design"])
def test_parameters_that_do_not(name: str) -> None:
    assert not is_credential_parameter(name)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"https://g.example/v1/m:gen?key={CANARY}&alt=sse", "https://g.example/v1/m:gen?key=***&alt=sse"),
        (f"https://x/?a=1&token={CANARY}&b&key={CANARY}2#f?key=1", "https://x/?a=1&token=***&b&key=***#f?key=1"),
        (f"https://user:{CANARY}@x/path@y", "https://***@x/path@y"),
        ("https://x/?key=&a=%20+", "https://x/?key=&a=%20+"),
        ("https://x/plain", "https://x/plain"),
        ("https://x/mail@example.com?to=a@b", "https://x/mail@example.com?to=a@b"),
    ],
)
def test_a_url_is_shown_without_its_credentials_and_sent_with_them(url: str, shown: str) -> None:
    hidden_url, headers, credentials = take_out(url, {"A": "1"})
    assert hidden_url == shown
    assert bool(credentials) is (url != shown)
    assert credentials.put_back(hidden_url, headers) == (url, {"A": "1"})


@given(
    st.lists(st.tuples(st.sampled_from("key a token B%20 sig".split()), st.text("ab%2F+=*", max_size=4)), max_size=6),
    st.dictionaries(st.sampled_from(["X-Api-Key", "Accept", "Cookie", "x-id"]), st.text("ab *", max_size=5)),
)
def test_what_was_taken_out_goes_back_into_its_place(query: list[tuple[str, str]], headers: dict[str, str]) -> None:
    url = "https://h/p?" + "&".join(f"{name}={value}" for name, value in query)
    shown_url, shown, credentials = take_out(url, headers, auth_key="k")
    assert list(shown) == list(headers)
    if "***" not in url and "***" not in headers.values():
        assert credentials.put_back(shown_url, shown) == (url, headers)


def test_nothing_of_a_credential_is_printed() -> None:
    url, headers, credentials = take_out(
        f"https://u:{CANARY}@x/?key={CANARY}", {"Authorization": f"Bearer {CANARY}"}, auth_key=CANARY
    )
    assert CANARY not in f"{url}{headers}{credentials!r}{credentials}"
    with pytest.raises(ValueError, match="another request") as raised:
        credentials.put_back("https://x/", headers)
    assert CANARY not in str(raised.value)


def test_credentials_of_another_request_are_refused() -> None:
    url, headers, credentials = take_out("https://x/?key=abcdef", {"Cookie": "abcdef"})
    assert credentials.fits(url, headers)
    assert not credentials.fits(url, {})
    assert not credentials.fits("https://x/", headers)
    assert not Credentials().fits(url, headers)
    assert Credentials().fits("https://x/", {"a": "b"})


@pytest.mark.parametrize(
    ("value", "spoken_values"),
    [
        (CANARY, [CANARY]),
        (f"Bearer {CANARY}", [CANARY]),
        (f"Token  {CANARY} ", [CANARY]),
        ("Basic dXNlcjpwYXNzd29yZA==", ["dXNlcjpwYXNzd29yZA==", "password"]),
        (f"Basic {base64.b64encode(f'{CANARY}:'.encode()).decode()}", ["...", CANARY, CANARY]),
        ("Basic ***", ["***"]),
        (f"theme=dark; session={CANARY}", [f"theme=dark; session={CANARY}", CANARY]),
        ("Digest username=u, response=abc", ["Digest username=u, response=abc"]),
    ],
)
def test_what_a_server_may_repeat_of_a_header(value: str, spoken_values: list[str]) -> None:
    found = list(spoken(value))
    assert len(found) == len(spoken_values)
    assert all(one == expected for one, expected in zip(found, spoken_values, strict=True) if expected != "...")


def test_values_of_headers_that_only_may_be_secret_are_named_if_they_look_like_it() -> None:
    headers = {"X-Tenant": "acme-corporation", "X-Deep": "deep-4711-canary", "X-Api-Key": "short", "Cookie": "a=b"}
    credentials = Credentials(CANARY, tuple(headers.items()), (f"a%2F{CANARY}",), f"me:pass%20{CANARY}")
    assert list(credentials.named()) == [
        ("api_key", CANARY),
        ("x-deep", "deep-4711-canary"),
        ("x-api-key", "short"),
        ("cookie", "a=b"),
        ("query", f"a/{CANARY}"),
        ("query", f"a%2F{CANARY}"),
        ("password", f"pass {CANARY}"),
    ]
    assert ("user", CANARY) in list(Credentials(user=f"{CANARY}:").named())
    assert ("user", CANARY) in list(Credentials(user=CANARY).named())
