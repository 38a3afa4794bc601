"""A snapshot on its connection of its own, behind the handshake.

The sender writes ``call id u64 | size u64``, the SNAPSHOT message as a frame, the file, its SHA-256
(32 bytes); the receiver answers with a REPLY frame of that call id once it has checked and kept it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from kvstore.peer import codec
from kvstore.storage.errors import CodecError
from raft import Message, MessageKind

CHUNK_BYTES = 256 * 1024
CONFIRM_S = 120.0
"""Longest wait for the receiver to check a snapshot that was sent completely."""
IDLE_S = 30.0
"""Longest time in which nothing moves before either side gives a snapshot up: the other one may be
paused, cut off, or gone without a word, and the next snapshot must not wait for it."""
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Longest SNAPSHOT message: it holds a position and the ids of the members."""


class SnapshotReader:
    """The body of an incoming snapshot: ``size`` bytes, then their SHA-256."""

    def __init__(self, reader: asyncio.StreamReader, size: int) -> None:
        self._reader = reader
        self.size = size
        self._left = size

    async def read(self) -> bytes:
        """Return the next chunk, b"" after the last.

        Raises IncompleteReadError, TimeoutError after `IDLE_S` without a byte.
        """
        if not self._left:
            return b""
        async with asyncio.timeout(IDLE_S):
            chunk = await self._reader.read(min(CHUNK_BYTES, self._left))
        if not chunk:
            raise asyncio.IncompleteReadError(b"", self._left)
        self._left -= len(chunk)
        return chunk

    async def digest(self) -> bytes:
        """Return what comes behind the last chunk. Raises as `read` does."""
        async with asyncio.timeout(IDLE_S):
            return await self._reader.readexactly(32)


Receive = Callable[[Message, SnapshotReader], Awaitable[None]]


async def send_file(
    message: Message,
    path: Path,
    transport: asyncio.Transport,
    call_id: int,
    confirmed: asyncio.Future[bytes],
    closed: asyncio.Future[None],
) -> int:
    """Stream a snapshot and wait until the receiver has it; return the file's size.

    Args:
        confirmed: done with the reply to `call_id`.
        closed: done when the connection has ended.

    Raises ConnectionResetError, TimeoutError (nothing moves), and what `confirmed` raises.
    """
    size = os.path.getsize(path)  # noqa: ASYNC240 - one system call
    digest = hashlib.sha256()
    transport.set_write_buffer_limits(high=4 * CHUNK_BYTES)
    transport.write(call_id.to_bytes(8, "big") + size.to_bytes(8, "big"))
    transport.write(codec.encode_message(message))
    with open(path, "rb") as file:  # noqa: ASYNC230 - 256 KiB from the page cache at a time
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            transport.write(chunk)
            await _drained(transport, closed)
    transport.write(digest.digest())
    either: set[asyncio.Future[Any]] = {confirmed, closed}
    waited, _ = await asyncio.wait(either, timeout=CONFIRM_S, return_when=asyncio.FIRST_COMPLETED)
    if confirmed not in waited:
        raise ConnectionResetError("closed before the snapshot was confirmed")
    confirmed.result()
    return size


async def _drained(transport: asyncio.Transport, closed: asyncio.Future[None]) -> None:
    """Wait until there is room for more. Raises as `send_file` does."""
    clock = asyncio.get_running_loop().time
    waiting, moved = transport.get_write_buffer_size(), clock()
    while waiting > 2 * CHUNK_BYTES:
        if closed.done():
            raise ConnectionResetError("closed by the receiver")
        if clock() > moved + IDLE_S:
            raise TimeoutError(f"the receiver has taken nothing for {IDLE_S:g} s")
        await asyncio.sleep(0.002)
        before, waiting = waiting, transport.get_write_buffer_size()
        if waiting < before:
            moved = clock()


async def receive_file(reader: asyncio.StreamReader, receive: Receive) -> tuple[int, int]:
    """Read a snapshot and hand it to `receive`; return the call id to confirm and its size.

    Raises IncompleteReadError, CodecError, TimeoutError, and what `receive` raises.
    """
    async with asyncio.timeout(IDLE_S):
        call_id = int.from_bytes(await reader.readexactly(8), "big")
        size = int.from_bytes(await reader.readexactly(8), "big")
        length, _ = codec.FRAME_HEAD.unpack(await reader.readexactly(codec.FRAME_HEAD.size))
        if length > MAX_MESSAGE_BYTES:
            raise CodecError(f"snapshot message of {length} bytes")
        message = codec.decode_message(memoryview(await reader.readexactly(length - 1)))
    if message.kind != MessageKind.SNAPSHOT or message.snapshot is None:
        raise CodecError("not a snapshot message")
    await receive(message, SnapshotReader(reader, size))
    return call_id, size
