"""The differences to real etcd that are known, each with the behaviour's item and the reason.

An entry looks at one pair of unequal answers and takes out what it explains, and nothing else;
what is unequal after all entries is a fault. Entries about faults of etcd say which versions mended
them: from there on a difference counts again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kvstore import errors
from kvstore.errors import EtcdError
from kvstore.pb import rpc_pb2
from kvstore.pb.kv_pb2 import Event, KeyValue
from kvstore.pb.rpc_pb2 import RangeRequest, RangeResponse, TxnRequest, TxnResponse
from tests.differential.sides import Failure, Version
from tests.differential.steps import FROM_KEY_ENCODED, messages_in, ranges_in

NEVER: tuple[Version, ...] = ((99, 0, 0),)
"""Not mended in any version so far."""

SORTED_STABLY = 6
"""So many keys stay in order in any version's sort (RNG-21)."""

_ORDERS = frozenset(RangeRequest.SortOrder.values())
_TARGETS = frozenset(RangeRequest.SortTarget.values())


@dataclass(slots=True)
class Pair:
    """A request and its two answers; `Known.explain` edits the answers."""

    request: Any
    reference: Any
    ours: Any
    suffix: bytes = b""
    compacted: int = -1
    """The compact revision when the request was sent."""
    compactions: frozenset[int] = frozenset()
    """Revisions that were compacted at so far."""
    dead_watches: frozenset[int] = frozenset()
    """Watches of the stream that a compaction has cancelled."""


@dataclass(frozen=True, slots=True)
class Known:
    """One known difference."""

    item: str
    reason: str
    explain: Callable[[Pair], None]
    mended: tuple[Version, ...] = NEVER
    """In each series of etcd the first version that answers as we do."""

    def holds(self, version: Version) -> bool:
        """Whether this version of etcd has the difference."""
        return not _mended(version, self.mended)


def _mended(version: Version, since: tuple[Version, ...]) -> bool:
    """Args: since: from when on in each series that was mended; the last one goes for all later."""
    for mended in since:
        if version[:2] == mended[:2]:
            return version >= mended
    return version >= min(since)


def explained(pair: Pair, version: Version) -> list[Known] | None:
    """Which entries explain a pair of unequal answers; None if they do not."""
    used = []
    for known in KNOWN:
        if known.holds(version):
            before = repr((pair.reference, pair.ours))
            known.explain(pair)
            if repr((pair.reference, pair.ours)) != before:
                used.append(known)
    return used if pair.reference == pair.ours else None


NEGATIVE_START: tuple[Version, ...] = ((3, 5, 24), (3, 6, 6))


def refused_here_alone(request: Any, version: Version) -> bool:
    """Whether etcd must be spared a request that we refuse as later versions do (RNG-22).

    Before 3.6 an unknown sort target ends the process, and a transaction with an unknown sort order
    is carried out.
    """
    if version >= (3, 6):
        return False
    for inner in ranges_in(request):
        if inner.sort_target not in _TARGETS:
            return True
        if inner.sort_order not in _ORDERS and isinstance(request, TxnRequest):
            return True
    return False


def ends_etcd(request: Any) -> bool:
    """Whether a request may end any etcd.

    It lets a delete to the end of the key space precede a put in one transaction (TXN-09). If the
    put then wants to keep what the delete has taken, the process ends.
    """
    deleted_from: list[bytes] = []
    kept: list[bytes] = []
    for inner in messages_in(request):
        if isinstance(inner, rpc_pb2.DeleteRangeRequest) and inner.range_end == b"\0":
            deleted_from.append(inner.key)
        elif isinstance(inner, rpc_pb2.PutRequest) and (inner.ignore_value or inner.ignore_lease):
            kept.append(inner.key)
    return bool(deleted_from and kept) and min(deleted_from) <= max(kept)


def takes_events_of_others(request: Any, version: Version) -> bool:
    """Whether a watch would make etcd forget events of other watches (WCH-13, PR 20693).

    Before 3.5.24 and 3.6.6 one that begins below 0 is made, and while it waits to be cancelled
    others that wait with it may lose what they wait for.
    """
    create = getattr(request, "create_request", None)
    return create is not None and create.start_revision < 0 and not _mended(version, NEGATIVE_START)


# What the entries look at.


def _is(answer: Any, *expected: EtcdError) -> bool:
    return isinstance(answer, Failure) and any(answer.text == e.message for e in expected)


def _ranges(
    request: Any, reference: Any, ours: Any
) -> Iterator[tuple[RangeRequest, RangeResponse, RangeResponse]]:
    """Each Range that was carried out, with its answers."""
    if isinstance(reference, Failure) or isinstance(ours, Failure):
        return
    if isinstance(request, RangeRequest):
        yield request, reference, ours
    if isinstance(request, TxnRequest) and isinstance(reference, TxnResponse):
        branch = request.success if reference.succeeded else request.failure
        for op, theirs, our in zip(branch, reference.responses, ours.responses, strict=False):
            if op.HasField("request_range"):
                yield op.request_range, theirs.response_range, our.response_range
            elif op.HasField("request_txn"):
                yield from _ranges(op.request_txn, theirs.response_txn, our.response_txn)


def _sort_key(request: RangeRequest, kv: KeyValue) -> Any:
    names = ("key", "version", "create_revision", "mod_revision", "value")
    return getattr(kv, names[request.sort_target])


# The entries.


