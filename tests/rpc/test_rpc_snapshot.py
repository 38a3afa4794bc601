"""The Snapshot call over real sockets: its messages, slow and vanished clients, and its limits."""

from __future__ import annotations

import hashlib
import os
import queue
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
import pytest

from kvstore.errors import Code, EtcdError
from kvstore.pb.rpc_pb2 import SnapshotRequest, SnapshotResponse
from kvstore.rpc.snapshot import BLOB_BYTES, MAX_SNAPSHOTS, SnapshotService
from kvstore.server.images import Image
from tests.rpc.harness import WAIT_S, RawClient, Running, frame, put

METHOD = "/etcdserverpb.Maintenance/Snapshot"
MORE_THAN_IS_BUFFERED = 16_000_000
"""An image of which the server cannot have handed out all while a client reads nothing."""


class Images:
    """Images of `size` random bytes; says when each is opened and closed."""

    def __init__(self, size: int) -> None:
        self.content = os.urandom(size)
        self.seen: queue.Queue[str] = queue.Queue()
        self.error: EtcdError | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Image]:
        if self.error is not None:
            raise self.error
        with tempfile.TemporaryFile() as file:
            file.write(self.content)
            file.flush()
            self.seen.put("opened")
            try:
                yield Image(file, len(self.content), hashlib.sha256(self.content).digest())
            finally:
                self.seen.put("closed")

    def await_seen(self, expected: str) -> None:
        assert self.seen.get(timeout=WAIT_S) == expected


@contextmanager
def serving(images: Images, stall_s: float = 60.0) -> Iterator[Running]:
    running = Running()
    service = SnapshotService(images.open, stall_s=stall_s)
    parse = SnapshotRequest.FromString
    running.router.stream(METHOD, parse, service.snapshot, kind="server_stream")
    with running:
        yield running


def ask(client: RawClient) -> int:
    """Send the request of a Snapshot call and read nothing of its answer."""
    stream = client.open(METHOD)
    client.data(stream, frame(b""), end=True)
    return stream


@pytest.mark.parametrize("size", [4096, BLOB_BYTES, 8 * BLOB_BYTES, 8 * BLOB_BYTES + 512, 5 << 20])
def test_the_image_comes_in_blobs_and_then_its_digest(size: int) -> None:
    """MNT-25, MNT-26: at most 32 KiB each, what remains counts down to 0, the version in each
    message, no header; one more message carries the SHA-256 of all blobs before it."""
    images = Images(size)
    with serving(images) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_stream(METHOD, response_deserializer=SnapshotResponse.FromString)
        *messages, last = call(b"", timeout=60)
    left = size
    for message in messages:
        left -= len(message.blob)
        assert message.remaining_bytes == left
        assert 0 < len(message.blob) <= BLOB_BYTES
    assert left == 0
    assert b"".join(message.blob for message in messages) == images.content
    assert (last.blob, last.remaining_bytes) == (hashlib.sha256(images.content).digest(), 0)
    assert {message.version for message in (*messages, last)} == {"3.6.0"}
    assert not any(message.HasField("header") for message in (*messages, last))


def test_a_client_that_leaves_gives_its_image_up() -> None:
    images = Images(MORE_THAN_IS_BUFFERED)
    with serving(images) as server, RawClient(server.port) as client:
        stream = ask(client)
        images.await_seen("opened")
        client.reset(stream)
        images.await_seen("closed")
        ask(client)
        images.await_seen("opened")
        client.close()
        images.await_seen("closed")


def test_so_many_images_at_once_and_further_calls_wait() -> None:
    """The limit is `MAX_SNAPSHOTS`; whoever waits gets its turn when another is done."""
    images = Images(MORE_THAN_IS_BUFFERED)
    with serving(images) as server:
        clients = [RawClient(server.port) for _ in range(MAX_SNAPSHOTS + 1)]
        for client in clients[:-1]:
            ask(client)
            images.await_seen("opened")
        ask(clients[-1])
        assert clients[-1].call("echo", frame(put(b"served meanwhile"))).status == (Code.OK, "")
        assert images.seen.empty()
        clients[0].close()
        images.await_seen("closed")
        images.await_seen("opened")
        for client in clients[1:]:
            client.close()
            images.await_seen("closed")


def test_a_client_that_waits_may_leave() -> None:
    images = Images(MORE_THAN_IS_BUFFERED)
    with serving(images) as server:
        clients = [RawClient(server.port) for _ in range(MAX_SNAPSHOTS + 2)]
        for client in clients[:-2]:
            ask(client)
            images.await_seen("opened")
        stream = ask(clients[-2])
        clients[-2].call("echo", frame(put()))
        ask(clients[-1])
        clients[-1].call("echo", frame(put()))
        clients[-2].reset(stream)
        clients[-2].call("echo", frame(put()))
        clients[0].close()
        images.await_seen("closed")
        images.await_seen("opened")
        for client in clients[1:]:
            client.close()


def test_a_client_that_takes_nothing_loses_its_image() -> None:
    """The limit is `STALL_S`, here shorter: nobody can hold a turn without an end."""
    images = Images(MORE_THAN_IS_BUFFERED)
    with serving(images, stall_s=0.3) as server, RawClient(server.port) as client:
        stream = ask(client)
        images.await_seen("opened")
        images.await_seen("closed")
        answer = client.answer(stream)
        assert answer.code is Code.DEADLINE_EXCEEDED
        assert "the client took nothing" in answer.message
        assert len(answer.body) < MORE_THAN_IS_BUFFERED


def test_why_there_is_no_image_is_told() -> None:
    images = Images(0)
    images.error = EtcdError(Code.UNKNOWN, "could not take a snapshot: no room")
    with serving(images) as server, RawClient(server.port) as client:
        stream = ask(client)
        assert client.answer(stream).status == (Code.UNKNOWN, images.error.message)
