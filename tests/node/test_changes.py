"""The line of conf changes: one at a time, nobody forgotten, no lie when a copy comes twice."""

from __future__ import annotations

from random import Random

import pytest

from kvstore.errors import (
    MEMBER_NOT_ENOUGH_STARTED,
    REQUEST_TOO_MANY_REQUESTS,
    STOPPED,
    TIMEOUT,
    EtcdError,
)
from kvstore.membership import changes
from kvstore.membership.cluster import MemberInfo
from kvstore.node.bootstrap import FIRST_HARD_STATE, first_position
from kvstore.node.changes import MAX_WAITING, RETRY_S, ChangeQueue, build, read, request_id_of
from kvstore.node.request import HEADER, Kind
from raft import (
    CONF_CHANGE,
    ConfChange,
    ConfChangeType,
    Config,
    Message,
    MessageKind,
    Raft,
    Role,
    decode_conf_change,
    encode_conf_change,
)

Results = list[bytes | EtcdError]


def adding(member_id: int, request_id: int, *, learner: bool = False) -> ConfChange:
    info = MemberInfo(member_id, "", (f"http://{member_id}",), (), learner)
    return build(Kind.MEMBER_ADD, request_id, changes.encode_add(info, 1))


def raft_of(voters: tuple[int, ...]) -> Raft:
    """Member 1 of a new cluster."""
    return Raft(
        Config(1),
        hard_state=FIRST_HARD_STATE,
        snapshot=first_position(voters),
        entries=[],
        applied=1,
        random=Random(1),
    )


def settle(raft: Raft) -> list[Message]:
    """Carry out everything, as a disk and state machine without delay; return what was sent."""
    sent: list[Message] = []
    while raft.has_ready():
        ready = raft.ready()
        sent += ready.messages
        if ready.token:
            raft.persisted(ready.token)
        sent += ready.messages_after
        for _, kind, data in ready.committed:
            if kind == CONF_CHANGE:
                raft.apply_conf_change(decode_conf_change(data))
        if ready.committed:
            raft.applied_to(ready.committed_first + len(ready.committed) - 1)
    return sent


def lone_leader() -> Raft:
    raft = raft_of((1,))
    raft.campaign()
    settle(raft)
    assert raft.role is Role.LEADER
    return raft


def follower_of_2() -> Raft:
    raft = raft_of((1, 2, 3))
    raft.step(Message(MessageKind.HEARTBEAT, 1, 2, term=2, commit=1))
    settle(raft)
    assert raft.leader == 2
    return raft


def in_log(raft: Raft) -> list[int]:
    """Request ids of the conf changes in a log, in order."""
    entries = raft.log.slice(raft.first_index, raft.last_index + 1, 1 << 30)
    return [
        request_id_of(decode_conf_change(data)) for _, kind, data in entries if kind == CONF_CHANGE
    ]


def forwarded(messages: list[Message]) -> list[int]:
    """Request ids of the conf changes in PROPOSE messages."""
    return [
        request_id_of(decode_conf_change(entry[2]))
        for message in messages
        if message.kind == MessageKind.PROPOSE
        for entry in message.entries
    ]


@pytest.mark.parametrize(
    ("kind", "body", "change"),
    [
        (
            Kind.MEMBER_ADD,
            changes.encode_add(MemberInfo(7, "", ("http://a",)), 1),
            (ConfChangeType.ADD_VOTER, 7),
        ),
        (
            Kind.MEMBER_ADD,
            changes.encode_add(MemberInfo(7, "", ("http://a",), (), True), 1),
            (ConfChangeType.ADD_LEARNER, 7),
        ),
        (Kind.MEMBER_REMOVE, changes.encode_id(2**64 - 1), (ConfChangeType.REMOVE, 2**64 - 1)),
        (Kind.MEMBER_PROMOTE, changes.encode_id(7), (ConfChangeType.ADD_VOTER, 7)),
    ],
)
def test_record_says_what_raft_does(
    kind: Kind, body: bytes, change: tuple[ConfChangeType, int]
) -> None:
    built = build(kind, 99, body)
    assert built.changes == (change,)
    assert request_id_of(built) == 99
    assert read(encode_conf_change(built)) == built


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        encode_conf_change(ConfChange()),
        encode_conf_change(ConfChange(((ConfChangeType.REMOVE, 1),))),
        encode_conf_change(
            ConfChange(
                ((ConfChangeType.REMOVE, 1),),
                context=HEADER.pack(Kind.MEMBER_REMOVE, 1) + changes.encode_id(2),
            )
        ),
        encode_conf_change(
            ConfChange(
                ((ConfChangeType.REMOVE, 1),), context=HEADER.pack(Kind.MEMBER_REMOVE, 1) + b"[]"
            )
        ),
        encode_conf_change(
            ConfChange(((ConfChangeType.ADD_VOTER, 1),), context=HEADER.pack(Kind.PUT, 1) + b"{}")
        ),
    ],
)
def test_forwarded_change_that_contradicts_itself_is_not_taken(data: bytes) -> None:
    assert read(data) is None


