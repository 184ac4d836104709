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


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on `host`; the first has the port that the others share.

    Args:
        host: An address or a name. A loopback one stands for both loopbacks.
        port: 0 takes a free one.

    Raises:
        ConfigurationError: The port is in use, or the address is not of this machine.
    """
    if not is_loopback(host):
        return [_bound(*_address(host), port)]
    for _ in range(20):
        first = _bound(socket.AF_INET, "127.0.0.1" if host == "localhost" or ":" in host else host, port)
        taken = first.getsockname()[1]
        try:
            return [first, _bound(socket.AF_INET6, "::1", taken)]
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


def _bound(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    with contextlib.ExitStack() as stack:
        # Without the protocol asyncio does not switch off Nagle's algorithm, which costs 40 ms a request.
        listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
        if sys.platform != "win32":  # there it would let two servers have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setblocking(False)
        try:
            listener.bind((address, port))
            listener.listen(_BACKLOG)
        except OSError as err:
            if err.errno == errno.EADDRINUSE:
                raise ConfigurationError(
                    f"port {port} on {address} is in use, perhaps by another server; stop it, or choose another with "
                    "--port (0 takes a free one)"
                ) from err
            if err.errno == errno.EACCES:
                raise ConfigurationError(f"this user may not listen on port {port}; choose one with --port") from err
            if err.errno == errno.EADDRNOTAVAIL and family == socket.AF_INET:
                raise ConfigurationError(f"{address} is not an address of this machine (--host)") from err
            raise
        stack.pop_all()
        return listener
