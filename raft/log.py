"""The log of one member, in memory, and how far it got: saved, durable, committed, applied.

Indexes: snapshot_index < first_index <= ... <= last_index, and

    snapshot_index <= handed_index <= commit_index <= last_index
    stable_index <= saved_index <= last_index

`saved` entries were handed out for writing, `stable` ones are durable; handed_index is the last
committed entry given to the state machine, which is always stable as well. Entries are kept as
one list, with a second list of running byte totals beside it: any slice "of at most so many
bytes" is then a binary search, never a walk over entries.

Writing is asynchronous: several batches may be under way. When an append replaces entries that a
batch under way still holds, that batch is clipped, so that its token, when it comes back, cannot
mark the replaced entries' successors durable (the append ABA problem).
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter

from raft.types import CONF_CHANGE, ENTRY_OVERHEAD, Entry, HardState, SnapshotMeta

_term_of = itemgetter(0)
_data_of = itemgetter(2)


@dataclass(slots=True)
class SaveBatch:
    """A batch handed out for writing: durable up to `last_index` once `token` is reported."""

    token: int
    last_index: int
    term: int
    vote: int


class Log:
    """Entries from `snapshot.index + 1` on. Entries given to the constructor are durable."""

    __slots__ = (
        "_entries",
        "_shared",
        "_shared_first",
        "_sizes",
        "_writing",
        "applied_index",
        "commit_index",
        "handed_index",
        "last_index",
        "saved_index",
        "snapshot_index",
        "snapshot_term",
        "stable_index",
    )

    def __init__(
        self, snapshot: SnapshotMeta, entries: list[Entry], commit: int, applied: int
    ) -> None:
        self.snapshot_index = snapshot.index
        self.snapshot_term = snapshot.term
        self._entries = list(entries)
        # _sizes[k] is the bytes of the first k entries, plus those compacted since the start.
        self._sizes = list(accumulate(map(len, map(_data_of, entries)), initial=0))
        self.last_index = snapshot.index + len(entries)
        if not snapshot.index <= applied <= self.last_index:
            raise ValueError(
                f"applied {applied} is outside the log ({snapshot.index}..{self.last_index})"
            )
        if commit > self.last_index:
            raise ValueError(f"hard_state.commit {commit} is past the log's end {self.last_index}")
        # The commit index on disk may lag: writing it costs no fsync of its own.
        self.commit_index = max(commit, applied)
        self.applied_index = applied
        self.handed_index = applied
        self.saved_index = self.last_index
        self.stable_index = self.last_index
        self._writing: deque[SaveBatch] = deque()
        # The slice handed out last: the followers' APPENDs and the batch to write share one list.
        self._shared: list[Entry] = []
        self._shared_first = 0

    # -- reading -------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """Index of the first entry still here (last_index + 1 if there is none)."""
        return self.snapshot_index + 1

    @property
    def last_term(self) -> int:
        """Term of the last entry, or of the snapshot if the log is empty."""
        return self._entries[-1][0] if self._entries else self.snapshot_term

    def term_at(self, index: int) -> int | None:
        """Term of the entry at `index`; None if it is compacted away or not there yet."""
        at = index - self.snapshot_index
        if at > 0:
            return self._entries[at - 1][0] if index <= self.last_index else None
        return self.snapshot_term if at == 0 else None

    def matches(self, index: int, term: int) -> bool:
        """Whether the entry at `index` has `term` (section 5.3, log matching)."""
        return self.term_at(index) == term

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Whether a log ending in (index, term) is at least as up-to-date (section 5.4.1)."""
        return (term, index) >= (self.last_term, self.last_index)

    def slice(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries [lo, hi), cut to max_bytes (with ENTRY_OVERHEAD each as lower bound) but never
        to nothing. The list may be shared with others: do not change it."""
        base = self.snapshot_index + 1
        assert base <= lo <= hi <= self.last_index + 1, (base, lo, hi, self.last_index)
        start, stop = lo - base, hi - base
        sizes = self._sizes
        if sizes[stop] - sizes[start] > max_bytes or (stop - start) * ENTRY_OVERHEAD > max_bytes:
            fits = bisect_right(sizes, sizes[start] + max_bytes, start + 1, stop + 1) - 1
            stop = min(stop, max(start + 1, min(fits, start + max_bytes // ENTRY_OVERHEAD)))
        return self._share(lo, start, stop)

    def _share(self, lo: int, start: int, stop: int) -> list[Entry]:
        if lo != self._shared_first or len(self._shared) != stop - start:
            self._shared = self._entries[start:stop]
            self._shared_first = lo
        return self._shared

    def uncommitted_bytes(self) -> int:
        """Bytes of the entries after commit_index, with ENTRY_OVERHEAD for each."""
        count = self.last_index - self.commit_index
        return self._sizes[-1] - self._sizes[-1 - count] + count * ENTRY_OVERHEAD

    def find_conflict_by_term(self, index: int, term: int) -> int:
        """The last index <= `index` whose term is <= `term`: the furthest point at which a log
        whose entry at `index` has `term` can agree with this one; snapshot_index - 1 ("a snapshot
        is needed") if that lies before everything known here."""
        stop = min(index, self.last_index) - self.snapshot_index
        at = bisect_right(self._entries, term, 0, max(stop, 0), key=_term_of)
        if at == 0 and (stop < 0 or self.snapshot_term > term):
            return self.snapshot_index - 1
        return self.snapshot_index + at

    def has_unapplied_conf_change(self) -> bool:
        """Whether a committed conf change has not been applied yet."""
        base = self.snapshot_index
        waiting = self._entries[self.applied_index - base : self.commit_index - base]
        return any(entry[1] == CONF_CHANGE for entry in waiting)

    # -- growing -------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> int:
        """Add entries at the end; returns the new last_index."""
        sizes = self._sizes
        # accumulate() repeats its initial value, which the pop makes room for.
        total = sizes.pop()
        sizes.extend(accumulate(map(len, map(_data_of, entries)), initial=total))
        self._entries.extend(entries)
        self.last_index += len(entries)
        assert len(self._sizes) == len(self._entries) + 1
        return self.last_index

    def find_conflict(self, first: int, entries: Sequence[Entry]) -> int:
        """Offset in `entries` (first of index `first`) of the first one that differs in term from
        what is here or is not here yet; len(entries) if all are here."""
        if first > self.last_index:
            return 0
        at = first - self.snapshot_index - 1
        assert at >= 0, "committed entries are compared by the caller"
        for offset, (here, entry) in enumerate(
            zip(self._entries[at : at + len(entries)], entries, strict=False)
        ):
            if here[0] != entry[0]:
                return offset
        return min(len(entries), self.last_index - first + 1)

    def truncate(self, index: int) -> None:
        """Remove the entries from `index` on, none of them committed (section 5.3)."""
        assert self.commit_index < index <= self.last_index, (self.commit_index, index)
        keep = index - self.snapshot_index - 1
        del self._entries[keep:]
        del self._sizes[keep + 1 :]
        self.last_index = index - 1
        self._unsave(index - 1)

    def restore(self, snapshot: SnapshotMeta) -> None:
        """Replace everything by a snapshot, which is not durable yet."""
        assert snapshot.index > self.commit_index, (snapshot.index, self.commit_index)
        self.snapshot_index = self.last_index = snapshot.index
        self.snapshot_term = snapshot.term
        self._entries = []
        self._sizes = [0]
        self._unsave(0)
        self.saved_index = snapshot.index
        self.commit_index = self.handed_index = self.applied_index = snapshot.index

    def _unsave(self, last_index: int) -> None:
        self.saved_index = min(self.saved_index, last_index)
        self.stable_index = min(self.stable_index, last_index)
        for batch in self._writing:
            batch.last_index = min(batch.last_index, last_index)
        self._shared = []
        self._shared_first = 0

    # -- progress ------------------------------------------------------------------------------

    def take_unsaved(self, token: int, hard_state: HardState) -> tuple[int, list[Entry]]:
        """Hand out all unsaved entries, as (first index, entries), for writing under `token`."""
        first = self.saved_index + 1
        start = self.saved_index - self.snapshot_index
        entries = self._share(first, start, len(self._entries)) if self.has_unsaved else []
        self.saved_index = self.last_index
        self._writing.append(SaveBatch(token, self.last_index, hard_state.term, hard_state.vote))
        return first, entries

    def saved(self, token: int) -> SaveBatch | None:
        """Everything up to `token` is durable. Returns the newest batch that became so."""
        batch = None
        while self._writing and self._writing[0].token <= token:
            batch = self._writing.popleft()
            self.stable_index = max(self.stable_index, batch.last_index)
        assert self.stable_index <= self.saved_index <= self.last_index
        return batch

    @property
    def has_unsaved(self) -> bool:
        """Whether there are entries that were never handed out for writing."""
        return self.saved_index < self.last_index

    @property
    def is_writing(self) -> bool:
        """Whether a batch handed out is not durable yet."""
        return bool(self._writing)

    @property
    def snapshot_pending(self) -> bool:
        """Whether a snapshot was taken in that is not durable yet."""
        return self.stable_index < self.snapshot_index

    def commit_to(self, index: int) -> None:
        """Raise commit_index, which never goes back and never passes the end."""
        assert self.commit_index <= index <= self.last_index, (self.commit_index, index)
        self.commit_index = index

    @property
    def has_committed(self) -> bool:
        """Whether there are entries to apply: committed, durable, not handed out yet."""
        return self.handed_index < self.commit_index and self.handed_index < self.stable_index

    def take_committed(self, max_bytes: int) -> tuple[int, list[Entry]]:
        """Hand out committed and durable entries as (first index, entries)."""
        first = self.handed_index + 1
        stop = min(self.commit_index, self.stable_index) + 1
        assert first < stop
        entries = self.slice(first, stop, max_bytes)
        self.handed_index += len(entries)
        assert self.handed_index <= self.commit_index
        return first, entries

    def applied_to(self, index: int) -> None:
        """The state machine holds everything up to `index`."""
        assert index <= self.handed_index, (index, self.handed_index)
        self.applied_index = max(self.applied_index, index)

    def compact(self, index: int) -> None:
        """Forget entries up to `index`, which must be applied. Older calls do nothing."""
        assert index <= self.applied_index, (index, self.applied_index)
        count = index - self.snapshot_index
        if count <= 0:
            return
        self.snapshot_term = self._entries[count - 1][0]
        self.snapshot_index = index
        del self._entries[:count]
        del self._sizes[:count]
        assert len(self._sizes) == len(self._entries) + 1
