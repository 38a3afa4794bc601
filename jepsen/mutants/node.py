"""Mutants of the member core: proposals, their answers, and what is applied."""

from __future__ import annotations

from typing import Any

from jepsen.mutants.registry import Patches, aimed, mutant
from kvstore.apply.applier import Applier
from kvstore.errors import NO_SPACE, RAFT_PROPOSAL_DROPPED, Code, EtcdError
from kvstore.mvcc.store import Store
from kvstore.node.header import HeaderEncoder
from kvstore.node.member import Member
from kvstore.node.request import HEADER, Kind
from raft import ProposalDropped

TWICE = ("a value is written once",)
LIES = ("a refused write never shows",)
STATES = ("equal index, equal state", "equal revision, equal events", "dense revisions")
ANSWERS = ("acknowledged writes are there", "answers agree with the history",
           "stale read or write")  # fmt: skip


@mutant("a proposal is applied once", "GEN-10, scenario 40", *TWICE)
def proposal_sent_twice(patch: Patches) -> None:
    @patch.around(Member, "_propose_queued")
    def propose(original: Any, self: Member) -> None:
        if self._next_id % 8 == 0:
            self._proposals *= 2
        original(self)


@mutant("nothing is proposed again after a change of leaders", "GEN-10, scenario 40", *TWICE)
def proposals_repeated_after_a_leader_change(patch: Patches) -> None:
    sent = "_sent_proposals"

    @patch.around(Member, "_propose_queued")
    def propose(original: Any, self: Member) -> None:
        known = self.__dict__.setdefault(sent, {})
        for data in self._proposals:
            known[HEADER.unpack_from(data)[1]] = data
        original(self)

    @patch.around(Member, "_leader_changed")
    def changed(original: Any, self: Member) -> None:
        original(self)
        if self.raft.leader:
            known = self.__dict__.pop(sent, {})
            self._proposals += [data for found, data in known.items() if found in self._waiters]


@mutant("a time-out leaves the outcome open", "RFT-21, GEN-11", *LIES)
def timeouts_are_called_definite(patch: Patches) -> None:
    dead = EtcdError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    patch.set(Member, "_timeout_error", lambda self, since: dead)


@mutant("a lost leader leaves the outcome open", "RFT-21", *LIES)
def leader_change_refuses_what_was_proposed(patch: Patches) -> None:
    @patch.around(Member, "_leader_changed")
    def changed(original: Any, self: Member) -> None:
        queued = {HEADER.unpack_from(data)[1] for data in self._proposals}
        for request_id in [i for i in self._waiters if i not in queued]:
            self._fail(request_id, RAFT_PROPOSAL_DROPPED)
        original(self)


@mutant("what is dropped is not proposed later", "RFT-21", *LIES)
def dropped_proposals_stay_queued(patch: Patches) -> None:
    def propose(self: Member) -> None:
        batch, self._proposals = self._proposals, []
        try:
            self.raft.propose(batch)
        except ProposalDropped:
            self._proposals = batch
            for data in batch:
                self._fail(HEADER.unpack_from(data)[1], RAFT_PROPOSAL_DROPPED)

    patch.set(Member, "_propose_queued", propose)


@mutant("a request that timed out in the queue is not proposed", "GEN-11", *LIES)
def expired_proposals_stay_queued(patch: Patches) -> None:
    @patch.around(Member, "_expire_waiters")
    def expire(original: Any, self: Member, now: float) -> None:
        queued = list(self._proposals)
        original(self, now)
        self._proposals = queued


@mutant("an answer is that of the request's own entry", "GEN-02", *ANSWERS, "a member fails")
def request_ids_are_not_unique(patch: Patches) -> None:
    @patch.around(Member, "_take_id")
    def take(original: Any, self: Member) -> int:
        return int(original(self)) & 0xFF

    # Members count alike, so one's entry answers another's request.


@mutant("the header has the revision of the answer", "GEN-04", *ANSWERS)
def header_revision_lags(patch: Patches) -> None:
    @patch.around(HeaderEncoder, "encode")
    def encode(original: Any, self: HeaderEncoder, revision: int, term: int) -> bytes:
        return bytes(original(self, revision - (revision % 16 == 0), term))


@mutant("a refusal depends on the replicated state alone", "RFT-11, scenario 33", *STATES, *ANSWERS,
        *LIES)  # fmt: skip
def quota_refuses_when_applied(patch: Patches) -> None:
    @patch.around(Applier, "put")
    def put(original: Any, self: Applier, body: bytes) -> Any:
        if self.store.backend.pending_ops > 30:
            raise NO_SPACE
        return original(self, body)


@mutant("applying does not depend on who leads", "RFT-11", *STATES, *ANSWERS)
def leader_applies_otherwise(patch: Patches) -> None:
    @patch.around(Applier, "lease_revoke")
    def revoke(original: Any, self: Applier, body: bytes) -> Any:
        if self.lessor.is_primary:
            return original(self, body)
        before = self.store.revision
        original(self, body)
        return before, b""

    @patch.around(Applier, "delete_range")
    def delete(original: Any, self: Applier, body: bytes) -> Any:
        if self.lessor.is_primary or self.store.revision % 20:
            return original(self, body)
        return self.store.revision, b""


@mutant("applying does not depend on the clock", "RFT-11", *STATES,
        hunt=aimed("compactions_at_once"))  # fmt: skip
def compaction_depends_on_the_clock(patch: Patches) -> None:
    @patch.around(Store, "compact")
    def compact(original: Any, self: Store, revision: int) -> None:
        # What is still to be removed depends on this member's pace.
        if self.finished_compact_revision < self.compact_revision:
            revision -= 1
        original(self, max(revision, self.compact_revision + 1))


@mutant("entries are applied in order, each once", "RFT-10", *STATES, *TWICE, *ANSWERS)
def batch_applied_twice_after_an_error(patch: Patches) -> None:
    @patch.around(Applier, "put")
    def put(original: Any, self: Applier, body: bytes) -> Any:
        answer = original(self, body)
        if self.store.backend.pending_ops % 64 == 63:
            answer = original(self, body)
        return answer


@mutant("an answer comes after its entry is applied", "RFT-09", *ANSWERS, *LIES)
def answered_when_proposed(patch: Patches) -> None:
    @patch.around(Member, "propose")
    def propose(original: Any, self: Member, kind: Kind, body: bytes, done: Any) -> None:
        if kind != Kind.PUT:
            original(self, kind, body, done)
            return
        original(self, kind, body, lambda result: None)
        answer = self.header.encode(self.applier.store.revision + 1, self.applied_term)
        self._schedule(lambda: done(answer))


@mutant("an alarm is raised on all members alike", "MNT-16, scenario 33", *STATES)
def alarm_on_one_member_only(patch: Patches) -> None:
    @patch.around(Applier, "alarm")
    def alarm(original: Any, self: Applier, body: bytes) -> Any:
        answer = original(self, body)
        if not self.lessor.is_primary:
            self.alarms._active.clear()
            self.alarms._summarize()
        return answer
