"""The rules of the Raft paper (extended version), one by one, in its order.

Each test names the section and, where it is short, the sentence. The other members are played by
the test; test_raft_scripts.py and test_raft_schedules.py let real ones talk.
"""

import pytest
from raft_builder import (
    ELECTION_TICK,
    ack,
    answer,
    append,
    carry_out,
    elected,
    make,
    of_kind,
    settle,
    terms_of,
)

from raft import ConfState, Message, MessageKind, Raft, Role, SnapshotMeta

K = MessageKind


# -- 5.1 Raft basics -----------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_5_1_a_larger_term_is_taken_over_and_makes_a_follower(role: Role) -> None:
    raft = make()
    if role is Role.CANDIDATE:
        raft.campaign()
    elif role is Role.LEADER:
        elected(raft)
    assert raft.role is role
    raft.step(Message(K.APPEND, 1, 2, term=9))
    assert (raft.role, raft.term, raft.leader) == (Role.FOLLOWER, 9, 2)


@pytest.mark.parametrize("kind", [K.APPEND, K.HEARTBEAT, K.VOTE, K.PRE_VOTE, K.SNAPSHOT])
def test_5_1_a_request_with_a_stale_term_is_rejected_with_the_current_one(kind: K) -> None:
    raft = make(term=5)
    raft.step(Message(kind, 1, 2, term=4))
    (refusal,) = settle(raft)
    assert (refusal.reject, refusal.term, refusal.to) == (True, 5, 2)
    assert (raft.term, raft.leader, raft.vote) == (5, 0, 0)


def test_5_1_an_answer_with_a_stale_term_is_ignored() -> None:
    raft = make(term=1)
    raft.campaign()
    settle(raft)
    raft.step(Message(K.VOTE_RESPONSE, 1, 2, term=1))
    assert raft.role is Role.CANDIDATE


# -- 5.2 Leader election -------------------------------------------------------------------------


def test_5_2_a_member_starts_as_follower() -> None:
    assert make(term=3, log=(1, 3)).role is Role.FOLLOWER


def test_5_2_a_leader_sends_heartbeats_to_all_every_heartbeat_tick() -> None:
    leader = elected(make(heartbeat_tick=2))
    leader.tick()
    assert settle(leader) == []
    leader.tick()
    assert [m.to for m in of_kind(settle(leader), K.HEARTBEAT)] == [2, 3]


def test_5_2_a_follower_that_hears_from_its_leader_does_not_campaign() -> None:
    raft = make(term=1)
    for _ in range(5 * ELECTION_TICK):
        raft.step(Message(K.HEARTBEAT, 1, 2, term=1))
        raft.tick()
    assert (raft.role, raft.leader) == (Role.FOLLOWER, 2)


@pytest.mark.parametrize("start", [Role.FOLLOWER, Role.CANDIDATE])
def test_5_2_a_time_out_begins_an_election(start: Role) -> None:
    """ "To begin an election, a follower increments its current term and transitions to candidate
    state. It then votes for itself and issues RequestVote RPCs in parallel." """
    raft = make(term=1)
    if start is Role.CANDIDATE:
        raft.campaign()
        settle(raft)
    before = raft.term
    for _ in range(2 * ELECTION_TICK):
        raft.tick()
        if raft.term > before:
            break
    messages = settle(raft)
    assert (raft.term, raft.role, raft.vote) == (before + 1, Role.CANDIDATE, 1)
    assert [(m.kind, m.to, m.term) for m in messages] == [
        (K.VOTE, 2, before + 1),
        (K.VOTE, 3, before + 1),
    ]


def test_5_2_time_outs_are_spread_over_the_whole_interval() -> None:
    seen = {make(seed=seed).randomized_timeout for seed in range(400)}
    assert seen == set(range(ELECTION_TICK, 2 * ELECTION_TICK))


