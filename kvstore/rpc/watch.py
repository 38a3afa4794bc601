"""The Watch service: carries requests to the hub and its responses to the client.

A client that reads slowly stops only its own stream: ``send`` waits, the stream's queue fills, and
the hub takes its watchers back to catching up from the store (WCH-47).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from kvstore.mvcc.watch_stream import WatchStream
from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call

SEND_BYTES = 1 << 20
"""Encoded responses taken from a stream's queue at a time."""

Send = Callable[[list[bytes]], Awaitable[None]]


class WatchService:
    """One bidirectional stream, many watches (WCH-01)."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def watch(
        self, call: Call, requests: AsyncIterator[rpc_pb2.WatchRequest], send: Send
    ) -> None:
        """Serve one call until it is cancelled; a client's half-close does not end it (WCH-46)."""
        filled, drained = asyncio.Event(), asyncio.Event()
        stream = self._core.hub.stream(filled.set)
        reader = asyncio.ensure_future(self._read(stream, drained, requests))
        writer = asyncio.ensure_future(self._write(stream, filled, drained, send))
        waiting: set[asyncio.Future[None]] = {reader, writer}
        try:
            while True:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for ended in done:
                    ended.result()
        finally:
            for future in (reader, writer):
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
