"""Response headers, assembled as bytes.

Every answer carries a ``ResponseHeader`` (GEN-01) that differs only in revision and term, so the
constant part is encoded once.
"""

from __future__ import annotations

from kvstore.mvcc.keyvalue import varint


class HeaderEncoder:
    """Makes field 1 (``header``) of responses of one member."""

    def __init__(self, cluster_id: int, member_id: int) -> None:
        self._ids = b"\x08" + varint(cluster_id) + b"\x10" + varint(member_id)
        self._term = -1
        self._term_bytes = b""

    def encode(self, revision: int, raft_term: int) -> bytes:
        """Return tag, length and content of the header field. Revision 0 is left out (GEN-05)."""
        if raft_term != self._term:
            self._term = raft_term
            self._term_bytes = b"\x20" + varint(raft_term) if raft_term else b""
        if revision:
            content = self._ids + b"\x18" + varint(revision) + self._term_bytes
        else:
            content = self._ids + self._term_bytes
        return b"\x0a" + bytes((len(content),)) + content
