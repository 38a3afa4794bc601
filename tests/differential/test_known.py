"""What a known difference excuses, and that it excuses nothing beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import pytest

from kvstore import errors
from kvstore.errors import EtcdError
from kvstore.pb import rpc_pb2
from kvstore.pb.kv_pb2 import Event, KeyValue
from kvstore.pb.rpc_pb2 import RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse
from tests.differential.generator import STEPS, sequence
from tests.differential.known import KNOWN, NEVER, Pair, explained, takes_events_of_others
from tests.differential.sides import Failure, Version
from tests.differential.steps import COMPACTED, FROM_KEY_ENCODED, HEAD, resolved

OLD: Version = (3, 5, 1)
NEW: Version = (3, 6, 14)


def failure(error: EtcdError) -> Failure:
    (code,) = [code for code in grpc.StatusCode if code.value[0] == error.code]
    return Failure(code, error.message)


def found(keys: bytes, count: int = 0) -> RangeResponse:
    kvs = [KeyValue(key=bytes([key]), mod_revision=key) for key in keys]
    return RangeResponse(kvs=kvs, count=count or len(kvs))


def items(pair: Pair, version: Version) -> list[str] | None:
    used = explained(pair, version)
    return None if used is None else [known.item for known in used]


BY_MOD = RangeRequest(key=b"a", range_end=b"z", sort_target=RangeRequest.MOD, limit=2)
UNKNOWN_ORDER = RangeRequest(key=b"a", sort_order=7)  # type: ignore[arg-type]
DELETED = Event(type=Event.DELETE, kv=KeyValue(key=b"a", mod_revision=9))
PROGRESS = rpc_pb2.WatchResponse(watch_id=-1)
HASH_AT_9 = rpc_pb2.HashKVRequest(revision=9)


def in_txn(response: RangeResponse) -> TxnResponse:
    return TxnResponse(responses=[rpc_pb2.ResponseOp(response_range=response)])


@pytest.mark.parametrize(
    ("pair", "item", "mended"),
    [
        (Pair(BY_MOD, found(b"ac", 5), found(b"ab", 5)), "RNG-19", False),
        (
            Pair(
                TxnRequest(failure=[RequestOp(request_range=BY_MOD)]),
                in_txn(found(b"ac", 5)),
                in_txn(found(b"ab", 5)),
            ),
            "RNG-19",
            False,
        ),
        (
            Pair(RangeRequest(key=b"a"), found(b"abc"), found(b"a"), suffix=FROM_KEY_ENCODED),
            "RNG-02",
            False,
        ),
        (Pair(UNKNOWN_ORDER, found(b"a"), failure(errors.INVALID_SORT_OPTION)), "RNG-22", True),
        (
            Pair(TxnRequest(), failure(errors.KEY_NOT_FOUND), failure(errors.COMPACTED)),
            "TXN-13",
            True,
        ),
        (Pair(HASH_AT_9, failure(errors.COMPACTED), found(b""), compacted=9), "MNT-20", True),
        (Pair(rpc_pb2.WatchRequest(), [], [DELETED], compacted=9), "CMP-05", True),
        (Pair(rpc_pb2.WatchRequest(), [PROGRESS], []), "WCH-37", True),
        (
            Pair(rpc_pb2.WatchRequest(), [], [PROGRESS], dead_watches=frozenset({3})),
            "WCH-16",
            False,
        ),
    ],
)
def test_a_known_difference_is_named_until_etcd_has_mended_it(
    pair: Pair, item: str, mended: bool
) -> None:
    again = replace(pair)
    if mended:
        assert items(again, NEW) is None
    assert items(pair, OLD) == [item]


@pytest.mark.parametrize(
    "pair",
    [
        Pair(BY_MOD, found(b"ac", 5), found(b"ab", 6)),
        Pair(BY_MOD, found(b"abc", 5), found(b"ab", 5)),
        Pair(RangeRequest(key=b"a", limit=2), found(b"ac", 5), found(b"ab", 5)),
        Pair(RangeRequest(key=b"a"), found(b"abc"), found(b"a")),
        Pair(RangeRequest(key=b"a"), found(b"a"), failure(errors.INVALID_SORT_OPTION)),
        Pair(UNKNOWN_ORDER, found(b"a"), failure(errors.EMPTY_KEY)),
        Pair(TxnRequest(), failure(errors.COMPACTED), failure(errors.KEY_NOT_FOUND)),
        Pair(TxnRequest(), failure(errors.LEASE_NOT_FOUND), TxnResponse()),
        Pair(HASH_AT_9, failure(errors.COMPACTED), found(b""), compacted=8),
        Pair(rpc_pb2.WatchRequest(), [], [DELETED], compacted=8),
        Pair(rpc_pb2.WatchRequest(), [DELETED], [], compacted=9),
        Pair(rpc_pb2.WatchRequest(), [PROGRESS, PROGRESS], []),
        Pair(rpc_pb2.WatchRequest(), [], [PROGRESS]),
        Pair(rpc_pb2.PutRequest(), rpc_pb2.PutResponse(), failure(errors.LEASE_NOT_FOUND)),
    ],
)
def test_what_is_beside_a_known_difference_is_a_fault(pair: Pair) -> None:
    assert items(pair, OLD) is None


def test_an_entry_says_for_each_series_of_etcd_from_when_on_it_is_mended() -> None:
    watch = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(start_revision=-1))
    holding: list[Version] = [(3, 5, 1), (3, 5, 23), (3, 6, 5), (3, 4, 18)]
    mended: list[Version] = [(3, 5, 24), (3, 6, 6), (3, 7, 0)]
    assert all(takes_events_of_others(watch, version) for version in holding)
    assert not any(takes_events_of_others(watch, version) for version in mended)
    assert all(known.holds(NEW) for known in KNOWN if known.mended is NEVER)


def test_a_seed_names_one_sequence_and_revisions_are_relative_until_sent() -> None:
    assert list(map(str, sequence(5))) == list(map(str, sequence(5)))
    assert [step.number for step in sequence(6)] == list(range(STEPS))
    assert sequence(5) != sequence(6)
    request: Any = TxnRequest(
        success=[RequestOp(request_range=RangeRequest(key=b"a", revision=HEAD - 2, limit=HEAD))],
        compare=[rpc_pb2.Compare(key=b"a", mod_revision=COMPACTED + 1)],
    )
    sent = resolved(request, head=10, compacted=4)
    assert sent.success[0].request_range.revision == 8
    assert sent.compare[0].mod_revision == 5
    assert resolved(RangeRequest(revision=HEAD - 20), 10, -1).revision == 0
    lowest = RangeRequest(revision=-(1 << 63))
    assert resolved(lowest, 10, 4) == lowest
