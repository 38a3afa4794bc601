"""Turns what the user set into a `Config`: defaults that depend on others, units, refusals.

etcd's "0 means the default" ends here, and so do flags that this server knows but does not have:
they pass only at their default. Rules between settings are in `kvstore.server.config`.
"""

from __future__ import annotations

from kvstore.cli.discovery_flags import read_discovery
from kvstore.cli.feature_gates import parse_gates
from kvstore.cli.flag_table import BY_NAME, Status
from kvstore.cli.retention import parse_retention
from kvstore.cli.values import Settings, Value, default_value
from kvstore.server.config import (
    DEFAULT_BATCH_INTERVAL_S,
    DEFAULT_BATCH_LIMIT,
    DEFAULT_COMPACTION_BATCH_LIMIT,
    DEFAULT_COMPACTION_SLEEP_S,
    DEFAULT_QUOTA_BACKEND_BYTES,
    DEFAULT_SNAPSHOT_COUNT,
    DEFAULT_WATCH_PROGRESS_INTERVAL_S,
    MIN_WATCH_PROGRESS_INTERVAL_S,
    AutoCompaction,
    Config,
    ConfigError,
    InitialCluster,
    parse_initial_cluster,
)
from kvstore.server.features import enabled_gates
from kvstore.server.log_rotation import LogRotation, parse_rotation
from kvstore.server.rules import verify
from kvstore.sockets import PEER_TIMEOUT_S, SocketOptions, peer_sockets

_NS_PER_S = 10**9


class NotImplementedFlag(Exception):
    """A flag of etcd is set that this server does not have; the text names it."""


class Reader:
    """Typed access to the settings, with the table's defaults behind them."""

    def __init__(self, settings: Settings) -> None:
        self._values = settings.values

    def value(self, name: str) -> Value:
        found = self._values.get(name)
        return default_value(BY_NAME[name]) if found is None else found

    def text(self, name: str) -> str:
        value = self.value(name)
        assert isinstance(value, str), name
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.value(name)
        assert isinstance(value, tuple), name
        return value

    def number(self, name: str) -> int:
        value = self.value(name)
        assert isinstance(value, int), name
        return value

    def switch(self, name: str) -> bool:
        value = self.value(name)
        assert isinstance(value, bool), name
        return value

    def seconds(self, name: str) -> float:
        return self.number(name) / _NS_PER_S


def build_config(settings: Settings) -> Config:
    """Return the verified configuration.

    Raises:
        NotImplementedFlag: a flag without implementation is set to something else than its default.
        ConfigError: a rule is broken; the text names the flag.
    """
    refuse_missing(settings)
    # The config file is exempt, as in etcd: there the advertised default stays.
    if (
        not settings.config_file
        and "listen-client-urls" in settings.values
        and "advertise-client-urls" not in settings.values
    ):
        raise ConfigError(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
        )
    read = Reader(settings)
    name = read.text("name")
    config = Config(
        name=name,
        data_dir=str(settings.values.get("data-dir") or f"{name}.etcd"),
        wal_dir=read.text("wal-dir"),
        snapshot_count=read.number("snapshot-count") or DEFAULT_SNAPSHOT_COUNT,
        snapshot_catchup_entries=read.number("snapshot-catchup-entries"),
        heartbeat_ms=read.number("heartbeat-interval"),
        election_ms=read.number("election-timeout"),
        initial_election_tick_advance=read.switch("initial-election-tick-advance"),
        pre_vote=read.switch("pre-vote"),
        strict_reconfig_check=read.switch("strict-reconfig-check"),
        max_learners=read.number("max-learners"),
        listen_peer_urls=read.texts("listen-peer-urls"),
        listen_client_urls=read.texts("listen-client-urls"),
        listen_client_http_urls=read.texts("listen-client-http-urls"),
        listen_metrics_urls=read.texts("listen-metrics-urls"),
        enable_grpc_gateway=read.switch("enable-grpc-gateway"),
        cors=read.texts("cors"),
        host_whitelist=read.texts("host-whitelist"),
        initial_advertise_peer_urls=read.texts("initial-advertise-peer-urls"),
        advertise_client_urls=read.texts("advertise-client-urls"),
        initial_cluster=_initial_cluster(settings, read),
        initial_cluster_state=read.text("initial-cluster-state"),
        initial_cluster_token=read.text("initial-cluster-token"),
        discovery=read_discovery(settings, read),
        force_new_cluster=read.switch("force-new-cluster"),
        bootstrap_defrag_megabytes=read.number("bootstrap-defrag-threshold-megabytes"),
        memory_mlock=read.switch("memory-mlock"),
        quota_backend_bytes=_quota(read.number("quota-backend-bytes")),
        backend_batch_interval_s=read.seconds("backend-batch-interval") or DEFAULT_BATCH_INTERVAL_S,
        backend_batch_limit=read.number("backend-batch-limit") or DEFAULT_BATCH_LIMIT,
        compaction_batch_limit=read.number("compaction-batch-limit")
        or DEFAULT_COMPACTION_BATCH_LIMIT,
        compaction_sleep_s=read.seconds("compaction-sleep-interval") or DEFAULT_COMPACTION_SLEEP_S,
        max_txn_ops=read.number("max-txn-ops"),
        max_request_bytes=read.number("max-request-bytes"),
        max_concurrent_streams=read.number("max-concurrent-streams"),
        client_sockets=_client_sockets(read),
        peer_sockets=_peer_sockets(read),
        watch_progress_interval_s=_watch_progress(read.seconds("watch-progress-notify-interval")),
        metrics=read.text("metrics"),
        log_level=read.text("log-level"),
        log_format=read.text("log-format"),
        log_outputs=tuple(dict.fromkeys(read.texts("log-outputs"))) or ("default",),
        log_rotation=_log_rotation(read),
        warning_apply_s=read.seconds("warning-apply-duration"),
        feature_gates=enabled_gates(parse_gates(",".join(read.texts("feature-gates")))),
        auto_compaction=_auto_compaction(read),
        corrupt_check_s=read.seconds("corrupt-check-time"),
        compact_hash_check_s=read.seconds("compact-hash-check-time"),
        warning_unary_s=read.seconds("warning-unary-request-duration"),
    )
    verify(config)
    return config


