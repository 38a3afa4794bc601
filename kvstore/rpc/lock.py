"""The Lock service: a lock is held by the first in a line of keys (CON-01..08).

Nothing else is kept about locks, so they mix with those of clients that write such keys themselves
(CON-01), and a holder whose lease ends loses the lock with its key (CON-14).
"""

from __future__ import annotations

from kvstore.errors import LOCK_SESSION_EXPIRED
from kvstore.pb import lock_pb2, rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call
from kvstore.rpc.kv import KVService
from kvstore.rpc.waiting import Lines, through_a_client


class LockService:
    """Lock and Unlock."""

    def __init__(self, core: Core, kv: KVService, lines: Lines) -> None:
        self._core = core
        self._kv = kv
        self._lines = lines

    async def lock(self, call: Call, request: lock_pb2.LockRequest) -> bytes:
        """Wait for the lock, as long as that takes; who gives up leaves no key (CON-06).

        Raises:
            EtcdError: LOCK_SESSION_EXPIRED when the lease ended while waiting, and others with
                their text and code Unknown (CON-08).
        """
        with through_a_client():
            async with self._lines.joined(call, request.name, request.lease) as place:
                header = await self._lines.turn(place)
                if header is None:
                    raise LOCK_SESSION_EXPIRED
        return header + lock_pb2.LockResponse(key=place.key).SerializeToString()

    async def unlock(self, call: Call, request: lock_pb2.UnlockRequest) -> bytes:
        """Delete the key, whoever asks and whether it is there or not (CON-07)."""
        with through_a_client():
            delete = rpc_pb2.DeleteRangeRequest(key=request.key)
            answer = rpc_pb2.DeleteRangeResponse.FromString(
                await self._kv.delete_range(call, delete)
            )
        return lock_pb2.UnlockResponse(header=answer.header).SerializeToString()
