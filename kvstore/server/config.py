"""What one member is configured with: every implemented setting, typed, in SI units, with its limits.

``Config`` is the only thing the server reads settings from. Flags, ``ETCD_*`` variables and the
config file end here (`kvstore.cli.flags` reads them); nothing in the server looks at ``sys.argv``
or the environment. Durations are seconds except the two raft timings, which etcd gives in
milliseconds. The trade-off: "0 means the default" of etcd's flags is resolved while building, so
the server never meets it, and a field here may differ from the number that was typed.

`verify` holds the rules that need no data directory; `verify_bootstrap` the ones that etcd checks
only when a member starts for the first time (a restart ignores the initial-* flags).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

DEFAULT_NAME: Final = "default"
DEFAULT_LISTEN_PEER_URL: Final = "http://localhost:2380"
DEFAULT_LISTEN_CLIENT_URL: Final = "http://localhost:2379"
DEFAULT_SNAPSHOT_COUNT: Final = 10_000
DEFAULT_QUOTA_BACKEND_BYTES: Final = 2 * 1024**3
DEFAULT_BATCH_INTERVAL_S: Final = 0.1
DEFAULT_BATCH_LIMIT: Final = 10_000
DEFAULT_COMPACTION_BATCH_LIMIT: Final = 1000
DEFAULT_COMPACTION_SLEEP_S: Final = 0.01
DEFAULT_WATCH_PROGRESS_INTERVAL_S: Final = 600.0

MIN_ELECTION_HEARTBEATS: Final = 5
"""The election timeout is at least this many heartbeats."""
MAX_ELECTION_MS: Final = 50_000
"""Above this etcd refuses the election timeout."""
MIN_WATCH_PROGRESS_INTERVAL_S: Final = 0.1
"""A shorter watch progress interval is raised to this."""
MAX_PORT: Final = 65_535
GRPC_OVERHEAD_BYTES: Final = 512 * 1024
"""What a gRPC message may be longer than ``max_request_bytes``."""

InitialCluster = tuple[tuple[str, tuple[str, ...]], ...]


class ConfigError(Exception):
    """A setting breaks a rule; the text names the flag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one member. Each field is the flag of the same name unless it says otherwise."""

    name: str = DEFAULT_NAME
    """Member name; with `initial_cluster` it says which of the bootstrap members this is."""
    data_dir: str = DEFAULT_NAME + ".etcd"
    """Directory of everything durable. Flag default: ``<name>.etcd``."""
    wal_dir: str = ""
    """Separate WAL directory; empty: under `data_dir`."""
    snapshot_count: int = DEFAULT_SNAPSHOT_COUNT
    """Applied entries between two raft snapshots (log compactions); >= 1 (flag 0: the default)."""
    snapshot_catchup_entries: int = 5000
    """Entries kept behind a snapshot for slow followers."""

    heartbeat_ms: int = 100
    """``--heartbeat-interval``: one raft tick, milliseconds; >= 1."""
    election_ms: int = 1000
    """``--election-timeout``, milliseconds; at least 5 heartbeats, at most 50,000."""
    initial_election_tick_advance: bool = True
    """A starting member skips to just before its election timeout."""
    pre_vote: bool = True
    """Run a raft pre-vote before an election."""
    strict_reconfig_check: bool = True
    """Refuse membership changes that put the quorum at risk (CLU-07)."""
    max_learners: int = 1
    """Learners that a cluster may have (CLU-06); >= 0."""

    listen_peer_urls: tuple[str, ...] = (DEFAULT_LISTEN_PEER_URL,)
    """Where peers are listened to, ``http://<IP or localhost>:<port>``, sorted."""
    listen_client_urls: tuple[str, ...] = (DEFAULT_LISTEN_CLIENT_URL,)
    """Where clients are listened to, gRPC and HTTP/1.1 alike, sorted."""
    initial_advertise_peer_urls: tuple[str, ...] = (DEFAULT_LISTEN_PEER_URL,)
    """Peer URLs told to the cluster, sorted; they enter the member id."""
    advertise_client_urls: tuple[str, ...] = (DEFAULT_LISTEN_CLIENT_URL,)
    """Client URLs shown in the member list, sorted."""
    initial_cluster: InitialCluster = ((DEFAULT_NAME, (DEFAULT_LISTEN_PEER_URL,)),)
    """``(name, sorted peer URLs)`` of each bootstrap member, sorted by name. Flag default: this
    member alone, at `initial_advertise_peer_urls`."""
    initial_cluster_state: str = "new"
    """``new`` bootstraps a cluster, ``existing`` joins one; without meaning once data exist."""
    initial_cluster_token: str = "etcd-cluster"
    """Bootstrap token; it enters the member and cluster ids."""

    quota_backend_bytes: int = DEFAULT_QUOTA_BACKEND_BYTES
    """Backend size, bytes, above which NOSPACE is raised; 0: no limit. (The flag differs: its 0 is
    2 GiB and a negative number takes the limit away.)"""
    backend_batch_interval_s: float = DEFAULT_BATCH_INTERVAL_S
    """Longest time, seconds, that applied writes wait for a backend commit; > 0."""
    backend_batch_limit: int = DEFAULT_BATCH_LIMIT
    """Most pending operations before a backend commit; >= 1."""
    compaction_batch_limit: int = DEFAULT_COMPACTION_BATCH_LIMIT
    """Revisions looked at in one step of a compaction; >= 1."""
    compaction_sleep_s: float = DEFAULT_COMPACTION_SLEEP_S
    """``--compaction-sleep-interval``: pause between two steps, seconds; > 0."""

    max_txn_ops: int = 128
    """Operations allowed in one branch of a transaction."""
    max_request_bytes: int = 1_572_864
    """Longest request that is proposed, bytes."""
    max_concurrent_streams: int = 4_294_967_295
    """HTTP/2 streams of one connection; 1 .. 2**32 - 1."""
    watch_progress_interval_s: float = DEFAULT_WATCH_PROGRESS_INTERVAL_S
    """``--watch-progress-notify-interval``, seconds, without the jitter; >= 0.1."""

    log_level: str = "info"
    """debug, info, warn, error, panic or fatal."""
    log_format: str = "json"
    """json or console."""
    log_outputs: tuple[str, ...] = ("default",)
    """``default`` and ``stderr`` (standard error), ``stdout``, or paths of files to append to."""
    warning_apply_s: float = 0.1
    """``--warning-apply-duration``: an apply that takes longer is logged, seconds."""
    warning_unary_s: float = 0.3
    """``--warning-unary-request-duration``: a unary call that takes longer is logged, seconds."""

    @property
    def heartbeat_s(self) -> float:
        """Length of a raft tick, seconds."""
        return self.heartbeat_ms / 1000

    @property
    def election_ticks(self) -> int:
        """Election timeout in whole raft ticks (rounded down, as etcd does); >= 5."""
        return self.election_ms // self.heartbeat_ms

    @property
    def max_receive_bytes(self) -> int:
        """Longest gRPC message accepted on the wire, bytes."""
        return self.max_request_bytes + GRPC_OVERHEAD_BYTES
