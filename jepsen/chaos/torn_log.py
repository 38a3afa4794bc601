"""A log as a crash in the middle of a write leaves it: the last frame reached the disk in parts.

Only a write that was never acknowledged may be torn, so one is made up: the killed member's log is
opened as the server does, a batch is appended that no one was told of, and then sectors of it are
zeroed, as if they had never reached the disk. The member must cut it and start.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Final

from kvstore.storage.wal import Batch, Wal
from kvstore.storage.wal_frame import SECTOR_BYTES
from raft import NORMAL

PAYLOAD_BYTES: Final = 3000
"""Some sectors."""


def tear(wal_dir: Path, random: Random) -> str:
    """Leave a torn write at the end of a log that nobody has open; return what was done.

    Raises:
        StorageError: the log cannot be opened, which a kill alone must never bring about.
    """
    wal, recovered = Wal.open(str(wal_dir))
    before = _ends(wal_dir)
    last = recovered.snapshot.index + len(recovered.entries)
    term = recovered.entries[-1][0] if recovered.entries else recovered.snapshot.term
    entry = (term, NORMAL, random.randbytes(PAYLOAD_BYTES))
    wal.append([Batch(first_index=last + 1, entries=[entry])])
    wal.close()
    after = _ends(wal_dir)
    changed = [name for name, end in after.items() if before.get(name) != end]
    if len(changed) != 1:
        return "the log began a new segment: nothing was torn"
    name, end = changed[0], after[changed[0]]
    first = -(-before[name] // SECTOR_BYTES)
    sectors = list(range(first, (end - 1) // SECTOR_BYTES + 1))
    lost = random.sample(sectors, random.randint(1, len(sectors)))
    with (wal_dir / name).open("r+b") as file:
        for sector in lost:
            file.seek(sector * SECTOR_BYTES)
            file.write(bytes(SECTOR_BYTES))
    return f"{len(lost)} of {len(sectors)} sectors of a write never reached the disk"


def _ends(wal_dir: Path) -> dict[str, int]:
    """File name -> end of what is not zero."""
    return {path.name: len(path.read_bytes().rstrip(b"\0")) for path in wal_dir.iterdir()}
