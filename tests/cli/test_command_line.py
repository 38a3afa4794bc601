"""Command lines are read as etcd reads them, and wrong ones get etcd's words."""

from __future__ import annotations

import pytest

from kvstore.cli.flags import UsageError, parse_command_line, read_settings, shown_arguments
from kvstore.cli.settings import build_config
from kvstore.server.config import Config, ConfigError


def config_of(*arguments: str, **environment: str) -> Config:
    """What a command line and an environment come to."""
    return build_config(read_settings(parse_command_line(arguments), environment))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--name", "m1"],
        ["--name=m1"],
        ["-name", "m1"],
        ["-name=m1"],
        ["--name", "m0", "--name", "m1"],
        ["--name=m1", "--"],
    ],
)
def test_a_value_is_read_in_every_form_of_go(arguments: list[str]) -> None:
    assert config_of(*arguments).name == "m1"


def test_a_value_may_contain_an_equals_sign() -> None:
    values = parse_command_line(["--initial-cluster=a=http://127.0.0.1:1"]).values
    assert values["initial-cluster"] == "a=http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--pre-vote"], True),
        (["--pre-vote=false"], False),
        (["--pre-vote=0"], False),
        (["--pre-vote=T"], True),
        ([], True),
    ],
)
def test_a_boolean_takes_its_value_behind_an_equals_sign(
    arguments: list[str], expected: bool
) -> None:
    assert config_of(*arguments).pre_vote is expected


