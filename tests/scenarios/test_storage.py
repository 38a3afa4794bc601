"""Revisions, compaction and transactions on the member core: scenarios 17, 19, 20 and 21."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.errors import EtcdError
from kvstore.pb import rpc_pb2
from tests.mvcc.kv_member import KvMember, lmdb_member, memory_member, put_op, range_op
from tests.scenarios import stories
from tests.sim.test_requests import Story

STEP = 2
"""Keys in one slice of a compaction: small, so that there are many places to crash at."""
PLACES = 12


@pytest.fixture(params=["memory", "lmdb"])
def member(request: pytest.FixtureRequest, tmp_path: Path) -> KvMember:
    return memory_member() if request.param == "memory" else lmdb_member(tmp_path)


def crash_while_compacting(member: KvMember, revision: int, slices: int) -> None:
    """Compact, crash when so many slices are durable, and finish the compaction after it."""
    member.store.compact(revision)
    member.backend.commit()
    for _ in range(slices):
        member.store.compact_step(STEP)
        member.backend.commit()
    member.store.compact_step(STEP)
    member.crash()
    assert member.store.compact_revision == revision
    member.finish_compaction(STEP)


@pytest.mark.parametrize("slices", range(PLACES))
def test_scenario_19179_a_resumed_compaction_keeps_the_delete_at_its_revision(
    member: KvMember, slices: int
) -> None:
    """Scenario 17: a watch from the compact revision still sees DELETE, then PUT."""
    for number in range(10):
        member.put(b"k%d" % number)
    deleted = member.delete(b"k5").header.revision
    written = member.put(b"k5").header.revision
    crash_while_compacting(member, deleted, slices)
    found = member.store.events(deleted, written + 1, 100)
    assert [
        (revision, [(event[0], event[1]) for event in events]) for revision, events in found
    ] == [(deleted, [(1, b"k5")]), (written, [(0, b"k5")])]


@pytest.mark.parametrize("slices", range(PLACES))
def test_scenario_17780_the_revision_never_decreases_at_a_crash_while_compacting(
    member: KvMember, slices: int
) -> None:
    """Scenario 19 (17780, 16693): although the newest revisions are all of deleted keys."""
    for number in range(10):
        member.put(b"k%d" % number)
    for number in range(10):
        member.delete(b"k%d" % number)
    revision = member.revision
    crash_while_compacting(member, revision, slices)
    assert member.revision == revision
    member.backend.commit()
    member.crash()
    assert member.revision == revision
    assert member.put(b"next").header.revision == revision + 1


def test_scenario_18667_members_compacted_differently_answer_alike() -> None:
    """Scenario 20 (18667, PR 21432): what is compacted is decided by the log, not by how far a
    member's removal has come."""
    members = [memory_member() for _ in range(4)]
    for number, member in enumerate(members):
        for count in range(20):
            member.put(b"a", b"%d" % count)
            member.put(b"b%d" % count)
            member.delete(b"b%d" % count)
        member.store.compact(40)
        for _ in range(number):  # the last one is far ahead of the first
            member.store.compact_step(STEP)
    members[-1].finish_compaction()
    for old in (1, 39, 40, 41, 0):
        answers = {str(_transaction(member, old)) for member in members}
        assert len(answers) == 1, f"at revision {old}: {answers}"
        assert ("compacted" in answers.pop()) == (0 < old < 40)
    hashes = {member.store.hash_kv(0) for member in members}
    assert len(hashes) == 1


def _transaction(member: KvMember, old: int) -> object:
    """Write, read an old revision and write; the answer, or why it was refused."""
    operations = [put_op(b"x"), range_op(b"a", revision=old), put_op(b"y")]
    try:
        return member.txn(success=operations)
    except EtcdError as error:
        return error.message


def test_scenario_18667_a_cluster_answers_alike_too() -> None:
    """Scenario 20: the same through the log, on members of which one was cut off meanwhile."""
    story = Story(2)
    leader, lagging = story.leader, story.followers[0]
    for _ in range(30):
        stories.put(story, leader, b"a")
    story.isolate(lagging)
    stories.compact(story, leader, 20)
    request = rpc_pb2.TxnRequest(success=[put_op(b"x", b"1"), range_op(b"a", revision=10)])
    answer = stories.ask(story, leader, stories.Kind.TXN, request)
    assert isinstance(answer, EtcdError)
    assert "compacted" in answer.message
    last = stories.put(story, leader, b"a")
    story.simulation.network.heal()
    story.until(lambda: all(node.store.revision == last for node in story.nodes))
    assert all(node.store.get(b"x") is None for node in story.nodes)


def test_scenario_18799_a_failing_transaction_writes_nothing(member: KvMember) -> None:
    """Scenario 21: wherever in it the failing operation stands."""
    member.put(b"a", b"old")
    before = member.revision
    failing = [
        put_op(b"b", lease=404),
        range_op(b"a", revision=before + 10),
        put_op(b"none", ignore_value=True),
    ]
    for bad in failing:
        for place in range(3):
            operations = [put_op(b"a", b"new"), put_op(b"c", b"new")]
            operations.insert(place, bad)
            with pytest.raises(EtcdError):
                member.txn(success=operations)
    assert member.revision == before
    assert member.keys() == [b"a"]
    assert member.range(b"a").kvs[0].value == b"old"
    assert [revision for revision, _ in member.events] == [before]
