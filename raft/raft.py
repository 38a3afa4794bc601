"""One member's Raft state machine: inputs, the dispatch of messages, and the Ready hand-over.

The rules live beside this file: election.py (who leads), replication.py (the log), confchange.py
(membership), read_only.py (reads). Nothing here waits, sends, writes or knows the time; a caller
that carries out every Ready as its docstring says gets the guarantees of the Raft paper.

`step` takes whatever the network brings. What no correct member could have sent, or what a member
outside the configuration has no business to send, is ignored; an AssertionError or ValueError
means a mistake in this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft import confchange, election, replication
from raft.confchange import ConfChange, ConfChangeError
from raft.log import Log
from raft.read_only import ForwardedReads, ReadOnly
from raft.tracker import Progress, Tracker
from raft.types import (
    CONF_CHANGE,
    ENTRY_OVERHEAD,
    MAX_COMMITTED_BYTES,
    NORMAL,
    Config,
    ConfState,
    DropReason,
    Entry,
    HardState,
    Message,
    MessageKind,
    ProposalDropped,
    ReadIndexDropped,
    Ready,
    Role,
    SnapshotMeta,
    SoftState,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random


class Raft:
    """See the module's docstring. Attributes not named in docs/architecture.md belong to the
    package."""

    __slots__ = (
        "_emitted_hard_state",
        "_emitted_leader",
        "_emitted_role",
        "_token",
        "appends_due",
        "config",
        "election_elapsed",
        "forwarded_bytes",
        "forwarded_entries",
        "forwarded_reads",
        "heartbeat_elapsed",
        "id",
        "leader",
        "log",
        "messages",
        "messages_after",
        "pending_conf_index",
        "pending_snapshot",
        "random",
        "randomized_timeout",
        "read_only",
        "read_states",
        "role",
        "term",
        "term_start",
        "tracker",
        "transfer_elapsed",
        "transferee",
        "vote",
        "votes",
    )

    def __init__(
        self,
        config: Config,
        *,
        hard_state: HardState,
        snapshot: SnapshotMeta,
        entries: list[Entry],
        applied: int,
        random: Random,
    ) -> None:
        """Start, or restart, from what is durable.

        `entries[0]` has index `snapshot.index + 1`. `snapshot.conf_state` is the configuration at
        `applied`; committed entries after `applied` are handed out again. Raises ValueError if
        these contradict each other.

        All members of a new cluster start with the same HardState(term=1, vote=0, commit=1),
        SnapshotMeta(1, 1, ConfState(initial voters)) and applied=1. A member that joins later
        starts with HardState(), SnapshotMeta() and applied=0: it then takes no part until a
        snapshot has told it the configuration, which the log alone cannot.
        """
        self.config = config
        self.id = config.id
        self.random = random
        self.log = Log(snapshot, entries, hard_state.commit, applied)
        if hard_state.term < self.log.last_term:
            raise ValueError(
                f"hard_state.term {hard_state.term} is before the log's {self.log.last_term}"
            )
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = Role.FOLLOWER
        self.leader = 0
        self.transferee = 0
        self.appends_due = False
        self.election_elapsed = self.heartbeat_elapsed = self.randomized_timeout = 0
        self.tracker = Tracker()
        self.tracker.set_conf(snapshot.conf_state, self.id, self.log.last_index + 1)
        self.votes: dict[int, bool] = {}
        self.read_only = ReadOnly()
        self.forwarded_reads = ForwardedReads(random.getrandbits(31))
        self.forwarded_entries: list[Entry] = []
        self.forwarded_bytes = 0
        self.messages: list[Message] = []
        self.messages_after: list[Message] = []
        self.read_states: list[tuple[int, int]] = []
        self.pending_snapshot: SnapshotMeta | None = None
        self.pending_conf_index = 0
        self.term_start = 0
        self.transfer_elapsed = 0
        self._token = 0
        self._emitted_hard_state = hard_state
        self._emitted_leader = 0
        self._emitted_role = Role.FOLLOWER
        election.become_follower(self, self.term, 0)

    # -- status --------------------------------------------------------------------------------

    @property
    def commit_index(self) -> int:
        """The last index known to be committed."""
        return self.log.commit_index

    @property
    def applied_index(self) -> int:
        """The last index reported by `applied_to`, or that of a snapshot taken in since (which
        may not be durable yet)."""
        return self.log.applied_index

    @property
    def first_index(self) -> int:
        """The first index in the log (last_index + 1 if it is empty)."""
        return self.log.snapshot_index + 1

    @property
    def last_index(self) -> int:
        """The last index in the log."""
        return self.log.last_index

    @property
    def conf_state(self) -> ConfState:
        """The configuration as of the last conf change applied."""
        return self.tracker.conf

    @property
    def is_learner(self) -> bool:
        """Whether this member takes entries but has no vote."""
        return self.id in self.tracker.conf.learners

    def progress(self, member: int) -> Progress | None:
        """The leader's view of a member's log; None elsewhere, or for a stranger."""
        return self.tracker.progress.get(member) if self.role is Role.LEADER else None

    # -- inputs --------------------------------------------------------------------------------

    def tick(self) -> None:
        """One unit of time has passed."""
        if self.role is not Role.LEADER:
            election.tick_election(self)
        elif election.tick_leader(self):
            replication.send_heartbeats(self)

    def campaign(self) -> None:
        """Begin an election now, if this member may."""
        election.campaign(self, transfer=False)

    def step(self, m: Message) -> None:
        """Take in a message. Never raises for what a peer sent."""
        if m.to != self.id or m.from_ == self.id or m.from_ <= 0:
            return
        if m.kind in _UNTERMED:
            _UNTERMED[m.kind](self, m)
            return
        handler = _TERMED.get(m.kind)
        if handler is None:
            return
        if m.term > self.term:
            if not election.step_higher_term(self, m):
                return
        elif m.term < self.term:
            election.step_lower_term(self, m)
            return
        handler(self, m)

    def propose(self, datas: Sequence[bytes]) -> None:
        """Append `datas` as NORMAL entries, in order and all or none; a follower forwards them to
        the leader, which may still drop them. Raises ProposalDropped."""
        self._check_proposable()
        if self.role is Role.LEADER:
            self._propose(datas)
            return
        size = sum(map(len, datas)) + ENTRY_OVERHEAD * len(datas)
        if not self.forwarded_entries:
            self.forwarded_bytes = 0
        elif self.forwarded_bytes + size > self.config.max_uncommitted_bytes:
            raise ProposalDropped(DropReason.UNCOMMITTED_LIMIT)
        self.forwarded_bytes += size
        self.forwarded_entries.extend([(0, NORMAL, data) for data in datas])

    def _check_proposable(self) -> None:
        if not self.leader:
            raise ProposalDropped(DropReason.NO_LEADER)
        if self.transferee:
            raise ProposalDropped(DropReason.TRANSFERRING)

    def _propose(self, datas: Sequence[bytes]) -> None:
        log = self.log
        if log.last_index > log.commit_index:
            size = sum(map(len, datas)) + ENTRY_OVERHEAD * len(datas)
            if log.uncommitted_bytes() + size > self.config.max_uncommitted_bytes:
                raise ProposalDropped(DropReason.UNCOMMITTED_LIMIT)
        term = self.term
        log.append([(term, NORMAL, data) for data in datas])
        self.appends_due = True

    def propose_conf_change(self, change: ConfChange) -> None:
        """Append a conf change, or forward it to the leader, which may still drop it. One at a
        time, and only once the leader has committed an entry of its own term. Raises
        ProposalDropped, or ValueError as `confchange.encode` does."""
        self._check_proposable()
        data = confchange.encode(change)
        if self.role is Role.LEADER:
            self._propose_conf_change(change, data)
        else:
            entries = ((0, CONF_CHANGE, data),)
            self.messages.append(
                Message(MessageKind.PROPOSE, self.leader, self.id, entries=entries)
            )

    def _propose_conf_change(self, change: ConfChange, data: bytes) -> None:
        log = self.log
        if log.applied_index < self.pending_conf_index or log.commit_index < self.term_start:
            raise ProposalDropped(DropReason.CONF_CHANGE_PENDING)
        try:
            confchange.changed(self.tracker.conf, change)
        except ConfChangeError as error:
            raise ProposalDropped(DropReason.CONF_CHANGE_INVALID, str(error)) from error
        replication.append_conf_change(self, data)

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """A committed conf change is being applied (call `applied_to` for its entry next).
        Returns the configuration after it: the one before if the change does not fit, which every
        member finds alike."""
        try:
            conf = confchange.changed(self.tracker.conf, change)
        except ConfChangeError:
            return self.tracker.conf
        self.tracker.set_conf(conf, self.id, self.log.last_index + 1)
        if self.role is Role.LEADER:
            if self.id not in conf.voters and self.id not in conf.voters_outgoing:
                # Section 6: a leader outside the new configuration steps down.
                election.become_follower(self, self.term, 0)
                return conf
            if not self.tracker.is_voter(self.transferee):
                self.transferee = 0
            # The quorum may have shrunk.
            replication.maybe_commit(self, self.log.last_index)
            replication.confirm_reads(self)
            self.appends_due = True
        return conf

    def read_index(self, context: int) -> None:
        """Ask for an index at which a read that begins now is linearizable; it comes out in
        `Ready.read_states` with `context`, or never if the leader changes. A leader that has not
        committed an entry of its term yet lets the read wait. Raises ReadIndexDropped."""
        if self.role is Role.LEADER:
            accepted = self.read_only.add(self.id, context)
        else:
            accepted = self.leader != 0 and self.forwarded_reads.add(context)
        if not accepted:
            raise ReadIndexDropped("too many reads wait" if self.leader else "no leader")

    def transfer_leadership(self, target: int) -> None:
        """See `election.transfer_leadership`."""
        election.transfer_leadership(self, target)

    def persisted(self, token: int) -> None:
        """Everything handed out up to `token` is durable."""
        assert token <= self._token, (token, self._token)
        batch = self.log.saved(token)
        if batch is None:
            return
        if self.role is Role.LEADER:
            pr = self.tracker.progress[self.id]
            if pr.accepted(self.log.stable_index):
                replication.maybe_commit(self, pr.match)
        else:
            election.persisted_vote(self, batch.term, batch.vote)

    def applied_to(self, index: int) -> None:
        """Entries up to `index` are applied."""
        self.log.applied_to(index)

    def compact(self, index: int) -> None:
        """Forget the log up to `index`, which must be applied; followers that need those entries
        get a snapshot."""
        self.log.compact(index)

    def report_unreachable(self, peer: int) -> None:
        """Messages to `peer` were lost, or may have been."""
        replication.report_unreachable(self, peer)

    def report_snapshot(self, peer: int, ok: bool) -> None:
        """The snapshot asked for `peer` has been sent, or could not be. Call it once for each
        SNAPSHOT message: nothing is sent to the peer before."""
        replication.report_snapshot(self, peer, ok=ok)

    # -- output --------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether `ready()` would hand out anything."""
        log = self.log
        return bool(
            self.appends_due
            or self.messages
            or self.messages_after
            or log.saved_index < log.last_index
            or log.has_committed
            or self.read_states
            or self._must_save_state()
            or (self.read_only.pending and log.commit_index >= self.term_start)
            or self.forwarded_reads.waiting
            or self.forwarded_entries
            or self.leader != self._emitted_leader
            or self.role is not self._emitted_role
            or replication.joint_leave_due(self)
        )

    def _must_save_state(self) -> bool:
        emitted = self._emitted_hard_state
        return (
            self.term != emitted.term
            or self.vote != emitted.vote
            or self.pending_snapshot is not None
        )

    def ready(self) -> Ready:
        """Take all effects that are due. See `Ready` for what to do with them."""
        log = self.log
        if self.role is Role.LEADER:
            if self.tracker.conf.auto_leave and replication.joint_leave_due(self):
                replication.append_conf_change(self, confchange.encode(ConfChange()))
            if self.read_only.pending and log.commit_index >= self.term_start:
                replication.start_read_round(self)
            if self.appends_due:
                replication.send_appends(self)
        else:
            self._forward()
        out = Ready()
        if log.has_unsaved or self._must_save_state():
            self._hand_out_batch(out)
        out.messages, self.messages = self.messages, []
        if self.messages_after:
            if log.is_writing:
                out.messages_after = self.messages_after
            else:
                out.messages.extend(self.messages_after)
            self.messages_after = []
        if self.read_states:
            out.read_states, self.read_states = self.read_states, []
        if log.has_committed:
            out.committed_first, out.committed = log.take_committed(MAX_COMMITTED_BYTES)
        if self.leader != self._emitted_leader or self.role is not self._emitted_role:
            out.soft_state = SoftState(self.leader, self.role)
            self._emitted_leader, self._emitted_role = self.leader, self.role
        return out

    def _hand_out_batch(self, out: Ready) -> None:
        self._token += 1
        hard_state = HardState(self.term, self.vote, self.log.commit_index)
        if hard_state != self._emitted_hard_state:
            out.hard_state = self._emitted_hard_state = hard_state
        out.token = self._token
        out.snapshot, self.pending_snapshot = self.pending_snapshot, None
        out.first_index, out.entries = self.log.take_unsaved(self._token, hard_state)

    def _forward(self) -> None:
        """A follower passes on what was proposed and asked for here."""
        if self.forwarded_reads.waiting:
            self.messages.append(
                Message(
                    MessageKind.READ_INDEX,
                    self.leader,
                    self.id,
                    context=self.forwarded_reads.send(),
                )
            )
        entries = self.forwarded_entries
        if entries:
            self.forwarded_entries = []
            start = size = 0
            for stop, entry in enumerate(entries):
                cost = len(entry[2]) + ENTRY_OVERHEAD
                if stop > start and size + cost > self.config.max_message_bytes:
                    self._forward_entries(entries[start:stop])
                    start, size = stop, 0
                size += cost
            self._forward_entries(entries[start:])

    def _forward_entries(self, entries: list[Entry]) -> None:
        self.messages.append(Message(MessageKind.PROPOSE, self.leader, self.id, entries=entries))


