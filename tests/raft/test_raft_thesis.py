"""Rules from Ongaro's thesis beyond the paper: transfer (3.10), disruptive servers (4.2.3),
clients and CheckQuorum (6.2), ReadIndex (6.4), PreVote (9.6)."""

import pytest
from raft_builder import ELECTION_TICK, ack, answer, append, elected, make, of_kind, settle
from raft_cluster import Cluster

from raft import (
    FORCE_VOTE,
    ConfState,
    DropReason,
    Message,
    MessageKind,
    ProposalDropped,
    Raft,
    ReadIndexDropped,
    Role,
)

K = MessageKind


# -- 3.10 Leadership transfer --------------------------------------------------------------------


def test_3_10_an_up_to_date_target_is_told_at_once_and_campaigns_without_pre_vote() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.transfer(1, 2)
    cluster.run(20)
    leader = cluster.leader()
    assert leader is not None and leader.id == 2
    assert cluster.members[1].up.leader == 2


def test_3_10_a_target_that_lags_is_brought_up_to_date_first() -> None:
    leader = elected(make())
    leader.propose([b"a"])
    settle(leader)
    leader.transfer_leadership(3)
    assert of_kind(settle(leader), K.TIMEOUT_NOW) == []
    assert [m.to for m in of_kind(ack(leader, 3), K.TIMEOUT_NOW)] == [3]


def test_3_10_proposals_are_refused_during_a_transfer() -> None:
    leader = elected(make())
    leader.transfer_leadership(3)
    with pytest.raises(ProposalDropped) as refusal:
        leader.propose([b"a"])
    assert refusal.value.reason is DropReason.TRANSFERRING


def test_3_10_a_transfer_is_given_up_after_an_election_time_out() -> None:
    leader = elected(make())
    leader.transfer_leadership(3)
    for _ in range(ELECTION_TICK):
        assert leader.transferee == 3
        leader.tick()
    assert leader.transferee == 0
    leader.propose([b"a"])
    assert leader.last_index == 2


def test_3_10_another_target_replaces_the_first_and_oneself_ends_the_transfer() -> None:
    leader = elected(make())
    leader.transfer_leadership(3)
    leader.transfer_leadership(2)
    assert [m.to for m in of_kind(ack(leader, 2), K.TIMEOUT_NOW)] == [2]
    leader.transfer_leadership(1)
    assert leader.transferee == 0


@pytest.mark.parametrize("target", [4, 9])
def test_3_10_only_a_voter_can_be_given_leadership(target: int) -> None:
    """CLU-14, MNT-28."""
    leader = elected(make(conf=ConfState((1, 2, 3), learners=(4,))))
    with pytest.raises(ProposalDropped) as refusal:
        leader.transfer_leadership(target)
    assert refusal.value.reason is DropReason.NOT_VOTER


def test_3_10_a_follower_forwards_a_transfer_and_refuses_it_without_leader() -> None:
    follower = make(2, term=1)
    with pytest.raises(ProposalDropped) as refusal:
        follower.transfer_leadership(3)
    assert refusal.value.reason is DropReason.NO_LEADER
    follower.step(Message(K.HEARTBEAT, 2, 1, term=1))
    follower.transfer_leadership(3)
    (message,) = of_kind(settle(follower), K.TRANSFER_LEADER)
    assert (message.to, message.context) == (1, 3)


def test_3_10_the_transfers_votes_override_the_lease() -> None:
    voter = make(1, term=1, check_quorum=True)
    voter.step(Message(K.HEARTBEAT, 1, 3, term=1))
    settle(voter)
    voter.step(Message(K.VOTE, 1, 2, term=2, context=FORCE_VOTE))
    (response,) = settle(voter)
    assert (response.reject, voter.vote) == (False, 2)


# -- 4.2.3 Disruptive servers --------------------------------------------------------------------


@pytest.mark.parametrize("kind", [K.VOTE, K.PRE_VOTE])
def test_4_2_3_a_member_that_hears_its_leader_ignores_candidates(kind: MessageKind) -> None:
    follower = make(term=1, check_quorum=True)
    follower.step(Message(K.HEARTBEAT, 1, 3, term=1))
    settle(follower)
    for _ in range(ELECTION_TICK - 1):
        follower.tick()
    follower.step(Message(kind, 1, 2, term=9))
    assert (settle(follower), follower.term, follower.leader) == ([], 1, 3)
    follower.config = make().config  # Without CheckQuorum there is no lease.
    follower.step(Message(kind, 1, 2, term=9))
    assert len(settle(follower)) == 1


