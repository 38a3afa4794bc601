"""A disk whose power can be cut: ext4 in a file, shut down by ioctl under whoever writes to it.

``EXT4_IOC_SHUTDOWN`` without a flush of the journal makes every further write fail and forgets what
was not on the disk: pages of the page cache, of memory maps too, and transactions of the journal.
After an unmount and a mount the files are as a power cut leaves them. (What it cannot show: a drive
that lies about its own cache.) Needs root and loop devices; `missing` says what is not there.

The image takes its space from a small file system in memory. When that is filled up (`starve`),
blocks that were never written before cannot be: a write still goes into the page cache, its sync
fails, and the data are gone, as with a drive that breaks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

SIZE_BYTES: Final = 256 * 1024 * 1024
"""Size of the image; a sparse file."""
ROOM_BYTES: Final = 128 * 1024 * 1024
"""What it may take of memory."""

_EXT4_IOC_SHUTDOWN: Final = 0x8004587D
_NO_LOG_FLUSH: Final = 2


class DiskError(Exception):
    """A step of the set-up failed; the text has the command and what it said."""


def missing() -> str:
    """Return why power cannot be cut here, "" if it can."""
    if os.geteuid() != 0:
        return "cutting the power needs root"
    for program in ("mkfs.ext4", "mount", "umount", "losetup"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    found = subprocess.run(["losetup", "-f"], capture_output=True, text=True, check=False)
    if found.returncode or not Path(found.stdout.strip()).exists():
        return "there is no free loop device"
    return ""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DiskError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


class PowerDisk:
    """One disk: an image file and the folder it is mounted on."""

    def __init__(self, directory: Path, name: str, room_bytes: int = ROOM_BYTES) -> None:
        """Make the image and mount it. Raises DiskError.

        Args:
            room_bytes: what it may take of memory, over its whole life: what was written once is
                never given back. Behind that, writes fail.
        """
        self.folder = directory / name
        self._room = directory / f"{name}.room"
        self._image = self._room / "image"
        self._filler = self._room / "filler"
        self.mounted = False
        self.folder.mkdir(parents=True)
        self._room.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={room_bytes}", "none", str(self._room))
        try:
            with self._image.open("wb") as file:
                file.truncate(SIZE_BYTES)
            _run("mkfs.ext4", "-q", "-F", str(self._image))
            self.mount()
        except BaseException:
            self.remove()
            raise

    def mount(self) -> None:
        """Mount it; the journal is replayed."""
        _run("mount", "-o", "loop", str(self._image), str(self.folder))
        self.mounted = True

    def starve(self) -> None:
        """Let syncs of what needs new blocks fail from now on, until `restore`."""
        zeros = bytes(1024 * 1024)
        with self._filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(zeros):
                pass

    def cut(self) -> None:
        """Cut the power now: nothing that was not synced survives, nothing can be written."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def restore(self) -> None:
        """Unmount and mount again, after all who had files open are gone."""
        self.unmount()
        self._filler.unlink(missing_ok=True)
        self.mount()

    def unmount(self) -> None:
        if self.mounted:
            _run("umount", str(self.folder))
            self.mounted = False

    def remove(self) -> None:
        """Unmount it and delete the image."""
        try:
            self.unmount()
        except DiskError:  # somebody still has a file open: it goes with him
            _run("umount", "--lazy", str(self.folder))
            self.mounted = False
        finally:
            _run("umount", "--lazy", str(self._room))
