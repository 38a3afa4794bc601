"""What the services share: the member core and how a call waits for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

from kvstore.errors import NO_SPACE, EtcdError
from kvstore.lease.lessor import Lessor
from kvstore.membership.cluster import Cluster
from kvstore.mvcc.store import Store
from kvstore.mvcc.watch import WatchHub
from kvstore.node.lease_keeper import LeaseKeeper
from kvstore.node.member import Member, Result
from kvstore.node.request import Kind
from kvstore.rpc.grpc import Timing

PeerCall = Callable[[int, int, bytes, float], Awaitable[bytes]]
"""(member id, method, payload, time-out in seconds) -> answer."""


@dataclass(slots=True)
class Core:
    """One member as the services see it."""

    member: Member
    store: Store
    lessor: Lessor
    leases: LeaseKeeper
    hub: WatchHub
    cluster: Cluster
    peer_call: PeerCall
    loop: asyncio.AbstractEventLoop
    random: random.Random
    max_txn_ops: int
    request_timeout_s: float
    election_s: float
    installs: int = 0
    """Snapshots installed so far: a read in slices must not go on across one."""
    timings: dict[Kind, Timing] = field(default_factory=lambda: {kind: Timing() for kind in Kind})
    """How long proposals took, from here to their answer."""

    def header(self, revision: int) -> bytes:
        """Return the header field of a response that is made outside the log."""
        member = self.member
        return member.header.encode(revision, member.applied_term)

    def no_space(self) -> asyncio.Future[bytes]:
        """Return the answer to a write beyond the quota: NO_SPACE once the alarm is up (MNT-15)."""
        future: asyncio.Future[bytes] = self.loop.create_future()
        self.member.quota.alarm(partial(_resolve, future, NO_SPACE))
        return future

    def propose(self, kind: Kind, body: bytes) -> asyncio.Future[bytes]:
        """Replicate a request; the future yields the encoded response once applied here."""
        future: asyncio.Future[bytes] = self.loop.create_future()
        self.member.propose(
            kind, body, partial(_resolve_timed, future, self.timings[kind], perf_counter())
        )
        return future

    def renew(self, lease_id: int) -> asyncio.Future[int]:
        """Return a future of what `Lessor.renew` says, as the leader (`LeaseKeeper.renew`)."""
        future: asyncio.Future[int] = self.loop.create_future()
        self.leases.renew(lease_id, partial(_resolve_renewal, future))
        return future

    async def change(self, kind: Kind, body: bytes) -> bytes:
        """Replicate a change of members; there is no time-out but the caller's (CLU-15)."""
        future: asyncio.Future[bytes] = self.loop.create_future()
        request_id = self.member.propose_change(kind, body, partial(_resolve, future))
        try:
            return await future
        finally:
            self.member.changes.forget(request_id)

    def compacted(self) -> asyncio.Future[bytes]:
        """Return a future that is done when no physical compaction is under way here (CMP-07)."""
        future: asyncio.Future[bytes] = self.loop.create_future()
        self.member.wait_compacted(partial(_resolve, future))
        return future

    def fresh(self) -> asyncio.Future[None]:
        """Return a future that is done when a linearizable read may be served locally (RFT-01)."""
        future: asyncio.Future[None] = self.loop.create_future()
        self.member.read_index(partial(_resolve_read, future))
        return future


def _resolve_timed(
    future: asyncio.Future[bytes], timing: Timing, began: float, result: Result
) -> None:
    took = perf_counter() - began
    (timing.ok if isinstance(result, bytes) else timing.failed).observe(took)
    _resolve(future, result)


def _resolve(future: asyncio.Future[bytes], result: Result) -> None:
    if future.done():
        return
    if isinstance(result, bytes):
        future.set_result(result)
    else:
        future.set_exception(EtcdError(result.code, result.message))


def _resolve_renewal(future: asyncio.Future[int], result: int | EtcdError) -> None:
    if future.done():
        return
    if isinstance(result, int):
        future.set_result(result)
    else:
        future.set_exception(EtcdError(result.code, result.message))


def _resolve_read(future: asyncio.Future[None], error: EtcdError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(EtcdError(error.code, error.message))
