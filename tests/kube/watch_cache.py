"""A watch cache as apiserver keeps one for each resource: list in pages, then watch, for ever.

What lives here: the reconstruction of a resource from one list and the events after it, with every
check that apiserver (or a client that trusts its bookmarks) depends on made at each response. What
may not: knowledge of the cluster; it sees what apiserver sees.

Trade-off: all events since the last list are kept, so that a test can ask for the state at any
revision in between (JEP-16); apiserver keeps a window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from kvstore.pb import kv_pb2
from tests.kube.client import FROM_CACHE, Page, Resource
from tests.kube.watching import WatchLost, is_create, is_progress

PAGE_KEYS = 10_000
PROGRESS_PERIOD_SECONDS = 0.1
RETRY_SECONDS = 0.05
WAIT_SECONDS = 60.0

Objects = dict[bytes, tuple[bytes, int]]
"""Key → value and the revision of its last write."""


class WatchCache:
    """The cache of one resource; runs while its context is open."""

    def __init__(self, endpoints: Sequence[str], resource: str, page_keys: int = PAGE_KEYS) -> None:
        self.resource = Resource(endpoints, resource, [FROM_CACHE])
        self.objects: Objects = {}
        self.revision = 0
        """Everything up to this revision is in `objects`: the resourceVersion of the cache."""
        self.lists = self.watches = self.progress = 0
        self.lost: list[str] = []
        """Why watches and lists ended."""
        self._page_keys = page_keys
        self.base_revision = 0
        """The revision of the last list."""
        self._base: Objects = {}
        self._changes: list[tuple[int, bytes, bytes | None]] = []
        self._stream: Any = None
        self._moved = asyncio.Event()

    async def __aenter__(self) -> WatchCache:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self.resource.channel.close()

    # -- questions ------------------------------------------------------------------------------

    async def reached(self, revision: int) -> None:
        """Wait until the cache's revision is at least `revision`, without asking for progress."""
        await self._wait_for(revision, ask=False)

    async def consistent_list(self) -> Objects:
        """KUB-19: everything written before this call, from the cache."""
        await self._wait_for(await self.resource.current_revision(), ask=True)
        return dict(self.objects)

    async def _wait_for(self, revision: int, *, ask: bool) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while self.revision < revision:
                if self._task.done():
                    self._task.result()
                if ask and self._stream is not None:
                    await self._ask_for_progress()
                self._moved.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._moved.wait(), PROGRESS_PERIOD_SECONDS)

    async def _ask_for_progress(self) -> None:
        try:
            await self._stream.request_progress()
        except WatchLost as lost:  # the watching task opens another stream
            self.lost.append(lost.reason)

    def state_at(self, revision: int) -> Objects:
        """What the list and the events say that the resource held at `revision`."""
        state = dict(self._base)
        for changed_at, key, value in self._changes:
            if changed_at > revision:
                break
            if value is None:
                del state[key]
            else:
                state[key] = (value, changed_at)
        return state

    def writes(self) -> dict[int, tuple[bytes, bytes | None]]:
        """Revision → key and value (None: deleted) of each event since the last list."""
        return {revision: (key, value) for revision, key, value in self._changes}

    # -- list and watch -------------------------------------------------------------------------

    async def _run(self) -> None:
        listed = False
        while True:
            try:
                if not listed:
                    self._replace(await self.resource.list(self._page_keys))
                    listed = True
                async with self.resource.watch_stream(FROM_CACHE) as stream:
                    await self._follow(stream)
            except grpc.aio.AioRpcError as error:
                self.lost.append(f"list: {error.details()}")
            except WatchLost as lost:
                # apiserver's client reopens a stream by itself, but passes on these two.
                listed = not lost.compact_revision and "no leader" not in lost.reason
                self.lost.append(f"watch: {lost.reason}")
            finally:
                self._stream = None
            await asyncio.sleep(RETRY_SECONDS)

    def _replace(self, page: Page) -> None:
        """A list never is older than what the cache held (KUB-05)."""
        assert page.revision >= self.revision, f"list at {page.revision} after {self.revision}"
        self.objects = {kv.key: (kv.value, kv.mod_revision) for kv in page.kvs}
        assert len(self.objects) == len(page.kvs), "a list holds a key twice"
        assert list(self.objects) == sorted(self.objects), "a list is not in the order of its keys"
        self._base, self.base_revision, self._changes = dict(self.objects), page.revision, []
        self.lists += 1
        self._move(page.revision)

    async def _follow(self, stream: Any) -> None:
        watch = await stream.watch(self.resource.prefix, self.revision + 1, progress=True)
        self.watches += 1
        self._stream = stream
        async for response in watch:
            if is_progress(response):
                self._bookmark(response.header.revision)
            for event in response.events:
                self._apply(event)
            if response.events:
                self._move(response.events[-1].kv.mod_revision)

    def _bookmark(self, revision: int) -> None:
        """KUB-18: progress below what was seen would make the cache go backwards."""
        assert revision >= self.revision, f"progress at {revision} after {self.revision}"
        self.progress += 1
        self._move(revision)

    def _apply(self, event: Any) -> None:
        """KUB-16, KUB-17, JEP-07: order, and the previous value where there was one."""
        kv = event.kv
        latest = self._changes[-1][0] if self._changes else 0
        assert kv.mod_revision > self.revision, f"{kv.mod_revision} came after {self.revision}"
        assert kv.mod_revision >= latest, f"{kv.mod_revision} came after {latest}"
        held = self.objects.get(kv.key)
        if is_create(event):
            assert held is None, f"{kv.key} was created, but is there"
            assert not event.HasField("prev_kv")
        else:
            assert event.HasField("prev_kv"), f"no previous value of {kv.key} at {kv.mod_revision}"
            assert held == (event.prev_kv.value, event.prev_kv.mod_revision), kv.key
        if event.type == kv_pb2.Event.DELETE:
            del self.objects[kv.key]
            self._changes.append((kv.mod_revision, kv.key, None))
        else:
            self.objects[kv.key] = (kv.value, kv.mod_revision)
            self._changes.append((kv.mod_revision, kv.key, kv.value))

    def _move(self, revision: int) -> None:
        self.revision = revision
        self._moved.set()


def as_objects(page: Page) -> Objects:
    """A list in the form that `WatchCache.objects` has."""
    return {kv.key: (kv.value, kv.mod_revision) for kv in page.kvs}
