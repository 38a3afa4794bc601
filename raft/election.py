"""Who leads: time-outs, campaigns, votes, the leader's lease, and leadership transfer.

Functions on a `Raft`. A campaign's own vote counts when it is durable, like any other, and VOTE
requests leave only then: a candidate that crashed could else come back with a shorter log and
still collect votes granted for the longer one. PreVote asks need no disk: they promise nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.quorum import VoteResult
from raft.types import (
    FORCE_VOTE,
    NORMAL,
    DropReason,
    Message,
    MessageKind,
    ProposalDropped,
    Role,
)

if TYPE_CHECKING:
    from raft.raft import Raft

_FROM_LEADER = (
    MessageKind.APPEND,
    MessageKind.HEARTBEAT,
    MessageKind.SNAPSHOT,
    MessageKind.TIMEOUT_NOW,
)


# -- roles ---------------------------------------------------------------------------------------


def _reset(r: Raft, term: int) -> None:
    assert term >= r.term
    if term != r.term:
        r.term = term
        r.vote = 0
    r.leader = 0
    r.election_elapsed = r.heartbeat_elapsed = 0
    r.randomized_timeout = r.config.election_tick + r.random.randrange(r.config.election_tick)
    r.transferee = 0
    r.votes.clear()
    r.read_only.reset()
    r.forwarded_reads.reset()
    r.forwarded_entries.clear()
    r.appends_due = False


def become_follower(r: Raft, term: int, leader: int) -> None:
    """Follow `leader` (0: unknown yet) in `term`."""
    _reset(r, term)
    r.role = Role.FOLLOWER
    r.leader = leader


def become_leader(r: Raft) -> None:
    """Lead the current term, beginning with an empty entry (sections 5.2, 8)."""
    assert r.role is Role.CANDIDATE and r.vote == r.id, (r.role, r.vote)
    _reset(r, r.term)
    r.role = Role.LEADER
    r.leader = r.id
    log = r.log
    r.tracker.reset(log.last_index + 1)
    own = r.tracker.progress[r.id]
    own.match = log.stable_index
    own.recent_active = True
    # A conf change may be among the entries inherited: allow no other before they are applied.
    r.pending_conf_index = log.last_index
    r.term_start = log.append([(r.term, NORMAL, b"")])
    r.appends_due = True
    assert r.commit_index < r.term_start == log.last_index


def is_promotable(r: Raft) -> bool:
    """Whether this member may campaign: a voter whose log is whole."""
    return r.tracker.is_voter(r.id) and not r.log.snapshot_pending


# -- time ----------------------------------------------------------------------------------------


def tick_election(r: Raft) -> None:
    """One tick of anyone but the leader."""
    r.election_elapsed += 1
    if r.election_elapsed >= r.randomized_timeout:
        campaign(r, transfer=False)
        if r.leader:
            # It may not campaign, but the leader is gone all the same.
            become_follower(r, r.term, 0)


def tick_leader(r: Raft) -> bool:
    """One tick of the leader; returns whether heartbeats are due."""
    r.election_elapsed += 1
    r.heartbeat_elapsed += 1
    if r.transferee:
        r.transfer_elapsed += 1
        if r.transfer_elapsed >= r.config.election_tick:
            r.transferee = 0  # Thesis 3.10: resume if it has not worked within a time-out.
    if r.election_elapsed >= r.config.election_tick:
        r.election_elapsed = 0
        if r.config.check_quorum:
            if not r.tracker.quorum_active():
                become_follower(r, r.term, 0)
                return False
            r.tracker.clear_active(r.id)
    if r.heartbeat_elapsed < r.config.heartbeat_tick:
        return False
    r.heartbeat_elapsed = 0
    return True


# -- campaigns -----------------------------------------------------------------------------------


def campaign(r: Raft, *, transfer: bool) -> None:
    """Begin an election: a pre-vote if configured and the leader has not asked for it. Does
    nothing on a leader, a non-voter, or while a committed conf change waits to be applied (an
    old configuration's majority need not meet that of the configuration after the next)."""
    if r.role is Role.LEADER or not is_promotable(r) or r.log.has_unapplied_conf_change():
        return
    if r.config.pre_vote and not transfer:
        _reset(r, r.term)
        r.role = Role.PRE_CANDIDATE
        r.votes[r.id] = True
        _request_votes(r, MessageKind.PRE_VOTE, r.term + 1, 0)
        _count_votes(r)
    else:
        _start_election(r, FORCE_VOTE if transfer else 0)


def _start_election(r: Raft, context: int) -> None:
    _reset(r, r.term + 1)
    r.role = Role.CANDIDATE
    r.vote = r.id  # Counted in persisted_vote().
    _request_votes(r, MessageKind.VOTE, r.term, context)


def _request_votes(r: Raft, kind: MessageKind, term: int, context: int) -> None:
    log = r.log
    out = r.messages_after if kind is MessageKind.VOTE else r.messages
    for voter in r.tracker.voters():
        if voter != r.id:
            out.append(
                Message(
                    kind,
                    voter,
                    r.id,
                    term,
                    log_term=log.last_term,
                    index=log.last_index,
                    context=context,
                )
            )


def persisted_vote(r: Raft, term: int, vote: int) -> None:
    """A hard state with this term and vote is durable: a candidate's own vote now counts."""
    if r.role is Role.CANDIDATE and term == r.term and vote == r.id:
        r.votes[r.id] = True
        _count_votes(r)


def _count_votes(r: Raft) -> None:
    result = r.tracker.vote_result(r.votes)
    if result is VoteResult.LOST:
        become_follower(r, r.term, 0)
    elif result is VoteResult.WON:
        if r.role is Role.PRE_CANDIDATE:
            _start_election(r, 0)
        elif r.votes.get(r.id):
            # A voter leads only once its own vote is durable, whatever the others say.
            become_leader(r)


# -- terms and votes -----------------------------------------------------------------------------


def step_higher_term(r: Raft, m: Message) -> bool:
    """A message of a later term (section 5.1). Returns whether to go on with it."""
    kind = m.kind
    if kind in (MessageKind.PRE_VOTE, MessageKind.VOTE):
        if m.context != FORCE_VOTE and _in_lease(r):
            return False
        if kind == MessageKind.PRE_VOTE:
            return True
    elif kind == MessageKind.PRE_VOTE_RESPONSE and not m.reject:
        return True  # The term asked for, which nobody has entered.
    elapsed, timeout, role = r.election_elapsed, r.randomized_timeout, r.role
    become_follower(r, m.term, m.from_ if kind in _FROM_LEADER else 0)
    if kind == MessageKind.VOTE and role is Role.FOLLOWER:
        # Section 5.2: only granting a vote restarts the time-out, so that a candidate that
        # cannot win does not hold back one that can.
        r.election_elapsed, r.randomized_timeout = elapsed, timeout
    return True


def _in_lease(r: Raft) -> bool:
    """Whether a leader was heard of within the minimum election time-out (thesis 4.2.3)."""
    return r.config.check_quorum and r.leader != 0 and r.election_elapsed < r.config.election_tick


def step_lower_term(r: Raft, m: Message) -> None:
    """A message of an earlier term: requests are refused, which tells the sender our term; a
    leader that a member with a later term cannot follow would otherwise never learn of it."""
    answer = {
        MessageKind.APPEND: MessageKind.APPEND_RESPONSE,
        MessageKind.HEARTBEAT: MessageKind.APPEND_RESPONSE,
        MessageKind.SNAPSHOT: MessageKind.APPEND_RESPONSE,
        MessageKind.VOTE: MessageKind.VOTE_RESPONSE,
        MessageKind.PRE_VOTE: MessageKind.PRE_VOTE_RESPONSE,
    }.get(m.kind)
    if answer in (MessageKind.VOTE_RESPONSE, MessageKind.PRE_VOTE_RESPONSE):
        r.messages.append(_answer_vote(r, m, r.term, reject=True))
    elif answer is not None:
        r.messages.append(Message(answer, m.from_, r.id, r.term, index=m.index, reject=True))


def handle_vote(r: Raft, m: Message) -> None:
    """VOTE and PRE_VOTE of this term (or, PRE_VOTE, a later one): sections 5.2 and 5.4.1."""
    pre = m.kind == MessageKind.PRE_VOTE
    free = r.vote == m.from_ or (r.vote == 0 and r.leader == 0) or (pre and m.term > r.term)
    if not (free and r.log.is_up_to_date(m.index, m.log_term)):
        r.messages.append(_answer_vote(r, m, r.term, reject=True))
    elif pre:
        r.messages.append(_answer_vote(r, m, m.term, reject=False))
    else:
        r.vote = m.from_
        r.election_elapsed = 0
        r.messages_after.append(_answer_vote(r, m, r.term, reject=False))


def _answer_vote(r: Raft, m: Message, term: int, *, reject: bool) -> Message:
    """Every answer says what is committed here. Without that, a candidate that has, but does not
    know to be committed, the change that removed a former leader could need that member's vote
    forever, while the other, its log being longer and itself no voter, neither gives it nor
    campaigns."""
    pre = m.kind == MessageKind.PRE_VOTE
    commit = r.log.commit_index
    commit_term = r.log.term_at(commit)
    assert commit_term is not None, "the log reaches back to what is committed"
    return Message(
        MessageKind.PRE_VOTE_RESPONSE if pre else MessageKind.VOTE_RESPONSE,
        m.from_,
        r.id,
        term,
        log_term=commit_term,
        commit=commit,
        reject=reject,
    )


def _learn_commit(r: Raft, m: Message) -> None:
    """An answer to a vote tells of a committed entry. If it is here, all up to it is committed
    here as well; a candidate then gives up if that changes the configuration."""
    log = r.log
    if r.role is Role.LEADER or m.commit <= log.commit_index:
        return
    if log.matches(m.commit, m.log_term):
        log.commit_to(m.commit)
        if r.role is not Role.FOLLOWER and log.has_unapplied_conf_change():
            become_follower(r, r.term, 0)


def handle_vote_response(r: Raft, m: Message) -> None:
    """An answer to a VOTE of this term."""
    _learn_commit(r, m)
    if r.role is Role.CANDIDATE:
        r.votes.setdefault(m.from_, not m.reject)
        _count_votes(r)


def handle_pre_vote_response(r: Raft, m: Message) -> None:
    """An answer to a PRE_VOTE; a grant carries the term asked for."""
    _learn_commit(r, m)
    if r.role is Role.PRE_CANDIDATE and (m.reject or m.term == r.term + 1):
        r.votes.setdefault(m.from_, not m.reject)
        _count_votes(r)


# -- transfer (thesis 3.10) ----------------------------------------------------------------------


def transfer_leadership(r: Raft, target: int) -> None:
    """Hand leadership to `target`: bring its log up to date, then tell it to campaign. Proposals
    are refused meanwhile; another target replaces the first. Forwarded by a follower. Raises
    ProposalDropped without a leader, or if the target is not a voter."""
    if r.role is not Role.LEADER:
        if not r.leader:
            raise ProposalDropped(DropReason.NO_LEADER)
        r.messages.append(Message(MessageKind.TRANSFER_LEADER, r.leader, r.id, context=target))
        return
    if not r.tracker.is_voter(target):
        raise ProposalDropped(DropReason.NOT_VOTER, f"{target:x}")
    if target == r.id:
        r.transferee = 0
        return
    if target == r.transferee:
        return
    r.transferee = target
    r.transfer_elapsed = 0
    pr = r.tracker.progress[target]
    if pr.match == r.log.last_index:
        send_timeout_now(r)
    else:
        pr.probe_sent = False
        pr.must_ask = True
        r.appends_due = True


def send_timeout_now(r: Raft) -> None:
    """Tell the transferee, whose log is complete, to campaign at once."""
    r.messages.append(Message(MessageKind.TIMEOUT_NOW, r.transferee, r.id, r.term))


def handle_transfer_leader(r: Raft, m: Message) -> None:
    """A follower forwards a transfer; one that is refused is dropped."""
    if r.role is Role.LEADER and m.from_ in r.tracker.progress:
        try:
            transfer_leadership(r, m.context)
        except ProposalDropped:
            return


def handle_timeout_now(r: Raft, m: Message) -> None:
    """The leader hands over to this member."""
    if r.role is Role.FOLLOWER and r.leader in (0, m.from_):
        campaign(r, transfer=True)
