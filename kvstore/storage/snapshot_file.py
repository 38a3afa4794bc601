"""A backend file received from the leader: written beside the old one, checked, then put in place.

Until `install` renames it, the file has a temporary name and is worth nothing; `remove_partial` at
start clears away what a crash left. The calls block on the disk: they belong on a worker thread.
"""

from __future__ import annotations

import hashlib
import os

from kvstore.storage.durable import make_directory, replace_durably, sync_directory
from kvstore.storage.errors import SnapshotRejected

_PARTIAL = ".receiving"


class IncomingSnapshot:
    """One snapshot while it arrives: `write` chunks, `finish`, `install`; or `discard`."""

    def __init__(self, path: str | os.PathLike[str], size: int) -> None:
        """Begin to receive `size` bytes that shall end up at `path`.

        An older partial file for the same path is overwritten. Raises `SnapshotRejected` when the
        file cannot be created.
        """
        self._path = os.fspath(path)
        self._partial = self._path + _PARTIAL
        self._size = size
        self._received = 0
        self._digest = hashlib.sha256()
        self._finished = False
        try:
            make_directory(os.path.dirname(self._path) or ".")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            self._fd = os.open(self._partial, flags, 0o600)
        except OSError as error:
            raise SnapshotRejected(self._path, error.strerror) from error

    @property
    def received(self) -> int:
        """Bytes written so far."""
        return self._received

    def write(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes. More than announced, or a full disk, is `SnapshotRejected`."""
        self._require(not self._finished, "it is finished")
        self._received += len(chunk)
        self._require(self._received <= self._size, f"more than the announced {self._size} bytes")
        self._digest.update(chunk)
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise self._reject(error.strerror) from error

    def finish(self, sha256: bytes) -> None:
        """Check size and SHA-256 (32 bytes) against the sender's and make the file durable."""
        self._require(not self._finished, "it is finished")
        self._require(
            self._received == self._size, f"{self._received} of {self._size} bytes received"
        )
        self._require(self._digest.digest() == sha256, "its SHA-256 is not the sender's")
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._reject(error.strerror) from error
        self._finished = True

    def install(self) -> None:
        """Put the finished file in place of the old one, atomically and durably.

        Whoever has the old file open must close it first and open the new one afterwards.
        """
        if not self._finished:
            raise self._reject("it is not finished")
        try:
            replace_durably(self._partial, self._path)
        except OSError as error:
            raise self._reject(error.strerror) from error
        self._close()

    def discard(self) -> None:
        """Forget the file; harmless after `install` and after a rejection."""
        if self._fd >= 0:
            self._close()
            if os.path.exists(self._partial):
                os.unlink(self._partial)

    def _require(self, condition: bool, reason: str) -> None:
        if self._fd < 0:
            raise SnapshotRejected(self._path, "it is closed")
        if not condition:
            raise self._reject(reason)

    def _reject(self, reason: str | None) -> SnapshotRejected:
        self.discard()
        return SnapshotRejected(self._path, reason)

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1


def remove_partial(directory: str | os.PathLike[str]) -> list[str]:
    """Remove what was being received when the process ended; returns the paths, for the log."""
    path = os.fspath(directory)
    removed = []
    for name in sorted(os.listdir(path)):
        if name.endswith(_PARTIAL):
            removed.append(f"{path}/{name}")
            os.unlink(removed[-1])
    if removed:
        sync_directory(path)
    return removed
