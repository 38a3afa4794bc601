"""What /metrics says about a running cluster, number by number: each moves when its thing happens.

One cluster of three serves all tests here; each looks at what grows between two scrapes.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kvstore.pb import rpc_pb2
from kvstore.server.metric_table import SPECS
from tests.e2e.client import put_op
from tests.e2e.cluster import Cluster, reference_under_test, wait_until
from tests.e2e.etcdctl import distro_binary, ok
from tests.e2e.prometheus import Scrape, increase, scrape

PATIENCE_S = 60
SNAPSHOT_COUNT = 200

pytestmark = pytest.mark.skipif(
    reference_under_test(), reason="the reference, etcd 3.5.1, has fewer metrics"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With all histograms, and a log short enough for snapshots between members."""
    flags = [
        "--metrics=extensive",
        f"--snapshot-count={SNAPSHOT_COUNT}",
        "--snapshot-catchup-entries=20",
    ]
    with Cluster(3, tmp_path_factory.mktemp("metrics"), extra_flags=flags) as running:
        running.start_all()
        yield running


def at(cluster: Cluster, i: int) -> Scrape:
    return scrape(cluster.members[i].endpoint)


def range_op(key: bytes) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))


def member_id(cluster: Cluster, i: int) -> str:
    return f"{cluster.client(i).status().header.member_id:x}"


