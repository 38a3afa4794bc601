"""Calls between members: their numbers, who answers them, and how to find the leader.

A service registers what it answers with `PeerCalls`; the transport knows numbers and bytes only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import IntEnum

from kvstore.errors import LEADER_CHANGED, NO_LEADER, TIMEOUT, Code, EtcdError
from kvstore.rpc.core import Core

RETRY_S = 0.05
"""Pause before a call that met no leader is tried again."""

Handler = Callable[[bytes], Awaitable[bytes]]


class PeerMethod(IntEnum):
    """The calls. Numbers are on the wire: never reuse one."""

    LEASE_RENEW = 1
    LEASE_TIME_TO_LIVE = 2
    LEARNER_READY = 3
    HASH_KV = 10


class PeerCalls:
    """What this member answers to others."""

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}

    def register(self, method: PeerMethod, handler: Handler) -> None:
        """Answer `method` with ``await handler(payload)``; it may raise EtcdError."""
        if method in self._handlers:
            raise ValueError(f"{method!r} is registered twice")
        self._handlers[method] = handler

    async def handle(self, method: int, payload: bytes) -> bytes:
        """Answer another member's call. Raises EtcdError, UNIMPLEMENTED for an unknown number."""
        handler = self._handlers.get(method)
        if handler is None:
            raise EtcdError(Code.UNIMPLEMENTED, f"unknown peer call {method}")
        return await handler(payload)


async def ask_leader(core: Core, method: PeerMethod, payload: bytes, local: Handler) -> bytes:
    """Do it here if this is the leader, else ask it, waiting for one to appear (LSE-08).

    For calls that may be repeated: one whose answer was lost is sent again.

    Raises:
        EtcdError: what the call raises; TIMEOUT or NO_LEADER after the request time-out.
    """
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
