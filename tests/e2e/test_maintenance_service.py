"""Status, HashKV, MoveLeader and Downgrade of a running cluster, good and bad requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kvstore.pb import rpc_pb2
from tests.e2e.cluster import Cluster, reference_under_test, wait_until
from tests.e2e.etcdctl import error, ok

VALIDATE, ENABLE, CANCEL = 0, 1, 2
REQUESTS = {
    "Maintenance/Status": rpc_pb2.StatusRequest(),
    "Maintenance/Hash": rpc_pb2.HashRequest(),
    "Maintenance/HashKV": rpc_pb2.HashKVRequest(),
    "Maintenance/Alarm": rpc_pb2.AlarmRequest(),
    "Maintenance/Defragment": rpc_pb2.DefragmentRequest(),
    "Maintenance/MoveLeader": rpc_pb2.MoveLeaderRequest(targetID=1),
    "Maintenance/Downgrade": rpc_pb2.DowngradeRequest(version="3.5"),
}
DEADLINE_SECONDS = 30.0
PRECONDITION, UNKNOWN = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNKNOWN
ours = pytest.mark.skipif(reference_under_test(), reason="the reference is etcd 3.5")


@pytest.fixture
def settled(cluster: Cluster) -> Iterator[Cluster]:
    """The module's cluster, every member running and leadership settled."""
    cluster.leader()
    yield cluster
    for i in range(3):
        cluster.resume(i)


def refused(call: object, *args: object, **fields: object) -> tuple[grpc.StatusCode, str]:
    """Code and text of a call that must fail."""
    assert callable(call)
    while True:
        with pytest.raises(grpc.RpcError) as caught:
            call(*args, **fields)
        if caught.value.details() != "etcdserver: leader changed":  # it was not even looked at
            return caught.value.code(), caught.value.details()


def member_id(cluster: Cluster, i: int) -> int:
    return int(cluster.client(i).status().header.member_id)


# -- Status ----------------------------------------------------------------------------------------


@ours
def test_status_tells_versions_and_sizes(settled: Cluster) -> None:
    """MNT-01, MNT-02, MNT-04: also as etcdctl prints it."""
    leader = settled.leader()
    for i in range(3):
        status = settled.client(i).status()
        assert status.version == "3.6.8"
        assert status.storageVersion == "3.6.0"
        assert status.HasField("downgradeInfo")
        assert (status.downgradeInfo.enabled, status.downgradeInfo.targetVersion) == (False, "")
        assert not status.isLearner
        assert status.leader == member_id(settled, leader)
        assert status.raftAppliedIndex <= status.raftIndex
        assert 0 < status.dbSizeInUse <= status.dbSize
        assert status.dbSizeQuota == 2 * 1024**3
        assert list(status.errors) == []
    lines = ok(settled.etcdctl("endpoint", "status")).splitlines()
    assert len(lines) == 3
    assert sum(", true, false, " in line for line in lines) == 1, "one leader, no learner"


def test_status_without_a_leader_is_local_and_says_so(tmp_path: Path) -> None:
    """MNT-01, MNT-03: leader 0 and the text of NoLeader; no quorum is needed to say it. GEN-12: who
    asks for a leader is told that there is none, by every call."""
    with Cluster(3, tmp_path) as cluster:
        cluster.start_all()
        survivor = cluster.followers()[0]
        for i in range(3):
            if i != survivor:
                cluster.kill(i)
        wait_until(
            lambda: cluster.client(survivor).status().leader == 0,
            DEADLINE_SECONDS,
            "the last member has no leader",
        )
        assert list(cluster.client(survivor).status().errors) == ["etcdserver: no leader"]
        for name, request in REQUESTS.items():
            answer = refused(cluster.client(survivor).call_that_needs_a_leader, name, request)
            assert answer == (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader"), name


def test_no_quota_is_told_as_a_negative_one(tmp_path: Path) -> None:
    """MNT-02, MNT-14."""
    with Cluster(1, tmp_path, extra_flags=["--quota-backend-bytes=-1"]) as cluster:
        cluster.start_all()
        assert cluster.client(0).status().dbSizeQuota in ((0,) if reference_under_test() else (-1,))
        cluster.client(0).put(b"k", bytes(1_000_000))


# -- HashKV ----------------------------------------------------------------------------------------


def test_hash_kv_refuses_revisions_that_it_cannot_hash(settled: Cluster) -> None:
    """MNT-20, MNT-21: a future, a compacted and a negative revision; good ones agree."""
    client = settled.client(0)
    for number in range(5):
        revision = client.put(b"hash", b"%d" % number).header.revision
    assert refused(client.hash_kv, revision + 100) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
    )
    client.compact(revision - 1, physical=True)
    assert refused(client.hash_kv, revision - 2) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision has been compacted",
    )
    answer = client.hash_kv(revision)
    assert (answer.compact_revision, answer.header.revision) == (revision - 1, revision)
    negative = client.hash_kv(-5)
    assert negative.header.revision == revision
    settled.wait_equal_hashes()
    lines = ok(settled.etcdctl("endpoint", "hashkv", f"--rev={revision}")).splitlines()
    assert {line.split(", ")[1] for line in lines} == {str(answer.hash)}


