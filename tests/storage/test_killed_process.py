"""SIGKILL of a process that is writing: what it had reported is there, in one piece."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kvstore.storage.backend import META, REVISIONS
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.wal import Wal
from tests.storage.wal_files import entry

KILLS = 10


def run_and_kill(kind, path, reports):
    """Start the process, kill it after so many reports; returns the last number reported."""
    command = [sys.executable, "-m", "tests.storage.writing_process", kind, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(reports):
            assert process.stdout.readline(), "the process ended by itself"
        process.kill()
        rest = process.stdout.read().split("\n")
    complete = [line for line in rest[:-1] if line]
    return int(complete[-1]) if complete else None


def test_a_killed_process_loses_no_acknowledged_entry(tmp_path):
    """RFT-10."""
    path = tmp_path / "wal"
    for kill in range(KILLS):
        acknowledged = run_and_kill("wal", path, 1 + 17 * kill)
        wal, recovered = Wal.open(path)
        last = len(recovered.entries)
        assert acknowledged is None or last >= acknowledged
        assert last >= 1 + 17 * kill
        assert recovered.entries == [entry(i, 30 + i % 700) for i in range(1, last + 1)]
        assert recovered.hard_state.commit == last - 1
        wal.close()


@pytest.mark.parametrize("kind", ["lmdb", "pack"])
@pytest.mark.parametrize("reports", [1, 3, 40])
def test_a_killed_process_leaves_data_and_applied_index_as_one(tmp_path, reports, kind):
    """Scenario 22 (etcd-io/etcd 13766, 13514); 24 (14685) where the file is being packed."""
    path = tmp_path / "db"
    for _ in range(2):
        acknowledged = run_and_kill(kind, path, reports)
        (tmp_path / "db.packed").unlink(missing_ok=True)  # as at the start of a member
        backend = LmdbBackend(path)
        applied = int(backend.get(META, b"applied"))
        assert acknowledged is None or applied >= acknowledged
        rows = list(backend.scan(REVISIONS, b"", None))
        assert rows == [(b"%016d" % i, b"row %d" % i) for i in range(1, applied + 1)]
        backend.close()
