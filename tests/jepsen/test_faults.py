"""Each fault bites, proves it by its effect, and is mended: on one cluster of real processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from typing import NamedTuple

import grpc
import pytest

from jepsen.chaos.faults import FAULTS, Done, Fault
from kvstore.pb import rpc_pb2
from kvstore.testing import Cluster, Member, wait_until

DEADLINE_S = 60.0
EIGHT_BITS = 11
"""The first seed: with it that many are flipped."""
DAMAGES = 6
"""Most tries to damage what is really used: three of four did."""
WRITES = 15
"""Acknowledged ones that a fault lasts for: all members were asked several times."""


class Load:
    """Writes to all members in turn until it is stopped, so that faults have something to hit."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.acknowledged = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        channels = [grpc.insecure_channel(endpoint) for endpoint in self.cluster.endpoints]
        calls = [
            channel.unary_unary(
                "/etcdserverpb.KV/Put",
                request_serializer=rpc_pb2.PutRequest.SerializeToString,
                response_deserializer=rpc_pb2.PutResponse.FromString,
            )
            for channel in channels
        ]
        number = 0
        while not self._stop.wait(0.01):
            number += 1
            request = rpc_pb2.PutRequest(key=b"load/%d" % (number % 50), value=b"x" * 1000)
            try:
                calls[number % len(calls)](request, timeout=1.0)
            except grpc.RpcError:
                continue
            self.acknowledged += 1
        for channel in channels:
            channel.close()

    def goes_on(self) -> None:
        """Wait until some more writes were acknowledged."""
        wanted = self.acknowledged + WRITES
        wait_until(lambda: self.acknowledged >= wanted, DEADLINE_S, "writes go on")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class Broken(NamedTuple):
    """A cluster under load."""

    cluster: Cluster
    load: Load


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    folder = tmp_path_factory.mktemp("faults")
    with ExitStack() as stack, Cluster(3, folder / "members", client_links=True) as cluster:
        for kind in FAULTS.values():
            kind.prepare(cluster, stack)
        cluster.start()
        load = Load(cluster)
        yield Broken(cluster, load)
        load.stop()


def begins(broken: Broken, name: str, seed: int = 1) -> tuple[Fault, Done]:
    """Let a fault happen, and the load go on; skip what cannot be had here."""
    kind = FAULTS[name]
    why = kind.available(broken.cluster)
    if why:
        pytest.skip(f"{name}: {why}")
    fault = kind(broken.cluster, Random(seed))
    done = fault.begin()
    assert fault.hit == done.targets or not kind.ends_members, "it has said whom it may end"
    broken.load.goes_on()
    return fault, done


def ends(broken: Broken, fault: Fault, done: Done) -> None:
    """Mend it: it had an effect, and every member serves again."""
    fault.end(done)
    assert done.effect > 0, f"{fault.name} {done}"
    assert not done.findings
    broken.cluster.wait_ready(*broken.cluster.numbers, timeout_s=DEADLINE_S)


def victim(broken: Broken, done: Done) -> Member:
    (name,) = done.targets
    return next(member for member in broken.cluster.members if member.name == name)


@pytest.mark.parametrize(
    "name",
    [
        *("flapping-links", "half-open", "client-cut", "client-mute", "client-slow"),
        *("client-reset", "slow-sync", "wall-clock", "clock-drift"),
    ],
)
def test_a_cluster_goes_on_under_it_and_is_well_afterwards(broken: Broken, name: str) -> None:
    fault, done = begins(broken, name)
    assert victim(broken, done).running
    ends(broken, fault, done)


def test_a_slow_disk_is_proven_by_the_syncs_of_members(broken: Broken) -> None:
    """Or it says that this disk could not be slowed, or was asked for too few of them."""
    fault, done = begins(broken, "slow-disk")
    fault.end(done)
    assert ("ms longer" if done.effect else "nothing proven") in done.detail
    broken.cluster.wait_ready(*broken.cluster.numbers, timeout_s=DEADLINE_S)


def test_a_failing_sync_ends_the_member_which_starts_again(broken: Broken) -> None:
    """Scenario 32: it says why, and does so once."""
    fault, done = begins(broken, "failing-sync")
    member = victim(broken, done)
    assert not member.running
    ends(broken, fault, done)
    ((path, start, end),) = done.excused
    assert path == member.log_path
    assert b"Input/output error" in path.read_bytes()[start:end]


def test_a_full_disk_ends_the_member_which_starts_again_when_there_is_room(broken: Broken) -> None:
    fault, done = begins(broken, "full-disk")
    assert not victim(broken, done).running
    ends(broken, fault, done)
    ((path, start, end),) = done.excused
    assert b"No space left on device" in path.read_bytes()[start:end]


@pytest.mark.parametrize("name", ["damaged-backend", "damaged-log"])
def test_damage_is_detected_and_its_member_replaced(broken: Broken, name: str) -> None:
    """Scenario 34: the member refuses to start, and says what is wrong. Some flips hit what nobody
    uses, by chance; then the next one is tried."""
    for seed in range(EIGHT_BITS, EIGHT_BITS + DAMAGES):
        fault, done = begins(broken, name, seed)
        member = victim(broken, done)
        refused = "refused to start" in done.detail
        if refused:
            assert "corrupt" in member.log_tail()
            assert "Traceback" not in member.log_tail()
        ends(broken, fault, done)
        if refused:
            break
    assert refused
    assert member.joins, "it came back as a new member"


def test_a_member_is_added_and_removed(broken: Broken) -> None:
    fault, done = begins(broken, "add-member")
    assert len(broken.cluster.numbers) == 4
    added = victim(broken, done)
    assert not added.learner
    ends(broken, fault, done)
    assert added.removed
    assert not added.running
    assert len(broken.cluster.numbers) == 3


def test_a_member_is_removed_and_another_takes_its_place(broken: Broken) -> None:
    fault, done = begins(broken, "remove-member")
    assert len(broken.cluster.numbers) == 2
    ends(broken, fault, done)
    assert len(broken.cluster.numbers) == 3


def test_a_member_whose_disk_is_lost_is_replaced(broken: Broken) -> None:
    before = {broken.cluster.status(i).header.member_id for i in broken.cluster.numbers}
    fault, done = begins(broken, "replace-member")
    ends(broken, fault, done)
    after = {broken.cluster.status(i).header.member_id for i in broken.cluster.numbers}
    assert len(after - before) == 1


def test_a_snapshot_taken_under_load_is_restored_with_all_that_was_acknowledged(
    broken: Broken,
) -> None:
    fault, done = begins(broken, "snapshot-restore")
    assert done.checked == 1
    assert "same hash" in done.detail
    ends(broken, fault, done)
