"""Settings that contradict each other are refused, in etcd's words and naming the flag."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.cli.flags import parse_command_line, read_settings
from kvstore.cli.settings import build_config
from kvstore.membership.urls import UrlError, check_url, parse_urls, split_host_port
from kvstore.server.config import (
    Config,
    ConfigError,
    format_initial_cluster,
    parse_initial_cluster,
)
from kvstore.server.rules import verify, verify_bootstrap

TWO = ["--listen-client-urls=http://127.0.0.1:1", "--advertise-client-urls=http://127.0.0.1:1"]


def config_of(*arguments: str) -> Config:
    return build_config(read_settings(parse_command_line(arguments), {}))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (
            ["--heartbeat-interval=1000"],
            "--election-timeout[1000ms] should be at least as 5 times as "
            "--heartbeat-interval[1000ms]",
        ),
        (
            ["--election-timeout=50001"],
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
        ),
        (
            ["--listen-client-urls=http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            ["--listen-client-urls="],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            ["--listen-peer-urls="],
            "--listen-peer-urls must not be empty",
        ),
        (
            ["--listen-peer-urls=http://example.com:1"],
            "--listen-peer-urls: expected IP in URL for binding (http://example.com:1)",
        ),
        (
            ["--listen-peer-urls=http://127.0.0.1:1,http://127.0.0.1:1"],
            "--listen-peer-urls has duplicate url: http://127.0.0.1:1,http://127.0.0.1:1",
        ),
        (
            [*TWO, "--listen-peer-urls=http://127.0.0.1:1"],
            "--listen-client-urls and --listen-peer-urls have duplicate url: http://127.0.0.1:1",
        ),
        (
            ["--listen-peer-urls=https://127.0.0.1:1"],
            "--listen-peer-urls: cannot listen on TLS for 127.0.0.1:1: "
            "TLS is not implemented yet in this server",
        ),
        (
            ["--listen-peer-urls=unix://"],
            "--listen-peer-urls: a unix socket needs a path (unix://)",
        ),
        (
            ["--initial-advertise-peer-urls=http://:1"],
            '--initial-advertise-peer-urls "http://:1" must be "host:port" '
            "(unexpected empty host (http://:1))",
        ),
        (
            ["--advertise-client-urls=http://:1"],
            '--advertise-client-urls "http://:1" must be "host:port" '
            "(unexpected empty host (http://:1))",
        ),
        (["--advertise-client-urls="], "--advertise-client-urls must not be empty"),
        (
            ["--advertise-client-urls=http://a:1,http://a:1"],
            "--advertise-client-urls has duplicate url: http://a:1,http://a:1",
        ),
        (
            ["--initial-advertise-peer-urls=https://a:1"],
            "--initial-advertise-peer-urls: peers are not reached by TLS yet in this server "
            "(https://a:1)",
        ),
        (
            ["--initial-cluster=a=https://a:1"],
            "--initial-cluster: peers are not reached by TLS yet in this server (https://a:1)",
        ),
        (
            ["--initial-cluster=x"],
            "--initial-cluster: error setting up initial cluster: "
            "URL scheme must be http, https, unix, or unixs: ",
        ),
        (
            ["--log-outputs=default,stdout"],
            '--log-outputs: multi logoutput for "default" is not supported yet',
        ),
        (["--log-outputs=stdout,"], '--log-outputs: couldn\'t open sink ""'),
        (
            ["--log-outputs=systemd/journal,stdout"],
            "--log-outputs: running with systemd/journal but other '--log-outputs' values "
            "(systemd/journal,stdout) are configured",
        ),
        (
            ["--discovery-token=x"],
            "both --discovery-token and --discovery-endpoints must be set",
        ),
        (
            ["--discovery-token=x", "--discovery-endpoints=a,,b"],
            "--discovery-endpoints must not contain empty endpoints",
        ),
        (
            ["--discovery-token=x", "--discovery-endpoints=a", "--initial-cluster=a=http://a:1"],
            "multiple discovery or bootstrap flags are set. "
            'Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"',
        ),
        (
            ["--discovery-token=x", "--discovery-endpoints=a", "--discovery-cert=c"],
            "--discovery-cert and --discovery-key must be set together",
        ),
        (
            ["--discovery-fallback=proxy"],
            'v2 proxy is deprecated, and --discovery-fallback can\'t be configured as "proxy"',
        ),
        (
            ["--enable-log-rotation"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            ["--enable-log-rotation", "--log-outputs=a,b"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            ["--enable-log-rotation", "--log-outputs=a", "--log-rotation-config-json={"],
            "--log-rotation-config-json: improperly formatted log rotation config: Expecting "
            "property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (
            [
                "--enable-log-rotation",
                "--log-outputs=a",
                '--log-rotation-config-json={"maxsize":"1"}',
            ],
            "--log-rotation-config-json: invalid log rotation config: maxsize must be of type int",
        ),
        (
            [
                "--enable-log-rotation",
                "--log-outputs=a",
                '--log-rotation-config-json={"maxage":-1}',
            ],
            "--log-rotation-config-json: invalid log rotation config: "
            "maxage must be >=0 (set to -1)",
        ),
        (["--max-concurrent-streams=0"], "--max-concurrent-streams must be >0 (set to 0)"),
        (["--max-learners=-1"], "--max-learners must be >=0 (set to -1)"),
        (["--backend-batch-limit=-1"], "--backend-batch-limit must be >=0 (set to -1)"),
        (["--backend-batch-interval=-1s"], "--backend-batch-interval must be >=0 (set to -1)"),
        (["--compaction-batch-limit=-1"], "--compaction-batch-limit must be >=0 (set to -1)"),
        (
            ["--compaction-sleep-interval=-1s"],
            "--compaction-sleep-interval must be >=0 (set to -1)",
        ),
        (
            ["--watch-progress-notify-interval=-1s"],
            "--watch-progress-notify-interval must be >=0 (set to -1)",
        ),
    ],
)
def test_a_broken_rule_names_its_flag(arguments: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config_of(*arguments)
    assert str(raised.value) == text


def test_the_limits_themselves_are_allowed() -> None:
    config = config_of("--election-timeout=50000", "--heartbeat-interval=10000", "--max-learners=0")
    assert (config.election_ms, config.heartbeat_ms, config.max_learners) == (50_000, 10_000, 0)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0.0.0.0", "[::1]", "[::]"])
def test_a_member_listens_on_addresses(host: str) -> None:
    url = f"http://{host}:12345"
    assert config_of(f"--listen-peer-urls={url}").listen_peer_urls == (url,)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "URL scheme must be"),
        ("127.0.0.1:1", "URL scheme must be"),
        ("ftp://127.0.0.1:1", "URL scheme must be"),
        ("http://127.0.0.1", "does not have the form"),
        ("http://127.0.0.1:", "does not have the form"),
        ("http://127.0.0.1:x", "does not have the form"),
        ("http://::1:1", "does not have the form"),
        ("http://127.0.0.1:1/", "must not contain a path"),
        ("http://127.0.0.1:1?x=1", "must not contain a path"),
        ("http://127.0.0.1:65536", "port is above 65535"),
        ("http://user@127.0.0.1:1", "host is not valid"),
    ],
)
def test_a_text_that_is_no_member_url_is_told_why(url: str, reason: str) -> None:
    with pytest.raises(UrlError, match=reason) as raised:
        check_url(url)
    assert str(raised.value).endswith(url)


@given(st.text(max_size=20), st.sampled_from(["", "http://", "https://", "unix://"]))
@settings(max_examples=150)
def test_any_text_is_a_url_or_an_error_that_shows_it(text: str, scheme: str) -> None:
    url = scheme + text
    try:
        accepted = check_url(url)
    except UrlError as error:
        assert str(error).endswith(url)
    else:
        assert accepted == url
        if not url.startswith("unix"):
            assert 0 <= split_host_port(url)[1] <= 65_535


def test_urls_are_trimmed_and_sorted() -> None:
    assert parse_urls(" http://b:2, http://a:1 ") == ("http://a:1", "http://b:2")


def test_an_initial_cluster_survives_being_written_and_read() -> None:
    text = "a=http://a:1,a=http://a:2,b=http://b:1"
    cluster = parse_initial_cluster("b=http://b:1,,a=http://a:2,a=http://a:1")
    assert cluster == (("a", ("http://a:1", "http://a:2")), ("b", ("http://b:1",)))
    assert format_initial_cluster(cluster) == text
    assert parse_initial_cluster(text) == cluster


def bootstrap(initial: str, name: str = "m1", advertised: str = "http://127.0.0.1:1") -> Config:
    config = Config(
        name=name,
        initial_cluster=parse_initial_cluster(initial),
        initial_advertise_peer_urls=parse_urls(advertised),
    )
    verify(config)
    return config


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            bootstrap("m2=http://127.0.0.1:1"),
            'couldn\'t find local name "m1" in the initial cluster configuration '
            "(--name, --initial-cluster)",
        ),
        (
            bootstrap(""),
            'couldn\'t find local name "m1" in the initial cluster configuration '
            "(--name, --initial-cluster)",
        ),
        (
            bootstrap("m1=http://127.0.0.1:1,m2=http://127.0.0.1:1"),
            "--initial-cluster: initial cluster "
            "m1=http://127.0.0.1:1,m2=http://127.0.0.1:1 has duplicate url",
        ),
        (
            bootstrap("m1=http://127.0.0.1:2"),
            "--initial-cluster has m1=http://127.0.0.1:2 but missing from "
            "--initial-advertise-peer-urls=http://127.0.0.1:1",
        ),
        (
            bootstrap("m1=http://127.0.0.1:1", advertised="http://127.0.0.1:1,http://127.0.0.1:3"),
            "--initial-advertise-peer-urls has http://127.0.0.1:3 but missing from "
            "--initial-cluster=m1=http://127.0.0.1:1",
        ),
    ],
)
def test_a_member_that_is_not_in_its_initial_cluster_is_refused(config: Config, text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        verify_bootstrap(config)
    assert str(raised.value) == text


def test_a_name_and_its_address_are_the_same_peer() -> None:
    config = bootstrap("m1=http://localhost:1", advertised="http://127.0.0.1:1")
    verify_bootstrap(config)
    with pytest.raises(ConfigError, match="missing from --initial-advertise-peer-urls"):
        verify_bootstrap(replace(config, initial_cluster=(("m1", ("http://localhost:2",)),)))
