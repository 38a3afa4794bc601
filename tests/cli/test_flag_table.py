"""Every flag of etcd is known here, and what is not implemented is never passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.cli.deprecated_flags import DEPRECATED
from kvstore.cli.flag_reasons import REASONS
from kvstore.cli.flag_table import BY_CONFIG_KEY, BY_ENV, FLAGS, REMOVED, Flag, Kind, Status
from kvstore.cli.flags import UsageError, help_text, parse_command_line
from kvstore.cli.settings import NotImplementedFlag, refuse_missing
from kvstore.cli.values import Settings, default_value

EXPECTED = Path(__file__).with_name("etcd_flags.txt").read_text().splitlines()[1:]
CURRENT = [line for line in EXPECTED if not line.endswith(" removed")]
GONE = [line.removesuffix(" removed") for line in EXPECTED if line.endswith(" removed")]

OTHER_VALUES = {
    Kind.STRING: "another",
    Kind.BOOL: None,
    Kind.INT: "12345",
    Kind.UINT: "12345",
    Kind.UINT32: "12345",
    Kind.DURATION: "12345s",
    Kind.URLS: "http://127.0.0.1:12345",
    Kind.STRINGS: "another",
    Kind.GATES: "CompactHashCheck=true",
}


def other_value(flag: Flag) -> str:
    """A good value that is not the default."""
    if flag.kind is Kind.BOOL:
        return "false" if flag.default == "true" else "true"
    if flag.kind is Kind.ENUM:
        return next(choice for choice in flag.choices if choice != flag.default)
    return OTHER_VALUES[flag.kind] or ""


def test_the_table_has_exactly_the_flags_of_etcd() -> None:
    assert sorted(flag.name for flag in FLAGS) == CURRENT
    assert sorted(flag.name for flag in REMOVED) == GONE


def test_names_variables_and_config_keys_are_unique() -> None:
    assert len(BY_ENV) == len(FLAGS)
    assert len(BY_CONFIG_KEY) == sum(flag.config_key is not None for flag in FLAGS)


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_every_flag_takes_its_own_default(flag: Flag) -> None:
    line = parse_command_line([f"--{flag.name}={flag.default}"]) if flag.default else None
    values = {flag.name: default_value(flag)} if line is None else dict(line.values)
    refuse_missing(Settings(values, {flag.name: f"--{flag.name}"}))
    assert values[flag.name] == default_value(flag)


@pytest.mark.parametrize(
    "flag", [f for f in FLAGS if f.status is Status.NOT_IMPLEMENTED], ids=lambda flag: flag.name
)
def test_a_flag_without_implementation_says_why_unless_it_holds_its_default(flag: Flag) -> None:
    line = parse_command_line([f"--{flag.name}={other_value(flag)}"])
    settings = Settings(dict(line.values), {flag.name: f"--{flag.name}"})
    with pytest.raises(NotImplementedFlag) as raised:
        refuse_missing(settings)
    expected = f"flag --{flag.name} is not implemented in this server: {flag.reason}"
    assert str(raised.value) == expected


def test_giving_up_fsync_is_refused() -> None:
    line = parse_command_line(["--unsafe-no-fsync"])
    with pytest.raises(NotImplementedFlag, match="--unsafe-no-fsync is refused"):
        refuse_missing(Settings(dict(line.values), {"unsafe-no-fsync": "--unsafe-no-fsync"}))


@pytest.mark.parametrize("name", [name for name in GONE if name not in DEPRECATED])
def test_a_removed_flag_is_unknown(name: str) -> None:
    with pytest.raises(UsageError, match=f"^flag provided but not defined: -{name} "):
        parse_command_line([f"--{name}=1"])


def test_a_removed_flag_names_its_successor() -> None:
    with pytest.raises(UsageError, match="use --log-outputs"):
        parse_command_line(["--log-output", "stdout"])


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_exactly_flags_that_are_not_implemented_have_a_reason(flag: Flag) -> None:
    assert bool(flag.reason) == (flag.status is not Status.IMPLEMENTED)
    assert flag.name in help_text()
    assert flag.reason in help_text()


def test_no_reason_is_left_behind() -> None:
    assert set(REASONS) <= {flag.name for flag in FLAGS}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_every_flag_is_in_the_help(flag: Flag) -> None:
    assert f"  --{flag.name} '{flag.default}'" in help_text()
