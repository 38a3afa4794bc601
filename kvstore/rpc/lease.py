"""The Lease service. Grants and revocations go through the log; the leader alone knows expiries, so
renewals and remaining times are asked of it over the peer connection (LSE-08, LSE-16).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import IntEnum

from kvstore.errors import (
    LEADER_CHANGED,
    LEASE_TTL_TOO_LARGE,
    NO_LEADER,
    TIMEOUT,
    EtcdError,
)
from kvstore.lease.lessor import MAX_TTL_S, RENEW_EXPIRED
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call
from kvstore.rpc.watch import LeaderGuard

RETRY_S = 0.05
"""Pause before a renewal that met no leader, or an expired lease, is tried again."""

LEASE_COST_BYTES = 64
"""What a lease costs against the quota (MNT-12)."""

Send = Callable[[list[bytes]], Awaitable[None]]


class PeerMethod(IntEnum):
    """Calls between members."""

    LEASE_RENEW = 1
    LEASE_TIME_TO_LIVE = 2


class LeaseService:
    """LeaseGrant, LeaseRevoke, LeaseKeepAlive, LeaseTimeToLive, LeaseLeases."""

    def __init__(self, core: Core, guard: LeaderGuard) -> None:
        self._core = core
        self._guard = guard

    def grant(self, call: Call, request: rpc_pb2.LeaseGrantRequest) -> Awaitable[bytes]:
        core = self._core
        core.require_leader(call)
        core.check_quota(LEASE_COST_BYTES)
        if request.TTL > MAX_TTL_S:
            raise LEASE_TTL_TOO_LARGE
        if not request.ID:
            # The id is picked here, before the log, so that all members agree on it (LSE-01).
            request.ID = core.lessor.pick_id(core.random)
        return core.propose(Kind.LEASE_GRANT, request.SerializeToString())

    def revoke(self, call: Call, request: rpc_pb2.LeaseRevokeRequest) -> Awaitable[bytes]:
        self._core.require_leader(call)
        return self._core.propose(Kind.LEASE_REVOKE, request.SerializeToString())

    def leases(self, call: Call, request: rpc_pb2.LeaseLeasesRequest) -> bytes:
        core = self._core
        core.require_leader(call)
        response = rpc_pb2.LeaseLeasesResponse(
            leases=[rpc_pb2.LeaseStatus(ID=lease_id) for lease_id in core.lessor.ids()]
        )
        return core.header(core.store.revision) + response.SerializeToString()

    async def time_to_live(self, call: Call, request: rpc_pb2.LeaseTimeToLiveRequest) -> bytes:
        core = self._core
        core.require_leader(call)
        body = await self._ask_leader(
            PeerMethod.LEASE_TIME_TO_LIVE, request.SerializeToString(), self._local_time_to_live
        )
        return core.header(core.store.revision) + body

    async def keep_alive(
        self, call: Call, requests: AsyncIterator[rpc_pb2.LeaseKeepAliveRequest], send: Send
    ) -> None:
        """Answer each request in order (LSE-05); a half-close ends the stream (LSE-15)."""
        lost_leader = self._guard.guard(self._core, call)
        worker = asyncio.ensure_future(self._keep_alive(requests, send))
        try:
            done, _ = await asyncio.wait({worker, lost_leader}, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            worker.cancel()
            lost_leader.cancel()

    async def _keep_alive(
        self, requests: AsyncIterator[rpc_pb2.LeaseKeepAliveRequest], send: Send
    ) -> None:
        core = self._core
        async for request in requests:
            # Sampled before renewing: a success never shows a revision at which the lease was
            # revoked already (LSE-07).
            revision = core.store.revision
            ttl = int(
                await self._ask_leader(
                    PeerMethod.LEASE_RENEW, b"%d" % request.ID, self._local_renew
                )
            )
            response = rpc_pb2.LeaseKeepAliveResponse(ID=request.ID, TTL=ttl)
            await send([core.header(revision) + response.SerializeToString()])

    # The leader's side.

    async def handle_call(self, method: int, payload: bytes) -> bytes:
        """Answer another member's call. Raises EtcdError, NO_LEADER when this is not the leader."""
        if method == PeerMethod.LEASE_RENEW:
            return await self._local_renew(payload)
        if method == PeerMethod.LEASE_TIME_TO_LIVE:
            return await self._local_time_to_live(payload)
        raise EtcdError(NO_LEADER.code, f"unknown peer call {method}")

    async def _local_renew(self, payload: bytes) -> bytes:
        core, lease_id = self._core, int(payload)
        while True:
            # Leadership is confirmed and everything committed is applied before the lease is
            # looked at (LSE-09, LSE-10).
            await core.fresh()
            if not core.lessor.is_primary:
                raise NO_LEADER
            ttl = core.lessor.renew(lease_id, core.loop.time())
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

    # Finding the leader.

    async def _ask_leader(
        self, method: PeerMethod, payload: bytes, local: Callable[[bytes], Awaitable[bytes]]
    ) -> bytes:
        """Do it here if this is the leader, else ask it, waiting for one to appear (LSE-08)."""
        core = self._core
        deadline = core.loop.time() + core.request_timeout_s
        while True:
            left = deadline - core.loop.time()
            if left <= 0:
                raise TIMEOUT if core.member.raft.leader else NO_LEADER
            try:
                if core.member.is_leader:
                    return await asyncio.wait_for(local(payload), left)
                leader = core.member.raft.leader
                if leader:
                    return await core.peer_call(leader, method, payload, left)
            except EtcdError as error:
                if error.message not in (NO_LEADER.message, LEADER_CHANGED.message):
                    raise
            except (ConnectionError, TimeoutError):
                pass
            await asyncio.sleep(RETRY_S)
