"""The few file-system calls that make a file or a directory entry survive a power cut.

Only what the log and the snapshot files share; every function raises `OSError` and leaves it to the
caller to say what was being done. Data syncs leave out the access times (`fdatasync`) where the
system can, and ask for the drive's own flush where `fsync` alone does not (macOS).
"""

from __future__ import annotations

import os
import sys

if sys.platform == "darwin":  # pragma: no cover
    import fcntl

    def sync_data(fd: int) -> None:
        """Make the file's data durable; macOS's fsync stops at the drive's cache."""
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

    def preallocate(fd: int, size: int) -> None:
        """Make the file `size` bytes of zeros; macOS has no posix_fallocate."""
        os.ftruncate(fd, size)

else:

    def sync_data(fd: int) -> None:
        """Make the file's data durable (and its size, when that changed)."""
        os.fdatasync(fd)

    def preallocate(fd: int, size: int) -> None:
        """Make the file `size` bytes of zeros whose blocks are reserved on the disk."""
        os.posix_fallocate(fd, 0, size)


def sync_directory(path: str) -> None:
    """Make created, renamed and removed entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: str) -> None:
    """Create a directory (mode 0700) with its parents, durably; an existing one is fine."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(os.path.abspath(path))
    make_directory(parent)
    os.mkdir(path, 0o700)
    sync_directory(parent)


def replace_durably(source: str, target: str) -> None:
    """Rename within one directory, atomically replacing `target`, and make the rename durable."""
    os.replace(source, target)
    sync_directory(os.path.dirname(target) or ".")
