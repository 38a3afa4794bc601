"""Objects as kube-apiserver keeps them, and caches that list and watch (KUB-05, 16..19, JEP-16).

Workload ``kube``. Writers guard each write by the object's mod_revision: f ``create`` (value: the
value; guard 0), ``update`` (value ``[guard, value]``), ``delete`` (value ``[guard]``). Result:
``[true]``, or ``[false, mod_revision found, value found]``, with the revision that was answered.
Caches are clients of their own: f ``list`` (value: ``[page size]``, result: the objects of all
pages, each ``[key, value, mod_revision, version, create_revision]``, with the revision of the
list), then ``watch_cache``, a stream's life as in workload ``watch`` (see `checkers.watch`).

Rules, beside those of watches:
    guard    a write that succeeded found what its guard says; one that failed found what it tells
    list     a list is the state at its revision: every object once, in order, none missing
    cache    a list with the events behind it is the state at each revision that the cache reached
    forward  what a client saw last, list or event, is never before what it had seen
    real time   what began after an answer has no smaller revision

Objects below `LEASED` belong to leases and may go without anybody's delete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from jepsen.checkers import watch
from jepsen.checkers.revisions import real_time
from jepsen.checkers.watch import DELETE, PUT, Event, Known, Reference
from jepsen.history import Op, Outcome
from jepsen.verdict import Finding, Findings, Validity, Verdict

CHECKER: Final = "kube"
LAST: Final = "~last"
"""End of the keys of the last writes, which every cache must reach."""
LEASED: Final = "kube/events/"
WRITES: Final = ("create", "update", "delete")

_Objects = dict[str, tuple[int, Any]]
"""Key -> mod_revision and value."""


def check(ops: Iterable[Op], *, compactions: Sequence[int] | None = None) -> Verdict:
    """Judge workload ``kube``; for `compactions` see `watch.check`."""
    judged = [op for op in ops if op.workload == CHECKER]
    lists = [op for op in judged if op.f == "list" and op.outcome is Outcome.OK]
    streams = [replace(op, f="watch") for op in judged if op.f == "watch_cache"]
    if not lists or not streams:
        return Verdict(CHECKER, Validity.UNKNOWN, len(judged), note="no cache listed and watched")
    writers = [_as_write(op) for op in judged if op.f in WRITES]
    findings = Findings()
    done = [op for op in judged if op.f in WRITES and op.outcome is Outcome.OK]
    refused = [op for op in done if not op.result[0]]
    reference = _collect([*writers, *streams], lists, refused, findings)
    watch.check_sources([*writers, *streams], findings, expires=_expires)
    watch.check_watchers(streams, reference, findings, compactions=compactions)
    for op in done:
        _check_guard(op, reference, findings)
    for op in lists:
        _check_list(op, reference, findings)
    last = max((op for op in done if op.key.endswith(LAST)), key=_revision, default=None)
    _check_caches([*lists, *streams], reference, last, findings)
    answered = [op for op in judged if op.f != "watch_cache" and op.outcome is Outcome.OK]
    findings += real_time(answered, lambda op: op.f in WRITES and bool(op.result[0]))
    if not findings and streams and last is None:
        return Verdict(CHECKER, Validity.UNKNOWN, len(judged), note="the last write failed")
    return findings.verdict(CHECKER, len(judged))


def _expires(key: str) -> bool:
    return key.startswith(LEASED)


def _revision(op: Op) -> int:
    return op.revision


def guard_of(op: Op) -> int:
    """The mod_revision that a write expects, 0 for none."""
    return 0 if op.f == "create" else int(op.value[0])


def _as_write(op: Op) -> Op:
    """A writer's operation in the form of workload ``watch``."""
    done = op.result[0] if op.result else None
    if op.f == "delete":
        return replace(op, f="delete", value=None, result=done)
    value = op.value if op.f == "create" else op.value[1]
    return replace(op, f="put", value=value, result=done)


def _collect(
    ops: Sequence[Op], lists: Sequence[Op], refused: Sequence[Op], findings: Findings
) -> Reference:
    """What writers, streams, lists and refused writers show together."""
    reference = watch.collect(ops, findings)
    for op in lists:
        for key, value, revision, version, created in op.result:
            shown = Known(PUT, value, op, (version, created))
            reference.note(revision, key, shown, findings)
    for op in refused:
        if op.result[1]:
            shown = Known(PUT, op.result[2], op)
            reference.note(op.result[1], op.key, shown, findings)
    reference.sort()
    for key in list(reference.by_key):
        if _expires(key):
            reference.open[key].add((DELETE, None))
    return reference


