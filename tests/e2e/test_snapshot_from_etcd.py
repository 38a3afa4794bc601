"""A snapshot of a real etcd becomes a cluster of ours with the same history."""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kvstore.bbolt.reader import Database
from tests.e2e.cluster import Cluster, reference_under_test
from tests.e2e.etcdctl import ok
from tests.e2e.snapshots import ETCD, OURS, View, fill, restore, run, save, view

if reference_under_test():
    pytest.skip("these move data from etcd to this project", allow_module_level=True)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One real etcd with a past, users and roles among it; stopped by whoever wants its files."""
    with Cluster(1, tmp_path_factory.mktemp("etcd"), program=ETCD) as cluster:
        cluster.start_all()
        fill(cluster.client(0))
        for command in (
            ["role", "add", "reader"],
            ["role", "grant-permission", "reader", "read", "--prefix=true", "k"],
            ["user", "add", "someone:secret"],
            ["user", "grant-role", "someone", "reader"],
        ):
            ok(cluster.etcdctl(*command))
        yield cluster


@pytest.fixture(scope="module")
def expected(etcd: Cluster) -> View:
    """What etcd shows."""
    client = etcd.client(0)
    return view(client, client.get(b"k").header.revision)


@pytest.fixture(scope="module")
def snapshot(etcd: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(etcd, 0, tmp_path_factory.mktemp("saved") / "snapshot.db")


def buckets(path: Path, *names: bytes) -> dict[bytes, dict[bytes, object]]:
    """Some buckets of a snapshot file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = Database(data).buckets()
        return {name: dict(bucket.items()) for name, bucket in found if name in names}


def test_our_cluster_goes_on_where_etcd_was(expected: View, snapshot: Path, tmp_path: Path) -> None:
    """Every member shows every revision, the history, the leases and the hash that etcd showed."""
    with Cluster(3, tmp_path, token="moved") as ours:
        restore(OURS, snapshot, ours)
        ours.start_all()
        for i in range(3):
            assert view(ours.client(i), expected.revision) == expected
        client = ours.client(0)
        with pytest.raises(grpc.RpcError, match="required revision has been compacted"):
            client.get(b"k1", revision=expected.compact_revision - 1)
        assert expected.leases[0x1001][0] == client.keep_alive_once(0x1001).TTL
        assert client.put(b"next").header.revision == expected.revision + 1
        assert client.revoke(0x1001).header.revision == expected.revision + 2
        assert client.get(b"leased").kvs == []
        ours.wait_equal_hashes()

        names = {member.name for member in client.member_list().members}
        assert names == {member.name for member in ours.members}
        again = save(ours, 1, tmp_path / "again.db")
    kept = (b"authUsers", b"authRoles", b"auth")
    assert buckets(again, *kept) == buckets(snapshot, *kept)
    assert list(buckets(again, b"lease")[b"lease"]) == [(0x1002).to_bytes(8, "big")]


def test_a_member_that_lags_behind_the_restored_ones_catches_up(
    expected: View, snapshot: Path, tmp_path: Path
) -> None:
    """The restored members agree on the log's beginning, so an ordinary start brings the third in;
    and a kill -9 of all loses nothing of what was restored."""
    with Cluster(3, tmp_path) as ours:
        restore(OURS, snapshot, ours)
        ours.start(0)
        ours.start(1)
        ours.wait_healthy()
        ours.client(0).put(b"while the third is away")
        ours.start(2)
        ours.wait_healthy()
        ours.wait_equal_hashes()
        ours.kill_all()
        ours.start_all()
        assert view(ours.client(2), expected.revision) == expected
        ours.wait_equal_hashes()


def test_a_copy_of_etcd_s_file_has_no_digest(etcd: Cluster, expected: View, tmp_path: Path) -> None:
    """As `--skip-hash-check` is meant for; the cluster's own snapshots have one."""
    etcd.terminate(0)
    copy = tmp_path / "db"
    shutil.copyfile(etcd.members[0].data_dir / "member" / "snap" / "db", copy)
    etcd.start_all()
    with Cluster(1, tmp_path) as ours:
        done = run(*OURS, "restore", copy, "--data-dir", tmp_path / "none")
        assert done.returncode == 1
        assert "snapshot missing hash but --skip-hash-check=false" in done.stderr
        restore(OURS, copy, ours, "--skip-hash-check")
        ours.start_all()
        assert view(ours.client(0), expected.revision) == expected
