"""Which configurations a member refuses to start with, in etcd's words.

`verify` holds the rules that need no data directory; `verify_bootstrap` the ones that etcd checks
only when a member starts for the first time (a restart ignores the initial-* flags); `verify_join`
those of a member that joins a running cluster.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from kvstore.membership.urls import is_tls, is_unix, split_host_port
from kvstore.server.config import (
    JOURNAL_OUTPUT,
    STREAM_OUTPUTS,
    Config,
    ConfigError,
    format_initial_cluster,
)
from kvstore.server.features import LEASE_CHECKPOINT, LEASE_CHECKPOINT_PERSIST
from kvstore.server.urls import same_address
from kvstore.sockets import unix_path

MIN_ELECTION_HEARTBEATS: Final = 5
"""The election timeout is at least this many heartbeats."""
MAX_ELECTION_MS: Final = 50_000
"""Above this etcd refuses the election timeout."""


def verify(config: Config) -> None:
    """Raise `ConfigError` at the first rule that ``config`` breaks; does not look at the disk."""
    _verify_timing(config)
    _verify_numbers(config)
    _verify_listen_urls("--listen-peer-urls", config.listen_peer_urls)
    _verify_listen_urls("--listen-client-urls", config.listen_client_urls)
    if config.listen_client_http_urls:
        _verify_listen_urls("--listen-client-http-urls", config.listen_client_http_urls)
    if config.listen_metrics_urls:
        _verify_listen_urls("--listen-metrics-urls", config.listen_metrics_urls)
    _verify_disjoint(config)
    _verify_advertised("--initial-advertise-peer-urls", config.initial_advertise_peer_urls)
    _verify_advertised("--advertise-client-urls", config.advertise_client_urls)
    _verify_peer_schemes("--initial-advertise-peer-urls", config.initial_advertise_peer_urls)
    for _, urls in config.initial_cluster:
        _verify_peer_schemes("--initial-cluster", urls)
    _verify_log_outputs(config)
    if not config.data_dir:
        raise ConfigError("--data-dir must not be empty")


def verify_bootstrap(config: Config) -> None:
    """Raise `ConfigError` if ``config`` cannot start a member that has no data yet.

    Rules and texts are etcd's: the initial cluster names this member, no URL twice, and its URLs
    there are the ones it advertises (by address, so that a name and its IP agree). May block on the
    resolver. A member that has data ignores the initial-* flags and must not be asked.
    """
    verify_join(config)
    _verify_advertised_matches(config, dict(config.initial_cluster)[config.name])


def verify_join(config: Config) -> None:
    """Raise `ConfigError` if ``config`` cannot start a member that joins a running cluster.

    The same rules as etcd's: the initial cluster names this member, and no URL twice. What the
    member advertises was said when it was added.
    """
    cluster = dict(config.initial_cluster)
    if config.name not in cluster:
        raise ConfigError(
            f'couldn\'t find local name "{config.name}" in the initial cluster configuration '
            f"(--name, --initial-cluster)"
        )
    text = format_initial_cluster(config.initial_cluster)
    urls = [url for member in cluster.values() for url in member]
    if len(set(urls)) != len(urls):
        raise ConfigError(f"--initial-cluster: initial cluster {text} has duplicate url")


def _verify_advertised_matches(config: Config, listed: tuple[str, ...]) -> None:
    advertised = config.initial_advertise_peer_urls
    for url in listed:
        if not any(same_address(url, other) for other in advertised):
            raise ConfigError(
                f"--initial-cluster has {config.name}={url} but missing from "
                f"--initial-advertise-peer-urls={','.join(advertised)}"
            )
    for url in advertised:
        if not any(same_address(url, other) for other in listed):
            raise ConfigError(
                f"--initial-advertise-peer-urls has {url} but missing from "
                f"--initial-cluster={format_initial_cluster(((config.name, listed),))}"
            )


def _verify_timing(config: Config) -> None:
    heartbeat, election = config.heartbeat_ms, config.election_ms
    if heartbeat <= 0:
        raise ConfigError(f"--heartbeat-interval must be >0 (set to {heartbeat}ms)")
    if election <= 0:
        raise ConfigError(f"--election-timeout must be >0 (set to {election}ms)")
    if MIN_ELECTION_HEARTBEATS * heartbeat > election:
        raise ConfigError(
            f"--election-timeout[{election}ms] should be at least as "
            f"{MIN_ELECTION_HEARTBEATS} times as --heartbeat-interval[{heartbeat}ms]"
        )
    if election > MAX_ELECTION_MS:
        raise ConfigError(
            f"--election-timeout[{election}ms] is too long, "
            f"and should be set less than {MAX_ELECTION_MS}ms"
        )


def _verify_numbers(config: Config) -> None:
    """Refuse the numbers that flags can carry but that mean nothing (mostly below zero)."""
    rules: tuple[tuple[str, bool, float], ...] = (
        ("--snapshot-count must be >0", config.snapshot_count > 0, config.snapshot_count),
        ("--max-concurrent-streams must be >0", config.max_concurrent_streams > 0, 0),
        ("--max-learners must be >=0", config.max_learners >= 0, config.max_learners),
        ("--backend-batch-limit must be >=0", config.backend_batch_limit > 0,
         config.backend_batch_limit),
        ("--backend-batch-interval must be >=0", config.backend_batch_interval_s > 0,
         config.backend_batch_interval_s),
        ("--compaction-batch-limit must be >=0", config.compaction_batch_limit > 0,
         config.compaction_batch_limit),
        ("--compaction-sleep-interval must be >=0", config.compaction_sleep_s > 0,
         config.compaction_sleep_s),
        ("--watch-progress-notify-interval must be >=0", config.watch_progress_interval_s > 0,
         config.watch_progress_interval_s),
        ("--corrupt-check-time must be >=0", config.corrupt_check_s >= 0, config.corrupt_check_s),
        ("--compact-hash-check-time must be >0", config.compact_hash_check_s > 0,
         config.compact_hash_check_s),
    )  # fmt: skip
    for text, holds, value in rules:
        if not holds:
            raise ConfigError(f"{text} (set to {value:g})")
    gates = config.feature_gates
    if LEASE_CHECKPOINT_PERSIST in gates and LEASE_CHECKPOINT not in gates:
        raise ConfigError(
            f"enabling feature gate {LEASE_CHECKPOINT_PERSIST} requires enabling feature gate"
            f" {LEASE_CHECKPOINT}"
        )


def _verify_listen_urls(flag: str, urls: tuple[str, ...]) -> None:
    if not urls:
        raise ConfigError(f"{flag} must not be empty")
    if len(set(urls)) != len(urls):
        raise ConfigError(f"{flag} has duplicate url: {','.join(urls)}")
    for url in urls:
        if is_tls(url):
            raise ConfigError(
                f"{flag}: cannot listen on TLS for {url.partition('://')[2]}: "
                f"TLS is not implemented yet in this server"
            )
        if is_unix(url):
            if not unix_path(url):
                raise ConfigError(f"{flag}: a unix socket needs a path ({url})")
            continue
        if not _is_bindable(split_host_port(url)[0]):
            raise ConfigError(f"{flag}: expected IP in URL for binding ({url})")


def _is_bindable(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _verify_disjoint(config: Config) -> None:
    shared = set(config.listen_peer_urls).intersection(config.listen_client_urls)
    if shared:
        raise ConfigError(
            f"--listen-client-urls and --listen-peer-urls have duplicate url: {min(shared)}"
        )
    shared = set(config.listen_client_http_urls).intersection(config.listen_client_urls)
    if shared:
        raise ConfigError(
            f"cannot bind both --listen-client-urls and --listen-client-http-urls on the same url "
            f"{min(shared)}"
        )


def _verify_advertised(flag: str, urls: tuple[str, ...]) -> None:
    joined = ",".join(urls)
    if not urls:
        raise ConfigError(f"{flag} must not be empty")
    if len(set(urls)) != len(urls):
        raise ConfigError(f"{flag} has duplicate url: {joined}")
    for url in urls:
        if not is_unix(url) and not split_host_port(url)[0]:
            raise ConfigError(
                f'{flag} "{joined}" must be "host:port" (unexpected empty host ({url}))'
            )


def _verify_peer_schemes(flag: str, urls: tuple[str, ...]) -> None:
    for url in urls:
        if is_tls(url):
            raise ConfigError(f"{flag}: peers are not reached by TLS yet in this server ({url})")


def _verify_log_outputs(config: Config) -> None:
    outputs = config.log_outputs
    if len(outputs) > 1 and "default" in outputs:
        raise ConfigError('--log-outputs: multi logoutput for "default" is not supported yet')
    for output in outputs:
        if not output:
            raise ConfigError('--log-outputs: couldn\'t open sink ""')
    if JOURNAL_OUTPUT in outputs and len(outputs) > 1:
        raise ConfigError(
            "--log-outputs: running with systemd/journal but other '--log-outputs' values "
            f"({','.join(outputs)}) are configured"
        )
    files = [output for output in outputs if output not in (*STREAM_OUTPUTS, JOURNAL_OUTPUT)]
    if config.log_rotation is not None and len(files) != 1:
        raise ConfigError(
            "--log-outputs requires a single file path when --log-rotate-config-json is defined"
        )