def _at(key: str, revision: int, reference: Reference) -> tuple[int, Any, Op | None]:
    """mod_revision and value of an object at a revision (0, None: not there), and who shows it."""
    found = reference.before(key, revision + 1)
    if found is None:
        return 0, None, None
    at, known = found
    return (at, known.value, known.by) if known.kind == PUT else (0, None, known.by)


def _may_be_gone(key: str, reference: Reference) -> bool:
    return (DELETE, None) in reference.open.get(key, ())


def _check_guard(op: Op, reference: Reference, findings: Findings) -> None:
    succeeded = bool(op.result[0])
    at = op.revision - 1 if succeeded else op.revision
    modified, value, by = _at(op.key, at, reference)
    told = guard_of(op) if succeeded else op.result[1]
    others = [op] if by is None else [by, op]
    unseen = told > modified and any(
        kind == PUT for kind, _ in reference.open.get(op.key, ())
    )  # a write of unknown outcome that nobody showed may be what the guard names
    if told != modified and not unseen and not (told == 0 and _may_be_gone(op.key, reference)):
        what = "was let through by the guard" if succeeded else "was told"
        text = f"{op.key!r} at {at} has mod_revision {modified}, and {op.f} {what} {told}"
        findings.append(Finding("guard ignored" if succeeded else "stale read", text, others))
    elif not succeeded and told and op.result[2] != value:
        text = f"{op.key!r} at {at} is {value!r}, and {op.f} was told {op.result[2]!r}"
        findings.append(Finding("stale read", text, others))
    if not succeeded and told == guard_of(op):
        findings.append(Finding("guard ignored", f"{op.f} found {told} and was refused", [op]))


def _check_list(op: Op, reference: Reference, findings: Findings) -> None:
    keys = [key for key, *_ in op.result]
    if keys != sorted(set(keys)):
        findings.append(Finding("list out of order", f"{keys}"[:200], [op]))
    foreign = [key for key in keys if not key.startswith(op.key)]
    if foreign:
        findings.append(Finding("object of another range", f"{foreign[:3]}", [op]))
    objects = {key: (revision, value) for key, value, revision, *_ in op.result}
    _compare(objects, op.revision, reference, op, "list", findings)


def _compare(
    objects: Mapping[str, tuple[int, Any]],
    revision: int,
    reference: Reference,
    op: Op,
    what: str,
    findings: Findings,
) -> None:
    """Objects below ``op.key`` against the state at a revision."""
    for key in {*objects, *reference.by_key}:
        if not key.startswith(op.key):
            continue
        modified, value, by = _at(key, revision, reference)
        found = objects.get(key)
        if found == (modified, value) or (found is None and not modified):
            continue
        if found is None and _may_be_gone(key, reference):
            continue
        there = f"{value!r} of {modified}" if modified else "not there"
        text = f"{key!r} in a {what} at {revision} is {found}, and was {there}"
        findings.append(Finding(f"wrong {what}", text, [op] if by is None else [by, op]))


def _check_caches(
    ops: Sequence[Op], reference: Reference, last: Op | None, findings: Findings
) -> None:
    """Follow each cache through its lists and streams, up to the last write."""
    by_client: dict[int, list[Op]] = defaultdict(list)
    for op in sorted(ops, key=lambda op: op.start):
        by_client[op.client].append(op)
    for own in by_client.values():
        reached = _follow(own, reference, findings)
        if last is not None and reached < last.revision:
            text = f"it reached {reached}, and the last write is of {last.revision}"
            findings.append(Finding("cache fell silent", text, [last, own[-1]]))


def _follow(ops: Sequence[Op], reference: Reference, findings: Findings) -> int:
    """Follow one cache; return the revision that it reached."""
    objects: _Objects = {}
    revision, before = 0, ops[0]
    for op in ops:
        if op.f == "list":
            if op.revision < revision:
                text = f"a list at {op.revision}, after {revision} was seen"
                findings.append(Finding("went back", text, [before, op]))
            objects = {key: (at, value) for key, value, at, *_ in op.result}
            revision, before = op.revision, op
            continue
        if op.value[0] != revision + 1:
            text = f"watches from {op.value[0]}, and had seen all up to {revision}"
            findings.append(Finding("resumed elsewhere", text, [before, op]))
        for header, events in op.result or ():
            for event in map(Event._make, events):
                if event.kind == DELETE:
                    objects.pop(event.key, None)
                else:
                    objects[event.key] = (event.revision, event.value)
            revision = max(revision, events[-1][0] if events else header)
        before = op
        _compare(objects, revision, reference, op, "cache", findings)
    return revision
