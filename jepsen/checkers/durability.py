"""What was acknowledged is there in the end, on every member (JEP-12).

The last look is client `LAST_LOOK`: after everything was healed it reads what there is on each
member in turn. Of workload ``register`` each key must be of its last acknowledged write or a later
one, of ``set`` and ``append`` every acknowledged element must be there. A member that did not
answer its last look leaves the verdict unknown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from jepsen.history import Op, Outcome
from jepsen.verdict import Finding, Findings, Validity, Verdict

CHECKER: Final = "durability"
LAST_LOOK: Final = -1
WORKLOADS: Final = ("register", "set", "append")


def check(ops: Iterable[Op]) -> Verdict:
    """Judge the workloads that look at the end."""
    by_workload: dict[str, list[Op]] = defaultdict(list)
    for op in ops:
        if op.workload in WORKLOADS:
            by_workload[op.workload].append(op)
    findings = Findings()
    blind: set[str] = set()
    checked = 0
    for workload, own in by_workload.items():
        looks = [op for op in own if op.client == LAST_LOOK]
        blind |= {f"{workload} on {op.member}" for op in looks if op.outcome is not Outcome.OK} or (
            {f"{workload} anywhere"} if not looks else set()
        )
        done = [op for op in looks if op.outcome is Outcome.OK]
        checked += len(done)
        writes = [op for op in own if op.client != LAST_LOOK and op.outcome is Outcome.OK]
        if workload == "register":
            findings += _registers(writes, done)
        else:
            findings += _elements(writes, done)
    note = f"not looked at: {', '.join(sorted(blind))}" if blind else ""
    if findings:
        return findings.verdict(CHECKER, checked, note)
    validity = Validity.UNKNOWN if blind or not checked else Validity.VALID
    return Verdict(CHECKER, validity, checked, note=note or ("" if checked else "no last look"))


def _registers(writes: Sequence[Op], looks: Sequence[Op]) -> Iterator[Finding]:
    last: dict[str, Op] = {}
    for op in writes:
        if op.f == "write" or (op.f == "cas" and op.result):
            known = last.get(op.key)
            if known is None or op.revision > known.revision:
                last[op.key] = op
    for look in looks:
        write = last.get(look.key)
        if write is None:
            continue
        value, revision = look.result
        wrote = write.value if write.f == "write" else write.value[1]
        if revision < write.revision or (revision == write.revision and value != wrote):
            text = f"{look.key!r} on {look.member} is {value!r} of {revision}, and {wrote!r} was"
            text += f" acknowledged at {write.revision}"
            yield Finding("acknowledged write lost", text, [write, look])


def _elements(writes: Sequence[Op], looks: Sequence[Op]) -> Iterator[Finding]:
    """For sets one list without a key, for appends a list for each key that was looked at."""
    for look in looks:
        there = {key: set(elements) for key, elements in _looked(look)}
        for op in writes:
            for key, element in _added(op):
                if key in there and element not in there[key]:
                    text = f"{element!r} is not in {key!r} on {look.member}"
                    yield Finding("acknowledged write lost", text, [op, look])


def _looked(look: Op) -> Iterator[tuple[str, list[Any]]]:
    if look.workload == "set":
        yield "", look.result
        return
    for f, key, found in look.result:
        if f == "r":
            yield key, found or []


def _added(op: Op) -> Iterator[tuple[str, Any]]:
    if op.f == "add":
        yield "", op.value
    elif op.f == "txn":
        for f, key, element in op.value:
            if f == "append":
                yield key, element
