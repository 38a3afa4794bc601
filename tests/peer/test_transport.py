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
from kvstore.peer import probe, snapshots, streams
from kvstore.peer.handshake import (
    PROTOCOL_VERSION,
    Handshake,
    Purpose,
    Standing,
    Status,
    encode_answer,
)
from kvstore.peer.http import MAX_HEAD_BYTES, Page, Pages
from kvstore.peer.transport import MAX_STRANGERS, PeerTransport, SnapshotReader
from kvstore.testing import Links
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
        self.standings = {1: Standing.MEMBER, 2: Standing.MEMBER}
        self.told_by: list[int] = []

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

    def standing(self, peer: int) -> Standing:
        return self.standings.get(peer, Standing.STRANGER)

    def told_removed(self, by: int) -> None:
        self.told_by.append(by)

    def pages(self) -> Pages:
        async def version() -> Page:
            return Page(b"{}", {"X-Test": "yes"})

        async def broken() -> Page:
            raise ZeroDivisionError

        return {"/version": version, "/broken": broken}


class Peer:
    def __init__(self, member_id: int, cluster_id: int = CLUSTER) -> None:
        self.handler = Recorder()
        self.port = free_port()
        self.transport = PeerTransport(self.handler, cluster_id, member_id, own_urls=(self.url,))

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


def test_a_receiver_that_takes_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IDLE_S: the sender tells Raft, which then tries again."""
    monkeypatch.setattr(snapshots, "IDLE_S", 0.2)

    async def scenario() -> None:
        over = asyncio.Event()

        async def stands_still(message: Message, chunks: SnapshotReader) -> None:
            await over.wait()

        async for first, second in connected():
            second.handler.receive_snapshot = stands_still  # type: ignore[method-assign]
            file = tmp_path / "copy"
            file.write_bytes(bytes(32 << 20))  # more than sockets hold
            message = Message(MessageKind.SNAPSHOT, 2, 1, term=2, snapshot=SnapshotMeta(7, 2))
            first.transport.send_snapshot(message, file)
            async with asyncio.timeout(10):
                assert await first.handler.sent.get() == (2, False)
            over.set()

    asyncio.run(scenario())


def test_a_sender_that_stops_in_the_middle_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """IDLE_S: whoever sends the next snapshot must not wait for it."""
    monkeypatch.setattr(snapshots, "IDLE_S", 0.05)

    async def scenario() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(b"half")
        chunks = SnapshotReader(reader, 8)
        assert await chunks.read() == b"half"
        with pytest.raises(TimeoutError):
            await chunks.read()

    asyncio.run(scenario())


def test_a_member_of_another_cluster_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with two_peers(second_cluster=0xBAD) as (first, second):
            await until(lambda: "cluster ID mismatch" in caplog.text)
            assert not first.transport.stats.connected
            assert not second.transport.stats.connected

    asyncio.run(scenario())


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH\r\n", bytes(64), b"KVPEER", b"KVPEER\n\x09"])
def test_garbage_on_the_peer_port_is_answered_and_harms_nobody(garbage: bytes) -> None:
    async def scenario() -> None:
        async for first, second in connected():
            reader, writer = await asyncio.open_connection("127.0.0.1", second.port)
            writer.write(garbage)
            writer.write_eof()
            async with asyncio.timeout(10):
                answer = await reader.read()
            writer.close()
            assert (b"peer p" in answer) == (garbage != b"KVPEER")
            assert await first.transport.call(2, 4, b"still", 5) == b"4:still"

    asyncio.run(scenario())


def test_garbage_after_a_good_handshake_ends_only_that_connection() -> None:
    async def scenario() -> None:
        async for first, second in connected():
            shake = Handshake(PROTOCOL_VERSION, Purpose.STREAM, CLUSTER, 1, 2)
            reader, writer = await asyncio.open_connection("127.0.0.1", second.port)
            writer.write(shake.encode() + b"\x00\x00\x00\x05\x01junk")
            async with asyncio.timeout(10):
                with suppress(ConnectionResetError):
                    assert await reader.read() == encode_answer(Status.ACCEPTED)
            writer.close()
            assert await first.transport.call(2, 4, b"still", 5) == b"4:still"

    asyncio.run(scenario())


async def exchange(port: int, sent: bytes) -> bytes:
    """Everything that is answered to `sent` before the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_line", "status", "in_answer"),
    [
        (b"GET /version HTTP/1.1", b"200 OK", b"X-Test: yes"),
        (b"GET /version?pretty HTTP/1.0", b"200 OK", b"\r\n\r\n{}"),
        (b"POST /version HTTP/1.1", b"405 Method Not Allowed", b"Allow: GET"),
        (b"GET /raft HTTP/1.1", b"404 Not Found", b"404 page not found\n"),
        (b"GET /broken HTTP/1.1", b"500 Internal Server Error", b"Internal"),
        (b"GET nonsense", b"400 Bad Request", b""),
        (b"GET /" + b"x" * MAX_HEAD_BYTES, b"431 Request", b""),
    ],
)
def test_peer_port_answers_http(request_line: bytes, status: bytes, in_answer: bytes) -> None:
    """HTP-15."""

    async def scenario() -> None:
        async for first, second in connected():
            head = request_line + b"\r\nHost: localhost\r\n\r\n"
            answer = await exchange(second.port, head)
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert in_answer in answer
            assert await first.transport.call(2, 4, b"still", 5) == b"4:still"

    asyncio.run(scenario())


