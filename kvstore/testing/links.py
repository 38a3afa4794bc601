"""Links between members that can be cut, slowed and reset: TCP proxies, no privileges needed.

In front of each member's peer (or client) port stands a proxy whose address is the one that the
member advertises. So every connection passes one, and its bytes in each direction belong to one
directed *link* (from, to), whoever dialed. Who dials is found by the socket's owner in ``/proc``,
so any server program can be behind it that was started here.

A cut link holds its bytes back, and what was held arrives after the healing, as TCP would deliver
it after a partition; new connections are taken and hang. The trade-off: a proxy sees streams, so
there is no loss, doubling or reordering of packets here; a lossy link stalls now and then for a
retransmission's time, which is what TCP makes of loss.

The proxies run on an event loop of their own thread; all methods may be called from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

CHUNK_BYTES: Final = 64 * 1024
QUEUE_BYTES: Final = 1024 * 1024
"""Bytes that wait on one direction of one connection before its sender has to."""
STALL_S: Final = 0.25
"""What the loss of a chunk costs: about TCP's least retransmission time-out."""

_NO_LINGER: Final = struct.pack("ii", 1, 0)

OUTSIDE: Final = -1
"""The other end is no member: a client, or somebody else."""
OWNER_TRIES = 50
OWNER_PAUSE_S = 0.02
"""A connection whose owner is never found is one from outside, which no partition cuts; so it is
looked for while it matters: a member dials again only when a connection breaks."""
CLIENTS: Final = -2
"""The other end dialed the proxy that stands in front of a member's client port."""


@dataclass(slots=True)
class Link:
    """State of one direction from one member to another, and what it did.

    Attributes:
        cut: bytes wait until it is healed.
        delay_s, jitter_s: each chunk arrives so much later, plus up to the jitter.
        loss: chance (0 to 1) that a chunk stalls the link for `STALL_S`, or that a packet is lost
            where there are packets.
        bytes_per_s: bandwidth; 0 for no limit.
        held: bytes at a proxy that met a cut, a delay or a stall: the proof that a fault had an
            effect.
    """

    cut: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    bytes_per_s: float = 0.0
    held: int = 0
    _open: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def heal(self) -> None:
        """Back to a perfect link."""
        self.cut = False
        self.delay_s = self.jitter_s = self.loss = self.bytes_per_s = 0.0


