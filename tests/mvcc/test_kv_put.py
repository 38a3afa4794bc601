"""What Put and DeleteRange promise (semantics sections 4 and 5), one story each."""

from __future__ import annotations

import pytest

from kvstore import errors
from kvstore.errors import EtcdError
from kvstore.mvcc.store import DELETE, PUT
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.storage.backend import MAX_KEY_BYTES
from tests.mvcc.kv_member import ALL, KvMember


def shape(member: KvMember, key: bytes) -> tuple[int, int, int]:
    """Create revision, modification revision and version of a live key."""
    (found,) = member.range(key).kvs
    return found.create_revision, found.mod_revision, found.version


def test_put_counts_revisions_and_versions(member: KvMember) -> None:
    """PUT-01, GEN-04: a new key starts at version 1, an update keeps the creation revision."""
    assert member.put(b"a").header.revision == 2
    assert shape(member, b"a") == (2, 2, 1)
    member.put(b"b")
    assert member.put(b"a").header.revision == 4
    assert shape(member, b"a") == (2, 4, 2)


def test_put_after_delete_is_a_new_life(member: KvMember) -> None:
    """PUT-02."""
    member.put(b"a")
    member.put(b"a")
    member.delete(b"a")
    member.put(b"a")
    assert shape(member, b"a") == (5, 5, 1)


def test_same_bytes_are_still_a_write(member: KvMember) -> None:
    """PUT-03: new revision, version + 1, one event."""
    member.put(b"a", b"1")
    member.put(b"a", b"1")
    assert shape(member, b"a") == (2, 3, 2)
    assert [revision for revision, _ in member.events] == [2, 3]
    assert len(member.events[1][1]) == 1


def test_prev_kv_is_the_whole_previous_key_value(member: KvMember) -> None:
    """PUT-04: unset when there was none, a deleted key included."""
    assert not member.put(b"a", b"1", prev_kv=True).HasField("prev_kv")
    before = member.range(b"a").kvs[0]
    assert member.put(b"a", b"2", prev_kv=True).prev_kv == before
    assert not member.put(b"a", b"3").HasField("prev_kv")
    member.delete(b"a")
    assert not member.put(b"a", b"4", prev_kv=True).HasField("prev_kv")


def test_unknown_lease_writes_nothing(member: KvMember) -> None:
    """PUT-05, PUT-10."""
    with pytest.raises(EtcdError) as refused:
        member.put(b"a", lease=9)
    assert refused.value is errors.LEASE_NOT_FOUND
    assert (member.revision, member.keys(), member.events) == (1, [], [])


def test_a_key_has_one_lease(member: KvMember) -> None:
    """PUT-06: another lease takes it over, lease 0 lets it go."""
    member.grant(1)
    member.grant(2)
    member.put(b"a", lease=1)
    member.put(b"a", lease=2)
    assert (member.lessor.keys(1), member.lessor.keys(2)) == ([], [b"a"])
    member.put(b"a")
    assert member.lessor.keys(2) == []
    assert member.range(b"a").kvs[0].lease == 0


def test_ignore_flags_conflict_with_what_they_ignore(member: KvMember) -> None:
    """PUT-07."""
    member.put(b"a", b"1")
    with pytest.raises(EtcdError) as refused:
        member.put(b"a", b"2", ignore_value=True)
    assert refused.value is errors.VALUE_PROVIDED
    with pytest.raises(EtcdError) as refused:
        member.put(b"a", lease=1, ignore_lease=True)
    assert refused.value is errors.LEASE_PROVIDED
    with pytest.raises(EtcdError) as refused:
        member.put(b"")
    assert refused.value is errors.EMPTY_KEY


@pytest.mark.parametrize("flag", ["ignore_value", "ignore_lease"])
@pytest.mark.parametrize("deleted", [False, True])
def test_ignore_needs_an_existing_key(member: KvMember, flag: str, deleted: bool) -> None:
    """PUT-08: never there, or deleted."""
    if deleted:
        member.put(b"a")
        member.delete(b"a")
    before = member.revision
    with pytest.raises(EtcdError) as refused:
        member.put(b"a", **{flag: True})
    assert refused.value is errors.KEY_NOT_FOUND
    assert member.revision == before


def test_ignore_keeps_one_and_may_change_the_other(member: KvMember) -> None:
    """PUT-09: version and modification revision go on."""
    member.grant(1)
    member.grant(2)
    member.put(b"a", b"v", lease=1)
    member.put(b"a", lease=2, ignore_value=True)
    (found,) = member.range(b"a").kvs
    assert (found.value, found.lease, found.version, found.mod_revision) == (b"v", 2, 2, 3)
    member.put(b"a", b"w", ignore_lease=True)
    (found,) = member.range(b"a").kvs
    assert (found.value, found.lease, found.version) == (b"w", 2, 3)
    assert member.lessor.keys(2) == [b"a"]
    member.put(b"a", ignore_value=True)
    assert member.range(b"a").kvs[0].lease == 0


