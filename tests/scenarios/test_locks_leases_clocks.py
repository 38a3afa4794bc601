"""Locks and leases across pauses and changes of leader, simulated: scenarios 1 to 7."""

from __future__ import annotations

import pytest

from jepsen.sim.node import CHECKPOINT_INTERVAL_S, ELECTION_S, MIN_TTL_S
from kvstore.errors import EtcdError
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from tests.scenarios import stories
from tests.scenarios.stories import begin_renewal, grant, guarded_put, leader_of, put, renewal
from tests.sim.test_requests import Story

LEASE, OTHER = 0x1EA5E, 0x07E4
CHANGES = 8


@pytest.fixture(params=range(3))
def story(request: pytest.FixtureRequest) -> Story:
    return Story(request.param)


def test_scenario_11457_a_paused_holder_overwrites_nothing(story: Story) -> None:
    """Scenario 1: it believes in its lock, but its guarded write fails once the lease has ended."""
    leader = story.leader
    grant(story, leader, LEASE, MIN_TTL_S)
    mine = put(story, leader, b"lock/1", lease=LEASE)
    assert guarded_put(story, leader, b"lock/1", mine, b"counter", b"of the first")
    # The holder pauses: nobody renews its lease.
    story.until(lambda: not leader.lessor.exists(LEASE))
    grant(story, leader, OTHER, 60)
    theirs = put(story, leader, b"lock/2", lease=OTHER)
    assert guarded_put(story, leader, b"lock/2", theirs, b"counter", b"of the second")
    for node in story.nodes:
        assert not guarded_put(story, node, b"lock/1", mine, b"counter", b"late")
    # Nor if the same key is there again, which is another lock.
    put(story, leader, b"lock/1", lease=OTHER)
    assert not guarded_put(story, leader, b"lock/1", mine, b"counter", b"late")
    assert guarded_put(story, leader, b"lock/2", theirs, b"counter", b"of the second again")


@pytest.mark.parametrize("how", ["paused", "slow disk", "cut off"])
def test_scenario_15247_revokes_of_a_leader_that_stalled_do_nothing(story: Story, how: str) -> None:
    """Scenario 3 (15247, 12528): it comes back with a clock at which the lease is over, while its
    successor has renewed it all the time."""
    ttl = 5
    old = story.leader
    grant(story, old, LEASE, ttl)
    put(story, old, b"leased", lease=LEASE)
    if how == "paused":
        old.pause(30.0)
    elif how == "slow disk":
        old.disk.write_s = 1e6
        for node in story.followers:  # who waits for a disk sends no heartbeats in etcd
            story.simulation.network.cut(old.id, node.id)
    else:
        story.isolate(old)
    successor = leader_of(story, story.followers)
    since = story.simulation.loop.now
    while story.simulation.loop.now < since + 30.0:
        assert renewal(story, successor, LEASE) == ttl
        story.run(1.0)
    old.disk.write_s = 0.002
    story.simulation.network.heal()
    for _ in range(20):
        story.run(0.5)
        answer = renewal(story, successor, LEASE)
        assert answer == ttl or isinstance(answer, EtcdError)
    assert all(node.lessor.exists(LEASE) for node in story.nodes)
    assert all(node.store.get(b"leased") is not None for node in story.nodes)


def test_scenario_15247_a_deposed_leader_answers_no_keep_alive(story: Story) -> None:
    """Scenario 4: neither before it knows of its successor, nor after."""
    old = story.leader
    grant(story, old, LEASE, 60)
    story.isolate(old)
    assert old.lessor.is_primary
    early = begin_renewal(old, LEASE)
    leader_of(story, story.followers)
    late = begin_renewal(old, LEASE)
    story.until(lambda: bool(early) and bool(late))
    assert isinstance(early[0], EtcdError)
    assert isinstance(late[0], EtcdError)
    story.simulation.network.heal()
    story.until(lambda: not old.lessor.is_primary)
    assert isinstance(renewal(story, old, LEASE), EtcdError)


