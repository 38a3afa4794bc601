"""Listening sockets and the options of connections, for client and peer ports alike.

Sockets are made here and handed on bound, for an error that names the address, and because
connections inherit the options of the socket they were accepted on. The kernel's keepalive is what
finds an end that vanished without a word: the HTTP server sends no HTTP/2 pings.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import stat
from dataclasses import dataclass
from typing import Final

BACKLOG: Final = 4096
PEER_TIMEOUT_S: Final = 5.0
"""Default time after which a connection between members ends whose other end is silent, or does
not acknowledge what was sent."""
KEEPALIVE_PROBES: Final = 3
"""Unanswered probes that end a connection."""


class AddressInUse(OSError):
    """The address is taken or is not this machine's; the text names it."""


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """What is asked of the kernel; seconds are rounded up to whole ones.

    Attributes:
        reuse_port: several processes may listen on one port, and share its connections.
        keepalive_s: a connection that was silent for so long is probed; 0: never.
        keepalive_timeout_s: it is ended when probes have no answer for so long.
        unacknowledged_s: a connection is ended when what was sent is not acknowledged for so
            long; 0: the kernel's own patience, about a quarter of an hour.
    """

    reuse_port: bool = False
    keepalive_s: float = 30.0
    keepalive_timeout_s: float = 20.0
    unacknowledged_s: float = 0.0


def peer_sockets(
    read_timeout_s: float = PEER_TIMEOUT_S,
    write_timeout_s: float = PEER_TIMEOUT_S,
    *,
    reuse_port: bool = False,
) -> SocketOptions:
    """Return the options of peer connections.

    Args:
        read_timeout_s: a connection ends when its other end was silent for about so long: a third
            of the time it may be, then it is probed.
        write_timeout_s: it ends when what was sent is not acknowledged for so long.
    """
    return SocketOptions(
        reuse_port=reuse_port,
        keepalive_s=read_timeout_s / 3,
        keepalive_timeout_s=2 * read_timeout_s / 3,
        unacknowledged_s=write_timeout_s,
    )


def unix_path(url: str) -> str:
    """Return the path of a ``unix://`` URL, as etcd reads it: what follows, a host too."""
    return url.partition("://")[2]


def tune(sock: socket.socket, options: SocketOptions) -> None:
    """Set the options of a connection, or of a socket whose connections inherit them."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(options.keepalive_s > 0))
    interval_s = options.keepalive_timeout_s / KEEPALIVE_PROBES
    wanted = {"TCP_USER_TIMEOUT": math.ceil(options.unacknowledged_s * 1000)}
    if options.keepalive_s > 0:
        wanted |= {
            "TCP_KEEPIDLE": math.ceil(options.keepalive_s),
            "TCP_KEEPINTVL": max(1, math.ceil(interval_s)),
            "TCP_KEEPCNT": KEEPALIVE_PROBES,
        }
    for name, value in wanted.items():
        if hasattr(socket, name) and value:
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def listen_tcp(host: str, port: int, options: SocketOptions) -> socket.socket:
    """Bind and listen.

    Args:
        host: a name or address; empty for all interfaces.
        port: 0 lets the kernel choose.

    Raises:
        AddressInUse: the address cannot be bound. OSError: the name does not resolve.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # As in Go, a name that has both (localhost) is listened on by its IPv4 address.
    family, kind, protocol, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options.reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        tune(bound, options)
        bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        text = f"listen tcp {host}:{port}: bind: {error.strerror}"
        raise AddressInUse(error.errno, text) from error
    return bound


def listen_unix(path: str) -> socket.socket:
    """Bind and listen on a path, in the place of a socket that nobody listens on any more.

    Raises:
        AddressInUse: somebody does, something else is there, or the path cannot be bound.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        bound.bind(path)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise AddressInUse(error.errno, f"listen unix {path}: {error.strerror or error}") from error
    return bound


def _remove_stale(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is something that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def close_unix(bound: socket.socket) -> None:
    """Remove the path of a listening socket; nothing for one that has none."""
    if bound.family == socket.AF_UNIX:
        path = bound.getsockname()
        if os.path.exists(path):
            os.unlink(path)


def shown(bound: socket.socket) -> str:
    """Return the address of a listening socket for the log."""
    if bound.family == socket.AF_UNIX:
        return str(bound.getsockname())
    host, port, *_ = bound.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
