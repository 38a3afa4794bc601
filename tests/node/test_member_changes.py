"""Changes of members through the whole member core, on a cluster of one."""

from __future__ import annotations

from collections.abc import Sequence

from kvstore.errors import (
    MEMBER_NOT_FOUND,
    PEER_URL_EXIST,
    REQUEST_TOO_LARGE,
    STOPPED,
    EtcdError,
)
from kvstore.membership import changes
from kvstore.membership.cluster import MemberInfo
from kvstore.node.changes import build
from kvstore.node.member import Limits, Result
from kvstore.node.request import HEADER, Kind
from kvstore.pb import rpc_pb2
from kvstore.storage.memory_backend import MemoryBackend
from raft import CONF_CHANGE, NORMAL, Message, MessageKind, encode_conf_change
from tests.node.single import MEMBER_ID, Single, is_error


class Alone(Single):
    """What it sends to learners is lost."""

    def send(self, messages: Sequence[Message] | Message) -> None:
        pass


def single() -> Single:
    """A leader whose member list names it."""
    found = Alone(MemoryBackend(), Limits())
    found.applier.cluster.add(MemberInfo(MEMBER_ID, "m", ("http://m",)), max_learners=0)
    return found


def start(cluster: Single, kind: Kind, body: bytes) -> list[Result]:
    results: list[Result] = []
    cluster.member.propose_change(kind, body, results.append)
    cluster.run()
    return results


def learner(member_id: int, url: str = "http://l") -> bytes:
    return changes.encode_add(MemberInfo(member_id, "", (url,), (), True), 1)


def test_answer_names_the_new_member_and_lists_all_and_the_next_change_follows_at_once() -> None:
    """CLU-03, CLU-15."""
    cluster = single()
    [answer] = start(cluster, Kind.MEMBER_ADD, learner(7))
    assert isinstance(answer, bytes)
    response = rpc_pb2.MemberAddResponse.FromString(answer)
    assert response.header.member_id == MEMBER_ID
    assert (response.member.ID, response.member.isLearner) == (7, True)
    assert [member.ID for member in response.members] == sorted([7, MEMBER_ID])
    assert cluster.member.raft.conf_state.learners == (7,)
    [answer] = start(cluster, Kind.MEMBER_REMOVE, changes.encode_id(7))
    assert isinstance(answer, bytes)
    assert cluster.member.raft.conf_state.learners == ()


def test_refused_change_leaves_raft_as_it_was() -> None:
    """CLU-04, CLU-09."""
    cluster = single()
    before = cluster.member.raft.conf_state
    for kind, body, error in (
        (Kind.MEMBER_ADD, learner(7, "http://m"), PEER_URL_EXIST),
        (Kind.MEMBER_REMOVE, changes.encode_id(8), MEMBER_NOT_FOUND),
        (Kind.MEMBER_PROMOTE, changes.encode_id(2**64 - 1), MEMBER_NOT_FOUND),
    ):
        [result] = start(cluster, kind, body)
        assert is_error(result, error)
    assert cluster.member.raft.conf_state == before
    assert is_error(
        cluster.propose(Kind.MEMBER_UPDATE, changes.encode_update(8, ("http://x",))),
        MEMBER_NOT_FOUND,
    )


def test_update_is_told_like_a_change_of_voters() -> None:
    """CLU-12."""
    cluster, told = single(), []
    cluster.applier.on_members_changed = lambda: told.append(len(cluster.applier.cluster.members))
    answer = cluster.propose(Kind.MEMBER_UPDATE, changes.encode_update(MEMBER_ID, ("http://n",)))
    assert isinstance(answer, bytes)
    [member] = rpc_pb2.MemberUpdateResponse.FromString(answer).members
    assert (member.name, list(member.peerURLs)) == ("m", ["http://n"])
    start(cluster, Kind.MEMBER_ADD, learner(7))
    assert told == [1, 2]


def test_removal_is_told_to_the_removed_only_once_it_is_durable() -> None:
    cluster = single()
    start(cluster, Kind.MEMBER_ADD, learner(7))
    cluster.commit()
    start(cluster, Kind.MEMBER_REMOVE, changes.encode_id(7))
    assert 7 in cluster.applier.cluster.removed
    assert not cluster.member.refuses(7)
    cluster.commit()
    assert cluster.member.refuses(7)
    assert not cluster.member.refuses(8)


def test_forwarded_change_of_a_stranger_or_without_sense_is_not_taken() -> None:
    """What is in the log must be applied: it is too late to refuse there."""
    cluster = single()
    start(cluster, Kind.MEMBER_ADD, learner(7))
    last = cluster.member.raft.last_index
    good = encode_conf_change(build(Kind.MEMBER_ADD, 5, learner(9)))
    put = HEADER.pack(Kind.PUT, 1)
    odd = [
        (9, [(0, CONF_CHANGE, good)]),
        (7, [(0, CONF_CHANGE, b"junk")]),
        (7, [(0, CONF_CHANGE, good), (0, NORMAL, put)]),
        (7, [(0, NORMAL, HEADER.pack(Kind.MEMBER_REMOVE, 1) + changes.encode_id(7))]),
    ]
    for sender, entries in odd:
        message = Message(MessageKind.PROPOSE, MEMBER_ID, sender, entries=entries)
        cluster.member.receive(message)
        cluster.run()
    assert cluster.member.raft.last_index == last


def test_change_that_cannot_be_proposed_is_refused_at_once() -> None:
    cluster = single()
    urls = tuple(f"http://{number}" for number in range(200_000))
    huge = changes.encode_add(MemberInfo(7, "", urls), 1)
    for body, error in ((huge, REQUEST_TOO_LARGE), (learner(7), STOPPED)):
        results: list[Result] = []
        try:
            cluster.member.propose_change(Kind.MEMBER_ADD, body, results.append)
        except EtcdError as refused:
            assert refused is error
        assert results == []
        cluster.member.stop()


def test_waiting_change_is_answered_when_the_member_stops() -> None:
    cluster = single()
    cluster.hold = True
    results = start(cluster, Kind.MEMBER_ADD, learner(7))
    assert results == []
    cluster.member.stop()
    assert is_error(results[0], STOPPED)
