"""Damages what a stopped member has stored, or a running one's file under it.

What lives here: two ways in which data go wrong. `forge_value` writes another value with a good
checksum, as a fault in the program would; `flip_bit` leaves the checksum as it was, as a disk does.
"""

from __future__ import annotations

from pathlib import Path

from kvstore.mvcc.keyvalue import key_of
from kvstore.storage.backend import REVISIONS
from kvstore.storage.lmdb_backend import LmdbBackend


def database(data_dir: Path) -> Path:
    """The backend's file of a member."""
    return data_dir / "member" / "snap" / "db"


def forge_value(data_dir: Path, key: bytes, old: bytes, new: bytes) -> None:
    """Replace `old` by `new`, equally long, in every stored revision of `key`."""
    assert len(old) == len(new)
    backend = LmdbBackend(database(data_dir))
    found = [
        (stored, value)
        for stored, value in backend.scan(REVISIONS, b"", None)
        if key_of(value) == key and old in value
    ]
    assert found, f"{key!r} is not stored with {old!r}"
    for stored, value in found:
        backend.put(REVISIONS, stored, value.replace(old, new))
    backend.commit()
    backend.close()


def flip_bit(data_dir: Path, needle: bytes) -> None:
    """Flip one bit in each place of the file where `needle` stands."""
    path = database(data_dir)
    content = path.read_bytes()
    assert needle in content, f"{needle!r} is not in {path}"
    with path.open("r+b") as file:
        position = content.find(needle)
        while position >= 0:
            file.seek(position)
            file.write(bytes([needle[0] ^ 4]))
            position = content.find(needle, position + 1)
