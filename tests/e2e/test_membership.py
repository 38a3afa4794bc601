"""Clusters that grow, shrink and change, as real processes, with the real etcdctl."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from kvstore.pb import health_pb2
from tests.e2e.client import AsyncClient, Client, prefix_end, write_until
from tests.e2e.cluster import reference_under_test
from tests.e2e.etcdctl import distro_binary, ok
from tests.e2e.growing import UNHEALTHY, GrowingCluster, rejected, until_true
from tests.e2e.prometheus import scrape

Code = grpc.StatusCode
NOT_FOR_LEARNERS = (
    Code.UNAVAILABLE if reference_under_test() else Code.FAILED_PRECONDITION,  # 3.5 and 3.6
    "etcdserver: rpc not supported for learner",
)


# -- growing and shrinking -------------------------------------------------------------------------


class Writers:
    """Writers through members that come and go; what was acknowledged is kept."""

    def __init__(self, cluster: GrowingCluster) -> None:
        self.acknowledged: dict[bytes, tuple[int, int]] = {}
        self._cluster = cluster
        self._running: dict[int, tuple[asyncio.Event, AsyncClient, asyncio.Task[None]]] = {}

    def start(self, i: int) -> None:
        stop, client = asyncio.Event(), AsyncClient(self._cluster.members[i].endpoint)
        writing = write_until([client], f"grow/{i}/", stop, self.acknowledged, 2)
        self._running[i] = (stop, client, asyncio.create_task(writing))

    async def stop(self, i: int) -> None:
        stop, client, task = self._running.pop(i)
        stop.set()
        await task
        await client.close()

    async def more(self, count: int) -> None:
        """Wait until `count` more writes are acknowledged than now."""
        goal = len(self.acknowledged) + count
        async with asyncio.timeout(60):
            while len(self.acknowledged) < goal:
                await asyncio.sleep(0.02)


def test_growing_to_five_and_shrinking_to_one_under_load_loses_nothing(tmp_path: Path) -> None:
    """CLU-07, CLU-08, CLU-10, CLU-11, CLU-15: the first member, and each leader, is removed too."""
    with GrowingCluster(1, tmp_path) as cluster:
        cluster.start_all()

        async def story() -> dict[bytes, tuple[int, int]]:
            writers = Writers(cluster)
            writers.start(0)
            await writers.more(50)
            for _ in range(4):
                joined = await asyncio.to_thread(cluster.join)
                writers.start(joined)
                await writers.more(50)
            assert cluster.voters(0) == 5
            await asyncio.to_thread(cluster.wait_equal_hashes)
            while len(cluster.running()) > 1:
                leader = await asyncio.to_thread(cluster.leader)
                asked = leader if len(cluster.running()) % 2 else cluster.running()[-1]
                await asyncio.to_thread(cluster.remove, leader, asked=asked)
                await writers.stop(leader)
                await asyncio.to_thread(cluster.wait_gone, leader)
                await writers.more(50)
            for i in cluster.running():
                await writers.stop(i)
            return writers.acknowledged

        acknowledged = asyncio.run(story())

        [last] = cluster.running()
        assert [m.name for m in cluster.client(last).member_list().members] == [f"m{last}"]
        found = cluster.client(last).get(b"grow/", range_end=prefix_end(b"grow/"), timeout=60.0)
        stored = {kv.key: kv.mod_revision for kv in found.kvs}
        lost = [key for key, (revision, _) in acknowledged.items() if stored.get(key) != revision]
        assert not lost
        for i in range(5):
            assert "Traceback" not in cluster.members[i].log_path.read_text()


# -- a learner -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_learner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GrowingCluster, int]]:
    """Three voters and a learner that serves; its index."""
    with GrowingCluster(3, tmp_path_factory.mktemp("learner")) as cluster:
        cluster.start_all()
        cluster.client(0).put(b"before", b"it came")
        yield cluster, cluster.join(learner=True)


PROMOTED = "etcd_server_learner_promote_successes"


def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    raised: Any = caught.value
    return raised.code(), raised.details()


UNARY = (
    "KV/Put", "KV/DeleteRange", "KV/Txn", "KV/Compact", "Lease/LeaseGrant", "Lease/LeaseRevoke",
    "Lease/LeaseTimeToLive", "Lease/LeaseLeases", "Cluster/MemberList", "Cluster/MemberAdd",
    "Cluster/MemberRemove", "Cluster/MemberUpdate", "Cluster/MemberPromote",
    "Maintenance/HashKV", "Maintenance/Alarm", "Maintenance/MoveLeader",
)  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_learner_refuses_calls(with_learner: tuple[GrowingCluster, int], name: str) -> None:
    """GEN-15."""
    cluster, learner = with_learner
    path = f"/etcdserverpb.{name}"
    assert refusal(lambda: cluster.client(learner).raw_unary(path, b"")) == NOT_FOR_LEARNERS


def test_learner_refuses_streams_and_health(with_learner: tuple[GrowingCluster, int]) -> None:
    """GEN-15: Watch, LeaseKeepAlive, and the health service too."""
    cluster, learner = with_learner
    client = cluster.client(learner)
    assert refusal(client.health) == NOT_FOR_LEARNERS
    assert refusal(lambda: client.keep_alive_once(1)) == NOT_FOR_LEARNERS
    watch = client.channel.stream_stream("/etcdserverpb.Watch/Watch")
    assert refusal(lambda: next(watch(iter([b""]), timeout=10))) == NOT_FOR_LEARNERS
    check = health_pb2.HealthCheckRequest().SerializeToString()
    follow = client.channel.unary_stream("/grpc.health.v1.Health/Watch")
    if not reference_under_test():  # 3.5 has no such stream
        assert refusal(lambda: next(follow(check, timeout=10))) == NOT_FOR_LEARNERS


def test_learner_refuses_calls_over_http_too(with_learner: tuple[GrowingCluster, int]) -> None:
    """GEN-15: the gateway serves what gRPC does."""
    cluster, learner = with_learner

    def post(path: str, body: dict[str, Any]) -> tuple[int, str]:
        url = f"http://{cluster.members[learner].endpoint}/v3/{path}"
        try:
            with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    key = base64.b64encode(b"before").decode()
    status, answer = post("kv/put", {"key": key})
    assert status >= 400
    assert NOT_FOR_LEARNERS[1] in answer
    assert NOT_FOR_LEARNERS[1] in post("kv/range", {"key": key})[1]
    assert post("kv/range", {"key": key, "serializable": True})[0] == 200


def test_learner_serves_status_and_serializable_reads(
    with_learner: tuple[GrowingCluster, int],
) -> None:
    """GEN-15, CLU-14, CLU-16."""
    cluster, learner = with_learner
    client = cluster.client(learner)
    assert client.status().isLearner
    assert client.status().leader == cluster.client(0).status().leader
    if not reference_under_test():
        assert scrape(cluster.members[learner].endpoint).sum("etcd_server_is_learner") == 1
    assert client.get(b"before", serializable=True).kvs[0].value == b"it came"
    assert refusal(lambda: client.get(b"before")) == NOT_FOR_LEARNERS
    revision = cluster.client(0).put(b"after", b"it came").header.revision

    def arrived() -> bool:
        answer = client.get(b"after", serializable=True)
        return bool(answer.header.revision >= revision and answer.kvs[0].value == b"it came")

    until_true(arrived, what="the learner follows")
    [info] = [m for m in cluster.client(0).member_list().members if m.isLearner]
    assert (info.name, list(info.clientURLs)) == (
        cluster.members[learner].name,
        [f"http://{cluster.members[learner].endpoint}"],
    )


def test_learner_is_not_counted_for_a_quorum(with_learner: tuple[GrowingCluster, int]) -> None:
    """CLU-14: three voters write without it; one voter and the learner do not."""
    cluster, learner = with_learner
    cluster.pause(learner)
    try:
        assert _writes(cluster, 0)
    finally:
        cluster.resume(learner)
    down = [i for i in cluster.followers() if i != learner]
    for i in down:
        cluster.kill(i)
    left = next(i for i in range(3) if i not in down)
    assert not _writes(cluster, left)
    for i in down:
        cluster.start(i)
    until_true(lambda: all(_writes(cluster, i) for i in range(3)), what="the voters are back")


def test_learner_comes_back_with_its_data(with_learner: tuple[GrowingCluster, int]) -> None:
    """It does not ask for the cluster again, and the flags of the first start do not matter."""
    cluster, learner = with_learner
    cluster.kill(learner)
    cluster.start(learner)
    cluster.wait_serves(learner)
    assert cluster.client(learner).status().isLearner
    assert cluster.client(learner).get(b"before", serializable=True).kvs


def test_learner_is_promoted_through_any_member(with_learner: tuple[GrowingCluster, int]) -> None:
    """CLU-13: a follower asks the leader whether it is ready; then it votes."""
    cluster, learner = with_learner
    follower = next(i for i in cluster.followers() if i != learner)
    member_id = cluster.id_of(learner)
    out = cluster.wait_promoted(learner, asked=follower)
    assert out.split()[:4] == ["Member", f"{member_id:x}", "promoted", "in"]
    if not reference_under_test():
        promoted = scrape(cluster.members[follower].endpoint)
        assert promoted.sum("etcd_server_learner_promote_successes") == 1
    assert cluster.voters(0) == 4
    assert cluster.client(learner).put(b"voter", b"now").header.revision
    again = (Code.FAILED_PRECONDITION, "etcdserver: can only promote a learner member")
    assert rejected(lambda: cluster.client(learner).member_promote(member_id)) == again
    leader = cluster.leader()
    cluster.client(leader).move_leader(member_id)
    until_true(lambda: cluster.leader_now() == learner, what="the promoted member leads")
    if not reference_under_test():
        assert scrape(cluster.members[follower].endpoint).sum(PROMOTED) == 1
        failed = scrape(cluster.members[learner].endpoint)
        assert failed.sum("etcd_server_learner_promote_failures", Reason=again[1]) == 1
    cluster.wait_equal_hashes()


# -- kubeadm ---------------------------------------------------------------------------------------


def test_kubeadm_joins_control_planes_and_resets_one(tmp_path: Path) -> None:
    """KUB-31, OTH-06, CLU-01, CLU-09, CLU-13: its calls, as raw requests, in its order."""
    with GrowingCluster(1, tmp_path) as cluster:
        cluster.start_all()

        def sync(client: Client) -> list[str]:
            """clientv3's Sync: client URLs of members that have started and are no learners."""
            listed = client.member_list().members
            return [url for m in listed if m.name and not m.isLearner for url in m.clientURLs]

        for expected in (2, 3):
            first = cluster.client(0)
            assert len(sync(first)) == expected - 1
            for i in cluster.running():
                assert cluster.client(i).status().leader
            url_index = cluster.new_member()
            url = cluster.members[url_index].peer_url
            listed = first.member_list().members
            assert not any(url in m.peerURLs for m in listed)

            def add(url: str = url) -> Any:
                try:
                    return cluster.client(0).member_add(url, learner=True)
                except grpc.RpcError as error:
                    assert error.details() == UNHEALTHY
                    return None

            answer = until_true(add, what="the learner is added")
            if not reference_under_test():  # 3.5.1 may lose a change that follows at once
                refused = rejected(lambda url=url: cluster.client(0).member_add(url, learner=True))
                assert refused[1] == "etcdserver: Peer URLs already exists"
            # It names the members that it does not know by the ids it was told.
            initial = [
                (m.name or cluster.members[url_index].name, u)
                for m in answer.members
                for u in m.peerURLs
            ]
            cluster._joins[url_index] = ",".join(f"{name}={u}" for name, u in initial)
            refused = rejected(lambda m=answer.member.ID: cluster.client(0).member_promote(m))
            assert refused[1].endswith("in sync with leader")
            cluster.start(url_index)

            def promoted(member_id: int = answer.member.ID) -> bool:
                try:
                    cluster.client(0).member_promote(member_id)
                except grpc.RpcError as error:
                    assert error.details().endswith(("in sync with leader", "started members"))
                    return False
                return True

            until_true(promoted, what="the learner is promoted")
            cluster.wait_healthy()
            assert len(sync(cluster.client(url_index))) == expected

        gone = cluster.id_of(2)
        cluster.remove(2, asked=2)
        cluster.wait_gone(2)
        assert rejected(lambda: cluster.client(0).member_remove(gone))[1] == (
            "etcdserver: member not found"
        )
        assert len(sync(cluster.client(1))) == 2


