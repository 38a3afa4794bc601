"""Notices that the client of a long HTTP/1.1 call has left.

h2corn does not read an HTTP/1.1 connection while it answers on it, so a client that left is noticed
only when something is sent to it: a watch on a quiet key would stay for ever. For HTTP/2 it cancels
the application's task, and for websockets it reads on; neither needs this.

The connection is found among the descriptors of this process by its two addresses, duplicated, and
put into an epoll of its own that waits for nothing but the end of the connection (so that a client
which pipelines requests does not wake it for ever). That epoll's descriptor is what the event loop
watches. Linux only, like epoll; elsewhere nothing is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import stat
from collections.abc import Callable, Iterator
from typing import Final

from kvstore.rpc.grpc import Scope

Address = tuple[str, int]
_MAPPED: Final = "::ffff:"
"""An IPv4 address on an IPv6 socket begins so."""

_DESCRIPTORS: Final = "/proc/self/fd"


class Vanished:
    """Watches connections for their end. Belongs to one event loop."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._calls: dict[int, Callable[[], object]] = {}
        self._known: dict[int, tuple[Address, Address] | None] = {}
        """Inode of a socket → (client, server); None: not a TCP connection."""

    @contextlib.contextmanager
    def call_when_gone(self, scope: Scope, action: Callable[[], object]) -> Iterator[None]:
        """Call ``action``, once, if the client of ``scope`` leaves before the context does."""
        descriptor = self._duplicate(scope)
        if descriptor is None:
            yield
            return
        try:
            self._watch(descriptor, action)
            yield
        finally:
            self._calls.pop(descriptor, None)
            with contextlib.suppress(OSError):
                self._poller().unregister(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """Stop watching."""
        if self._epoll is not None:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _poller(self) -> select.epoll:
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._ended)
        return self._epoll

    def _watch(self, descriptor: int, action: Callable[[], object]) -> None:
        self._calls[descriptor] = action
        # The errors EPOLLHUP and EPOLLERR are always waited for.
        self._poller().register(descriptor, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def _ended(self) -> None:
        for descriptor, _ in self._poller().poll(0):
            action = self._calls.pop(descriptor, None)
            if action is not None:
                action()

    def _duplicate(self, scope: Scope) -> int | None:
        """Return a descriptor of our own for the connection, or None when it is not found."""
        client, server = scope.get("client"), scope.get("server")
        if not (hasattr(select, "epoll") and client and server):
            return None
        wanted = _plain(client), _plain(server)
        found = None
        with contextlib.suppress(OSError):
            for descriptor, inode in _sockets():
                if inode not in self._known:
                    self._known[inode] = _addresses(descriptor)
                if self._known[inode] == wanted:
                    found = descriptor
                    break
        # An inode may be used again, for another connection.
        if found is not None and _addresses(found) == wanted:
            return os.dup(found)
        self._known.clear()
        return None


def _sockets() -> Iterator[tuple[int, int]]:
    """Yield (descriptor, inode) of this process's sockets."""
    for name in os.listdir(_DESCRIPTORS):
        with contextlib.suppress(OSError):  # closed meanwhile, or the directory's own
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                yield int(name), status.st_ino


def _addresses(descriptor: int) -> tuple[Address, Address] | None:
    """Return (client, server) of an accepted TCP connection."""
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        return _plain(connection.getpeername()), _plain(connection.getsockname())
    except OSError:
        return None
    finally:
        connection.detach()


def _plain(address: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    return address[0].removeprefix(_MAPPED), address[1]
