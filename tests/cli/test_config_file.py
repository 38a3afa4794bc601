"""The config file: YAML or JSON with etcd's keys; what is wrong with it is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvstore.cli.flags import parse_command_line, read_settings
from kvstore.cli.settings import NotImplementedFlag, build_config
from kvstore.cli.values import Settings
from kvstore.server.config import Config, ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "etcd.conf.yml"


def load(path: Path, text: str, *arguments: str, **environment: str) -> Config:
    """Write the file, read it by ``--config-file``."""
    return build_config(settings_of(path, text, *arguments, **environment))


def settings_of(path: Path, text: str, *arguments: str, **environment: str) -> Settings:
    path.write_text(text)
    line = parse_command_line([f"--config-file={path}", *arguments])
    return read_settings(line, environment)


def test_settings_come_from_yaml(path: Path) -> None:
    config = load(
        path,
        """
        name: m1
        data-dir: /var/lib/m1
        heartbeat-interval: 50
        backend-batch-interval: 20000000  # nanoseconds
        listen-client-urls: http://127.0.0.1:2,http://127.0.0.1:1
        advertise-client-urls: http://127.0.0.1:1
        initial-cluster: m1=http://localhost:2380
        pre-vote: false
        log-outputs: [stderr, stdout]
        quota-backend-bytes: -1
        """,
    )
    assert config.name == "m1"
    assert config.data_dir == "/var/lib/m1"
    assert config.heartbeat_ms == 50
    assert config.backend_batch_interval_s == 0.02
    assert config.listen_client_urls == ("http://127.0.0.1:1", "http://127.0.0.1:2")
    assert config.pre_vote is False
    assert config.log_outputs == ("stderr", "stdout")
    assert config.quota_backend_bytes == 0


def test_settings_come_from_json(path: Path) -> None:
    assert load(path, json.dumps({"name": "m1", "snapshot-count": 3})).snapshot_count == 3


def test_a_config_file_makes_flags_and_variables_void(path: Path) -> None:
    config = load(path, "name: m1", "--heartbeat-interval=7", ETCD_ELECTION_TIMEOUT="9999")
    assert (config.name, config.heartbeat_ms, config.election_ms) == ("m1", 100, 1000)


def test_a_config_file_may_be_named_by_a_variable(path: Path) -> None:
    path.write_text("name: m1")
    settings = read_settings(parse_command_line([]), {"ETCD_CONFIG_FILE": str(path)})
    assert build_config(settings).name == "m1"


def test_an_empty_config_file_means_the_defaults(path: Path) -> None:
    assert load(path, "") == Config()
    assert load(path, "name:\nclient-transport-security:\n") == Config()


def test_the_sample_shape_of_etcd_with_defaults_is_accepted(path: Path) -> None:
    sample = """
        max-wals: 5
        max-snapshots: 5
        cors:
        proxy: 'off'
        proxy-failure-wait: 5000
        enable-v2: false
        discovery:
        client-transport-security:
          cert-file:
          client-cert-auth: false
          auto-tls: false
        peer-transport-security:
          key-file: ""
        self-signed-cert-validity: 1
        force-new-cluster: false
        auto-compaction-mode: periodic
        auto-compaction-retention: "0"
        cipher-suites: []
        """
    settings = settings_of(path, sample)
    ignored = [notice.fields["key"] for notice in settings.notices if notice.level == "warn"]
    assert build_config(settings) == Config()
    assert ignored == ["max-snapshots", "proxy", "proxy-failure-wait", "enable-v2", "discovery"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nope: 1", 'unknown key "nope"'),
        ("client-transport-security: {nope: 1}", 'unknown key "client-transport-security.nope"'),
        ("client-transport-security: x", '"client-transport-security" is a section'),
        ("raft-read-timeout: 1", 'unknown key "raft-read-timeout"'),
        ("proxy: readonly", 'key "proxy" was removed, last in etcd 3.5'),
        ("heartbeat-interval: x", 'key "heartbeat-interval" must be an integer'),
        ("heartbeat-interval: true", 'key "heartbeat-interval" must be an integer'),
        (
            "heartbeat-interval: -1",
            'key "heartbeat-interval" must be an integer, 0 to 18446744073709551615',
        ),
        (
            "backend-batch-interval: 5ms",
            'key "backend-batch-interval" must be an integer number of nanoseconds',
        ),
        ('pre-vote: "yes"', 'key "pre-vote" must be true or false'),
        ("name: 3", 'key "name" must be a string'),
        ("log-outputs: [1]", 'key "log-outputs" must be a list of strings'),
        (
            "initial-cluster-state: foo",
            'key "initial-cluster-state": invalid value "foo": invalid value',
        ),
        (
            "listen-client-urls: foo",
            'key "listen-client-urls": unexpected error setting up listen-client-urls: '
            "URL scheme must be http, https, unix, or unixs: foo",
        ),
    ],
)
def test_a_bad_key_or_value_is_named(path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(path, text)
    assert str(raised.value) == f"--config-file {path}: {complaint}"


@pytest.mark.parametrize("text", ["[1", "a: b: c", "\x00"])
def test_what_is_neither_yaml_nor_json_is_refused(path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"--config-file .*: not YAML or JSON: "):
        load(path, text)


def test_a_list_is_no_config_file(path: Path) -> None:
    with pytest.raises(ConfigError, match="must hold a mapping"):
        load(path, "- 1")


def test_a_file_that_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ConfigError, match="not YAML or JSON"):
        read_settings(parse_command_line([f"--config-file={path}"]), {})


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"open nope\.yml: No such file or directory"):
        read_settings(parse_command_line(["--config-file=nope.yml"]), {})


def test_a_key_without_implementation_is_named_with_its_flag(path: Path) -> None:
    with pytest.raises(NotImplementedFlag) as raised:
        load(path, "peer-transport-security: {cert-file: x.pem}")
    assert str(raised.value) == (
        "flag --peer-cert-file is not implemented in this server "
        f'(set by "peer-transport-security.cert-file" in {path}): '
        "TLS is not part of this server yet"
    )


def test_rules_between_settings_hold_for_a_config_file_too(path: Path) -> None:
    with pytest.raises(ConfigError, match="--heartbeat-interval must be >0"):
        load(path, "heartbeat-interval: 0")
