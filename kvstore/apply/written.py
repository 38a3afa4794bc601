"""Which keys a transaction writes twice (TXN-09, TXN-10).

A put must not meet another put of its key, nor a delete of it, in its own branch and in nested
transactions. The rules are etcd's to the letter, with what they let through:

- A nested delete counts against puts that come after it and against those of its parent. A put in
  one nested transaction and a delete of the same key in a *later* one pass.
- A delete to the end of the key space (range_end `\\0`) meets no put: its end is compared as the
  byte string that it is, and nothing lies below it.

What passes is carried out in order, so the later one wins. The trade-off: both sets are kept sorted
and the smaller is always looked up in, and merged into, the larger, so that no shape of a request
costs more than about n log n.
"""

from __future__ import annotations

from collections.abc import Iterable

from sortedcontainers import SortedDict, SortedList

from kvstore import errors
from kvstore.pb.rpc_pb2 import RequestOp


class Written:
    """The keys that are put, and the intervals that are deleted."""

    __slots__ = ("deletes", "puts")

    def __init__(self) -> None:
        self.puts: SortedList[bytes] = SortedList()
        self.deletes: SortedDict[bytes, bytes] = SortedDict()
        """Start -> end, exclusive; never empty, and no two touch."""

    def delete(self, start: bytes, end: bytes) -> None:
        """Add an interval, joined with those that it meets; an empty one is nothing."""
        if end <= start:
            return
        deletes = self.deletes
        first = max(deletes.bisect_right(start) - 1, 0)
        while first < len(deletes):
            known_start, known_end = deletes.peekitem(first)
            if known_start > end:
                break
            if known_end < start:
                first += 1
                continue
            start, end = min(start, known_start), max(end, known_end)
            del deletes[known_start]
        deletes[start] = end

    def merge(self, other: Written) -> None:
        """Take in all of `other`, which is used up."""
        if len(other.puts) > len(self.puts):
            self.puts, other.puts = other.puts, self.puts
        self.puts.update(other.puts)
        if len(other.deletes) > len(self.deletes):
            self.deletes, other.deletes = other.deletes, self.deletes
        for start, end in other.deletes.items():
            self.delete(start, end)

    def refuse_puts(self, puts: SortedList[bytes]) -> None:
        """Raise DUPLICATE_KEY if one of `puts` is put or deleted here."""
        few, many = sorted((puts, self.puts), key=len)
        if any(key in many for key in few) or self._deletes_one_of(puts):
            raise errors.DUPLICATE_KEY

    def _deletes_one_of(self, puts: SortedList[bytes]) -> bool:
        if len(puts) < len(self.deletes):
            return any(self._deleted(key) for key in puts)
        return any(
            next(puts.irange(start, end, (True, False)), None) is not None
            for start, end in self.deletes.items()
        )

    def _deleted(self, key: bytes) -> bool:
        position = self.deletes.bisect_right(key) - 1
        return position >= 0 and bool(key < self.deletes.peekitem(position)[1])


def written(branch: Iterable[RequestOp]) -> Written:
    """Return what a branch writes, nested transactions included.

    Raises:
        EtcdError: DUPLICATE_KEY.
    """
    found = Written()
    nested, puts = [], []
    for op in branch:
        kind = op.WhichOneof("request")
        if kind == "request_delete_range":
            delete = op.request_delete_range
            found.delete(delete.key, delete.range_end or delete.key + b"\0")
        elif kind == "request_txn":
            nested.append(op.request_txn)
        elif kind == "request_put":
            puts.append(op.request_put.key)
    for txn in nested:
        # The two exclude each other, so both are held against what is there already, and not
        # against each other.
        then, otherwise = written(txn.success), written(txn.failure)
        found.refuse_puts(then.puts)
        found.refuse_puts(otherwise.puts)
        then.merge(otherwise)
        found.merge(then)
    own = SortedList(puts)
    if len(set(puts)) < len(puts):
        raise errors.DUPLICATE_KEY
    found.refuse_puts(own)
    found.puts.update(own)
    return found
