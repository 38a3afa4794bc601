"""A server whose wall clock is wrong: ``python -m tests.scenarios.skewed_server FILE <flags>``.

The clock is Python's own, ``time.time`` and ``time_ns``, in the server's process and off by the
seconds that stand in FILE at each look at it. The monotonic clock stays, as when an operator sets
the time. (Not skewed: what libraries in C ask the system for.)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def skew(offset: Path) -> None:
    """Let the wall clock be off by what the file says."""
    real = time.time_ns
    time.time_ns = lambda: real() + int(offset.read_text()) * 1_000_000_000
    time.time = lambda: time.time_ns() / 1e9


if __name__ == "__main__":
    skew(Path(sys.argv[1]))
    from kvstore.cli.main import main

    sys.exit(main(["server", *sys.argv[2:]]))
