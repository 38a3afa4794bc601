"""Starting on data, disks and flags that do not fit: a clear refusal, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvstore.storage.wal import Wal
from tests.e2e.cluster import Cluster, reference_under_test


def test_bootstrap_flags_are_ignored_over_existing_data(tmp_path: Path) -> None:
    with Cluster(3, tmp_path) as cluster:
        cluster.start_all()
        cluster.client(0).put(b"old", b"data")
        before = cluster.client(0).status().header
        cluster.terminate(0)

        peer = f"http://127.0.0.1:{cluster.members[0].peer_port}"
        cluster.start(
            0,
            "--name=renamed",
            f"--initial-cluster=renamed={peer}",
            "--initial-cluster-token=changed",
        )
        cluster.wait_healthy()

        after = cluster.client(0).status().header
        assert (after.cluster_id, after.member_id) == (before.cluster_id, before.member_id)
        assert len(cluster.client(0).member_list().members) == 3
        assert cluster.client(0).get(b"old").kvs[0].value == b"data"


def refuses_to_start(cluster: Cluster, *words: str) -> None:
    """Start member 0 of a one-member cluster: it must end with an error that has these words."""
    cluster.start(0)
    member = cluster.members[0]
    code = cluster.wait_exit(0, timeout=20)
    log = member.log_path.read_text(errors="replace")
    assert code not in (0, None), log
    for word in words:
        assert word.lower() in log.lower(), f"{word!r} is not in:\n{log}"
    if not reference_under_test():
        assert "Traceback" not in log, log


def test_data_directory_in_use_is_refused(tmp_path: Path) -> None:
    if reference_under_test():
        pytest.skip("etcd waits for the other process without an end")
    with Cluster(1, tmp_path) as first, Cluster(1, tmp_path) as second:
        first.start_all()
        first.client(0).put(b"mine", b"1")
        assert second.members[0].data_dir == first.members[0].data_dir
        second.members[0].log_path = tmp_path / "second.log"
        refuses_to_start(second, str(first.members[0].data_dir))
        assert first.client(0).get(b"mine").kvs[0].value == b"1"


def test_data_directory_of_another_member_is_refused(tmp_path: Path) -> None:
    if reference_under_test():
        pytest.skip("etcd takes its identity from the data and says nothing")
    with Cluster(3, tmp_path) as cluster:
        cluster.start_all()
        cluster.client(0).put(b"kept", b"1")
        cluster.terminate(0)
        cluster.terminate(1)

        cluster.start(1, f"--data-dir={cluster.members[0].data_dir}")
        assert cluster.wait_exit(1) not in (0, None)
        refusal = cluster.members[1].log_tail()
        assert str(cluster.members[0].data_dir) in refusal
        assert "m0" in refusal
        assert "--name=m1" in refusal

        cluster.start_all()
        assert cluster.client(0).get(b"kept").kvs[0].value == b"1"
        assert cluster.client(1).get(b"kept").kvs[0].value == b"1"


def test_data_directory_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    if reference_under_test():
        pytest.skip("etcd has another format")
    with Cluster(1, tmp_path) as cluster:
        cluster.start_all()
        cluster.client(0).put(b"kept", b"1")
        cluster.terminate(0)
        data_dir = cluster.members[0].data_dir
        wal = data_dir / "member" / "wal"
        kept = wal.rename(data_dir / "wal-of-this-version")
        newer = json.dumps({"version": 999, "member_id": 1, "cluster_id": 1})
        Wal.create(str(wal), newer.encode()).close()

        refuses_to_start(cluster, str(data_dir), "version 999")

        shutil.rmtree(wal)
        kept.rename(wal)
        cluster.start_all()
        assert cluster.client(0).get(b"kept").kvs[0].value == b"1"


@contextmanager
def mounted_tmpfs(path: Path, options: str) -> Iterator[Path]:
    """A tmpfs at `path`, or a skip that says why there can be none."""
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not allowed here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_read_only_data_directory_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:  # file modes do not bind root: a read-only mount does
        with mounted_tmpfs(tmp_path / "ro", "ro,size=1m") as folder, Cluster(1, folder) as cluster:
            cluster.members[0].log_path = tmp_path / "m0.log"
            refuses_to_start(cluster, str(cluster.members[0].data_dir), "read-only file system")
        return
    folder = tmp_path / "ro"
    folder.mkdir(mode=0o555)
    with Cluster(1, folder) as cluster:
        cluster.members[0].log_path = tmp_path / "m0.log"
        refuses_to_start(cluster, str(cluster.members[0].data_dir), "ermission denied")


def test_full_disk_at_start_is_refused(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "full", "size=64k") as folder, Cluster(1, folder) as cluster:
        cluster.members[0].log_path = tmp_path / "m0.log"
        (folder / "filler").write_bytes(bytes(56 * 1024))
        refuses_to_start(cluster, "no space left on device")


def test_data_survives_a_refused_start(tmp_path: Path) -> None:
    """A start that fails on its flags touches nothing."""
    with Cluster(1, tmp_path) as cluster:
        cluster.start_all()
        cluster.client(0).put(b"kept", b"1")
        cluster.terminate(0)
        cluster.start(0, "--no-such-flag=1")
        assert cluster.wait_exit(0) not in (0, None)
        cluster.start_all()
        assert cluster.client(0).get(b"kept").kvs[0].value == b"1"
