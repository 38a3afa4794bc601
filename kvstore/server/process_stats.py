"""What Linux tells about this process, as Go's Prometheus client exposes it.

Read from /proc when somebody scrapes (about 50 microseconds). Elsewhere than on Linux the values
are left out, as Go's client does.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final

from kvstore.rpc.exposition import Value

_PROC: Final = Path("/proc")
_UNLIMITED: Final = float(2**64 - 1)
"""What Go's client shows for a limit that is none."""

# Positions in /proc/self/stat behind the command's closing parenthesis.
_USER_TICKS, _SYSTEM_TICKS, _START_TICKS, _VIRTUAL_BYTES, _RESIDENT_PAGES = 11, 12, 19, 20, 21


def process_metrics() -> dict[str, Value]:
    """Return the process_* and os_fd_* values."""
    if not (_PROC / "self/stat").exists():
        return {}
    fields = (_PROC / "self/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    open_fds = len(os.listdir(_PROC / "self/fd"))
    max_fds = _limit(resource.RLIMIT_NOFILE)
    received, sent = _network_bytes()
    return {
        "os_fd_used": open_fds,
        "os_fd_limit": max_fds,
        "process_cpu_seconds_total": (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS]))
        / ticks,
        "process_open_fds": open_fds,
        "process_max_fds": max_fds,
        "process_virtual_memory_bytes": int(fields[_VIRTUAL_BYTES]),
        "process_virtual_memory_max_bytes": _limit(resource.RLIMIT_AS),
        "process_resident_memory_bytes": int(fields[_RESIDENT_PAGES]) * os.sysconf("SC_PAGE_SIZE"),
        "process_start_time_seconds": _boot_time() + int(fields[_START_TICKS]) / ticks,
        "process_network_receive_bytes_total": received,
        "process_network_transmit_bytes_total": sent,
    }


def _limit(which: int) -> float:
    soft = resource.getrlimit(which)[0]
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def _boot_time() -> int:
    for line in (_PROC / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0


def _network_bytes() -> tuple[int, int]:
    """Return bytes received and sent in this network namespace (not by this process alone)."""
    names: list[str] = []
    for line in (_PROC / "self/net/netstat").read_text().splitlines():
        kind, *values = line.split()
        if kind != "IpExt:":
            continue
        if not names:
            names = values
            continue
        found = dict(zip(names, values, strict=False))
        return int(found.get("InOctets", 0)), int(found.get("OutOctets", 0))
    return 0, 0
