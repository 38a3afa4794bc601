"""The Cluster service: who is a member, and changing it.

Checks that are advice (`membership.rules`) are made here, by the member that is asked; only whether
a learner is ready is known to the leader alone, so that is asked of it. What changes goes through
the log like everything else, and is answered when it is applied here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kvstore.errors import (
    LEADER_CHANGED,
    MEMBER_NOT_FOUND,
    MEMBER_NOT_LEARNER,
    UNHEALTHY,
    EtcdError,
)
from kvstore.membership import changes, rules
from kvstore.membership.cluster import MemberInfo
from kvstore.membership.ids import fresh_member_id
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call
from kvstore.rpc.peer_calls import PeerCalls, PeerMethod, ask_leader

log = logging.getLogger("server")


@dataclass(frozen=True, slots=True)
class Reconfiguration:
    """How changes are checked.

    Attributes:
        strict: ``--strict-reconfig-check``.
        max_learners: ``--max-learners``.
        connected: since when this member is connected to each of the others, in the loop's time.
    """

    strict: bool
    max_learners: int
    connected: Mapping[int, float]


class ClusterService:
    """MemberList, MemberAdd, MemberRemove, MemberUpdate, MemberPromote.

    Attributes:
        promotions, promotion_failures: how many succeeded, and failed by text.
    """

    def __init__(self, core: Core, calls: PeerCalls, checks: Reconfiguration) -> None:
        self.promotions = 0
        self.promotion_failures: Counter[str] = Counter()
        self._core = core
        self._checks = checks
        calls.register(PeerMethod.LEARNER_READY, self._learner_ready)

    async def member_list(self, call: Call, request: rpc_pb2.MemberListRequest) -> bytes:
        core = self._core
        if request.linearizable:
            await core.fresh()
        response = rpc_pb2.MemberListResponse(members=core.cluster.to_pb())
        return core.header(0) + response.SerializeToString()

    async def member_add(self, call: Call, request: rpc_pb2.MemberAddRequest) -> bytes:
        """Add a voter or a learner (CLU-03..08)."""
        core, learner = self._core, request.isLearner
        urls = rules.check_peer_urls(request.peerURLs)
        self._strict(
            "add",
            lambda: rules.check_add(
                core.cluster,
                learner=learner,
                own_id=core.member.raft.id,
                connected=self._checks.connected,
                now=core.loop.time(),
            ),
        )
        info = MemberInfo(fresh_member_id(urls, core.random.getrandbits(64)), "", urls, (), learner)
        # A refusal in the log bars an id for ever: refuse here what can be.
        await core.fresh()
        core.cluster.check_add(info, self._checks.max_learners)
        body = changes.encode_add(info, self._checks.max_learners)
        return await core.change(Kind.MEMBER_ADD, body)

    async def member_remove(self, call: Call, request: rpc_pb2.MemberRemoveRequest) -> bytes:
        """Remove a member (CLU-09..11)."""
        core = self._core
        _check_id(request.ID)
        self._strict(
            "remove",
            lambda: rules.check_remove(
                core.cluster,
                request.ID,
                own_id=core.member.raft.id,
                connected=self._checks.connected,
                now=core.loop.time(),
            ),
        )
        return await core.change(Kind.MEMBER_REMOVE, changes.encode_id(request.ID))

    async def member_update(self, call: Call, request: rpc_pb2.MemberUpdateRequest) -> bytes:
        """Replace a member's peer URLs (CLU-12). Unlike etcd, refuse what is no URL."""
        core = self._core
        _check_id(request.ID)
        urls = rules.check_peer_urls(request.peerURLs)
        return await core.propose(Kind.MEMBER_UPDATE, changes.encode_update(request.ID, urls))

    async def member_promote(self, call: Call, request: rpc_pb2.MemberPromoteRequest) -> bytes:
        """Make a learner that has caught up a voter (CLU-13)."""
        try:
            answer = await self._promote(request.ID)
        except EtcdError as error:
            self.promotion_failures[error.message] += 1
            raise
        self.promotions += 1
        return answer

    async def _promote(self, member_id: int) -> bytes:
        core = self._core
        _check_id(member_id)
        payload = member_id.to_bytes(8, "big")
        await ask_leader(core, PeerMethod.LEARNER_READY, payload, self._learner_ready)
        self._strict("promote", lambda: rules.check_promote(core.cluster))
        return await core.change(Kind.MEMBER_PROMOTE, changes.encode_id(member_id))

    async def _learner_ready(self, payload: bytes) -> bytes:
        """Check, as leader, that a member may be promoted; nothing is changed."""
        core, member_id = self._core, int.from_bytes(payload, "big")
        await core.fresh()
        if not core.cluster.get(member_id).is_learner:
            raise MEMBER_NOT_LEARNER
        raft = core.member.raft
        learner, leader = raft.progress(member_id), raft.progress(raft.id)
        if learner is None or leader is None:
            raise LEADER_CHANGED
        rules.check_ready(learner.match, leader.match)
        return b""

    def _strict(self, what: str, check: Callable[[], None]) -> None:
        """Run a check if ``--strict-reconfig-check`` says so, and log what it refuses."""
        if not self._checks.strict:
            return
        try:
            check()
        except EtcdError as error:
            reason = (
                "this member has not been connected to enough others for long enough"
                if error is UNHEALTHY
                else "not enough members have started"
            )
            log.warning("rejecting member %s request: %s", what, reason)
            raise


def _check_id(member_id: int) -> None:
    """No member has id 0, and Raft takes it for nobody's."""
    if not member_id:
        raise MEMBER_NOT_FOUND
