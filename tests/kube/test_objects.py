"""Reads and writes of objects, as apiserver sends them to a cluster of three."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from tests.e2e.cluster import Cluster
from tests.kube.client import Resource
from tests.kube.stories import COMPACTED, FUTURE_REVISION, TOO_LARGE, fill, refused, tell

MAX_REQUEST_BYTES = 1_572_864


def test_a_get_answers_the_object_and_the_revision_it_was_read_at(cluster: Cluster) -> None:
    """KUB-01: one key, linearizable: on every member at once what any of them acknowledged."""

    async def story(client: Resource) -> None:
        created = await client.create("default/web", b"v1")
        for endpoint in cluster.endpoints:
            async with Resource([endpoint], "gets") as single:
                found = await single.get("default/web")
                assert [(kv.value, kv.mod_revision) for kv in found.kvs] == [
                    (b"v1", created.revision)
                ]
                assert found.header.revision >= created.revision
                missing = await single.get("default/gone")
                assert not missing.kvs
                assert missing.header.revision >= created.revision

    tell(cluster.endpoints, "gets", story)


def test_pages_of_a_list_are_one_state_while_others_write(cluster: Cluster) -> None:
    """KUB-02, KUB-03, KUB-05: continue key, count from there on, one revision for all pages."""

    async def story(client: Resource) -> None:
        revisions = await fill(client, 25)
        names = sorted(revisions)

        page = await client.list_page(limit=10)
        pin, counts, seen = page.revision, [page.count], page.kvs
        while page.more:
            # Behind and before the continue key: neither may show in the pages to come.
            await client.delete(names[-1], revisions[names[-1]])
            revisions[names[-1]] = 0
            await client.update(names[0], b"later", revisions[names[0]])
            await client.create(f"ns-2/new-{len(counts)}", b"new")
            page = await client.list_page(10, pin, page.continue_key())
            counts.append(page.count)
            seen = seen + page.kvs

        assert counts == [25, 15, 5]
        assert [kv.key for kv in seen] == [client.key(name) for name in names]
        assert all(kv.value.startswith(b"object ") and kv.mod_revision <= pin for kv in seen)
        # The number of objects after a page, as apiserver reports it in remainingItemCount.
        first = await client.list_page(10, pin)
        assert first.count - len(first.kvs) == 15

    tell(cluster.endpoints, "pages", story)


def test_a_list_of_one_namespace_ends_where_the_next_begins(cluster: Cluster) -> None:
    """KUB-02: the range of a prefix that ends in "/"."""

    async def story(client: Resource) -> None:
        for name in ("a/1", "a/2", "a-b/1", "a0/1", "b/1"):
            await client.create(name, b"")
        page = await client.list_page(prefix=client.key("a/"))
        assert [kv.key for kv in page.kvs] == [client.key("a/1"), client.key("a/2")]
        assert page.count == 2

    tell(cluster.endpoints, "namespaced", story)


def test_no_page_is_empty_while_its_count_is_not(cluster: Cluster) -> None:
    """KUB-04: apiserver gives up on such a page; `list_page` asserts it for each of these."""

    async def story(client: Resource) -> None:
        revisions = await fill(client, 6)
        names = sorted(revisions)
        before = await client.current_revision()
        for name in names[:5]:
            await client.delete(name, revisions[name])
        last = client.key(names[5])
        shapes = [
            await client.list_page(limit, revision, start)
            for limit in (0, 1, 6, 7)
            for revision in (0, before)
            for start in (b"", client.key(names[2]) + b"\0", last, last + b"\0", client.key("z"))
        ]
        assert {page.count for page in shapes} == {0, 1, 3, 6}
        await client.delete(names[5], revisions[names[5]])
        assert (await client.list_page(limit=1)).count == 0

    tell(cluster.endpoints, "emptying", story)


def test_a_page_too_old_or_too_new_is_refused_by_its_exact_name(cluster: Cluster) -> None:
    """KUB-06: a continue token after compaction, and a resourceVersion of the future."""

    async def story(client: Resource) -> None:
        await fill(client, 12)
        page = await client.list_page(limit=5)
        await fill(client, 1, start=12)
        newest = await client.current_revision()
        await client.compact(newest)
        with refused(grpc.StatusCode.OUT_OF_RANGE, COMPACTED):
            await client.list_page(5, page.revision, page.continue_key())
        with refused(grpc.StatusCode.OUT_OF_RANGE, FUTURE_REVISION):
            await client.list_page(5, newest + 1000)
        assert (await client.list(limit=5, revision=newest)).count == 13

    tell(cluster.endpoints, "expired", story)


def test_counts_and_key_lists_agree_with_the_list(cluster: Cluster) -> None:
    """KUB-07: metrics of object counts, and keys of the size estimator."""

    async def story(client: Resource) -> None:
        assert await client.count() == 0
        assert await client.keys() == []
        await fill(client, 9)
        page = await client.list()
        assert await client.count() == len(page.kvs) == 9
        assert await client.keys() == [kv.key for kv in page.kvs]

    tell(cluster.endpoints, "counted", story)


def test_create_update_delete_and_their_conflicts(cluster: Cluster) -> None:
    """KUB-09, KUB-10: who comes second learns what is there now, or that it is gone."""

    async def story(client: Resource) -> None:
        first = await client.create("default/a", b"one")
        again = await client.create("default/a", b"two")
        assert (first.succeeded, again.succeeded) == (True, False)

        second = await client.update("default/a", b"two", first.revision)
        assert second.succeeded
        late = await client.update("default/a", b"late", first.revision)
        assert not late.succeeded
        assert late.current is not None
        assert (late.current.value, late.current.mod_revision) == (b"two", second.revision)

        late = await client.delete("default/a", first.revision)
        assert not late.succeeded
        assert late.current is not None
        assert late.current.mod_revision == second.revision
        assert (await client.delete("default/a", second.revision)).succeeded

        for gone in (
            await client.update("default/a", b"late", second.revision),
            await client.delete("default/a", second.revision),
        ):
            assert not gone.succeeded
            assert gone.current is None
        assert (await client.create("default/a", b"reborn")).succeeded

    tell(cluster.endpoints, "conflicts", story)


def test_a_write_answers_the_revision_that_is_stored_and_watched(cluster: Cluster) -> None:
    """KUB-11: the header's revision becomes the object's resourceVersion."""

    async def story(client: Resource) -> None:
        since = await client.current_revision()
        created = await client.create("a", b"1")
        assert (await client.get("a")).kvs[0].mod_revision == created.revision
        updated = await client.update("a", b"2", created.revision)
        assert (await client.get("a")).kvs[0].mod_revision == updated.revision
        refused_at = (await client.create("a", b"3")).revision
        assert refused_at >= updated.revision
        deleted = await client.delete("a", updated.revision)

        async with client.watch_stream() as stream:
            watch = await stream.watch(client.prefix, since + 1)
            events = await watch.events(3)
        assert [event.kv.mod_revision for event in events] == [
            created.revision,
            updated.revision,
            deleted.revision,
        ]

    tell(cluster.endpoints, "answered", story)


def test_racing_writers_of_one_object_lose_no_update(cluster: Cluster) -> None:
    """KUB-10, KUB-11: each retry of an update starts from what the refusal told."""

    async def add_one(endpoint: str, times: int) -> None:
        async with Resource([endpoint], "counters") as client:
            for _ in range(times):
                held = (await client.get("c")).kvs[0]
                while True:
                    value = b"%d" % (int(held.value) + 1)
                    written = await client.update("c", value, held.mod_revision)
                    if written.succeeded:
                        break
                    assert written.current is not None
                    held = written.current

    async def story(client: Resource) -> None:
        await client.create("c", b"0")
        await asyncio.gather(*(add_one(endpoint, 10) for endpoint in cluster.endpoints * 2))
        found = (await client.get("c")).kvs[0]
        assert (found.value, found.version) == (b"60", 61)

    tell(cluster.endpoints, "counters", story)


def test_a_namespace_is_deleted_by_a_transaction_for_each_object(cluster: Cluster) -> None:
    """KUB-12: two hundred at a time on one connection, each with a revision of its own."""

    async def story(client: Resource) -> None:
        created = await asyncio.gather(*(client.create(f"ns/{n}", b"x") for n in range(200)))
        since = await client.current_revision()
        deleted = await asyncio.gather(
            *(client.delete(f"ns/{n}", written.revision) for n, written in enumerate(created))
        )
        assert all(answer.succeeded for answer in deleted)
        assert sorted(answer.revision for answer in deleted) == list(range(since + 1, since + 201))
        assert await client.count() == 0

    tell(cluster.endpoints, "doomed", story)


@pytest.mark.parametrize("kib", [1, 1024, 1535])
def test_objects_up_to_the_limit_are_stored(cluster: Cluster, kib: int) -> None:
    """KUB-13: apiserver's objects may have 1.5 MiB, less the names around them."""

    async def story(client: Resource) -> None:
        value = bytes(kib * 1024)
        created = await client.create(f"size-{kib}", value)
        assert created.succeeded
        assert (await client.update(f"size-{kib}", value[1:], created.revision)).succeeded
        assert (await client.get(f"size-{kib}")).kvs[0].value == value[1:]

    tell(cluster.endpoints, "large", story)


def test_an_object_beyond_the_limit_is_refused_by_name(cluster: Cluster) -> None:
    """KUB-13: the user is told that the request is too large."""

    async def story(client: Resource) -> None:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, TOO_LARGE):
            await client.create("too-large", bytes(MAX_REQUEST_BYTES))
        assert await client.count() == 0

    tell(cluster.endpoints, "too-large", story)
