"""Every flag of etcd, with its kind, its default, and what this server does with it.

This table is the one place that knows flags: the command line, the environment, the config file and
``--help`` are all read off it. A flag that etcd has and this server has not (yet) stands here too,
so that it is refused by name and never taken for a misspelling. Flags that were removed stand in
`REMOVED`: on a command line they are unknown, as in etcd; the table only adds what replaced them
(`deprecated_flags` takes those of etcd 3.6 under their old names).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Protocol

from kvstore.cli.flag_reasons import REASONS


class Kind(Enum):
    """How a value is written; the config file differs for DURATION (integer nanoseconds)."""

    STRING = "string"
    BOOL = "bool"
    INT = "int"
    """Signed, 64 bits."""
    UINT = "uint"
    """Unsigned, 64 bits."""
    UINT32 = "uint32"
    DURATION = "duration"
    URLS = "urls"
    """Comma-separated URLs."""
    GATES = "gates"
    """``Name=true,Name=false``: feature gates."""
    STRINGS = "strings"
    """Comma-separated texts."""
    ENUM = "enum"
    """One of ``choices``."""
    ANY = "any"
    """Anything or nothing: a flag without meaning."""


class Status(Enum):
    """What this server does with a flag."""

    IMPLEMENTED = "implemented"
    NOT_IMPLEMENTED = "not implemented"
    """Known, refused unless it is set to its default."""
    IGNORED = "no effect"
    """Accepted; has no effect here."""
    REFUSED = "refused"
    """Known and refused on purpose unless it is set to its default."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of etcd.

    Attributes:
        name: without dashes.
        default: the default as it would be typed.
        group: the heading of ``--help`` it stands under.
        config_key: dotted path in the config file; None: cannot be set there.
    """

    name: str
    kind: Kind
    default: str
    description: str
    status: Status
    config_key: str | None
    choices: tuple[str, ...] = ()
    group: str = ""

    @property
    def env(self) -> str:
        """Name of the environment variable that sets it."""
        return "ETCD_" + self.name.upper().replace("-", "_")

    @property
    def reason(self) -> str:
        """Why it is not implemented, refused or without effect; empty if it is implemented."""
        return REASONS.get(self.name, "")


@dataclass(frozen=True, slots=True)
class Removed:
    """A flag that etcd once had: the last release that has it, and what took its place."""

    name: str
    default: str
    last_in: str
    replaced_by: str = ""


_SAME: Final = "="


class _Define(Protocol):
    def __call__(
        self,
        name: str,
        kind: Kind,
        default: str,
        text: str,
        key: str | None = _SAME,
        choices: tuple[str, ...] = (),
    ) -> Flag: ...


def _define(status: Status) -> _Define:
    """Return what makes flags of ``status``; ``key``: the config file's key, if not the name."""

    def define(
        name: str,
        kind: Kind,
        default: str,
        text: str,
        key: str | None = _SAME,
        choices: tuple[str, ...] = (),
    ) -> Flag:
        config_key = name if key == _SAME else key
        return Flag(name, kind, default, text, status, config_key, choices)

    return define


_on = _define(Status.IMPLEMENTED)
_off = _define(Status.NOT_IMPLEMENTED)
_void = _define(Status.IGNORED)
_refused = _define(Status.REFUSED)


def _group(group: str, *flags: Flag) -> tuple[Flag, ...]:
    return tuple(replace(flag, group=group) for flag in flags)


