"""Snapshot files on the disk: their digest, their status, and what damage to them does."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from kvstore.snapshot.errors import SnapshotError
from kvstore.snapshot.file import open_snapshot
from kvstore.snapshot.status import Status, status
from tests.bbolt.databases import write
from tests.e2e.etcdctl import distro_binary
from tests.snapshot.stores import exported, furnish, lived_in


@pytest.fixture(scope="module")
def database() -> bytes:
    member = lived_in(5)
    furnish(member.backend)
    return exported(member.backend)


def saved(path: Path, database: bytes) -> Path:
    """A snapshot file as ``snapshot save`` leaves it."""
    path.write_bytes(database + hashlib.sha256(database).digest())
    return path


def status_of(path: Path) -> Status:
    with open_snapshot(str(path)) as opened:
        return status(opened)


@pytest.mark.parametrize("seed", range(4))
def test_the_status_is_etcdutl_s(tmp_path: Path, seed: int) -> None:
    """MNT-27: etcdutl reads the file, its page check passes, and the hash is the same."""
    member = lived_in(seed)
    furnish(member.backend)
    path = saved(tmp_path / "db", exported(member.backend))
    found = status_of(path)
    done = subprocess.run(
        [distro_binary("etcdutl"), "snapshot", "status", str(path), "--write-out=json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    assert (theirs["hash"], theirs["revision"]) == (found.hash, found.revision)
    assert theirs["totalSize"] == found.total_size == path.stat().st_size - 32
    # etcdutl 3.5 counts the pairs of all buckets, 3.6 the live keys; so does this.
    assert found.total_key == len(member.range(b"\0", b"\0").kvs)
    assert found.version == "3.6.0"


def test_every_flipped_byte_is_found_by_the_digest(tmp_path: Path) -> None:
    """MNT-26: each byte of a small file, of the database or of the digest itself."""
    path = saved(tmp_path / "db", write({b"key": {}, b"meta": {b"a": b"b"}}))
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for at, byte in enumerate(content):
            file.seek(at)
            file.write(bytes([byte ^ 0x40]))
            with pytest.raises(SnapshotError, match="expected sha256"):
                status_of(path)
            file.seek(at)
            file.write(bytes([byte]))
    assert status_of(path).revision == 0


@pytest.mark.parametrize("cut", [1, 31, 32 + 512, 5000])
def test_a_file_cut_short_is_refused(tmp_path: Path, database: bytes, cut: int) -> None:
    path = saved(tmp_path / "db", database)
    path.write_bytes(path.read_bytes()[:-cut])
    with (
        pytest.raises(SnapshotError, match=r"hash|sha256|cut short"),
        open_snapshot(str(path), digest_needed=True),
    ):
        pass


def test_without_a_digest_structure_is_still_checked(tmp_path: Path, database: bytes) -> None:
    path = tmp_path / "db"
    path.write_bytes(database[:-4096])
    with pytest.raises(SnapshotError, match="cut short"):
        status_of(path)
    path.write_bytes(database[: 4 * 4096] + b"\xff" * 4096 + database[5 * 4096 :])
    with pytest.raises(SnapshotError, match="integrity check failed: page 4: it says"):
        status_of(path)


def test_a_missing_digest_is_refused_where_one_is_needed(tmp_path: Path, database: bytes) -> None:
    path = tmp_path / "db"
    path.write_bytes(database)
    assert status_of(path).total_size == len(database)
    with (
        pytest.raises(SnapshotError, match="snapshot missing hash but --skip-hash-check=false"),
        open_snapshot(str(path), digest_needed=True),
    ):
        pass


def test_a_wrong_digest_may_be_passed_over(tmp_path: Path, database: bytes) -> None:
    path = tmp_path / "db"
    path.write_bytes(database + bytes(32))
    with open_snapshot(str(path), check_digest=False) as opened:
        assert status(opened).total_size == len(database)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "db").touch()
    with pytest.raises(SnapshotError, match="db: the file is empty"):
        status_of(tmp_path / "db")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"GIF89a" * 5000)
    with pytest.raises(SnapshotError, match="db: no valid meta page: it is no bbolt database"):
        status_of(tmp_path / "db")


def test_a_value_that_is_no_key_value_is_named(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(write({b"key": {b"\0" * 8 + b"_" + b"\0" * 8: b"\xff"}}))
    with pytest.raises(SnapshotError, match="bucket 'key', key 0000000000000000"):
        status_of(tmp_path / "db")
