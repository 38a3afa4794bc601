"""Big reads go in slices and still see one revision (RNG-29)."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.apply.kv import range_body_steps, read_only_txn_steps
from kvstore.mvcc import index as index_module
from kvstore.mvcc.hash import hash_backend_steps, hash_kv_steps
from kvstore.mvcc.range import range_steps
from kvstore.mvcc.steps import SLICE_BYTES, SLICE_KEYS, Steps, drain
from kvstore.pb.rpc_pb2 import (
    Compare,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from kvstore.storage.lmdb_backend import LmdbBackend
from tests.mvcc.kv_member import ALL, KvMember, lmdb_member

KEYS = 2 * SLICE_KEYS + 1


def fill(member: KvMember, count: int = KEYS) -> None:
    for n in range(count):
        member.put(b"%05d" % n, b"old")


def disturb(member: KvMember, step: int) -> None:
    """Change, create and delete keys on both sides of wherever a reader may be; compact it all."""
    for place in (0, KEYS // 2, KEYS - 1):
        member.put(b"%05d" % place, b"new")
        member.put(b"%05d-%d" % (place, step), b"new")
    member.delete(b"%05d" % (KEYS - 2 - step))
    member.delete(b"%05d" % (1 + step))
    member.store.compact(member.revision)
    member.store.compact_step(50)
    member.backend.commit()


def run(member: KvMember, steps: Steps[tuple[int, bytes]]) -> tuple[int, bytes, int]:
    """Run a sliced read, disturbing it between slices; return revision, body and pauses."""
    pauses = 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value[0], stop.value[1], pauses
        disturb(member, pauses)
        pauses += 1


def finish(member: KvMember, steps: Steps[tuple[int, bytes]]) -> tuple[int, RangeResponse, int]:
    """`run` for a range."""
    revision, body, pauses = run(member, steps)
    return revision, RangeResponse.FromString(body), pauses


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"limit": SLICE_KEYS + 7},
        {"keys_only": True},
        {"sort_target": RangeRequest.MOD, "sort_order": RangeRequest.DESCEND},
        {"sort_target": RangeRequest.VALUE},
        {"sort_target": RangeRequest.VERSION, "limit": 5},
        {"sort_order": RangeRequest.DESCEND},
        {"min_mod_revision": 100, "max_create_revision": 1500, "limit": 600},
    ],
)
@pytest.mark.parametrize("past", [False, True])
def test_a_sliced_range_is_one_snapshot(
    member: KvMember, fields: dict[str, int], past: bool
) -> None:
    """RNG-29, RNG-14: neither writes nor compactions in between show."""
    fill(member)
    at = member.revision
    whole = member.range(ALL, ALL, **fields)
    if past:
        member.put(b"%05d" % 7, b"new")
        member.delete(b"%05d" % 9)
        fields = {**fields, "revision": at}
    begun = member.revision
    request = RangeRequest(key=ALL, range_end=ALL, **fields)
    revision, response, pauses = finish(member, range_body_steps(member.store, request))
    assert pauses > 0
    assert revision == begun
    assert response.kvs == whole.kvs
    assert (response.count, response.more) == (whole.count, whole.more)
    member.finish_compaction()
    assert member.store.finished_compact_revision == member.store.compact_revision


def test_a_sliced_count_is_of_one_revision(
    member: KvMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RNG-14, RNG-29: also when too much has changed since to count by arithmetic."""
    monkeypatch.setattr(index_module, "CHANGES_KEPT", 3)
    fill(member)
    at = member.revision
    member.delete(b"00000", b"00100")
    request = RangeRequest(key=ALL, range_end=ALL, count_only=True, revision=at)
    _, response, pauses = finish(member, range_body_steps(member.store, request))
    assert (response.count, pauses > 0) == (KEYS, True)
    assert member.range(ALL, ALL, count_only=True).count == len(member.keys())