# One line for one flag, as far as it goes.
# fmt: off
FLAGS: Final[tuple[Flag, ...]] = (
    *_group(
        "member",
        _on("name", Kind.STRING, "default", "member name"),
        _on("data-dir", Kind.STRING, "${name}.etcd", "data directory"),
        _on("wal-dir", Kind.STRING, "", "separate WAL directory (default under data-dir)"),
        _on("snapshot-count", Kind.UINT, "10000", "applied entries between raft snapshots"),
        _on("snapshot-catchup-entries", Kind.UINT, "5000",
             "log entries kept for slow followers after a snapshot"),
        _on("heartbeat-interval", Kind.UINT, "100", "heartbeat period, ms; must be over 0"),
        _on("election-timeout", Kind.UINT, "1000",
             "election timeout, ms; at least 5 heartbeats, at most 50000"),
        _on("initial-election-tick-advance", Kind.BOOL, "true",
             "skip ahead in election ticks at start"),
        _on("listen-peer-urls", Kind.URLS, "http://localhost:2380", "peer listen addresses"),
        _on("listen-client-urls", Kind.URLS, "http://localhost:2379",
             "client listen addresses, gRPC and HTTP"),
        _on("listen-client-http-urls", Kind.URLS, "",
             "HTTP-only client listeners; then listen-client-urls is gRPC only"),
        _void("max-wals", Kind.UINT, "5",
             "WAL files kept at most"),
        _on("memory-mlock", Kind.BOOL, "false", "lock pages in RAM"),
        _on("quota-backend-bytes", Kind.INT, "0",
             "backend size limit in bytes; 0 means 2147483648, negative turns it off"),
        _void("backend-bbolt-freelist-type", Kind.ENUM, "",
             "bbolt freelist kind", choices=("array", "map")),
        _on("backend-batch-interval", Kind.DURATION, "0s",
             "longest wait before a backend commit; 0 means 100ms"),
        _on("backend-batch-limit", Kind.INT, "0",
             "most operations before a backend commit; 0 means 10000"),
        _on("max-txn-ops", Kind.UINT, "128", "operations allowed in one txn"),
        _on("max-request-bytes", Kind.UINT, "1572864",
             "largest request accepted; gRPC receive limit is this plus 524288"),
        _on("max-concurrent-streams", Kind.UINT32, "4294967295", "HTTP/2 streams per connection"),
        _void("grpc-keepalive-min-time", Kind.DURATION, "5s",
             "shortest ping gap allowed from clients, else GOAWAY too_many_pings"),
        _on("grpc-keepalive-interval", Kind.DURATION, "2h0m0s",
             "a client that was silent for so long is probed, 30s at the latest; 0 off"),
        _on("grpc-keepalive-timeout", Kind.DURATION, "20s",
             "wait for the answer to probes before closing, 0 off"),
        _on("socket-reuse-port", Kind.BOOL, "false",
             "set SO_REUSEPORT", key="socket-options.reuse-port"),
        _void("socket-reuse-address", Kind.BOOL, "false",
             "set SO_REUSEADDR", key="socket-options.reuse-address"),
        _on("enable-grpc-gateway", Kind.BOOL, "true", "serve the JSON gateway under /v3/"),
        _on("raft-read-timeout", Kind.DURATION, "5s",
             "peer connection read timeout, raised to 5s if lower", key=None),
        _on("raft-write-timeout", Kind.DURATION, "5s",
             "peer connection write timeout, raised to 5s if lower", key=None),
        _on("feature-gates", Kind.GATES, "", "Name=true|false list; unknown names are an error"),
    ),
    *_group(
        "clustering",
        _on("initial-advertise-peer-urls", Kind.URLS, "http://localhost:2380",
             "peer URLs told to the cluster"),
        _on("initial-cluster", Kind.STRING, "default=http://localhost:2380",
             "name=url list used at bootstrap (default: this member alone)"),
        _on("initial-cluster-state", Kind.ENUM, "new",
             "bootstrap or join; ignored once data exists", choices=("new", "existing")),
        _on("initial-cluster-token", Kind.STRING, "etcd-cluster",
             "bootstrap token (enters the member and cluster ID)"),
        _on("advertise-client-urls", Kind.URLS, "http://localhost:2379",
             "client URLs in the member list; required if listen-client-urls is set"),
        _on("discovery-token", Kind.STRING, "",
             "v3 discovery token", key="discovery-config.token"),
        _on("discovery-endpoints", Kind.STRINGS, "",
             "v3 discovery servers", key="discovery-config.client.endpoints"),
        _on("discovery-dial-timeout", Kind.DURATION, "2s",
             "v3 discovery dial limit", key="discovery-config.client.dial-timeout"),
        _on("discovery-request-timeout", Kind.DURATION, "5s",
             "v3 discovery request limit", key="discovery-config.client.request-timeout"),
        _on("discovery-keepalive-time", Kind.DURATION, "2s",
             "v3 discovery ping period", key="discovery-config.client.keepalive-time"),
        _on("discovery-keepalive-timeout", Kind.DURATION, "6s",
             "v3 discovery ping wait", key="discovery-config.client.keepalive-timeout"),
        _on("discovery-insecure-transport", Kind.BOOL, "true",
             "v3 discovery without TLS", key="discovery-config.client.secure.insecure-transport"),
        _off("discovery-insecure-skip-tls-verify", Kind.BOOL, "false",
             "v3 discovery without certificate check",
             key="discovery-config.client.secure.insecure-skip-tls-verify"),
        _on("discovery-cert", Kind.STRING, "",
             "v3 discovery client certificate", key="discovery-config.client.secure.cert"),
        _on("discovery-key", Kind.STRING, "",
             "v3 discovery client key", key="discovery-config.client.secure.key"),
        _on("discovery-cacert", Kind.STRING, "",
             "v3 discovery CA bundle", key="discovery-config.client.secure.cacert"),
        _on("discovery-user", Kind.STRING, "",
             "v3 discovery user or user:password", key="discovery-config.client.auth.username"),
        _on("discovery-password", Kind.STRING, "",
             "v3 discovery password", key="discovery-config.client.auth.password"),
        _on("discovery-fallback", Kind.ENUM, "exit",
             "action on discovery failure; proxy is refused", key=None, choices=("exit", "proxy")),
        _off("discovery-srv", Kind.STRING, "", "DNS SRV domain for bootstrap"),
        _off("discovery-srv-name", Kind.STRING, "", "suffix of the SRV service name"),
        _on("strict-reconfig-check", Kind.BOOL, "true",
             "refuse membership changes that risk quorum"),
        _on("pre-vote", Kind.BOOL, "true", "raft pre-vote"),
        _on("auto-compaction-retention", Kind.STRING, "0",
             "history kept, a duration, hours without a unit, or revisions; 0 off"),
        _on("auto-compaction-mode", Kind.ENUM, "periodic",
             "unit of auto-compaction-retention", choices=("periodic", "revision")),
    ),
    *_group(
        "security",
        _off("cert-file", Kind.STRING, "",
             "client listener certificate", key="client-transport-security.cert-file"),
        _off("key-file", Kind.STRING, "",
             "client listener key", key="client-transport-security.key-file"),
        _off("client-cert-file", Kind.STRING, "",
             "certificate used when etcd itself calls its client port",
             key="client-transport-security.client-cert-file"),
        _off("client-key-file", Kind.STRING, "",
             "key for client-cert-file", key="client-transport-security.client-key-file"),
        _off("client-cert-auth", Kind.BOOL, "false",
             "require client certificates (their CN becomes the user name)",
             key="client-transport-security.client-cert-auth"),
        _off("client-crl-file", Kind.STRING, "",
             "revocation list for client certificates", key=None),
        _off("client-cert-allowed-hostname", Kind.STRINGS, "",
             "SAN names accepted from clients", key="client-transport-security.allowed-hostname"),
        _off("trusted-ca-file", Kind.STRING, "",
             "CA for client certificates", key="client-transport-security.trusted-ca-file"),
        _off("auto-tls", Kind.BOOL, "false",
             "self-signed client TLS", key="client-transport-security.auto-tls"),
        _off("peer-cert-file", Kind.STRING, "",
             "peer certificate", key="peer-transport-security.cert-file"),
        _off("peer-key-file", Kind.STRING, "", "peer key", key="peer-transport-security.key-file"),
        _off("peer-client-cert-auth", Kind.BOOL, "false",
             "require peer certificates", key="peer-transport-security.client-cert-auth"),
        _off("peer-client-cert-file", Kind.STRING, "",
             "certificate for outgoing peer calls", key="peer-transport-security.client-cert-file"),
        _off("peer-client-key-file", Kind.STRING, "",
             "key for outgoing peer calls", key="peer-transport-security.client-key-file"),
        _off("peer-trusted-ca-file", Kind.STRING, "",
             "CA for peer certificates", key="peer-transport-security.trusted-ca-file"),
        _off("peer-cert-allowed-cn", Kind.STRINGS, "",
             "CNs accepted from peers", key="peer-transport-security.allowed-cn"),
        _off("peer-cert-allowed-hostname", Kind.STRINGS, "",
             "SAN names accepted from peers", key="peer-transport-security.allowed-hostname"),
        _off("peer-auto-tls", Kind.BOOL, "false",
             "self-signed peer TLS", key="peer-transport-security.auto-tls"),
        _off("peer-skip-client-san-verification", Kind.BOOL, "false",
             "do not check SAN of peer client certificates",
             key="peer-transport-security.skip-client-san-verification"),
        _off("self-signed-cert-validity", Kind.UINT, "1", "years a generated certificate lasts"),
        _off("peer-crl-file", Kind.STRING, "", "revocation list for peer certificates", key=None),
        _off("cipher-suites", Kind.STRINGS, "", "TLS cipher list; not allowed with TLS1.3 only"),
        _on("cors", Kind.URLS, "*", "allowed origins"),
        _on("host-whitelist", Kind.STRINGS, "*", "Host headers accepted on plain HTTP, else 421"),
        _off("tls-min-version", Kind.ENUM, "TLS1.2",
             "lowest TLS version", choices=("TLS1.2", "TLS1.3")),
        _off("tls-max-version", Kind.ENUM, "",
             "highest TLS version, empty is Go default", choices=("", "TLS1.2", "TLS1.3")),
    ),
    *_group(
        "auth",
        _off("auth-token", Kind.STRING, "simple",
             "simple, or jwt,sign-method=..,pub-key=..,priv-key=..,ttl=.."),
        _off("bcrypt-cost", Kind.UINT, "10", "bcrypt cost, 4 to 31"),
        _off("auth-token-ttl", Kind.UINT, "300", "simple token lifetime, seconds"),
    ),
    *_group(
        "monitoring",
        _refused("enable-pprof", Kind.BOOL, "false",
             "refused: profiles of a Go runtime, which this server does not run on"),
        _on("metrics", Kind.ENUM, "basic",
             "extensive adds gRPC latency histograms", choices=("basic", "extensive")),
        _on("listen-metrics-urls", Kind.URLS, "", "extra listeners for /metrics and health paths"),
    ),
    *_group(
        "logging",
        _on("logger", Kind.ENUM, "zap", "log backend", choices=("zap",)),
        _on("log-outputs", Kind.STRINGS, "default",
             "default, stderr, stdout, systemd/journal or file paths"),
        _on("log-level", Kind.ENUM, "info",
             "least level that is logged",
             choices=("debug", "info", "warn", "error", "panic", "fatal")),
        _on("log-format", Kind.ENUM, "json", "log encoding", choices=("json", "console")),
        _on("enable-log-rotation", Kind.BOOL, "false", "rotate one log file"),
        _on("log-rotation-config-json", Kind.STRING,
             '{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, '
             '"compress": false}',
             "rotation settings"),
        _on("warning-unary-request-duration", Kind.DURATION, "300ms",
             "log unary calls slower than this"),
    ),
    *_group(
        "tracing",
        _off("enable-distributed-tracing", Kind.BOOL, "false", "OpenTelemetry on"),
        _off("distributed-tracing-address", Kind.STRING, "localhost:4317", "OTLP collector"),
        _off("distributed-tracing-service-name", Kind.STRING, "etcd", "service name in spans"),
        _off("distributed-tracing-instance-id", Kind.STRING, "", "unique instance id in spans"),
        _off("distributed-tracing-sampling-rate", Kind.INT, "0", "samples per million spans"),
    ),
    *_group(
        "features",
        _on("corrupt-check-time", Kind.DURATION, "0s", "period of full hash comparison, 0 off"),
        _on("compact-hash-check-time", Kind.DURATION, "1m0s",
             "period of compaction hash comparison, with the gate CompactHashCheck"),
        _on("compaction-batch-limit", Kind.INT, "0",
             "revisions deleted per compaction step; 0 means 1000"),
        _on("compaction-sleep-interval", Kind.DURATION, "0s", "pause between steps; 0 means 10ms"),
        _on("watch-progress-notify-interval", Kind.DURATION, "0s",
             "progress notification period; 0 means 10m; floor 100ms; up to 10% jitter is added"),
        _on("warning-apply-duration", Kind.DURATION, "100ms", "log applies slower than this"),
        _on("bootstrap-defrag-threshold-megabytes", Kind.UINT, "0",
             "defragment at start if it frees this much, 0 off"),
        _on("max-learners", Kind.INT, "1", "learners allowed"),
        _void("downgrade-check-time", Kind.DURATION, "5s", "period of downgrade checks"),
    ),
    *_group(
        "unsafe",
        _on("force-new-cluster", Kind.BOOL, "false", "restart as a one member cluster"),
        _refused("unsafe-no-fsync", Kind.BOOL, "false",
             "no fsync"),
    ),
    *_group(
        "general",
        _on("config-file", Kind.STRING, "",
             "YAML/JSON file; other flags and environment variables are then ignored", key=None),
        _on("version", Kind.BOOL, "false", "print version lines and exit", key=None),
    ),
    *_group(
        "without effect",
        _void("cluster-active-size", Kind.ANY, "", "nothing", key=None),
        _void("cluster-remove-delay", Kind.ANY, "", "nothing", key=None),
        _void("cluster-sync-interval", Kind.ANY, "", "nothing", key=None),
        _void("config", Kind.ANY, "", "nothing", key=None),
        _void("force", Kind.ANY, "", "nothing", key=None),
        _void("max-result-buffer", Kind.ANY, "", "nothing", key=None),
        _void("max-retry-attempts", Kind.ANY, "", "nothing", key=None),
        _void("peer-election-timeout", Kind.ANY, "", "nothing", key=None),
        _void("peer-heartbeat-interval", Kind.ANY, "", "nothing", key=None),
        _void("retry-interval", Kind.ANY, "", "nothing", key=None),
        _void("snapshot", Kind.ANY, "", "nothing", key=None),
        _void("test.coverprofile", Kind.ANY, "", "nothing", key=None),
        _void("test.outputdir", Kind.ANY, "", "nothing", key=None),
        _void("v", Kind.ANY, "", "nothing", key=None),
        _void("vv", Kind.ANY, "", "nothing", key=None),
    ),
)

