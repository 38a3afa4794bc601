"""The clients' history in the form that all checkers share, and what they say of it.

Times are virtual nanoseconds. The checks of `checks` know more (they see the members); these know
only what clients saw, as with real processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jepsen.checkers import linearizable, revisions, watch
from jepsen.history import Op, Outcome
from jepsen.sim.loop import Loop, Violation
from jepsen.verdict import Validity, Verdict

NS = 1_000_000_000
BUDGET = 20_000
"""Configurations that the search may look at: small, for there are many runs."""


class Recorder:
    """Collects operations; one without an answer stays of unknown outcome."""

    def __init__(self, loop: Loop) -> None:
        self.ops: list[Op] = []
        self._loop = loop

    @property
    def now(self) -> int:
        return round(self._loop.now * NS)

    def begin(self, client: int, workload: str, f: str, key: bytes, value: Any, member: str) -> Op:
        """Note the start of an operation."""
        now = self.now
        op = Op(client, workload, f, key.decode(), value, now, now, Outcome.INFO, member=member)
        self.ops.append(op)
        return op

    def ok(self, op: Op, result: Any, revision: int) -> None:
        op.outcome, op.result, op.revision, op.end = Outcome.OK, result, revision, self.now

    def failed(self, op: Op, error: str, *, certain: bool) -> None:
        """Note an error; `certain`: nothing was done and never will be."""
        op.outcome = Outcome.FAIL if certain else Outcome.INFO
        op.error, op.end = error, self.now

    def judge(self, written: Iterable[tuple[int, bytes, str | None]]) -> list[Verdict]:
        """Let the checkers look. Raises Violation for what one of them finds.

        Args:
            written: (revision, key, value or None for a deletion) of all that happened: not all is
                anybody's operation here (leases delete, too), but the checker of watches needs
                to know of it.
        """
        for revision, key, value in written:
            f = "delete" if value is None else "put"
            self.ok(self.begin(-1, "watch", f, key, value, ""), None, revision)
        verdicts = [
            linearizable.check(self.ops, budget=BUDGET),
            revisions.check(self.ops),
            watch.check(self.ops),
        ]
        for verdict in verdicts:
            if verdict.validity is Validity.INVALID:
                found = verdict.findings[0]
                raise Violation(f"checker {verdict.checker}: {found.kind}: {found.text}")
        return verdicts
