"""What a compaction promises (semantics section 7), one story each."""

from __future__ import annotations

import pytest

from kvstore import errors
from kvstore.errors import EtcdError
from kvstore.mvcc.compaction import NEVER
from kvstore.mvcc.keyvalue import decode_revision_key
from kvstore.mvcc.steps import SLICE_KEYS
from kvstore.storage.backend import REVISIONS
from tests.mvcc.kv_member import ALL, KvMember


def stored_mains(member: KvMember) -> list[int]:
    """The main revisions in the backend, in order."""
    scan = member.backend.scan(REVISIONS, b"", None)
    return [decode_revision_key(key)[0] for key, _ in scan]


def test_compact_revision_must_grow_and_exist(member: KvMember) -> None:
    """CMP-01."""
    for _ in range(3):
        member.put(b"a")
    member.compact(3)
    for revision, error in ((3, errors.COMPACTED), (2, errors.COMPACTED), (5, errors.FUTURE_REV)):
        with pytest.raises(EtcdError) as refused:
            member.store.compact(revision)
        assert refused.value is error
    assert member.store.compact_revision == 3


def test_never_compacted_store_compacts_at_zero_once(member: KvMember) -> None:
    """CMP-02: even after a restart."""
    assert member.store.compact_revision == NEVER == -1
    member.compact(0)
    member.backend.commit()
    member.crash()
    for revision in (0, -1):
        with pytest.raises(EtcdError) as refused:
            member.store.compact(revision)
        assert refused.value is errors.COMPACTED


def test_compacting_at_the_current_revision_keeps_live_keys(member: KvMember) -> None:
    """CMP-03, CMP-08: nothing is written that clients see."""
    member.put(b"a", b"1")
    member.put(b"a", b"2")
    member.put(b"b", b"3")
    announced = len(member.events)
    member.compact(4)
    assert [found.value for found in member.range(ALL, ALL, revision=4).kvs] == [b"2", b"3"]
    assert (member.revision, len(member.events)) == (4, announced)
    assert stored_mains(member) == [3, 4]


def test_logical_effect_is_immediate(member: KvMember) -> None:
    """CMP-04, CMP-06: before anything is removed."""
    for _ in range(3):
        member.put(b"a")
    member.store.compact(4)
    with pytest.raises(EtcdError) as refused:
        member.range(b"a", revision=3)
    assert refused.value is errors.COMPACTED
    assert member.range(b"a", revision=4).kvs[0].version == 3
    assert stored_mains(member) == [2, 3, 4]
    assert member.store.finished_compact_revision == NEVER


def test_what_is_kept(member: KvMember) -> None:
    """CMP-05: newest version per key, a tombstone only at exactly the compact revision."""
    member.put(b"a")  # 2, replaced at 3
    member.put(b"a")  # 3, the newest of its key at 5
    member.put(b"b")  # 4
    member.delete(b"b")  # 5
    member.put(b"a")  # 6
    member.store.compact(5)
    member.finish_compaction()
    assert stored_mains(member) == [3, 5, 6]
    assert [event[:2] for event in member.store.events(5, 6, 1)[0][1]] == [(1, b"b")]
    member.compact(6)
    assert stored_mains(member) == [6]
    assert set(member.store.index.records) == {b"a"}


def test_a_kept_tombstone_goes_with_the_next_compaction(member: KvMember) -> None:
    """CMP-05: also when nothing else happened in between."""
    member.put(b"a")
    member.delete(b"a")
    member.compact(3)
    assert stored_mains(member) == [3]
    member.put(b"b")
    member.compact(4)
    assert stored_mains(member) == [4]
    assert len(member.store.index.dead) == 0


