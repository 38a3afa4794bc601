"""Strict serializability of registers by the revisions that the cluster claimed: sort, then look.

etcd answers every request with the store's revision (GEN-04), which is a claim: "this operation is
in this place of one order of everything, on all keys". Instead of searching for an order
(`linearizable`) this takes the claimed one and checks that it explains the answers and agrees with
real time. That is as sure as a search when the claims are honest, costs a sort, and judges all keys
together, so it also sees orders that contradict each other across keys. A server that lies
consistently about revisions is found by the search, not here.

Rules, on operations of workload ``register`` (result of a read: ``[value, mod_revision]``):
    1. a revision is written once, and by what the reads of it show;
    2. a read at header revision R with mod_revision m has m <= R, and nobody wrote the key in
       between; its value is what was written at m;
    3. a compare-and-set that succeeded (failed) found (did not find) what it expected there;
    4. what began after another operation had ended has no smaller revision, a write a larger one.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from jepsen.history import Op, Outcome
from jepsen.verdict import Finding, Findings, Verdict

CHECKER: Final = "revisions"


@dataclass(slots=True)
class _Key:
    """What is known of one key: revision -> value, by the operations that show it."""

    values: dict[int, tuple[Any, Op]] = field(default_factory=dict)
    revisions: list[int] = field(default_factory=list)
    open_values: list[Any] = field(default_factory=list)
    """What operations of unknown outcome may have written, nobody knows when."""


def check(ops: Iterable[Op], *, initial: Any = None) -> Verdict:
    """Judge all registers together. See the module's docstring for the rules."""
    judged = [op for op in ops if op.workload == "register"]
    done = [op for op in judged if op.outcome is Outcome.OK]
    findings = Findings()
    keys = _collect(judged, findings)
    for op in done:
        if op.f == "read":
            _check_read(op, keys[op.key], initial, findings)
        elif op.f == "cas":
            _check_cas(op, keys[op.key], initial, findings)
    findings += real_time(done, _writes)
    return findings.verdict(CHECKER, len(judged))


def _writes(op: Op) -> bool:
    return op.f == "write" or (op.f == "cas" and op.result is not False)


def _written(op: Op) -> Any:
    return op.value[1] if op.f == "cas" else op.value


def _collect(ops: Iterable[Op], findings: Findings) -> dict[str, _Key]:
    keys: dict[str, _Key] = defaultdict(_Key)
    writers: dict[int, Op] = {}
    reads = []
    for op in ops:
        key = keys[op.key]
        if op.f == "read":
            if op.outcome is Outcome.OK:
                reads.append(op)
        elif op.outcome is Outcome.INFO:
            key.open_values.append(_written(op))
        elif op.outcome is Outcome.OK and _writes(op):
            other = writers.setdefault(op.revision, op)
            if other is not op:
                text = f"revision {op.revision} was given to two writes"
                findings.append(Finding("revision used twice", text, [other, op]))
            key.values[op.revision] = (_written(op), op)
    for op in reads:
        value, revision = op.result
        if revision:
            _add_seen(keys[op.key], value, revision, op, findings)
    for key in keys.values():
        key.revisions = sorted(key.values)
    return keys


def _add_seen(key: _Key, value: Any, revision: int, op: Op, findings: Findings) -> None:
    known, shown_by = key.values.setdefault(revision, (value, op))
    if known != value:
        text = f"{op.key!r} at revision {revision} is {known!r} for one and {value!r} for another"
        findings.append(Finding("two values at one revision", text, [shown_by, op]))
    elif shown_by is op and value not in key.open_values:
        text = f"{value!r}, read from {op.key!r}, was written by nobody"
        findings.append(Finding("value out of nowhere", text, [op]))


def _at(key: _Key, revision: int, initial: Any) -> tuple[Any, int, Op | None]:
    """The value at a revision, where it was written, and who shows that."""
    position = bisect_right(key.revisions, revision)
    if not position:
        return initial, 0, None
    written = key.revisions[position - 1]
    value, op = key.values[written]
    return value, written, op


def _check_read(op: Op, key: _Key, initial: Any, findings: Findings) -> None:
    value, written = op.result
    if written > op.revision:
        text = f"a read at revision {op.revision} shows a write of the later revision {written}"
        findings.append(Finding("read from the future", text, [op]))
        return
    expected, newest, by = _at(key, op.revision, initial)
    if newest == written and value == expected:
        return
    text = (
        f"a read of {op.key!r} at revision {op.revision} shows {value!r} (written at {written}),"
        f" although {expected!r} was written at {newest}"
    )
    findings.append(Finding("stale read", text, [op] if by is None else [by, op]))


def _check_cas(op: Op, key: _Key, initial: Any, findings: Findings) -> None:
    wanted, applied = op.value[0], op.result is not False
    at = op.revision - 1 if applied else op.revision
    found, written, by = _at(key, at, initial)
    if (found == wanted) == applied:
        return
    # An open write may lie between, where nobody looked: any of them if the compare failed.
    if wanted in key.open_values if applied else key.open_values:
        return
    said = "found" if applied else "did not find"
    text = (
        f"a compare-and-set of {op.key!r} says it {said} {wanted!r} at revision {at}, where there"
        f" was {found!r} (written at {written})"
    )
    findings.append(Finding("wrong compare", text, [op] if by is None else [by, op]))


def real_time(ops: Iterable[Op], writes: Callable[[Op], bool]) -> list[Finding]:
    """Rule 4 for any operations with revisions.

    Args:
        ops: operations that were answered.
        writes: tells whether an operation made a revision of its own.
    """
    findings = []
    running: list[tuple[int, int, Op]] = []
    newest: Op | None = None
    for number, op in enumerate(sorted(ops, key=lambda o: o.start)):
        while running and running[0][0] < op.start:
            ended = heapq.heappop(running)[2]
            if newest is None or ended.revision > newest.revision:
                newest = ended
        if newest is not None and op.revision < newest.revision + writes(op):
            text = (
                f"it was answered at revision {op.revision}, and began after an answer at"
                f" {newest.revision}"
            )
            findings.append(Finding("against real time", text, [newest, op]))
        heapq.heappush(running, (op.end, number, op))
    return findings
