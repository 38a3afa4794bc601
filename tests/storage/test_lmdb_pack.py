"""Packing the LMDB file in use: defragmentation as the backend sees it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from kvstore.storage.backend import LEASES, META, REVISIONS, TABLES
from kvstore.storage.errors import BackendFailed, CopyFailed, CorruptBackend
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.lmdb_copy import CHUNK_BYTES, SPARE_BYTES
from tests.storage.test_lmdb_backend import limited

VALUE = bytes(600)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LmdbBackend]:
    """4,000 rows, of which every fifth is left."""
    backend = LmdbBackend(tmp_path / "db")
    for number in range(4000):
        backend.put(REVISIONS, row(number), VALUE)
    backend.put(LEASES, b"lease", b"1")
    backend.commit()
    for number in range(4000):
        if number % 5:
            backend.delete(REVISIONS, row(number))
    backend.commit()
    yield backend
    backend.close()


def row(number: int) -> bytes:
    return b"%016d" % number


def content(backend: LmdbBackend) -> dict[str, list[tuple[bytes, bytes]]]:
    return {table: list(backend.scan(table, b"", None)) for table in TABLES}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_packing_shrinks_the_file_and_changes_nothing_in_it(
    backend: LmdbBackend, tmp_path: Path
) -> None:
    """MNT-18: pages are filled up, which LMDB's own compacting copy does not do."""
    before, size = content(backend), backend.size()
    backend.pack()
    backend.switch()()
    assert content(backend) == before
    assert backend.size() == os.path.getsize(tmp_path / "db")
    assert backend.size() < size / 4
    assert backend.size_in_use() <= backend.size() < 1.3 * 800 * len(VALUE)
    assert names(tmp_path) == ["db", "db-lock"]


def test_packed_file_is_found_after_a_restart(backend: LmdbBackend, tmp_path: Path) -> None:
    before = content(backend)
    backend.pack()
    backend.switch()()
    backend.put(META, b"later", b"1")
    backend.commit()
    backend.close()
    again = LmdbBackend(tmp_path / "db")
    assert content(again) == {**before, META: [(b"later", b"1")]}
    again.close()


def test_member_that_ends_before_it_switches_finds_the_packed_file(
    backend: LmdbBackend, tmp_path: Path
) -> None:
    """Scenario 24: the packed file has the name already, and the same content."""
    before, size = content(backend), backend.size()
    backend.pack()
    backend.close()
    again = LmdbBackend(tmp_path / "db")
    assert content(again) == before
    assert again.size() < size / 4
    again.close()


def test_pending_writes_stay_pending(backend: LmdbBackend, tmp_path: Path) -> None:
    """MNT-18: what is applied while a copy is made waits for the commit after the switch."""
    backend.pack()
    backend.put(REVISIONS, row(0), b"changed")
    backend.delete(REVISIONS, row(5))
    assert backend.get(REVISIONS, row(0)) == b"changed"
    backend.switch()()
    assert backend.get(REVISIONS, row(0)) == b"changed"
    assert backend.get(REVISIONS, row(5)) is None
    assert backend.pending_ops == 2
    backend.commit()
    backend.close()
    again = LmdbBackend(tmp_path / "db")
    assert again.get(REVISIONS, row(0)) == b"changed"
    assert again.get(REVISIONS, row(5)) is None
    assert again.get(REVISIONS, row(10)) == VALUE
    again.close()


def test_commit_between_packing_and_switching_is_refused(backend: LmdbBackend) -> None:
    """It would go to a file without a name, and be lost."""
    backend.put(META, b"k", b"v")
    write = backend.freeze()
    assert write is not None
    backend.pack()
    with pytest.raises(BackendFailed, match="packed"):
        write()


