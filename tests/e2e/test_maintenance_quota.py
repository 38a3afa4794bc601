"""A cluster whose backends are full: the alarm everywhere, what still works, and the way out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kvstore.pb import rpc_pb2
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.etcdctl import error, ok

QUOTA = 4_000_000
VALUE = 64_000
NOSPACE = 1


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Cluster]:
    """Three members with a quota of 4 MB."""
    with Cluster(3, tmp_path, extra_flags=[f"--quota-backend-bytes={QUOTA}"]) as cluster:
        cluster.start_all()
        yield cluster


def fill(cluster: Cluster, through: int) -> int:
    """Put until it is refused for lack of space; return how many were accepted."""
    for number in range(4 * QUOTA // VALUE):
        try:
            cluster.client(through).put(b"fill/%04d" % number, bytes(VALUE))
        except grpc.RpcError as refusal:
            assert refusal.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.details() == "etcdserver: mvcc: database space exceeded"
            return number
    raise AssertionError(f"{QUOTA} bytes are not full after {number} values of {VALUE}")


def alarmed(cluster: Cluster, through: int) -> set[int]:
    """Ids of the members with a NOSPACE alarm."""
    return {alarm.memberID for alarm in cluster.client(through).alarm(0, kind=NOSPACE).alarms}


def test_scenario_14254_full_cluster_says_so_and_finds_the_way_out(small: Cluster) -> None:
    """MNT-02, MNT-08, MNT-10, MNT-13, MNT-14, MNT-15, CMP-10, GEN-23: filled through a follower,
    it is refused everywhere, over a kill of all; it deletes, compacts, defragments, disarms, and
    writes again."""
    follower, leader = small.followers()[0], small.leader()
    accepted = fill(small, follower)
    assert QUOTA // 4 < accepted * VALUE <= QUOTA
    assert alarmed(small, leader)
    for i in range(3):
        status = small.client(i).status()
        assert status.dbSizeQuota == QUOTA
        assert status.dbSize < 2 * QUOTA
        assert any("alarm:NOSPACE" in text for text in status.errors)
    # GEN-23: refused for the space it asks for before its missing key is looked at.
    with pytest.raises(grpc.RpcError) as caught:
        small.client(follower).put(b"", bytes(VALUE))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "NOSPACE" in ok(small.etcdctl("alarm", "list"))
    assert error(small.etcdctl("put", "a", "b")).endswith("mvcc: database space exceeded")

    small.kill_all()
    small.start_all()
    assert alarmed(small, 0)
    client = small.client(0)
    with pytest.raises(grpc.RpcError) as caught:
        client.put(b"still", b"full")
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

    deleted = client.delete(b"fill/", range_end=b"fill0")
    assert deleted.deleted == accepted
    client.compact(deleted.header.revision, physical=True)
    small.wait_equal_hashes()
    # Disarmed without a defragmentation, it lasts until the next costly request.
    assert "NOSPACE" in ok(small.etcdctl("alarm", "disarm"))
    assert alarmed(small, 0) == set()
    with pytest.raises(grpc.RpcError) as caught:
        small.client(follower).put(b"again", bytes(VALUE))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert alarmed(small, 0)

    # The way out: compacted is the history already, so defragment, then disarm.
    assert ok(small.etcdctl("defrag")).count("Finished defragmenting etcd member") == 3
    assert "NOSPACE" in ok(small.etcdctl("alarm", "disarm"))
    assert ok(small.etcdctl("alarm", "list")) == ""
    for i in range(3):
        assert small.client(i).status().dbSize < QUOTA / 4
        assert list(small.client(i).status().errors) == []
        small.client(i).put(b"room again", bytes(VALUE))
    ok(small.etcdctl("endpoint", "health"))
    small.wait_equal_hashes()


def test_one_small_member_alarms_the_cluster(tmp_path: Path) -> None:
    """MNT-14, MNT-16, MNT-17: a follower alone is full: writes through the leader are applied on
    every member, then its alarm stops them everywhere."""
    with Cluster(3, tmp_path) as cluster:
        cluster.start_all()
        small = cluster.followers()[0]
        cluster.terminate(small)
        cluster.start(small, f"--quota-backend-bytes={QUOTA}")
        cluster.wait_healthy()
        through = next(i for i in range(3) if i != small)
        small_id = cluster.client(small).status().header.member_id

        accepted = fill(cluster, through)

        assert accepted > 0
        assert alarmed(cluster, through) == {small_id}
        cluster.wait_equal_hashes()
        status = cluster.client(through).status()
        assert status.dbSizeQuota == 2 * 1024**3
        wait_until(
            lambda: bool(
                cluster.client(small).get(b"fill/%04d" % (accepted - 1), serializable=True).kvs
            ),
            30,
            "the follower has all that was accepted",
        )
        request = rpc_pb2.AlarmRequest(action=2, memberID=small_id, alarm=NOSPACE)
        cluster.client(through).call("Maintenance/Alarm", request)
        # Through the full follower it would be refused beforehand (MNT-15); through another member
        # the write is done first and the alarm follows.
        cluster.client(through).put(b"done", bytes(VALUE))
        wait_until(lambda: bool(alarmed(cluster, through)), 30, "the alarm is raised again")
        assert cluster.client(through).get(b"done").kvs[0].value == bytes(VALUE)