# -- messages that hold in any term --------------------------------------------------------------


def _handle_propose(r: Raft, m: Message) -> None:
    """A member of the configuration forwards proposals; what is refused is dropped, and the
    member that proposed finds out by waiting."""
    if r.role is not Role.LEADER or m.from_ not in r.tracker.progress or r.transferee:
        return
    try:
        if all(entry[1] == NORMAL for entry in m.entries):
            r._propose([entry[2] for entry in m.entries])
        elif len(m.entries) == 1 and m.entries[0][1] == CONF_CHANGE:
            data = m.entries[0][2]
            r._propose_conf_change(confchange.decode(data), data)
    except (ProposalDropped, ValueError):
        return


def _handle_read_index(r: Raft, m: Message) -> None:
    if r.role is Role.LEADER and m.from_ in r.tracker.progress:
        r.read_only.add(m.from_, m.context)


def _handle_read_index_response(r: Raft, m: Message) -> None:
    if m.from_ == r.leader:
        for context in r.forwarded_reads.answered(m.context):
            r.read_states.append((context, m.index))


_UNTERMED = {
    MessageKind.PROPOSE: _handle_propose,
    MessageKind.READ_INDEX: _handle_read_index,
    MessageKind.TRANSFER_LEADER: election.handle_transfer_leader,
}

_TERMED = {
    MessageKind.APPEND: replication.handle_append,
    MessageKind.APPEND_RESPONSE: replication.handle_append_response,
    MessageKind.HEARTBEAT: replication.handle_heartbeat,
    MessageKind.HEARTBEAT_RESPONSE: replication.handle_heartbeat_response,
    MessageKind.VOTE: election.handle_vote,
    MessageKind.VOTE_RESPONSE: election.handle_vote_response,
    MessageKind.PRE_VOTE: election.handle_vote,
    MessageKind.PRE_VOTE_RESPONSE: election.handle_pre_vote_response,
    MessageKind.SNAPSHOT: replication.handle_snapshot,
    MessageKind.READ_INDEX_RESPONSE: _handle_read_index_response,
    MessageKind.TIMEOUT_NOW: election.handle_timeout_now,
}
