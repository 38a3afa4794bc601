"""Members die, stop, freeze and come back under load; nothing acknowledged may be lost.

Every test owns its cluster. Time appears only as generous deadlines: what is asserted is what the
cluster did (counts, revisions, hashes), not how fast.
"""

from __future__ import annotations

import asyncio
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from kvstore.pb.rpc_pb2 import Compare, RangeRequest, RequestOp
from tests.bench.frames import message, run_load
from tests.e2e.client import AsyncClient, prefix_end, rpc_pb2, write_until
from tests.e2e.cluster import Cluster, wait_until

DEADLINE_SECONDS = 30.0
LOAD_PREFIX = "load/"
Acknowledged = dict[bytes, tuple[int, int]]


@contextmanager
def three_members(tmp_path: Path, *flags: str) -> Iterator[Cluster]:
    with Cluster(3, tmp_path, extra_flags=flags) as cluster:
        cluster.start_all()
        yield cluster


async def reached(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """`wait_until` for asyncio."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


class Load:
    """Writers through every member while the context is open; `acknowledged` is what they know."""

    def __init__(self, cluster: Cluster) -> None:
        self.acknowledged: Acknowledged = {}
        self._clients = [AsyncClient(endpoint) for endpoint in cluster.endpoints]
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Load:
        writing = write_until(self._clients, LOAD_PREFIX, self._stop, self.acknowledged)
        self._task = asyncio.create_task(writing)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stop.set()
        await self._task
        for client in self._clients:
            await client.close()

    def count(self, *, not_through: int | None = None) -> int:
        """Acknowledged writes, without those that went through one member."""
        return sum(index != not_through for _, index in self.acknowledged.values())

    async def more(self, count: int, what: str, *, not_through: int | None = None) -> None:
        """Wait until `count` more writes are acknowledged than now."""
        goal = self.count(not_through=not_through) + count
        await reached(lambda: self.count(not_through=not_through) >= goal, what, DEADLINE_SECONDS)


def stored(cluster: Cluster, i: int, prefix: str = LOAD_PREFIX) -> dict[bytes, int]:
    """Key → mod_revision of everything under `prefix`, by a linearizable read on member `i`."""
    answer = cluster.client(i).prefix(prefix.encode(), timeout=60.0)
    assert all(kv.value == kv.key for kv in answer.kvs)
    return {kv.key: kv.mod_revision for kv in answer.kvs}


def assert_nothing_lost(cluster: Cluster, acknowledged: Acknowledged) -> None:
    """Every acknowledged write is on every running member at the revision that was answered."""
    assert acknowledged
    for i, member in enumerate(cluster.members):
        if member.running:
            there = stored(cluster, i)
            lost = sorted(
                f"{key.decode()} at {rev} (there: {there.get(key)})"
                for key, (rev, _) in acknowledged.items()
                if there.get(key) != rev
            )
            assert not lost, f"{member.name} lacks {len(lost)} acknowledged writes: {lost[:3]}"


def test_writes_go_on_after_the_leader_is_killed(tmp_path: Path) -> None:
    """RFT-09, RFT-10, KUB-30."""
    with three_members(tmp_path) as cluster:

        async def story() -> Acknowledged:
            async with Load(cluster) as load:
                await load.more(300, "writes before the kill")
                leader = cluster.leader()
                cluster.kill(leader)
                await load.more(300, "writes through other members", not_through=leader)
                assert cluster.leader() != leader
                cluster.start(leader)
            return load.acknowledged

        acknowledged = asyncio.run(story())

        cluster.wait_healthy()
        assert_nothing_lost(cluster, acknowledged)
        cluster.wait_equal_hashes()


def test_killing_all_members_under_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """RFT-09, RFT-10, JEP-11, JEP-12."""
    with three_members(tmp_path) as cluster:

        async def story() -> Acknowledged:
            async with Load(cluster) as load:
                for _ in range(2):  # the second recovery reads what the first one wrote
                    await load.more(500, "writes before the kill")
                    cluster.kill_all()
                    for i in range(3):
                        cluster.start(i)
                await load.more(100, "writes after the second recovery")
            return load.acknowledged

        acknowledged = asyncio.run(story())

        cluster.wait_healthy()
        assert_nothing_lost(cluster, acknowledged)
        cluster.wait_equal_hashes()


MISSED_WRITES = 50_000
SNAPSHOT_COUNT = 5_000


def missed_bodies() -> Iterator[bytes]:
    for i in range(MISSED_WRITES):
        request = rpc_pb2.PutRequest(key=b"missed/%05d" % (i % 20_000), value=b"%064d" % i)
        yield message(request.SerializeToString())


def metric(cluster: Cluster, i: int, name: str) -> float:
    """Sum of all series of one metric of member `i`."""
    url = f"http://{cluster.members[i].endpoint}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    series = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
    return sum(float(line.rsplit(" ", 1)[1]) for line in series)


def test_member_away_for_50000_writes_catches_up_by_a_snapshot(tmp_path: Path) -> None:
    """JEP-12."""
    with three_members(tmp_path, f"--snapshot-count={SNAPSHOT_COUNT}") as cluster:
        away = cluster.followers()[0]
        cluster.terminate(away)
        others = [e for i, e in enumerate(cluster.endpoints) if i != away]
        load = asyncio.run(run_load(others, "/etcdserverpb.KV/Put", missed_bodies(), 256))
        assert (load.answered, load.failed) == (MISSED_WRITES, 0)

        async def story() -> Acknowledged:
            async with Load(cluster) as load:
                await load.more(50, "writes before the return", not_through=away)
                cluster.start(away)
                client = AsyncClient(cluster.members[away].endpoint)
                while True:  # the cluster serves the writers meanwhile
                    try:
                        answer = await client.get(
                            b"missed/", range_end=prefix_end(b"missed/"), count_only=True
                        )
                        break
                    except grpc.RpcError:
                        await asyncio.sleep(0.05)
                assert answer.count == 20_000
                await load.more(50, "writes after the return", not_through=away)
                await client.close()
            return load.acknowledged

        acknowledged = asyncio.run(asyncio.wait_for(story(), 90))

        assert metric(cluster, away, "etcd_network_snapshot_receive_success") >= 1
        assert_nothing_lost(cluster, acknowledged)
        cluster.wait_equal_hashes()


SLOW_ELECTION_SECONDS = 12


def test_stopping_the_leader_hands_leadership_over(tmp_path: Path) -> None:
    """MNT-30, KUB-30: with this election time-out only a transfer explains writes so soon."""
    slow = f"--election-timeout={SLOW_ELECTION_SECONDS * 1000}"
    with Cluster(3, tmp_path, extra_flags=[slow, "--heartbeat-interval=200"]) as cluster:
        cluster.start_all(timeout=60)

        async def story() -> Acknowledged:
            async with Load(cluster) as load:
                await load.more(100, "writes before the stop")
                leader = cluster.leader()
                cluster.signal(leader, signal.SIGTERM)
                await reached(
                    lambda: cluster.leader_now() not in (None, leader),
                    "another member leads without an election time-out",
                    SLOW_ELECTION_SECONDS / 2,
                )
                await load.more(100, "writes after the stop", not_through=leader)
                code = await asyncio.to_thread(cluster.wait_exit, leader)
                assert code in (0, -signal.SIGTERM), "a graceful end"
            return load.acknowledged

        assert_nothing_lost(cluster, asyncio.run(story()))


def test_linearizable_reads_on_every_member_see_every_acknowledged_write(tmp_path: Path) -> None:
    """RFT-01, RNG-28."""
    with three_members(tmp_path) as cluster:
        for i in range(150):
            revision = cluster.client(i % 3).put(b"fresh", b"%d" % i).header.revision
            for reader in range(3):
                answer = cluster.client(reader).get(b"fresh")
                assert answer.kvs[0].value == b"%d" % i
                assert answer.header.revision >= revision


def test_without_quorum_only_serializable_reads_are_answered(tmp_path: Path) -> None:
    """RNG-26, TXN-21, TXN-22, RFT-12, RFT-23."""
    read = RequestOp(request_range=RangeRequest(key=b"kept", serializable=True))
    with three_members(tmp_path) as cluster:
        cluster.client(0).put(b"kept", b"yes")
        cluster.client(2).get(b"kept")  # a linearizable read: member 2 has it now
        cluster.kill(0)
        cluster.kill(1)

        local = cluster.client(2).get(b"kept", serializable=True)
        assert local.kvs[0].value == b"yes"
        answer = cluster.client(2).txn(success=[read])
        assert answer.responses[0].response_range.kvs[0].value == b"yes"
        calls: list[Callable[[], Any]] = [
            lambda: cluster.client(2).get(b"kept", timeout=2.0),
            lambda: cluster.client(2).txn([Compare(key=b"kept")], timeout=2.0),
            lambda: cluster.client(2).put(b"kept", b"no", timeout=2.0),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                call()
            error: Any = caught.value
            assert error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)

        cluster.start(0)
        cluster.start(1)
        cluster.wait_healthy()
        # The put had no answer in time, so it may have happened; nothing else may.
        assert cluster.client(1).get(b"kept").kvs[0].value in (b"yes", b"no")


def test_leader_that_was_frozen_serves_no_stale_linearizable_read(tmp_path: Path) -> None:
    """JEP-15, RFT-12."""
    with three_members(tmp_path) as cluster:
        cluster.client(0).put(b"stale", b"old")
        old = cluster.leader()
        others = [i for i in range(3) if i != old]
        cluster.pause(old)

        def write_elsewhere() -> bool:
            try:
                cluster.client(others[0]).put(b"stale", b"new", timeout=2.0)
            except grpc.RpcError:
                return False
            return True

        wait_until(write_elsewhere, DEADLINE_SECONDS, "a write without the frozen leader")
        cluster.resume(old)

        def read_there() -> Any:
            try:
                return cluster.client(old).get(b"stale", timeout=2.0)
            except grpc.RpcError:
                return None

        answer = wait_until(read_there, DEADLINE_SECONDS, "a read on the member that was frozen")
        assert answer.kvs[0].value == b"new"
        cluster.wait_equal_hashes()


def test_watch_across_a_leader_kill_sees_every_event_once_in_order(tmp_path: Path) -> None:
    """WCH-22, WCH-50, JEP-08."""
    with three_members(tmp_path) as cluster:
        leader = cluster.leader()
        watched = cluster.followers()
        last_key = b"load/~last"
        seen: dict[int, list[tuple[int, bytes]]] = {i: [] for i in watched}

        async def follow(i: int, client: AsyncClient) -> None:
            prefix = LOAD_PREFIX.encode()
            watch = client.watch(prefix, range_end=prefix_end(prefix), start_revision=2)
            async for response in watch:
                assert not response.canceled, response.cancel_reason
                seen[i] += [(e.kv.mod_revision, e.kv.key) for e in response.events]
                if seen[i] and seen[i][-1][1] == last_key:
                    return

        async def story() -> Acknowledged:
            clients = {i: AsyncClient(cluster.members[i].endpoint) for i in watched}
            async with Load(cluster) as load:
                followers = [asyncio.create_task(follow(i, c)) for i, c in clients.items()]
                await load.more(200, "writes before the kill")
                cluster.kill(leader)
                await load.more(200, "writes after the kill", not_through=leader)
            await clients[watched[0]].put(last_key, last_key)
            await asyncio.wait_for(asyncio.gather(*followers), DEADLINE_SECONDS)
            for client in clients.values():
                await client.close()
            return load.acknowledged

        acknowledged = asyncio.run(story())

        assert_nothing_lost(cluster, acknowledged)
        history = sorted((rev, key) for key, rev in stored(cluster, watched[0]).items())
        for i in watched:  # every key is written once, so the history is what is stored now
            assert seen[i] == history