REMOVED: Final[tuple[Removed, ...]] = (
    Removed("ca-file", "", "3.3", "trusted-ca-file"),
    Removed("debug", "false", "3.4", "log-level=debug"),
    Removed("discovery", "", "3.6", "discovery-token + discovery-endpoints"),
    Removed("discovery-proxy", "", "3.6"),
    Removed("enable-v2", "false", "3.5"),
    Removed("experimental-backend-bbolt-freelist-type", "map", "3.4",
            "backend-bbolt-freelist-type"),
    Removed("experimental-bootstrap-defrag-threshold-megabytes", "0", "3.6",
            "bootstrap-defrag-threshold-megabytes"),
    Removed("experimental-compact-hash-check-enabled", "false", "3.6",
            "feature-gates=CompactHashCheck"),
    Removed("experimental-compact-hash-check-time", "1m0s", "3.6", "compact-hash-check-time"),
    Removed("experimental-compaction-batch-limit", "0", "3.6", "compaction-batch-limit"),
    Removed("experimental-compaction-sleep-interval", "0s", "3.6", "compaction-sleep-interval"),
    Removed("experimental-corrupt-check-time", "0s", "3.6", "corrupt-check-time"),
    Removed("experimental-distributed-tracing-address", "localhost:4317", "3.6",
            "distributed-tracing-address"),
    Removed("experimental-distributed-tracing-instance-id", "", "3.6",
            "distributed-tracing-instance-id"),
    Removed("experimental-distributed-tracing-sampling-rate", "0", "3.6",
            "distributed-tracing-sampling-rate"),
    Removed("experimental-distributed-tracing-service-name", "etcd", "3.6",
            "distributed-tracing-service-name"),
    Removed("experimental-downgrade-check-time", "5s", "3.6", "downgrade-check-time"),
    Removed("experimental-enable-distributed-tracing", "false", "3.6",
            "enable-distributed-tracing"),
    Removed("experimental-enable-lease-checkpoint", "false", "3.6",
            "feature-gates=LeaseCheckpoint"),
    Removed("experimental-enable-lease-checkpoint-persist", "false", "3.6",
            "feature-gates=LeaseCheckpointPersist"),
    Removed("experimental-enable-v2v3", "", "3.5"),
    Removed("experimental-initial-corrupt-check", "false", "3.6",
            "feature-gates=InitialCorruptCheck"),
    Removed("experimental-memory-mlock", "false", "3.6", "memory-mlock"),
    Removed("experimental-peer-skip-client-san-verification", "false", "3.6",
            "peer-skip-client-san-verification"),
    Removed("experimental-snapshot-catchup-entries", "5000", "3.6", "snapshot-catchup-entries"),
    Removed("experimental-stop-grpc-service-on-defrag", "false", "3.6",
            "feature-gates=StopGRPCServiceOnDefrag"),
    Removed("experimental-txn-mode-write-with-shared-buffer", "true", "3.6",
            "feature-gates=TxnModeWriteWithSharedBuffer"),
    Removed("experimental-warning-apply-duration", "100ms", "3.6", "warning-apply-duration"),
    Removed("experimental-warning-unary-request-duration", "300ms", "3.6",
            "warning-unary-request-duration"),
    Removed("experimental-watch-progress-notify-interval", "0s", "3.6",
            "watch-progress-notify-interval"),
    Removed("log-output", "default", "3.4", "log-outputs"),
    Removed("log-package-levels", "", "3.4"),
    Removed("max-snapshots", "5", "3.7"),
    Removed("next-cluster-version-compatible", "false", "3.4"),
    Removed("peer-ca-file", "", "3.3", "peer-trusted-ca-file"),
    Removed("proxy", "off", "3.5"),
    Removed("proxy-dial-timeout", "1000", "3.5"),
    Removed("proxy-failure-wait", "5000", "3.5"),
    Removed("proxy-read-timeout", "0", "3.5"),
    Removed("proxy-refresh-interval", "30000", "3.5"),
    Removed("proxy-write-timeout", "5000", "3.5"),
    Removed("v2-deprecation", "write-only", "3.7"),
)
# fmt: on

BY_NAME: Final = {flag.name: flag for flag in FLAGS}
BY_ENV: Final = {flag.env: flag for flag in FLAGS}
BY_CONFIG_KEY: Final = {flag.config_key: flag for flag in FLAGS if flag.config_key is not None}
REMOVED_BY_NAME: Final = {flag.name: flag for flag in REMOVED}
