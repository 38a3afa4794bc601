"""What watchers saw against what was written, and against each other (JEP-06..08, WCH-17..32).

Workload ``watch``. Writers: f ``put`` (value: the value) and ``delete``, with the revision that was
answered; a transaction over several keys is one operation a key, with the same revision. Watchers:
f ``watch``, one operation for each stream's life: key is the prefix, value ``[start_revision]``,
result a list of responses, each ``[header revision, [event, ...]]`` in order; without events it is
progress. An event is ``[revision, "PUT" or "DELETE", key, value, version, create_revision, previous
value or null]`` (a DELETE has value null, version and create_revision 0).

The reference is what writers were told together with all that any watcher saw: two that differ in
it contradict each other, whoever is right. Rules:

    filter      every event is of the watched range, and not before the start
    ordered     revisions never go back, within a watcher and over its resumptions
    unique      no event twice
    atomic      the events of a revision are in one response
    reliable    no gap: between the start and the last event or progress, everything written
    resumable   that holds from each stream's start, and no event is of before it
    bookmarkable   nothing at or below a progress revision comes later
    sourced     every event is somebody's write that did not fail for certain
    prev_kv, is_create, version   agree with the replayed history
    caught up   (`check_caught_up`) in the end every watcher was shown the last write

The trade-off: a write that no watcher and no answer showed is not missed, since nobody can know it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from jepsen.history import Op, Outcome
from jepsen.verdict import Finding, Findings, Validity, Verdict

CHECKER: Final = "watch"
PUT: Final = "PUT"
DELETE: Final = "DELETE"


class Event(NamedTuple):
    """One event as it is in a history."""

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


class Known(NamedTuple):
    """A write that somebody showed. ``version`` is None where only its writer did."""

    kind: str
    value: Any
    by: Op
    version: tuple[int, int] | None = None
    """(version, create_revision)."""


@dataclass(slots=True)
class Reference:
    """All that is known to have been written, by (revision, key)."""

    known: dict[tuple[int, str], Known] = field(default_factory=dict)
    order: list[tuple[int, str]] = field(default_factory=list)
    by_key: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    open: dict[str, set[tuple[str, Any]]] = field(default_factory=lambda: defaultdict(set))
    """Key -> (kind, value) of writes that may have happened at a revision that nobody showed."""

    def before(self, key: str, revision: int) -> tuple[int, Known] | None:
        """The last known write of a key before a revision."""
        revisions = self.by_key.get(key, [])
        position = bisect_left(revisions, revision)
        if not position:
            return None
        at = revisions[position - 1]
        return at, self.known[at, key]

    def note(self, revision: int, key: str, shown: Known, findings: Findings) -> None:
        """Add what an operation shows; who showed otherwise before contradicts it."""
        known = self.known.setdefault((revision, key), shown)
        if known[:2] != shown[:2]:
            text = f"{key!r} at {revision}: {known[:2]} for one, {shown[:2]} for another"
            findings.append(Finding("watchers disagree", text, [known.by, shown.by]))
        elif known.version is None:
            self.known[revision, key] = known._replace(version=shown.version)
        elif shown.version not in (None, known.version):
            text = f"{key!r} at {revision}: version and create revision {known.version} for one,"
            text += f" {shown.version} for another"
            findings.append(Finding("watchers disagree", text, [known.by, shown.by]))

    def sort(self) -> None:
        """To be called when everything is noted, and again after more."""
        self.order = sorted(self.known)
        self.by_key.clear()
        for revision, key in self.order:
            self.by_key[key].append(revision)


def check(ops: Iterable[Op], *, compactions: Sequence[int] | None = None) -> Verdict:
    """Judge all watchers of the history. See the module's docstring.

    Args:
        compactions: all revisions that a compaction was asked for at: a previous value may be
            missing only where one came in between. None: nothing is said about missing ones.
    """
    judged = [op for op in ops if op.workload == "watch"]
    watchers = [op for op in judged if op.f == "watch" and op.outcome is not Outcome.FAIL]
    if not watchers:
        return Verdict(CHECKER, Validity.UNKNOWN, len(judged), note="nobody watched")
    findings = Findings()
    reference = collect(judged, findings)
    check_sources(judged, findings)
    check_watchers(watchers, reference, findings, compactions=compactions)
    return findings.verdict(CHECKER, len(judged))


def collect(ops: Iterable[Op], findings: Findings) -> Reference:
    """Return what all operations together show."""
    reference = Reference()
    for op in ops:
        if op.f == "watch":
            for event in events_of(op):
                value = event.value if event.kind == PUT else None
                shown = Known(event.kind, value, op, (event.version, event.create_revision))
                reference.note(event.revision, event.key, shown, findings)
        elif op.outcome is Outcome.OK and op.revision and op.result is not False:
            kind, value = write_of(op)
            reference.note(op.revision, op.key, Known(kind, value, op), findings)
        elif op.outcome is Outcome.INFO:
            reference.open[op.key].add(write_of(op))
    reference.sort()
    return reference


def write_of(op: Op) -> tuple[str, Any]:
    """(kind, value) of a writer's operation."""
    return (PUT, op.value) if op.f == "put" else (DELETE, None)