def refuse_missing(settings: Settings) -> None:
    """Raise `NotImplementedFlag` for the first flag set that this server does not have."""
    for name, value in settings.values.items():
        flag = BY_NAME[name]
        if flag.status not in (Status.NOT_IMPLEMENTED, Status.REFUSED):
            continue
        if value == default_value(flag):
            continue
        source = settings.sources[name]
        by = "" if source == f"--{name}" else f" (set by {source})"
        refused = flag.status is Status.REFUSED
        what = "refused" if refused else "not implemented in this server"
        raise NotImplementedFlag(f"flag --{name} is {what}{by}: {flag.reason}")


def _initial_cluster(settings: Settings, read: Reader) -> InitialCluster:
    if "initial-cluster" in settings.values:
        return parse_initial_cluster(read.text("initial-cluster"))
    return ((read.text("name"), read.texts("initial-advertise-peer-urls")),)


def _auto_compaction(read: Reader) -> AutoCompaction | None:
    retention = read.text("auto-compaction-retention") or "0"
    return parse_retention(read.text("auto-compaction-mode"), retention)


def _client_sockets(read: Reader) -> SocketOptions:
    """Pings of gRPC are the kernel's probes here; a vanished client is never waited for longer
    than by our own default, whatever the flag says."""
    interval_s, timeout_s = (
        read.seconds("grpc-keepalive-interval"),
        read.seconds("grpc-keepalive-timeout"),
    )
    default = SocketOptions()
    wanted = interval_s > 0 and timeout_s > 0
    return SocketOptions(
        reuse_port=read.switch("socket-reuse-port"),
        keepalive_s=min(interval_s, default.keepalive_s) if wanted else 0.0,
        keepalive_timeout_s=timeout_s,
    )


def _peer_sockets(read: Reader) -> SocketOptions:
    """As in etcd, shorter time-outs than the default are raised to it."""
    return peer_sockets(
        max(read.seconds("raft-read-timeout"), PEER_TIMEOUT_S),
        max(read.seconds("raft-write-timeout"), PEER_TIMEOUT_S),
        reuse_port=read.switch("socket-reuse-port"),
    )


def _log_rotation(read: Reader) -> LogRotation | None:
    if not read.switch("enable-log-rotation"):
        return None
    try:
        return parse_rotation(read.text("log-rotation-config-json"))
    except ValueError as error:
        raise ConfigError(f"--log-rotation-config-json: {error}") from None


def _quota(flag_value: int) -> int:
    """Return bytes, 0 for no limit, from etcd's form (0: the default, negative: no limit)."""
    return DEFAULT_QUOTA_BACKEND_BYTES if flag_value == 0 else max(flag_value, 0)


def _watch_progress(seconds: float) -> float:
    """Return the interval; a negative one stays as it is, for the error that names the flag."""
    if seconds == 0:
        return DEFAULT_WATCH_PROGRESS_INTERVAL_S
    return max(seconds, MIN_WATCH_PROGRESS_INTERVAL_S) if seconds > 0 else seconds
