"""Leases across changes of leader, one story each, on virtual time."""

from __future__ import annotations

import pytest

from jepsen.sim.node import CHECKPOINT_INTERVAL_S, ELECTION_S, MIN_TTL_S, TICK_S, Node
from kvstore.errors import EtcdError
from kvstore.lease import wire
from kvstore.lease.lessor import SPREAD_MIN_LEASES, SPREAD_PER_SECOND, Lessor
from kvstore.node.member import Result
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from tests.sim.test_requests import Story

LONG_S = 600


@pytest.fixture(params=range(3))
def story(request: pytest.FixtureRequest) -> Story:
    return Story(request.param)


def grant(story: Story, lease_id: int, ttl: int = LONG_S) -> None:
    answers: list[Result] = []
    body = rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=ttl).SerializeToString()
    story.leader.member.propose(Kind.LEASE_GRANT, body, answers.append)
    story.until(lambda: bool(answers))
    assert isinstance(answers[0], bytes)


def renew(node: Node, lease_id: int) -> list[int | EtcdError]:
    """Ask for a renewal; the list gets its answer."""
    answers: list[int | EtcdError] = []
    node.lease_keeper.renew(lease_id, answers.append)
    return answers


def renewed(story: Story, node: Node, lease_id: int) -> int:
    answers = renew(node, lease_id)
    story.until(lambda: bool(answers))
    assert isinstance(answers[0], int)
    return answers[0]


def fail_over(story: Story) -> Node:
    """Crash the leader; return the next one, once it ends leases."""
    story.leader.crash()
    story.until(lambda: any(node.lessor.is_primary for node in story.followers))
    return next(node for node in story.followers if node.lessor.is_primary)


def left(story: Story, node: Node, lease_id: int) -> float:
    return node.lessor._get(lease_id).expiry - story.simulation.loop.now


# Checkpoints.


def test_a_new_leader_counts_from_the_last_checkpoint(story: Story) -> None:
    """LSE-24: at most one interval is given away, not the whole TTL."""
    grant(story, 1)
    story.run(10 * CHECKPOINT_INTERVAL_S)
    before = left(story, story.leader, 1)
    assert before < LONG_S - 9 * CHECKPOINT_INTERVAL_S
    after = left(story, fail_over(story), 1)
    assert before - 3 * ELECTION_S < after <= before + CHECKPOINT_INTERVAL_S + ELECTION_S + 1


def test_a_renewal_takes_the_checkpoint_back_before_it_is_acknowledged(story: Story) -> None:
    """LSE-24, LSE-21: the next leader gives it no less than the renewal promised."""
    grant(story, 1)
    story.run(10 * CHECKPOINT_INTERVAL_S)
    assert story.leader.lessor.is_checkpointed(1)
    assert renewed(story, story.leader, 1) == LONG_S
    end = story.simulation.loop.now + LONG_S
    successor = fail_over(story)
    assert successor.lessor._get(1).expiry >= end


def test_a_checkpoint_on_its_way_holds_a_renewal_up_until_it_is_taken_back(story: Story) -> None:
    """LSE-24: it is in the leader's log already, though nobody has applied it."""
    grant(story, 1)
    leader = story.leader
    story.run(CHECKPOINT_INTERVAL_S - 4 * TICK_S)  # a leader without followers soon steps down
    for follower in story.followers:
        story.simulation.network.cut(leader.id, follower.id)
    story.until(lambda: leader.lessor._get(1).handed_out > 0, 2 * ELECTION_S)
    assert leader.lessor._get(1).remaining_s == 0
    answers = renew(leader, 1)
    story.simulation.network.heal()
    story.until(lambda: bool(answers))
    if answers[0] == LONG_S:  # else leadership was lost, and nothing was promised
        end = story.simulation.loop.now + LONG_S
        assert not leader.lessor.is_checkpointed(1)
        assert fail_over(story).lessor._get(1).expiry >= end


