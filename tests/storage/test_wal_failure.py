"""When the disk says no: nothing is acknowledged or retried any more, and the text says why."""

from __future__ import annotations

import os
import resource
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvstore.storage.errors import WalFailed
from kvstore.storage.wal import Wal
from tests.storage.wal_files import METADATA, batch, entry, frames, replaced_descriptor, segments


@contextmanager
def file_size_limit(size):
    """No file may be written beyond `size` bytes: a full disk without filling one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def unprivileged():
    """File permissions count, even when the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)


@pytest.fixture
def open_directory():
    """A directory below which every user may look (pytest's own are for one user)."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


def assert_ended(wal, directory, entries):
    """The log takes nothing any more, and holds exactly what was acknowledged."""
    with pytest.raises(WalFailed, match="earlier write or sync failed"):
        wal.append([batch(len(entries) + 1)])
    with pytest.raises(WalFailed, match="earlier write or sync failed"):
        wal.release(1)
    wal.close()
    wal, recovered = Wal.open(directory, segment_bytes=4096)
    assert recovered.entries[: len(entries)] == entries
    wal.close()


def test_a_full_disk_ends_the_log_when_it_needs_a_new_segment(tmp_path):
    wal = Wal.create(tmp_path, METADATA, segment_bytes=4096)
    wal.append([batch(1)])
    with (
        file_size_limit(4096),
        pytest.raises(WalFailed, match=r"create .*0001-.*wal: File too large"),
    ):
        wal.append([batch(2, size=10_000)])
    assert_ended(wal, tmp_path, [entry(1)])


def test_a_write_that_fails_ends_the_log(tmp_path):
    wal = Wal.create(tmp_path, METADATA, segment_bytes=4096)
    wal.append([batch(1)])
    (path,) = segments(tmp_path)
    end = frames(path.read_bytes())[-1][1]
    wal.close()
    wal, _ = Wal.open(tmp_path, segment_bytes=4096)
    with file_size_limit(end), pytest.raises(WalFailed, match=f"write {path}: File too large"):
        wal.append([batch(2)])
    assert_ended(wal, tmp_path, [entry(1)])


def test_a_write_cut_short_ends_the_log(tmp_path):
    wal = Wal.create(tmp_path, METADATA, segment_bytes=8192)
    wal.append([batch(1)])
    wal.close()
    wal, _ = Wal.open(tmp_path, segment_bytes=8192)
    with file_size_limit(1024), pytest.raises(WalFailed, match=r"write .*: \d+ bytes of \d+"):
        wal.append([batch(2, size=3000)])
    assert_ended(wal, tmp_path, [entry(1)])


def test_a_sync_that_fails_ends_the_log(tmp_path):
    """Scenario 32. /dev/null takes writes and cannot be synced."""
    wal = Wal.create(tmp_path, METADATA, segment_bytes=4096)
    wal.append([batch(1)])
    (path,) = segments(tmp_path)
    with (
        replaced_descriptor(path.name, "/dev/null"),
        pytest.raises(WalFailed, match=f"fdatasync {path}: Invalid argument"),
    ):
        wal.append([batch(2)])
    assert_ended(wal, tmp_path, [entry(1)])


def test_a_log_cannot_be_created_in_a_read_only_directory(open_directory):
    open_directory.chmod(0o555)
    with unprivileged(), pytest.raises(WalFailed, match=r"mkdir .*/wal: Permission denied"):
        Wal.create(open_directory / "wal", METADATA)
    with unprivileged(), pytest.raises(WalFailed, match=r"create .*wal: Permission denied"):
        Wal.create(open_directory, METADATA)


def test_a_log_that_cannot_be_written_is_not_opened(open_directory):
    Wal.create(open_directory, METADATA, segment_bytes=4096).close()
    (path,) = segments(open_directory)
    path.chmod(0o444)
    with unprivileged(), pytest.raises(WalFailed, match=f"open {path}: Permission denied"):
        Wal.open(open_directory)
    path.chmod(0o000)
    with unprivileged(), pytest.raises(WalFailed, match=f"read {path}: Permission denied"):
        Wal.open(open_directory)
