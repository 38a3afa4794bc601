"""All faults and all workloads, in a process of its own beside the tests that only compute:
``python -m tests.jepsen.mix DIRECTORY``, an empty one. It has `RESULT` and the run's files then.
"""

from __future__ import annotations

import ctypes
import pickle
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from jepsen.chaos.runner import Plan, Result, run

SECONDS: Final = 270.0
MIX: Final = Plan(
    seed=4,
    seconds=SECONDS,
    # Short faults, so that each comes at least once, and a rate that leaves two cores some air: it
    # is the faults that should make members slow, not the load.
    fault_s=2.5,
    pause_s=1.5,
    clients=2,
    rate=10.0,
)
RESULT: Final = "result.pickle"
PR_SET_PDEATHSIG: Final = 1


def read(directory: Path) -> tuple[Result, list[str]]:
    """Return what came of the run in a directory, and the lines that it said."""
    read: tuple[Result, list[str]] = pickle.loads((directory / RESULT).read_bytes())
    return read


def main() -> None:
    # If the tests are killed, it is as if it was interrupted: members and mounts go.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    directory, said = Path(sys.argv[1]), list[str]()
    result = run(replace(MIX, directory=directory / "run"), said.append)
    (directory / RESULT).write_bytes(pickle.dumps((result, said)))


if __name__ == "__main__":
    main()
