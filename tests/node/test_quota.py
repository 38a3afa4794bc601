"""The quota: what is measured, the check before an entry is proposed and the one at apply."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.errors import NO_SPACE
from kvstore.node.member import Limits
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.memory_backend import MemoryBackend
from tests.node.single import MEMBER_ID, Single, is_error

QUOTA = 100_000
NOSPACE = rpc_pb2.NOSPACE


@pytest.fixture
def single() -> Single:
    return Single(MemoryBackend(), Limits(quota_bytes=QUOTA))


def fill(single: Single, size: int) -> None:
    """Write values of `size` bytes until the next one would be too much."""
    number = 0
    while not single.member.quota.exceeded(size + 300):
        assert isinstance(single.put(b"fill/%d" % number, bytes(size)), bytes)
        number += 1


def disarm(single: Single, member: int = MEMBER_ID) -> None:
    request = rpc_pb2.AlarmRequest(action=2, memberID=member, alarm=NOSPACE)
    assert isinstance(single.propose(Kind.ALARM, request.SerializeToString()), bytes)


def test_reaching_the_quota_exactly_is_too_much(single: Single) -> None:
    """MNT-13: size + cost >= quota; MNT-12: what costs nothing is never refused."""
    quota = single.member.quota
    left = QUOTA - quota.size - single.member.backend.uncommitted_bytes
    assert not quota.exceeded(left - 1)
    assert quota.exceeded(left)
    fill(single, 1000)
    quota.limit = 1
    assert not quota.exceeded(0)


def test_bytes_that_wait_for_a_commit_count(single: Single) -> None:
    """MNT-13: a burst within one commit interval cannot go far beyond the quota."""
    quota, backend = single.member.quota, single.member.backend
    size = quota.size
    fill(single, 1000)
    assert quota.size == size
    assert backend.uncommitted_bytes > QUOTA // 2
    write = single.member.begin_commit()
    assert write is not None
    assert quota.exceeded(1300)  # frozen, not yet in the file: they count still
    write()
    single.member.end_commit()
    assert backend.uncommitted_bytes == 0
    assert quota.size > QUOTA // 2
    assert quota.exceeded(QUOTA - quota.size)


def test_no_quota_is_no_limit() -> None:
    """MNT-14: 0 in the limits stands for the flag's negative: unlimited."""
    single = Single(MemoryBackend(), Limits(quota_bytes=0))
    assert not single.member.quota.exceeded(1 << 60)
    assert isinstance(single.put(b"k", bytes(1_000_000)), bytes)


def test_entry_beyond_the_quota_is_applied_and_answered_no_space(single: Single) -> None:
    """MNT-16, MNT-17: members must not diverge, so the write takes effect, and raises the alarm."""
    fill(single, 1000)
    result = single.put(b"one too many", bytes(1000))
    assert is_error(result, NO_SPACE)
    assert single.applier.store.get(b"one too many") is not None
    assert single.applier.alarms.active() == [(MEMBER_ID, NOSPACE)]
    revision = single.applier.store.revision
    assert is_error(single.put(b"refused", b""), NO_SPACE)
    assert single.applier.store.revision == revision


def test_small_entry_near_the_quota_is_not_refused(single: Single) -> None:
    """The cheap look at an entry is only a reason for the exact one."""
    fill(single, 1000)
    assert single.member.quota.near(bytes(100))
    lease = rpc_pb2.LeaseGrantRequest(ID=5, TTL=60).SerializeToString()
    assert isinstance(single.propose(Kind.LEASE_GRANT, lease), bytes)
    assert not single.applier.alarms.raised


def test_delete_beyond_the_quota_is_served(single: Single) -> None:
    """MNT-10, MNT-12: what costs nothing passes a full backend and an alarm."""
    fill(single, 1000)
    single.put(b"one too many", bytes(1000))
    request = rpc_pb2.DeleteRangeRequest(key=b"fill/", range_end=b"fill0")
    assert isinstance(single.propose(Kind.DELETE_RANGE, request.SerializeToString()), bytes)


def test_many_refused_writes_are_one_alarm_entry(single: Single) -> None:
    """MNT-15: however many writes are refused, one proposal is made, and each waits for it."""
    fill(single, 1000)
    index = single.member.raft.last_index
    single.hold = True
    answered: list[int] = []
    for number in range(50):
        single.member.quota.alarm(lambda number=number: answered.append(number))
    single.run()
    assert answered == []
    assert single.member.raft.last_index == index + 1
    single.release_held()
    assert answered == list(range(50))
    assert single.applier.alarms.active() == [(MEMBER_ID, NOSPACE)]
    single.member.quota.alarm(lambda: answered.append(50))
    assert answered[-1] == 50
    assert single.member.raft.last_index == index + 1


def test_alarm_that_could_not_be_proposed_is_tried_again(single: Single) -> None:
    """MNT-15: a refused write is answered even if the alarm fails, and the next one repeats it."""
    fill(single, 1000)
    single.hold = True
    answered: list[str] = []
    single.member.quota.alarm(lambda: answered.append("timed out"))
    single.run()
    single.member.tick(Limits().request_timeout_s + 1)
    assert answered == ["timed out"]
    single.member.quota.alarm(lambda: answered.append("raised"))
    single.run()
    single.release_held()
    assert answered == ["timed out", "raised"]
    assert single.applier.alarms.nospace


def test_disarming_a_backend_that_is_still_full_lasts_until_the_next_write(single: Single) -> None:
    """MNT-14: without freed space the next costly request raises the alarm again."""
    fill(single, 1000)
    single.put(b"one too many", bytes(1000))
    disarm(single)
    assert not single.applier.alarms.raised
    assert is_error(single.put(b"and another", bytes(1000)), NO_SPACE)
    assert single.applier.alarms.active() == [(MEMBER_ID, NOSPACE)]


def test_compaction_alone_frees_nothing_that_counts(tmp_path: Path) -> None:
    """MNT-13, CMP-11: the allocated size counts: it stays, while the part in use falls."""
    backend = LmdbBackend(tmp_path / "db")
    single = Single(backend, Limits(quota_bytes=4_000_000))
    for _ in range(400):
        assert isinstance(single.put(b"same key", bytes(4000)), bytes)
    single.commit()
    size, in_use = backend.size(), backend.size_in_use()
    revision = single.applier.store.revision
    request = rpc_pb2.CompactionRequest(revision=revision)
    assert isinstance(single.propose(Kind.COMPACT, request.SerializeToString()), bytes)
    while single.member.compact_step(1000):
        pass
    single.commit()
    assert backend.size() >= size
    assert backend.size_in_use() < in_use // 10
    assert single.member.quota.exceeded(4_000_000 - size)
    backend.close()
