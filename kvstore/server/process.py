"""The server process: joins the member core with sockets, files, threads and the clock.

asyncio lives here and in ``rpc`` and ``peer``. One event loop runs everything but three things that
would block it: the log's writes (`WalWriter`'s thread), the backend's commits and copies (one
thread), and what h2corn does in its own threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import math
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import ClassVar

from kvstore.apply.applier import Applier
from kvstore.errors import EtcdError
from kvstore.lease.checkpoints import CHECKPOINT_INTERVAL_S
from kvstore.lease.lessor import Lessor
from kvstore.mvcc.store import Store
from kvstore.mvcc.watch import WatchHub
from kvstore.mvcc.watch_stream import QUEUE_RESPONSES
from kvstore.node.lease_keeper import LeaseKeeper
from kvstore.node.member import Limits, Member
from kvstore.node.request import Kind, first_request_id
from kvstore.peer.handshake import Standing
from kvstore.peer.http import Pages
from kvstore.peer.transport import PeerTransport, SnapshotReader
from kvstore.rpc.cluster import ClusterService, Reconfiguration
from kvstore.rpc.core import Core
from kvstore.rpc.kv import KVService
from kvstore.rpc.lease import LeaseService
from kvstore.rpc.listener import Listener
from kvstore.rpc.maintenance import MaintenanceService
from kvstore.rpc.peer_calls import PeerCalls
from kvstore.server import datadir
from kvstore.server.app import register_services
from kvstore.server.auto_compaction import compact_by_schedule
from kvstore.server.backend_thread import BackendThread
from kvstore.server.config import Config
from kvstore.server.corruption import CorruptionChecker, DataInconsistency
from kvstore.server.defrag import Defragmenter
from kvstore.server.features import (
    COMPACT_HASH_CHECK,
    INITIAL_CORRUPT_CHECK,
    LEASE_CHECKPOINT,
    without_effect,
)
from kvstore.server.front import build_front, client_listeners, metrics_listeners
from kvstore.server.images import Images
from kvstore.server.log import setup_logging
from kvstore.server.membership import Membership
from kvstore.server.metrics import ServerMetrics
from kvstore.server.prepare import REFUSALS, find_cluster, prepare
from kvstore.storage.errors import CorruptBackend, SnapshotRejected, StorageError
from kvstore.storage.lmdb_file import check_file
from kvstore.storage.snapshot_file import IncomingSnapshot
from kvstore.storage.wal_writer import WalWriter
from kvstore.version import CLUSTER_VERSION
from raft import Config as RaftConfig
from raft import Message, Raft, SnapshotMeta

log = logging.getLogger("server")

GC_THRESHOLD = 50_000
"""Container allocations before a young collection: the hot paths make few cycles."""
GIL_SWITCH_S = 0.0005
"""How long a thread may hold the interpreter against another: bounds what the log's thread waits
for the loop after an fsync (the default, 5 ms, is ten fsyncs)."""
CATCH_UP_S = 0.1
"""Pause between two slices of watch catch-up when nothing is left to do at once (WCH-49)."""
FATAL_EXIT = 1


class Server:
    """One running member.

    What reaches the outside is made by the ``make_…`` methods, in whose place the simulation puts
    its own; the class's constants it makes small.
    """

    checkpoint_interval_s: ClassVar[float] = CHECKPOINT_INTERVAL_S
    watch_queue: ClassVar[int] = QUEUE_RESPONSES

    def __init__(self, config: Config, state: datadir.State) -> None:
        self.config = config
        self.state = state
        self.loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        self.exit_code = 0
        self.random = self.make_random()
        self._tasks: set[asyncio.Task[None]] = set()
        self._copies = count()
        self._receiving = asyncio.Lock()
        self._listeners: list[Listener] = []
        self._metrics_listeners: list[Listener] = []
        self._serving = False
        self._compact_due = asyncio.Event()
        self._watchers_behind = asyncio.Event()
        self._build()

    # Assembly.

    def _build(self) -> None:
        config, state = self.config, self.state
        limits = self.make_limits()
        min_ttl = -(-3 * config.election_ms // 2000)
        self.metrics = ServerMetrics(self)
        self.store = Store(state.backend)
        checkpoints = LEASE_CHECKPOINT in config.feature_gates
        self.lessor = Lessor(
            state.backend,
            min_ttl=min_ttl,
            checkpoint_interval_s=self.checkpoint_interval_s if checkpoints else math.inf,
        )
        self._restore_leases()
        self.hub = WatchHub(
            self.store,
            cluster_id=state.cluster.cluster_id,
            member_id=state.member_id,
            max_request_bytes=config.max_request_bytes,
            progress_interval=config.watch_progress_interval_s,
            random=self.random,
            queue_limit=self.watch_queue,
        )
        self.hub.on_behind = self._watchers_behind.set
        applier = Applier(self.store, self.lessor, state.cluster)
        self.wal_writer = self.make_log_writer()
        self.transport = self.make_transport()
        recovered = state.recovered
        raft = Raft(
            RaftConfig(
                id=state.member_id,
                election_tick=config.election_ticks,
                heartbeat_tick=1,
                pre_vote=config.pre_vote,
            ),
            hard_state=recovered.hard_state,
            snapshot=SnapshotMeta(
                recovered.snapshot.index, recovered.snapshot.term, state.applied.conf_state
            ),
            entries=recovered.entries,
            applied=state.applied.index,
            random=self.random,
        )
        self.member = Member(
            raft,
            applier,
            state.backend,
            applied=state.applied,
            snapshot_index=recovered.snapshot.index,
            log_writer=self.wal_writer,
            network=self.transport,
            snapshots=self,
            schedule=self._soon,
            first_request_id=first_request_id(state.member_id, self.wall_ms()),
            limits=limits,
            now=self.loop.time(),
            clock=time.perf_counter,
        )
        self.lease_keeper = LeaseKeeper(self.member, self.loop.time)
        member, hub = self.member, self.hub
        self.store.on_events = lambda revision, events: hub.publish(
            revision, events, member.applied_term
        )
        member.on_leader = self._leader_changed
        member.on_applied = self._applied
        self.backend_thread = BackendThread(
            member, state.backend, self.metrics.observe_commit, self.make_backend_thread()
        )
        self.defragmenter = Defragmenter(self.backend_thread, state.backend, self._fatal)
        self.membership = Membership(self)
        applier.on_compacted = self._compact_due.set
        applier.on_members_changed = self.membership.changed
        self.core = Core(
            member=member,
            store=self.store,
            lessor=self.lessor,
            leases=self.lease_keeper,
            hub=hub,
            cluster=state.cluster,
            peer_call=self.transport.call,
            loop=self.loop,
            random=self.random,
            max_txn_ops=config.max_txn_ops,
            request_timeout_s=limits.request_timeout_s,
            election_s=limits.election_s,
        )
        self.calls = PeerCalls()
        self.kv = KVService(self.core)
        self.maintenance = MaintenanceService(
            self.core,
            lambda: state.backend,
            config.quota_backend_bytes,
            self.defragmenter.defragment,
        )
        self.images = Images(
            state.snap_dir,
            state.backend,
            self.backend_thread.commit,
            self.backend_thread.lock,
            self.metrics.observe_backend_copy,
        )
        self.leases = LeaseService(self.core, self.calls)
        checks = Reconfiguration(
            config.strict_reconfig_check, config.max_learners, self.transport.stats.connected
        )
        self.members = ClusterService(self.core, self.calls, checks)
        self.front = build_front(self)
        self.router = self.front.router
        register_services(self.router, self)
        self.corruption = CorruptionChecker(self.core, self.calls, self.maintenance.hashed)
        self.defragmenter.on_damage = self.corruption.damaged

    # What reaches the outside.

    def make_random(self) -> random.Random:
        return random.Random()

    def make_limits(self) -> Limits:
        config = self.config
        election_s = config.election_ms / 1000
        return Limits(
            max_request_bytes=config.max_request_bytes,
            request_timeout_s=5.0 + 2 * election_s,
            snapshot_count=config.snapshot_count,
            snapshot_catchup_entries=config.snapshot_catchup_entries,
            election_s=election_s,
            warning_apply_s=config.warning_apply_s,
            quota_bytes=config.quota_backend_bytes,
        )

    def make_log_writer(self) -> WalWriter:
        return WalWriter(
            self.state.wal,
            on_done=self._persisted,
            on_error=self._fatal,
            call_soon=self.loop.call_soon_threadsafe,
            metrics=self.metrics.observe_wal,
        )

    def make_transport(self) -> PeerTransport:
        return PeerTransport(
            self,
            self.state.cluster.cluster_id,
            self.state.member_id,
            self.config.peer_sockets,
            self.config.initial_advertise_peer_urls,
        )

    def make_backend_thread(self) -> Executor:
        return ThreadPoolExecutor(1, thread_name_prefix="backend")

    def wall_ms(self) -> int:
        """Milliseconds of the wall clock."""
        return int(time.time() * 1000)

    def _soon(self, work: Callable[[], None]) -> None:
        self.loop.call_soon(self._run_core, work)

    def _run_core(self, work: Callable[[], None]) -> None:
        """Run a part of the member core. An exception there leaves entries half-applied, and
        going on would acknowledge writes on top of it: the process ends and replays the log."""
        try:
            work()
        except Exception as error:
            self._fatal(error)

    def _restore_leases(self) -> None:
        dangling = self.lessor.restore(self.store.take_attachments())
        if dangling:
            log.warning("keys with an unknown lease", extra={"count": len(dangling)})

    # Life.

    async def start(self) -> None:
        """Open the peer port, join the cluster, publish this member, then serve clients."""
        # All ports first: a taken one must fail before this member takes part in anything.
        self._listeners = client_listeners(self, self.front)
        self._metrics_listeners = metrics_listeners(self, self.front)
        await self.transport.listen(self.config.listen_peer_urls)
        await self.join()
        for listener in self._metrics_listeners:
            await listener.start()
            log.info("serving metrics", extra={"address": listener.address})
        await self.work()
        for listener in self._listeners:
            await listener.start()
            log.info("serving client traffic", extra={"address": listener.address})
        self._serving = True
        gc.collect()
        gc.freeze()

    async def join(self) -> None:
        """Take up with the others. Raises DataInconsistency."""
        self.membership.changed()
        await self._check_data()
        self._advance_election()

    async def work(self) -> None:
        """Begin all that goes on by itself; return when clients may be served."""
        self._spawn(self._tick_forever())
        self._spawn(self.backend_thread.commit_forever(self.config.backend_batch_interval_s))
        self._spawn(self._catch_up_forever())
        self._spawn(self._compact_forever())
        if self.config.auto_compaction is not None:
            self._spawn(compact_by_schedule(self.core, self.config.auto_compaction))
        await self._publish()

    async def _check_data(self) -> None:
        """Begin the comparisons with other members. Raises DataInconsistency."""
        config, checker = self.config, self.corruption
        self.router.on_failure = checker.damaged
        if INITIAL_CORRUPT_CHECK in config.feature_gates:
            await checker.check_at_start(self.transport.stats.connected.__contains__)
        if config.corrupt_check_s:
            self._spawn(checker.check_periodically(config.corrupt_check_s))
        if COMPACT_HASH_CHECK in config.feature_gates:
            self._spawn(checker.check_compactions(config.compact_hash_check_s))

    def _advance_election(self) -> None:
        """Skip most of the first election time-out: nobody has heard of a leader yet.

        The drawn time-out is never shorter than an election time-out, so the skipped ticks start no
        campaign by themselves, except in a cluster of one, where nobody else can lead.
        """
        if not self.config.initial_election_tick_advance:
            return
        if self.member.raft.conf_state.voters == (self.state.member_id,):
            self.member.raft.campaign()
            self.member.wake()
            return
        for _ in range(self.config.election_ticks - 2):
            self.member.raft.tick()

    async def _publish(self) -> None:
        """Announce name and client URLs through the log; without it a member does not serve."""
        record = {
            "id": self.state.member_id,
            "name": self.config.name,
            "client_urls": self.config.advertise_client_urls,
        }
        while True:
            try:
                await self.core.propose(Kind.PUBLISH, json.dumps(record).encode())
            except EtcdError as error:
                log.warning("could not publish this member yet: %s", error.message)
                await asyncio.sleep(self.core.election_s / 2)
                continue
            log.info("published this member", extra={"member_name": self.config.name})
            return

    async def stop(self) -> None:
        """Hand leadership over, end streams, make the backend durable, close everything."""
        self.defragmenter.stop()
        await self._hand_over()
        self.member.stop()
        await self._end_service()
        await asyncio.gather(*(listener.stop() for listener in self._metrics_listeners))
        self.front.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.transport.close()
        await self.loop.run_in_executor(None, self.wal_writer.close)
        self.state.wal.close()
        await self.backend_thread.commit()
        self.backend_thread.shutdown()
        self.state.backend.close()

    def end_service(self) -> None:
        """Serve no clients any more, and go on as a member."""
        if self._serving:
            self._spawn(self._end_service())

    async def _end_service(self) -> None:
        if self._serving:
            self._serving = False
            self.router.stop()
            await asyncio.gather(*(listener.stop() for listener in self._listeners))

    async def _hand_over(self) -> None:
        """Give leadership to the voter that is connected for the longest time (MNT-30)."""
        if not self.member.is_leader:
            return
        target = self.transport.stats.longest_connected(self.member.raft.conf_state.voters)
        if target is None:
            return
        with contextlib.suppress(Exception):
            self.member.transfer_leadership(target)
        deadline = self.loop.time() + self.core.election_s
        while self.member.is_leader and self.loop.time() < deadline:
            await asyncio.sleep(0.005)
        if self.member.is_leader:
            log.warning("could not hand leadership over in time", extra={"to": f"{target:x}"})
        else:
            log.info("handed leadership over", extra={"to": f"{target:x}"})

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Awaitable[None]) -> None:
        """A background task that fails must not fail silently."""
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._fatal(error)

    def _fatal(self, error: BaseException) -> None:
        """End the process at once: after a failed write or a broken invariant nothing is safe."""
        log.critical("fatal: %s", error, exc_info=error)
        logging.shutdown()
        os._exit(FATAL_EXIT)

    # Background work.

    async def _tick_forever(self) -> None:
        interval, loop = self.config.heartbeat_s, self.loop
        due = loop.time() + interval
        leaderless_since = loop.time()
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            now = loop.time()
            if now - due > interval:
                self._heartbeat_late(now - due)
            # After a stall the missed ticks are dropped, as a paused member would have it.
            due = max(due + interval, now + interval / 2)
            self.member.tick(now)
            self.lease_keeper.tick()
            self.hub.tick(now)
            if self.member.raft.leader:
                leaderless_since = now
            elif now - leaderless_since > 3 * self.core.election_s:
                self.router.leaderless()
            self._set_cluster_version()
            self.membership.tick(now)

    def _heartbeat_late(self, late_s: float) -> None:
        """The loop was busy or the process stopped: a leader's followers may start an election."""
        if self.member.is_leader:
            self.metrics.late_heartbeats += len(self.state.cluster.members) - 1
            fields = {
                "heartbeat-interval": f"{self.config.heartbeat_ms}ms",
                "exceeded-duration": f"{late_s * 1000:.0f}ms",
            }
            log.warning("leader failed to send out heartbeats on time", extra=fields)

    def _set_cluster_version(self) -> None:
        if self.member.is_leader and self.state.cluster.version != CLUSTER_VERSION:
            self.member.propose_as_leader(Kind.CLUSTER_VERSION, CLUSTER_VERSION.encode())

    def _applied(self) -> None:
        if self.state.backend.pending_ops >= self.config.backend_batch_limit:
            self.backend_thread.commit_due()

    async def _catch_up_forever(self) -> None:
        """Serve slow watchers, ten times a second, so that one scan serves all that came meanwhile;
        the first one at once."""
        hub, behind, loop = self.hub, self._watchers_behind, self.loop
        while True:
            last, more = loop.time(), hub.catch_up()
            if not hub.slow_watchers:
                behind.clear()
                await behind.wait()
            await asyncio.sleep(0 if more else max(0.0, last + CATCH_UP_S - loop.time()))

    async def _compact_forever(self) -> None:
        config, due = self.config, self._compact_due
        due.set()  # a compaction may have been cut short by the last stop (CMP-09)
        while True:
            await due.wait()
            due.clear()
            while self._compact_step(config.compaction_batch_limit):
                await asyncio.sleep(config.compaction_sleep_s)

    def _compact_step(self, batch: int) -> bool:
        store = self.store
        if store.finished_compact_revision >= store.compact_revision:
            return self.member.compact_step(batch)
        started = time.perf_counter()
        more = self.member.compact_step(batch)
        self.metrics.observe_compaction_step(time.perf_counter() - started, more=more)
        return more

    # What the transport tells (PeerHandler).

    def receive(self, message: Message) -> None:
        self.member.now = self.loop.time()
        self._run_core(partial(self.member.receive, message))

    def unreachable(self, peer: int) -> None:
        self.member.unreachable(peer)

    def snapshot_sent(self, peer: int, ok: bool) -> None:
        self.member.snapshot_sent(peer, ok)

    def standing(self, peer: int) -> Standing:
        return self.membership.standing(peer)

    def told_removed(self, by: int) -> None:
        self.membership.told_removed(by)

    def pages(self) -> Pages:
        return self.membership.pages()

    async def handle_call(self, method: int, payload: bytes) -> bytes:
        return await self.calls.handle(method, payload)

    async def receive_snapshot(self, message: Message, chunks: SnapshotReader) -> None:
        """Store an incoming snapshot, verify it, and hand its message to Raft."""
        assert message.snapshot is not None
        async with self._receiving:
            self._remove_received(self.member.applied_index)
            await self._store_snapshot(message.snapshot, chunks)
            # Not while the backend is being defragmented: installing replaces its file.
            async with self.backend_thread.lock:
                self.receive(message)

    async def _store_snapshot(self, meta: SnapshotMeta, chunks: SnapshotReader) -> None:
        path = datadir.received_snapshot(self.state.snap_dir, meta.index)
        in_thread = partial(self.loop.run_in_executor, None)
        incoming = IncomingSnapshot(path, chunks.size)
        try:
            while chunk := await chunks.read():
                await in_thread(incoming.write, chunk)
            digest = await chunks.digest()
            started = time.perf_counter()
            await in_thread(incoming.finish, digest)
            self.metrics.observe_received_sync(time.perf_counter() - started)
            await in_thread(incoming.install)
        finally:
            incoming.discard()
        await in_thread(check_file, str(path))
        position = await in_thread(datadir.position_of, path)
        if position != meta:
            raise SnapshotRejected(str(path), f"it is at {position}, announced as {meta}")

    def _remove_received(self, index: int) -> None:
        """Remove received snapshots up to an index: declined, or installed already."""
        for path in self.state.snap_dir.glob("*.snap"):
            if int(path.stem, 16) <= index:
                path.unlink()

    # What the member core wants done (LogWriter's report, Snapshots).

    def _persisted(self, token: int) -> None:
        self.member.now = self.loop.time()
        self._run_core(partial(self.member.persisted, token))

    def send(self, message: Message) -> None:
        """Make a copy of the backend and stream it."""
        self._spawn(self._send_snapshot(message))

    async def _send_snapshot(self, message: Message) -> None:
        if message.to not in self.transport.stats.connected:
            # A member that was just added has mostly not started yet: spare the copy.
            self.member.snapshot_sent(message.to, False)
            return
        path = self.state.snap_dir / f"to-{message.to:x}-{next(self._copies)}.copy"
        try:
            await self.backend_thread.commit()
            # On the backend's thread, so that no commit comes between the copy and its position.
            meta, size = await self.backend_thread.run(partial(self._copy, path))
        except (OSError, StorageError) as error:
            log.error("could not make a snapshot: %s", error)
            self.corruption.damaged(error)
            path.unlink(missing_ok=True)
            self.member.snapshot_sent(message.to, False)
            return
        message.snapshot = meta
        log.info(
            "sending a snapshot",
            extra={"to": f"{message.to:x}", "index": meta.index, "bytes": size},
        )
        self.transport.send_snapshot(message, path)

    def _copy(self, path: Path) -> tuple[SnapshotMeta, int]:
        started = time.perf_counter()
        self.state.backend.copy_to(str(path))
        self.metrics.observe_backend_copy(time.perf_counter() - started)
        return datadir.position_of(path), path.stat().st_size

    def install(self, meta: SnapshotMeta) -> None:
        """Put a received snapshot in the place of the state (Snapshots)."""
        path = datadir.received_snapshot(self.state.snap_dir, meta.index)
        # Waits for a commit under way: it must not end up in the new backend.
        self.backend_thread.wait()
        self.state.backend.replace(path)
        self.store.restore()
        self._compact_due.set()  # a compaction may have been under way at the sender (CMP-09)
        self._restore_leases()
        self.state.cluster.restore(self.state.backend)
        self.member.applier.alarms.restore(self.state.backend)
        self.membership.changed()
        self.hub.restored()
        self.core.installs += 1
        self._remove_received(meta.index)

    def _leader_changed(self) -> None:
        raft = self.member.raft
        log.info(
            "raft state changed",
            extra={"leader": f"{raft.leader:x}", "role": raft.role.value, "term": raft.term},
        )


