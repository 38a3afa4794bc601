"""One member of the simulation, assembled as the server does it on modelled disk, time, network.

What a life builds (`_build`) is gone after a crash; what survives is `disk`, the backend's last
commit, and its `files` (received snapshots). The background work is the server's, at its own pace:
ticks, commits on a disk thread, watch catch-up, physical compaction, publishing.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jepsen.sim.disk import Disk, DiskWriter
from jepsen.sim.loop import Loop, Process, Violation
from jepsen.sim.network import Network
from kvstore.apply.applier import Applier
from kvstore.errors import EtcdError
from kvstore.lease.lessor import Lessor
from kvstore.membership.cluster import Cluster
from kvstore.mvcc.store import Event, Store
from kvstore.mvcc.watch import WatchHub
from kvstore.node.bootstrap import FIRST_HARD_STATE, first_position
from kvstore.node.lease_keeper import LeaseKeeper
from kvstore.node.member import Limits, Member, Result, load_applied, store_applied
from kvstore.node.request import Kind, first_request_id
from kvstore.node.retirement import Retirement
from kvstore.storage.memory_backend import MemoryBackend
from kvstore.storage.wal import Batch, Recovered
from kvstore.storage.wal_replay import LogState
from kvstore.version import CLUSTER_VERSION
from raft import Config, Message, Raft, SnapshotMeta

TICK_S = 0.1
ELECTION_TICKS = 10
COMMIT_S = 0.1
CATCH_UP_S = 0.1
COMPACT_S = 0.1
COMPACT_BATCH = 20
"""Revisions removed in one step: small, so that a crash finds compactions half done."""
WATCH_QUEUE = 4
"""Responses that may wait on a stream: small, so that watchers fall behind."""
ELECTION_S = TICK_S * ELECTION_TICKS
REQUEST_TIMEOUT_S = 2.0
MIN_TTL_S = 2
CHECKPOINT_INTERVAL_S = 1.5
"""Between checkpoints of a lease: short, so that a lease of seconds has some."""


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


@dataclass(slots=True)
class _Job:
    """Work for the one thread that commits and copies the backend."""

    label: str
    work: Callable[[], None]
    done: Callable[[], None]


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
    ) -> None:
        """Args:
        snapshot_count: applied entries between two compactions of the log.
        state: see `bootstrapped` and `joining`.
        """
        self.limits = Limits(
            request_timeout_s=REQUEST_TIMEOUT_S,
            snapshot_count=snapshot_count,
            snapshot_catchup_entries=snapshot_count // 2,
            election_s=ELECTION_S,
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
        self.tick_s = TICK_S * loop.random.uniform(0.97, 1.03)
        self.commit_s = 0.002
        self.backend, log_start = state
        self.disk = Disk(log_start)
        self._jobs: deque[_Job] = deque()
        self._commits: deque[Callable[[], None]] = deque()
        """What follows on each commit that is under way or waits for the one before."""
        self.on_snapshot_logged: Callable[[], None] = _nothing
        """A fault may be waiting for the record of a snapshot to go to the log."""

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
            path = _received(recovered.snapshot.index)
            if path in self.backend.files:
                self.observer.count("snapshot installed at a start")
                self.backend.replace(path)
                applied = load_applied(self.backend)
                assert applied is not None
        self.backend.files.clear()
        self.on_snapshot_logged = _nothing
        last = recovered.snapshot.index + len(recovered.entries)
        if not recovered.snapshot.index <= applied.index <= last:
            raise Violation(
                f"{self.name} cannot start: its backend is at {applied.index}, its log"
                f" {recovered.snapshot.index} to {last}"
            )
        self._build(recovered, applied)
        self.up = True
        # A joiner knows nothing before its first snapshot; others may serve what they have.
        self.published = applied.index > 0
        self.observer.started(self)
        self._every(self.tick_s, "tick", self._tick)
        self._commit_forever()
        self._every(CATCH_UP_S, "catch up", self._catch_up)
        self._every(COMPACT_S, "compact", lambda: self.member.compact_step(COMPACT_BATCH))
        self._publish()

    def _build(self, recovered: Recovered, applied: SnapshotMeta) -> None:
        random = self.loop.random
        cluster = Cluster.load(self.backend)
        assert cluster is not None
        self.cluster = cluster
        self.store = Store(self.backend)
        self.lessor = Lessor(
            self.backend, min_ttl=MIN_TTL_S, checkpoint_interval_s=CHECKPOINT_INTERVAL_S
        )
        self._restore_leases()
        self.hub = WatchHub(
            self.store,
            cluster_id=cluster.cluster_id,
            member_id=self.id,
            max_request_bytes=self.limits.max_request_bytes,
            progress_interval=1.0,
            random=random,
            queue_limit=WATCH_QUEUE,
        )
        raft = Raft(
            Config(id=self.id, election_tick=ELECTION_TICKS, heartbeat_tick=1),
            hard_state=recovered.hard_state,
            snapshot=recovered.snapshot._replace(conf_state=applied.conf_state),
            entries=recovered.entries,
            applied=applied.index,
            random=random,
        )
        self.writer = DiskWriter(
            self.loop,
            self.process,
            self.name,
            self.disk,
            lambda token: self.member.persisted(token),
        )
        self.member = Member(
            raft,
            Applier(self.store, self.lessor, cluster),
            self.backend,
            applied=applied,
            snapshot_index=recovered.snapshot.index,
            log_writer=self,
            network=self.network,
            snapshots=self,
            schedule=lambda run: self.loop.after(0, f"{self.name} pump", run, self.process),
            first_request_id=first_request_id(self.id, int(self.loop.now * 1000)),
            limits=self.limits,
            now=self.loop.now,
        )
        self.lease_keeper = LeaseKeeper(self.member, lambda: self.loop.now)
        self.store.on_events = self._revision
        self.member.on_applied = lambda: self.observer.applied(self)
        self.member.applier.on_members_changed = self._members_changed
        self.retirement = Retirement()
        self._members_changed()

    def _restore_leases(self) -> None:
        dangling = self.lessor.restore(self.store.take_attachments())
        if dangling:
            raise Violation(f"{self.name} has keys with an unknown lease: {dangling}")

    def crash(self) -> None:
        """Lose everything that is not durable. What was under way may have been."""
        self.up = False
        self.process.life += 1
        self.process.paused_until = 0.0
        self.writer.crash()
        if self._jobs and self.loop.random.random() < 0.5:
            self._jobs[0].work()
        self._jobs.clear()
        self._commits.clear()
        self.backend = self.backend.crash()

    def _members_changed(self) -> None:
        if self.id in self.cluster.removed:
            self.retirement.applied(self.loop.now)

    def refuses(self, peer: int) -> bool:
        """Whether this member tells another one that it was removed."""
        return self.up and self.member.refuses(peer)

    def told_removed(self, by: int) -> None:
        """Another member refused this one as removed."""
        if self.up:
            self.retirement.told(by, self.loop.now)

    def _retire(self) -> None:
        """End, if it is time for this removed member to (CLU-11)."""
        for peer in self.cluster.members:
            if peer != self.id:
                self.network.dial(self.id, peer)
        voters = [info.id for info in self.cluster.voters() if info.id != self.id]
        if self.retirement.due(voters, self.loop.now):
            self.loop.after(0, f"{self.name} stops, removed", self._stop, self.process)

    def _stop(self) -> None:
        applied = self.id in self.cluster.removed
        self.observer.count(f"removed member stopped ({'applied' if applied else 'told'})")
        self.gone = True
        self.crash()

    def pause(self, seconds: float) -> None:
        """Stop the process as SIGSTOP does."""
        self.process.paused_until = self.loop.now + seconds

    def _every(self, interval: float, what: str, run: Callable[[], object]) -> None:
        label = f"{self.name} {what}"

        def again() -> None:
            run()
            self.loop.after(interval, label, again, self.process)

        delay = interval * self.loop.random.random()
        self.loop.after(delay, label, again, self.process)

    # Background work.

    def _tick(self) -> None:
        self.member.tick(self.loop.now)
        self.lease_keeper.tick()
        self.hub.tick(self.loop.now)
        if self.member.is_leader and self.cluster.version != CLUSTER_VERSION:
            self.member.propose_as_leader(Kind.CLUSTER_VERSION, CLUSTER_VERSION.encode())
        self._retire()

    def _catch_up(self) -> None:
        if self.hub.catch_up():
            self.loop.after(0, f"{self.name} catch up more", self._catch_up_more, self.process)

    def _catch_up_more(self) -> None:
        self._catch_up()

    def _publish(self) -> None:
        record = {"id": self.id, "name": self.name, "client_urls": [f"http://{self.name}"]}

        def done(result: Result) -> None:
            if isinstance(result, EtcdError):
                again = f"{self.name} publish"
                self.loop.after(ELECTION_S / 2, again, self._publish, self.process)
            else:
                self.published = True

        self.member.propose(Kind.PUBLISH, json.dumps(record).encode(), done)

    def _commit_forever(self) -> None:
        """One commit after the other, a pause between them."""
        label = f"{self.name} commit"
        self.loop.after(COMMIT_S, label, lambda: self._commit(self._commit_forever), self.process)

    def _commit(self, then: Callable[[], None]) -> None:
        """Commit, after the commits asked for before, as `Server._commit` does."""
        self._commits.append(then)
        if len(self._commits) == 1:
            self._begin_commit()

    def _begin_commit(self) -> None:
        commit = self.member.begin_commit()
        if commit is None:
            self._end_commit()
            return

        def done() -> None:
            self.member.end_commit()
            self._end_commit()

        self._submit(_Job("committed", commit, done))

    def _end_commit(self) -> None:
        self._commits.popleft()()
        if self._commits:
            self._begin_commit()

    # The backend's thread.

    def _submit(self, job: _Job) -> None:
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._start_job()

    def _start_job(self) -> None:
        delay = self.loop.random.expovariate(1 / self.commit_s)
        job = self._jobs[0]
        self.loop.after(delay, f"{self.name} {job.label}", lambda: self._end_job(job), self.process)

    def _end_job(self, job: _Job) -> None:
        if self._jobs and self._jobs[0] is job:
            self._run_job()
            if self._jobs:
                self._start_job()

    def _run_job(self) -> None:
        job = self._jobs.popleft()
        job.work()
        self.loop.after(0, f"{self.name} {job.label} done", job.done, self.process)

    def _wait_for_jobs(self) -> None:
        while self._jobs:
            self._run_job()

    # What the member asks for (LogWriter, Snapshots).

    def submit(self, token: int, batch: Batch) -> None:
        self.observer.submitted(self, batch)
        self.writer.submit(token, batch)
        if batch.snapshot is not None:
            self.on_snapshot_logged()

    def release(self, index: int) -> None:
        self.writer.release(index)

    def send(self, message: Message) -> None:
        """Copy the backend and send it, as `Server._send_snapshot` does."""
        path = f"to-{message.to:x}.copy"

        def copy() -> None:
            self.backend.files.pop(path, None)
            self.backend.copy_to(path)

        def copied() -> None:
            content = self.backend.files.pop(path, None)
            if content is None:
                self.member.snapshot_sent(message.to, False)
                return
            message.snapshot = load_applied(content)
            self.network.send_snapshot(message, content, self._snapshot_reporter(message.to))

        def commit() -> None:
            self.observer.count("snapshot made while committing" if self._jobs else "snapshot made")
            self._commit(lambda: self._submit(_Job("copied", copy, copied)))

        self.loop.after(0, f"{self.name} snapshot", commit, self.process)

    def _snapshot_reporter(self, to: int) -> Callable[[bool], None]:
        life = self.process.life

        def report(ok: bool) -> None:
            if self.process.life == life:
                self.member.snapshot_sent(to, ok)

        return report

    def install(self, meta: SnapshotMeta) -> None:
        """Put a received snapshot in the place of the state, as `Server.install` does."""
        self.observer.count(
            "snapshot installed while committing" if self._jobs else "snapshot installed"
        )
        self._wait_for_jobs()
        self.backend.replace(_received(meta.index))
        self.store.restore()
        self._restore_leases()
        self.cluster.restore(self.backend)
        self._members_changed()
        self.member.applier.alarms.restore(self.backend)
        self.hub.restored()

    # What the network brings (Endpoint).

    def receive(self, message: Message) -> None:
        if not self.up:
            return
        if self.process.paused_until > self.loop.now:
            wait = self.process.paused_until - self.loop.now
            late = f"{self.name} received late"
            self.loop.after(wait, late, lambda: self.receive(message), self.process)
            return
        self.member.receive(message)

    def receive_snapshot(self, message: Message, content: MemoryBackend) -> bool:
        """Keep the file, then tell Raft. Returns whether it got here."""
        if not self.up or self.process.paused_until > self.loop.now:
            return False
        assert message.snapshot is not None
        self.backend.files[_received(message.snapshot.index)] = content
        self.member.receive(message)
        return True

    def unreachable(self, peer: int) -> None:
        self.member.unreachable(peer)

    def _revision(self, revision: int, events: list[Event]) -> None:
        self.observer.published(self, revision, events)
        self.hub.publish(revision, events, self.member.applied_term)


def _nothing() -> None:
    pass


def _received(index: int) -> str:
    return f"{index:016x}.snap"