def test_scan_goes_on_across_a_switch(backend: LmdbBackend) -> None:
    """MNT-18: long reads on other threads end in the file they began in."""
    before = content(backend)[REVISIONS]
    scan = backend.scan(REVISIONS, b"", None)
    first = list(islice(scan, 10))
    backend.pack()
    let_go = backend.switch()
    for number in range(0, 4000, 5):
        backend.put(REVISIONS, row(number), b"new")
    backend.commit()
    let_go()
    rest: list[tuple[bytes, bytes]] = []
    reader = threading.Thread(target=lambda: rest.extend(scan))
    reader.start()
    reader.join()
    assert first + rest == before


def test_old_file_is_let_go(backend: LmdbBackend, tmp_path: Path) -> None:
    """Else the disk would stay as full as it was."""

    def mapped() -> list[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return [line for line in lines if str(tmp_path) in line and "(deleted)" in line]

    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc/self/maps on this system")
    for _ in range(3):
        backend.pack()
        backend.switch()()
        assert mapped() == []


def test_snapshot_takes_the_place_of_a_file_that_is_being_scanned(
    backend: LmdbBackend, tmp_path: Path
) -> None:
    """Scenario 25: a scan of the old content neither fails nor sees the new one."""
    before = content(backend)[REVISIONS]
    scan = backend.scan(REVISIONS, b"", None)
    other = LmdbBackend(tmp_path / "received")
    other.put(REVISIONS, row(1), b"of the snapshot")
    other.commit()
    other.close()
    (tmp_path / "received-lock").unlink()
    backend.replace(tmp_path / "received")
    assert list(scan) == before
    assert content(backend)[REVISIONS] == [(row(1), b"of the snapshot")]
    assert names(tmp_path) == ["db", "db-lock"]


def test_scenario_18810_no_space_is_an_error_and_the_old_file_serves_on(
    backend: LmdbBackend, tmp_path: Path
) -> None:
    """Scenario 26 (etcd-io/etcd 18810)."""
    before, size = content(backend), backend.size()
    undo = limited(1 << 16)
    try:
        with pytest.raises(CopyFailed):
            backend.pack()
    finally:
        undo()
    assert names(tmp_path) == ["db", "db-lock"]
    backend.put(META, b"k", b"v")
    backend.commit()
    assert content(backend) == {**before, META: [(b"k", b"v")]}
    assert backend.size() >= size
    backend.pack()
    backend.switch()()
    assert backend.size() < size / 4


def test_packing_does_not_start_where_the_disk_would_fill_up(
    backend: LmdbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit: besides the copy SPARE_BYTES must stay free, for the log's sake."""
    real = os.statvfs

    def nearly_full(path: str) -> os.statvfs_result:
        found = list(real(path))
        found[1] = 1  # block size
        found[4] = backend.size_in_use() + SPARE_BYTES - 1  # blocks that are free
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", nearly_full)
    with pytest.raises(CopyFailed, match="no space left on device"):
        backend.pack()


def test_damaged_value_is_not_packed(tmp_path: Path) -> None:
    """Scenario 34: the old file stays, with what is sound in it."""
    backend = LmdbBackend(tmp_path / "db")
    backend.put(META, b"sound", b"sound value")
    backend.put(META, b"weak", b"value that is easy to find")
    backend.commit()
    backend.close()
    file = tmp_path / "db"
    file.write_bytes(file.read_bytes().replace(b"easy to find", b"easy to fine"))
    backend = LmdbBackend(file)
    with pytest.raises(CorruptBackend, match=b"weak".hex()):
        backend.pack()
    assert names(tmp_path) == ["db", "db-lock"]
    assert backend.get(META, b"sound") == b"sound value"
    backend.close()


def test_packing_can_be_stopped(tmp_path: Path) -> None:
    """A member that is told to end does not wait for a long copy."""
    backend = LmdbBackend(tmp_path / "db")
    for number in range(3 * CHUNK_BYTES // 100_000):
        backend.put(REVISIONS, row(number), bytes(100_000))
    backend.commit()
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 2

    with pytest.raises(CopyFailed, match="stopped"):
        backend.pack(stop)
    assert names(tmp_path) == ["db", "db-lock"]
    backend.put(META, b"k", b"v")
    backend.commit()
    backend.close()
