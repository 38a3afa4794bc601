"""A new cluster whose members find each other through another one, ours or etcd's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.certificates import Authority
from tests.e2e.cluster import OUR_PROGRAM, Cluster, reference_under_test, wait_until
from tests.e2e.etcdctl import distro_binary

PATIENCE_S = 60
TOKEN = "a-token-of-its-own"
SIZE_KEY = f"/_etcd/registry/{TOKEN}/_config/size".encode()
MEMBERS = f"/_etcd/registry/{TOKEN}/members".encode()

pytestmark = pytest.mark.skipif(
    reference_under_test(), reason="the reference, etcd 3.5.1, has no v3 discovery"
)


class Discovered(Cluster):
    """Members that are given no --initial-cluster."""

    def flags(self, i: int) -> list[str]:
        return [flag for flag in super().flags(i) if not flag.startswith("--initial-cluster")]


@contextmanager
def discovery_service(folder: Path, program: tuple[str, ...] = OUR_PROGRAM) -> Iterator[Cluster]:
    folder.mkdir()
    with Cluster(1, folder, program=program) as cluster:
        cluster.start_all()
        yield cluster


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Cluster]:
    with discovery_service(tmp_path / "service") as cluster:
        yield cluster


def members(service: Cluster, folder: Path, size: int, *flags: str) -> Discovered:
    folder.mkdir()
    endpoint = service.endpoints[0]
    all_flags = [f"--discovery-token={TOKEN}", f"--discovery-endpoints={endpoint}", *flags]
    return Discovered(size, folder, extra_flags=all_flags)


@pytest.mark.parametrize("program", [OUR_PROGRAM, (distro_binary("etcd"),)], ids=["ours", "etcd"])
def test_a_cluster_forms_under_a_token_and_later_starts_need_it_no_more(
    tmp_path: Path, program: tuple[str, ...]
) -> None:
    with discovery_service(tmp_path / "service", program) as service:
        form(service, tmp_path)


def form(service: Cluster, tmp_path: Path) -> None:
    service.client(0).put(SIZE_KEY, b"3")
    flags = [
        *("--discovery-dial-timeout=3s", "--discovery-request-timeout=4s"),
        *("--discovery-keepalive-time=20s", "--discovery-keepalive-timeout=5s"),
        *("--discovery-insecure-transport=true", "--discovery-fallback=exit"),
    ]
    with members(service, tmp_path / "cluster", 3, *flags) as cluster:
        for i in range(3):
            cluster.start(i)
            registered = lambda i=i: len(service.client(0).prefix(MEMBERS).kvs) == i + 1  # noqa: E731
            wait_until(registered, PATIENCE_S, "the member has registered")
        cluster.wait_healthy()
        cluster.client(0).put(b"k", b"v")
        listed = cluster.client(1).member_list().members
        assert sorted(member.name for member in listed) == ["m0", "m1", "m2"]
        keys = {kv.key.rpartition(b"/")[2].decode() for kv in service.client(0).prefix(MEMBERS).kvs}
        assert keys == {f"{member.ID:x}" for member in listed}

        service.kill(0)
        cluster.kill(2)
        cluster.start(2)
        cluster.wait_healthy()
        assert cluster.client(2).get(b"k").kvs[0].value == b"v"


def test_one_too_many_is_refused(service: Cluster, tmp_path: Path) -> None:
    service.client(0).put(SIZE_KEY, b"1")
    with members(service, tmp_path / "first", 1) as cluster:
        cluster.start_all()
        with members(service, tmp_path / "second", 1) as late:
            late.start(0)
            assert late.wait_exit(0, PATIENCE_S) == 1
            assert "discovery: cluster is full" in late.members[0].log_tail()
            assert not late.members[0].data_dir.joinpath("member").exists()


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "discovery: size key not found"), (b"many", "discovery: size key is bad")],
)
def test_a_token_without_a_size_is_refused(
    service: Cluster, tmp_path: Path, size: bytes | None, text: str
) -> None:
    if size is not None:
        service.client(0).put(SIZE_KEY, size)
    with members(service, tmp_path / "cluster", 1) as cluster:
        cluster.start(0)
        assert cluster.wait_exit(0, PATIENCE_S) == 1
        assert text in cluster.members[0].log_tail()


def test_a_service_that_is_down_is_waited_for(service: Cluster, tmp_path: Path) -> None:
    service.client(0).put(SIZE_KEY, b"1")
    service.terminate(0)
    flags = ["--discovery-dial-timeout=100ms", "--discovery-request-timeout=100ms"]
    with members(service, tmp_path / "cluster", 1, *flags) as cluster:
        cluster.start(0)
        retry = "retry connecting to discovery service"
        log = cluster.members[0].log_path
        wait_until(lambda: retry in log.read_text(), PATIENCE_S, "it tries again")
        service.start(0)
        cluster.wait_healthy(PATIENCE_S)


def test_users_and_passwords_are_sent_to_the_service(tmp_path: Path) -> None:
    with discovery_service(tmp_path / "service", (distro_binary("etcd"),)) as service:
        for words in (
            *(["user", "add", "root:secret"], ["role", "add", "root"]),
            *(["user", "grant-role", "root", "root"], ["auth", "enable"]),
            ["put", SIZE_KEY.decode(), "1", "--user=root:secret"],
        ):
            done = service.etcdctl(*words)
            assert done.returncode == 0, done.stderr
        wrong = ["--discovery-user=root", "--discovery-password=wrong"]
        with members(service, tmp_path / "refused", 1, *wrong) as cluster:
            cluster.start(0)
            assert cluster.wait_exit(0, PATIENCE_S) == 1
            assert "authentication failed" in cluster.members[0].log_tail()
            assert "secret" not in cluster.members[0].log_tail()
        right = ["--discovery-user=root", "--discovery-password=secret"]
        with members(service, tmp_path / "cluster", 1, *right) as cluster:
            cluster.start_all()
            assert "secret" not in cluster.members[0].log_path.read_text()


def test_the_service_may_want_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    (cert, key), (own_cert, own_key) = authority.sign("service"), authority.sign("member")
    folder = tmp_path / "service"
    folder.mkdir()
    secure = [
        *(f"--cert-file={cert}", f"--key-file={key}", f"--trusted-ca-file={authority.ca}"),
        "--client-cert-auth",
    ]
    ours = [f"--cacert={authority.ca}", f"--cert={own_cert}", f"--key={own_key}"]
    with Cluster(1, folder, program=(distro_binary("etcd"),), extra_flags=secure) as service:
        endpoint = f"https://{service.endpoints[0]}"
        service.start(0, f"--listen-client-urls={endpoint}", f"--advertise-client-urls={endpoint}")

        def sized() -> bool:
            words = ["put", SIZE_KEY.decode(), "1", *ours]
            return service.etcdctl(*words, endpoints=[endpoint]).returncode == 0

        wait_until(sized, PATIENCE_S, "the service answers over TLS")
        flags = [
            f"--discovery-endpoints={endpoint}",
            "--discovery-insecure-transport=false",
            f"--discovery-cacert={authority.ca}",
            f"--discovery-cert={own_cert}",
            f"--discovery-key={own_key}",
        ]
        with members(service, tmp_path / "cluster", 1, *flags) as cluster:
            cluster.start_all()
            assert len(cluster.client(0).member_list().members) == 1


def test_a_certificate_that_is_not_there_is_named(service: Cluster, tmp_path: Path) -> None:
    flags = ["--discovery-insecure-transport=false", f"--discovery-cacert={tmp_path}/nowhere.pem"]
    with members(service, tmp_path / "cluster", 1, *flags) as cluster:
        cluster.start(0)
        assert cluster.wait_exit(0, PATIENCE_S) == 1
        assert f"open {tmp_path}/nowhere.pem: No such file" in cluster.members[0].log_tail()
