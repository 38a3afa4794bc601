"""What kubeadm does to an etcd: its flags, and the probes of its static pod."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster, free_ports, reference_under_test

START_SECONDS = 60.0


class Kubeadm:
    """Members started as kubeadm starts them."""

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


@pytest.fixture(scope="module", params=["3.5", "3.6"])
def kubeadm(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Kubeadm]:
    """With the names that kubeadm gives the flags for either release of etcd."""
    if request.param == "3.6" and reference_under_test():
        pytest.skip("etcd 3.5.1 has not these flags")
    with Cluster(1, tmp_path_factory.mktemp("kubeadm")) as cluster:
        made = Kubeadm(cluster, request.param)
        made.start(0, {cluster.members[0].name: made.peer_url(0)}, "new")
        cluster.wait_healthy(START_SECONDS)
        yield made


def test_a_member_starts_by_the_flags_of_its_static_pod(kubeadm: Kubeadm) -> None:
    """KUB-08, KUB-32: an empty store stands at revision 1; the kubelet's probes are answered."""
    empty = kubeadm.cluster.client(0).prefix(b"/registry/pods/", limit=1)
    assert (empty.header.revision, empty.count) == (1, 0)
    probes = ["/health?exclude=NOSPACE&serializable=true", "/health?serializable=false", "/metrics"]
    if not reference_under_test():  # 3.5.1 has no such paths
        probes += ["/livez", "/readyz"]
    assert {path: kubeadm.probe(0, path) for path in probes} == dict.fromkeys(probes, 200)
