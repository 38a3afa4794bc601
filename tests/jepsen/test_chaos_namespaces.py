"""Chaos in network namespaces: it ends well, leaves nothing behind, and says what is missing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kvstore.testing import wait_until
from tests.testing.nft import why_not

DEADLINE_S = 60.0
CHAOS = (sys.executable, "-m", "jepsen", "chaos", "--network", "namespaces", "--seed=3")
LIGHT = ("--workloads=register", "--clients=2", "--rate=20")


@pytest.fixture
def _possible() -> None:
    why = why_not()
    if why:
        pytest.skip(why)


def processes_of(directory: Path) -> list[str]:
    """Command lines of all processes that have this folder among their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(directory) in line:
            found.append(line)
    return found


@pytest.mark.usefixtures("_possible")
def test_a_run_finds_nothing_and_says_what_its_network_was(tmp_path: Path) -> None:
    """In so short a one it may be too little that was hit or done to call it valid."""
    before = socket.if_nameindex()
    faults = "--faults=isolate-leader,pause,slow-links"
    times = ("--seconds=4", "--fault-seconds=2", "--pause-seconds=1")
    done = subprocess.run(
        [*CHAOS, *LIGHT, *times, faults, f"--out={tmp_path / 'run'}"],
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE_S,
        check=False,
    )
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert "left out: slow-links (namespaces cannot delay" in done.stdout
    assert any(came in done.stdout for came in ("isolate-leader m", "pause m")), done.stdout
    report = (tmp_path / "run" / "report.html").read_text()
    assert "--network namespaces" in report
    assert socket.if_nameindex() == before
    assert not processes_of(tmp_path)


@pytest.mark.usefixtures("_possible")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_nothing_is_left_when_the_runner_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    """No process, and so no namespace; no interface; no mount."""
    interfaces = socket.if_nameindex()
    out = tmp_path / "run"
    times = ("--seconds=300", "--fault-seconds=100", "--pause-seconds=0.1")
    # Whoever runs the tests may ignore these signals, by nohup or in the background.
    heard = ("env", "--default-signal=HUP,INT")
    command = [*heard, *CHAOS, *LIGHT, *times, "--faults=full-disk,pause", f"--out={out}"]
    log = tmp_path / "log"
    with log.open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as run:
        try:
            wait_until(lambda: " s  " in log.read_text(), DEADLINE_S, "a fault comes")
            assert len(processes_of(out)) >= 4  # the disk of one may be full: the member has ended
            run.send_signal(number)
            assert run.wait(DEADLINE_S) in (-number, 128 + number)
        finally:
            run.kill()
    wait_until(lambda: not processes_of(out), DEADLINE_S, "all processes are gone")
    assert socket.if_nameindex() == interfaces
    assert str(out) not in Path("/proc/mounts").read_text()


def test_a_missing_program_is_named_in_a_line(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("without root it is that which is missing first")
    ip = shutil.which("ip")
    if ip is None:
        pytest.skip("there is no ip")
    (tmp_path / "ip").symlink_to(ip)
    done = subprocess.run(
        [*CHAOS, f"--out={tmp_path / 'run'}"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "--network=namespaces: there is no nft (apt install nftables)\n"
