"""Flow control and batching: how many messages, how big, and what makes good a lost one; and the
limits of the package, each reached once."""

import pytest
from raft_builder import ack, answer, elected, make, of_kind, settle

from raft import (
    ENTRY_OVERHEAD,
    MAX_COMMITTED_BYTES,
    MAX_FORWARDED_BATCHES,
    MAX_PENDING_READS,
    NO_ANSWER,
    Config,
    DropReason,
    Message,
    MessageKind,
    ProgressState,
    ProposalDropped,
    Raft,
    ReadIndexDropped,
)

K = MessageKind


def streaming_leader(**options: object) -> Raft:
    """A leader whose two followers are in step."""
    leader = elected(make(**options))  # type: ignore[arg-type]
    ack(leader, 2)
    ack(leader, 3)
    return leader


def state_of(leader: Raft, member: int) -> ProgressState:
    progress = leader.progress(member)
    assert progress is not None
    return progress.state


def test_many_proposals_make_one_append_for_each_follower() -> None:
    leader = streaming_leader()
    for at in range(50):
        leader.propose([b"%d" % at])
    ready = leader.ready()
    assert [(m.kind, m.to, len(m.entries)) for m in ready.messages] == [
        (K.APPEND, 2, 50),
        (K.APPEND, 3, 50),
    ]
    assert ready.messages[0].entries is ready.messages[1].entries is ready.entries


def test_appends_are_streamed_without_waiting_for_answers() -> None:
    leader = streaming_leader()
    prevs = []
    for _ in range(3):
        leader.propose([b"x"])
        prevs += [m.index for m in settle(leader) if m.to == 2]
    assert prevs == [1, 2, 3]


def test_a_commit_notice_asks_for_no_answer_and_gets_none() -> None:
    leader = streaming_leader()
    leader.propose([b"x"])
    settle(leader)
    (notice,) = [m for m in ack(leader, 3) if m.to == 2]
    assert (notice.kind, notice.entries, notice.context) == (K.APPEND, (), NO_ANSWER)
    follower = make(2, log=(1, 1))
    follower.step(notice)
    assert (settle(follower), follower.commit_index) == ([], 2)
    gap = make(3, log=(1,))
    notice.to = 3
    gap.step(notice)
    assert [m.reject for m in settle(gap)] == [True]


def test_max_inflight_messages_bounds_the_window_until_answers_come() -> None:
    leader = streaming_leader(max_inflight_messages=3)
    sent = 0
    for _ in range(6):
        leader.propose([b"x"])
        sent += sum(m.to == 2 for m in of_kind(settle(leader), K.APPEND))
    assert sent == 3
    (message,) = [m for m in of_kind(ack(leader, 2, 4), K.APPEND) if m.to == 2]
    assert len(message.entries) == 3


def test_max_message_bytes_splits_appends() -> None:
    leader = streaming_leader(max_message_bytes=100)
    leader.propose([bytes(40)] * 5 + [bytes(400)])
    sizes = [len(m.entries) for m in settle(leader) if m.kind is K.APPEND and m.to == 2]
    assert sizes == [2, 2, 1, 1]


def test_probing_sends_one_append_until_it_is_answered() -> None:
    leader = elected(make())
    for _ in range(3):
        leader.propose([b"x"])
        assert of_kind(settle(leader), K.APPEND) == []  # The first one is still out.
    assert state_of(leader, 2) is ProgressState.PROBE
    (message,) = [m for m in ack(leader, 2, 1) if m.to == 2 and m.entries]
    assert len(message.entries) == 3 and state_of(leader, 2) is ProgressState.REPLICATE


def test_a_lost_probe_is_sent_again_after_an_answered_heartbeat() -> None:
    leader = elected(make())
    for _ in range(3):
        leader.tick()
        (request, _) = of_kind(settle(leader), K.HEARTBEAT)
        leader.step(answer(request, K.HEARTBEAT_RESPONSE))
        leader.step(answer(request, K.HEARTBEAT_RESPONSE))  # One retry for a tick, not for each.
        assert [(m.to, len(m.entries)) for m in of_kind(settle(leader), K.APPEND)] == [(2, 1)]


def test_a_lost_append_is_noticed_and_repeated() -> None:
    leader = streaming_leader()
    leader.propose([b"x"])
    settle(leader)  # Lost.
    leader.tick()
    request = of_kind(settle(leader), K.HEARTBEAT)[0]
    leader.step(answer(request, K.HEARTBEAT_RESPONSE))
    settle(leader)
    leader.tick()
    request = of_kind(settle(leader), K.HEARTBEAT)[0]
    leader.step(answer(request, K.HEARTBEAT_RESPONSE))
    (question,) = of_kind(settle(leader), K.APPEND)
    assert (question.index, question.entries, question.context) == (2, (), 0)
    leader.step(
        answer(question, K.APPEND_RESPONSE, index=2, reject=True, reject_hint=1, log_term=1)
    )
    (again,) = of_kind(settle(leader), K.APPEND)
    assert (again.index, len(again.entries)) == (1, 1)


