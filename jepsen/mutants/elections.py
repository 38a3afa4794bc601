"""Mutants of elections: votes, terms, and who may lead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jepsen.mutants.registry import Patches, Sim, aimed, mutant
from raft import Message, MessageKind, Raft, Role, election, quorum
from raft import raft as dispatch
from raft.log import Log
from raft.quorum import VoteResult, joint_vote
from raft.tracker import Tracker

TWO_LEADERS = ("election safety", "log matching", "leader completeness")
"""Seen as such, or by the entries of both."""
STORM = Sim(
    faults=("isolate_leader", "crash", "bad_network", "slow_disk", "crash_all", "hold", "unseat"),
    clients=2,
    pre_vote=False,
    transactors=0,
    watchers=0,
)
LONELY = Sim(
    faults=("isolate_leader", "unseat"),
    every_s=1.0,
    clients=8,
    pre_vote=False,
    transactors=0,
    watchers=0,
)
"""Leaders are cut off for long enough to get a long log that nobody wants."""
CRASHES = replace(STORM, crash_at_votes=True)
"""Elections without end."""


@mutant("a member votes once in a term", "Raft 5.2", *TWO_LEADERS, hunt=CRASHES)
def votes_twice(patch: Patches) -> None:
    @patch.around_item(dispatch._TERMED, MessageKind.VOTE)
    def handle(original: Any, r: Raft, m: Message) -> None:
        if r.role is Role.FOLLOWER:
            r.vote = r.leader = 0
        original(r, m)


@mutant("no vote for a log that is behind", "Raft 5.4.1", "leader completeness", hunt=STORM)
def votes_for_a_shorter_log(patch: Patches) -> None:
    patch.set(Log, "is_up_to_date", lambda self, index, term: True)


@mutant("logs are compared by term before length", "Raft 5.4.1", "leader completeness", hunt=LONELY)
def compares_logs_by_length(patch: Patches) -> None:
    patch.set(Log, "is_up_to_date", lambda self, index, term: index >= self.last_index)


@mutant(
    "a vote is on the disk before it is given",
    "Raft 5.2, figure 2",
    *TWO_LEADERS,
    hunt=aimed("forgotten_vote"),
)
def vote_not_persisted(patch: Patches) -> None:
    @patch.around(Raft, "_hand_out_batch")
    def hand_out(original: Any, self: Raft, out: Any) -> None:
        original(self, out)
        if out.hard_state is not None:
            out.hard_state = out.hard_state._replace(vote=0)


@mutant("the term is on the disk before it is used", "Raft figure 2", *TWO_LEADERS,
        "a member starts with what it had", hunt=CRASHES)  # fmt: skip
def term_not_persisted(patch: Patches) -> None:
    @patch.around(Raft, "_hand_out_batch")
    def hand_out(original: Any, self: Raft, out: Any) -> None:
        original(self, out)
        if out.hard_state is not None:
            term = min(out.hard_state.term, self.log.last_term)
            out.hard_state = out.hard_state._replace(term=term, vote=0)


@mutant(
    "a vote is on the disk before its answer leaves", "Raft figure 2", *TWO_LEADERS, hunt=CRASHES
)
def vote_answered_before_it_is_durable(patch: Patches) -> None:
    @patch.around_item(dispatch._TERMED, MessageKind.VOTE)
    def handle(original: Any, r: Raft, m: Message) -> None:
        after = len(r.messages_after)
        original(r, m)
        r.messages += r.messages_after[after:]
        del r.messages_after[after:]


@mutant(
    "a candidate's own vote counts when it is durable", "Raft figure 2", *TWO_LEADERS, hunt=CRASHES
)
def own_vote_counted_before_it_is_durable(patch: Patches) -> None:
    @patch.around(election, "_start_election")
    def start(original: Any, r: Raft, context: int) -> None:
        original(r, context)
        r.messages += r.messages_after
        r.messages_after = []
        r.votes[r.id] = True
        election._count_votes(r)


@mutant("votes of a majority make a leader", "Raft 5.2", *TWO_LEADERS, hunt=STORM)
def minority_elects(patch: Patches) -> None:
    def lenient(voters: Any, votes: Any) -> VoteResult:
        granted = sum(bool(votes.get(voter)) for voter in voters)
        return VoteResult.WON if granted >= len(voters) // 2 else VoteResult.PENDING

    patch.set(quorum, "majority_vote", lenient)


@mutant("a refused vote is no vote", "Raft 5.2", *TWO_LEADERS, hunt=STORM)
def refusals_count_as_votes(patch: Patches) -> None:
    @patch.around_item(dispatch._TERMED, MessageKind.VOTE_RESPONSE)
    def handle(original: Any, r: Raft, m: Message) -> None:
        m.reject = False
        original(r, m)


@mutant(
    "a learner has no vote", "CLU-13, Raft thesis 4.2.1", *TWO_LEADERS, "leader completeness",
    hunt=Sim(changes=True, faults=STORM.faults, clients=2, pre_vote=False),
)  # fmt: skip
def learners_elect(patch: Patches) -> None:
    def result(self: Tracker, votes: Any) -> VoteResult:
        conf = self.conf
        everybody = {*conf.voters, *conf.learners}
        if sum(bool(votes.get(member)) for member in everybody) > len(conf.voters) // 2:
            return VoteResult.WON
        return joint_vote(conf.voters, conf.voters_outgoing, votes)

    def voters(self: Tracker) -> list[int]:
        return sorted({*self.conf.voters, *self.conf.voters_outgoing, *self.conf.learners})

    patch.set(Tracker, "vote_result", result)
    patch.set(Tracker, "voters", voters)


@mutant("a message of a later term ends a leader's own", "Raft 5.1", "liveness",
        hunt=aimed("later_term"))  # fmt: skip
def leader_ignores_later_terms(patch: Patches) -> None:
    @patch.around(Raft, "step")
    def step(original: Any, self: Raft, m: Message) -> None:
        if self.role is Role.LEADER and m.term > self.term:
            return
        original(self, m)


@mutant("a candidate follows the leader of its term", "Raft 5.2", *TWO_LEADERS, "a member fails",
        hunt=aimed("late_vote"))  # fmt: skip
def candidate_takes_late_votes(patch: Patches) -> None:
    """Answers to votes of an earlier term count in this one."""

    @patch.around(Raft, "step")
    def step(original: Any, self: Raft, m: Message) -> None:
        if m.kind is MessageKind.VOTE_RESPONSE and self.role is Role.CANDIDATE:
            m.term = self.term
        original(self, m)
