"""Scans of a table in slices that are bounded in keys and in bytes.

A long read must not hold the event loop: values may be as large as a request, so a bound on keys
alone is none.
"""

from __future__ import annotations

from kvstore.mvcc.steps import SLICE_BYTES, SLICE_KEYS
from kvstore.storage.backend import Backend


def scan_slice(
    backend: Backend, table: str, cursor: bytes, end: bytes | None, limit: int = SLICE_KEYS
) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
    """Return the next pairs of [cursor, end), and where to go on, None at the end.

    Args:
        limit: most pairs. Fewer come when their values reach SLICE_BYTES, at least one if any.
    """
    pairs: list[tuple[bytes, bytes]] = []
    size = 0
    for pair in backend.scan(table, cursor, end):
        if len(pairs) == limit or size >= SLICE_BYTES:
            return pairs, pairs[-1][0] + b"\0"
        pairs.append(pair)
        size += len(pair[1])
    return pairs, None