def test_the_story_would_tell_if_renewals_left_checkpoints_standing(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LSE-24: shown on a broken build."""
    grant(story, 1)
    story.run(10 * CHECKPOINT_INTERVAL_S)
    monkeypatch.setattr(Lessor, "is_checkpointed", lambda self, lease_id: False)
    assert renewed(story, story.leader, 1) == LONG_S
    end = story.simulation.loop.now + LONG_S
    assert fail_over(story).lessor._get(1).expiry < end


def test_a_checkpoint_of_a_lease_revoked_meanwhile_is_passed_over(story: Story) -> None:
    """LSE-24: on every member alike."""
    grant(story, 2)
    answers: list[Result] = []
    body = wire.encode_checkpoints([(1, 5), (2, 7)])
    story.leader.member.propose(Kind.LEASE_CHECKPOINT, body, answers.append)
    story.until(lambda: all(2 in node.lessor.ids() for node in story.nodes))
    story.until(lambda: all(node.lessor._get(2).remaining_s == 7 for node in story.nodes))
    assert isinstance(answers[0], bytes)


# Changes of leader.


def test_a_new_leader_gives_every_lease_its_ttl_and_an_election_timeout(story: Story) -> None:
    """LSE-21: once it has applied its own first entry."""
    grant(story, 1, ttl=30)
    old = story.leader
    successor = fail_over(story)
    assert successor.member.applied_term == successor.member.raft.term > old.member.raft.term
    assert left(story, successor, 1) == pytest.approx(30 + ELECTION_S, abs=2 * TICK_S)


def test_many_leases_are_spread_out_by_a_new_leader(story: Story) -> None:
    """LSE-22."""
    answers: list[Result] = []
    for lease_id in range(1, SPREAD_MIN_LEASES + 1):
        body = rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=30).SerializeToString()
        story.leader.member.propose(Kind.LEASE_GRANT, body, answers.append)
    story.until(lambda: len(answers) == SPREAD_MIN_LEASES)
    successor = fail_over(story)
    ends = sorted(successor.lessor._get(lease_id).expiry for lease_id in successor.lessor.ids())
    assert ends[0] >= story.simulation.loop.now + 30
    for first, later in zip(ends, ends[SPREAD_PER_SECOND:], strict=False):
        assert later - first > 0.99


def test_a_leader_that_lost_touch_neither_renews_nor_expires(story: Story) -> None:
    """LSE-09, JEP-15: it cannot confirm its leadership any more, whatever its clock says."""
    grant(story, 1, ttl=MIN_TTL_S)
    old = story.leader
    story.isolate(old)
    answers = renew(old, 1)
    story.run(2 * MIN_TTL_S + 5 * ELECTION_S)
    assert isinstance(answers[0], EtcdError)
    assert old.lease_keeper.expired == 0
    assert old.lessor.exists(1)
    story.simulation.network.heal()
    story.until(lambda: not any(node.lessor.exists(1) for node in story.nodes))


def test_a_grant_just_acknowledged_is_never_unknown_to_the_next_leader(story: Story) -> None:
    """LSE-10: everything committed is applied before a lease is looked at."""
    grant(story, 1)
    story.leader.crash()
    story.until(lambda: any(node.member.is_leader for node in story.followers))
    successor = next(node for node in story.followers if node.member.is_leader)
    answers = renew(successor, 1)
    story.until(lambda: bool(answers))
    assert answers[0] == LONG_S or isinstance(answers[0], EtcdError)


def test_a_renewal_that_comes_too_late_is_told_so_when_the_lease_is_gone(story: Story) -> None:
    """LSE-11: past its end a lease is not revived, though its revocation is still on its way."""
    grant(story, 1, ttl=MIN_TTL_S)
    lessor = story.leader.lessor
    story.until(lambda: lessor._get(1).expiry <= story.simulation.loop.now)
    assert renewed(story, story.leader, 1) <= 0
    story.until(lambda: not lessor.exists(1))
    assert renewed(story, story.leader, 1) == 0
