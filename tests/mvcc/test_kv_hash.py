"""What HashKV and Hash promise (MNT-19..22)."""

from __future__ import annotations

import pytest

from kvstore import errors
from kvstore.errors import EtcdError
from kvstore.mvcc.compaction_hashes import MAX_HASHES
from kvstore.mvcc.hash import HashKV, crc32c, hash_backend_steps, hash_kv_steps
from kvstore.mvcc.steps import SLICE_KEYS, drain
from kvstore.storage.backend import MEMBERS, META
from tests.mvcc.kv_member import ALL, KvMember, memory_member, put_op


def history(member: KvMember) -> None:
    """A few lives of a few keys, revisions 2 to 10."""
    member.put(b"a", b"1")
    member.put(b"b", b"2")
    member.delete(b"a")
    member.txn(success=[put_op(b"a", b"3"), put_op(b"c", b"4")])
    member.put(b"b", b"5")
    member.delete(b"c")
    member.put(b"d", b"6")
    member.delete(b"b", b"d")
    member.put(b"a", b"7")


def test_crc32c_is_the_castagnoli_one() -> None:
    """The check value of the CRC catalogues, in one piece and in two."""
    assert crc32c(0, b"123456789") == crc32c(crc32c(0, b"1234"), b"56789") == 0xE3069283


def test_hash_of_the_empty_store_is_that_of_the_bucket_name(member: KvMember) -> None:
    """MNT-22."""
    found = member.store.hash_kv(0)
    assert (found.hash, found.compact_revision, found.hash_revision) == (crc32c(0, b"key"), -1, 1)


def test_hash_covers_keys_and_values_in_the_layout_of_etcd(member: KvMember) -> None:
    """MNT-22: revision key, tombstone mark, stored message; a tombstone's message is the key."""
    member.put(b"a", b"1")
    member.delete(b"a")
    put = (2).to_bytes(8, "big") + b"_" + bytes(8) + b"\n\x01a\x10\x02\x18\x02\x20\x01*\x011"
    tombstone = (3).to_bytes(8, "big") + b"_" + bytes(8) + b"t" + b"\n\x01a"
    assert member.store.hash_kv(2).hash == crc32c(0, b"key" + put)
    assert member.store.hash_kv(3).hash == crc32c(0, b"key" + put + tombstone)


def test_revisions_out_of_reach_are_refused(member: KvMember) -> None:
    """MNT-20: 0 is the current one."""
    history(member)
    member.compact(5)
    for revision, error in ((4, errors.COMPACTED), (11, errors.FUTURE_REV)):
        with pytest.raises(EtcdError) as refused:
            member.store.hash_kv(revision)
        assert refused.value is error
    assert member.store.hash_kv(0) == member.store.hash_kv(10)
    assert member.store.hash_kv(5).hash_revision == 5


@pytest.mark.parametrize("compact", range(1, 11))
def test_hash_does_not_depend_on_removal(member: KvMember, compact: int) -> None:
    """MNT-21, MNT-22: before, during and after physical removal, and after a restart."""
    history(member)
    member.store.compact(compact)
    at_compaction = member.store.hash_kv(compact)
    before = [member.store.hash_kv(revision) for revision in range(compact + 1, 11)]
    assert len({found.hash for found in before}) == len(before)
    more = True
    while more:
        more = member.store.compact_step(1)
        after = [member.store.hash_kv(revision) for revision in range(compact + 1, 11)]
        assert after == before
    member.backend.commit()
    member.crash()
    assert [member.store.hash_kv(revision) for revision in range(compact + 1, 11)] == before
    assert member.store.hash_kv(compact) == at_compaction


def test_negative_revision_hashes_nothing(member: KvMember) -> None:
    """MNT-20: as in etcd, which compares it with nothing."""
    history(member)
    assert member.store.hash_kv(-7) == HashKV(crc32c(0, b"key"), -1, -7)
    member.compact(5)
    assert member.store.hash_kv(-7) == HashKV(crc32c(0, b"key"), 5, -7)


# Hashes of compactions.


def test_hash_of_a_compaction_is_what_it_was_before_it(member: KvMember) -> None:
    """MNT-23: over what the compaction before it kept, however far removal has got."""
    history(member)
    member.compact(4)
    live = member.store.hash_kv(8)
    assert live.compact_revision == 4
    member.compact(8)
    assert member.store.hash_kv(8) == live
    assert member.store.hash_kv(0).compact_revision == 8


def test_hash_of_a_compaction_at_which_all_keys_went_passes_over_them(member: KvMember) -> None:
    """MNT-22, MNT-23, CMP-05: as in etcd, where the tombstone is kept and so something is."""
    member.put(b"a", b"1")
    member.compact(2)
    member.delete(b"a")
    live = member.store.hash_kv(3).hash
    member.compact(3)
    tombstone = (3).to_bytes(8, "big") + b"_" + bytes(8) + b"t" + b"\n\x01a"
    assert member.store.hash_kv(3).hash == crc32c(0, b"key" + tombstone) != live


def test_hash_of_a_compaction_is_kept_when_its_revision_is_gone(member: KvMember) -> None:
    """MNT-23: it answers HashKV for exactly that revision, and no other."""
    history(member)
    member.compact(4)
    remembered = member.store.hash_kv(4)
    assert remembered.compact_revision == -1
    member.compact(9)
    assert member.store.hash_kv(4) == remembered
    for revision in (3, 5, 8):
        with pytest.raises(EtcdError) as refused:
            member.store.hash_kv(revision)
        assert refused.value is errors.COMPACTED