class Links:
    """All proxies of a cluster. A member is known by its number, clients by `OUTSIDE`."""

    def __init__(self, seed: int = 0) -> None:
        """Args: seed: of the jitter and the stalls."""
        self._links: dict[tuple[int, int], Link] = {}
        self._pids: dict[int, int] = {}
        self._random = random.Random(seed)
        self._connections: set[_Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._thread.start()

    # Set-up.

    def listen(
        self,
        address: tuple[str, int],
        target: tuple[str, int],
        member: int,
        dialer: int | None = None,
    ) -> int:
        """Open a proxy on `address` (port 0: any) in front of a member's port; return its port.

        Args:
            dialer: who dials here, such as `CLIENTS`; None to find it out for each connection.
        """
        return self._run(self._listen(address, target, member, dialer))

    async def _listen(
        self, address: tuple[str, int], target: tuple[str, int], member: int, dialer: int | None
    ) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Cancelled at the end; asyncio would print a traceback for a task that says so.
            with contextlib.suppress(asyncio.CancelledError):
                who = dialer
                if who is None:
                    who = await self._find_owner(writer.get_extra_info("peername"))
                await self._serve(reader, writer, target, (who, member))

        server = await asyncio.start_server(serve, *address, limit=CHUNK_BYTES)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def set_pid(self, member: int, pid: int) -> None:
        """Tell which process a member is now, so that its connections are known as its own."""
        self._pids[member] = pid

    def close(self) -> None:
        """Close all proxies and end the thread."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # Faults.

    def change(self, pairs: Iterable[tuple[int, int]], change: Callable[[Link], None]) -> None:
        """Change directed links, all at one moment."""
        chosen = list(pairs)

        async def apply() -> None:
            for pair in chosen:
                link = self._link(*pair)
                change(link)
                link._open.set()

        self._run(apply())

    def heal(self) -> None:
        """Make every link perfect; what was held arrives now."""
        self.change(list(self._links), Link.heal)

    def reset(self, member: int, dialer: int | None = None) -> int:
        """Break all connections from and to a member with RST; return how many.

        Args:
            dialer: those that it opened alone.
        """

        async def apply() -> int:
            chosen = self._connections_of(member)
            if dialer is not None:
                chosen = [c for c in chosen if c.dialer == dialer]
            for connection in chosen:
                connection.reset()
            return len(chosen)

        return self._run(apply())

    def lacks(self, ability: object) -> str:
        """Proxies can do all there is."""
        return ""

    def lose(self, member: int) -> int:
        """Make all connections from and to a member, but those of `CLIENTS`, half-open.

        Return how many. Each end goes on to believe in the connection, and nothing arrives any
        more, not even that the other end is gone: as when something on the way has forgotten it.
        New connections work. (A client without keepalive would never notice.)
        """

        async def apply() -> int:
            chosen = [c for c in self._connections_of(member) if c.dialer != CLIENTS]
            for connection in chosen:
                connection.lost = True
            return len(chosen)

        return self._run(apply())

    def _connections_of(self, member: int) -> list[_Connection]:
        return [c for c in self._connections if member in (c.dialer, c.member)]

    def held(self) -> Mapping[tuple[int, int], int]:
        """Bytes that each directed link held back or delayed so far."""
        return {pair: link.held for pair, link in self._links.items() if link.held}

    def _link(self, from_: int, to: int) -> Link:
        return self._links.setdefault((from_, to), Link())

    # Connections.

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        target: tuple[str, int],
        ends: tuple[int, int],
    ) -> None:
        dialer, member = ends
        connection = _Connection(dialer, member, writer, asyncio.current_task())
        self._connections.add(connection)
        try:
            there = self._link(dialer, member)
            while there.cut:  # as if the SYN were lost
                there._open.clear()
                await there._open.wait()
            far_reader, far_writer = await asyncio.open_connection(*target, limit=CHUNK_BYTES)
            connection.far = far_writer
            async with asyncio.TaskGroup() as pumps:
                back = self._link(member, dialer)
                pumps.create_task(self._pump(reader, far_writer, there, connection))
                pumps.create_task(self._pump(far_reader, writer, back, connection))
        except* OSError:
            pass  # an end is gone: so is the connection
        finally:
            connection.abort()
            self._connections.discard(connection)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: Link,
        connection: _Connection,
    ) -> None:
        """Carry bytes in one direction; end with the sender's end of stream."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_BYTES // CHUNK_BYTES)
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send(waiting, writer, link, connection))
            while chunk := await _read(reader, connection):
                due = loop.time() + link.delay_s + link.jitter_s * self._random.random()
                await waiting.put((due, chunk))
            await waiting.put((loop.time() + link.delay_s, b""))

    async def _send(
        self,
        waiting: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        link: Link,
        connection: _Connection,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await waiting.get()
            if link.loss and self._random.random() < link.loss:
                due = max(due, loop.time() + STALL_S)
            wait = due - loop.time()
            if wait > 0:
                link.held += len(chunk)
                await asyncio.sleep(wait)
            if link.cut:
                link.held += len(chunk)
                while link.cut:
                    link._open.clear()
                    await link._open.wait()
            if connection.lost:
                link.held += len(chunk)
                if not chunk:  # this end has noticed; the other one is not told
                    return
                continue
            if not chunk:
                with contextlib.suppress(OSError, RuntimeError):
                    writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()
            if link.bytes_per_s:
                link.held += len(chunk)
                await asyncio.sleep(len(chunk) / link.bytes_per_s)

    async def _find_owner(self, address: tuple[str, int]) -> int:
        """`_owner`, asked again where it is nobody: the kernel's table is read in pieces, and a
        line of it may be missed while others come and go."""
        for _ in range(OWNER_TRIES):
            owner = self._owner(address)
            if owner != OUTSIDE:
                return owner
            await asyncio.sleep(OWNER_PAUSE_S)
        return OUTSIDE

    def _owner(self, address: tuple[str, int]) -> int:
        """Which member's process has the socket with this local address."""
        inode = _inode(address)
        if inode:
            wanted = f"socket:[{inode}]"
            for member, pid in self._pids.items():
                if _holds(pid, wanted):
                    return member
        return OUTSIDE


class _Connection:
    """One connection through a proxy: from `dialer` to `member`."""

    __slots__ = ("_task", "dialer", "far", "lost", "member", "near")

    def __init__(
        self,
        dialer: int,
        member: int,
        near: asyncio.StreamWriter,
        task: asyncio.Task[Any] | None,
    ) -> None:
        """Args: task: kept from being collected, since a loop knows its tasks weakly only."""
        self._task = task
        self.dialer = dialer
        self.member = member
        self.near = near
        self.far: asyncio.StreamWriter | None = None
        self.lost = False

    def reset(self) -> None:
        """End it with RST instead of FIN."""
        for writer in (self.near, self.far):
            if writer is not None:
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.abort()

    def abort(self) -> None:
        for writer in (self.near, self.far):
            if writer is not None:
                writer.transport.abort()


async def _read(reader: asyncio.StreamReader, connection: _Connection) -> bytes:
    try:
        return await reader.read(CHUNK_BYTES)
    except OSError:
        if connection.lost:  # its other end must not be told
            return b""
        raise


def _inode(address: tuple[str, int]) -> str:
    """The inode of the IPv4 socket with this local address, "" if there is none (any more)."""
    raw = socket.inet_aton(address[0])[::-1].hex().upper()
    wanted = f"{raw}:{address[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == wanted:
            return fields[9]
    return ""


def _holds(pid: int, wanted: str) -> bool:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{name}") == wanted:
                    return True
    return False