def test_a_word_behind_a_boolean_is_no_flag() -> None:
    with pytest.raises(ConfigError, match="'false' is not a valid flag"):
        config_of("--pre-vote", "false")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--nope"], "flag provided but not defined: -nope"),
        (["-nope=3"], "flag provided but not defined: -nope"),
        (["-name"], "flag needs an argument: -name"),
        (["---x"], "bad flag syntax: ---x"),
        (["--=x"], "bad flag syntax: --=x"),
        (["--pre-vote=maybe"], 'invalid boolean value "maybe" for -pre-vote: parse error'),
        (
            ["--heartbeat-interval", "x"],
            'invalid value "x" for flag -heartbeat-interval: parse error',
        ),
        (
            ["--heartbeat-interval=-1"],
            'invalid value "-1" for flag -heartbeat-interval: parse error',
        ),
        (
            ["--quota-backend-bytes", "1k"],
            'invalid value "1k" for flag -quota-backend-bytes: parse error',
        ),
        (
            ["--max-concurrent-streams=4294967296"],
            'invalid value "4294967296" for flag -max-concurrent-streams: value out of range',
        ),
        (
            ["--backend-batch-interval", "5"],
            'invalid value "5" for flag -backend-batch-interval: parse error',
        ),
        (
            ["--initial-cluster-state", "foo"],
            'invalid value "foo" for flag -initial-cluster-state: invalid value',
        ),
        (["--log-level", "foo"], 'invalid value "foo" for flag -log-level: invalid value'),
        (
            ["--listen-client-urls", "foo"],
            'invalid value "foo" for flag -listen-client-urls: '
            "URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            ["--listen-client-urls", "http://127.0.0.1"],
            'invalid value "http://127.0.0.1" for flag -listen-client-urls: '
            'URL address does not have the form "host:port": http://127.0.0.1',
        ),
        (
            ["--listen-peer-urls", "http://127.0.0.1:1/path"],
            'invalid value "http://127.0.0.1:1/path" for flag -listen-peer-urls: '
            "URL must not contain a path: http://127.0.0.1:1/path",
        ),
    ],
)
def test_a_bad_command_line_gets_the_text_of_etcd(arguments: list[str], text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_command_line(arguments)
    assert str(raised.value) == text


@pytest.mark.parametrize("word", ["-h", "--help", "-help"])
def test_help_stops_the_reading(word: str) -> None:
    assert parse_command_line(["--name", "m1", word, "--nope"]).help


def test_the_flags_of_a_three_node_etcd_script_are_understood() -> None:
    peers = "infra1=http://10.0.0.1:2380,infra2=http://10.0.0.2:2380,infra3=http://10.0.0.3:2380"
    config = config_of(
        *("--name", "infra2", "--initial-advertise-peer-urls", "http://10.0.0.2:2380"),
        *("--listen-peer-urls", "http://10.0.0.2:2380"),
        *("--listen-client-urls", "http://10.0.0.2:2379,http://127.0.0.1:2379"),
        *("--advertise-client-urls", "http://10.0.0.2:2379"),
        *("--initial-cluster-token", "etcd-cluster-1", "--initial-cluster", peers),
        *("--initial-cluster-state", "new"),
    )
    assert config.name == "infra2"
    assert config.data_dir == "infra2.etcd"
    assert config.listen_client_urls == ("http://10.0.0.2:2379", "http://127.0.0.1:2379")
    assert config.initial_cluster == (
        ("infra1", ("http://10.0.0.1:2380",)),
        ("infra2", ("http://10.0.0.2:2380",)),
        ("infra3", ("http://10.0.0.3:2380",)),
    )


def test_every_implemented_setting_reaches_the_configuration() -> None:
    config = config_of(
        *("--data-dir=d", "--wal-dir=w", "--snapshot-count=7", "--snapshot-catchup-entries=8"),
        *("--heartbeat-interval=20", "--election-timeout=200", "--pre-vote=false"),
        *("--initial-election-tick-advance=false", "--strict-reconfig-check=false"),
        *("--quota-backend-bytes=9", "--backend-batch-interval=5ms", "--backend-batch-limit=6"),
        *("--max-txn-ops=10", "--max-request-bytes=11", "--max-concurrent-streams=12"),
        *("--max-learners=3", "--watch-progress-notify-interval=5s"),
        *("--compaction-batch-limit=13", "--compaction-sleep-interval=14ms"),
        *("--log-level=debug", "--log-format=console", "--log-outputs=stdout,x.log,stdout"),
        *("--warning-apply-duration=1s", "--warning-unary-request-duration=2s"),
        *("--initial-cluster-state=existing", "--initial-cluster-token=t"),
    )
    assert config == Config(
        data_dir="d",
        wal_dir="w",
        snapshot_count=7,
        snapshot_catchup_entries=8,
        heartbeat_ms=20,
        election_ms=200,
        pre_vote=False,
        initial_election_tick_advance=False,
        strict_reconfig_check=False,
        quota_backend_bytes=9,
        backend_batch_interval_s=0.005,
        backend_batch_limit=6,
        max_txn_ops=10,
        max_request_bytes=11,
        max_concurrent_streams=12,
        max_learners=3,
        watch_progress_interval_s=5.0,
        compaction_batch_limit=13,
        compaction_sleep_s=0.014,
        log_level="debug",
        log_format="console",
        log_outputs=("stdout", "x.log"),
        warning_apply_s=1.0,
        warning_unary_s=2.0,
        initial_cluster_state="existing",
        initial_cluster_token="t",
    )
    assert config.election_ticks == 10
    assert config.max_receive_bytes == 11 + 512 * 1024


def test_no_flags_mean_the_defaults_of_etcd() -> None:
    assert config_of() == Config()


def test_zero_means_the_default_where_etcd_has_it_so() -> None:
    zeros = ["snapshot-count", "quota-backend-bytes", "backend-batch-limit"]
    durations = ["backend-batch-interval", "watch-progress-notify-interval"]
    flags = [f"--{name}=0" for name in (*zeros, *durations)]
    compaction = ["--compaction-batch-limit=0", "--compaction-sleep-interval=0s"]
    assert config_of(*flags, *compaction) == Config()


def test_a_negative_quota_takes_the_limit_away() -> None:
    assert config_of("--quota-backend-bytes=-1").quota_backend_bytes == 0


def test_a_short_watch_progress_interval_is_raised_to_its_floor() -> None:
    config = config_of("--watch-progress-notify-interval=1ms")
    assert config.watch_progress_interval_s == 0.1


def test_the_initial_cluster_is_this_member_where_it_advertises() -> None:
    urls = "http://127.0.0.1:2,http://127.0.0.1:1"
    config = config_of("--name=m1", f"--initial-advertise-peer-urls={urls}")
    assert config.initial_cluster == (("m1", ("http://127.0.0.1:1", "http://127.0.0.1:2")),)


def test_flags_that_mean_nothing_here_are_accepted() -> None:
    assert config_of("--max-wals=9", "--backend-bbolt-freelist-type=array", "--force") == Config()


def test_a_variable_sets_what_no_flag_set() -> None:
    config = config_of("--name=flag", ETCD_NAME="variable", ETCD_HEARTBEAT_INTERVAL="50")
    assert (config.name, config.heartbeat_ms) == ("flag", 50)


def test_the_log_tells_what_became_of_every_variable() -> None:
    environment = {
        "ETCD_HEARTBEAT_INTERVAL": "50",
        "ETCD_NAME": "shadowed",
        "ETCD_NOPE": "1",
        "ETCD_DATA_DIR": "",
        "ETCD_VERSION": "1",
        "ETCD_UNSUPPORTED_ARCH": "arm64",
        "OTHER": "x",
    }
    notices = read_settings(parse_command_line(["--name=m1"]), environment).notices
    told = [(n.level, n.message, dict(n.fields)) for n in notices]
    unknown = "unrecognized environment variable"
    shadowed = "environment variable is shadowed by corresponding command-line flag"
    assert told == [
        ("warn", unknown, {"environment-variable": "ETCD_DATA_DIR="}),
        (
            "info",
            "recognized and used environment variable",
            {"variable-name": "ETCD_HEARTBEAT_INTERVAL", "variable-value": "50"},
        ),
        ("warn", shadowed, {"environment-variable": "ETCD_NAME"}),
        ("warn", unknown, {"environment-variable": "ETCD_NOPE=1"}),
        ("warn", "cannot set special environment variable", {"key": "ETCD_VERSION", "value": "1"}),
    ]


def test_a_bad_variable_is_named() -> None:
    with pytest.raises(ConfigError) as raised:
        config_of(ETCD_HEARTBEAT_INTERVAL="x")
    assert str(raised.value) == 'invalid value "x" for ETCD_HEARTBEAT_INTERVAL: parse error'


def test_secrets_of_the_command_line_are_not_logged() -> None:
    given = ["--name=a", "-discovery-password", "x", "--discovery-user=u:p", "--discovery-token=t"]
    assert shown_arguments(given) == [
        "--name=a",
        "-discovery-password",
        "********",
        "--discovery-user=********",
        "--discovery-token=t",
    ]
