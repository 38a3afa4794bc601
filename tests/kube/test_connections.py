"""Many connections and many watches: what several apiservers keep open against one cluster."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import AsyncExitStack

import h2.config
import h2.connection
import h2.events
import pytest

from tests.e2e.cluster import Cluster, reference_under_test
from tests.kube.client import FROM_CACHE, HEALTH_KEY, Resource
from tests.kube.stories import tell
from tests.kube.watching import Watch

RESOURCES = 150
WATCHES = 300
PING_SECONDS = 10.0
OLDEST_WITH_SAFE_PROGRESS = (3, 5, 13)


def test_hundreds_of_connections_each_see_their_resource_alone(cluster: Cluster) -> None:
    """KUB-15, KUB-33: two apiservers, a client and watches for each resource."""

    async def watched(client: Resource, stack: AsyncExitStack) -> list[Watch]:
        await client.connected()
        since = await client.current_revision()
        plain = await stack.enter_async_context(client.watch_stream())
        cached = await stack.enter_async_context(client.watch_stream(FROM_CACHE))
        return [
            await plain.watch(client.prefix, since + 1),
            await plain.watch(client.key("ns/"), since + 1),
            await cached.watch(client.prefix, since + 1, progress=True),
        ]

    async def seen(watches: list[Watch], revisions: list[int]) -> None:
        for watch in watches:
            made, changed = await watch.events(2)
            assert [made.kv.mod_revision, changed.kv.mod_revision] == revisions
            assert changed.prev_kv.mod_revision == revisions[0]

    async def write(client: Resource) -> list[int]:
        created = await client.create("ns/x", client.prefix)
        updated = await client.update("ns/x", b"", created.revision)
        return [created.revision, updated.revision]

    async def story(_: Resource) -> None:
        async with AsyncExitStack() as stack:
            names = [f"many-{n}" for n in range(RESOURCES)]
            clients = [
                await stack.enter_async_context(Resource(cluster.endpoints, name))
                for name in names * 2
            ]
            watches = await asyncio.gather(*(watched(client, stack) for client in clients))
            revisions = await asyncio.gather(*(write(client) for client in clients[:RESOURCES]))
            await asyncio.gather(
                *(seen(each, at) for each, at in zip(watches, revisions * 2, strict=True))
            )

    tell(cluster.endpoints, "unused", story)


def test_watches_of_many_objects_share_one_stream(cluster: Cluster) -> None:
    """KUB-15, KUB-33: each gets the events of its own prefix, with the previous value."""

    async def story(client: Resource) -> None:
        since = await client.current_revision()
        async with client.watch_stream() as stream:
            watches = [
                await stream.watch(client.key(f"ns-{n}/"), since + 1) for n in range(WATCHES)
            ]
            assert len({watch.watch_id for watch in watches}) == WATCHES
            for n in reversed(range(WATCHES)):
                created = await client.create(f"ns-{n}/x", b"%d" % n)
                await client.delete(f"ns-{n}/x", created.revision)
            for n, watch in enumerate(watches):
                made, gone = await watch.events(2)
                assert (made.kv.value, gone.prev_kv.value) == (b"%d" % n, b"%d" % n)
                assert not watch.responses

    tell(cluster.endpoints, "many-watched", story)


@pytest.mark.skipif(reference_under_test(), reason="etcd 3.5.1 is what apiserver avoids here")
def test_every_member_announces_a_version_that_apiserver_trusts(cluster: Cluster) -> None:
    """KUB-27: a plain triple, new enough for progress requests."""

    async def story(_: Resource) -> None:
        for endpoint in cluster.endpoints:
            async with Resource([endpoint], "status") as single:
                announced = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", (await single.status()).version)
                assert announced
                assert tuple(map(int, announced.groups())) >= OLDEST_WITH_SAFE_PROGRESS

    tell(cluster.endpoints, "status", story)


def test_health_and_size_are_answered_on_an_unwritten_key(cluster: Cluster) -> None:
    """KUB-28: the health key is never written; the size is that of the member asked."""

    async def story(client: Resource) -> None:
        for endpoint in cluster.endpoints:
            async with Resource([endpoint], "health") as single:
                answer = await single.health()
                assert (answer.count, list(answer.kvs)) == (0, [])
                assert (await single.status()).dbSize > 0
        await client.create("x", b"")
        assert (await client.range(key=HEALTH_KEY)).count == 0

    tell(cluster.endpoints, "health", story)


def test_keepalive_pings_are_answered_while_nothing_else_is_sent(cluster: Cluster) -> None:
    """KUB-29: apiserver drops a connection whose ping has no answer within ten seconds."""

    async def story(client: Resource) -> None:
        async with client.watch_stream() as stream:
            await stream.watch(client.prefix, 1 + await client.current_revision())
            await asyncio.gather(
                *(asyncio.to_thread(ping, endpoint) for endpoint in cluster.endpoints)
            )

    tell(cluster.endpoints, "pings", story)


def ping(endpoint: str) -> None:
    """Open a bare HTTP/2 connection, send one PING and wait for its ACK."""
    host, port = endpoint.split(":")
    http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    http2.initiate_connection()
    http2.ping(b"are you?")
    with socket.create_connection((host, int(port)), timeout=PING_SECONDS) as connection:
        connection.sendall(http2.data_to_send())
        while True:
            received = connection.recv(1 << 16)
            assert received, "the connection was closed"
            for event in http2.receive_data(received):
                if isinstance(event, h2.events.PingAckReceived):
                    assert event.ping_data == b"are you?"
                    return
            connection.sendall(http2.data_to_send())
