"""Nothing acknowledged is lost: sets of elements, and money that must not change in sum.

Workload ``set``: f ``add`` (value: a unique element), ``read`` (result: list of elements, all of
them). Workload ``bank``: f ``transfer`` (value ``[from, to, amount]``), ``read`` (result: account
-> balance of all accounts at one revision).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from jepsen.checkers.bank import TooManyChoices, lost_transfers
from jepsen.history import Op, Outcome
from jepsen.verdict import Finding, Findings, Validity, Verdict

SET: Final = "set"
BANK: Final = "bank"


def check_set(ops: Iterable[Op]) -> Verdict:
    """Judge workload ``set``: every read shows all that was acknowledged before it began.

    An element that a read showed stays in all that begin later; nothing that failed for certain and
    nothing that nobody added is ever there, and nothing is there twice: an element is a key. All
    adds and reads have one order that agrees with real time. Without a successful read the verdict
    is unknown.
    """
    judged = [op for op in ops if op.workload == SET]
    adds = {_hashable(op.value): op for op in judged if op.f == "add"}
    reads = [op for op in judged if op.f == "read" and op.outcome is Outcome.OK]
    findings = Findings()
    if not reads:
        return Verdict(SET, Validity.UNKNOWN, len(judged), note="no read succeeded")
    certain = sorted(
        (op.end, element, op) for element, op in adds.items() if op.outcome is Outcome.OK
    )
    shown: dict[Any, Op] = {}
    ended = sorted(reads, key=lambda op: op.end)
    position = 0
    for read in sorted(reads, key=lambda op: op.start):
        found = set(map(_hashable, read.result))
        if len(found) < len(read.result):
            twice = [e for e, n in Counter(map(_hashable, read.result)).items() if n > 1]
            findings.append(Finding("duplicate element", f"{twice[:3]} more than once", [read]))
        while position < len(ended) and ended[position].end < read.start:
            for element in map(_hashable, ended[position].result):
                shown.setdefault(element, ended[position])
            position += 1
        for end, element, op in certain:
            if end >= read.start:
                break
            if element not in found:
                findings.append(Finding("lost write", f"{element!r} is missing", [op, read]))
        for element, by in shown.items():
            if element not in found:
                findings.append(Finding("lost write", f"{element!r} is gone again", [by, read]))
        for element in found:
            added = adds.get(element)
            if added is None:
                findings.append(Finding("value out of nowhere", f"{element!r}", [read]))
            elif added.outcome is Outcome.FAIL:
                findings.append(Finding("failed write is there", f"{element!r}", [added, read]))
    if not findings:
        findings += _out_of_order(reads, adds)
    return findings.verdict(SET, len(judged))


def _out_of_order(reads: list[Op], adds: dict[Any, Op]) -> list[Finding]:
    """Reads of what only grows order everything: each shows all of a smaller one, and an element
    was added between the last read without it and the first one with it. Whoever is in such a
    place after another must not have ended before the other began.
    """
    found = {id(read): frozenset(map(_hashable, read.result)) for read in reads}
    chain = sorted(reads, key=lambda read: len(found[id(read)]))
    places: list[tuple[int, Op]] = []
    placed: set[Any] = set()
    level = 0
    for position, read in enumerate(chain):
        now = found[id(read)]
        before = chain[max(position - 1, 0)]
        if not found[id(before)] <= now:
            text = "of two reads each shows what the other does not"
            return [Finding("reads in no order", text, [before, read])]
        if found[id(before)] != now:
            level = 2 * position
        places += [(level, adds[element]) for element in now - placed]
        places.append((level + 1, read))
        placed |= now
    last = 2 * len(chain)
    places += [
        (last, op)
        for element, op in adds.items()
        if element not in placed and op.outcome is Outcome.OK
    ]
    return _against_time(places)


def _against_time(places: list[tuple[int, Op]]) -> list[Finding]:
    """What ended before another began, and has a later place."""
    findings: list[Finding] = []
    ends = sorted(
        (place for place in places if place[1].outcome is Outcome.OK), key=lambda p: p[1].end
    )
    position = 0
    latest: tuple[int, Op] | None = None
    for place, op in sorted(places, key=lambda p: p[1].start):
        while position < len(ends) and ends[position][1].end < op.start:
            if latest is None or ends[position][0] > latest[0]:
                latest = ends[position]
            position += 1
        if latest is not None and latest[0] > place:
            text = f"{latest[1].f} {latest[1].value} ended before {op.f} {op.value} began, and"
            text += " the reads say that it came later"
            findings.append(Finding("against real time", text, [latest[1], op]))
    return findings


def check_bank(ops: Iterable[Op], *, total: int | None = None) -> Verdict:
    """Judge workload ``bank``: every read has the same sum, and no account below zero; between two
    reads there are the transfers that were made, no more and no fewer (`checkers.bank`).

    Args:
        total: the sum; None takes that of the first read.
    """
    judged = [op for op in ops if op.workload == BANK]
    reads = [op for op in judged if op.f == "read" and op.outcome is Outcome.OK]
    if not reads:
        return Verdict(BANK, Validity.UNKNOWN, len(judged), note="no read succeeded")
    reads.sort(key=lambda op: op.start)
    expected = sum(reads[0].result.values()) if total is None else total
    findings = Findings()
    for read in reads:
        found = sum(read.result.values())
        if found != expected:
            text = f"the sum is {found}, not {expected}"
            findings.append(Finding("half a transaction", text, [read]))
        below = {name: balance for name, balance in read.result.items() if balance < 0}
        if below:
            findings.append(Finding("guard ignored", f"below zero: {below}", [read]))
    if not findings:
        try:
            findings += lost_transfers(judged)
        except TooManyChoices:
            note = "too many transfers ended unknown to check that none is lost"
            return Verdict(BANK, Validity.UNKNOWN, len(judged), note=note)
    return findings.verdict(BANK, len(judged))


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
