"""A block of entries survives the way through bytes; what is cut or contradictory is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.storage.codec import decode_entries, encode_entries
from kvstore.storage.errors import CodecError

UINT64 = st.integers(0, 2**64 - 1)
ENTRIES = st.lists(st.tuples(UINT64, st.integers(0, 255), st.binary(max_size=40)), max_size=20)


@settings(max_examples=200)
@given(UINT64, ENTRIES, st.binary(max_size=9), st.binary(max_size=9))
def test_entries_come_back_from_the_middle_of_a_buffer(first, entries, before, behind):
    data = before + encode_entries(first, entries) + behind
    end = len(data) - len(behind)
    for source in (data, memoryview(data)):
        assert decode_entries(source, len(before)) == (first, entries, end)


def test_decoded_data_are_bytes_that_keep_no_view_alive():
    block = bytearray(encode_entries(1, [(1, 0, b"abc")]))
    _, entries, _ = decode_entries(memoryview(block))
    block[:] = bytes(len(block))
    assert entries == [(1, 0, b"abc")]
    assert type(entries[0][2]) is bytes


def test_terms_that_change_back_and_forth_are_kept():
    entries = [(term, 0, b"x") for term in (1, 1, 2, 2, 2, 1, 3)]
    assert decode_entries(encode_entries(5, entries))[1] == entries


def test_a_block_cut_at_any_byte_is_refused():
    block = encode_entries(9, [(1, 0, b"first"), (2, 1, b""), (2, 0, b"third")])
    for end in range(len(block)):
        with pytest.raises(CodecError):
            decode_entries(block[:end])


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_decoded_inside_their_bounds_or_refused(data):
    try:
        _, entries, end = decode_entries(data)
    except CodecError:
        return
    assert end <= len(data)
    assert sum(len(d) for _, _, d in entries) <= len(data)


def test_a_count_beyond_the_input_is_refused_before_anything_is_allocated():
    with pytest.raises(CodecError, match="4294967295 entries do not fit"):
        decode_entries(struct.pack("<QII", 1, 2**32 - 1, 1) + bytes(100))


def test_term_runs_that_do_not_add_up_are_refused():
    block = bytearray(encode_entries(1, [(4, 0, b"a"), (4, 0, b"b")]))
    struct.pack_into("<QI", block, 16, 4, 3)
    with pytest.raises(CodecError, match="do not add up to 2"):
        decode_entries(bytes(block))
