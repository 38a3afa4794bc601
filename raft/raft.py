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

from raft import confchange, election, proposal, read_only, replication
from raft.confchange import ConfChange, ConfChangeError
from raft.log import Log
from raft.read_only import ForwardedReads, ReadOnly
from raft.tracker import Progress, Tracker
from raft.types import (
    MAX_COMMITTED_BYTES,
    Config,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageKind,
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
        proposal.propose(self, datas)

    def propose_conf_change(self, change: ConfChange) -> None:
        """Append a conf change, or forward it to the leader, which may still drop it. One at a
        time, and only once the leader has committed an entry of its own term. Raises
        ProposalDropped, or ValueError as `confchange.encode` does."""
        proposal.propose_conf_change(self, change)

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
            read_only.confirm_reads(self)
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
            or proposal.joint_leave_due(self)
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
            if self.tracker.conf.auto_leave and proposal.joint_leave_due(self):
                proposal.leave_joint(self)
            if self.read_only.pending and log.commit_index >= self.term_start:
                replication.start_read_round(self)
            if self.appends_due:
                replication.send_appends(self)
        else:
            if self.forwarded_reads.waiting:
                read_only.forward_reads(self)
            if self.forwarded_entries:
                proposal.forward(self)
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


# Requests that hold in any term.
_UNTERMED = {
    MessageKind.PROPOSE: proposal.handle_propose,
    MessageKind.READ_INDEX: read_only.handle_read_index,
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
    MessageKind.READ_INDEX_RESPONSE: read_only.handle_read_index_response,
    MessageKind.TIMEOUT_NOW: election.handle_timeout_now,
}
