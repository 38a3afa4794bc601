"""The server itself in the simulation: `Server` with other ways to the outside.

Everything from the services down is the server's own code: its assembly, its background tasks, its
router of gRPC calls. What is modelled here is the transport between members, the disk thread, and
the files of snapshots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, cast

from jepsen.sim.disk import DiskFailed
from jepsen.sim.loop import Violation
from kvstore.errors import EtcdError
from kvstore.mvcc.store import Event
from kvstore.node.member import Limits, load_applied
from kvstore.peer.handshake import Standing
from kvstore.peer.stats import Stats
from kvstore.peer.transport import PeerTransport, SnapshotReader
from kvstore.server import datadir
from kvstore.server.process import Server
from kvstore.storage.memory_backend import MemoryBackend
from kvstore.storage.wal import Batch
from kvstore.storage.wal_writer import WalWriter
from raft import Message, SnapshotMeta

if TYPE_CHECKING:
    from jepsen.sim.node import Node

CHECKPOINT_INTERVAL_S = 0.5
"""So short that most leases are checkpointed."""
WATCH_QUEUE = 4
"""Responses that may wait on a stream: small, so that watchers fall behind."""
DIAL_S = 0.5
"""Pause between two looks at who can be reached."""


class SimServer(Server):
    """One life of a member."""

    checkpoint_interval_s: ClassVar[float] = CHECKPOINT_INTERVAL_S
    watch_queue: ClassVar[int] = WATCH_QUEUE

    def __init__(self, node: Node, config: Any, state: datadir.State) -> None:
        self.node = node
        super().__init__(config, state)
        publish = self.store.on_events

        def on_events(revision: int, events: list[Event]) -> None:
            node.observer.published(node, revision, events)
            publish(revision, events)

        def on_applied() -> None:
            self._applied()
            node.observer.applied(node)

        self.store.on_events = on_events
        self.member.on_applied = on_applied
        self.router.on_failure = self._handler_failed

    def make_random(self) -> Random:
        return self.node.loop.random

    def make_limits(self) -> Limits:
        return self.node.limits

    def make_log_writer(self) -> WalWriter:
        return cast(WalWriter, SimLogWriter(self))

    def make_transport(self) -> PeerTransport:
        return cast(PeerTransport, SimTransport(self))

    def make_backend_thread(self) -> Executor:
        return self.node.thread

    def wall_ms(self) -> int:
        return int(self.node.loop.now * 1000)

    def _handler_failed(self, error: Exception) -> None:
        self.node.loop.fail(error)

    def _fatal(self, error: BaseException) -> None:
        """The process ends; that is a violation unless its disk has failed."""
        if isinstance(error, DiskFailed):
            self.node.dies(error)
        else:
            self.node.loop.fail(error)

    def _restore_leases(self) -> None:
        dangling = self.lessor.restore(self.store.take_attachments())
        if dangling:
            raise Violation(f"{self.node.name} has keys with an unknown lease: {dangling}")

    # Snapshots: files of the memory backend.

    def install(self, meta: SnapshotMeta) -> None:
        busy = self.node.thread.busy
        self.node.observer.count(
            "snapshot installed while committing" if busy else "snapshot installed"
        )
        super().install(meta)

    def _copy(self, path: Path) -> tuple[SnapshotMeta, int]:
        files = self.node.files
        self.node.observer.count("snapshot made")
        files.pop(str(path), None)
        self.state.backend.copy_to(str(path))
        return load_applied(files[str(path)]) or SnapshotMeta(), files[str(path)].size()

    async def _store_snapshot(self, meta: SnapshotMeta, chunks: SnapshotReader) -> None:
        content = cast(_Content, chunks).content
        path = datadir.received_snapshot(self.state.snap_dir, meta.index)

        def write() -> None:
            self.node.files[str(path)] = content

        await self.loop.run_in_executor(None, write)
        position = load_applied(content)
        if position != meta:
            raise Violation(f"a snapshot announced as {meta} is at {position}")

    def _remove_received(self, index: int) -> None:
        for name in list(self.node.files):
            if name.endswith(".snap") and int(Path(name).stem, 16) <= index:
                del self.node.files[name]


class _Content:
    """A snapshot on its way."""

    def __init__(self, content: MemoryBackend) -> None:
        self.content = content


class SimLogWriter:
    """Hands batches to the disk, and lets the checks see them (`LogWriter`)."""

    def __init__(self, server: SimServer) -> None:
        self._server = server

    def submit(self, token: int, batch: Batch) -> None:
        node = self._server.node
        node.observer.submitted(node, batch)
        node.writer.submit(token, batch)
        if batch.snapshot is not None:
            node.on_snapshot_logged()

    def release(self, index: int) -> None:
        self._server.node.writer.release(index)
        self._server.node.on_log_released()

    def close(self) -> None:
        """The disk is not the process's."""


class SimTransport:
    """`PeerTransport` over the simulated network.

    Messages go as they come; a connection is no more than what a look every `DIAL_S` finds.
    """

    def __init__(self, server: SimServer) -> None:
        self.stats = Stats()
        self._server = server
        self._node = server.node
        self._peers: tuple[int, ...] = ()

    def set_peers(self, peers: Mapping[int, tuple[str, ...]]) -> None:
        own = self._server.state.member_id
        self._peers = tuple(peer for peer in sorted(peers) if peer != own)
        for peer in [peer for peer in self.stats.connected if peer not in self._peers]:
            self.stats.disconnect(peer)

    async def dial_forever(self) -> None:
        network, stats, loop = self._node.network, self.stats, self._node.loop
        while True:
            for peer in self._peers:
                standing = network.dial(self._node.id, peer)
                if standing is Standing.REMOVED:
                    self._server.told_removed(peer)
                if standing in (Standing.MEMBER, Standing.STRANGER):
                    if peer not in stats.connected:
                        stats.connect(peer, loop.now)
                else:
                    stats.disconnect(peer)
            await asyncio.sleep(DIAL_S)

    def send(self, messages: Sequence[Message]) -> None:
        self._node.network.send(messages)

    async def call(self, peer: int, method: int, payload: bytes, timeout_s: float) -> bytes:
        """As `PeerTransport.call`: EtcdError, ConnectionError, TimeoutError."""
        future: asyncio.Future[bytes] = self._server.loop.create_future()

        def answered(result: bytes | EtcdError | None) -> None:
            if future.done():
                return
            if isinstance(result, bytes):
                future.set_result(result)
            else:
                future.set_exception(result or ConnectionError("lost"))

        self._node.network.call(self._node.id, peer, method, payload, answered)
        async with asyncio.timeout(timeout_s):
            return await future

    def send_snapshot(self, message: Message, path: Path) -> None:
        content = self._node.files.pop(str(path))
        aio = self._node.aio

        def report(ok: bool) -> None:
            aio.deliver(partial(self._server.snapshot_sent, message.to, ok))

        self._node.network.send_snapshot(message, content, report)

    async def close(self) -> None:
        """There are no sockets."""


def snapshot_chunks(content: MemoryBackend) -> SnapshotReader:
    """What a receiver reads a snapshot from."""
    return cast(SnapshotReader, _Content(content))
