"""Which addresses may be called."""

import socket

import pytest

from stepwell.gateway.policy import Policy, read_place
from stepwell.model.errors import ConfigurationError
from stepwell.testing.provider import Provider
from tests.gateway.errands import Asking, error_of, output_of

SPECIAL = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.1", "192.0.0.192", "198.18.0.1", "198.19.255.255",
    "192.0.2.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "168.63.129.16",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::", "2001::1", "2001:db8::1", "2001:10::1", "2001:20::1", "3fff::1",
    "5f00::1", "100::1", "4000::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.255.255", "100.128.0.1", "192.0.1.1",
          "223.255.255.1", "2606:4700::1111", "2a00:1450:4001::200e", "::ffff:8.8.8.8", "64:ff9b::808:808"]  # fmt: skip


@pytest.mark.parametrize("address", SPECIAL)
def test_a_special_address_is_refused(address: str) -> None:
    assert "not a public address" in Policy().refusal("name.example", 80, address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert Policy().refusal("name.example", 80, address) == ""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.9.9.9"])
def test_development_allows_loopback_and_nothing_else(address: str) -> None:
    policy = Policy(loopback=True)
    assert policy.refusal("localhost", 1, address) == ""
    assert policy.refusal("inside", 1, "10.0.0.1")
    assert policy.refusal("inside", 1, "0.0.0.0")


def test_a_place_of_the_operator_is_one_host_and_one_port() -> None:
    policy = Policy(["localhost:11434", "10.1.0.0/16:443", "[fd00::1]:80", "192.168.1.9:8000"])
    assert policy.refusal("localhost", 11434, "127.0.0.1") == ""
    assert policy.refusal("LocalHost.", 11434, "::1") == ""
    assert policy.refusal("localhost", 11435, "127.0.0.1")
    assert policy.refusal("other.example", 11434, "127.0.0.1")
    assert policy.refusal("any.example", 443, "10.1.255.1") == ""
    assert policy.refusal("any.example", 443, "10.2.0.1")
    assert policy.refusal("fd00::1", 80, "fd00::1") == ""
    assert policy.refusal("192.168.1.9", 8000, "192.168.1.9") == ""
    assert policy.refusal("192.168.1.9", 8001, "192.168.1.9")


@pytest.mark.parametrize(
    "text", ["localhost", ":80", "localhost:0", "localhost:99999", "10.0.0.1/8:80", "a b:80", "::1", "x:y"]
)
def test_a_place_that_cannot_be_read_is_refused_at_start(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--allow-address"):
        read_place(text)


def test_the_refusal_says_what_an_operator_would_have_to_allow() -> None:
    text = Policy().refusal("models.internal", 8000, "10.0.0.7")
    assert text == (
        "models.internal is 10.0.0.7, which is not a public address (private); whoever runs the server can allow it: "
        "--allow-address models.internal:8000"
    )


async def test_the_check_is_where_the_socket_is_opened() -> None:
    policy = Policy()
    target = policy.aim("evil.example", 80)
    with pytest.raises(OSError, match="not a public address"):
        policy.socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80)))
    assert "127.0.0.1" in target.refusal


@pytest.mark.parametrize("order", [("10.0.0.1", "1.1.1.1"), ("1.1.1.1", "10.0.0.1")])
async def test_a_host_with_one_address_that_may_be_called_is_not_refused(order: tuple[str, str]) -> None:
    policy = Policy()
    target = policy.aim("both.example", 80)
    for address in order:
        info = (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80))
        if address == "1.1.1.1":
            policy.socket(info).close()
        else:
            with pytest.raises(OSError, match=r"10\.0\.0\.1"):
                policy.socket(info)
    assert target.refusal == ""