# -- members that go, move and come back -----------------------------------------------------------


def test_removed_members_end_and_say_why(tmp_path: Path) -> None:
    """CLU-08, CLU-10, CLU-11: a follower, one that was down, and each of them at its next start."""
    with GrowingCluster(3, tmp_path) as cluster:
        cluster.start_all()
        cluster.client(0).put(b"kept", b"1")
        down, other = cluster.followers()
        leader = cluster.leader()
        removed = cluster.id_of(down, leader)
        url = "http://127.0.0.1:9"

        # One of three is down: nothing may be added, nor the other one removed, but that one may.
        cluster.kill(down)
        unhealthy = (Code.UNAVAILABLE, UNHEALTHY)
        asked = cluster.client(leader)
        assert refusal(lambda: asked.member_add(url)) == unhealthy
        assert refusal(lambda: asked.member_add(url, learner=True)) == unhealthy
        assert refusal(lambda: asked.member_remove(cluster.id_of(other, leader))) == unhealthy
        asked.member_remove(removed)
        assert asked.put(b"kept", b"2").header.revision

        # The one that was down finds out when it comes back, and at every start from then on.
        for _ in range(2):
            cluster.start(down)
            cluster.wait_gone(down)
            if not reference_under_test():
                assert "permanently removed from the cluster" in cluster.members[down].log_tail()
        assert "Traceback" not in cluster.members[down].log_path.read_text()

        # One that is there ends soon after; its client has its answer.
        cluster.remove(other, asked=other)
        cluster.wait_gone(other)
        cluster.start(other)
        cluster.wait_gone(other)
        if not reference_under_test():
            assert "permanently removed" in cluster.members[other].log_tail()

        assert [m.ID for m in asked.member_list().members] == [cluster.id_of(leader, leader)]
        assert asked.get(b"kept").kvs[0].value == b"2"


