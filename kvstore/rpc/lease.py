"""The Lease service. Grants and revocations go through the log; the leader alone knows expiries, so
renewals and remaining times are asked of it over the peer connection (LSE-08, LSE-16).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from kvstore.apply.quota import LEASE_COST_BYTES
from kvstore.errors import LEADER_CHANGED, LEASE_TTL_TOO_LARGE
from kvstore.lease.lessor import MAX_TTL_S, RENEW_EXPIRED
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call
from kvstore.rpc.peer_calls import RETRY_S, PeerCalls, PeerMethod, ask_leader

Send = Callable[[list[bytes]], Awaitable[None]]


class LeaseService:
    """LeaseGrant, LeaseRevoke, LeaseKeepAlive, LeaseTimeToLive, LeaseLeases."""

    def __init__(self, core: Core, calls: PeerCalls) -> None:
        self._core = core
        calls.register(PeerMethod.LEASE_RENEW, self._local_renew)
        calls.register(PeerMethod.LEASE_TIME_TO_LIVE, self._local_time_to_live)

    def grant(self, call: Call, request: rpc_pb2.LeaseGrantRequest) -> Awaitable[bytes]:
        core = self._core
        if core.member.quota.exceeded(LEASE_COST_BYTES):
            return core.no_space()
        if request.TTL > MAX_TTL_S:
            raise LEASE_TTL_TOO_LARGE
        if not request.ID:
            # The id is picked here, before the log, so that all members agree on it (LSE-01).
            request.ID = core.lessor.pick_id(core.random)
        return core.propose(Kind.LEASE_GRANT, request.SerializeToString())

    def revoke(self, call: Call, request: rpc_pb2.LeaseRevokeRequest) -> Awaitable[bytes]:
        return self._core.propose(Kind.LEASE_REVOKE, request.SerializeToString())

    def leases(self, call: Call, request: rpc_pb2.LeaseLeasesRequest) -> bytes:
        core = self._core
        response = rpc_pb2.LeaseLeasesResponse(
            leases=[rpc_pb2.LeaseStatus(ID=lease_id) for lease_id in core.lessor.ids()]
        )
        return core.header(core.store.revision) + response.SerializeToString()

    async def time_to_live(self, call: Call, request: rpc_pb2.LeaseTimeToLiveRequest) -> bytes:
        core = self._core
        body = await ask_leader(
            core,
            PeerMethod.LEASE_TIME_TO_LIVE,
            request.SerializeToString(),
            self._local_time_to_live,
        )
        return core.header(core.store.revision) + body

    async def keep_alive(
        self, call: Call, requests: AsyncIterator[rpc_pb2.LeaseKeepAliveRequest], send: Send
    ) -> None:
        """Answer each request in order (LSE-05); a half-close ends the stream (LSE-15)."""
        core = self._core
        async for request in requests:
            # Sampled before renewing: a success never shows a revision at which the lease was
            # revoked already (LSE-07).
            revision = core.store.revision
            ttl = int(
                await ask_leader(
                    core, PeerMethod.LEASE_RENEW, b"%d" % request.ID, self._local_renew
                )
            )
            response = rpc_pb2.LeaseKeepAliveResponse(ID=request.ID, TTL=ttl)
            await send([core.header(revision) + response.SerializeToString()])

    # The leader's side.

    async def _local_renew(self, payload: bytes) -> bytes:
        core, lease_id = self._core, int(payload)
        while True:
            ttl = await core.renew(lease_id)
            if ttl != RENEW_EXPIRED:
                return b"%d" % ttl
            await asyncio.sleep(RETRY_S)

    async def _local_time_to_live(self, payload: bytes) -> bytes:
        core = self._core
        request = rpc_pb2.LeaseTimeToLiveRequest.FromString(payload)
        await core.fresh()
        if not core.lessor.exists(request.ID):
            return rpc_pb2.LeaseTimeToLiveResponse(ID=request.ID, TTL=-1).SerializeToString()
        if not core.lessor.is_primary:
            raise LEADER_CHANGED
        response = rpc_pb2.LeaseTimeToLiveResponse(
            ID=request.ID,
            TTL=core.lessor.remaining(request.ID, core.loop.time()),
            grantedTTL=core.lessor.ttl(request.ID),
            keys=core.lessor.keys(request.ID) if request.keys else (),
        )
        return response.SerializeToString()