def test_5_2_time_outs_are_drawn_anew_for_each_election() -> None:
    raft = make()
    drawn = set()
    for _ in range(50):
        raft.campaign()
        drawn.add(raft.randomized_timeout)
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("voters", "grants", "refusals", "role"),
    [
        ((1,), 0, 0, Role.LEADER),
        ((1, 2, 3), 0, 1, Role.CANDIDATE),
        ((1, 2, 3), 1, 0, Role.LEADER),
        ((1, 2, 3), 0, 2, Role.FOLLOWER),
        ((1, 2, 3, 4, 5), 1, 2, Role.CANDIDATE),
        ((1, 2, 3, 4, 5), 2, 2, Role.LEADER),
        ((1, 2, 3, 4, 5), 1, 3, Role.FOLLOWER),
        ((1, 2, 3, 4), 1, 0, Role.CANDIDATE),
    ],
)
def test_5_2_a_majority_decides_an_election(
    voters: tuple[int, ...], grants: int, refusals: int, role: Role
) -> None:
    raft = make(voters=voters)
    raft.campaign()
    requests = settle(raft)
    for at, request in enumerate(requests[: grants + refusals]):
        raft.step(answer(request, K.VOTE_RESPONSE, reject=at >= grants))
    assert raft.role is role


def test_5_2_a_vote_counts_once_and_cannot_be_changed() -> None:
    raft = make(voters=(1, 2, 3, 4, 5))
    raft.campaign()
    request = settle(raft)[0]
    for reject in (False, False, True, False):
        raft.step(answer(request, K.VOTE_RESPONSE, reject=reject))
    assert raft.role is Role.CANDIDATE


@pytest.mark.parametrize(("vote", "granted"), [(0, True), (2, True), (3, False)])
def test_5_2_one_vote_in_a_term_first_come_first_served(vote: int, granted: bool) -> None:
    raft = make(term=1, vote=vote)
    raft.step(Message(K.VOTE, 1, 2, term=1))
    (response,) = settle(raft)
    assert response.reject is not granted
    assert raft.vote == (2 if granted else 3)


@pytest.mark.parametrize("term", [2, 3])
def test_5_2_a_candidate_recognizes_a_leader_of_its_term_or_later(term: int) -> None:
    raft = make(term=1)
    raft.campaign()
    raft.step(Message(K.APPEND, 1, 3, term=term))
    assert (raft.role, raft.leader, raft.term) == (Role.FOLLOWER, 3, term)


def test_5_2_granting_a_vote_restarts_the_time_out_and_refusing_one_does_not() -> None:
    raft = make(log=(1, 1))
    for _ in range(ELECTION_TICK - 1):
        raft.tick()
    raft.step(Message(K.VOTE, 1, 2, term=2, index=1, log_term=1))
    assert raft.election_elapsed == ELECTION_TICK - 1
    raft.step(Message(K.VOTE, 1, 3, term=2, index=2, log_term=1))
    assert raft.election_elapsed == 0


# -- 5.3 Log replication -------------------------------------------------------------------------


def test_5_3_a_proposal_is_appended_and_sent_in_parallel_with_its_predecessor() -> None:
    leader = elected(make())
    ack(leader, 2)
    ack(leader, 3)
    leader.propose([b"a", b"b"])
    ready = leader.ready()
    assert (ready.first_index, [e[2] for e in ready.entries]) == (2, [b"a", b"b"])
    assert [(m.to, m.index, m.log_term, list(m.entries)) for m in ready.messages] == [
        (2, 1, 1, [(1, 0, b"a"), (1, 0, b"b")]),
        (3, 1, 1, [(1, 0, b"a"), (1, 0, b"b")]),
    ]


@pytest.mark.parametrize(
    ("voters", "acks", "committed"),
    [
        ((1,), [], True),
        ((1, 2, 3), [], False),
        ((1, 2, 3), [2], True),
        ((1, 2, 3, 4), [2], False),
        ((1, 2, 3, 4), [2, 3], True),
        ((1, 2, 3, 4, 5), [2], False),
        ((1, 2, 3, 4, 5), [3, 5], True),
    ],
)
def test_5_3_an_entry_is_committed_once_a_majority_has_it(
    voters: tuple[int, ...], acks: list[int], committed: bool
) -> None:
    leader = elected(make(voters=voters))
    leader.propose([b"a"])
    settle(leader)
    for member in acks:
        ack(leader, member)
    assert (leader.commit_index == leader.last_index) is committed


@pytest.mark.parametrize("log", [(), (2,), (1, 2), (1,)])
def test_5_3_committing_an_entry_commits_all_before_it(log: tuple[int, ...]) -> None:
    leader = elected(make(log=log, term=2))
    leader.propose([b"a"])
    settle(leader)
    ack(leader, 2)
    assert leader.commit_index == len(log) + 2 == leader.applied_index


