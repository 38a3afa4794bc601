"""Damage is never a silent loss: either every acknowledged entry comes back, or the log refuses.

The exhaustive sweeps go through `replay`, the function `Wal.open` reads with; samples of each go
through `Wal.open` on files.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.storage.errors import WalCorrupt
from kvstore.storage.wal import Batch, Wal
from kvstore.storage.wal_frame import BATCH, SEGMENT, build_frame
from kvstore.storage.wal_record import decode_segment, encode_batches, encode_segment
from kvstore.storage.wal_replay import HEADER_SALT, replay
from raft import ConfState, HardState
from tests.storage.wal_files import (
    METADATA,
    batch,
    chunks,
    entry,
    frames,
    segments,
    write_log,
    zero,
)

SEGMENT_BYTES = 1024
SIZES = [30, 200, 90, 300, 30, 150, 250, 60, 60, 30]


@pytest.fixture
def log(tmp_path):
    """(directory, acknowledged entries) of a log of a few segments."""
    return tmp_path, write_log(tmp_path, SIZES, SEGMENT_BYTES)


def read(files):
    """Recovered state, or the refusal, which must name one of the log's files."""
    try:
        return replay(files).recovered()
    except WalCorrupt as error:
        refusal = error
    assert refusal.file.endswith(".wal")
    assert 0 <= refusal.offset <= 1 << 20
    assert refusal.file in str(refusal)
    assert str(refusal.offset) in str(refusal)
    return None


def contents(directory):
    return [(str(path), path.read_bytes()) for path in segments(directory)]


def header_of(data):
    (length,) = struct.unpack_from("<I", data, 4)
    return decode_segment(data[24 : 24 + length])


def test_every_flipped_bit_is_refused_or_harmless(log):
    directory, entries = log
    files = contents(directory)
    whole = read(files)
    refused = 0
    for at, (path, data) in enumerate(files):
        for bit in range(8 * len(data)):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            recovered = read([*files[:at], (path, bytes(damaged)), *files[at + 1 :]])
            refused += recovered is None
            if recovered is not None:
                assert recovered.entries == entries
                assert recovered.hard_state == whole.hard_state
                assert recovered.snapshot == whole.snapshot
    assert refused > 16_000


def test_every_bit_of_the_last_frame_counts(log):
    directory, _ = log
    *older, (path, data) = contents(directory)
    start, end = frames(data)[-1]
    for position in range(start, end):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            assert read([*older, (path, bytes(damaged))]) is None


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 700), st.integers(0, 700), st.integers(0, 1 << 20), st.integers(1, 255))
def test_no_flipped_byte_in_a_sparse_last_frame_looks_like_a_torn_write(
    tmp_path_factory, before, behind, position, flip
):
    directory = tmp_path_factory.mktemp("wal")
    wal = Wal.create(directory, METADATA, segment_bytes=4096)
    wal.append([Batch(None, 1, [(1, 0, bytes(before) + b"\1" + bytes(behind))])])
    wal.close()
    ((path, data),) = contents(directory)
    start, end = frames(data)[-1]
    damaged = bytearray(data)
    damaged[start + position % (end - start)] ^= flip
    assert read([(path, bytes(damaged))]) is None


def test_a_lone_byte_that_flips_away_does_not_look_like_a_torn_write(tmp_path):
    for before in range(0, 520, 8):
        value = b"x" * before + bytes(300) + b"\1" + bytes(300) + b"x"
        directory = tmp_path / str(before)
        wal = Wal.create(directory, METADATA, segment_bytes=4096)
        wal.append([Batch(None, 1, [(1, 0, value)])])
        wal.close()
        ((path, data),) = contents(directory)
        start = frames(data)[-1][0]
        at = data.index(b"\1", start + 24 + 34 + before + 290)
        assert read([(path, data[:at] + b"\0" + data[at + 1 :])]) is None


def test_a_file_cut_at_any_byte_is_refused(log):
    directory, _ = log
    files = contents(directory)
    for at, (path, data) in enumerate(files):
        for size in range(len(data)):
            assert read([*files[:at], (path, data[:size]), *files[at + 1 :]]) is None


def test_a_file_with_something_appended_is_refused(log):
    directory, _ = log
    *older, (path, data) = contents(directory)
    assert read([*older, (path, data + b"\0")]) is None


