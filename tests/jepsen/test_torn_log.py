"""A torn write at a log's end is cut, and everything before it is kept."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from jepsen.chaos.torn_log import tear
from kvstore.storage.wal import Batch, Wal
from raft import NORMAL, HardState


@pytest.mark.parametrize("seed", range(8))
def test_a_torn_log_opens_with_all_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    folder = str(tmp_path / "wal")
    Wal.create(folder, b"{}").close()
    wal, _ = Wal.open(folder)
    entries = [(1, NORMAL, random.randbytes(random.randint(0, 900))) for _ in range(40)]
    for start in range(0, 40, 8):
        wal.append([Batch(HardState(1, 0, start), start + 1, entries[start : start + 8])])
    wal.close()
    said = tear(tmp_path / "wal", random)
    assert "never reached the disk" in said
    wal, recovered = Wal.open(folder)
    assert recovered.entries == entries
    assert any("torn" in note for note in recovered.notes)
    wal.append([Batch(None, 41, [(1, NORMAL, b"goes on")])])
    wal.close()