def _limit_before_sort(pair: Pair) -> None:
    for request, reference, ours in _ranges(pair.request, pair.reference, pair.ours):
        cut_first = request.sort_order == RangeRequest.NONE and 0 < request.limit < ours.count
        if cut_first and request.sort_target != RangeRequest.KEY:
            kept = len(reference.kvs) == len(ours.kvs)
            if kept:
                del reference.kvs[:], ours.kvs[:]


def _unstable_sort(pair: Pair) -> None:
    for request, reference, ours in _ranges(pair.request, pair.reference, pair.ours):
        if ours.count <= SORTED_STABLY or request.sort_target not in _TARGETS:
            continue
        # Values that keys_only has removed cannot be compared any more.
        if request.sort_target == RangeRequest.VALUE and request.keys_only:
            theirs, own = [len(reference.kvs)], [len(ours.kvs)]
        else:
            theirs = [_sort_key(request, kv) for kv in reference.kvs]
            own = [_sort_key(request, kv) for kv in ours.kvs]
        if theirs == own:
            del reference.kvs[:], ours.kvs[:]


def _empty_end_on_the_wire(pair: Pair) -> None:
    if pair.suffix == FROM_KEY_ENCODED and not isinstance(pair.reference, Failure):
        pair.reference = pair.ours


def _unknown_order(pair: Pair) -> None:
    unknown = any(inner.sort_order not in _ORDERS for inner in ranges_in(pair.request))
    if unknown and _is(pair.ours, errors.INVALID_SORT_OPTION):
        pair.reference = pair.ours


def _puts_before_ranges(pair: Pair) -> None:
    of_puts = errors.LEASE_NOT_FOUND, errors.KEY_NOT_FOUND
    of_ranges = errors.COMPACTED, errors.FUTURE_REV
    if isinstance(pair.request, TxnRequest) and _is(pair.reference, *of_puts):
        of_one_put = _is(pair.reference, errors.KEY_NOT_FOUND)
        if _is(pair.ours, *of_ranges) or (of_one_put and _is(pair.ours, errors.LEASE_NOT_FOUND)):
            pair.reference = pair.ours


def _no_hash_revision(pair: Pair) -> None:
    if isinstance(pair.ours, rpc_pb2.HashKVResponse):
        pair.ours.hash_revision = 0


def _hash_at_compact_revision(pair: Pair) -> None:
    hash_request = isinstance(pair.request, rpc_pb2.HashKVRequest)
    at_border = hash_request and pair.request.revision == pair.compacted
    if at_border and _is(pair.reference, errors.COMPACTED):
        pair.reference = pair.ours


def _remembered_hash(pair: Pair) -> None:
    request = pair.request
    if not isinstance(request, rpc_pb2.HashKVRequest) or request.revision not in pair.compactions:
        return
    told = {getattr(answer, "compact_revision", None) for answer in (pair.reference, pair.ours)}
    refused = any(_is(answer, errors.COMPACTED) for answer in (pair.reference, pair.ours))
    if len(told) == 2 and (refused or None not in told):
        pair.reference = pair.ours


def _tombstone_at_compact_revision(pair: Pair) -> None:
    if not isinstance(pair.ours, list):
        return
    pair.ours = [
        event
        for event in pair.ours
        if not (
            isinstance(event, Event)
            and event.type == Event.DELETE
            and event.kv.mod_revision == pair.compacted
            and event not in pair.reference
        )
    ]


def _progress_always(pair: Pair) -> None:
    if pair.ours == [] and _is_one_progress(pair.reference):
        pair.reference = []


def _dead_watch_blocks_progress(pair: Pair) -> None:
    if pair.dead_watches and pair.reference == [] and _is_one_progress(pair.ours):
        pair.ours = []


def _is_one_progress(answers: Any) -> bool:
    return isinstance(answers, list) and [getattr(a, "watch_id", 0) for a in answers] == [-1]


KNOWN: Sequence[Known] = (
    Known(
        "RNG-02",
        "an empty range_end that is on the wire is absent, as every proto3 client means it",
        _empty_end_on_the_wire,
    ),
    Known("RNG-19", "the whole interval is sorted before the limit", _limit_before_sort),
    Known("RNG-21", "equal sort keys stay in key order, however many", _unstable_sort),
    Known(
        "RNG-22",
        "before 3.6 an unknown sort order is carried out as none",
        _unknown_order,
        ((3, 6, 0),),
    ),
    Known(
        "TXN-13",
        "before 3.6 a transaction's puts are checked before its ranges, keys before leases",
        _puts_before_ranges,
        ((3, 6, 0),),
    ),
    Known("MNT-20", "before 3.6 without hash_revision", _no_hash_revision, ((3, 6, 0),)),
    Known(
        "MNT-20",
        "before 3.5.10 the compact revision cannot be hashed",
        _hash_at_compact_revision,
        ((3, 5, 10),),
    ),
    Known(
        "MNT-23",
        "the hash of a compaction answers where it is remembered: from 3.5.5 on; never 0 here",
        _remembered_hash,
    ),
    Known(
        "CMP-05",
        "before 3.5.16 a compaction removes the tombstone at its own revision",
        _tombstone_at_compact_revision,
        ((3, 5, 16),),
    ),
    Known(
        "WCH-37",
        "before 3.5.8 a progress request is answered whether watches are behind or not",
        _progress_always,
        ((3, 5, 8),),
    ),
    Known(
        "WCH-16",
        "a watch that a compaction has cancelled holds up no manual progress",
        _dead_watch_blocks_progress,
    ),
)