def test_removal_goes_in_small_steps(member: KvMember) -> None:
    """CMP-06: no step removes more than its limit, one key with a long history included."""
    for n in range(40):
        member.put(b"often", b"%d" % n)
        member.put(b"key%d" % n)
        member.delete(b"key%d" % n)
    member.store.compact(member.revision)
    before = len(stored_mains(member))
    while member.store.compact_step(7):
        left = len(stored_mains(member))
        assert before - left <= 2 * 7
        before = left
        member.put(b"meanwhile")
    kept = {b"often", b"meanwhile", b"key39"}
    assert set(member.store.index.records) == kept
    assert member.range(b"often").kvs[0].version == 40


def test_compacting_again_during_removal(member: KvMember) -> None:
    """CMP-01, CMP-06: the second run takes up where the first ends."""
    for n in range(20):
        member.put(b"a", b"%d" % n)
    member.store.compact(10)
    assert member.store.compact_step(3)
    member.store.compact(20)
    member.finish_compaction(3)
    assert stored_mains(member) == [20, 21]
    assert member.store.finished_compact_revision == 20


@pytest.mark.parametrize("committed_steps", range(6))
def test_a_crash_resumes_the_removal(member: KvMember, committed_steps: int) -> None:
    """CMP-09: whatever part of it was durable."""
    for n in range(10):
        member.put(b"a", b"%d" % n)
        member.put(b"b")
        member.delete(b"b")
    member.store.compact(25)
    for _ in range(committed_steps):
        member.store.compact_step(4)
    member.backend.commit()
    member.store.compact_step(4)
    member.crash()
    assert member.store.compact_revision == 25
    assert member.keys(revision=25) == [b"a"]
    assert member.store.compact_step(1)
    member.finish_compaction()
    assert stored_mains(member) == [23, 25, *range(26, 32)]
    member.backend.commit()
    member.crash()
    assert member.store.finished_compact_revision == 25
    assert not member.store.compact_step(1)


def test_revision_survives_the_removal_of_all_newest_ones(member: KvMember) -> None:
    """CMP-09: the newest revisions were tombstones, and none is stored any more."""
    member.put(b"a")
    member.put(b"b")
    member.delete(ALL, ALL)
    member.put(b"c")
    member.delete(b"c")
    member.store.compact(5)
    member.store.compact(6)
    member.finish_compaction()
    member.backend.commit()
    assert stored_mains(member) == [6]
    member.crash()
    assert (member.revision, member.store.compact_revision) == (6, 6)
    assert member.put(b"a").header.revision == 7


def test_revision_survives_when_nothing_is_left(member: KvMember) -> None:
    """CMP-09: deletes below the compact revision, nothing at it."""
    member.put(b"a")
    member.delete(b"a")
    member.put(b"a")
    member.compact(4)
    member.delete(b"a")
    member.compact(5)
    member.put(b"x")
    member.delete(b"x")
    member.compact(7)
    member.backend.commit()
    member.crash()
    assert (member.revision, stored_mains(member)) == (7, [7])


def test_a_pinned_reader_holds_removal_up(member: KvMember) -> None:
    """RNG-29: what a read under way needs stays, the rest goes; ending it lets go."""
    for n in range(6):
        member.put(b"a", b"%d" % n)
    with member.store.pinned(4):
        member.store.compact(7)
        assert member.store.compact_step(100)
        assert member.store.compact_step(100)
        assert member.store.finished_compact_revision == 4
        assert stored_mains(member) == [4, 5, 6, 7]
    member.finish_compaction()
    assert stored_mains(member) == [7]


def test_counts_of_the_past_survive_compaction(member: KvMember) -> None:
    """RNG-14, CMP-04: more changes than are remembered, and a restart, make no difference."""
    for n in range(2 * SLICE_KEYS + 5):
        member.put(b"%05d" % n)
    at = member.revision
    member.delete(b"00000", b"00010")
    member.compact(at)
    for _ in range(2):
        response = member.range(ALL, ALL, revision=at, limit=3)
        assert (response.count, response.more) == (2 * SLICE_KEYS + 5, True)
        assert member.range(ALL, ALL, count_only=True).count == 2 * SLICE_KEYS - 5
        member.backend.commit()
        member.crash()