def test_4_2_3_the_lease_ends_with_the_minimum_election_time_out() -> None:
    follower = make(term=1, check_quorum=True, seed=3)
    follower.step(Message(K.HEARTBEAT, 1, 3, term=1))
    assert follower.randomized_timeout > ELECTION_TICK
    for _ in range(ELECTION_TICK):
        follower.tick()
    follower.step(Message(K.VOTE, 1, 2, term=9))
    assert (follower.term, follower.vote) == (9, 2)


def test_4_2_3_a_leader_ignores_candidates_while_it_holds_a_quorum() -> None:
    leader = elected(make(check_quorum=True))
    leader.step(Message(K.VOTE, 1, 2, term=9, index=9, log_term=9))
    assert (leader.role, leader.term, settle(leader)) == (Role.LEADER, 1, [])


def test_4_2_3_a_removed_member_does_not_disturb() -> None:
    cluster = Cluster(3, pre_vote=False)
    cluster.elect(1)
    term = cluster.members[1].up.term
    for _ in range(3):
        cluster.campaign(3)
        for member in (1, 2):
            cluster.tick(member)
        cluster.cut = {(1, 3)}  # It hears nothing, as if removed.
        cluster.run(5)
    assert cluster.members[1].up.role is Role.LEADER
    assert cluster.members[2].up.term == term


# -- 6.2 CheckQuorum -----------------------------------------------------------------------------


def test_6_2_a_leader_that_hears_no_quorum_steps_down() -> None:
    """RFT-12."""
    leader = elected(make(check_quorum=True))
    for _ in range(ELECTION_TICK):
        leader.tick()
    assert (leader.role, leader.leader) == (Role.FOLLOWER, 0)


def test_6_2_a_leader_that_hears_a_quorum_stays() -> None:
    leader = elected(make(check_quorum=True))
    for _ in range(5 * ELECTION_TICK):
        leader.step(Message(K.HEARTBEAT_RESPONSE, 1, 2, leader.term))
        leader.tick()
    assert leader.role is Role.LEADER


def test_6_2_learners_and_strangers_do_not_make_a_quorum() -> None:
    leader = elected(make(conf=ConfState((1, 2, 3), learners=(4,)), check_quorum=True))
    for _ in range(ELECTION_TICK):
        for member in (4, 9):
            leader.step(Message(K.HEARTBEAT_RESPONSE, 1, member, leader.term))
        leader.tick()
    assert leader.role is Role.FOLLOWER


def test_6_2_a_member_with_a_later_term_can_come_back() -> None:
    """Without the refusal that tells the leader of the later term, the member would ignore the
    leader, and everyone else the member, for ever."""
    cluster = Cluster(3, pre_vote=False)
    cluster.elect(1)
    cluster.partition({3})
    for _ in range(3):
        cluster.campaign(3)
        cluster.run(3)
    assert cluster.members[3].up.term > cluster.members[1].up.term
    cluster.assert_progress()


# -- 6.4 ReadIndex -------------------------------------------------------------------------------


def test_6_4_a_read_needs_a_heartbeat_round_that_left_after_it() -> None:
    """RFT-02."""
    leader = elected(make())
    ack(leader, 2)
    leader.tick()
    (early, _) = of_kind(settle(leader), K.HEARTBEAT)
    leader.read_index(5)
    (late, _) = of_kind(settle(leader), K.HEARTBEAT)
    leader.step(answer(early, K.HEARTBEAT_RESPONSE, context=early.context))
    assert leader.ready().read_states == []
    leader.step(answer(late, K.HEARTBEAT_RESPONSE, context=late.context))
    assert leader.ready().read_states == [(5, leader.commit_index)]


def test_6_4_reads_that_arrive_together_share_a_round() -> None:
    """RFT-02."""
    leader = elected(make())
    ack(leader, 2)
    for context in (1, 2, 3):
        leader.read_index(context)
    leader.step(Message(K.READ_INDEX, 1, 3, context=77))
    rounds = of_kind(settle(leader), K.HEARTBEAT)
    assert len(rounds) == 2
    leader.step(answer(rounds[0], K.HEARTBEAT_RESPONSE, context=rounds[0].context))
    ready = leader.ready()
    assert ready.read_states == [(1, 1), (2, 1), (3, 1)]
    assert [(m.to, m.context, m.index) for m in of_kind(ready.messages, K.READ_INDEX_RESPONSE)] == [
        (3, 77, 1)
    ]