def test_a_compaction_at_0_does_not_stand_for_the_current_hash(member: KvMember) -> None:
    """MNT-20, MNT-23, CMP-02: revision 0 is the current one, whatever is remembered."""
    member.compact(0)
    empty = member.store.hash_kv(0)
    assert (empty.compact_revision, empty.hash_revision) == (0, 1)
    member.put(b"k")
    assert member.store.hash_kv(0).hash != empty.hash
    assert member.store.hash_kv(0).hash_revision == 2


def test_the_last_ten_hashes_are_remembered(member: KvMember) -> None:
    """MNT-23: a limit; and none survives a restart."""
    for _ in range(MAX_HASHES + 3):
        member.put(b"k")
        member.compact(member.revision)
    hashes = member.store.compaction_hashes.newest_first()
    newest = member.revision
    assert [found.hash_revision for found in hashes] == list(range(newest, newest - MAX_HASHES, -1))
    assert len({found.hash for found in hashes}) == MAX_HASHES
    member.backend.commit()
    member.crash()
    assert member.store.compaction_hashes.newest_first() == []


def test_members_that_remove_at_different_times_remember_equal_hashes() -> None:
    """MNT-23: one is done with each compaction before the next comes, another with none."""
    prompt, late = memory_member(), memory_member()
    for member in (prompt, late):
        for revision in (4, 7, 9):
            while member.revision < revision + 1:
                member.put(b"k%d" % (member.revision % 3), b"v")
                if member.revision % 4 == 0:
                    member.delete(b"k0")
            member.store.compact(revision)
            if member is prompt:
                member.finish_compaction()
    late.finish_compaction()
    known = {found.hash_revision: found for found in prompt.store.compaction_hashes.newest_first()}
    assert sorted(known) == [4, 7, 9]
    found = late.store.compaction_hashes.newest_first()
    # The one between the one being hashed and the newest is left out.
    assert [entry.hash_revision for entry in found] == [9, 4]
    assert all(entry == known[entry.hash_revision] for entry in found)
    assert late.store.hash_kv(0) == prompt.store.hash_kv(0)


def test_compaction_is_hashed_before_anything_is_removed(member: KvMember) -> None:
    """MNT-23: and an older compaction is removed in between, so that removal never starves."""
    history(member)
    member.store.compact(4)
    assert member.store.compact_step(1)
    assert member.store.finished_compact_revision == -1
    member.store.compact(6)
    member.store.compact(8)
    while member.store.finished_compact_revision < 4:
        assert member.store.compact_step(1)
    assert member.store.compaction_hashes.get(8) is None
    member.finish_compaction()
    assert member.store.compaction_hashes.get(8) is not None
    assert member.store.finished_compact_revision == 8


def test_hash_does_not_depend_on_removal_when_no_key_is_left(member: KvMember) -> None:
    """MNT-22: etcd skips nothing then; the outcome here is that of a finished removal."""
    history(member)
    member.delete(ALL, ALL)
    member.store.compact(8)
    before = member.store.hash_kv(0)
    member.finish_compaction()
    assert member.store.hash_kv(0) == before


def test_a_single_difference_changes_the_hash() -> None:
    """MNT-21: what the comparison of members is for."""
    one, other = memory_member(), memory_member()
    for member, value in ((one, b"x"), (other, b"y")):
        history(member)
        assert member.store.hash_kv(0) == one.store.hash_kv(10)
        member.put(b"e", value)
    assert one.store.hash_kv(11).hash != other.store.hash_kv(11).hash


def test_a_sliced_hash_is_of_one_instant(member: KvMember) -> None:
    """MNT-21: writes and compactions between slices make no difference."""
    for n in range(2 * SLICE_KEYS):
        member.put(b"%d" % (n % 700), b"v")
    member.store.compact(500)
    whole = member.store.hash_kv(0)
    steps = hash_kv_steps(member.store, 0)
    found, pauses = None, 0
    while found is None:
        try:
            next(steps)
        except StopIteration as stop:
            found = stop.value
            continue
        pauses += 1
        member.delete(b"%d" % pauses)
        member.store.compact(member.revision)
        while member.store.finished_compact_revision < 500:
            assert member.store.compact_step(SLICE_KEYS)
        assert member.store.compact_step(SLICE_KEYS)
        assert member.store.finished_compact_revision == 500
    assert found == whole
    assert pauses >= 1
    member.finish_compaction()
    assert member.store.finished_compact_revision == member.revision


def test_backend_hash_covers_every_table_but_meta(member: KvMember) -> None:
    """MNT-19."""
    hashes = [drain(hash_backend_steps(member.backend))]
    member.backend.put(META, b"applied", b"1")
    assert drain(hash_backend_steps(member.backend)) == hashes[0]
    member.backend.put(MEMBERS, b"1", b"m")
    hashes.append(drain(hash_backend_steps(member.backend)))
    member.grant(1)
    hashes.append(drain(hash_backend_steps(member.backend)))
    member.put(b"a")
    hashes.append(drain(hash_backend_steps(member.backend)))
    assert len(set(hashes)) == 4
