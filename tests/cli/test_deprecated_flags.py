"""The ``--experimental-…`` flags of etcd 3.6 mean their successors."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.cli.deprecated_flags import DEPRECATED
from kvstore.cli.flag_table import REMOVED
from kvstore.cli.flags import parse_command_line, read_settings
from kvstore.cli.settings import build_config
from kvstore.cli.values import Settings
from kvstore.server.config import Config, ConfigError
from kvstore.server.features import DEFAULT_GATES


def settings_of(*arguments: str, **environment: str) -> Settings:
    return read_settings(parse_command_line(arguments), environment)


def config_of(*arguments: str, **environment: str) -> Config:
    return build_config(settings_of(*arguments, **environment))


def test_all_of_etcd_3_6_are_known() -> None:
    expected = {r.name for r in REMOVED if r.name.startswith("experimental") and r.last_in == "3.6"}
    assert set(DEPRECATED) == expected
    assert len(expected) == 23


@pytest.mark.parametrize("name", DEPRECATED)
def test_old_name_with_its_default_changes_nothing(name: str) -> None:
    default = DEPRECATED[name].flag.default
    assert config_of(f"--{name}={default}") == Config()


def test_old_flags_mean_the_new_ones() -> None:
    """MNT-24: kubeadm sets the first two."""
    config = config_of(
        "--experimental-initial-corrupt-check=true",
        "--experimental-watch-progress-notify-interval=5s",
        "--experimental-corrupt-check-time=1h",
        "--experimental-compact-hash-check-enabled",
        "--experimental-compact-hash-check-time=2m",
        "--experimental-stop-grpc-service-on-defrag=true",
        "--experimental-snapshot-catchup-entries=7",
    )
    assert config.feature_gates == DEFAULT_GATES | {
        "InitialCorruptCheck",
        "CompactHashCheck",
        "StopGRPCServiceOnDefrag",
    }
    assert config.watch_progress_interval_s == 5.0
    assert (config.corrupt_check_s, config.compact_hash_check_s) == (3600.0, 120.0)
    assert config.snapshot_catchup_entries == 7


def test_old_flag_wins_over_the_new_one() -> None:
    """As in etcd 3.6."""
    config = config_of("--experimental-corrupt-check-time=1h", "--corrupt-check-time=2h")
    assert config.corrupt_check_s == 3600.0


def test_old_switch_and_its_gate_together_are_refused() -> None:
    with pytest.raises(ConfigError) as raised:
        config_of(
            "--experimental-initial-corrupt-check=true",
            "--feature-gates=InitialCorruptCheck=false,CompactHashCheck=true",
        )
    assert str(raised.value) == (
        "cannot specify both flags: --experimental-initial-corrupt-check=true and "
        "--feature-gates=InitialCorruptCheck=false at the same time, please just use "
        "--feature-gates=InitialCorruptCheck=false"
    )
    config = config_of(
        "--experimental-initial-corrupt-check=true", "--feature-gates=CompactHashCheck=true"
    )
    assert config.feature_gates >= {"InitialCorruptCheck", "CompactHashCheck"}


def test_deprecation_is_told() -> None:
    (notice,) = settings_of("--experimental-corrupt-check-time=1h").notices
    assert notice.level == "warn"
    assert notice.message == (
        "--experimental-corrupt-check-time is deprecated in v3.6 and will be decommissioned in "
        "v3.7. Use '--corrupt-check-time' instead."
    )


def test_old_names_come_from_the_environment_and_the_file_too(tmp_path: Path) -> None:
    config = config_of(ETCD_EXPERIMENTAL_CORRUPT_CHECK_TIME="1h")
    assert config.corrupt_check_s == 3600.0
    path = tmp_path / "etcd.yml"
    path.write_text(
        "experimental-initial-corrupt-check: true\n"
        "experimental-snapshot-catch-up-entries: 7\n"
        "experimental-corrupt-check-time: 3600000000000\n"
    )
    config = config_of(f"--config-file={path}")
    assert "InitialCorruptCheck" in config.feature_gates
    assert (config.snapshot_catchup_entries, config.corrupt_check_s) == (7, 3600.0)