def test_6_4_a_later_round_confirms_earlier_ones_and_no_answer_counts_for_two_members() -> None:
    leader = elected(make(voters=(1, 2, 3, 4, 5)))
    ack(leader, 2)
    ack(leader, 3)
    leader.read_index(1)
    settle(leader)
    leader.read_index(2)
    request = of_kind(settle(leader), K.HEARTBEAT)[0]
    confirmation = answer(request, K.HEARTBEAT_RESPONSE, context=request.context)
    for _ in range(3):
        leader.step(confirmation)
    assert leader.ready().read_states == []
    confirmation.from_ = 3
    leader.step(confirmation)
    assert leader.ready().read_states == [(1, 1), (2, 1)]


def test_6_4_an_answer_to_an_earlier_round_does_not_confirm_a_later_one() -> None:
    leader = elected(make())
    ack(leader, 2)
    requests = []
    for context in (1, 2):
        leader.read_index(context)
        requests.append(of_kind(settle(leader), K.HEARTBEAT)[0])
    for request, states in zip(requests, ([(1, 1)], [(2, 1)]), strict=True):
        leader.step(answer(request, K.HEARTBEAT_RESPONSE, context=request.context))
        assert leader.ready().read_states == states


def test_6_4_an_answer_to_a_round_never_sent_confirms_nothing() -> None:
    leader = elected(make())
    ack(leader, 2)
    leader.read_index(1)
    settle(leader)
    leader.step(Message(K.HEARTBEAT_RESPONSE, 1, 2, leader.term, context=99))
    assert leader.ready().read_states == []


def test_6_4_the_only_voter_reads_at_once() -> None:
    leader = elected(make(voters=(1,)))
    leader.read_index(4)
    assert leader.ready().read_states == [(4, 1)]


def test_6_4_a_lost_round_is_made_good_by_the_next_heartbeat() -> None:
    """RFT-03."""
    leader = elected(make())
    ack(leader, 2)
    leader.read_index(1)
    settle(leader)
    leader.tick()
    request = of_kind(settle(leader), K.HEARTBEAT)[0]
    leader.step(answer(request, K.HEARTBEAT_RESPONSE, context=request.context))
    assert leader.ready().read_states == [(1, 1)]


def test_6_4_a_deposed_leader_drops_its_reads() -> None:
    leader = elected(make())
    ack(leader, 2)
    leader.read_index(1)
    request = of_kind(settle(leader), K.HEARTBEAT)[0]
    leader.step(append(leader, 1, 1, leader=3, term=leader.term + 1))
    leader.step(answer(request, K.HEARTBEAT_RESPONSE, context=request.context))
    assert leader.ready().read_states == []
    with pytest.raises(ReadIndexDropped):
        make().read_index(1)


def _reading_follower() -> tuple[Raft, Message]:
    follower = make(2, term=1)
    follower.step(Message(K.HEARTBEAT, 2, 1, term=1))
    for context in (10, 11):
        follower.read_index(context)
    (request,) = of_kind(settle(follower), K.READ_INDEX)
    return follower, request


def test_6_4_a_followers_reads_travel_as_one_request_and_are_answered_once() -> None:
    follower, request = _reading_follower()
    response = Message(K.READ_INDEX_RESPONSE, 2, 1, 1, index=6, context=request.context)
    follower.step(response)
    follower.step(response)
    assert follower.ready().read_states == [(10, 6), (11, 6)]


def test_6_4_an_answer_from_before_a_restart_finds_nobody_waiting() -> None:
    """The member's own numbering begins anew, so contexts alone could serve a later read."""
    _, request = _reading_follower()
    restarted = make(2, term=1, seed=2)
    restarted.step(Message(K.HEARTBEAT, 2, 1, term=1))
    restarted.read_index(10)
    settle(restarted)
    restarted.step(Message(K.READ_INDEX_RESPONSE, 2, 1, 1, index=6, context=request.context))
    assert restarted.ready().read_states == []


def test_6_4_a_followers_reads_are_dropped_when_the_leader_changes() -> None:
    """RFT-04."""
    follower, request = _reading_follower()
    follower.step(Message(K.HEARTBEAT, 2, 3, term=2))
    follower.step(Message(K.READ_INDEX_RESPONSE, 2, 3, 2, index=6, context=request.context))
    assert follower.ready().read_states == []