def test_an_answer_out_of_date_does_not_slow_down_a_stream() -> None:
    leader = streaming_leader()
    leader.propose([b"x", b"y"])
    settle(leader)
    ack(leader, 2, 3)
    for stale in (1, 3, 9):
        leader.step(
            Message(K.APPEND_RESPONSE, 1, 2, leader.term, index=stale, reject=True, reject_hint=0)
        )
    assert state_of(leader, 2) is ProgressState.REPLICATE


def test_an_unreachable_follower_is_probed_not_streamed_to() -> None:
    leader = streaming_leader()
    leader.report_unreachable(2)
    assert state_of(leader, 2) is ProgressState.PROBE
    leader.propose([b"x"])
    assert [m.to for m in settle(leader)] == [3]


def test_max_uncommitted_bytes_refuses_a_whole_batch_and_accepts_again_after_a_commit() -> None:
    room = 3 * (10 + ENTRY_OVERHEAD)
    leader = streaming_leader(max_uncommitted_bytes=room)
    leader.propose([bytes(10)] * 2)
    with pytest.raises(ProposalDropped) as refusal:
        leader.propose([bytes(10)] * 2)
    assert refusal.value.reason is DropReason.UNCOMMITTED_LIMIT
    assert leader.last_index == 3
    leader.propose([bytes(10)])
    settle(leader)
    ack(leader, 2)
    leader.propose([bytes(1000)])  # Any size if nothing waits.
    assert leader.last_index == 5


def test_max_uncommitted_bytes_bounds_what_a_follower_gathers_to_forward() -> None:
    follower = make(2, term=1, max_uncommitted_bytes=60)
    follower.step(Message(K.HEARTBEAT, 2, 1, 1))
    settle(follower)
    follower.propose([bytes(10)])
    with pytest.raises(ProposalDropped) as refusal:
        follower.propose([bytes(40)])
    assert refusal.value.reason is DropReason.UNCOMMITTED_LIMIT
    (message,) = settle(follower)
    assert (message.kind, message.to, len(message.entries)) == (K.PROPOSE, 1, 1)


def test_a_follower_forwards_proposals_gathered_and_split_by_message_size() -> None:
    """RFT-08."""
    follower = make(2, term=1, max_message_bytes=50)
    follower.step(Message(K.HEARTBEAT, 2, 1, 1))
    settle(follower)
    for at in range(3):
        follower.propose([b"%d" % at, bytes(10)])
    messages = of_kind(settle(follower), K.PROPOSE)
    assert [len(m.entries) for m in messages] == [2, 2, 2]
    leader = streaming_leader()
    for message in messages:
        leader.step(message)
    assert leader.last_index == 7


def test_without_a_leader_proposals_are_refused() -> None:
    with pytest.raises(ProposalDropped, match="no leader") as refusal:
        make().propose([b"x"])
    assert refusal.value.reason is DropReason.NO_LEADER


def test_max_committed_bytes_bounds_what_one_ready_hands_out() -> None:
    leader = elected(make(voters=(1,)))
    leader.propose([bytes(MAX_COMMITTED_BYTES // 2)] * 3)
    leader.persisted(leader.ready().token)
    counts = []
    while leader.has_ready():
        ready = leader.ready()
        counts.append(len(ready.committed))
        leader.applied_to(ready.committed_first + len(ready.committed) - 1)
    assert counts == [2, 1]


def test_max_pending_reads_bounds_reads_at_a_leader_and_at_a_follower() -> None:
    follower = make(2, term=1)
    follower.step(Message(K.HEARTBEAT, 2, 1, 1))
    for raft in (elected(make()), follower):
        for context in range(MAX_PENDING_READS):
            raft.read_index(context)
        with pytest.raises(ReadIndexDropped, match="too many"):
            raft.read_index(0)


def test_reads_served_make_room_for_others() -> None:
    leader = elected(make(voters=(1,)))
    for _ in range(3):
        for context in range(MAX_PENDING_READS):
            leader.read_index(context)
        assert len(leader.ready().read_states) == MAX_PENDING_READS


def test_max_forwarded_batches_forgets_the_oldest() -> None:
    follower = make(2, term=1)
    follower.step(Message(K.HEARTBEAT, 2, 1, 1))
    requests = []
    for context in range(MAX_FORWARDED_BATCHES + 1):
        follower.read_index(context)
        requests += of_kind(settle(follower), K.READ_INDEX)
    for request in requests[:2]:
        follower.step(
            answer(request, K.READ_INDEX_RESPONSE, term=1, index=3, context=request.context)
        )
    assert follower.ready().read_states == [(1, 3)]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"id": 0}, "id 0"),
        ({"id": 1 << 64}, "id 18446744073709551616"),
        ({"id": 1, "heartbeat_tick": 0}, "heartbeat_tick 0"),
        ({"id": 1, "election_tick": 1}, "election_tick 1"),
        ({"id": 1, "max_message_bytes": 0}, "max_message_bytes 0"),
        ({"id": 1, "max_inflight_messages": 0}, "max_inflight_messages 0"),
        ({"id": 1, "max_uncommitted_bytes": 0}, "max_uncommitted_bytes 0"),
    ],
)
def test_a_setting_out_of_range_is_named(options: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Config(**options)  # type: ignore[arg-type]


def test_a_start_state_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="applied 4"):
        make(log=(1,), applied=4)
    with pytest.raises(ValueError, match="commit 4"):
        make(log=(1,), commit=4)
