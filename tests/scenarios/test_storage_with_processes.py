"""Storage of real members: scenarios 17, 19, 20, 21, 23, 27, 29, 31 and 32."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import grpc
import pytest

from jepsen.hunts.processes import PATIENCE_S, Processes, refusal, watch_call
from jepsen.power import disk
from jepsen.power.disk import PowerDisk
from kvstore.pb import rpc_pb2
from kvstore.server.process import FATAL_EXIT
from kvstore.testing.processes import wait_until
from tests.e2e.client import put_op

KILLS = 3
CUTS = 4
KEYS = 1500
"""Deleted keys: more than a slice of a compaction removes."""
RECEIPTS = 2
MISSED = 220
"""Twice what a member keeps in its log."""
SNAPSHOTS_RECEIVED = "etcd_network_snapshot_receive_success"
LIMIT = 1 << 20
"""Bytes into a file from which on writes fail: beyond the server's own messages."""
VALUE = 10_000


def test_scenarios_19179_17780_a_member_killed_while_it_compacts(one: Processes) -> None:
    """Scenarios 17 and 19: its revision never decreases although the newest ones are deletions,
    and the deletion at the compact revision is still there."""
    client = one.client(0)
    for start in range(0, KEYS, 100):
        client.txn(success=[put_op(b"gone/%05d" % k, b"x") for k in range(start, start + 100)])
    client.put(b"watched/")
    client.delete(b"gone/", range_end=b"gone0")
    deleted = client.delete(b"watched/").header.revision
    client.compact(deleted)
    one.restart(0)
    assert client.get(b"-").header.revision == deleted
    one.restart(0)
    written = client.put(b"watched/").header.revision
    assert written == deleted + 1
    with watch_call(client) as watch:
        watch.ask(b"watched/", deleted)
        assert watch.events_until(written) == [("DELETE", deleted), ("PUT", written)]
    assert client.get(b"gone/", range_end=b"gone0").count == 0


def test_scenario_18667_members_compacted_differently_answer_alike(three: Processes) -> None:
    """Scenario 20 (18667, PR 21432): one was away and one was killed while they compacted."""
    away, killed = three.followers()
    client = three.client(three.leader())
    for number in range(200):
        client.put(b"old/", b"%d" % number)
        last = client.put(b"old/%d" % number).header.revision
    with three.partitioned([away]):
        client.compact(last)
        three.restart(killed)
    read = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"old/", revision=last - 100))
    for number in range(3):
        three.wait_revision(number, last)
        operations = [put_op(b"new/", b"x"), read]
        code, text = refusal(lambda n=number, ops=operations: three.client(n).txn(success=ops))
        assert code == grpc.StatusCode.OUT_OF_RANGE
        assert text == "etcdserver: mvcc: required revision has been compacted"
    assert client.get(b"new/").count == 0
    assert three.same_hash()


def test_scenario_18799_a_failing_transaction_writes_nothing_anywhere(three: Processes) -> None:
    """Scenario 21: nor does it take a revision."""
    client = three.client(0)
    before = client.put(b"partial/", b"old").header.revision
    bad = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"partial/b", lease=404))
    for operations in ([put_op(b"partial/", b"new"), bad], [bad, put_op(b"partial/", b"new")]):
        with pytest.raises(grpc.RpcError) as refused:
            client.txn(success=operations)
        assert refused.value.details() == "etcdserver: requested lease not found"
    for number in range(3):
        found = three.client(number).prefix(b"partial/")
        assert [(kv.key, kv.value) for kv in found.kvs] == [(b"partial/", b"old")]
        assert found.header.revision == before
    assert three.same_hash()


def test_scenario_14370_a_lone_member_killed_right_after_its_answer(one: Processes) -> None:
    """Scenario 27: there is nobody else who has the write."""
    client, random = one.client(0), Random(14370)
    expected = {}
    for kill in range(KILLS):
        for number in range(random.randrange(1, 40)):
            key, value = b"answered/%d" % number, b"%d" % kill
            expected[key] = (value, client.put(key, value).header.revision)
        one.restart(0)
        found = client.prefix(b"answered/").kvs
        assert {kv.key: (kv.value, kv.mod_revision) for kv in found} == expected


