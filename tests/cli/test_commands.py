"""The real command: exit codes, and on which stream what is told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

USAGE_EXIT = 2
CONFIG_EXIT = 1


def kvstore(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m kvstore`` in an empty directory and without variables of etcd."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ETCD_")}
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "kvstore", *arguments],
        cwd=cwd,
        env={**kept, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("arguments", [["version"], ["--version"], ["server", "--version"]])
def test_the_version_comes_in_the_form_of_etcd(tmp_path: Path, arguments: list[str]) -> None:
    done = kvstore(*arguments, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert re.fullmatch(r"etcd Version: \d+\.\d+\.\d+", lines[0])
    assert [line.partition(": ")[0] for line in lines[1:]] == [
        "kvstore Version",
        "Python Version",
        "Python OS/Arch",
    ]


@pytest.mark.parametrize("arguments", [[], ["nope"]])
def test_a_missing_or_unknown_command_shows_the_usage(tmp_path: Path, arguments: list[str]) -> None:
    done = kvstore(*arguments, cwd=tmp_path)
    assert done.returncode == USAGE_EXIT
    assert "kvstore local" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["server", "-h"], ["local", "--help"]])
def test_help_is_an_answer_and_no_error(tmp_path: Path, arguments: list[str]) -> None:
    done = kvstore(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "kvstore" in done.stdout


def test_an_unknown_flag_ends_the_server_as_in_etcd(tmp_path: Path) -> None:
    done = kvstore("server", "--nope", cwd=tmp_path)
    assert done.returncode == USAGE_EXIT
    assert done.stderr.startswith("flag provided but not defined: -nope\nUsage:\n")


def test_a_flag_without_implementation_ends_the_server(tmp_path: Path) -> None:
    done = kvstore("server", "--cert-file=x", cwd=tmp_path)
    assert done.returncode == USAGE_EXIT
    assert done.stderr == (
        "flag --cert-file is not implemented in this server: TLS is not part of this server yet\n"
    )


def test_a_variable_without_implementation_ends_the_server(tmp_path: Path) -> None:
    done = kvstore("server", cwd=tmp_path, ETCD_CERT_FILE="x")
    assert done.returncode == USAGE_EXIT
    assert done.stderr == (
        "flag --cert-file is not implemented in this server (set by ETCD_CERT_FILE): "
        "TLS is not part of this server yet\n"
    )


@pytest.mark.parametrize("command", ["gateway", "grpc-proxy"])
def test_a_proxy_of_etcd_is_refused_with_the_reason(tmp_path: Path, command: str) -> None:
    done = kvstore(command, "start", cwd=tmp_path)
    assert done.returncode == USAGE_EXIT
    assert f"{command} is not part of this program: a " in done.stderr


def test_a_broken_rule_is_a_log_line(tmp_path: Path) -> None:
    done = kvstore("server", "--heartbeat-interval=0", cwd=tmp_path)
    line = json.loads(done.stderr)
    assert done.returncode == CONFIG_EXIT
    assert line["msg"] == "failed to verify flags"
    assert line["error"] == "--heartbeat-interval must be >0 (set to 0ms)"


def test_a_log_file_that_cannot_be_opened_is_told_on_standard_error(tmp_path: Path) -> None:
    done = kvstore("server", "--log-outputs=no/log", cwd=tmp_path)
    assert done.returncode == CONFIG_EXIT
    assert "--log-outputs: couldn't open sink" in json.loads(done.stderr)["error"]


def test_a_refused_start_leaves_no_files(tmp_path: Path) -> None:
    kvstore("server", "--heartbeat-interval=0", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
