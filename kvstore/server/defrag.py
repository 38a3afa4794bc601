"""Maintenance.Defragment on a running member: one at a time, told to metrics and health checks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from kvstore.errors import Code, EtcdError
from kvstore.histogram import Histogram, exponential
from kvstore.server.backend_thread import BackendThread
from kvstore.storage.errors import CopyFailed, CorruptBackend
from kvstore.storage.lmdb_backend import LmdbBackend

log = logging.getLogger("server")

DURATION_BUCKETS = exponential(0.1, 2, 13)
"""Seconds; of etcd_disk_backend_defrag_duration_seconds."""


class Defragmenter:
    """Runs defragmentations.

    Attributes:
        running: whether one is under way.
        duration: how long each took, seconds.
        on_change: called with `running` when that changes.
        on_damage: is told of damaged data that one met.
    """

    def __init__(
        self,
        thread: BackendThread,
        backend: LmdbBackend,
        fatal: Callable[[BaseException], None],
    ) -> None:
        """Args: fatal: ends the process."""
        self.running = False
        self.duration = Histogram(DURATION_BUCKETS)
        self.on_change: Callable[[bool], None] = lambda running: None
        self.on_damage: Callable[[CorruptBackend], None] = lambda error: None
        self._thread = thread
        self._backend = backend
        self._fatal = fatal
        self._stopping = False
        self._task: asyncio.Task[EtcdError | None] | None = None

    async def defragment(self) -> None:
        """Defragment the backend; who asks while one is under way waits for that one.

        It goes on to its end when its callers go away.

        Raises:
            EtcdError: it failed, with the reason; the old file serves on.
        """
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())
            self._task.add_done_callback(self._ended)
        failure = await asyncio.shield(self._task)
        if failure is not None:
            raise EtcdError(failure.code, failure.message)

    def stop(self) -> None:
        """End one that is under way soon, for the server stops; refuse further ones."""
        self._stopping = True

    def _ended(self, task: asyncio.Task[EtcdError | None]) -> None:
        self._task = None

    async def _run(self) -> EtcdError | None:
        self._set_running(True)
        started, size = time.perf_counter(), self._backend.size()
        log.info("starting defragment", extra={"size": size})
        try:
            await self._thread.defragment(lambda: self._stopping)
        except (CopyFailed, CorruptBackend) as error:
            log.warning("failed to defragment: %s", error)
            if isinstance(error, CorruptBackend):
                self.on_damage(error)
            return EtcdError(Code.UNKNOWN, str(error))
        except Exception as error:
            self._fatal(error)
            raise
        finally:
            self._set_running(False)
        took = time.perf_counter() - started
        self.duration.observe(took)
        log.info(
            "finished defragment",
            extra={"size": self._backend.size(), "size-before": size, "took": f"{took:.3f}s"},
        )
        return None

    def _set_running(self, running: bool) -> None:
        self.running = running
        self.on_change(running)
