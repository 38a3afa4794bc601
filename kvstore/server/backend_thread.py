"""The one thread that commits, copies and packs the backend, and whose turn it is.

LMDB's writes belong on one thread (the GIL is released while they sync); the loop asks for work and
goes on. One lock orders what may not overlap: a commit, a defragmentation, and the moment at which
a received snapshot is handed to Raft, because its installation replaces the file. The trade-off:
while a defragmentation copies, applied writes gather in the pending buffer (the quota counts them
there) and the log is not shortened.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from kvstore.node.member import Member
from kvstore.storage.errors import CopyFailed
from kvstore.storage.lmdb_backend import LmdbBackend

T = TypeVar("T")

INSTALL_POLL_S = 0.01
"""Pause between two looks whether a snapshot that Raft has taken in is installed."""


class BackendThread:
    """See the module docstring. All methods are for the event loop.

    Attributes:
        lock: held while the backend's file is written or replaced.
    """

    def __init__(
        self,
        member: Member,
        backend: LmdbBackend,
        observe_commit: Callable[[float], None],
        thread: Executor,
    ) -> None:
        """Args:
        observe_commit: is told how long each commit took, seconds.
        thread: has one thread, of its own.
        """
        self.lock = asyncio.Lock()
        self._member = member
        self._backend = backend
        self._observe_commit = observe_commit
        self._loop = asyncio.get_running_loop()
        self._due = asyncio.Event()
        self._thread = thread

    async def run(self, work: Callable[[], T]) -> T:
        """Run something on the thread, after what was asked for before."""
        return await self._loop.run_in_executor(self._thread, work)

    def wait(self) -> None:
        """Block the loop until the thread has nothing to do."""
        self._thread.submit(lambda: None).result()

    def shutdown(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    # Commits.

    async def commit_forever(self, interval_s: float) -> None:
        """Commit once every interval, and when a commit is due."""
        due = self._due
        while True:
            timer = self._loop.call_later(interval_s, due.set)
            try:
                await due.wait()
            finally:
                timer.cancel()
            due.clear()
            await self.commit()

    def commit_due(self) -> None:
        """Let the next commit not wait for its time."""
        self._due.set()

    async def commit(self) -> None:
        """Make what is applied durable; a commit that began is ended even if the caller is not."""
        if self._member.has_uncommitted or self.lock.locked():  # mostly there is nothing to do
            await asyncio.shield(asyncio.ensure_future(self._commit_alone()))

    async def _commit_alone(self) -> None:
        async with self.lock:
            await self._commit_locked()

    async def _commit_locked(self) -> None:
        commit = self._member.begin_commit()
        if commit is None:
            return
        started = time.perf_counter()
        await self.run(commit)
        self._observe_commit(time.perf_counter() - started)
        self._member.end_commit()

    # Defragmentation.

    async def defragment(self, stop: Callable[[], bool]) -> None:
        """Pack the backend's file and go on with the packed one (MNT-18). Never cancel this.

        Args:
            stop: asked now and then on the thread; True ends it with `CopyFailed`.

        Raises:
            CopyFailed, CorruptBackend: the old file serves on.
            Another exception: the process must end.
        """
        async with self.lock:
            await self._commit_locked()
            while self._member.installing:
                if stop():
                    raise CopyFailed("the backend", "the server is stopping")
                await asyncio.sleep(INSTALL_POLL_S)
            await self.run(lambda: self._backend.pack(stop))
            let_go = self._backend.switch()
            self._member.quota.measure()
            await self.run(let_go)
