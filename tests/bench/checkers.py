"""How long checkers take: ``python -m tests.bench.checkers``. Prints figures, asserts nothing."""

from __future__ import annotations

import time
from random import Random
from typing import Final

from jepsen.checkers import linearizable, revisions
from jepsen.history import Op, Outcome
from tests.jepsen.broken import BROKEN
from tests.jepsen.served import serve_registers
from tests.jepsen.test_broken import CHECKS

OPERATIONS: Final = 50_000
SHAPES: Final = ((5, 8), (10, 25), (10, 8), (20, 25), (20, 8), (20, 4), (20, 2))
"""(clients, keys): the search gets harder with clients for each key."""


def main() -> None:
    """Print a line for each shape."""
    print(f"{OPERATIONS} operations, seconds in one process")
    print("clients keys  open  search  verdict  by revisions")
    for clients, keys in SHAPES:
        ops = serve_registers(Random(1), OPERATIONS, clients=clients, keys=keys)
        open_ = sum(op.outcome is Outcome.INFO for op in ops) / len(ops)
        searched, verdict = _timed(linearizable.check, ops)
        claimed, _ = _timed(revisions.check, ops)
        line = f"{clients:7} {keys:4} {open_:5.0%} {searched:7.1f}  {verdict:8} {claimed:12.1f}"
        print(line, flush=True)
    print("\nbroken histories  checker       verdict  seconds")
    for name, make in BROKEN.items():
        ops = make(OPERATIONS)
        for check in CHECKS[name.partition(" ")[0]]:
            took, verdict = _timed(check, ops)
            checker = check.__module__.rpartition(".")[2]
            print(f"{name:24}{checker:14}{verdict:8}{took:8.1f}", flush=True)


def _timed(check: object, ops: list[Op]) -> tuple[float, str]:
    began = time.perf_counter()
    verdict = check(ops)  # type: ignore[operator]
    return time.perf_counter() - began, verdict.validity


if __name__ == "__main__":
    main()
