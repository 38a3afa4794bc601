"""`step` takes whatever a network brings: strangers, removed members, nonsense. It never raises,
and nothing that is committed gives way."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raft_builder import ack, append, elected, make, settle, terms_of

from raft import (
    CONF_CHANGE,
    ConfState,
    Message,
    MessageKind,
    Raft,
    Role,
    SnapshotMeta,
)

K = MessageKind
small = st.integers(-1, 8)
entries = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 2), st.binary(max_size=12)), max_size=3
)
snapshots = st.none() | st.builds(
    SnapshotMeta,
    small,
    small,
    st.builds(ConfState, st.sampled_from([(), (1, 2, 3), (4,)]), st.sampled_from([(), (1,)])),
)
messages = st.builds(
    Message,
    st.sampled_from(MessageKind),
    st.sampled_from([1, 1, 1, 2]),
    st.integers(-1, 5),
    term=small,
    log_term=small,
    index=small,
    entries=entries,
    commit=small,
    reject=st.booleans(),
    reject_hint=small,
    context=small,
    snapshot=snapshots,
)


@pytest.mark.parametrize("role", list(Role))
@settings(max_examples=150, deadline=None)
@given(st.lists(messages, max_size=12))
def test_no_message_whatsoever_raises_or_undoes_a_commit(
    role: Role, received: list[Message]
) -> None:
    raft = make(log=(1, 1, 2), commit=2, applied=2, pre_vote=role is Role.PRE_CANDIDATE)
    if role is Role.LEADER:
        elected(raft)
    elif role is not Role.FOLLOWER:
        raft.campaign()
    assert raft.role is role
    commit = raft.commit_index
    for message in received:
        raft.step(message)
        settle(raft)
        assert raft.commit_index >= commit
        commit = raft.commit_index
        if raft.first_index == 1:
            assert terms_of(raft)[:2] == [1, 1]


def test_an_unknown_kind_is_ignored() -> None:
    raft = make()
    raft.step(Message(99, 1, 2, term=5))  # type: ignore[arg-type]
    assert (raft.term, settle(raft)) == (0, [])


def test_a_message_for_another_or_from_oneself_is_ignored() -> None:
    raft = make()
    raft.step(Message(K.HEARTBEAT, 2, 3, term=5))
    raft.step(Message(K.HEARTBEAT, 1, 1, term=5))
    assert raft.term == 0


@pytest.mark.parametrize("kind", [K.APPEND_RESPONSE, K.HEARTBEAT_RESPONSE, K.PROPOSE, K.READ_INDEX])
def test_a_stranger_neither_commits_nor_proposes_nor_reads(kind: MessageKind) -> None:
    leader = elected(make(voters=(1,)))  # Which needs nobody else to commit or to read.
    settle(leader)
    entry = [(0, 0, b"x")]
    term = 0 if kind in (K.PROPOSE, K.READ_INDEX) else leader.term
    leader.step(Message(kind, 1, 9, term, index=1, context=1, entries=entry))
    assert (leader.last_index, leader.has_ready(), settle(leader)) == (1, False, [])


def test_scenario_17813_a_strangers_acknowledgements_do_not_count() -> None:
    leader = elected(make())
    for stranger in (7, 8, 9):
        ack(leader, stranger)
    assert leader.commit_index == 0


def test_votes_of_strangers_do_not_count() -> None:
    raft = make()
    raft.campaign()
    settle(raft)
    for stranger in (7, 8, 9):
        raft.step(Message(K.VOTE_RESPONSE, 1, stranger, raft.term))
    assert raft.role is Role.CANDIDATE


def test_a_stranger_can_be_voted_for() -> None:
    """The configuration here may be behind (section 6)."""
    raft = make()
    raft.step(Message(K.VOTE, 1, 9, term=1))
    (response,) = settle(raft)
    assert not response.reject


def test_an_acknowledgement_of_entries_never_sent_is_ignored() -> None:
    leader = elected(make())
    leader.step(Message(K.APPEND_RESPONSE, 1, 2, leader.term, index=50))
    assert leader.commit_index == 0
    ack(leader, 2)
    assert leader.commit_index == 1


def test_an_append_that_contradicts_a_committed_entry_is_ignored() -> None:
    raft = make(log=(1, 1, 1), commit=3)
    raft.step(append(raft, 0, 0, 1, 2, 2, 2))
    assert (terms_of(raft), settle(raft)) == ([1, 1, 1], [])


def test_an_append_that_begins_before_what_is_committed_is_taken_from_there_on() -> None:
    raft = make(log=(1, 1, 1), commit=2)
    raft.step(append(raft, 0, 0, 1, 1, 2, 2))
    (response,) = settle(raft)
    assert (terms_of(raft), response.index) == ([1, 1, 2, 2], 4)


def test_an_append_all_of_which_is_committed_is_acknowledged_as_far_as_that_goes() -> None:
    raft = make(log=(1, 1, 1), commit=3)
    raft.step(append(raft, 0, 0, 1))
    (response,) = settle(raft)
    assert (response.reject, response.index) == (False, 3)


def test_an_append_with_terms_out_of_order_is_ignored() -> None:
    raft = make(log=(2,))
    raft.step(append(raft, 1, 2, 1, term=3))
    raft.step(append(raft, 1, 2, 4, term=3))
    raft.step(append(raft, 1, 4, 4, term=3))
    assert (terms_of(raft), settle(raft)) == ([2], [])


def test_a_second_leader_in_the_same_term_is_ignored() -> None:
    raft = make()
    raft.step(append(raft, 0, 0, 1, leader=2))
    settle(raft)
    raft.step(append(raft, 0, 0, leader=3))
    assert (raft.leader, settle(raft)) == (2, [])


def test_a_heartbeat_that_commits_more_than_is_here_commits_nothing() -> None:
    raft = make(log=(1, 1))
    raft.step(Message(K.HEARTBEAT, 1, 2, term=1, commit=7))
    assert raft.commit_index == 0


@pytest.mark.parametrize("conf", [ConfState((2, 3)), ConfState(), ConfState((), learners=(1,))])
def test_a_snapshot_of_a_cluster_without_this_member_is_not_installed(conf: ConfState) -> None:
    raft = make()
    raft.step(Message(K.SNAPSHOT, 1, 2, term=1, snapshot=SnapshotMeta(9, 1, conf)))
    assert raft.ready().snapshot is None and raft.last_index == 0


@pytest.mark.parametrize(
    "entries",
    [
        [(0, CONF_CHANGE, b"nonsense")],
        [(0, CONF_CHANGE, b"")],
        [(0, 7, b"unknown kind")],
        [(0, CONF_CHANGE, b"\0\0\0"), (0, 0, b"x")],
    ],
)
def test_a_forwarded_proposal_that_makes_no_sense_is_dropped(
    entries: list[tuple[int, int, bytes]],
) -> None:
    leader = elected(make())
    ack(leader, 2)
    leader.step(Message(K.PROPOSE, 1, 2, entries=entries))
    assert leader.last_index == 1


def test_requests_to_a_member_that_does_not_lead_are_dropped() -> None:
    raft: Raft = make(term=1)
    raft.step(Message(K.HEARTBEAT, 1, 2, term=1))
    settle(raft)
    raft.step(Message(K.PROPOSE, 1, 3, entries=[(0, 0, b"x")]))
    raft.step(Message(K.READ_INDEX, 1, 3, context=1))
    raft.step(Message(K.TRANSFER_LEADER, 1, 3, context=3))
    assert (raft.last_index, settle(raft)) == (0, [])


def test_timeout_now_from_anyone_but_the_leader_is_ignored() -> None:
    raft = make(term=1)
    raft.step(Message(K.HEARTBEAT, 1, 2, term=1))
    raft.step(Message(K.TIMEOUT_NOW, 1, 3, term=1))
    assert raft.role is Role.FOLLOWER
