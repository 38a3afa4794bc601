"""What a running server does about the member list: follow it, describe it, obey its own removal.

The list changes by applied entries and by installed snapshots; after each, the transport's peers,
the learner's restriction and, if it comes to that, the end of this process follow from it here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING

from kvstore.errors import EtcdError
from kvstore.membership.cluster import MemberInfo
from kvstore.node.retirement import Retirement
from kvstore.peer.handshake import Standing
from kvstore.peer.http import Page, Pages
from kvstore.version import VERSION, versions

if TYPE_CHECKING:
    from kvstore.server.process import Server

log = logging.getLogger("server")

PEER_PROTOCOL_HEADER = "X-Kvstore-Peer-Protocol"
"""In the answer to ``/members``: tells our members from etcd's, which cannot be joined."""
FRESH_S = 1.0
"""How long ``/members`` waits for the newest list before it tells what it has."""


class Membership:
    """See the module's docstring."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._cluster = server.state.cluster
        self._own_id = server.state.member_id
        self.retirement = Retirement()
        self._said = False

    def changed(self) -> None:
        """The member list, or the configuration, is another one."""
        server, cluster = self._server, self._cluster
        server.transport.set_peers({i: info.peer_urls for i, info in cluster.members.items()})
        server.router.learner = server.member.raft.is_learner
        if self._own_id in cluster.removed:
            self.retirement.applied(server.loop.time())

    def told_removed(self, by: int) -> None:
        """Another member refuses this one as removed."""
        self.retirement.told(by, self._server.loop.time())

    def tick(self, now: float) -> None:
        """Carry out this member's own removal, step by step (CLU-11)."""
        retirement, server = self.retirement, self._server
        if not retirement.noticed or server.stopping.is_set():
            return
        if not self._said:
            self._said = True
            log.error(
                "this member has been permanently removed from the cluster; it stops",
                extra={"member_id": f"{self._own_id:x}", "data_dir": server.config.data_dir},
            )
        voters = [info.id for info in self._cluster.voters() if info.id != self._own_id]
        if retirement.due(voters, now):
            server.stopping.set()
        elif not retirement.serves(now):
            server.end_service()

    def standing(self, peer: int) -> Standing:
        """What another member is to this one."""
        if peer in self._cluster.members:
            return Standing.MEMBER
        if peer not in self._cluster.removed:
            return Standing.STRANGER
        return Standing.REMOVED if self._server.member.refuses(peer) else Standing.BARRED

    def pages(self) -> Pages:
        """What the peer port answers over HTTP (HTP-06, HTP-15)."""
        return {"/members": self._members, "/version": self._version}

    async def _members(self) -> Page:
        # A member that was just added asks, and whom it asks may not have heard of it yet.
        with contextlib.suppress(EtcdError, TimeoutError):
            if self._server.member.raft.leader:
                await asyncio.wait_for(self._server.core.fresh(), FRESH_S)
        headers = {
            "X-Etcd-Cluster-Id": f"{self._cluster.cluster_id:x}",
            PEER_PROTOCOL_HEADER: VERSION,
        }
        members = [_json_member(info) for _, info in sorted(self._cluster.members.items())]
        return Page(json.dumps(members, separators=(",", ":")).encode() + b"\n", headers)

    async def _version(self) -> Page:
        found = versions(self._cluster.version)
        return Page(json.dumps(found, separators=(",", ":")).encode(), {})


def _json_member(info: MemberInfo) -> dict[str, object]:
    """A member as etcd's ``/members`` shows it: what is empty is left out."""
    member: dict[str, object] = {"id": info.id, "peerURLs": info.peer_urls}
    if info.is_learner:
        member["isLearner"] = True
    if info.name:
        member["name"] = info.name
    if info.client_urls:
        member["clientURLs"] = info.client_urls
    return member