def test_names_types_labels_and_buckets_are_those_of_a_real_etcd(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Both get the same requests first, so that metrics with labels have series."""
    etcd = (distro_binary("etcd"),)
    with Cluster(1, tmp_path, program=etcd, extra_flags=["--metrics=extensive"]) as reference:
        reference.start_all()
        for one in (reference, cluster):
            ok(one.etcdctl("put", "exercise", "x", endpoints=one.endpoints[:1]))
            ok(one.etcdctl("get", "exercise", endpoints=one.endpoints[:1]))
        theirs, ours = at(reference, 0), at(cluster, 0)
    shared = {name for name in theirs.types if name in SPECS}
    assert len(shared) > 70
    for name in sorted(shared):
        assert ours.types[name] == theirs.types[name], name
        assert ours.label_names(name) == theirs.label_names(name), name
        assert ours.bounds(name) == theirs.bounds(name), name
    # etcd shows its lock and election services only after their first call.
    for label in ("grpc_type", "grpc_code"):
        name = "grpc_server_handled_total"
        assert ours.label_values(name, label) <= theirs.label_values(name, label)


def test_requests_carried_out_are_counted_on_every_member(cluster: Cluster) -> None:
    """Also on those that only apply them, and inside of transactions."""
    before = [at(cluster, i) for i in range(3)]
    client = cluster.client(0)
    for i in range(4):
        client.put(b"count/%d" % i, b"0123456789")
    client.delete(b"count/0")
    client.get(b"count/1")
    client.txn(success=[put_op(b"count/9", b"12345"), range_op(b"count/1")])
    for i in range(1, 3):
        cluster.client(i).get(b"count/1")  # linearizable: what was applied there is all of it
    after = [at(cluster, i) for i in range(3)]
    expected = {
        "etcd_mvcc_put_total": 5,
        "etcd_mvcc_delete_total": 1,
        "etcd_mvcc_txn_total": 1,
        "etcd_mvcc_range_total": 2,
        "etcd_debugging_mvcc_keys_total": 4,
        "etcd_debugging_mvcc_current_revision": 6,
        "etcd_debugging_mvcc_total_put_size_in_bytes": 4 * 17 + 12,
    }
    for i in range(3):
        for name, growth in expected.items():
            assert increase(before[i], after[i], name) == growth, (name, i)
    for name, labels, growth in (
        ("etcd_server_apply_duration_seconds_count", {"op": "Put", "success": "true"}, 4),
        ("etcd_server_apply_duration_seconds_count", {"op": "Txn", "success": "true"}, 1),
        ("etcd_server_request_duration_seconds_count", {"type": "Put", "success": "true"}, 4),
        ("etcd_server_request_duration_seconds_count", {"type": "Range", "success": "true"}, 1),
        ("etcd_server_range_duration_seconds_count", {"success": "true"}, 1),
        ("grpc_server_handling_seconds_count", {"grpc_method": "Put"}, 4),
        ("grpc_server_handled_total", {"grpc_method": "Put", "grpc_code": "OK"}, 4),
        ("etcd_server_client_requests_total", {"type": "unary"}, 7),
    ):
        assert increase(before[0], after[0], name, **labels) == growth, (name, labels)


def test_failures_are_counted_as_such(cluster: Cluster) -> None:
    before = at(cluster, 0)
    client = cluster.client(0)
    with pytest.raises(grpc.RpcError, match="lease not found"):
        client.put(b"failing", b"x", lease=12345)
    with pytest.raises(grpc.RpcError, match="future revision"):
        client.get(b"failing", revision=10**9)
    after = at(cluster, 0)
    for name, labels in (
        ("etcd_server_apply_duration_seconds_count", {"op": "Put", "success": "false"}),
        ("etcd_server_request_duration_seconds_count", {"type": "Put", "success": "false"}),
        ("etcd_server_range_duration_seconds_count", {"success": "false"}),
        ("grpc_server_handled_total", {"grpc_method": "Put", "grpc_code": "NotFound"}),
        ("grpc_server_handled_total", {"grpc_method": "Range", "grpc_code": "OutOfRange"}),
    ):
        assert increase(before, after, name, **labels) == 1, (name, labels)


def test_read_only_transactions_are_timed_apart(cluster: Cluster) -> None:
    before = at(cluster, 0)
    cluster.client(0).txn(success=[range_op(b"x")])
    name = "etcd_server_request_duration_seconds_count"
    after = at(cluster, 0)
    assert increase(before, after, name, type="ReadonlyTxn", success="true") == 1
    assert increase(before, after, name, type="Txn") == 0


def test_watches_and_their_events_are_counted(cluster: Cluster) -> None:
    before = at(cluster, 1)
    with cluster.etcdctl_stream(
        "watch", "--prefix", "seen/", endpoints=[cluster.members[1].endpoint]
    ):
        name = "etcd_debugging_mvcc_watcher_total"
        wait_until(
            lambda: increase(before, at(cluster, 1), name) == 1,
            PATIENCE_S,
            "the watcher is counted",
        )
        during = at(cluster, 1)
        assert increase(before, during, "etcd_debugging_mvcc_watch_stream_total") == 1
        assert during.sum("etcd_debugging_mvcc_slow_watcher_total") == 0
        for i in range(3):
            cluster.client(0).put(b"seen/%d" % i, b"x")
        name = "etcd_debugging_mvcc_events_total"
        wait_until(
            lambda: increase(during, at(cluster, 1), name) == 3, PATIENCE_S, "three events are sent"
        )
        assert at(cluster, 1).sum("etcd_debugging_mvcc_pending_events_total") == 0
    name = "etcd_debugging_mvcc_watch_stream_total"
    wait_until(
        lambda: increase(before, at(cluster, 1), name) == 0, PATIENCE_S, "the stream is closed"
    )


def test_leases_are_counted(cluster: Cluster) -> None:
    leader = cluster.leader()
    before = at(cluster, leader)
    client = cluster.client(leader)
    kept, revoked = client.grant(100).ID, client.grant(1000).ID
    client.keep_alive_once(kept)
    client.revoke(revoked)
    expiring = client.grant(1).ID
    wait_until(lambda: client.time_to_live(expiring).TTL == -1, PATIENCE_S, "the lease expires")
    after = at(cluster, leader)
    for name, growth in (
        ("etcd_debugging_lease_granted_total", 3),
        ("etcd_debugging_lease_renewed_total", 1),
        ("etcd_debugging_lease_revoked_total", 2),
        ("etcd_debugging_lease_ttl_total_count", 3),
        ("etcd_debugging_lease_ttl_total_sum", 100 + 1000 + 2),
    ):
        assert increase(before, after, name) == growth, name
    assert increase(before, after, "etcd_debugging_server_lease_expired_total") >= 1
    follower = at(cluster, cluster.followers()[0])
    assert follower.sum("etcd_debugging_server_lease_expired_total") == 0


def test_compactions_hashes_and_defragmentations_are_timed(cluster: Cluster) -> None:
    client = cluster.client(0)
    for i in range(10):
        last = client.put(b"compacted", b"%d" % i).header.revision
    before = at(cluster, 0)
    client.compact(last, physical=True)
    client.hash_kv()
    client.call("Maintenance/Hash", rpc_pb2.HashRequest())
    client.defragment()
    after = at(cluster, 0)
    assert after.sum("etcd_debugging_mvcc_compact_revision") == last
    assert increase(before, after, "etcd_debugging_mvcc_db_compaction_keys_total") >= 9
    for name in (
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count",
        "etcd_mvcc_hash_rev_duration_seconds_count",
        "etcd_mvcc_hash_duration_seconds_count",
        "etcd_disk_backend_defrag_duration_seconds_count",
    ):
        assert increase(before, after, name) == 1, name
    assert after.sum("etcd_disk_defrag_inflight") == 0
    steps = "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count"
    assert increase(before, after, steps) >= 1
    ended = after.sum("etcd_debugging_mvcc_db_compaction_last")
    assert ended >= after.sum("process_start_time_seconds")


def test_the_disks_work_is_counted(cluster: Cluster) -> None:
    before = at(cluster, 0)
    for _ in range(20):
        cluster.client(0).put(b"disk", bytes(1000))
    commits = "etcd_disk_backend_commit_duration_seconds_count"
    wait_until(lambda: increase(before, at(cluster, 0), commits) > 0, PATIENCE_S, "a commit")
    after = at(cluster, 0)
    assert increase(before, after, "etcd_disk_wal_write_bytes_total") > 20_000
    assert increase(before, after, "etcd_disk_wal_fsync_duration_seconds_count") > 0
    assert increase(before, after, "etcd_disk_wal_write_duration_seconds_count") > 0
    assert after.sum("etcd_mvcc_db_total_size_in_bytes") > 0
    used = after.sum("etcd_mvcc_db_total_size_in_use_in_bytes")
    assert 0 < used <= after.sum("etcd_mvcc_db_total_size_in_bytes")
    assert after.sum("etcd_mvcc_db_open_read_transactions") >= 1


def test_the_health_check_counts_its_answers(cluster: Cluster) -> None:
    before = at(cluster, 0)
    with urllib.request.urlopen(f"http://{cluster.members[0].endpoint}/health") as answer:
        assert answer.status == 200
    after = at(cluster, 0)
    assert increase(before, after, "etcd_server_health_success") == 1
    assert increase(before, after, "etcd_server_health_failures") == 0
    assert increase(before, after, "promhttp_metric_handler_requests_total", code="200") == 1


def test_round_trips_to_each_peer_are_measured(cluster: Cluster) -> None:
    name = "etcd_network_peer_round_trip_time_seconds_count"
    for i in range(3):
        before = at(cluster, i)
        for peer in {0, 1, 2} - {i}:
            to = member_id(cluster, peer)
            wait_until(
                lambda i=i, before=before, to=to: increase(before, at(cluster, i), name, To=to) > 0,
                PATIENCE_S,
                "a round trip is measured",
            )


def test_peers_and_bytes_are_counted_by_peer(cluster: Cluster) -> None:
    local, remote = member_id(cluster, 0), member_id(cluster, 1)
    before = at(cluster, 0)
    cluster.client(0).put(b"peers", bytes(10_000))
    after = at(cluster, 0)
    assert increase(before, after, "etcd_network_peer_sent_bytes_total") > 10_000
    assert increase(before, after, "etcd_network_peer_received_bytes_total", From=remote) >= 0
    assert after.sum("etcd_network_known_peers", Local=local) == 3
    assert after.sum("etcd_network_active_peers", Local=local, Remote=remote) == 1


def test_a_lost_peer_and_the_snapshot_for_its_return_are_counted(cluster: Cluster) -> None:
    leader, (lost, _) = cluster.leader(), cluster.followers()
    local, remote = member_id(cluster, leader), member_id(cluster, lost)
    before = at(cluster, leader)
    cluster.kill(lost)

    def down() -> bool:
        now = at(cluster, leader)
        return (
            now.sum("etcd_network_active_peers", Remote=remote) == 0
            and increase(before, now, "etcd_network_peer_sent_failures_total", To=remote) > 0
        )

    wait_until(down, PATIENCE_S, "the loss is noticed")
    name = "etcd_network_disconnected_peers_total"
    assert increase(before, at(cluster, leader), name, Local=local, Remote=remote) == 1
    for i in range(2 * SNAPSHOT_COUNT):
        cluster.client(leader).put(b"while away/%d" % i)
    cluster.start(lost)
    cluster.wait_healthy()

    name = "etcd_network_snapshot_send_success"
    wait_until(
        lambda: increase(before, at(cluster, leader), name, To=remote) == 1,
        PATIENCE_S,
        "a snapshot is sent",
    )
    sender, receiver = at(cluster, leader), at(cluster, lost)
    for name in (
        "etcd_network_snapshot_send_total_duration_seconds_count",
        "etcd_disk_backend_snapshot_duration_seconds_count",
    ):
        assert increase(before, sender, name) >= 1, name
    for name in (
        "etcd_network_snapshot_receive_success",
        "etcd_network_snapshot_receive_total_duration_seconds_count",
        "etcd_snap_db_save_total_duration_seconds_count",
        "etcd_snap_db_fsync_duration_seconds_count",
    ):
        assert receiver.sum(name) >= 1, name
    assert receiver.sum("etcd_server_snapshot_apply_in_progress_total") == 0
    assert sender.sum("etcd_network_snapshot_send_inflights_total") == 0
    assert receiver.sum("etcd_network_snapshot_receive_inflights_total") == 0


def test_an_alarm_is_shown_until_it_is_disarmed(cluster: Cluster) -> None:
    client = cluster.client(0)
    client.alarm(1, member=0xABC, kind=rpc_pb2.NOSPACE)
    name = "etcd_debugging_server_alarms"
    assert at(cluster, 0).sum(name, server_id="abc", alarm_type="NOSPACE") == 1
    client.alarm(2, member=0xABC, kind=rpc_pb2.NOSPACE)
    assert at(cluster, 0).sum(name) == 0


def test_promotions_that_fail_are_counted_by_their_reason(cluster: Cluster) -> None:
    before = at(cluster, 0)
    member = cluster.client(0).status().header.member_id
    with pytest.raises(grpc.RpcError, match="can only promote a learner member"):
        cluster.client(0).member_promote(member)
    after = at(cluster, 0)
    name = "etcd_server_learner_promote_failures"
    reason = "etcdserver: can only promote a learner member"
    assert increase(before, after, name, Reason=reason) == 1
    assert increase(before, after, "etcd_server_learner_promote_successes") == 0


def test_a_leader_that_was_stopped_counts_the_heartbeats_it_owed(cluster: Cluster) -> None:
    """Stopped for some heartbeats, and for less than an election where the machine allows it."""

    def owed() -> bool:
        leader = cluster.leader()
        before = at(cluster, leader)
        stopped_at = time.monotonic()
        cluster.pause(leader)
        wait_until(lambda: time.monotonic() - stopped_at > 0.5, PATIENCE_S, "five heartbeats")
        cluster.resume(leader)
        name = "etcd_server_heartbeat_send_failures_total"
        return increase(before, at(cluster, leader), name) > 0

    wait_until(owed, PATIENCE_S, "late heartbeats are counted")
    cluster.wait_healthy()


def test_every_feature_gate_is_shown_on_or_off(cluster: Cluster) -> None:
    found = at(cluster, 0)
    name = "etcd_server_feature_enabled"
    assert found.sum(name, name="CompactHashCheck", stage="ALPHA") == 0
    assert found.sum(name, name="TxnModeWriteWithSharedBuffer", stage="BETA") == 1
    assert len(found.label_values(name, "name")) == 9


def test_the_process_is_described(cluster: Cluster) -> None:
    found = at(cluster, 0)
    assert found.sum("os_fd_used") == found.sum("process_open_fds") > 10
    assert found.sum("os_fd_limit") == found.sum("process_max_fds") > found.sum("os_fd_used")
    resident = found.sum("process_resident_memory_bytes")
    assert abs(resident - 1024 * cluster.rss_kib(0)) < resident / 2
    assert resident < found.sum("process_virtual_memory_bytes")
    assert found.sum("process_cpu_seconds_total") > 0
