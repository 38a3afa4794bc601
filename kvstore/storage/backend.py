"""What a backend is: ordered tables of bytes whose changes become durable in commits.

The protocol that the member core is written against, the table names, and `WriteBuffer`, the part
both backends share. A write goes to a buffer and is readable at once; `commit`, or `freeze` and
`thaw` around a commit on the writer thread, makes everything written up to then durable, as a whole
or, at a crash, not at all. What was not committed is replayed from the log, so the applied index
must be written in the same commit as the data it speaks of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

REVISIONS: Final = "revisions"
LEASES: Final = "leases"
MEMBERS: Final = "members"
ALARMS: Final = "alarms"
META: Final = "meta"
AUTH: Final = "auth"
TABLES: Final = (REVISIONS, LEASES, MEMBERS, ALARMS, META, AUTH)

MAX_KEY_BYTES = 511
"""Longest key of a table: LMDB's limit. User keys are longer, and never are backend keys."""

Writes = dict[str, dict[bytes, bytes | None]]
"""Changes by table and key; None deletes."""


class Absent:
    """Type of `ABSENT`, which says that a buffer does not know a key (None says it is deleted)."""


ABSENT: Final = Absent()


class Readable(Protocol):
    """Ordered tables of bytes that can be read."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value, or None. Raises `CorruptBackend`."""

    def scan(self, table: str, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Keys in [start, end) ascending, to the last key when `end` is None.

        The view is that of the call: writes and commits while it is being read do not change it.
        The iterator may be consumed on another thread. Raises `CorruptBackend` while iterating.
        """


class Backend(Readable, Protocol):
    """Ordered tables of bytes. All methods are for one thread (the loop) unless they say so."""

    @property
    def pending_bytes(self) -> int:
        """Bytes of keys and values written since the last commit or freeze."""

    @property
    def uncommitted_bytes(self) -> int:
        """Bytes of keys and values that are not in the file yet: pending and frozen ones."""

    @property
    def pending_ops(self) -> int:
        """Number of puts and deletes since the last commit or freeze."""

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """`get` for each key, in order; cheaper than as many calls. Raises `CorruptBackend`."""

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set a value. A key has 1 to `MAX_KEY_BYTES` bytes, else `ValueError`."""

    def delete(self, table: str, key: bytes) -> None:
        """Remove a key; a missing one is fine."""

    def commit(self) -> None:
        """Make all writes durable, then return. Raises `BackendFailed`: the process must end."""

    def freeze(self) -> Callable[[], None] | None:
        """Set the writes so far aside and return the function that commits them, None without any.

        The function is to be called once, on the one writer thread; it raises `BackendFailed`.
        Further writes go to a new buffer meanwhile. When it has returned, `thaw` ends the freeze;
        until then neither `freeze` nor `commit` may be called (`RuntimeError`).
        """

    def thaw(self) -> None:
        """Let reads see the committed freeze in place of the buffer that was set aside."""

    def size(self) -> int:
        """Bytes of the file."""

    def size_in_use(self) -> int:
        """Bytes of it that hold data; the rest is free for reuse."""

    def copy_to(self, path: str) -> None:
        """Write a consistent, compacted, checked and durable copy of the last commit to a new file.

        May be called on another thread. Raises `CopyFailed` (nothing is left at `path`, the
        backend serves on) and `CorruptBackend` (a damaged value is never copied on).
        """

    def close(self) -> None:
        """Let go of the file; what is not committed is lost."""


class WriteBuffer:
    """Writes that are not committed: the pending ones and the ones being committed (frozen)."""

    __slots__ = ("bytes", "frozen", "frozen_bytes", "ops", "pending")

    def __init__(self) -> None:
        self.pending: Writes = {table: {} for table in TABLES}
        self.frozen: Writes | None = None
        self.bytes = 0
        self.frozen_bytes = 0
        self.ops = 0

    def put(self, table: str, key: bytes, value: bytes | None) -> None:
        """Note a change."""
        if not 0 < len(key) <= MAX_KEY_BYTES:
            raise ValueError(f"key of {len(key)} bytes in table {table}: 1 to {MAX_KEY_BYTES}")
        self.pending[table][key] = value
        self.ops += 1
        self.bytes += len(key) + (len(value) if value is not None else 0)

    def get(self, table: str, key: bytes) -> bytes | Absent | None:
        """What the buffer knows: a value, None for deleted, `ABSENT` for nothing."""
        value = self.pending[table].get(key, ABSENT)
        if value is ABSENT and self.frozen is not None:
            return self.frozen[table].get(key, ABSENT)
        return value

    def freeze(self) -> Writes | None:
        """Set the pending writes aside; None when there are none."""
        if self.frozen is not None:
            raise RuntimeError("the frozen writes before these are not thawed yet")
        if not self.ops:
            return None
        self.frozen = self.pending
        self.pending = {table: {} for table in TABLES}
        self.frozen_bytes = self.bytes
        self.bytes = self.ops = 0
        return self.frozen

    def thaw(self) -> None:
        """Forget what was set aside: it is committed."""
        self.frozen = None
        self.frozen_bytes = 0

    def overlay(
        self, table: str, start: bytes, end: bytes | None
    ) -> list[tuple[bytes, bytes | None]]:
        """The changes to keys in [start, end), ascending; a copy."""
        changes = self.pending[table]
        if self.frozen is not None and self.frozen[table]:
            changes = self.frozen[table] | changes
        keys = [key for key in changes if start <= key and (end is None or key < end)]
        return [(key, changes[key]) for key in sorted(keys)]


def merge(
    stored: Iterator[tuple[bytes, bytes]], overlay: list[tuple[bytes, bytes | None]]
) -> Iterator[tuple[bytes, bytes]]:
    """Stored pairs with the overlay's changes put in place; both ascending."""
    at, count = 0, len(overlay)
    for key, value in stored:
        while at < count and overlay[at][0] < key:
            yield from _present(overlay[at])
            at += 1
        if at < count and overlay[at][0] == key:
            yield from _present(overlay[at])
            at += 1
        else:
            yield key, value
    for change in overlay[at:]:
        yield from _present(change)


def _present(change: tuple[bytes, bytes | None]) -> Iterator[tuple[bytes, bytes]]:
    key, value = change
    if value is not None:
        yield key, value