def test_member_whose_disk_is_lost_is_replaced_and_not_before(tmp_path: Path) -> None:
    """CLU-05, CLU-10, CLU-11: started without its data it must not vote again."""
    with GrowingCluster(3, tmp_path) as cluster:
        cluster.start_all()
        lost = cluster.followers()[0]
        others = [i for i in range(3) if i != lost]
        asked = others[0]
        cluster.client(asked).put(b"kept", b"1")
        cluster.kill(lost)
        shutil.rmtree(cluster.members[lost].data_dir)
        old_id = cluster.id_of(lost, asked)
        cluster.start(lost)
        assert cluster.wait_exit(lost) not in (0, None)
        assert "has already been bootstrapped" in cluster.members[lost].log_tail()

        if cluster.members[lost].data_dir.exists():
            shutil.rmtree(cluster.members[lost].data_dir)
        cluster.remove(lost, asked=asked)
        cluster.join(asked=asked, at=lost)
        assert cluster.id_of(lost, asked) != old_id
        assert cluster.client(lost).get(b"kept").kvs[0].value == b"1"
        cluster.wait_equal_hashes()

        # Everybody restarts with the flags of the first day.
        cluster.kill_all()
        cluster.start_all(timeout=60)
        cluster.wait_equal_hashes()
        assert cluster.voters(lost) == 3


