"""The library of `shim.c` in members: built here, preloaded at their start, switched by a page.

Members carry it from their first start on, so that a fault hits a process that runs: a disk does
not announce that it fails, nor a clock that it jumps. What it costs while no fault is on is a
comparison a call.
"""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from kvstore.testing import Cluster, Member

_SOURCE: Final = Path(__file__).with_name("shim.c")
_LIBRARY: Final = "chaos-shim.so"
_VARIABLE: Final = "CHAOS_PAGE"


class _Page(ctypes.Structure):
    _fields_ = (
        ("sync_fails", ctypes.c_uint32),
        ("sync_delay_us", ctypes.c_uint32),
        ("sync_hits", ctypes.c_uint64),
        ("clock_ns", ctypes.c_int64),
        ("drift_from_ns", ctypes.c_int64),
        ("drift", ctypes.c_double),
        ("clock_hits", ctypes.c_uint64),
    )


def install(cluster: Cluster) -> None:
    """Let all members start with the library, where a C compiler is; again is harmless."""
    compiler = shutil.which("cc")
    if compiler is None or any(_VARIABLE in m.environment for m in cluster.members):
        return
    folder = cluster.members[0].log_path.parent
    library = folder / _LIBRARY
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(_SOURCE), "-ldl"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return
    for member in cluster.members:
        page = folder / f"{member.name}.page"
        page.write_bytes(bytes(mmap.PAGESIZE))
        member.environment["LD_PRELOAD"] = str(library)
        member.environment[_VARIABLE] = str(page)


def missing(cluster: Cluster) -> str:
    """Why the members, which run, do not have it; "" if they do."""
    if shutil.which("cc") is None:
        return "there is no C compiler (cc)"
    process = cluster.members[0].process
    if process is None or _LIBRARY not in Path(f"/proc/{process.pid}/maps").read_text():
        return "the program takes no preloaded library"
    return ""


class Shim:
    """The faults of one member's library, on and off; they outlive the process."""

    def __init__(self, member: Member) -> None:
        with Path(member.environment[_VARIABLE]).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), ctypes.sizeof(_Page))
        self._page = _Page.from_buffer(self._map)

    @staticmethod
    def has(member: Member) -> bool:
        """Whether a member starts with the library (one that was added later does not)."""
        return _VARIABLE in member.environment

    def syncs(self, *, fail: bool = False, log_alone: bool = False, delay_s: float = 0.0) -> None:
        """Let every sync (or every one of the log) fail with EIO, or all come later."""
        self._page.sync_delay_us = int(delay_s * 1e6)
        self._page.sync_fails = (2 if log_alone else 1) if fail else 0

    def clock(self, offset_s: float, drift: float = 0.0) -> None:
        """Move the wall clock at once, and let each second from now on gain `drift` more."""
        self._page.drift = 0.0
        self._page.drift_from_ns = time.time_ns()
        self._page.clock_ns = int(offset_s * 1e9)
        self._page.drift = drift

    @property
    def sync_hits(self) -> int:
        """Syncs that failed or were late, ever."""
        return int(self._page.sync_hits)

    @property
    def clock_hits(self) -> int:
        """Looks at a clock that was off, ever."""
        return int(self._page.clock_hits)
