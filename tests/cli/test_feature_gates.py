"""``--feature-gates``: etcd's syntax and errors, and what the gates come to."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.cli.flags import UsageError, parse_command_line, read_settings
from kvstore.cli.settings import build_config
from kvstore.server.config import Config, ConfigError
from kvstore.server.features import ALL, DEFAULT_GATES, GATES, without_effect


def config_of(*arguments: str, **environment: str) -> Config:
    return build_config(read_settings(parse_command_line(arguments), environment))


def gates_of(text: str) -> frozenset[str]:
    return config_of(f"--feature-gates={text}").feature_gates


def test_without_the_flag_gates_have_their_defaults() -> None:
    assert Config().feature_gates == DEFAULT_GATES
    assert {"TxnModeWriteWithSharedBuffer", "FastLeaseKeepAlive"} == DEFAULT_GATES


def test_every_gate_of_etcd_is_accepted() -> None:
    """MNT-24: kubeadm switches the initial check by gate; an unknown name would stop the start."""
    for name in (*GATES, *ALL):
        extra = ",LeaseCheckpoint=true" if name == "LeaseCheckpointPersist" else ""
        assert name in gates_of(f"{name}=true{extra}") or name in ALL
    assert "InitialCorruptCheck" in gates_of("InitialCorruptCheck=true")


def test_the_syntax_is_etcds() -> None:
    assert gates_of(" CompactHashCheck = T ,,InitialCorruptCheck=1,") == DEFAULT_GATES | {
        "CompactHashCheck",
        "InitialCorruptCheck",
    }
    assert gates_of("CompactHashCheck=true,CompactHashCheck=false") == DEFAULT_GATES


def test_all_gates_of_a_stage_give_way_to_those_set_by_name() -> None:
    alpha = {name for name, gate in GATES.items() if gate.stage == "alpha"}
    assert gates_of("CompactHashCheck=false,AllAlpha=true") == DEFAULT_GATES | alpha - {
        "CompactHashCheck"
    }
    assert gates_of("AllBeta=false") == frozenset()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Nope=true", "unrecognized feature gate: Nope"),
        ("CompactHashCheck", "missing bool value for CompactHashCheck"),
        (
            "CompactHashCheck=maybe",
            "invalid value of CompactHashCheck=maybe, err: "
            'strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
    ],
)
def test_a_bad_gate_is_named(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_command_line([f"--feature-gates={text}"])
    assert str(raised.value) == f'invalid value "{text}" for flag -feature-gates: {reason}'


def test_persisting_checkpoints_needs_checkpoints() -> None:
    with pytest.raises(ConfigError) as raised:
        config_of("--feature-gates=LeaseCheckpointPersist=true")
    assert str(raised.value) == (
        "enabling feature gate LeaseCheckpointPersist"
        " requires enabling feature gate LeaseCheckpoint"
    )


def test_gates_come_from_the_environment_and_the_file_too(tmp_path: Path) -> None:
    expected = DEFAULT_GATES | {"CompactHashCheck"}
    assert config_of(ETCD_FEATURE_GATES="CompactHashCheck=true").feature_gates == expected
    path = tmp_path / "etcd.yml"
    path.write_text("feature-gates: CompactHashCheck=true,AllBeta=true\n")
    assert config_of(f"--config-file={path}").feature_gates == expected
    path.write_text("feature-gates: Nope=true\n")
    with pytest.raises(ConfigError, match="unrecognized feature gate: Nope"):
        config_of(f"--config-file={path}")


def test_gates_that_do_nothing_are_told() -> None:
    assert without_effect(DEFAULT_GATES | {"CompactHashCheck"}) == []
    (told,) = without_effect(DEFAULT_GATES | {"PriorityRequest"})
    assert told.startswith("feature gate PriorityRequest has no effect in this server: ")
    (told,) = without_effect(DEFAULT_GATES - {"FastLeaseKeepAlive"})
    assert "FastLeaseKeepAlive" in told