def events_of(op: Op) -> Iterable[Event]:
    """All events of a watcher's operation."""
    return (Event._make(event) for _, events in op.result or () for event in events)


def check_sources(
    ops: Sequence[Op],
    findings: Findings,
    *,
    expires: Callable[[str], bool] = lambda key: False,
) -> None:
    """Every event is somebody's write.

    Args:
        expires: keys that the server may delete by itself, with their lease.
    """
    possible: set[tuple[str, str, Any]] = set()
    failed: dict[tuple[str, str, Any], Op] = {}
    for op in ops:
        if op.f == "watch":
            continue
        write = (op.key, *write_of(op))
        if op.outcome is Outcome.FAIL or op.result is False:
            failed[write] = op
        else:
            possible.add(write)
    told: set[tuple[str, str, Any]] = set()
    for op in ops:
        for event in events_of(op) if op.f == "watch" else ():
            write = (event.key, event.kind, event.value if event.kind == PUT else None)
            if write in possible or write in told:
                continue
            if event.kind == DELETE and expires(event.key):
                continue
            told.add(write)
            if write in failed:
                findings.append(Finding("failed write is there", f"{event}", [failed[write], op]))
            else:
                findings.append(Finding("event out of nowhere", f"{event}", [op]))


def check_watchers(
    watchers: Sequence[Op],
    reference: Reference,
    findings: Findings,
    *,
    compactions: Sequence[int] | None = None,
) -> None:
    """Each stream's life, and each client's from one stream to the next."""
    newest = max(compactions, default=0) if compactions is not None else None
    for op in watchers:
        _Watcher(op, reference, findings, newest).check()
    _check_resumptions(watchers, findings)


def check_caught_up(watchers: Iterable[Op], last: Op) -> list[Finding]:
    """Who was never shown the last write, although everything was healed before it."""
    shown: dict[int, bool] = {}
    of_client: dict[int, Op] = {}
    for op in watchers:
        if not last.key.startswith(op.key):
            continue
        of_client[op.client] = op
        shown[op.client] = shown.get(op.client, False) or any(
            event.revision == last.revision and event.key == last.key for event in events_of(op)
        )
    text = f"a watcher was never shown the last write, of revision {last.revision}"
    return [
        Finding("watch fell silent", text, [last, of_client[client]])
        for client, seen in shown.items()
        if not seen
    ]


def check_jumps(watchers: Iterable[Op], compactions: Iterable[int]) -> list[Finding]:
    """Streams that begin behind more than their client was shown, without a compaction there."""
    compacted = max(compactions, default=0)
    findings = []
    reached: dict[int, tuple[int, Op]] = {}
    for op in sorted(watchers, key=lambda o: o.start):
        before = reached.get(op.client)
        if before is not None and before[0] + 1 < op.value[0] and compacted < op.value[0]:
            text = f"had reached {before[0]} and went on at {op.value[0]}, compacted: {compacted}"
            findings.append(Finding("history skipped", text, [before[1], op]))
        shown = [events[-1][0] if events else header for header, events in op.result or ()]
        start = op.value[0] - 1
        reached[op.client] = max([start, *shown]), op
    return findings


