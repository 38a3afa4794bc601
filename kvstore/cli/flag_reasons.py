"""Why a flag of etcd is not implemented, refused or without effect here; printed with the refusal,
in ``--help`` and in docs/conformance.md.

A flag stands here exactly if its status in `flag_table` is not IMPLEMENTED.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_TLS: Final = "TLS is not part of this server yet"
_AUTH: Final = "the Auth service is not part of this server yet"
_SRV: Final = (
    "give all members with --initial-cluster; there is no DNS resolver for SRV records here"
)
_TRACING: Final = (
    "there is no exporter of spans here; see --metrics=extensive and the slow request log"
)
_AS_IN_ETCD: Final = "without effect in etcd too"


def _all(reason: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, reason)


REASONS: Final[Mapping[str, str]] = {
    **_all(
        _TLS,
        *("cert-file", "key-file", "client-cert-file", "client-key-file", "client-cert-auth"),
        *("client-crl-file", "client-cert-allowed-hostname", "trusted-ca-file", "auto-tls"),
        *("peer-cert-file", "peer-key-file", "peer-client-cert-auth", "peer-client-cert-file"),
        *("peer-client-key-file", "peer-trusted-ca-file", "peer-cert-allowed-cn"),
        *("peer-cert-allowed-hostname", "peer-auto-tls", "peer-skip-client-san-verification"),
        *("self-signed-cert-validity", "peer-crl-file", "cipher-suites"),
        *("tls-min-version", "tls-max-version"),
    ),
    **_all(_AUTH, "auth-token", "bcrypt-cost", "auth-token-ttl"),
    **_all(_SRV, "discovery-srv", "discovery-srv-name"),
    **_all(
        _TRACING,
        *("enable-distributed-tracing", "distributed-tracing-address"),
        *("distributed-tracing-service-name", "distributed-tracing-instance-id"),
        *("distributed-tracing-sampling-rate",),
    ),
    **_all(
        _AS_IN_ETCD,
        *("cluster-active-size", "cluster-remove-delay", "cluster-sync-interval", "config"),
        *("force", "max-result-buffer", "max-retry-attempts", "peer-election-timeout"),
        *("peer-heartbeat-interval", "retry-interval", "snapshot", "test.coverprofile"),
        *("test.outputdir", "v", "vv"),
    ),
    "discovery-insecure-skip-tls-verify": "grpcio cannot leave it out; see --discovery-cacert",
    "max-wals": "no more files are kept than are needed",
    "backend-bbolt-freelist-type": "the backend is not bbolt",
    "downgrade-check-time": "there are no downgrades of the cluster version here",
    "socket-reuse-address": "SO_REUSEADDR is always set, as Go does",
    "grpc-keepalive-min-time": "clients may ping as often as they like",
    "enable-pprof": "there is no Go runtime to profile",
    "unsafe-no-fsync": "an acknowledged write is always on disk",
}
