"""What watchers saw against what was written, and against each other (JEP-06..08, WCH-17..32).

Workload ``watch``. Writers: f ``put`` (value: the value) and ``delete``, with the revision that was
answered. Watchers: f ``watch``, one operation for each stream's life: key is the prefix, value
``[start_revision]``, result a list of responses, each ``[header revision, [event, ...]]`` in order;
without events it is progress. An event is ``[revision, "PUT" or "DELETE", key, value, version,
create_revision, previous value or null]`` (a DELETE has value null, version and create_revision 0).

The reference is what writers were told together with all that any watcher saw: two that differ in
it contradict each other, whoever is right. Rules:

    ordered     revisions never go back, within a watcher and over its resumptions
    unique      no event twice
    atomic      the events of a revision are in one response
    reliable    no gap: between the start and the last event or progress, everything written
    bookmarkable   nothing at or below a progress revision comes later
    prev_kv, is_create, version   agree with the replayed history

The trade-off: a write that no watcher and no answer showed is not missed, since nobody can know it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from jepsen.history import Op, Outcome
from jepsen.verdict import Finding, Validity, Verdict

CHECKER: Final = "watch"
MAX_FINDINGS: Final = 20


class _Event(NamedTuple):
    revision: int
    kind: str
    key: str
    value: Any
    version: int
    create_revision: int
    previous: Any

    def __str__(self) -> str:
        what = self.key if self.value is None else f"{self.key} = {self.value}"
        return f"{self.kind} {what} at {self.revision}"


@dataclass(slots=True)
class _Reference:
    """All that is known to have been written: (revision, key) -> kind, value, who shows it."""

    known: dict[tuple[int, str], tuple[str, Any, Op]] = field(default_factory=dict)
    order: list[tuple[int, str]] = field(default_factory=list)
    by_key: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    open: dict[str, set[tuple[str, Any]]] = field(default_factory=lambda: defaultdict(set))
    """Key -> (kind, value) of writes that may have happened at a revision that nobody showed."""


def check(ops: Iterable[Op]) -> Verdict:
    """Judge all watchers of the history. See the module's docstring."""
    judged = [op for op in ops if op.workload == "watch"]
    findings: list[Finding] = []
    reference = _collect(judged, findings)
    watchers = [op for op in judged if op.f == "watch" and op.outcome is not Outcome.FAIL]
    for op in watchers:
        _Watcher(op, reference, findings).check()
    _check_resumptions(watchers, findings)
    validity = Validity.INVALID if findings else Validity.VALID
    if not watchers:
        return Verdict(CHECKER, Validity.UNKNOWN, len(judged), note="nobody watched")
    return Verdict(CHECKER, validity, len(judged), findings[:MAX_FINDINGS])


def _collect(ops: Iterable[Op], findings: list[Finding]) -> _Reference:
    reference = _Reference()

    def note(revision: int, kind: str, key: str, value: Any, op: Op) -> None:
        known = reference.known.setdefault((revision, key), (kind, value, op))
        if known[:2] != (kind, value):
            text = f"{key!r} at {revision}: {known[:2]} for one, {(kind, value)} for another"
            findings.append(Finding("watchers disagree", text, [known[2], op]))

    for op in ops:
        if op.f == "watch":
            for _, events in op.result or ():
                for event in map(_Event._make, events):
                    value = event.value if event.kind == "PUT" else None
                    note(event.revision, event.kind, event.key, value, op)
        elif op.outcome is Outcome.OK and op.revision and op.result is not False:
            put = op.f == "put"
            note(op.revision, "PUT" if put else "DELETE", op.key, op.value if put else None, op)
        elif op.outcome is Outcome.INFO:
            reference.open[op.key].add(("PUT", op.value) if op.f == "put" else ("DELETE", None))
    reference.order = sorted(reference.known)
    for revision, key in reference.order:
        reference.by_key[key].append(revision)
    return reference


