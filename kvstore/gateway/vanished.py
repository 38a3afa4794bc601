"""Notices that the client of a long HTTP/1.1 call has left.

h2corn does not read an HTTP/1.1 connection while it answers on it, so a client that left is noticed
only when something is sent to it: a watch on a quiet key would stay for ever. For HTTP/2 it cancels
the application's task, and for websockets it reads on; neither needs this.

A connection is found among the descriptors of this process by its two addresses, duplicated, and
put into an epoll of its own that waits for nothing but the end of the connection (so that a client
which pipelines requests does not wake it for ever). That epoll's descriptor is what the event loop
watches. Linux only, and TCP only: the clients of a unix socket have no addresses to find them by,
so there a client that left is noticed when something is sent to it.

The trade-off: going through all descriptors takes milliseconds when there are thousands, so a
thread does it, a moment after a call began and for all new calls at once. Most calls have ended by
then and cost nothing, and a client that leaves within that moment is noticed at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import stat
from collections.abc import Callable, Collection, Iterator
from typing import Final

from kvstore.rpc.grpc import Scope

LOOK_AFTER_S: Final = 0.25
"""How long a call may last before its connection is looked for."""

Address = tuple[str, int]
Addresses = tuple[Address, Address]
"""(client, server)."""

_MAPPED: Final = "::ffff:"
"""An IPv4 address on an IPv6 socket begins so."""

_DESCRIPTORS: Final = "/proc/self/fd"


class _Call:
    """A call that is watched: ``descriptor`` is the duplicate, once the connection was found."""

    __slots__ = ("action", "addresses", "descriptor")

    def __init__(self, addresses: Addresses, action: Callable[[], object]) -> None:
        self.addresses = addresses
        self.action = action
        self.descriptor: int | None = None


class Vanished:
    """Watches connections for their end. Belongs to one event loop."""

    def __init__(self) -> None:
        self._new: set[_Call] = set()
        self._found: dict[int, _Call] = {}
        self._search = _Search()
        self._looking: asyncio.Task[None] | None = None
        self._epoll: select.epoll | None = None
        self._families: set[bool] = set()
        """Whether connections by IPv4 (False) and IPv6 (True) were ever found."""

    @contextlib.contextmanager
    def call_when_gone(self, scope: Scope, action: Callable[[], object]) -> Iterator[None]:
        """Call ``action``, once, if the client of ``scope`` leaves before the context does."""
        client, server = scope.get("client"), scope.get("server")
        if not (hasattr(select, "epoll") and client and server):
            yield
            return
        call = _Call((_plain(client), _plain(server)), action)
        self._new.add(call)
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())
        try:
            yield
        finally:
            self._forget(call)

    def close(self) -> None:
        """Stop watching."""
        if self._looking is not None:
            self._looking.cancel()
        if self._epoll is not None:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _forget(self, call: _Call) -> None:
        self._new.discard(call)
        if call.descriptor is not None:
            del self._found[call.descriptor]
            with contextlib.suppress(OSError):
                self._poller().unregister(call.descriptor)
            os.close(call.descriptor)

    async def _look(self) -> None:
        """Look for the connections of new calls, until there are none."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(LOOK_AFTER_S)
                wanted = {call.addresses for call in self._new}
                if not wanted:
                    return
                found = await loop.run_in_executor(None, self._search.find, wanted)
                if found is not None:
                    self._take(wanted, found)
        finally:
            self._looking = None

    def _take(self, wanted: Collection[Addresses], found: dict[Addresses, int]) -> None:
        """Watch what was found for the calls that still last."""
        for call in [call for call in self._new if call.addresses in wanted]:
            self._new.discard(call)
            family = ":" in call.addresses[0][0]
            descriptor = found.pop(call.addresses, None)
            if descriptor is not None:
                self._families.add(family)
                call.descriptor = descriptor
                self._found[descriptor] = call
                # The errors EPOLLHUP and EPOLLERR are always waited for.
                self._poller().register(descriptor, select.EPOLLRDHUP | select.EPOLLONESHOT)
            elif family in self._families:
                # A connection that was reset has no client any more. (If none was ever found, this
                # machine may spell its addresses otherwise, and no call may pay for that.)
                call.action()
        for descriptor in found.values():
            os.close(descriptor)

    def _poller(self) -> select.epoll:
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._ended)
        return self._epoll

    def _ended(self) -> None:
        for descriptor, _ in self._poller().poll(0):
            call = self._found.get(descriptor)
            if call is not None:
                call.action()


class _Search:
    """Finds connections among the descriptors of this process. One thread at a time."""

    def __init__(self) -> None:
        self._known: dict[int, Addresses | None] = {}
        """Inode of a socket → its addresses; None: no TCP connection."""

    def find(self, wanted: Collection[Addresses]) -> dict[Addresses, int] | None:
        """Return a duplicate of each wanted connection there is; None when that cannot be told."""
        found: dict[Addresses, int] = {}
        try:
            self._scan(wanted, found)
            if len(found) < len(wanted):
                self._known.clear()  # an inode may have been used again
                self._scan(wanted, found)
        except OSError:  # out of descriptors
            for descriptor in found.values():
                os.close(descriptor)
            return None
        return found

    def _scan(self, wanted: Collection[Addresses], found: dict[Addresses, int]) -> None:
        known: dict[int, Addresses | None] = {}
        for descriptor, inode in _sockets():
            addresses = self._known.get(inode) or _addresses(descriptor)
            known[inode] = addresses
            if addresses is None or addresses not in wanted or addresses in found:
                continue
            if _addresses(descriptor) == addresses:
                found[addresses] = os.dup(descriptor)
        self._known = known


def _sockets() -> Iterator[tuple[int, int]]:
    """Yield (descriptor, inode) of this process's sockets."""
    for name in os.listdir(_DESCRIPTORS):
        try:
            status = os.fstat(int(name))
        except OSError:  # closed meanwhile, or the directory's own
            continue
        if stat.S_ISSOCK(status.st_mode):
            yield int(name), status.st_ino


def _addresses(descriptor: int) -> Addresses | None:
    """Return the addresses of an accepted TCP connection."""
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
