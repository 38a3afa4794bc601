"""The backend contract, kept by LMDB on disk and by the memory backend alike."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kvstore.storage.backend import MAX_KEY_BYTES, META, REVISIONS, TABLES
from kvstore.storage.errors import BackendFailed, CopyFailed
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.memory_backend import MemoryBackend


class OnDisk:
    """LMDB, and a crash as a close without commit."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.backend = LmdbBackend(directory / "db")

    def path(self, name):
        return str(self.directory / name)

    def crash(self):
        self.backend.close()
        self.backend = LmdbBackend(self.directory / "db")
        return self.backend

    def open(self, path):
        return LmdbBackend(path)


class InMemory:
    """The memory backend with its own kind of crash and its own files."""

    def __init__(self, directory: Path) -> None:
        self.backend = MemoryBackend()

    def path(self, name):
        return name

    def crash(self):
        self.backend = self.backend.crash()
        return self.backend

    def open(self, path):
        return self.backend.files[path]


@pytest.fixture(params=[OnDisk, InMemory])
def place(request, tmp_path):
    place = request.param(tmp_path)
    yield place
    place.backend.close()


def pairs(backend, table=REVISIONS, start=b"", end=None):
    return list(backend.scan(table, start, end))


def test_a_write_is_readable_at_once_and_pending(place):
    backend = place.backend
    backend.put(REVISIONS, b"k", b"value")
    backend.delete(REVISIONS, b"other")
    assert backend.get(REVISIONS, b"k") == b"value"
    assert backend.get(META, b"k") is None
    assert (backend.pending_ops, backend.pending_bytes) == (2, 11)
    backend.commit()
    assert (backend.pending_ops, backend.pending_bytes) == (0, 0)
    assert backend.get(REVISIONS, b"k") == b"value"


def test_a_crash_keeps_what_was_committed_and_nothing_else(place):
    backend = place.backend
    backend.put(META, b"kept", b"1")
    backend.put(META, b"deleted", b"1")
    backend.commit()
    backend.put(META, b"lost", b"1")
    backend.delete(META, b"deleted")
    assert pairs(backend, META) == [(b"kept", b"1"), (b"lost", b"1")]
    assert pairs(place.crash(), META) == [(b"deleted", b"1"), (b"kept", b"1")]


def test_every_table_has_its_own_keys(place):
    for table in TABLES:
        place.backend.put(table, b"k", table.encode())
    place.backend.commit()
    backend = place.crash()
    for table in TABLES:
        assert pairs(backend, table) == [(b"k", table.encode())]


@pytest.mark.parametrize("value", [b"", b"\0", bytes(5000), b"x" * 3_000_000])
def test_values_of_any_size_come_back(place, value):
    place.backend.put(META, b"k", value)
    place.backend.commit()
    backend = place.crash()
    assert backend.get(META, b"k") == value
    assert pairs(backend, META) == [(b"k", value)]


def test_keys_have_one_to_511_bytes(place):
    backend = place.backend
    for key in (b"", b"x" * (MAX_KEY_BYTES + 1)):
        with pytest.raises(ValueError, match=f"key of {len(key)} bytes in table meta"):
            backend.put(META, key, b"")
        with pytest.raises(ValueError, match="1 to 511"):
            backend.delete(META, key)
        assert backend.get(META, key) is None
    backend.put(META, b"x" * MAX_KEY_BYTES, b"v")
    backend.commit()
    assert backend.get(META, b"x" * MAX_KEY_BYTES) == b"v"


@pytest.mark.parametrize("state", ["committed", "frozen", "pending"])
def test_many_values_are_read_as_one_by_one(place, state):
    backend = place.backend
    backend.put(REVISIONS, b"a", b"1")
    backend.put(REVISIONS, b"b", b"")
    backend.commit()
    backend.put(REVISIONS if state != "committed" else META, b"c", b"3")
    if state == "frozen":
        backend.freeze()
    keys = [b"c", b"a", b"missing", b"b", b"a", b"", b"x" * (MAX_KEY_BYTES + 1)]
    last = None if state == "committed" else b"3"
    assert backend.get_many(REVISIONS, keys) == [last, b"1", None, b"", b"1", None, None]
    assert backend.get_many(REVISIONS, keys) == [backend.get(REVISIONS, key) for key in keys]


def test_an_unknown_table_is_an_error(place):
    for attempt in (place.backend.get, place.backend.delete):
        with pytest.raises(KeyError, match="revision"):
            attempt("revision", b"k")


