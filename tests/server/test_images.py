"""Images of a store while it is written, packed, damaged, or its disk is full."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from kvstore.bbolt.check import check
from kvstore.bbolt.reader import Database
from kvstore.errors import EtcdError
from kvstore.mvcc.keyvalue import encode_key_value, mod_revision_field, revision_key
from kvstore.server import images as images_module
from kvstore.server.images import Image, Images
from kvstore.storage.backend import META, REVISIONS
from kvstore.storage.lmdb_backend import LmdbBackend

COUNT = 20_000


class Store:
    """A backend and what takes images of it, as in a server but without one."""

    def __init__(self, folder: Path) -> None:
        self.backend = LmdbBackend(folder / "db")
        self.commits = asyncio.Lock()
        self.folder = folder
        self.times: list[float] = []
        self.images = Images(folder, self.backend, self.commit, self.commits, self.times.append)

    def fill(self, generation: int, count: int = COUNT) -> None:
        """Write (and with a higher generation overwrite) all revisions."""
        value = b"generation %d" % generation
        for n in range(2, count + 2):
            stored = encode_key_value(b"k%06d" % n, n, mod_revision_field(n), 1, value, 0)
            self.backend.put(REVISIONS, revision_key(n, 0), stored)

    async def commit(self) -> None:
        async with self.commits:
            self.backend.commit()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 120))


async def content(image: Image) -> bytes:
    data = await image.read(0, image.size)
    assert len(data) == image.size
    assert hashlib.sha256(data).digest() == image.sha256
    return data


def values(data: bytes) -> list[bytes]:
    """What the revisions in an image hold."""
    database = Database(data)
    check(database)
    keys = next(bucket for name, bucket in database.buckets() if name == b"key")
    return [value for _, value in keys.items() if isinstance(value, bytes)]


def children() -> list[int]:
    """Processes that this one has started and not waited for."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


@pytest.fixture
def left() -> Callable[[], set[int]]:
    """Tells which processes were started since the test began and are not waited for."""
    before = set(children())
    return lambda: set(children()) - before


async def child() -> int:
    """Wait for the export's process."""
    before = set(children())
    while not (started := set(children()) - before):
        await asyncio.sleep(0.005)
    return started.pop()


def test_an_image_is_of_one_point_in_time(tmp_path: Path) -> None:
    """MNT-25: everything is overwritten and the file is packed meanwhile; the image shows none of
    it, and commits do not wait for its end."""

    async def work() -> None:
        store = Store(tmp_path)
        store.fill(0)
        opening = store.images.open()
        taking = asyncio.ensure_future(opening.__aenter__())
        await child()
        commits = 0
        while not taking.done():
            store.fill(1)
            await store.commit()
            commits += 1
            if commits == 2:
                async with store.commits:
                    store.backend.pack()
                    store.backend.switch()()
            await asyncio.sleep(0)
        image = await taking
        found = values(await content(image))
        assert len(found) == COUNT
        assert all(value.endswith(b"generation 0") for value in found)
        assert commits > 2
        await opening.__aexit__(None, None, None)
        assert len(store.times) == 1
        store.backend.close()

    run(work())


def test_an_image_has_what_was_written_just_before(tmp_path: Path) -> None:
    async def work() -> None:
        store = Store(tmp_path)
        store.fill(7, count=1)
        async with store.images.open() as image:
            assert values(await content(image))[0].endswith(b"generation 7")
            assert image.size % 512 == 0
        store.backend.close()

    run(work())


def test_an_image_leaves_nothing_behind(tmp_path: Path, left: Callable[[], set[int]]) -> None:
    async def work() -> None:
        store = Store(tmp_path)
        store.fill(0, count=10)
        async with store.images.open():
            # At most a file whose name is gone by the time anybody could look at it.
            assert sorted(os.listdir(tmp_path)) == ["db", "db-lock"]
        assert left() == set()
        store.backend.close()

    run(work())


def test_a_damaged_value_is_never_exported(tmp_path: Path) -> None:
    async def work() -> None:
        store = Store(tmp_path)
        store.fill(0, count=50)
        store.backend.commit()
        store.backend.close()
        path = tmp_path / "db"
        path.write_bytes(path.read_bytes().replace(b"k000020\x10", b"k000021\x10"))
        store = Store(tmp_path)
        with pytest.raises(EtcdError) as caught:
            async with store.images.open():
                pass
        assert "could not take a snapshot: backend is corrupt: table 'revisions'" in str(
            caught.value.message
        )
        store.backend.close()

    run(work())


def test_a_process_that_is_killed_is_told_and_the_next_one_works(tmp_path: Path) -> None:
    async def work() -> None:
        store = Store(tmp_path)
        store.fill(0)
        opening = store.images.open()
        taking = asyncio.ensure_future(opening.__aenter__())
        os.kill(await child(), signal.SIGKILL)
        with pytest.raises(EtcdError) as caught:
            await taking
        assert caught.value.message == "could not take a snapshot: it ended with -9"
        async with store.images.open() as image:
            assert len(values(await content(image))) == COUNT
        store.backend.close()

    run(work())


def test_who_gives_up_ends_the_process(tmp_path: Path, left: Callable[[], set[int]]) -> None:
    async def work() -> None:
        store = Store(tmp_path)
        store.fill(0)
        opening = store.images.open()
        taking = asyncio.ensure_future(opening.__aenter__())
        await child()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert left() == set()
        await store.commit()
        async with store.images.open() as image:
            assert len(values(await content(image))) == COUNT
        store.backend.close()

    run(work())


def test_a_disk_without_room_is_told_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is `SPARE_BYTES` beside the image: the log is on the same disk."""
    monkeypatch.setattr(images_module, "SPARE_BYTES", 1 << 60)

    async def work() -> None:
        store = Store(tmp_path)
        store.backend.put(META, b"k", b"v")
        with pytest.raises(EtcdError) as caught:
            async with store.images.open():
                pass
        assert "no space left on device: " in caught.value.message
        store.backend.close()

    run(work())


def test_a_process_that_does_not_start_in_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: Callable[[], set[int]]
) -> None:
    """The limit is `OPEN_S`: commits wait no longer than that."""
    monkeypatch.setattr(images_module, "OPEN_S", 0.0)

    async def work() -> None:
        store = Store(tmp_path)
        with pytest.raises(EtcdError) as caught:
            async with store.images.open():
                pass
        assert "did not open the backend within" in caught.value.message
        assert left() == set()
        store.backend.put(META, b"k", b"v")
        await store.commit()
        store.backend.close()

    run(work())
