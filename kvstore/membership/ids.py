"""How member and cluster ids are computed: as etcd does, so that tools show the same numbers.

The same flags give the same ids on every member without any exchange, which is what lets a new
cluster bootstrap from its flags alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha1


def _first8(data: bytes) -> int:
    return int.from_bytes(sha1(data, usedforsecurity=False).digest()[:8], "big")


def compute_member_id(peer_urls: Iterable[str], cluster_token: str) -> int:
    """Return a bootstrap member's id: SHA-1 over its sorted peer URLs and the cluster token."""
    return _first8(("".join(sorted(peer_urls)) + cluster_token).encode())


def compute_cluster_id(member_ids: Iterable[int]) -> int:
    """Return the id of a cluster bootstrapped with these members: SHA-1 over the sorted ids."""
    return _first8(b"".join(i.to_bytes(8, "big") for i in sorted(member_ids)))


def fresh_member_id(peer_urls: Iterable[str], salt: int) -> int:
    """Return an id for a member that is added: SHA-1 over its peer URLs and 64 random bits.

    etcd takes the time in seconds for the latter; a member that is removed and added again within
    one gets the id that was just barred there.
    """
    return _first8("".join(sorted(peer_urls)).encode() + salt.to_bytes(8, "big"))
