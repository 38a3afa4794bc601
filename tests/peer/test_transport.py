"""The peer transport over real sockets: streams, calls, snapshots and what it refuses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from kvstore.errors import NO_LEADER, Code, EtcdError
from kvstore.peer import codec
from kvstore.peer.transport import PeerTransport, SnapshotReader
from raft import NORMAL, Message, MessageKind, SnapshotMeta

CLUSTER = 0xC1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Recorder:
    """A PeerHandler that keeps what it is told."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[Message] = asyncio.Queue()
        self.snapshots: list[tuple[Message, bytes, bytes]] = []
        self.sent: asyncio.Queue[tuple[int, bool]] = asyncio.Queue()
        self.unreached: list[int] = []
        self.known = {1, 2}

    def receive(self, message: Message) -> None:
        self.received.put_nowait(message)

    def unreachable(self, peer: int) -> None:
        self.unreached.append(peer)

    def snapshot_sent(self, peer: int, ok: bool) -> None:
        self.sent.put_nowait((peer, ok))

    async def handle_call(self, method: int, payload: bytes) -> bytes:
        if method == 9:
            raise NO_LEADER
        if method == 8:
            raise ZeroDivisionError
        if method == 7:
            await asyncio.get_running_loop().create_future()
        return b"%d:" % method + payload

    async def receive_snapshot(self, message: Message, chunks: SnapshotReader) -> None:
        content = b""
        while chunk := await chunks.read():
            content += chunk
        self.snapshots.append((message, content, await chunks.digest()))

    def knows(self, peer: int) -> bool:
        return peer in self.known


class Peer:
    def __init__(self, member_id: int, cluster_id: int = CLUSTER) -> None:
        self.handler = Recorder()
        self.port = free_port()
        self.transport = PeerTransport(self.handler, cluster_id, member_id)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


async def until(condition: Callable[[], bool]) -> None:
    """Poll until true; the test's own time-out bounds it."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def two_peers(second_cluster: int = CLUSTER) -> AsyncIterator[tuple[Peer, Peer]]:
    first, second = Peer(1), Peer(2, second_cluster)
    for peer in (first, second):
        await peer.transport.listen([peer.url])
    urls = {1: (first.url,), 2: (second.url,)}
    first.transport.set_peers(urls)
    second.transport.set_peers(urls)
    try:
        yield first, second
    finally:
        await first.transport.close()
        await second.transport.close()


async def connected() -> AsyncIterator[tuple[Peer, Peer]]:
    async with two_peers() as (first, second):
        await until(lambda: 2 in first.transport.stats.connected)
        await until(lambda: 1 in second.transport.stats.connected)
        yield first, second


def test_messages_arrive_in_order() -> None:
    async def scenario() -> None:
        async for first, second in connected():
            entries = [(3, NORMAL, b"x" * 1000)] * 50
            for number in range(100):
                first.transport.send(
                    [Message(MessageKind.APPEND, 2, 1, term=3, index=number, entries=entries)]
                )
            async with asyncio.timeout(10):
                got = [await second.handler.received.get() for _ in range(100)]
            assert [message.index for message in got] == list(range(100))
            assert got[0].entries == entries

    asyncio.run(scenario())


def test_a_message_to_an_unreachable_member_is_reported_and_dropped() -> None:
    async def scenario() -> None:
        lonely = Peer(1)
        lonely.transport.set_peers({2: (f"http://127.0.0.1:{free_port()}",)})
        lonely.transport.send([Message(MessageKind.HEARTBEAT, 2, 1)])
        assert lonely.handler.unreached == [2]
        await lonely.transport.close()

    asyncio.run(scenario())


def test_calls_are_answered_and_errors_keep_code_and_text() -> None:
    async def scenario() -> None:
        async for first, _second in connected():
            assert await first.transport.call(2, 4, b"hello", 5) == b"4:hello"
            with pytest.raises(EtcdError) as raised:
                await first.transport.call(2, 9, b"", 5)
            assert (raised.value.code, raised.value.message) == (NO_LEADER.code, NO_LEADER.message)
            with pytest.raises(ConnectionError):
                await first.transport.call(77, 1, b"", 5)

    asyncio.run(scenario())


def test_a_call_fails_with_the_connection_it_waits_on() -> None:
    async def scenario() -> None:
        async for first, second in connected():
            call = asyncio.ensure_future(first.transport.call(2, 7, b"", 60))
            tasks = second.transport._tasks
            await until(partial(bool, tasks))
            await second.transport.close()
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionError):
                    await call

    asyncio.run(scenario())


def test_a_call_whose_handler_breaks_is_answered() -> None:
    async def scenario() -> None:
        async for first, _second in connected():
            with pytest.raises(EtcdError, match="ZeroDivisionError") as raised:
                await first.transport.call(2, 8, b"", 5)
            assert raised.value.code == Code.INTERNAL

    asyncio.run(scenario())


def test_a_snapshot_arrives_whole_and_both_ends_know(tmp_path: Path) -> None:
    async def scenario() -> None:
        async for first, second in connected():
            file = tmp_path / "copy"
            content = bytes(range(256)) * 10_000
            file.write_bytes(content)
            meta = SnapshotMeta(7, 2)
            first.transport.send_snapshot(
                Message(MessageKind.SNAPSHOT, 2, 1, term=2, snapshot=meta), file
            )
            async with asyncio.timeout(10):
                assert await first.handler.sent.get() == (2, True)
            [(message, received, _digest)] = second.handler.snapshots
            assert message.snapshot == meta
            assert received == content
            assert not file.exists()

    asyncio.run(scenario())


def test_a_member_of_another_cluster_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with two_peers(second_cluster=0xBAD) as (first, second):
            await until(lambda: "cluster ID mismatch" in caplog.text)
            assert not first.transport.stats.connected
            assert not second.transport.stats.connected

    asyncio.run(scenario())


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", bytes(64)])
def test_garbage_on_the_peer_port_is_answered_and_harms_nobody(garbage: bytes) -> None:
    async def scenario() -> None:
        async for first, second in connected():
            reader, writer = await asyncio.open_connection("127.0.0.1", second.port)
            writer.write(garbage)
            async with asyncio.timeout(10):
                answer = await reader.read()
            writer.close()
            assert b"peer port" in answer
            assert await first.transport.call(2, 4, b"still", 5) == b"4:still"

    asyncio.run(scenario())


def test_garbage_after_a_good_handshake_ends_only_that_connection() -> None:
    async def scenario() -> None:
        async for first, second in connected():
            shake = codec.Handshake(codec.PROTOCOL_VERSION, codec.Purpose.STREAM, CLUSTER, 1, 2)
            reader, writer = await asyncio.open_connection("127.0.0.1", second.port)
            writer.write(shake.encode() + b"\x00\x00\x00\x05\x01junk")
            async with asyncio.timeout(10):
                with suppress(ConnectionResetError):
                    assert await reader.read() == b"\x00\x00\x00"
            writer.close()
            assert await first.transport.call(2, 4, b"still", 5) == b"4:still"

    asyncio.run(scenario())
