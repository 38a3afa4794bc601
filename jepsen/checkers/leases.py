"""Leases never end early and never come back; locks fence by revision.

Workload ``lease``, key: the lease's id. f ``grant`` and ``renew`` (value: TTL wanted in seconds,
result: TTL answered, 0 for a lease that is gone), ``revoke``, and ``look`` (result: true if the
lease's key is there).

Workload ``lock``, key: the lock's name. f ``acquire`` (result: ``[owner key, create revision]``),
``release``, and ``guarded_write`` (value: the create revision that it holds, result: true if the
guard let it write, false if not), with the revision that was answered.

Locks do not exclude a holder that was paused beyond its TTL (CON-14): overlapping holders are noted
and never invalid. What is promised is that a transaction guarded by the lock's key loses no update.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from jepsen.history import Op, Outcome
from jepsen.verdict import Finding, Findings, Validity, Verdict

LEASE: Final = "lease"
LOCK: Final = "lock"
NS_PER_S: Final = 1_000_000_000


def check_leases(ops: Iterable[Op]) -> Verdict:
    """Judge workload ``lease`` (LSE-11, LSE-20, JEP-09).

    A grant or renewal that was sent at a moment and acknowledged holds for the TTL from that moment
    at least, whatever leader it was. Whether it holds longer is nobody's promise.
    """
    judged = [op for op in ops if op.workload == LEASE]
    by_lease: dict[str, list[Op]] = defaultdict(list)
    for op in judged:
        by_lease[op.key].append(op)
    findings = Findings()
    looked = 0
    for lease in by_lease.values():
        lease.sort(key=lambda op: op.start)
        looked += sum(op.f == "look" for op in lease)
        _check_lease(lease, findings)
    if not looked:
        return Verdict(LEASE, Validity.UNKNOWN, len(judged), note="nobody looked")
    return findings.verdict(LEASE, len(judged))


def _check_lease(ops: list[Op], findings: Findings) -> None:
    revoked = min(
        (op.start for op in ops if op.f == "revoke" and op.outcome is not Outcome.FAIL),
        default=None,
    )
    holds = [
        op
        for op in ops
        if op.f in ("grant", "renew") and op.outcome is Outcome.OK and op.result > 0
    ]
    gone = [
        op
        for op in ops
        if op.outcome is Outcome.OK
        and ((op.f == "look" and op.result is False) or (op.f == "renew" and op.result == 0))
    ]
    for seen in gone:
        if revoked is not None and revoked <= seen.end:
            continue
        for hold in holds:
            if hold.end < seen.start and seen.end < hold.start + hold.result * NS_PER_S:
                early = (hold.start + hold.result * NS_PER_S - seen.end) / NS_PER_S
                text = f"lease {hold.key} was gone {early:.3f} s before its time"
                findings.append(Finding("lease ended early", text, [hold, seen]))
    gone += [op for op in ops if op.f == "revoke" and op.outcome is Outcome.OK]
    first_gone = min(gone, key=lambda op: op.end, default=None)
    if first_gone is None:
        return
    for op in ops:
        if op.start <= first_gone.end or op.outcome is not Outcome.OK:
            continue
        if (op.f == "renew" and op.result > 0) or (op.f == "look" and op.result is True):
            text = f"lease {op.key} was gone, and lives again"
            findings.append(Finding("lease revived", text, [first_gone, op]))


def check_locks(ops: Iterable[Op]) -> Verdict:
    """Judge workload ``lock``: the guard lets only the holder of the newest key write.

    Guarded writes, in the order of their revisions, carry create revisions that never go back: one
    that did would have been let through after its key was gone.
    """
    judged = [op for op in ops if op.workload == LOCK]
    findings = Findings()
    notes = []
    by_lock: dict[str, list[Op]] = defaultdict(list)
    for op in judged:
        by_lock[op.key].append(op)
    writes = 0
    for name, lock in sorted(by_lock.items()):
        let_through = sorted(
            (op for op in lock if op.f == "guarded_write" and _succeeded(op)),
            key=lambda op: op.revision,
        )
        writes += len(let_through)
        newest: Op | None = None
        for op in let_through:
            if newest is not None and op.value < newest.value:
                text = f"a write under key {op.value} of {name!r}, after one under {newest.value}"
                findings.append(Finding("guard ignored", text, [newest, op]))
            if newest is None or op.value > newest.value:
                newest = op
        overlapping = _overlapping_holders(lock)
        if overlapping:
            notes.append(f"{name}: {overlapping} times two clients believed to hold it")
    if not writes:
        return Verdict(LOCK, Validity.UNKNOWN, len(judged), note="no guarded write succeeded")
    verdict = findings.verdict(LOCK, len(judged))
    verdict.note = "; ".join(notes)
    return verdict


def _succeeded(op: Op) -> bool:
    return op.outcome is Outcome.OK and op.result is True


def _overlapping_holders(ops: list[Op]) -> int:
    """How often a client acquired the lock before the holder had asked for its release."""
    held: dict[int, tuple[int, int]] = {}
    intervals = []
    for op in sorted(ops, key=lambda o: o.start):
        if op.f == "acquire" and op.outcome is Outcome.OK:
            held[op.client] = (op.end, op.client)
        elif op.f == "release" and op.client in held:
            intervals.append((held.pop(op.client)[0], op.start))
    intervals.sort()
    overlaps, busy_until = 0, -1
    for start, end in intervals:
        overlaps += start < busy_until
        busy_until = max(busy_until, end)
    return overlaps
