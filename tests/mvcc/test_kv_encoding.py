"""Bytes made by hand are the bytes that protobuf makes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.mvcc import keyvalue
from kvstore.pb.kv_pb2 import KeyValue

MAX_INT64 = (1 << 63) - 1
numbers = st.integers(0, MAX_INT64) | st.sampled_from([0, 127, 128, 16383, 16384, MAX_INT64])
leases = st.integers(-(1 << 63), MAX_INT64) | st.sampled_from([0, -1])
sizes = st.sampled_from([1, 127, 128, 16383, 16384, 2097152])
keys = st.binary(min_size=1, max_size=300) | sizes.map(bytes)


@given(keys, numbers, numbers, numbers, st.binary(max_size=300) | sizes.map(bytes), leases)
@settings(max_examples=60, deadline=None)
def test_key_value_is_what_protobuf_writes(
    key: bytes, create: int, mod: int, version: int, value: bytes, lease: int
) -> None:
    """RNG-30. A stored KeyValue has revisions and a version above zero."""
    create, mod, version = create or 1, mod or 1, version or 1
    field = keyvalue.mod_revision_field(mod)
    stored = keyvalue.encode_key_value(key, create, field, version, value, lease)
    message = KeyValue(
        key=key,
        create_revision=create,
        mod_revision=mod,
        version=version,
        value=value,
        lease=lease,
    )
    assert stored == message.SerializeToString()
    assert keyvalue.key_of(stored) == key
    message.ClearField("value")
    assert keyvalue.without_value(stored) == message.SerializeToString()


@given(keys, numbers)
@settings(max_examples=30, deadline=None)
def test_tombstone_is_key_and_mod_revision(key: bytes, mod: int) -> None:
    """WCH-17."""
    stored = keyvalue.encode_tombstone(key, keyvalue.mod_revision_field(mod or 1))
    assert stored == KeyValue(key=key, mod_revision=mod or 1).SerializeToString()
    assert keyvalue.key_of(stored) == key


def test_revision_keys_sort_as_revisions_do() -> None:
    """A tombstone's mark does not change its place."""
    revisions = [(1, 0), (1, 1), (1, 255), (1, 256), (2, 0), (255, 0), (256, 0), (1 << 40, 3)]
    encoded = [
        keyvalue.revision_key(main, sub) + mark
        for main, sub in revisions
        for mark in (b"", keyvalue.TOMBSTONE_MARK)
    ]
    assert encoded == sorted(encoded)
    assert [keyvalue.decode_revision_key(key) for key in encoded[1::2]] == revisions
    assert len(encoded[1]) == keyvalue.TOMBSTONE_KEY_SIZE
