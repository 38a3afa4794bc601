"""A cluster of real `Raft` members on a modelled network and disks, which checks as it runs.

The model is as bad as the promise allows: messages are lost, doubled and reordered; a crash loses
every batch that was not durable, keeps any prefix of those under way, and takes the state machine
back to where it was last flushed. After every input to a member `Cluster.observe` checks the
safety properties of the paper's figure 3, that a commit is durable on a quorum, that nobody votes
twice, and that no read index is older than what was committed when the read began.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from raft import (
    CONF_CHANGE,
    ConfChange,
    Config,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageKind,
    ProposalDropped,
    Raft,
    ReadIndexDropped,
    Ready,
    Role,
    SnapshotMeta,
    decode_conf_change,
)

Batch = tuple[Ready, list[Message]]


@dataclass
class Disk:
    """What survives a crash."""

    hard_state: HardState
    snapshot: SnapshotMeta
    entries: list[Entry] = field(default_factory=list)

    @property
    def last_index(self) -> int:
        return self.snapshot.index + len(self.entries)

    def write(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self.snapshot, self.entries = ready.snapshot, []
        if ready.entries:
            keep = ready.first_index - self.snapshot.index - 1
            assert 0 <= keep <= len(self.entries), "a batch leaves a gap in the log"
            self.entries[keep:] = ready.entries
        if ready.hard_state is not None:
            assert ready.hard_state.term >= self.hard_state.term
            self.hard_state = ready.hard_state

    def holds(self, index: int, term: int) -> bool:
        at = index - self.snapshot.index - 1
        if at < 0:
            return True
        return at < len(self.entries) and self.entries[at][0] == term

    def compact(self, meta: SnapshotMeta) -> None:
        if meta.index > self.snapshot.index:
            self.entries = self.entries[meta.index - self.snapshot.index :]
            self.snapshot = meta


@dataclass
class Member:
    """One member: its disk, and its Raft while it runs."""

    id: int
    config: Config
    disk: Disk
    flushed: int
    """The applied index that a crash returns to."""
    raft: Raft | None = None
    life: int = 0
    writing: list[Batch] = field(default_factory=list)
    commit_seen: int = 0
    role_seen: Role = Role.FOLLOWER
    applied: list[bytes] = field(default_factory=list)

    @property
    def up(self) -> Raft:
        assert self.raft is not None
        return self.raft


class Cluster:
    """Members 1..voters form the cluster; `spares` more wait to be added."""

    def __init__(self, voters: int, spares: int = 0, *, seed: int = 0, **settings: object) -> None:
        self.random = Random(seed)
        self.on_ready: Callable[[int, Ready], None] = lambda member, ready: None
        self.on_deliver: Callable[[Message, bool], None] = lambda message, ok: None
        conf = ConfState(tuple(range(1, voters + 1)))
        self.network: list[tuple[Message, int]] = []
        self.cut: set[tuple[int, int]] = set()
        self.leaders: dict[int, int] = {}
        self.votes: dict[tuple[int, int], int] = {}
        self.entries: dict[tuple[int, int], tuple[int, bytes, int]] = {}
        self.committed_terms: dict[int, int] = {1: 1}
        self.committed: dict[int, Entry] = {}
        self.max_commit = 1
        self.confs: dict[int, ConfState] = {0: ConfState(), 1: conf}
        self.reads: dict[int, int] = {}
        self.reads_served = 0
        self.proposed = 0
        settings = {"election_tick": 4, **settings}
        self.members: dict[int, Member] = {}
        for member in range(1, voters + spares + 1):
            first = member <= voters
            self.members[member] = Member(
                member,
                Config(id=member, **settings),  # type: ignore[arg-type]
                Disk(HardState(1, 0, 1), SnapshotMeta(1, 1, conf))
                if first
                else Disk(HardState(), SnapshotMeta()),
                flushed=1 if first else 0,
            )
            self.restart(member)

    # -- faults and inputs ---------------------------------------------------------------------

    def restart(self, member: int) -> None:
        m = self.members[member]
        if m.raft is not None:
            return
        m.life += 1
        applied = max(m.flushed, m.disk.snapshot.index)
        m.raft = Raft(
            m.config,
            hard_state=m.disk.hard_state,
            snapshot=m.disk.snapshot._replace(conf_state=self.conf_at(applied)),
            entries=list(m.disk.entries),
            applied=applied,
            random=Random(self.random.getrandbits(32)),
        )
        m.flushed = applied
        m.commit_seen = m.raft.commit_index
        m.role_seen = Role.FOLLOWER
        self.observe(m)

    def crash(self, member: int, keep: int = 0) -> None:
        """Stop at once; the first `keep` batches under way reached the disk unreported."""
        m = self.members[member]
        for ready, _ in m.writing[:keep]:
            self._write(m, ready)
        m.writing = []
        m.raft = None

    def tick(self, member: int) -> None:
        m = self.members[member]
        if m.raft is not None:
            m.raft.tick()
            self.observe(m)

    def propose(self, member: int, count: int = 1) -> list[bytes]:
        m = self.members[member]
        if m.raft is None:
            return []
        datas = [b"%d" % (self.proposed + i) for i in range(count)]
        try:
            m.raft.propose(datas)
        except ProposalDropped:
            return []
        self.proposed += count
        self.observe(m)
        return datas

    def change_conf(self, member: int, change: ConfChange) -> bool:
        m = self.members[member]
        if m.raft is None:
            return False
        try:
            m.raft.propose_conf_change(change)
        except ProposalDropped:
            return False
        self.observe(m)
        return True

    def transfer(self, member: int, target: int) -> None:
        m = self.members[member]
        if m.raft is None:
            return
        try:
            m.raft.transfer_leadership(target)
        except ProposalDropped:
            return
        self.observe(m)

    def campaign(self, member: int) -> None:
        m = self.members[member]
        if m.raft is not None:
            m.raft.campaign()
            self.observe(m)

    def read(self, member: int) -> None:
        m = self.members[member]
        if m.raft is None:
            return
        context = len(self.reads) + 1
        try:
            m.raft.read_index(context)
        except ReadIndexDropped:
            return
        self.reads[context] = self.max_commit
        self.observe(m)

    def flush(self, member: int) -> None:
        m = self.members[member]
        if m.raft is not None and not m.raft.log.snapshot_pending:
            m.flushed = m.raft.applied_index

    def compact(self, member: int, distance: int) -> None:
        """Compact the log to `distance` entries before what is flushed."""
        m = self.members[member]
        if m.raft is None or any(ready.snapshot for ready, _ in m.writing):
            return
        index = m.flushed - distance
        term = m.raft.log.term_at(index)
        if index > m.disk.snapshot.index and term is not None:
            m.raft.compact(index)
            m.disk.compact(SnapshotMeta(index, term, self.conf_at(index)))

    def partition(self, side: set[int]) -> None:
        self.cut = {
            (a, b) for a in self.members for b in self.members if (a in side) != (b in side)
        }

    # -- effects -------------------------------------------------------------------------------

    def take_ready(self, member: int) -> bool:
        """Carry out one Ready, except that writing waits for `finish_write`."""
        m = self.members[member]
        if m.raft is None or not m.raft.has_ready():
            return False
        ready = m.raft.ready()
        self.on_ready(member, ready)
        self._check_entries(m, ready)
        for message in ready.messages:
            self._send(m, message)
        if ready.token:
            m.writing.append((ready, ready.messages_after))
        elif ready.messages_after:
            assert m.writing, "messages wait for a batch that is durable already"
            m.writing[-1][1].extend(ready.messages_after)
        for context, index in ready.read_states:
            assert index >= self.reads[context], (
                f"read {context} at {index} misses {self.reads[context]}"
            )
            self.reads_served += 1
        if ready.committed:
            self._apply(m, ready)
        self.observe(m)
        return True

    def finish_write(self, member: int, count: int = 1) -> bool:
        """The first `count` batches under way become durable; only the last token is reported."""
        m = self.members[member]
        if m.raft is None or not m.writing:
            return False
        done, m.writing = m.writing[:count], m.writing[count:]
        for ready, _ in done:
            self._write(m, ready)
        m.raft.persisted(done[-1][0].token)
        for _, messages in done:
            for message in messages:
                self._send(m, message)
        self.observe(m)
        return True

    def deliver(self, at: int) -> None:
        message, life = self.network.pop(at)
        target = self.members[message.to]
        ok = target.raft is not None and (message.from_, message.to) not in self.cut
        self.on_deliver(message, ok)
        if ok:
            target.up.step(message)
            self.observe(target)
        self._report(message, life, ok)

    def drop(self, at: int) -> None:
        message, life = self.network.pop(at)
        self._report(message, life, ok=False)

    def duplicate(self, at: int) -> None:
        message, _ = self.network[at]
        self.network.append((message, 0))

    def _report(self, message: Message, life: int, ok: bool) -> None:
        sender = self.members[message.from_]
        if sender.raft is None or sender.life != life:
            return
        if message.kind is MessageKind.SNAPSHOT:
            sender.raft.report_snapshot(message.to, ok)
        elif not ok and self.random.random() < 0.3:
            sender.raft.report_unreachable(message.to)

    def _send(self, m: Member, message: Message) -> None:
        assert message.from_ == m.id
        term = message.term
        if message.kind is MessageKind.VOTE:
            assert self.votes.setdefault((m.id, term), m.id) == m.id, "voted twice"
            assert m.disk.hard_state.term >= term, "vote left before it was durable"
        elif message.kind is MessageKind.VOTE_RESPONSE and not message.reject:
            assert self.votes.setdefault((m.id, term), message.to) == message.to, "voted twice"
            assert m.disk.hard_state.term >= term, "vote left before it was durable"
        elif message.kind is MessageKind.SNAPSHOT:
            # The file is made now, of what is applied now.
            index = m.up.applied_index
            snapshot_term = m.up.log.term_at(index)
            assert snapshot_term is not None and message.snapshot is not None
            assert index >= message.snapshot.index
            message.snapshot = SnapshotMeta(index, snapshot_term, self.conf_at(index))
        self.network.append((message, m.life))

    def _write(self, m: Member, ready: Ready) -> None:
        m.disk.write(ready)
        if ready.snapshot is not None:
            m.flushed = ready.snapshot.index

    def _apply(self, m: Member, ready: Ready) -> None:
        raft = m.up
        for index, entry in enumerate(ready.committed, ready.committed_first):
            assert m.disk.holds(index, entry[0]), "applied an entry that is not durable here"
            assert self.committed.setdefault(index, entry) == entry, "state machines differ"
            if entry[1] == CONF_CHANGE:
                conf = raft.apply_conf_change(decode_conf_change(entry[2]))
                assert self.confs.setdefault(index, conf) == conf, "configurations differ"
            elif entry[2]:
                m.applied.append(entry[2])
            raft.applied_to(index)

    # -- checks --------------------------------------------------------------------------------

    def conf_at(self, index: int) -> ConfState:
        """The configuration after applying `index`."""
        return self.confs[max(at for at in self.confs if at <= index)]

    def _check_entries(self, m: Member, ready: Ready) -> None:
        """Log matching (5.3): an (index, term) has one content and one predecessor, ever."""
        for index, (term, kind, data) in enumerate(ready.entries, ready.first_index):
            prev = m.up.log.term_at(index - 1)
            assert prev is not None
            seen = self.entries.setdefault((index, term), (kind, data, prev))
            assert seen == (kind, data, prev), f"log matching broken at {index}"

    def observe(self, m: Member) -> None:
        """Check what one member's last input can have broken."""
        raft = m.up
        log = raft.log
        if raft.role is Role.LEADER and m.role_seen is not Role.LEADER:
            assert self.leaders.setdefault(raft.term, m.id) == m.id, "two leaders in a term"
            assert m.disk.hard_state[:2] == (raft.term, m.id), "leads with a vote not durable"
            for index, term in self.committed_terms.items():
                here = log.term_at(index)
                assert here == term or index < log.snapshot_index, "leader lacks a committed entry"
        m.role_seen = raft.role
        commit = log.commit_index
        assert commit >= m.commit_seen, "commit index went back"
        for index in range(max(m.commit_seen, log.snapshot_index) + 1, commit + 1):
            here = log.term_at(index)
            assert here is not None
            assert self.committed_terms.setdefault(index, here) == here, "commits differ"
            if raft.role is Role.LEADER:
                self._check_durable(raft, index, here)
        m.commit_seen = commit
        self.max_commit = max(self.max_commit, commit)

    def _check_durable(self, raft: Raft, index: int, term: int) -> None:
        conf = raft.conf_state
        for half in (conf.voters, conf.voters_outgoing):
            holders = sum(self.members[v].disk.holds(index, term) for v in half)
            assert not half or holders > len(half) // 2, f"{index} committed without a quorum"

    # -- running -------------------------------------------------------------------------------

    def run(self, rounds: int = 1) -> None:
        """Let everything that is due happen, in order and without faults, `rounds` times or
        until nothing happens."""
        for _ in range(rounds):
            busy = False
            for member in self.members:
                while self.take_ready(member) or self.finish_write(member, 99):
                    busy = True
            for _ in range(len(self.network)):
                self.deliver(0)
                busy = True
            if not busy:
                return

    def heal(self) -> None:
        """End all faults."""
        self.cut = set()
        for member in self.members:
            self.restart(member)

    def leader(self) -> Raft | None:
        """The leader of the latest term, if it runs."""
        leaders = [
            m.raft
            for m in self.members.values()
            if m.raft is not None and m.raft.role is Role.LEADER
        ]
        return max(leaders, key=lambda raft: raft.term, default=None)

    def elect(self, member: int) -> Raft:
        """Make `member` the leader of a quiet cluster."""
        self.campaign(member)
        self.run(20)
        raft = self.members[member].up
        assert raft.role is Role.LEADER
        return raft

    def assert_progress(self) -> None:
        """On a healed network, within a bound: a leader, a new entry applied everywhere, and a
        read served."""
        self.heal()
        goal: list[bytes] = []
        served = self.reads_served
        for _ in range(60 * self.members[1].config.election_tick):
            for member in self.members:
                self.tick(member)
            self.run(50)
            leader = self.leader()
            if leader is None:
                continue
            self.read(leader.id)
            if not goal:
                goal = self.propose(leader.id)
            elif self._everyone_has(leader, goal[0]) and self.reads_served > served:
                return
            elif goal[0] not in self.members[leader.id].applied and (
                leader.commit_index == leader.last_index
            ):
                goal = []  # It was lost with an earlier leader.
        raise AssertionError(f"no progress: {self.describe()}")

    def _everyone_has(self, leader: Raft, data: bytes) -> bool:
        conf = leader.conf_state
        members = {*conf.voters, *conf.voters_outgoing, *conf.learners}
        return data in self.members[leader.id].applied and all(
            self.members[m].up.applied_index >= leader.applied_index for m in members
        )

    def describe(self) -> str:
        """One line for each member."""
        return "; ".join(
            f"{m.id}: down"
            if m.raft is None
            else f"{m.id}: {m.raft.role.value} term {m.raft.term} leader {m.raft.leader}"
            f" log {m.raft.log.snapshot_index}..{m.raft.last_index}"
            f" commit {m.raft.commit_index} applied {m.raft.applied_index} {m.raft.conf_state}"
            for m in self.members.values()
        )
