"""Changes of the member list as they stand in the log: UTF-8 JSON objects.

    add              {"id", "peer_urls", "is_learner", "max_learners"}
    remove, promote  {"id"}
    update           {"id", "peer_urls"}

An addition carries its proposer's limit of learners (CLU-06): members may be configured differently
and must apply alike.
"""

from __future__ import annotations

import json

from kvstore.membership.cluster import MemberInfo


def encode_add(info: MemberInfo, max_learners: int) -> bytes:
    record = {
        "id": info.id,
        "peer_urls": info.peer_urls,
        "is_learner": info.is_learner,
        "max_learners": max_learners,
    }
    return json.dumps(record).encode()


def decode_add(body: bytes) -> tuple[MemberInfo, int]:
    """Return the new member and the limit of learners. Raises ValueError, KeyError, TypeError."""
    record = json.loads(body)
    info = MemberInfo(
        int(record["id"]), "", _urls(record["peer_urls"]), (), bool(record["is_learner"])
    )
    return info, int(record["max_learners"])


def encode_id(member_id: int) -> bytes:
    """A removal or promotion."""
    return json.dumps({"id": member_id}).encode()


def decode_id(body: bytes) -> int:
    """Reverse of `encode_id`. Raises ValueError, KeyError, TypeError."""
    return int(json.loads(body)["id"])


def encode_update(member_id: int, peer_urls: tuple[str, ...]) -> bytes:
    return json.dumps({"id": member_id, "peer_urls": peer_urls}).encode()


def decode_update(body: bytes) -> tuple[int, tuple[str, ...]]:
    """Return id and new peer URLs. Raises ValueError, KeyError, TypeError."""
    record = json.loads(body)
    return int(record["id"]), _urls(record["peer_urls"])


def _urls(found: list[str]) -> tuple[str, ...]:
    return tuple(str(url) for url in found)
