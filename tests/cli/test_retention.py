"""``--auto-compaction-retention`` in etcd's syntax, and the periods of the corruption checks."""

from __future__ import annotations

import pytest

from kvstore.cli.flags import parse_command_line, read_settings
from kvstore.cli.settings import build_config
from kvstore.server.config import AutoCompaction, Config, ConfigError


def config_of(*arguments: str) -> Config:
    return build_config(read_settings(parse_command_line(arguments), {}))


def retention(mode: str, text: str) -> AutoCompaction | None:
    flags = (f"--auto-compaction-mode={mode}", f"--auto-compaction-retention={text}")
    return config_of(*flags).auto_compaction


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1", 3600.0), ("+2", 7200.0), ("5m", 300.0), ("1h30m", 5400.0), ("72h", 259200.0)],
)
def test_periodic_retention_is_a_duration_or_hours(text: str, seconds: float) -> None:
    """CMP-12."""
    assert retention("periodic", text) == AutoCompaction("periodic", seconds)


def test_revision_retention_is_a_number() -> None:
    """CMP-12: and a duration there is its nanoseconds, as in etcd."""
    assert retention("revision", "1000") == AutoCompaction("revision", 1000.0)
    assert retention("revision", "2us") == AutoCompaction("revision", 2000.0)


@pytest.mark.parametrize("text", ["0", "", "0s"])
@pytest.mark.parametrize("mode", ["periodic", "revision"])
def test_zero_turns_it_off(mode: str, text: str) -> None:
    """CMP-12: off by default."""
    assert retention(mode, text) is None
    assert Config().auto_compaction is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("abc", 'invalid duration "abc"'),
        ("1d", 'unknown unit "d" in duration "1d"'),
        ("1h5x", 'unknown unit "x" in duration "1h5x"'),
        ("-1", 'missing unit in duration "-1"'),
        ("1.5", 'missing unit in duration "1.5"'),
    ],
)
def test_bad_retention_is_refused_in_etcds_words(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        retention("periodic", text)
    assert str(raised.value) == f"error parsing CompactionRetention: time: {reason}"


def test_negative_retention_is_refused() -> None:
    with pytest.raises(ConfigError, match="--auto-compaction-retention must be >=0"):
        retention("periodic", "-1h")


def test_checks_have_periods() -> None:
    config = config_of("--corrupt-check-time=1m", "--compact-hash-check-time=5s")
    assert (config.corrupt_check_s, config.compact_hash_check_s) == (60.0, 5.0)
    assert (Config().corrupt_check_s, Config().compact_hash_check_s) == (0.0, 60.0)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--compact-hash-check-time=0", "--compact-hash-check-time must be >0 (set to 0)"),
        ("--compact-hash-check-time=-1s", "--compact-hash-check-time must be >0 (set to -1)"),
        ("--corrupt-check-time=-1s", "--corrupt-check-time must be >=0 (set to -1)"),
    ],
)
def test_bad_period_is_named(flag: str, text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config_of(flag)
    assert str(raised.value) == text
