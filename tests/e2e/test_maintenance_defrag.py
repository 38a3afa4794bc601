"""Defragmentation of running members: while they are read and written, killed, and replaced."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from kvstore.pb import health_pb2
from tests.e2e.client import Client
from tests.e2e.cluster import Cluster, reference_under_test, wait_until
from tests.e2e.etcdctl import ok
from tests.e2e.test_faults import Load, assert_nothing_lost, reached, three_members

KILLS = 6
CALLS = 20
MISSED = 600
ROUND_KEYS = 60
VALUE = 200_000
"""Bytes; with the keys above 12 MB in each round."""
DEADLINE_SECONDS = 60.0


def snap_dir(cluster: Cluster, i: int) -> Path:
    return cluster.members[i].data_dir / "member" / "snap"


def files(cluster: Cluster, i: int) -> list[str]:
    return sorted(path.name for path in snap_dir(cluster, i).iterdir())


def write_rounds(client: Client, rounds: int) -> int:
    """Overwrite the same keys; return the last revision."""
    revision = 0
    for _ in range(rounds):
        for number in range(ROUND_KEYS):
            revision = client.put(b"big/%d" % number, bytes(VALUE)).header.revision
    return revision


def hashes(cluster: Cluster) -> list[tuple[int, int, int]]:
    answers = [cluster.client(i).hash_kv() for i in range(len(cluster.members))]
    return [(a.hash, a.compact_revision, a.hash_revision) for a in answers]


def poll(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Look every millisecond; whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def test_defragmentation_gives_space_back_and_changes_nothing(tmp_path: Path) -> None:
    """MNT-18, MNT-02, CMP-11, GEN-05: by etcdctl, on every member; the size falls, hashes do not
    change, and compaction alone lets the size stand."""
    with three_members(tmp_path) as cluster:
        revision = write_rounds(cluster.client(0), 3)
        full = [cluster.client(i).status() for i in range(3)]
        cluster.client(0).compact(revision, physical=True)
        for i in range(3):
            wait_until(
                lambda i=i: cluster.client(i).status().dbSizeInUse < full[i].dbSizeInUse / 2,
                DEADLINE_SECONDS,
                "the compacted revisions are removed",
            )
        before = hashes(cluster)
        compacted = [cluster.client(i).status() for i in range(3)]
        assert all(now.dbSize >= was.dbSize for now, was in zip(compacted, full, strict=True))

        output = ok(cluster.etcdctl("defrag", timeout=DEADLINE_SECONDS))

        assert output.count("Finished defragmenting etcd member[") == 3
        for i in range(3):
            status = cluster.client(i).status()
            assert status.dbSize < compacted[i].dbSize / 2
            assert files(cluster, i) == ["db", "db-lock"]
        assert hashes(cluster) == before
        answer = cluster.client(0).defragment()
        assert not answer.HasField("header")
        cluster.client(0).put(b"after", b"1")
        cluster.kill_all()
        cluster.start_all()
        assert cluster.client(1).get(b"after").kvs[0].value == b"1"
        cluster.wait_equal_hashes()


def test_scenario_14685_members_killed_while_they_defragment_lose_nothing(tmp_path: Path) -> None:
    """MNT-18, scenario 24 (etcd-io/etcd 14685): kill -9 in the middle of it, on every member, under
    load; what was half copied is gone after the restart."""
    with three_members(tmp_path) as cluster:
        write_rounds(cluster.client(0), 3)
        half_copied: list[int] = []

        async def kill_in_mid_copy(i: int) -> None:
            starting = threading.Thread(target=lambda: _try_defragment(cluster.client(i)))
            starting.start()
            packed = snap_dir(cluster, i) / "db.packed"
            assert await asyncio.to_thread(poll, packed.exists), "no copy is being made"
            cluster.kill(i)
            await asyncio.to_thread(starting.join)
            half_copied.append(packed.exists())
            cluster.start(i)

        async def story() -> dict[bytes, tuple[int, int]]:
            async with Load(cluster) as load:
                for kill in range(KILLS):
                    i = kill % 3
                    await kill_in_mid_copy(i)
                    await reached(
                        lambda i=i: cluster._serves(i), "it serves again", DEADLINE_SECONDS
                    )
                    assert files(cluster, i) == ["db", "db-lock"]
                    await load.more(50, "writes after the restart")
            return load.acknowledged

        acknowledged = asyncio.run(story())

        assert any(half_copied), "no kill came in the middle of a copy"
        cluster.wait_healthy()
        assert_nothing_lost(cluster, acknowledged)
        cluster.wait_equal_hashes()


def _try_defragment(client: Client) -> None:
    try:
        client.defragment()
    except grpc.RpcError:
        return


def test_scenario_20271_defragmentation_beside_the_receipt_of_a_snapshot(tmp_path: Path) -> None:
    """MNT-18, scenario 25 (etcd-io/etcd 20271): a member that catches up by a snapshot is asked to
    defragment all the while; it ends with the data of the others, whichever file came last."""
    with three_members(tmp_path, "--snapshot-count=50", "--snapshot-catchup-entries=10") as cluster:
        write_rounds(cluster.client(0), 1)
        away = cluster.followers()[0]
        cluster.pause(away)
        others = [i for i in range(3) if i != away]
        write_rounds(cluster.client(others[0]), 2)
        # More messages than may be on their way to a member that does not answer.
        for number in range(MISSED):
            revision = cluster.client(others[0]).put(b"missed", b"%d" % number).header.revision
        stop = threading.Event()
        done: list[int] = []

        def defragment_on_and_on() -> None:
            with_own_connection = Client(cluster.members[away].endpoint)
            while not stop.is_set():
                try:
                    with_own_connection.defragment()
                    done.append(1)
                except grpc.RpcError:
                    time.sleep(0.005)
            with_own_connection.close()

        asking = threading.Thread(target=defragment_on_and_on)
        asking.start()
        cluster.resume(away)
        try:
            wait_until(
                lambda: _revision(cluster, away) >= revision, DEADLINE_SECONDS, "it has caught up"
            )
            seen = len(done)
            wait_until(lambda: len(done) > seen, DEADLINE_SECONDS, "it still defragments")
        finally:
            stop.set()
            asking.join()
        assert "installed a snapshot" in cluster.members[away].log_path.read_text()
        cluster.wait_equal_hashes()
        cluster.kill(away)
        cluster.start(away)
        cluster.wait_healthy()
        assert files(cluster, away) == ["db", "db-lock"]
        cluster.wait_equal_hashes()


def _revision(cluster: Cluster, i: int) -> int:
    try:
        return int(cluster.client(i).get(b"big/0", serializable=True).header.revision)
    except grpc.RpcError:
        return 0


@pytest.mark.skipif(reference_under_test(), reason="a promise of this server")
def test_stop_does_not_wait_for_a_defragmentation(tmp_path: Path) -> None:
    """SIGTERM in the middle of a copy: it ends in good order and leaves nothing of it."""
    with Cluster(1, tmp_path) as cluster:
        cluster.start_all()
        write_rounds(cluster.client(0), 4)
        starting = threading.Thread(target=lambda: _try_defragment(cluster.client(0)))
        starting.start()
        assert poll((snap_dir(cluster, 0) / "db.packed").exists), "no copy is being made"
        assert cluster.terminate(0) == 0
        starting.join()
        assert files(cluster, 0) == ["db", "db-lock"]
        cluster.start_all()
        assert cluster.client(0).get(b"big/0").kvs[0].value == bytes(VALUE)


@pytest.mark.skipif(reference_under_test(), reason="etcd queues one behind the other")
def test_calls_at_once_share_one_defragmentation(tmp_path: Path) -> None:
    """However many ask, the member is kept busy once."""
    with Cluster(1, tmp_path) as cluster:
        cluster.start_all()
        write_rounds(cluster.client(0), 1)
        with ThreadPoolExecutor(CALLS) as pool:
            calls = [pool.submit(cluster.client(0).defragment) for _ in range(CALLS)]
        for call in calls:
            call.result()
        assert cluster.members[0].log_path.read_text().count("starting defragment") < CALLS / 2


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.skipif(reference_under_test(), reason="etcd 3.5.1 has no feature gates")
def test_health_service_tells_a_defragmentation_if_the_gate_is_on(
    tmp_path: Path, gate: bool
) -> None:
    """HTP-07: StopGRPCServiceOnDefrag: NOT_SERVING meanwhile, to who asks and to who watches."""
    flag = f"--feature-gates=StopGRPCServiceOnDefrag={str(gate).lower()}"
    with Cluster(1, tmp_path, extra_flags=[flag]) as cluster:
        cluster.start_all()
        client = cluster.client(0)
        write_rounds(client, 2)
        watch = client.channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
        seen = [next(watch).status]
        client.defragment()
        if gate:
            seen += [next(watch).status, next(watch).status]
        watch.cancel()
        assert seen == ([1, 2, 1] if gate else [1])
        assert client.health().status == 1
