"""Mutants of linearizable reads: ReadIndex rounds, leadership, freshness."""

from __future__ import annotations

from typing import Any

from jepsen.mutants.registry import Patches, Sim, aimed, mutant
from kvstore.node.member import Member
from kvstore.node.reads import ReadQueue
from raft import Raft, Role, read_only, replication
from raft.read_only import ReadOnly

CUT_OFF = Sim(
    faults=("isolate_leader", "hold", "bad_network", "transfer", "slow_disk", "pause"),
    transactors=1,
    watchers=0,
    pre_vote=False,
)
"""Leaders that do not know yet that they are none any more, or know too little yet."""
STALE = ("stale read or write",)


@mutant("a linearizable read shows what was acknowledged before", "RFT-01", *STALE)
def reads_without_a_read_index(patch: Patches) -> None:
    patch.set(Member, "read_index", lambda self, done: done(None))


@mutant(
    "a leader reads after a quorum has confirmed it",
    "RFT-01, Raft thesis 6.4",
    *STALE,
    hunt=CUT_OFF,
)
def read_index_without_a_quorum(patch: Patches) -> None:
    @patch.around(read_only, "confirm_reads")
    def confirm(original: Any, r: Raft) -> None:
        for voter in r.tracker.voters():
            r.read_only.acks[voter] = r.read_only.last_round
        original(r)


@mutant("a round serves reads that arrived before it", "RFT-02, scenario 35", *STALE, hunt=CUT_OFF)
def late_read_joins_a_round(patch: Patches) -> None:
    @patch.around(ReadOnly, "add")
    def add(original: Any, self: ReadOnly, member: int, context: int) -> bool:
        if self._rounds and self._count < read_only.MAX_PENDING_READS:
            self._count += 1
            self._rounds[-1][2].append((member, context))
            return True
        return bool(original(self, member, context))


@mutant("reads of one member join no round under way", "RFT-02, scenario 35", *STALE, hunt=CUT_OFF)
def late_read_joins_the_round_of_its_member(patch: Patches) -> None:
    @patch.around(ReadQueue, "add")
    def add(original: Any, self: ReadQueue, done: Any, deadline: float) -> None:
        if self._round:
            self._round.append((done, deadline))
        else:
            original(self, done, deadline)


@mutant(
    "a new leader reads after an entry of its own term",
    "RFT-01, scenario 35",
    *STALE,
    hunt=aimed("early_read"),
)
def reads_before_own_term(patch: Patches) -> None:
    @patch.around(Raft, "ready")
    def ready(original: Any, self: Raft) -> Any:
        if self.role is Role.LEADER and self.read_only.pending:
            replication.start_read_round(self)
        return original(self)

    @patch.around(Raft, "has_ready")
    def has_ready(original: Any, self: Raft) -> bool:
        waits = self.role is Role.LEADER and bool(self.read_only.pending)
        return waits or bool(original(self))


@mutant("an answer confirms the round it answers", "Raft thesis 6.4", *STALE,
        hunt=aimed("late_answers"))  # fmt: skip
def any_answer_confirms_the_last_round(patch: Patches) -> None:
    @patch.around(ReadOnly, "acknowledge")
    def acknowledge(original: Any, self: ReadOnly, member: int, number: int) -> bool:
        return bool(original(self, member, self.last_round))


@mutant("a read waits until its index is applied", "RFT-01", *STALE)
def reads_before_their_index_is_applied(patch: Patches) -> None:
    @patch.around(ReadQueue, "answered")
    def answered(original: Any, self: ReadQueue, context: int, index: int, applied: int) -> None:
        original(self, context, applied, applied)


@mutant("a deposed leader's reads fail", "RFT-04", *STALE)
def leader_change_serves_waiting_reads(patch: Patches) -> None:
    def changed(self: ReadQueue) -> None:
        lost, self._round = self._round, []
        for done, _ in lost:
            done(None)

    patch.set(ReadQueue, "leader_changed", changed)


@mutant("reads that time out are refused", "RFT-03", *STALE)
def late_reads_are_served_locally(patch: Patches) -> None:
    def expire(self: ReadQueue, reads: Any, now: float) -> Any:
        for done, deadline in reads:
            if deadline <= now:
                done(None)
        return [read for read in reads if read[1] > now]

    patch.set(ReadQueue, "_expire", expire)


@mutant("a forwarded read is confirmed by the leader of its term", "RFT-01", *STALE)
def forwarded_read_takes_the_local_commit_index(patch: Patches) -> None:
    @patch.instead(read_only, "forward_reads")
    def forward(r: Raft) -> None:
        for context in r.forwarded_reads.answered(r.forwarded_reads.send()):
            r.read_states.append((context, r.log.commit_index))


@mutant("the read index is that of the round's start, with all before it", "Raft thesis 6.4",
        *STALE, hunt=Sim(members=5))  # fmt: skip
def read_index_is_what_is_applied(patch: Patches) -> None:
    @patch.around(ReadOnly, "start_round")
    def start(original: Any, self: ReadOnly, own_id: int, commit_index: int) -> int:
        return int(original(self, own_id, max(0, commit_index - 3)))
