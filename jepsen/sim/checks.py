"""The promises, checked while the simulation runs.

One reference history grows from what members do first: the committed log, and the events of each
revision. Every member must then do the same, so one comparison for each entry and each revision
covers state machine safety, and clients' answers are judged against the reference instead of
against a member. Nothing here changes what it sees, or draws chance.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress

from jepsen.sim.loop import Loop, Process, Violation
from jepsen.sim.node import TICK_S, Node, Observer
from kvstore.errors import EtcdError
from kvstore.membership import changes
from kvstore.membership.cluster import Cluster
from kvstore.mvcc.keyvalue import TOMBSTONE_MARK, decode_revision_key, key_of
from kvstore.mvcc.store import DELETE, FIRST_REVISION, PUT, Event
from kvstore.node.bootstrap import FIRST_TERM
from kvstore.node.request import HEADER, HEADER_SIZE, Kind
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.storage.backend import REVISIONS
from kvstore.storage.wal import Batch
from raft import CONF_CHANGE, Entry, Role, decode_conf_change
from raft.log import Log

FULL_HASH_EVERY = 16
"""Applied indexes at which members' whole states are compared, if they stop there."""


class Checks(Observer):
    """The reference history and all that is compared with it."""

    def __init__(self, loop: Loop, cluster: Cluster) -> None:
        """Args: cluster: the initial members; a copy of its own."""
        self._loop = loop
        self.nodes: list[Node] = []
        """All there ever were, removed ones too."""
        self._running: dict[Process, Node] = {}
        self.cluster = cluster
        """The members as of the committed log."""
        self._voters = self._voters_before = frozenset(cluster.members)
        self.leaders: dict[int, str] = {}
        """Who led each term."""
        self.committed: list[Entry] = [(FIRST_TERM, CONF_CHANGE, b"")]
        """The committed log; entry i is at index i + 1. The first one is in nobody's log: all
        start behind it (`node.bootstrap`)."""
        self._commit_terms: list[int] = [FIRST_TERM]
        """The term in which each was first seen to be committed."""
        self._logged: dict[tuple[int, int], tuple[Entry, int]] = {}
        """(index, term) -> entry and the term before it."""
        self.revisions: list[tuple[Event, ...]] = []
        """The events of each revision, from FIRST_REVISION + 1 on."""
        self._keys: dict[bytes, tuple[list[int], list[KeyValue | None]]] = {}
        self._states: dict[int, tuple[int, int, int]] = {}
        self._full_states: dict[int, object] = {}
        self._seen_commit: dict[int, int] = {}
        self._seen_revision: dict[int, int] = {}
        self.values: dict[bytes, int] = {}
        """Each value put -> its revision; clients never put one twice."""
        self.refused: dict[bytes, str] = {}
        """Values whose put certainly failed -> why it did."""
        self.floor = FIRST_REVISION
        """The newest revision that anybody was told of, as written or read."""
        self.lease_ends: dict[int, float] = {}
        """Lease -> the earliest time at which it may expire."""
        self.compacted = 0
        """The newest compaction that any member has applied."""
        self.counts: dict[str, int] = {}
        self.on_leader: Callable[[Node], None] = lambda node: None
        """Called with the first sight of each leader; a fault may be waiting for one."""

    def count(self, what: str) -> None:
        """Note that something happened, so that a test can say that faults and requests did."""
        self.counts[what] = self.counts.get(what, 0) + 1

    # What members do.

    def started(self, node: Node) -> None:
        self._running[node.process] = node
        self._seen_commit[node.id] = node.member.applied_index
        self._seen_revision[node.id] = node.store.revision
        # What is applied is what was committed, in the log as well.
        log = node.member.raft.log
        for index in range(log.snapshot_index + 1, log.applied_index + 1):
            if log.term_at(index) != self.committed[index - 1][0]:
                raise Violation(
                    f"state machine safety: {node.name} starts with {log.applied_index} applied,"
                    f" and term {log.term_at(index)} at {index}"
                )
        # What the log held is what was written to it, with nothing of what was replaced since.
        for index in range(log.snapshot_index + 2, log.last_index + 1):
            self._compare_logged(node, index, log)

    def _compare_logged(self, node: Node, index: int, log: Log) -> None:
        [entry] = log.slice(index, index + 1, 1 << 40)
        known = self._logged.get((index, entry[0]))
        before = log.term_at(index - 1)
        if known != (entry, before):
            raise Violation(
                f"log matching: {node.name} starts with {entry!r} after term {before} at {index},"
                f" which was written as {known!r}"
            )

    def submitted(self, node: Node, batch: Batch) -> None:
        """Log matching: an index and term name one entry with one history (section 5.3)."""
        before = node.member.raft.log.term_at(batch.first_index - 1) if batch.entries else 0
        assert before is not None
        for index, entry in enumerate(batch.entries, batch.first_index):
            known = self._logged.setdefault((index, entry[0]), (entry, before))
            if known != (entry, before):
                raise Violation(
                    f"log matching: {node.name} has {entry!r} after term {before} at {index},"
                    f" another member {known!r}"
                )
            before = entry[0]

    def observe(self) -> None:
        """Look at the Raft of members in which something ran; call it after each event."""
        touched, running, seen_commit = self._loop.touched, self._running, self._seen_commit
        before = None
        for process in touched:
            if process is before:
                continue
            before = process
            node = running.get(process)
            if node is not None and node.up:
                raft = node.server.member.raft
                if raft.role is Role.LEADER:
                    self._observe_leader(node)
                if raft.commit_index > seen_commit[node.id]:
                    self._observe_commit(node)
        touched.clear()

    def _observe_leader(self, node: Node) -> None:
        member = node.member
        term = member.raft.term
        leader = self.leaders.get(term)
        if leader == node.name:
            return
        if leader is not None:
            raise Violation(f"election safety: {leader} and {node.name} both led term {term}")
        self.leaders[term] = node.name
        self._loop.trace(f"{node.name} leads term {term}")
        self.on_leader(node)
        # Leader completeness: it holds what was committed in earlier terms (section 5.4).
        index = len(self.committed)
        while index and self._commit_terms[index - 1] >= term:
            index -= 1
        log = member.raft.log
        if index > log.snapshot_index and log.term_at(index) != self.committed[index - 1][0]:
            raise Violation(f"leader completeness: {node.name} in term {term} lacks entry {index}")

    def _observe_commit(self, node: Node) -> None:
        """All members commit the same entries, and a quorum has them on disk (section 5.4.3)."""
        raft = node.member.raft
        start = max(self._seen_commit[node.id], raft.log.snapshot_index) + 1
        stop = self._seen_commit[node.id] = raft.commit_index
        if start > stop:
            return
        entries: Sequence[Entry] = raft.log.slice(start, stop + 1, 1 << 40)
        for index, entry in enumerate(entries, start):
            if index <= len(self.committed):
                if self.committed[index - 1] != entry:
                    raise Violation(
                        f"state machine safety: {node.name} committed {entry!r} at {index},"
                        f" another member {self.committed[index - 1]!r}"
                    )
                continue
            if index != len(self.committed) + 1:
                raise Violation(f"{node.name} committed {index} after {len(self.committed)}")
            self._follow_members(index, entry)
            holders = {n.id for n in self.nodes if n.disk.holds(index, entry[0])}
            if not any(2 * len(holders & voters) > len(voters) for voters in self._quorums()):
                names = [n.name for n in self.nodes if n.id in holders]
                raise Violation(f"entry {index} was committed but is durable on {names} only")
            self.committed.append(entry)
            self._commit_terms.append(raft.term)

    def _quorums(self) -> tuple[frozenset[int], ...]:
        """The voters as of the last entry, and as of before the last change: the leader that
        commits entries behind a change may not have applied it yet."""
        return self._voters, self._voters_before

    def _follow_members(self, index: int, entry: Entry) -> None:
        """Keep the member list that the committed log means."""
        _, kind, data = entry
        if kind == CONF_CHANGE:
            change = decode_conf_change(data)
            assert len(change.changes) == 1
            data = change.context
        if not data:
            return
        request, _ = HEADER.unpack_from(data)
        body, cluster = data[HEADER_SIZE:], self.cluster
        with suppress(EtcdError):
            if request == Kind.MEMBER_ADD:
                cluster.add(*changes.decode_add(body))
            elif request == Kind.MEMBER_REMOVE:
                cluster.remove(changes.decode_id(body))
            elif request == Kind.MEMBER_PROMOTE:
                cluster.promote(changes.decode_id(body))
            elif request == Kind.MEMBER_UPDATE:
                cluster.update(*changes.decode_update(body))
        voters = frozenset(info.id for info in cluster.voters())
        if voters != self._voters:
            self._voters, self._voters_before = voters, self._voters
            self._loop.trace(f"entry {index} makes voters {sorted(voters)}")
            self.count("voters changed")

    def published(self, node: Node, revision: int, events: list[Event]) -> None:
        """Revisions are dense, and the same on every member."""
        seen = self._seen_revision[node.id]
        if revision != seen + 1:
            raise Violation(f"{node.name} went from revision {seen} to {revision}")
        self._seen_revision[node.id] = revision
        position = revision - FIRST_REVISION - 1
        if position < len(self.revisions):
            # Where the previous value is may not be known any more: it is not compared.
            if [e[:3] for e in self.revisions[position]] != [e[:3] for e in events]:
                raise Violation(
                    f"{node.name} has other events at revision {revision}: {events!r}, not"
                    f" {self.revisions[position]!r}"
                )
            return
        if position != len(self.revisions):
            raise Violation(f"{node.name} is at revision {revision}, ahead of what is committed")
        self.revisions.append(tuple(events))
        for event in events:
            self._note(revision, event)

    def _note(self, revision: int, event: Event) -> None:
        """Add a new event to the reference history."""
        kind, key, stored = event[:3]
        previous = self.value_at(key, revision - 1)
        revisions, values = self._keys.setdefault(key, ([], []))
        revisions.append(revision)
        if kind == DELETE:
            values.append(None)
            if previous is not None and previous.lease and key.startswith(b"lease/"):
                self._lease_ended(previous.lease, key)
            return
        value = KeyValue.FromString(stored)
        if value.value in self.refused:
            raise Violation(
                f"{value.value!r} was written at {revision} although the client was told"
                f" {self.refused[value.value]!r}"
            )
        if value.value and value.value in self.values:  # keys of locks have no value
            raise Violation(f"{value.value!r} was written twice, at {revision} the second time")
        expected_create = previous.create_revision if previous is not None else revision
        expected_version = previous.version + 1 if previous is not None else 1
        if (value.mod_revision, value.create_revision, value.version) != (
            revision,
            expected_create,
            expected_version,
        ):
            raise Violation(f"wrong revisions in {value!r}, written at {revision}")
        self.values[value.value] = revision
        values.append(value)

    def _lease_ended(self, lease: int, key: bytes) -> None:
        # The leader's time is that of its last tick, so it may be early by one.
        if self._loop.now < self.lease_ends.get(lease, 0.0) - 1.5 * TICK_S:
            raise Violation(
                f"{key!r} went with lease {lease} at {self._loop.now:.3f}, before"
                f" {self.lease_ends[lease]:.3f}"
            )
        self.count("key expired")

    def applied(self, node: Node) -> None:
        """Equal applied index, equal state."""
        member, store = node.member, node.store
        index = member.applied_index
        if store.revision < self._seen_revision[node.id]:
            raise Violation(f"{node.name} fell back to revision {store.revision}")
        self._seen_revision[node.id] = store.revision
        self._compare_configuration(node)
        self.compacted = max(self.compacted, store.compact_revision)
        state = (store.revision, store.compact_revision, len(node.lessor))
        known = self._states.setdefault(index, state)
        if known != state:
            raise Violation(
                f"{node.name} at index {index} has (revision, compacted, leases) {state}, another"
                f" member {known}"
            )
        if index % FULL_HASH_EVERY == 0:
            self.compare_full(node)

    def _compare_configuration(self, node: Node) -> None:
        """Raft's configuration is that of the member list."""
        conf, members = node.member.raft.conf_state, node.cluster.members
        if not node.member.raft.applied_index:
            return  # a joiner has been told the list and knows no configuration
        voters = sorted(info.id for info in node.cluster.voters())
        if voters != list(conf.voters) or sorted(members) != sorted(conf.voters + conf.learners):
            raise Violation(f"{node.name} has members {members} and the configuration {conf}")

    def compare_full(self, node: Node) -> None:
        """Compare a member's whole replicated state with that of others at its applied index."""
        lessor = node.lessor
        leases = [(i, lessor.ttl(i), sorted(lessor.keys(i))) for i in sorted(lessor.ids())]
        members = sorted(map(repr, node.cluster.members.values())), sorted(node.cluster.removed)
        alarms = node.member.applier.alarms.active()
        state = (node.store.hash_kv(0), leases, members, node.cluster.version, alarms)
        known = self._full_states.setdefault(node.member.applied_index, state)
        if known != state:
            raise Violation(
                f"{node.name} at index {node.member.applied_index} has {state}, another member"
                f" {known}"
            )
        self.count("full comparison")

    # What clients are told.

    def value_at(self, key: bytes, revision: int) -> KeyValue | None:
        """The reference's value of a key at a revision."""
        revisions, values = self._keys.get(key, ((), ()))
        position = bisect_right(revisions, revision)
        return values[position - 1] if position else None

    def range_at(self, start: bytes, end: bytes, revision: int) -> list[KeyValue]:
        """The reference's live keys of [start, end) at a revision, ascending."""
        found = (self.value_at(k, revision) for k in sorted(self._keys) if start <= k < end)
        return [value for value in found if value is not None]

    def events_between(self, start: int, stop: int) -> list[tuple[int, tuple[Event, ...]]]:
        """(revision, events) of the revisions in [start, stop)."""
        first = FIRST_REVISION + 1
        chosen = self.revisions[max(start - first, 0) : max(stop - first, 0)]
        return list(enumerate(chosen, max(start, first)))

    def told(self, revision: int, floor: int, *, wrote: bool) -> None:
        """A client was answered with `revision`; `floor` is that of when it asked.

        A linearizable answer shows everything acknowledged before, and a write comes after it.
        """
        if revision < floor + wrote:
            raise Violation(
                f"a {'write' if wrote else 'read'} was answered at revision {revision}, although"
                f" {floor} was known before it began"
            )
        if revision > FIRST_REVISION + len(self.revisions):
            raise Violation(f"answered at revision {revision}, which does not exist")
        self.floor = max(self.floor, revision)

    def wrote(self, revision: int, key: bytes, value: bytes | None) -> None:
        """An acknowledged put (or delete, value None) is what happened at its revision."""
        events = self.revisions[revision - FIRST_REVISION - 1]
        kind = PUT if value is not None else DELETE
        if not any(event[0] == kind and event[1] == key for event in events):
            raise Violation(f"the write of {key!r} acknowledged at {revision} is not there")
        if value is not None and self.values.get(value) != revision:
            raise Violation(f"{value!r} was acknowledged at {revision}, and is not there")

    def refuse(self, value: bytes, why: str) -> None:
        """A put certainly failed: it must never show."""
        if value in self.values:
            raise Violation(f"the put of {value!r} was answered {why!r}, but it was written")
        self.refused[value] = why

    def written(self) -> list[tuple[int, bytes, str | None]]:
        """(revision, key, value or None for a deletion) of all events."""
        return [
            (revision, key, value.value.decode() if value is not None else None)
            for key in sorted(self._keys)
            for revision, value in zip(*self._keys[key], strict=True)
        ]

    # The end.

    def members(self) -> list[Node]:
        """The present members, without those whose disk is lost."""
        return [n for n in self.nodes if n.id in self.cluster.members and not n.gone]

    def converged(self) -> str:
        """Why the members are not all in one state yet; "" when they are."""
        members = self.members()
        if not all(node.up for node in members):
            return "a member is down"
        positions = {node.name: node.member.applied_index for node in members}
        if len(set(positions.values())) > 1:
            return f"applied {positions}"
        if any(node.member.applied_index < len(self.committed) for node in members):
            return f"applied {positions} of {len(self.committed)}"
        return ""

    def _compare_stored(self, node: Node) -> None:
        """Compactions have removed what they hide from the backend, and nothing else (CMP-05)."""
        compacted = node.store.compact_revision
        expected = set()
        for key, (revisions, values) in self._keys.items():
            first = bisect_right(revisions, compacted)
            if first and (revisions[first - 1] == compacted or values[first - 1] is not None):
                first -= 1
            pairs = zip(revisions[first:], values[first:], strict=True)
            expected |= {(revision, key, value is None) for revision, value in pairs}
        found = set()
        for stored, value in node.backend.scan(REVISIONS, b"", None):
            found.add(
                (decode_revision_key(stored)[0], key_of(value), stored.endswith(TOMBSTONE_MARK))
            )
        if found != expected:
            raise Violation(
                f"{node.name}, compacted at {compacted}, still stores {sorted(found - expected)}"
                f" and lacks {sorted(expected - found)}"
            )

    def final(self) -> None:
        """Everything acknowledged is there, and all members are alike."""
        last = FIRST_REVISION + len(self.revisions)
        for node in self.members():
            if node.store.revision != last:
                raise Violation(f"{node.name} ends at revision {node.store.revision}, not {last}")
            self.compare_full(node)
            self._compare_stored(node)
            for key in sorted(self._keys):
                stored = node.store.get(key)
                value = None if stored is None else KeyValue.FromString(stored)
                if value != self.value_at(key, last):
                    raise Violation(f"{node.name} ends with {value!r} as {key!r}")
        if self.floor > last:
            raise Violation(f"revision {self.floor} was acknowledged, the last one is {last}")
