"""Real server processes on 127.0.0.1: start, kill, pause, and ask them.

What lives here: the processes of a cluster, run by etcd's own flags, so the same tests run against
this project and, with ``E2E_PROGRAM=etcd``, against etcd itself: the reference proves the tests.
What may not: knowledge of the server's inside; all that is asked goes over the wire.

Trade-off: waiting is polling with a deadline (``wait_until``). It costs some milliseconds for each
wait and needs no hook in the server.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import grpc

from tests.e2e.client import Client
from tests.e2e.etcdctl import EtcdctlStream, distro_binary, run_etcdctl

T = TypeVar("T")

OUR_PROGRAM = (sys.executable, "-m", "kvstore", "server")
POLL_SECONDS = 0.02
START_SECONDS = 30.0
LOG_TAIL_LINES = 25
_PORTS = range(12000, 31000)  # below the ephemeral range: nothing takes them between restarts


def default_program() -> tuple[str, ...]:
    """The server under test: ours, or etcd when the environment says ``E2E_PROGRAM=etcd``."""
    if os.environ.get("E2E_PROGRAM") == "etcd":
        return (distro_binary("etcd"),)
    return OUR_PROGRAM


def reference_under_test() -> bool:
    """Whether the reference is under test (a few promises are this project's alone)."""
    return os.environ.get("E2E_PROGRAM") == "etcd"


def wait_until(condition: Callable[[], T | None], timeout: float, what: str) -> T:
    """Poll until `condition` answers neither None nor False; AssertionError after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer is not None and answer is not False:
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
    def peer_url(self) -> str:
        """Where other members reach it."""
        return f"http://127.0.0.1:{self.peer_port}"

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
        self._folder = tmp_path
        self.members: list[Member] = []
        for _ in range(size):
            self.new_member()
        self.initial = ",".join(f"{m.name}={m.peer_url}" for m in self.members)
        """``--initial-cluster`` of the first members."""
        self._clients: dict[int, Client] = {}

    def new_member(self) -> int:
        """Make room for one more member and return its index; nobody is told of it."""
        i = len(self.members)
        taken = {port for m in self.members for port in (m.client_port, m.peer_port)}
        fresh = (port for port in free_ports(len(taken) + 2) if port not in taken)
        client_port, peer_port = next(fresh), next(fresh)
        self.members.append(
            Member(
                name=f"m{i}",
                client_port=client_port,
                peer_port=peer_port,
                data_dir=self._folder / f"m{i}.etcd",
                log_path=self._folder / f"m{i}.log",
            )
        )
        return i

    # -- processes ------------------------------------------------------------------------------

    def flags(self, i: int) -> list[str]:
        """The whole command line of member `i` after the program's name."""
        member = self.members[i]
        client, peer = f"http://{member.endpoint}", member.peer_url
        return [
            f"--name={member.name}",
            f"--data-dir={member.data_dir}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={self.initial}",
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
        self.signal(i, signal.SIGKILL)
        self.wait_exit(i)

    def kill_all(self) -> None:
        """SIGKILL every running member before waiting for any of them."""
        running = [i for i, member in enumerate(self.members) if member.running]
        for i in running:
            self.signal(i, signal.SIGKILL)
        for i in running:
            self.wait_exit(i)

    def terminate(self, i: int, timeout: float = 20.0) -> int:
        """SIGTERM member `i`, wait for its end and return its exit code."""
        self.signal(i, signal.SIGTERM)
        return self.wait_exit(i, timeout)

    def pause(self, i: int) -> None:
        """SIGSTOP member `i`: it keeps its sockets and answers nothing."""
        self.signal(i, signal.SIGSTOP)

    def resume(self, i: int) -> None:
        """SIGCONT member `i`."""
        self.signal(i, signal.SIGCONT)

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

    def signal(self, i: int, number: int) -> None:
        """Send a signal to the running member `i`."""
        process = self.members[i].process
        assert process is not None
        assert process.poll() is None, f"{self.members[i].name} does not run"
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
        return wait_until(self.leader_now, timeout, "a leader is known")

    def leader_now(self) -> int | None:
        """Index of the leader, or None while no running member answers as leader."""
        claims = []
        for i, member in enumerate(self.members):
            if member.running:
                try:
                    status = self.client(i).status(timeout=1.0)
                except grpc.RpcError:
                    continue
                if status.leader and status.leader == status.header.member_id:
                    claims.append((status.raftTerm, i))
        return max(claims)[1] if claims else None

    def followers(self) -> list[int]:
        """Indices of the members that do not lead."""
        leader = self.leader()
        return [i for i in range(len(self.members)) if i != leader]

    def wait_healthy(self, timeout: float = START_SECONDS) -> None:
        """Wait until every running member answers a linearizable read."""
        for i, member in enumerate(self.members):
            if member.process is not None:
                wait_until(partial(self._serves, i), timeout, f"{member.name} serves")

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
            return bool(min(seen) >= target)

        wait_until(arrived, timeout, f"all members reach revision {target}")
        answers = [client.hash_kv(target) for client in clients]
        hashes = {(answer.hash, answer.compact_revision) for answer in answers}
        # Right after a compaction at this revision a member answers with its remembered hash, and
        # one that was restarted since without it: these two are not comparable (MNT-21, MNT-23).
        distinct = {compact for _, compact in hashes if compact == target or len(hashes) > 1}
        same = len(hashes) == 1 or (target in distinct and len(hashes) == len(distinct) == 2)
        assert same, f"members differ at revision {target}: {hashes}"
        return int(target)

    # -- etcdctl --------------------------------------------------------------------------------

    def etcdctl(
        self,
        *args: str,
        endpoints: Sequence[str] | None = None,
        input: str | None = None,  # noqa: A002 - the name it has in subprocess.run
        timeout: float = 30.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run the real etcdctl once, by default with all endpoints; never raises on failure.

        Output bytes that are no UTF-8 (``-w protobuf``) come as surrogate escapes.
        """
        return run_etcdctl(args, endpoints or self.endpoints, input, timeout)

    def revision(self, key: str) -> int:
        """The revision at which `key` was written last."""
        return int(self.client(0).get(key.encode()).kvs[0].mod_revision)

    def etcdctl_stream(self, *args: str, endpoints: Sequence[str] | None = None) -> EtcdctlStream:
        """Start etcdctl and read its lines as they come; ended when the context is left."""
        return EtcdctlStream(args, endpoints or self.endpoints)

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