def test_a_scan_merges_stored_frozen_and_pending_writes(place):
    backend = place.backend
    for key in b"acegik":
        backend.put(REVISIONS, bytes([key]), b"stored")
    backend.commit()
    backend.put(REVISIONS, b"b", b"frozen")
    backend.put(REVISIONS, b"c", b"frozen")
    backend.put(REVISIONS, b"d", b"frozen")
    backend.delete(REVISIONS, b"e")
    backend.delete(REVISIONS, b"g")
    write = backend.freeze()
    backend.put(REVISIONS, b"d", b"pending")
    backend.put(REVISIONS, b"e", b"pending")
    backend.delete(REVISIONS, b"i")
    backend.put(REVISIONS, b"z", b"pending")
    expected = [
        (b"a", b"stored"),
        (b"b", b"frozen"),
        (b"c", b"frozen"),
        (b"d", b"pending"),
        (b"e", b"pending"),
        (b"k", b"stored"),
        (b"z", b"pending"),
    ]
    assert pairs(backend) == expected
    write()
    assert pairs(backend) == expected
    backend.thaw()
    assert pairs(backend) == expected
    assert pairs(backend, start=b"b", end=b"e") == expected[1:4]
    assert pairs(backend, start=b"bb", end=b"bb") == []
    assert pairs(backend, start=b"l") == expected[6:]
    assert [backend.get(REVISIONS, key) for key, _ in expected] == [v for _, v in expected]
    assert [backend.get(REVISIONS, key) for key in (b"g", b"i")] == [None, None]


def test_a_scan_keeps_the_view_of_its_call(place):
    backend = place.backend
    backend.put(REVISIONS, b"a", b"1")
    backend.commit()
    backend.put(REVISIONS, b"b", b"1")
    scan = backend.scan(REVISIONS, b"", None)
    backend.put(REVISIONS, b"c", b"2")
    backend.delete(REVISIONS, b"a")
    backend.commit()
    assert list(scan) == [(b"a", b"1"), (b"b", b"1")]
    assert pairs(backend) == [(b"b", b"1"), (b"c", b"2")]


def test_a_scan_may_be_left_early(place):
    backend = place.backend
    for number in range(1000):
        backend.put(REVISIONS, b"%04d" % number, b"x")
    backend.commit()
    for _ in range(300):
        assert next(backend.scan(REVISIONS, b"", None)) == (b"0000", b"x")


def test_a_freeze_is_committed_on_another_thread_while_writes_go_on(place):
    backend = place.backend
    backend.put(META, b"first", b"1")
    write = backend.freeze()
    backend.put(META, b"second", b"2")
    thread = threading.Thread(target=write)
    thread.start()
    assert backend.get(META, b"first") == b"1"
    thread.join()
    assert backend.get(META, b"first") == b"1"
    backend.thaw()
    assert pairs(backend, META) == [(b"first", b"1"), (b"second", b"2")]
    assert backend.pending_ops == 1
    assert pairs(place.crash(), META) == [(b"first", b"1")]


def test_an_overwrite_during_a_freeze_is_not_undone_by_its_commit(place):
    backend = place.backend
    backend.put(META, b"k", b"old")
    write = backend.freeze()
    backend.put(META, b"k", b"new")
    write()
    backend.thaw()
    assert backend.get(META, b"k") == b"new"
    assert place.crash().get(META, b"k") == b"old"


def test_freezes_come_one_at_a_time_and_only_with_writes(place):
    backend = place.backend
    assert backend.freeze() is None
    backend.put(META, b"k", b"1")
    write = backend.freeze()
    for attempt in (backend.freeze, backend.commit):
        with pytest.raises(RuntimeError, match="not thawed yet"):
            attempt()
    with pytest.raises(RuntimeError, match="not committed yet"):
        backend.thaw()
    write()
    backend.thaw()
    with pytest.raises(RuntimeError, match="not committed yet"):
        backend.thaw()
    backend.commit()


def test_a_crash_before_the_freeze_is_committed_loses_it(place):
    place.backend.put(META, b"k", b"1")
    assert place.backend.freeze() is not None
    assert place.crash().get(META, b"k") is None


def test_a_copy_holds_the_last_commit_and_is_a_backend_of_its_own(place):
    backend = place.backend
    backend.put(META, b"k", b"1")
    backend.commit()
    backend.put(META, b"k", b"2")
    backend.copy_to(place.path("copy"))
    copy = place.open(place.path("copy"))
    assert copy.get(META, b"k") == b"1"
    copy.put(META, b"k", b"3")
    copy.commit()
    assert backend.get(META, b"k") == b"2"
    copy.close()


def test_a_copy_never_overwrites(place):
    place.backend.copy_to(place.path("copy"))
    with pytest.raises(CopyFailed, match="File exists"):
        place.backend.copy_to(place.path("copy"))


def test_sizes_follow_the_data(place):
    backend = place.backend
    empty = backend.size_in_use()
    for number in range(200):
        backend.put(REVISIONS, b"%04d" % number, bytes(1000))
    backend.commit()
    full = backend.size_in_use()
    assert full >= empty + 200_000
    assert backend.size() >= full
    for number in range(200):
        backend.delete(REVISIONS, b"%04d" % number)
    backend.commit()
    assert backend.size_in_use() < full / 4


def test_a_closed_backend_commits_nothing(place):
    place.backend.put(META, b"k", b"1")
    write = place.backend.freeze()
    place.backend.close()
    with pytest.raises(BackendFailed, match="closed"):
        write()
    assert place.crash().get(META, b"k") is None
