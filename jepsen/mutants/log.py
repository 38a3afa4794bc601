"""Mutants of log replication: matching, committing, durability."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jepsen.mutants.registry import Patches, Sim, aimed, mutant
from kvstore.node.member import Member
from raft import Message, MessageKind, Raft, proposal, replication, tracker
from raft import raft as dispatch
from raft.log import Log
from raft.tracker import Tracker

RIVALS = Sim(
    faults=("isolate_leader", "partition", "hold", "unseat", "bad_network", "crash", "stuck_disk"),
    transactors=0,
    pre_vote=False,
)
"""Leaders that are cut off with entries of their own."""
LONELY = Sim(
    faults=("isolate_leader", "slow_disk"),
    every_s=1.0,
    clients=8,
    pre_vote=False,
    transactors=0,
    watchers=0,
)
NOT_DURABLE = "durable on a quorum"
LOGS_DIFFER = ("log matching", "state machine safety", "leader completeness")


@mutant(
    "entries follow on the entry that the leader names",
    "Raft 5.3",
    *LOGS_DIFFER,
    NOT_DURABLE,
    hunt=RIVALS,
)
def no_previous_term_check(patch: Patches) -> None:
    patch.set(Log, "matches", lambda self, index, term: self.term_at(index) is not None)


@mutant("a conflicting end of the log is replaced", "Raft 5.3", *LOGS_DIFFER, NOT_DURABLE)
def conflicting_entries_kept(patch: Patches) -> None:
    def find(self: Log, first: int, entries: Any) -> int:
        return max(0, min(len(entries), self.last_index - first + 1))

    patch.set(Log, "find_conflict", find)


@mutant("a leader commits by count entries of its own term only", "Raft 5.4.2, figure 8",
        *LOGS_DIFFER, NOT_DURABLE, hunt=aimed("figure_8"))  # fmt: skip
def earlier_terms_committed_by_count(patch: Patches) -> None:
    @patch.instead(replication, "maybe_commit")
    def commit(r: Raft, index: int) -> None:
        committed = r.tracker.committed()
        if committed > r.log.commit_index:
            r.log.commit_to(committed)
            r.appends_due = True


@mutant("a majority commits", "Raft 5.3", NOT_DURABLE, *LOGS_DIFFER)
def minority_commits(patch: Patches) -> None:
    def value(values: list[int]) -> int:
        values.sort()
        return values[min((len(values) - 1) // 2 + 1, len(values) - 1)]

    patch.set(tracker, "majority_value", value)


@mutant("nothing is committed by its leader alone", "Raft 5.3", NOT_DURABLE, *LOGS_DIFFER)
def leader_commits_alone(patch: Patches) -> None:
    patch.set(Tracker, "committed", lambda self: max(pr.match for pr in self.progress.values()))


@mutant(
    "a follower commits what it has of its leader only",
    "Raft 5.3 (min(commit, last new))",
    *LOGS_DIFFER,
    NOT_DURABLE,
    hunt=LONELY,
)
def follower_commits_beyond_match(patch: Patches) -> None:
    @patch.around_item(dispatch._TERMED, MessageKind.APPEND)
    def handle(original: Any, r: Raft, m: Message) -> None:
        original(r, m)
        log = r.log
        if m.index <= log.last_index and m.commit > log.commit_index:
            log.commit_to(min(m.commit, log.last_index))


@mutant(
    "a heartbeat's commit index is acknowledged by its receiver",
    "Raft 5.3",
    *LOGS_DIFFER,
    NOT_DURABLE,
    hunt=RIVALS,
)
def heartbeat_commits_beyond_match(patch: Patches) -> None:
    @patch.around(replication, "_send_heartbeat")
    def send(original: Any, r: Raft, peer: int, pr: Any) -> None:
        original(r, peer, pr)
        r.messages[-1].commit = r.log.commit_index


@mutant("the leader's own entry counts when it is durable", "Raft thesis 10.2.1", NOT_DURABLE)
def own_entries_counted_before_they_are_durable(patch: Patches) -> None:
    @patch.around(proposal, "_append")
    def append(original: Any, r: Raft, datas: Any) -> None:
        original(r, datas)
        r.tracker.progress[r.id].accepted(r.log.last_index)


@mutant("a follower acknowledges what is durable", "Raft 5.3, figure 2", NOT_DURABLE)
def follower_acknowledges_before_it_is_durable(patch: Patches) -> None:
    @patch.around(replication, "_acknowledge")
    def acknowledge(original: Any, r: Raft, index: int) -> None:
        original(r, index)
        r.messages.append(r.messages_after.pop())


@mutant("nothing is reported durable before it is", "RFT-09, scenario 32", NOT_DURABLE)
def log_reports_before_it_is_durable(patch: Patches) -> None:
    @patch.around(Member, "_carry_out")
    def carry_out(original: Any, self: Member, ready: Any) -> None:
        original(self, ready)
        if ready.token:
            self._schedule(lambda: self.persisted(ready.token))


@mutant("a write that was overtaken does not count for its successor", "scenario 38 (append ABA)",
        NOT_DURABLE, "a member fails", "a member starts with what it had",
        *LOGS_DIFFER, hunt=aimed("overtaken_write"))  # fmt: skip
def append_aba(patch: Patches) -> None:
    def unsave(self: Log, last_index: int) -> None:
        self.saved_index = min(self.saved_index, last_index)
        self.stable_index = min(self.stable_index, last_index)
        self._shared, self._shared_first = [], 0

    def saved(self: Log, token: int) -> Any:
        batch = None
        while self._writing and self._writing[0].token <= token:
            batch = self._writing.popleft()
            self.stable_index = min(max(self.stable_index, batch.last_index), self.saved_index)
        return batch

    patch.set(Log, "_unsave", unsave)
    patch.set(Log, "saved", saved)


@mutant(
    "what a leader of an earlier term sends is refused",
    "Raft 5.1",
    *LOGS_DIFFER,
    NOT_DURABLE,
    "a member fails",
    hunt=aimed("late_append"),
)
def appends_of_earlier_terms_taken(patch: Patches) -> None:
    @patch.around(Raft, "step")
    def step(original: Any, self: Raft, m: Message) -> None:
        if m.kind is MessageKind.APPEND and m.term < self.term:
            self.leader = 0
            m = replace(m, term=self.term)
        original(self, m)


@mutant(
    "answers to an earlier term's leader do not count",
    "Raft 5.1",
    NOT_DURABLE,
    *LOGS_DIFFER,
    hunt=aimed("late_acknowledgement"),
)
def acknowledgements_of_earlier_terms_counted(patch: Patches) -> None:
    @patch.around(Raft, "step")
    def step(original: Any, self: Raft, m: Message) -> None:
        if m.kind is MessageKind.APPEND_RESPONSE and not m.reject and m.term < self.term:
            m = replace(m, term=self.term)
        original(self, m)


@mutant(
    "only durable entries are applied", "Raft 5.3", NOT_DURABLE, "stale read or write",
    "a member starts with what it had",
)  # fmt: skip
def applies_before_it_is_durable(patch: Patches) -> None:
    patch.set(Log, "has_committed", property(lambda self: self.handed_index < self.commit_index))

    def take(self: Log, max_bytes: int) -> Any:
        first = self.handed_index + 1
        entries = self.slice(first, self.commit_index + 1, max_bytes)
        self.handed_index += len(entries)
        return first, entries

    patch.set(Log, "take_committed", take)


@mutant("a leader repeats what was not answered", "Raft 5.3", "liveness")
def lost_appends_not_repeated(patch: Patches) -> None:
    patch.set(tracker.Progress, "heartbeat_answered", lambda self: None)
