"""What the cluster for users' tests can do, on real processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kvstore.pb import rpc_pb2
from kvstore.testing import CLIENTS, Cluster, Link, MemberEnded, NotInTime, wait_until

DEADLINE_S = 40.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(3, tmp_path_factory.mktemp("cluster")) as made:
        made.start()
        yield made


def put(cluster: Cluster, number: int, value: bytes, timeout_s: float = 2.0) -> bool:
    call = cluster.channel(number).unary_unary(
        "/etcdserverpb.KV/Put",
        request_serializer=rpc_pb2.PutRequest.SerializeToString,
        response_deserializer=rpc_pb2.PutResponse.FromString,
    )
    try:
        call(rpc_pb2.PutRequest(key=b"k", value=value), timeout=timeout_s)
    except grpc.RpcError:
        return False
    return True


def test_a_leader_cut_off_is_replaced_and_joins_again(cluster: Cluster) -> None:
    old = cluster.leader()
    others = cluster.followers()
    with cluster.partitioned([old]):
        wait_until(lambda: put(cluster, others[0], b"x"), DEADLINE_S, "the others go on")
        assert not put(cluster, old, b"lost", timeout_s=0.5)
        assert cluster.leader() in others
    cluster.wait_ready(timeout_s=DEADLINE_S)
    assert cluster.links is not None
    assert sum(cluster.links.held().values()) > 0


def test_a_killed_member_comes_back_with_its_data(cluster: Cluster) -> None:
    victim = cluster.followers()[0]
    cluster.kill(victim)
    assert not cluster.members[victim].running
    assert put(cluster, cluster.leader(), b"meanwhile")
    cluster.start(victim)
    assert cluster.status(victim).raftAppliedIndex > 1


def test_a_paused_member_answers_again_when_it_is_resumed(cluster: Cluster) -> None:
    victim = cluster.followers()[0]
    with cluster.paused(victim), pytest.raises(grpc.RpcError):
        cluster.status(victim, timeout_s=0.3)
    cluster.wait_ready(victim)


def test_slow_links_slow_the_cluster_and_healing_ends_that(cluster: Cluster) -> None:
    leader = cluster.leader()
    cluster.slow(leader, 0.05)
    assert put(cluster, leader, b"slow", timeout_s=10)
    cluster.heal()
    assert put(cluster, leader, b"fast", timeout_s=10)


def test_one_direction_alone_can_be_cut(cluster: Cluster) -> None:
    leader, follower = cluster.leader(), cluster.followers()[0]
    cluster.cut(leader, follower)
    assert put(cluster, leader, b"the other one suffices", timeout_s=10)
    cluster.heal()
    cluster.wait_ready()


def test_a_stop_is_graceful(cluster: Cluster) -> None:
    victim = cluster.followers()[0]
    assert cluster.stop(victim) == 0
    cluster.start(victim)


def test_a_member_that_ended_is_told_with_its_log(tmp_path: Path) -> None:
    with (
        Cluster(1, tmp_path, flags=["--heartbeat-interval=0"]) as broken,
        pytest.raises(MemberEnded, match="heartbeat-interval must be >0"),
    ):
        broken.start()


def test_a_wait_in_vain_says_for_what() -> None:
    with pytest.raises(NotInTime, match="not within 0 s: the moon"):
        wait_until(lambda: None, 0.0, "the moon")


def test_members_come_and_go_while_it_runs(tmp_path: Path) -> None:
    with Cluster(1, tmp_path) as growing:
        growing.start()
        growing.flags = ("--nonsense",)
        with pytest.raises(MemberEnded, match="nonsense"):
            growing.add_member(learner=True)
        assert growing.numbers == [0], "a member that does not start is removed again"
        growing.flags = ()
        added = growing.add_member(learner=True)  # etcd takes one learner at a time
        assert growing.members[added].learner
        growing.promote_member(added)
        assert put(growing, added, b"through the new one", timeout_s=DEADLINE_S)
        growing.remove_member(0)
        assert growing.numbers == [added]
        assert growing.endpoints == [growing.members[added].endpoint]
        assert not growing.members[0].running
        growing.wait_ready()
        growing.replace_member(0)
        assert growing.numbers == [0, added]
        assert growing.status(0).header.revision == growing.status(added).header.revision


def test_clients_have_links_of_their_own_that_questions_here_go_past(tmp_path: Path) -> None:
    with Cluster(1, tmp_path, client_links=True) as single:
        single.start()
        member = single.members[0]
        assert member.endpoint != member.own_endpoint
        assert single.links is not None
        single.links.change([(CLIENTS, 0)], _cut)
        with grpc.insecure_channel(member.endpoint) as channel:
            call = channel.unary_unary("/etcdserverpb.Maintenance/Status")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=0.3)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert single.leader() == 0
            single.heal()
            assert call(b"", timeout=DEADLINE_S)


def _cut(link: Link) -> None:
    link.cut = True


@pytest.mark.parametrize("size", [0, 10])
def test_sizes_out_of_range_are_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match="size"):
        Cluster(size, tmp_path)


def test_without_links_there_is_nothing_to_cut(tmp_path: Path) -> None:
    with Cluster(1, tmp_path, links=False) as plain, pytest.raises(RuntimeError, match="links"):
        plain.partition([0])


def test_a_folder_that_an_earlier_cluster_has_used_is_refused_by_name(tmp_path: Path) -> None:
    """And no thread of its network is left."""

    def networks() -> int:
        return [thread.name for thread in threading.enumerate()].count("links")

    (tmp_path / "m0.etcd").mkdir()
    before = networks()
    for _ in range(2):
        with pytest.raises(ValueError, match=f"directory: {tmp_path} holds the data of an earlier"):
            Cluster(1, tmp_path)
    assert networks() == before


def test_a_number_that_no_member_has_is_named(tmp_path: Path) -> None:
    with Cluster(2, tmp_path) as cluster:
        for call in (
            cluster.start,
            cluster.kill,
            cluster.stop,
            cluster.pause,
            cluster.resume,
            cluster.status,
            cluster.promote_member,
            cluster.remove_member,
            cluster.replace_member,
            cluster.wait_ready,
            lambda number: cluster.partition([number]),
            lambda number: cluster.cut(0, number),
            lambda number: cluster.slow(number, 0.1),
        ):
            with pytest.raises(ValueError, match="there is no member 7, only 0 to 1"):
                call(7)  # type: ignore[operator]