def test_member_moves_to_another_peer_url_while_another_is_away(tmp_path: Path) -> None:
    """CLU-12: everybody finds it there; the one that was away is found by it."""
    with GrowingCluster(3, tmp_path) as cluster:
        cluster.start_all()
        moving, away = cluster.followers()
        leader = cluster.leader()
        member_id = cluster.id_of(moving, leader)
        cluster.terminate(away)
        spare = cluster.new_member()
        url = cluster.members[spare].peer_url
        command = ["member", "update", f"{member_id:x}", f"--peer-urls={url}"]
        ok(cluster.etcdctl(*command, endpoints=[cluster.members[leader].endpoint]))
        cluster.terminate(moving)
        cluster.members[moving].peer_port = cluster.members.pop().peer_port
        cluster.start(moving)
        until_true(lambda: _writes(cluster, moving), what="it takes part from there")
        cluster.start(away)
        cluster.wait_healthy()
        cluster.wait_equal_hashes()
        peers = json.loads(ok(cluster.etcdctl("member", "list", "-w", "json")))["members"]
        [moved] = [m for m in peers if m["ID"] == member_id]
        assert moved["peerURLs"] == [url]
        assert moved["name"] == cluster.members[moving].name


def _writes(cluster: GrowingCluster, i: int) -> bool:
    try:
        cluster.client(i).put(b"written", b"1", timeout=2.0)
    except grpc.RpcError:
        return False
    return True


