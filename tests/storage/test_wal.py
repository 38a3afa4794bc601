"""What is appended comes back: over restarts, segments, truncations, snapshots and releases."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.storage import wal as wal_module
from kvstore.storage.codec import encode_entries
from kvstore.storage.errors import WalExists, WalFailed, WalLocked, WalNotInitialised
from kvstore.storage.wal import Batch, Wal
from kvstore.storage.wal_frame import SEAL
from raft import ConfState, HardState, SnapshotMeta
from tests.storage.wal_files import METADATA, batch, entry, frames, segments, write_log, zero

CONF = ConfState((1, 2, 3), (1, 2), (4,), (5,), auto_leave=True)


def reopen(wal, directory):
    wal.close()
    return Wal.open(directory, segment_bytes=1024)


def test_a_new_log_opens_empty_with_its_metadata(tmp_path):
    wal = Wal.create(tmp_path / "a" / "wal", METADATA)
    wal, recovered = reopen(wal, tmp_path / "a" / "wal")
    assert (recovered.metadata, recovered.entries, recovered.notes) == (METADATA, [], ())
    assert recovered.hard_state == HardState()
    assert recovered.snapshot == SnapshotMeta(0, 0, ConfState())
    wal.close()


def test_a_log_may_begin_behind_a_snapshot(tmp_path):
    first = SnapshotMeta(1, 1, CONF)
    wal = Wal.create(tmp_path, METADATA, hard_state=HardState(1, 0, 1), snapshot=first)
    with pytest.raises(ValueError, match="do not follow"):
        wal.append([batch(3, 2)])
    wal.append([Batch(first_index=2, entries=[entry(2), entry(3)])])
    wal, recovered = reopen(wal, tmp_path)
    assert (recovered.hard_state, recovered.snapshot) == (HardState(1, 0, 1), first)
    assert len(recovered.entries) == 2
    wal.close()


def test_a_log_cannot_begin_before_its_commit_index(tmp_path):
    with pytest.raises(ValueError, match="commit index 2"):
        Wal.create(tmp_path, METADATA, hard_state=HardState(1, 0, 2), snapshot=SnapshotMeta(1, 1))
    assert not Wal.exists(tmp_path)


def test_all_batches_of_one_append_share_one_frame(tmp_path):
    wal = Wal.create(tmp_path, METADATA, segment_bytes=4096)
    before = frames(segments(tmp_path)[0].read_bytes())
    wal.append([batch(1), batch(2, 3), Batch(HardState(1, 7, 4))])
    after = frames(segments(tmp_path)[0].read_bytes())
    assert len(after) == len(before) + 1
    wal, recovered = reopen(wal, tmp_path)
    assert recovered.entries == [entry(i) for i in range(1, 5)]
    assert recovered.hard_state == HardState(1, 7, 4)
    wal.close()


def test_append_tells_the_size_and_time_of_its_frame(tmp_path):
    wal = Wal.create(tmp_path, METADATA, segment_bytes=4096)
    appended = wal.append([batch(1)])
    start, end = frames(segments(tmp_path)[0].read_bytes())[-1]
    assert appended.size == end - start
    assert appended.write_seconds > 0
    assert appended.sync_seconds > 0
    wal.close()


def test_an_encoded_block_is_taken_as_it_is(tmp_path):
    wal = Wal.create(tmp_path, METADATA)
    entries = [entry(1), entry(2)]
    wal.append([Batch(None, 1, entries, encode_entries(1, entries))])
    wal, recovered = reopen(wal, tmp_path)
    assert recovered.entries == entries
    wal.close()


def test_entries_replace_what_the_log_holds_from_their_index_on(tmp_path):
    wal = Wal.create(tmp_path, METADATA)
    wal.append([batch(1, 5)])
    wal.append([batch(3, 1, term=2)])
    wal, recovered = reopen(wal, tmp_path)
    assert recovered.entries == [entry(1), entry(2), entry(3, term=2)]
    with pytest.raises(ValueError, match="from 5 do not follow on a log up to 3"):
        wal.append([batch(5, term=2)])
    wal.append([batch(4, term=2)])
    wal.close()


def test_an_installed_snapshot_replaces_the_log(tmp_path):
    wal = Wal.create(tmp_path, METADATA)
    wal.append([batch(1, 5)])
    meta = SnapshotMeta(90, 4, CONF)
    wal.append([Batch(HardState(4, 0, 90), 91, [entry(91, term=4)], None, meta)])
    wal, recovered = reopen(wal, tmp_path)
    assert recovered.snapshot == meta
    assert recovered.entries == [entry(91, term=4)]
    wal.close()


def test_two_snapshots_close_together_leave_the_later_one(tmp_path):
    wal = Wal.create(tmp_path, METADATA)
    first, second = SnapshotMeta(50, 2, ConfState((1,))), SnapshotMeta(60, 3, CONF)
    wal.append([Batch(HardState(2, 0, 50), snapshot=first)])
    wal.append([Batch(HardState(3, 0, 60), snapshot=second), batch(61, term=3)])
    wal, recovered = reopen(wal, tmp_path)
    assert (recovered.snapshot, recovered.entries) == (second, [entry(61, term=3)])
    wal.close()


def test_a_snapshot_behind_the_commit_index_would_drop_committed_entries_and_is_refused(tmp_path):
    wal = Wal.create(tmp_path, METADATA)
    wal.append([batch(1, 5), Batch(HardState(1, 7, 5))])
    with pytest.raises(ValueError, match="snapshot at 5 is not ahead of commit index 5"):
        wal.append([Batch(snapshot=SnapshotMeta(5, 1, CONF))])
    wal.close()


def test_a_commit_index_beyond_the_end_of_the_log_is_refused(tmp_path):
    wal = Wal.create(tmp_path, METADATA)
    wal.append([batch(1, 3)])
    with pytest.raises(ValueError, match="commit index 4 is beyond the end of the log at 3"):
        wal.append([Batch(HardState(1, 7, 4))])
    wal.append([Batch(HardState(1, 7, 3))])
    with pytest.raises(ValueError, match="commit index 3 is beyond the end of the log at 2"):
        wal.append([Batch(None, 2, [entry(2, term=2)])])
    wal.close()


def test_nothing_is_released_beyond_the_end_of_the_log(tmp_path):
    wal = Wal.create(tmp_path, METADATA)
    wal.append([batch(1, 3)])
    with pytest.raises(ValueError, match="release of 4, but the log ends at 3"):
        wal.release(4)
    assert wal.release(3) == 0
    wal.close()


def test_a_refused_batch_leaves_the_log_usable_and_nothing_of_its_group_written(tmp_path):
    wal = Wal.create(tmp_path, METADATA)
    with pytest.raises(ValueError, match="do not follow"):
        wal.append([batch(1), batch(3)])
    wal.append([batch(1)])
    wal, recovered = reopen(wal, tmp_path)
    assert recovered.entries == [entry(1)]
    wal.close()


def test_a_group_beyond_the_payload_limit_is_refused(tmp_path):
    wal = Wal.create(tmp_path, METADATA)
    block = bytes(wal_module.MAX_PAYLOAD_BYTES)
    with pytest.raises(ValueError, match="more than 1073741824"):
        wal.append([Batch(None, 1, [entry(1)], block)])
    wal.close()


def test_a_log_of_many_segments_comes_back_whole(tmp_path):
    entries = write_log(tmp_path, range(1, 200, 2), segment_bytes=1024)
    assert len(segments(tmp_path)) > 10
    wal, recovered = Wal.open(tmp_path)
    assert recovered.entries == entries
    assert recovered.hard_state == HardState(1, 7, 99)
    wal.close()


def test_a_group_larger_than_a_segment_gets_a_segment_of_its_own_size(tmp_path):
    entries = write_log(tmp_path, [30, 50_000, 30, 30], segment_bytes=1024)
    assert max(p.stat().st_size for p in segments(tmp_path)) > 50_000
    wal, recovered = Wal.open(tmp_path)
    assert recovered.entries == entries
    wal.close()


def test_appending_continues_behind_the_last_frame_after_each_restart(tmp_path):
    wal = Wal.create(tmp_path, METADATA, segment_bytes=1024)
    for index in range(1, 31):
        wal.append([batch(index)])
        wal, recovered = reopen(wal, tmp_path)
        assert recovered.entries == [entry(i) for i in range(1, index + 1)]
    wal.close()


def test_release_keeps_the_segment_that_holds_the_next_entry(tmp_path):
    entries = write_log(tmp_path, [100] * 40, segment_bytes=1024)
    for index in range(1, 41):
        wal, _ = Wal.open(tmp_path, segment_bytes=1024)
        wal.release(index)
        wal.close()
        wal, recovered = Wal.open(tmp_path, segment_bytes=1024)
        base = recovered.snapshot.index
        assert base <= index
        assert recovered.entries == entries[base:]
        assert recovered.snapshot.term == (1 if base else 0)
        wal.close()
    assert len(segments(tmp_path)) == 1


def test_released_segments_leave_hard_state_snapshot_and_metadata_behind(tmp_path):
    wal = Wal.create(tmp_path, METADATA, segment_bytes=1024)
    wal.append([Batch(HardState(6, 3, 10), snapshot=SnapshotMeta(10, 6, CONF))])
    for index in range(11, 40):
        wal.append([Batch(None, index, [entry(index, 100, 6)])])
    assert wal.release(30) > 0
    wal, recovered = reopen(wal, tmp_path)
    assert recovered.metadata == METADATA
    assert recovered.hard_state == HardState(6, 3, 10)
    base = recovered.snapshot.index
    assert recovered.snapshot == SnapshotMeta(base, 6, CONF)
    assert recovered.entries == [entry(i, 100, 6) for i in range(base + 1, 40)]
    wal.close()


def test_entries_rewritten_below_a_released_segments_end_keep_their_last_version(tmp_path):
    wal = Wal.create(tmp_path, METADATA, segment_bytes=1024)
    wal.append([Batch(None, 1, [entry(i, 60) for i in range(1, 11)])])
    rewritten = [entry(i, 60, term=2) for i in range(4, 14)]
    wal.append([Batch(None, 4, rewritten)])
    assert len(segments(tmp_path)) == 2
    assert wal.release(9) == 0
    assert wal.release(10) == 1
    wal, recovered = reopen(wal, tmp_path)
    assert recovered.snapshot[:2] == (10, 2)
    assert recovered.entries == rewritten[7:]
    wal.close()


def test_release_of_everything_keeps_the_last_segment_and_appending_goes_on(tmp_path):
    entries = write_log(tmp_path, [100] * 20, segment_bytes=1024)
    wal, _ = Wal.open(tmp_path, segment_bytes=1024)
    wal.release(20)
    wal.append([batch(21)])
    wal, recovered = reopen(wal, tmp_path)
    assert recovered.entries[-2:] == [entries[-1], entry(21)]
    wal.close()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(30, 400)), max_size=25),
    st.integers(512, 3000),
)
def test_any_history_of_appends_truncations_and_releases_comes_back(
    tmp_path_factory, steps, segment_bytes
):
    directory = tmp_path_factory.mktemp("wal")
    wal = Wal.create(directory, METADATA, segment_bytes=segment_bytes)
    log, released = [], 0
    for term, (back, count, size) in enumerate(steps, start=1):
        first = max(released, len(log) - back) + 1
        entries = [entry(i, size, term) for i in range(first, first + count)]
        wal.append([Batch(None, first, entries)])
        log[first - 1 :] = entries
        if back == 0:
            released = max(released, len(log) // 2)
            wal.release(released)
    wal.close()
    wal, recovered = Wal.open(directory, segment_bytes=segment_bytes)
    base = recovered.snapshot.index
    assert base <= released
    assert recovered.entries == log[base:]
    assert recovered.snapshot.term == (log[base - 1][0] if base else 0)
    wal.close()


def test_values_full_of_zeros_come_back_and_leave_no_sector_of_a_frame_all_zero(tmp_path):
    wal = Wal.create(tmp_path, METADATA, segment_bytes=1 << 16)
    values = [bytes(n) for n in (0, 255, 256, 511, 512, 513, 1022, 5000)]
    values += [bytes(700) + b"\xa5" + bytes(700), b"x" * 300 + bytes(20_000) + b"y"]
    entries = [(1, 0, value) for value in values]
    for index, item in enumerate(entries, start=1):
        wal.append([Batch(None, index, [item])])
    data = segments(tmp_path)[0].read_bytes()
    end = frames(data)[-1][1]
    sectors = [data[at : min(at + 512, end)] for at in range(0, end, 512)]
    assert all(sector.strip(b"\0") for sector in sectors)
    wal, recovered = reopen(wal, tmp_path)
    assert recovered.entries == entries
    wal.close()


def test_only_one_holder_at_a_time(tmp_path):
    wal = Wal.create(tmp_path, METADATA)
    with pytest.raises(WalLocked, match="in use by another process"):
        Wal.open(tmp_path)
    wal.close()
    wal, _ = Wal.open(tmp_path)
    wal.close()


def test_a_closed_log_takes_nothing(tmp_path):
    wal = Wal.create(tmp_path, METADATA)
    wal.close()
    with pytest.raises(WalFailed, match="closed"):
        wal.append([batch(1)])


def test_a_log_is_not_created_over_another(tmp_path):
    Wal.create(tmp_path, METADATA).close()
    with pytest.raises(WalExists):
        Wal.create(tmp_path, METADATA)


@pytest.mark.parametrize("left", [[], [""], ["0" * 16 + "-" + "0" * 15 + "1.wal.tmp"]])
def test_a_power_cut_during_the_first_start_counts_as_never_initialised(tmp_path, left):
    directory = tmp_path / "wal"
    for name in left:
        directory.mkdir(exist_ok=True)
        if name:
            (directory / name).write_bytes(b"half a header")
    assert not Wal.exists(directory)
    with pytest.raises(WalNotInitialised, match="no write-ahead log"):
        Wal.open(directory)
    wal = Wal.create(directory, METADATA)
    wal.append([batch(1)])
    assert Wal.exists(directory)
    wal, recovered = reopen(wal, directory)
    assert recovered.entries == [entry(1)]
    wal.close()


@pytest.mark.parametrize("cut", ["before the rename", "before the seal", "torn seal"])
def test_a_power_cut_during_a_rotation_loses_nothing(tmp_path, cut):
    wal = Wal.create(tmp_path, METADATA, segment_bytes=1024)
    count = 0
    while len(segments(tmp_path)) == 1:
        unsealed = segments(tmp_path)[0].read_bytes()
        count += 1
        wal.append([batch(count, size=130)])
    wal.close()
    first, second = segments(tmp_path)
    header_end = frames(second.read_bytes())[0][1]
    seal = frames(first.read_bytes())[-1]
    zero(second, header_end, second.stat().st_size)
    if cut == "torn seal":
        zero(first, seal[0], seal[1])
    else:
        first.write_bytes(unsealed)
    if cut == "before the rename":
        second.rename(second.with_name(second.name + ".tmp"))
    entries = [entry(i, 130) for i in range(1, count)]
    for _ in range(2):
        wal, recovered = Wal.open(tmp_path, segment_bytes=1024)
        assert recovered.entries == entries
        wal.close()
    wal, _ = Wal.open(tmp_path, segment_bytes=1024)
    for index in range(count, count + 20):
        wal.append([batch(index, size=130)])
    wal, recovered = reopen(wal, tmp_path)
    sealed = segments(tmp_path)[0].read_bytes()
    assert sealed[frames(sealed)[-1][0] + 2] == SEAL, "sealed by the first start after the cut"
    assert recovered.entries == [entry(i, 130) for i in range(1, count + 20)]
    assert not list(tmp_path.glob("*.tmp"))
    wal.close()
