"""apiserver's compactor, and the leases by which events expire."""

from __future__ import annotations

import asyncio
import time

import grpc

from kvstore.pb import kv_pb2
from tests.e2e.cluster import Cluster
from tests.kube.client import Resource, get_op, put_op, version_is
from tests.kube.stories import COMPACTED, LEASE_NOT_FOUND, fill, refused, tell

COMPACT_KEY = b"compact_rev_key"
EVENT_TTL = 2  # seconds; the shortest that the default election time-out allows
REUSE_PERCENT, REUSE_SECONDS_MAX, OBJECTS_MAX = 5, 60, 1000


class Compactor:
    """One apiserver's part in the race for the next compaction (KUB-23)."""

    def __init__(self, client: Resource) -> None:
        self.version = self.revision = 0
        self.compacted: list[int] = []
        self._client = client

    async def tick(self) -> bool:
        """What it does every five minutes; whether it won the race."""
        answer = await self._client.txn(
            version_is(COMPACT_KEY, self.version),
            put_op(COMPACT_KEY, b"%d" % self.revision),
            get_op(COMPACT_KEY),
        )
        seen, self.revision = self.revision, answer.header.revision
        if not answer.succeeded:
            self.version = answer.responses[0].response_range.kvs[0].version
            return False
        self.version += 1
        if seen:
            await self._client.compact(seen)
            self.compacted.append(seen)
        return True


def test_compactors_of_two_apiservers_take_turns_by_the_version_of_a_key(
    cluster: Cluster,
) -> None:
    """KUB-23: the version counts by one; the winner compacts at what it saw a round before."""

    async def story(client: Resource) -> None:
        async with Resource(cluster.endpoints, "second") as second:
            first, other = Compactor(client), Compactor(second)
            for n in range(1, 4):
                await client.create(f"{n}", b"")
                assert await first.tick()
                assert not await other.tick()
                assert other.version == first.version == n
            assert len(first.compacted) == 2
            # The first one is gone: the other takes over in its next round.
            assert await other.tick()
            assert other.compacted == [other.compacted[0]] > first.compacted[-1:]
            with refused(grpc.StatusCode.OUT_OF_RANGE, COMPACTED):
                await client.list(revision=other.compacted[-1] - 1)
            assert (await client.list(revision=other.compacted[-1])).count == 3
            # Losing the race between transaction and compaction is harmless (CMP-01).
            with refused(grpc.StatusCode.OUT_OF_RANGE, COMPACTED):
                await client.compact(other.compacted[-1])

    tell(cluster.endpoints, "compacting", story)


def test_the_compaction_key_is_watched_from_the_revision_it_was_read_at(
    cluster: Cluster,
) -> None:
    """KUB-24: that very revision, and though it is compacted meanwhile."""

    async def story(client: Resource) -> None:
        await client.create("x", b"")
        read = await client.range(key=COMPACT_KEY)
        await client.compact(read.header.revision)
        async with client.watch_stream() as stream:
            watch = await stream.watch(COMPACT_KEY, read.header.revision, prefix=False)
            version = read.kvs[0].version if read.kvs else 0
            written = await client.txn(
                version_is(COMPACT_KEY, version), put_op(COMPACT_KEY, b"7"), get_op(COMPACT_KEY)
            )
            assert written.succeeded
            events = [event for event in await watch.events(1) if event.kv.value == b"7"]
            while not events:  # the key itself may be what was written last before
                events = await watch.events(1)
        assert events[0].kv.version == version + 1

    tell(cluster.endpoints, "compacted-key", story)


class LeaseManager:
    """Leases for objects that expire, each for as many objects as apiserver lets share one."""

    def __init__(self, client: Resource) -> None:
        self.granted: list[int] = []
        self._client = client
        self._objects = 0
        self._expires = 0.0

    async def lease(self, ttl: int) -> int:
        """A lease that lives at least `ttl` seconds from now."""
        reserve = min(ttl * REUSE_PERCENT // 100, REUSE_SECONDS_MAX)
        now = time.monotonic()
        self._objects += 1
        if now + ttl < self._expires <= now + ttl + reserve and self._objects <= OBJECTS_MAX:
            return self.granted[-1]
        answer = await self._client.grant(ttl + reserve)
        assert (answer.TTL, answer.error) == (ttl + reserve, "")
        self.granted.append(answer.ID)
        self._objects, self._expires = 1, now + answer.TTL
        return self.granted[-1]


def test_events_share_leases_of_the_servers_choice(cluster: Cluster) -> None:
    """KUB-25: a thousand objects to a lease, none of which is renewed or revoked."""

    async def story(client: Resource) -> None:
        leases = LeaseManager(client)
        for first in range(0, OBJECTS_MAX + 40, 104):
            ids = [await leases.lease(3600) for _ in range(104)]
            created = await asyncio.gather(
                *(client.create(f"ns/{first + n}", b"", lease) for n, lease in enumerate(ids))
            )
            assert all(written.succeeded for written in created)
        assert len(set(leases.granted)) == 2
        assert all(lease > 0 for lease in leases.granted)
        of_first = [kv for kv in (await client.list()).kvs if kv.lease == leases.granted[0]]
        assert len(of_first) == OBJECTS_MAX

    tell(cluster.endpoints, "events", story)


def test_events_vanish_by_themselves_and_not_before_their_time(cluster: Cluster) -> None:
    """KUB-25, KUB-26: expiry deletes what is left, is watched, and ends the lease."""

    async def story(client: Resource) -> None:
        since = await client.current_revision()
        granted_at = time.monotonic()
        lease = (await client.grant(EVENT_TTL)).ID
        await asyncio.gather(*(client.create(f"ns/{n}", b"%d" % n, lease) for n in range(10)))
        kept = await client.create("ns/kept", b"")
        moved = await client.get("ns/9")
        # An event seen again gets a new lease; the old one must let go of it.
        later = (await client.grant(3600)).ID
        await client.update("ns/9", b"again", moved.kvs[0].mod_revision, later)

        async with client.watch_stream() as stream:
            watch = await stream.watch(client.prefix, since + 1)
            events = await watch.events(12 + 9)
        assert time.monotonic() - granted_at >= EVENT_TTL, "expired early"
        gone = [event for event in events if event.type == kv_pb2.Event.DELETE]
        assert sorted(event.prev_kv.value for event in gone) == [b"%d" % n for n in range(9)]
        left = await client.list()
        assert {kv.key for kv in left.kvs} == {client.key("ns/kept"), client.key("ns/9")}
        assert kept.revision in {kv.mod_revision for kv in left.kvs}
        with refused(grpc.StatusCode.NOT_FOUND, LEASE_NOT_FOUND):
            await client.create("ns/late", b"", lease)
        assert (await client.count()) == 2

    tell(cluster.endpoints, "expiring", story)


def test_compaction_amid_updates_takes_nothing_that_is_current(cluster: Cluster) -> None:
    """KUB-23: what the compactor leaves is the list of now, and all history after it."""

    async def story(client: Resource) -> None:
        revisions = await fill(client, 30)
        for n in range(3):
            seen = await client.current_revision()
            before = await client.list()
            for name in list(revisions)[:20]:
                written = await client.update(name, b"round %d" % n, revisions[name])
                assert written.succeeded
                revisions[name] = written.revision
            await client.compact(seen)
            assert (await client.list(revision=seen)).kvs == before.kvs
            now = await client.list(limit=7)
            assert {kv.key: kv.mod_revision for kv in now.kvs} == {
                client.key(name): revision for name, revision in revisions.items()
            }

    tell(cluster.endpoints, "churned", story)
