"""Watches as apiserver opens them, and the lists that its watch cache answers by them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from kvstore.pb import kv_pb2
from tests.e2e.cluster import Cluster, reference_under_test
from tests.kube.client import FROM_CACHE, Resource
from tests.kube.stories import fill, tell
from tests.kube.watch_cache import WatchCache, as_objects
from tests.kube.watching import Watch, WatchLost, is_create, is_progress

NO_SAFE_PROGRESS = "etcd before 3.5.13 reports progress too early; apiserver asks it for none"
QUIET_WRITES = 5


def test_a_watch_tells_each_change_with_what_was_there_before(cluster: Cluster) -> None:
    """KUB-14, KUB-16: from RV + 1, previous values on all but creations, the delete's revision."""

    async def story(client: Resource) -> None:
        await client.create("ns/early", b"not seen")
        since = await client.current_revision()
        async with client.watch_stream() as stream:
            watch = await stream.watch(client.prefix, since + 1, progress=True)
            created = await client.create("ns/a", b"1")
            updated = await client.update("ns/a", b"2", created.revision)
            deleted = await client.delete("ns/a", updated.revision)
            made, changed, gone = await watch.events(3)

        assert is_create(made)
        assert not made.HasField("prev_kv")
        assert (made.kv.key, made.kv.value) == (client.key("ns/a"), b"1")
        assert not is_create(changed)
        assert (changed.kv.value, changed.prev_kv.value) == (b"2", b"1")
        assert changed.prev_kv.mod_revision == created.revision
        assert gone.type == kv_pb2.Event.DELETE
        assert (gone.kv.mod_revision, gone.prev_kv.value) == (deleted.revision, b"2")

    tell(cluster.endpoints, "watched", story)


def test_a_single_object_is_watched_alone(cluster: Cluster) -> None:
    """KUB-14: a watch of one name has no range."""

    async def story(client: Resource) -> None:
        since = await client.current_revision()
        async with client.watch_stream() as stream:
            watch = await stream.watch(client.key("ns/a"), since + 1, prefix=False)
            for name in ("ns/a0", "ns/a", "ns/a/b"):
                await client.create(name, name.encode())
            held = await client.get("ns/a")
            await client.update("ns/a", b"again", held.kvs[0].mod_revision)
            events = await watch.events(2)
        assert [event.kv.value for event in events] == [b"ns/a", b"again"]

    tell(cluster.endpoints, "single", story)


def test_a_watch_after_the_newest_revision_is_silent_until_the_next_write(
    cluster: Cluster,
) -> None:
    """KUB-21: on a member that has not yet applied that revision, too."""

    async def story(client: Resource) -> None:
        for endpoint in cluster.endpoints * 3:
            async with (
                Resource([endpoint], "quiet") as single,
                single.watch_stream() as stream,
            ):
                created = await client.create("last", b"seen by the list")
                watch = await stream.watch(client.prefix, created.revision + 1)
                deleted = await client.delete("last", created.revision)
                (event,) = await watch.events(1)
                assert event.kv.mod_revision == deleted.revision

    tell(cluster.endpoints, "quiet", story)


def test_a_watch_without_a_revision_lists_by_more_and_goes_on_from_there(
    cluster: Cluster,
) -> None:
    """KUB-22: pages by the field `more`, then everything after the first page's revision."""

    async def story(client: Resource) -> None:
        revisions = await fill(client, 7)
        pin, start, seen = 0, client.prefix, []
        while True:
            answer = await client.range(
                key=start, range_end=client.prefix[:-1] + b"0", limit=3, revision=pin
            )
            seen += [kv.key for kv in answer.kvs]
            if not pin:
                pin = answer.header.revision
                late = await client.create("ns-2/late", b"")
            if not answer.more:
                break
            start = answer.kvs[-1].key + b"\0"
        assert seen == sorted(client.key(name) for name in revisions)
        async with client.watch_stream() as stream:
            watch = await stream.watch(client.prefix, pin + 1)
            (event,) = await watch.events(1)
        assert event.kv.mod_revision == late.revision

    tell(cluster.endpoints, "initial", story)


