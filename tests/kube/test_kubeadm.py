"""What kubeadm does to an etcd: its flags and probes, joining control planes, leaving again."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.e2e.client import rpc_pb2
from tests.e2e.cluster import Cluster, free_ports, reference_under_test, wait_until

START_SECONDS = 60.0
CALL_SECONDS = 20.0
PROBES = ["/health?exclude=NOSPACE&serializable=true", "/health?serializable=false", "/metrics"]
if not reference_under_test():  # 3.5.1 has no such paths
    PROBES += ["/livez", "/readyz"]
UNHEALTHY = "etcdserver: unhealthy cluster"
LEARNER_NOT_READY = "etcdserver: can only promote a learner member which is in sync with leader"


class Kubeadm:
    """A cluster that grows as kubeadm grows it: one member, then others by learners."""

    def __init__(self, cluster: Cluster, generation: str) -> None:
        self.cluster = cluster
        self.experimental = "experimental-" if generation == "3.5" else ""
        self.metrics_ports = free_ports(len(cluster.members))

    def flags(self, i: int) -> list[str]:
        """The flags of kubeadm's static pod that say something (TLS aside)."""
        port = self.cluster.members[i].client_port
        return [
            f"--listen-client-urls=http://127.0.0.1:{port},http://127.0.0.2:{port}",
            f"--listen-metrics-urls=http://127.0.0.1:{self.metrics_ports[i]}",
            "--snapshot-count=10000",
            "--experimental-initial-corrupt-check=true"
            if self.experimental
            else "--feature-gates=InitialCorruptCheck=true",
            f"--{self.experimental}watch-progress-notify-interval=5s",
        ]

    def peer_url(self, i: int) -> str:
        """The address by which member `i` is added."""
        return f"http://127.0.0.1:{self.cluster.members[i].peer_port}"

    def start(self, i: int, members: dict[str, str], state: str) -> None:
        """Start member `i` with the members known, itself among them."""
        listed = ",".join(f"{name}={url}" for name, url in members.items())
        more = [f"--initial-cluster={listed}", f"--initial-cluster-state={state}"]
        self.cluster.start(i, *self.flags(i), *more)

    def probe(self, i: int, path: str) -> int:
        """HTTP status of a kubelet's probe on the metrics address."""
        url = f"http://127.0.0.1:{self.metrics_ports[i]}{path}"
        try:
            with urllib.request.urlopen(url, timeout=15) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def call(self, name: str, request: Any) -> Any:
        """Call the Cluster service through the first member, again while it is too early.

        Members must have been connected for some seconds before the next change.
        """

        def answered() -> Any:
            try:
                return self.cluster.client(0).call(f"Cluster/{name}", request, CALL_SECONDS)
            except grpc.RpcError as error:
                if error.details() != UNHEALTHY:
                    raise
                return None

        return wait_until(answered, START_SECONDS, f"{name} is answered")

    def members(self) -> dict[str, Any]:
        """Name → member, as MemberList has them."""
        listed = self.call("MemberList", rpc_pb2.MemberListRequest(linearizable=True))
        return {member.name: member for member in listed.members}

    def join(self, i: int) -> None:
        """What joining does: add a learner, start it, promote it as soon as it is in sync."""
        url, name = self.peer_url(i), self.cluster.members[i].name
        request = rpc_pb2.MemberAddRequest(peerURLs=[url], isLearner=True)
        added = self.call("MemberAdd", request)
        assert added.member.isLearner
        known = {m.name or name: m.peerURLs[0] for m in added.members}
        self.start(i, known, "existing")
        wait_until(lambda: self._promoted(added.member.ID), START_SECONDS, f"{name} is promoted")
        self.cluster.wait_healthy()

    def _promoted(self, member_id: int) -> bool:
        try:
            self.call("MemberPromote", rpc_pb2.MemberPromoteRequest(ID=member_id))
        except grpc.RpcError as error:
            assert error.details() == LEARNER_NOT_READY
            return False
        return True


@contextmanager
def started(folder: Path, generation: str, size: int) -> Iterator[Kubeadm]:
    """The first of `size` members, by the flags for this release of etcd."""
    with Cluster(size, folder) as cluster:
        made = Kubeadm(cluster, generation)
        made.start(0, {cluster.members[0].name: made.peer_url(0)}, "new")
        cluster.wait_healthy(START_SECONDS)
        yield made


@pytest.mark.parametrize("generation", ["3.5", "3.6"])
def test_a_member_starts_by_the_flags_of_its_static_pod(tmp_path: Path, generation: str) -> None:
    """KUB-08, KUB-32: an empty store stands at revision 1; the kubelet's probes are answered."""
    if generation == "3.6" and reference_under_test():
        pytest.skip("etcd 3.5.1 has not these flags")
    with started(tmp_path, generation, 1) as kubeadm:
        empty = kubeadm.cluster.client(0).prefix(b"/registry/pods/", limit=1)
        assert (empty.header.revision, empty.count) == (1, 0)
        assert {path: kubeadm.probe(0, path) for path in PROBES} == dict.fromkeys(PROBES, 200)


def test_a_control_plane_joins_as_learner_and_leaves_again(tmp_path: Path) -> None:
    """KUB-31: add, promote when in sync, status of all by the list's addresses, remove."""
    with started(tmp_path, "3.5" if reference_under_test() else "3.6", 2) as kubeadm:
        cluster = kubeadm.cluster
        for n in range(50):
            cluster.client(0).put(b"/registry/pods/%d" % n, b"x")
        kubeadm.join(1)

        members = kubeadm.members()
        assert sorted(members) == ["m0", "m1"]
        for i, member in enumerate(cluster.members):
            listed = members[member.name]
            assert not listed.isLearner
            assert list(listed.clientURLs) == [f"http://{member.endpoint}"]
            assert cluster.client(i).status().header.member_id == listed.ID
            assert cluster.client(i).prefix(b"/registry/pods/", count_only=True).count == 50
        cluster.wait_equal_hashes()

        kubeadm.call("MemberRemove", rpc_pb2.MemberRemoveRequest(ID=members["m1"].ID))
        cluster.wait_exit(1, START_SECONDS)
        assert sorted(kubeadm.members()) == ["m0"]
        cluster.client(0).put(b"/registry/pods/after", b"")
