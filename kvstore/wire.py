"""Response headers, assembled as bytes.

Every answer carries a ``ResponseHeader`` (GEN-01) that differs only in revision and term, so the
constant part is encoded once.
"""

from __future__ import annotations


def varint(value: int) -> bytes:
    """Encode a non-negative integer below 2**64, or a negative one above -2**63, as protobuf does."""
    if value < 0:
        value += 1 << 64
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


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
