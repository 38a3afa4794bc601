"""The flags of v3 discovery and of its rivals: how the first members of a cluster are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.cli.values import Settings
from kvstore.server.config import ConfigError, Discovery

if TYPE_CHECKING:
    from kvstore.cli.settings import Reader

_PREFIX = "discovery-"


def read_discovery(settings: Settings, read: Reader) -> Discovery | None:
    """Return how to discover the cluster, None if its members are given.

    Raises:
        ConfigError: as in etcd, for half of the flags, or for two ways at once.
    """
    endpoints, token = read.texts(_PREFIX + "endpoints"), read.text(_PREFIX + "token")
    if read.text(_PREFIX + "fallback") != "exit":
        raise ConfigError(
            'v2 proxy is deprecated, and --discovery-fallback can\'t be configured as "proxy"'
        )
    if bool(token) != bool(endpoints):
        raise ConfigError("both --discovery-token and --discovery-endpoints must be set")
    if not endpoints:
        return None
    if any(not endpoint.strip() for endpoint in endpoints):
        raise ConfigError("--discovery-endpoints must not contain empty endpoints")
    if settings.values.get("initial-cluster"):
        raise ConfigError(
            "multiple discovery or bootstrap flags are set. "
            'Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"'
        )
    user, colon, password = read.text(_PREFIX + "user").partition(":")
    cert, key = read.text(_PREFIX + "cert"), read.text(_PREFIX + "key")
    if bool(cert) != bool(key):
        raise ConfigError("--discovery-cert and --discovery-key must be set together")
    return Discovery(
        token=token,
        endpoints=tuple(dict.fromkeys(endpoint.strip() for endpoint in endpoints)),
        dial_timeout_s=read.seconds(_PREFIX + "dial-timeout"),
        request_timeout_s=read.seconds(_PREFIX + "request-timeout"),
        keepalive_time_s=read.seconds(_PREFIX + "keepalive-time"),
        keepalive_timeout_s=read.seconds(_PREFIX + "keepalive-timeout"),
        insecure_transport=read.switch(_PREFIX + "insecure-transport"),
        cert=cert,
        key=key,
        cacert=read.text(_PREFIX + "cacert"),
        user=user,
        password=password if colon else read.text(_PREFIX + "password"),
    )