@pytest.mark.parametrize("member_id", [0, 2**64, -1])
def test_id_out_of_range_is_no_change(member_id: int) -> None:
    with pytest.raises(ValueError, match="member id"):
        build(Kind.MEMBER_REMOVE, 1, changes.encode_id(member_id))


def test_leader_proposes_one_change_after_the_other() -> None:
    """The second waits until the first is applied; neither is dropped."""
    raft, queue = lone_leader(), ChangeQueue()
    for member_id in (2, 3):
        queue.add(adding(member_id, member_id * 10, learner=True), lambda result: None)
    queue.start(raft, 0.0)
    queue.start(raft, 0.0)
    assert in_log(raft) == [20]
    settle(raft)
    queue.start(raft, 0.0)
    assert in_log(raft) == [20], "applied by Raft, but not reported yet"
    assert queue.applied(20) is not None
    queue.start(raft, 0.0)
    assert in_log(raft) == [20, 30]


def test_change_asked_of_a_new_leader_waits_for_its_first_entry() -> None:
    raft, queue = raft_of((1,)), ChangeQueue()
    queue.add(adding(2, 20), lambda result: None)
    queue.start(raft, 0.0)
    raft.campaign()
    ready = raft.ready()  # its own vote is on the way to the disk
    queue.start(raft, 0.0)
    assert in_log(raft) == []
    raft.persisted(ready.token)
    queue.start(raft, 0.0)
    assert in_log(raft) == [], "nothing of its term is committed yet"
    settle(raft)
    queue.start(raft, 0.0)
    assert in_log(raft) == [20]


def test_follower_sends_again_what_is_not_applied_in_time() -> None:
    raft, queue = follower_of_2(), ChangeQueue()
    queue.add(adding(4, 40), lambda result: None)
    queue.start(raft, 10.0)
    assert forwarded(settle(raft)) == [40]
    queue.start(raft, 10.0 + RETRY_S / 2)
    assert forwarded(settle(raft)) == []
    queue.start(raft, 10.0 + RETRY_S)
    assert forwarded(settle(raft)) == [40]
    queue.leader_changed()
    queue.start(raft, 10.0 + RETRY_S)
    assert forwarded(settle(raft)) == [40]


def test_copies_of_a_forwarded_change_stand_in_line_once() -> None:
    raft, queue = lone_leader(), ChangeQueue()
    for _ in range(3):
        queue.forwarded(adding(2, 20, learner=True))
        queue.start(raft, 0.0)
    settle(raft)
    queue.start(raft, 0.0)
    assert in_log(raft) == [20]


def test_line_of_a_deposed_leader_is_left_to_those_who_asked() -> None:
    raft, queue = lone_leader(), ChangeQueue()
    queue.forwarded(adding(2, 20, learner=True))
    queue.leader_changed()
    queue.start(raft, 0.0)
    assert in_log(raft) == []


def test_asker_that_left_is_forgotten() -> None:
    raft, queue = lone_leader(), ChangeQueue()
    first = queue.add(adding(2, 20, learner=True), lambda result: None)
    second = queue.add(adding(3, 30, learner=True), lambda result: None)
    queue.start(raft, 0.0)
    queue.forget(first)
    queue.forget(second)
    settle(raft)
    assert queue.applied(20) is None
    queue.start(raft, 0.0)
    assert in_log(raft) == [20], "what is in the log stays, what waited does not"
    assert len(queue) == 0


def test_removal_of_the_last_voter_is_refused() -> None:
    raft, queue = lone_leader(), ChangeQueue()
    results: Results = []
    queue.add(build(Kind.MEMBER_REMOVE, 10, changes.encode_id(1)), results.append)
    queue.add(adding(2, 20, learner=True), results.append)
    queue.start(raft, 0.0)
    assert results == [MEMBER_NOT_ENOUGH_STARTED]
    assert in_log(raft) == [20]


def test_waiting_changes_are_bounded() -> None:
    queue, raft = ChangeQueue(), lone_leader()
    for number in range(MAX_WAITING):
        queue.add(adding(number + 2, number + 1), lambda result: None)
    with pytest.raises(EtcdError) as caught:
        queue.add(adding(999, 999), lambda result: None)
    assert caught.value is REQUEST_TOO_MANY_REQUESTS
    for number in range(MAX_WAITING + 10):
        queue.forwarded(adding(number + 2000, number + 2000))
    queue.start(raft, 0.0)
    assert len(queue._line) <= 2 * MAX_WAITING


def test_snapshot_leaves_open_what_was_sent_and_keeps_the_rest() -> None:
    raft, queue = follower_of_2(), ChangeQueue()
    sent: Results = []
    waiting: Results = []
    queue.add(adding(4, 40), sent.append)
    queue.start(raft, 0.0)
    queue.add(adding(5, 50), waiting.append)
    queue.swallowed()
    assert (sent, waiting) == ([TIMEOUT], [])
    queue.stop(STOPPED)
    assert (sent, waiting) == ([TIMEOUT], [STOPPED])