# -- MoveLeader ------------------------------------------------------------------------------------


def test_leadership_moves_to_the_target(settled: Cluster) -> None:
    """MNT-28, MNT-29, GEN-05: it returns when the target leads; the reply has no header."""
    leader, target = settled.leader(), settled.followers()[0]
    answer = settled.client(leader).move_leader(member_id(settled, target))
    assert not answer.HasField("header")
    assert settled.client(leader).status().leader == member_id(settled, target)
    wait_until(lambda: settled.leader_now() == target, DEADLINE_SECONDS, "the target leads")
    back = ok(settled.etcdctl("move-leader", f"{member_id(settled, leader):x}"))
    assert back.startswith("Leadership transferred from")
    wait_until(lambda: settled.leader_now() == leader, DEADLINE_SECONDS, "etcdctl moved it back")


def test_moving_leadership_to_the_leader_changes_nothing(settled: Cluster) -> None:
    """MNT-28: it succeeds at once."""
    leader = settled.leader()
    term = settled.client(leader).status().raftTerm
    settled.client(leader).move_leader(member_id(settled, leader))
    assert settled.client(leader).status().raftTerm == term


def test_only_the_leader_moves_leadership_and_only_to_a_voter(settled: Cluster) -> None:
    """MNT-28: NotLeader on another member, BadLeaderTransferee for an unknown target or 0."""
    leader, follower = settled.leader(), settled.followers()[0]
    expected = (PRECONDITION, "etcdserver: not leader")
    assert refused(settled.client(follower).move_leader, member_id(settled, leader)) == expected
    for unknown in (0, 1, (1 << 64) - 1):
        expected = (PRECONDITION, "etcdserver: bad leader transferee")
        assert refused(settled.client(leader).move_leader, unknown) == expected
    failed = settled.etcdctl(
        "move-leader", "deadbeef", endpoints=[settled.members[leader].endpoint]
    )
    assert error(failed) == "Error: etcdserver: bad leader transferee"


@ours
def test_transfer_that_takes_too_long_is_told_before_the_deadline(settled: Cluster) -> None:
    """MNT-29: the target is stopped; the cluster goes on under the old leader."""
    leader, target = settled.leader(), settled.followers()[0]
    target_id = member_id(settled, target)
    settled.pause(target)
    answer = refused(settled.client(leader).move_leader, target_id, timeout=5.0)
    assert answer == (UNKNOWN, "etcdserver: request timed out, leader transfer took too long")
    wait_until(lambda: _writable(settled, leader), DEADLINE_SECONDS, "writes go on")


def _writable(cluster: Cluster, i: int) -> bool:
    try:
        cluster.client(i).put(b"writable", b"1")
    except grpc.RpcError:
        return False
    return True


# -- Downgrade -------------------------------------------------------------------------------------


@ours
def test_downgrade_is_checked_and_refused(settled: Cluster) -> None:
    """MNT-31: VALIDATE answers the cluster version; ENABLE is refused in so many words."""
    client = settled.client(0)
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    for action in (VALIDATE, ENABLE):
        for text in ("", "3", "three", "v3.5"):
            expected = (invalid, "etcdserver: wrong downgrade target version format")
            assert refused(client.downgrade, action, text) == expected
        for text in ("3.6", "3.4", "3.7.0", "2.5"):
            expected = (invalid, "etcdserver: invalid downgrade target version")
            assert refused(client.downgrade, action, text) == expected
    answer = client.downgrade(VALIDATE, "3.5.2")
    assert answer.version == "3.6"
    assert answer.header.member_id == member_id(settled, 0)
    assert answer.header.revision == client.get(b"x").header.revision
    assert refused(client.downgrade, ENABLE, "3.5") == (
        grpc.StatusCode.UNIMPLEMENTED,
        "etcdserver: a downgrade is not implemented in this server",
    )
    assert client.downgrade(CANCEL).version == "3.6"


def test_unknown_downgrade_action_is_refused(settled: Cluster) -> None:
    """MNT-31."""
    for action in (3, 99, -1):
        answer = refused(settled.client(0).downgrade, action, "3.5")
        assert answer == (UNKNOWN, "etcdserver: unknown method")
