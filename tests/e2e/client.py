"""The etcd client of the tests: that of `jepsen.client`, and the same calls on asyncio.

What may not live here: retries, failover, caching; a test must see each answer as it came.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from jepsen.client import OPTIONS, Calls, Client, delete_op, prefix_end, put_op
from kvstore.pb import rpc_pb2


class AsyncClient(Calls):
    """The asyncio client of one endpoint."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(grpc.aio.insecure_channel(endpoint, options=OPTIONS))

    async def watch(self, key: bytes, **fields: Any) -> AsyncIterator[Any]:
        """Responses of one watcher on its own stream; the first is the ``created`` answer."""
        call = self._watch()
        create = rpc_pb2.WatchCreateRequest(key=key, **fields)
        await call.write(rpc_pb2.WatchRequest(create_request=create))
        try:
            async for response in call:
                yield response
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the channel."""
        await self.channel.close()


async def write_until(
    clients: list[AsyncClient],
    prefix: str,
    stop: asyncio.Event,
    acknowledged: dict[bytes, tuple[int, int]],
    writers_per_client: int = 4,
) -> None:
    """Write fresh keys through every client until `stop`; keep what was acknowledged.

    `acknowledged` gets key → (revision, index of the client). A failed write is never repeated with
    the same key: it may or may not have happened, so nothing is said about it.
    """

    async def writer(index: int, number: int) -> None:
        for count in itertools.count():
            if stop.is_set():
                return
            key = f"{prefix}{index}-{number}-{count:06}".encode()
            try:
                answer = await clients[index].put(key, key, timeout=3.0)
            except grpc.RpcError:
                await asyncio.sleep(0.02)  # a dead member refuses at once: do not spin
                continue
            acknowledged[key] = (answer.header.revision, index)

    await asyncio.gather(
        *(writer(i, n) for i in range(len(clients)) for n in range(writers_per_client))
    )


__all__ = [
    "AsyncClient",
    "Client",
    "delete_op",
    "prefix_end",
    "put_op",
    "rpc_pb2",
    "write_until",
]
