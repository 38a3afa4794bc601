"""What is particular to LMDB: checksums, the map, failed commits, damaged files."""

from __future__ import annotations

import resource

import pytest

from kvstore.storage.backend import META, REVISIONS
from kvstore.storage.errors import BackendFailed, CopyFailed, CorruptBackend
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.lmdb_file import check_file

KEY, VALUE = b"key that is easy to find", b"value that is easy to find"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "db"


def damaged(path, wanted):
    """A backend whose file has one bit flipped in each place where `wanted` is stored."""
    backend = LmdbBackend(path)
    for number in range(10):
        backend.put(META, b"%02d" % number, b"neighbour")
    backend.put(META, KEY, VALUE)
    backend.commit()
    backend.close()
    data = path.read_bytes()
    assert wanted in data
    flipped = wanted[:-1] + bytes([wanted[-1] ^ 4])
    path.write_bytes(data.replace(wanted, flipped))
    return LmdbBackend(path)


def test_scenario_34_a_flipped_bit_in_a_value_is_never_served_nor_copied(path, tmp_path):
    """Scenario 34."""
    backend = damaged(path, VALUE)
    assert backend.get(META, b"03") == b"neighbour"
    with pytest.raises(CorruptBackend, match=f"table 'meta' key {KEY.hex()}") as error:
        backend.get(META, KEY)
    assert (error.value.table, error.value.key) == (META, KEY)
    with pytest.raises(CorruptBackend, match=KEY.hex()):
        backend.get_many(META, [b"03", KEY])
    with pytest.raises(CorruptBackend, match=KEY.hex()):
        list(backend.scan(META, b"", None))
    with pytest.raises(CorruptBackend, match=KEY.hex()):
        backend.copy_to(str(tmp_path / "copy"))
    backend.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["db", "db-lock"]


def test_a_flipped_bit_in_a_key_does_not_pass_the_value_off_as_anothers(path):
    backend = damaged(path, KEY)
    other = KEY[:-1] + bytes([KEY[-1] ^ 4])
    assert backend.get(META, KEY) is None
    with pytest.raises(CorruptBackend, match=other.hex()):
        backend.get(META, other)
    with pytest.raises(CorruptBackend, match=other.hex()):
        list(backend.scan(META, b"", None))
    backend.close()


def test_a_file_that_is_no_backend_is_refused(path):
    path.write_bytes(b"something else " * 1000)
    with pytest.raises(CorruptBackend, match=str(path)):
        LmdbBackend(path)
    with pytest.raises(CorruptBackend, match=str(path)):
        check_file(str(path))


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BackendFailed, match=r"open .*missing/db: .*No such file"):
        LmdbBackend(tmp_path / "missing" / "db")


def test_a_full_map_fails_the_commit_and_ends_the_backend(path):
    backend = LmdbBackend(path, map_size=1 << 20)
    backend.put(META, b"before", b"1")
    backend.commit()
    backend.put(META, b"big", bytes(2 << 20))
    with pytest.raises(BackendFailed, match=r"commit .*MDB_MAP_FULL"):
        backend.commit()
    assert backend.get(META, b"before") == b"1"
    backend.close()
    backend = LmdbBackend(path)
    assert (backend.get(META, b"before"), backend.get(META, b"big")) == (b"1", None)
    backend.close()


def test_the_map_grows_at_open_so_that_a_file_never_starts_full(path):
    backend = LmdbBackend(path, map_size=4 << 20)
    for number in range(3):
        backend.put(META, b"%d" % number, bytes(1 << 20))
    backend.commit()
    backend.close()
    backend = LmdbBackend(path, map_size=4 << 20)
    backend.put(META, b"more", bytes(3 << 20))
    backend.commit()
    assert backend.get(META, b"more") == bytes(3 << 20)
    backend.close()


def limited(size):
    """Let no file grow beyond `size` bytes: a full disk without filling one; returns the undo."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_after_a_failed_commit_no_other_is_tried(path):
    """Scenario 32: LMDB itself would accept the next one."""
    backend = LmdbBackend(path)
    backend.put(META, b"before", b"1")
    backend.commit()
    backend.put(META, b"lost", bytes(1 << 20))
    write = backend.freeze()
    undo = limited(path.stat().st_size)
    try:
        with pytest.raises(BackendFailed, match="commit"):
            write()
    finally:
        undo()
    with pytest.raises(BackendFailed, match="an earlier commit failed"):
        write()
    backend.close()
    backend = LmdbBackend(path)
    assert list(backend.scan(META, b"", None)) == [(b"before", b"1")]
    backend.close()


def test_a_copy_without_space_is_an_error_and_the_old_file_serves_on(path, tmp_path):
    """Scenario 26 (etcd-io/etcd 18810)."""
    backend = LmdbBackend(path)
    backend.put(META, b"k", bytes(1 << 20))
    backend.commit()
    undo = limited(1 << 16)
    try:
        with pytest.raises(CopyFailed, match="copy"):
            backend.copy_to(str(tmp_path / "copy"))
    finally:
        undo()
    assert not (tmp_path / "copy").exists()
    backend.put(META, b"k", b"still writable")
    backend.commit()
    assert backend.get(META, b"k") == b"still writable"
    backend.close()


def test_a_copy_is_compacted_and_checked(path, tmp_path):
    backend = LmdbBackend(path)
    for number in range(3000):
        backend.put(REVISIONS, b"%06d" % number, bytes(4000))
    backend.commit()
    for number in range(2900):
        backend.delete(REVISIONS, b"%06d" % number)
    backend.commit()
    copy = tmp_path / "copy"
    backend.copy_to(str(copy))
    assert copy.stat().st_size < backend.size() / 10
    assert backend.size() == path.stat().st_size
    check_file(str(copy))
    again = LmdbBackend(copy)
    assert list(again.scan(REVISIONS, b"", None)) == list(backend.scan(REVISIONS, b"", None))
    again.close()
    backend.close()


def test_deleted_space_is_reused(path):
    backend = LmdbBackend(path)
    sizes = []
    for _ in range(6):
        for number in range(100):
            backend.put(REVISIONS, b"%06d" % number, bytes(10_000))
        backend.commit()
        sizes.append(backend.size())
    assert sizes[-1] == sizes[-2], "an open read transaction would make the file grow on and on"
    backend.close()
