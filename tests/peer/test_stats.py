"""What the transport counts by peer: round trips, failures, connections lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kvstore.peer.handshake import PROTOCOL_VERSION, Handshake, Purpose
from kvstore.peer.snapshots import SnapshotReader
from kvstore.peer.stats import Stats
from raft import Message, MessageKind, SnapshotMeta
from tests.peer.test_transport import CLUSTER, two_peers, until


def heartbeat(to: int, from_: int) -> Message:
    return Message(MessageKind.HEARTBEAT, to, from_, 1)


def test_a_round_trip_is_measured_on_every_connection() -> None:
    async def scenario() -> None:
        async with two_peers() as (first, second):
            await until(lambda: first.transport.stats.connected.keys() == {2})
            await until(lambda: second.transport.stats.connected.keys() == {1})
            await until(lambda: 2 in first.transport.stats.round_trips)
            await until(lambda: 1 in second.transport.stats.round_trips)
            assert first.transport.stats.round_trips[2].count >= 1
            assert first.transport.stats.round_trips[2].total > 0
            assert not first.handler.received.qsize()

    asyncio.run(scenario())


def test_messages_to_a_member_that_is_not_connected_count_as_failures() -> None:
    async def scenario() -> None:
        async with two_peers() as (first, _):
            await until(lambda: first.transport.stats.connected.keys() == {2})
            first.transport.send([heartbeat(3, 1), heartbeat(2, 1)])
            stats = first.transport.stats
            assert stats.send_failures == {3: 1}
            assert stats.sent[2] > stats.sent[3] == 0

    asyncio.run(scenario())


def test_a_lost_connection_is_counted_once() -> None:
    async def scenario() -> None:
        async with two_peers() as (first, second):
            await until(lambda: first.transport.stats.connected.keys() == {2})
            await until(lambda: second.transport.stats.connected.keys() == {1})
            await second.transport.close()
            await until(lambda: 2 not in first.transport.stats.connected)
            assert first.transport.stats.disconnects == {2: 1}

    asyncio.run(scenario())


def test_what_nobody_can_read_counts_as_a_failure_of_its_sender() -> None:
    async def scenario() -> None:
        async with two_peers() as (first, _):
            await until(lambda: first.transport.stats.connected.keys() == {2})
            reader, writer = await asyncio.open_connection("127.0.0.1", first.port)
            shake = Handshake(PROTOCOL_VERSION, Purpose.STREAM, CLUSTER, from_id=2, to_id=1)
            writer.write(shake.encode() + b"\xff\xff\xff\xff nonsense")
            assert await reader.read(3) == bytes(3)
            assert await reader.read() == b""
            writer.close()
            assert first.transport.stats.receive_failures == {2: 1}

    asyncio.run(scenario())


@pytest.mark.parametrize("accepted", [True, False])
def test_snapshots_are_counted_on_both_ends_by_how_they_ended(
    tmp_path: Path, accepted: bool
) -> None:
    async def refuse(message: Message, chunks: SnapshotReader) -> None:
        raise OSError("no space")

    async def scenario() -> None:
        async with two_peers() as (first, second):
            await until(lambda: first.transport.stats.connected.keys() == {2})
            if not accepted:
                second.handler.receive_snapshot = refuse  # type: ignore[method-assign]
            path = tmp_path / "copy"
            path.write_bytes(bytes(100_000))
            message = Message(MessageKind.SNAPSHOT, 2, 1, 2, snapshot=SnapshotMeta(7, 2))
            first.transport.send_snapshot(message, path)
            async with asyncio.timeout(10):
                assert await first.handler.sent.get() == (2, accepted)
            sent = first.transport.stats.snapshots_sent
            received = second.transport.stats.snapshots_received
            await until(lambda: received.inflight[1] == 0)
            for stats, peer in ((sent, 2), (received, 1)):
                assert stats.inflight[peer] == 0
                assert (stats.successes[peer], stats.failures[peer]) == (accepted, not accepted)
                assert stats.all_seconds().count == accepted
            assert first.transport.stats.send_failures[2] == (not accepted)

    asyncio.run(scenario())


def test_the_longest_connected_peer_is_the_first_whose_connection_held() -> None:
    """MNT-30: whom a leader that stops hands leadership to, among the voters."""
    stats = Stats()
    assert stats.longest_connected({1, 2, 3}) is None
    for peer in (3, 1, 2):
        stats.connect(peer, 0.0)
    assert stats.longest_connected({1, 2, 3}) == 3
    assert stats.longest_connected({2, 1}) == 1
    stats.disconnect(3)
    stats.connect(3, 0.0)
    assert stats.longest_connected({1, 2, 3}) == 1
    assert stats.longest_connected({4}) is None
