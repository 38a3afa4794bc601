"""The members of the cluster as the applied log knows them, kept in the backend's MEMBERS table.

Value format: one UTF-8 JSON object per member under its id (8 bytes, big-endian). JSON because a
record is written a few times in a cluster's life and is worth reading when something went wrong.
A removed member's record becomes ``{"removed": true}`` and stays: its id is barred for ever
(CLU-05). Who votes is Raft's ``ConfState``; this module knows names and addresses (CLU-01).

The changes validate themselves against the list alone, so an entry that must be refused is refused
by every member alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kvstore.errors import (
    MEMBER_EXIST,
    MEMBER_NOT_ENOUGH_STARTED,
    MEMBER_NOT_FOUND,
    MEMBER_NOT_LEARNER,
    PEER_URL_EXIST,
    TOO_MANY_LEARNERS,
    EtcdError,
)
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

    @property
    def started(self) -> bool:
        """Whether it has published itself."""
        return bool(self.name)

    def to_pb(self) -> rpc_pb2.Member:
        """Return it as the Cluster service answers it."""
        return rpc_pb2.Member(
            ID=self.id,
            name=self.name,
            peerURLs=self.peer_urls,
            clientURLs=self.client_urls,
            isLearner=self.is_learner,
        )


def load_members(backend: Readable) -> list[MemberInfo]:
    """Read the members that a backend holds, by id."""
    return [
        MemberInfo(
            member_id,
            record["name"],
            tuple(record["peer_urls"]),
            tuple(record["client_urls"]),
            record["is_learner"],
        )
        for member_id, record in _records(backend)
        if "removed" not in record
    ]


def load_removed(backend: Readable) -> set[int]:
    """Read the barred ids that a backend holds."""
    return {member_id for member_id, record in _records(backend) if "removed" in record}


def _records(backend: Readable) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, value in backend.scan(MEMBERS, b"", None):
        yield int.from_bytes(key, "big"), json.loads(bytes(value))


class Cluster:
    """The member list, changed only by applied log entries.

    Attributes:
        cluster_id: fixed at bootstrap, never 0.
        members: member id -> MemberInfo.
        removed: ids that were members once, and those of refused additions.
        version: the cluster version ("3.6.0"), or "" while the leader has not set it (HTP-06).
    """

    def __init__(self, backend: Backend, cluster_id: int) -> None:
        self._backend = backend
        self.cluster_id = cluster_id
        self.members: dict[int, MemberInfo] = {}
        self.removed: set[int] = set()
        self.version = ""

    @classmethod
    def bootstrap(
        cls, backend: Backend, initial: Mapping[str, tuple[str, ...]], token: str
    ) -> Cluster:
        """Write the first member list of a new cluster: name -> peer URLs, from the flags.

        A member list that the backend holds (it is a snapshot of another cluster) is dropped.
        """
        infos = [MemberInfo(compute_member_id(urls, token), "", urls) for urls in initial.values()]
        return cls.write(backend, compute_cluster_id(info.id for info in infos), infos)

    @classmethod
    def write(cls, backend: Backend, cluster_id: int, members: Iterable[MemberInfo]) -> Cluster:
        """Write a member list in the place of what the backend holds, if anything."""
        for key, _ in backend.scan(MEMBERS, b"", None):
            backend.delete(MEMBERS, key)
        backend.delete(META, _CLUSTER_VERSION)
        cluster = cls(backend, cluster_id)
        backend.put(META, _CLUSTER_ID, cluster_id.to_bytes(8, "big"))
        for info in members:
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
        self.removed = load_removed(backend)

    def _store(self, info: MemberInfo) -> None:
        self.members[info.id] = info
        record = {
            "name": info.name,
            "peer_urls": info.peer_urls,
            "client_urls": info.client_urls,
            "is_learner": info.is_learner,
        }
        self._put(info.id, record)

    def _put(self, member_id: int, record: dict[str, object]) -> None:
        self._backend.put(MEMBERS, member_id.to_bytes(8, "big"), json.dumps(record).encode())

    def voters(self) -> list[MemberInfo]:
        """Return the members that are not learners."""
        return [info for info in self.members.values() if not info.is_learner]

    # Changes, as the log brings them.

    def add(self, info: MemberInfo, max_learners: int) -> None:
        """Apply an addition; its proposer's limit of learners comes with it.

        The id of a refused one is barred: the entry may be in the log twice (`node.changes`), and
        the second copy must not succeed when its asker has been told that nothing happened.

        Raises: MEMBER_NOT_FOUND for a barred id, else as `check_add`.
        """
        if info.id in self.removed:
            raise MEMBER_NOT_FOUND
        try:
            self.check_add(info, max_learners)
        except EtcdError:
            if info.id not in self.members:
                self._bar(info.id)
            raise
        self._store(info)

    def check_add(self, info: MemberInfo, max_learners: int) -> None:
        """Raise MEMBER_EXIST, PEER_URL_EXIST (CLU-04) or TOO_MANY_LEARNERS (CLU-06)."""
        if info.id in self.members:
            raise MEMBER_EXIST
        self._check_urls_free(info.id, info.peer_urls)
        learners = len(self.members) - len(self.voters())
        if info.is_learner and learners >= max_learners:
            raise TOO_MANY_LEARNERS

    def remove(self, member_id: int) -> None:
        """Apply a removal; the id is barred from now on (CLU-09).

        Raises: MEMBER_NOT_FOUND; MEMBER_NOT_ENOUGH_STARTED for the last voter.
        """
        if not self.get(member_id).is_learner and len(self.voters()) == 1:
            raise MEMBER_NOT_ENOUGH_STARTED
        del self.members[member_id]
        self._bar(member_id)

    def _bar(self, member_id: int) -> None:
        self.removed.add(member_id)
        self._put(member_id, {"removed": True})

    def promote(self, member_id: int) -> None:
        """Make a learner a voter (CLU-13). Raises MEMBER_NOT_FOUND, MEMBER_NOT_LEARNER."""
        info = self.get(member_id)
        if not info.is_learner:
            raise MEMBER_NOT_LEARNER
        self._store(replace(info, is_learner=False))

    def update(self, member_id: int, peer_urls: tuple[str, ...]) -> None:
        """Replace a member's peer URLs (CLU-12). Raises MEMBER_NOT_FOUND, PEER_URL_EXIST."""
        info = self.get(member_id)
        self._check_urls_free(member_id, peer_urls)
        self._store(replace(info, peer_urls=peer_urls))

    def get(self, member_id: int) -> MemberInfo:
        """Return a member; raise MEMBER_NOT_FOUND for what is none (any more)."""
        info = self.members.get(member_id)
        if info is None:
            raise MEMBER_NOT_FOUND
        return info

    def _check_urls_free(self, member_id: int, peer_urls: tuple[str, ...]) -> None:
        others = (info.peer_urls for info in self.members.values() if info.id != member_id)
        if not set(peer_urls).isdisjoint(url for urls in others for url in urls):
            raise PEER_URL_EXIST

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
        return [info.to_pb() for _, info in sorted(self.members.items())]
