"""A cluster of real processes whose members come and go.

What lives here: the operator's steps, through the real etcdctl, as often as the strict checks make
him wait. What may not: knowledge of the server's inside.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.etcdctl import ok

UNHEALTHY = "etcdserver: unhealthy cluster"
STEP_SECONDS = 60.0
_ADDED = re.compile(
    r"Member ([0-9a-f ]{16}) added to cluster ([0-9a-f ]{16})\n\n"
    r'ETCD_NAME="(.*)"\nETCD_INITIAL_CLUSTER="(.*)"\n'
    r'ETCD_INITIAL_ADVERTISE_PEER_URLS="(.*)"\nETCD_INITIAL_CLUSTER_STATE="existing"\n'
)


class GrowingCluster(Cluster):
    """Adds, starts and removes members; `ids` maps a member's index to its id once it is known."""

    def __init__(self, size: int, folder: Path, *flags: str) -> None:
        super().__init__(size, folder, extra_flags=flags)
        self._joins: dict[int, str] = {}

    def flags(self, i: int) -> list[str]:
        """The command line of member `i`; a joiner's is what etcdctl printed when it was added."""
        flags = super().flags(i)
        if i in self._joins:
            flags += [
                f"--initial-cluster={self._joins[i]}",
                "--initial-cluster-state=existing",
            ]
        return flags

    def id_of(self, i: int, asked: int = 0) -> int:
        """Member `i`'s id, found by its peer URL in the list of another."""
        url = self.members[i].peer_url
        listed = self.client(asked).member_list(linearizable=False).members
        return next(int(m.ID) for m in listed if url in m.peerURLs)

    def ctl_until_healthy(self, *args: str, asked: int) -> subprocess.CompletedProcess[str]:
        """Run etcdctl against one member again until it is not refused as unhealthy (5 s)."""
        endpoints = [self.members[asked].endpoint]

        def run() -> subprocess.CompletedProcess[str] | None:
            done = self.etcdctl(*args, endpoints=endpoints)
            return None if UNHEALTHY in done.stderr else done

        return wait_until(run, STEP_SECONDS, f"etcdctl {' '.join(args)} is not refused")

    def add(self, *, learner: bool = False, asked: int = 0, at: int | None = None) -> int:
        """Add a member (a new one, or one that was made before), not started; return its index."""
        i = self.new_member() if at is None else at
        member = self.members[i]
        flags = ["--learner"] if learner else []
        command = ["member", "add", member.name, f"--peer-urls={member.peer_url}", *flags]
        out = ok(self.ctl_until_healthy(*command, asked=asked))
        found = _ADDED.fullmatch(out)
        assert found, out
        assert found[3] == member.name
        assert found[5] == member.peer_url
        assert int(found[1], 16) == self.id_of(i, asked)
        self._joins[i] = found[4]
        return i

    def join(self, *, learner: bool = False, asked: int = 0, at: int | None = None) -> int:
        """Add a member, start it and wait until it serves."""
        i = self.add(learner=learner, asked=asked, at=at)
        self.start(i)
        self.wait_serves(i)
        return i

    def wait_serves(self, i: int) -> None:
        """Wait until member `i` answers a serializable read; a learner answers no other."""

        def serves() -> bool:
            member = self.members[i]
            assert member.running, f"{member.name} has ended:\n{member.log_tail()}"
            try:
                self.client(i).get(b"health", serializable=True, timeout=1.0)
            except grpc.RpcError:
                return False
            return True

        wait_until(serves, STEP_SECONDS, f"{self.members[i].name} serves")

    def remove(self, i: int, *, asked: int) -> None:
        """Remove member `i`, asking another or itself."""
        member_id = f"{self.id_of(i, asked):x}"
        out = ok(self.ctl_until_healthy("member", "remove", member_id, asked=asked))
        assert re.fullmatch(rf"Member +{member_id} removed from cluster +[0-9a-f]+\n", out), out

    def wait_gone(self, i: int) -> None:
        """The process of a removed member ends by itself, without an error."""
        assert self.wait_exit(i, timeout=STEP_SECONDS) == 0, self.members[i].log_tail()

    def wait_promoted(self, i: int, *, asked: int) -> str:
        """Promote learner `i` as soon as it has caught up; return what etcdctl says."""
        member_id = f"{self.id_of(i, asked):x}"
        endpoints = [self.members[asked].endpoint]

        def promoted() -> str | None:
            done = self.etcdctl("member", "promote", member_id, endpoints=endpoints)
            return done.stdout if done.returncode == 0 else None

        return wait_until(promoted, STEP_SECONDS, f"{self.members[i].name} is promoted")

    def running(self) -> list[int]:
        """Indices of the members whose process runs."""
        return [i for i, member in enumerate(self.members) if member.running]

    def voters(self, asked: int) -> int:
        """How many voters the list has."""
        return sum(not m.isLearner for m in self.client(asked).member_list().members)


def rejected(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """Code and text with which a call fails, as soon as it is not for being unhealthy."""

    def failure() -> tuple[grpc.StatusCode, str] | None:
        try:
            call()
        except grpc.RpcError as error:
            answer = (error.code(), error.details())
            return None if answer[1] == UNHEALTHY else answer
        raise AssertionError("the call succeeded")

    return wait_until(failure, STEP_SECONDS, "a refusal")


until_true = partial(wait_until, timeout=STEP_SECONDS)
