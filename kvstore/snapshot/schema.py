"""How etcd lays its data out in buckets, and how that differs from the tables here.

    bucket           key                                value
    key              main u64 | "_" | sub u64 [| "t"]   KeyValue; of a tombstone the key only
    lease            id, 8 bytes                        leasepb.Lease
    alarm            AlarmMember                        empty
    auth, authUsers, authRoles                          as in table AUTH, see `auth_key`
    meta             the names below                    revisions as in `key`, else see `export`
    members          id, 16 hex digits                  JSON
    members_removed  id, 16 hex digits                  "removed"
    cluster          "clusterVersion"                   "x.y.0"

All numbers are big-endian. Bucket `cluster` stays empty in what is written here: etcd refuses to
start below the cluster version that it finds, and a restored cluster agrees on one anyway.
"""

from __future__ import annotations

import json
from typing import Final

from kvstore.membership.cluster import MemberInfo
from kvstore.mvcc.keyvalue import TOMBSTONE_MARK
from raft import ConfState

KEY: Final = b"key"
LEASE: Final = b"lease"
ALARM: Final = b"alarm"
AUTH_BUCKETS: Final = (b"auth", b"authUsers", b"authRoles")
META: Final = b"meta"
MEMBERS: Final = b"members"
EMPTY_BUCKETS: Final = (b"members_removed", b"cluster")
"""Buckets that etcd expects, whose content is of no use to a restored cluster."""

CONSISTENT_INDEX: Final = b"consistent_index"
TERM: Final = b"term"
CONF_STATE: Final = b"confState"
STORAGE_VERSION_KEY: Final = b"storageVersion"
SCHEDULED_COMPACT: Final = b"scheduledCompactRev"
FINISHED_COMPACT: Final = b"finishedCompactRev"

AUTH_ENABLED: Final = (b"auth", b"authEnabled", b"\x01")
"""Bucket, key and value that say that a cluster asks its clients who they are."""

MAX_REVISION: Final = (1 << 63) - 1

_SEPARATOR: Final = b"_"
_PUT_KEY_BYTES: Final = 17
_AUTH_SEPARATOR: Final = b"\0"


def etcd_revision(main: int) -> bytes:
    """Return a main revision as etcd's meta bucket keeps it, with sub revision 0."""
    return main.to_bytes(8, "big") + _SEPARATOR + bytes(8)


def own_revision_key(key: bytes) -> bytes:
    """Return our REVISIONS key for a key of etcd's bucket `key`, or of its meta bucket.

    Raises:
        ValueError: it is none; the text says why.
    """
    if len(key) not in (_PUT_KEY_BYTES, _PUT_KEY_BYTES + 1):
        raise ValueError(f"a revision has {_PUT_KEY_BYTES} or {_PUT_KEY_BYTES + 1} bytes")
    if key[8:9] != _SEPARATOR or key[_PUT_KEY_BYTES:] not in (b"", TOMBSTONE_MARK):
        raise ValueError("a revision is main, '_', sub and perhaps 't'")
    if key[0] & 0x80 or key[9] & 0x80:
        raise ValueError("a revision is not negative")
    return key[:8] + key[9:]


def auth_key(bucket: bytes, key: bytes) -> bytes:
    """Return the key in table AUTH of what etcd keeps in one of `AUTH_BUCKETS`: both names, joined
    by a zero byte. Values are the same."""
    return bucket + _AUTH_SEPARATOR + key


def split_auth_key(key: bytes) -> tuple[bytes, bytes]:
    """Return etcd's bucket and key for a key of table AUTH."""
    bucket, _, name = key.partition(_AUTH_SEPARATOR)
    return bucket, name


def conf_state_json(conf: ConfState) -> bytes:
    """Return who votes as etcd's meta bucket keeps it."""
    lists = {
        "voters": conf.voters,
        "learners": conf.learners,
        "voters_outgoing": conf.voters_outgoing,
        "learners_next": conf.learners_next,
    }
    record: dict[str, object] = {name: list(ids) for name, ids in lists.items() if ids}
    record["auto_leave"] = bool(conf.auto_leave)
    return json.dumps(record, separators=(",", ":")).encode()


def member_pair(info: MemberInfo) -> tuple[bytes, bytes]:
    """Return a member as etcd's bucket keeps it."""
    record: dict[str, object] = {"id": info.id, "peerURLs": list(info.peer_urls)}
    if info.is_learner:
        record["isLearner"] = True
    if info.name:
        record["name"] = info.name
    if info.client_urls:
        record["clientURLs"] = list(info.client_urls)
    return b"%016x" % info.id, json.dumps(record, separators=(",", ":")).encode()