def test_a_transaction_of_long_ranges_is_of_one_instant(member: KvMember) -> None:
    """RNG-29, TXN-21, TXN-25: header, compare, past and present; nobody waits for all of it."""
    fill(member)
    for n in range(0, KEYS, 2):
        member.put(b"%05d" % n, b"newer")
    now, past = member.revision, 1 + KEYS
    everything = {"key": ALL, "range_end": ALL}
    ranges = [
        RangeRequest(**everything),
        RangeRequest(**everything, revision=past, sort_target=RangeRequest.VALUE),
        RangeRequest(**everything, count_only=True),
        RangeRequest(key=b"00000"),
        RangeRequest(**everything, keys_only=True, sort_order=RangeRequest.DESCEND),
    ]
    compare = Compare(key=b"00000", target=Compare.VALUE, value=b"newer")
    ops = [RequestOp(request_range=request) for request in ranges]
    expected = [member.ask(request) for request in ranges]
    steps = read_only_txn_steps(member.store, TxnRequest(compare=[compare], success=ops))
    revision, body, pauses = run(member, steps)
    response = TxnResponse.FromString(body)
    assert (revision, response.succeeded) == (now, True)
    assert [answer.response_range for answer in response.responses] == expected
    assert pauses > len(ranges)
    assert member.revision > now


def test_big_values_end_a_slice_early(member: KvMember) -> None:
    """A slice copies no more than SLICE_BYTES and one value."""
    for n in range(4):
        member.put(b"%d" % n, bytes(SLICE_BYTES // 2))
    steps = range_body_steps(member.store, RangeRequest(key=ALL, range_end=ALL))
    next(steps)
    member.delete(b"3")
    next(steps)
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert len(RangeResponse.FromString(stop.value.value[1]).kvs) == 4


@pytest.mark.parametrize("count", [1, SLICE_KEYS - 1])
@pytest.mark.parametrize("fields", [{}, {"sort_target": RangeRequest.MOD}, {"count_only": True}])
def test_a_short_range_needs_one_slice(
    member: KvMember, count: int, fields: dict[str, int]
) -> None:
    """So the server answers it without going back to its loop."""
    fill(member, count)
    request = RangeRequest(key=ALL, range_end=ALL, **fields)
    with pytest.raises(StopIteration):
        next(range_body_steps(member.store, request))


def test_an_abandoned_read_lets_compaction_go_on(member: KvMember) -> None:
    """Closing the generator is enough, as when a client goes away."""
    fill(member)
    steps = range_body_steps(member.store, RangeRequest(key=ALL, range_end=ALL))
    next(steps)
    disturb(member, 0)
    assert member.store.compact_step(10 * KEYS)
    steps.close()
    member.finish_compaction()
    assert member.store.finished_compact_revision == member.store.compact_revision


def test_long_reads_go_on_while_the_file_is_replaced_by_a_packed_one(tmp_path: Path) -> None:
    """MNT-18: a defragmentation between two slices of a hash and of a range shows in neither."""
    member = lmdb_member(tmp_path)
    assert isinstance(member.backend, LmdbBackend)
    for number in range(2 * SLICE_KEYS + 1):
        member.put(b"%06d" % number, b"v%d" % number)
    member.compact(SLICE_KEYS)
    member.backend.commit()
    request = RangeRequest(key=ALL, range_end=ALL)
    expected = member.store.hash_kv(0), member.store.range(request)
    hashing, reading = hash_kv_steps(member.store, 0), range_steps(member.store, request)
    next(hashing)
    next(reading)
    member.put(b"written meanwhile")
    member.backend.pack()
    member.backend.switch()()
    member.put(b"written after")
    assert (drain(hashing), drain(reading)) == expected
    assert len(member.keys()) == 2 * SLICE_KEYS + 3
    member.backend.close()


LARGE = SLICE_BYTES // 2


def test_no_slice_reads_much_more_than_its_bytes(member: KvMember) -> None:
    """However large values are, each step reads SLICE_BYTES and one value at most."""
    for n in range(12):
        member.put(b"%02d" % n, b"x" * LARGE)
        member.put(b"%02d" % n, b"y" * LARGE)
    by_value = RangeRequest(
        key=b"\0", range_end=b"\0", sort_target=RangeRequest.VALUE, limit=1, keys_only=True
    )
    for steps, values in (
        (range_steps(member.store, by_value), 12),
        (hash_kv_steps(member.store, 0), 24),
        (hash_backend_steps(member.store.backend), 24),
    ):
        assert sum(1 for _ in steps) >= values * LARGE // (SLICE_BYTES + LARGE) - 1


def test_a_compaction_step_reads_no_more_either(member: KvMember) -> None:
    for n in range(12):
        member.put(b"one", b"%d" % n + b"x" * LARGE)
    member.store.compact(member.revision)
    steps = 1
    while member.store.compact_step(1000):
        steps += 1
    assert steps >= 4