def test_6_4_a_leader_cut_off_serves_no_stale_read() -> None:
    """RFT-01, JEP-15."""
    cluster = Cluster(3, check_quorum=False)
    cluster.elect(1)
    cluster.partition({1})
    cluster.read(1)
    cluster.elect(2)
    cluster.propose(2)
    cluster.run(10)
    cluster.read(1)
    cluster.cut = set()
    for _ in range(5):
        cluster.tick(1)
        cluster.run(10)
    assert cluster.reads_served == 0
    assert cluster.members[1].up.role is Role.FOLLOWER


# -- 9.6 PreVote ---------------------------------------------------------------------------------


def test_9_6_a_pre_vote_changes_no_term_and_no_vote_on_either_side() -> None:
    """RFT-12."""
    candidate = make(1, term=4, pre_vote=True)
    candidate.campaign()
    requests = settle(candidate)
    assert [(m.kind, m.term) for m in requests] == [(K.PRE_VOTE, 5)] * 2
    assert (candidate.term, candidate.vote, candidate.role) == (4, 0, Role.PRE_CANDIDATE)
    voter = make(2, term=4, vote=3)
    voter.step(requests[0])
    ready = voter.ready()
    assert [(m.kind, m.reject, m.term) for m in ready.messages] == [(K.PRE_VOTE_RESPONSE, False, 5)]
    assert (voter.term, voter.vote, ready.token) == (4, 3, 0)


def test_9_6_a_majority_of_pre_votes_begins_the_election() -> None:
    candidate = make(pre_vote=True, term=4)
    candidate.campaign()
    request = settle(candidate)[0]
    candidate.step(answer(request, K.PRE_VOTE_RESPONSE))
    assert (candidate.role, candidate.term, candidate.vote) == (Role.CANDIDATE, 5, 1)


def test_9_6_a_pre_vote_won_in_an_earlier_term_does_not_count() -> None:
    candidate = make(pre_vote=True, term=4)
    candidate.campaign()
    request = settle(candidate)[0]
    candidate.step(Message(K.HEARTBEAT, 1, 2, term=5))
    candidate.campaign()
    candidate.step(answer(request, K.PRE_VOTE_RESPONSE, term=5))
    assert (candidate.role, candidate.term) == (Role.PRE_CANDIDATE, 5)


@pytest.mark.parametrize(("index", "log_term"), [(1, 2), (9, 1)])
def test_9_6_a_pre_vote_needs_an_up_to_date_log(index: int, log_term: int) -> None:
    voter = make(log=(1, 2))
    voter.step(Message(K.PRE_VOTE, 1, 2, term=9, index=index, log_term=log_term))
    (response,) = settle(voter)
    assert (response.reject, response.term) == (True, 2)


def test_9_6_a_member_that_returns_from_a_partition_disturbs_nobody() -> None:
    cluster = Cluster(3, check_quorum=False)
    cluster.elect(1)
    term = cluster.members[1].up.term
    cluster.partition({3})
    for _ in range(5):
        cluster.campaign(3)
        cluster.run(3)
    assert cluster.members[3].up.term == term
    cluster.cut = set()
    cluster.tick(1)
    cluster.run(10)
    assert [m.up.leader for m in cluster.members.values()] == [1, 1, 1]
    assert cluster.members[1].up.term == term


@pytest.mark.parametrize("check_quorum", [True, False])
def test_9_6_mixed_terms_and_log_lengths_elect_a_leader(check_quorum: bool) -> None:
    """A member with a later term but a shorter log, one with the longer log and an earlier term:
    the first cannot win, the second must learn of the later term to win."""
    cluster = Cluster(3, check_quorum=check_quorum)
    cluster.elect(1)
    cluster.partition({3})
    cluster.propose(1, 3)
    cluster.run(10)
    lagging = cluster.members[3].up
    lagging.step(Message(K.TIMEOUT_NOW, 3, 1, lagging.term))
    lagging.step(Message(K.TIMEOUT_NOW, 3, 2, lagging.term + 3))
    cluster.run(3)
    assert lagging.term > cluster.members[1].up.term
    cluster.crash(1)
    cluster.cut = set()
    for _ in range(60):
        for member in (2, 3):
            cluster.tick(member)
        cluster.run(10)
    leader = cluster.leader()
    assert leader is not None and leader.id == 2