def test_keys_may_be_longer_than_backend_keys(member: KvMember) -> None:
    """PUT-11."""
    long = b"k" * (MAX_KEY_BYTES * 40)
    member.put(long, b"1")
    member.put(long + b"x", b"2")
    member.backend.commit()
    member.crash()
    assert member.range(long).kvs[0].value == b"1"
    assert member.keys() == [long, long + b"x"]


# DeleteRange.


def test_delete_uses_the_interval_rules_of_range(member: KvMember) -> None:
    """DEL-01: single key, half-open, from key on, inverted; an empty key is refused."""
    for name in (b"a", b"b", b"c", b"d", b"e"):
        member.put(name)
    assert member.delete(b"b").deleted == 1
    assert member.delete(b"c", b"b").deleted == 0
    assert member.delete(b"a", b"d").deleted == 2
    assert member.keys() == [b"d", b"e"]
    assert member.delete(b"d", b"\0").deleted == 2
    with pytest.raises(EtcdError) as refused:
        member.delete(b"", b"z")
    assert refused.value is errors.EMPTY_KEY


def test_deleting_nothing_is_no_write(member: KvMember) -> None:
    """DEL-02."""
    member.put(b"a")
    member.delete(b"a")
    response = member.delete(b"a", b"z", prev_kv=True)
    assert (response.deleted, response.header.revision, len(response.prev_kvs)) == (0, 3, 0)
    assert [revision for revision, _ in member.events] == [2, 3]


def test_one_delete_is_one_revision_in_key_order(member: KvMember) -> None:
    """DEL-03."""
    for name in (b"c", b"a", b"b"):
        member.put(name)
    assert member.delete(ALL, ALL).header.revision == 5
    revision, events = member.events[-1]
    assert (revision, [event[1] for event in events]) == (5, [b"a", b"b", b"c"])
    assert [event[3:] for event in events] == [(3, 0), (4, 0), (2, 0)]


def test_prev_kvs_only_when_asked_for(member: KvMember) -> None:
    """DEL-04: in key order, complete."""
    member.put(b"b", b"2")
    member.put(b"a", b"1")
    before = list(member.range(ALL, ALL).kvs)
    assert list(member.delete(ALL, ALL, prev_kv=True).prev_kvs) == before
    member.put(b"a")
    assert list(member.delete(b"a").prev_kvs) == []


def test_delete_detaches_and_keeps_the_lease(member: KvMember) -> None:
    """DEL-05."""
    member.grant(1)
    member.put(b"a", lease=1)
    member.delete(b"a")
    assert member.lessor.exists(1)
    assert member.lessor.keys(1) == []


def test_revoke_deletes_the_keys_in_one_revision(member: KvMember) -> None:
    """LSE-12, LSE-14: byte order, moved keys survive, no keys no revision."""
    for lease in (1, 2, 3):
        member.grant(lease)
    for name in (b"c", b"a", b"b", b"moved", b"freed"):
        member.put(name, lease=1)
    member.put(b"moved", lease=2)
    member.put(b"freed")
    assert member.revoke(1) == 9
    assert [event[:2] for event in member.events[-1][1]] == [
        (DELETE, b"a"),
        (DELETE, b"b"),
        (DELETE, b"c"),
    ]
    assert member.keys() == [b"freed", b"moved"]
    assert member.revoke(3) == 9


def test_attachments_survive_a_restart(member: KvMember) -> None:
    """LSE-23: they are read back from the live keys."""
    for lease in (1, 2):
        member.grant(lease)
    for name in (b"kept", b"moved", b"freed", b"deleted"):
        member.put(name, lease=1)
    member.put(b"moved", lease=2)
    member.put(b"freed")
    member.delete(b"deleted")
    member.backend.commit()
    member.crash()
    assert (member.lessor.keys(1), member.lessor.keys(2)) == ([b"kept"], [b"moved"])
    assert member.store.take_attachments() == []


# What watchers are told.


def test_events_come_after_the_revision_is_readable(member: KvMember) -> None:
    """WCH-25, WCH-17: a delete event has key and modification revision only."""
    seen: list[tuple[int, int, int]] = []
    member.store.on_events = lambda revision, events: seen.append(
        (revision, member.range(b"a").header.revision, events[0][0])
    )
    member.put(b"a", b"1")
    member.delete(b"a")
    assert seen == [(2, 2, PUT), (3, 3, DELETE)]
    stored = member.store.events(3, 4, 1)[0][1][0][2]
    assert KeyValue.FromString(stored) == KeyValue(key=b"a", mod_revision=3)