class _Watcher:
    """One stream's life against the reference."""

    def __init__(self, op: Op, reference: _Reference, findings: list[Finding]) -> None:
        self._op = op
        self._reference = reference
        self._findings = findings

    def check(self) -> None:
        op = self._op
        floor = op.value[0] - 1 if op.value[0] else 0
        start, seen, last = floor, set[tuple[int, str]](), floor
        bookmark = 0
        for header, events in op.result or ():
            if not events:
                if header < bookmark:
                    self._find("progress went back", f"from {bookmark} to {header}")
                bookmark = max(bookmark, header)
                last = max(last, header)
                continue
            if events[0][0] == last and last in {revision for revision, _ in seen}:
                self._find("revision split", f"{last} came in two responses")
            for event in map(_Event._make, events):
                if (event.revision, event.key) in seen:
                    self._find("duplicate event", f"{event}")
                elif event.revision <= bookmark:
                    self._find("event after progress", f"{event}, after progress {bookmark}")
                elif event.revision < last:
                    self._find("events out of order", f"{event}, after revision {last}")
                seen.add((event.revision, event.key))
                last = max(last, event.revision)
                self._check_event(event)
        self._check_gaps(start, last, seen)

    def _check_gaps(self, start: int, last: int, seen: set[tuple[int, str]]) -> None:
        order = self._reference.order
        if not self._op.value[0]:
            if not seen:
                return
            start = min(revision for revision, _ in seen) - 1
        low = bisect_right(order, (start, "\U0010ffff"))
        high = bisect_left(order, (last + 1, ""))
        missing = [
            (revision, key)
            for revision, key in order[low:high]
            if key.startswith(self._op.key) and (revision, key) not in seen
        ]
        if missing:
            shown_by = self._reference.known[missing[0]][2]
            text = f"{len(missing)} events between {start} and {last} are missing: {missing[:3]}"
            self._find("lost event", text, shown_by)

    def _check_event(self, event: _Event) -> None:
        """prev_kv and the revisions that it carries (JEP-07, WCH-17, WCH-18)."""
        revisions = self._reference.by_key[event.key]
        position = bisect_left(revisions, event.revision)
        if not position:
            return  # nothing before it is known, which does not say that nothing was
        before = revisions[position - 1]
        kind, value, by = self._reference.known[before, event.key]
        existed = kind == "PUT"
        between = self._reference.open[event.key]
        told = event.previous
        if told is not None and told != value and ("PUT", told) not in between:
            text = f"{event} has that previous value, at {before} it was {kind} {value!r}"
            self._find("wrong prev_kv", text, by)
        creates = event.create_revision == event.revision
        unsure = any((other == "DELETE") == existed for other, _ in between)
        if event.kind == "PUT" and creates == existed and not unsure:
            text = f"{event} is {'a' if creates else 'no'} create, at {before} it was {kind}"
            self._find("wrong is_create", text, by)
        if event.kind == "PUT" and (event.version == 1) != (
            event.create_revision == event.revision
        ):
            self._find("wrong version", f"{event}")

    def _find(self, kind: str, text: str, *others: Op) -> None:
        self._findings.append(Finding(kind, text, [*others, self._op]))


def _check_resumptions(watchers: Iterable[Op], findings: list[Finding]) -> None:
    """A client's later stream begins behind what the earlier one showed; so must its events."""
    last: dict[tuple[int, str], tuple[int, Op]] = {}
    for op in sorted(watchers, key=lambda o: o.start):
        shown = [event[0] for _, events in op.result or () for event in events]
        before = last.get((op.client, op.key))
        if before is not None and shown and op.value[0] and min(shown) < op.value[0]:
            text = f"resumed at {op.value[0]} and got {min(shown)}"
            findings.append(Finding("resumed too early", text, [before[1], op]))
        if shown:
            last[op.client, op.key] = (max(shown), op)