async def _serve(config: Config, state: datadir.State) -> int:
    server = Server(config, state)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, server.stopping.set)
    starting = asyncio.ensure_future(server.start())
    stopping = asyncio.ensure_future(server.stopping.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if starting.done():
            starting.result()
            await stopping
        else:
            starting.cancel()
    except (OSError, DataInconsistency, StorageError) as error:
        log.critical("%s", error)
        server.exit_code = FATAL_EXIT
    log.info("stopping")
    await server.stop()
    return server.exit_code


def run(config: Config) -> int:
    """Run a member until it is told to stop; return the process's exit code."""
    setup_logging(config)
    sys.setswitchinterval(GIL_SWITCH_S)
    gc.set_threshold(GC_THRESHOLD, 20, 100)
    try:
        descriptor = datadir.lock(Path(config.data_dir))
        if config.discovery is not None:
            config = find_cluster(config)
        state = prepare(config, datadir.open_state(config))
    except datadir.MemberRemoved as error:
        log.critical("%s", error)
        return 0  # as etcd: nothing went wrong, and starting it again would not help
    except REFUSALS as error:
        log.critical("%s", error)
        return FATAL_EXIT
    for text in without_effect(config.feature_gates):
        log.warning("%s", text)
    log.info(
        "starting",
        extra={
            "member_id": f"{state.member_id:x}",
            "cluster_id": f"{state.cluster.cluster_id:x}",
            "fresh": state.fresh,
            "applied_index": state.applied.index,
        },
    )
    try:
        return asyncio.run(_serve(config, state))
    except CorruptBackend as error:  # met while the store was loaded
        log.critical("%s", error)
        return FATAL_EXIT
    finally:
        os.close(descriptor)