def test_connection_that_never_says_what_it_is_for_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "HANDSHAKE_S", 0.2)

    async def scenario() -> None:
        async with two_peers() as (first, _):
            for silent in (b"", b"KVPEER\n", b"GET /version HTTP/1.1\r\n"):
                with suppress(ConnectionResetError):
                    assert await exchange(first.port, silent) == b""

    asyncio.run(scenario())


def test_member_not_known_here_yet_is_accepted_and_answered_while_it_is_there() -> None:
    """One that was away while the other was added has to answer it all the same."""

    async def scenario() -> None:
        async with two_peers() as (first, _):
            newcomer = Peer(3)
            await newcomer.transport.listen([newcomer.url])
            newcomer.transport.set_peers({1: (first.url,), 3: (newcomer.url,)})
            newcomer.handler.standings[1] = Standing.MEMBER
            await until(lambda: 1 in newcomer.transport.stats.connected)
            await until(lambda: 3 in first.transport.stats.connected)
            first.transport.send([Message(MessageKind.HEARTBEAT, 3, 1)])
            async with asyncio.timeout(10):
                assert (await newcomer.handler.received.get()).from_ == 1
            await newcomer.transport.close()
            await until(lambda: 3 not in first.transport._urls)

    asyncio.run(scenario())


def test_member_that_has_moved_is_answered_where_it_says_it_is() -> None:
    """The list says otherwise until the log has caught up, which takes answers."""

    async def scenario() -> None:
        async with two_peers() as (first, _):
            first.handler.standings[3] = Standing.MEMBER
            moved = Peer(3)
            await moved.transport.listen([moved.url])
            stale = {2: first.transport._urls[2], 3: (f"http://127.0.0.1:{free_port()}",)}
            first.transport.set_peers(stale)
            moved.transport.set_peers({1: (first.url,), 3: (moved.url,)})
            await until(lambda: 3 in first.transport.stats.connected)
            await moved.transport.close()

    asyncio.run(scenario())


def test_number_of_members_not_known_here_is_bounded() -> None:
    async def scenario() -> None:
        async with two_peers() as (first, _):
            writers = []
            for stranger in range(10, 10 + MAX_STRANGERS + 1):
                reader, writer = await asyncio.open_connection("127.0.0.1", first.port)
                writers.append(writer)
                urls = ("http://127.0.0.1:1",)
                shake = Handshake(PROTOCOL_VERSION, Purpose.STREAM, CLUSTER, stranger, 1, urls)
                writer.write(shake.encode())
                async with asyncio.timeout(10):
                    status = (await reader.readexactly(3))[0]
                assert status == (stranger == 10 + MAX_STRANGERS)
            for writer in writers:
                writer.close()

    asyncio.run(scenario())


def test_stranger_without_an_address_is_refused() -> None:
    async def scenario() -> None:
        async with two_peers() as (first, _):
            shake = Handshake(PROTOCOL_VERSION, Purpose.STREAM, CLUSTER, 9, 1)
            assert b"member 9 is not in the cluster" in await exchange(first.port, shake.encode())

    asyncio.run(scenario())


