"""Which addresses may be called: checked where a socket is opened, so on the very address that is connected to.

A name may mean another address a moment later, a redirect may lead anywhere, an address may be written in many ways:
none of that matters here, since every connect of every hop asks with the address as the system has it.

    public addresses          allowed
    everything else           refused: loopback, private, link-local, metadata services, multicast, reserved ...
    what the operator names   allowed: `host:port`, `address:port` or `network/bits:port`
    loopback in development   allowed

For the services of a server in production it is the same rule, with loopback and the services that it was started with.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

from yarl import URL

from stepwell.model.errors import ConfigurationError

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_SPECIAL_4 = {
    ipaddress.IPv4Network(network): what
    for network, what in {
        "0.0.0.0/8": "this network",
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "shared by a carrier, and the metadata service of some clouds",
        "127.0.0.0/8": "loopback",
        "168.63.129.16/32": "the platform service of Azure",
        "169.254.0.0/16": "link-local, and the metadata service of most clouds",
        "172.16.0.0/12": "private",
        "192.0.0.0/24": "reserved for protocols",
        "192.0.2.0/24": "for documentation",
        "192.31.196.0/24": "AS112",
        "192.52.193.0/24": "for multicast tunnels",
        "192.88.99.0/24": "6to4 relays",
        "192.168.0.0/16": "private",
        "192.175.48.0/24": "AS112",
        "198.18.0.0/15": "for benchmarks",
        "198.51.100.0/24": "for documentation",
        "203.0.113.0/24": "for documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
    }.items()
}
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")  # the only part of IPv6 in which public addresses are given out
_SPECIAL_6 = {
    ipaddress.IPv6Network(network): what
    for network, what in {
        "2001::/23": "reserved for protocols and tunnels",
        "2001:db8::/32": "for documentation",
        "2002::/16": "a 6to4 tunnel",
        "2620:4f:8000::/48": "AS112",
        "3fff::/20": "for documentation",
    }.items()
}
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", re.IGNORECASE)


class AddressRefused(OSError):
    """The address may not be called. The message may be shown to a function: it names what the function named."""


@dataclass(slots=True)
class Target:
    """Whom a request means to call, in the words of its URL, and what the policy said about it."""

    host: str
    port: int
    refusal: str = ""
    """Why no socket was opened: every address of the host was refused."""
    opened: bool = False
    connected_at: float | None = None
    """When a new connection was ready for the request, by the monotonic clock. None: one that was kept is used."""


_target: ContextVar[Target] = ContextVar("stepwell_gateway_target")


class Policy:
    """The rule, and the socket factory that applies it.

    Args:
        allow: Further places; see `read_place`.
        urls: Further places, by the URLs of what is there.
        loopback: Allow this machine itself.

    Raises:
        ConfigurationError: A place or a URL cannot be read.
    """

    def __init__(self, allow: Iterable[str] = (), *, urls: Iterable[str] = (), loopback: bool = False) -> None:
        self._places = (*map(read_place, allow), *map(_place_of, urls))
        self._loopback = loopback

    def aim(self, host: str, port: int) -> Target:
        """Say whom the connections that this task opens from now on are for."""
        target = Target(host, port)
        _target.set(target)
        return target

    def refusal(self, host: str, port: int, address: str) -> str:
        """Why `address`, which the name `host` stands for, may not be called; empty if it may."""
        try:
            found: _Address = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return f"{address!r} is no IP address"
        found = _unwrapped(found)
        if any(place.holds(host, port, found) for place in self._places):
            return ""
        if self._loopback and found.is_loopback:
            return ""
        what = _special(found)
        if not what:
            return ""
        named = host if host == str(found) else f"{host} is {found}, which"
        return (
            f"{named} is not a public address ({what}); whoever runs the server can allow it: "
            f"--allow-address {f'[{host}]' if ':' in host else host}:{port}"
        )

    def connected(self) -> None:
        """A connection for what this task has aimed at is ready."""
        target = _target.get()
        if target.opened and target.connected_at is None:
            target.connected_at = time.monotonic()

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Open a socket for one address, as `aiohttp.TCPConnector(socket_factory=...)` asks for it.

        Raises:
            AddressRefused: It may not be called.
        """
        family, kind, protocol, _, address = info
        target = _target.get()
        refusal = self.refusal(target.host, target.port, str(address[0]))
        if refusal:
            if not target.opened:
                target.refusal = refusal
            raise AddressRefused(refusal)
        target.opened, target.refusal = True, ""
        return socket.socket(family, kind, protocol)


@dataclass(frozen=True, slots=True)
class Place:
    """One place that an operator allows: a name or a network, and a port."""

    name: str
    network: _Network | None
    port: int

    def holds(self, host: str, port: int, address: _Address) -> bool:
        if port != self.port:
            return False
        if self.network is None:
            return host.rstrip(".").lower() == self.name
        return address in self.network


def read_place(text: str) -> Place:
    """Read `localhost:11434`, `10.0.0.5:8000`, `10.1.0.0/16:443` or `[fd00::1]:80`.

    Raises:
        ConfigurationError: It is none of these.
    """
    host, colon, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536 or not host:
        raise ConfigurationError(
            f"{text!r} is not a place to be allowed; write host:port, such as localhost:11434 or 10.0.0.0/8:443 "
            "(--allow-address)"
        )
    try:
        return Place(host, ipaddress.ip_network(host), int(port))
    except ValueError:
        if "/" in host or ":" in host or not _HOST.fullmatch(host.rstrip(".")):
            raise ConfigurationError(
                f"{host!r} in {text!r} is neither a host name nor an address nor a network such as 10.0.0.0/8 "
                "(--allow-address)"
            ) from None
        return Place(host.rstrip(".").lower(), None, int(port))


def _place_of(url: str) -> Place:
    """Where the URL of a service leads."""
    try:
        parts = URL(url)
        host, port = parts.raw_host or "", parts.port or 0
    except ValueError as err:
        raise ConfigurationError(f"the service URL cannot be used: {err} (--service-url)") from err
    host = host.partition("%")[0].rstrip(".").lower()
    try:
        return Place(host, ipaddress.ip_network(host), port)
    except ValueError:
        return Place(host, None, port)


def _unwrapped(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv6Address) and (address in _MAPPED or address in _NAT64):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _special(address: _Address) -> str:
    """What an address is for, if it is not for the public."""
    if isinstance(address, ipaddress.IPv4Address):
        return next((what for network, what in _SPECIAL_4.items() if address in network), "")
    if address not in _GLOBAL_6:
        return "loopback" if address.is_loopback else "not in 2000::/3"
    return next((what for network, what in _SPECIAL_6.items() if address in network), "")
