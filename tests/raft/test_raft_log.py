"""The in-memory log against a plain model of it, and its answers about terms."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from raft_builder import entries_of

from raft import ENTRY_OVERHEAD, NORMAL, Entry, HardState, Log, SnapshotMeta


def log_of(*terms: int, after: int = 0, after_term: int = 0) -> Log:
    return Log(SnapshotMeta(after, after_term), entries_of(*terms), after, after)


terms = st.lists(st.integers(1, 5), max_size=12).map(sorted)


@given(terms, st.integers(0, 14), st.integers(0, 6))
def test_find_conflict_by_term_is_the_last_index_that_could_agree(
    log: list[int], index: int, term: int
) -> None:
    found = log_of(*log).find_conflict_by_term(index, term)
    could = [i for i in range(min(index, len(log)) + 1) if ([0, *log])[i] <= term]
    assert found == max(could)


@pytest.mark.parametrize(
    ("index", "term", "found"), [(3, 9, 9), (10, 2, 9), (10, 3, 10), (12, 3, 11)]
)
def test_find_conflict_by_term_says_when_only_a_snapshot_helps(
    index: int, term: int, found: int
) -> None:
    assert log_of(3, 4, after=10, after_term=3).find_conflict_by_term(index, term) == found


@given(terms, st.data())
def test_find_conflict_is_the_first_entry_that_differs_or_is_missing(
    log: list[int], data: st.DataObject
) -> None:
    first = data.draw(st.integers(1, len(log) + 1))
    new = data.draw(st.lists(st.integers(1, 5), max_size=8).map(sorted))
    found = log_of(*log).find_conflict(first, [(term, NORMAL, b"") for term in new])
    same = 0
    while same < len(new) and log[first - 1 :][same : same + 1] == [new[same]]:
        same += 1
    assert found == same


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=20),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(1, 300),
)
def test_slice_is_the_longest_prefix_within_both_limits(
    sizes: list[int], a: int, b: int, limit: int
) -> None:
    entries = [(1, NORMAL, bytes(size)) for size in sizes]
    log = Log(SnapshotMeta(5, 1), entries, 5, 5)
    lo, hi = sorted((min(a, len(sizes)), min(b, len(sizes))))
    got = log.slice(lo + 6, hi + 6, limit)
    wanted = sizes[lo:hi]
    fits = [
        n
        for n in range(len(wanted) + 1)
        if sum(wanted[:n]) <= limit and n * ENTRY_OVERHEAD <= limit
    ]
    assert [len(entry[2]) for entry in got] == wanted[: max(max(fits), min(1, len(wanted)))]


@dataclass
class Flight:
    token: int
    entries: dict[int, Entry] = field(default_factory=dict)


class LogMachine(RuleBasedStateMachine):
    """`stable_index` may only cover entries that a reported batch really carried to the disk."""

    @initialize(start=st.integers(0, 4))
    def begin(self, start: int) -> None:
        self.start = start
        self.log = Log(SnapshotMeta(start, 1), [], start, start)
        self.model: dict[int, Entry] = {}
        self.disk: dict[int, Entry] = {}
        self.flights: list[Flight] = []
        self.token = 0
        self.serial = 0
        self.term = 1

    @rule(count=st.integers(1, 4), newer=st.booleans())
    def append(self, count: int, newer: bool) -> None:
        self.term += newer
        entries = [(self.term, NORMAL, b"%d" % (self.serial + i)) for i in range(count)]
        self.serial += count
        for index, entry in enumerate(entries, self.log.last_index + 1):
            self.model[index] = entry
        self.log.append(entries)

    @rule(data=st.data())
    @precondition(lambda self: self.log.commit_index < self.log.last_index)
    def truncate(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.log.commit_index + 1, self.log.last_index))
        self.log.truncate(index)
        self.model = {i: entry for i, entry in self.model.items() if i < index}

    @rule()
    def save(self) -> None:
        self.token += 1
        first, entries = self.log.take_unsaved(self.token, HardState())
        self.flights.append(Flight(self.token, dict(enumerate(entries, first))))

    @rule(data=st.data())
    @precondition(lambda self: self.flights)
    def report(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.flights)))
        done, self.flights = self.flights[:count], self.flights[count:]
        for flight in done:
            if flight.entries:
                first = min(flight.entries)
                self.disk = {i: e for i, e in self.disk.items() if i < first} | flight.entries
        self.log.saved(done[-1].token)

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.log.commit_to(data.draw(st.integers(self.log.commit_index, self.log.last_index)))

    @rule(limit=st.integers(1, 64))
    @precondition(lambda self: self.log.has_committed)
    def apply(self, limit: int) -> None:
        first, entries = self.log.take_committed(limit)
        assert entries == [self.model[first + i] for i in range(len(entries))]
        self.log.applied_to(first + len(entries) - 1)

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        self.log.compact(data.draw(st.integers(self.start, self.log.applied_index)))

    @rule(ahead=st.integers(1, 5))
    @precondition(lambda self: not self.log.is_writing)
    def restore(self, ahead: int) -> None:
        index = self.log.last_index + ahead
        self.log.restore(SnapshotMeta(index, self.term))
        assert self.log.snapshot_pending
        self.save()
        self.log.saved(self.token)
        self.flights.clear()
        self.model, self.disk = {}, {}
        self.term += 1

    @invariant()
    def the_log_is_the_model(self) -> None:
        log = self.log
        lo, hi = log.first_index, log.last_index + 1
        assert log.slice(lo, hi, 1 << 30) == [self.model[i] for i in range(lo, hi)]
        for index in range(lo, hi):
            assert log.term_at(index) == self.model[index][0]
        assert log.term_at(hi) is None and log.term_at(lo - 2) is None
        waiting = [self.model[i][2] for i in range(log.commit_index + 1, hi)]
        assert log.uncommitted_bytes() == sum(map(len, waiting)) + ENTRY_OVERHEAD * len(waiting)

    @invariant()
    def what_is_stable_is_on_disk(self) -> None:
        log = self.log
        assert log.snapshot_index <= log.handed_index <= log.commit_index <= log.last_index
        assert log.handed_index <= log.stable_index <= log.saved_index <= log.last_index
        for index in range(log.first_index, log.stable_index + 1):
            assert self.disk[index] == self.model[index]


LogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLog = LogMachine.TestCase