class _Watcher:
    """One stream's life against the reference."""

    def __init__(
        self, op: Op, reference: Reference, findings: Findings, compacted: int | None
    ) -> None:
        self._op = op
        self._reference = reference
        self._findings = findings
        self._compacted = compacted

    def check(self) -> None:
        op = self._op
        floor = op.value[0] - 1 if op.value[0] else 0
        start, seen, last = floor, set[tuple[int, str]](), floor
        bookmark = shown = 0
        for header, events in op.result or ():
            if not events:
                if header < bookmark:
                    self._find("progress went back", f"from {bookmark} to {header}")
                bookmark = max(bookmark, header)
                last = max(last, header)
                continue
            if events[0][0] == shown:
                self._find("revision split", f"{shown} came in two responses")
            for event in map(Event._make, events):
                if not event.key.startswith(op.key):
                    self._find("event of another range", f"{event}")
                elif event.revision <= floor:
                    self._find("event before the start", f"{event}, from {floor + 1} on")
                elif (event.revision, event.key) in seen:
                    self._find("duplicate event", f"{event}")
                elif event.revision <= bookmark:
                    self._find("event after progress", f"{event}, after progress {bookmark}")
                elif event.revision < last:
                    self._find("events out of order", f"{event}, after revision {last}")
                if event.revision > header:
                    self._find("event from the future", f"{event}, in a response of {header}")
                seen.add((event.revision, event.key))
                last = shown = max(last, event.revision)
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
            shown_by = self._reference.known[missing[0]].by
            text = f"{len(missing)} events between {start} and {last} are missing: {missing[:3]}"
            self._find("lost event", text, shown_by)

    def _check_event(self, event: Event) -> None:
        """prev_kv and the revisions that it carries (JEP-07, WCH-17, WCH-18)."""
        creates = event.create_revision == event.revision
        if event.kind == PUT and (event.version == 1) != creates:
            self._find("wrong version", f"{event}")
        if event.kind == DELETE and (event.version or event.create_revision):
            self._find("wrong version", f"{event}: a DELETE has version and create revision 0")
        if event.kind == PUT and creates and event.previous is not None:
            self._find("wrong prev_kv", f"{event} is a create and has a previous value")
        found = self._reference.before(event.key, event.revision)
        if found is None:
            return  # nothing before it is known, which does not say that nothing was
        before, known = found
        existed = known.kind == PUT
        between = self._reference.open.get(event.key, ())
        unsure = any((other == DELETE) == existed for other, _ in between)
        told = event.previous
        if told is not None and told != known.value and (PUT, told) not in between:
            text = f"{event} has that previous value, at {before} it was {known[:2]}"
            self._find("wrong prev_kv", text, known.by)
        gone = self._compacted is None or self._compacted >= event.revision
        if told is None and existed and not unsure and not gone:
            text = f"{event} has no previous value, at {before} it was {known[:2]}"
            self._find("prev_kv missing", text, known.by)
        if event.kind == DELETE and not existed and not unsure:
            self._find("deletion of nothing", f"{event}, gone since {before}", known.by)
        if event.kind == PUT and creates == existed and not unsure:
            text = f"{event} is {'a' if creates else 'no'} create, at {before} it was {known.kind}"
            self._find("wrong is_create", text, known.by)
        elif event.kind == PUT and existed and known.version and not between:
            expected = (known.version[0] + 1, known.version[1])
            if (event.version, event.create_revision) != expected:
                text = f"{event}, after version and create revision {known.version} at {before}"
                self._find("wrong version", text, known.by)

    def _find(self, kind: str, text: str, *others: Op) -> None:
        self._findings.append(Finding(kind, text, [*others, self._op]))


def _check_resumptions(watchers: Iterable[Op], findings: Findings) -> None:
    """A client's later stream begins behind what the earlier one showed; so must its events."""
    last: dict[tuple[int, str], tuple[int, Op]] = {}
    for op in sorted(watchers, key=lambda o: o.start):
        shown = [event.revision for event in events_of(op)]
        before = last.get((op.client, op.key))
        if before is not None and shown and op.value[0] and min(shown) <= before[0]:
            text = f"was shown {before[0]}, resumed at {op.value[0]} and got {min(shown)}"
            findings.append(Finding("resumed too early", text, [before[1], op]))
        if shown:
            last[op.client, op.key] = (max(shown), op)
