"""Our snapshots restored by us: new identities, raised revisions, and restores that are killed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from kvstore.bbolt.writer import BoltWriter
from kvstore.mvcc.keyvalue import encode_key_value, mod_revision_field
from kvstore.server.datadir import UNFINISHED
from kvstore.snapshot.schema import etcd_revision
from tests.e2e.cluster import Cluster, reference_under_test, wait_until
from tests.e2e.snapshots import ETCD, ETCDUTL, OURS, fill, restore, run, save, view

if reference_under_test():
    pytest.skip("these are about this project's own restore", allow_module_level=True)

BUMP = 1_000_000
LARGE = 60_000


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(1, tmp_path_factory.mktemp("ours")) as cluster:
        cluster.start_all()
        fill(cluster.client(0))
        yield cluster


@pytest.fixture(scope="module")
def snapshot(ours: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot saved with our own command."""
    path = tmp_path_factory.mktemp("saved") / "snapshot.db"
    done = run(*OURS, "save", path, f"--endpoints={ours.members[0].endpoint}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Snapshot saved at {path}\nServer version 3.6.0\n"
    return path


def test_a_restored_cluster_is_a_new_one(ours: Cluster, snapshot: Path, tmp_path: Path) -> None:
    """Other ids, although the data are the same: its members never take an old one for their own,
    nor a client the new cluster for the old."""
    client = ours.client(0)
    revision = client.get(b"k").header.revision
    with Cluster(1, tmp_path, token="another") as again:
        restore(OURS, snapshot, again)
        again.start_all()
        old, new = client.status().header, again.client(0).status().header
        assert new.cluster_id != old.cluster_id
        assert [m.ID for m in again.client(0).member_list().members] == [new.member_id]
        assert new.member_id != old.member_id
        assert view(again.client(0), revision) == view(client, revision)


def test_clients_that_saw_more_than_the_snapshot_are_told(
    ours: Cluster, snapshot: Path, tmp_path: Path
) -> None:
    """--bump-revision with --mark-compacted: a watch from any revision before is ended as
    compacted, and no revision is handed out twice, not even by an etcd started from it in turn."""
    client = ours.client(0)
    newest = client.get(b"k").header.revision
    live = [(kv.key, kv.value) for kv in client.get(b"\0", range_end=b"\0").kvs]
    with Cluster(3, tmp_path) as again:
        restore(OURS, snapshot, again, f"--bump-revision={BUMP}", "--mark-compacted")
        again.start_all()
        for i in range(3):
            bumped = again.client(i)
            answer = bumped.get(b"\0", range_end=b"\0")
            assert answer.header.revision == newest + BUMP
            assert [(kv.key, kv.value) for kv in answer.kvs] == live
            for start in (2, newest, newest + 5):
                with bumped.watch(start) as responses:
                    ended = next(r for r in responses if r.canceled)
                    assert ended.compact_revision == newest + BUMP
        into_etcd = save(again, 0, tmp_path / "bumped.db")
        assert again.client(0).put(b"next").header.revision == newest + BUMP + 1
        again.wait_equal_hashes()
        again.kill_all()
        again.start_all()
        assert again.client(1).get(b"next").kvs[0].mod_revision == newest + BUMP + 1
    (tmp_path / "etcd").mkdir()
    with Cluster(1, tmp_path / "etcd", program=ETCD) as etcd:
        restore(ETCDUTL, into_etcd, etcd)
        etcd.start_all()
        assert etcd.client(0).put(b"next").header.revision == newest + BUMP + 1


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that takes a good while to restore."""
    path = tmp_path_factory.mktemp("large") / "db"
    with path.open("w+b") as file:
        writer = BoltWriter(file)
        writer.bucket(
            b"key",
            (
                (
                    etcd_revision(n),
                    encode_key_value(b"%06d" % n, n, mod_revision_field(n), 1, b"v" * 50, 0),
                )
                for n in range(2, LARGE)
            ),
        )
        writer.bucket(b"meta", [])
        writer.finish()
    return path


def test_a_restore_that_is_killed_leaves_nothing_that_starts(large: Path, tmp_path: Path) -> None:
    """kill -9 in the middle: no member directory, a server refuses to start over the rest, and the
    same command then simply works."""
    with Cluster(1, tmp_path) as cluster:
        member = cluster.members[0]
        kill_while_restoring(large, member.data_dir)

        cluster.start(0)
        assert cluster.wait_exit(0) != 0
        assert f"a restore to {member.data_dir} was cut short" in member.log_tail()

        restore(OURS, large, cluster, "--skip-hash-check")
        cluster.start_all()
        count = cluster.client(0).get(b"\0", range_end=b"\0", count_only=True).count
        assert count == LARGE - 2


def kill_while_restoring(snapshot: Path, data_dir: Path) -> None:
    """Kill a restore that is at work; one that was done too early is tried again."""
    database = data_dir / UNFINISHED / "snap" / "db"
    for _ in range(5):
        process = subprocess.Popen(
            [*OURS, "restore", str(snapshot), "--skip-hash-check", f"--data-dir={data_dir}"]
        )
        wait_until(partial(at_work_or_done, process, database), 60, "the restore is at work")
        process.kill()
        process.wait(20)
        if not (data_dir / "member").exists():
            assert database.exists()
            return
        shutil.rmtree(data_dir)
    raise AssertionError("no restore was killed in time")


def at_work_or_done(process: subprocess.Popen[bytes], database: Path) -> bool:
    return database.exists() or process.poll() is not None
