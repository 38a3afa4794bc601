"""Every metric of etcd's server: its type, labels and buckets here, or why it is not exposed.

The table is read by the exposition, by the generator of docs/conformance.md and by tests that hold
it against etcd's own list. Types are etcd's even where they surprise (gauges that end in
``_total``, counters that do not): dashboards and recording rules are written for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kvstore.histogram import DISK_S, FAST_S, exponential
from kvstore.lease.lessor import TTL_BUCKETS_S
from kvstore.peer.stats import ROUND_TRIP_S, SNAPSHOT_S
from kvstore.rpc.exposition import Spec
from kvstore.rpc.grpc import REQUEST_S
from kvstore.rpc.maintenance import HASH_S
from kvstore.rpc.metrics import GRPC_SPECS
from kvstore.server.defrag import DURATION_BUCKETS

BACKEND_SNAPSHOT_S: Final = exponential(0.01, 2, 17)
PAUSE_MS: Final = exponential(1, 2, 13)
COMPACTION_MS: Final = exponential(100, 2, 14)

_PEERS: Final = ("Local", "Remote")


def _counter(text: str, *labels: str) -> Spec:
    return Spec("counter", text, labels)


def _gauge(text: str, *labels: str) -> Spec:
    return Spec("gauge", text, labels)


def _histogram(text: str, buckets: tuple[float, ...], *labels: str) -> Spec:
    return Spec("histogram", text, labels, buckets)


_SERVER: Final = {
    "etcd_cluster_version": _gauge("Version of the cluster.", "cluster_version"),
    "etcd_server_version": _gauge("Version of this server.", "server_version"),
    "etcd_server_id": _gauge("ID of this member, hexadecimal.", "server_id"),
    "etcd_server_feature_enabled": _gauge("1 for a feature gate that is on.", "name", "stage"),
    "etcd_server_has_leader": _gauge("1 if this member knows a leader, else 0."),
    "etcd_server_is_leader": _gauge("1 if this member is the leader, else 0."),
    "etcd_server_is_learner": _gauge("1 if this member is a learner, else 0."),
    "etcd_server_learner_promote_failures": _counter(
        "Promotions of learners that this member was asked for and that failed.", "Reason"
    ),
    "etcd_server_learner_promote_successes": _counter(
        "Promotions of learners that this member was asked for."
    ),
    "etcd_server_leader_changes_seen_total": _counter("Changes of leader seen."),
    "etcd_server_proposals_committed_total": _gauge("Index of the last committed entry."),
    "etcd_server_proposals_applied_total": _gauge("Index of the last applied entry."),
    "etcd_server_proposals_pending": _gauge("Proposals waiting to be applied."),
    "etcd_server_proposals_failed_total": _counter("Proposals that failed."),
    "etcd_server_read_indexes_failed_total": _counter("ReadIndex rounds that failed."),
    "etcd_server_slow_read_indexes_total": _counter("ReadIndex rounds sent again."),
    "etcd_server_slow_apply_total": _counter("Applies and reads that took too long."),
    "etcd_server_heartbeat_send_failures_total": _counter(
        "Heartbeats that the leader sent too late, counted for each peer."
    ),
    "etcd_server_snapshot_apply_in_progress_total": _gauge(
        "1 while a received snapshot is being installed, else 0."
    ),
    "etcd_server_quota_backend_bytes": _gauge("Quota of the backend, bytes; 0 without one."),
    "etcd_server_apply_duration_seconds": _histogram(
        "Time of applying one entry.", FAST_S, "version", "op", "success"
    ),
    "etcd_server_range_duration_seconds": _histogram(
        "Time of carrying out a Range, without its wait for the read index.", FAST_S, "success"
    ),
    "etcd_server_request_duration_seconds": _histogram(
        "Time from a request's arrival to its answer.", REQUEST_S, "type", "success"
    ),
    "etcd_server_health_success": _counter("Health checks that succeeded."),
    "etcd_server_health_failures": _counter("Health checks that failed."),
    "etcd_server_healthcheck": _gauge("1 if a check held the last time, else 0.", "type", "name"),
    "etcd_server_healthchecks_total": _counter("Results of checks.", "type", "name", "status"),
    "etcd_debugging_auth_revision": _gauge("Revision of the auth store, as AuthStatus tells it."),
    "etcd_debugging_server_alarms": _gauge(
        "1 for each alarm that is raised.", "server_id", "alarm_type"
    ),
    "etcd_debugging_server_lease_expired_total": _counter("Leases revoked because they expired."),
}

_MVCC: Final = {
    "etcd_mvcc_put_total": _counter("Puts carried out."),
    "etcd_mvcc_delete_total": _counter("Deletions carried out."),
    "etcd_mvcc_range_total": _counter("Ranges carried out."),
    "etcd_mvcc_txn_total": _counter("Transactions carried out."),
    "etcd_mvcc_db_total_size_in_bytes": _gauge("Size of the backend's file."),
    "etcd_mvcc_db_total_size_in_use_in_bytes": _gauge("Part of the backend's file in use."),
    "etcd_mvcc_db_open_read_transactions": _gauge("Read transactions open in the backend."),
    "etcd_mvcc_hash_duration_seconds": _histogram("Time of Maintenance.Hash.", HASH_S),
    "etcd_mvcc_hash_rev_duration_seconds": _histogram("Time of HashKV.", HASH_S),
    "etcd_debugging_mvcc_current_revision": _gauge("Current revision of the store."),
    "etcd_debugging_mvcc_compact_revision": _gauge("Last compacted revision; -1 if none."),
    "etcd_debugging_mvcc_keys_total": _gauge("Keys in the store."),
    "etcd_debugging_mvcc_total_put_size_in_bytes": _gauge("Bytes of keys and values put."),
    "etcd_debugging_mvcc_watch_stream_total": _gauge("Watch streams open."),
    "etcd_debugging_mvcc_watcher_total": _gauge("Watchers."),
    "etcd_debugging_mvcc_slow_watcher_total": _gauge("Watchers served from history."),
    "etcd_debugging_mvcc_events_total": _counter("Events sent to watchers."),
    "etcd_debugging_mvcc_pending_events_total": _gauge("Events waiting to be sent."),
    "etcd_debugging_mvcc_db_compaction_keys_total": _counter("Revisions removed by compactions."),
    "etcd_debugging_mvcc_db_compaction_last": _gauge(
        "When the last compaction ended, seconds since 1970; 0 if none did."
    ),
    "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds": _histogram(
        "Time of one step of a compaction.", PAUSE_MS
    ),
    "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds": _histogram(
        "Time of a whole compaction, pauses included.", COMPACTION_MS
    ),
}

_LEASE: Final = {
    "etcd_debugging_lease_granted_total": _counter("Leases granted."),
    "etcd_debugging_lease_revoked_total": _counter("Leases revoked, expired ones too."),
    "etcd_debugging_lease_renewed_total": _counter("Renewals by this member as leader."),
    "etcd_debugging_lease_ttl_total": _histogram("TTLs of granted leases, seconds.", TTL_BUCKETS_S),
}

_DISK: Final = {
    "etcd_disk_wal_fsync_duration_seconds": _histogram("Time of one fsync of the log.", DISK_S),
    "etcd_disk_wal_write_duration_seconds": _histogram("Time of one write to the log.", DISK_S),
    "etcd_disk_wal_write_bytes_total": _gauge("Bytes written to the log."),
    "etcd_disk_backend_commit_duration_seconds": _histogram(
        "Time of one commit of the backend.", DISK_S
    ),
    "etcd_disk_backend_snapshot_duration_seconds": _histogram(
        "Time of copying the backend for a snapshot.", BACKEND_SNAPSHOT_S
    ),
    "etcd_disk_backend_defrag_duration_seconds": _histogram(
        "Time of one defragmentation.", DURATION_BUCKETS
    ),
    "etcd_disk_defrag_inflight": _gauge("1 while a defragmentation is under way, else 0."),
    "etcd_snap_db_fsync_duration_seconds": _histogram(
        "Time of the fsync of a received snapshot.", DISK_S
    ),
    "etcd_snap_db_save_total_duration_seconds": _histogram(
        "Time of receiving and storing a snapshot.", SNAPSHOT_S
    ),
}

_NETWORK: Final = {
    "etcd_network_active_peers": _gauge("1 while the peer is connected, else 0.", *_PEERS),
    "etcd_network_known_peers": _gauge("1 for each member of the cluster.", *_PEERS),
    "etcd_network_disconnected_peers_total": _counter("Lost connections.", *_PEERS),
    "etcd_network_peer_sent_bytes_total": _counter("Bytes sent to peers.", "To"),
    "etcd_network_peer_received_bytes_total": _counter("Bytes received from peers.", "From"),
    "etcd_network_peer_sent_failures_total": _counter("Messages to peers not sent.", "To"),
    "etcd_network_peer_received_failures_total": _counter(
        "Streams from peers ended because of what came on them.", "From"
    ),
    "etcd_network_peer_round_trip_time_seconds": _histogram(
        "Round trips to peers, measured once a second.", ROUND_TRIP_S, "To"
    ),
    "etcd_network_snapshot_send_success": _counter("Snapshots sent.", "To"),
    "etcd_network_snapshot_send_failures": _counter("Snapshots that could not be sent.", "To"),
    "etcd_network_snapshot_send_inflights_total": _gauge("Snapshots being sent.", "To"),
    "etcd_network_snapshot_send_total_duration_seconds": _histogram(
        "Time of sending a snapshot.", SNAPSHOT_S, "To"
    ),
    "etcd_network_snapshot_receive_success": _counter("Snapshots received.", "From"),
    "etcd_network_snapshot_receive_failures": _counter(
        "Snapshots that could not be received.", "From"
    ),
    "etcd_network_snapshot_receive_inflights_total": _gauge("Snapshots being received.", "From"),
    "etcd_network_snapshot_receive_total_duration_seconds": _histogram(
        "Time of receiving a snapshot.", SNAPSHOT_S, "From"
    ),
}

_PROCESS: Final = {
    "os_fd_used": _gauge("File descriptors in use."),
    "os_fd_limit": _gauge("File descriptors allowed."),
    "process_cpu_seconds_total": _counter("CPU time used, user and system."),
    "process_open_fds": _gauge("File descriptors in use."),
    "process_max_fds": _gauge("File descriptors allowed."),
    "process_virtual_memory_bytes": _gauge("Virtual memory."),
    "process_virtual_memory_max_bytes": _gauge("Virtual memory allowed."),
    "process_resident_memory_bytes": _gauge("Resident memory."),
    "process_start_time_seconds": _gauge("Start of the process, seconds since 1970."),
    "process_network_receive_bytes_total": _counter("Bytes received on the host's network."),
    "process_network_transmit_bytes_total": _counter("Bytes sent on the host's network."),
    "promhttp_metric_handler_requests_total": _counter("Scrapes by HTTP status.", "code"),
    "promhttp_metric_handler_requests_in_flight": _gauge("Scrapes being served."),
}

SPECS: Final[Mapping[str, Spec]] = {
    **_SERVER, **_MVCC, **_LEASE, **_DISK, **_NETWORK, **GRPC_SPECS, **_PROCESS,
}  # fmt: skip

_NO_BBOLT: Final = "a stage of bbolt's commit; LMDB's commit is one call (..._commit_duration_...)"
_NO_V2: Final = "of the v2 store, which is no part of this server"
_NO_PROXY: Final = "of etcd's gRPC proxy, which is no part of this server"
_NEWER: Final = "new in etcd 3.7; this server announces 3.6"
_NO_SNAP_FILE: Final = "of etcd's .snap files; here a snapshot is the backend's own file"

NOT_EXPOSED: Final[Mapping[str, str]] = {
    "etcd_debugging_disk_backend_commit_rebalance_duration_seconds": _NO_BBOLT,
    "etcd_debugging_disk_backend_commit_spill_duration_seconds": _NO_BBOLT,
    "etcd_debugging_disk_backend_commit_write_duration_seconds": _NO_BBOLT,
    "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds":
        "index and backend are compacted in the same steps (..._db_compaction_pause_...)",
    "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds": _NEWER,
    "etcd_debugging_server_watch_send_loop_progress_duration_seconds": _NEWER,
    "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds": _NEWER,
    "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds": _NEWER,
    "etcd_debugging_snap_save_marshalling_duration_seconds": _NO_SNAP_FILE,
    "etcd_debugging_snap_save_total_duration_seconds": _NO_SNAP_FILE,
    "etcd_snap_fsync_duration_seconds": _NO_SNAP_FILE,
    "etcd_debugging_store_expires_total": _NO_V2,
    "etcd_debugging_store_reads_failed_total": _NO_V2,
    "etcd_debugging_store_reads_total": _NO_V2,
    "etcd_debugging_store_watch_requests_total": _NO_V2,
    "etcd_debugging_store_watchers": _NO_V2,
    "etcd_debugging_store_writes_failed_total": _NO_V2,
    "etcd_debugging_store_writes_total": _NO_V2,
    "etcd_grpc_proxy_cache_hits_total": _NO_PROXY,
    "etcd_grpc_proxy_cache_keys_total": _NO_PROXY,
    "etcd_grpc_proxy_cache_misses_total": _NO_PROXY,
    "etcd_grpc_proxy_events_coalescing_total": _NO_PROXY,
    "etcd_grpc_proxy_watchers_coalescing_total": _NO_PROXY,
    "etcd_server_go_version": "there is no Go here",
    "go_*": "of the Go runtime",
    "up": "made by the scraper",
}  # fmt: skip
"""Metrics of etcd's current server that /metrics does not have, and why."""
