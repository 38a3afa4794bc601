"""The Maintenance service, but for Snapshot (`snapshot`) and Downgrade (`downgrade`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final, TypeVar

from kvstore.apply.alarms import TYPES, alarm_text
from kvstore.errors import (
    BAD_LEADER_TRANSFEREE,
    LEADER_CHANGED,
    LEADER_TRANSFER_TIMEOUT,
    NO_LEADER,
    NOT_LEADER,
    Code,
    EtcdError,
)
from kvstore.histogram import Histogram, exponential
from kvstore.mvcc.hash import HashKV, hash_backend_steps, hash_kv_steps
from kvstore.mvcc.steps import Steps
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call
from kvstore.storage.backend import Backend
from kvstore.version import STORAGE_VERSION, VERSION
from raft import ProposalDropped

Result = TypeVar("Result")

HASH_S: Final = exponential(0.01, 2, 15)
"""Seconds; buckets of etcd_mvcc_hash_duration_seconds and etcd_mvcc_hash_rev_duration_seconds."""
UNLIMITED_QUOTA: Final = -1
"""The quota that Status tells when there is none: as the flag is set then, a negative number."""
TRANSFER_POLL_S = 0.01
"""Pause between two looks whether leadership has moved."""
ANSWER_EARLY_S = 0.5
"""A transfer that does not end is answered so long before the caller's deadline, or a tenth of the
time if that is less: at the deadline itself nobody listens any more."""


async def drive(core: Core, steps: Steps[Result], times: Histogram) -> Result:
    """Run a long read in slices between which the event loop runs; `times` gets its duration."""
    began = perf_counter()
    installs = core.installs
    while True:
        if core.installs != installs:
            raise LEADER_CHANGED  # a snapshot replaced what was being read; try again
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            times.observe(perf_counter() - began)
            return result
        await asyncio.sleep(0)


class MaintenanceService:
    """Status, Hash, HashKV, Alarm, Defragment and MoveLeader.

    Attributes:
        hash_times, hash_kv_times: of each Hash and HashKV that succeeded.
    """

    def __init__(
        self,
        core: Core,
        backend: Callable[[], Backend],
        quota_bytes: int,
        defragment: Callable[[], Awaitable[None]],
    ) -> None:
        self._core = core
        self._backend = backend
        self._quota_bytes = quota_bytes
        self._defragment = defragment
        self.hash_times = Histogram(HASH_S)
        self.hash_kv_times = Histogram(HASH_S)

    def status(self, call: Call, request: rpc_pb2.StatusRequest) -> bytes:
        """Local, and needs no leader (MNT-01..04)."""
        core, raft = self._core, self._core.member.raft
        backend = self._backend()
        response = rpc_pb2.StatusResponse(
            version=VERSION,
            dbSize=backend.size(),
            dbSizeInUse=backend.size_in_use(),
            dbSizeQuota=self._quota_bytes or UNLIMITED_QUOTA,
            leader=raft.leader,
            raftIndex=raft.commit_index,
            raftAppliedIndex=core.member.applied_index,
            raftTerm=core.member.applied_term,
            isLearner=raft.is_learner,
            storageVersion=STORAGE_VERSION,
            errors=self._errors(),
            downgradeInfo=rpc_pb2.DowngradeInfo(),
        )
        return core.header(core.store.revision) + response.SerializeToString()

    def _errors(self) -> list[str]:
        """What Status calls errors: no leader, and every alarm (MNT-03)."""
        member = self._core.member
        errors = [] if member.raft.leader else [NO_LEADER.message]
        return errors + [alarm_text(*alarm) for alarm in member.applier.alarms.active()]

    async def hash_kv(self, call: Call, request: rpc_pb2.HashKVRequest) -> bytes:
        core = self._core
        found = await self.hashed(request.revision)
        response = rpc_pb2.HashKVResponse(
            hash=found.hash,
            compact_revision=found.compact_revision,
            hash_revision=found.hash_revision,
        )
        return core.header(core.store.revision) + response.SerializeToString()

    async def hashed(self, revision: int) -> HashKV:
        """Hash this member's data (MNT-20). Raises EtcdError, CorruptBackend."""
        return await drive(
            self._core, hash_kv_steps(self._core.store, revision), self.hash_kv_times
        )

    async def hash(self, call: Call, request: rpc_pb2.HashRequest) -> bytes:
        """Hash all tables but the bookkeeping: a test aid, equal on equal members (MNT-19)."""
        core = self._core
        found = await drive(core, hash_backend_steps(self._backend()), self.hash_times)
        response = rpc_pb2.HashResponse(hash=found)
        return core.header(core.store.revision) + response.SerializeToString()

    def alarm(self, call: Call, request: rpc_pb2.AlarmRequest) -> Awaitable[bytes]:
        """List, raise or disarm alarms, all through the log (MNT-05..07).

        An action or a type to raise that is not known is refused by name: etcd's process ends.
        """
        core, action = self._core, request.action
        if action not in rpc_pb2.AlarmRequest.AlarmAction.values():
            raise EtcdError(Code.INVALID_ARGUMENT, f"etcdserver: unknown alarm action {action}")
        if action == rpc_pb2.AlarmRequest.ACTIVATE and request.alarm not in (rpc_pb2.NONE, *TYPES):
            raise EtcdError(Code.INVALID_ARGUMENT, f"etcdserver: unknown alarm {request.alarm}")
        return core.propose(Kind.ALARM, request.SerializeToString())

    async def defragment(self, call: Call, request: rpc_pb2.DefragmentRequest) -> bytes:
        """Defragment this member's backend; the reply has no header (MNT-18, GEN-05)."""
        await self._defragment()
        return b""

    async def move_leader(self, call: Call, request: rpc_pb2.MoveLeaderRequest) -> bytes:
        """Hand leadership over and wait until it has moved; no header (MNT-28, MNT-29, GEN-05).

        Raises:
            EtcdError: NOT_LEADER, BAD_LEADER_TRANSFEREE, LEADER_TRANSFER_TIMEOUT.
        """
        member, loop = self._core.member, self._core.loop
        if not member.is_leader:
            raise NOT_LEADER
        try:
            member.transfer_leadership(request.targetID)
        except ProposalDropped:
            raise BAD_LEADER_TRANSFEREE from None
        give_up = self._give_up_at(call)
        while member.raft.leader != request.targetID:
            if loop.time() >= give_up:
                raise LEADER_TRANSFER_TIMEOUT
            await asyncio.sleep(TRANSFER_POLL_S)
        return b""

    def _give_up_at(self, call: Call) -> float:
        """When to answer that a transfer took too long: while the caller still listens."""
        now = self._core.loop.time()
        if call.deadline is None:
            return now + self._core.request_timeout_s
        return call.deadline - min((call.deadline - now) / 10, ANSWER_EARLY_S)
