"""Server processes on this machine: start, kill, pause, and tell exactly when they serve.

One `Member` is one process with a fixed address and a directory of its own, so that it can be
started again with what it had. The program is this package's server by default, or any other that
takes etcd's flags.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

PROGRAM: Final = (sys.executable, "-m", "kvstore", "server")
START_S: Final = 30.0
"""Longest wait for a member to serve."""
STOP_S: Final = 20.0
"""Longest wait for the end of a process that was told to end."""
POLL_S: Final = 0.02
LOG_TAIL_LINES: Final = 25
_PORTS: Final = range(12000, 31000)
"""Below the ephemeral range: nothing takes one of these between two starts."""


class NotInTime(AssertionError):
    """Something that was waited for did not happen in time."""


class MemberEnded(AssertionError):
    """A member that should serve has ended; the text has the end of its log."""


def wait_until(
    condition: Callable[[], T | None], timeout_s: float, what: str, poll_s: float = POLL_S
) -> T:
    """Poll until `condition` answers neither None nor False. Raises NotInTime."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() >= deadline:
            raise NotInTime(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(poll_s)


def free_ports(count: int) -> list[int]:
    """Return different free ports of 127.0.0.1, outside the range that connections take."""
    ports: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"fewer than {count} free ports on 127.0.0.1")


class Place(NamedTuple):
    """Where a member is.

    Attributes:
        host: the address at which it listens and is dialed.
        client_port, peer_port: where the process listens.
        advertised_port: the peer port that it tells the others (a proxy's, or its own).
        dialed_port: the client port that clients dial (a proxy's, or its own).
        inside: words before its command line that take it there.
    """

    host: str
    client_port: int
    peer_port: int
    advertised_port: int
    dialed_port: int
    inside: tuple[str, ...] = ()


@dataclass(slots=True)
class Member:
    """One member: its fixed address and files, and its process while there is one.

    Attributes:
        environment: variables of its process, besides those of this one.
        joins: ``--initial-cluster`` of a member that joined a running cluster, else "".
        learner, removed: what it is in the cluster; a removed member keeps its number.
    """

    name: str
    place: Place
    data_dir: Path
    log_path: Path
    environment: dict[str, str] = field(default_factory=dict)
    joins: str = ""
    learner: bool = False
    removed: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        """``host:port``, as clients dial it."""
        return f"{self.place.host}:{self.place.dialed_port}"

    @property
    def own_endpoint(self) -> str:
        """``host:port`` where the process itself listens for clients."""
        return f"{self.place.host}:{self.place.client_port}"

    @property
    def peer_url(self) -> str:
        """The peer URL that the others dial."""
        return f"http://{self.place.host}:{self.place.advertised_port}"

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended (a paused one runs)."""
        return self.process is not None and self.process.poll() is None

    def log_tail(self) -> str:
        """Return the last lines that this member printed."""
        if not self.log_path.exists():
            return ""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def start(self, command: Sequence[str]) -> int:
        """Start the process, return its pid at once. Raises RuntimeError if one runs already."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
            )
        return self.process.pid

    def signal(self, number: int) -> None:
        """Send a signal. Raises RuntimeError if no process runs."""
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"{self.name} does not run")
        self.process.send_signal(number)

    def wait_exit(self, timeout_s: float = STOP_S) -> int:
        """Wait for the process's end and return its exit code. Raises NotInTime."""
        assert self.process is not None, f"{self.name} was never started"
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise NotInTime(f"{self.name} still runs after {timeout_s} s") from None

    def kill(self) -> None:
        """SIGKILL it, if it runs, and wait for its end; it may be ending by itself."""
        if self.process is not None:
            with contextlib.suppress(RuntimeError):
                self.signal(signal.SIGKILL)
            self.wait_exit()
