"""A snapshot of our cluster, taken under load, becomes a real etcd with the same history."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import grpc
import pytest

from kvstore.pb.rpc_pb2 import HashRequest
from tests.e2e.client import Client
from tests.e2e.cluster import Cluster, reference_under_test, wait_until
from tests.e2e.snapshots import ETCD, ETCDUTL, fill, restore, run, save, view

if reference_under_test():
    pytest.skip("these move data from this project to etcd", allow_module_level=True)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(3, tmp_path_factory.mktemp("ours")) as cluster:
        cluster.start_all()
        fill(cluster.client(0))
        yield cluster


class Load:
    """One put after the other, on its own connection, until stopped; every one must succeed."""

    def __init__(self, endpoint: str) -> None:
        self._client = Client(endpoint)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.written = 0
        self.failed: list[grpc.RpcError] = []

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._client.put(b"load/%d" % (self.written % 50), b"%d" % self.written)
            except grpc.RpcError as error:
                self.failed.append(error)
                return
            self.written += 1

    def __enter__(self) -> Load:
        self._thread.start()
        wait_until(lambda: self.written > 20 or self.failed, 30, "the load runs")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()


def test_etcd_goes_on_where_our_cluster_was(ours: Cluster, tmp_path: Path) -> None:
    """MNT-25, MNT-27: etcdctl saves it from a follower while writes go on, etcdutl's checks pass,
    and the etcd started from it shows every revision, the history, the leases and the hash."""
    with Load(ours.members[ours.leader()].endpoint) as load:
        path = save(ours, ours.followers()[0], tmp_path / "snapshot.db")
        seen = load.written
        wait_until(lambda: load.written > seen or load.failed, 30, "writes go on")
    assert load.failed == []
    status = json.loads(run(*ETCDUTL, "status", path, "--write-out=json").stdout)
    revision = status["revision"]
    expected = view(ours.client(1), revision)
    assert expected.compact_revision > 0

    with Cluster(1, tmp_path, program=ETCD, token="moved") as etcd:
        restore(ETCDUTL, path, etcd)
        etcd.start_all()
        client = etcd.client(0)
        assert view(client, revision) == expected
        with pytest.raises(grpc.RpcError, match="required revision has been compacted"):
            client.get(b"k1", revision=expected.compact_revision - 1)
        assert expected.leases[0x1001][0] == client.keep_alive_once(0x1001).TTL
        assert client.put(b"next").header.revision == revision + 1
        assert client.revoke(0x1001).header.revision == revision + 2
        assert client.get(b"leased").kvs == []


def test_etcd_can_change_every_page_of_the_file(ours: Cluster, tmp_path: Path) -> None:
    """bbolt relies on more than it checks when it merges pages: delete and compact everything, and
    look at the result with etcdutl."""
    path = save(ours, 0, tmp_path / "snapshot.db")
    with Cluster(1, tmp_path, program=ETCD) as etcd:
        restore(ETCDUTL, path, etcd)
        etcd.start_all()
        client = etcd.client(0)
        deleted = client.delete(b"\0", range_end=b"\0").header.revision
        client.put(b"only")
        client.compact(deleted, physical=True)
        assert [kv.key for kv in client.get(b"\0", range_end=b"\0").kvs] == [b"only"]
        again = save(etcd, 0, tmp_path / "again.db")
        etcd.terminate(0)
        etcd.start(0)
        etcd.wait_healthy()
        assert client.get(b"only").count == 1
    assert run(*ETCDUTL, "status", again).returncode == 0


def test_etcdutl_finds_a_damaged_byte_by_our_digest(ours: Cluster, tmp_path: Path) -> None:
    """MNT-26, MNT-27: the digest behind the database is the one that etcdutl computes."""
    path = save(ours, 0, tmp_path / "snapshot.db")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = run(*ETCDUTL, "restore", path, "--data-dir", tmp_path / "etcd")
    assert done.returncode != 0
    assert "expected sha256" in done.stderr


def test_every_member_serves_the_same_database(ours: Cluster, tmp_path: Path) -> None:
    """MNT-25: whichever is asked, leader or not; only its own log position may differ."""
    ours.wait_equal_hashes()

    def hashes() -> set[int]:
        return {ours.client(i).call("Maintenance/Hash", HashRequest()).hash for i in range(3)}

    wait_until(lambda: len(hashes()) == 1, 30, "all members have removed what is compacted")
    statuses = [
        json.loads(run(*ETCDUTL, "status", save(ours, i, tmp_path / str(i)), "-w=json").stdout)
        for i in range(3)
    ]
    assert len({(s["revision"], s["totalKey"], s["totalSize"]) for s in statuses}) == 1


def test_the_gateway_streams_it_too(ours: Cluster) -> None:
    """MNT-25, MNT-26: as JSON lines with base64 blobs, digest last."""
    url = f"http://{ours.members[0].endpoint}/v3/maintenance/snapshot"
    with urlopen(Request(url, b"{}"), timeout=60) as answer:
        results = [json.loads(line)["result"] for line in answer]
    *blobs, digest = [b64decode(result["blob"]) for result in results]
    assert hashlib.sha256(b"".join(blobs)).digest() == digest
    assert {result["version"] for result in results} == {"3.6.0"}


def files_held(cluster: Cluster, i: int) -> list[str]:
    """What member `i` holds open in its snap directory, and what lies there, besides its store."""
    process = cluster.members[i].process
    assert process is not None
    snap = cluster.members[i].data_dir / "member" / "snap"
    held = []
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            held.append(os.readlink(descriptor))
        except OSError:
            continue  # closed meanwhile
    there = [str(snap / name) for name in os.listdir(snap)]
    own = {str(snap / "db"), str(snap / "db-lock")}
    return [path for path in (*held, *there) if path.startswith(str(snap)) and path not in own]


def test_a_client_that_goes_away_leaves_no_file(ours: Cluster) -> None:
    """MNT-25: a slow client is a file without a name in the data directory, and nothing more."""
    client = Client(ours.members[2].endpoint)
    for i in range(12):
        client.put(b"big/%d" % i, os.urandom(1_000_000))
    assert files_held(ours, 2) == []
    call = client.snapshot()
    assert next(call).remaining_bytes > 10_000_000
    assert len(files_held(ours, 2)) == 1
    call.cancel()
    wait_until(lambda: files_held(ours, 2) == [], 30, "the file is gone")
    call = client.snapshot()
    next(call)
    client.close()
    wait_until(lambda: files_held(ours, 2) == [], 30, "the file is gone")
