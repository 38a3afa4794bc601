"""Reading a backend's file without owning it: from another process, while the owner writes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvstore.storage.backend import META, REVISIONS, TABLES
from kvstore.storage.errors import BackendFailed, CorruptBackend
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.lmdb_file import LmdbFile

READER = """
import sys
from kvstore.storage.lmdb_file import LmdbFile
file = LmdbFile(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
for key, value in file.scan("revisions", b"", None):
    print(key.hex(), value.hex())
"""
"""Opens the file, says so, waits for a line, then prints what the file held when it was opened."""


def fill(backend: LmdbBackend, generation: int) -> dict[bytes, bytes]:
    """Overwrite 500 values, commit, and return them."""
    content = {b"%04d" % i: b"%d " % generation * 40 for i in range(500)}
    for key, value in content.items():
        backend.put(REVISIONS, key, value)
    backend.commit()
    return content


def start_reader(descriptor: int) -> subprocess.Popen[str]:
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, f"/dev/fd/{descriptor}"],
        pass_fds=[descriptor],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "open\n"
    return reader


def rest_of(reader: subprocess.Popen[str]) -> dict[bytes, bytes]:
    out, _ = reader.communicate("go on\n", timeout=60)
    assert reader.returncode == 0
    lines = (line.split() for line in out.splitlines())
    return {bytes.fromhex(key): bytes.fromhex(value) for key, value in lines}


def test_another_process_reads_one_commit_while_the_owner_writes_on(tmp_path: Path) -> None:
    """Twenty rewrites of everything would use its pages again several times over."""
    backend = LmdbBackend(tmp_path / "db")
    expected = fill(backend, 0)
    with backend.pinned_file() as descriptor:
        reader = start_reader(descriptor)
        for generation in range(1, 20):
            fill(backend, generation)
        assert rest_of(reader) == expected
    before = backend.size()
    for generation in range(20):
        fill(backend, generation)
    assert backend.size() == before, "the pages of the pinned commit are used again"
    backend.close()


def test_another_process_reads_on_when_the_owner_gets_another_file(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path / "db")
    expected = fill(backend, 0)
    backend.copy_to(str(tmp_path / "other"))
    fill(backend, 1)
    backend.copy_to(str(tmp_path / "new"))
    backend.replace(tmp_path / "other")
    with backend.pinned_file() as descriptor:
        reader = start_reader(descriptor)
        backend.replace(tmp_path / "new")
        fill(backend, 2)
        assert rest_of(reader) == expected
    assert backend.get(REVISIONS, b"0001") == b"2 " * 40
    backend.close()


def test_a_file_is_read_by_key_too(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path / "db")
    backend.put(META, b"k", b"v")
    backend.commit()
    backend.close()
    file = LmdbFile(str(tmp_path / "db"))
    assert file.get(META, b"k") == b"v"
    assert file.get(META, b"none") is None
    assert file.get(META, bytes(600)) is None
    assert list(file.scan(META, b"l", None)) == []
    file.close()


def test_a_flipped_byte_is_named(tmp_path: Path) -> None:
    path = tmp_path / "db"
    backend = LmdbBackend(path)
    backend.put(META, b"key", b"precious value")
    backend.commit()
    backend.close()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"precious", b"preciouz"))
    file = LmdbFile(str(path))
    with pytest.raises(CorruptBackend, match="table 'meta' key 6b6579"):
        file.get(META, b"key")
    with pytest.raises(CorruptBackend, match="table 'meta' key 6b6579"):
        list(file.scan(META, b"", None))
    file.close()


def test_files_that_are_no_backends_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="none"):
        LmdbFile(str(tmp_path / "none"))
    (tmp_path / "text").write_bytes(b"no database at all" * 1000)
    with pytest.raises(CorruptBackend, match="text"):
        LmdbFile(str(tmp_path / "text"))


def test_nothing_is_left_beside_a_file_that_was_read(tmp_path: Path) -> None:
    LmdbBackend(tmp_path / "db").close()
    os.unlink(tmp_path / "db-lock")
    file = LmdbFile(str(tmp_path / "db"))
    assert all(list(file.scan(table, b"", None)) == [] for table in TABLES)
    file.close()
    assert os.listdir(tmp_path) == ["db"]
