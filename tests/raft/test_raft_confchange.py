"""Membership changes: the arithmetic, its bytes, and the rules around it (section 6, thesis 4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raft_builder import ack, elected, make, of_kind, settle
from raft_cluster import Cluster

from raft import (
    CONF_CHANGE,
    MAX_CHANGES,
    ConfChange,
    ConfChangeError,
    ConfChangeType,
    ConfState,
    DropReason,
    HardState,
    Message,
    MessageKind,
    ProposalDropped,
    Raft,
    Role,
    SnapshotMeta,
    Transition,
    confchange,
    decode_conf_change,
    encode_conf_change,
)

K = MessageKind
VOTER, LEARNER, REMOVE = ConfChangeType
ids = st.integers(1, 6)
change_lists = st.lists(st.tuples(st.sampled_from(ConfChangeType), ids), max_size=5).map(tuple)
changes = st.builds(ConfChange, change_lists, st.sampled_from(Transition), st.binary(max_size=20))


def change(*parts: tuple[ConfChangeType, int], how: Transition = Transition.AUTO) -> ConfChange:
    return ConfChange(parts, how)


# -- bytes ---------------------------------------------------------------------------------------


@given(changes)
def test_a_change_survives_its_encoding(item: ConfChange) -> None:
    assert decode_conf_change(encode_conf_change(item)) == item


def test_the_bytes_are_the_documented_ones() -> None:
    item = ConfChange(((LEARNER, 0x0102),), Transition.JOINT_EXPLICIT, b"ctx")
    assert encode_conf_change(item) == bytes.fromhex("02 0001 01 0000000000000102") + b"ctx"


@given(st.binary(max_size=40))
def test_any_other_bytes_raise_value_error_or_are_an_encoding(data: bytes) -> None:
    try:
        item = decode_conf_change(data)
    except ValueError:
        return
    assert encode_conf_change(item) == data


@pytest.mark.parametrize("member", [0, -1, 1 << 64])
def test_an_id_out_of_range_is_refused(member: int) -> None:
    with pytest.raises(ValueError, match="member id"):
        encode_conf_change(change((VOTER, member)))


def test_a_change_names_at_most_max_changes_members() -> None:
    most = tuple((VOTER, member) for member in range(1, MAX_CHANGES + 1))
    assert decode_conf_change(encode_conf_change(ConfChange(most))).changes == most
    with pytest.raises(ValueError, match="more than 1024"):
        encode_conf_change(ConfChange((*most, (VOTER, 9999))))


# -- arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "after"),
    [
        (change((VOTER, 3)), ConfState((1, 2, 3))),
        (change((LEARNER, 3)), ConfState((1, 2), learners=(3,))),
        (change((LEARNER, 2)), ConfState((1,), learners=(2,))),
        (change((REMOVE, 2)), ConfState((1,))),
        (change((REMOVE, 9)), ConfState((1, 2))),
        (change((VOTER, 2)), ConfState((1, 2))),
        (
            change((VOTER, 3), (REMOVE, 1)),
            ConfState((2, 3), (1, 2), auto_leave=True),
        ),
        (
            change((VOTER, 3), how=Transition.JOINT_EXPLICIT),
            ConfState((1, 2, 3), (1, 2)),
        ),
        (
            change((VOTER, 3), (LEARNER, 2), how=Transition.JOINT_IMPLICIT),
            ConfState((1, 3), (1, 2), (), (2,), True),
        ),
        (
            change((REMOVE, 2), (LEARNER, 2), (VOTER, 2)),
            ConfState((1, 2), (1, 2), auto_leave=True),
        ),
    ],
)
def test_a_change_leads_to(item: ConfChange, after: ConfState) -> None:
    assert confchange.changed(ConfState((1, 2)), item) == after


def test_a_demoted_voter_is_a_learner_once_the_joint_configuration_is_left() -> None:
    joint = ConfState((1, 3), (1, 2), (), (2,), True)
    assert confchange.changed(joint, ConfChange()) == ConfState((1, 3), learners=(2,))


@pytest.mark.parametrize(
    ("conf", "item"),
    [
        (ConfState((1,)), change((REMOVE, 1))),
        (ConfState((1,)), change((LEARNER, 1))),
        (ConfState((1, 2)), change((REMOVE, 1), (REMOVE, 2))),
        (ConfState((1, 2)), ConfChange()),
        (ConfState((1, 2), (1,)), change((VOTER, 3))),
    ],
)
def test_a_change_that_does_not_fit_is_an_error(conf: ConfState, item: ConfChange) -> None:
    with pytest.raises(ConfChangeError):
        confchange.changed(conf, item)


@given(st.sets(ids, min_size=1), change_lists.filter(bool), st.sampled_from(Transition))
def test_majorities_before_and_after_a_change_overlap(
    voters: set[int], parts: tuple[tuple[ConfChangeType, int], ...], how: Transition
) -> None:
    """A simple change alters one voter; a joint one keeps the old voters as outgoing half."""
    before = ConfState(tuple(sorted(voters)))
    try:
        after = confchange.changed(before, ConfChange(parts, how))
    except ConfChangeError:
        return
    if after.voters_outgoing:
        assert after.voters_outgoing == before.voters
        after_leave = confchange.changed(after, ConfChange())
        assert after_leave.voters == after.voters and not after_leave.auto_leave
        assert set(after_leave.learners) == {*after.learners, *after.learners_next}
    else:
        assert len(set(before.voters) ^ set(after.voters)) <= 1
    assert not {*after.voters, *after.voters_outgoing} & set(after.learners)


# -- the rules around it -------------------------------------------------------------------------


def _settled_leader(**settings: object) -> Raft:
    leader = elected(make(**settings))  # type: ignore[arg-type]
    for member in leader.tracker.peers:
        ack(leader, member)
    return leader


def _refused(leader: Raft, item: ConfChange) -> DropReason:
    with pytest.raises(ProposalDropped) as refusal:
        leader.propose_conf_change(item)
    return refusal.value.reason


def test_a_new_leader_commits_in_its_term_before_it_changes_the_configuration() -> None:
    leader = elected(make(log=(1, 1), commit=2, applied=2, term=1))
    assert _refused(leader, change((VOTER, 4))) is DropReason.CONF_CHANGE_PENDING
    ack(leader, 2)
    leader.propose_conf_change(change((VOTER, 4)))
    assert leader.log.slice(leader.last_index, leader.last_index + 1, 1)[0][1] == CONF_CHANGE


def test_scenario_7625_one_change_at_a_time_until_it_is_applied() -> None:
    leader = _settled_leader()
    leader.propose_conf_change(change((VOTER, 4)))
    assert _refused(leader, change((VOTER, 5))) is DropReason.CONF_CHANGE_PENDING
    settle(leader)
    leader.step(Message(K.APPEND_RESPONSE, 1, 2, leader.term, index=leader.last_index))
    ready = leader.ready()
    assert ready.committed[-1][1] == CONF_CHANGE
    assert _refused(leader, change((VOTER, 5))) is DropReason.CONF_CHANGE_PENDING
    leader.apply_conf_change(decode_conf_change(ready.committed[-1][2]))
    leader.applied_to(leader.commit_index)
    leader.propose_conf_change(change((VOTER, 5)))
    assert leader.conf_state == ConfState((1, 2, 3, 4))


def test_a_change_inherited_from_an_earlier_leader_blocks_another_one() -> None:
    item = encode_conf_change(change((VOTER, 4)))
    leader = Raft(
        make().config,
        hard_state=HardState(1, 0, 0),
        snapshot=SnapshotMeta(0, 0, ConfState((1, 2, 3))),
        entries=[(1, CONF_CHANGE, item)],
        applied=0,
        random=make().random,
    )
    elected(leader)
    leader.step(Message(K.APPEND_RESPONSE, 1, 2, leader.term, index=leader.last_index))
    assert leader.commit_index == 2 and leader.applied_index == 0
    assert _refused(leader, change((VOTER, 5))) is DropReason.CONF_CHANGE_PENDING


@pytest.mark.parametrize("item", [ConfChange(), change((REMOVE, 1), (REMOVE, 2), (REMOVE, 3))])
def test_a_change_that_does_not_fit_is_refused_before_it_is_logged(item: ConfChange) -> None:
    assert _refused(_settled_leader(), item) is DropReason.CONF_CHANGE_INVALID


@pytest.mark.parametrize("item", [ConfChange(), change((REMOVE, 1), (REMOVE, 2), (REMOVE, 3))])
def test_a_change_that_does_not_fit_when_applied_alters_nothing(item: ConfChange) -> None:
    follower = make(2)
    assert follower.apply_conf_change(item) == ConfState((1, 2, 3))


def test_unknown_ids_in_a_change_do_no_harm() -> None:
    follower = make(2)
    follower.apply_conf_change(change((REMOVE, 77)))
    follower.apply_conf_change(change((LEARNER, 78)))
    assert follower.conf_state == ConfState((1, 2, 3), learners=(78,))


def test_no_campaign_while_a_committed_change_waits_to_be_applied() -> None:
    item = encode_conf_change(change((VOTER, 4)))
    follower = make(2)
    follower.step(
        Message(K.APPEND, 2, 1, 1, entries=[(1, CONF_CHANGE, item)], commit=1),
    )
    while follower.has_ready():
        ready = follower.ready()
        if ready.token:
            follower.persisted(ready.token)
    follower.campaign()
    assert follower.role is Role.FOLLOWER
    follower.apply_conf_change(change((VOTER, 4)))
    follower.applied_to(1)
    follower.campaign()
    assert {m.to for m in of_kind(settle(follower), K.VOTE)} == {1, 3, 4}


def test_learners_and_outsiders_do_not_campaign_but_learn_that_the_leader_is_gone() -> None:
    """CLU-14."""
    learner = make(4, conf=ConfState((1, 2, 3), learners=(4,)), term=1)
    learner.step(Message(K.HEARTBEAT, 4, 1, term=1))
    learner.campaign()
    assert (learner.is_learner, learner.role, learner.leader) == (True, Role.FOLLOWER, 1)
    for _ in range(20):
        learner.tick()
    assert (learner.role, learner.leader, learner.term) == (Role.FOLLOWER, 0, 1)


def test_a_learners_acknowledgement_commits_nothing() -> None:
    """CLU-14."""
    leader = elected(make(conf=ConfState((1, 2, 3), learners=(4, 5))))
    ack(leader, 4)
    ack(leader, 5)
    assert leader.commit_index == 0
    ack(leader, 2)
    assert leader.commit_index == 1


def test_joint_commits_need_both_majorities() -> None:
    joint = ConfState((1, 2, 3), (1, 4, 5))
    leader = elected(make(conf=joint))
    for member, commit in ((2, 0), (3, 0), (4, 1)):
        ack(leader, member)
        assert leader.commit_index == commit


def test_joint_elections_need_both_majorities() -> None:
    candidate = make(conf=ConfState((1, 2, 3), (1, 4, 5)))
    candidate.campaign()
    settle(candidate)
    for member, role in ((2, Role.CANDIDATE), (3, Role.CANDIDATE), (5, Role.LEADER)):
        candidate.step(Message(K.VOTE_RESPONSE, 1, member, candidate.term))
        assert candidate.role is role


def test_joint_reads_need_both_majorities() -> None:
    leader = elected(make(conf=ConfState((1, 2, 3), (1, 4, 5))))
    for member in (2, 4):
        ack(leader, member)
    leader.read_index(1)
    number = of_kind(settle(leader), K.HEARTBEAT)[0].context
    for member, states in ((2, []), (3, []), (4, [(1, 1)])):
        leader.step(Message(K.HEARTBEAT_RESPONSE, 1, member, leader.term, context=number))
        assert leader.ready().read_states == states


def test_a_joint_configuration_ends_by_itself_even_under_another_leader() -> None:
    cluster = Cluster(3, 1)
    cluster.elect(1)
    cluster.change_conf(1, change((VOTER, 4), (REMOVE, 3)))
    cluster.take_ready(1)
    cluster.run(2)
    cluster.crash(1)
    cluster.assert_progress()
    leader = cluster.leader()
    assert leader is not None and leader.conf_state == ConfState((1, 2, 4))


def test_an_explicit_joint_configuration_stays_until_it_is_told_to_end() -> None:
    cluster = Cluster(3, 1)
    leader = cluster.elect(1)
    cluster.change_conf(1, change((VOTER, 4), how=Transition.JOINT_EXPLICIT))
    cluster.run(50)
    assert leader.conf_state == ConfState((1, 2, 3, 4), (1, 2, 3))
    assert cluster.change_conf(1, ConfChange())
    cluster.run(50)
    assert leader.conf_state == ConfState((1, 2, 3, 4))


def test_a_leader_that_removes_itself_steps_down_and_the_others_go_on() -> None:
    cluster = Cluster(3)
    leader = cluster.elect(1)
    cluster.change_conf(1, change((REMOVE, 1)))
    cluster.run(50)
    assert (leader.role, leader.leader) == (Role.FOLLOWER, 0)
    leader.campaign()
    assert leader.role is Role.FOLLOWER
    cluster.assert_progress()
    successor = cluster.leader()
    assert successor is not None and successor.conf_state == ConfState((2, 3))


def test_two_members_can_lose_one_though_only_the_removed_leader_knew_it_was_committed() -> None:
    """The survivor still needs the vote of the removed leader, whose log is longer. The answer to
    its request tells it that the removal is committed."""
    cluster = Cluster(2)
    leader = cluster.elect(1)
    cluster.change_conf(1, change((REMOVE, 1)))
    cluster.propose(1)
    settled = cluster.members[2].up
    cluster.take_ready(1)
    cluster.finish_write(1)
    message, _ = cluster.network[0]
    message.entries = message.entries[:1]  # The proposal after it never arrives.
    cluster.deliver(0)
    cluster.take_ready(2)
    cluster.finish_write(2)
    cluster.partition({2})
    cluster.network, lost = [], cluster.network
    for answer, _ in lost:
        leader.step(answer)
    cluster.run(5)
    assert leader.conf_state == ConfState((2,)) and leader.last_index > settled.last_index
    assert settled.conf_state == ConfState((1, 2))
    cluster.network = []
    cluster.assert_progress()
    assert settled.role is Role.LEADER


@pytest.mark.parametrize(("commit_term", "commit"), [(1, 2), (2, 0)])
def test_scenario_38_an_answer_to_a_vote_commits_only_the_very_entry_it_names(
    commit_term: int, commit: int
) -> None:
    candidate = make(log=(1, 1), term=3)
    candidate.campaign()
    settle(candidate)
    candidate.step(Message(K.VOTE_RESPONSE, 1, 2, 4, log_term=commit_term, commit=2, reject=True))
    assert candidate.commit_index == commit


def test_shrinking_the_quorum_commits_what_waited_for_it() -> None:
    cluster = Cluster(3, check_quorum=False)
    leader = cluster.elect(1)
    cluster.crash(3)
    cluster.change_conf(1, change((REMOVE, 3)))
    cluster.run(20)
    assert leader.conf_state == ConfState((1, 2))
    cluster.change_conf(1, change((REMOVE, 2)))
    cluster.run(20)
    assert leader.conf_state == ConfState((1,))
    cluster.propose(1)
    cluster.crash(2)
    cluster.run(20)
    assert leader.commit_index == leader.last_index


def test_a_transfer_to_a_member_that_is_removed_ends() -> None:
    leader = _settled_leader()
    leader.transfer_leadership(3)
    leader.apply_conf_change(change((REMOVE, 3)))
    assert leader.transferee == 0


def test_a_new_member_is_brought_in_by_a_snapshot_with_the_configuration() -> None:
    cluster = Cluster(3, 1)
    cluster.elect(1)
    cluster.propose(1, 5)
    cluster.run(20)
    cluster.change_conf(1, change((LEARNER, 4)))
    for _ in range(5):
        cluster.tick(1)
        cluster.run(20)
    newcomer = cluster.members[4].up
    assert newcomer.is_learner and newcomer.applied_index == cluster.members[1].up.applied_index
    cluster.change_conf(1, change((VOTER, 4)))
    cluster.run(20)
    assert newcomer.conf_state == ConfState((1, 2, 3, 4))


def test_a_member_promoted_and_restarted_knows_its_configuration() -> None:
    cluster = Cluster(3, 1)
    cluster.elect(1)
    for item in (change((LEARNER, 4)), change((VOTER, 4))):
        cluster.change_conf(1, item)
        for _ in range(5):
            cluster.tick(1)
            cluster.run(20)
    for member in cluster.members:
        if member % 2:
            cluster.flush(member)
        cluster.crash(member)
    cluster.assert_progress()
    confs = {m.up.conf_state for m in cluster.members.values()}
    assert confs == {ConfState((1, 2, 3, 4))}
