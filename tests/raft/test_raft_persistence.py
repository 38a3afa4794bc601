"""Asynchronous persistence: what counts when, while batches are on their way to the disk.

Rules: `docs/architecture.md`, raft. The paper (figure 2, "updated on stable storage before
responding to RPCs") writes before it speaks; here only messages that depend on a batch wait.
"""

from raft_builder import ack, append, carry_out, elected, make, settle, terms_of

from raft import ConfState, HardState, Message, MessageKind, Raft, Role, SnapshotMeta

K = MessageKind


def test_a_leaders_appends_leave_before_its_own_write_is_done() -> None:
    leader = elected(make())
    ack(leader, 2)
    ack(leader, 3)
    leader.propose([b"a"])
    ready = leader.ready()
    assert ready.token > 0
    assert {(m.kind, m.to) for m in ready.messages} == {(K.APPEND, 2), (K.APPEND, 3)}


def test_followers_alone_can_commit_but_nothing_is_applied_before_it_is_durable_here() -> None:
    """RFT-09, RFT-10."""
    leader = elected(make())
    leader.propose([b"a"])
    token = leader.ready().token
    for member in (2, 3):
        leader.step(Message(K.APPEND_RESPONSE, 1, member, leader.term, index=2))
    assert leader.commit_index == 2
    assert [e[2] for e in leader.ready().committed] == [b""]
    leader.persisted(token)
    assert leader.ready().committed == [(leader.term, 0, b"a")]


def test_a_leaders_own_entries_count_only_once_they_are_durable() -> None:
    leader = elected(make())
    leader.propose([b"a"])
    token = leader.ready().token
    leader.step(Message(K.APPEND_RESPONSE, 1, 2, leader.term, index=2))
    assert leader.commit_index == 1
    leader.persisted(token)
    assert leader.commit_index == 2


def test_a_single_member_leads_and_commits_only_once_it_is_durable() -> None:
    raft = make(voters=(1,), pre_vote=True)
    raft.campaign()
    vote = raft.ready()
    assert (raft.role, vote.hard_state) == (Role.CANDIDATE, HardState(1, 1, 0))
    raft.persisted(vote.token)
    assert raft.role is Role.LEADER
    entry = raft.ready()
    assert (raft.commit_index, entry.committed) == (0, [])
    raft.persisted(entry.token)
    assert raft.ready().committed == [(1, 0, b"")]


def test_a_candidate_waits_for_its_own_vote_even_if_the_others_suffice() -> None:
    raft = make()
    raft.campaign()
    token = raft.ready().token
    for member in (2, 3):
        raft.step(Message(K.VOTE_RESPONSE, 1, member, 1))
    assert raft.role is Role.CANDIDATE
    raft.persisted(token)
    assert raft.role is Role.LEADER


def test_requests_for_votes_and_votes_leave_after_the_batch_that_holds_them() -> None:
    raft = make()
    raft.campaign()
    ready = raft.ready()
    assert ready.messages == [] and {m.kind for m in ready.messages_after} == {K.VOTE}
    voter = make(2)
    voter.step(ready.messages_after[0])
    ready = voter.ready()
    assert ready.messages == [] and ready.token == 1
    assert [m.kind for m in ready.messages_after] == [K.VOTE_RESPONSE]
    assert ready.hard_state == HardState(1, 1, 0)


def test_an_acknowledgement_waits_for_the_batch_that_holds_the_entries() -> None:
    follower = make()
    follower.step(append(follower, 0, 0, 1, 1))
    first = follower.ready()
    assert first.messages == []
    assert [(m.kind, m.index) for m in first.messages_after] == [(K.APPEND_RESPONSE, 2)]
    follower.step(append(follower, 0, 0, 1, 1))  # The same again: nothing new to write.
    again = follower.ready()
    assert (again.token, again.entries, again.messages) == (0, [], [])
    assert [m.index for m in again.messages_after] == [2]  # Depends on the first token.
    follower.persisted(first.token)
    follower.step(append(follower, 0, 0, 1, 1))
    assert [m.index for m in follower.ready().messages] == [2]  # Durable already: no wait.


