"""The thread that writes the log, so that the event loop never waits for a disk.

While one group is being written and synced (without the GIL), the loop queues more; the next group
is all of it. There is no timer and no waiting for a group to fill: an idle log writes at once, a
busy one forms larger groups by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from kvstore.storage.wal import Batch, Wal

GROUP_BYTES = 64 << 20
"""A group takes no further batch once its entries have this many bytes; what is over goes into the
next one. Bounds the memory of a frame when a stalled disk has let the queue grow."""

_Release = int
_Work = tuple[int, Batch] | _Release | None


class WalWriter:
    """Owns a `Wal` and its thread. All methods are for the loop; only `close` blocks.

    `on_done(token)` is called, through `call_soon`, with the highest token that is durable; tokens
    are submitted in rising order, so it stands for all before it. After the first error
    `on_error(error)` is called once and nothing any more is written or reported: the process must
    end. `metrics(bytes, write_seconds, sync_seconds)` is called on the writer's thread.
    """

    def __init__(
        self,
        wal: Wal,
        on_done: Callable[[int], None],
        on_error: Callable[[BaseException], None],
        call_soon: Callable[[Callable[[], None]], object],
        *,
        metrics: Callable[[int, float, float], None] | None = None,
        group_bytes: int = GROUP_BYTES,
    ) -> None:
        self._wal = wal
        self._on_done = on_done
        self._on_error = on_error
        self._call_soon = call_soon
        self._metrics = metrics
        self._group_bytes = group_bytes
        self._queue: SimpleQueue[_Work] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="wal-writer", daemon=True)
        self._thread.start()

    def submit(self, token: int, batch: Batch) -> None:
        """Queue a batch; `token` must be greater than every one before it."""
        self._queue.put((token, batch))

    def release(self, index: int) -> None:
        """Queue `Wal.release(index)`: it runs between two groups."""
        self._queue.put(index)

    def close(self) -> None:
        """Write all that is queued, then end the thread. The `Wal` stays open."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take():
                pass
        except BaseException as error:
            self._call_soon(partial(self._on_error, error))

    def _take(self) -> bool:
        """Wait for work and do what is queued, as far as it makes one group; False at the end."""
        queue = self._queue
        batches: list[Batch] = []
        token, size = 0, 0
        work = queue.get()
        while isinstance(work, tuple):
            token, batch = work
            batches.append(batch)
            size += len(batch.block or b"") or sum(len(data) for _, _, data in batch.entries)
            if size >= self._group_bytes or queue.empty():
                self._write(token, batches)
                return True
            work = queue.get()
        if batches:
            self._write(token, batches)
        if work is None:
            return False
        self._wal.release(work)
        return True

    def _write(self, token: int, batches: list[Batch]) -> None:
        appended = self._wal.append(batches)
        self._call_soon(partial(self._on_done, token))
        if self._metrics is not None:
            self._metrics(*appended)
