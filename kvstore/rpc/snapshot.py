"""Maintenance.Snapshot: streams an image of the store that is a database etcd can read.

How an image is made is not known here; it is one file of a fixed content, so a client may take its
time without holding up anything but that file. The trade-off: only so many files at once, and a
client that takes nothing for a long time loses its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from kvstore.errors import Code, EtcdError
from kvstore.pb import rpc_pb2
from kvstore.rpc.grpc import Call, SendMessages
from kvstore.version import STORAGE_VERSION

BLOB_BYTES: Final = 32 * 1024
"""Most bytes of the image in one message (MNT-25)."""
PIECE_BYTES: Final = 8 * BLOB_BYTES
"""What is read at once and handed to the HTTP server together."""
MAX_SNAPSHOTS: Final = 4
"""Snapshots taken or sent at the same time; further calls wait for their turn."""
STALL_S: Final = 300.0
"""Longest time in which a client takes nothing before its snapshot is given up."""

_STALLED: Final = EtcdError(
    Code.DEADLINE_EXCEEDED, f"snapshot stream: the client took nothing for {STALL_S:.0f} s"
)


class Image(Protocol):
    """A database file as long as its context is open."""

    @property
    def size(self) -> int:
        """Bytes; a multiple of 512 (MNT-27)."""

    @property
    def sha256(self) -> bytes:
        """Digest of all bytes, 32 bytes."""

    async def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes, fewer only at the end."""


OpenImage = Callable[[], AbstractAsyncContextManager[Image]]
"""Takes an image of the present state. Raises EtcdError."""


class SnapshotService:
    """The Snapshot call. It needs no leader, and learners serve it too (MNT-25)."""

    def __init__(self, open_image: OpenImage, *, stall_s: float = STALL_S) -> None:
        self._open_image = open_image
        self._turns = asyncio.Semaphore(MAX_SNAPSHOTS)
        self._stall_s = stall_s

    async def snapshot(
        self, call: Call, requests: AsyncIterator[rpc_pb2.SnapshotRequest], send: SendMessages
    ) -> None:
        """Send the image in order, then its digest as one more blob (MNT-25, MNT-26)."""
        async for _ in requests:
            async with self._turns, self._open_image() as image:
                await self._stream(image, send)
            return

    async def _stream(self, image: Image, send: SendMessages) -> None:
        left = image.size
        while left:
            piece = await image.read(image.size - left, PIECE_BYTES)
            messages = []
            for at in range(0, len(piece), BLOB_BYTES):
                blob = piece[at : at + BLOB_BYTES]
                left -= len(blob)
                messages.append(_message(blob, left))
            await self._send(messages, send)
        await self._send([_message(image.sha256, 0)], send)

    async def _send(self, messages: list[bytes], send: SendMessages) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await send(messages)
        except TimeoutError:
            raise _STALLED from None


def _message(blob: bytes, left: int) -> bytes:
    response = rpc_pb2.SnapshotResponse(remaining_bytes=left, blob=blob, version=STORAGE_VERSION)
    return response.SerializeToString()
