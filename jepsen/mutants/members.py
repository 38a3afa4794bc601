"""Mutants of membership: who counts, when a change takes effect, what a snapshot says of it."""

from __future__ import annotations

from typing import Any

from jepsen.mutants.registry import Patches, Sim, mutant
from kvstore.membership.cluster import Cluster
from kvstore.node.changes import ChangeQueue
from kvstore.node.member import Member
from raft import (
    CONF_CHANGE,
    ConfChange,
    ConfChangeError,
    ConfChangeType,
    ConfState,
    DropReason,
    Message,
    MessageKind,
    ProposalDropped,
    Raft,
    confchange,
    proposal,
)
from raft import raft as dispatch
from raft.log import Log
from raft.tracker import Tracker

CHANGING = Sim(changes=True)
OFTEN = Sim(
    changes=True,
    chaos_s=40.0,
    faults=("isolate_leader", "partition", "crash", "transfer", "slow_disk", "unseat"),
    clients=2,
    pre_vote=False,
    transactors=0,
    watchers=0,
)
COUNTED = ("durable on a quorum", "leader completeness", "election safety", "state machine safety")
LISTS = ("member list", "equal index, equal state")


@mutant("a learner does not count for a commit", "CLU-13", *COUNTED, hunt=CHANGING)
def learners_commit(patch: Patches) -> None:
    def committed(self: Tracker) -> int:
        matches = sorted((pr.match for pr in self.progress.values()), reverse=True)
        return matches[len(self.conf.voters) // 2]

    patch.set(Tracker, "committed", committed)


@mutant("a removed member does not count", "CLU-09", *COUNTED, *LISTS, hunt=CHANGING)
def removed_voter_counted(patch: Patches) -> None:
    @patch.around(confchange, "changed")
    def changed(original: Any, conf: ConfState, change: ConfChange) -> ConfState:
        after: ConfState = original(conf, change)
        if change.changes and change.changes[0][0] is ConfChangeType.REMOVE:
            return after._replace(voters=conf.voters) if conf.voters != after.voters else after
        return after


@mutant("one change of members at a time", "scenario 37, Raft thesis 4.1", *COUNTED, hunt=OFTEN)
def several_changes_at_once(patch: Patches) -> None:
    def append(r: Raft, change: ConfChange, data: bytes) -> None:
        try:
            confchange.changed(r.tracker.conf, change)
        except ConfChangeError as error:
            raise ProposalDropped(DropReason.CONF_CHANGE_INVALID, str(error)) from error
        r.log.append([(r.term, CONF_CHANGE, data)])
        r.appends_due = True

    patch.set(proposal, "_append_conf_change", append)
    patch.set(Log, "has_unapplied_conf_change", lambda self: False)

    @patch.around(ChangeQueue, "_start_as_leader")
    def start(original: Any, self: ChangeQueue, raft: Raft, now: float) -> None:
        for request_id, own in self._own.items():
            if own.sent_at is None:
                own.sent_at = now
                self._line.setdefault(request_id, own.change)
        for request_id, change in list(self._line.items()):
            del self._line[request_id]
            raft.propose_conf_change(change)


@mutant("no change before an entry of the leader's own term is committed",
        "scenario 37 (raft-dev, 2015)", *COUNTED, hunt=OFTEN)  # fmt: skip
def change_before_own_term(patch: Patches) -> None:
    @patch.around(proposal, "_append_conf_change")
    def append(original: Any, r: Raft, change: ConfChange, data: bytes) -> None:
        began, r.term_start = r.term_start, 0
        pending, r.pending_conf_index = r.pending_conf_index, 0
        try:
            original(r, change, data)
        except BaseException:
            r.pending_conf_index = pending
            raise
        finally:
            r.term_start = began


@mutant("a snapshot brings its configuration", "CLU-09, Raft thesis 4.4", *LISTS, *COUNTED,
        hunt=CHANGING)  # fmt: skip
def snapshot_keeps_the_old_configuration(patch: Patches) -> None:
    @patch.around_item(dispatch._TERMED, MessageKind.SNAPSHOT)
    def handle(original: Any, r: Raft, m: Message) -> None:
        before = r.tracker.conf
        original(r, m)
        if before.voters and r.tracker.conf != before:
            r.tracker.set_conf(before, r.id, r.log.last_index + 1)


@mutant("a snapshot brings its member list", "CLU-01", *LISTS, hunt=CHANGING)
def snapshot_keeps_the_old_member_list(patch: Patches) -> None:
    @patch.around(Cluster, "restore")
    def restore(original: Any, self: Cluster, backend: Any) -> None:
        if not self.members:
            original(self, backend)
        self._backend = backend


@mutant("all members apply a change alike", "CLU-13, scenario 39", *LISTS, hunt=CHANGING)
def followers_do_not_promote(patch: Patches) -> None:
    @patch.around(Raft, "apply_conf_change")
    def apply(original: Any, self: Raft, change: ConfChange) -> ConfState:
        adds = change.changes and change.changes[0][0] is ConfChangeType.ADD_VOTER
        if adds and change.changes[0][1] in self.conf_state.learners and self.leader != self.id:
            return self.conf_state
        after: ConfState = original(self, change)
        return after


@mutant("a removed id never returns", "CLU-05", *LISTS, hunt=CHANGING)
def barred_ids_forgotten_at_a_restart(patch: Patches) -> None:
    def bar(self: Cluster, member_id: int) -> None:
        self.removed.add(member_id)
        self._backend.delete("members", member_id.to_bytes(8, "big"))

    patch.set(Cluster, "_bar", bar)


@mutant("a change is answered when it is applied", "CLU-15", "the operator's answers",
        hunt=CHANGING)  # fmt: skip
def change_answered_when_proposed(patch: Patches) -> None:
    @patch.around(Member, "propose_change")
    def propose(original: Any, self: Member, kind: Any, body: bytes, done: Any) -> int:
        request_id: int = original(self, kind, body, done)
        response = self.header.encode(0, self.applied_term)

        def answer() -> None:
            if self.changes._own.pop(request_id, None) is not None:
                done(response)

        self._schedule(answer)
        return request_id


@mutant("a refused change changes nothing", "CLU-06", *LISTS, hunt=CHANGING)
def refused_change_reaches_raft(patch: Patches) -> None:
    @patch.around(Member, "_apply_change")
    def apply(original: Any, self: Member, change: ConfChange) -> None:
        before = self.raft.conf_state
        original(self, change)
        if self.raft.conf_state == before:
            self._conf_state = self.raft.apply_conf_change(change)


@mutant("the configuration is stored with what is applied", "scenario 39", *LISTS, *COUNTED,
        "a member fails", "liveness", hunt=CHANGING)  # fmt: skip
def stored_configuration_behind(patch: Patches) -> None:
    @patch.around(Member, "_apply_change")
    def apply(original: Any, self: Member, change: ConfChange) -> None:
        before = self._conf_state
        original(self, change)
        self._conf_state = before


@mutant("an applied change is not undone by a restart", "scenario 39", *LISTS, hunt=CHANGING)
def promotion_not_stored(patch: Patches) -> None:
    def promote(self: Cluster, member_id: int) -> None:
        info = self.get(member_id)
        self.members[member_id] = type(info)(info.id, info.name, info.peer_urls, info.client_urls)

    patch.set(Cluster, "promote", promote)