def test_a_missing_segment_is_refused_whichever_it_is(log):
    directory, entries = log
    files = contents(directory)
    assert len(files) > 2
    for at in range(1, len(files)):
        with pytest.raises(WalCorrupt, match="segment is missing") as refusal:
            replay(files[:at] + files[at + 1 :])
        assert refusal.value.file == files[at][0]
    rest = replay(files[1:]).recovered()
    assert rest.snapshot.index > 0, "as after a release: the caller sees where the log starts"
    assert rest.entries == entries[rest.snapshot.index :]


def test_a_sealed_segment_that_lost_its_end_is_refused(log):
    directory, _ = log
    (path, data), *rest = contents(directory)
    for start, end in frames(data)[1:-1]:
        assert read([(path, data[:start] + bytes(len(data) - start)), *rest]) is None
        for low, high in chunks(start, end):
            torn = data[:low] + bytes(high - low) + data[high:]
            assert read([(path, torn), *rest]) is None


def test_a_segment_of_another_log_with_the_same_entries_is_refused(log, tmp_path_factory):
    directory, _ = log
    other = tmp_path_factory.mktemp("other")
    write_log(other, SIZES, SEGMENT_BYTES)
    mine, others = contents(directory), contents(other)
    assert [path.name for path in segments(directory)] == [path.name for path in segments(other)]
    for at in range(1, len(mine)):
        assert read([*mine[:at], *others[at:]]) is None


def test_a_valid_frame_in_anothers_place_is_refused(log):
    directory, _ = log
    (path, data), *_ = contents(directory)
    payload = encode_batches([batch(1, size=30)])
    start, end = frames(data)[1]
    salt = header_of(data).salt
    right, wrong = int.from_bytes(data[start + 16 : start + 20], "little"), 1
    for previous, accepted in ((right, True), (wrong, False)):
        parts, _ = build_frame(BATCH, b"".join(payload), 2, previous, salt)
        # Alone behind the header, so that only its own link to it can tell.
        forged = (data[:start] + b"".join(parts)).ljust(len(data), b"\0")
        assert (forged[:end] == data[:end]) == accepted
        assert (read([(path, forged)]) is not None) == accepted


@pytest.mark.parametrize(
    "lie",
    [
        {"metadata": b"cluster 1, member 8"},
        {"last_term": 2},
        {"hard_state": HardState(1, 7, 1)},
        {"conf_state": ConfState((1,))},
    ],
)
def test_a_segment_whose_header_contradicts_the_log_is_refused(log, lie):
    directory, _ = log
    first, (path, data), *_ = contents(directory)
    previous = int.from_bytes(data[16:20], "little")
    for changes in ({}, lie):
        payload = encode_segment(replace(header_of(data), **changes))
        parts, _ = build_frame(SEGMENT, payload, 1, previous, HEADER_SALT)
        recovered = read([first, (path, b"".join(parts).ljust(len(data), b"\0"))])
        assert (recovered is not None) == (not changes)


def test_a_log_that_ends_before_its_start_is_refused(tmp_path):
    wal = Wal.create(tmp_path, METADATA, segment_bytes=1024)
    wal.append([Batch(None, 1, [entry(i, 60) for i in range(1, 11)])])
    wal.append([Batch(None, 4, [entry(4, 600, term=2)])])
    wal.close()
    _, second = contents(tmp_path)
    with pytest.raises(WalCorrupt, match="ends at index 4, before its start at 10"):
        replay([second])


def test_a_renamed_segment_is_refused(log):
    directory, _ = log
    (path, data), *rest = contents(directory)
    with pytest.raises(WalCorrupt, match="going by its header"):
        replay([(path.replace("-000", "-001"), data), *rest])


def test_damage_found_by_open_names_file_and_offset(log):
    directory, _ = log
    path = segments(directory)[1]
    start, end = frames(path.read_bytes())[1]
    with path.open("r+b") as file:
        file.seek(end - 20)
        file.write(b"\xff\xfe\xfd")
    before = path.read_bytes()
    with pytest.raises(WalCorrupt) as refusal:
        Wal.open(directory)
    assert (refusal.value.file, refusal.value.offset) == (str(path), start)
    assert path.read_bytes() == before, "a refused log is left as it was"