def test_5_3_the_leader_tells_followers_what_is_committed() -> None:
    leader = elected(make())
    leader.propose([b"a"])
    settle(leader)
    ack(leader, 3)
    notices = of_kind(ack(leader, 2), K.APPEND)
    assert {m.to: m.commit for m in notices} == {2: 2}
    leader.tick()
    assert {m.to: m.commit for m in of_kind(settle(leader), K.HEARTBEAT)} == {2: 2, 3: 2}


def test_5_3_a_follower_applies_what_the_leader_committed_in_log_order() -> None:
    raft = make()
    raft.step(append(raft, 0, 0, 1, 1, 1, commit=2))
    ready = raft.ready()
    assert ready.committed == []  # Not durable yet.
    carry_out(raft, ready)
    ready = raft.ready()
    assert (ready.committed_first, [e[2] for e in ready.committed]) == (1, [b"1.1", b"2.1"])


@pytest.mark.parametrize(
    ("prev", "prev_term", "accepted"),
    [
        (0, 0, True),
        (1, 1, True),
        (2, 2, True),
        (1, 2, False),
        (2, 1, False),
        (3, 2, False),
    ],
)
def test_5_3_an_append_that_does_not_fit_is_refused(
    prev: int, prev_term: int, accepted: bool
) -> None:
    """ "If the follower does not find an entry in its log with the same index and term, then it
    refuses the new entries." """
    raft = make(log=(1, 2))
    raft.step(append(raft, prev, prev_term, term=2))
    (response,) = settle(raft)
    assert response.reject is not accepted
    assert response.index == prev


@pytest.mark.parametrize(
    ("prev", "prev_term", "terms", "log"),
    [
        (2, 2, (3,), [1, 2, 3]),
        (1, 1, (3, 4), [1, 3, 4]),
        (0, 0, (1,), [1, 2]),
        (0, 0, (3,), [3]),
        (0, 0, (1, 2, 3), [1, 2, 3]),
        (1, 1, (2,), [1, 2]),
        (1, 1, (), [1, 2]),
    ],
)
def test_5_3_conflicting_entries_are_replaced_and_others_kept(
    prev: int, prev_term: int, terms: tuple[int, ...], log: list[int]
) -> None:
    raft = make(log=(1, 2))
    raft.step(append(raft, prev, prev_term, *terms, term=4))
    settle(raft)
    assert terms_of(raft) == log


@pytest.mark.parametrize(
    "log",
    [
        (1, 1, 1, 4, 4, 5, 5, 6, 6),
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    ],
)
def test_5_3_figure_7_every_follower_is_brought_into_line(log: tuple[int, ...]) -> None:
    leader = elected(make(1, voters=(1, 2), log=(1, 1, 1, 4, 4, 5, 5, 6, 6, 6), term=7, vote=0))
    follower = make(2, voters=(1, 2), log=log, term=leader.term, vote=1)
    leader.step(Message(K.HEARTBEAT_RESPONSE, 1, 2, leader.term))
    leader.tick()
    for _ in range(8):
        for message in settle(leader):
            follower.step(message)
        for message in settle(follower):
            leader.step(message)
    assert terms_of(follower) == terms_of(leader) == [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]
    assert follower.commit_index == leader.commit_index == 11


def test_5_3_a_refusal_skips_a_whole_term() -> None:
    """ "The follower can include the term of the conflicting entry and the first index it stores
    for that term." A log with 100 useless entries of one term costs one more round trip."""
    leader = elected(make(1, voters=(1, 2), log=(1,) + (3,) * 100, term=3))
    follower = make(2, voters=(1, 2), log=(1,) + (2,) * 150, term=leader.term, vote=1)
    leader.step(
        Message(
            K.APPEND_RESPONSE,
            1,
            2,
            leader.term,
            index=101,
            reject=True,
            reject_hint=101,
            log_term=2,
        )
    )
    trips = 0
    while follower.last_index != leader.last_index or follower.log.last_term != leader.term:
        trips += 1
        for message in settle(leader):
            follower.step(message)
        for message in settle(follower):
            leader.step(message)
        assert trips < 4
    assert terms_of(follower) == terms_of(leader)


