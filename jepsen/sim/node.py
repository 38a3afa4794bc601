"""One member of the simulation: the server on modelled disk, time and network.

What a life builds is gone after a crash; what survives is `disk` (the log), the backend's last
commit, and its `files` (received snapshots).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar, cast

from jepsen.sim.aio import SimThread, new_event_loop
from jepsen.sim.disk import Disk, DiskFailed, DiskWriter
from jepsen.sim.files import FileBackend, FileDisk
from jepsen.sim.loop import Loop, Process, Violation
from jepsen.sim.network import Network
from jepsen.sim.rpc import Exchange
from jepsen.sim.server import CHECKPOINT_INTERVAL_S, WATCH_QUEUE, SimServer, SimTransport
from jepsen.sim.server import snapshot_chunks as _chunks
from kvstore.errors import EtcdError
from kvstore.lease.lessor import Lessor
from kvstore.membership.cluster import Cluster
from kvstore.mvcc.store import Event, Store
from kvstore.mvcc.watch import WatchHub
from kvstore.node.bootstrap import FIRST_HARD_STATE, first_position
from kvstore.node.lease_keeper import LeaseKeeper
from kvstore.node.member import Limits, Member, load_applied, store_applied
from kvstore.node.retirement import Retirement
from kvstore.peer.handshake import Standing
from kvstore.server import datadir
from kvstore.server.config import Config
from kvstore.server.features import COMPACT_HASH_CHECK, DEFAULT_GATES, LEASE_CHECKPOINT
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.memory_backend import MemoryBackend
from kvstore.storage.wal import Batch, Wal
from kvstore.storage.wal_replay import LogState
from raft import Message, SnapshotMeta

__all__ = ["CHECKPOINT_INTERVAL_S", "WATCH_QUEUE", "Node", "Observer"]

T = TypeVar("T")

TICK_MS = 100
TICK_S = TICK_MS / 1000
ELECTION_TICKS = 10
COMPACT_BATCH = 20
"""Revisions removed in one step: small, so that a crash finds compactions half done."""
COMPACT_PAUSE_S = 0.1
ELECTION_S = TICK_S * ELECTION_TICKS
REQUEST_TIMEOUT_S = 2.0
MIN_TTL_S = 2
COMMIT_INTERVALS_S = (0.1, 0.1, 1.0)
"""Between two commits of a member's backend: with long ones much is pending at any time."""
COMMIT_S = 0.002
"""Mean time of a backend's commit, and of other work of its thread."""
HASH_CHECK_S = 7.0
SNAP_DIR = Path("snap")


class Observer:
    """What the checks want to see of a member; see `checks.Checks`."""

    def submitted(self, node: Node, batch: Batch) -> None:
        """The member hands a batch to its log."""

    def published(self, node: Node, revision: int, events: list[Event]) -> None:
        """A revision became readable."""

    def applied(self, node: Node) -> None:
        """A batch of entries was applied, or a snapshot installed."""

    def started(self, node: Node) -> None:
        """A life begins."""

    def count(self, what: str) -> None:
        """Something worth knowing in the end happened."""


def bootstrapped(initial: Mapping[str, tuple[str, ...]]) -> tuple[MemoryBackend, LogState]:
    """The backend and log of a member of a new cluster."""
    backend = MemoryBackend()
    cluster = Cluster.bootstrap(backend, initial, "sim")
    first = first_position(cluster.members)
    store_applied(backend, first)
    backend.commit()
    return backend, LogState(FIRST_HARD_STATE, first.conf_state, first.index, first.term)


def joining(cluster: Cluster) -> tuple[MemoryBackend, LogState]:
    """The backend and log of a member that joins a cluster, of which it has been told."""
    backend = MemoryBackend()
    Cluster.write(backend, cluster.cluster_id, cluster.members.values())
    store_applied(backend, SnapshotMeta())
    backend.commit()
    return backend, LogState()