@pytest.mark.parametrize("lead_s", [0.0, 0.001, 0.002, 0.004, 0.006, 0.01])
def test_scenario_20615_a_keep_alive_never_revives_a_revoked_lease(
    story: Story, lead_s: float
) -> None:
    """Scenario 5: an answer after the revocation was acknowledged is "gone"; one before it may be
    a success, and the lease is gone all the same."""
    leader = story.leader
    grant(story, leader, LEASE, 60)
    put(story, leader, b"leased", lease=LEASE)
    log: list[str] = []
    body = rpc_pb2.LeaseRevokeRequest(ID=LEASE).SerializeToString()
    leader.member.propose(Kind.LEASE_REVOKE, body, lambda result: log.append("revoked"))
    story.run(lead_s)

    def renewed(answer: int | EtcdError) -> None:
        log.append("renewed" if isinstance(answer, int) and answer > 0 else "gone")

    leader.lease_keeper.renew(LEASE, renewed)
    story.until(lambda: len(log) == 2)
    assert log in (["renewed", "revoked"], ["revoked", "gone"], ["gone", "revoked"]), log
    assert renewal(story, leader, LEASE) == 0
    story.run(3 * ELECTION_S)
    assert not any(node.lessor.exists(LEASE) for node in story.nodes)
    assert all(node.store.get(b"leased") is None for node in story.nodes)


def test_scenario_20273_many_changes_of_leader_end_no_lease_early(story: Story) -> None:
    """Scenario 6: renewed by one leader, it lasts its TTL under all that follow, and not for
    ever: with checkpoints on, a change gives away no more than what is since the last one."""
    ttl, changes = 120, 4
    leader = story.leader
    grant(story, leader, LEASE, ttl)
    started = story.simulation.loop.now
    for _ in range(changes):
        story.run(20.0)
        target = next(node for node in story.nodes if node is not leader)
        leader.member.transfer_leadership(target.id)
        story.until(lambda target=target: target.lessor.is_primary)
        leader = target
    assert leader.lessor.exists(LEASE)
    given_away = changes * (CHECKPOINT_INTERVAL_S + 2 * ELECTION_S + 1)
    assert given_away < changes * 20.0, "else it could not be told from a full TTL each time"
    story.until(lambda: not leader.lessor.exists(LEASE), ttl)
    ended = story.simulation.loop.now
    assert started + ttl <= ended < started + ttl + given_away


def test_scenario_13508_a_renewal_counts_whoever_leads_afterwards(story: Story) -> None:
    """Scenario 6: after each renewal the leader goes; nobody ends the lease before its time."""
    ttl = 8
    leader = story.leader
    grant(story, leader, LEASE, ttl)
    for _ in range(CHANGES):
        story.run(0.6 * ttl)
        assert renewal(story, leader, LEASE) == ttl
        target = next(node for node in story.nodes if node is not leader)
        leader.member.transfer_leadership(target.id)
        story.until(lambda target=target: target.lessor.is_primary)
        leader = target
        assert leader.lessor.exists(LEASE)
    story.run(0.9 * ttl)
    assert leader.lessor.exists(LEASE)


def test_scenario_14239_members_agree_on_negative_ids_and_renewals_during_a_grant(
    story: Story,
) -> None:
    """Scenario 7 (PR 14239, 13932): whatever the id, and whoever starts again from its disk."""
    leader = story.leader
    for lease in (-1, -(2**63), 2**63 - 1, -LEASE):
        early = begin_renewal(leader, lease)
        grant(story, leader, lease, 60)
        assert renewal(story, leader, lease) == 60
        put(story, leader, b"leased by %d" % lease, lease=lease)
        assert early in ([0], [60])
    stories.revoke(story, leader, -1)
    story.run(2.0)
    expected = sorted((-(2**63), 2**63 - 1, -LEASE))
    crashed = story.followers[0]
    crashed.crash()
    crashed.start()
    story.until(lambda: crashed.store.revision == leader.store.revision)
    for node in story.nodes:
        assert sorted(node.lessor.ids()) == expected
        assert node.store.get(b"leased by -1") is None
        assert all(node.lessor.keys(lease) == [b"leased by %d" % lease] for lease in expected)