def test_a_watch_from_a_compacted_revision_ends_with_that_revision(cluster: Cluster) -> None:
    """KUB-20: apiserver answers 410 and its client lists anew."""

    async def story(client: Resource) -> None:
        revisions = sorted((await fill(client, 5)).values())
        await client.compact(revisions[-1])
        async with client.watch_stream() as stream:
            watch = await stream.watch(client.prefix, revisions[0] + 1)
            with pytest.raises(WatchLost) as lost:
                await watch.next()
            assert lost.value.compact_revision == revisions[-1]
        async with WatchCache(cluster.endpoints, "compacted") as cache:
            assert await cache.consistent_list() == as_objects(await client.list())

    tell(cluster.endpoints, "compacted", story)


def test_progress_comes_for_a_quiet_watch_and_after_all_it_covers(cluster: Cluster) -> None:
    """KUB-17, KUB-18: revisions on a watch never go back, bookmarks included."""

    async def write_elsewhere(stop: asyncio.Event) -> None:
        async with Resource(cluster.endpoints, "elsewhere") as other:
            count = 0
            while not stop.is_set():
                await other.create(f"{count}", b"")
                count += 1
                await asyncio.sleep(0.01)

    async def story(client: Resource) -> None:
        stop = asyncio.Event()
        busy = asyncio.create_task(write_elsewhere(stop))
        async with client.watch_stream(FROM_CACHE) as stream:
            watch = await stream.watch(client.prefix, 1 + await client.current_revision())
            quiet = await stream.watch(client.key("quiet/"), watch.created_revision, progress=True)
            seen: list[int] = []
            while len(seen) < 3:
                response = await quiet.next()
                assert is_progress(response)
                seen.append(response.header.revision)
            assert seen == sorted(seen)
            # A write acknowledged before the next progress must have come before it.
            for n in range(QUIET_WRITES):
                created = await client.create(f"quiet/{n}", b"")
                latest = seen[-1]
                while latest < created.revision:
                    response = await quiet.next()
                    revisions = [event.kv.mod_revision for event in response.events]
                    if not revisions:
                        assert response.header.revision < created.revision, "the event was skipped"
                        revisions = [response.header.revision]
                    assert revisions[0] >= latest
                    latest = revisions[-1]
                seen.append(latest)
            assert not any(is_progress(response) for response in watch.responses)
        stop.set()
        await busy

    tell(cluster.endpoints, "bookmarks", story)


@pytest.mark.skipif(reference_under_test(), reason=NO_SAFE_PROGRESS)
def test_a_list_from_the_cache_holds_everything_written_before_it(cluster: Cluster) -> None:
    """KUB-18, KUB-19: on each member, while others write to the resource and around it."""

    async def story(client: Resource) -> None:
        async with AsyncExitStack() as stack:
            caches = [
                await stack.enter_async_context(WatchCache([endpoint], "fresh", page_keys=7))
                for endpoint in cluster.endpoints
            ]
            other = await stack.enter_async_context(Resource(cluster.endpoints, "around"))
            await fill(client, 20)
            for n in range(10):
                written = await client.create(f"ns-0/new-{n}", b"%d" % n)
                await other.create(f"{n}", b"")
                listed = await asyncio.gather(*(cache.consistent_list() for cache in caches))
                for objects in listed:
                    assert objects[client.key(f"ns-0/new-{n}")] == (b"%d" % n, written.revision)
            final = as_objects(await client.list())
            for cache in caches:
                assert await cache.consistent_list() == final
                assert (cache.lists, cache.lost) == (1, [])
                assert cache.progress > 0

    tell(cluster.endpoints, "fresh", story)


@pytest.mark.skipif(reference_under_test(), reason=NO_SAFE_PROGRESS)
def test_progress_answers_reach_idle_watches_of_a_shared_stream(cluster: Cluster) -> None:
    """KUB-19: one request for the whole stream; the revision is the current one though all idle."""

    async def story(client: Resource) -> None:
        async with Resource(cluster.endpoints, "busy") as other, client.watch_stream() as stream:
            since = await client.current_revision()
            watches = [
                await stream.watch(client.key(f"idle-{n}/"), since + 1, progress=True)
                for n in range(5)
            ]
            written = await other.create("x", b"")
            for watch in watches:
                await progress_reaches(watch, written.revision)

    tell(cluster.endpoints, "shared", story)


async def progress_reaches(watch: Watch, revision: int) -> None:
    """Ask every 100 ms, as apiserver does, until progress of at least `revision` came."""

    async def ask() -> None:
        while True:
            await watch.stream.request_progress()
            await asyncio.sleep(0.1)

    asking = asyncio.create_task(ask())
    while True:
        response = await watch.next()
        assert is_progress(response)
        if response.header.revision >= revision:
            break
    asking.cancel()
