"""Compactions beside snapshots: what is begun on one member goes on on another."""

from __future__ import annotations

import pytest

from jepsen.sim.node import COMPACT_BATCH
from kvstore.node.member import Result
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from tests.sim.test_requests import Story

WRITES = 10 * COMPACT_BATCH
"""So many that a compaction takes a second."""


@pytest.fixture(params=range(3))
def story(request: pytest.FixtureRequest) -> Story:
    return Story(request.param)


def test_a_compaction_that_a_snapshot_finds_half_done_goes_on_at_its_receiver(story: Story) -> None:
    """CMP-09: nobody compacts again, so the receiver must not wait for that."""
    leader, behind = story.leader, story.followers[0]
    story.isolate(behind)
    answers: list[Result] = []
    for number in range(WRITES):
        written = story.put(leader, b"%d" % number)
        story.until(lambda written=written: bool(written))
    request = rpc_pb2.CompactionRequest(revision=leader.store.revision)
    leader.member.propose(Kind.COMPACT, request.SerializeToString(), answers.append)
    story.until(lambda: bool(answers))
    story.simulation.network.heal()
    story.until(lambda: "snapshot installed" in story.simulation.checks.counts)
    store = behind.store
    assert store.finished_compact_revision < store.compact_revision, "it has found it half done"
    story.until(lambda: store.finished_compact_revision == store.compact_revision)
