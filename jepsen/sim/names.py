"""Names in a directory that a crash may take back: those that came or went since its last sync.

POSIX says of a file's sync nothing about its name; ext4 makes it durable all the same, so that no
power cut there shows a directory that is not synced. Each name that is durable is kept as a hard
link in a folder beside, so what a lost rename or removal had hidden can come back.

The trade-off: every entry is lost or kept by itself, as POSIX allows, where a journal would keep
them in order.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random


class Names:
    """The durable names of one directory, which may not exist yet."""

    def __init__(self, folder: Path, random: Random) -> None:
        self._folder = folder
        self._kept = folder.with_name(f"{folder.name}.names")
        self._kept.mkdir(parents=True)
        self._random = random

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Note each sync of the directory while something is done."""
        sync = os.fsync

        def fsync(descriptor: int) -> None:
            sync(descriptor)
            if os.path.samestat(os.fstat(descriptor), os.stat(self._folder)):
                self._note()

        os.fsync = fsync  # type: ignore[assignment]
        try:
            yield
        finally:
            os.fsync = sync

    def _note(self) -> None:
        """What the directory holds now is durable."""
        here, kept = _inodes(self._folder), _inodes(self._kept)
        for name in kept:
            if here.get(name) != kept[name]:
                os.unlink(self._kept / name)
        for name in here:
            if here[name] != kept.get(name):
                os.link(self._folder / name, self._kept / name)

    def crash(self) -> int:
        """Take back some of what was not synced; returns how many names."""
        here, kept = _inodes(self._folder), _inodes(self._kept)
        changed = sorted(n for n in here.keys() | kept.keys() if here.get(n) != kept.get(n))
        lost = [name for name in changed if self._random.random() < 0.5]
        for name in lost:
            if name in here:
                os.unlink(self._folder / name)
            if name in kept:
                os.link(self._kept / name, self._folder / name)
        self._note()
        return len(lost)


def _inodes(folder: Path) -> dict[str, int]:
    return {entry.name: entry.inode() for entry in os.scandir(folder)}