class Node:
    """A member and the machine it runs on."""

    def __init__(
        self,
        name: str,
        member_id: int,
        loop: Loop,
        network: Network,
        observer: Observer,
        snapshot_count: int,
        state: tuple[MemoryBackend, LogState],
        folder: Path | None = None,
        *,
        pre_vote: bool,
    ) -> None:
        """Args:
        snapshot_count: applied entries between two compactions of the log.
        state: see `bootstrapped` and `joining`.
        folder: for real files; None: the models of `disk` and `MemoryBackend`.
        """
        tick_ms = round(TICK_MS * loop.random.uniform(0.97, 1.03))
        self.limits = Limits(
            request_timeout_s=REQUEST_TIMEOUT_S,
            snapshot_count=snapshot_count,
            snapshot_catchup_entries=snapshot_count // 2,
            election_s=ELECTION_S,
        )
        self.config = Config(
            name=name,
            heartbeat_ms=tick_ms,
            election_ms=tick_ms * ELECTION_TICKS,
            snapshot_count=snapshot_count,
            pre_vote=pre_vote,
            backend_batch_interval_s=loop.random.choice(COMMIT_INTERVALS_S),
            compaction_batch_limit=COMPACT_BATCH,
            compaction_sleep_s=COMPACT_PAUSE_S,
            watch_progress_interval_s=1.0,
            feature_gates=DEFAULT_GATES | {LEASE_CHECKPOINT, COMPACT_HASH_CHECK},
            compact_hash_check_s=HASH_CHECK_S,
            enable_grpc_gateway=False,
            advertise_client_urls=(f"http://{name}",),
            max_learners=2,
        )
        self.name = name
        self.id = member_id
        self.loop = loop
        self.network = network
        self.observer = observer
        self.process = Process()
        self.up = False
        self.gone = False
        """Removed and stopped, or its disk is lost: it never starts again."""
        self.published = False
        self.commit_s = COMMIT_S
        self.backend, log_start = state
        self.snap_dir = SNAP_DIR
        if folder is None:
            self.disk = Disk(log_start)
        else:
            self.snap_dir = folder / SNAP_DIR
            self.disk = FileDisk(log_start, folder / "wal", Random(f"{loop.seed}/{name} tears"))
            self.backend = cast(MemoryBackend, FileBackend.create(self.snap_dir, self.backend))
        self.aio = new_event_loop(loop, self.process, name)
        self.calls: dict[Exchange, None] = {}
        """What clients are asking."""
        self.on_snapshot_logged: Callable[[], None] = _nothing
        """A fault may be waiting for the record of a snapshot to go to the log."""
        self.on_log_released: Callable[[], None] = _nothing
        """Or for the log to be shortened."""
        self.on_death: Callable[[], None] = _nothing
        """Called when the process has ended by itself."""

    # The life's parts.

    @property
    def member(self) -> Member:
        return self.server.member

    @property
    def store(self) -> Store:
        return self.server.store

    @property
    def lessor(self) -> Lessor:
        return self.server.lessor

    @property
    def lease_keeper(self) -> LeaseKeeper:
        return self.server.lease_keeper

    @property
    def hub(self) -> WatchHub:
        return self.server.hub

    @property
    def cluster(self) -> Cluster:
        return self.server.state.cluster

    @property
    def retirement(self) -> Retirement:
        return self.server.membership.retirement

    @property
    def files(self) -> dict[str, MemoryBackend]:
        return self.backend.files

    @property
    def serves(self) -> bool:
        """Whether clients may ask it."""
        return self.up and self.published and self.retirement.serves(self.loop.now)

    @property
    def serves_all(self) -> bool:
        """Whether clients may ask it for more than a learner's reads."""
        return self.serves and not self.member.raft.is_learner

    # Life.

    def start(self) -> None:
        """Begin a life with what survived, by the rules of the server's data directory."""
        recovered = self.disk.recover()
        applied = load_applied(self.backend)
        assert applied is not None
        assert not self.gone
        if recovered.snapshot.index > applied.index:
            path = str(datadir.received_snapshot(self.snap_dir, recovered.snapshot.index))
            if path in self.files:
                self.observer.count("snapshot installed at a start")
                self.backend.replace(path)
                applied = load_applied(self.backend)
                assert applied is not None
        self.files.clear()
        self.on_snapshot_logged = self.on_log_released = _nothing
        last = recovered.snapshot.index + len(recovered.entries)
        if not recovered.snapshot.index <= applied.index <= last:
            raise Violation(
                f"{self.name} cannot start: its backend is at {applied.index}, its log"
                f" {recovered.snapshot.index} to {last}"
            )
        cluster = Cluster.load(self.backend)
        assert cluster is not None
        state = datadir.State(
            self.id,
            cluster,
            cast(LmdbBackend, self.backend),
            self.snap_dir,
            cast(Wal, None),
            recovered,
            applied,
            False,
        )
        self.aio = new_event_loop(self.loop, self.process, self.name)
        self.thread = SimThread(self.loop, self.process, self.name, lambda: self.commit_s)
        self.enter(lambda: self._begin(state))

    def _begin(self, state: datadir.State) -> None:
        self.server = SimServer(self, self.config, state)
        self.writer = DiskWriter(
            self.loop, self.process, self.name, self.disk, self._durable, self.server._fatal
        )
        self.up = True
        self.published = False
        self.observer.started(self)
        self.aio.create_task(self._serve())
        self.aio.create_task(self._end_when_stopping())
        transport = cast(SimTransport, self.server.transport)
        self.aio.create_task(transport.dial_forever())

    def _durable(self, token: int) -> None:
        self.enter(lambda: self.server._persisted(token))

    async def _serve(self) -> None:
        await self.server.join()
        await self.server.work()
        self.published = True

    async def _end_when_stopping(self) -> None:
        await self.server.stopping.wait()
        self.loop.after(0, f"{self.name} stops, removed", self._stop, self.process)

    def _stop(self) -> None:
        applied = self.id in self.cluster.removed
        self.observer.count(f"removed member stopped ({'applied' if applied else 'told'})")
        self.gone = True
        self.crash()

    def enter(self, work: Callable[[], T]) -> T:
        """Do something in the member's event loop."""
        return self.aio.enter(work)

    def crash(self) -> None:
        """Lose everything that is not durable. What was under way may have been."""
        self.up = False
        self.process.life += 1
        self.process.paused_until = 0.0
        self.writer.crash()
        self.disk.crash()
        self.thread.crash()
        for exchange in self.calls:
            exchange.died()
        self.calls = {}
        self.backend = self.backend.crash()
        self.loop.after(0, f"{self.name} is gone", self.aio.bury)

    def dies(self, error: DiskFailed) -> None:
        """The process ends by itself: its disk has failed."""
        self.observer.count(f"died: {error}")
        self.loop.after(0, f"{self.name} dies", self._die, self.process)

    def _die(self) -> None:
        self.crash()
        self.on_death()

    def pause(self, seconds: float) -> None:
        """Stop the process as SIGSTOP does."""
        self.process.paused_until = self.loop.now + seconds

    def resume(self) -> None:
        """Continue it, as SIGCONT does."""
        self.loop.resume(self.process)

    # What the network brings (Endpoint).

    def receive(self, message: Message) -> None:
        if self.up:
            self.aio.deliver(partial(self.server.receive, message))

    def receive_snapshot(
        self, message: Message, content: MemoryBackend, report: Callable[[bool], None]
    ) -> None:
        """Store the snapshot and tell Raft; report whether it got here."""
        if not self.up or self.process.paused_until > self.loop.now:
            report(False)
            return

        async def take() -> None:
            await self.server.receive_snapshot(message, _chunks(content))
            report(True)

        self._spawn(take)

    def receive_call(
        self, method: int, payload: bytes, answer: Callable[[bytes | EtcdError | None], None]
    ) -> None:
        """Answer another member's call."""
        if not self.up:
            answer(None)
            return

        async def handle() -> None:
            try:
                result: bytes | EtcdError = await self.server.handle_call(method, payload)
            except EtcdError as error:
                result = EtcdError(error.code, error.message)
            answer(result)

        self._spawn(handle)

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        aio = self.aio
        aio.deliver(lambda: aio.create_task(work()))

    def unreachable(self, peer: int) -> None:
        if self.up:
            self.enter(lambda: self.server.unreachable(peer))

    def standing(self, peer: int) -> Standing | None:
        """What another member is to this one; None when it does not answer."""
        return self.server.standing(peer) if self.up else None

    def told_removed(self, by: int) -> None:
        """Another member refused this one as removed."""
        if self.up:
            self.aio.deliver(partial(self.server.told_removed, by))


def _nothing() -> None:
    pass
