"""The numbers behind etcd's own alerts, on a cluster that is well and on one that is not.

Each function below is one alert's condition over scrapes of all members, without its waiting time.
The conditions on durations are evaluated but not asserted on: how fast a disk is is not this
server's promise, that there is a finite figure is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
import pytest

from kvstore.pb import rpc_pb2
from tests.e2e.cluster import Cluster, reference_under_test, wait_until
from tests.e2e.prometheus import Scrape, increase, quantile, scrape

PATIENCE_S = 60
QUOTA_BYTES = 4 << 20
FAILED_CODES = (
    *("Unknown", "FailedPrecondition", "ResourceExhausted", "Internal", "Unavailable"),
    *("DataLoss", "DeadlineExceeded"),
)

pytestmark = pytest.mark.skipif(
    reference_under_test(), reason="the reference, etcd 3.5.1, has fewer metrics"
)

Scrapes = Sequence[Scrape]


def no_leader(now: Scrapes) -> bool:
    return any(s.sum("etcd_server_has_leader") == 0 for s in now)


def grown(before: Scrapes, now: Scrapes, name: str, **labels: str) -> float:
    return sum(increase(b, n, name, **labels) for b, n in zip(before, now, strict=True))


def many_leader_changes(before: Scrapes, now: Scrapes) -> bool:
    name = "etcd_server_leader_changes_seen_total"
    return max(increase(b, n, name) for b, n in zip(before, now, strict=True)) >= 4


def members_down(before: Scrapes, now: Scrapes) -> bool:
    return grown(before, now, "etcd_network_peer_sent_failures_total") > 0


def failed_proposals(before: Scrapes, now: Scrapes) -> float:
    return grown(before, now, "etcd_server_proposals_failed_total")


def failed_calls(before: Scrapes, now: Scrapes, method: str) -> float:
    name = "grpc_server_handled_total"
    failed = sum(
        grown(before, now, name, grpc_method=method, grpc_code=code) for code in FAILED_CODES
    )
    return failed / max(1.0, grown(before, now, name, grpc_method=method))


def low_quota_space(now: Scrapes) -> bool:
    return any(
        s.sum("etcd_mvcc_db_total_size_in_bytes") / s.sum("etcd_server_quota_backend_bytes") > 0.95
        for s in now
    )


def fragmented(now: Scrapes) -> float:
    """The part of the database that is in use; the alert fires below a half."""
    return min(
        s.sum("etcd_mvcc_db_total_size_in_use_in_bytes") / s.sum("etcd_mvcc_db_total_size_in_bytes")
        for s in now
    )


def running(cluster: Cluster) -> list[Scrape]:
    return [scrape(m.endpoint) for m in cluster.members if m.running]


def test_a_healthy_cluster_raises_none_and_has_a_figure_for_each(tmp_path: Path) -> None:
    with Cluster(3, tmp_path, extra_flags=["--metrics=extensive"]) as cluster:
        cluster.start_all()
        before = running(cluster)
        for i in range(60):
            cluster.client(i % 3).put(b"key/%d" % i, bytes(100))
            cluster.client(i % 3).get(b"key/%d" % i)
        round_trips = "etcd_network_peer_round_trip_time_seconds"
        commits = "etcd_disk_backend_commit_duration_seconds"
        for name in (f"{round_trips}_count", f"{commits}_count"):
            for member, old in zip(cluster.members, before, strict=True):
                grows = partial(_grows, member.endpoint, old, name)
                wait_until(grows, PATIENCE_S, f"{name} grows on {member.name}")
        now = running(cluster)
        assert not no_leader(now)
        assert not many_leader_changes(before, now)
        assert not members_down(before, now)
        assert failed_proposals(before, now) == 0
        assert failed_calls(before, now, "Put") == failed_calls(before, now, "Range") == 0
        assert not low_quota_space(now)
        for histogram in (
            "etcd_disk_wal_fsync_duration_seconds",
            commits,
            round_trips,
            "grpc_server_handling_seconds",
        ):
            assert not math.isnan(quantile(now, histogram, 0.99)), histogram
            assert grown(before, now, f"{histogram}_count") > 0, histogram
        for counted in (
            "etcd_network_client_grpc_received_bytes_total",
            "etcd_network_client_grpc_sent_bytes_total",
            "etcd_network_peer_sent_bytes_total",
            "etcd_network_peer_received_bytes_total",
        ):
            assert all(increase(b, n, counted) > 0 for b, n in zip(before, now, strict=True))


def _grows(endpoint: str, before: Scrape, name: str) -> bool:
    return increase(before, scrape(endpoint), name) > 0


def test_a_cluster_in_trouble_shows_it(tmp_path: Path) -> None:
    """Leaders that change, a member that is down, then no quorum and writes that fail."""
    with Cluster(3, tmp_path) as cluster:
        cluster.start_all()
        before = running(cluster)
        for _ in range(4):
            leader = cluster.leader()
            target = cluster.client((leader + 1) % 3).status().header.member_id
            cluster.client(leader).move_leader(target)
        wait_until(
            lambda: many_leader_changes(before, running(cluster)),
            PATIENCE_S,
            "the changes of leader are seen",
        )

        survivor = cluster.leader()
        healthy = [scrape(cluster.members[survivor].endpoint)]
        others = cluster.followers()
        cluster.kill(others[0])
        wait_until(
            lambda: members_down(healthy, [scrape(cluster.members[survivor].endpoint)]),
            PATIENCE_S,
            "the member that is down is missed",
        )

        cluster.kill(others[1])
        wait_until(lambda: no_leader(running(cluster)), PATIENCE_S, "the leader steps down")
        client = cluster.client(survivor)
        with ThreadPoolExecutor() as pool:  # both run into the server's own time-out
            read = pool.submit(client.get, b"in vain", timeout=30)
            write = pool.submit(client.put, b"in vain", b"", timeout=30)
        assert isinstance(read.exception(), grpc.RpcError)
        assert isinstance(write.exception(), grpc.RpcError)
        alone = [scrape(cluster.members[survivor].endpoint)]
        assert failed_proposals(healthy, alone) > 0
        assert failed_calls(healthy, alone, "Put") == failed_calls(healthy, alone, "Range") == 1
        assert grown(healthy, alone, "etcd_server_read_indexes_failed_total") > 0


def test_a_database_that_fills_up_and_one_full_of_holes_show_it(tmp_path: Path) -> None:
    with Cluster(1, tmp_path, extra_flags=[f"--quota-backend-bytes={QUOTA_BYTES}"]) as cluster:
        cluster.start_all()
        client = cluster.client(0)
        empty = running(cluster)
        assert not low_quota_space(empty)
        with contextlib.suppress(grpc.RpcError):  # until there is no space
            for _ in range(2 * QUOTA_BYTES >> 16):
                client.put(b"big", bytes(1 << 16))
        wait_until(
            lambda: low_quota_space(running(cluster)), PATIENCE_S, "the quota is nearly full"
        )
        full = running(cluster)
        assert grown(empty, full, "etcd_mvcc_db_total_size_in_bytes") > QUOTA_BYTES / 2
        alarms = "etcd_debugging_server_alarms"
        assert full[0].sum(alarms, alarm_type="NOSPACE") == 1

        client.compact(client.get(b"big").header.revision, physical=True)
        wait_until(lambda: fragmented(running(cluster)) < 0.5, PATIENCE_S, "holes are seen")
        assert failed_calls(empty, running(cluster), "Put") > 0
        assert client.alarm(0).alarms[0].alarm == rpc_pb2.NOSPACE
