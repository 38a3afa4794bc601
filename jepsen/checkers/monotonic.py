"""Revisions only grow: for a client on one member, and for everybody in real time (GEN-04, GEN-05).

All workloads together: every answer with a header revision counts, whatever was asked and however
the operation ended, for the revision was answered at some moment between its start and its end.
Members are asked by address, so this goes on over their restarts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from jepsen.checkers.revisions import real_time
from jepsen.history import Op
from jepsen.verdict import Finding, Findings, Validity, Verdict

CHECKER: Final = "monotonic"


def check(ops: Iterable[Op]) -> Verdict:
    """Judge all operations that were answered with a revision."""
    judged = sorted((op for op in ops if op.revision > 0), key=lambda op: op.start)
    findings = Findings()
    newest: dict[tuple[int, str], Op] = {}
    for op in judged:
        before = newest.get((op.client, op.member))
        if before is None or (op.start > before.end and op.revision >= before.revision):
            newest[op.client, op.member] = op
        elif op.start > before.end:
            text = f"client {op.client} was answered {op.revision} by {op.member}, after"
            findings.append(
                Finding("revision went back", f"{text} {before.revision}", [before, op])
            )
    findings += real_time(judged, lambda op: False)
    if not judged:
        return Verdict(CHECKER, Validity.UNKNOWN, note="no answer had a revision")
    return findings.verdict(CHECKER, len(judged))
