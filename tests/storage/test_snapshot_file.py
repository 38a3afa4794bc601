"""A received snapshot is put in place whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import resource

import pytest

from kvstore.storage.backend import META
from kvstore.storage.errors import SnapshotRejected
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.snapshot_file import IncomingSnapshot, remove_partial

DATA = b"backend file " * 1000
SIZE = len(DATA)
DIGEST = hashlib.sha256(DATA).digest()


def receive(path, data=DATA, size=SIZE):
    snapshot = IncomingSnapshot(path, size)
    for at in range(0, len(data), 1000):
        snapshot.write(memoryview(data)[at : at + 1000])
    return snapshot


def test_a_complete_snapshot_replaces_the_old_file(tmp_path):
    path = tmp_path / "snap" / "db"
    for data in (b"older", DATA):
        snapshot = receive(path, data, len(data))
        assert snapshot.received == len(data)
        snapshot.finish(hashlib.sha256(data).digest())
        snapshot.install()
        snapshot.discard()
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_until_it_is_installed_the_old_file_stays(tmp_path):
    path = tmp_path / "db"
    path.write_bytes(b"old")
    receive(path).finish(DIGEST)
    assert path.read_bytes() == b"old"
    assert remove_partial(tmp_path) == [str(path) + ".receiving"]
    assert list(tmp_path.iterdir()) == [path]
    assert remove_partial(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "digest", "reason"),
    [
        (DATA[:-1], DIGEST, "12999 of 13000 bytes received"),
        (DATA[:-1] + b"!", DIGEST, "SHA-256 is not the sender's"),
    ],
)
def test_a_snapshot_that_is_not_what_was_announced_is_rejected(tmp_path, data, digest, reason):
    snapshot = receive(tmp_path / "db", data)
    with pytest.raises(SnapshotRejected, match=reason):
        snapshot.finish(digest)
    assert list(tmp_path.iterdir()) == []


def test_more_than_was_announced_is_rejected_at_once(tmp_path):
    with pytest.raises(SnapshotRejected, match="more than the announced 12999 bytes"):
        receive(tmp_path / "db", size=SIZE - 1)
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_snapshot_cannot_be_installed(tmp_path):
    with pytest.raises(SnapshotRejected, match="not finished"):
        receive(tmp_path / "db").install()
    assert list(tmp_path.iterdir()) == []


def test_nothing_can_be_done_with_a_discarded_snapshot(tmp_path):
    snapshot = receive(tmp_path / "db")
    snapshot.discard()
    with pytest.raises(SnapshotRejected, match="closed"):
        snapshot.write(b"more")
    with pytest.raises(SnapshotRejected, match="closed"):
        snapshot.finish(DIGEST)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_rejects_the_snapshot_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "db"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(SnapshotRejected, match="File too large"):
            receive(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("db", b"old")]


def test_a_snapshot_over_an_older_store_brings_its_own_applied_index(tmp_path):
    """Scenario 23 (etcd-io/etcd PR 13933)."""
    for name, applied in (("leader", b"900"), ("follower", b"20")):
        backend = LmdbBackend(tmp_path / name)
        backend.put(META, b"applied", applied)
        backend.commit()
        if name == "leader":
            backend.copy_to(str(tmp_path / "copy"))
        backend.close()
    data = (tmp_path / "copy").read_bytes()
    snapshot = receive(tmp_path / "follower", data, len(data))
    snapshot.finish(hashlib.sha256(data).digest())
    snapshot.install()
    backend = LmdbBackend(tmp_path / "follower")
    assert backend.get(META, b"applied") == b"900"
    backend.close()
