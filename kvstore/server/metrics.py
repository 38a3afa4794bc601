"""What the server tells Prometheus, read from the member's own counters at scrape time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kvstore.rpc.metrics import Histogram, Value
from kvstore.version import VERSION

if TYPE_CHECKING:
    from kvstore.server.process import Server


class ServerMetrics:
    """A `MetricsSource`; the histograms are fed by the threads that write the disk."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._wal_sync = Histogram()
        self._commit = Histogram()

    def observe_wal(self, size: int, write_s: float, sync_s: float) -> None:
        self._wal_sync.observe(sync_s)

    def observe_commit(self, seconds: float) -> None:
        self._commit.observe(seconds)

    def metrics(self) -> Mapping[str, Value]:
        """Return the values by etcd's names."""
        server = self._server
        member, raft, store = server.member, server.member.raft, server.store
        stats, router, backend = server.transport.stats, server.router, server.state.backend
        methods = router.methods
        kv = "/etcdserverpb.KV/"
        values: dict[str, Value] = {
            "etcd_server_has_leader": float(bool(raft.leader)),
            "etcd_server_is_leader": float(member.is_leader),
            "etcd_server_is_learner": float(raft.is_learner),
            "etcd_server_leader_changes_seen_total": member.leader_changes,
            "etcd_server_proposals_committed_total": raft.commit_index,
            "etcd_server_proposals_applied_total": member.applied_index,
            "etcd_server_proposals_pending": member.pending,
            "etcd_server_proposals_failed_total": member.proposals_failed,
            "etcd_server_quota_backend_bytes": server.config.quota_backend_bytes,
            "etcd_server_version": {(VERSION,): 1.0},
            "etcd_server_id": {(f"{server.state.member_id:x}",): 1.0},
            "etcd_mvcc_put_total": methods[kv + "Put"].started,
            "etcd_mvcc_range_total": methods[kv + "Range"].started,
            "etcd_mvcc_delete_total": methods[kv + "DeleteRange"].started,
            "etcd_mvcc_txn_total": methods[kv + "Txn"].started,
            "etcd_mvcc_db_total_size_in_bytes": backend.size(),
            "etcd_mvcc_db_total_size_in_use_in_bytes": backend.size_in_use(),
            "etcd_debugging_mvcc_current_revision": store.revision,
            "etcd_debugging_mvcc_compact_revision": store.compact_revision,
            "etcd_disk_wal_fsync_duration_seconds": self._wal_sync,
            "etcd_disk_backend_commit_duration_seconds": self._commit,
            "etcd_network_peer_sent_bytes_total": _by_peer(stats.sent),
            "etcd_network_peer_received_bytes_total": _by_peer(stats.received),
            "etcd_network_snapshot_send_success": _by_peer(stats.snapshots_sent),
            "etcd_network_snapshot_receive_success": _by_peer(stats.snapshots_received),
            "etcd_network_client_grpc_sent_bytes_total": router.sent_bytes,
            "etcd_network_client_grpc_received_bytes_total": router.received_bytes,
        }
        version = server.state.cluster.version
        if version:
            values["etcd_cluster_version"] = {(version.rpartition(".")[0],): 1.0}
        return values


def _by_peer(counts: dict[int, int]) -> Value:
    return {(f"{peer:x}",): float(count) for peer, count in counts.items()}
