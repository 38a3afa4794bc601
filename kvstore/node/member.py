"""The member core: one member of the cluster as synchronous code, events in and effects out.

Events are a client's request, a message of another member, a batch that became durable, a tick.
Effects go through the protocols in ``ports``. Time comes in as ``now`` (monotonic seconds), so the
same code runs on a real event loop and in a simulator.

The one habit worth knowing: events only queue work and ask for one ``pump``; the pump hands all of
it to Raft as one batch, so that a hundred concurrent puts cost one log write and one message for
each follower.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvstore.apply.applier import Answer, Applier
from kvstore.errors import (
    NO_SPACE,
    RAFT_PROPOSAL_DROPPED,
    REQUEST_TOO_LARGE,
    REQUEST_TOO_MANY_REQUESTS,
    STOPPED,
    TIMEOUT,
    TIMEOUT_DUE_TO_CONNECTION_LOST,
    TIMEOUT_DUE_TO_LEADER_FAIL,
    Code,
    EtcdError,
)
from kvstore.node.apply_times import ApplyTimes
from kvstore.node.changes import ChangeQueue, build, read
from kvstore.node.header import HeaderEncoder
from kvstore.node.ports import LogWriter, Network, Schedule, Snapshots
from kvstore.node.quota import Quota
from kvstore.node.reads import ReadDone, ReadQueue
from kvstore.node.request import HEADER, HEADER_SIZE, Kind
from kvstore.storage.backend import META, Backend, Readable
from kvstore.storage.codec import encode_entries
from kvstore.storage.wal import Batch
from raft import (
    CONF_CHANGE,
    NORMAL,
    ConfChange,
    ConfState,
    Entry,
    Message,
    MessageKind,
    ProposalDropped,
    Raft,
    Ready,
    Role,
    SnapshotMeta,
    confchange,
)
from raft.types import DropReason

log = logging.getLogger("member")

MAX_APPLY_LAG = 5000
"""Committed entries that may wait to be applied before new proposals are refused (GEN-18)."""
MAX_LOG_BYTES = 256 * 1024 * 1024
"""Bytes of entries after which the log is compacted even below snapshot_count entries."""

CATCH_UP_S = 5.0
"""After a follower has received a snapshot the log is not shortened for so long."""

_APPLIED = b"applied"

Result = bytes | EtcdError
Done = Callable[[Result], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """The member's own limits; defaults are etcd's."""

    max_request_bytes: int = 1_572_864
    request_timeout_s: float = 7.0
    snapshot_count: int = 10_000
    snapshot_catchup_entries: int = 5_000
    election_s: float = 1.0
    quota_bytes: int = 0
    """Most bytes of the backend, 0 for no limit; this member's own, see `node.quota`."""
    warning_apply_s: float = 0.1


def load_applied(backend: Readable) -> SnapshotMeta | None:
    """Read the index, term and configuration that the backend's content stands for."""
    raw = backend.get(META, _APPLIED)
    if raw is None:
        return None
    index, term, *conf = json.loads(bytes(raw))
    voters, outgoing, learners, learners_next, auto_leave = conf
    return SnapshotMeta(
        index,
        term,
        ConfState(
            tuple(voters), tuple(outgoing), tuple(learners), tuple(learners_next), auto_leave
        ),
    )


def store_applied(backend: Backend, meta: SnapshotMeta) -> None:
    """Write it, to be committed together with the data that it stands for."""
    backend.put(META, _APPLIED, json.dumps([meta.index, meta.term, *meta.conf_state]).encode())