def test_a_url_of_the_operator_allows_its_host_and_port() -> None:
    policy = Policy(urls=["http://Shop.internal/api", "https://10.0.0.5:3000/x", "http://[fd00::1]:80", "http://bü.de"])
    assert policy.refusal("shop.internal", 80, "10.9.9.9") == ""
    assert policy.refusal("shop.internal", 443, "10.9.9.9")
    assert policy.refusal("other.internal", 80, "10.9.9.9")
    assert policy.refusal("any.internal", 3000, "10.0.0.5") == ""
    assert policy.refusal("any.internal", 3000, "10.0.0.6")
    assert policy.refusal("fd00::1", 80, "fd00::1") == ""
    assert policy.refusal("xn--b-eha.de", 80, "10.0.0.1") == ""


HOSTS = ["127.0.0.1", "localhost", "localhost.", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f000001",
         "0177.0.0.1", "127.1", "0", "0.0.0.0", "[::]", "127.0.0.1."]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
async def test_however_it_is_written_loopback_is_not_reached(host: str, provider: Provider) -> None:
    asking = Asking(allow_loopback=False)
    port = provider.url.rpartition(":")[2]
    ended = await asking.fetch(f"http://{host}:{port}/http/echo")
    await asking.gateway.close()
    assert ended.output is None
    assert not provider.requests
    if error_of(ended)["code"] == "address_refused":
        assert not ended.retry
        assert "not a public address" in error_of(ended)["message"]
    else:
        assert error_of(ended)["code"] in {"unknown_host", "invalid_url"}  # not an address here, and no name either


async def test_a_local_provider_that_the_operator_allows_works(provider: Provider) -> None:
    port = provider.url.rpartition(":")[2]
    asking = Asking(allow_loopback=False, allow_addresses=(f"127.0.0.1:{port}",))
    ended = await asking.fetch(f"http://127.0.0.1:{port}/http/status/204")
    assert output_of(ended)["status_code"] == 204
    refused = await asking.fetch(f"http://127.0.0.2:{port}/http/status/204")
    assert error_of(refused)["code"] == "address_refused"
    await asking.gateway.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_into_the_inside_is_refused(status: int, provider: Provider) -> None:
    port = provider.url.rpartition(":")[2]
    asking = Asking(allow_loopback=False, allow_addresses=(f"127.0.0.1:{port}",))
    inside = f"http://127.0.0.2:{port}/http/echo"
    ended = await asking.fetch(f"{provider.url}/http/redirect-to?url={inside}&status={status}")
    await asking.gateway.close()
    assert error_of(ended)["code"] == "address_refused"
    assert len(provider.requests) == 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.com/", "gopher://x", "//[bad"])
async def test_a_redirect_to_another_scheme_is_refused(target: str, asking: Asking, provider: Provider) -> None:
    ended = await asking.fetch(f"{provider.url}/http/redirect-to?url={target}&status=302")
    assert error_of(ended)["code"] == "invalid_redirect"
    assert not ended.retry


async def test_redirects_come_to_an_end(asking: Asking, provider: Provider) -> None:
    assert output_of(await asking.fetch(f"{provider.url}/http/redirect/5"))["status_code"] == 200
    ended = await asking.fetch(f"{provider.url}/http/redirect/6")
    assert error_of(ended)["code"] == "too_many_redirects"
    assert "5" in error_of(ended)["message"]


async def test_a_name_that_changes_its_address_is_judged_by_the_address_that_is_connected_to(
    monkeypatch: pytest.MonkeyPatch, provider: Provider
) -> None:
    """A resolver that tells a public address first and loopback afterwards: the socket is opened for the second."""
    port = int(provider.url.rpartition(":")[2])
    told = iter(["203.0.114.1", "127.0.0.1", "127.0.0.1"])

    def resolve(host: str, *args: object, **named: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(told), port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert resolve("rebind.example")  # somebody looks it up, and is content
    asking = Asking(allow_loopback=False)
    ended = await asking.fetch(f"http://rebind.example:{port}/http/echo")
    await asking.gateway.close()
    assert error_of(ended)["code"] == "address_refused"
    assert not provider.requests


async def test_a_proxy_in_the_environment_is_not_used(
    monkeypatch: pytest.MonkeyPatch, asking: Asking, provider: Provider
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    assert output_of(await asking.fetch(f"{provider.url}/http/echo"))["status_code"] == 200
