"""Where the records of a run are gathered, and the one clock that dates them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from jepsen.chaos.client import Failed
from jepsen.history import Fault, Op, Outcome, Record


class Recorder:
    """The history of a run while it is made."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._began = time.monotonic_ns()

    def now(self) -> int:
        """Nanoseconds since the run began."""
        return time.monotonic_ns() - self._began

    async def op(self, op: Op, work: Callable[[Op], Awaitable[None]]) -> Op:
        """Carry out an operation: `work` sets its result and revision, or raises `Failed`."""
        op.start = self.now()
        try:
            await work(op)
            op.outcome = Outcome.OK
        except Failed as failure:
            op.outcome, op.error = failure.outcome, str(failure)
        finally:  # an operation that is cancelled is under way for ever
            op.end = self.now()
            self.records.append(op)
        return op

    def fault(self, name: str, targets: list[str], detail: str = "") -> Fault:
        """Note the beginning of a fault; its caller sets ``end`` and ``effect``."""
        now = self.now()
        fault = Fault(name, targets, now, now, detail)
        self.records.append(fault)
        return fault

    def ops(self) -> list[Op]:
        """All operations so far."""
        return [record for record in self.records if isinstance(record, Op)]


def blank(client: int, workload: str, f: str, key: str, value: Any, member: str) -> Op:
    """Return an operation that is still to be carried out."""
    return Op(client, workload, f, key, value, 0, 0, Outcome.INFO, member=member)
