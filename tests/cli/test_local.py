"""``kvstore local``: ports, data directory, and one real member from start to end."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvstore.cli.local import (
    LocalError,
    check_ports,
    claim_data_dir,
    client_ports,
    main,
    plan_members,
)
from kvstore.cli.local_members import Printer
from tests.e2e.cluster import free_ports

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "kvstore", "local")


def free_base_port() -> int:
    """A free port with a free one behind it."""
    for port in free_ports(50):
        with contextlib.suppress(LocalError):
            check_ports(plan_members(1, port, Path()))
            return port
    raise OSError("no two free ports side by side on 127.0.0.1")


def test_the_default_ports_are_those_of_etcds_example() -> None:
    assert client_ports(3, 2379) == [2379, 22379, 32379]
    assert client_ports(6, 2379) == [2379, 22379, 32379, 42379, 52379, 62379]


@pytest.mark.parametrize(
    ("size", "base_port", "ports"),
    [(1, 2379, [2379]), (3, 4000, [4000, 4010, 4020]), (1, 65_534, [65_534])],
)
def test_other_base_ports_are_counted_by_ten(size: int, base_port: int, ports: list[int]) -> None:
    assert client_ports(size, base_port) == ports


def test_seven_members_do_not_fit_into_the_example_and_are_counted_by_ten() -> None:
    assert client_ports(7, 2379) == [2379, 2389, 2399, 2409, 2419, 2429, 2439]


def test_ports_above_the_last_one_are_refused() -> None:
    with pytest.raises(LocalError, match=r"--base-port 65530: 2 members need ports up to 65541"):
        client_ports(2, 65_530)


def test_members_know_each_other(tmp_path: Path) -> None:
    members = plan_members(2, 4000, tmp_path)
    cluster = "infra1=http://127.0.0.1:4001,infra2=http://127.0.0.1:4011"
    assert [m.initial_cluster for m in members] == [cluster, cluster]
    assert members[1].data_dir == tmp_path / "infra2.etcd"
    assert (members[1].client_url, members[1].pid) == ("http://127.0.0.1:4010", 0)


def test_every_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        member = plan_members(1, 4000, tmp_path)[0]
        member.client_port, member.peer_port = free_ports(1)[0], port
        with pytest.raises(LocalError) as raised:
            check_ports([member])
    assert f"port {port} (peer port of infra1): Address already in use" in str(raised.value)
    assert "--base-port" in str(raised.value)


def test_a_taken_port_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ["--size=1", f"--base-port={port}", f"--data-dir={tmp_path / 'data'}"]
        assert main(options) == 1
    assert f"port {port} (client port of infra1)" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_second_run_continues_the_data(tmp_path: Path) -> None:
    assert claim_data_dir(tmp_path / "data", 3, 2379) is False
    assert claim_data_dir(tmp_path / "data", 3, 2379) is True


def test_data_of_a_cluster_of_another_shape_are_refused(tmp_path: Path) -> None:
    claim_data_dir(tmp_path, 3, 2379)
    with pytest.raises(LocalError, match=r"holds a cluster made with --size 3 --base-port 2379"):
        claim_data_dir(tmp_path, 5, 2379)


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match=r"--data-dir .*file"):
        claim_data_dir(tmp_path / "file", 3, 2379)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--size=0"], "--size must be 1 to 9 (set to 0)"),
        (["--size=10"], "--size must be 1 to 9 (set to 10)"),
        (["--base-port=65535"], "--base-port must be 1 to 65534 (set to 65535)"),
        (["--ephemeral", "--data-dir=x"], "not allowed with argument"),
    ],
)
def test_options_out_of_range_are_named(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({}, "m1 | hello\n"),
        ({"FORCE_COLOR": "1"}, "\x1b[36mm1 |\x1b[0m hello\n"),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, "m1 | hello\n"),
    ],
)
def test_lines_are_coloured_only_where_that_is_wanted(
    environment: dict[str, str], line: str
) -> None:
    out = io.StringIO()
    Printer(out, 2, environment).line("m1", "hello")
    assert out.getvalue() == line


class Local:
    """A running ``kvstore local`` of one member, and what it printed."""

    def __init__(self, cwd: Path, *options: str) -> None:
        self.port = free_base_port()
        self.printed = ""
        self.process = subprocess.Popen(
            [*COMMAND, "--size=1", f"--base-port={self.port}", *options],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(cwd)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, pattern: str) -> re.Match[str]:
        """Read lines until one matches."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no line like {pattern!r} in:\n{self.printed}")

    def end(self) -> int:
        """Read the rest; return the exit code."""
        assert self.process.stdout is not None
        self.printed += self.process.stdout.read()
        self.process.stdout.close()
        return self.process.wait(30)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    started = Local(tmp_path, "--ephemeral")
    yield started
    started.process.terminate()
    if started.process.stdout is not None and not started.process.stdout.closed:
        started.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cluster_shows_itself_and_stops_when_told(
    local: Local, number: signal.Signals, tmp_path: Path
) -> None:
    row = local.read_until(r"^infra1 +(\S+) +(\S+) +(\d+) +leader$")
    hello = local.read_until(r"etcdctl --endpoints=\S+ put greeting hello")
    local.process.send_signal(number)
    assert local.end() == 0, local.printed
    assert row[1] == f"http://127.0.0.1:{local.port}"
    assert row[2] == f"http://127.0.0.1:{local.port + 1}"
    assert hello[0] == f"etcdctl --endpoints=127.0.0.1:{local.port} put greeting hello"
    assert re.search(r"^infra1 \| .*\tinfo\t", local.printed, re.MULTILINE)
    with pytest.raises(ProcessLookupError):
        os.kill(int(row[3]), 0)
    assert list(tmp_path.iterdir()) == []


def test_a_member_that_ends_is_told_and_not_restarted(local: Local) -> None:
    pid = int(local.read_until(r"^infra1 .* (\d+) +leader$")[1])
    os.kill(pid, signal.SIGKILL)
    assert local.end() == 1
    assert f"*** infra1 (pid {pid}) ended: killed by SIGKILL" in local.printed
    assert "no member is left" in local.printed
