"""Binding the port before anything else happens, so that a port in use is a clear error and not a half-started server.

`localhost` is 127.0.0.1 for some programs and ::1 for others, so a server for this machine listens on both.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import sys

from stepwell.api.gate import is_loopback
from stepwell.model.errors import ConfigurationError

_BACKLOG = 2048
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


def listen(host: str, port: int, *, beside_others: bool = False) -> list[socket.socket]:
    """Sockets that listen on `host`; the first has the port that the others share.

    Args:
        host: An address or a name. A loopback one stands for both loopbacks.
        port: 0 takes a free one.
        beside_others: Other processes of this user may listen there as well; see `reserve`.

    Raises:
        ConfigurationError: The port is in use, or the address is not of this machine.
    """
    sockets = _bound_all(host, port, beside_others=beside_others)
    try:
        for one in sockets:
            one.listen(_BACKLOG)
    except OSError as err:
        for one in sockets:
            one.close()
        raise _refusal(err, host, port) from None
    return sockets


def reserve(host: str, port: int) -> list[socket.socket]:
    """Sockets that keep a port for processes that are to `listen` there, and do not listen themselves.

    Raises:
        ConfigurationError: The port is in use, this system cannot share one, or the address is not of this machine.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigurationError("this system cannot share a port between processes; start one process on each port")
    probes = _bound_all(host, port)  # would another program notice that we come?
    port = probes[0].getsockname()[1]
    for one in probes:
        one.close()
    return _bound_all(host, port, beside_others=True)


def _bound_all(host: str, port: int, *, beside_others: bool = False) -> list[socket.socket]:
    if not is_loopback(host):
        return [_bound(*_address(host), port, beside_others=beside_others)]
    for _ in range(20):
        address = "127.0.0.1" if host == "localhost" or ":" in host else host
        first = _bound(socket.AF_INET, address, port, beside_others=beside_others)
        taken = first.getsockname()[1]
        try:
            return [first, _bound(socket.AF_INET6, "::1", taken, beside_others=beside_others)]
        except OSError as err:
            if err.errno in _NO_IPV6:
                return [first]
            first.close()
            raise
        except ConfigurationError:
            first.close()
            if port:
                raise
    raise ConfigurationError("no port is free on both 127.0.0.1 and ::1 (--port)")


def _address(host: str) -> tuple[socket.AddressFamily, str]:
    try:
        return (socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET), host
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as err:
        raise ConfigurationError(f"{host!r} is neither an address nor a name of this machine (--host)") from err
    return found[0][0], str(found[0][4][0])


def _bound(family: socket.AddressFamily, address: str, port: int, *, beside_others: bool) -> socket.socket:
    with contextlib.ExitStack() as stack:
        # Without the protocol asyncio does not switch off Nagle's algorithm, which costs 40 ms a request.
        listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
        if sys.platform != "win32":  # there it would let two servers have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if beside_others:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setblocking(False)
        try:
            listener.bind((address, port))
        except OSError as err:
            if err.errno == errno.EADDRNOTAVAIL and family == socket.AF_INET:
                raise ConfigurationError(f"{address} is not an address of this machine (--host)") from err
            raise _refusal(err, address, port) from None
        stack.pop_all()
        return listener


def _refusal(err: OSError, address: str, port: int) -> Exception:
    """What to say about a port that cannot be had; the error itself if it is about something else."""
    if err.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"port {port} on {address} is in use, perhaps by another server; stop it, or choose another with "
            "--port (0 takes a free one)"
        )
    if err.errno == errno.EACCES:
        return ConfigurationError(f"this user may not listen on port {port}; choose one with --port")
    return err