def test_member_that_was_away_while_all_others_were_replaced_is_found(tmp_path: Path) -> None:
    """It knows none of the present members; they know it, and dial it."""
    if reference_under_test():
        pytest.skip("this takes etcd 3.5's own rules for additions")
    with GrowingCluster(3, tmp_path) as cluster:
        cluster.start_all()
        away = cluster.followers()[0]
        olds = [i for i in range(3) if i != away]
        cluster.client(olds[0]).put(b"kept", b"1")
        first = cluster.join(asked=olds[0])
        second = cluster.join(asked=olds[0])
        cluster.kill(away)
        for old in olds:
            cluster.remove(old, asked=first)
            cluster.wait_gone(old)
        until_true(lambda: _writes(cluster, second), what="the new members write")

        cluster.start(away)
        cluster.wait_serves(away)
        until_true(lambda: _writes(cluster, away), what="it takes part again")
        assert cluster.client(away).get(b"kept").kvs[0].value == b"1"
        assert {m.name for m in cluster.client(away).member_list().members} == {
            cluster.members[i].name for i in (first, second, away)
        }


def test_list_without_a_leader_is_served_unless_it_must_be_fresh(tmp_path: Path) -> None:
    """CLU-02."""
    with GrowingCluster(3, tmp_path) as cluster:
        cluster.start_all()
        left, *gone = range(3)
        for i in gone:
            cluster.signal(i, signal.SIGKILL)
        for i in gone:
            cluster.wait_exit(i)
        client = cluster.client(left)
        assert len(client.member_list(linearizable=False).members) == 3
        code, _ = refusal(lambda: client.member_list(timeout=2.0))
        assert code in (Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE)


def test_joiner_that_was_not_added_is_told(tmp_path: Path) -> None:
    """The text is etcd's."""
    with GrowingCluster(1, tmp_path) as cluster:
        cluster.start_all()
        stranger = cluster.new_member()
        member = cluster.members[stranger]
        cluster._joins[stranger] = f"{cluster.initial},{member.name}={member.peer_url}"
        cluster.start(stranger)
        assert cluster.wait_exit(stranger) not in (0, None)
        assert "member count is unequal" in member.log_tail()
        assert _writes(cluster, 0)


def test_the_last_member_stays(tmp_path: Path) -> None:
    """CLU-10: and is no learner to be promoted."""
    with GrowingCluster(1, tmp_path) as cluster:
        cluster.start_all()
        own = cluster.id_of(0)
        enough = "etcdserver: re-configuration failed due to not enough started members"
        assert refusal(lambda: cluster.client(0).member_remove(own)) == (Code.UNKNOWN, enough)
        assert refusal(lambda: cluster.client(0).member_promote(own))[0] == Code.FAILED_PRECONDITION
        if reference_under_test():
            return  # without the check it ends, with a panic
        cluster.kill(0)
        cluster.start(0, "--strict-reconfig-check=false")
        cluster.wait_healthy()
        assert refusal(lambda: cluster.client(0).member_remove(own)) == (Code.UNKNOWN, enough)
        assert _writes(cluster, 0)


def test_cluster_of_etcd_is_not_joined(tmp_path: Path) -> None:
    """Its members speak another protocol between them: better to say so than to try for ever."""
    if reference_under_test():
        pytest.skip("etcd may join etcd")
    with GrowingCluster(1, tmp_path) as cluster:
        ours, cluster.program = cluster.program, (distro_binary("etcd"),)
        cluster.start_all()
        joiner = cluster.add()
        cluster.program = ours
        cluster.start(joiner)
        assert cluster.wait_exit(joiner) not in (0, None)
        assert "another peer protocol" in cluster.members[joiner].log_tail()