class Member:
    """One member. See the module docstring.

    Attributes:
        raft: the consensus core; read it for status, never step it from outside.
        applied_index, applied_term: of the last applied entry (GEN-02).
        durable: the position that the backend's last commit stands for.
        pending: number of proposals waiting for their answer.
        apply_times: how long applying took, by kind of request.
    """

    def __init__(
        self,
        raft: Raft,
        applier: Applier,
        backend: Backend,
        *,
        applied: SnapshotMeta,
        snapshot_index: int,
        log_writer: LogWriter,
        network: Network,
        snapshots: Snapshots,
        schedule: Schedule,
        first_request_id: int,
        limits: Limits,
        now: float,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Begin with recovered parts.

        Args:
            clock: fine seconds, to measure applies with; it decides nothing.
        """
        self.raft = raft
        self.applier = applier
        self.backend = backend
        self.limits = limits
        self.header = HeaderEncoder(applier.cluster.cluster_id, raft.id)
        self.applied_index = applied.index
        self.applied_term = applied.term
        self.durable = applied
        self.leader_changes = 0
        self.proposals_failed = 0
        self.apply_times = ApplyTimes(limits.warning_apply_s)
        self.now = now
        self.reads = ReadQueue()
        self.changes = ChangeQueue()
        self.on_leader: Callable[[], None] = lambda: None
        self.on_applied: Callable[[], None] = lambda: None
        self._log = log_writer
        self._network = network
        self._snapshots = snapshots
        self._schedule = schedule
        self._clock = clock
        self._pump_scheduled = False
        self._proposals: list[bytes] = []
        self._waiters: dict[int, tuple[Done, float, float]] = {}
        self._next_id = first_request_id
        self._after: deque[tuple[int, list[Message], SnapshotMeta | None]] = deque()
        self._snapshot_index = snapshot_index
        self._logged_bytes = 0
        self._conf_state = applied.conf_state
        self._lead_lost_at = -1e9
        self._frozen: SnapshotMeta | None = None
        self._physical: list[Done] = []
        self._sending: set[int] = set()
        self._catch_up_until = now
        self._stopped = False
        self._removals: dict[int, int] = {}
        self._handlers: dict[int, Callable[[bytes], Answer]] = {
            Kind.PUT: applier.put,
            Kind.DELETE_RANGE: applier.delete_range,
            Kind.TXN: applier.txn,
            Kind.COMPACT: applier.compact,
            Kind.LEASE_GRANT: applier.lease_grant,
            Kind.LEASE_REVOKE: applier.lease_revoke,
            Kind.PUBLISH: applier.publish,
            Kind.CLUSTER_VERSION: applier.cluster_version,
            Kind.ALARM: applier.alarm,
            Kind.LEASE_CHECKPOINT: applier.lease_checkpoint,
            Kind.MEMBER_UPDATE: applier.member_update,
        }
        self._change_handlers: dict[int, Callable[[bytes], Answer]] = {
            Kind.MEMBER_ADD: applier.member_add,
            Kind.MEMBER_REMOVE: applier.member_remove,
            Kind.MEMBER_PROMOTE: applier.member_promote,
        }
        self.quota = Quota(limits.quota_bytes, backend, applier.alarms, raft.id, self.propose)

    # Requests.

    @property
    def pending(self) -> int:
        return len(self._waiters) + len(self.changes)

    @property
    def is_leader(self) -> bool:
        return self.raft.role is Role.LEADER

    @property
    def installing(self) -> bool:
        """Whether a snapshot was taken in that has not replaced the backend yet."""
        return self.raft.log.snapshot_pending

    def propose(self, kind: Kind, body: bytes, done: Done) -> None:
        """Replicate a request; ``done`` gets the encoded response, or the error, once applied here.

        Raises:
            EtcdError: the request was certainly not proposed.
        """
        if self._stopped:
            raise STOPPED
        if len(body) + HEADER_SIZE > self.limits.max_request_bytes:
            raise REQUEST_TOO_LARGE
        if self.raft.commit_index - self.applied_index > MAX_APPLY_LAG:
            raise REQUEST_TOO_MANY_REQUESTS
        request_id = self._take_id()
        self._waiters[request_id] = (done, self.now + self.limits.request_timeout_s, self.now)
        self._proposals.append(HEADER.pack(kind, request_id) + body)
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._schedule(self.pump)

    def _take_id(self) -> int:
        request_id = self._next_id
        self._next_id = request_id + 1
        return request_id

    def propose_change(self, kind: Kind, body: bytes, done: Done) -> int:
        """Replicate the addition, removal or promotion of a member (`membership.changes`).

        ``done`` is called as with `propose`, but there is no time-out (CLU-15): who waits no more
        calls ``changes.forget`` with the id returned.

        Raises:
            EtcdError: the change was certainly not proposed.
        """
        if self._stopped:
            raise STOPPED
        if len(body) + HEADER_SIZE > self.limits.max_request_bytes:
            raise REQUEST_TOO_LARGE
        request_id = self.changes.add(build(kind, self._take_id(), body), done)
        self.wake()
        return request_id

    def propose_as_leader(self, kind: Kind, body: bytes) -> None:
        """Propose on this leader's own behalf, without a waiter; nothing is ever forwarded.

        A leader that was deposed meanwhile must not have its decisions (an expired lease) carried
        out by its successor, who may know better.
        """
        if not self.is_leader:
            return
        request_id = self._take_id()
        try:
            self.raft.propose([HEADER.pack(kind, request_id) + body])
        except ProposalDropped:
            return
        self.wake()

    def read_index(self, done: ReadDone) -> None:
        """Call ``done(None)`` once local state includes all that was acknowledged before now."""
        if self._stopped:
            done(STOPPED)
            return
        self.reads.add(done, self.now + self.limits.request_timeout_s)
        self.wake()

    def wait_compacted(self, done: Done) -> None:
        """Call ``done(b"")`` when no physical removal is under way (CMP-07)."""
        store = self.applier.store
        if store.finished_compact_revision < store.compact_revision:
            self._physical.append(done)
        else:
            done(b"")

    def transfer_leadership(self, target: int) -> None:
        """Ask Raft to hand leadership over. Raises ProposalDropped for an unfit target."""
        self.raft.transfer_leadership(target)
        self.wake()

    # Events.

    def receive(self, message: Message) -> None:
        """Take a message of another member."""
        if message.kind == MessageKind.PROPOSE and not self._well_formed(message.entries):
            if not self._line_up(message):
                log.error("dropped a malformed proposal", extra={"from": f"{message.from_:x}"})
            return
        self.raft.step(message)
        self.wake()

    def _well_formed(self, entries: Sequence[Entry]) -> bool:
        """Whether forwarded entries can be applied: once in the log it is too late to refuse."""
        return all(
            kind == NORMAL and len(data) >= HEADER_SIZE and data[0] in self._handlers
            for _, kind, data in entries
        )

    def _line_up(self, message: Message) -> bool:
        """Take a forwarded conf change, which comes alone; False for anything else."""
        if len(message.entries) != 1 or message.entries[0][1] != CONF_CHANGE:
            return False
        change = read(message.entries[0][2])
        if change is None:
            return False
        # A leader knows the progress of members only: a removed one has no say.
        if message.to == self.raft.id and self.raft.progress(message.from_) is not None:
            self.changes.forwarded(change)
            self.wake()
        return True

    def refuses(self, peer: int) -> bool:
        """Whether this voter knows, and will not forget, that a member was removed.

        Only then may the other be told: see `node.retirement`.
        """
        return (
            peer in self.applier.cluster.removed
            and self._removals.get(peer, 0) <= self.durable.index
            and not self.raft.is_learner
        )

    def unreachable(self, peer: int) -> None:
        self.raft.report_unreachable(peer)

    def snapshot_sent(self, peer: int, ok: bool) -> None:
        self._sending.discard(peer)
        if ok:
            self._catch_up_until = self.now + CATCH_UP_S
        self.raft.report_snapshot(peer, ok)
        self.wake()

    def tick(self, now: float) -> None:
        """Once every heartbeat interval."""
        self.now = now
        self.raft.tick()
        self._expire_waiters(now)
        self.reads.tick(self.raft, now)
        self.pump()

    def wake(self) -> None:
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._schedule(self.pump)

    def persisted(self, token: int) -> None:
        """All batches up to ``token`` are durable."""
        after = self._after
        while after and after[0][0] <= token:
            durable, messages, snapshot = after.popleft()
            if snapshot is not None:
                self._install(snapshot)
            self.raft.persisted(durable)
            if messages:
                self._send(messages)
        self.pump()

    # The pump.

    def pump(self) -> None:
        """Hand everything queued to Raft and carry out what it wants done."""
        self._pump_scheduled = False
        if self._stopped:
            return
        raft = self.raft
        if self._proposals and raft.leader:
            self._propose_queued()
        while True:
            self.reads.start_round(raft, self.now)
            self.changes.start(raft, self.now)
            if not raft.has_ready():
                return
            self._carry_out(raft.ready())

    def _propose_queued(self) -> None:
        batch, self._proposals = self._proposals, []
        try:
            self.raft.propose(batch)
        except ProposalDropped as dropped:
            if dropped.reason is DropReason.NO_LEADER:
                self._proposals = batch
                return
            for data in batch:
                self._fail(HEADER.unpack_from(data)[1], RAFT_PROPOSAL_DROPPED)

    def _carry_out(self, ready: Ready) -> None:
        if ready.soft_state is not None:
            self._leader_changed()
        if ready.token:
            entries = ready.entries
            block = encode_entries(ready.first_index, entries) if entries else None
            self._after.append((ready.token, ready.messages_after, ready.snapshot))
            self._log.submit(
                ready.token,
                Batch(ready.hard_state, ready.first_index, entries, block, ready.snapshot),
            )
            if block is not None:
                self._logged_bytes += len(block)
        elif ready.messages_after:
            if self._after:
                self._after[-1][1].extend(ready.messages_after)
            else:
                self._send(ready.messages_after)
        if ready.messages:
            self._send(ready.messages)
        if ready.committed:
            self._apply(ready.committed_first, ready.committed)
        for context, index in ready.read_states:
            self.reads.answered(context, index, self.applied_index)

    def _send(self, messages: list[Message]) -> None:
        if any(message.kind == MessageKind.SNAPSHOT for message in messages):
            for message in messages:
                if message.kind == MessageKind.SNAPSHOT:
                    self._sending.add(message.to)
                    self._snapshots.send(message)
            messages = [m for m in messages if m.kind != MessageKind.SNAPSHOT]
        self._network.send(messages)

    def _leader_changed(self) -> None:
        if self.raft.leader:
            self.leader_changes += 1
        else:
            self._lead_lost_at = self.now
        if not self.is_leader:
            self.applier.lessor.demote()
        self.reads.leader_changed()
        self.changes.leader_changed()
        self.on_leader()
        if self._proposals and self.raft.leader:
            self.wake()

    # Applying.

    def _apply(self, first: int, entries: list[Entry]) -> None:
        applier, handlers, waiters = self.applier, self._handlers, self._waiters
        quota = self.quota
        times, clock = self.apply_times, self._clock
        applier.now = self.now
        header = self.header
        index = first - 1
        for term, kind, data in entries:
            index += 1
            self.applied_index = index
            self.applied_term = term
            if kind == CONF_CHANGE:
                self._apply_change(confchange.decode(data))
                continue
            if not data:
                self._term_began(term)
                continue
            request_kind, request_id = HEADER.unpack_from(data)
            full = quota.near(data) and quota.exceeded_by_entry(request_kind, data[HEADER_SIZE:])
            began = clock()
            try:
                revision, body = handlers[request_kind](data[HEADER_SIZE:])
                took = clock() - began
                if took > times.warning_s:
                    times.slow(data, took)
                times.ok[request_kind].observe(took)
                waiter = waiters.pop(request_id, None)
                if full:
                    self._filled_up(waiter[0] if waiter is not None else _nobody)
                elif waiter is not None:
                    waiter[0](header.encode(revision, term) + body)
            except EtcdError as error:
                # Shared constants must not collect tracebacks, see rpc.grpc.
                error.__traceback__ = error.__context__ = None
                times.refused(data, clock() - began, error)
                waiter = waiters.pop(request_id, None)
                if waiter is not None:
                    waiter[0](error)
        self.raft.applied_to(index)
        self.reads.applied(index)
        self.on_applied()

    def _apply_change(self, change: ConfChange) -> None:
        """Change the member list and, if that takes it, Raft's configuration alike."""
        if not change.context:
            self._conf_state = self.raft.apply_conf_change(change)
            return
        kind, request_id = HEADER.unpack_from(change.context)
        result: Result
        try:
            revision, body = self._change_handlers[kind](change.context[HEADER_SIZE:])
        except EtcdError as error:
            error.__traceback__ = error.__context__ = None
            result = error
        else:
            self._conf_state = self.raft.apply_conf_change(change)
            if kind == Kind.MEMBER_REMOVE:
                self._removals[change.changes[0][1]] = self.applied_index
            self.applier.on_members_changed()
            result = self.header.encode(revision, self.applied_term) + body
        done = self.changes.applied(request_id)
        if done is not None:
            done(result)

    def _filled_up(self, done: Done) -> None:
        """A write was applied, as on every member, but this backend is full (MNT-16, MNT-17)."""
        self.quota.alarm(lambda: done(NO_SPACE))

    def _term_began(self, term: int) -> None:
        """A leader's empty entry is applied: everything before its term is settled."""
        if self.is_leader and term == self.raft.term and not self.applier.lessor.is_primary:
            self.applier.lessor.promote(self.now, self.limits.election_s)

    def _fail(self, request_id: int, error: EtcdError) -> None:
        waiter = self._waiters.pop(request_id, None)
        if waiter is not None:
            self.proposals_failed += 1
            waiter[0](error)

    def _expire_waiters(self, now: float) -> None:
        """Give up on requests past the time-out; they were queued in order of their deadlines."""
        expired: dict[int, float] = {}
        for request_id, (_, deadline, since) in self._waiters.items():
            if deadline > now:
                break
            expired[request_id] = since
        if not expired:
            return
        queued = {HEADER.unpack_from(data)[1]: data for data in self._proposals}
        self._proposals = [data for found, data in queued.items() if found not in expired]
        for request_id, since in expired.items():
            if request_id in queued:
                # Never handed to Raft, so the native deadline code is safe (GEN-11).
                error = EtcdError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
            else:
                error = self._timeout_error(since)
            self._fail(request_id, error)

    def _timeout_error(self, since: float) -> EtcdError:
        """Return the one of the three time-out texts that fits (RFT-06)."""
        if self._lead_lost_at >= since - self.limits.election_s:
            return TIMEOUT_DUE_TO_LEADER_FAIL
        if not self.raft.leader:
            return TIMEOUT_DUE_TO_CONNECTION_LOST
        return TIMEOUT

    # The backend: commits, log compaction, snapshots.

    @property
    def has_uncommitted(self) -> bool:
        """Whether something was applied that no ended commit has."""
        return self._position() != self.durable or self.backend.pending_ops > 0

    def _position(self) -> SnapshotMeta:
        return SnapshotMeta(self.applied_index, self.applied_term, self._conf_state)

    def begin_commit(self) -> Callable[[], None] | None:
        """Freeze what is pending together with its position; return the function that commits it.

        The caller runs that on the backend's one writer thread and calls ``end_commit`` after.
        """
        if not self.has_uncommitted:
            return None
        position = self._position()
        store_applied(self.backend, position)
        self._frozen = position
        return self.backend.freeze()

    def end_commit(self) -> None:
        """The frozen part is durable: perhaps the log can be shortened now."""
        if self._frozen is None:
            return  # a snapshot took the backend's place meanwhile
        self.backend.thaw()
        self.durable, self._frozen = self._frozen, None
        self.quota.measure()
        grown = self.durable.index - self._snapshot_index
        if self._logged_bytes > MAX_LOG_BYTES and grown > 0:
            # Large entries: keep as many as fill a quarter of the limit, however few those are.
            keep = MAX_LOG_BYTES // 4 * grown // self._logged_bytes
            self._compact_log(min(keep, self.limits.snapshot_catchup_entries))
        elif grown >= self.limits.snapshot_count and not self._follower_catches_up():
            self._compact_log(self.limits.snapshot_catchup_entries)

    def _follower_catches_up(self) -> bool:
        """A snapshot is on its way or just arrived: what follows it in the log is still needed."""
        return bool(self._sending) or self.now < self._catch_up_until

    def _compact_log(self, keep: int) -> None:
        durable = self.durable
        self._snapshot_index = durable.index
        self._logged_bytes = 0
        keep_from = durable.index - keep
        if keep_from > self.raft.first_index:
            self.raft.compact(keep_from)
            self._log.release(keep_from)
        log.info("compacted the log", extra={"index": durable.index, "kept_from": keep_from})

    def _install(self, meta: SnapshotMeta) -> None:
        """Replace the whole state by a received snapshot; its log record is durable already."""
        self._snapshots.install(meta)
        self.quota.measure()
        self._frozen = None
        self._snapshot_index = meta.index
        self.applied_index, self.applied_term = meta.index, meta.term
        self._conf_state = meta.conf_state
        self.durable = meta
        self._removals.clear()
        log.info("installed a snapshot", extra={"index": meta.index})
        # What was forwarded may be inside the snapshot, where no entry will ever answer its caller.
        queued = {HEADER.unpack_from(data)[1] for data in self._proposals}
        for request_id in [i for i in self._waiters if i not in queued]:
            self._fail(request_id, TIMEOUT)
        self.changes.swallowed()
        self.reads.applied(meta.index)
        self.on_applied()

    def compact_step(self, batch: int) -> bool:
        """Remove one slice of compacted revisions; True while there is more to do."""
        store = self.applier.store
        more = False
        if store.finished_compact_revision < store.compact_revision:
            more = store.compact_step(batch)
        # Also without a step of its own: an installed snapshot may have brought the end of it.
        if not more and self._physical:
            waiting, self._physical = self._physical, []
            for done in waiting:
                done(b"")
        return more

    def stop(self) -> None:
        """Answer everything that waits: the server is stopping (RFT-07)."""
        self._stopped = True
        self.reads.stop(STOPPED)
        self.changes.stop(STOPPED)
        physical, self._physical = self._physical, []
        for done in physical:
            done(STOPPED)
        for request_id in list(self._waiters):
            self._fail(request_id, STOPPED)


def _nobody(_: Result) -> None:
    """The entry was proposed by another member: its caller does not wait here."""