def test_5_3_a_leader_never_overwrites_or_deletes_its_own_entries() -> None:
    leader = elected(make(log=(1, 1)))
    before = terms_of(leader)
    leader.step(append(leader, 0, 0, 2, leader=3, term=leader.term))
    assert leader.role is Role.LEADER and terms_of(leader) == before


# -- 5.4 Safety ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "index", "log_term", "granted"),
    [
        ((1,), 1, 1, True),
        ((1,), 2, 1, True),
        ((1, 1), 1, 1, False),
        ((1,), 1, 2, True),
        ((1, 1), 1, 2, True),
        ((2,), 2, 1, False),
        ((1, 2), 1, 1, False),
        ((1, 1), 0, 0, False),
        ((), 0, 0, True),
    ],
)
def test_5_4_1_a_vote_goes_only_to_a_log_at_least_as_up_to_date(
    log: tuple[int, ...], index: int, log_term: int, granted: bool
) -> None:
    raft = make(log=log)
    raft.step(Message(K.VOTE, 1, 2, term=3, index=index, log_term=log_term))
    (response,) = settle(raft)
    assert (response.kind, response.reject, response.term) == (K.VOTE_RESPONSE, not granted, 3)


def test_5_4_1_a_candidate_shows_its_last_entry() -> None:
    raft = make(log=(1, 3, 4))
    raft.campaign()
    assert {(m.index, m.log_term, m.term) for m in settle(raft)} == {(3, 4, 5)}


def test_5_4_2_entries_of_earlier_terms_are_not_committed_by_counting() -> None:
    """Figure 8: (c) the old entry on a majority is not committed; (e) one of the own term is."""
    leader = elected(make(log=(1, 2), term=2))
    for index in (1, 2):
        ack(leader, 2, index)
        ack(leader, 3, index)
        assert leader.commit_index == 0
    ack(leader, 2, 3)
    assert leader.commit_index == 3


def test_5_4_2_an_old_entry_on_a_majority_waits_for_a_new_one_on_a_majority() -> None:
    leader = elected(make(voters=(1, 2, 3, 4, 5), log=(1, 2), term=2))
    for member, index, commit in ((2, 2, 0), (3, 2, 0), (4, 3, 0), (5, 3, 3)):
        ack(leader, member, index)
        assert leader.commit_index == commit


def test_5_4_2_a_follower_commits_only_what_the_append_vouches_for() -> None:
    """ "If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new
    entry)": what follows it in the log may be another leader's (figure 2)."""
    raft = make(log=(1, 1, 1))
    raft.step(append(raft, 1, 1, term=2, commit=3))
    settle(raft)
    assert raft.commit_index == 1


# -- 5.5 Follower and candidate crashes ----------------------------------------------------------


def test_5_5_an_append_received_twice_changes_nothing() -> None:
    raft = make()
    message = append(raft, 0, 0, 1, 1, 1, commit=1)
    for _ in range(2):
        raft.step(message)
        (response,) = of_kind(settle(raft), K.APPEND_RESPONSE)
        assert (response.index, response.reject) == (3, False)
    assert (terms_of(raft), raft.commit_index) == ([1, 1, 1], 1)


def test_5_5_an_older_append_does_not_take_back_newer_entries() -> None:
    raft = make()
    older, newer = append(raft, 0, 0, 1), append(raft, 1, 1, 1, 1)
    for message in (older, newer, older):
        raft.step(message)
    settle(raft)
    assert terms_of(raft) == [1, 1, 1]


# -- 6 Cluster membership changes: see test_raft_confchange.py -----------------------------------
# -- 7 Log compaction ----------------------------------------------------------------------------


def test_7_a_follower_that_needs_compacted_entries_gets_a_snapshot() -> None:
    leader = _compacted_leader()
    leader.step(Message(K.APPEND_RESPONSE, 1, 3, leader.term, index=3, reject=True))
    (message,) = settle(leader)
    assert message.kind is K.SNAPSHOT and message.snapshot is not None
    assert (message.snapshot.index, message.snapshot.term) == (leader.applied_index, leader.term)
    assert message.snapshot.conf_state == leader.conf_state


def _compacted_leader() -> Raft:
    leader = elected(make(log=(1, 1, 1)))
    ack(leader, 2)
    leader.compact(leader.applied_index)
    leader.propose([b"x"])
    settle(leader)
    return leader


