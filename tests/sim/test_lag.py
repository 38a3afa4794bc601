"""What a member refuses because it is behind, or because its leader hands over; on virtual time."""

from __future__ import annotations

import pytest

from kvstore.errors import RAFT_PROPOSAL_DROPPED, REQUEST_TOO_MANY_REQUESTS, Code, EtcdError
from kvstore.node.member import MAX_APPLY_LAG
from tests.sim.test_requests import Story


@pytest.fixture
def story() -> Story:
    return Story(1)


def test_a_member_that_cannot_apply_takes_no_more_proposals(story: Story) -> None:
    """GEN-08, GEN-18: definitely without effect, with code Unknown; others go on."""
    slow = story.followers[0]
    disk = slow.disk
    write_s, disk.write_s = disk.write_s, 1e6  # nothing becomes durable there, so nothing applied
    answers = [story.put(story.leader, b"k%d" % n) for n in range(MAX_APPLY_LAG + 10)]
    story.until(lambda: all(answers))
    raft = slow.member.raft
    story.until(lambda: raft.commit_index - slow.member.applied_index > MAX_APPLY_LAG)

    with pytest.raises(EtcdError) as refused:
        story.put(slow, b"refused")
    assert refused.value is REQUEST_TOO_MANY_REQUESTS
    assert (refused.value.code, refused.value.message) == (
        Code.UNKNOWN,
        "etcdserver: too many requests",
    )
    accepted = story.put(story.leader, b"accepted")
    story.until(lambda: bool(accepted))
    assert isinstance(accepted[0], bytes)
    assert story.leader.store.get(b"refused") is None
    disk.write_s = write_s


def test_a_write_while_leadership_is_handed_over_is_dropped(story: Story) -> None:
    """GEN-09: definitely without effect, with etcd's raw text and code Unknown."""
    target = story.followers[0]
    story.isolate(target)
    story.leader.member.transfer_leadership(target.id)
    answers = story.put(story.leader, b"dropped")
    story.until(lambda: bool(answers))
    assert answers == [RAFT_PROPOSAL_DROPPED]
    assert (RAFT_PROPOSAL_DROPPED.code, RAFT_PROPOSAL_DROPPED.message) == (
        Code.UNKNOWN,
        "raft proposal dropped",
    )
    story.simulation.network.heal()
    story.run(10.0)
    assert [node.store.get(b"dropped") for node in story.nodes] == [None] * 3