def test_several_batches_are_under_way_and_a_later_token_covers_the_earlier() -> None:
    follower = make()
    tokens = []
    for prev in range(4):
        follower.step(append(follower, prev, min(prev, 1), 1))
        tokens.append(follower.ready().token)
    assert tokens == [1, 2, 3, 4]
    assert follower.log.stable_index == 0
    follower.persisted(2)
    assert follower.log.stable_index == 2
    follower.persisted(4)
    follower.persisted(3)  # An old report changes nothing.
    assert follower.log.stable_index == 4


def _replaced_while_writing() -> tuple[Raft, int, int]:
    """Entries 2 and 3 of term 1 are being written when term 2 replaces them."""
    follower = make()
    follower.step(append(follower, 0, 0, 1, 1, 1, commit=0))
    first = follower.ready()
    follower.step(append(follower, 1, 1, 2, 2, leader=3, commit=3))
    second = follower.ready()
    assert (second.first_index, [e[0] for e in second.entries]) == (2, [2, 2])
    return follower, first.token, second.token


def test_an_old_token_does_not_make_replaced_entries_stable() -> None:
    follower, first, second = _replaced_while_writing()
    follower.persisted(first)
    assert follower.log.stable_index == 1
    assert [e[0] for e in follower.ready().committed] == [1]
    follower.persisted(second)
    assert follower.log.stable_index == 3
    ready = follower.ready()
    assert (ready.committed_first, [e[0] for e in ready.committed]) == (2, [2, 2])
    assert terms_of(follower) == [1, 2, 2]


def test_a_replacement_handed_out_before_anything_was_durable_restarts_at_its_index() -> None:
    follower = make()
    follower.step(append(follower, 0, 0, 1, 1, 1))
    follower.step(append(follower, 1, 1, 2, leader=3))
    ready = follower.ready()
    assert (ready.first_index, [e[0] for e in ready.entries]) == (1, [1, 2])


def test_a_snapshot_outdates_batches_under_way() -> None:
    follower = make()
    follower.step(append(follower, 0, 0, *[1] * 9))
    first = follower.ready()
    meta = SnapshotMeta(5, 2, ConfState((1, 2, 3)))
    follower.step(Message(K.SNAPSHOT, 1, 3, 2, snapshot=meta))
    follower.step(append(follower, 5, 2, 2, 2, leader=3, commit=7))
    second = follower.ready()
    assert (second.snapshot, second.first_index, len(second.entries)) == (meta, 6, 2)
    follower.persisted(first.token)
    assert (follower.log.stable_index, follower.ready().committed) == (0, [])
    follower.campaign()
    assert follower.role is Role.FOLLOWER  # Its log is not whole.
    follower.persisted(second.token)
    assert follower.ready().committed_first == 6


def test_a_changed_commit_index_alone_makes_no_batch_and_rides_with_the_next() -> None:
    follower = make()
    follower.step(append(follower, 0, 0, 1))
    carry_out(follower, follower.ready())
    follower.step(Message(K.HEARTBEAT, 1, 2, 1, commit=1))
    ready = follower.ready()
    assert (ready.token, ready.hard_state, len(ready.committed)) == (0, None, 1)
    follower.step(append(follower, 1, 1, 1))
    assert follower.ready().hard_state == HardState(1, 0, 1)


def test_a_ready_is_taken_once() -> None:
    leader = elected(make())
    leader.propose([b"a"])
    assert leader.has_ready()
    leader.ready()
    assert not leader.has_ready()
    empty = leader.ready()
    assert (empty.token, empty.entries, empty.messages, empty.committed) == (0, [], [], [])


def test_a_restart_hands_out_what_was_committed_but_not_applied() -> None:
    raft = make(log=(1, 1, 1), commit=3, applied=1)
    ready = raft.ready()
    assert (ready.committed_first, len(ready.committed), ready.token) == (2, 2, 0)


def test_a_restart_trusts_the_applied_index_over_an_older_commit_index() -> None:
    raft = make(log=(1, 1, 1), commit=1, applied=3)
    assert raft.commit_index == 3 and not raft.has_ready()


def test_what_was_not_durable_at_a_crash_is_never_acknowledged() -> None:
    follower = make()
    follower.step(append(follower, 0, 0, 1))
    settle(follower)
    follower.step(append(follower, 1, 1, 1))
    lost = follower.ready()
    restarted = make(log=(1,))
    restarted.step(append(restarted, 2, 1, 1))
    (refusal,) = settle(restarted)
    assert lost.messages_after and (refusal.reject, refusal.reject_hint) == (True, 1)