def test_a_segment_of_another_format_version_is_refused(log):
    directory, _ = log
    path = segments(directory)[0]
    data = path.read_bytes()
    _, end = frames(data)[0]
    (length,) = struct.unpack_from("<I", data, 4)
    payload = struct.pack("<I", 2) + data[28 : 24 + length]
    parts, _ = build_frame(1, payload, 1, 0, 0)
    with pytest.raises(WalCorrupt, match="format version 2"):
        replay([(str(path), b"".join(parts) + data[end:])])


def torn_log(directory, last, segment_bytes=8192):
    """A log whose last frame holds one entry with `last` as its data: (path, frame, entries)."""
    entries = write_log(directory, [30, 700, 100], segment_bytes)
    wal, _ = Wal.open(directory, segment_bytes=segment_bytes)
    wal.append([Batch(None, 4, [(1, 0, last)])])
    wal.close()
    path = segments(directory)[-1]
    return path, frames(path.read_bytes())[-1], entries


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_scenario_5230_any_sectors_of_the_last_frame_may_be_missing(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("wal")
    value = data.draw(
        st.one_of(
            st.binary(max_size=60),
            st.integers(0, 3000).map(bytes),
            st.integers(0, 3000).map(lambda n: b"z" * n),
        )
    )
    path, (start, end), entries = torn_log(directory, value)
    parts = list(chunks(start, end))
    lost = data.draw(st.lists(st.sampled_from(parts), unique=True))
    for low, high in lost:
        zero(path, low, high)
    wal, recovered = Wal.open(directory)
    assert recovered.entries == (entries if lost else [*entries, (1, 0, value)])
    if lost:
        assert not path.read_bytes()[start:].strip(b"\0")
    if set(lost) < set(parts) and lost:
        (note,) = recovered.notes
        assert str(path) in note
        assert str(start) in note
    wal.append([batch(len(recovered.entries) + 1, size=500)])
    wal.close()
    wal, again = Wal.open(directory)
    assert again.entries == [*recovered.entries, entry(len(recovered.entries) + 1, 500)]
    assert again.notes == ()
    wal.close()


def test_a_torn_header_that_lies_across_two_sectors_is_cut(tmp_path):
    splits = set()
    for pad in range(766, 830, 8):
        directory = tmp_path / str(pad)
        entries = write_log(directory, [pad], 4096)
        wal, _ = Wal.open(directory, segment_bytes=4096)
        wal.append([batch(2, size=600)])
        wal.close()
        (path,) = segments(directory)
        start, end = frames(path.read_bytes())[-1]
        splits.add(1024 - start)
        for low, high in chunks(start, min(start + 24, end)):
            whole = path.read_bytes()
            zero(path, low, max(high, (low // 512 + 1) * 512))
            assert read(contents(directory)).entries == entries
            path.write_bytes(whole)
    assert splits >= {8, 16}, "the header's first one and two units in the sector before"


def test_scenario_6191_a_missing_sector_before_the_last_frame_is_damage(tmp_path):
    path, _, _ = torn_log(tmp_path, b"last")
    for start, end in frames(path.read_bytes())[:-1]:
        for low, high in chunks(start, end):
            whole = path.read_bytes()
            zero(path, low, high)
            assert read(contents(tmp_path)) is None
            path.write_bytes(whole)


def test_a_power_cut_while_a_torn_end_is_being_cleared_changes_nothing(tmp_path):
    path, (start, end), entries = torn_log(tmp_path, b"x" * 3000)
    parts = list(chunks(start, end))
    zero(path, *parts[2])
    for low, high in [parts[4], parts[0], parts[5], parts[1]]:
        zero(path, low, high)
        assert read(contents(tmp_path)).entries == entries


def test_a_client_cannot_fake_a_frame_in_its_value(tmp_path):
    wal = Wal.create(tmp_path, METADATA, segment_bytes=8192)
    wal.append([batch(1)])
    # The best guess: a frame like the real ones, for any salt but the secret one.
    fakes = b"".join(
        b"".join(build_frame(2, b"fake", number, crc32(b"?"), salt)[0])
        for salt in range(20)
        for number in (2, 3, 4)
    )
    wal.append([Batch(None, 2, [(1, 0, fakes)])])
    wal.close()
    (path,) = segments(tmp_path)
    start, _ = frames(path.read_bytes())[-1]
    zero(path, start, start // 512 * 512 + 512)
    assert read(contents(tmp_path)).entries == [entry(1)]


def test_each_segment_has_its_own_salt(log):
    directory, _ = log
    salts = {header_of(data).salt for _, data in contents(directory)}
    assert len(salts) == len(segments(directory))
