"""What one member is configured with: every implemented setting, typed, with unit and limits.

``Config`` is the only thing the server reads settings from. Flags, ``ETCD_*`` variables and the
config file end here (`kvstore.cli.flags` reads them); nothing in the server looks at ``sys.argv``
or the environment. Durations are seconds except the two raft timings, which etcd gives in
milliseconds. The trade-off: "0 means the default" of etcd's flags is resolved while building, so
the server never meets it, and a field here may differ from the number that was typed.

Which of them contradict each other is in `kvstore.server.rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from kvstore.membership.urls import UrlError, sort_urls
from kvstore.server.features import (
    DEFAULT_GATES,
)
from kvstore.server.log_rotation import LogRotation
from kvstore.sockets import SocketOptions, peer_sockets

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

MIN_WATCH_PROGRESS_INTERVAL_S: Final = 0.1
"""A shorter watch progress interval is raised to this."""
STREAM_OUTPUTS: Final = ("default", "stderr", "stdout")
JOURNAL_OUTPUT: Final = "systemd/journal"
"""Log outputs that are no file."""
GRPC_OVERHEAD_BYTES: Final = 512 * 1024
"""What a gRPC message may be longer than ``max_request_bytes``."""

PERIODIC: Final = "periodic"
REVISION: Final = "revision"
"""Modes of auto-compaction."""

InitialCluster = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class AutoCompaction:
    """How much history the leader keeps by itself (CMP-12)."""

    mode: str
    """`PERIODIC` or `REVISION`."""
    retention: float
    """Seconds in periodic mode, revisions in the other; > 0."""


class ConfigError(Exception):
    """A setting breaks a rule; the text names the flag."""


class DiscoveryFailed(Exception):
    """The cluster cannot be formed by discovery as asked for; the text is etcd's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """How a new cluster is found; a field is the flag of the same name after ``discovery-``."""

    token: str
    endpoints: tuple[str, ...]
    """``host:port`` or URLs of the discovery service, at least one."""
    dial_timeout_s: float = 2.0
    request_timeout_s: float = 5.0
    keepalive_time_s: float = 2.0
    keepalive_timeout_s: float = 6.0
    insecure_transport: bool = True
    """Without TLS."""
    cert: str = ""
    key: str = ""
    cacert: str = ""
    user: str = ""
    password: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one member; a field is the flag of the same name unless it says otherwise."""

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
    """Where clients are listened to, sorted: gRPC, and HTTP too unless it has URLs of its own."""
    listen_client_http_urls: tuple[str, ...] = ()
    """Where clients are listened to for HTTP alone, sorted; none: on `listen_client_urls`."""
    listen_metrics_urls: tuple[str, ...] = ()
    """Further addresses that serve /metrics and the health paths, sorted."""
    enable_grpc_gateway: bool = True
    """Serve the JSON gateway under /v3/."""
    cors: tuple[str, ...] = ("*",)
    """Origins whose pages may read HTTP answers; ``*``: all."""
    host_whitelist: tuple[str, ...] = ("*",)
    """Host names that plain HTTP requests may name; ``*``: all."""
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

    discovery: Discovery | None = None
    """How a new member finds `initial_cluster`, when that is not given."""
    force_new_cluster: bool = False
    """Go on alone with the data of this member; without meaning when there are none."""
    bootstrap_defrag_megabytes: int = 0
    """``--bootstrap-defrag-threshold-megabytes``: defragment at start if it frees so many MiB; 0:
    never."""
    memory_mlock: bool = False
    """Keep touched memory in RAM."""
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

    auto_compaction: AutoCompaction | None = None
    """``--auto-compaction-mode`` and ``--auto-compaction-retention``; None: off."""
    corrupt_check_s: float = 0.0
    """``--corrupt-check-time``: period of the comparison of all members' data; 0: off."""
    compact_hash_check_s: float = 60.0
    """``--compact-hash-check-time``, seconds, with the gate CompactHashCheck; > 0."""
    feature_gates: frozenset[str] = DEFAULT_GATES
    """Names of the gates that are on, see `kvstore.server.features`."""

    max_txn_ops: int = 128
    """Operations allowed in one branch of a transaction."""
    max_request_bytes: int = 1_572_864
    """Longest request that is proposed, bytes."""
    max_concurrent_streams: int = 4_294_967_295
    """HTTP/2 streams of one connection; 1 .. 2**32 - 1."""
    client_sockets: SocketOptions = field(default_factory=SocketOptions)
    """Options of the client listeners' connections."""
    peer_sockets: SocketOptions = field(default_factory=peer_sockets)
    """Options of the connections between members."""
    watch_progress_interval_s: float = DEFAULT_WATCH_PROGRESS_INTERVAL_S
    """``--watch-progress-notify-interval``, seconds, without the jitter; >= 0.1."""

    metrics: str = "basic"
    """basic, or extensive: with the times of all RPCs."""
    log_level: str = "info"
    """debug, info, warn, error, panic or fatal."""
    log_format: str = "json"
    """json or console."""
    log_outputs: tuple[str, ...] = ("default",)
    """``default`` and ``stderr`` (standard error), ``stdout``, ``systemd/journal``, or paths of
    files to append to."""
    log_rotation: LogRotation | None = None
    """``--enable-log-rotation`` and ``--log-rotation-config-json``: how the one log file is put
    aside when it is full."""
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


def parse_initial_cluster(text: str) -> InitialCluster:
    """Return the members of ``name=url,name=url,...`` sorted by name, the URLs of each sorted.

    A name may come several times, once for each of its URLs; empty pieces are skipped. Raises
    `ConfigError` for a piece without a proper URL.
    """
    members: dict[str, list[str]] = {}
    for piece in text.split(","):
        if piece:
            name, _, url = piece.partition("=")
            members.setdefault(name.strip(), []).append(url)
    try:
        return tuple((name, sort_urls(urls)) for name, urls in sorted(members.items()))
    except UrlError as error:
        raise ConfigError(f"--initial-cluster: error setting up initial cluster: {error}") from None


def format_initial_cluster(cluster: InitialCluster) -> str:
    """Return the ``name=url,...`` form of ``cluster``."""
    return ",".join(f"{name}={url}" for name, urls in cluster for url in urls)
