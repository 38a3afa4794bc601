"""The members of the cluster as the applied log knows them, kept in the backend's MEMBERS table.

Value format: one UTF-8 JSON object per member under its id (8 bytes, big-endian). JSON because a
record is written a few times in a cluster's life and is worth reading when something went wrong.
Who votes is Raft's ``ConfState``; this module knows names and addresses (CLU-01).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kvstore.membership.ids import compute_cluster_id, compute_member_id
from kvstore.pb import rpc_pb2
from kvstore.storage.backend import MEMBERS, META, Backend, Readable

_CLUSTER_ID = b"cluster_id"
_CLUSTER_VERSION = b"cluster_version"


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """One member. A member that never started has an empty name and no client URLs (CLU-01)."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False


def load_members(backend: Readable) -> list[MemberInfo]:
    """Read the members that a backend holds, by id."""
    members = []
    for key, value in backend.scan(MEMBERS, b"", None):
        record = json.loads(bytes(value))
        members.append(
            MemberInfo(
                int.from_bytes(key, "big"),
                record["name"],
                tuple(record["peer_urls"]),
                tuple(record["client_urls"]),
                record["is_learner"],
            )
        )
    return members


class Cluster:
    """The member list, changed only by applied log entries.

    Attributes:
        cluster_id: fixed at bootstrap, never 0.
        members: member id -> MemberInfo.
        version: the cluster version ("3.6.0"), or "" while the leader has not set it (HTP-06).
    """

    def __init__(self, backend: Backend, cluster_id: int) -> None:
        self._backend = backend
        self.cluster_id = cluster_id
        self.members: dict[int, MemberInfo] = {}
        self.version = ""

    @classmethod
    def bootstrap(
        cls, backend: Backend, initial: Mapping[str, tuple[str, ...]], token: str
    ) -> Cluster:
        """Write the first member list of a new cluster: name -> peer URLs, from the flags.

        A member list that the backend holds (it is a snapshot of another cluster) is dropped.
        """
        for key, _ in backend.scan(MEMBERS, b"", None):
            backend.delete(MEMBERS, key)
        backend.delete(META, _CLUSTER_VERSION)
        infos = [MemberInfo(compute_member_id(urls, token), "", urls) for urls in initial.values()]
        cluster = cls(backend, compute_cluster_id(info.id for info in infos))
        backend.put(META, _CLUSTER_ID, cluster.cluster_id.to_bytes(8, "big"))
        for info in infos:
            cluster._store(info)
        return cluster

    @classmethod
    def load(cls, backend: Backend) -> Cluster | None:
        """Read the member list; None when the backend holds none."""
        raw = backend.get(META, _CLUSTER_ID)
        if raw is None:
            return None
        cluster = cls(backend, int.from_bytes(raw, "big"))
        cluster.restore(backend)
        return cluster

    def restore(self, backend: Backend) -> None:
        """Read everything again, after a snapshot replaced the backend."""
        self._backend = backend
        self.version = (backend.get(META, _CLUSTER_VERSION) or b"").decode()
        self.members = {info.id: info for info in load_members(backend)}

    def _store(self, info: MemberInfo) -> None:
        self.members[info.id] = info
        record = {
            "name": info.name,
            "peer_urls": info.peer_urls,
            "client_urls": info.client_urls,
            "is_learner": info.is_learner,
        }
        self._backend.put(MEMBERS, info.id.to_bytes(8, "big"), json.dumps(record).encode())

    def publish(self, member_id: int, name: str, client_urls: tuple[str, ...]) -> None:
        """Apply a member's announcement of its name and client URLs (CLU-16)."""
        info = self.members.get(member_id)
        if info is not None:
            self._store(replace(info, name=name, client_urls=client_urls))

    def set_version(self, version: str) -> None:
        self.version = version
        self._backend.put(META, _CLUSTER_VERSION, version.encode())

    def to_pb(self) -> list[rpc_pb2.Member]:
        """Return the member list as the Cluster service answers it: sorted by id (CLU-01)."""
        return [
            rpc_pb2.Member(
                ID=info.id,
                name=info.name,
                peerURLs=info.peer_urls,
                clientURLs=info.client_urls,
                isLearner=info.is_learner,
            )
            for _, info in sorted(self.members.items())
        ]
