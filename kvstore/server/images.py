"""Takes images of the store for Maintenance.Snapshot, each a database file that etcd can read.

A process of its own does the work (`kvstore.snapshot.convert`), so neither requests nor commits
wait for it; only while it opens the file no commit may run. An image is a file without a name in
the data directory, so nothing is left of it however this process ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from kvstore.errors import Code, EtcdError
from kvstore.snapshot.convert import OPENED
from kvstore.storage.lmdb_backend import LmdbBackend

log = logging.getLogger("snapshot")

OPEN_S: Final = 30.0
"""Longest wait for the process to start and open the backend; commits wait as long."""
SPARE_BYTES: Final = 16 << 20
"""What must stay free on the disk beside an image: the log goes on being written there."""


@dataclass(slots=True)
class Image:
    """A finished image. See `rpc.snapshot.Image`."""

    file: BinaryIO
    size: int
    sha256: bytes

    async def read(self, offset: int, count: int) -> bytes:
        """Return bytes of the database; read in a thread, for the disk may take its time."""
        loop = asyncio.get_running_loop()
        count = min(count, self.size - offset)
        piece = await loop.run_in_executor(None, os.pread, self.file.fileno(), count, offset)
        if len(piece) != count:
            raise EtcdError(Code.INTERNAL, "the snapshot's file became shorter")
        return piece


class Images:
    """Takes images, one after the other."""

    def __init__(
        self,
        directory: Path,
        backend: LmdbBackend,
        commit: Callable[[], Awaitable[None]],
        commits: asyncio.Lock,
        observe: Callable[[float], None],
    ) -> None:
        """Args:
        directory: where the files are; must have room for a copy of the store.
        commit: makes everything applied so far durable.
        commits: who holds it keeps commits from beginning.
        observe: is told how long each took, seconds.
        """
        self._directory = directory
        self._backend = backend
        self._commit = commit
        self._commits = commits
        self._observe = observe
        self._one = asyncio.Lock()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Image]:
        """Take an image of everything applied so far and keep it while the context is open.

        Raises:
            EtcdError: it cannot be taken: no room, say, or a damaged value.
        """
        with ExitStack() as held:
            async with self._one:
                started = time.perf_counter()
                file = held.enter_context(self._new_file())
                size, digest = await self._convert(file.fileno())
                took = time.perf_counter() - started
            self._observe(took)
            log.info(
                "sending database snapshot to client",
                extra={"total-bytes": size, "took": f"{took:.3f}s"},
            )
            yield Image(file, size, digest)

    def _new_file(self) -> BinaryIO:
        need = self._backend.size_in_use() * 5 // 4 + SPARE_BYTES
        try:
            disk = os.statvfs(self._directory)
            free = disk.f_bavail * disk.f_frsize
            if free < need:
                raise OSError(f"no space left on device: {free} bytes are free, {need} needed")
            return tempfile.TemporaryFile(dir=self._directory)
        except OSError as error:
            raise _failed(f"cannot make a file in {self._directory}: {error}") from error

    async def _convert(self, target: int) -> tuple[int, bytes]:
        await self._commit()
        async with AsyncExitStack() as held:
            async with self._commits:
                source = held.enter_context(self._backend.pinned_file())
                process = await _start(source, target)
                held.push_async_callback(_end, process)
                first = await _first_line(process)
            rest, err = await process.communicate()
        try:
            answer = json.loads(rest if first == OPENED else first + rest)
            return answer["size"], bytes.fromhex(answer["sha256"])
        except ValueError:
            reason = err.decode(errors="replace").strip() or f"it ended with {process.returncode}"
        except KeyError:
            reason = answer["error"]
        raise _failed(reason)


async def _start(source: int, target: int) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # imports as this process does, from nowhere else
            "-m",
            "kvstore.snapshot.convert",
            f"/dev/fd/{source}",
            f"/dev/fd/{target}",
            pass_fds=(source, target),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise _failed(f"cannot start a process: {error}") from error


async def _first_line(process: asyncio.subprocess.Process) -> bytes:
    """Wait until the process has a view of the file that commits cannot change, or has failed."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(OPEN_S):
            return await process.stdout.readline()
    except TimeoutError:
        raise _failed(f"the process did not open the backend within {OPEN_S:.0f} s") from None


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


def _failed(reason: str) -> EtcdError:
    log.error("could not take a snapshot: %s", reason)
    return EtcdError(Code.UNKNOWN, f"could not take a snapshot: {reason}")