@pytest.mark.parametrize("ok", [True, False])
def test_7_nothing_is_sent_to_a_follower_while_its_snapshot_is_under_way(ok: bool) -> None:
    leader = _compacted_leader()
    leader.step(Message(K.APPEND_RESPONSE, 1, 3, leader.term, index=3, reject=True))
    settle(leader)
    leader.propose([b"y"])
    leader.step(Message(K.HEARTBEAT_RESPONSE, 1, 3, leader.term))
    assert [m.to for m in settle(leader)] == [2]
    leader.report_snapshot(3, ok)
    leader.tick()
    settle(leader)
    leader.step(Message(K.HEARTBEAT_RESPONSE, 1, 3, leader.term))
    (message,) = settle(leader)
    assert message.kind is (K.APPEND if ok else K.SNAPSHOT)
    if ok:
        assert message.index == leader.first_index - 1


def test_7_a_follower_with_the_snapshots_file_is_streamed_to_again() -> None:
    leader = _compacted_leader()
    leader.step(Message(K.APPEND_RESPONSE, 1, 3, leader.term, index=3, reject=True))
    settle(leader)
    messages = ack(leader, 3, leader.applied_index)
    assert [(m.kind, m.to, m.index) for m in messages] == [(K.APPEND, 3, 4)]


def test_7_a_snapshot_replaces_the_whole_log() -> None:
    raft = make(log=(1, 1, 1), commit=1)
    meta = SnapshotMeta(9, 2, ConfState((1, 2, 3), learners=(4,)))
    raft.step(Message(K.SNAPSHOT, 1, 2, term=2, snapshot=meta))
    ready = raft.ready()
    assert (ready.snapshot, ready.entries, ready.messages) == (meta, [], [])
    assert ready.token > 0 and ready.hard_state is not None and ready.hard_state.commit == 9
    (response,) = ready.messages_after
    assert (response.kind, response.index, response.reject) == (K.APPEND_RESPONSE, 9, False)
    assert (raft.first_index, raft.last_index, raft.commit_index) == (10, 9, 9)
    assert raft.conf_state == meta.conf_state


def test_7_a_snapshot_of_a_prefix_keeps_the_entries_after_it() -> None:
    """ "If the follower receives a snapshot that describes a prefix of its log [...] entries
    following the snapshot are still valid and must be retained." """
    raft = make(log=(1, 2, 2, 2), commit=1)
    meta = SnapshotMeta(3, 2, ConfState((1, 2, 3)))
    raft.step(Message(K.SNAPSHOT, 1, 2, term=2, snapshot=meta))
    messages = settle(raft)
    assert terms_of(raft) == [1, 2, 2, 2] and raft.commit_index == 3
    assert [(m.kind, m.index) for m in messages] == [(K.APPEND_RESPONSE, 3)]


def test_7_an_old_snapshot_is_answered_with_what_is_committed() -> None:
    raft = make(log=(1, 1, 1), commit=3)
    meta = SnapshotMeta(2, 1, ConfState((1, 2, 3)))
    raft.step(Message(K.SNAPSHOT, 1, 2, term=1, snapshot=meta))
    ready = raft.ready()
    assert ready.snapshot is None
    assert [(m.kind, m.index) for m in ready.messages] == [(K.APPEND_RESPONSE, 3)]


# -- 8 Client interaction ------------------------------------------------------------------------


def test_8_a_leader_begins_its_term_with_an_empty_entry() -> None:
    leader = elected(make(log=(1,), term=3))
    assert leader.log.slice(2, 3, 1) == [(4, 0, b"")]


def test_8_a_read_waits_until_the_leader_has_committed_in_its_term() -> None:
    """ "The Leader Completeness Property guarantees that a leader has all committed entries, but
    at the start of its term, it may not know which those are."
    RFT-01."""
    leader = elected(make(log=(1, 1)))
    leader.read_index(7)
    assert settle(leader) == []
    messages = ack(leader, 2)
    rounds = of_kind(messages, K.HEARTBEAT)
    assert [m.to for m in rounds] == [2, 3]
    leader.step(answer(rounds[0], K.HEARTBEAT_RESPONSE, context=rounds[0].context))
    assert leader.ready().read_states == [(7, 3)]
