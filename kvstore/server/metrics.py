"""What the server tells Prometheus, collected from the parts' own counters at scrape time.

While requests are served nothing here runs: the parts count plain ints and `Histogram`s. What no
part counts by itself, because only the process sees it (disk threads, scrapes, late ticks), is
counted by the ``observe_…`` methods, which their owners call.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kvstore.histogram import Histogram
from kvstore.node.apply_times import operation
from kvstore.pb import rpc_pb2
from kvstore.rpc.auth import INITIAL_AUTH_REVISION
from kvstore.rpc.exposition import Value, exposition
from kvstore.rpc.grpc import Timing
from kvstore.rpc.metrics import grpc_metrics, request_durations
from kvstore.server.features import GATES
from kvstore.server.metric_table import (
    BACKEND_SNAPSHOT_S,
    COMPACTION_MS,
    PAUSE_MS,
    SPECS,
)
from kvstore.server.process_stats import process_metrics
from kvstore.version import VERSION

if TYPE_CHECKING:
    from kvstore.server.process import Server

RANGE_PATH = "/etcdserverpb.KV/Range"


class ServerMetrics:
    """A `MetricsSource`; the disk histograms are fed by the threads that write the disk.

    Attributes:
        late_heartbeats: heartbeats that left a leader too late, one for each peer.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._wal_bytes = 0
        self._wal_write = Histogram()
        self._wal_sync = Histogram()
        self._commit = Histogram()
        self._backend_copy = Histogram(BACKEND_SNAPSHOT_S)
        self._received_sync = Histogram()
        self._pause = Histogram(PAUSE_MS)
        self._compaction = Histogram(COMPACTION_MS)
        self._compaction_began: float | None = None
        self._compaction_ended = 0.0
        self._scrapes = {"200": 0, "500": 0, "503": 0}
        self._text = exposition(self, SPECS)
        self.late_heartbeats = 0

    # Told by the process.

    def observe_wal(self, size: int, write_s: float, sync_s: float) -> None:
        """One write of the log, on its thread."""
        self._wal_bytes += size
        self._wal_write.observe(write_s)
        self._wal_sync.observe(sync_s)

    def observe_commit(self, seconds: float) -> None:
        self._commit.observe(seconds)

    def observe_backend_copy(self, seconds: float) -> None:
        """One copy of the backend, or image of it, for a snapshot."""
        self._backend_copy.observe(seconds)

    def observe_received_sync(self, seconds: float) -> None:
        """The fsync of one received snapshot."""
        self._received_sync.observe(seconds)

    def observe_compaction_step(self, seconds: float, *, more: bool) -> None:
        """One step of a compaction, and whether others follow."""
        now = time.monotonic()
        if self._compaction_began is None:
            self._compaction_began = now - seconds
        self._pause.observe(seconds * 1000)
        if not more:
            self._compaction.observe((now - self._compaction_began) * 1000)
            self._compaction_began = None
            self._compaction_ended = time.time()

    # Asked by Prometheus.

    def scrape(self) -> bytes:
        """Return the text of one scrape."""
        try:
            text = self._text()
        except Exception:
            self._scrapes["500"] += 1
            raise
        self._scrapes["200"] += 1
        return text

    def metrics(self) -> Mapping[str, Value]:
        """Return the values by etcd's names (`MetricsSource`)."""
        server = self._server
        return {
            **self._server_metrics(),
            **self._mvcc(),
            **self._lease(),
            **self._disk(),
            **self._network(),
            **grpc_metrics(server.router, extensive=server.config.metrics == "extensive"),
            **process_metrics(),
            "promhttp_metric_handler_requests_in_flight": 1,
            "promhttp_metric_handler_requests_total": {
                (code,): count for code, count in self._scrapes.items()
            },
        }

    def _server_metrics(self) -> dict[str, Value]:
        server = self._server
        member, raft = server.member, server.member.raft
        values: dict[str, Value] = {
            "etcd_server_version": {(VERSION,): 1},
            "etcd_server_id": {(f"{server.state.member_id:x}",): 1},
            "etcd_server_feature_enabled": {
                (name, gate.stage.upper()): int(name in server.config.feature_gates)
                for name, gate in GATES.items()
            },
            "etcd_server_has_leader": int(bool(raft.leader)),
            "etcd_server_is_leader": int(member.is_leader),
            "etcd_server_is_learner": int(raft.is_learner),
            "etcd_server_learner_promote_failures": {
                (reason,): count for reason, count in server.members.promotion_failures.items()
            },
            "etcd_server_learner_promote_successes": server.members.promotions,
            "etcd_server_leader_changes_seen_total": member.leader_changes,
            "etcd_server_proposals_committed_total": raft.commit_index,
            "etcd_server_proposals_applied_total": member.applied_index,
            "etcd_server_proposals_pending": member.pending,
            "etcd_server_proposals_failed_total": member.proposals_failed,
            "etcd_server_read_indexes_failed_total": member.reads.failed,
            "etcd_server_slow_read_indexes_total": member.reads.slow,
            "etcd_server_slow_apply_total": member.apply_times.slow_count,
            "etcd_server_heartbeat_send_failures_total": self.late_heartbeats,
            "etcd_server_snapshot_apply_in_progress_total": int(member.installing),
            "etcd_server_quota_backend_bytes": server.config.quota_backend_bytes,
            "etcd_server_apply_duration_seconds": self._apply_durations(),
            "etcd_server_range_duration_seconds": {
                ("true",): server.kv.range_times.ok,
                ("false",): server.kv.range_times.failed,
            },
            "etcd_server_request_duration_seconds": self._request_durations(),
            **server.front.health.metrics(),
            "etcd_debugging_auth_revision": INITIAL_AUTH_REVISION,
            "etcd_debugging_server_alarms": {
                (f"{member_id:x}", rpc_pb2.AlarmType.Name(kind)): 1
                for member_id, kind in member.applier.alarms.active()
            },
            "etcd_debugging_server_lease_expired_total": server.lease_keeper.expired,
        }
        version = server.state.cluster.version
        if version:
            values["etcd_cluster_version"] = {(version.rpartition(".")[0],): 1}
        return values

    def _apply_durations(self) -> Value:
        times = self._server.member.apply_times
        return {
            ("v3", operation(kind), success): histogram
            for success, by_kind in (("true", times.ok), ("false", times.failed))
            for kind, histogram in by_kind.items()
            if histogram.count
        }

    def _request_durations(self) -> Value:
        server = self._server
        timings = {operation(kind): timing for kind, timing in server.core.timings.items()}
        timings["ReadonlyTxn"] = server.kv.read_only_txn_times
        range_timing = server.router.methods[RANGE_PATH].timing
        timings["Range"] = range_timing or Timing()
        found: dict[tuple[str, ...], float | Histogram] = {}
        for kind, timing in timings.items():
            if timing.ok.count or timing.failed.count:
                found.update(request_durations(timing, kind))
        return found

    def _mvcc(self) -> dict[str, Value]:
        server = self._server
        store, hub, backend = server.store, server.hub, server.state.backend
        return {
            "etcd_mvcc_put_total": store.puts,
            "etcd_mvcc_delete_total": store.deletes,
            "etcd_mvcc_range_total": store.ranges,
            "etcd_mvcc_txn_total": store.txns,
            "etcd_mvcc_db_total_size_in_bytes": backend.size(),
            "etcd_mvcc_db_total_size_in_use_in_bytes": backend.size_in_use(),
            "etcd_mvcc_db_open_read_transactions": backend.open_reads(),
            "etcd_mvcc_hash_duration_seconds": server.maintenance.hash_times,
            "etcd_mvcc_hash_rev_duration_seconds": server.maintenance.hash_kv_times,
            "etcd_debugging_mvcc_current_revision": store.revision,
            "etcd_debugging_mvcc_compact_revision": store.compact_revision,
            "etcd_debugging_mvcc_keys_total": len(store.index.live),
            "etcd_debugging_mvcc_total_put_size_in_bytes": store.put_bytes,
            "etcd_debugging_mvcc_watch_stream_total": len(hub.streams),
            "etcd_debugging_mvcc_watcher_total": sum(len(s.watchers) for s in hub.streams),
            "etcd_debugging_mvcc_slow_watcher_total": hub.slow_watchers,
            "etcd_debugging_mvcc_events_total": hub.events_sent,
            "etcd_debugging_mvcc_pending_events_total": hub.events_waiting(),
            "etcd_debugging_mvcc_db_compaction_keys_total": store.removed_revisions,
            "etcd_debugging_mvcc_db_compaction_last": self._compaction_ended,
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds": self._pause,
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds": self._compaction,
        }

    def _lease(self) -> dict[str, Value]:
        lessor = self._server.lessor
        return {
            "etcd_debugging_lease_granted_total": lessor.granted,
            "etcd_debugging_lease_revoked_total": lessor.revoked,
            "etcd_debugging_lease_renewed_total": lessor.renewed,
            "etcd_debugging_lease_ttl_total": lessor.ttls,
        }

    def _disk(self) -> dict[str, Value]:
        received = self._server.transport.stats.snapshots_received
        defragmenter = self._server.defragmenter
        return {
            "etcd_disk_wal_fsync_duration_seconds": self._wal_sync,
            "etcd_disk_wal_write_duration_seconds": self._wal_write,
            "etcd_disk_wal_write_bytes_total": self._wal_bytes,
            "etcd_disk_backend_commit_duration_seconds": self._commit,
            "etcd_disk_backend_snapshot_duration_seconds": self._backend_copy,
            "etcd_disk_backend_defrag_duration_seconds": defragmenter.duration,
            "etcd_disk_defrag_inflight": int(defragmenter.running),
            "etcd_snap_db_fsync_duration_seconds": self._received_sync,
            "etcd_snap_db_save_total_duration_seconds": received.all_seconds(),
        }

    def _network(self) -> dict[str, Value]:
        server = self._server
        stats, local = server.transport.stats, f"{server.state.member_id:x}"
        known = [f"{member:x}" for member in server.state.cluster.members]
        reached = {*stats.connected, *stats.disconnects}
        sent, received = stats.snapshots_sent, stats.snapshots_received
        return {
            "etcd_network_known_peers": {(local, peer): 1 for peer in known},
            "etcd_network_active_peers": {
                (local, f"{peer:x}"): int(peer in stats.connected) for peer in reached
            },
            "etcd_network_disconnected_peers_total": {
                (local, f"{peer:x}"): count for peer, count in stats.disconnects.items()
            },
            "etcd_network_peer_sent_bytes_total": _by_peer(stats.sent),
            "etcd_network_peer_received_bytes_total": _by_peer(stats.received),
            "etcd_network_peer_sent_failures_total": _by_peer(stats.send_failures),
            "etcd_network_peer_received_failures_total": _by_peer(stats.receive_failures),
            "etcd_network_peer_round_trip_time_seconds": _by_peer(stats.round_trips),
            "etcd_network_snapshot_send_success": _by_peer(sent.successes),
            "etcd_network_snapshot_send_failures": _by_peer(sent.failures),
            "etcd_network_snapshot_send_inflights_total": _by_peer(sent.inflight),
            "etcd_network_snapshot_send_total_duration_seconds": _by_peer(sent.seconds),
            "etcd_network_snapshot_receive_success": _by_peer(received.successes),
            "etcd_network_snapshot_receive_failures": _by_peer(received.failures),
            "etcd_network_snapshot_receive_inflights_total": _by_peer(received.inflight),
            "etcd_network_snapshot_receive_total_duration_seconds": _by_peer(received.seconds),
        }


def _by_peer(counts: Mapping[int, int] | Mapping[int, Histogram]) -> Value:
    return {(f"{peer:x}",): value for peer, value in counts.items()}
