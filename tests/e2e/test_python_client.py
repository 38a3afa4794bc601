"""What a Python program sees: the asyncio client aetcd from PyPI, and compares no etcdctl can send.

aetcd brings its own generated messages and grpcio, so it also proves the wire format.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aetcd
import pytest

from tests.e2e.client import put_op, rpc_pb2
from tests.e2e.cluster import Cluster

ANSWER_SECONDS = 20.0


def with_aetcd(cluster: Cluster, story: Callable[[aetcd.Client], Awaitable[None]]) -> None:
    """Run `story` with an aetcd client of each member in turn."""

    async def run() -> None:
        for member in cluster.members:
            async with aetcd.Client(host="127.0.0.1", port=member.client_port) as client:
                await asyncio.wait_for(story(client), ANSWER_SECONDS)

    asyncio.run(run())


def test_put_get_and_delete(cluster: Cluster) -> None:
    async def story(client: aetcd.Client) -> None:
        await client.put(b"aetcd/a", b"1")
        put = await client.put(b"aetcd/a", b"2", prev_kv=True)
        assert put.prev_kv.value == b"1"
        got = await client.get(b"aetcd/a")
        assert (got.value, got.mod_revision) == (b"2", put.header.revision)
        deleted = await client.delete(b"aetcd/a", prev_kv=True)
        assert (deleted.deleted, deleted.prev_kv.value) == (1, b"2")
        assert await client.get(b"aetcd/a") is None

    with_aetcd(cluster, story)


def test_prefixes_come_sorted(cluster: Cluster) -> None:
    async def story(client: aetcd.Client) -> None:
        for key in (b"c", b"a", b"b"):
            await client.put(b"aetcd/p/" + key, key)
        found = await client.get_prefix(b"aetcd/p/")
        assert [kv.value for kv in found] == [b"a", b"b", b"c"]
        gone = await client.delete_prefix(b"aetcd/p/")
        assert gone.deleted == 3

    with_aetcd(cluster, story)


def test_watch_sees_put_and_delete_in_order(cluster: Cluster) -> None:
    async def story(client: aetcd.Client) -> None:
        put = await client.put(b"aetcd/w", b"start")
        watch = await client.watch_prefix(b"aetcd/w", start_revision=put.header.revision + 1)
        await client.put(b"aetcd/w1", b"one")
        await client.delete(b"aetcd/w1")
        events = []
        async for event in watch:
            events.append((event.kind, event.kv.key, event.kv.value))
            if len(events) == 2:
                break
        assert events == [("PUT", b"aetcd/w1", b"one"), ("DELETE", b"aetcd/w1", b"")]
        await watch.cancel()

    with_aetcd(cluster, story)


def test_lease_holds_lists_and_revokes_its_keys(cluster: Cluster) -> None:
    async def story(client: aetcd.Client) -> None:
        lease = await client.lease(120)
        await client.put(b"aetcd/l", b"x", lease=lease)
        assert (await client.get(b"aetcd/l")).lease == lease.id
        assert list(await lease.keys()) == [b"aetcd/l"]
        assert 100 < await lease.remaining_ttl() <= 120
        assert (await lease.refresh()).TTL == 120
        await lease.revoke()
        assert await client.get(b"aetcd/l") is None
        assert await lease.granted_ttl() == 0

    with_aetcd(cluster, story)


def test_transactions_take_one_branch(cluster: Cluster) -> None:
    async def story(client: aetcd.Client) -> None:
        do = client.transactions
        await client.put(b"aetcd/t", b"1")
        request: dict[str, Any] = {
            "compare": [do.value(b"aetcd/t") == b"1", do.version(b"aetcd/t") > 0],
            "success": [do.put(b"aetcd/t", b"2"), do.get(b"aetcd/t")],
            "failure": [do.put(b"aetcd/t", b"3"), do.get(b"aetcd/t")],
        }
        succeeded, answers = await client.transaction(**request)
        assert (succeeded, answers[1][0][0]) == (True, b"2")
        succeeded, answers = await client.transaction(**request)
        assert (succeeded, answers[1][0][0]) == (False, b"3")

    with_aetcd(cluster, story)


def test_lock_is_held_by_one(cluster: Cluster) -> None:
    """CON-18."""

    async def story(client: aetcd.Client) -> None:
        first, second = client.lock(b"aetcd/lock", ttl=30), client.lock(b"aetcd/lock", ttl=30)
        assert await first.acquire(timeout=5)
        assert not await second.acquire(timeout=0.2)
        await first.release()
        assert await second.acquire(timeout=5)
        await second.release()

    with_aetcd(cluster, story)


@pytest.mark.parametrize(("bound", "succeeds"), [(True, True), (False, False)])
def test_compare_of_a_lease(cluster: Cluster, bound: bool, succeeds: bool) -> None:
    """etcdctl 3.5.1 cannot send this compare (it panics), so the messages go by hand."""
    client = cluster.client(0)
    lease = client.grant(100).ID
    client.put(b"compare/lease", b"x", lease=lease if bound else 0)
    compare = rpc_pb2.Compare(
        key=b"compare/lease",
        target=rpc_pb2.Compare.LEASE,
        result=rpc_pb2.Compare.EQUAL,
        lease=lease,
    )
    answer = client.txn([compare], [put_op(b"compare/ok", b"")], [])
    assert answer.succeeded is succeeds
    client.revoke(lease)


def test_compare_of_a_whole_range(cluster: Cluster) -> None:
    client = cluster.client(1)
    for key in (b"compare/r/a", b"compare/r/b"):
        client.put(key, b"same")
    compare = rpc_pb2.Compare(
        key=b"compare/r/",
        range_end=b"compare/r0",
        target=rpc_pb2.Compare.VALUE,
        result=rpc_pb2.Compare.EQUAL,
        value=b"same",
    )
    assert client.txn([compare]).succeeded
    client.put(b"compare/r/b", b"other")
    assert not client.txn([compare]).succeeded


def test_grpc_health_says_serving(cluster: Cluster) -> None:
    for i in range(3):
        assert cluster.client(i).health().status == 1
