"""The Watch service: carries requests to the hub and its responses to the client.

A client that reads slowly stops only its own stream: ``send`` waits, the stream's queue fills, and
the hub takes its watchers back to catching up from the store (WCH-47).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from kvstore.errors import NO_LEADER, EtcdError
from kvstore.mvcc.watch_stream import WatchStream
from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call

SEND_BYTES = 1 << 20
"""Encoded responses taken from a stream's queue at a time."""

Send = Callable[[list[bytes]], Awaitable[None]]


class LeaderGuard:
    """Ends streams opened with ``hasleader`` once the cluster was leaderless too long (GEN-13)."""

    def __init__(self) -> None:
        self._streams: set[asyncio.Future[None]] = set()

    def guard(self, core: Core, call: Call) -> asyncio.Future[None]:
        """Return a future that fails with NoLeader; the caller cancels it at the stream's end.

        Raises:
            EtcdError: NoLeader, when there is none at the opening.
        """
        core.require_leader(call)
        future: asyncio.Future[None] = core.loop.create_future()
        if call.hasleader:
            self._streams.add(future)
            future.add_done_callback(self._streams.discard)
        return future

    async def run(self, core: Core, call: Call, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work of a stream, ended early when the cluster was leaderless too long.

        Raises:
            EtcdError: NoLeader, and what the work raises.
        """
        lost_leader = self.guard(core, call)
        worker = asyncio.ensure_future(work())
        try:
            done, _ = await asyncio.wait({worker, lost_leader}, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            worker.cancel()
            lost_leader.cancel()

    def leaderless(self) -> None:
        """The cluster has had no leader for three election time-outs."""
        for future in list(self._streams):
            if not future.done():
                future.set_exception(EtcdError(NO_LEADER.code, NO_LEADER.message))


class WatchService:
    """One bidirectional stream, many watches (WCH-01)."""

    def __init__(self, core: Core, guard: LeaderGuard) -> None:
        self._core = core
        self._guard = guard

    async def watch(
        self, call: Call, requests: AsyncIterator[rpc_pb2.WatchRequest], send: Send
    ) -> None:
        """Serve one call until it is cancelled; a client's half-close does not end it (WCH-46)."""
        lost_leader = self._guard.guard(self._core, call)
        filled, drained = asyncio.Event(), asyncio.Event()
        stream = self._core.hub.stream(filled.set)
        reader = asyncio.ensure_future(self._read(stream, drained, requests))
        writer = asyncio.ensure_future(self._write(stream, filled, drained, send))
        waiting: set[asyncio.Future[None]] = {reader, writer, lost_leader}
        try:
            while True:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for ended in done:
                    ended.result()
        finally:
            for future in (reader, writer, lost_leader):
                future.cancel()
            stream.close()

    async def _read(
        self,
        stream: WatchStream,
        drained: asyncio.Event,
        requests: AsyncIterator[rpc_pb2.WatchRequest],
    ) -> None:
        member = self._core.member
        async for request in requests:
            kind = request.WhichOneof("request_union")
            if kind == "create_request":
                stream.create(request.create_request, member.applied_term, member.now)
            elif kind == "cancel_request":
                stream.cancel(request.cancel_request.watch_id)
            elif kind == "progress_request":
                stream.progress(member.applied_term)
            while stream.full:
                # Replies to requests are always queued, so a client that sends and never reads
                # must be stopped here.
                drained.clear()
                await drained.wait()

    @staticmethod
    async def _write(
        stream: WatchStream, filled: asyncio.Event, drained: asyncio.Event, send: Send
    ) -> None:
        while True:
            await filled.wait()
            filled.clear()
            while responses := stream.take(SEND_BYTES):
                drained.set()
                await send(responses)