@pytest.fixture
def power(tmp_path: Path) -> Iterator[PowerDisk]:
    made = PowerDisk(tmp_path, "disk")
    yield made
    made.remove()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@pytest.mark.skipif(bool(disk.missing()), reason=disk.missing() or "-")
def test_scenario_16596_a_power_cut_during_the_first_start(
    power: PowerDisk, tmp_path: Path
) -> None:
    """Scenario 29: at the first, second, third file; it starts afterwards, as a new member or as
    the one that it has become, and takes writes."""
    with Processes(1, tmp_path / "members", links=False) as cluster:
        member = cluster.members[0]
        for cut in range(CUTS):
            member.data_dir = power.folder / f"data{cut}"
            cluster.start(0, wait=False)

            def begun(cut: int = cut) -> bool:
                there = list(member.data_dir.rglob("*")) if member.data_dir.exists() else []
                return len(there) >= cut + 1

            wait_until(begun, PATIENCE_S, f"{cut + 1} files or folders are there")
            power.cut()
            member.kill()
            power.restore()
            cluster.start(0)
            written = cluster.client(0).put(b"first", b"%d" % cut).header.revision
            assert written == 2, "a new cluster begins at revision 1"
            cluster.kill(0)
            shutil.rmtree(
                member.data_dir
            )  # the disk is small, and would forget this at the next cut
            _sync(power.folder)


def test_scenario_32_a_failed_write_ends_the_member(one: Processes) -> None:
    """Scenario 32: from some byte on the system refuses to write its files. What was acknowledged
    is there after the next start, nothing else was acknowledged, and it did not go on."""
    client = one.client(0)
    process = one.members[0].process
    assert process is not None
    client.put(b"before", b"x")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
    acknowledged = []
    for number in range(2 * LIMIT // VALUE):
        try:
            client.put(b"failing/%03d" % number, bytes(VALUE))
        except grpc.RpcError:
            break
        acknowledged.append(b"failing/%03d" % number)
    assert one.members[0].wait_exit(PATIENCE_S) == FATAL_EXIT
    assert "fatal" in one.members[0].log_tail()
    one.start()
    found = [kv.key for kv in client.prefix(b"failing/", keys_only=True).kvs]
    assert found[: len(acknowledged)] == acknowledged
    assert len(found) <= len(acknowledged) + 1, "the one without an answer may be there"
    assert client.get(b"before").count == 1


def test_scenarios_11888_18055_13933_killed_around_the_receipt_of_snapshots(
    three: Processes,
) -> None:
    """Scenarios 23 and 31: over an older store, with one snapshot right after another; it starts
    again each time, with the applied index that goes with its data."""
    away, other = three.followers()
    client = three.client(other)
    snapshots = three.members[away].data_dir / "member" / "snap"
    for _ in range(RECEIPTS):
        received = three.metric(away, SNAPSHOTS_RECEIVED)
        with three.cut_off_until_it_needs_a_snapshot(away, b"missed/"):
            pass
        wait_until(
            lambda before=received: (
                list(snapshots.glob("*.snap*")) or three.metric(away, SNAPSHOTS_RECEIVED) > before
            ),
            PATIENCE_S,
            "a snapshot is on its way",
        )
        three.kill(away)
        for number in range(MISSED):  # the next snapshot is another one
            last = client.put(b"missed/%d" % number).header.revision
        three.start(away)
        three.wait_revision(away, last)
        assert three.same_hash()


@pytest.mark.skipif(bool(disk.missing()), reason=disk.missing() or "-")
def test_scenario_32_a_device_that_fails_ends_the_member(power: PowerDisk, tmp_path: Path) -> None:
    """Scenario 32: writes and syncs are I/O errors from one moment on; the member answers no
    write, and ends by itself."""
    with Processes(1, tmp_path / "members", links=False) as cluster:
        member = cluster.members[0]
        member.data_dir = power.folder / "data"
        cluster.start()
        client = cluster.client(0)
        acknowledged = [client.put(b"k", b"%d" % n).header.revision for n in range(10)][-1]
        power.cut()
        with pytest.raises(grpc.RpcError):
            client.put(b"k", b"late")
        assert member.wait_exit(PATIENCE_S) == FATAL_EXIT
        power.restore()
        cluster.start()
        assert client.get(b"k").kvs[0].mod_revision == acknowledged