def test_removed_member_loses_its_connections_and_is_told_why() -> None:
    """CLU-11: what was on its way to it still arrives."""

    async def scenario() -> None:
        async with two_peers() as (first, second):
            await until(lambda: 2 in first.transport.stats.connected)
            await until(lambda: 1 in second.transport.stats.connected)
            first.handler.standings[2] = Standing.REMOVED
            entries = [(3, NORMAL, b"x" * 1_000_000)] * 8
            first.transport.send([Message(MessageKind.APPEND, 2, 1, term=3, entries=entries)])
            first.transport.set_peers({1: (first.url,)})
            await until(lambda: second.handler.told_by == [1])
            assert not first.transport.stats.connected
            assert not second.transport.stats.connected
            async with asyncio.timeout(10):
                assert (await second.handler.received.get()).entries == entries

    asyncio.run(scenario())


def test_removed_member_is_not_told_by_one_that_might_forget() -> None:
    async def scenario() -> None:
        async for first, second in connected():
            first.handler.standings[2] = Standing.BARRED
            first.transport.set_peers({1: (first.url,)})
            shake = Handshake(PROTOCOL_VERSION, Purpose.STREAM, CLUSTER, 2, 1)
            answer = await exchange(first.port, shake.encode())
            assert answer[0] == Status.REFUSED
            assert b"is not in the cluster any more" in answer
            assert second.handler.told_by == []

    asyncio.run(scenario())


def test_new_peer_url_is_dialed() -> None:
    """CLU-12."""

    async def scenario() -> None:
        async with two_peers() as (first, second):
            await until(lambda: 2 in first.transport.stats.connected)
            moved = free_port()
            await second.transport.listen([f"http://127.0.0.1:{moved}"])
            first.transport.set_peers({1: (first.url,), 2: (f"http://127.0.0.1:{moved}",)})
            assert 2 not in first.transport.stats.connected
            await until(lambda: 2 in first.transport.stats.connected)
            assert await first.transport.call(2, 4, b"moved", 5) == b"4:moved"

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "unix://x", "", "nonsense", "http://[::1"])
def test_peer_url_that_leads_nowhere_is_an_unreachable_member(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async for first, _ in connected():
            first.transport.set_peers({2: first.transport._urls[2], 3: (url,)})
            await until(lambda: "cannot reach peer" in caplog.text)
            assert await first.transport.call(2, 4, b"still", 5) == b"4:still"

    asyncio.run(scenario())


def test_member_that_has_ceased_to_answer_is_not_connected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """CLU-10: its kernel still takes bytes, as that of a stopped process does."""
    monkeypatch.setattr(probe, "PROBE_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(encode_answer(Status.ACCEPTED))
            await reader.read()
            writer.close()

        frozen = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = frozen.sockets[0].getsockname()[1]
        lonely = Peer(1)
        lonely.transport.set_peers({2: (f"http://127.0.0.1:{port}",)})
        await until(lambda: "peer does not answer" in caplog.text)
        await until(lambda: lonely.transport.stats.disconnects[2] > 0)
        await lonely.transport.close()
        frozen.close()

    asyncio.run(scenario())


def test_connection_that_is_dead_in_one_direction_alone_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by `kvstore chaos --faults half-open`: the other end was heard of on the connection
    that it had dialed, so the dead one was kept for ever; a leader never reached its follower."""
    monkeypatch.setattr(probe, "PROBE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(probe, "PROBE_INTERVAL_S", 0.02)
    links = Links()

    async def scenario() -> None:
        async with two_peers() as (first, second):
            await until(lambda: 1 in second.transport.stats.connected)
            proxied = links.listen(("127.0.0.1", 0), ("127.0.0.1", second.port), 2)
            first.transport.set_peers({1: (first.url,), 2: (f"http://127.0.0.1:{proxied}",)})
            await until(lambda: 2 in first.transport.stats.connected)
            before = first.transport.stats.disconnects[2]
            assert links.lose(2) == 1
            await until(lambda: first.transport.stats.disconnects[2] > before)
            await until(lambda: 2 in first.transport.stats.connected)
            assert await first.transport.call(2, 4, b"again", 5) == b"4:again"

    try:
        asyncio.run(scenario())
    finally:
        links.close()
